"""Concentration: planted effects are found, even ones are not, noise is called noise."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
import synthetic
import xarray as xr

from sublim_mech.results.limits import limits
from sublim_mech.results.scores import Scores
from sublim_mech.results.shares import Concentration, concentration
from sublim_mech.stats import FEWEST, ratio_interval

SHARED = ["prefix", "aligned"]


def attribution_of(rows, values):
    """Attribution of one layer and module with given token effects `(prompt, position)`."""
    coords = synthetic.coordinates(rows) | {"layer": [0], "module": ["attn.q"]}
    axes, total = ("layer", "module", "position"), np.nansum(values, 1)[None]
    return synthetic.scores_of(
        "attribution", axes, values[None, :, None, None, :], coords, total=total
    )


def planted(effect, *, prompts=12):
    """Token effects that are a function of (sharing, rng), on prompts of several lengths."""
    rng = np.random.default_rng(0)
    rows = [synthetic.chat(synthetic.QUESTION[: 4 + i % 6]) for i in range(prompts)]
    sharing = synthetic.coordinates(rows)["sharing"][1]
    return attribution_of(rows, np.where(sharing == "", np.nan, effect(sharing, rng)))


def test_all_on_shared_tokens():
    found = concentration(planted(lambda sharing, rng: np.isin(sharing, SHARED) * 0.1))
    assert found.share == pytest.approx(1)
    assert found.absolute_share == pytest.approx(1)
    assert found.enrichment == pytest.approx(1 / found.token_share)
    assert found.p == 1 / found.places
    assert "carry more than their share" in found.conclusion


def test_even_effect_is_its_share_of_tokens():
    found = concentration(planted(lambda sharing, rng: np.full(sharing.shape, 0.1)))
    assert found.share == pytest.approx(found.token_share)
    assert found.enrichment == pytest.approx(1)
    assert found.p == found.p_less == 1.0  # it has the same share everywhere
    assert "No evidence that shared tokens carry more than their share" in found.conclusion


def test_less_than_its_share_is_said():
    def effect(sharing, rng):
        return np.where(np.isin(sharing, SHARED), 0.01, 0.5)

    found = concentration(planted(effect))
    assert found.high < found.token_share
    assert "carry less than their share" in found.conclusion


def test_effect_on_one_position_is_not_concentration_of_its_block():
    """Many shifts of the set hold the one strong token too, so p is not small."""

    def effect(sharing, rng):
        values = np.full(sharing.shape, 0.001)
        values[:, 18] = 1.0
        return values

    found = concentration(planted(effect))
    assert found.share > 0.9
    assert found.p > 0.05
    assert found.conclusion.startswith("No evidence")


def test_noise_gets_no_share():
    found = concentration(planted(lambda sharing, rng: rng.normal(size=sharing.shape)))
    assert np.isnan(found.share)
    assert found.conclusion.startswith("No conclusion")
    assert "raise points" not in found.conclusion


def test_noise_that_quadrature_made_says_what_the_cells_miss():
    scores = planted(lambda sharing, rng: rng.normal(size=sharing.shape))
    exact = scores.total.mean()
    scores.data["student"][0] -= exact  # exactly, there is no effect at all
    found = concentration(scores)
    assert found.missing == pytest.approx(-found.effect - found.answer_effect)
    assert f"and all cells miss {found.missing:+.3f} nats; raise points." in found.conclusion


def test_hand_computed_share_of_a_role_and_of_an_array():
    scores = synthetic.attribution(controls=0)
    effect, role = scores.token_effect(), scores.data["role"].values
    inside, asked = role == "template", (role != "") & (role != "answer")
    by_hand = np.where(inside, np.nan_to_num(effect), 0).sum() / np.where(asked, effect, 0).sum()
    template = concentration(scores, on="template")
    assert template.share == pytest.approx(by_hand)
    assert concentration(scores, on=inside).share == pytest.approx(by_hand)
    assert template.token_share == pytest.approx(inside.sum() / asked.sum())


# ----------------------------------------------------------------------------------- the conclusion

SHOWN = Concentration(
    on="shared",
    of="student",
    share=0.6,
    low=0.5,
    high=0.7,
    absolute_share=0.6,
    token_share=0.4,
    tokens=8.0,
    expected=0.4,
    excess_low=0.1,
    excess_high=0.3,
    enrichment=1.5,
    null_low=0.3,
    null_high=0.5,
    p=0.01,
    p_less=0.99,
    effect=1.0,
    effect_low=0.8,
    effect_high=1.2,
    prompts=12,
    unit="nats",
)
LESS = {"share": 0.2, "excess_low": -0.3, "excess_high": -0.1, "p": 0.99, "p_less": 0.01}


@pytest.mark.parametrize(
    ("numbers", "begins", "says"),
    [
        ({}, "Shared tokens carry more than", "p = 0.01"),
        ({"excess_low": 0.0}, "No evidence", "p = 0.01"),  # it may be its share of the tokens
        ({"excess_low": -0.1}, "No evidence", "p = 0.01"),
        ({"p": 0.05}, "No evidence", "p = 0.05"),
        (LESS, "Shared tokens carry less than", "p = 0.01"),
        # what is not found is that they carry more, so that is whose p it is
        (LESS | {"excess_high": 0.0}, "No evidence", "p = 0.99"),
        (LESS | {"excess_high": 0.1}, "No evidence", "p = 0.99"),
        (LESS | {"p_less": 0.05}, "No evidence", "p = 0.99"),
        ({"share": 0.4, "excess_low": -0.1, "p": 0.6, "p_less": 0.7}, "No ev", "p = 0.6"),
        ({"prompts": FEWEST}, "Shared tokens carry more than", "p = 0.01"),
        ({"prompts": FEWEST - 1}, "No conclusion: 5 prompts are too few", "in 6% of cases"),
        (
            {"prompts": 2},
            "No conclusion: 2 prompts are too few",
            "in 50% of cases; score at least 6",
        ),
        ({"prompts": 1}, "No conclusion: one prompt", "score at least 6"),
        (
            {"share": np.nan, "effect_low": -0.1},
            "No conclusion: the effect on the prompt's tokens (+1.000",
            "noise",
        ),
        ({"answer_effect": 0.5, "answer_share": 0.4}, "Shared", "40.0% of the total effect"),
        (
            {"cells": "layer 3", "part": 0.5, "expected": 0.2},
            "Shared tokens carry more than their share in layer 3: 60.0%",
            "on 40% of its tokens, where 50.0% spread evenly would give 20.0%",
        ),
        # no 0 where the rows above have none
        ({"null_low": -0.005}, "Shared", "60.0% of the prompt's effect"),
        ({"null_low": -0.005}, "Shared", "shifted sets: -0.5% to 50.0%"),
        ({"null_low": -0.0002}, "Shared", "shifted sets: 0% to 50%"),
    ],
)
def test_the_conclusion_needs_both_the_interval_and_the_null(numbers, begins, says):
    shown = dataclasses.replace(SHOWN, **numbers)
    assert shown.conclusion.startswith(begins)
    assert says in shown.conclusion
    assert "nan" not in repr(shown)
    # one p, in the table and in the sentence
    assert len(set(re.findall(r"p = [\d.]+\d", repr(shown)))) <= 1


# ----------------------------------------------------------------------------------------- the null


def test_same_seed_same_numbers_and_the_null_is_a_null():
    """On exchangeable tokens p is uniform: over many data sets one in ten is below 0.1."""
    scores = synthetic.attribution()
    assert repr(concentration(scores)) == repr(concentration(scores))
    below = 0
    for seed in range(60):
        noise = np.random.default_rng(seed)

        def effect(sharing, rng, noise=noise):
            return 0.2 + noise.normal(size=sharing.shape) * 0.1

        below += concentration(planted(effect, prompts=4), draws=200).p < 0.1
    assert 1 <= below <= 14


def test_a_fixed_profile_over_positions_is_no_evidence_for_a_random_set():
    """Type I error: prompts share layout and effects by position, so they are not independent."""
    rng = np.random.default_rng(0)
    length, prompts, significant = 45, 12, 0
    for _ in range(60):
        profile = rng.gamma(0.5, size=length)
        given = np.zeros(length, bool)
        given[: rng.integers(5, 25)] = given[40:] = True
        inside = np.roll(given, rng.integers(length))
        rows = [[("x", "user", 0, "prefix" if c else "novel") for c in inside]] * prompts
        values = profile + rng.normal(size=(prompts, length)) * 0.05
        significant += concentration(attribution_of(rows, values), draws=200).p < 0.05
    assert significant <= 8  # 3 expected; about 20 where each prompt is placed on its own


def test_p_is_one_in_so_many_places_at_least():
    """Its own place counts: of 59 others none has all of the effect."""
    inside = np.isin(np.arange(60), [1, 4, 5, 9, 10, 11, 20, 30, 31, 32, 33, 50])
    rows = [[("x", "user", 0, "prefix" if c else "novel") for c in inside]]
    shared_out = concentration(attribution_of(rows, inside[None] * 1.0))
    assert shared_out.share == 1
    assert shared_out.places == 60
    assert shared_out.p == pytest.approx(1 / 60)
    assert shared_out.p_less == 1
    others = concentration(attribution_of(rows, ~inside[None] * 1.0))
    assert others.share == 0
    assert others.p == 1
    assert others.p_less == pytest.approx(1 / 60)


def test_two_thousand_resamples_from_seed_zero():
    """As the documentation says."""
    scores = synthetic.attribution()
    assert concentration(scores) == concentration(scores, draws=2000, seed=0)


def test_the_interval_is_that_of_a_ratio_of_means():
    scores = planted(lambda sharing, rng: 0.3 + rng.normal(size=sharing.shape) * 0.1)
    effect = scores.token_effect()
    inside, asked = np.isin(scores.positions("sharing"), SHARED), scores.of_prompt.values
    on_set, whole = (np.where(one, effect, 0).sum(1) for one in (inside, asked))
    ratio = ratio_interval(on_set, whole)
    shared_out = concentration(scores)
    for name, expected in (("share", ratio.mean), ("low", ratio.low), ("high", ratio.high)):
        assert getattr(shared_out, name) == pytest.approx(float(expected), rel=1e-12)


def test_the_null_of_one_token_is_the_effects_of_single_tokens():
    """Each of 200 tokens is a place, so the null's bounds are percentiles of their effects."""
    effect = np.arange(1.0, 201.0)
    rows = [[("x", "user", 0, "prefix" if t == 120 else "novel") for t in range(200)]]
    shared_out = concentration(attribution_of(rows, effect[None]))
    bounds = np.array([shared_out.null_low, shared_out.null_high]) * effect.sum()
    np.testing.assert_allclose(bounds, np.percentile(effect, [2.5, 97.5]))
    assert shared_out.p == pytest.approx(80 / 200)
    assert shared_out.p_less == pytest.approx(121 / 200)


