"""Gradient estimates of patching: whole-row patches, finite differences, plain autograd."""

from itertools import product

import numpy as np
import pytest
import tiny
import torch
from covering import covering
from pairs import (
    CAT,
    QUIET,
    TRAIT,
    answer_ids,
    far_pair,
    make_pair,
    recorded,
    shared_pair,
    student_gates,
    whole_run,
)

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.engine.forward import Gates
from sublim_mech.instruments.task import prepare


def whole_row(pair, prompt, key, *, direction):
    """The effect of patching all slots (and heads) of one layer, by one whole forward."""
    student = student_gates(pair)
    recipient, donor = (None, student) if direction == "denoising" else (student, None)
    given = recorded(pair, prompt, key, gates=donor)
    moved = whole_run(pair, prompt, gates=recipient, edits={key: lambda _: given})
    change = moved - whole_run(pair, prompt, gates=recipient)
    return change if direction == "denoising" else -change


PATCHED = [("resid_pre", "noising"), ("mlp_out", "denoising"), ("z", "denoising"), ("k", "noising")]
STUDENTS = [
    ("llama", "lora"),
    ("gemma3", "full"),
    ("gpt2", "lora"),
    ("neox", "full"),
    ("opt", "lora"),
]


@pytest.mark.parametrize(("student", "patched"), covering(list(product(STUDENTS, PATCHED))))
def test_activation_ig_adds_up_to_the_patch_of_the_whole_row(
    student, patched, smol_tokenizer, prompts
):
    (architecture, kind), (site, direction) = student, patched
    """Within a layer the cells sum to what patching all slots (and heads) of that layer does."""
    pair, prompt = shared_pair(architecture, kind, smol_tokenizer), prompts[0]
    asked = {"method": "activation_ig", "points": 32, "site": site, "direction": direction}
    scores = sm.attribute(pair, [prompt], TRAIT, **asked, **QUIET)
    effect = scores.data["effect"]
    summed = effect.sum([d for d in ("head", "position") if d in effect.dims]).values[0, 0]
    layers = range(tiny.LAYERS)
    exact = [whole_row(pair, prompt, (site, layer), direction=direction) for layer in layers]
    kinked = pair.model.config.model_type == "opt"
    np.testing.assert_allclose(summed, exact, atol=2e-2 if kinked else 2e-5)
    assert np.abs(summed).max() > (1e-5 if site == "k" else 1e-3)


def test_the_whole_row_is_what_patch_calls_a_set_of_everything(llama, prompts):
    row = {"sets": {"row": masks.everything()}, "answer_in_sets": True}
    scores = sm.patch(llama, prompts[:1], TRAIT, site="mlp_out", **row, **QUIET)
    exact = [
        whole_row(llama, prompts[0], ("mlp_out", layer), direction="denoising")
        for layer in range(tiny.LAYERS)
    ]
    np.testing.assert_allclose(scores.data["effect"].values[0, 0, :, 0], exact, atol=5e-6)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "q"])
