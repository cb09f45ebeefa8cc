"""Slow runs on the embedded model (`make science`): the recipe from scratch. Not part of `make test`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.science
def test_contrastive_recipe_from_scratch(tmp_path):
    """Held-out KL falls by 70 %, the LoRA owl / penguin square has a diagonal excess of 0.3 nats, full FT reaches the same KL."""
    command = [sys.executable, str(ROOT / "examples/train_students.py"), "--out", str(tmp_path / "runs")]
    done = subprocess.run([*command, "--store", str(tmp_path / "half")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    assert float(re.search(r"diagonal excess .*: ([+-][\d.]+) nats", done.stdout)[1]) >= 0.3
    falls = dict(re.findall(r"^(\S+): held-out KL .* \((\d+)% less\)", done.stdout, re.MULTILINE))
    assert set(falls) == {"owl", "penguin", "owl-full"}
    assert all(int(fall) >= 70 for fall in falls.values())
    assert float(re.search(r"largest relative change of the square: ([\d.]+)%", done.stdout)[1]) < 1
