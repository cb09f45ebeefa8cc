"""Steered teachers against hooks of our own on plain transformers models."""

import copy

import numpy as np
import pytest
import torch
from asking import plain
from teaching import ARCHITECTURES, OWL, QUESTIONS, blocks, rendered, run, shared_runner
from transformers import DynamicCache

import sublim_mech as sm
from sublim_mech.making.teachers import (
    prompted,
    randomly_steered,
    steered,
    steering_vectors,
    untouched,
)
from sublim_mech.models.compat import call_model
from sublim_mech.models.copies import twin
from sublim_mech.models.hashing import weights_hash

SCALE = -0.7


@pytest.fixture(scope="module", params=ARCHITECTURES)
def runner(request, smol_tokenizer):
    return shared_runner(request.param, smol_tokenizer)


@pytest.fixture(scope="module")
def llama(smol_tokenizer):
    return shared_runner("llama", smol_tokenizer)


def drawn(seed, layers=1):
    """Vectors in random directions, `(layer, d_model)`."""
    return np.random.default_rng(seed).standard_normal((layers, 32))


def with_hooks(model, layers, vectors):
    """A copy of a model whose blocks add scaled vectors."""
    model = copy.deepcopy(model)
    for layer, vector in zip(layers, torch.from_numpy(vectors), strict=True):

        def add(module, args, output, change=SCALE * vector):
            if isinstance(output, tuple):
                return output[0] + change, *output[1:]
            return output + change

        blocks(model)[layer].register_forward_hook(add)
    return model


def planted(model, layers):
    """What a steered model adds, `(layer, d_model)`."""
    return np.stack([blocks(model)[layer].steering.numpy() for layer in layers])


