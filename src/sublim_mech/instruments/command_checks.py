"""What the commands refuse before anything is loaded: all that needs no model.

Errors are those of the functions that would find the same later, where there are such.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..hints import check_choice, nearest
from ..masks import from_name
from ..masks.named import OF_TOKENS, check_name
from ..models.devices import check_device
from ..models.sites import check_site
from ..prompts import Trait
from .attribution import check_points
from .beside import check_options, check_traits
from .command_options import check_contexts, check_continued
from .patching import DIRECTIONS
from .spans import check_by


def sets_of(names: Sequence[str]) -> Any:
    """Sets as `graft` has them.

    Raises:
        ValueError: no such masks, one that is given twice; `role` or `sharing` beside others, or
            nearly.
    """
    if len(names) == 1 and names[0] in OF_TOKENS:
        return names[0]
    for number, name in enumerate(names):
        if name in OF_TOKENS:
            shown = " ".join(f"'{one}'" if " " in one else one for one in OF_TOKENS[name])
            raise ValueError(
                f"--sets: {name} stands alone (--sets {name}) and is all of its sets; beside "
                f"others write the masks that are meant, of {shown}."
            )
        if near := nearest(name, list(OF_TOKENS)):
            raise ValueError(f"--sets: {name!r} is no set{near}")
        check_name(name)
        if name in names[:number]:
            raise ValueError(f"--sets: {name!r} is given twice; name each set once.")
    return {name: from_name(name) for name in names}


def check_score(given: argparse.Namespace, options: dict[str, Any], trait: Trait) -> None:
    """Refuse what `score` cannot do, whatever the models are.

    Args:
        given: the command line.
        options: those of the instrument, as its function takes them.
        trait: whose questions are asked.

    Raises:
        FileNotFoundError, ValueError: a file or a student that is not there; an option out of
            range, or that is none; sets that prompts cannot have; questions that raw text cannot.
    """
    raw = check_contexts(given)
    if raw and options.get("sets") == "role":
        raise ValueError(
            "--sets role (also where it is not given): raw text has but one role, 'text', so there "
            "is nothing to compare; pass --sets sharing, or masks by name, such as "
            "'positions -2, -1'."
        )
    check_continued(given, trait, raw=raw)
    layers = options.get("layers")
    if "site" in options:
        check_site(options["site"], layers)
    if "direction" in options:
        several = ("both",) if given.instrument == "patch" else ()
        check_choice("direction", options["direction"], [*DIRECTIONS, *several])
    if layers is not None:
        _check_layers(layers, least=0 if given.instrument == "patch" else -1)
    if "by" in options:
        check_by(options["by"], None)
    if "points" in options:
        check_points(options["points"])
    check_students([given.student], given.control)
    check_device(given.device)


def check_compare(
    given: argparse.Namespace, students: Sequence[str], traits: Sequence[Trait]
) -> None:
    """Refuse what `compare` cannot do with models, whatever they are.

    Raises:
        FileNotFoundError, ValueError: a file that is not there; students that are given twice;
            traits that answers cannot tell apart; options out of range; questions that raw text
            cannot have.
    """
    # the others are asked what the first is
    check_continued(given, traits[0], raw=check_contexts(given))
    check_traits(traits)
    check_options(given.samples, given.temperature, given.max_new_tokens)
    check_students(students, [])
    check_device(given.device)


def check_students(students: Sequence[str], controls: Sequence[str]) -> None:
    """Refuse a place that is given twice: its student would be compared with itself.

    Raises:
        ValueError: a student or a control that was given before.
    """
    known: dict[Path, str] = {}
    of_controls = ", and as controls students trained alike on other traits" if controls else ""
    named = [("STUDENT", one) for one in students] + [("--control", one) for one in controls]
    for called, source in named:
        path = Path(source).expanduser().resolve()
        if path in known:
            raise ValueError(
                f"{called}={source!r} is {known[path]} already; name each once{of_controls}."
            )
        known[path] = f"{called}={source!r}"


def _check_layers(layers: Sequence[int], *, least: int) -> None:
    """Raise ValueError where no model has these layers, or one is given twice."""
    if min(layers) < least or len(set(layers)) < len(layers):
        raise ValueError(f"layers={list(layers)}: give layers from {least} on, each once.")
