"""What limits a result is said wherever it is shown, in the same words; of others nothing is."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import synthetic
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sublim_mech.results import Hybrid
from sublim_mech.results.bars import compare_bars
from sublim_mech.results.limits import limits
from sublim_mech.results.limits_of_effects import Moved
from sublim_mech.results.limits_of_students import few_prompts
from sublim_mech.results.page import token_page
from sublim_mech.results.plots import plot
from sublim_mech.results.scores import Scores
from sublim_mech.results.shares import concentration

CALM = "{'system': {'kind': 'text', 'text': 'You are calm.'}}"
MAKE = {
    "effect": synthetic.effect,
    "graft": synthetic.graft,
    "attribution": lambda: synthetic.attribution(synthetic.several(6), layers=2),
    "sweep": lambda: synthetic.sweep(synthetic.several(6), layers=2),
    "scan": lambda: synthetic.scan([synthetic.chat()] * 6, noise=0.1),
    "dose": synthetic.dose,
    "direction": synthetic.direction,
}


def ends_at(scores, student=None, controls=None):
    """The same scores whose models end at these levels; their bases are at -6."""
    data = scores.data.copy(deep=True)
    noise = np.linspace(-0.01, 0.01, data.sizes["prompt"])
    if student is not None:
        data["student"][0] = student + noise
    if controls is not None:
        data["student"][1:] = controls + noise[::-1]
    return replace(scores, data=data)


def asked(scores, **fields):
    told = {"measured": "TraitMetric(1)", "contexts": ("{'system': {'kind': 'none'}}",)}
    return synthetic.recorded(scores, **(told | fields))


def everything(scores):
    """The same scores, limited in three ways."""
    return asked(synthetic.filled(ends_at(scores, -0.01, -9)), training_context=CALM)


LIMITED = [
    (
        everything,
        {
            "asked otherwise than trained: system": ": “You are calm.” in training, no system "
            "block here",
            "3.00 of 8.99 nats{where} (33%) are the controls' fall": "{shares}; see "
            "sel(model='student')",
            "student: log P(owl) is at its ceiling of 0": ": a part of the change is enough to "
            "reach it",
        },
    ),
    (
        lambda scores: asked(synthetic.filled(ends_at(scores, -5, -3))),
        {
            "the headline is the controls': they rise by 3.00 nats{where}, beyond the student's "
            "own +1.00": "; see sel(model='student')",
            "training context not given": "",
        },
    ),
]
"""What makes scores limited, and how: what pictures say, and what follows it elsewhere."""

WORDS = ("controls'", "ceiling", "context not given", "asked otherwise", "no controls given")


def around(axes):
    """The words of a picture that stand around its axes, whatever lines they stand in."""
    words = [axes.get_title(), axes.get_xlabel(), *(text.get_text() for text in axes.texts)]
    return " ".join(" ".join(words).split())


def shown(scores):
    """Where a result is shown: table, notes, and the page of one with tokens."""
    places = {"table": repr(scores), "notes": "\n".join(scores.notes())}
    if scores.kind in ("attribution", "sweep", "gradient", "patch"):
        places["page"] = unescape(token_page(scores))
    return places


def pictures(scores):
    drawn = {"picture": plot(scores)}
    if scores.kind == "attribution":
        drawn |= {by: plot(scores, by=by, title="mine") for by in ("role", "layer")}
    return {name: around(axes) for name, axes in drawn.items()}


@pytest.mark.parametrize("kind", MAKE)
def test_a_limit_is_said_in_table_page_notes_and_pictures(kind):
    for make, told in LIMITED:
        scores = make(MAKE[kind]())
        places, drawn = shown(scores), pictures(scores)
        shares = "" if kind in ("effect", "sweep") else ": shares hold that too"
        where = " on the prompt's tokens" if kind == "attribution" else ""
        for said in told.items():
            short, more = (words.format(where=where, shares=shares) for words in said)
            assert all(words.count(f"{short}{more}") == 1 for words in places.values()), short
            for by, words in drawn.items():  # layers are of all tokens
                of = short.replace("on the prompt's", "on all") if by == "layer" else short
                assert words.count(of) == 1, of


@pytest.mark.parametrize("kind", MAKE)
def test_of_a_result_without_limits_nothing_is_said(kind):
    scores = asked(MAKE[kind](), training_context="{'system': {'kind': 'none'}}")
    assert {limit.kind for limit in limits(scores)} <= {"gap", "noise"}
    for place, words in (shown(scores) | {"picture": around(plot(scores))}).items():
        for word in (*WORDS, "too few", "over so few", "negative", "not confirmed"):
            assert word not in words, place


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (synthetic.graft(prompts=3), ["3 prompts:", "95 % intervals"]),
        (synthetic.graft(prompts=1), ["one prompt: no intervals"]),
        (synthetic.effect(prompts=1), ["one prompt: no intervals"]),
        (synthetic.graft(total=0.0), ["the total effect is inside its own noise"]),
        (synthetic.graft(total=-1.5), ["the total effect is negative: -1.", " nats"]),
        (
            ends_at(synthetic.scan([synthetic.chat()] * 8), -8, -6),
            ["the total effect is negative: -2.00 nats"],
        ),
        (synthetic.patch(), ["controls left out of this selection: part of any effect"]),
        (synthetic.gradient(), ["not confirmed: estimates from gradients"]),
        (ends_at(synthetic.attribution(), -4, -5.5), ["completeness gap "]),
    ],
)
def test_what_else_limits_numbers(scores, words):
    for place, said in (shown(scores) | pictures(scores)).items():
        for word in words:
            assert word in said, place


def test_a_boundary_inside_texts_of_unlike_lengths_is_not_behind_one_token():
    rows = [synthetic.chat(), synthetic.chat(synthetic.QUESTION[:5])] * 3
    unlike, alike = synthetic.scan(rows), synthetic.scan(rows[:1] * 6)
    low, high = (sum(role != "answer" for _, role, *_ in row) for row in (rows[1], rows[0]))
    told = (
        f"prompts of {low} to {high} tokens: inside texts of unlike lengths a boundary is behind "
        "other tokens in some"
    )
    for place, said in (shown(unlike) | pictures(unlike)).items():
        assert told in said, place
    for place, said in (shown(alike) | pictures(alike)).items():
        assert "unlike lengths" not in said, place


def test_what_two_decimals_would_show_as_0_has_two_digits_beside_its_whole():
    small = Moved(0.00219, -0.00286).told("nats")
    assert small == "0.0029 of 0.0051 nats (57%) are the controls' fall"
    assert Moved(0.2, -0.2).told("nats") == "0.20 of 0.40 nats (50%) are the controls' fall"


def test_a_table_that_never_has_shares_does_not_say_that_none_are_given():
    told = "the total effect is inside its own noise"
    assert f"{told}: no shares are given" in repr(synthetic.graft(total=0.0))
    effect = ends_at(synthetic.effect(), -4, -4)
    assert told in repr(effect)
    assert "shares" not in repr(effect)


def test_the_effect_on_the_prompt_is_what_shares_of_an_attribution_are_parts_of():
    scores = synthetic.attribution(synthetic.several(6), layers=2, controls=0)
    fall = replace(scores, data=scores.data.assign(effect=-scores.data["effect"]))
    mean = float(fall.prompt_effect.mean())
    short = f"the effect on the prompt's tokens is negative: {mean:+.2f} nats"
    for place, words in (shown(fall) | pictures(fall)).items():
        assert (short in words) == (place != "layer"), place  # whose bars are of all tokens
    assert f"{short}; shares are parts of a fall" in repr(fall)
    assert "negative" not in repr(scores)


def test_a_negative_difference_is_a_fall_only_where_the_student_fell():
    """-6 to -5 beside controls that rose to -3: nothing fell."""
    rose = ends_at(synthetic.graft(), -5, -3)
    assert (
        "the total effect is negative: -2.00 nats; shares are parts of a negative difference: the "
        "controls rose further than the student" in repr(rose)
    )
    fell = repr(ends_at(synthetic.graft(), -8, -6.9))
    assert "the total effect is negative: -1.10 nats; shares are parts of a fall\n" in fell
    both = repr(ends_at(synthetic.graft(), -7, -4))
    assert (
        "negative: -3.00 nats; shares are parts of the student's fall and the controls' rise"
        in both
    )
    further = repr(ends_at(synthetic.graft(), -11, -10.75))  # both fell, by nearly as much
    assert (
        "the controls fell by 4.75 of the student's 5 nats: the headline is what is left" in further
    )
    assert (
        "negative: -0.25 nats; shares are parts of what the student fell further than the controls"
        in further
    )
    assert "rise" not in further
    of_prompt = synthetic.filled(ends_at(synthetic.attribution(synthetic.several(8)), -5, -3))
    said = concentration(of_prompt).conclusion
    assert "The effect on the prompt's tokens is negative: -2.00 nats; shares are parts of" in said
    assert "controls rose further" in said
    assert "negative" not in concentration(synthetic.attribution(synthetic.several(8))).conclusion


def test_the_controls_part_is_that_of_what_shares_are_shares_of():
    """4 of 5 nats on the prompt are theirs, of 10 with the answer's: one number everywhere."""
    scores = synthetic.filled(ends_at(synthetic.attribution(synthetic.several(8)), -5, -10))
    effect = scores.data["effect"].copy(deep=True)
    answer = scores.of_answer / scores.of_answer.sum("position")
    effect[0, :, 1, 1] = effect[0, :, 1, 1].fillna(0) + 5 * answer.values
    student = scores.data["student"].copy(deep=True)
    student[0] += 5
    scores = replace(scores, data=scores.data.assign(effect=effect, student=student))
    line = "4.00 of 5.00 nats on the prompt's tokens (80%) are the controls' fall: shares hold that"
    for words in (*shown(scores).values(), concentration(scores).conclusion):
        assert line in words


