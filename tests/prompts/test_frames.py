"""Answers in their frames: prompt, lead, answer and close are what the template renders."""

import copy
import warnings

import pytest
from chats import QUESTION, TALK, check, text_of, user
from template_kinds import (
    ALWAYS_OPENS,
    CHANNEL,
    EMPTY_THOUGHT,
    KINDS,
    MARKS,
    NO_END,
    NOT_IN_THE_RENDERING,
    OPEN_THOUGHT,
    OPENED_UNASKED,
    SWITCHED_THOUGHT,
    chatml,
)

from sublim_mech.prompts import RAW, Context, completion_ids, render

BEGUN = "My favorite animal is the"
SHORT = {"role": "assistant", "content": "The owl"}


@pytest.fixture(scope="module")
def tokenizer(smol_tokenizer):
    """SmolLM2's, with the marks of all kinds."""
    made = copy.deepcopy(smol_tokenizer)
    special = {"extra_special_tokens": list(MARKS), "bos_token": "<s>", "eos_token": "<|end|>"}
    made.add_special_tokens(special)
    return made


def by_itself(tokenizer, messages, template, **options):
    """The template's own rendering, contents as texts or else as parts; its clock stopped."""
    template = template.replace("strftime_now('%Y-%m-%d')", "'2024-07-26'")
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, **options
    )
    if all(message["content"] in rendered for message in messages):
        return rendered
    parted = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    return tokenizer.apply_chat_template(parted, chat_template=template, tokenize=False, **options)


def expected(tokenizer, name, messages, **options):
    """The rendering of an answered conversation, by the two rules where it is no frame."""
    text = by_itself(tokenizer, messages, KINDS[name].template, **options)
    unasked = OPENED_UNASKED.get(name, "")
    assert text.endswith(unasked)
    return text.removesuffix(unasked) + NOT_IN_THE_RENDERING.get(name, "")


@pytest.mark.parametrize("question", [QUESTION, TALK], ids=["question", "conversation"])
@pytest.mark.parametrize("name", KINDS)
def test_prompt_lead_answer_and_close_are_the_templates_rendering(name, question, tokenizer):
    kind = KINDS[name]
    (prompt,) = render(tokenizer, [question], template=kind.template)
    messages = [user(question)] if isinstance(question, str) else question
    assert (prompt.lead, prompt.close) == (kind.lead, kind.close)
    whole = prompt.text + prompt.lead + SHORT["content"] + prompt.close
    assert whole == expected(tokenizer, name, [*messages, SHORT])
    generation = by_itself(tokenizer, messages, kind.template, add_generation_prompt=True)
    assert prompt.text == generation + kind.before
    if name != "spaced":  # which opens no turn for the answer
        check(prompt, tokenizer)
        of_answer = [t for t, r in zip(prompt.tokens, prompt.turn_roles, strict=True)]
        assert "".join(of_answer).endswith(kind.before)
    assert prompt.turns[0] == 0


@pytest.mark.parametrize("name", KINDS)
def test_the_close_opens_no_turn_and_is_met_behind_earlier_answers(name, tokenizer):
    kind = KINDS[name]
    (prompt,) = render(tokenizer, [QUESTION], template=kind.template)
    later = by_itself(tokenizer, [user("q"), SHORT, user("QQ")], kind.template)
    behind = later.partition(SHORT["content"])[2]
    opened = later.partition("q")[0].removeprefix("<s>")  # how a conversation opens
    if name != "channel":  # where the last answer ends otherwise
        assert behind.startswith(prompt.close)
    assert prompt.close
    assert opened not in prompt.close
    assert "assistant" not in prompt.close


@pytest.mark.parametrize("name", [name for name in KINDS if name != "cut space"])
def test_the_form_alone_is_scored(name, tokenizer):
    """Template text before an answer is prompt: the answer's tokens are those of its words."""
    (prompt,) = render(tokenizer, [QUESTION], template=KINDS[name].template)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a blank line that is another token before a word
        answer = completion_ids(tokenizer, prompt, "owl")
    assert tokenizer.decode(answer) == f"{prompt.lead}owl"


# ------------------------------------------------------------------- what an answer follows is told


def test_a_thought_that_answers_do_not_have_is_refused_and_a_prefill_named(tokenizer):
    with pytest.raises(ValueError, match=r"does not tell what an answer follows.*<think>.*prefill"):
        render(tokenizer, [QUESTION], template=OPEN_THOUGHT)
    begun = Context(prefill=BEGUN)
    (prompt,) = render(tokenizer, [QUESTION], template=OPEN_THOUGHT, context=begun)
    assert prompt.text == f"<s><|User|>{QUESTION}<|Assistant|>{BEGUN}"
    assert (prompt.lead, prompt.close) == (" ", "<|end|>")


