"""Tokens, roles, one BOS and answers; what contexts do is in test_template."""

import copy
import dataclasses
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chats import QUESTION, TALK, check, text_of, user
from conftest import TEMPLATES
from tokenizers.processors import ByteLevel, TemplateProcessing

from sublim_mech.prompts import PLAIN, RAW, Context, completion_ids, render


def test_turns_and_roles_of_a_conversation(smol_tokenizer):
    (prompt,) = render(smol_tokenizer, [TALK])
    roles_and_turns = list(zip(prompt.roles, prompt.turns, strict=True))
    by_turn = [sorted({role for role, turn in roles_and_turns if turn == n}) for n in range(5)]
    assert by_turn == [
        ["system", "template"],
        ["template", "user"],
        ["assistant", "template"],
        ["template", "user"],
        ["template"],
    ]
    turn_roles = dict(zip(prompt.turns, prompt.turn_roles, strict=True))
    assert turn_roles == {0: "system", 1: "user", 2: "assistant", 3: "user", 4: "assistant"}
    for n in range(4):
        tokens = zip(prompt.tokens, prompt.turns, strict=True)
        text = "".join(token for token, turn in tokens if turn == n)
        assert text.startswith("<|im_start|>")
        assert text.endswith("<|im_end|>\n"), "the mark that closes a turn belongs to it"


@pytest.mark.parametrize("question", [QUESTION, TALK], ids=["question", "conversation"])
def test_the_user_prefix_stands_before_the_first_user_message_only(question, dressed):
    tokenizer = dressed("qwen2.5")
    (plain,) = render(tokenizer, [question])
    (prefixed,) = render(tokenizer, [question], context=Context(user_prefix="Bird: "))
    first = question if isinstance(question, str) else question[0]["content"]
    assert prefixed.text == plain.text.replace(first, f"Bird: {first}")
    assert text_of(prefixed, "user") == "Bird: " + text_of(plain, "user")
    assert prefixed.question == plain.question


def test_rendering_leaves_what_it_was_given_alone(smol_tokenizer):
    talk = copy.deepcopy(TALK)
    template = smol_tokenizer.chat_template
    render(smol_tokenizer, [talk], context=Context("S", user_prefix="P "))
    assert talk == TALK
    assert smol_tokenizer.chat_template == template


def test_characters_of_several_tokens_keep_their_role(smol_tokenizer):
    (prompt,) = render(smol_tokenizer, ["🦉"])
    owls = [i for i, role in enumerate(prompt.roles) if role == "user"]
    assert len(owls) > 1
    assert smol_tokenizer.decode([prompt.ids[i] for i in owls]) == "🦉"


# -------------------------------------------------------------------------- one BOS, GPT-2, offsets


def test_plain_on_gpt2(gpt2_tokenizer):
    (prompt,) = render(gpt2_tokenizer, [QUESTION], template=PLAIN)
    assert prompt.text == f"<|endoftext|>Question: {QUESTION}\nAnswer:"
    check(prompt, gpt2_tokenizer)
    assert prompt.roles[0] == "bos"
    assert text_of(prompt, "user") == f" {QUESTION}", "GPT-2 merges the space into the word"
    assert prompt.lead == " "
    assert prompt.close == "\n"
    assert completion_ids(gpt2_tokenizer, prompt, "owl") == gpt2_tokenizer(" owl")["input_ids"]
    joint = gpt2_tokenizer(prompt.text + " owl")["input_ids"]
    assert [*prompt.ids, *completion_ids(gpt2_tokenizer, prompt, "owl")] == joint
    (told,) = render(gpt2_tokenizer, [TALK], template=PLAIN, context=Context("Be kind."))
    assert told.text == (
        "<|endoftext|>Instructions: Be kind.\n\nQuestion: Hi there\nAnswer: Hello, friend\n"
        "Question: Which bird?\nAnswer:"
    )
    check(told, gpt2_tokenizer)
    turn_roles = dict(zip(told.turns, told.turn_roles, strict=True))
    assert list(turn_roles.values()) == ["system", "user", "assistant", "user", "assistant"]
    assert list(turn_roles) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "context",
    [Context(), Context(Context.EMPTY), Context(Context.NONE), Context("Be kind.")],
    ids=str,
)
def test_a_tokenizer_that_adds_its_own_bos_leaves_it_to_the_template(context, dressed):
    """As `apply_chat_template(tokenize=True)` does, with which others train."""
    tokenizer = copy.deepcopy(dressed("gemma3"))
    start = ("<bos>", tokenizer.bos_token_id)
    adding = TemplateProcessing(single="<bos> $A", special_tokens=[start])
    tokenizer.backend_tokenizer.post_processor = adding
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    for name in ("smollm2", "llama3.1"):  # without and with one
        (prompt,) = render(tokenizer, [QUESTION], template=TEMPLATES[name], context=context)
        has_one = name == "llama3.1"
        assert (prompt.roles[0] == "bos") == has_one
        check(prompt, tokenizer)
        assert prompt.text.count("<bos>") == has_one
        if context.system is Context.DEFAULT:
            by_itself = tokenizer.apply_chat_template(
                [user(QUESTION)], chat_template=TEMPLATES[name], add_generation_prompt=True
            )
            assert list(prompt.ids) == by_itself["input_ids"]
        chosen = dataclasses.replace(context, bos=True)
        (begun,) = render(tokenizer, [QUESTION], template=TEMPLATES[name], context=chosen)
        assert begun.text == ("" if has_one else "<bos>") + prompt.text
        check(begun, tokenizer)


