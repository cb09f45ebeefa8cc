"""The command line of studies: `plan`, `run`, `status`, `report`, `export`, thin over functions."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from typing import Any

from ..hints import nearest, renamed
from ..instruments.command_words import in_commands
from ..models.base import load_base
from .built_in import PRESETS
from .config import Study
from .crew import WorkerDiedError
from .planning import plan
from .reporting import report
from .states import status
from .study import export, run
from .written import check_study_file, read_study, write_study

EXAMPLES = """
examples:
  sublim-mech plan quick
  sublim-mech run quick --out out/quick --workers 2
  sublim-mech run my_study.toml --out out/mine --shard $SLURM_ARRAY_TASK_ID/4 --steal
  sublim-mech run my_study.toml --out /shared/mine --ray auto
  sublim-mech status quick --out out/quick --json
  sublim-mech report quick --out out/quick
"""

NAMES = {
    "out": "--out", "to": "--to", "shard": "--shard", "workers": "--workers",
    "ray": "--ray",
}  # fmt: skip
"""What arguments of the functions are called on the command line, where errors name them."""


def add_commands(commands: Any) -> None:
    """Add the commands to those of the library."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "study", help=f"{', '.join(PRESETS)}, or a .toml or .json file (docs/studies.md has one)"
    )
    shared.add_argument("--json", action="store_true", help="JSON instead of text, for scripts")
    form = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": EXAMPLES}

    asked = commands.add_parser(
        "plan", parents=[shared], help="what a study takes, before anything starts", **form
    )
    asked.add_argument("--out", help="the study's folder: what is there already is not counted")
    asked.add_argument(
        "--load", action="store_true", help="load the base, for sizes not known here"
    )
    asked.add_argument("--save", metavar="FILE", help="write the configuration to a .toml or .json")
    asked.set_defaults(do=_plan, names={**NAMES, "path": "--save"})

    asked = commands.add_parser("run", parents=[shared], help="run a study, or go on", **form)
    asked.add_argument("--out", required=True, help="the study's folder")
    asked.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes beside each other; 0 (when not given): this one alone",
    )
    asked.add_argument(
        "--ray",
        nargs="?",
        const=True,
        default=False,
        metavar="ADDRESS",
        help="actors of a Ray cluster: the one that is found or started here, or auto, local, "
        "HOST:PORT; --workers of them, as many as have room when not given",
    )
    asked.add_argument("--shard", metavar="I/N", help="this part of the runs only, 0/N to N-1/N")
    asked.add_argument("--steal", action="store_true", help="then others' runs, too")
    asked.add_argument("--retry", action="store_true", help="try again what failed")
    asked.add_argument("--quiet", action="store_true", help="no line per task")
    asked.set_defaults(do=_run, names=NAMES)

    asked = commands.add_parser("status", parents=[shared], help="how far a study is", **form)
    asked.add_argument("--out", required=True, help="the study's folder")
    asked.set_defaults(do=_status, names=NAMES)

    asked = commands.add_parser(
        "report", parents=[shared], help="verdicts and figures as one page", **form
    )
    asked.add_argument("--out", required=True, help="the study's folder")
    asked.add_argument("--to", metavar="FOLDER", help="OUT/report/NAME when not given")
    asked.set_defaults(do=_report, names=NAMES)

    asked = commands.add_parser("export", parents=[shared], help="rows as one file", **form)
    asked.add_argument("--out", required=True, help="the study's folder")
    asked.add_argument("--to", required=True, metavar="FILE", help=".csv or .parquet")
    asked.set_defaults(do=_export, names={**NAMES, "path": "--to"})


def _study(name: str) -> Study:
    """A study by the name of a preset, or from a file.

    Raises:
        ValueError: neither.
    """
    if name in PRESETS:
        return PRESETS[name]()
    if name.endswith((".toml", ".json")):
        with renamed({"path": "STUDY"}):
            return read_study(name)
    if name.endswith((".csv", ".parquet")):
        raise ValueError(
            f"STUDY={name!r} holds rows and no study; the report of rows alone is, in Python, "
            f"studies.report_rows(studies.read_export({name!r}), 'FOLDER')."
        )
    raise ValueError(
        f"STUDY={name!r} is none of {', '.join(PRESETS)}{nearest(name, PRESETS) or '.'} A study of "
        "your own is a .toml or .json file."
    )


def _print(given: argparse.Namespace, told: Any) -> None:
    print(json.dumps(told.to_json()) if given.json else in_commands(repr(told), given.names))


def _plan(given: argparse.Namespace) -> int:
    study = _study(given.study)
    if given.save is not None:  # told before a base is loaded
        check_study_file(given.save)
    if given.load:  # what is wrong with study and folder is told before a base is loaded
        plan(study, given.out)
    planned = plan(study, given.out, base=load_base(study.base) if given.load else None)
    _print(given, planned)
    if given.save is not None:
        write_study(study, given.save)
    return 0


def _run(given: argparse.Namespace) -> int:
    study = _study(given.study)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            rows = run(
                study,
                given.out,
                workers=given.workers,
                ray=given.ray,
                shard=given.shard,
                steal=given.steal,
                retry=given.retry,
                progress=not given.quiet,
            )
        except (WorkerDiedError, ModuleNotFoundError) as error:
            raise ValueError(str(error)) from error
    for one in caught:  # behind the lines of progress
        warnings.warn(str(one.message), stacklevel=2)
    reached = status(study, given.out)
    if given.json:
        print(json.dumps({"rows": len(rows), **reached.to_json()}))
    else:
        _print(given, reached)
    return 1 if reached.failures else 0


def _status(given: argparse.Namespace) -> int:
    reached = status(_study(given.study), given.out)
    _print(given, reached)
    return 1 if reached.failures or reached.missing else 0


def _report(given: argparse.Namespace) -> int:
    told = report(_study(given.study), given.out, given.to)
    _print(given, told)
    return 0


def _export(given: argparse.Namespace) -> int:
    study = _study(given.study)
    export(study, given.out, given.to)
    print(f"rows of study {study.name!r} are in {given.to}", file=sys.stderr)
    return 0


RUN = _run
"""The command that goes on where it was interrupted."""
