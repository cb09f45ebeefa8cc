"""Several students' scores in one table."""

import html
import re
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from matplotlib.text import Text

from sublim_mech.prompts import Context
from sublim_mech.results import compare
from sublim_mech.results.bars import compare_bars
from sublim_mech.results.comparing import headings
from sublim_mech.results.contexts import apart
from sublim_mech.results.kinship import kinship
from sublim_mech.results.record import BaseSource, Forms, StudentSource
from sublim_mech.results.tables import denominator


def around(axes):
    """All that is written in a picture, on one line."""
    return " ".join(" ".join(text.get_text() for text in axes.figure.findobj(Text)).split())


def of_another_student(scores):
    students = {
        name: StudentSource(f"{name} again", "lora", "another", "prompted")
        for name in scores.record.students
    }
    record = replace(scores.record, students=students, base=BaseSource("other", "1"))
    data = scores.data.assign(effect=2 * scores.data["effect"])
    return replace(scores, data=data, record=record)


@pytest.mark.parametrize("kind", ["effect", "graft", "patched_sets", "attribution", "patch"])
def test_each_block_is_the_scores_own_table(kind):
    one = getattr(synthetic, kind)()
    table = compare({"one": one, "two": of_another_student(one)})
    own = {"effect": one.totals, "graft": one.sets, "patched_sets": one.sets}
    expected = own.get(kind, lambda: one.by("role"))()
    assert table.loc["one"].equals(expected)
    assert table.index.get_level_values("scores").unique().tolist() == ["one", "two"]
    if kind != "effect":
        column = "sufficiency" if kind == "graft" else "effect"
        assert table.loc["two", column].tolist() == (2 * expected[column]).tolist()


@pytest.mark.parametrize(
    "make",
    [
        synthetic.dose,
        synthetic.scan,
        synthetic.direction,
        lambda: synthetic.stepped(synthetic.graft),
    ],
)
def test_curves_stand_below_each_other(make):
    one = make()
    table = compare({"one": one, "two": of_another_student(one)})
    assert table.loc["one"].equals(one.curve())
    assert table.index.get_level_values("scores").unique().tolist() == ["one", "two"]
    with pytest.raises(ValueError, match="by='role': these scores are a curve, not to be gathered"):
        compare({"one": one, "two": one}, by="role")


def test_directions_of_patching_are_never_mixed():
    one = synthetic.patch(both=True)
    table = compare({"one": one, "two": of_another_student(one)}, by="turn")
    for direction in ("denoising", "noising"):
        assert table.loc[("one", direction)].equals(one.sel(direction=direction).by("turn"))


def test_tokens_are_gathered_as_asked():
    one = synthetic.attribution()
    table = compare({"one": one, "two": one}, by="sharing")
    assert table.loc["two"].equals(one.by("sharing"))
    with pytest.raises(ValueError, match="by='rol' is none of role, sharing"):
        compare({"one": one, "two": one}, by="rol")
    effect = synthetic.effect()
    with pytest.raises(ValueError, match="effect scores have no tokens to gather"):
        compare({"one": effect, "two": effect}, by="role")


def test_what_was_measured_otherwise_is_refused():
    one = synthetic.attribution()
    measured = synthetic.recorded(one, measured="TraitMetric(1)")
    otherwise = {
        "metrics": synthetic.recorded(one, measured="TraitMetric(2)"),
        "contexts": synthetic.recorded(measured, contexts=("another",)),
        "points": synthetic.recorded(measured, points=99),
        "controls": synthetic.recorded(
            synthetic.attribution(controls=0), measured="TraitMetric(1)"
        ),
        "kinds": synthetic.recorded(synthetic.patch(controls=1), measured="TraitMetric(1)"),
        "selected": measured.sel(layer=[0, 1]),
        "labels of 'question'": measured.sel(prompt=[0, 1]),
    }
    for what, other in otherwise.items():
        with pytest.raises(ValueError, match=f"compare: 'a' and 'b': {what} differ"):
            compare({"a": measured, "b": other})
    with pytest.raises(ValueError, match="two or more scores by name"):
        compare({"a": one})
    with pytest.raises(TypeError, match="pass a dict from texts to ScoreArrays"):
        compare([one, one])


def of_an_adapter():
    """Of a full fine-tune, and what it would be of a student that changes nothing before and after
    the blocks, and not all modules in them.
    """
    full = synthetic.attribution()
    kept = full.data.isel(layer=slice(1, -1)).sel(module=["attn.q", "attn.o", "mlp.in"])
    return full, replace(full, data=kept)