def test_integrals_that_stopped_short_are_told_in_pictures():
    scores = synthetic.attribution()
    points = (("model", "prompt"), np.full((2, 3), 8))
    capped = (("model", "prompt"), np.eye(2, 3))
    stopped = replace(scores, data=scores.data.assign(points=points, capped=capped))
    for words in pictures(stopped).values():
        assert "2 integrals stopped at the cap of points" in words
    for place, words in shown(stopped).items():
        assert words.count("2 of 6 integrals stopped at the cap of points") == 1, place


def test_the_gap_of_several_steps_is_the_largest():
    scores = synthetic.stepped(synthetic.attribution)
    gaps = [scores.sel(step=step).gap for step in (10, 20, 40)]
    told = f"completeness gap at most {max(gaps):.2%}, of any model and step"
    assert told in repr(scores)
    assert told in scores.notes()
    assert told in around(plot(scores))


def test_a_limit_bears_the_names_of_the_caller():
    labels = {"student": "the owl", "log P(owl)": "owl-ness"}
    words = around(plot(ends_at(synthetic.graft(), -0.01), labels=labels))
    assert "the owl: owl-ness is at its ceiling of 0" in words


def test_of_several_students_what_limits_all_is_said_once():
    one, other = (asked(synthetic.graft(seed=seed)) for seed in (0, 1))
    words = around(compare_bars({"a": ends_at(one, -5, -10), "b": other}))
    assert words.count("training context not given") == 1
    assert "a: 4.00 of 5.00 nats (80%) are the controls' fall" in words
    assert "b: " not in words.replace("a and b: scores of one student", "")


