"""Contexts in words, from what records and files keep of them."""

from __future__ import annotations

import ast
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..storage.compare import briefs, different
from .words import names_apart, seen, shortened

_SYSTEM = {
    "default": "default system prompt",
    "empty": "empty system turn",
    "none": "no system block",
    "raw": "raw text (answers follow a space, or the text's own white space)",
}
_LONGEST = 60  # columns of a system prompt that are shown

BESIDE = ("options", "date", "prefill", "bos")
"""What a context says beside system prompt, user prefix and fallback, where it is not as usual."""

NOT_GIVEN = "training context not given"
OTHERWISE = "asked otherwise than trained"
TURNS = "user messages per prompt"


def several_in_words(contexts: Sequence[str | Mapping[str, Any]]) -> list[str]:
    """Contexts in words, as `in_words` has them; those that differ behind what is shown of long
    texts by what is around the first difference.

    Example:
        >>> from sublim_mech.results.contexts import several_in_words
        >>> long = "You are the assistant of a very large library. You answer in "
        >>> contexts = [sm.Context(long + end).to_json() for end in ("prose.", "verse.")]
        >>> [words[-10:] for words in several_in_words(contexts)]
        ['in prose.”', 'in verse.”']
    """
    # contexts that are one have one name
    full = {str(context): in_words(context, longest=None) for context in contexts}
    short = {str(context): in_words(context) for context in contexts}
    called = dict(short)
    for text, words in short.items():
        alike = [full[other] for other, others in short.items() if others == words]
        if len(alike) > 1:
            called[text] = names_apart(alike, 2 * _LONGEST)[full[text]]
    return [called[str(context)] for context in contexts]


def in_words(context: str | Mapping[str, Any], *, longest: int | None = _LONGEST) -> str:
    """A context as `Context.to_json` has it, or the text that a record keeps of that.

    Args:
        context: the context.
        longest: columns of each text that are shown; all when None.

    Example:
        >>> from sublim_mech.results.contexts import in_words
        >>> in_words(sm.Context(sm.Context.NONE, user_prefix="Please: ").to_json())
        'no system block, user_prefix “Please:␣”'
        >>> in_words(sm.Context(options={"enable_thinking": False}, date="2024-12-31").to_json())
        'default system prompt, enable_thinking=False, date 2024-12-31'
    """
    read = _read(context)
    if read is None:
        return _cut(str(context), longest)
    words = []
    for name, value in read.items():
        if name == "system" and isinstance(value, Mapping):
            words.append(_system(value, longest))
        elif name in BESIDE and value is not None:
            words.append(told(name, value, longest=longest))
        elif value not in (None, "", [], {}, False):
            shown = quoted(value, longest) if isinstance(value, str) else str(value)
            words.append(f"{name} {shown}")
    return ", ".join(words)


def told(name: str, value: Any, *, longest: int | None = _LONGEST) -> str:
    """One of the fields `BESIDE` in words."""
    if name == "options" and isinstance(value, Mapping):
        return ", ".join(f"{key}={_cut(repr(given), longest)}" for key, given in value.items())
    if name == "bos" and isinstance(value, bool):
        return "with BOS" if value else "without BOS"
    if name == "date":
        return f"date {value}"
    return f"{name} {quoted(str(value), longest)}"


def quoted(text: str, longest: int | None = _LONGEST) -> str:
    """A text in quotes, with blanks that show, as much of it as fits."""
    return f"“{_cut(seen(text), longest)}”"


def _cut(text: str, longest: int | None) -> str:
    return text if longest is None else shortened(text, longest)


def apart(one: Sequence[str], other: Sequence[str]) -> tuple[str, str]:
    """Contexts that differ, as texts that records keep of them, in words: of two long system
    prompts what is around the first difference.

    Example:
        >>> from sublim_mech.results.contexts import apart
        >>> calm, none = sm.Context("You are calm."), sm.Context(sm.Context.NONE)
        >>> apart([str(calm.to_json())], [str(none.to_json())])
        ('system “You are calm.”', 'no system block')
    """
    words = ["; ".join(several_in_words(contexts)) for contexts in (one, other)]
    if words[0] == words[1] and len(one) == len(other) == 1:
        read = _read(one[0]), _read(other[0])
        unlike = {} if read[0] is None or read[1] is None else _unlike(read[0], read[1], ())
        if unlike:
            told = zip(*unlike.values(), strict=True)
            words = [", ".join(map(" ".join, zip(unlike, side, strict=True))) for side in told]
    return words[0], words[1]


