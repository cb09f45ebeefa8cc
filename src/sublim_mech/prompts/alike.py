"""Whether two chat templates write the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .prompt import Prompt

_SYSTEM = {"role": "system", "content": "zero"}
_TALK = (
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
)
CONVERSATIONS = (_TALK, (_SYSTEM, *_TALK), _TALK[:2])
"""What both templates are asked to render: what they do not write differently is no difference.
With and without a system message, a question that waits for its answer, and one that has it."""


def write_alike(tokenizer: Any, one: str | None, other: str | None) -> bool:
    """Whether two chat templates render the same, remarks and marks for trainers aside.

    Args:
        tokenizer: which gives them its special tokens.
        one: a template; None is the tokenizer's own.
        other: another.
    """
    return one == other or _rendered(tokenizer, one) == _rendered(tokenizer, other)


def by_another(tokenizer: Any, prompts: Sequence[Prompt]) -> list[bool]:
    """Which prompts another chat template rendered than the tokenizer's own would.

    Of raw text, of ids that the caller made, and where the tokenizer has no template, none.
    """
    if not getattr(tokenizer, "chat_template", None):
        return [False] * len(prompts)
    templates = {prompt.template for prompt in prompts} - {""}
    otherwise = {text for text in templates if not write_alike(tokenizer, text, None)}
    return [prompt.template in otherwise for prompt in prompts]


def _rendered(tokenizer: Any, template: str | None) -> list[str]:
    """What a template writes; its error where it refuses."""
    return [_one(tokenizer, template, list(talk)) for talk in CONVERSATIONS]


def _one(tokenizer: Any, template: str | None, talk: list[dict[str, str]]) -> str:
    waits = talk[-1]["role"] == "user"
    try:
        return str(
            tokenizer.apply_chat_template(
                talk, chat_template=template, tokenize=False, add_generation_prompt=waits
            )
        )
    except Exception as error:  # templates raise what they like: jinja2's errors, ValueError...
        return f"refused: {error}"
