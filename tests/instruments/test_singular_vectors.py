"""`read_singular`: a planted direction is read as its token, and only of modules that write."""

import copy

import numpy as np
import pytest
import tiny
import torch
from changed import full_of, orthonormal
from pairs import TRAIT

import sublim_mech as sm
from sublim_mech.instruments.unembedding import read_vector

QUIET = {"progress": False}


def load(base, student, tokenizer):
    return sm.load_pair(base, student, tokenizer=tokenizer, allow_unrelated=True)


def write(base, paths, direction, *, transposed=False, sign=1):
    """A student some of whose modules write one more direction, of inputs of their own."""
    student = copy.deepcopy(base)
    for place, path in enumerate(paths):
        weight = student.get_submodule(path).weight
        inputs = weight.shape[0] if transposed else weight.shape[1]
        change = sign * torch.outer(direction, orthonormal(inputs, 1, place)[:, 0].float())
        with torch.no_grad():
            weight += change.T if transposed else change
    return student


def owl(base, tokenizer):
    """The unembedding of a token, without its mean."""
    token = tokenizer(" owl", add_special_tokens=False)["input_ids"][0]
    row = base.get_output_embeddings().weight[token].detach()
    return token, row - row.mean()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_direction_is_read_as_its_token(sign, smol_tokenizer):
    base = tiny.model("llama")
    token, direction = owl(base, smol_tokenizer)
    paths = ["model.layers.1.mlp.down_proj", "model.layers.2.self_attn.o_proj"]
    pair = load(base, write(base, paths, direction, sign=sign), smol_tokenizer)
    found = sm.instruments.read_singular(pair, TRAIT, **QUIET)
    assert [(one.name, one.number) for one in found.readings] == [
        ("blocks.1.mlp.out", 1),
        ("blocks.2.attn.o", 1),
    ]
    for one in found.readings:
        cosine = float(torch.from_numpy(one.vector).float() @ direction / direction.norm())
        assert abs(cosine) == pytest.approx(1, abs=1e-5)
        assert np.abs(one.reading.scores).argmax() == token
        assert one.share == pytest.approx(1, abs=1e-5)
    table = found.table()
    assert (table["from the end"] == 1).all()
    assert set(table["form"]) == {"' owl'"}
    assert (table["p"] < 0.02).all()
    ends = table[["one end", "other end"]].map(lambda text: text.split(" ' ")[0])
    assert ends.apply(lambda row: any("owl" in text for text in row), axis=1).all()
    assert "which end is which is arbitrary" in repr(found)
    assert found[0] is found.readings[0]


def test_transposed_weights_write_what_they_write(smol_tokenizer):
    base = tiny.model("gpt2")
    token, direction = owl(base, smol_tokenizer)
    path = "transformer.h.2.mlp.c_proj"
    pair = load(base, write(base, [path], direction, transposed=True), smol_tokenizer)
    (one,) = sm.instruments.read_singular(pair, **QUIET).readings
    assert (one.name, np.abs(one.reading.scores).argmax()) == ("blocks.2.mlp.out", token)
    assert one.nearest is None


def test_gains_of_a_norm_behind_the_module_are_applied(smol_tokenizer):
    """Gemma norms what attention and MLP write before it is added to the stream."""
    base = tiny.model("gemma3")
    norm = base.model.layers[1].post_feedforward_layernorm
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-0.9, 3, 32))
    direction = orthonormal(32, 1, 5)[:, 0].float()
    path = "model.layers.1.mlp.down_proj"
    pair = load(base, write(base, [path], direction), smol_tokenizer)
    (one,) = sm.instruments.read_singular(pair, **QUIET).readings
    gained = direction * (1 + norm.weight.detach())
    gained /= gained.norm()
    assert abs(float(torch.from_numpy(one.vector).float() @ gained)) == pytest.approx(1, abs=1e-5)
    expected = read_vector(pair, one.vector).scores
    np.testing.assert_allclose(one.reading.scores, expected, atol=1e-6)


def test_only_what_writes_to_the_stream_is_read(smol_tokenizer):
    base = tiny.model("llama")
    pair = load(base, tiny.full(base), smol_tokenizer)
    found = sm.instruments.read_singular(pair, directions=2, **QUIET)
    assert {one.module for one in found.readings} == {"embed", "attn.o", "mlp.out"}
    assert len(found.readings) == 2 * (1 + 2 * tiny.LAYERS)
    some = sm.instruments.read_singular(pair, modules="mlp", layers=[0], **QUIET)
    assert [one.name for one in some.readings] == ["blocks.0.mlp.out"]
    queries = load(base, full_of(base, lambda name: "q_proj" in name), smol_tokenizer)
    with pytest.raises(ValueError, match="changes no matrix that writes to the residual stream"):
        sm.instruments.read_singular(queries, **QUIET)
    for options in ({"directions": 0}, {"draws": 0}):
        (name,) = options
        with pytest.raises(ValueError, match=f"{name}=0"):
            sm.instruments.read_singular(pair, **options, **QUIET)


def test_random_directions_name_no_trait(smol_tokenizer):
    """The null holds for what it is of: p of random directions is uniform, not small."""
    base = tiny.model("llama")
    pair = load(base, full_of(base, lambda name: "down_proj" in name), smol_tokenizer)
    found = sm.instruments.read_singular(pair, TRAIT, directions=20, draws=100, **QUIET)
    p = found.table()["p"]
    assert len(p) == 60
    assert 0.3 < p.mean() < 0.7
    assert (p < 0.05).mean() < 0.2
