"""What the examples of built-in studies share: options, the run, and what is said of it."""

from __future__ import annotations

import argparse
from dataclasses import replace

import pandas as pd
from train_students import chat_model, parser

from sublim_mech import studies
from sublim_mech.studies import Study

COLUMNS = ["trait", "row_seed", "method", "step", "kl", "trained_in", "evaluated_in"]
MEASURED = ["base level", "change", "control", "specific"]


def study_parser(doc: str | None, out: str) -> argparse.ArgumentParser:
    """The options of all studies: base, folder, device; seeds and processes."""
    options = parser(doc, out)
    # its default is given behind it: seeds on the command line would be added to it
    options.add_argument(
        "--row-seeds", type=int, nargs="+", action="extend", help="of number rows; 0"
    )
    options.add_argument("--workers", type=int, default=0, help="processes beside each other")
    return options


def carry_out(study: Study, options: argparse.Namespace) -> None:
    """Run a study, or go on with it; print its rows and verdicts, write its report."""
    where = replace(study.computing, device=options.device or "cpu")
    study = replace(study, base=options.base, computing=where)
    # a rank beyond the model's matrices is told before an hour of labels
    print(studies.plan(study, base=chat_model(study.base, where.device)))
    rows = studies.run(study, options.out, workers=options.workers)
    print(table(rows))
    print(studies.report(study, options.out))


def table(rows: pd.DataFrame) -> str:
    """The rows, a line each; what all have in common left out."""
    told = rows[[name for name in COLUMNS if rows[name].nunique() > 1] + MEASURED]
    return str(told.to_string(index=False, float_format="{:+.3g}".format))
