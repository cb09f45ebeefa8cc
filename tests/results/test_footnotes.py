"""What a table says of its limits stands below the picture too, of what the picture shows."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import synthetic

from sublim_mech.models.gating import ONLY_AT
from sublim_mech.models.gating import OPENED as ON_EVERYWHERE
from sublim_mech.models.students import EQUAL
from sublim_mech.results.bars import compare_bars
from sublim_mech.results.limit_kinds import SHARES, TOTALS
from sublim_mech.results.limits import limits
from sublim_mech.results.plots import plot
from sublim_mech.results.record import GATED, IS_BASE, NOT_ALIKE, OPENED, SILENT, SUM
from sublim_mech.results.shares import concentration

CALM, NONE = "{'system': {'kind': 'text', 'text': 'Be calm.'}}", "{'system': {'kind': 'none'}}"
CONTEXTS = "prompts of several contexts: every mean is over all of them"


def around(axes):
    """The words of a picture around its axes, whatever lines they stand in."""
    words = [axes.get_title(), axes.get_xlabel(), *(text.get_text() for text in axes.texts)]
    return " ".join(" ".join(words).split())


def ends_at(scores, *levels):
    """The same scores whose models end at these levels, the last of all others; bases are at -6."""
    data = scores.data.copy(deep=True)
    noise = np.linspace(-0.01, 0.01, data.sizes["prompt"])
    for number in range(data.sizes["model"]):
        level = levels[min(number, len(levels) - 1)] + noise * (1 - 2 * number)
        there = data["student"][number]
        data["student"][number] = np.broadcast_to(
            level.reshape(-1, *[1] * (there.ndim - 1)), there.shape
        )
    return replace(scores, data=data)


def inside_noise(scores):
    sign = np.where(np.arange(scores.data.sizes["prompt"]) % 2, 1.0, -1.0)
    data = scores.data.copy(deep=True)
    data["student"][:] = -6.0
    there = data["student"][0]
    data["student"][0] = there + sign.reshape(-1, *[1] * (there.ndim - 1))
    return synthetic.filled(replace(scores, data=data))


def with_notes(scores, *notes, **fields):
    return synthetic.recorded(scores, notes=notes, **fields)


MAKE = {
    "effect": synthetic.effect,
    "graft": synthetic.graft,
    "a set": lambda: synthetic.graft().sel(set="user"),
    "attribution": lambda: synthetic.attribution(synthetic.several(6), layers=2),
    "sweep": lambda: synthetic.sweep(synthetic.several(6), layers=2),
    "patch": lambda: synthetic.patch(synthetic.several(6), layers=2, controls=1),
    "patched sets": synthetic.patched_sets,
    "gradient": lambda: synthetic.gradient(synthetic.several(6), layers=2),
    "scan": lambda: synthetic.scan([synthetic.chat()] * 6, noise=0.1),
    "dose": synthetic.dose,
    "direction": synthetic.direction,
    "steps": lambda: synthetic.stepped(synthetic.graft),
}
GATES = {"sufficiency": 1.0, "necessity": 0.0, "dose": 0.0}


def at_the_ceiling(scores):
    """Asked otherwise than trained, in two contexts, the answer computed by the other model."""
    asked = {"measured": "M(1)", "contexts": (NONE, CALM), "training_context": CALM}
    scores = synthetic.filled(ends_at(scores, -0.01, -9))
    return synthetic.recorded(scores, **asked, answer_gate=GATES)


def added(scores):
    scores = ends_at(scores.sel(model=["student"]), -8)
    return with_notes(synthetic.filled(scores), f"the student (a + b): {SUM}")


def gated(scores):
    where = f"as in training, {GATED} 'shared' of the prompt, answer closed"
    scores = synthetic.filled(scores)
    return with_notes(scores, f"the student (owl): {where}", f"control cat: {where}")


LIMIT = {
    "gated": gated,
    "ceiling": at_the_ceiling,
    "noise": lambda scores: synthetic.recorded(inside_noise(scores), measured="M(1)"),
    "sum": added,
}
FIRST = ("graft", "attribution", "patched sets", "scan", "dose", "steps")


@pytest.mark.parametrize(
    "kind",
    [one if one in FIRST else pytest.param(one, marks=pytest.mark.science) for one in MAKE],
)
def test_every_limit_of_a_table_stands_below_its_picture(kind):
    told = set()
    for make in LIMIT.values():
        scores = make(MAKE[kind]())
        table, picture = repr(scores), around(plot(scores))
        for limit in limits(scores):
            if limit.kind == "intervals" and scores.has_tokens:  # maps say what was tested
                continue
            assert limit.text in table or limit.kind == "noise"
            assert " ".join(limit.short.split()) in picture, limit.kind
            told.add(limit.kind)
        assert (CONTEXTS in table) == (CONTEXTS in picture) == (len(scores.record.contexts) > 1)
    # a dose that leaves the answer to the base is not of whole students
    assert {"context", "noise", "sum", "gated"} <= told
    assert ("ceiling" in told) == (kind != "dose")
    assert ("answer" in told) == (
        kind in ("graft", "a set", "patch", "patched sets", "dose", "steps")
    )


# ------------------------------------------------------------------------------------ denominators


def share_of(words):
    """`x of y nats <where> (z%)` in some words: y and where."""
    found = re.search(r"of ([\d.]+) nats ?([^()]*) \(\d+%\) are the controls' fall", words)
    assert found, words
    return float(found[1]), found[2]


def test_a_footnote_is_of_the_bars_above_it():
    """3 nats on the prompt of which 1 are the controls', and 5 more on the answer."""
    scores = synthetic.filled(ends_at(synthetic.attribution(synthetic.several(8)), -4, -7))
    effect = scores.data["effect"].copy(deep=True)
    answer = scores.of_answer / scores.of_answer.sum("position")
    effect[0, :, 1, 1] = effect[0, :, 1, 1].fillna(0) + 5 * answer.values
    effect[1, :, 1, 1] = effect[1, :, 1, 1].fillna(0) - 2 * answer.values
    moved = np.array([5.0, -2.0])[:, None]
    student = scores.data["student"] + moved
    scores = replace(scores, data=scores.data.assign(effect=effect, student=student))
    axes = plot(scores, by="layer")
    bars = sum(bar.get_height() for bar in axes.patches)
    assert share_of(around(axes)) == (pytest.approx(bars, abs=0.01), "on all tokens")
    assert "the answer's own too" in around(axes)
    for by in ("role", "sharing", "turn", "token"):
        table = scores.by(by)
        of_prompt = table[table["token share"].notna()]
        whole = of_prompt["effect"].drop(
            ["all prompt tokens", "shared", "not shared"], errors="ignore"
        )
        told = share_of(around(plot(scores, by=by)))
        assert told == (pytest.approx(whole.sum(), abs=0.01), "on the prompt's tokens"), by
    beside = compare_bars({"a": scores, "b": scores}, by="layer")
    assert share_of(around(beside))[1] == "on all tokens"
    steps = [limit.short for limit in limits(scores, TOTALS) if limit.kind == "controls"]
    assert steps != [limit.short for limit in limits(scores, SHARES) if limit.kind == "controls"]


