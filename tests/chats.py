"""Conversations, and what holds of every rendered prompt."""

from __future__ import annotations

from typing import Any

from sublim_mech.prompts import ROLES, Message, Prompt

QUESTION = "Name your favorite animal using only one word."
TALK: list[Message] = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello, friend"},
    {"role": "user", "content": "Which bird?"},
]


def user(content: str) -> Message:
    """A message of the user's."""
    return {"role": "user", "content": content}


def text_of(prompt: Prompt, role: str) -> str:
    """The text of a role's tokens."""
    spans = zip(prompt.offsets, prompt.roles, strict=True)
    return characters(prompt, [span for span, token_role in spans if token_role == role])


def characters(prompt: Prompt, spans: Any) -> str:
    """The characters in these spans, each once: byte-level tokens may share one."""
    inside = {i for start, end in spans for i in range(start, end)}
    return "".join(prompt.text[i] for i in sorted(inside))


def check(prompt: Prompt, tokenizer: Any) -> None:
    """What holds of every prompt."""
    per_token = (prompt.ids, prompt.tokens, prompt.roles, prompt.turns, prompt.turn_roles)
    assert {len(labels) for labels in per_token} == {len(prompt)}
    assert prompt.ids == tuple(tokenizer(prompt.text, add_special_tokens=False)["input_ids"])
    assert prompt.tokens == tuple(prompt.text[start:end] for start, end in prompt.offsets)
    assert characters(prompt, prompt.offsets) == prompt.text, "every character belongs to a token"
    assert sorted(prompt.offsets) == list(prompt.offsets)
    assert set(prompt.roles) <= set(ROLES)
    assert prompt.roles[-1] == "template"
    marks_no_answer = prompt.text.endswith("[/INST]")  # Mistral
    assert prompt.turn_roles[-1] == ("user" if marks_no_answer else "assistant")

    neighbours = zip(prompt.turns, prompt.turns[1:], strict=False)
    steps = [after - before for before, after in neighbours if after != before]
    assert steps == [1] * prompt.turns[-1]
    turns_and_roles = set(zip(prompt.turns, prompt.turn_roles, strict=True))
    assert len(turns_and_roles) == prompt.turns[-1] + 1, "one role per turn"

    assert "bos" not in prompt.roles[1:]
    if prompt.roles[0] == "bos":
        bos = [i for i in prompt.ids if i == tokenizer.bos_token_id]
        assert bos == [prompt.ids[0]], "exactly one BOS"
