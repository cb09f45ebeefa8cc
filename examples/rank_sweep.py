"""Trait against capacity: LoRA ranks and full fine-tuning (arXiv 2606.00831, claims 1 and 2).

    python examples/rank_sweep.py --out out/rank_sweep                  # killed, it goes on
    python examples/rank_sweep.py --rules "alpha = rank" "alpha = 32" --row-seeds 0 1 2 --workers 2

The paper finds an inverted U in the rank and nothing under full fine-tuning. Its rule, kept here,
is alpha = rank at one learning rate for all ranks, so that the rank axis is also a learning-rate
axis. Hence the second figure of the report: the same students, along their training, against how
well they imitate their teacher on rows nobody trained on. If the curves of all capacities fall on
one another there, the U is effective learning rate; if full fine-tuning lies below the others at
equal KL, it is not.

At every capacity there are two students, owl and penguin, of contrastive teachers; each is the
other's control. It is the built-in study `studies.rank_sweep`.
"""

from __future__ import annotations

from one_study import carry_out, study_parser
from train_students import told

from sublim_mech import studies
from sublim_mech.studies.built_in import RULES

RANKS, RULE = [2, 8, 32, 128], "alpha = rank"


def main() -> None:
    options = study_parser(__doc__, "out/rank_sweep")
    # their defaults are given behind them, as those of --row-seeds
    options.add_argument(
        "--ranks",
        type=int,
        nargs="+",
        action="extend",
        help=f"of adapters; {' '.join(map(str, RANKS))}",
    )
    options.add_argument(
        "--rules", nargs="+", action="extend", help=f"of {', '.join(RULES)}; {RULE}"
    )
    given = options.parse_args()
    study = studies.rank_sweep(
        ranks=given.ranks or RANKS,
        rules=given.rules or [RULE],
        row_seeds=given.row_seeds or [0],
        snapshots=(8, 16),
    )
    carry_out(study, given)


if __name__ == "__main__":
    told(main)