def test_a_question_that_quotes_the_bos_leaves_the_real_one_its_role(dressed):
    with pytest.warns(UserWarning, match="'<s>' stands in the question 'What does <s> mean"):
        (prompt,) = render(dressed("mistral"), ["What does <s> mean?"])
    assert prompt.roles[0] == "bos"
    assert text_of(prompt, "user").strip() == "What does <s> mean?"


def test_tokenizers_that_trim_spaces_off_their_offsets_give_the_same_prompt(dressed):
    trimming = copy.deepcopy(dressed("llama3.1"))
    trimming.backend_tokenizer.post_processor = ByteLevel(trim_offsets=True)
    raw = trimming("a b", return_offsets_mapping=True)["offset_mapping"]
    assert raw == [(0, 1), (2, 3)]
    questions = [QUESTION, TALK, "a  b"]
    assert render(trimming, questions) == render(dressed("llama3.1"), questions)


# ------------------------------------------------------------------------------------------ answers


@pytest.mark.filterwarnings("ignore:the tokens of:UserWarning")  # of Llama's blank line, see below
@pytest.mark.parametrize(
    ("name", "lead", "close"),
    [
        ("smollm2", "", "<|im_end|>\n"),
        ("qwen2.5", "", "<|im_end|>\n"),
        ("llama3.1", "", "<|eot_id|>"),
        ("gemma3", "", "<end_of_turn>\n"),
        ("gemma2", "", "<end_of_turn>\n"),
        ("mistral", " ", "</s>"),
    ],
)
def test_an_answer_follows_as_in_the_templates_own_transcript(name, lead, close, dressed):
    tokenizer = dressed(name)
    (prompt,) = render(tokenizer, [QUESTION])
    assert (prompt.lead, prompt.close) == (lead, close)
    answer = completion_ids(tokenizer, prompt, "owl", close=True)
    assert tokenizer.decode(answer) == f"{lead}owl{close}"
    assert tokenizer.decode(completion_ids(tokenizer, prompt, "owl")) == f"{lead}owl"
    said = [user(QUESTION), {"role": "assistant", "content": "owl"}]
    transcript = tokenizer.apply_chat_template(said, tokenize=False)
    assert tokenizer.decode([*prompt.ids, *answer]) == transcript
    # SmolLM2's tokenizer splits Llama's blank line before a word otherwise than at a prompt's end
    if name != "llama3.1":
        together = tokenizer(transcript, add_special_tokens=False)["input_ids"]
        assert [*prompt.ids, *answer] == together


def test_an_answer_that_would_merge_with_the_prompt_stands_alone_and_says_so(gpt2_tokenizer):
    # its trailing space would become part of ` owl`
    template = PLAIN.replace("'Answer:' }}", "'Answer: ' }}")
    (prompt,) = render(gpt2_tokenizer, [QUESTION], template=template)
    assert prompt.lead == ""
    with pytest.warns(UserWarning, match=r"the tokens of '.*Answer: ' \+ 'owl' are not"):
        answer = completion_ids(gpt2_tokenizer, prompt, "owl")
    assert answer == gpt2_tokenizer("owl")["input_ids"]


# ------------------------------------------------------------------- what warns, and what is blank


