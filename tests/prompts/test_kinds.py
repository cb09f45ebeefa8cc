"""Template variables, dates and the four system prompts in templates of each kind."""

import copy
from dataclasses import replace

import pytest
from chats import QUESTION, TALK, check, text_of, user
from template_kinds import (
    ALTERNATES,
    CHANNEL,
    DATED,
    EMPTY_THOUGHT,
    KINDS,
    MARKS,
    NO_END,
    OPEN_THOUGHT,
    PARTS,
    SKIPS_EMPTY,
    SKIPS_TO_DEFAULT,
    SWITCHED_THOUGHT,
)

from sublim_mech.prompts import DATE, PLAIN, RAW, Context, check_distinct, render
from sublim_mech.prompts.variables import variables

EMPTY, NONE = Context(Context.EMPTY), Context(Context.NONE)


@pytest.fixture(scope="module")
def tokenizer(smol_tokenizer):
    """SmolLM2's, with the marks of all kinds."""
    made = copy.deepcopy(smol_tokenizer)
    special = {"extra_special_tokens": list(MARKS), "bos_token": "<s>", "eos_token": "<|end|>"}
    made.add_special_tokens(special)
    return made


# ---------------------------------------------------------------------------------------- variables


@pytest.mark.parametrize(
    ("template", "names"),
    [
        (EMPTY_THOUGHT, {"enable_thinking"}),
        (CHANNEL, {"strftime_now"}),
        (DATED, {"date_string"}),
        (PLAIN, set()),
        ("{% set x = x or 1 %}{{ x }}{{ bos_token }}", {"x"}),
        ("{% for m in messages %}{% set c = m.content %}{{ c }}{% endfor %}{{ c }}", set()),
        ("{% generation %}{{ effort }}{% endgeneration %}{{ namespace(a=range(2)) }}", {"effort"}),
        ("{% macro f(a) %}{{ a + b }}{% endmacro %}{{ f(tools) }}", {"b"}),
    ],
)
def test_a_template_tells_what_it_reads(template, names):
    assert variables(template) == names


def test_an_option_that_is_never_read_is_refused_and_those_read_are_named(tokenizer):
    context = Context(options={"enable_thinkin": False, "messages": []})
    match = (
        r"no option of .*: 'enable_thinkin', 'messages'; of options it reads 'enable_thinking'\."
    )
    with pytest.raises(ValueError, match=match):
        render(tokenizer, [QUESTION], template=EMPTY_THOUGHT, context=context)
    with pytest.raises(ValueError, match="it reads none"):
        render(tokenizer, [QUESTION], template=NO_END, context=context)
    for name in ("bos_token", "strftime_now", "add_generation_prompt"):
        with pytest.raises(ValueError, match=f"no option of this chat template: '{name}'"):
            render(tokenizer, [QUESTION], template=CHANNEL, context=Context(options={name: "x"}))


def test_a_broken_template_is_refused(tokenizer):
    with pytest.raises(ValueError, match="cannot be read as Jinja"):
        render(tokenizer, [QUESTION], template="{% for %}")


def test_options_reach_the_template_as_lists_and_dicts(tokenizer):
    template = "{{ tags | tojson }}{{ tags is mapping }}" + PLAIN
    context = Context(options={"tags": {"a": [1, None]}})
    (prompt,) = render(tokenizer, [QUESTION], template=template, context=context)
    assert prompt.text.startswith('{"a": [1, null]}True')


# ----------------------------------------------------------------------------------------- the date


def test_a_prompt_is_the_same_tomorrow(tokenizer):
    (prompt,) = render(tokenizer, [QUESTION], template=CHANNEL)
    assert "Date: 2024-07-26" in prompt.text
    assert render(tokenizer, [QUESTION], template=CHANNEL, context=Context(date="2024-07-26")) == [
        prompt
    ]
    (later,) = render(tokenizer, [QUESTION], template=CHANNEL, context=Context(date="2025-12-01"))
    assert later.text == prompt.text.replace("2024-07-26", "2025-12-01")


