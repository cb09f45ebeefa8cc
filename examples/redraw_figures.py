"""Draw the committed figures again, from the scores that are stored beside them.

    python examples/redraw_figures.py                    # docs/figures/scores/ -> docs/figures/
    python examples/redraw_figures.py --store out/demo   # first keep the scores of a finished demo

What is kept is what the figures show: modules summed, in single precision. Of the rank sweep, the
context grid and Qwen's students no scores are kept here: their figures are those of the runs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from train_students import Help, told

import sublim_mech as sm

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
NAMES = ("attribution", "patch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("--store", help="folder of a finished demo, whose scores are kept")
    parser.add_argument("--out", default=str(FIGURES), help="where the figures go")
    options = parser.parse_args()
    for name in NAMES:
        stored = FIGURES / "scores" / f"{name}.safetensors"
        if options.store:
            smaller(sm.Scores.load(Path(options.store) / stored.name)).save(stored)
        sm.Scores.load(stored).plot(path=Path(options.out) / f"{name}.png")


def smaller(scores: sm.Scores) -> sm.Scores:
    """The scores as far as a heatmap shows them: modules summed, in single precision."""
    effect = scores.data["effect"]
    if "module" in effect.dims:
        effect = effect.sum("module", min_count=1)
    data = scores.data.drop_dims("module", errors="ignore").assign(effect=effect.astype(np.float32))
    return replace(scores, data=data)


if __name__ == "__main__":
    told(main)