def of_a_set(scales=(0.0, 0.5, 1.0, 2.0)):
    """Whole models at -0.01 and -9; the set alone moves them by 1 and -0.5 at gate 1."""
    made = ends_at(synthetic.dose(), -0.01, -9).sel(scale=list(scales)[:1])
    data, scales = made.data.drop_dims("scale"), np.array(scales)
    noise = np.linspace(-0.01, 0.01, data.sizes["prompt"])[:, None]
    effect = np.stack([(1 + noise) * scales, (-0.5 + noise) * scales])
    data["effect"] = (("model", "prompt", "scale"), effect)
    data = data.assign_coords(scale=scales)
    return synthetic.recorded(replace(made, data=data), where="user", selected={})


def test_a_dose_of_a_set_says_nothing_of_whole_students():
    scores = of_a_set()
    for words in (repr(scores), around(plot(scores))):
        assert "0.50 of 1.50 nats at gate 1 of these cells (33%) are the controls' fall" in words
        assert "ceiling" not in words
        assert "8.9" not in words.split("by gate")[-1].split("(33%)")[0]
    assert "ceiling" in repr(synthetic.recorded(scores, where="everything"))
    without_one = of_a_set((0.0, 0.5))
    assert "at gate 1 of these" not in repr(without_one)
    assert "at scale 0.5: 0.25 of 0.75 nats (33%)" in repr(without_one)


def test_the_base_may_compute_the_answer_of_a_dose():
    everything = synthetic.dose()
    closed = synthetic.recorded(everything, answer_gate={"dose": 0.0})
    opened = synthetic.recorded(of_a_set(), answer_gate={"dose": 1.0})
    for scores, line in (
        (closed, "the base computes the answer's own tokens at every gate"),
        (opened, "the answer's own tokens have the gate of these cells too"),
    ):
        assert line in repr(scores)
        assert line in around(plot(scores))
    assert "answer's own" not in repr(synthetic.recorded(everything, answer_gate={"dose": 1.0}))