def test_a_date_that_the_template_writes_itself_is_given_in_its_own_form(tokenizer):
    system = "Be kind."
    texts = [
        render(tokenizer, [QUESTION], template=DATED, context=context)[0].text
        for context in (
            Context(system),
            Context(system, date="2025-12-01"),
            Context(system, options={"date_string": "today"}, date="2025-12-01"),
        )
    ]
    said = [text.partition("system\n")[2].partition(". ")[0] for text in texts]
    assert said == ["26 Jul 2024", "01 Dec 2025", "today"]
    unknown = DATED.replace("26 Jul 2024", "the day of days")
    with pytest.raises(ValueError, match=r"date='2025-12-01'.*options=\{'date_string'"):
        render(tokenizer, [QUESTION], template=unknown, context=Context(date="2025-12-01"))


@pytest.mark.parametrize(
    ("template", "context"),
    [
        (PLAIN, Context(date="2025-12-01")),
        (DATED, Context("Be kind.", options={"date_string": "today"}, date="2025-12-01")),
    ],
)
def test_a_date_that_no_prompt_tells_is_said(template, context, tokenizer, recwarn):
    """It reads as if it had an effect; the prompts are those of any other day."""
    asked = {"template": template}
    with pytest.warns(UserWarning, match=r"date='2025-12-01'\): the chat template tells no date"):
        (prompt,) = render(tokenizer, [QUESTION], context=context, **asked)
    recwarn.clear()
    (usual,) = render(tokenizer, [QUESTION], context=replace(context, date=DATE), **asked)
    assert prompt.ids == usual.ids
    render(tokenizer, [QUESTION], template=CHANNEL, context=Context(date="2025-12-01"))
    assert not recwarn.list


# ------------------------------------------------------------------------------ four system prompts


@pytest.mark.parametrize("name", KINDS)
def test_system_prompts_that_are_one_prompt_say_so(name, tokenizer):
    template = KINDS[name].template
    prompts = {}
    for kind in (Context.DEFAULT, Context.EMPTY, Context.NONE):
        try:
            (prompt,) = render(tokenizer, [QUESTION], template=template, context=Context(kind))
        except ValueError:
            continue
        prompts[kind.name] = prompt
    assert "DEFAULT" in prompts
    for kind, prompt in prompts.items():
        alike = {k for k, other in prompts.items() if other.ids == prompt.ids} - {kind}
        assert set(prompt.same_as) == alike
        assert (f"the same as {' and '.join(prompt.same_as)}" in repr(prompt)) == bool(alike)


def test_contexts_that_are_one_prompt_are_not_compared(smol_tokenizer, tokenizer):
    check_distinct(smol_tokenizer, [Context(), EMPTY, NONE, Context("Be kind."), RAW])
    with pytest.raises(ValueError, match="contexts: 0 and 1 are one context"):
        check_distinct(smol_tokenizer, [Context(), Context()])
    with pytest.raises(ValueError, match=r"DEFAULT.*NONE.* are one prompt in this chat template"):
        check_distinct(tokenizer, [Context(), EMPTY, NONE], template=CHANNEL_LESS)
    dates = [Context(), Context(date="2025-01-01")]
    check_distinct(tokenizer, dates, template=CHANNEL)
    with pytest.raises(ValueError, match="are one prompt"):
        check_distinct(tokenizer, dates, template=NO_END)


CHANNEL_LESS = KINDS["no end"].template


@pytest.mark.parametrize(
    ("template", "match"),
    [
        (SKIPS_EMPTY, "skips an empty system text, as if there were no system message"),
        (CHANNEL, "skips an empty system text, as if there were no system message"),
        (SKIPS_TO_DEFAULT, "skips an empty system text, as if there were no system message"),
    ],
    ids=["skips", "channel", "default"],
)
def test_an_empty_system_text_that_is_skipped_is_told_as_that(template, match, tokenizer):
    for fallback in (None, "user"):
        with pytest.raises(ValueError, match=rf"{match}.*fallback='none'"):
            render(
                tokenizer,
                [QUESTION],
                template=template,
                context=Context(Context.EMPTY, fallback=fallback),
            )


