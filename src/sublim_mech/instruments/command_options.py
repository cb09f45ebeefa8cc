"""What the commands about pairs have in common: models, traits, questions, contexts."""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..engine.pair import ModelPair, load_pair
from ..engine.taught import check_training
from ..hints import nearest
from ..models.base import Base, load_base
from ..models.presence import check_there
from ..models.students import Student, load_student
from ..prompts import ANIMALS, RAW, TREES, Context, Prompt, Trait, render
from ..prompts.blank import is_blank
from ..prompts.context import spelled
from ..prompts.context_tables import KINDS, context_of
from ..storage.files import plain
from ..tables import read_table, toml_value
from .command_words import in_commands
from .prompt_files import read_prompts

CONTEXTS = {name: Context(kind) for name, kind in KINDS.items()}
"""Contexts without a text, by name."""

_CONTEXT = f"{{{','.join(CONTEXTS)},FILE.toml}}"

NAMES = {
    "base": "BASE", "student": "STUDENT", "trained_on": "--trained-on", "questions": "--ask",
    "trained_in": "--trained-system or --trained-context", "path": "--out",
    "max_new_tokens": "--max-new-tokens",
    **{name: f"--{name}" for name in (
        "device", "sets", "site", "direction", "layers", "by", "points", "keep", "samples",
        "temperature", "seed",
    )},
}  # fmt: skip
"""What arguments of the functions are called on the command line, where errors name them."""


def add_shared(asked: Any) -> None:
    """Add what every command about a pair takes."""
    add = asked.add_argument
    add(
        "--forms",
        nargs="+",
        action="extend",
        metavar="TEXT",
        help="all that counts as naming the trait, exactly",
    )
    add("--category", help="what the trait is one of, which fills the questions")
    add("--ask", metavar="FILE", help="questions of your own, one per line (.jsonl: JSON)")
    add("--questions", type=_from_one, metavar="N", help="the first N questions; all by default")
    trained = asked.add_mutually_exclusive_group()
    trained.add_argument(
        "--trained-system", metavar="TEXT", help="system prompt of the training, without manifest"
    )
    trained.add_argument(
        "--trained-context",
        type=_context_named,
        metavar=_CONTEXT,
        help="context of the training, without manifest",
    )
    add("--trained-on", metavar="FILE", help="some training prompts, one per line (.jsonl: JSON)")
    of_asking = asked.add_mutually_exclusive_group()
    of_asking.add_argument("--asked-system", metavar="TEXT", help="ask under this system prompt")
    of_asking.add_argument(
        "--asked-context",
        type=_context_named,
        metavar=_CONTEXT,
        help="ask so; as in training when not given",
    )
    add("--device", help="cpu, cuda, cuda:1, mps; cpu when not given")
    add(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="floating-point type of the weights; float32",
    )
    add("--json", action="store_true", help="JSON instead of text, for scripts")
    add("--quiet", action="store_true", help="no progress")


def _from_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _context_named(text: str) -> str | Path:
    """The name of a context, or the file that has one."""
    if text in CONTEXTS:
        return text
    if text.endswith((".toml", ".json")):
        return Path(text).expanduser()
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither one of {', '.join(CONTEXTS)} nor a .toml or .json file of a context "
        "(docs/commands.md has one); a system prompt of your own is given with --trained-system or "
        f"--asked-system{nearest(text.lower(), CONTEXTS) or '.'}"
    )


def seed_of(text: str) -> int:
    """A whole number that numpy's generators take."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def layer_of(text: str) -> int:
    """One of several numbers that stand one after the other."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no whole number; write each by itself: --layers 4 8 12"
        ) from None


def check_contexts(given: argparse.Namespace) -> bool:
    """Whether questions are sure to be raw text, by what the command line says of contexts.

    Raises:
        FileNotFoundError, ValueError: no such file of training prompts, or what cannot be them; a
            blank system prompt.
    """
    check_training(*_training(given))
    asked, trained = _asked(given, Context()), _trained(given)
    return (trained if asked is None else asked) == RAW