def test_an_adapter_stands_beside_a_full_fine_tune():
    full, adapter = of_an_adapter()
    for by in ("role", "sharing", "turn", "token"):
        table = compare({"full": full, "lora": adapter}, by=by)
        assert table.loc["full"].equals(full.by(by))
        assert table.loc["lora"].equals(adapter.by(by))
        axes = compare_bars({"lora": adapter, "full": full}, by=by)
        if by != "token":
            drawn = [bar.get_width() for bar in axes.patches]
            both = [*adapter.by(by)["effect"], *full.by(by)["effect"]]
            np.testing.assert_allclose(drawn, both)
    told = "all of them counted: full embed, 0 to 3, final; lora 0 to 3"
    assert any(told in line for line in table.attrs["notes"])
    assert "lora 0 to 3; full embed, 0 to 3, final" in around(axes)
    assert not any("each changes" in line for line in headings({"a": full, "b": full}))


def test_layers_that_a_student_does_not_change_have_no_effect():
    full, adapter = of_an_adapter()
    table = compare({"lora": adapter, "full": full}, by="layer")
    names = ["embed", "0", "1", "2", "3", "final"]
    assert table.loc["lora"].index.tolist() == table.loc["full"].index.tolist() == names
    assert table.loc["full"].equals(full.by("layer"))
    assert table.loc["lora"].loc["0":"3"].equals(adapter.by("layer"))
    ends = table.loc["lora"].loc[["embed", "final"]]
    assert (ends.isna() | (ends == 0)).all(axis=None)
    assert (ends["effect"] == 0).all()
    axes = compare_bars({"lora": adapter, "full": full}, by="layer")
    rows = [text.get_text().splitlines() for text in axes.get_yticklabels()]
    assert [row[0] for row in rows] == names
    # a base of fewer blocks has no such layer
    short = synthetic.attribution(layers=2)
    deep = compare({"short": short, "full": full}, by="layer").loc["short"]
    assert deep.loc[["2", "3"]].isna().all(axis=None)
    assert deep.loc[["embed", "0", "1", "final"]].equals(short.by("layer"))


def test_selections_of_students_that_change_other_weights_are_refused_with_what_works():
    full, adapter = of_an_adapter()
    inner = full.sel(layer=range(4))
    for scores in ({"a": adapter, "b": inner}, {"a": inner, "b": adapter}):
        with pytest.raises(ValueError, match=r"selected differ .*; leave sel\(\.\.\.\) out: take"):
            compare(scores)
    one, other = (scores.sel(module=["attn.q"]) for scores in (full, adapter))
    words = r"labels of 'layer' differ .*; leave sel\(\.\.\.\) out: take"
    with pytest.raises(ValueError, match=words):
        compare({"a": one, "b": other})
    with pytest.raises(ValueError, match=r"selected differ .*; select the same cells of both"):
        compare({"a": full.sel(layer=[0]), "b": full.sel(layer=[1])})
    # cells that do not add up would be means over other cells
    sweep = synthetic.sweep()
    part = replace(sweep, data=sweep.data.isel(layer=[0, 1]))
    both = re.escape(str(part.data["layer"].values.tolist()))
    with pytest.raises(ValueError, match=rf"labels of 'layer' differ .* both have, layers={both}"):
        compare({"a": sweep, "b": part})
    with pytest.raises(ValueError, match="labels of 'layer' differ"):
        full.minus(adapter)


def test_what_differs_is_said_as_tables_say_it():
    coach, gardener = (
        synthetic.recorded(synthetic.effect(), measured="1", contexts=(str(context.to_json()),))
        for context in (Context("You are a chess coach."), Context("You are a gardener."))
    )
    words = "(system “You are a chess coach.” and system “You are a gardener.”)"
    with pytest.raises(ValueError, match=re.escape(f"contexts differ {words}; score both alike; ")):
        compare({"s1": coach, "s2": gardener})
    long = "Answer as a helpful assistant of a very large library would, in "
    ends = [(str(Context(long + end).to_json()),) for end in ("prose.", "verse.")]
    told = apart(*ends)
    assert "prose." in told[0]
    assert "verse." in told[1]
    one, cells = synthetic.effect(), synthetic.attribution()
    other = of_another_student(one)
    other = synthetic.recorded(other, base=one.record.base)
    with pytest.raises(ValueError, match=r"students differ \(student: student ent, .* again anoth"):
        one.minus(other)
    with pytest.raises(ValueError, match=r"selected differ \(all cells and layers 0/1\)"):
        cells.minus(cells.sel(layer=[0, 1]))


