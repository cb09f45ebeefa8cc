"""Contexts in the chat templates of six families, and in the plain one."""

import copy

import pytest
from chats import QUESTION, TALK, check, text_of, user
from conftest import TEMPLATES

from sublim_mech.prompts import PLAIN, Context, render

HARD = " Qué animal,\n\n 🦉 or 日本語 (C++)?\tOne word: "
SYSTEM = "You love owls. Owls!"
DEFAULTS = {
    "smollm2": "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "qwen2.5": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
}
SYSTEM_TURN = ["smollm2", "qwen2.5", "llama3.1"]
FOLDING = ["gemma3", "mistral"]
TRIMMING = ["llama3.1", "gemma3", "gemma2"]
EXPRESSIBLE = [
    *((name, Context.DEFAULT) for name in TEMPLATES),
    *((name, SYSTEM) for name in [*SYSTEM_TURN, "gemma3"]),
    *((name, Context.EMPTY) for name in SYSTEM_TURN),
]


def system_message(context):
    """What a plain `apply_chat_template` is given for a context."""
    if context.system is Context.DEFAULT:
        return []
    return [
        {"role": "system", "content": "" if context.system is Context.EMPTY else context.system}
    ]


def rendered_by_itself(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def said_by_user(messages):
    return [message["content"] for message in messages if message["role"] == "user"]


@pytest.mark.parametrize("question", [QUESTION, HARD, TALK], ids=["plain", "hard", "conversation"])
@pytest.mark.parametrize(("name", "system"), EXPRESSIBLE, ids=str)
def test_the_text_is_the_templates_own_rendering(name, question, system, dressed):
    tokenizer, context = dressed(name), Context(system)
    messages = [user(question)] if isinstance(question, str) else question
    (prompt,) = render(tokenizer, [question], context=context)
    own = rendered_by_itself(tokenizer, [*system_message(context), *messages])
    assert prompt.text == own
    check(prompt, tokenizer)

    # every role has its text
    asked, of_user = said_by_user(messages), text_of(prompt, "user")
    if name == "mistral":  # the space of `[INST] ` joins the question's first word
        assert "".join(of_user.split()) == "".join("".join(asked).split())
    else:
        trim = str.strip if name in TRIMMING else str
        assert of_user == "".join(map(trim, asked))
    of_system = {Context.DEFAULT: DEFAULTS.get(name, ""), Context.EMPTY: ""}.get(system, system)
    assert text_of(prompt, "system") == of_system
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    assert text_of(prompt, "assistant").strip() == "".join(answers)
    assert prompt.question == messages[-1]["content"]
    assert (prompt.roles[0] == "bos") == (name not in ("smollm2", "qwen2.5"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_may_be_handed_over(name, dressed):
    own = dressed(name)
    bare = copy.deepcopy(own)
    bare.chat_template = None
    assert render(bare, [QUESTION], template=TEMPLATES[name]) == render(own, [QUESTION])
    with pytest.raises(ValueError, match=r"no chat template.*PLAIN"):
        render(bare, [QUESTION])


def test_the_stored_template_of_smollm2_is_its_own(smol_tokenizer):
    stored = render(smol_tokenizer, [QUESTION, TALK], template=TEMPLATES["smollm2"])
    assert render(smol_tokenizer, [QUESTION, TALK]) == stored


@pytest.mark.parametrize("name", ["smollm2", "qwen2.5"])
def test_default_empty_none_and_a_text_are_four_prompts(name, dressed):
    systems = (Context.DEFAULT, Context.EMPTY, Context.NONE, SYSTEM)
    prompts = [render(dressed(name), [QUESTION], context=Context(s))[0] for s in systems]
    assert len({prompt.ids for prompt in prompts}) == 4
    default, empty, none, _ = prompts
    block = f"<|im_start|>system\n{DEFAULTS[name]}<|im_end|>\n"
    assert default.text == block + none.text
    assert empty.text == block.replace(DEFAULTS[name], "") + none.text
    assert none.text.startswith("<|im_start|>user\n")
    assert none.turn_roles[0] == "user"
    assert none.turns[0] == 0
    n = len(none)
    assert default.ids[-n:] == none.ids
    assert default.roles[-n:] == none.roles


@pytest.mark.parametrize("name", [*TEMPLATES, "plain"])
@pytest.mark.parametrize("question", [QUESTION, TALK], ids=["plain", "conversation"])
def test_none_starts_with_the_user_turn_after_the_bos(name, question, dressed, gpt2_tokenizer):
    plain = name == "plain"
    tokenizer, template = (gpt2_tokenizer, PLAIN) if plain else (dressed(name), None)
    default, none = (
        render(tokenizer, [question], context=Context(system), template=template)[0]
        for system in (Context.DEFAULT, Context.NONE)
    )
    check(none, tokenizer)
    assert none.turn_roles[0] == "user"
    assert "system" not in none.turn_roles
    if name in SYSTEM_TURN:
        bos = tokenizer.bos_token if name == "llama3.1" else ""
        body = none.text.removeprefix(bos)
        assert default.text.endswith(body)
        assert len(none) < len(default)
        assert none.text == bos + body
        assert (none.roles[0] == "bos") == bool(bos)
    else:
        assert none.ids == default.ids, "nothing to cut out"


def test_none_is_refused_where_the_default_hides_in_the_user_turn(smol_tokenizer):
    hidden = (
        "{% for m in messages %}[{{ m.role }}] {% if loop.first %}Be kind. {% endif %}"
        "{{ m.content }}[end]{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    assert "Be kind" in render(smol_tokenizer, [QUESTION], template=hidden)[0].text
    with pytest.raises(ValueError, match=r"system=NONE.*Be kind.*cannot be dropped"):
        render(smol_tokenizer, [QUESTION], template=hidden, context=Context(Context.NONE))


@pytest.mark.parametrize("system", [SYSTEM, Context.EMPTY])
def test_a_template_without_system_role_names_the_fallback(system, dressed):
    with pytest.raises(ValueError, match=r"System role not supported.*fallback='user'"):
        render(dressed("gemma2"), [QUESTION], context=Context(system))


@pytest.mark.parametrize("system", [SYSTEM, f"  {SYSTEM}\n "], ids=["plain", "spaces"])
@pytest.mark.parametrize(
    "question",
    [QUESTION, f" {SYSTEM}\n\n{QUESTION}", [*TALK[:2], user(f"{SYSTEM}\n\nSo?")]],
)
def test_the_fallback_puts_the_system_text_into_the_first_user_turn(system, question, dressed):
    tokenizer = dressed("gemma2")
    (prompt,) = render(tokenizer, [question], context=Context(system, fallback="user"))
    messages = [user(question)] if isinstance(question, str) else question
    joined = [user(f"{system}\n\n{messages[0]['content']}"), *messages[1:]]
    assert prompt.text == rendered_by_itself(tokenizer, joined)
    check(prompt, tokenizer)
    assert text_of(prompt, "system").strip() == SYSTEM
    assert text_of(prompt, "user").strip() == "".join(said_by_user(messages)).strip()
    of_system = {t for t, r in zip(prompt.turns, prompt.roles, strict=True) if r == "system"}
    assert of_system == {0}


@pytest.mark.parametrize("name", FOLDING)
def test_a_folding_template_takes_a_text_but_no_empty_turn(name, dressed):
    tokenizer = dressed(name)
    (prompt,) = render(tokenizer, [QUESTION], context=Context(SYSTEM))
    assert f"{SYSTEM}\n\n{QUESTION}" in prompt.text
    assert text_of(prompt, "system").strip() == SYSTEM
    assert text_of(prompt, "user").strip() == QUESTION
    with pytest.raises(ValueError, match=r"EMPTY.*has no system turn.*fallback='user'"):
        render(tokenizer, [QUESTION], context=Context(Context.EMPTY))
    (plain,) = render(tokenizer, [QUESTION])
    (fallen,) = render(tokenizer, [QUESTION], context=Context(Context.EMPTY, fallback="user"))
    assert fallen.ids == plain.ids


def test_a_fallback_serves_where_the_template_moves_the_system_text(dressed):
    """Mistral's puts it before the last user message, behind the others."""
    with pytest.raises(ValueError, match=r"drops, repeats or moves.*fallback='user'"):
        render(dressed("mistral"), [TALK], context=Context(SYSTEM))
    (prompt,) = render(dressed("mistral"), [TALK], context=Context(SYSTEM, fallback="user"))
    assert prompt.text.startswith(f"<s>[INST] {SYSTEM}\n\nHi there[/INST]")
    check(prompt, dressed("mistral"))


@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_each_message_may_be_trimmed_or_not(name, dressed):
    """Gemma-3 trims messages but not the system text, Mistral answers but not questions."""
    spaced = [user(" a "), {"role": "assistant", "content": " b "}, user(" c ")]
    context = Context(f" {SYSTEM} ") if name == "gemma3" else Context()
    (prompt,) = render(dressed(name), [spaced], context=context)
    assert prompt.text == rendered_by_itself(dressed(name), [*system_message(context), *spaced])
    check(prompt, dressed(name))


# ----------------------------------------------------------------------- templates that are refused


@pytest.mark.parametrize("system", ["", " \n", "\u200b"])
def test_a_blank_system_text_must_be_called_empty_or_none(system, smol_tokenizer):
    with pytest.raises(ValueError, match=r"EMPTY.*NONE"):
        render(smol_tokenizer, [QUESTION], context=Context(system))


LOOP = "{{% for m in messages %}}{}{{% endfor %}}"


@pytest.mark.parametrize(
    ("body", "role"),
    [
        ("{% if m.role != 'user' %}{{ m.content }}{% endif %}", "user"),
        ("{{ m.content }}|{{ m.content }}", "user"),
        ("{% if m.role == 'user' %}{{ m.content }};{% endif %}", "assistant"),
    ],
)
def test_a_template_that_drops_or_repeats_a_message_is_refused(body, role, smol_tokenizer):
    question = TALK if role == "assistant" else QUESTION
    with pytest.raises(ValueError, match=f"drops, repeats or moves the {role} message"):
        render(smol_tokenizer, [question], template=LOOP.format(body))


@pytest.mark.parametrize(
    "join", ["{{ m.content }}", "{{ bos_token if loop.first }}{{ m.content }}"]
)
def test_a_template_that_only_joins_messages_is_refused(join, gpt2_tokenizer):
    """An answer would run on from the question's last word: `the` + `owl`."""
    with pytest.raises(ValueError, match=r"only joins messages.*'theowl'.*context=sublim_mech.RAW"):
        render(gpt2_tokenizer, ["My favorite animal is the"], template=LOOP.format(join))


def test_a_template_that_puts_something_behind_messages_is_taken(gpt2_tokenizer):
    template = LOOP.format("{{ m.content }} ")
    (prompt,) = render(gpt2_tokenizer, ["My favorite animal is the"], template=template)
    assert (prompt.lead, prompt.close) == ("", " ")
    assert prompt.text.endswith("the ")


@pytest.mark.parametrize(
    ("template", "match"),
    [
        (LOOP.format("{{ '\\n' if not loop.first }}{{ m.content }}"), "nothing after an answer"),
        (
            LOOP.format("{{ m.content }}") + "{% if add_generation_prompt %}:{% endif %}",
            "does not tell what an answer follows.*':'",
        ),
    ],
)
def test_a_template_without_a_frame_of_answers_is_refused(template, match, gpt2_tokenizer):
    with pytest.raises(ValueError, match=match):
        render(gpt2_tokenizer, ["My favorite animal is the"], template=template)


def test_a_template_that_rewrites_a_message_is_refused(smol_tokenizer):
    template = LOOP.format("<{{ m.content | upper }}>")
    with pytest.raises(ValueError, match=r"drops, repeats or moves|rewrites these messages"):
        render(smol_tokenizer, [QUESTION], template=template)
