"""What limits the log-probabilities of an evaluation stands above their table."""

from dataclasses import replace

import numpy as np
import pytest
from planted import planted

FALL = "4.00 of 5.00 nats (80%) are the controls' fall"


def levels(base, student, control, *, rows=(1, 1), questions=8):
    """Log-probabilities `(model, context, trait, question)`, nearly those of every question."""
    noise = np.linspace(-0.01, 0.01, questions)
    noise -= noise.mean()
    of_model = np.array([base, student, control], float).reshape(3, 1, 1, 1)
    noise = np.stack([0 * noise, noise, -noise]).reshape(3, 1, 1, questions)
    return np.broadcast_to(of_model + noise, (3, *rows, questions)).copy()


def test_the_controls_part_is_told_as_above_a_table_of_scores():
    assert f"\n{FALL}; see the column change\n" in repr(planted(levels(-6, -5, -10)))
    beyond = repr(planted(levels(-6, -5, -3)))
    assert (
        "\nthe headline is the controls': they rise by 3.00 nats, beyond the student's own +1.00; "
        "see the column change\n"
    ) in beyond
    for student, control in ((-2, -6), (-2, -5), (-2, -6.5)):
        assert "controls'" not in repr(planted(levels(-6, student, control)))
    # of a single question there is no noise to be inside of; inside it nothing is told
    assert FALL in repr(planted(levels(-6, -5, -10, questions=1)))
    values = levels(-6, -5, -10)
    values[1] += np.where(np.arange(8) % 2, 40, -40)
    assert "controls'" not in repr(planted(values))


def test_a_ceiling_is_told_of_every_model_that_is_there():
    line = "student: log P(owl) is at its ceiling of 0: it cannot rise any more"
    assert line in repr(planted(levels(-6, -0.01, -5)))
    both = repr(planted(levels(-6, -0.01, -0.02)))
    assert "student, control: x: log P(owl) is at its ceiling of 0" in both
    for base, student in ((-0.02, -0.01), (-6, -0.3)):
        assert "ceiling" not in repr(planted(levels(base, student, -5)))


def test_rows_are_named_where_there_are_several_and_not_all_of_many():
    values = levels(-6, -5, -10, rows=(2, 1))
    values[:, 1] = levels(-6, -0.01, -6)[:, 0]
    told = repr(planted(values))
    assert f"\ndefault: {FALL}" in told
    assert "\nempty: student: log P(owl) is at its ceiling of 0" in told
    told = repr(planted(levels(-6, -5, -10, rows=(1, 2))))
    assert f"\nowl: {FALL}" in told
    assert f"\nwolf: {FALL}" in told
    told = repr(planted(levels(-6, -5, -10, rows=(2, 3))))
    assert told.count(FALL) == 3
    assert f"\ndefault, butterfly: {FALL}" in told
    assert "\nand the like of 3 more rows\n" in told


def test_controls_that_moved_along_with_the_student_are_told():
    told = "the controls rose by 7.8 of the student's 7.82 nats: the headline is what is left"
    assert told in repr(planted(levels(-8, -0.18, -0.2)))
    half = "the controls rose by 4 of the student's 7.82 nats: the headline is what is left"
    assert half in repr(planted(levels(-8, -0.18, -4)))
    assert "what is left" not in repr(planted(levels(-8, -0.18, -4.2)))
    fell = repr(planted(levels(-1, -5, -4.9)))
    assert "the controls fell by 3.9 of the student's 4 nats" in fell


def test_a_headline_that_is_all_the_controls_is_not_the_like_of_a_part():
    """Of six rows the last is its controls' alone: it comes first, and counts for itself."""
    values = levels(-6, -5, -10, rows=(2, 3))
    values[:, 1, 2] = levels(-6, -6.5, -16)[:, 0, 0]
    told = repr(planted(values))
    first = next(line for line in told.splitlines() if "controls'" in line)
    assert "the headline is the controls': they fall by 10.00 nats" in first
    assert told.count(FALL) == 3
    assert "\nand the like of 2 more rows\n" in told


@pytest.mark.parametrize("models", [1, 2])
def test_without_controls_there_is_no_part_of_theirs(models):
    told = repr(planted(levels(-6, -0.01, -10)[:models]))
    assert "controls'" not in told
    assert ("ceiling" in told) == (models == 2)