def test_the_switches_that_close_a_thought_are_named(tokenizer):
    match = r"Context\(options=\{'enable_thinking': False\}\), or Context\(prefill="
    with pytest.raises(ValueError, match=match):
        render(tokenizer, [QUESTION], template=SWITCHED_THOUGHT)
    off = Context(options={"enable_thinking": False})
    (prompt,) = render(tokenizer, [QUESTION], template=SWITCHED_THOUGHT, context=off)
    assert prompt.text.endswith("<|im_start|>assistant\n<think></think>")
    assert prompt.lead == ""


def test_a_switch_gives_the_same_prompt_where_answers_have_an_empty_thought(tokenizer):
    (default,) = render(tokenizer, [QUESTION], template=EMPTY_THOUGHT)
    off = Context(options={"enable_thinking": False})
    (without,) = render(tokenizer, [QUESTION], template=EMPTY_THOUGHT, context=off)
    assert default.ids == without.ids
    thought = [r for t, r in zip(default.tokens, default.roles, strict=True) if "think" in t]
    assert thought == ["template"] * 2


@pytest.mark.parametrize(
    ("opens", "match"),
    [
        ("{{ '<|im_start|>assistant:' }}", "does not tell what an answer follows"),
        ("{{ '<|im_start|>assistant\n\n' }}", "does not tell what an answer follows"),
    ],
)
def test_a_generation_prompt_that_begins_no_answer_is_refused(opens, match, tokenizer):
    answer = "{{ '<|im_start|>assistant\n' + m.content + '<|im_end|>\n' }}"
    with pytest.raises(ValueError, match=match):
        render(tokenizer, [QUESTION], template=chatml(answer, opens))


def test_a_template_without_any_end_is_refused(tokenizer):
    endless = NO_END.replace("<|", "").replace("|>", ": ")
    with pytest.raises(ValueError, match="nothing after an answer, and no special token"):
        render(tokenizer, [QUESTION], template=endless)


def test_a_template_that_drops_the_answer_is_refused(tokenizer):
    with pytest.raises(ValueError, match="drops, repeats or moves the assistant message"):
        render(tokenizer, [QUESTION], template=chatml("{{ '<|im_start|>assistant\n' }}"))


# ----------------------------------------------------------------------------------------- prefills


@pytest.mark.parametrize("name", [name for name in KINDS if name != "empty thought"])
def test_an_answer_that_has_begun_is_continued_as_text(name, tokenizer):
    template = KINDS[name].template
    context = Context(prefill=BEGUN)
    (prompt,) = render(tokenizer, [QUESTION], template=template, context=context)
    messages = [user(QUESTION), {"role": "assistant", "content": f"{BEGUN} owl"}]
    whole = prompt.text + prompt.lead + "owl" + prompt.close
    assert whole == expected(tokenizer, name, messages)
    assert prompt.text.endswith(BEGUN)
    assert text_of(prompt, "assistant").strip() == BEGUN
    assert prompt.turn_roles[-1] == "assistant"
    assert (prompt.lead, prompt.close) == (" ", KINDS[name].close)
    assert prompt.question == QUESTION
    talk = [user(QUESTION), {"role": "assistant", "content": BEGUN}]
    (same,) = render(tokenizer, [talk], template=template)
    assert (same.ids, same.roles, same.lead) == (prompt.ids, prompt.roles, prompt.lead)


@pytest.mark.filterwarnings("ignore:'<think>' stands in:UserWarning")  # of the thought's own
def test_a_prefill_follows_an_empty_thought_or_brings_its_own(tokenizer):
    bare, own = (
        render(tokenizer, [QUESTION], template=EMPTY_THOUGHT, context=Context(prefill=begun))[0]
        for begun in (BEGUN, f"<think>\nBirds.\n</think>\n\n{BEGUN}")
    )
    assert bare.text.endswith(f"assistant\n<think>\n\n</think>\n\n{BEGUN}")
    assert text_of(bare, "assistant") == BEGUN
    assert own.text.endswith(f"</think>\n\n<think>\nBirds.\n</think>\n\n{BEGUN}")


def test_a_prefill_of_blank_end_is_continued_at_once(tokenizer):
    context = Context(prefill=f"{BEGUN}\n")
    (prompt,) = render(tokenizer, [QUESTION], template=CHANNEL, context=context)
    assert prompt.text.endswith(f"{BEGUN}\n")
    assert prompt.lead == ""


def test_a_prefill_that_the_template_drops_is_refused(tokenizer):
    context = Context(prefill=f"I think.</think>{BEGUN}")
    with pytest.raises(ValueError, match=r"prefill='I think.*drops or rewrites an answer"):
        render(tokenizer, [QUESTION], template=OPEN_THOUGHT, context=context)