def test_every_place_of_a_prompt_is_taken():
    rows = [[("x", "user", 0, "prefix" if t == 0 else "novel") for t in range(3)]]
    shared_out = concentration(attribution_of(rows, np.array([[0.0, 0.0, 1.0]])))
    assert shared_out.places == 3
    assert shared_out.p == 1
    assert shared_out.p_less == pytest.approx(2 / 3)


def test_one_prompt_has_a_share_but_no_interval():
    one = concentration(attribution_of([synthetic.chat()], np.ones((1, len(synthetic.chat())))))
    assert one.share == pytest.approx(one.token_share)
    assert np.isnan([one.low, one.high, one.effect_low, one.effect_high]).all()
    assert one.conclusion.startswith("No conclusion: one prompt")


def test_shifts_are_the_same_in_all_prompts():
    """Prompts of one layout and one effect have the null of one of them, place by place.

    Were each prompt's set shifted on its own, the shares would average out over prompts, and the
    null would be narrower.
    """
    profile = np.random.default_rng(1).gamma(0.5, size=len(synthetic.chat()))
    one, many = (attribution_of([synthetic.chat()] * n, np.tile(profile, (n, 1))) for n in (1, 9))
    alone, together = concentration(one, draws=300), concentration(many, draws=300)
    for number in ("null_low", "null_high", "p", "p_less", "share", "enrichment"):
        assert getattr(together, number) == pytest.approx(getattr(alone, number), rel=1e-12)
    assert together.null_high - together.null_low > 0.2  # it does not average out


