"""Training context against evaluation context, each with its own base level and control.

    python examples/context_grid.py --out out/context_grid              # killed, it goes on
    python examples/context_grid.py --row-seeds 0 1 2 --workers 2

The paper (arXiv 2606.00831, claim 3) finds the trait only where the evaluation has the training's
system prompt. The untuned base already answers differently under another system prompt, and
training on any numbers moves answers; so each cell is the student's change against the base *in
that evaluation context*, minus the same of a control student trained in the same context on another
animal's labels.

In every training context there are two students, owl and penguin, of contrastive teachers; each is
the other's control. It is the built-in study `studies.context_grid`.
"""

from __future__ import annotations

from one_study import carry_out, study_parser
from train_students import told

from sublim_mech import studies


def main() -> None:
    given = study_parser(__doc__, "out/context_grid").parse_args()
    carry_out(studies.context_grid(row_seeds=given.row_seeds or [0]), given)


if __name__ == "__main__":
    told(main)