def check_continued(given: argparse.Namespace, trait: Trait, *, raw: bool) -> None:
    """Refuse to ask in raw text what is written for a chat.

    Args:
        given: the command line.
        trait: whose questions are asked, where it names no others.
        raw: whether they are raw text.

    Raises:
        ValueError: they are, and are the library's fifty about a category.
    """
    if raw and given.ask is None and trait.asks_category:
        raise ValueError(
            "raw text is continued, not answered, and the questions about a favorite "
            f"{trait.category} are written for a chat: give texts to continue, --ask FILE."
        )


def opened(
    given: argparse.Namespace, base: Any, student: Any, controls: Sequence[Any]
) -> ModelPair:
    """The pair that the command line names.

    Raises:
        FileNotFoundError, ParityError, TypeError, ValueError: see `load_pair`.
    """
    trained_in, trained_on = _training(given)
    for option in ("trained_system", "asked_system"):
        if "\\n" in (getattr(given, option) or ""):
            say(
                f"--{option.replace('_', '-')}: holds a backslash and n, no line break; bash's "
                "$'...' writes one"
            )
    return load_pair(
        base,
        student,
        controls=controls,
        trained_in=trained_in,
        trained_on=trained_on,
        device=given.device,
        dtype=getattr(torch, given.dtype),
    )


def peers(
    given: argparse.Namespace, base: str, students: Sequence[str]
) -> tuple[Base, dict[str, Student]]:
    """A base and students of it, none of which is another's control, by what tables call them: as
    the library does (by trait or folder) where no two have one name, else by their folders, else
    as they were given.

    Raises:
        FileNotFoundError, TypeError, ValueError: see `load_base`, `load_student`; one that is given
            twice.
    """
    check_training(*_training(given))
    for student in students:
        check_there(student)
    loaded = load_base(base, device=given.device, dtype=getattr(torch, given.dtype))
    found = [load_student(loaded, student) for student in students]
    hashes = [student.hash for student in found]
    for number, digest in enumerate(hashes):
        if digest in hashes[:number]:
            other = students[hashes.index(digest)]
            raise ValueError(
                f"STUDENT={students[number]!r} has the weights of {other!r}; name each once."
            )
    folders = [Path(student).name for student in students]
    choices = [[one.name for one in found], folders, list(students)]
    names = next(
        (some for some in choices if len({*some, "base"}) > len(some) and all(some)),
        [f"student {number}" for number in range(1, len(students) + 1)],
    )
    named = zip(names, found, strict=True)
    return loaded, {name: replace(student, name=name) for name, student in named}


def _training(given: argparse.Namespace) -> tuple[Context | None, list[Any] | None]:
    """What is said of the first student's training."""
    trained_in = _trained(given)
    if trained_in is None and given.trained_on is not None:
        raise ValueError(
            "--trained-on: say the context too, --trained-system TEXT or --trained-context "
            f"{', '.join(CONTEXTS)}."
        )
    if given.trained_on is None:
        return trained_in, None
    return trained_in, read_prompts("--trained-on", given.trained_on, trained_in=trained_in)


def rendered(given: argparse.Namespace, pair: ModelPair, trait: Trait) -> list[Prompt]:
    """The questions, as they are asked.

    Raises:
        ValueError: see `render`, `check_continued`.
    """
    trained = pair.training_context or Context()
    context = _asked(given, Context() if trained == RAW else trained)
    check_continued(given, trait, raw=(context or trained).is_raw)
    asked = trait.questions if given.ask is None else read_prompts("--ask", given.ask)
    return render(pair, asked[: given.questions], context=context)


def _trained(given: argparse.Namespace) -> Context | None:
    """The context of the training, where the command line says it."""
    return _context(given.trained_system, given.trained_context, Context(), "--trained")