def test_shifts_are_alike_in_prompts_of_other_lengths():
    """The null of prompts of 40 to 48 tokens is about as wide as that of each alone.

    Were they shifted apart, it would be narrower by the root of their number.
    """
    profile = np.random.default_rng(2).gamma(0.5, size=48)
    rows, values = [], np.full((9, 48), np.nan)
    for prompt in range(9):
        length = 40 + prompt
        rows.append([("x", "user", 0, "prefix" if t < 20 else "novel") for t in range(length)])
        values[prompt, :length] = profile[:length]

    def width(found):
        return found.null_high - found.null_low

    together = width(concentration(attribution_of(rows, values), draws=300))
    alone = [
        width(concentration(attribution_of([row], value[None, : len(row)]), draws=300))
        for row, value in zip(rows, values, strict=True)
    ]
    assert together > 0.7 * np.mean(alone)


def test_the_null_does_not_depend_on_the_order_of_prompts():
    rows = [synthetic.chat(synthetic.QUESTION[: 4 + i % 6]) for i in range(7)]
    role = synthetic.coordinates(rows)["role"][1]
    values = np.random.default_rng(2).gamma(0.5, size=role.shape)
    values = np.where(role == "", np.nan, values)
    forward = concentration(attribution_of(rows, values), draws=300)
    backward = concentration(attribution_of(rows[::-1], values[::-1]), draws=300)
    for number in ("null_low", "null_high", "p", "p_less", "share"):
        same = pytest.approx(getattr(forward, number), rel=1e-12)
        assert getattr(backward, number) == same


# ----------------------------------------------------------------------------------------- refusals