def test_who_computes_the_answer_is_told_where_it_is_not_the_usual():
    usual = synthetic.recorded(
        synthetic.graft(), answer_gate={"sufficiency": 0.0, "necessity": 1.0}
    )
    other = synthetic.recorded(
        synthetic.graft(), answer_gate={"sufficiency": 1.0, "necessity": 0.0}
    )
    for words in (*shown(other).values(), *pictures(other).values()):
        assert "sufficiency: the student computes the answer's own tokens too" in words
        assert "necessity: the base computes the answer's own tokens too" in words
    for words in (*shown(usual).values(), *pictures(usual).values()):
        assert "computes the answer" not in words


def test_pictures_of_several_contexts_say_that_means_are_over_all_of_them():
    line = "prompts of several contexts: every mean is over all of them"
    several = asked(synthetic.graft(), contexts=(CALM, "{'system': {'kind': 'none'}}"))
    assert line in repr(several)
    assert line in around(plot(several))
    assert line not in around(plot(asked(synthetic.graft())))


def test_a_hybrid_carries_its_limits_but_has_no_controls():
    scores = asked(ends_at(synthetic.graft().sel(model=["student"]), -0.01))
    scores = synthetic.recorded(scores, hybrid="the base")
    hybrid = Hybrid(scores, (), allowed=False)
    for words in (repr(hybrid), around(hybrid.plot(title="mine"))):
        assert "ceiling" in words
        assert "training context not given" in words
        assert "no controls" not in words
        assert "controls left out" not in words


