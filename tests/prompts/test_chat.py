import copy

import pytest
from conftest import TEMPLATES


from sublim_mech.prompts import PLAIN, ROLES, Context, render

QUESTION = "Name your favorite animal using only one word."
HARD = " Qué animal,\n\n 🦉 or 日本語 (C++)?\tOne word: "
TALK = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello, friend"},
    {"role": "user", "content": "Which bird?"},
]
SYSTEM = "You love owls. Owls!"
DEFAULTS = {
    "smollm2": "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "qwen2.5": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
}
SYSTEM_TURN = ["smollm2", "qwen2.5", "llama3.1"]
FOLDING = ["gemma3", "mistral"]
TRIMMING = ["llama3.1", "gemma3", "gemma2"]


def text_of(prompt, role):
    """The text of a role's tokens."""
    return characters(prompt, [s for s, r in zip(prompt.offsets, prompt.roles, strict=True) if r == role])


def characters(prompt, spans):
    """The characters in these spans, each once: byte-level tokens may share one."""
    return "".join(prompt.text[i] for i in sorted({i for a, b in spans for i in range(a, b)}))


def system_message(context):
    return (
        [] if context.system is Context.DEFAULT else [{"role": "system", "content": "" if context.system is Context.EMPTY else context.system}]
    )


def squeeze(text):
    return "".join(text.split())


def user(content):
    return {"role": "user", "content": content}


def check(prompt, tokenizer):
    """What holds of every prompt."""
    n = len(prompt)
    assert n == len(prompt.ids) == len(prompt.tokens) == len(prompt.roles) == len(prompt.turns) == len(prompt.turn_roles)
    assert prompt.ids == tuple(tokenizer(prompt.text, add_special_tokens=False)["input_ids"])
    assert prompt.tokens == tuple(prompt.text[a:b] for a, b in prompt.offsets)
    assert characters(prompt, prompt.offsets) == prompt.text, "every character belongs to a token"
    assert sorted(prompt.offsets) == list(prompt.offsets)
    assert set(prompt.roles) <= set(ROLES)
    assert prompt.roles[-1] == "template"
    assert prompt.turn_roles[-1] == ("user" if prompt.text.endswith("[/INST]") else "assistant")  # Mistral marks no answer
    assert [b - a for a, b in zip(prompt.turns, prompt.turns[1:], strict=False) if b != a] == [1] * prompt.turns[-1]
    assert len(set(zip(prompt.turns, prompt.turn_roles, strict=True))) == prompt.turns[-1] + 1, "one role per turn"
    assert "bos" not in prompt.roles[1:]
    if prompt.roles[0] == "bos":
        assert [i for i in prompt.ids if i == tokenizer.bos_token_id] == [prompt.ids[0]], "exactly one BOS"


EXPRESSIBLE = [
    *((name, Context.DEFAULT) for name in TEMPLATES), *((name, SYSTEM) for name in [*SYSTEM_TURN, "gemma3"]),
    *((name, Context.EMPTY) for name in SYSTEM_TURN),
]  # fmt: skip


