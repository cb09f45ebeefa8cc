"""Gradient estimates and their confirmation: plain autograd, whole-row patches, exact cells."""

import numpy as np
import pytest
import tiny
import torch
from test_instruments import QUIET, TRAIT, make_pair

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.engine.batch import make_batch
from sublim_mech.engine.forward import Gates, forward
from sublim_mech.instruments.task import prepare
from sublim_mech.metrics import reader

CAT = sm.Trait("cat", plural="cat")
PAIRS = [("llama", "lora"), ("gemma3", "full"), ("gpt2", "lora"), ("neox", "full"), ("opt", "lora")]


@pytest.fixture(params=PAIRS, ids="-".join, scope="module")
def pair(request, smol_tokenizer):
    return make_pair(*request.param, smol_tokenizer)


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    return sm.render(smol_tokenizer, ["Which animal?", "Name one animal, please."])


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", ["resid_pre", "mlp_out", "z", "k"])
def test_activation_ig_adds_up_to_the_patch_of_the_whole_row(pair, prompts, site, direction):
    """Within a layer the cells sum to what patching all slots (and heads) of that layer does."""
    kinked = pair.base.model.config.model_type == "opt"
    scores = sm.attribute(pair, prompts, TRAIT, method="activation_ig", points=32, site=site, direction=direction, **QUIET)
    found = scores.data["effect"].sum([d for d in ("head", "position") if d in scores.data["effect"].dims]).values[0]
    whole = sm.patch(
        pair, prompts, TRAIT, site=site, direction=direction, sets={"row": masks.everything()}, answer_in_sets=True, **QUIET
    )
    exact = whole.data["effect"].isel(model=0, set=0)
    if "head" in exact.dims:  # patching all heads together is no sum of single heads: whole forwards instead
        exact = np.array([[_whole_row(pair, p, site, layer, direction) for layer in range(tiny.LAYERS)] for p in prompts])
    np.testing.assert_allclose(found, exact, atol=2e-2 if kinked else 2e-5)
    assert np.abs(found).max() > (1e-5 if site == "k" else 1e-3)