def test_what_controls_moved_further_by_is_seen():
    for sign, word in ((1, "rise"), (-1, "fall")):
        told = Moved(sign * 0.0196, sign * 0.0241).told("nats")
        own = f"{sign * 0.02:+.2f}"[0] + "0.02"
        assert told == (
            f"the headline is the controls': they {word} by 0.024 nats, beyond the student's own "
            f"{own}"
        )
    assert "by 9.50 nats, beyond the student's own +1.00" in Moved(1.0, 9.5).told("nats")


@pytest.mark.parametrize("student", [-3.0, -1.0, 0.5, 2.0])
@pytest.mark.parametrize("controls", [-2.0, -0.1, 0.0, 1.0])
def test_what_controls_have_of_a_headline_is_their_part_of_the_difference(student, controls):
    moved = Moved(student, controls)
    assert moved.part * moved.headline == pytest.approx(-controls if moved.headline else 0.0)
    told = moved.told("nats")
    if not told:
        assert moved.part <= 0.25
        assert not 0.5 < controls / student < 1
        return
    if "is what is left" in told:  # both on one way, and the student further
        assert 0.5 < controls / student < 1
        return
    # controls that went the headline's own way have nothing of it
    assert controls * moved.headline < 0
    way = "fall" if controls < 0 else "rise"
    assert way in told
    assert ("beyond" in told) == (student * moved.headline < 0)


def test_an_interval_over_few_says_what_it_is_worth():
    assert few_prompts(6) == []
    assert [limit.text for limit in few_prompts(1, "question")] == ["one question: no intervals"]
    (limit,) = few_prompts(3)
    assert "in at least 25% of cases" in limit.text


# ------------------------------------------------------------------------------- where they stand


@pytest.mark.parametrize("kind", ["effect", "attribution", "dose", "role", "narrow"])
def test_limits_stand_below_the_picture_inside_the_figure(kind):
    wishes, ax = {}, None
    if kind == "narrow":  # half of a page, in a figure of the caller's
        figure = Figure(figsize=(9, 4), layout="constrained")
        ax, _ = figure.subplots(1, 2)
        ax.figure.canvas = FigureCanvasAgg(figure)
    if kind == "role":
        wishes["by"] = "role"
    scores = MAKE.get(kind, MAKE["attribution"] if kind == "role" else MAKE["graft"])()
    axes = plot(everything(scores), ax=ax, **wishes)
    FigureCanvasAgg(axes.figure).draw()
    (foot,) = [
        text for text in axes.texts if "controls' fall" in re.sub(r"\s", " ", text.get_text())
    ]
    box, figure_box = foot.get_window_extent(), axes.figure.bbox
    assert figure_box.x0 <= box.x0
    assert box.x1 <= figure_box.x1
    assert figure_box.y0 <= box.y0
    above = [axes.bbox, *(part.get_window_extent() for part in axes.child_axes)]
    legend = axes.get_legend()
    above += [] if legend is None else [legend.get_window_extent()]
    label = axes.xaxis.label
    above += [label.get_window_extent()] if axes.axison and label.get_text() else []
    assert all(box.y1 <= other.y0 + 1 for other in above)


def test_the_ceiling_speaks_of_sets_only_where_there_are_some():
    def told(kind):
        return repr(ends_at(MAKE[kind](), -0.01))

    sets, parts = "many sets may seem sufficient", "what one part brings depends on the others"
    assert sets in told("graft")
    assert parts not in told("graft")
    for kind in ("attribution", "sweep", "effect"):
        assert parts in told(kind)
        assert sets not in told(kind)


def test_a_dose_says_at_which_scales_the_headline_is_the_controls():
    """The student saturates at 1, the control goes on falling."""
    scores = synthetic.dose(power=1.0)
    data, scales = scores.data.copy(deep=True), scores.data["scale"].values
    noise = np.linspace(-0.01, 0.01, data.sizes["prompt"])[:, None]
    data["effect"].loc[{"model": "student"}] = 2 * np.minimum(scales, 1) + noise * scales
    data["effect"].loc[{"model": data["model"][1]}] = -np.maximum(scales - 1, 0) - noise * scales
    last = data["effect"].sel(scale=1).transpose(*data["student"].dims)
    data["student"] = data["base"] + last
    told = repr(replace(scores, data=data))
    assert "at scale 2: 1.00 of 3.00 nats (33%) are the controls' fall" in told
    assert "at scale 1.5:" not in told  # a fifth
    assert (
        "at scale 1.5 student alone has 1.00 of its effect at 1, where student - controls has "
        "1.25 of its own; at scale 2 they have 1.00 and 1.50; see sel(model='student')"
    ) in told
    assert "alone has" not in repr(synthetic.dose(power=1.0))