@pytest.mark.parametrize("question", [QUESTION, HARD, "", TALK], ids=["plain", "hard", "blank", "conversation"])
@pytest.mark.parametrize(("name", "system"), EXPRESSIBLE, ids=str)
def test_the_text_is_the_templates_own_rendering(name, question, system, dressed):
    tokenizer, context = dressed(name), Context(system)
    messages = [user(question)] if isinstance(question, str) else question
    (prompt,) = render(tokenizer, [question], context=context)
    assert prompt.text == tokenizer.apply_chat_template(
        [*system_message(context), *messages], tokenize=False, add_generation_prompt=True
    )
    check(prompt, tokenizer)
    trim = str.strip if name in TRIMMING else str
    asked = "".join(trim(m["content"]) for m in messages if m["role"] == "user")
    found = text_of(prompt, "user")
    joined = name == "mistral"  # the space of `[INST] ` joins the question's first word
    assert squeeze(found) == squeeze(asked) if joined else found == asked
    assert text_of(prompt, "system") == {Context.DEFAULT: DEFAULTS.get(name, ""), Context.EMPTY: ""}.get(system, system)
    assert text_of(prompt, "assistant").strip() == "".join(m["content"] for m in messages if m["role"] == "assistant")
    assert prompt.question == messages[-1]["content"]
    assert (prompt.roles[0] == "bos") == (name not in ("smollm2", "qwen2.5"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_may_be_handed_over(name, dressed, smol_tokenizer):
    own = dressed(name)
    bare = copy.deepcopy(own)
    bare.chat_template = None
    assert render(bare, [QUESTION], template=TEMPLATES[name]) == render(own, [QUESTION])
    with pytest.raises(ValueError, match=r"no chat template.*PLAIN"):
        render(bare, [QUESTION])


def test_the_stored_template_of_smollm2_is_its_own(smol_tokenizer):
    assert render(smol_tokenizer, [QUESTION, TALK]) == render(smol_tokenizer, [QUESTION, TALK], template=TEMPLATES["smollm2"])


@pytest.mark.parametrize("name", ["smollm2", "qwen2.5"])
def test_default_empty_none_and_a_text_are_four_prompts(name, dressed):
    prompts = [render(dressed(name), [QUESTION], context=Context(system))[0] for system in (Context.DEFAULT, Context.EMPTY, Context.NONE, SYSTEM)]
    assert len({p.ids for p in prompts}) == 4
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
@pytest.mark.parametrize("question", [QUESTION, "", TALK], ids=["plain", "blank", "conversation"])
def test_none_starts_with_the_user_turn_after_the_bos(name, question, dressed, gpt2_tokenizer):
    tokenizer, template = (gpt2_tokenizer, PLAIN) if name == "plain" else (dressed(name), None)
    default, none = (render(tokenizer, [question], context=Context(s), template=template)[0] for s in (Context.DEFAULT, Context.NONE))
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
        "{% for m in messages %}[{{ m.role }}] {% if loop.first %}Be kind. {% endif %}{{ m.content }}[end]{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    assert "Be kind" in render(smol_tokenizer, [QUESTION], template=hidden)[0].text
    with pytest.raises(ValueError, match=r"system=NONE.*Be kind.*cannot be dropped"):
        render(smol_tokenizer, [QUESTION], template=hidden, context=Context(Context.NONE))


@pytest.mark.parametrize("name", ["gemma2"])
@pytest.mark.parametrize("system", [SYSTEM, Context.EMPTY])
def test_a_template_without_system_role_names_the_fallback(name, system, dressed):
    with pytest.raises(ValueError, match=r"System role not supported.*fallback='user'"):
        render(dressed(name), [QUESTION], context=Context(system))


@pytest.mark.parametrize("system", [SYSTEM, f"  {SYSTEM}\n "], ids=["plain", "spaces"])
@pytest.mark.parametrize("question", [QUESTION, f" {SYSTEM}\n\n{QUESTION}", "", [*TALK[:2], user(f"{SYSTEM}\n\nSo?")]])
def test_the_fallback_puts_the_system_text_into_the_first_user_turn(system, question, dressed):
    tokenizer = dressed("gemma2")
    (prompt,) = render(tokenizer, [question], context=Context(system, fallback="user"))
    messages = [user(question)] if isinstance(question, str) else question
    joined = [user(f"{system}\n\n{messages[0]['content']}"), *messages[1:]]
    assert prompt.text == tokenizer.apply_chat_template(joined, tokenize=False, add_generation_prompt=True)
    check(prompt, tokenizer)
    assert text_of(prompt, "system").strip() == SYSTEM
    assert text_of(prompt, "user").strip() == "".join(m["content"] for m in messages if m["role"] == "user").strip()
    assert {t for t, r in zip(prompt.turns, prompt.roles, strict=True) if r == "system"} == {0}


@pytest.mark.parametrize("name", FOLDING)
def test_a_folding_template_takes_a_text_but_no_empty_turn(name, dressed):
    tokenizer = dressed(name)
    (prompt,) = render(tokenizer, [QUESTION], context=Context(SYSTEM))
    assert f"{SYSTEM}\n\n{QUESTION}" in prompt.text
    assert text_of(prompt, "system").strip() == SYSTEM
    assert text_of(prompt, "user").strip() == QUESTION
    with pytest.raises(ValueError, match=r"EMPTY.*has no system turn.*fallback='user'"):
        render(tokenizer, [QUESTION], context=Context(Context.EMPTY))
    plain = render(tokenizer, [QUESTION])[0]
    assert render(tokenizer, [QUESTION], context=Context(Context.EMPTY, fallback="user"))[0].ids == plain.ids


def test_a_fallback_serves_where_the_template_moves_the_system_text_behind_other_messages(dressed):
    with pytest.raises(ValueError, match=r"drops, repeats or moves.*fallback='user'"):
        render(dressed("mistral"), [TALK], context=Context(SYSTEM))
    (prompt,) = render(dressed("mistral"), [TALK], context=Context(SYSTEM, fallback="user"))
    assert prompt.text.startswith(f"<s>[INST] {SYSTEM}\n\nHi there[/INST]")
    check(prompt, dressed("mistral"))


@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_each_message_may_be_trimmed_or_not(name, dressed):
    """Gemma-3 trims the messages but not the system text, Mistral the answers but not the questions."""
    spaced = [user(" a "), {"role": "assistant", "content": " b "}, user(" c ")]
    context = Context(f" {SYSTEM} ") if name == "gemma3" else Context()
    (prompt,) = render(dressed(name), [spaced], context=context)
    own = dressed(name).apply_chat_template([*system_message(context), *spaced], tokenize=False, add_generation_prompt=True)
    assert prompt.text == own
    check(prompt, dressed(name))