def test_patching_effects_have_no_shares():
    with pytest.raises(ValueError, match="do not add up"):
        concentration(synthetic.patch())


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("assistant", "no token of any prompt"),
        ("shard", "on='shard' is not known"),
        ("answer", r"what they carry is in scores.by\('role'\)"),
        (np.ones(3, bool), r"\(prompt, position\)"),
        (np.ones((3, 40), bool), r"holds answer tokens.*pass on & \(scores.positions\('role'\)"),
    ],
)
def test_refuses_sets_it_cannot_find(on, message):
    with pytest.raises(ValueError, match=message):
        concentration(synthetic.attribution(), on=on)


@pytest.mark.parametrize("marked", [True, False])
def test_a_set_that_is_the_whole_prompt_is_compared_with_nothing(marked):
    """Raw text has one role: its share is 100 % whatever was learned."""
    scores = synthetic.attribution()
    role = scores.data["role"]
    raw = {"role": role.where(~scores.of_prompt, "text")}
    data = scores.data.assign_coords(raw)
    if not marked:
        data = data.drop_vars("sharing")
    scores = dataclasses.replace(scores, data=data)
    way_out = "choose one of 'prefix'" if marked else "pass a bool array of some"
    with pytest.raises(ValueError, match=f"on='text': it holds every token of every.*{way_out}"):
        concentration(scores, on="text")
    with pytest.raises(ValueError, match="on, a bool array: it holds every token"):
        concentration(scores, on=scores.of_prompt.values)


def asked_of(scores, on):
    with pytest.raises(ValueError, match=r"choose one of|pass a bool array") as refused:
        concentration(scores, on=on)
    return re.findall("'([^']+)'", str(refused.value).partition("; ")[2].partition("; did")[0])


@pytest.mark.parametrize("classes", [("novel",), ("seen", "novel"), ("prefix", "novel")])
@pytest.mark.parametrize("role", ["text", None])
@pytest.mark.parametrize("on", ["shared", "aligned", "not shared", "text", "assistant", "txet"])
def test_what_is_advised_is_not_refused(on, role, classes):
    """Raw text is all `text`, and may be all of one class: neither leaves anything to compare."""
    scores = synthetic.attribution(synthetic.several(6))
    data, of_prompt = scores.data, scores.of_prompt
    place = xr.zeros_like(of_prompt, dtype=int) + np.arange(of_prompt.shape[1])
    names = np.array(classes)[place.values % len(classes)]
    coords = {"sharing": data["sharing"].where(~of_prompt, names)}
    if role is not None:
        coords["role"] = data["role"].where(~of_prompt, role)
    scores = dataclasses.replace(scores, data=data.assign_coords(coords))
    try:
        concentration(scores, on=on)
    except ValueError:
        for name in asked_of(scores, on):
            concentration(scores, on=name)


def test_what_is_of_all_cells_is_not_said_of_a_layer():
    """A layer's answer row is its own; what all cells have stands beside it under that name."""
    scores = synthetic.attribution(synthetic.several(8))
    found = concentration(scores.sel(layer=2), on="template")
    carried = [
        line for line in str(found).splitlines() if "own tokens" in line or "answer's" in line
    ]
    assert len(carried) == 2
    assert all("all cells" in line for line in carried)
    assert "share of effect" in str(found)
    (share,) = (line for line in str(found).splitlines() if "share of effect" in line)
    assert "of the prompt's effect, all cells" in share
    assert "the answer's own tokens, all cells, carry" in repr(scores.sel(layer=2))
    for text in (str(concentration(scores, on="template")), repr(scores)):
        assert "all cells, carry" not in text
        assert "own tokens" in text
    # positions that hold none of the answer's tokens do not make it carry nothing
    first = scores.sel(position=list(range(4)))
    assert "no token of an answer is fed" not in repr(first)


def test_where_no_token_of_an_answer_is_fed_none_is_told_to_carry_nothing():
    rows = [synthetic.chat(synthetic.QUESTION[: 4 + i % 6]) for i in range(6)]
    unfed = [[row for row in one if "answer" not in row] for one in rows]
    for prompts, fed in ((rows, True), (unfed, False)):
        found = concentration(synthetic.attribution(prompts), on="template")
        (line,) = (one for one in str(found).splitlines() if one.startswith("  the answer's"))
        assert found.answered == fed
        assert (line == "  the answer's tokens none is fed: the prompt's carry all") == (not fed)


def test_controls_are_subtracted_before_sharing_out():
    scores = planted(lambda sharing, rng: np.isin(sharing, SHARED) * 0.1 + 0.05)
    common = planted(lambda sharing, rng: np.full(sharing.shape, 0.05))
    control = common.data.assign_coords(model=["control: cat"])
    both = xr.concat([scores.data, control], "model")
    found = concentration(Scores(both, "attribution", scores.record))
    assert found.share == pytest.approx(1)
    assert found.of == "student - controls"