def test_a_dose_of_controls_that_move_along_is_told_where_they_have_more_of_it():
    """The control has nine tenths of the student's move at 1 and less above, where it stops; or the
    other way round.
    """
    scores = synthetic.dose(power=1.0)
    scales = scores.data["scale"].values
    noise = np.linspace(-0.01, 0.01, scores.data.sizes["prompt"])[:, None]

    def told(control):
        data = scores.data.copy(deep=True)
        data["effect"].loc[{"model": "student"}] = 2 * scales + noise * scales
        data["effect"].loc[{"model": data["model"][1]}] = control
        last = data["effect"].sel(scale=1).transpose(*data["student"].dims)
        data["student"] = data["base"] + last
        return repr(replace(scores, data=data))

    less = told(1.8 * np.minimum(scales, 1))
    assert "the controls rose by 1.8 of the student's 2 nats" in less
    assert "at scale 1.5: the controls" not in less
    more = told(np.where(scales > 1, 1.8 * scales, 1.2 * scales))
    assert "the controls rose by 1.2 of the student's 2 nats" in more
    assert "at scale 1.5: the controls rose by 2.7 of the student's 3 nats" in more


def test_a_scaled_set_of_a_graft_says_what_the_dose_says():
    """The student is at its ceiling at 2, where the control goes on falling."""
    dose = synthetic.dose(power=1.0)
    data = dose.data.copy(deep=True).sel(scale=[1.0, 2.0])
    noise = np.linspace(-0.01, 0.01, data.sizes["prompt"])[:, None]
    scales = data["scale"].values
    data["base"][:] = -2.0
    data["effect"].loc[{"model": "student"}] = noise + np.array([1.0, 1.99])
    data["effect"].loc[{"model": data["model"][1]}] = -np.maximum(scales - 1, 0) - noise
    data["student"] = data["base"] + data["effect"].sel(scale=1)
    dose = replace(dose, data=data.transpose(*dose.data["effect"].dims))
    sets = data.rename(scale="set").assign_coords(
        set=["half", "2"], scale=("set", scales), tokens=(("prompt", "set"), np.ones((8, 2)))
    )
    sets["effect"] = sets["effect"].expand_dims(measure=["sufficiency", "necessity"])
    graft = Scores(sets, "graft", dose.record)
    lines = {"scale 2": repr(dose), "set 2 (scale 2)": repr(graft)}
    lines["set 2 (scale 2)"] += repr(graft.sel(measure="sufficiency"))
    for where, told in lines.items():
        assert f"at {where}: 1.00 of 2.99 nats (33%) are the controls' fall" in told
        assert f"log P(owl) is at its ceiling of 0 at {where}: it cannot rise any more" in told
    of_necessity = "at set 2 (scale 2), necessity: 1.00 of 2.99 nats (33%) are the controls' fall"
    assert lines["set 2 (scale 2)"].count("(33%)") == 3
    assert of_necessity in lines["set 2 (scale 2)"]
    necessity = repr(graft.sel(measure="necessity"))
    assert of_necessity in necessity
    assert necessity.count("(33%)") == 1
    # without the set the student is at 0.99 less than the base
    assert "ceiling" not in necessity
    # one scale that was chosen says it too
    assert "at scale 2: 1.00 of 2.99" in repr(dose.sel(scale=2.0))
    assert "(33%)" in around(dose.sel(scale=2.0).plot())


