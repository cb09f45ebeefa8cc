"""Vectors of the residual stream, read through the unembedding."""

import numpy as np
import pairs
import pytest
import tiny
import torch
from pairs import TRAIT

from sublim_mech.engine.runner import open_runner
from sublim_mech.instruments import read_vector, read_vectors
from sublim_mech.models.base import load_base


def lens(model, vector):
    """The reading of a vector by its formula, in fp64: gains, no bias, no scale."""
    head = model.get_output_embeddings().weight.double()
    if hasattr(model, "transformer"):  # LayerNorm: centred, then its gain
        gain = model.transformer.ln_f.weight.double()
        vector = vector - vector.mean()
    else:
        gain = model.model.norm.weight.double()
    logits = head @ (gain * vector)
    return ((logits - logits.mean()) / logits.std(correction=0)).detach().numpy()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def runner(request, smol_tokenizer):
    model = tiny.model(request.param)
    norm = model.transformer.ln_f if request.param == "gpt2" else model.model.norm
    with torch.no_grad():  # a gain and a bias that are seen
        norm.weight += torch.linspace(-0.5, 0.5, 32)
        if getattr(norm, "bias", None) is not None:
            norm.bias += 3.0
    return open_runner(load_base(model, tokenizer=smol_tokenizer))


@pytest.fixture(scope="module")
def vector():
    return torch.randn(32, generator=torch.Generator().manual_seed(3)).double()


def test_scores_are_those_of_the_formula_whatever_the_norm_of_the_vector(runner, vector):
    reading = read_vector(runner, vector)
    np.testing.assert_allclose(reading.scores, lens(runner.model, vector), atol=1e-4)
    for scale in (1e-6, 1e5):
        np.testing.assert_allclose(
            read_vector(runner, scale * vector).scores, reading.scores, atol=1e-5
        )
    np.testing.assert_allclose(read_vector(runner, -vector).scores, -reading.scores, atol=1e-5)


def test_tables_are_the_ends_of_the_vocabulary_with_numbers_apart(runner, vector):
    reading = read_vector(runner, vector, TRAIT, k=5)
    order = np.argsort(-reading.scores, kind="stable")
    texts = [runner.tokenizer.decode([token]) for token in order]
    numbers = [any(c.isdigit() for c in t) and not any(c.isalpha() for c in t) for t in texts]
    first = [int(token) for token, number in zip(order, numbers, strict=True) if not number][:5]
    assert reading.tokens["top"]["id"].tolist() == first
    for name, table in reading.tokens.items():
        digits = [any(c.isdigit() for c in token) for token in table["token"]]
        assert (
            all(digits)
            if "numbers" in name
            else not any(token.strip().isdecimal() for token in table["token"])
        )
        for rank, token, score in zip(table["rank"], table["id"], table["score"], strict=True):
            assert order[rank - 1] == token
            assert reading.scores[token] == score
    forms = reading.forms.set_index("form")
    owl = runner.tokenizer(" owl", add_special_tokens=False)["input_ids"]
    row = forms.loc["' owl'"]
    assert row["tokens"] == len(owl)
    assert order[row["rank"] - 1] == owl[0]
    assert row["rank"] + row["rank from below"] == len(reading.scores) + 1
    assert "number tokens" in repr(reading)
    assert "' owl'" in repr(reading)


def test_several_vectors_read_as_each_alone(runner, vector):
    both = read_vectors(runner, [vector, vector.flip(0).numpy()])
    np.testing.assert_allclose(
        both[1].scores, read_vector(runner, vector.flip(0)).scores, atol=1e-6
    )


def test_rows_without_a_token_are_no_vocabulary(smol_tokenizer, vector):
    model = tiny.model("llama")
    model.resize_token_embeddings(len(smol_tokenizer) + 64)
    with torch.no_grad():
        model.lm_head.weight[-64:] = 1e4
    padded = open_runner(load_base(model, tokenizer=smol_tokenizer))
    assert len(read_vector(padded, vector).scores) == len(smol_tokenizer)


def test_what_cannot_be_read_is_refused(runner, smol_tokenizer, vector):
    with pytest.raises(ValueError, match="zero norm"):
        read_vector(runner, torch.zeros(32))
    with pytest.raises(ValueError, match="NaN"):
        read_vector(runner, np.full(32, np.nan))
    with pytest.raises(ValueError, match=r"shape \(16,\)"):
        read_vector(runner, torch.ones(16))
    for other in (TRAIT, ["a"], None):
        with pytest.raises(TypeError, match=r"vector is .*shape \(32,\).*change.vector\(20\)"):
            read_vector(runner, other)
    with pytest.raises(ValueError, match="k=0"):
        read_vector(runner, vector, k=0)
    pair = pairs.shared_pair("gpt2", "full", smol_tokenizer)
    with pytest.raises(ValueError, match="taken out"):
        read_vector(pair, torch.ones(32))