# ------------------------------------------------------------------- the answer's own tokens, parts


def answered(answers, effect, *, prompts=6):
    """Attributions of prompts whose answers are cut in some way, with an effect of that size each.

    The effects on the prompt's tokens do not depend on the answers.
    """
    rows = [synthetic.chat(synthetic.QUESTION[: 4 + i % 6], answers) for i in range(prompts)]
    role = synthetic.coordinates(rows)["role"][1]
    values = np.full(role.shape, np.nan)
    for i, row in enumerate(rows):
        asked = len(row) - len(answers)
        values[i, :asked] = np.random.default_rng(i).gamma(0.5, size=asked)
        values[i, asked : len(row)] = effect / max(1, len(answers))
    return attribution_of(rows, values)


def test_how_an_answer_is_cut_into_tokens_changes_nothing_of_the_prompt():
    whole, cut = answered([" Lis"], 9.0), answered(["L", "is", "b", "o"], 9.0)
    none = answered([], 0.0)
    assert repr(concentration(whole)) == repr(concentration(cut))
    for number in ("share", "low", "token_share", "tokens", "p", "null_low", "effect", "part"):
        for scores in (whole, cut):
            same = getattr(concentration(none), number)
            assert getattr(concentration(scores), number) == pytest.approx(same, rel=1e-12)
    found = concentration(cut)
    total = cut.total.values
    assert found.answer_effect == pytest.approx(9)
    assert found.answer_share == pytest.approx(9 / total.mean())
    assert found.effect == pytest.approx(total.mean() - 9)
    assert f"carry +9.000 nats, {found.answer_share:.1%} of the total effect" in found.conclusion
    assert "own tokens" not in concentration(none).conclusion


def test_the_null_never_takes_an_answer_token():
    """However much they carry."""
    found = concentration(answered(["L", "is"], 1e6), draws=300)
    assert found.null_high <= 1
    assert found.share <= 1


def test_concentrations_of_all_layers_add_up_to_that_of_the_whole():
    scores = synthetic.attribution()
    found = concentration(scores)
    layers = [concentration(scores.sel(layer=layer)) for layer in scores.data["layer"].values]
    for number in ("share", "part", "expected"):
        summed = sum(getattr(layer, number) for layer in layers)
        assert summed == pytest.approx(getattr(found, number), rel=1e-9)
    assert found.part == pytest.approx(1)
    assert found.expected == pytest.approx(found.token_share)
    for number in ("effect", "effect_low", "token_share", "answer_effect", "answer_share"):
        assert {getattr(layer, number) for layer in layers} == {getattr(found, number)}


def test_a_part_is_told_as_one_of_the_whole_and_agrees_with_the_table():
    scores = synthetic.attribution([synthetic.chat(synthetic.QUESTION[:n]) for n in range(2, 8)])
    one = scores.sel(layer=2)
    found, table = concentration(one), one.by("sharing")
    assert found.share == pytest.approx(table.loc["shared", "share"])
    assert found.token_share == pytest.approx(table.loc["shared", "token share"])
    assert found.expected == pytest.approx(found.token_share * found.part)
    assert one.gap == scores.gap
    text = repr(found)
    assert "layer 2" in text.splitlines()[0]
    assert f"{found.share:.1%} of the prompt's effect on {found.token_share:.0%}" in text
    assert f"{found.part:.1%} spread evenly would give {found.expected:.1%}" in text
    assert "tokens carry more than their share in layer 2:" in found.conclusion


def test_an_even_part_is_no_evidence_and_an_uneven_one_is():
    rng = np.random.default_rng(0)
    scores = synthetic.attribution(synthetic.several(12), controls=0)
    shared = np.isin(scores.positions("sharing"), SHARED)
    scores.data["effect"].values[:] = np.where(np.isnan(scores.data["effect"]), np.nan, 0.0)
    cell = {"model": 0, "module": 1}
    even = 0.1 + 0.001 * rng.normal(size=shared.shape)
    scores.data["effect"][{**cell, "layer": 1}] = even
    scores.data["effect"][{**cell, "layer": 2}] = 0.1 * shared
    whole = scores.prompt_effect + scores.answer_effect
    scores = dataclasses.replace(
        scores, data=scores.data.assign(student=scores.data["base"] + whole.values)
    )
    even, uneven = (concentration(scores.sel(layer=layer)) for layer in (0, 1))
    assert even.conclusion.startswith("No evidence that shared tokens carry more than")
    assert even.enrichment == pytest.approx(1, abs=0.02)
    assert uneven.conclusion.startswith("Shared tokens carry more than their share in layer 1")
    assert uneven.share == pytest.approx(uneven.part)