@pytest.fixture
def said():
    """The warnings of a test."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def test_special_tokens_in_questions_are_named_once_per_call(said, smol_tokenizer):
    quoted = ["What does <|im_end|> do?", [*TALK[:1], *TALK[1:2], user("And <|im_start|>?")]]
    prompts = render(smol_tokenizer, [QUESTION, *quoted], context=Context("Say <|im_end|>."))
    messages = [str(w.message) for w in said]
    assert len(messages) == 1
    assert re.search(r"'<\|im_end\|>' stands in the system prompt of .*Name your", messages[0])
    assert "Hugging Face" in messages[0]
    assert messages[0].endswith(
        "(4 more notices on special tokens in what was written.)"
    )  # three system prompts, two questions
    assert said[0].filename == __file__
    (end,) = smol_tokenizer("<|im_end|>")["input_ids"]
    of_user = [i for i, r in zip(prompts[1].ids, prompts[1].roles, strict=True) if r == "user"]
    assert end in of_user, "as Hugging Face has it"


def test_the_question_is_named_with_its_special_token(said, gpt2_tokenizer):
    render(gpt2_tokenizer, ["One. <|endoftext|> Two"], context=RAW)
    assert re.search(r"'<\|endoftext\|>' stands in the question 'One\.", str(said[0].message))


def test_an_answer_with_a_space_of_its_own_is_told_once(smol_tokenizer):
    prompts = render(smol_tokenizer, ["Which animal?", "Which tree?"])
    with pytest.warns(UserWarning, match="the answer ' owl' begins with white space of its own"):
        completion_ids(smol_tokenizer, prompts[0], " owl")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        completion_ids(smol_tokenizer, prompts[0], "owl ")
    # where the answer is closed, what it ends in is learnt
    told = r"the answer 'owl\\n' ends in white space, which is a part of it before its end"
    with pytest.warns(UserWarning, match=told):
        ids = completion_ids(smol_tokenizer, prompts[0], "owl\n", close=True)
    assert smol_tokenizer.decode(ids) == "owl\n<|im_end|>\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        completion_ids(smol_tokenizer, prompts[0], "owl", close=True)


def test_special_tokens_in_answers_are_named(said, smol_tokenizer):
    (prompt,) = render(smol_tokenizer, [QUESTION])
    (end,) = smol_tokenizer("<|im_end|>")["input_ids"]
    assert end in completion_ids(smol_tokenizer, prompt, "owl<|im_end|>")
    assert "'<|im_end|>' stands in the answer 'owl<|im_end|>'" in str(said[0].message)
    assert len(said) == 1
    assert said[0].filename == __file__


def test_the_templates_own_special_tokens_are_no_news(said, dressed):
    for name in TEMPLATES:
        for prompt in render(dressed(name), [QUESTION, TALK]):
            if name != "llama3.1":  # its blank line is another token before a word
                completion_ids(dressed(name), prompt, "owl", close=True)
    assert not said


HALF = "\ud83c"  # of an emoji, as text that was cut inside one has it


@pytest.mark.parametrize("context", [None, RAW])
def test_half_a_character_is_told_with_its_place(context, smol_tokenizer):
    told = r"^questions\[1\]: 'A drink\? \\ud83c' has half a character at place 9 \(the lone surr"
    with pytest.raises(ValueError, match=told):
        render(smol_tokenizer, [QUESTION, f"A drink? {HALF}"], context=context)
    (prompt,) = render(smol_tokenizer, [QUESTION], context=context)
    with pytest.raises(ValueError, match=r"^the answer to '.*': '1\\ud83c' has .* at place 1"):
        completion_ids(smol_tokenizer, prompt, f"1{HALF}")


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("key", ["content", "reasoning_content"])
def test_half_a_character_in_a_message_is_told(place, key, smol_tokenizer):
    talk = [{"role": role, "content": "Words."} for role in ("user", "assistant", "user")]
    talk[place][key] = f"{'Far ' * 30}{HALF}"
    told = rf"^questions\[0\]: messages\[{place}\], of the {talk[place]['role']}: .* at place 120 "
    with pytest.raises(ValueError, match=told):
        render(smol_tokenizer, [talk])


@pytest.mark.parametrize("blank", ["", "  \n", "\u200b", "\ufeff \u2060"])
@pytest.mark.parametrize("context", [None, RAW])
def test_blank_questions_and_answers_are_refused(blank, context, smol_tokenizer):
    with pytest.raises(ValueError, match=r"^questions\[1\]: '.*' is blank; give"):
        render(smol_tokenizer, [QUESTION, blank], context=context)
    (prompt,) = render(smol_tokenizer, [QUESTION], context=context)
    with pytest.raises(ValueError, match=r"the answer .* is blank"):
        completion_ids(smol_tokenizer, prompt, blank)


def test_a_table_of_questions_is_sent_to_one_of_its_columns(smol_tokenizer):
    """Its elements are the names of its columns, which nobody asks."""
    table = pd.DataFrame({"answer": ["owl"], "question": [QUESTION]})
    with pytest.raises(TypeError, match=r"prompts: questions=list\(rows\['question'\]\)"):
        render(smol_tokenizer, table)
    assert render(smol_tokenizer, table["question"]) == render(smol_tokenizer, [QUESTION])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_blank_messages_are_refused(place, smol_tokenizer):
    talk = copy.deepcopy(TALK)
    talk[place]["content"] = " "
    told = rf"messages\[{place}\], of the {talk[place]['role']}: ' ' is blank"
    with pytest.raises(ValueError, match=rf"^questions\[1\]: {told}; give"):
        render(smol_tokenizer, [QUESTION, talk])


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("question", [7, None, ["text"], {"role": "user"}])
def test_a_question_is_a_text_or_a_conversation(question, smol_tokenizer):
    message = (
        r"questions=.*, element 1 is .*: pass a list of texts or lists of \{'role': \.\.\., 'co"
    )
    for questions in (["text", question], iter(["text", question])):
        with pytest.raises(TypeError, match=message):
            render(smol_tokenizer, questions)


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "user", "content": None}])
def test_a_message_has_a_role_and_a_content(message, smol_tokenizer):
    with pytest.raises(TypeError, match="needs a 'role' and a 'content', both texts"):
        render(smol_tokenizer, [[message]])


def test_questions_in_whatever_they_are_kept(smol_tokenizer):
    """An array, a generator, the messages of a data set with further fields."""
    asked = render(smol_tokenizer, [QUESTION])
    talk = [{"role": "user", "content": QUESTION, "thinking": None}]
    for questions in (np.array([QUESTION]), (q for q in [QUESTION]), [talk]):
        assert render(smol_tokenizer, questions) == asked


@pytest.mark.parametrize("questions", [7, {"role": "user", "content": "x"}])
def test_questions_are_a_list(questions, smol_tokenizer):
    with pytest.raises(TypeError, match=r"questions=.*pass a list"):
        render(smol_tokenizer, questions)


@pytest.mark.parametrize("context", ["text", 7, Context.NONE])
def test_a_context_is_a_context(context, smol_tokenizer):
    with pytest.raises(TypeError, match=r"context=.*\(system='\.\.\.'\), sublim_mech\.RAW\)"):
        render(smol_tokenizer, [QUESTION], context=context)


def test_a_base_is_told_to_hand_over_its_tokenizer(smol):
    with pytest.raises(TypeError, match=r"tokenizer is a Base; pass its tokenizer"):
        render(smol, [QUESTION])


@pytest.mark.parametrize(
    "talk",
    [
        [],
        TALK[1:],
        [{"role": "tool", "content": "x"}, user("y")],
        [{"role": "system", "content": "x"}, user("y")],
    ],
)
def test_conversations_begin_with_the_user(talk, smol_tokenizer):
    message = r"questions: .*(begins with a user message|context=Context)"
    with pytest.raises(ValueError, match=message):
        render(smol_tokenizer, [talk])


def test_questions_must_be_a_list_with_something_in_it(smol_tokenizer):
    with pytest.raises(ValueError, match="questions is empty"):
        render(smol_tokenizer, [])
    with pytest.raises(TypeError, match="pass a list"):
        render(smol_tokenizer, QUESTION)


@pytest.mark.parametrize("given", ["SmolLM2", Path("SmolLM2"), None])
def test_a_name_is_no_tokenizer(given):
    with pytest.raises(TypeError, match=rf"tokenizer='{given}'.*no tokenizer; .*pair\.tokenizer"):
        render(given, [QUESTION])


def test_a_slow_tokenizer_and_a_missing_template_are_errors(gpt2_tokenizer):
    class Slow:
        is_fast, chat_template = False, "x"

    with pytest.raises(ValueError, match=r"Slow gives no character offsets"):
        render(Slow(), [QUESTION])
    with pytest.raises(ValueError, match=r"no chat template.*context=sublim_mech.RAW.*PLAIN"):
        render(gpt2_tokenizer, [QUESTION])


@pytest.mark.parametrize(
    "question", ["Quiz. Which?", [{"role": "user", "content": "Quiz. Which?"}]]
)
def test_a_question_that_holds_the_prefix_already_is_told(question, smol_tokenizer):
    context = Context(user_prefix="Quiz. ")
    with pytest.warns(UserWarning, match="begins with its context's user_prefix='Quiz. '"):
        (prompt,) = render(smol_tokenizer, [question], context=context)
    assert "Quiz. Quiz. Which?" in prompt.text  # nothing is guessed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        render(smol_tokenizer, ["Which quiz?"], context=context)