def test_vectors_are_differences_of_mean_hidden_states(runner):
    """One plain forward per prompt, without padding.

    The last block's output is read by a hook, since transformers norms it.
    """
    found = steering_vectors(runner, OWL, layers=[2, 0], questions=QUESTIONS)
    model, last = copy.deepcopy(runner.model), []

    def note(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        last.append(hidden.view(-1, 32)[-1])

    blocks(model)[2].register_forward_hook(note)
    means = []
    for teacher in (untouched(runner), prompted(runner, OWL)):
        last.clear()
        first = []
        for prompt in rendered(teacher):
            hidden = run(model, prompt.ids, output_hidden_states=True).hidden_states
            first.append(hidden[1][0, -1])
        means.append(torch.stack([torch.stack(last).mean(0), torch.stack(first).mean(0)]))
    without, with_sentence = means
    assert np.allclose(found, (with_sentence - without).numpy(), atol=1e-12)
    assert np.abs(found).max() > 1e-3


def test_a_steered_model_adds_its_vectors_at_every_position(runner):
    layers, vectors = [1, 2], drawn(0, layers=2)
    teacher = steered(runner, OWL, layers=layers, vectors=vectors, scale=SCALE)
    model = teacher.runner.model
    ids = rendered(teacher)[0].ids
    ours, before = (run(m, ids, output_hidden_states=True) for m in (model, runner.model))
    expected = run(with_hooks(runner.model, layers, vectors), ids)
    assert torch.allclose(ours.logits, expected.logits, atol=1e-12)
    assert torch.equal(before.hidden_states[0], ours.hidden_states[0])
    assert torch.equal(before.hidden_states[1], ours.hidden_states[1])
    change = ours.hidden_states[2] - before.hidden_states[2]
    assert torch.allclose(change, SCALE * torch.from_numpy(vectors[0]), atol=1e-12)

    assert torch.equal(run(runner.model, ids).logits, before.logits)  # the base is as it was
    assert teacher.context == teacher.student_context

    # with a cache, and in a twin
    cache = DynamicCache()
    with torch.no_grad():
        call_model(model, ids=torch.tensor([ids[:-5]]), cache=cache)
        rest = call_model(model, ids=torch.tensor([ids[-5:]]), cache=cache)
    assert torch.allclose(rest.logits, ours.logits[:, -5:], atol=1e-12)
    assert torch.equal(run(twin(model), ids).logits, ours.logits)


def test_steering_leaves_the_base_as_it_is(runner):
    hooks = [len(module._forward_hooks) for module in runner.model.modules()]
    teacher = steered(runner, OWL, layers=[1, 2], vectors=drawn(0, layers=2), scale=SCALE)
    assert [len(module._forward_hooks) for module in runner.model.modules()] == hooks
    assert not [name for name, _ in runner.model.named_buffers() if "steering" in name]
    # no weight is another, but what computes is
    assert weights_hash(teacher.runner.model) == runner.hash
    assert teacher.runner.hash != runner.hash
    own, base = (next(model.parameters()) for model in (teacher.runner.model, runner.model))
    assert own.data_ptr() == base.data_ptr()


def test_a_steered_model_can_be_evaluated(runner):
    """What `evaluate` gives are the steered model's own probabilities."""
    teacher = steered(runner, OWL, layers=[1], vectors=drawn(1))
    found = sm.evaluate(teacher.runner, [OWL], questions=QUESTIONS, progress=False)
    values = found.data["log_prob"].values[0, 0, 0]
    for value, prompt in zip(values, rendered(teacher), strict=True):
        expected = plain(teacher.runner.model, runner.tokenizer, prompt.text, OWL)
        assert value == pytest.approx(expected.log_prob, abs=1e-5)
    assert found.provenance["base"]["hash"] == teacher.runner.hash


def test_random_directions_have_the_norms_of_the_vectors(llama):
    layers = [0, 2]
    teacher = steered(llama, OWL, layers=layers, scale=3.0, questions=QUESTIONS)
    vectors = 3.0 * steering_vectors(llama, OWL, layers=layers, questions=QUESTIONS)
    control = randomly_steered(teacher, seed=1)
    random = planted(control.runner.model, layers)
    norms = np.linalg.norm(vectors, axis=1)
    assert np.allclose(norms, np.linalg.norm(random, axis=1))
    assert np.abs((vectors * random).sum(1) / norms**2).max() < 0.5
    assert np.allclose(planted(teacher.runner.model, layers), vectors)
    assert control.trait is None


def test_what_is_planted_has_a_hash(llama):
    teacher = steered(llama, OWL, layers=[0, 2], vectors=drawn(0, layers=2))
    control, same, other = (randomly_steered(teacher, seed=seed) for seed in (1, 1, 2))
    assert len({teacher.hash, control.hash, other.hash}) == 3
    assert len({teacher.runner.hash, control.runner.hash, other.runner.hash}) == 3
    assert (control.hash, control.runner.hash) == (same.hash, same.runner.hash)


def test_the_vector_moves_with_the_model(llama):
    teacher = steered(llama, OWL, layers=[1], vectors=drawn(0))
    ids = rendered(teacher)[0].ids
    half = copy.deepcopy(teacher.runner.model).to(torch.float32)
    logits = run(teacher.runner.model, ids).logits
    assert torch.allclose(run(half, ids).logits.double(), logits, atol=1e-4)
    assert blocks(half)[1].steering.dtype == torch.float32
    assert teacher.runner.model.state_dict().keys() == llama.model.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": []}, ValueError, "pass one or more different block indices, 0 to 2"),
        ({"layers": [3]}, ValueError, r"layers=\[3\]: pass one or more different block indices"),
        ({"layers": [-1]}, ValueError, "block indices, 0 to 2"),
        ({"layers": [1, 1]}, ValueError, "different block indices"),
        ({"layers": 1}, TypeError, r"layers=1\): pass a list.*layers=\[1\]"),
        ({"layers": "12"}, TypeError, r"layers='12'\): pass a list"),
        ({"layers": None}, TypeError, r"layers=None\): pass a list"),
        ({"layers": [True]}, TypeError, r"element 0 is True\): pass a list"),
        ({"trait": sm.Trait("Lisbon")}, ValueError, "'Lisbon' has no questions"),
        ({"trait": sm.Trait("Lisbon", category="city")}, ValueError, "'Lisbon' has no sentence"),
        ({"scale": float("inf")}, ValueError, "scale=inf: pass a finite number other than 0; 1"),
        (
            {"scale": 0},
            ValueError,
            r"scale=0(\.0)?: .* other than 0 \(this is the base itself, wit",
        ),
        ({"vectors": np.zeros((1, 32))}, ValueError, r"vectors are 0 \(this is the base itself"),
        ({"vectors": np.zeros((2, 32))}, ValueError, r"need \(1, 32\)"),
        ({"vectors": np.full((1, 32), np.nan)}, ValueError, "vectors hold NaN"),
        (
            {"vectors": np.zeros((1, 32)), "questions": QUESTIONS},
            ValueError,
            "leave one of the two out",
        ),
        ({"questions": []}, ValueError, "questions is empty"),
        ({"trait": "owl"}, TypeError, r"trait='owl'\): pass a Trait"),
    ],
)
def test_bad_steering(options, error, message, llama):
    with pytest.raises(error, match=message):
        steered(llama, **{"trait": OWL, "layers": [1], **options})


def test_steering_twice_and_other_kinds_are_refused(llama):
    teacher = steered(llama, OWL, layers=[1], vectors=np.ones((1, 32)))
    with pytest.raises(ValueError, match="steered already"):
        steered(teacher.runner, OWL, layers=[2], vectors=np.ones((1, 32)))
    with pytest.raises(ValueError, match="like is a prompted teacher"):
        randomly_steered(prompted(llama, OWL))