def _asked(given: argparse.Namespace, like: Context) -> Context | None:
    """The context in which questions are asked, where the command line says it."""
    return _context(given.asked_system, given.asked_context, like, "--asked")


def _context(
    system: str | None, name: str | Path | None, like: Context, options: str
) -> Context | None:
    """The context of a text or a name, otherwise as another one, or that of a file, as it is; None
    where none is given.

    Args:
        system: the text.
        name: the name, or the file.
        like: what else the context is.
        options: what the two options begin with.
    """
    if isinstance(name, Path):
        where = f"{options}-context {name}"
        return context_of(read_table(name, where), where)
    if system is not None:
        check_system(f"{options}-system", system, f"{options}-context")
        return replace(like, system=system, literal=True)
    if name is None:
        return None
    if name == "raw":
        return RAW
    return replace(like, system=CONTEXTS[name].system)


def check_system(option: str, system: str, named: str, literal: str = "") -> None:
    """Refuse, as `Context` does, a system prompt that is blank or spells one that is no text.

    Args:
        option: the option that takes the text.
        system: the text.
        named: the option that takes the names of contexts.
        literal: how such a text is given where it is meant; as a file of `named` when not given.

    Raises:
        ValueError: it is such a text.
    """
    if is_blank(system):
        raise ValueError(
            f"{option}={system!r}: is blank; say which context is meant, {named} empty (an empty "
            "system turn) or none (no system block)."
        )
    kind = spelled(system)
    if kind is not None:
        file = f"{named} FILE.toml, in which stands system = {{text = {toml_value(system)}}}"
        raise ValueError(
            f"{option}={system!r}: a system turn with this very text, or {named} {kind.value}? "
            f"Pass the latter, or say that the text is meant: {literal or file}."
        )


def trait_of(given: argparse.Namespace, name: str) -> Trait:
    """Of animals and trees the plural counts too, of anything else the word as it is written; with
    `--forms` these alone.

    Raises:
        ValueError: nothing says how it is asked for.
    """
    built_in = {"animal": ANIMALS, "tree": TREES}
    known = [category for category, names in built_in.items() if name in names]
    category = given.category or (known[0] if known else "")
    asked: dict[str, Any] = {}
    if given.ask is not None:
        questions = read_prompts("--ask", given.ask)
        # conversations are prompts, and no questions of a trait
        asked["questions"] = [one for one in questions if isinstance(one, str)]
    if not category and given.ask is None:
        raise ValueError(
            f"--trait {name}: say what it is one of, which fills the questions (--category city), "
            "or how it is asked for (--ask FILE)."
        )
    if given.forms is not None:
        asked["forms"] = given.forms
    elif category in built_in:
        return Trait.noun(name, category=category, **asked)
    return Trait(name, category=category, **asked)


# --------------------------------------------------------------------------------------- telling


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table for JSON: one object per row, its labels among them (`label` where they have no
    name); what is no number is null.
    """
    if not isinstance(table.index, pd.RangeIndex):
        names = [name or "label" for name in table.index.names]
        table = table.rename_axis(index=names).reset_index()
    rows = pd.DataFrame(table).to_dict("records")
    return [{str(name): _for_json(value) for name, value in row.items()} for row in rows]


def _for_json(value: Any) -> Any:
    value = plain(value) if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say(line: str) -> None:
    """Say something that is no result."""
    print(line, file=sys.stderr, flush=True)


def called(given: argparse.Namespace) -> dict[str, str]:
    """What arguments of the functions are called on the command line that was given."""
    controls = {f"controls[{i}]": "--control" for i in range(len(getattr(given, "control", [])))}
    return {**given.names, **controls}


@contextmanager
def noting(given: argparse.Namespace) -> Iterator[None]:
    """Have notes of the library said as lines in the command line's words, without the place in a
    file they come from.
    """

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say(in_commands(str(message), called(given)))

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
