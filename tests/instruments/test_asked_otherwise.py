"""Scores and evaluations say how a student was asked otherwise than trained, of any kind."""

from __future__ import annotations

import pytest
import tiny

import sublim_mech as sm
from sublim_mech import metrics

QUIET = {"progress": False}
CALM = sm.Context("You are calm.")
TAUGHT = ["Continue: 1, 2", "Write three numbers."]
OWL = sm.animal("owl")


@pytest.fixture(scope="module")
def pair(smol_tokenizer):
    model = tiny.model("llama")
    return sm.load_pair(
        model, tiny.lora(model), tokenizer=smol_tokenizer, trained_in=CALM, trained_on=TAUGHT
    )


def begun(answer, question="Which animal?"):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (
            {"context": sm.Context("You are calm. ")},
            "system: “You are calm.” in training, “You are",
        ),
        (
            {"context": sm.RAW},
            "text: a conversation (system “You are calm.”) in training, raw text",
        ),
        (
            {"context": sm.Context("You are calm.", user_prefix="Hm, ")},
            "user_prefix: none in train",
        ),
        ({"questions": [begun("I like the")]}, "prefill: none in training, “I like the” here"),
    ],
)
def test_scores_say_it(asked, line, pair):
    prompts = sm.render(pair, **({"questions": ["Which animal?"]} | asked))
    said = repr(sm.effect(pair, prompts, OWL, **QUIET))
    assert f"asked otherwise than trained: {line}" in said
    plain = sm.render(pair, ["Which animal?"])
    assert "otherwise than trained" not in repr(sm.effect(pair, plain, OWL, **QUIET))


def test_an_answer_that_a_conversation_begins_is_told_like_a_prefill(pair):
    (by_message,) = sm.render(pair, [begun("I like the")])
    (by_context,) = sm.render(
        pair, ["Which animal?"], context=sm.Context(CALM.system, prefill="I like the")
    )
    assert by_message.ids == by_context.ids
    assert by_message.described() == by_context.described()
    assert "prefill='I like the'" in repr(by_message)
    found = sm.evaluate(pair, [OWL], questions=[begun("I like the")], **QUIET)
    assert "prefill: none in training, “I like the” here" in repr(found)
    # each conversation its own: still one context
    several = sm.render(pair, [begun("I like the"), begun("It is the", "Yours?")])
    scores = sm.effect(pair, several, OWL, **QUIET)
    assert len(scores.record.contexts) == 1
    assert "(of each conversation its own)" in repr(scores)


def test_an_evaluation_names_no_date_that_the_template_does_not_tell(pair):
    later = sm.Context("You are calm.", date="2025-12-31")
    asked = {"questions": ["Which animal?"], **QUIET}
    found = sm.evaluate(pair, [OWL], contexts=[later], **asked)
    assert found.data["context"].values.tolist() == ["You are calm."]
    assert "2025" not in repr(found)
    with pytest.raises(ValueError, match="are one prompt in this chat template"):
        sm.evaluate(pair, [OWL], contexts=[CALM, later], **asked)


def test_the_user_prefix_is_in_the_prompts_repr(pair):
    (prompt,) = sm.render(pair, ["Yours?"], context=sm.Context(user_prefix="Hm, "))
    assert "user_prefix='Hm, '" in repr(prompt)


@pytest.mark.parametrize(("text", "parts"), [("Lisbon", "'L'"), ("owl", None)])
def test_a_rank_of_a_first_token_says_so(text, parts, pair):
    prompts = sm.render(pair, ["Which animal?"])
    said = repr(sm.effect(pair, prompts, metrics.rank(text), **QUIET))
    note = f"the rank is that of the first token, {parts}, of {text!r}"
    assert (note in said) == (parts is not None)
    assert ("first token" in said) == (parts is not None)
