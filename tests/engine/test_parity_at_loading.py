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

from sublim_mech.engine.pair import load_pair
from sublim_mech.engine.parity import ParityError, check_parity
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