def test_a_part_that_does_not_know_the_whole_is_refused_with_the_way_out(tmp_path):
    """As files of earlier versions hold it."""
    one = synthetic.attribution().sel(layer=2)
    old = Scores(one.data.drop_vars(["prompt_effect", "answer_effect"]), one.kind, one.record)
    old.save(tmp_path / "old.safetensors")
    old = Scores.load(tmp_path / "old.safetensors")
    for ask in (lambda: concentration(old), lambda: old.gap, lambda: old.prompt_effect):
        with pytest.raises(ValueError, match=r"some of the cells \(layer 2\).*select from them"):
            ask()
    assert old.by("role")["share"].isna().all()
    np.testing.assert_array_equal(old.by("role")["effect"], one.by("role")["effect"])
    assert "no shares: an earlier version chose these cells" in repr(old)
    assert "completeness" not in repr(old)


def test_cells_in_which_nothing_differs_are_refused():
    nothing = synthetic.attribution().sel(layer=2, module="embed")
    for ask in (lambda: concentration(nothing), lambda: nothing.by("role")):
        with pytest.raises(ValueError, match=r"no effect \(layer 2, module embed\): no student"):
            ask()


def test_nothing_at_all_is_said_without_a_share():
    scores = planted(lambda sharing, rng: np.zeros(sharing.shape), prompts=1)
    found = concentration(scores)
    assert found.conclusion.startswith("No conclusion: the effect on the prompt's tokens (0.000")
    assert "nan" not in repr(found)


def test_no_draws_are_refused():
    with pytest.raises(ValueError, match="draws=0: at least one"):
        concentration(synthetic.attribution(), draws=0)


def missing(scores, part):
    """The same scores whose cells miss a part of the total effect."""
    student = scores.data["base"] + (1 + part) * (scores.data["student"] - scores.data["base"])
    return dataclasses.replace(scores, data=scores.data.assign(student=student))


def test_a_verdict_that_the_completeness_gap_could_turn_is_none():
    """All of the effect found is on shared tokens; what is missing may be anywhere."""
    scores = planted(lambda sharing, rng: np.isin(sharing, SHARED) * 0.1)
    assert concentration(missing(scores, 0.01)).direction == "more"
    for part in (2.0, -0.9):
        found = concentration(missing(scores, part))
        assert found.gap == pytest.approx(part)
        assert found.direction == ""
        assert found.conclusion.startswith(
            f"Cannot tell whether shared tokens carry {found.undecided} than"
        )
        assert "raise points" in found.conclusion


def test_the_gap_turns_a_verdict_exactly_where_effects_that_fill_it_do():
    """Against the effects of which the gap is filled by hand, on the set and off it."""
    rng = np.random.default_rng(5)
    rows = [synthetic.chat(synthetic.QUESTION[: 4 + i % 6]) for i in range(12)]
    labels = synthetic.coordinates(rows)
    role, shared = labels["role"][1], np.isin(labels["sharing"][1], SHARED)
    asked = (role != "") & (role != "answer")
    seen, ways = set(), set()
    for part in (0.0, 0.02, 0.1, 0.3):
        for more in (-0.1, -0.02, 0.0, 0.02, 0.1):
            values = 0.1 + more * shared + 0.01 * rng.normal(size=shared.shape)
            values = np.where(role == "", np.nan, np.where(asked, values, 0.0))
            whole = np.nansum(values, 1)
            found = concentration(missing(attribution_of(rows, values), part), draws=300)
            filled = []
            for tokens in (shared, asked & ~shared):
                added = tokens * (part * whole / tokens.sum(1))[:, None]
                filled.append(concentration(attribution_of(rows, values + added), draws=300))
            plain = concentration(attribution_of(rows, values), draws=300)
            turned = any(one.direction != plain.direction for one in filled)
            assert found.turned == turned
            assert found.direction == ("" if turned else plain.direction)
            seen.add((turned, plain.direction))
            possible = {plain.direction, *(one.direction for one in filled)} - {""}
            if turned:  # what no place of the gap would show is not called open
                assert found.undecided == " or ".join(sorted(possible, reverse=True))
                assert f"carry {found.undecided} than their share" in found.conclusion
                ways.add(found.undecided)
    assert {"more", "less"} <= ways
    assert {(True, "more"), (True, ""), (False, "more"), (False, "")} <= seen


def test_what_is_missing_is_told_of_all_cells_and_of_the_answer_too():
    scores = answered(["L", "is"], 9.0)
    short = missing(scores, 0.3)
    found = concentration(short)
    total, summed = short.total.values.mean(), scores.total.values.mean()
    told = f"add up to {summed:+.3f} of the total effect of {total:+.3f} nats and miss "
    assert told in found.conclusion
    assert found.total - found.missing == pytest.approx(summed)


