"""Prompted teachers and their control."""

import pytest
from teaching import OWL, rendered, shared_runner

import sublim_mech as sm
from sublim_mech.making.teachers import neutral, prompted, untouched
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
        before = len(teacher.context.system) - len(trait.teacher)
        assert control.context.system[:before] == teacher.context.system[:before]
        assert control.trait is None
        assert control.student_context == teacher.student_context == context
        assert control.context.user_prefix == "Hey. "
        assert control.runner is teacher.runner is llama
    assert neutral(teacher) == control


def test_the_sentence_stands_behind_what_the_system_says(llama):
    given = prompted(llama, OWL, context=sm.Context(system="You are calm."))
    assert given.context.system == f"You are calm. {OWL.teacher}"
    bare = prompted(llama, OWL, context=sm.Context(system=sm.Context.EMPTY))
    assert bare.context.system == OWL.teacher


def test_only_prompted_teachers_have_a_neutral_control(llama):
    for teacher in (untouched(llama), neutral(prompted(llama, OWL))):
        with pytest.raises(ValueError, match="pass one that has its trait's sentence"):
            neutral(teacher)