def asked_and_trained(
    asked: Sequence[str | Mapping[str, Any]],
    trained: str | Mapping[str, Any] | None,
) -> str:
    """In which contexts a model was asked, and in which its student was trained, in one line.

    Args:
        asked: the contexts, as JSON or as the text that a record keeps of that.
        trained: the training context, likewise; None where nobody said it.
    """
    words = several_in_words([*asked, *([] if trained is None else [trained])])
    told = f"trained in: {words[-1]}"
    which = f" {len(asked)} contexts" if len(asked) > 1 else ""
    where = f"asked in{which}: {'; '.join(words[: len(asked)])}"
    return f"{where}; {NOT_GIVEN if trained is None else told}"


def otherwise(
    asked: Iterable[str | Mapping[str, Any]],
    trained: str | Mapping[str, Any] | None,
    notes: Sequence[str] = (),
) -> list[str]:
    """What differs between how a model was asked and how its student was trained, in a line:
    conversation or raw text, system prompt, user prefix, variables of the template, date, and how
    the answer or the text begins. Nothing where nothing does, or nobody said how it was trained.

    Args:
        asked: the contexts, as JSON or as the text that a record keeps of that.
        trained: the training context, likewise.
        notes: what was told of the prompts; system prompts that are one in the template (`SAME`) do
            not differ, nor does a context whose prompts are those of training (`AS_TRAINED`).

    Example:
        >>> from sublim_mech.results.contexts import otherwise
        >>> calm, none = sm.Context("You are calm."), sm.Context(sm.Context.NONE)
        >>> print(*otherwise([none.to_json()], calm.to_json()))
        asked otherwise than trained: system: “You are calm.” in training, no system block here
    """
    found = unlike(asked, trained, notes)
    said = [f"{name}: {how}" for name, how in found.items()]
    return [f"{OTHERWISE}: {'; '.join(said)}"] if said else []


def unlike(
    asked: Iterable[str | Mapping[str, Any]],
    trained: str | Mapping[str, Any] | None,
    notes: Sequence[str] = (),
) -> dict[str, str]:
    """What `otherwise` tells, by the name of what differs."""
    there = None if trained is None else _read(trained)
    if there is None:
        return {}
    # what was trained, and what else was asked, by the name of what differs
    found: dict[str, tuple[str, dict[str, None]]] = {}
    for context in asked:
        here = None if AS_TRAINED.format(asked=in_words(context)) in notes else _read(context)
        for name, (one, other) in ({} if here is None else _unlike(there, here, notes)).items():
            found.setdefault(name, (one, {}))[1][other] = None
    return {
        name: f"{one} in training, {' / '.join(others)} here"
        for name, (one, others) in found.items()
    }


