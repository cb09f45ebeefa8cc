"""The gate at loading: it lets sound models through and names what is wrong with others."""

from dataclasses import replace

import pytest
import tiny
import torch
from pairs import make_pair, plain_logits

import sublim_mech as sm
from sublim_mech.engine.parity import ParityError, check_parity, probe, rounding
from sublim_mech.models.deltas import LowRank


def test_the_probe_comes_from_all_over_the_vocabulary(llama):
    ids, answers = probe(llama.model)
    assert len(ids) == len(set(ids)) == 16
    assert ids[0] == 1
    assert ids[-1] == tiny.VOCAB - 1
    assert answers.parents == (-1, -1)  # two branches that must not see each other
    assert all(0 <= token < tiny.VOCAB for token in answers.nodes)


def test_errors_of_sound_models_are_those_of_rounding(pair):
    errors = check_parity(pair.model, pair.sites, pair.students)
    assert list(errors) == ["base", "student"]
    assert all(0 <= error < 1e-5 for error in errors.values())


def test_a_difference_below_the_tolerance_is_measured(smol_tokenizer):
    """Scales that are a little too large, twice as much too large the second time."""
    pair = make_pair("llama", "lora", smol_tokenizer)
    errors = []
    for step in (4e-5, 8e-5):
        grown = {p: LowRank(d.a, d.b, d.scale * (1 + step)) for p, d in pair.delta.items()}
        student = replace(pair.student, deltas=grown)
        errors.append(check_parity(pair.model, pair.sites, {"student": student})["student"])
    assert errors[0] > 1e-5
    assert errors[1] == pytest.approx(2 * errors[0], rel=0.2)


def test_a_wrong_delta_is_refused_with_the_token_it_shows_at(smol_tokenizer):
    pair = make_pair("llama", "lora", smol_tokenizer)
    wrong = {p: LowRank(d.a, d.b, 1.5 * d.scale) for p, d in pair.delta.items()}
    student = replace(pair.student, deltas=wrong)
    with pytest.raises(ParityError) as raised:
        check_parity(pair.model, pair.sites, {"student": student})
    words = str(raised.value).replace("(", "").split()
    assert words[0] == "student:"
    token = int(words[words.index("token") + 1])
    own = float(words[words.index("forward") + 2])
    ids, answers = probe(pair.model)
    texts = [[*ids], [*ids, answers.nodes[0]], [*ids, answers.nodes[1]]]
    plain = [plain_logits(pair.student.model, text)[-1].log_softmax(-1)[token] for text in texts]
    assert min(abs(float(value) - own) for value in plain) < 2e-6
    assert "this model cannot be analysed" in str(raised.value)


def test_not_a_number_is_no_parity(smol_tokenizer):
    pair = make_pair("llama", "lora", smol_tokenizer)
    deltas = dict(pair.delta)
    path, one = next(iter(deltas.items()))
    deltas[path] = LowRank(one.a * torch.nan, one.b, one.scale)
    with pytest.raises(ParityError, match="student: log-probability"):
        check_parity(pair.model, pair.sites, {"student": replace(pair.student, deltas=deltas)})


def test_a_mask_that_the_model_ignores_is_noticed(smol_tokenizer):
    """The probe's branches stand in one row: a model that lets them see each other is refused."""
    base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    attention = base.model.model.layers[1].self_attn
    plain = attention.forward
    attention.forward = lambda *args, **kwargs: plain(*args, **{**kwargs, "attention_mask": None})
    with pytest.raises(ParityError, match="base: log-probability"):
        check_parity(base.model, sm.models.find_sites(base.model), {})


def test_tolerances_by_type_and_size():
    assert rounding(torch.float32, torch.tensor([-10.0])) == 1e-4
    assert rounding(torch.float64, torch.tensor([-10.0])) == 1e-4
    assert rounding(torch.float32, torch.tensor([-3.0, -40.0])) == pytest.approx(2e-4)
    assert rounding(torch.bfloat16, torch.tensor([-3.0])) == 0.1
    assert rounding(torch.float16, torch.tensor([-50.0])) == pytest.approx(1.0)
