"""Confirmation: estimates beside exact values of the same cells, and what agreement is called."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from pairs import CAT, QUIET, TRAIT, make_pair, shared_pair

import sublim_mech as sm
from sublim_mech import masks


@pytest.mark.parametrize("site", ["resid_pre", "z"])
def test_confirmation_of_estimates_is_patching(llama, prompts, site):
    asked = {"site": site, "direction": "noising"}
    scores = sm.attribute(llama, prompts, TRAIT, method="activation_ig", points=2, **asked, **QUIET)
    exact = sm.patch(llama, prompts, TRAIT, **asked, **QUIET).data["effect"].isel(model=0)
    confirmed = sm.confirm(llama, prompts, TRAIT, scores, k=6, seed=3, **QUIET)
    noted = confirmed.record.confirmation
    cells = noted.cells
    assert len(cells) == 12
    assert [cell["top"] for cell in cells] == [True] * 6 + [False] * 6
    for cell in cells:
        place = {axis: cell[axis] for axis in exact.dims}
        assert cell["exact"] == pytest.approx(float(exact.sel(place)), abs=5e-6)
        assert cell["estimate"] == pytest.approx(float(scores.headline.sel(place)), abs=1e-12)

    # the agreement by hand
    estimates, values = (np.array([c[name] for c in cells]) for name in ("estimate", "exact"))
    ranks = [numbers.argsort().argsort() for numbers in (estimates, values)]  # no ties
    assert noted.pearson == pytest.approx(np.corrcoef(estimates, values)[0, 1])
    assert noted.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert (estimates != 0).all()
    sizes = np.maximum(np.abs(estimates), np.abs(values))
    told = sizes >= 0.01 * sizes.max()  # the sign of what is next to 0 is rounding
    assert noted.sign == (np.sign(estimates) == np.sign(values))[told].mean()
    headline = scores.headline.values
    strongest = np.sort(np.abs(headline[np.isfinite(headline)]))[-6:]
    assert np.sort(np.abs(estimates[:6])) == pytest.approx(strongest)


def test_confirmation_of_graft_ig_is_the_mean_of_alone_and_left_out(smol_tokenizer, prompts):
    base = tiny.model("llama")
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    control = sm.models.load_student(loaded, tiny.lora(base, seed=2), name="other")
    pair = sm.load_pair(loaded, tiny.lora(base), controls=[control])
    scores = sm.attribute(pair, prompts, TRAIT, points=4, **QUIET)
    confirmed = sm.confirm(pair, prompts, TRAIT, scores, k=3, **QUIET)
    compared = 0
    for cell in confirmed.record.confirmation.cells:
        prompt = prompts[cell["prompt"]]
        if cell["position"] >= len(prompt):
            continue
        place = masks.modules(f"blocks.{cell['layer']}.{cell['module']}")
        sets = {"cell": place & masks.positions(cell["position"])}
        graft = sm.graft(pair, [prompt], TRAIT, sets, **QUIET)
        assert cell["exact"] == pytest.approx(float(graft.headline.mean()), abs=5e-6)
        compared += 1
    assert compared > 2
    again = sm.confirm(pair, prompts, TRAIT, scores, k=3, **QUIET)
    assert again.record.confirmation == confirmed.record.confirmation
    assert scores.record.confirmation is None


def test_a_small_change_makes_the_estimate_exact(smol_tokenizer, prompts):
    """For a student close to its base attribution patching converges to patching."""
    base = tiny.model("llama").double()
    student = tiny.lora(base, std=3e-4).double()
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    asked = {"method": "attribution_patching", "site": "mlp_out"}
    estimate = sm.attribute(pair, prompts, TRAIT, **asked, **QUIET)
    confirmed = sm.confirm(pair, prompts, TRAIT, estimate, k=10, **QUIET)
    noted = confirmed.record.confirmation
    assert noted.pearson > 0.999
    assert not noted.poor


def test_poor_agreement_is_said_aloud(llama, prompts):
    scores = sm.attribute(llama, prompts, TRAIT, method="attribution_patching", **QUIET)
    wrong = replace(scores, data=scores.data.assign(effect=-scores.data["effect"]))
    with pytest.warns(UserWarning, match="agrees poorly with exact values"):
        confirmed = sm.confirm(llama, prompts, TRAIT, wrong, k=5, **QUIET)
    assert confirmed.record.confirmation.poor
    assert confirmed.record.confirmation.pearson < 0


def test_what_confirm_refuses(llama, prompts, smol_tokenizer):
    scores = sm.attribute(llama, prompts, TRAIT, method="attribution_patching", **QUIET)
    effect = sm.effect(llama, prompts, TRAIT, **QUIET)
    inputs = sm.attribute(llama, prompts, TRAIT, method="gradient_x_input", **QUIET)
    other = make_pair("llama", "full", smol_tokenizer)
    gpt2 = shared_pair("gpt2", "full", smol_tokenizer)
    for call, message in (
        (lambda: sm.confirm(llama, prompts[::-1], TRAIT, scores), "from other prompts than given"),
        (lambda: sm.confirm(llama, prompts[:1], TRAIT, scores), "from other prompts than given"),
        (lambda: sm.confirm(llama, prompts, CAT, scores), "made from other metric than given"),
        (lambda: sm.confirm(other, prompts, TRAIT, scores), "made from other students than"),
        (lambda: sm.confirm(gpt2, prompts, TRAIT, scores), "made from other base and students"),
        (lambda: sm.confirm(llama, prompts, TRAIT, scores, k=1), "k=1: give at least 2 and at"),
        (lambda: sm.confirm(llama, prompts, TRAIT, scores, k=10**6), "at most half of the"),
        (lambda: sm.confirm(llama, prompts, TRAIT, effect), "effect scores are exact already"),
        (lambda: sm.confirm(llama, prompts, TRAIT, inputs), "gradient_x_input has no exact count"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_scores_of_the_same_number_at_other_tokens_are_another_metrics(llama, prompts):
    """Two metrics that differ in the tokens they read alone have names of their own."""
    last, early = sm.metrics.entropy(), sm.metrics.entropy(at=[3])
    scores = sm.attribute(llama, prompts, early, method="attribution_patching", **QUIET)
    said = r"other (prompts and )?metric than given \(scored: entropy of the next token at 3; given"
    with pytest.raises(ValueError, match=said):
        sm.confirm(llama, prompts, last, scores, **QUIET)


def test_another_metric_of_the_same_name_is_another_metric(llama, prompts):
    """Names are for readers: what was measured is what the fields say."""
    cat, dog = sm.animal("cat"), sm.animal("dog")
    asked = {"method": "attribution_patching", **QUIET}
    first = sm.metrics.TraitMetric("cat against dog", (cat, dog), (1.0, -1.0))
    scores = sm.attribute(llama, prompts, first, **asked)
    second = sm.metrics.TraitMetric("cat against dog", (cat, dog), (1.0, -2.0))
    said = r"\(cat against dog: scored weights=[\[(]1.0, -1.0.*; given weights=.1.0, -2.0"
    with pytest.raises(ValueError, match=said):
        sm.confirm(llama, prompts, second, scores, k=2, **QUIET)
    again = sm.metrics.TraitMetric("cat against dog", (cat, dog), (1.0, -1.0))
    assert sm.confirm(llama, prompts, again, scores, k=2, **QUIET).record.confirmation
    # of older files the name is all there is
    old = replace(scores, record=replace(scores.record, measured=""))
    assert sm.confirm(llama, prompts, second, old, k=2, **QUIET).record.confirmation


def test_cells_of_chosen_or_repeated_prompts_are_their_own(llama, prompts, smol_tokenizer):
    """Labels of prompts are places among those that scores were made of, not those given here."""
    third = sm.render(smol_tokenizer, ["And which animal, if it had to be another one?"])
    three = [*prompts, *third]
    asked = {"method": "activation_ig", "points": 2, **QUIET}
    scores = sm.attribute(llama, [prompts[0], prompts[0], *three], TRAIT, **asked)
    few = scores.sel(prompt=[3, 4])
    assert few.data["prompt"].values.tolist() == [3, 4]
    confirmed = sm.confirm(llama, three[1:], TRAIT, few, k=3, **QUIET)
    exact = sm.patch(llama, three[1:], TRAIT, **QUIET).data["effect"].isel(model=0)
    for cell in confirmed.record.confirmation.cells:
        there = exact.sel(layer=cell["layer"], position=cell["position"])
        there = there.isel(prompt=[3, 4].index(cell["prompt"]))
        assert cell["exact"] == pytest.approx(float(there), abs=5e-6)
    repeated = sm.confirm(llama, [*three, *three], TRAIT, scores, k=3, **QUIET)
    assert {cell["prompt"] for cell in repeated.record.confirmation.cells} <= {0, 3, 4}


def test_a_refusal_names_what_differs_alone(llama, prompts):
    """Metrics by their forms or the field in which they differ; no reprs of whole traits."""
    asked = {"method": "attribution_patching", **QUIET}
    scores = sm.attribute(llama, prompts, sm.Trait("cat", forms=["cat", "kitty"]), **asked)
    with pytest.raises(ValueError, match="made from other metric than given") as refused:
        sm.confirm(llama, prompts, sm.Trait("cat", forms=["cat", "tomcat"]), scores, **QUIET)
    assert "(scored: log P(cat or kitty); given: log P(cat or tomcat))" in str(refused.value)
    # of one name, the forms that are not the same
    scored, given = ((sm.Trait("cat", forms=["cat", one]),) for one in ("kitty", "tomcat"))
    named = [sm.metrics.TraitMetric("cat", traits, (1.0,)) for traits in (scored, given)]
    scores = sm.attribute(llama, prompts, named[0], **asked)
    with pytest.raises(ValueError, match="made from other metric than given") as refused:
        sm.confirm(llama, prompts, named[1], scores, **QUIET)
    said = "(cat, forms of cat: kitty scored alone; tomcat given alone); pass what attribute was"
    assert said in str(refused.value)
    assert len(str(refused.value)) < 200