def _unlike(
    there: Mapping[str, Any], here: Mapping[str, Any], notes: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """What differs between two contexts, in words, by name."""
    kinds = _kind(there), _kind(here)
    if "raw" in kinds and kinds[0] != kinds[1]:
        return {"text": (_form(there), _form(here))}
    unlike = {}
    one, other = there.get("system"), here.get("system")
    if one != other and not _are_one(notes, one, other):
        unlike["system"] = _both_systems(one, other)
    prefixes = str(there.get("user_prefix", "")), str(here.get("user_prefix", ""))
    if prefixes[0] != prefixes[1]:
        unlike["user_prefix"] = _both(*prefixes)
    for name, (value, given) in different(_beside(there), _beside(here)).items():
        both_texts = isinstance(value, str) and isinstance(given, str) and name == "prefill"
        unlike[name] = _both(value, given) if both_texts else briefs(value, given)
    # it stands only where the template tells it
    dates = there.get("date", here.get("date")), here.get("date", there.get("date"))
    if dates[0] != dates[1]:
        unlike["date"] = str(dates[0]), str(dates[1])
    return unlike


SAME = "in this chat template {own} is the same prompt as {others}"
"""That system prompts are one, as notes say it."""
AS_TRAINED = "asked in {asked}: token by token the prompts of the training context"
"""That a context and that of training are one, as notes say it."""
THIS_TEXT = "this system text"


def _are_one(notes: Sequence[str], one: Any, other: Any) -> bool:
    """Whether notes say that two system prompts are one."""
    names = [_name_of(system) for system in (one, other)]
    for own, another in (names, names[::-1]):
        begins = SAME.format(own=own, others="")
        for note in notes:
            if note.startswith(begins) and another in note.removeprefix(begins).split(" and "):
                return True
    return False


def _name_of(system: Any) -> str:
    """What notes call a system prompt."""
    kind = system.get("kind") if isinstance(system, Mapping) else None
    return THIS_TEXT if kind is None else str(kind).upper()


def _form(context: Mapping[str, Any]) -> str:
    """Whether it is raw text or a conversation, and of what kind."""
    if _kind(context) == "raw":
        return "raw text"
    return f"a conversation ({_system(context.get('system', {}))})"


def _both_systems(one: Any, other: Any) -> tuple[str, str]:
    """Two system prompts that differ: texts side by side, the other kinds in words."""
    texts = [system.get("text") if isinstance(system, Mapping) else None for system in (one, other)]
    if None not in texts:
        return _both(*map(str, texts))
    words = [
        _system(system) if text is None else quoted(str(text))
        for system, text in zip((one, other), texts, strict=True)
    ]
    return words[0], words[1]


def _both(*texts: str) -> tuple[str, str]:
    """Two texts that differ, so that it shows: of long ones what is around the first difference."""
    shown = [quoted(text) if text else "none" for text in texts]
    if _drawn(shown[0]) == _drawn(shown[1]):
        first = next(
            (i for i, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1]),
            min(map(len, texts)),
        )
        parts = [_around(text, first) for text in texts]
        # letters that look alike are told by their numbers
        alike = _drawn(parts[0]) == _drawn(parts[1]) and [text[first : first + 1] for text in texts]
        shown = [f"{part} ({len(text)} letters)" for part, text in zip(parts, texts, strict=True)]
        if alike:
            shown = [
                f"{part}, letter {first + 1} {ascii(letter) if letter else 'missing'}"
                for part, letter in zip(shown, alike, strict=True)
            ]
    return shown[0], shown[1]


def _drawn(text: str) -> str:
    """What is drawn of a text: joiners are not, and an accent by itself is one with its letter."""
    return unicodedata.normalize("NFC", text.replace("\u200c", "").replace("\u200d", ""))


def _around(text: str, place: int) -> str:
    """What of a long text stands around a place, in quotes."""
    start, end = max(place - 20, 0), max(place - 20, 0) + 40
    before, after = "…" * (start > 0), "…" * (end < len(text))
    return f"“{before}{seen(text[start:end])}{after}”"


def _read(context: str | Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A context as JSON; None where a text is none."""
    if isinstance(context, str):
        try:
            context = ast.literal_eval(context)
        except (SyntaxError, ValueError):
            return None
    return context if isinstance(context, Mapping) else None


def _beside(context: Mapping[str, Any]) -> dict[str, Any]:
    """Options, prefill and BOS, those that are as usual too."""
    usual: dict[str, Any] = {"options": {}, "prefill": "", "bos": None}
    return {name: context.get(name, value) for name, value in usual.items()}


def _kind(context: Mapping[str, Any]) -> str:
    return str(context.get("system", {}).get("kind"))


def _system(system: Any, longest: int | None = _LONGEST) -> str:
    if not isinstance(system, Mapping):
        return str(system)
    if "text" in system:
        return f"system {quoted(str(system['text']), longest)}"
    kind = str(system.get("kind"))
    return _SYSTEM.get(kind, kind)
