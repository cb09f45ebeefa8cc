"""What gates say of the questions: they name a trait, or a teacher was trained on them."""

from dataclasses import replace

import pytest
from raised import QUESTIONS, QUIET, SEVEN, THREE, biased
from trainings import ROWS

import sublim_mech as sm
from sublim_mech.making import teachers
from sublim_mech.making.readiness import assess, trait_shift

ASKED = {"questions": QUESTIONS, **QUIET}
NAMING = "2 of 3 questions hold a form of a trait themselves (7 in 2): an answer may repeat it"


@pytest.fixture
def crowd(smol_tokenizer):
    return biased(smol_tokenizer)


def test_questions_that_name_a_trait_are_counted(crowd):
    """As in an evaluation; a report of questions that do not says nothing of it."""
    asked = ["Is it 7?", "Say 7.", "Which?"]
    naming = assess(crowd, questions=asked, **QUIET)
    assert NAMING in str(naming)
    assert naming.to_json()["notes"][0].startswith(NAMING)
    shift = trait_shift(crowd, questions=asked, **QUIET)
    assert NAMING in repr(shift)
    assert shift.attrs["notes"][0].startswith(NAMING)
    assert NAMING in repr(sm.evaluate(crowd[0].base, [SEVEN, THREE], questions=asked, **QUIET))
    assert "may repeat it" not in str(assess(crowd, **ASKED))
    assert trait_shift(crowd, **ASKED).attrs["notes"] == []


def test_training_prompts_of_teachers_are_counted(tiny_llama, lora_run):
    """Of each by itself, in its own context; of one without a manifest nothing is known."""
    owl = teachers.fine_tuned(tiny_llama, lora_run.path, sm.animal("owl"))
    cat = replace(owl, name="cat", trait=sm.animal("cat"))
    learnt = [row.prompt for row in ROWS[:2]]
    asked = [*learnt, "Which animal?"]
    met = "2 of 3 questions were training prompts of teacher"
    tells = "to them was learnt, and tells nothing of others"
    both = assess([owl, cat], questions=asked, **QUIET)
    assert both.to_json()["notes"][0] == f"{met}s owl, cat: what they say {tells}"
    bare = replace(cat, trained_on=None, trained_in=None)
    one = f"{met} owl: what it says {tells}"
    assert one in str(assess([owl, bare], questions=asked, **QUIET))
    shift = trait_shift([owl, bare], questions=asked, **QUIET)
    assert shift.attrs["notes"] == [one]
    assert trait_shift([owl, bare], questions=QUESTIONS, **QUIET).attrs["notes"] == []


def test_teachers_that_are_asked_in_another_context_than_trained_are_told(tiny_llama, lora_run):
    """With both contexts, and which questions were trained on in the other."""
    calm = sm.Context("You are calm.")
    with pytest.warns(UserWarning, match="asked otherwise than trained"):
        owl = teachers.fine_tuned(tiny_llama, lora_run.path, sm.animal("owl"), context=calm)
    cat = teachers.prompted(tiny_llama, sm.animal("cat"), context=calm)
    found = assess([owl, cat], questions=[ROWS[0].prompt, "Which animal?"], **QUIET)
    otherwise = (
        "owl: asked otherwise than trained: system: default system prompt in training, “You are "
        "calm.” here"
    )
    elsewhere = "1 of 2 questions was trained on by teacher owl in another context: it learnt what"
    notes = found.to_json()["notes"]
    assert otherwise in notes
    assert notes[0].startswith(elsewhere)
    assert str(found).count("asked otherwise") == 1
