"""Training context against evaluation context, each with its own base level and control.

    python examples/context_grid.py --out out/science  # labels and finished students there are used

The paper (arXiv 2606.00831, claim 3) finds the trait only where the evaluation has the training's
system prompt. The untuned base already answers differently under another system prompt, and
training on any numbers moves answers; so each cell is the student's change against the base *in
that evaluation context*, minus the same of a control student trained in the same context on another
animal's labels.

In every training context there are two students, owl and penguin, of contrastive teachers
(`train_students.py`); each is the other's control.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from train_students import STUDENTS, make_labels, make_student, parser, told

import sublim_mech as sm
from sublim_mech.models.base import Base
from sublim_mech.results.colours import half_range
from sublim_mech.results.style import (
    LARGE,
    MEDIUM,
    SMALL,
    colour_bar,
    effect_image,
    new_figure,
    set_title,
    write,
)
from sublim_mech.storage.runs import Run

CHATGPT = "You are ChatGPT, a helpful assistant made by OpenAI."
TRAINED = {"default": sm.Context(), "ChatGPT": sm.Context(system=CHATGPT)}
NO_TEXT = {
    "empty": sm.Context(system=sm.Context.EMPTY),
    "none": sm.Context(system=sm.Context.NONE),
}
EVALUATED = TRAINED | NO_TEXT
TITLE = (
    "SmolLM2-135M, LoRA r8, alpha 32, contrastive prompted teachers (c = 4); one seed; "
    "brackets: 95 % over 50 questions"
)
OWL_AND_PENGUIN = [sm.animal(name) for name in STUDENTS]


def main() -> None:
    options = parser(__doc__, "out/science").parse_args()
    out = Path(options.out).expanduser()
    base = sm.load_base(options.base, device=options.device)
    sm.prompts.check_distinct(base.tokenizer, list(EVALUATED.values()))
    cells = []
    for name, context in TRAINED.items():
        labels = make_labels(base, context, out / f"labels-{name}")
        method = sm.LoRA(rank=8, alpha=32)
        runs = {}
        for animal in STUDENTS:
            folder = out / f"{animal}-trained-in-{name}"
            runs[animal] = make_student(base, labels, animal, folder, method=method)
        cells += [cell | {"trained": name} for cell in measure(base, runs)]
    table = pd.DataFrame(cells).set_index(["trained", "evaluated", "animal"])

    out.mkdir(parents=True, exist_ok=True)
    draw(table, out / "context_grid.png")
    (out / "context_grid.md").write_text(markdown(table))
    print(markdown(table), f"\nfigure and table: {out}/context_grid.png, .md")


def measure(base: Base, runs: dict[str, Run]) -> list[dict[str, Any]]:
    """Both students of a training context, each with the other as its control, in all contexts."""
    students = {}
    for animal, run in runs.items():
        students[animal] = sm.models.load_student(base, run.path, name=animal)
    cells = []
    for own, other in (STUDENTS, STUDENTS[::-1]):
        pair = sm.load_pair(base, students[own], controls=[students[other]])
        outcome = sm.evaluate(pair, OWL_AND_PENGUIN, contexts=EVALUATED, progress=False)
        untrained, trained = runs[own].manifest.results["held_out"][:2]
        imitation = {"animal": own, "KL": trained, "untrained KL": untrained}
        for name, cell in outcome.table().xs(own, level="trait").iterrows():
            cells.append({"evaluated": name, **imitation, **cell})
    return cells


def draw(table: pd.DataFrame, path: Path) -> None:
    """A grid per animal: specific change, below it the base level of each evaluation context."""
    figure = new_figure(12, 3.6)
    panels = figure.subplots(1, len(STUDENTS))
    largest = half_range(table["specific"].to_numpy())
    for axes, animal in zip(panels, STUDENTS, strict=True):
        cells = table.xs(animal, level="animal")
        trained = list(TRAINED)[::-1]  # an image begins at the bottom
        specific = cells["specific"].unstack("evaluated", sort=False)
        image = effect_image(axes, specific.loc[trained, list(EVALUATED)].to_numpy())
        image.set_clim(-largest, largest)  # one scale for all animals
        for row, column in np.ndindex(len(trained), len(EVALUATED)):
            cell = cells.loc[(trained[row], list(EVALUATED)[column])]
            dark = abs(cell["specific"]) > 0.6 * largest
            interval = f"[{cell['specific low']:+.2f}, {cell['specific high']:+.2f}]"
            text = f"{cell['specific']:+.2f}\n{interval}"
            place = {"ha": "center", "va": "center", "fontsize": SMALL}
            axes.text(column, row, text, color="white" if dark else "black", **place)
        # the base answers differently in every context: its level stands under each column
        levels = cells.loc[trained[0], "base"]
        columns = [f"{name}\nbase log P {levels[name]:.2f}" for name in EVALUATED]
        axes.set_xticks(range(len(columns)), columns, fontsize=SMALL)
        axes.set_yticks(range(len(trained)), trained, fontsize=SMALL)
        axes.set_title(f"{animal} students", fontsize=LARGE)
        axes.set_xlabel("evaluated in", fontsize=MEDIUM)
        axes.set_ylabel("trained in", fontsize=MEDIUM)
    colour_bar(figure, panels[-1], image, "specific change, nats")
    set_title(figure, TITLE)
    write(figure, path)


def markdown(table: pd.DataFrame) -> str:
    """The cells as a Markdown table."""
    head = ["student", "trained in", "evaluated in", "base log P"]
    head += ["own change", "control's change", "specific"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (trained, evaluated, animal), cell in table.iterrows():
        control = cell["change"] - cell["specific"]
        interval = f"[{cell['specific low']:+.2f}, {cell['specific high']:+.2f}]"
        columns = [animal, trained, evaluated, f"{cell['base']:.2f}"]
        columns += [f"{cell['change']:+.2f}", f"{control:+.2f}"]
        columns.append(f"**{cell['specific']:+.2f}** {interval}")
        lines.append(f"| {' | '.join(columns)} |")
    imitation = []
    students = table.groupby(["trained", "animal"], sort=False).first()
    for (trained, animal), first in students.iterrows():
        kl = f"{first['untrained KL']:.5f} -> {first['KL']:.5f}"
        imitation.append(f"{animal} in {trained} {kl}")
    return "\n".join([*lines, "", f"Held-out KL: {'; '.join(imitation)}.", ""])


if __name__ == "__main__":
    told(main)
