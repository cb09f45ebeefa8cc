"""`precision=` and the weights' type say what is computed in, whatever autocast there is around."""

import numpy as np
import pytest
import tiny
import torch
from trainings import ROWS, fit, small_base

import sublim_mech as sm
from sublim_mech.engine.parity import check_parity
from sublim_mech.making import labelling, teachers
from sublim_mech.making.training import FullFT, LoRA
from sublim_mech.models.devices import without_autocast


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()], ids=["lora", "full"])
def test_a_run_is_the_same(small, hard, tmp_path, precision, method):
    how = {"method": method, "lr": 1e-2, "precision": precision, "gradient_checkpointing": True}
    run = fit(small, hard, tmp_path / "one", **how)
    with torch.autocast("cpu", torch.bfloat16):
        again = fit(small, hard, tmp_path / "two", **how)
        assert torch.is_autocast_enabled("cpu")
    assert again.manifest.weights == run.manifest.weights
    assert again.manifest.results["held_out"] == run.manifest.results["held_out"]


@pytest.mark.parametrize("gated", [True, False])
def test_labels_are_the_same(tiny_llama, gated):
    """Of a teacher that has a runner, and of one that reads by the model's own forward."""
    teacher = teachers.untouched(tiny_llama)
    if not gated:
        object.__setattr__(teacher, "runner", tiny_llama)
    made = labelling.label([teacher], ROWS[:4], progress=False)
    alone = teachers.log_probs(teacher, ROWS[:4], progress=False)
    with torch.autocast("cpu", torch.bfloat16):
        again = labelling.label([teacher], ROWS[:4], progress=False)
        beside = teachers.log_probs(teacher, ROWS[:4], progress=False)
        assert torch.is_autocast_enabled("cpu")
    assert again.hash == made.hash
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_forward_and_a_merged_teacher_are_the_same(tiny_llama):
    student = tiny.lora(tiny.model("llama"), r=4)
    pair = sm.load_pair(tiny_llama, student)
    prompts = sm.render(pair, ["Which animal?"])
    logits = pair.logits(prompts)
    merged = teachers.fine_tuned(tiny_llama, student, None)
    with torch.autocast("cpu", torch.bfloat16):
        for one, other in zip(logits, pair.logits(prompts), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        assert teachers.fine_tuned(tiny_llama, student, None).runner.hash == merged.runner.hash
        again = sm.load_pair(tiny_llama, student)
        check_parity(again.model, again.sites, again.students, again.layout)


def test_off_means_off_and_on_again():
    ones = torch.ones(2, 2)

    @without_autocast()
    def multiplied():
        return (ones @ ones).dtype

    with torch.autocast("cpu", torch.bfloat16):
        assert multiplied() == torch.float32
        assert (ones @ ones).dtype == torch.bfloat16
    assert multiplied() == torch.float32


@pytest.mark.parametrize(
    ("named", "live"), [({"router_jitter_noise": 0.3}, True), ({"router_jitter_noise": 0.0}, False),
                        ({"ffn_config": {"moe_jitter_eps": 0.1}}, True),
                        ({"classifier_dropout": 0.1}, False)],
)  # fmt: skip
def test_a_seed_is_live_where_the_model_draws(named, live, smol_tokenizer, hard, tmp_path):
    base = small_base(smol_tokenizer)
    for name, value in named.items():
        setattr(base.model.config, name, value)
    run = fit(base, hard, tmp_path / "run", method=FullFT(), steps=2)
    assert ("init" in run.manifest.seeds["live"]) is live
