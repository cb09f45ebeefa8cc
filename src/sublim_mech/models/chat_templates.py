"""Chat templates beside a student's weights: it was trained on what they render."""

from __future__ import annotations

from pathlib import Path

from ..prompts import Trained, render
from ..prompts.alike import write_alike
from ..prompts.notices import said_before
from ..prompts.shared import Frame
from ..storage.manifest import Manifest
from .adapters import read_config
from .base import Base

_QUESTIONS = ("One, two?", "which is it.")
"""Two that begin and end otherwise, so that they have the template alone in common."""

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
    if write_alike(base.tokenizer, own, None):
        return None
    return (
        "its folder holds another chat template than the base's, by which prompts and training are "
        f"rendered here where no other is given: {_FIX}"
    )


def trained_otherwise(base: Base, manifest: Manifest) -> str | None:
    """What to know where a manifest's training prompts have other tokens of the template around
    their turns than the base's tokenizer writes in their context, in words; None where they do not,
    or where that context cannot be rendered here.
    """
    trained = manifest.trained_on
    if manifest.context.is_raw or not getattr(base.tokenizer, "chat_template", None):
        return None
    try:
        with said_before():
            here = Trained.of(render(base.tokenizer, _QUESTIONS, context=manifest.context))
    except (TypeError, ValueError):
        return None
    # what is said in a turn ends what all have in common, sooner here or there
    sides = (trained.heads, here.heads), (trained.tails, here.tails)
    pairs = [(own[role], other[role]) for own, other in sides for role in {*own} & {*other}]
    apart = any(_apart(*pair) for pair in pairs)
    # before the first answer the template writes all that stands there
    whole = trained.turns == {1} and "assistant" in trained.heads
    if whole and "assistant" in here.heads:
        apart |= trained.heads["assistant"] != here.heads["assistant"]
    if not apart:
        return None
    return (
        "its training prompts were written by another chat template than the base's, by which "
        "prompts are rendered here where no other is given: load the base with the tokenizer it "
        "was trained with (tokenizer=), or render with that template (template=)"
    )


def _apart(one: Frame, other: Frame) -> bool:
    """Whether two turns' frames differ in what the template writes, as far as both go."""
    for first, second in zip(one, other, strict=False):
        if "template" not in (first.role, second.role):
            return False
        if first != second:
            return first.role == second.role
    return False


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