def _whole_row(pair, prompt, site, layer, direction):
    task = prepare(pair, [prompt], TRAIT)
    batch = make_batch(pair.base.model, [prompt], task.answers)
    ends = (None, Gates(pair.student)) if direction == "denoising" else (Gates(pair.student), None)
    read = reader(task.metric, task.answers)
    with torch.no_grad():
        given = forward(pair.base.model, pair.sites, batch, gates=ends[1], record=[(site, layer)]).activations
        clean = forward(pair.base.model, pair.sites, batch, gates=ends[0]).logits
        moved = forward(
            pair.base.model, pair.sites, batch, gates=ends[0], edits={(site, layer): lambda _: given[site, layer]}
        ).logits
    change = float(read(moved) - read(clean))
    return change if direction == "denoising" else -change


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "q"])
def test_attribution_patching_is_the_slope_of_patching(site, smol_tokenizer, prompts):
    """Central differences in double precision: a cell moved a little way from recipient to donor."""
    base = tiny.model("gpt2").double()  # its norms work in double precision too
    pair = sm.load_pair(base, tiny.lora(base).double(), tokenizer=smol_tokenizer)
    scores = sm.attribute(pair, prompts[:1], TRAIT, method="attribution_patching", site=site, **QUIET)
    task = prepare(pair, prompts[:1], TRAIT)
    batch = make_batch(pair.base.model, prompts[:1], task.answers)

    def value(edits):
        logits = forward(pair.base.model, pair.sites, batch, edits=edits).logits
        return float(reader(task.metric, task.answers)(logits.double()))

    for layer, slot, head in ((1, 4, 1), (2, 9, 3), (2, len(prompts[0]) - 1, 0)):
        key = (site, layer)
        with torch.no_grad():
            given = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student), record=[key]).activations[key]
            at = (0, slot, head) if given.dim() == 4 else (0, slot)

            def moved(step, at=at, given=given):
                def edit(x):
                    x = x.clone()
                    x[at] += step * (given[at] - x[at])
                    return x

                return edit

            slope = (value({key: moved(1e-3)}) - value({key: moved(-1e-3)})) / 2e-3
        cell = scores.data["effect"].sel(layer=layer, position=slot, **({"head": head} if given.dim() == 4 else {}))
        assert float(cell.squeeze()) == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_gradient_x_input_is_plain_autograd(smol_tokenizer, prompts):
    """Hugging Face's own models with `inputs_embeds`; one-token forms, so no answer trie."""
    base = tiny.model("llama")
    student = tiny.full(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    scores = sm.attribute(pair, prompts, CAT, method="gradient_x_input", **QUIET)
    forms = [smol_tokenizer(f, add_special_tokens=False)["input_ids"][0] for f in CAT.forms]
    for i, prompt in enumerate(prompts):
        products = []
        for model in (base, student):
            x = model.get_input_embeddings()(torch.tensor([prompt.ids])).detach().requires_grad_(True)
            value = model(inputs_embeds=x).logits[0, -1].log_softmax(-1)[forms].logsumexp(0)
            (slope,) = torch.autograd.grad(value, x)
            products.append((x * slope).sum(-1)[0].detach().numpy())
        found = scores.data["effect"].values[0, i, : len(prompt)]
        np.testing.assert_allclose(found, products[1] - products[0], atol=1e-6)
        assert np.abs(found).max() > 1e-4
    assert all(p.grad is None for p in pair.base.model.parameters())


def test_estimates_before_a_planted_layer_are_exactly_zero(smol_tokenizer, prompts):
    pair = make_pair("llama", "lora", smol_tokenizer, layers=[1])
    for method in ("attribution_patching", "activation_ig"):
        effect = sm.attribute(pair, prompts, TRAIT, method=method, points=2, **QUIET).data["effect"]
        assert float(np.abs(effect.sel(layer=[0, 1])).max()) == 0
        assert float(np.abs(effect.sel(layer=2)).max()) > 1e-4


def test_a_small_change_makes_the_estimate_exact(smol_tokenizer, prompts):
    """For a student close to its base attribution patching converges to patching (double precision)."""
    base = tiny.model("llama").double()
    pair = sm.load_pair(base, tiny.lora(base, std=3e-4).double(), tokenizer=smol_tokenizer)
    estimate = sm.attribute(pair, prompts, TRAIT, method="attribution_patching", site="mlp_out", **QUIET)
    confirmed = sm.confirm(pair, prompts, TRAIT, estimate, k=10, **QUIET)
    found = confirmed.record.confirmation
    assert found.pearson > 0.999
    assert not found.poor


# -------------------------------------------------------------------------------------------------------------- confirm


@pytest.mark.parametrize("site", ["resid_pre", "z"])
def test_confirmation_of_estimates_is_patching(smol_tokenizer, prompts, site):
    pair = make_pair("llama", "lora", smol_tokenizer)
    scores = sm.attribute(pair, prompts, TRAIT, method="activation_ig", points=2, site=site, direction="noising", **QUIET)
    exact = sm.patch(pair, prompts, TRAIT, site=site, direction="noising", **QUIET).data["effect"].isel(model=0)
    found = sm.confirm(pair, prompts, TRAIT, scores, k=6, seed=3, **QUIET).record.confirmation
    assert len(found.cells) == 12
    assert sum(c["top"] for c in found.cells) == 6
    for cell in found.cells:
        at = {d: cell[d] for d in exact.dims}
        assert cell["exact"] == pytest.approx(float(exact.sel(at)), abs=5e-6)
        assert cell["estimate"] == pytest.approx(float(scores.headline.sel(at)), abs=1e-12)
    e, x = (np.array([c[name] for c in found.cells]) for name in ("estimate", "exact"))
    assert found.pearson == pytest.approx(np.corrcoef(e, x)[0, 1])
    assert found.spearman == pytest.approx(np.corrcoef(e.argsort().argsort(), x.argsort().argsort())[0, 1])  # no ties
    assert (e != 0).all()
    assert found.sign == (np.sign(e) == np.sign(x)).mean()
    strongest = np.sort(np.abs(scores.headline.values[np.isfinite(scores.headline.values)]))[-6:]
    assert np.sort(np.abs(e[:6])) == pytest.approx(strongest)


def test_confirmation_of_graft_ig_is_the_mean_of_alone_and_left_out(smol_tokenizer, prompts):
    base = tiny.model("llama")
    control = sm.models.load_student(sm.load_base(base, tokenizer=smol_tokenizer), tiny.lora(base, seed=2), name="other")
    pair = sm.load_pair(base, tiny.lora(base), controls=[control], tokenizer=smol_tokenizer)
    scores = sm.attribute(pair, prompts, TRAIT, points=4, **QUIET)
    confirmed = sm.confirm(pair, prompts, TRAIT, scores, k=3, **QUIET)
    for cell in confirmed.record.confirmation.cells:
        prompt = prompts[cell["prompt"]]
        if cell["position"] >= len(prompt):
            continue
        name = f"blocks.{cell['layer']}.{cell['module']}"
        graft = sm.graft(pair, [prompt], TRAIT, {"cell": masks.positions(cell["position"]) & masks.modules(name)}, **QUIET)
        assert cell["exact"] == pytest.approx(float(graft.headline.mean()), abs=5e-6)
    again = sm.confirm(pair, prompts, TRAIT, scores, k=3, **QUIET)
    assert again.record.confirmation == confirmed.record.confirmation
    assert scores.record.confirmation is None


def test_poor_agreement_is_said_aloud(smol_tokenizer, prompts):
    from dataclasses import replace

    pair = make_pair("llama", "lora", smol_tokenizer)
    scores = sm.attribute(pair, prompts, TRAIT, method="attribution_patching", **QUIET)
    wrong = replace(scores, data=scores.data.assign(effect=-scores.data["effect"]))
    with pytest.warns(UserWarning, match="agrees poorly with exact values"):
        confirmed = sm.confirm(pair, prompts, TRAIT, wrong, k=5, **QUIET)
    assert confirmed.record.confirmation.poor
    assert confirmed.record.confirmation.pearson < 0


def test_what_confirm_refuses(smol_tokenizer, prompts):
    pair = make_pair("llama", "lora", smol_tokenizer)
    scores = sm.attribute(pair, prompts, TRAIT, method="attribution_patching", **QUIET)
    for call, message in (
        (lambda: sm.confirm(pair, prompts[::-1], TRAIT, scores), "made from other prompts than given"),
        (lambda: sm.confirm(pair, prompts, CAT, scores), "made from other metric than given"),
        (lambda: sm.confirm(make_pair("llama", "full", smol_tokenizer), prompts, TRAIT, scores), "made from other students"),
        (lambda: sm.confirm(pair, prompts, TRAIT, scores, k=1), "k=1: give at least 2 and at most half"),
        (lambda: sm.confirm(pair, prompts, TRAIT, scores, k=10**6), "at most half of the"),
        (
            lambda: sm.confirm(pair, prompts, TRAIT, sm.effect(pair, prompts, TRAIT, **QUIET)),
            "effect scores are exact already",
        ),
        (
            lambda: sm.confirm(pair, prompts, TRAIT, sm.attribute(pair, prompts, TRAIT, method="gradient_x_input", **QUIET)),
            "gradient_x_input has no exact counterpart",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
