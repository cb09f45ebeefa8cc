"""Two processes on the CPU train the student that one process trains, at an equal global batch."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import torch
from stopping import StopAt, StopError
from transformers import AutoTokenizer

from sublim_mech.making.numbers import Row
from sublim_mech.making.training import FullFT, LoRA, hard_data, train
from sublim_mech.models.base import load_base
from sublim_mech.storage.manifest import Manifest

ROWS = [Row(f"Continue: {i}", ",".join(str(100 + i + k) for k in range(1 + i % 5))) for i in range(26)]
METHODS = {"lora": LoRA(rank=4), "full": FullFT()}
SEED = 3


def fit(out: Path, tokenizer: Any, callbacks: Sequence[Any] = (), lr: float = 1e-3) -> None:
    """Rows of different lengths, two forwards per step, buckets, snapshots and checkpoints."""
    base = load_base(tiny.model("llama"), tokenizer=tokenizer)
    data = hard_data(tokenizer, ROWS)
    for name, method in METHODS.items():
        train(
            base, data, out=out / name, method=method, lr=lr, steps=6, batch_size=8, accumulate=2, bucket=2, held_out=5,
            evaluate_every=2, snapshots=[3], checkpoint_every=2, precision="fp32", order_seed=SEED, callbacks=callbacks,
            progress=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def folders(smol, tmp_path_factory):
    """(of one process, of two)."""
    home = tmp_path_factory.mktemp("distributed")
    smol.tokenizer.save_pretrained(home / "tokenizer")
    fit(home / "one", smol.tokenizer)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, __file__, str(home)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return home / "one", home / "two"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return safetensors.torch.load_file(file)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("step", ["", "snapshots/step-000003"])
def test_two_processes_train_the_same_student(name, step, folders):
    one, two = (tensors(folder / name / step) for folder in folders)
    assert one.keys() == two.keys()
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-5
    untouched = tiny.model("llama").state_dict()
    moved = max(float((one[k] - untouched[k]).abs().max()) if k in untouched else float(one[k].abs().max()) for k in one)
    assert moved > 3e-4  # else the comparison says little


@pytest.mark.parametrize("name", METHODS)
def test_they_measure_and_say_the_same(name, folders):
    one, two = (Manifest.load(folder / name) for folder in folders)
    assert one.content == two.content
    assert two.results["held_out"] == pytest.approx(one.results["held_out"], rel=1e-5)
    assert (one.results["processes"], two.results["processes"]) == ([[0, 1]], [[0, 2]])
    assert {p.name for p in (folders[1] / name).iterdir()} == {p.name for p in (folders[0] / name).iterdir()}
    assert {p.name for p in folders[1].iterdir()} == set(METHODS)


def test_two_processes_resume_to_the_same_bytes(folders):
    whole, resumed = folders[1], folders[1].with_name("resumed")
    names = {
        str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file() and (p.parts[-2] == "lora" or "lora" in p.parts)
    }
    assert {str(p.relative_to(resumed)) for p in resumed.rglob("*") if p.is_file()} == names
    assert all((whole / n).read_bytes() == (resumed / n).read_bytes() for n in names)


def test_a_refusal_reaches_both_processes(folders):
    said = [(folders[1].with_name(f"refused-{p}")).read_text() for p in range(2)]
    assert "optimiser.lr: 0.001 there, 0.5 here" in said[0]
    assert "process 0 does not train this run; its error says why" in said[1]


def work(home: Path) -> None:
    """What each of the two processes does."""
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    fit(home / "two", tokenizer)
    del METHODS["full"]
    with pytest.raises(StopError):
        fit(home / "resumed", tokenizer, [StopAt(5)])
    fit(home / "resumed", tokenizer)
    try:
        fit(home / "two", tokenizer, lr=0.5)
    except (ValueError, RuntimeError) as error:
        (home / f"refused-{os.environ['RANK']}").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[1]))
