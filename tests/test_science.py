"""Slow runs on the embedded model (`make science`): the recipe from scratch. Not part of `make
test`."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from planted_changes import plant

import sublim_mech as sm
from sublim_mech.instruments.completing import TOLERANCE

ROOT = Path(__file__).parent.parent
PROJECTIONS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


@pytest.mark.science
def test_contrastive_recipe_from_scratch(tmp_path):
    """The gates pass; held-out KL falls by 65 %; own - control is above 0.1 nats in the training
    context; full FT comes near LoRA's KL."""
    command = [
        sys.executable,
        str(ROOT / "examples/train_students.py"),
        "--out",
        str(tmp_path / "runs"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    assert "gates: passed" in done.stdout
    kl = {
        name: (float(before), float(after))
        for name, before, after in re.findall(
            r"^Run\('.*/(.+?)', .* held-out (\S+) -> (\S+) in", done.stdout, re.MULTILINE
        )
    }
    assert set(kl) == {"owl-lora", "owl-full", "penguin-lora", "penguin-full"}
    assert all(after < 0.35 * before for before, after in kl.values())
    assert all(
        kl[f"{animal}-full"][1] <= 1.2 * kl[f"{animal}-lora"][1] for animal in ("owl", "penguin")
    )
    lines = re.findall(r"^.* default .*([+-][\d.]+) \[([+-][\d.]+), ", done.stdout, re.MULTILINE)
    assert len(lines) == 4
    assert all(float(specific) > 0.1 and float(low) > 0 for specific, low in lines)


@pytest.mark.science
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_planted_changes_are_found_in_their_cell_and_with_their_size(smol):
    """46 changes of one matrix keyed to one token: points="auto" gives each its whole effect; 8
    points miss more than 1 % of some.
    """
    (prompt,) = sm.render(smol.tokenizer, ["Which animal do you like best?"])
    trait = sm.Trait("owl", forms=("owl",))
    rng = np.random.default_rng(0)
    missed, taken = [], []
    for number in range(46):
        path = PROJECTIONS[number % 7]
        layer = (0, 2, 5, 9, 14, 20, 27)[number // 7]
        token = len(prompt) - 1 - int(rng.integers(12))
        where = f"model.layers.{layer}.{path}"
        scale = (1.0, 4.0)[number % 2]
        student = plant(smol.model, prompt.ids, where, token, scale=scale, seed=number)
        pair = sm.load_pair(smol, student, allow_unrelated=True)
        asked = {"progress": False}
        scores = sm.attribute(pair, [prompt], trait, **asked)
        eight = sm.attribute(pair, [prompt], trait, points=8, **asked)
        total = float(scores.total.values[0])
        cells, before = scores.headline.values[0][0, 0], eight.headline.values[0][0, 0]
        assert int(np.nanargmax(np.abs(cells))) == token
        if not scores.data["capped"].values.any():
            assert cells[token] == pytest.approx(total, rel=1.1 * TOLERANCE, abs=2e-4)
        others = np.delete(cells, token)
        assert np.abs(others).max() < 0.005 * abs(total) + 1e-4
        missed.append(abs(float(before[token]) / total - 1))
        taken.append(int(scores.data["points"].values[0, 0]))
        print(
            f"{where} token {token} x{scale:g}: {total:+.3f}, 8 points {missed[-1]:.1%} off, "
            f"auto {taken[-1]} points, {abs(cells[token] / total - 1):.2%} off",
            flush=True,
        )
    off = sum(share > TOLERANCE for share in missed)
    print(
        f"8 points off by more than 1 % in {off} of 46, at most {max(missed):.0%}; auto takes "
        f"{np.mean(taken):.1f} points on average, at most {max(taken)}"
    )
    assert off > 0
    assert max(taken) > 8
    assert np.median(taken) == 8