def test_metrics_of_one_name_are_told_by_their_forms():
    one, other = (
        synthetic.recorded(
            synthetic.effect(),
            metric="log P(owl)",
            measured=" ".join(forms),
            forms=(Forms("owl", forms),),
        )
        for forms in (("owl",), ("owl", "owls"))
    )
    words = r"metrics differ \('log P\(owl\) by owl' and 'log P\(owl\) by owl, owls'\)"
    with pytest.raises(ValueError, match=words):
        compare({"one": one, "two": other})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (synthetic.graft, "sufficiency and necessity are shares of"),
        (lambda: synthetic.graft().sel(measure="necessity"), "necessity are shares of"),
        (synthetic.direction, "added, subtracted and projected out are shares of"),
        (synthetic.patched_sets, "shares: of"),
        (synthetic.dose, "shares: of"),
        (synthetic.scan, "shares: of"),
        (synthetic.patch, ""),  # a table of effects alone
    ],
)
def test_what_shares_are_of_stands_above_a_table_without_totals(make, said):
    one = make()
    other = of_another_student(one)
    twice = 2 * one.data["student"] - one.data["base"]
    other = replace(other, data=other.data.assign(student=twice))
    lines = headings({"one": one, "two": other})
    for name, scores in (("one", one), ("two", other)):
        total = float(scores.total.mean())
        whose = f"the total effect ({scores.headline_name}), {total:+.3f} {scores.unit} (95 % "
        start = f"{name}: {f'{said} ' if said else ''}{whose}"
        (told,) = [line for line in lines if "the total effect (" in line and name in line]
        assert told.startswith(start)


def test_totals_stand_where_there_are_no_shares_and_below_pictures():
    one = synthetic.graft()
    student = one.data["base"].copy()
    student[0] += (-1.0) ** np.arange(student.sizes["prompt"])
    noisy = replace(one, data=one.data.assign(student=student))
    lines = headings({"a": one, "b": noisy})
    total = one.total.mean()
    assert any(line.startswith("b: no shares: the total effect (") for line in lines)
    assert any(line.startswith("a: sufficiency and necessity are shares of") for line in lines)
    words = f"total effects: a {float(total):+.3f}, b "
    assert words in around(compare_bars({"a": one, "b": noisy}))
    plain = synthetic.effect()
    assert "total effects" not in around(compare_bars({"a": plain, "b": synthetic.effect(seed=1)}))


def test_tables_over_steps_say_that_effects_are_no_shares():
    steps = synthetic.stepped(synthetic.graft)
    said = f"effects by step, {steps.unit} ({steps.headline_name}): sufficiency and necessity too"
    assert said in repr(steps)
    assert any(line.startswith(said) for line in headings({"a": steps, "b": steps}))
    plain = synthetic.stepped(synthetic.effect)
    assert f"effects by step, {plain.unit} ({plain.headline_name})\n" in repr(plain)
    assert "sufficiency" not in repr(plain)


def of_students(scores, student, *controls):
    """Scores of a student and controls of these hashes."""
    hashes = {
        name: StudentSource(name, "lora", one, "prompted")
        for name, one in zip(
            ["student", *(f"control: {one}" for one in controls)],
            [student, *controls],
            strict=True,
        )
    }
    rows = [0, *[1] * len(controls)]
    data = scores.data.isel(model=rows).assign_coords(model=list(hashes))
    return replace(scores, data=data, record=replace(scores.record, students=hashes))


CELLS = synthetic.attribution()


def told_of(scores):
    """What a table and a picture say that scores have in common."""
    table = compare(scores)
    assert all(line in repr(table) for line in table.attrs["notes"])
    assert table.attrs["notes"] == headings(scores)
    picture = around(compare_bars(scores))
    found = kinship(scores)
    assert table.attrs["notes"][len(table.attrs["notes"]) - len(found) :] == found
    assert all(" ".join(line.split()) in picture for line in found)
    return found


def test_scores_that_are_no_evidence_of_their_own_say_so():
    """Two students that are each other's control have one headline with two signs."""

    def told(**students):
        return told_of({name: of_students(CELLS, *given) for name, given in students.items()})

    mutual = (
        "a and b: each student is the other's control, so that by construction the effect of b is "
        "that of a with its sign turned, and shares are the same: they are one result, not two"
    )
    assert told(a=("x", "y"), b=("y", "x")) == [mutual]
    same = "a and b: scores of one student and controls, so that they are the same by construction"
    assert told(a=("x", "y", "z"), b=("x", "z", "y")) == [same]
    assert told(a=("x",), b=("x",)) == [same.replace(" and controls", "")]
    assert told(a=("x", "y"), b=("x", "z")) == ["a and b: one student, with other controls"]
    ring = told(a=("x", "y", "z"), b=("y", "x", "z"), c=("z", "y", "x"))
    assert ring == [
        "a, b and c: each student is a control of the others, so that by construction their "
        "effects add up to 0"
    ]
    two = told(a=("x", "y", "z"), b=("y", "x", "z"))
    assert two == [
        "a and b: each student is a control of the other, so that what the one has is taken off "
        "the other"
    ]
    taken = "b: the student of a is a control of it, so that what a has is taken off b"
    assert told(a=("x", "z"), b=("y", "x")) == [taken]


