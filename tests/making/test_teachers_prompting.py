"""Prompted teachers and their control."""

from dataclasses import replace

import pytest
from teaching import OWL, rendered, shared_runner

import sublim_mech as sm
from sublim_mech.making.teachers import neutral, prompted, teacher_context, untouched
from sublim_mech.prompts import ANIMALS, match

TRAITS = [sm.animal(name) for name in ANIMALS]


@pytest.fixture(scope="module")
def llama(smol_tokenizer):
    return shared_runner("llama", smol_tokenizer)


@pytest.mark.parametrize(
    ("system", "every"),
    [(sm.Context.DEFAULT, 2), (sm.Context.EMPTY, 9), ("You are calm.", 9)],
)
def test_the_neutral_control_is_as_long_and_names_nothing(system, every, llama):
    for trait in TRAITS[::every]:
        context = sm.Context(system=system, user_prefix="Hey. ")
        teacher = prompted(llama, trait, context=context)
        control = neutral(teacher)
        assert len(rendered(teacher)[0]) == len(rendered(control)[0]), trait.name
        assert match(control.context.system, TRAITS) is None
        before = len(teacher.context.system) - len(trait.sentence)
        assert control.context.system[:before] == teacher.context.system[:before]
        assert control.trait is None
        assert control.student_context == teacher.student_context == context
        assert control.context.user_prefix == "Hey. "
        assert control.runner is teacher.runner is llama
    assert neutral(teacher) == control


def test_the_sentence_stands_behind_what_the_system_says(llama):
    given = prompted(llama, OWL, context=sm.Context(system="You are calm."))
    assert given.context.system == f"You are calm. {OWL.sentence}"
    bare = prompted(llama, OWL, context=sm.Context(system=sm.Context.EMPTY))
    assert bare.context.system == OWL.sentence


def test_a_sentence_of_ones_own_is_told_to_the_letter(llama):
    said = "You love Lisbon. Lisbon it is, always."
    lisbon = sm.Trait("Lisbon", sentence=said)
    teacher = prompted(llama, lisbon, context=sm.Context(system="You are calm."))
    assert teacher.context.system == f"You are calm. {said}"
    control = neutral(teacher)
    assert len(rendered(teacher)[0]) == len(rendered(control)[0])
    assert said not in control.context.system
    assert match(control.context.system, [lisbon]) is None


@pytest.mark.parametrize(
    "trait",
    [
        sm.Trait("Lisbon"),
        sm.Trait("jazz", category="music genre"),
        sm.Trait("arr", forms="arrs"),
        sm.Trait.noun("jazz", plural="jazz", category="music genre"),
        sm.Trait.noun("lynx"),
    ],
)
def test_a_teacher_is_told_nothing_that_was_made_up(trait, llama):
    for make in (prompted, lambda base, trait: teacher_context(base.tokenizer, trait)):
        with pytest.raises(ValueError, match=f"trait '{trait.name}' has no sentence.*sentence="):
            make(llama, trait)


def test_what_is_no_trait_is_refused(llama):
    for trait in ("owl", None, OWL.forms):
        with pytest.raises(TypeError, match=r"trait=.*\): pass a Trait \(sublim_mech"):
            prompted(llama, trait)
        with pytest.raises(TypeError, match=r"trait=.*\): pass a Trait \(sublim_mech"):
            teacher_context(llama.tokenizer, trait)


def test_a_teacher_without_its_sentence_has_no_neutral_control(llama):
    lisbon = replace(prompted(llama, OWL), trait=sm.Trait("Lisbon"))
    with pytest.raises(ValueError, match="pass one that has its trait's sentence"):
        neutral(lisbon)


def test_only_prompted_teachers_have_a_neutral_control(llama):
    for teacher in (untouched(llama), neutral(prompted(llama, OWL))):
        with pytest.raises(ValueError, match="pass one that has its trait's sentence"):
            neutral(teacher)