def test_a_scaled_set_says_what_is_at_its_ceiling_without_it():
    """Gates of 2 on a set that is scaled by -1: what is left of the student is at its ceiling."""
    scores = synthetic.graft()
    data = scores.data.copy(deep=True).assign_coords(scale=("set", [-1.0, 1.0, 1.0, 1.0]))
    data["base"][:], data["student"][:] = -3.0, -1.0
    data["effect"][:] = 0.1
    there = {"set": data["set"].values[0], "measure": "necessity"}
    data["effect"].loc[{"model": "student", **there}] = -0.99
    name = f"set {data['set'].values[0]} (scale -1), necessity"
    told = f"log P(owl) is at its ceiling of 0 at {name}: it cannot rise any more"
    one = replace(scores, data=data)
    assert f"student: {told}" in repr(one)
    assert told in repr(one.sel(measure="necessity"))
    assert "ceiling" not in repr(one.sel(measure="sufficiency"))
    data["effect"].loc[{"model": "student", **there}] = 0.99
    assert "ceiling" not in repr(replace(scores, data=data))


def test_a_dose_says_which_models_are_at_their_ceiling():
    dose = synthetic.dose()
    control = str(dose.data["model"].values[1])
    data = dose.data.copy(deep=True)
    data["base"][:] = -3.0
    data["effect"].loc[{"model": "student"}] = 0.5
    data["effect"].loc[{"model": control}] = 0.5
    data["effect"].loc[{"model": control, "scale": [1.5, 2.0]}] = 2.99
    data["student"] = data["base"] + data["effect"].sel(scale=1)
    told = "log P(owl) is at its ceiling of 0 at {}: it cannot rise any more"
    one = replace(dose, data=data)
    assert f"{control}: {told.format('scales 1.5, 2')}" in repr(one)
    assert f"{control}: log P(owl) is at its ceiling" in around(one.plot())
    data["effect"].loc[{"model": "student", "scale": [1.5, 2.0]}] = 2.98
    both = repr(replace(dose, data=data))
    assert f"student, {control}: {told.format('scales 1.5, 2')}" in both
    # the whole control is there too, where gate 1 is none of the doses
    data["effect"].loc[{"model": control}] = 0.5
    data["student"].loc[{"model": control}] = -0.01
    whole = repr(replace(dose, data=data))
    assert f"student: {told.format('scales 1.5, 2')}" in whole
    assert f"{control}: log P(owl) is at its ceiling of 0: a part of the change" in whole


def test_a_gap_is_no_part_of_an_effect_inside_its_noise():
    """The control's effect is 0 over prompts, and its cells miss 0.001 of it."""
    scores = synthetic.attribution(synthetic.several(8))
    data = scores.data.copy(deep=True)
    cells = data["effect"].sum(["layer", "module", "position"])
    control = {"model": data["model"][1]}
    sign = np.tile([1.0, -1.0], 4)
    data["student"] = data["base"] + cells.transpose(*data["student"].dims)
    data["student"].loc[control] = data["base"].loc[control] + sign + 0.001
    data["effect"].loc[control] = (
        data["effect"].loc[control].where(data["effect"].loc[control].isnull(), 0)
    )
    data["effect"].loc[control][:, 1, 1, 0] = sign
    scores = replace(scores, data=data)
    assert "of single models and their own effects at most 0.00%" in "\n".join(scores.notes())
    alone = scores.sel(model=str(data["model"].values[1]))
    assert "completeness gap 0.001 nats (all cells)" in "\n".join(alone.notes())


def test_a_contrast_has_no_ceiling():
    """It is at 0 where two students are alike, and rises from there."""
    for make in (lambda: synthetic.graft(total=0.0), lambda: synthetic.dose(controls=0)):
        scores = make()
        alone = ends_at(scores, -0.001)
        data = alone.data.copy(deep=True)
        if "scale" in data:
            data["effect"][:] = 5.999
        told = repr(replace(alone, data=data))
        other = synthetic.recorded(ends_at(scores, -6.0), metric="log P(cat)")
        assert "at its ceiling" in told
        contrast = replace(alone, data=data).minus(other)
        assert contrast.record.metric == "log P(owl)"
        levels = contrast.data.assign(base=-0.8 + 0 * contrast.data["base"])
        levels["student"] = levels["base"] + 0.79
        if "scale" in levels:
            levels["effect"][:] = 0.79
        assert "at its ceiling" not in repr(replace(contrast, data=levels))


def test_controls_that_cancel_are_told_in_tables_and_pictures():
    scores = synthetic.effect()
    assert "opposite ways" not in repr(scores)  # +0.2 and -0.1 beside 1.4
    data = scores.data.copy(deep=True)
    data["student"][1] += 4
    data["student"][2] -= 4
    data["effect"] = data["student"] - data["base"]
    apart = replace(scores, data=data)
    assert "controls moved opposite ways, which cancel in their mean (" in repr(apart)
    assert "opposite ways" in around(plot(apart))


