"""Two processes on the CPU train the student that one process trains, at an equal global batch.

Run as a script this file is what each of the two processes does.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from interrupted import ROWS, different
from stopping import StopAt, StopError
from trainings import small_base, small_hard, small_model, tensors
from transformers import AutoTokenizer

from sublim_mech import masks
from sublim_mech.making.training import FullFT, LoRA, TrainingData, train
from sublim_mech.making.training.processes import Processes
from sublim_mech.storage.manifest import Manifest

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": LoRA(rank=4)},
    "full": {"method": FullFT()},
    "gated": {
        "method": LoRA(rank=4),
        "where": masks.sharing("shared"),
        "answer_in_where": True,
        "penalty": (masks.role("system"), 3.0),
        "tokens": [[place % 2 for place in range(20)]],
    },
}
STEP = "snapshots/step-000003"


def fit(
    out: Path,
    tokenizer: Any,
    *,
    methods: Sequence[str] = tuple(METHODS),
    callbacks: Sequence[Any] = (),
    lr: float = 1e-3,
) -> None:
    """Rows of different lengths, two forwards per step, buckets, snapshots and checkpoints."""
    base, data = small_base(tokenizer), small_hard(tokenizer, ROWS)
    for name in methods:
        train(
            base,
            data,
            out=out / name,
            lr=lr,
            steps=6,
            batch_size=8,
            accumulate=2,
            bucket=2,
            held_out=5,
            evaluate_every=2,
            snapshots=[3],
            checkpoint_every=2,
            precision="fp32",
            order_seed=3,
            callbacks=callbacks,
            progress=False,
            **chosen(METHODS[name], data),
        )


def chosen(options: dict[str, Any], data: TrainingData) -> dict[str, Any]:
    """The options, with weights for the tokens of each answer."""
    if "tokens" not in options:
        return options
    (weights,) = options["tokens"]
    return {**options, "tokens": [[1, *weights][: len(answer)] for answer in data.completions]}


class Trained(NamedTuple):
    """Where the students are of one process, of two, and of two that were stopped and resumed."""

    one: Path
    two: Path
    resumed: Path
    refusals: list[str]


@pytest.fixture(scope="module")
def trained(smol_tokenizer, tmp_path_factory) -> Trained:
    home = tmp_path_factory.mktemp("processes")
    smol_tokenizer.save_pretrained(home / "tokenizer")
    fit(home / "one", smol_tokenizer)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, *torchrun, __file__, str(home)],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    refusals = [(home / f"refused-{rank}").read_text() for rank in range(2)]
    return Trained(home / "one", home / "two", home / "resumed", refusals)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("step", ["", STEP])
def test_two_processes_train_the_same_student(name, step, trained):
    one, two = (tensors(folder / name / step) for folder in (trained.one, trained.two))
    assert one.keys() == two.keys()
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-5
    untouched = small_model().state_dict()
    moved = 0.0
    for key, tensor in one.items():
        change = tensor - untouched[key] if key in untouched else tensor
        moved = max(moved, float(change.abs().max()))
    assert moved > 3e-4  # else the comparison says little


@pytest.mark.parametrize("name", METHODS)
def test_they_measure_and_say_the_same(name, trained):
    one, two = (Manifest.load(folder / name) for folder in (trained.one, trained.two))
    assert one.content == two.content
    assert two.results["held_out"] == pytest.approx(one.results["held_out"], rel=1e-5)
    assert (one.results["processes"], two.results["processes"]) == ([[0, 1]], [[0, 2]])
    names_of_one, names_of_two = (
        {path.name for path in (folder / name).iterdir()} for folder in (trained.one, trained.two)
    )
    assert names_of_one == names_of_two
    assert {path.name for path in trained.two.iterdir()} == set(METHODS)


def test_two_processes_resume_to_the_same_bytes(trained):
    assert different(trained.two / "lora", trained.resumed / "lora") == []
    assert [path.name for path in trained.resumed.iterdir()] == ["lora"]


def test_a_refusal_reaches_both_processes(trained):
    assert "optimiser.lr: 0.001 there, 0.5 here" in trained.refusals[0]
    assert "process 0 does not train this run; its error says why" in trained.refusals[1]


def test_one_process_agrees_with_itself(small, monkeypatch):
    for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    alone = Processes.now(small)
    assert (alone, alone.writes, alone.agree(lambda: 7)) == (Processes(1, 0), True, 7)
    assert not Processes(2, 1).writes


def work(home: Path) -> None:
    """What each of the two processes does."""
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    gc.collect()
    gc.freeze()  # the trainer collects garbage in every run
    fit(home / "two", tokenizer)
    with pytest.raises(StopError):
        fit(home / "resumed", tokenizer, methods=["lora"], callbacks=[StopAt(5)])
    fit(home / "resumed", tokenizer, methods=["lora"])
    try:
        fit(home / "two", tokenizer, methods=["lora"], lr=0.5)
    except (ValueError, RuntimeError) as error:
        (home / f"refused-{os.environ['RANK']}").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[1]))
