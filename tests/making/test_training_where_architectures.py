"""In any architecture a student trained at chosen cells is the graft of its weights there."""

from typing import Any

import mixtures
import pytest
import stateful
import tiny
from gated import loss_under_gates
from trainings import fit, labelled, small_hard

from sublim_mech import masks
from sublim_mech.making.training import FullFT, LoRA
from sublim_mech.models.base import load_base

ALL = LoRA(rank=2)
CASES: dict[str, tuple[Any, Any]] = {
    **{f"{name}, lora": (lambda name=name: tiny.model(name), ALL) for name in tiny.CONFIGS},
    **{f"{name}, full": (lambda name=name: tiny.model(name), FullFT()) for name in tiny.CONFIGS},
    **{
        f"{name}, full": (lambda name=name: mixtures.base(name), FullFT())
        for name in ("mixtral", "qwen3_moe", "qwen2_moe")
    },
    "olmoe, experts": (
        lambda: mixtures.base("olmoe"),
        LoRA(rank=2, targets=("q_proj", "experts.down_proj")),
    ),
    **{
        f"{name}, lora": (lambda name=name: stateful.model(name), LoRA(rank=2, targets=targets))
        for name, targets in stateful.TARGETS.items()
    },
    **{
        f"{name}, full": (lambda name=name: stateful.model(name), FullFT())
        for name in stateful.CONFIGS
    },
}
USUAL = (
    "gpt2, full", "opt, full", "gemma3, lora", "phi3, full", "olmoe, experts", "lfm2, full",
    "mamba2, lora",  # asks the unembedding for its weight
)  # fmt: skip
WHERE = masks.role("system") | masks.role("user") & masks.layers([1])


def check(case: str, tokenizer: Any, out: Any) -> None:
    make, method = CASES[case]
    base = load_base(make(), tokenizer=tokenizer)
    data = labelled(small_hard(tokenizer), "listed")
    options = {"method": method, "lr": 1e-2, "steps": 2}
    run = fit(base, data, out / "run", **options, where=WHERE, answer_in_where=True)
    measured = run.manifest.results["held_out"][1]
    with pytest.warns(UserWarning, match="as in training"):
        assert loss_under_gates(base, run, data) == pytest.approx(measured, abs=3e-5)


@pytest.mark.parametrize("case", USUAL)
def test_some_architectures(case, smol_tokenizer, tmp_path):
    check(case, smol_tokenizer, tmp_path)


@pytest.mark.science
@pytest.mark.parametrize("case", [case for case in CASES if case not in USUAL])
def test_all_architectures(case, smol_tokenizer, tmp_path):
    check(case, smol_tokenizer, tmp_path)
