"""Of several steps what limits a single one is said too: one line, which names the steps."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import synthetic

from sublim_mech.results.limits import limits
from sublim_mech.results.plots import plot

STEPS = (5, 10, 20, 40, 80, 160)
MAKE = {
    "effect": synthetic.effect,
    "graft": synthetic.graft,
    "attribution": lambda seed=0: synthetic.attribution(
        synthetic.several(6), layers=2, controls=1, seed=seed
    ),
    "sweep": lambda seed=0: synthetic.sweep(synthetic.several(6), layers=2, seed=seed),
    "dose": synthetic.dose,
}
PER_STEP = ("noise", "controls", "ceiling", "sign")


def trained(kind):
    """A student that first does nothing, then falls, then rises to its ceiling while its controls
    fall.
    """
    scores = synthetic.stepped(MAKE[kind], STEPS)
    data = scores.data.copy(deep=True)
    prompts = data.sizes["prompt"]
    noise = np.where(np.arange(prompts) % 2, 0.01, -0.01) * (1 if prompts % 2 == 0 else 0)
    student = np.array([-6, -8, -5, -3, -0.01, -0.01])
    controls = np.array([-6, -6, -6, -7, -9, -12])
    levels = np.stack([student, *[controls] * (data.sizes["model"] - 1)])  # (model, step)
    values = levels[:, None] + noise[:, None]
    dims = data["student"].dims
    data["student"] = (("model", "prompt", "step"), values)
    data["student"] = data["student"].transpose(*dims)
    if kind == "dose":  # a dose of 1 is the student
        whole = data["student"] - data["base"]
        data["effect"] = (whole * data["scale"]).transpose(*data["effect"].dims)
    return synthetic.filled(replace(scores, data=data))


def named(line, scored=STEPS):
    """The steps that a line names."""
    told = re.search(r"at (?:all steps|steps? ([\d, to]+))", line)
    assert told, line
    if told[1] is None:
        return set(scored)
    steps = set()
    for part in told[1].strip().split(", "):
        first, _, last = part.partition(" to ")
        steps |= {step for step in scored if int(first) <= step <= int(last or first)}
    return steps


@pytest.mark.parametrize("kind", MAKE)
def test_the_steps_named_are_those_whose_own_scores_say_it(kind):
    scores = trained(kind)
    alone = {step: limits(scores.sel(step=step)) for step in STEPS}
    together = limits(scores)
    for what in PER_STEP:
        expected = {step for step, told in alone.items() if what in {one.kind for one in told}}
        lines = [limit for limit in together if limit.kind == what]
        assert set().union(*(named(limit.text) for limit in lines)) == expected, what
        assert all(named(limit.short) == named(limit.text) for limit in lines)
        assert len(lines) <= (2 if kind == "dose" else 1), what
    assert {limit.kind for limit in together} >= {"noise", "controls", "ceiling"}


def test_what_is_said_of_a_step_alone_bears_its_numbers_and_of_several_their_bound():
    scores = trained("graft")
    table = repr(scores)
    # the table is in nats
    assert "shares" not in table
    assert "at step 5: the total effect is inside its own noise\n" in table
    assert "at step 10: the total effect is negative: -2.00 nats\n" in table
    assert (
        "at steps 80, 160: more than 25% of the headline are the controls' fall; see "
        "sel(model='student')" in table
    )
    assert "at steps 80, 160: student: log P(owl) is at its ceiling of 0: a part of" in table
    assert "\n".join(scores.notes()).count("at steps 80, 160") == 2
    of_one = scores.sel(step=[40])
    assert "at step 40" not in repr(scores.sel(step=40))
    assert "at all steps" not in repr(of_one)


def test_long_runs_of_steps_are_told_by_their_ends():
    scores = trained("effect")
    data = scores.data.copy(deep=True)
    data["student"].loc[{"model": "student", "step": [10, 20, 40, 160]}] = -0.01
    told = repr(replace(scores, data=data))
    assert "at steps 10 to 160: student: log P(owl) is at its ceiling" in told
    data["student"].loc[{"model": "student", "step": 5}] = -0.01
    told = repr(replace(scores, data=data))
    assert "at all steps: student: log P(owl) is at its ceiling" in told


@pytest.mark.parametrize("kind", ["graft", "attribution"])
def test_pictures_over_steps_say_it_too(kind):
    axes = plot(trained(kind))
    words = " ".join(" ".join(text.get_text() for text in axes.texts).split())
    assert "at steps 80, 160: more than 25% of the headline are the controls' fall" in words
    assert words.count("at its ceiling of 0") == 1


def test_an_attribution_of_several_steps_says_at_which_the_total_is_noise():
    """What stands in its table: the total, not the effect on the prompt's tokens."""
    scores = synthetic.stepped(MAKE["attribution"], STEPS[:3])
    data = scores.data.copy(deep=True)
    sign = np.where(np.arange(data.sizes["prompt"]) % 2, 1.0, -1.0)
    real = data["effect"].sel(step=10).notnull()
    effect = data["effect"].transpose("step", "prompt", ...)
    tokens = real.sum(["layer", "module", "position"])
    noisy = (effect.sel(step=10) * 0 + 1) * (sign[:, None] / tokens.transpose("prompt", ...))
    data["effect"].loc[{"step": 10}] = noisy.transpose(*data["effect"].sel(step=10).dims)
    level = data["base"] + sign[:, None].T
    data["student"].loc[{"step": 10}] = level.transpose(*data["base"].dims).values
    scores = replace(scores, data=data)
    assert "at step 10: the total effect is inside its own noise\n" in repr(scores)
    told = "no shares: the effect on the prompt's tokens, all cells, is inside its own noise"
    assert told in repr(scores.sel(step=10))