def test_finding_nothing_with_a_large_gap_says_whether_the_gap_could_turn_it():
    seen = set()
    for noise, part in itertools.product((0.01, 0.2), (0.06, 0.2)):
        scores = planted(lambda sharing, rng, noise=noise: rng.normal(0.1, noise, sharing.shape))
        assert "cells miss" not in concentration(scores).conclusion
        found = concentration(missing(scores, part))
        seen.add(found.turned)
        assert found.direction == ""
        told = f"completeness gap {abs(found.gap):.0%} of the prompt's effect"
        assert told in found.conclusion
        start = "Cannot tell whether" if found.turned else "No evidence that"
        way = found.undecided or "more"
        assert found.conclusion.startswith(f"{start} shared tokens carry {way} than their share")
        assert ("which could turn the verdict" in found.conclusion) == found.turned
        assert ("put on the set, or off it" in found.conclusion) != found.turned
    assert seen == {True, False}


def test_poor_agreement_with_exact_values_stands_in_the_conclusion():
    scores = synthetic.confirmed(synthetic.attribution(), poor=True)
    assert "AGREEMENT WITH EXACT VALUES IS POOR" in concentration(scores).conclusion
    assert "POOR" not in concentration(synthetic.attribution()).conclusion


def test_the_exact_check_of_a_part_names_the_part():
    scores = synthetic.attribution([synthetic.chat(synthetic.QUESTION[:n]) for n in range(2, 8)])
    shared = np.isin(scores.positions("sharing"), SHARED)
    assert concentration(scores).exact_check.endswith(
        "sufficiency and necessity of 'shared' in sm.graft(pair, prompts, trait, sets='sharing')."
    )
    assert concentration(scores.sel(layer=[0, 1, 2])).exact_check.endswith(
        "sets={'chosen': sm.masks.sharing('shared') & sm.masks.layers(range(0, 3))})."
    )
    assert concentration(scores, on=shared).exact_check.endswith(
        "sets={'chosen': tokens}), where tokens is a mask of the same tokens."
    )
    # what lies outside the blocks is no layer of masks
    outside = concentration(scores.sel(layer=[-1, 0, 4]))
    assert outside.mask == (
        "(sm.masks.layers([0]) | sm.masks.modules('embed', 'ln_final', 'unembed'))"
    )
    assert concentration(scores.sel(module="attn.q", layer=3)).mask == (
        "sm.masks.modules('attn.q') & sm.masks.layers([3])"
    )
    # by its mask, for sets='role' is refused of raw text
    assert concentration(scores, on="system").exact_check.endswith(
        "of 'system' in sm.graft(pair, prompts, trait, sets={'system': sm.masks.role('system')})."
    )


def test_what_the_controls_lost_is_of_the_effect_that_shares_are_of():
    """4 of 5 nats on the prompt; the answer's own tokens have 5 more, all of them the student's."""
    scores = synthetic.attribution(synthetic.several(8))
    effect, cell = scores.data["effect"], {"layer": 1, "module": 1}
    values = xr.zeros_like(effect).where(effect.notnull())
    in_prompt, in_answer = scores.of_prompt.values, scores.of_answer.values
    own = in_prompt / in_prompt.sum(1, keepdims=True) + 5 * in_answer / in_answer.sum(1)[:, None]
    values[{"model": 0, **cell}] = own
    values[{"model": slice(1, None), **cell}] = -4 * in_prompt / in_prompt.sum(1, keepdims=True)
    data = scores.data.assign(effect=values)
    moved = values.sum(["layer", "module", "position"]) + np.linspace(-0.01, 0.01, 8)
    data["student"] = data["base"] + moved.transpose(*data["student"].dims)
    scores = dataclasses.replace(scores, data=data)
    line = "4.00 of 5.00 nats on the prompt's tokens (80%) are the controls' fall"
    assert line in concentration(scores).conclusion
    assert line in repr(scores)


# ---------------------------------------------------------------- gaps that cancel in the headline


def with_control(values, control, gap, of_control):
    """Attribution of a student and a control, whose cells miss so much of each one's effect."""
    rows = [synthetic.chat(synthetic.QUESTION[: 4 + i % 6]) for i in range(12)]
    labels = synthetic.coordinates(rows)
    role, shared = labels["role"][1], np.isin(labels["sharing"][1], SHARED)
    there = (role != "") & (role != "answer")
    effect = np.stack([np.where(there, one(shared), 0.0) for one in (values, control)])
    total = effect.sum(2)
    effect = np.where(role == "", np.nan, effect)
    return synthetic.scores_of(
        "attribution",
        ("layer", "module", "position"),
        effect[:, :, None, None, :],
        labels | {"layer": [0], "module": ["attn.q"]},
        total=total + np.array([[gap], [of_control]]),
        n_layers=1,
    )