@pytest.mark.parametrize("template", [SKIPS_EMPTY, SKIPS_TO_DEFAULT], ids=["skips", "default"])
def test_the_fallback_none_is_no_system_block(template, tokenizer):
    fallen = Context(Context.EMPTY, fallback="none")
    (prompt,) = render(tokenizer, [QUESTION], template=template, context=fallen)
    (none,) = render(tokenizer, [QUESTION], template=template, context=NONE)
    assert prompt.ids == none.ids
    assert "system" not in prompt.turn_roles
    assert "NONE" in prompt.same_as
    (default,) = render(tokenizer, [QUESTION], template=template)
    assert (default.ids == none.ids) == (template == SKIPS_EMPTY)


def test_a_lead_in_that_is_no_bos_is_no_system_block(tokenizer):
    for question in (QUESTION, TALK):
        (default,) = render(tokenizer, [question], template=NO_END)
        (none,) = render(tokenizer, [question], template=NO_END, context=NONE)
        assert none.ids == default.ids
        assert none.text.startswith("[gMASK]<sop><|user|>")
        check(none, tokenizer)
    hidden = NO_END.replace("<sop>", "Be kind.")
    with pytest.raises(ValueError, match="cannot be dropped"):
        render(tokenizer, [QUESTION], template=hidden, context=NONE)


def test_no_turn_stands_before_the_first(tokenizer):
    """A system text without a frame of its own leaves no empty turn behind."""
    template = OPEN_THOUGHT.replace("<|Assistant|><think>\n", "<|Assistant|>")
    (prompt,) = render(tokenizer, [QUESTION], template=template)
    assert sorted(set(prompt.turns)) == [0, 1]
    assert set(prompt.turn_roles) == {"user", "assistant"}
    (empty,) = render(tokenizer, [QUESTION], template=template, context=EMPTY)
    assert (empty.ids, empty.turns, empty.turn_roles) == (
        prompt.ids,
        prompt.turns,
        prompt.turn_roles,
    )
    assert empty.same_as == ("DEFAULT", "NONE")
    (told,) = render(tokenizer, [QUESTION], template=template, context=Context("Be kind."))
    assert told.text == prompt.text.replace("<s>", "<s>Be kind.")
    assert sorted(set(told.turns)) == [0, 1, 2]


# ------------------------------------------------------------------ parts, and what templates raise


@pytest.mark.parametrize("question", [QUESTION, TALK], ids=["question", "conversation"])
def test_contents_are_lists_of_parts_where_the_template_wants_them(question, tokenizer):
    (prompt,) = render(tokenizer, [question], template=PARTS, context=Context("Be kind."))
    texts = PARTS.replace(
        "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
        "{% endfor %}",
        "{{ m.content }}",
    )
    (plain,) = render(tokenizer, [question], template=texts, context=Context("Be kind."))
    assert (prompt.ids, prompt.roles, prompt.close) == (plain.ids, plain.roles, plain.close)
    assert text_of(prompt, "system") == "Be kind."


def test_what_a_template_raises_is_told_in_its_own_words(tokenizer):
    twice = [user("One?"), user("Two?")]
    match = r"refuses a conversation user, user: Conversation roles must alternate"
    with pytest.raises(ValueError, match=match):
        render(tokenizer, [twice], template=ALTERNATES)
    tools = "{{ messages[0].tool_calls[0].name }}" + PLAIN
    with pytest.raises(ValueError, match=r"refuses a conversation user: .*tool_calls"):
        render(tokenizer, [QUESTION], template=tools)


def test_findings_are_remembered_by_template_and_variables(tokenizer, monkeypatch):
    on, off = (Context(options={"enable_thinking": value}) for value in (True, False))
    (prompt,) = render(tokenizer, [QUESTION], template=SWITCHED_THOUGHT, context=off)
    with pytest.raises(ValueError, match="what an answer follows"):
        render(tokenizer, [QUESTION], template=SWITCHED_THOUGHT, context=on)
    rendered = []
    once = type(tokenizer).apply_chat_template

    def counted(self, *args, **kwargs):
        rendered.append(args)
        return once(self, *args, **kwargs)

    monkeypatch.setattr(type(tokenizer), "apply_chat_template", counted)
    again = render(tokenizer, [QUESTION, "Which tree?"], template=SWITCHED_THOUGHT, context=off)
    assert again[0] == prompt
    assert len(rendered) == 2, "one rendering per question"
