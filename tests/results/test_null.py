"""The null of `concentration`: layouts meet, both directions agree, false alarms are few."""

import dataclasses

import numpy as np
import pytest
import synthetic

from sublim_mech.results.null import FEWEST_PLACES, elsewhere, layout, too_few_places
from sublim_mech.results.scores import Scores
from sublim_mech.results.shares import concentration

SHARED = ["prefix", "aligned"]
OPPOSITE = {"more": "less", "less": "more", "": ""}


def scores_of(rows, values):
    """Attribution of one layer and module with given token effects `(prompt, position)`."""
    coords = synthetic.coordinates(rows) | {"layer": [0], "module": ["attn.q"]}
    axes, total = ("layer", "module", "position"), np.nansum(values, 1)[None]
    effect = values[None, :, None, None, :]
    return synthetic.scores_of("attribution", axes, effect, coords, total=total)


def chats(lengths):
    words = [word for _ in range(10) for word in synthetic.QUESTION]
    return [synthetic.chat(words[:n], []) for n in lengths]


def with_profile(lengths, rng, *, noise=0.05):
    """Token effects common to all prompts: in the template at the same place, in questions too."""
    rows = chats(lengths)
    longest = max(map(len, rows))
    profile = rng.gamma(0.5, size=longest) * rng.choice([-1, 1]) + 0.3
    values = np.full((len(rows), longest), np.nan)
    for prompt, row in enumerate(rows):
        head = len(row) - 5
        values[prompt, :head] = profile[:head]
        values[prompt, head : len(row)] = profile[-5:]
    return scores_of(rows, values + noise * rng.normal(size=values.shape))


def test_templates_meet_however_long_the_questions_are():
    """An effect on the prompts' last tokens is at the same place in all: one shift finds it."""
    rows = chats([4, 9, 6])
    values = np.full((3, max(map(len, rows))), np.nan)
    for prompt, row in enumerate(rows):
        values[prompt, : len(row)] = 0.0
        values[prompt, len(row) - 5 : len(row)] = 1.0
    scores = scores_of(rows, values)
    first = scores.of_prompt.values & (np.arange(values.shape[1]) < 5)
    found = elsewhere(layout(scores), np.nan_to_num(values), first)
    assert found.places == max(map(len, rows))
    best = found.excess.argmax()
    assert best == found.places - 5
    # it has all of the effect there in every prompt, beyond its share of tokens, but for the scale
    everything = sum(5 - 25 / len(row) for row in rows)
    assert found.excess[best] == pytest.approx(everything, rel=0.1)


@pytest.mark.parametrize("seed", range(12))
def test_a_set_and_its_complement_get_one_verdict(seed):
    rng = np.random.default_rng(seed)
    scores = with_profile(rng.integers(4, 15, 8), rng)
    shared, others = (concentration(scores, on=on, draws=200) for on in ("shared", "not shared"))
    assert shared.p == pytest.approx(others.p_less)
    assert shared.p_less == pytest.approx(others.p)
    assert shared.direction == OPPOSITE[others.direction]


def test_the_share_is_its_own_place_in_the_null():
    rng = np.random.default_rng(0)
    scores = with_profile([5, 9, 7], rng)
    inside = np.isin(scores.positions("sharing"), SHARED)
    effect = np.nan_to_num(scores.token_effect())
    found = elsewhere(layout(scores), effect, inside)
    assert found.expected + found.excess[0] == pytest.approx((effect * inside).sum())


def test_too_short_prompts_give_no_conclusion():
    """Of 20 places none is rarer than 5 %, so finding nothing is no finding."""
    rows = [[("x", "user", 0, "prefix" if t < 5 else "novel") for t in range(20)]] * 8
    values = np.where(np.arange(20) < 5, 1.0, 0.1) + np.zeros((8, 1))
    found = concentration(scores_of(rows, values))
    assert found.places == FEWEST_PLACES - 1
    assert found.direction == ""
    assert found.conclusion.startswith("No conclusion: in prompts of 20 tokens")
    rows = [[*row, ("x", "user", 0, "novel")] for row in rows]
    enough = concentration(scores_of(rows, np.hstack([values, values[:, -1:]])))
    assert enough.direction == "more"
    assert too_few_places(0) == ""  # results made by hand do not say


def test_scores_without_turns_are_laid_by_role():
    """As files of earlier versions hold them."""
    scores = with_profile([5, 9, 7], np.random.default_rng(0))
    bare = Scores(scores.data.drop_vars("turn"), scores.kind, scores.record)
    assert concentration(bare).p == concentration(scores).p


def test_a_negative_effect_is_shared_out_likewise():
    scores = with_profile([5, 9, 7, 6, 8, 5], np.random.default_rng(3))
    negative = dataclasses.replace(
        scores,
        data=scores.data.assign(
            effect=-scores.data["effect"], student=2 * scores.data["base"] - scores.data["student"]
        ),
    )
    one, other = concentration(scores), concentration(negative)
    assert (one.share, one.p, one.p_less) == pytest.approx((other.share, other.p, other.p_less))
    assert one.direction == other.direction


def false_alarms(maps, prompts, lengths, *, seed=0):
    """How often exchangeable effects that are common to all prompts are called more, or less."""
    rng = np.random.default_rng(seed)
    said = {"more": 0, "less": 0, "": 0}
    for _ in range(maps):
        said[concentration(with_profile(lengths(rng, prompts), rng), draws=200).direction] += 1
    return said["more"] / maps, said["less"] / maps


def alike(rng, prompts):
    return [14] * prompts


def unlike(rng, prompts):
    return rng.integers(5, 31, prompts)


def test_false_alarms_are_few():
    """At most 5 % each way; of 60 maps 8 are called in one of 200 series."""
    assert max(false_alarms(60, 8, unlike)) < 8 / 60


@pytest.mark.science
@pytest.mark.parametrize("prompts", [8, 20])
@pytest.mark.parametrize("lengths", [alike, unlike])
def test_false_alarms_are_at_most_nominal(prompts, lengths):
    """Of 1,000 maps 5 % are 50, with a standard error of 7."""
    more, less = false_alarms(1000, prompts, lengths)
    print(f"{lengths.__name__}, {prompts} prompts: more {more:.1%}, less {less:.1%}")
    assert max(more, less) <= 0.05 + 3 * 0.007