def test_gaps_that_cancel_may_be_in_different_places():
    """The headline misses nothing, its student and its control 2 nats each: on the set and off."""
    find = {"values": lambda shared: 0.1 * shared, "control": lambda shared: 0.0 * shared - 0.01}
    exact = concentration(with_control(**find, gap=0.0, of_control=0.0))
    assert exact.direction == "more"
    assert "which cancel" not in repr(exact)
    found = concentration(with_control(**find, gap=2.0, of_control=2.0))
    assert found.missing == pytest.approx(0)
    assert found.gaps == pytest.approx(4)
    assert (found.turned, found.direction) == (True, "")
    way = found.undecided
    assert found.conclusion.startswith(f"Cannot tell whether shared tokens carry {way}")
    assert "nats; what student and controls miss apart could turn the verdict" in found.conclusion
    part = f"{4 / found.effect:.1%}"
    told = f"the student's and the controls', which cancel in it, come to 4.000 nats, {part}"
    assert told in found.conclusion
    assert repr(found).count(told) == 2
    # gaps that add up are in the headline's already
    added = concentration(with_control(**find, gap=1.0, of_control=-1.0))
    assert added.gaps == pytest.approx(added.missing) == pytest.approx(2)
    assert "which cancel" not in repr(added)


def test_gaps_that_cancel_turn_a_verdict_exactly_where_effects_that_fill_them_do():
    """A student's gap laid on the set, its control's off it, by hand, and the other way."""
    seen = set()
    for gap in (0.02, 0.2, 0.5):
        for more in (0.02, 0.1):
            find = {
                "values": lambda shared, more=more: 0.1 + more * shared,
                "control": lambda shared: -0.01 + 0.0 * shared,
            }
            scores = with_control(**find, gap=gap, of_control=gap)
            found, plain = (
                concentration(scores),
                concentration(with_control(**find, gap=0, of_control=0)),
            )
            filled = []
            shared = np.isin(scores.positions("sharing"), SHARED)
            rest = scores.of_prompt.values & ~shared
            for sets in ((shared, rest), (rest, shared)):
                data = scores.data.copy(deep=True)
                for m, tokens in enumerate(sets):
                    added = gap * tokens / tokens.sum(1, keepdims=True)
                    data["effect"].values[m, :, 0, 0] += added
                filled.append(concentration(dataclasses.replace(scores, data=data)).direction)
            turned = any(direction != plain.direction for direction in filled)
            assert found.turned == turned
            seen.add(turned)
    assert seen == {True, False}


def test_what_the_controls_lost_is_not_told_of_cells_that_miss_it():
    """Its cells have all of the headline; the control itself fell by a third of it."""
    find = {"values": lambda shared: 0.0 * shared, "control": lambda shared: 0.0 * shared - 0.2}
    whole = with_control(**find, gap=0.0, of_control=0.0)
    fall = -float((whole.data["student"] - whole.data["base"])[1].mean())
    assert "the prompt's tokens (100%) are the controls' fall" in concentration(whole).controls
    found = with_control(**find, gap=fall * 0.6, of_control=fall * 0.6)
    told = f"{fall * 0.4:.2f} of {fall:.2f} nats on all tokens (40%) are the controls' fall"
    assert told in concentration(found).controls
    assert told in repr(found)
    # which the shares beside it are not of
    of_shares = ": shares, which are of the effect on the prompt's tokens, hold that too (100%)"
    assert f"{told}{of_shares}; see sel(" in concentration(found).controls
    short = next(limit.short for limit in limits(found) if limit.kind == "gap")
    assert short == "completeness gap 0.00%, of single models up to 150.00%"


def test_cells_of_a_student_that_changes_nothing_there_are_refused_and_told():
    """A layer that the control alone changes."""
    scores = synthetic.attribution(synthetic.several(6))
    effect = scores.data["effect"].copy()
    effect[{"model": 0, "layer": 2}] *= 0
    scores = dataclasses.replace(scores, data=scores.data.assign(effect=effect))
    there, other = (scores.sel(model="student").sel(layer=[at]) for at in (1, 2))
    told = "student changes nothing in layer 1: every effect there is exactly 0"
    with pytest.raises(ValueError, match=f"hold no effect: {told}; select other cells"):
        concentration(there)
    assert told in there.notes()
    assert told in repr(there)
    drawn = there.plot(by="role").figure.findobj(lambda part: hasattr(part, "get_text"))
    assert any(told in " ".join(text.get_text().split()) for text in drawn)
    for changed in (other, scores.sel(layer=[1]), scores.sel(model="student")):
        concentration(changed)
        assert "changes nothing" not in repr(changed)