def test_an_effect_that_is_0_everywhere_is_no_noise():
    """Weights that are on only where nothing is read: a fact of the gates, and no measured null."""
    for scores in (synthetic.effect(), synthetic.graft()):
        data = scores.data.copy(deep=True)
        data["student"] = data["base"].copy()
        data["effect"] = data["effect"] * 0
        told = repr(replace(scores, data=data))
        assert "exactly 0 on every prompt, no noise" in told
        assert "inside its own noise" not in told
        assert "what stands here" not in told


def test_cells_of_a_student_that_is_its_base_are_told_to_be_rounding():
    """Forwards of other shapes add up in another order: 1e-5 at most, of values near -6."""
    scores = synthetic.patch()
    data = scores.data.copy(deep=True)
    data["student"] = data["base"].copy()
    for size, told in ((0.8e-5, True), (1e-3, False)):
        effect = data["effect"] * 0 + size
        here = repr(replace(scores, data=data.assign(effect=effect)))
        assert "exactly 0 on every prompt, no noise" in here
        assert ("what stands here is rounding (at most 8e-06 nats)" in here) == told


def with_metric(scores, metric, base, level):
    """The same scores of a metric that the models bring from one level to another."""
    data = scores.data.copy(deep=True)
    data["base"], data["student"] = data["base"] * 0 + base, data["student"] * 0 + level
    return synthetic.recorded(replace(scores, data=data), metric=metric)


def test_an_entropy_at_its_floor_is_told_and_a_divergence_that_begins_there_is_not():
    entropy = "entropy of the next token"
    told = f"{entropy} is at its floor of 0: a part of the change is enough to reach it"
    for scores in (synthetic.effect(), synthetic.graft()):
        low = with_metric(scores, entropy, 2.0, 0.01)
        assert told in repr(low)
        assert "it cannot fall any more" in repr(low)
        assert "metrics.own_minus_others" not in repr(low)
        assert f"{entropy} is at its floor of 0" in around(plot(low))
        for base, level in ((2.0, 0.5), (0.01, 0.01), (0.01, 2.0)):
            assert "floor" not in repr(with_metric(scores, entropy, base, level))
        # the base is at 0, and a student that is at 0 too is the base
        assert "floor" not in repr(with_metric(scores, "KL(model || base)", 0.0, 0.01))
    dose = synthetic.dose()
    dose = replace(dose, data=dose.data.assign(effect=-dose.data["effect"]))
    effect = float(dose.data["effect"].isel(model=0).sel(scale=2.0).mean())
    bent = with_metric(dose, entropy, -effect + 0.01, 1.0)
    assert f"{entropy} is at its floor of 0 at scale 2: it cannot fall any more" in repr(bent)


def test_a_rank_at_its_least_is_told():
    """240 ranks down to 1: what is left between student and controls is no size of a trait."""

    def ranked(level):
        scores = synthetic.graft()
        data = scores.data.copy(deep=True)
        data["base"] = data["base"] * 0 + 240
        data["student"] = data["student"] * 0 + level
        return synthetic.recorded(replace(scores, data=data), metric="rank('owl')")

    scores = ranked(1)
    assert "rank('owl') is near 1: the least there is" in repr(scores)
    assert "rank('owl') is near 1" in around(plot(scores))
    assert "near 1" not in repr(ranked(30))


def test_what_sharing_is_told_from_stands_in_pictures():
    """Where only some training prompts were given, `seen` and `novel` are of these."""
    short = "seen, novel: told from the 3 training prompts given, without answers"
    note = f"{short}: a token of other rows or of answers alone is novel"
    scores = synthetic.recorded(synthetic.attribution(), notes=(note,))
    drawn = pictures(scores) | {"sharing": around(plot(scores, by="sharing"))}
    for place, said in drawn.items():  # bars of roles and of layers show no class
        assert (short in said) == (place not in ("role", "layer")), place
    for by, classes in [("sharing", True), ("role", False), ("layer", False)]:
        assert (short in around(compare_bars({"a": scores, "b": scores}, by=by))) == classes, by
    assert note in repr(scores)
    assert short not in "".join(pictures(synthetic.attribution()).values())