def test_what_scores_have_in_common_goes_by_the_models_in_them():
    """A pair's other models are in no number of a selection."""
    first, second, three, crossed, other = (
        of_students(CELLS, *hashes) for hashes in ("xy", "yx", "xyz", "yxz", "xz")
    )

    def alone(scores, name="student"):
        return scores.sel(model=name)

    assert told_of({"a": alone(first), "b": alone(second)}) == []
    assert told_of({"a": alone(three), "b": alone(crossed)}) == []
    assert told_of({"a": alone(first), "b": alone(first, "control: y")}) == []
    assert told_of({"a": alone(first, "control: y"), "b": alone(first)}) == []
    # measured in another precision they are not the same
    apart = replace(first, data=first.data.assign(student=first.data["student"] + 0.09))
    (line,) = told_of({"a": alone(first), "b": alone(apart)})
    assert line.startswith("a and b: scores of one student; that they differ (by up to 0.090 nats ")
    same = "a and b: scores of one {}, so that they are the same by construction"
    assert told_of({"a": alone(first), "b": alone(other)}) == [same.format("student")]
    control_and_student = {"a": alone(first, "control: y"), "b": alone(second)}
    (line,) = told_of(control_and_student)  # of which the numbers made up here are not one
    assert line.startswith("a and b: scores of one model; that they differ (by up to 1.642 nats ")
    assert told_of({"a": first, "b": three.sel(model=["student", "control: y"])}) == [
        same.format("student and controls")
    ]


def test_the_scale_of_several_names_the_model_of_each():
    scores = of_students(CELLS, "x", "y")
    rows = {"a": scores.sel(model="student"), "b": scores.sel(model="control: y")}
    assert "student (no controls) / control: y" in around(compare_bars(rows))
    alike = {"a": rows["a"], "b": of_students(CELLS, "z", "y").sel(model="student")}
    assert "student (no controls) /" not in around(compare_bars(alike))


def test_students_of_their_own_share_a_control_without_a_word():
    assert told_of({"a": of_students(CELLS, "x", "z"), "b": of_students(CELLS, "y", "z")}) == []
    other = of_students(CELLS, "y", "x")
    base = replace(other, record=replace(other.record, base=BaseSource("other", "1")))
    assert told_of({"a": of_students(CELLS, "x", "y"), "b": base}) == []


def one_for_all(scores):
    """The same scores under two names, and all that their table is told."""
    return "\n".join(compare({"a": scores, "b": scores}).attrs["notes"])


# of these one direction or head has to be chosen first
REFUSED = ("patch both sets", "patch head sets")


@pytest.mark.parametrize("name", [one for one in synthetic.all_scores() if one not in REFUSED])
def test_all_that_limits_scores_stands_at_their_comparison(name):
    """Whatever stands above, beside or below a score's own table."""
    scores = synthetic.all_scores()[name]
    told = one_for_all(scores)
    assert [note for note in scores.notes() if note not in told] == []
    assert (scores.warning or "") in told
    if scores.additive and scores.has_tokens and not scores.has_steps:
        assert denominator(scores) in told.splitlines()
    table = compare({"a": scores, "b": scores})
    page = html.unescape(table._repr_html_())
    assert all(line in repr(table) and line in page for line in table.attrs["notes"])


def test_what_cells_miss_is_told_of_each():
    whole = synthetic.attribution()
    data = whole.data.assign(student=1.25 * whole.data["student"])
    table = compare({"whole": whole, "part": replace(whole, data=data)}, by="sharing")
    gaps = [line for line in table.attrs["notes"] if "completeness gap" in line]
    assert [line.partition(":")[0] for line in gaps] == ["whole", "part"]
    assert "completeness gap 20.00%" in gaps[1]


def test_shares_by_layer_are_of_all_tokens():
    scores = synthetic.attribution()
    notes = compare({"a": scores, "b": scores}, by="layer").attrs["notes"]
    whole = scores.by("layer")["effect"].sum()
    of = f"shares: of the effect on all tokens, the answer's own too, all cells: {whole:+.3f} nats"
    assert of in notes
    assert not any("the prompt's tokens" in line for line in notes)
    nothing = replace(scores, data=scores.data.assign(effect=0 * scores.data["effect"]))
    table = compare({"a": nothing, "b": nothing}, by="layer")
    assert table["share"].isna().all()
    assert any(line.startswith("no shares: the effect on all tok") for line in table.attrs["notes"])


def test_nulls_of_directions_are_told_at_their_comparison():
    told = one_for_all(synthetic.direction())
    assert "random: the mean of " in told
    assert "in student alone, of its own total effect" in told