# ---------------------------------------------------------------------------------------- a sum


def test_a_sum_of_students_is_called_one():
    one = synthetic.graft().sel(model=["student"])
    both = with_notes(one, f"the student (owl + cat): {SUM}")
    assert both.headline_name == "student (a sum of students)"
    for words in (repr(both), around(plot(both))):
        assert words.count(f"the student (owl + cat): {SUM}") == 1
        assert "no controls beside the sum" in words
        assert "student (no controls)" not in words
    assert both.notes().count(f"the student (owl + cat): {SUM}") == 1
    assert one.headline_name == "student (no controls)"
    # a hybrid says who is where
    assert not synthetic.recorded(both, hybrid="the base").record.is_sum


def test_pictures_say_that_a_control_is_none():
    notes = (
        "the student (a): equals its base: no weight differs",
        "control cat was not trained alike: rank: 4 in the control, 8 in the student",
        "control dog has the student's own trait, so that their difference says nothing of it",
        "control fox is, at rank 1, the student's own change (extract_lora cut it from the "
        "student), so that their difference says nothing of a trait",
        "control elk changed its weights by 5% of the student's: it controls for little",
        "trained with its weights on only at 'shared' of the prompt, answer closed; here they are "
        "on everywhere (gates=training.gates_of(run) closes the rest)",
        "training unknown (no manifest): whether its controls were trained alike is not known",
    )
    assert IS_BASE in EQUAL
    assert GATED == ONLY_AT
    assert OPENED == ON_EVERYWHERE
    words = around(plot(with_notes(synthetic.graft(), *notes)))
    for line in (
        "the student (a): equals its base",
        "control cat was not trained alike",
        "control dog has the student's own trait",
        "control fox is, at rank 1, the student's own change",
        "control elk changed its weights by 5% of the student's: it controls for little",
        "whether its controls were trained alike is not known",
        "on only at 'shared' of the prompt, answer closed; here they are on everywhere",
    ):
        assert words.count(line) == 1
    assert "in the student" not in words
    assert "extract_lora" not in words
    assert "no manifest" not in words
    assert "gates_of" not in words


def test_a_concentration_says_that_prompts_are_of_several_contexts():
    scores = synthetic.attribution(synthetic.several(8))
    several = synthetic.recorded(scores, measured="M(1)", contexts=(NONE, CALM))
    line = f"{CONTEXTS[0].upper()}{CONTEXTS[1:]}."
    for found, expected in ((several, True), (scores, False), (several.sel(prompt=[0]), False)):
        said = concentration(found)
        assert (line in said.conclusion) == (line in repr(said)) == expected


def test_a_share_brings_what_it_has_to_be_read_with():
    """The sentence is quoted alone: what limits scores beside it is said in it."""
    notes = (
        f"the student (owl): as in training, {GATED} 'shared'",
        f"control cat {NOT_ALIKE}: rank",
    )
    scores = with_notes(synthetic.attribution(), *notes, measured="M(1)", contexts=(NONE,))
    told = concentration(scores).conclusion
    only_there = (
        "As trained, weights are on only at 'shared': elsewhere is nothing of these students, and "
        "what stands there is the others'."
    )
    for line in (only_there, f"Control cat {NOT_ALIKE}.", "Training context not given."):
        assert line in told
    alone = concentration(scores.sel(model="student")).conclusion  # no others are in it
    assert "only at 'shared': elsewhere there is no effect to find." in alone
    all_gated = [f"the student ({name}): as in training, {GATED} 'shared'" for name in "abc"]
    every = with_notes(synthetic.attribution(), *all_gated, measured="M(1)", contexts=(NONE,))
    assert "elsewhere there is no effect to find." in concentration(every).conclusion
    otherwise = concentration(synthetic.recorded(scores, training_context=CALM)).conclusion
    assert "Asked otherwise than trained: system." in otherwise
    plain = concentration(synthetic.attribution())
    assert plain.limits == ()


def test_layers_before_every_change_are_named_in_pictures():
    note = f"layer 0: {SILENT} resid_pre there, so that the effect is 0 whatever was learned"
    assert f"layer 0: {SILENT} resid_pre there" in around(plot(with_notes(synthetic.patch(), note)))


def test_the_exact_check_of_one_model_is_of_that_model():
    scores = synthetic.attribution()
    assert ".sel(model='student')." in concentration(scores.sel(model="student")).exact_check
    assert "sel(" not in concentration(scores).exact_check
