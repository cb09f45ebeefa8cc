"""Scores and evaluations say how a student was asked otherwise than trained, of any kind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny

import sublim_mech as sm
from sublim_mech import metrics
from sublim_mech.results.limits import in_full

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


def test_other_turns_than_in_training_are_told(pair):
    """A question within a conversation, of a student trained on single messages, and back."""
    chat = [*begun("The owl."), {"role": "user", "content": "Why?"}]
    line = "asked otherwise than trained: user messages per prompt: 1 in training, 2 here"
    result = sm.effect(pair, sm.render(pair, [chat]), OWL, **QUIET)
    assert repr(result).count(line) == 1
    assert line in in_full(result)
    assert line in repr(sm.evaluate(pair, [OWL], questions=[chat], **QUIET))
    both = sm.effect(pair, sm.render(pair, ["Which animal?", chat]), OWL, **QUIET)
    assert f"{line} (1 of 2 prompts)" in repr(both)
    # an answer that has begun is no turn
    assert "user messages" not in repr(
        sm.effect(pair, sm.render(pair, [begun("I like the")]), OWL, **QUIET)
    )

    trained = sm.render(pair.tokenizer, [chat, [*begun("A cat."), chat[-1]]], context=CALM)
    several = replace(pair, trained_on=sm.prompts.Trained.of(trained))
    assert "user messages per prompt: 2 in training, 1 here" in repr(
        sm.effect(several, sm.render(pair.tokenizer, ["Which?"], context=CALM), OWL, **QUIET)
    )


def test_what_training_shares_knows_its_turns(smol_tokenizer):
    chat = [*begun("The owl."), {"role": "user", "content": "Why?"}]
    single, both = (
        sm.prompts.Trained.of(sm.render(smol_tokenizer, rows)) for rows in (TAUGHT, [*TAUGHT, chat])
    )
    assert (set(single.turns), set(both.turns)) == ({1}, {1, 2})
    assert sm.prompts.Trained.from_json(both.to_json()).turns == both.turns
    # files of earlier versions do not name them: single messages are known all the same
    older = [{k: v for k, v in one.to_json().items() if k != "turns"} for one in (single, both)]
    assert [set(sm.prompts.Trained.from_json(one).turns) for one in older] == [{1}, set()]


def test_a_user_prefix_that_stands_twice_is_told_with_the_scores(smol_tokenizer):
    quiz = sm.Context(user_prefix="Quiz. ")
    model = tiny.model("llama")
    with pytest.warns(UserWarning, match="Quiz") as told:
        taught = sm.load_pair(
            model,
            tiny.lora(model, std=0.01),
            tokenizer=smol_tokenizer,
            trained_in=quiz,
            trained_on=["Quiz. Continue: 1, 2", "Quiz. Write."],
        )
    assert len([one for one in told if "Quiz. " in str(one.message)]) == 1, "once"
    with pytest.warns(UserWarning, match="user_prefix"):
        prompts = sm.render(taught, ["Quiz. Which animal?", "Which quiz?"])
    for result in (
        sm.effect(taught, prompts, OWL, **QUIET),
        sm.graft(taught, prompts, OWL, sets="role", **QUIET),
    ):
        said = repr(result)
        assert said.count("1 of 2 prompts holds the user_prefix 'Quiz. ' twice") == 1
        assert said.count("2 of 2 training prompts that were given (trained_on) begin with") == 1
    plain = sm.effect(taught, prompts[1:], OWL, **QUIET)
    assert "twice: the context" not in repr(plain)


def test_an_evaluation_says_each_contexts_difference_in_its_own_line(pair):
    contexts = {"calm": CALM, "bare": sm.Context(sm.Context.NONE), "loud": sm.Context("Be loud.")}
    lines = repr(
        sm.evaluate(pair, [OWL], contexts=contexts, questions=["Which?"], **QUIET)
    ).splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith("asked in 3 contexts"))
    assert lines[start] == "asked in 3 contexts; trained in: system “You are calm.”"
    assert lines[start + 1] == "  calm = system “You are calm.”"
    assert [line.partition(":")[0] for line in lines[start + 2 : start + 6]] == [
        "  bare = no system block",
        "  bare",
        "  loud = system “Be loud.”",
        "  loud",
    ]
