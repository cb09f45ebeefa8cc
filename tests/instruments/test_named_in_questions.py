"""Questions that name the trait are counted, wherever they are scored; contexts that do are not."""

from __future__ import annotations

import pytest
from pairs import TRAIT, shared_pair

import sublim_mech as sm
from sublim_mech.instruments.named_in_questions import named_in_questions
from sublim_mech.prompts import ANIMALS, TREES, animal, tree

NAMING = ["Do you like owls?", "Say owl.", "An OWL or an owlet?"]
REST = ["Which animal?", "Name one."]
TOLD = "an answer may repeat it from there"


@pytest.fixture(scope="module")
def pair(smol_tokenizer):
    return shared_pair("llama", "lora", smol_tokenizer)


def told(pair, questions, traits=(TRAIT,), **context):
    return named_in_questions(sm.render(pair, questions, context=sm.Context(**context)), traits)


def test_forms_are_whole_words_as_they_are_written(pair):
    assert told(pair, [*NAMING, *REST]) == (
        f"2 of 5 prompts hold a form of the trait themselves: {TOLD}",
    )
    assert told(pair, [NAMING[0], *REST])[0].startswith(
        "1 of 3 prompts holds a form of the trait i"
    )
    assert told(pair, REST) == ()


def test_of_several_traits_those_are_named_that_are_there(pair):
    traits = [TRAIT, animal("cat"), animal("dog")]
    assert told(pair, [*NAMING, "Owls or cats?"], traits) == (
        f"3 of 4 prompts hold forms of traits themselves (owl in 3, cat in 1): {TOLD}",
    )
    assert told(pair, [*REST, "A dog?"], traits) == (
        f"1 of 3 prompts holds a form of a trait itself (dog in 1): {TOLD}",
    )


def test_a_context_may_name_the_trait(pair):
    for context in (
        {"system": "You love owls."},
        {"user_prefix": "You love owls. "},
        {"prefill": "No owl,"},
    ):
        assert told(pair, REST, **context) == ()
        assert "1 of 3" in told(pair, [*REST, NAMING[1]], **context)[0]


def test_all_that_user_and_assistant_say_counts(pair):
    def talk(first, answer):
        messages = [("user", first), ("assistant", answer), ("user", "Which animal?")]
        return [{"role": role, "content": content} for role, content in messages]

    assert told(pair, [talk("Hm.", "I love cats.")]) == ()
    assert "1 of 2" in told(pair, [talk("Hm.", "I love owls."), talk("Hm.", "I love cats.")])[0]
    assert "1 of 1" in told(pair, [talk("Hm.", "Owl.")], prefill="A cat,")[0]
    begun = [*talk("Hm.", "What?"), {"role": "assistant", "content": "No owl, but"}]
    assert "1 of 1" in told(pair, [begun])[0]
    assert "1 of 1" in told(pair, [talk("I saw an owl.", "Did you?")])[0]
    raw = sm.render(pair, ["The owl is", "It is"], context=sm.RAW)
    assert "1 of 2 texts" in named_in_questions(raw, [TRAIT], "text")[0]


def test_no_question_of_the_library_names_its_trait(pair):
    for make, names in ((animal, ANIMALS), (tree, TREES)):
        prompts = sm.render(pair, make(names[0]).questions)
        assert named_in_questions(prompts, [make(name) for name in names]) == ()


@pytest.mark.parametrize(
    ("metric", "line"),
    [
        (sm.metrics.target("Owl"), "1 of 3 prompts holds the text that is scored itself"),
        (sm.metrics.rank("owls"), "1 of 3 prompts holds the text that is scored itself"),
        (
            sm.metrics.logit_difference("I", "A"),
            "1 of 3 prompts holds a text that is scored itself (A in 1)",
        ),
    ],
    ids=lambda one: one.name if isinstance(one, sm.metrics.Metric) else "",
)
def test_texts_of_other_metrics_are_found_as_forms_are(pair, metric, line):
    asked = sm.render(pair, ["Owl or cat?", "Are A and owls one?", "Name it."])
    assert f"\n{line}: {TOLD}" in repr(sm.effect(pair, asked, metric, progress=False))


def test_scores_evaluations_and_answers_tell_it(pair):
    quiet = {"progress": False}
    asked, rest = (sm.render(pair, some) for some in (NAMING[:2], REST))
    line = f"2 of 2 prompts hold a form of the trait themselves: {TOLD}"
    assert line in repr(sm.effect(pair, asked, TRAIT, **quiet))
    assert TOLD not in repr(sm.effect(pair, rest, TRAIT, **quiet))
    assert line.replace("prompts", "questions") in repr(
        sm.evaluate(pair, [TRAIT], questions=NAMING[:2], **quiet)
    )
    side = {"samples": 0, "max_new_tokens": 2, **quiet}
    assert line in repr(sm.instruments.side_by_side(pair, asked, TRAIT, **side))
    # a metric of a difference reads both traits
    contrast = sm.metrics.own_minus_others(TRAIT, [animal("cat")])
    assert "(owl in 2)" in repr(sm.effect(pair, asked, contrast, **quiet))
