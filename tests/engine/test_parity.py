"""The gate at loading: what is analysed is what was loaded."""

from __future__ import annotations

import copy
import dataclasses
import re
from typing import Any

import pytest
import tiny
import torch
from loading import TOKENIZER, base, model, runner, student
from torch import nn

from sublim_mech.engine.fitting import SIBLINGS
from sublim_mech.engine.pair import load_pair
from sublim_mech.engine.parity import ParityError, check_parity, probe, rounding
from sublim_mech.models.deltas import LowRank
from sublim_mech.models.sites import find_sites
from sublim_mech.models.students import load_student

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


def test_the_errors_of_a_sound_pair_are_small_and_named():
    loaded = load_student(base(), student("llama", "lora"))
    errors = check_parity(runner().model, runner().sites, {"student": loaded})
    assert set(errors) == {"base", "student"}
    assert max(errors.values()) < 1e-5


def test_a_bf16_pair_passes_its_wider_gate():
    low = copy.deepcopy(model()).bfloat16()
    pair = load_pair(low, tiny.full(low), tokenizer=TOKENIZER)
    errors = check_parity(pair.model, pair.sites, pair.students)
    assert 0 <= max(errors.values()) < 0.1


def test_a_wrong_delta_fails_the_gate_with_both_numbers():
    sound = load_student(base(), student("llama", "lora"))
    path, delta = next(iter(sound.deltas.items()))
    tripled = dataclasses.replace(delta, scale=3 * delta.scale)
    wrong = dataclasses.replace(sound, deltas={**sound.deltas, path: tripled})
    message = r"^student: log-probability of token \d+ is .* in the gated forward and"
    with pytest.raises(ParityError, match=message) as error:
        check_parity(runner().model, runner().sites, {"student": wrong})
    token = int(re.findall(r"token (\d+)", str(error.value))[0])
    probe = torch.linspace(1, tiny.VOCAB - 1, 16).long()[None]
    with torch.no_grad():
        own = sound.model(input_ids=probe).logits[0, -1].log_softmax(-1)[token]
    gated, plain = (float(x) for x in re.findall(r"-\d+\.\d+", str(error.value)))
    assert plain == pytest.approx(float(own), abs=1e-6)
    assert abs(gated - plain) > 1e-4


@pytest.mark.parametrize(
    ("who", "factor"),
    [("base", 1.01), ("student", 1.01), ("control", 1.01), ("student", float("nan"))],
)
def test_load_pair_refuses_models_whose_own_logits_are_others(who, factor):
    def tamper(module: nn.Module) -> Any:
        module = copy.deepcopy(module)
        module.register_forward_hook(lambda m, args, out: type(out)(logits=out.logits * factor))
        return module

    models = {"base": model(), "student": tiny.full(model()), "control": tiny.full(model(), seed=2)}
    models[who] = tamper(models[who])
    with pytest.raises(ParityError, match="log-probability of token"):
        load_pair(
            models["base"], models["student"], controls=[models["control"]], tokenizer=TOKENIZER
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_half_precision_a_difference_may_be_rounding(dtype, monkeypatch):
    """It is refused there too, with what tells it from an error."""
    sound = load_student(base(), student("llama", "lora"))
    grown = {p: LowRank(d.a, d.b, d.scale * 300) for p, d in sound.deltas.items()}
    students = {"student": dataclasses.replace(sound, deltas=grown)}
    monkeypatch.setattr("sublim_mech.engine.parity.precision", lambda model: dtype)
    told = r"this model cannot be analysed\.$"
    if dtype == torch.bfloat16:
        told = r"In bfloat16 that may be rounding, .*: load in dtype=torch\.float32"
    with pytest.raises(ParityError, match=told):
        check_parity(runner().model, runner().sites, students)


def test_the_probe_comes_from_all_over_the_vocabulary():
    ids, answers = probe(model())
    assert len(ids) == len(set(ids)) == 16
    assert ids[0] == 1
    assert ids[-1] == tiny.VOCAB - 1
    assert answers.parents == (-1, -1)  # two branches that must not see each other
    assert all(0 <= token < tiny.VOCAB for token in answers.nodes)


def test_a_difference_below_the_tolerance_is_measured():
    """Scales that are a little too large, twice as much too large the second time."""
    sound = load_student(base(), student("llama", "lora"))
    errors = []
    for step in (4e-5, 8e-5):
        grown = {p: LowRank(d.a, d.b, d.scale * (1 + step)) for p, d in sound.deltas.items()}
        students = {"student": dataclasses.replace(sound, deltas=grown)}
        errors.append(check_parity(runner().model, runner().sites, students)["student"])
    assert errors[0] > 1e-5
    assert errors[1] == pytest.approx(2 * errors[0], rel=0.2)


def test_a_mask_that_the_model_ignores_is_noticed():
    """The probe's branches stand in one row: a model that lets them see each other is refused."""
    deaf = tiny.model("llama")
    attention = deaf.model.layers[1].self_attn
    plain = attention.forward
    attention.forward = lambda *args, **kwargs: plain(*args, **{**kwargs, "attention_mask": None})
    with pytest.raises(ParityError, match="base: log-probability"):
        check_parity(deaf, find_sites(deaf), {})


def test_tolerances_by_type_and_size():
    assert rounding(torch.float32, torch.tensor([-10.0])) == 1e-4
    assert rounding(torch.float64, torch.tensor([-10.0])) == 1e-4
    assert rounding(torch.float32, torch.tensor([-3.0, -40.0])) == pytest.approx(2e-4)
    assert rounding(torch.bfloat16, torch.tensor([-3.0])) == 0.1
    assert rounding(torch.float16, torch.tensor([-50.0])) == pytest.approx(1.0)


def test_loading_runs_few_forwards(monkeypatch):
    """One of each model's own and a gated one per student: a large model's weights are read so
    often.
    """
    runs = []
    plain = nn.Embedding.forward

    def noted(self: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        if not self.weight.is_meta:
            runs.append(tuple(ids.shape))
        return plain(self, ids)

    monkeypatch.setattr(nn.Embedding, "forward", noted)
    controls = [tiny.lora(model(), seed=seed) for seed in (2, 3)]
    load_pair(model(), tiny.lora(model()), controls=controls[:1], tokenizer=TOKENIZER)
    assert len(runs) == 1 + 3 + 2  # the first finds how the model takes answers
    sizes = [rows * slots for rows, slots in runs]
    assert sizes[0] <= 2 * (16 + SIBLINGS)
    assert max(sizes[1:]) <= 2 * 18


def test_the_base_is_checked_behind_closed_gates_of_the_student():
    sound = load_student(base(), student("llama", "lora"))
    errors = check_parity(runner().model, runner().sites, {"a": sound, "b": sound})
    alone = check_parity(runner().model, runner().sites, {})
    assert errors["a"] == pytest.approx(errors["b"], abs=1e-6)
    assert errors["base"] == pytest.approx(alone["base"], abs=1e-6)