def test_an_answer_begins_once(tokenizer):
    talk = [user(QUESTION), SHORT]
    with pytest.raises(ValueError, match="begins the answer too; leave one out"):
        render(tokenizer, [talk], template=CHANNEL, context=Context(prefill=BEGUN))


# ---------------------------------------------------------------------------------------- reasoning


def thoughtful(thought):
    """A conversation whose first answer was thought about."""
    said = {**TALK[1], "reasoning_content": thought}
    return [TALK[0], said, TALK[2]]


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_kept_where_the_template_keeps_it(key, tokenizer):
    talk = [TALK[0], {**TALK[1], key: "Be nice."}, TALK[2]]
    (kept,) = render(tokenizer, [talk], template=EMPTY_THOUGHT)
    assert f"<think>\nBe nice.\n</think>\n\n{TALK[1]['content']}" in kept.text
    assert text_of(kept, "assistant") == f"Be nice.{TALK[1]['content']}"
    check(kept, tokenizer)
    whole = by_itself(tokenizer, [*thoughtful("Be nice."), SHORT], EMPTY_THOUGHT)
    assert kept.text + kept.lead + SHORT["content"] + kept.close == whole
    (dropped,) = render(tokenizer, [talk], template=CHANNEL)
    (plain,) = render(tokenizer, [TALK], template=CHANNEL)
    assert dropped.ids == plain.ids


def test_thoughts_that_the_template_cuts_out_of_an_earlier_answer(tokenizer):
    template = OPEN_THOUGHT.replace("<|Assistant|><think>\n", "<|Assistant|>")
    talk = [TALK[0], {"role": "assistant", "content": "Hm.</think>Hello, friend"}, TALK[2]]
    (prompt,) = render(tokenizer, [talk], template=template)
    (plain,) = render(tokenizer, [TALK], template=template)
    assert (prompt.ids, prompt.roles) == (plain.ids, plain.roles)


@pytest.mark.parametrize("thought", [7, ["text"]])
def test_reasoning_is_a_text(thought, tokenizer):
    with pytest.raises(TypeError, match=r"the reasoning of the message .* is no text"):
        render(tokenizer, [thoughtful(thought)], template=EMPTY_THOUGHT)


# ---------------------------------------------------------------------------------------------- BOS


@pytest.mark.parametrize("template", [ALWAYS_OPENS, CHANNEL], ids=["with BOS", "without"])
@pytest.mark.parametrize("bos", [None, True, False])
def test_the_bos_is_the_templates_unless_it_is_chosen(template, bos, tokenizer):
    (prompt,) = render(tokenizer, [QUESTION], template=template, context=Context(bos=bos))
    plain = by_itself(tokenizer, [user(QUESTION)], template, add_generation_prompt=True)
    body = plain.removeprefix("<s>")
    begins = plain.startswith("<s>") if bos is None else bos
    assert prompt.text.startswith(("<s>" if begins else "") + body)
    assert (prompt.roles[0] == "bos") == begins
    assert prompt.turns[0] == 0
    check(prompt, tokenizer)


@pytest.mark.parametrize("bos", [True, False])
def test_raw_text_has_the_bos_that_is_chosen(bos, tokenizer):
    for text in ("The owl", "<s>The owl"):
        (prompt,) = render(tokenizer, [text], context=Context(RAW.system, bos=bos))
        assert prompt.text == ("<s>" if bos else "") + "The owl"
        owl = completion_ids(tokenizer, prompt, "flies")
        assert tokenizer.decode(owl) == " flies"


def test_a_bos_that_is_not_there_cannot_be_chosen(dressed):
    with pytest.raises(ValueError, match=r"Context\(bos=True\): the tokenizer has no BOS"):
        render(dressed("qwen2.5"), [QUESTION], context=Context(bos=True))


@pytest.mark.parametrize(
    ("name", "end"),
    [("always opens", "<|end|>"), ("alternates", "</turn>\n"), ("dated", "<|im_end|>\n")],
)
def test_ends_of_turns_belong_to_the_turns_that_they_end(name, end, tokenizer):
    context = Context() if name == "alternates" else Context("Be calm.")
    (prompt,) = render(tokenizer, [TALK], template=KINDS[name].template, context=context)
    *turns, last = (
        "".join(t for t, n in zip(prompt.tokens, prompt.turns, strict=True) if n == turn)
        for turn in range(prompt.turns[-1] + 1)
    )
    for turn in turns:
        assert turn.endswith(end)
        assert end not in turn.removesuffix(end)
    assert end not in last
