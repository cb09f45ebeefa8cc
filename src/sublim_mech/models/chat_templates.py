"""Chat templates beside a student's weights: it was trained on what they render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .adapters import read_config
from .base import Base

_SYSTEM = {"role": "system", "content": "zero"}
_TALK = (
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
)
CONVERSATIONS = (_TALK, (_SYSTEM, *_TALK), _TALK[:2])
"""What both templates are asked to render: what they do not write differently is no difference.
With and without a system message, a question that waits for its answer, and one that has it."""

# render(template=) would render prompts alone, and not the training that they share tokens with
_FIX = "if it was trained with its own, load the base with its tokenizer (tokenizer=)"


def other_template(base: Base, path: Path) -> str | None:
    """What to know where a student's folder holds a template that renders otherwise than the
    base's, in words; None where it holds none or the same.
    """
    own = _template_of(path)
    if own is None or not hasattr(base.tokenizer, "apply_chat_template"):
        return None
    if not getattr(base.tokenizer, "chat_template", None):
        return f"its folder holds a chat template, and the base has none: {_FIX}"
    if _rendered(base.tokenizer, own) == _rendered(base.tokenizer, None):
        return None
    return (
        "its folder holds another chat template than the base's, by which its prompts and its "
        f"training are rendered here: {_FIX}"
    )


def _template_of(path: Path) -> str | None:
    """The chat template in a folder, as transformers writes it."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    file = path / "tokenizer_config.json"
    if not file.is_file():
        return None
    template = read_config(file).get("chat_template")
    if isinstance(template, list):  # several by name
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template


def _rendered(tokenizer: Any, template: str | None) -> list[str]:
    """What a template writes; its error where it refuses."""
    return [_one(tokenizer, template, list(talk)) for talk in CONVERSATIONS]


def _one(tokenizer: Any, template: str | None, talk: list[dict[str, str]]) -> str:
    waits = talk[-1]["role"] == "user"
    try:
        return tokenizer.apply_chat_template(
            talk, chat_template=template, tokenize=False, add_generation_prompt=waits
        )
    except Exception as error:  # templates raise what they like: jinja2's errors, ValueError...
        return f"refused: {error}"
