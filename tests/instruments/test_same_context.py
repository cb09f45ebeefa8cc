"""A context that renders to the prompts of training is the training context, whatever its name."""

from __future__ import annotations

import pytest
import tiny

import sublim_mech as sm
from sublim_mech.prompts.alike import by_another
from sublim_mech.prompts.same import is_one_context

QUIET = {"progress": False}
DEFAULT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TAUGHT = ["Continue: 1, 2", "Write three numbers."]
ASKED = ["Which animal?", "Name an animal."]
OWL = sm.animal("owl")
BRIEF = sm.Context("Be brief.")


def paired(tokenizer, trained_in):
    model = tiny.model("llama")
    return sm.load_pair(
        model, tiny.lora(model), tokenizer=tokenizer, trained_in=trained_in, trained_on=TAUGHT
    )


@pytest.mark.parametrize("spelled", ["trained", "asked"])
def test_the_default_s_own_text_is_the_default(spelled, smol_tokenizer):
    both = [sm.Context(DEFAULT), sm.Context()]
    trained, asked = both if spelled == "trained" else both[::-1]
    pair = paired(smol_tokenizer, trained)
    prompts = sm.render(pair, ASKED, context=asked)
    assert [prompt.ids for prompt in prompts] == [prompt.ids for prompt in sm.render(pair, ASKED)]
    for result in (
        sm.effect(pair, prompts, OWL, **QUIET),
        sm.evaluate(pair, [OWL], contexts=[asked], questions=ASKED, **QUIET),
    ):
        assert "otherwise than trained" not in repr(result)
        assert "token by token the prompts of the training context" in repr(result)


def test_another_text_beside_it_is_still_told(smol_tokenizer):
    pair = paired(smol_tokenizer, sm.Context(DEFAULT))
    found = sm.evaluate(pair, [OWL], contexts=[sm.Context(), BRIEF], questions=ASKED, **QUIET)
    assert f"system: “{DEFAULT[:20]}" in repr(found)
    assert "in training, “Be brief.” here" in repr(found)
    assert "default system prompt here" not in repr(found)
    almost = sm.render(pair, ASKED, context=sm.Context(DEFAULT + "."))
    assert "asked otherwise than trained: system" in repr(sm.effect(pair, almost, OWL, **QUIET))


def test_a_prefix_typed_into_the_questions_is_that_of_training(smol_tokenizer):
    """Token by token they are the prompts of training; where one of them is not, it is told."""
    pair = paired(smol_tokenizer, sm.Context("Be brief.", user_prefix="Please: "))
    questions = ["Please: " + question for question in ASKED]
    prompts = sm.render(pair, questions, context=BRIEF)
    assert [prompt.ids for prompt in prompts] == [prompt.ids for prompt in sm.render(pair, ASKED)]
    one_context = "token by token the prompts of the training context"
    for result in (
        sm.effect(pair, prompts, OWL, **QUIET),
        sm.evaluate(pair, [OWL], contexts=[BRIEF], questions=questions, **QUIET),
        sm.instruments.side_by_side(pair, prompts, OWL, samples=0, max_new_tokens=1, **QUIET),
    ):
        assert "asked otherwise than trained" not in repr(result)
        assert one_context in repr(result)
    talk = [{"role": "user", "content": "Please: Hm."}, {"role": "assistant", "content": "?"}]
    talk.append({"role": "user", "content": "Which animal?"})
    for other in ("Which animal?", "Please : Which?", talk):
        mixed = sm.render(pair, [questions[0], other], context=BRIEF)
        told = repr(sm.effect(pair, mixed, OWL, **QUIET))
        assert "asked otherwise than trained: user_prefix: “Please:␣” in training" in told
        assert one_context not in told


def test_a_prefix_that_training_had_not_is_no_part_of_the_question(smol_tokenizer):
    """Whether it was typed into the rows is not known."""
    pair = paired(smol_tokenizer, BRIEF)
    asked = sm.render(pair, ASKED, context=sm.Context("Be brief.", user_prefix="Please: "))
    told = repr(sm.effect(pair, asked, OWL, **QUIET))
    assert "asked otherwise than trained: user_prefix: none in training, “Please:␣” here" in told


def test_a_beginning_in_the_conversation_is_that_of_training(smol_tokenizer):
    pair = paired(smol_tokenizer, sm.Context("Be brief.", prefill="I like the"))
    begun = {"role": "assistant", "content": "I like the"}
    talks = [[{"role": "user", "content": question}, begun] for question in ASKED]
    prompts = sm.render(pair, talks, context=BRIEF)
    assert [prompt.ids for prompt in prompts] == [prompt.ids for prompt in sm.render(pair, ASKED)]
    told = repr(sm.effect(pair, prompts, OWL, **QUIET))
    assert "otherwise than trained" not in told


def test_one_context_is_one_prompt(smol_tokenizer):
    assert is_one_context(smol_tokenizer, sm.Context(DEFAULT), sm.Context())
    assert is_one_context(smol_tokenizer, BRIEF, sm.Context("Be brief.", date="2025-12-31"))
    for other in (sm.RAW, sm.Context(sm.Context.NONE), sm.Context(DEFAULT, prefill="I")):
        assert not is_one_context(smol_tokenizer, sm.Context(), other)
    # nothing that this template cannot say is anything else
    unread = sm.Context(options={"unread": 1})
    assert not is_one_context(smol_tokenizer, sm.Context(), unread)


def test_what_is_told_of_a_template_is_told_of_its_own_prompts(smol_tokenizer):
    (own,) = sm.render(smol_tokenizer, ["Which animal?"], context=BRIEF)
    (other,) = sm.render(
        smol_tokenizer, ["Which animal?"], context=BRIEF, template=sm.prompts.PLAIN
    )
    assert by_another(smol_tokenizer, [own, other]) == [False, True]