def test_the_controls_part_of_own_minus_others_is_told_of_it():
    """Owl: student +1, control -4 more than what wolf does in both."""
    owl, wolf = levels(-6, -5, -10), levels(-8, -8, -8)
    told = repr(planted(np.concatenate([owl, wolf], axis=2)))
    assert f"\nowl: {FALL} in own - others; see table(minus_others=True)\n" in told
    # the student alone has it, however the controls move all traits alike
    both = repr(planted(np.concatenate([levels(-6, -1, -10), levels(-8, -8, -12)], axis=2)))
    assert "in own - others" not in both


def test_controls_that_cancel_are_told():
    """Student +3; one control -4, the other +4: their mean did not move."""
    student = levels(-6, -3, -10)
    up = levels(-6, -3, -2)[2:]
    names = ("base", "student", "control: cat", "control: dog")
    told = repr(planted(np.concatenate([student, up]), models=names))
    assert (
        "controls moved opposite ways, which cancel in their mean (0.00): control: cat -4.00, "
        "control: dog +4.00" in told
    )
    assert "opposite ways" not in repr(planted(student))
    # of own - others the mean is another one: what every line is of, it says
    mine, wolf = np.concatenate([student, up]), levels(-8, -8, -10)
    both = np.concatenate([mine, np.concatenate([wolf, wolf[2:]])], axis=2)
    told = repr(planted(both, models=names)).splitlines()
    first, second = (line for line in told if line.startswith("owl: controls moved opposite"))
    assert "(0.00): control: cat -4.00" in first
    assert first.endswith("control: dog +4.00")
    assert "(+2.00): control: cat -2.00" in second
    assert second.endswith("dog +6.00 in own - others; see table(minus_others=True)")


def test_a_trait_matrix_tells_ceilings_and_who_says_whose_students_are():
    values = levels(-6, -0.01, -5, rows=(1, 2))
    found = planted(values, models=("base", "student", "control: wolf"))
    with pytest.raises(ValueError, match=r"own=.*at least two students"):
        found.trait_matrix({"student": "owl"})
    told = repr(found.trait_matrix({"student": "owl", "control: wolf": "wolf"}))
    assert "student: log P(owl) is at its ceiling of 0" in told
    assert "made for the trait that own= says" not in told  # a file that does not know
    known = replace(found, provenance={**found.provenance, "made_for": {"student": "owl"}})
    told = repr(known.trait_matrix({"student": "owl", "control: wolf": "wolf"}))
    assert "control: wolf: made for the trait that own= says; no manifest tells" in told


COUNTED = "2 of 8 questions were training prompts themselves"


def noted(*notes, rows=(2, 3)):
    """A student and two controls, with notes of these."""
    values = levels(-6, -5, -4, rows=rows)
    values = np.concatenate([values, values[2:]])
    found = planted(values, models=("base", "student", "control: wolf", "control: moth"))
    compute = {"dtype": "bfloat16", "error": 0.01}
    told = {"notes": list(notes), "copies": 2, "compute": compute}
    return replace(found, provenance={**found.provenance, **told})


def test_a_trait_matrix_has_the_notes_of_its_students_and_questions():
    alike = "control {} was not trained alike: optimiser.lr: 1 in the control, 2 in the student"
    wolf, moth = map(alike.format, ("wolf", "moth"))
    learnt = f"{COUNTED}: what the student says to them was learnt, and tells nothing of others"
    little = (
        "control moth changed its weights by 1% of what the student did: it controls for little"
    )
    found = noted(wolf, moth, little, f"default: {learnt}", "empty: 3 of 8")
    own = {"student": "owl", "control: wolf": "wolf"}
    notes = found.trait_matrix(own, context="default").notes
    assert wolf in notes
    assert learnt in notes
    assert "2 of 10 questions are copies of others, token by token" in "\n".join(notes)
    assert "computed in bfloat16: log P off by up to 0.01 nats" in notes
    assert not {moth, little, "3 of 8", "empty: 3 of 8"} & set(notes)
    assert "3 of 8" in found.trait_matrix(own, context="empty").notes
    # of controls alone what is of the student is left out; unlike it they may be alike
    controls = {"control: moth": "owl", "control: wolf": "wolf"}
    notes = found.trait_matrix(controls, context="default").notes
    assert not {wolf, moth, learnt, little} & set(notes)
    # nor is there what is of student minus controls
    asked = (
        "control wolf has the trait that is asked for (wolf), and no manifest names the student's",
        "asked for wolf, and the student was made for bat: no student here was made for it",
    )
    assert asked[1] in noted(*asked).trait_matrix(own, context="default").notes
    assert asked[0] not in noted(*asked).trait_matrix(own, context="default").notes
    assert not {*asked} & set(noted(*asked).trait_matrix(controls, context="default").notes)
    notes = noted(wolf).trait_matrix(controls, context="default").notes
    assert wolf in notes