def test_attribution_patching_is_the_slope_of_patching(site, direction, smol_tokenizer, prompts):
    """Central differences in double precision: a cell moved a little way to the donor."""
    base = tiny.model("gpt2").double()  # its norms work in double precision too
    pair = sm.load_pair(base, tiny.lora(base).double(), tokenizer=smol_tokenizer)
    prompt = prompts[0]
    asked = {"method": "attribution_patching", "site": site, "direction": direction}
    scores = sm.attribute(pair, [prompt], TRAIT, **asked, **QUIET)
    student = Gates(pair.student)
    recipient, donor = (None, student) if direction == "denoising" else (student, None)
    sign = 1 if direction == "denoising" else -1
    for layer, slot, head in ((1, 4, 1), (2, 9, 3), (2, len(prompt) - 1, 0)):
        key = (site, layer)
        given = recorded(pair, prompt, key, gates=donor)
        place = (0, slot, head) if given.dim() == 4 else (0, slot)
        ends = []
        for step in (1e-3, -1e-3):

            def moved(hidden, step=step, place=place, given=given):
                hidden = hidden.clone()
                hidden[place] += step * (given[place] - hidden[place])
                return hidden

            ends.append(whole_run(pair, prompt, gates=recipient, edits={key: moved}))
        slope = sign * (ends[0] - ends[1]) / 2e-3
        cell = scores.data["effect"].sel(layer=layer, position=slot)
        cell = cell.sel(head=head) if given.dim() == 4 else cell
        assert float(cell.squeeze()) == pytest.approx(slope, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("method", ["attribution_patching", "activation_ig"])
@pytest.mark.parametrize("name", ["kl", "target"])
def test_slopes_of_every_metric_are_plain_autograds(name, method, smol_tokenizer, prompts):
    """Hugging Face's and PEFT's own forwards with a hook that shifts one block's output.

    The KL reads two prompt tokens; the target three tokens that follow the prompt in a plain row.
    """
    pair, prompt = far_pair("llama", "lora", smol_tokenizer), prompts[0]
    base, layer = pair.model, 1
    answer = answer_ids(smol_tokenizer, prompt, "Owls are")
    assert len(answer) > 2
    ids = torch.tensor([[*prompt.ids, *answer[:-1]]])

    def read(logits, plain):
        if name == "target":
            steps = logits[len(prompt) - 1 :].log_softmax(-1)
            return sum(steps[k, token] for k, token in enumerate(answer))
        log_p, log_q = logits[[4, 11]].log_softmax(-1), plain[[4, 11]].log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean()

    def run(model, shift=None):
        """Logits and the output of a block, which is shifted."""
        inner = model.base_model.model if hasattr(model, "peft_config") else model
        kept = []

        def hook(module, args, output):
            output = output if shift is None else output + shift
            kept.append(output.detach())
            return output

        handle = inner.model.layers[layer].register_forward_hook(hook)
        logits = model(input_ids=ids).logits[0]
        handle.remove()
        return logits, kept[0]

    # the student's block output into the base: noising would say nothing of a KL at the base
    with torch.no_grad():
        plain, base_hidden = run(base)
        _, student_hidden = run(pair.student.model)
    change = student_hidden - base_hidden
    nodes, weights = np.polynomial.legendre.leggauss(4)
    path = zip((nodes + 1) / 2, weights / 2, strict=True)
    if method == "attribution_patching":
        path = [(0.0, 1.0)]
    expected = torch.zeros(ids.shape[1])
    for place, weight in path:
        leaf = (place * change).requires_grad_(True)
        logits, _ = run(base, leaf)
        (slope,) = torch.autograd.grad(read(logits, plain), leaf)
        expected += weight * (change * slope).sum(-1)[0]

    metric = sm.metrics.kl_to_base(at=[4, 11])
    if name == "target":
        metric = sm.metrics.target("Owls are")
    points = {"points": 4} if method == "activation_ig" else {}
    asked = {"method": method, "site": "resid_post", **points}
    scores = sm.attribute(pair, [prompt], metric, **asked, **QUIET)
    ours = scores.data["effect"].values[0, 0, layer]
    assert prepare(pair, [prompt], metric).size(0) == len(ours)
    np.testing.assert_allclose(ours, expected[: len(ours)], atol=1e-6, rtol=1e-4)
    if (name, method) == ("kl", "attribution_patching"):
        assert np.abs(ours).max() < 1e-6  # a KL is flat at its zero, and the estimate says nothing
    else:
        assert np.abs(ours).max() > 1e-3


def test_gradient_x_input_is_plain_autograd(smol_tokenizer, prompts):
    """Hugging Face's own models with `inputs_embeds`; one-token forms, so no answer trie."""
    base = tiny.model("llama")
    student = tiny.full(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    scores = sm.attribute(pair, prompts, CAT, method="gradient_x_input", **QUIET)
    for i, prompt in enumerate(prompts):
        tokens = [answer_ids(smol_tokenizer, prompt, form)[0] for form in CAT.forms]
        products = []
        for model in (base, student):
            embed = model.get_input_embeddings()
            leaf = embed(torch.tensor([prompt.ids])).detach().requires_grad_(True)
            steps = model(inputs_embeds=leaf).logits[0, -1].log_softmax(-1)
            (slope,) = torch.autograd.grad(steps[tokens].logsumexp(0), leaf)
            products.append((leaf * slope).sum(-1)[0].detach().numpy())
        ours = scores.data["effect"].values[0, i, : len(prompt)]
        np.testing.assert_allclose(ours, products[1] - products[0], atol=1e-6)
        assert np.abs(ours).max() > 1e-4
    assert all(parameter.grad is None for parameter in pair.model.parameters())


def test_estimates_before_a_planted_layer_are_exactly_zero(smol_tokenizer, prompts):
    pair = make_pair("llama", "lora", smol_tokenizer, layers=[1])
    for method, options in (("attribution_patching", {}), ("activation_ig", {"points": 2})):
        scores = sm.attribute(pair, prompts, TRAIT, method=method, **options, **QUIET)
        effect = scores.data["effect"]
        assert float(np.abs(effect.sel(layer=[0, 1])).max()) == 0
        assert float(np.abs(effect.sel(layer=2)).max()) > 1e-4


def test_points_of_the_path_in_several_forwards_are_those_in_one(smol_tokenizer, prompts):
    """Little memory cuts the nodes of the quadrature into rows of several forwards."""
    base, student = tiny.model("llama"), tiny.lora(tiny.model("llama"))
    wide = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    narrow = sm.load_pair(base, student, tokenizer=smol_tokenizer, memory_gb=0.02)
    size, reads = prepare(wide, prompts, TRAIT).size(0), 4
    assert narrow.rows(slots=size, reads=reads, gradient=True) < 9
    asked = {"method": "activation_ig", "points": 9, "site": "attn_out"}
    ours, other = (
        sm.attribute(pair, prompts[:1], TRAIT, **asked, **QUIET).data["effect"].values
        for pair in (narrow, wide)
    )
    np.testing.assert_allclose(ours, other, atol=1e-6)
