"""Studies: grids of students and scores that are planned, run, interrupted, resumed and spread over
processes and machines.

    study = studies.rank_sweep(row_seeds=[0, 1, 2])
    table = studies.run(study, "out/sweep")      # one row per run; the same call goes on

A configuration (`Study`, `Part`, `Method`) says what is made; everything is kept under the hash of
what decides it, so that cells share labels, students and base levels, and nothing is made twice.
"""

from .built_in import (
    capacity_curve,
    context_grid,
    laptop,
    localisation,
    quick,
    rank_sweep,
    trained_at,
    trait_matrix,
)
from .config import Method, Part, Study
from .exported import read_export
from .options import Asking, Computing, RowPlan, Training
from .planning import Plan, plan
from .published import paper
from .reporting import Report, report, report_rows
from .states import Status, status
from .store import DiskFullError
from .study import export, rows, run
from .tasks import Tasks
from .written import read_study, write_study

__all__ = [
    "Asking",
    "Computing",
    "DiskFullError",
    "Method",
    "Part",
    "Plan",
    "Report",
    "RowPlan",
    "Status",
    "Study",
    "Tasks",
    "Training",
    "capacity_curve",
    "context_grid",
    "export",
    "laptop",
    "localisation",
    "paper",
    "plan",
    "quick",
    "rank_sweep",
    "read_export",
    "read_study",
    "report",
    "report_rows",
    "rows",
    "run",
    "status",
    "trained_at",
    "trait_matrix",
    "write_study",
]
