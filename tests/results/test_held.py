"""What is said of scores goes by the models in their numbers."""

from dataclasses import replace

import pytest
import synthetic

from sublim_mech.results import compare, report
from sublim_mech.results.held import held, notes_held
from sublim_mech.results.limits import limits
from sublim_mech.results.record import StudentSource
from sublim_mech.results.shares import concentration

CAT, DOLPHIN = "control: cat", "control: dolphin"
OF_CAT = "control cat: equals its base: no weight differs; it controls for nothing"
OF_STUDENT = "the student (ent): as in training, its weights are on only at 'shared'"
CAT_BESIDE = "control cat was not trained alike: rank: 2 in the control, 4 in the student"
ALL_UNTOLD = (
    "the student's training is unknown (no manifest): whether its controls were trained alike is "
    "not known"
)
DOLPHIN_UNTOLD = ALL_UNTOLD.replace("its controls were", "control dolphin was")
NO_MANIFEST = "controls' training unknown (no manifest): dolphin"
OF_PROMPTS = "2 of 3 prompts were training prompts themselves"
NOTES = (
    OF_CAT, OF_STUDENT, CAT_BESIDE, ALL_UNTOLD, DOLPHIN_UNTOLD, NO_MANIFEST, OF_PROMPTS,
)  # fmt: skip


def scored():
    return synthetic.recorded(synthetic.attribution(controls=2), notes=NOTES)


@pytest.mark.parametrize(
    ("models", "left"),
    [
        (["student", CAT, DOLPHIN], NOTES),
        (["student"], (OF_STUDENT, OF_PROMPTS)),
        ([CAT], (OF_CAT, OF_PROMPTS)),
        ([DOLPHIN], (NO_MANIFEST, OF_PROMPTS)),
        (["student", CAT], (OF_CAT, OF_STUDENT, CAT_BESIDE, ALL_UNTOLD, OF_PROMPTS)),
        (["student", DOLPHIN], (OF_STUDENT, ALL_UNTOLD, DOLPHIN_UNTOLD, NO_MANIFEST, OF_PROMPTS)),
        ([CAT, DOLPHIN], (OF_CAT, NO_MANIFEST, OF_PROMPTS)),
    ],
)
def test_notes_are_of_the_models_that_are_there(models, left):
    chosen = scored().sel(model=models)
    assert list(held(chosen)) == models
    assert tuple(notes_held(chosen)) == left
    told = "\n".join([*report.notes(chosen), *(limit.text for limit in limits(chosen))])
    assert [note in told for note in NOTES] == [note in left for note in NOTES]


def test_a_name_that_begins_as_another_is_not_it():
    students = {
        name: StudentSource(name, "lora", name, "prompted")
        for name in ("student", CAT, "control: cat was")
    }
    note = "control cat was was not trained alike: rank: 2 in the control, 4 in the student"
    scores = synthetic.recorded(synthetic.effect(), students=students, notes=(note,))
    data = scores.data.isel(model=[0, 1]).assign_coords(model=["student", CAT])
    assert notes_held(replace(scores, data=data)) == []


def test_a_control_by_itself_is_not_said_to_lack_controls():
    def told(scores):
        return [limit.text for limit in limits(scores) if limit.kind == "no controls"]

    alone = "part of any effect may come from fine-tuning as such"
    assert told(scored().sel(model=CAT)) == [f"{CAT} by itself: {alone}"]
    assert told(scored().sel(model="student")) == [f"controls left out of this selection: {alone}"]
    assert told(scored()) == []


def test_a_share_of_the_student_alone_says_nothing_of_controls():
    on = "template"
    assert "trained alike is not known" in str(concentration(scored(), on=on))
    assert "trained alike" not in str(concentration(scored().sel(model="student"), on=on))


def test_students_that_are_subtracted_are_those_in_the_numbers():
    scores = synthetic.effect()
    students = {**scores.record.students, CAT: StudentSource("cat", "lora", "another", "prompted")}
    other = synthetic.recorded(scores, students=students)
    with pytest.raises(ValueError, match=r"controls of one student differ \(.* and cat another, "):
        scores.minus(other)
    alone = scores.sel(model="student").minus(other.sel(model="student"))
    assert not alone.data["effect"].values.any()
    otherwise = {**students, "student": StudentSource("it", "lora", "new", "prompted")}
    another = synthetic.recorded(scores, students=otherwise).sel(model="student")
    with pytest.raises(ValueError, match="students differ") as refused:
        scores.sel(model="student").minus(another)
    assert "control" not in str(refused.value).partition(";")[0]


def under(controls, metric="log P(owl)"):
    """One student's scores under controls of these names."""
    students = {"student": StudentSource("owl", "lora", "1", "prompted")}
    for name in controls:
        students[f"control: {name}"] = StudentSource(name, "lora", f"of {name}", "prompted")
    scores = synthetic.recorded(
        synthetic.effect(), students=students, metric=metric, measured=metric
    )
    data = scores.data.isel(model=range(len(students))).assign_coords(model=list(students))
    return replace(scores, data=data)


LEAVES = "the student itself cancels, which leaves the controls: "


def test_one_student_under_other_controls_is_told_what_can_be_done():
    """It can be no control of its own."""
    for (one, other), said in {
        (("cat",), ("dog",)): (
            "(cat of cat and dog of dog); " + LEAVES + "for these load one as the student, with "
            "the other as its control; compare(...) shows the student under both."
        ),
        (("cat",), ()): f"(cat of cat and none); {LEAVES}sel(model='control: cat') has them.",
        ((), ("cat", "dog")): (
            "(none and cat of cat, dog of dog); "
            f"{LEAVES}sel(model=['control: cat', 'control: dog']) has them."
        ),
    }.items():
        with pytest.raises(ValueError, match="controls of one student differ") as refused:
            under(one).minus(under(other))
        assert str(refused.value) == f"minus: controls of one student differ {said}"
    # what is advised is possible
    compare({"cat": under(["cat"]), "dog": under(["dog"])})
    assert under(["cat", "dog"]).sel(model=[CAT, "control: dog"]).data.sizes["model"] == 2
    with pytest.raises(ValueError, match="or subtract the student's own effects alone, sel"):
        under(["cat"]).minus(under(["dog"], "log P(penguin)"))
    owl, penguin = under(["cat"]), under(["dog"], "log P(penguin)")
    owl.sel(model="student").minus(penguin.sel(model="student"))
