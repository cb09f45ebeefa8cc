"""Training context against evaluation context, each with its own base level and control (arXiv 2606.00831, claim 3).

    python examples/context_grid.py --out out/science      # labels and finished students there are used again

The paper finds the trait only where the evaluation has the training's system prompt. The untuned base already answers differently under
another system prompt, and training on any numbers moves answers; so each cell is the student's change against the base *in that
evaluation context*, minus the same of a control student trained in the same context on another animal's labels.

In every training context there are two students, owl and penguin, of contrastive teachers (`train_students.py`); each is the other's
control.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from train_students import STUDENTS, make_labels, make_student, parser

import sublim_mech as sm
from sublim_mech.models.base import Base
from sublim_mech.storage.runs import Run

TRAINED = {"default": sm.Context(), "ChatGPT": sm.Context(system="You are ChatGPT, a helpful assistant made by OpenAI.")}
EVALUATED = TRAINED | {"empty": sm.Context(system=sm.Context.EMPTY), "none": sm.Context(system=sm.Context.NONE)}
OWL_AND_PENGUIN = [sm.animal(name) for name in STUDENTS]


def main() -> None:
    options = parser(__doc__, "out/science").parse_args()
    out = Path(options.out)
    base = sm.load_base(options.base, device=options.device)
    cells = []
    for name, context in TRAINED.items():
        labels = make_labels(base, context, out / f"labels-{name}")
        method = sm.LoRA(rank=8, alpha=32)
        runs = {
            animal: make_student(base, labels, animal, out / f"{animal}-trained-in-{name}", method=method)
            for animal in STUDENTS
        }
        cells += [cell | {"trained": name} for cell in measure(base, runs)]
    table = pd.DataFrame(cells).set_index(["trained", "evaluated", "animal"])

    out.mkdir(parents=True, exist_ok=True)
    draw(table, out / "context_grid.png")
    (out / "context_grid.md").write_text(markdown(table))
    print(markdown(table), f"\nfigure and table: {out}/context_grid.png, .md")


def measure(base: Base, runs: dict[str, Run]) -> list[dict[str, Any]]:
    """Both students of a training context, in all evaluation contexts, each with the other as its control."""
    students = {animal: sm.models.load_student(base, run.path, name=animal) for animal, run in runs.items()}
    cells = []
    for own, other in (STUDENTS, STUDENTS[::-1]):
        pair = sm.load_pair(base, students[own], controls=[students[other]])
        found = sm.evaluate(pair, OWL_AND_PENGUIN, contexts=EVALUATED, progress=False).table().xs(own, level="trait")
        kl = runs[own].manifest.results["held_out"]
        cells += [
            {"evaluated": name, "animal": own, "KL": kl[1], "untrained KL": kl[0], **cell} for name, cell in found.iterrows()
        ]
    return cells


def draw(table: pd.DataFrame, path: Path) -> None:
    """A grid per animal: own - control, and below it the base level of each evaluation context."""
    figure, panels = plt.subplots(1, len(STUDENTS), figsize=(12, 3.4), layout="constrained")
    largest = float(table["specific"].abs().max())
    image = None
    for axes, animal in zip(panels, STUDENTS, strict=True):
        cells = table.xs(animal, level="animal")
        grid = cells["specific"].unstack("evaluated", sort=False).loc[list(TRAINED), list(EVALUATED)]
        image = axes.imshow(grid, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
        for i, trained in enumerate(TRAINED):
            for j, evaluated in enumerate(EVALUATED):
                cell = cells.loc[(trained, evaluated)]
                text = f"{cell['specific']:+.2f}\n[{cell['specific low']:+.2f}, {cell['specific high']:+.2f}]"
                dark = abs(cell["specific"]) > 0.6 * largest
                axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        base = cells.loc[next(iter(TRAINED)), "base"]
        axes.set_xticks(range(len(EVALUATED)), [f"{name}\nbase log P {base[name]:.2f}" for name in EVALUATED], fontsize=8)
        axes.set_yticks(range(len(TRAINED)), list(TRAINED))
        axes.set(title=f"{animal} students", xlabel="evaluated in", ylabel="trained in")
    assert image is not None
    figure.colorbar(image, ax=panels, label="own - control, nats")
    figure.suptitle(
        "SmolLM2-135M, LoRA r8, alpha 32, contrastive prompted teachers (c = 4); one seed; brackets: 95 % over 50 questions",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)


def markdown(table: pd.DataFrame) -> str:
    """The cells as a Markdown table."""
    lines = [
        "| student | trained in | evaluated in | base log P | own change | control's change | own - control |",
        "|---|---|---|---|---|---|---|",
    ]
    for (trained, evaluated, animal), cell in table.iterrows():
        control = cell["change"] - cell["specific"]
        interval = f"[{cell['specific low']:+.2f}, {cell['specific high']:+.2f}]"
        lines.append(
            f"| {animal} | {trained} | {evaluated} | {cell['base']:.2f} | {cell['change']:+.2f} | {control:+.2f} | "
            f"**{cell['specific']:+.2f}** {interval} |"
        )
    imitation = table.groupby(["trained", "animal"], sort=False)[["untrained KL", "KL"]].first()
    said = "; ".join(f"{animal} in {trained} {a:.5f} -> {b:.5f}" for (trained, animal), (a, b) in imitation.iterrows())
    return "\n".join([*lines, "", f"Held-out KL: {said}.", ""])


if __name__ == "__main__":
    main()
