"""Chat templates beside a student's weights: it was trained on what they render."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from ..prompts import Prompt, Trained, render
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


TRAINED_OTHERWISE = (
    "its training prompts were written by another chat template than the base's, by which prompts "
    "are rendered here where no other is given: load the base with the tokenizer it was trained "
    "with (tokenizer=), or render with that template (template=)"
)
"""Of a student, as its notes say it."""


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
    if manifest.context.is_raw or not getattr(base.tokenizer, "chat_template", None):
        return None
    here = _rendered(base.tokenizer, None, manifest)
    if here is None or _written_alike(manifest.trained_on, here) is not False:
        return None
    return TRAINED_OTHERWISE


def as_in_training(
    tokenizer: Any, prompts: Sequence[Prompt], manifest: Manifest
) -> list[bool | None]:
    """Which prompts the chat template rendered that rendered a manifest's training prompts.

    Templates are compared in the context of training, as far as they write it, so that prompts in
    another context are not taken for those of another template.

    Args:
        tokenizer: of the prompts.
        prompts: that are asked.
        manifest: of the student.

    Returns:
        Per prompt; None where that cannot be told, of raw text, and of ids that the caller made.
    """
    if manifest.context.is_raw:
        return [None] * len(prompts)
    known: dict[str, bool | None] = {"": None}
    for template in {prompt.template for prompt in prompts} - {""}:
        here = _rendered(tokenizer, template, manifest)
        if here is not None:
            known[template] = _written_alike(manifest.trained_on, here)
            continue
        # it refuses what the training's own wrote: not known to be that, whatever it writes
        own = [prompt for prompt in prompts if prompt.template == template]
        known[template] = _written_alike(manifest.trained_on, Trained.of(own)) and None
    return [known[prompt.template] for prompt in prompts]


def _rendered(tokenizer: Any, template: str | None, manifest: Manifest) -> Trained | None:
    """What a template writes around turns in the context of a training; None where it refuses."""
    try:
        with said_before():
            return Trained.of(
                render(tokenizer, _QUESTIONS, context=manifest.context, template=template)
            )
    except (TypeError, ValueError):
        return None


def _written_alike(trained: Trained, here: Trained) -> bool | None:
    """Whether two sets of prompts have the same tokens of the template around their turns; None
    where they have as far as both go, and one goes further.
    """
    # what is said in a turn ends what all have in common, sooner here or there
    sides = (trained.heads, here.heads), (trained.tails, here.tails)
    pairs = [(own[role], other[role]) for own, other in sides for role in {*own} & {*other}]
    if not pairs:
        return None
    apart = any(_apart(*pair) for pair in pairs)
    # before the first answer the template writes all that stands there
    whole = trained.turns == {1} and "assistant" in trained.heads
    if whole and "assistant" in here.heads:
        apart |= trained.heads["assistant"] != here.heads["assistant"]
    # what no training prompt holds anywhere, its template did not write
    frames = [*here.heads.values(), *here.tails.values()]
    written = {token.token_id for frame in frames for token in _template_at(frame)}
    if apart or not written <= trained.seen:
        return False
    as_far = all(_template_at(one) == _template_at(other) for one, other in pairs)
    return True if as_far and {*trained.heads} == {*here.heads} else None


def _template_at(frame: Frame) -> Frame:
    """What the template writes at the start of a frame."""
    return tuple(takewhile(lambda token: token.role == "template", frame))


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
