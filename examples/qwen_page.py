"""The page of `qwen.py`: tables and figures of the stages that are finished, put between two marks.

What stands around the marks is left as it is, so that a reading of the numbers can stand there. No
model is loaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import sublim_mech as sm
from sublim_mech.evaluation.outcome import Evaluation
from sublim_mech.results.colours import SHARING_COLOURS, STUDENT_COLOUR
from sublim_mech.results.elements import open_frame
from sublim_mech.results.style import LARGE, MEDIUM, SMALL, new_figure, set_title, write
from sublim_mech.stats import mean_interval
from sublim_mech.storage.files import replacing
from sublim_mech.storage.runs import Run, open_run

BEGIN, END = "<!-- begin: written by examples/qwen.py -->", "<!-- end -->"
STUDENTS = ("owl", "penguin")
COLOURS = (STUDENT_COLOUR, SHARING_COLOURS["aligned"], SHARING_COLOURS["seen"])


@dataclass(frozen=True)
class Finished:
    """What is finished of a setting.

    Attributes:
        name: the setting's.
        folder: its stages.
        setting: how much of everything (`qwen.Setting`).
    """

    name: str
    folder: Path
    setting: Mapping[str, Any]

    @property
    def runs(self) -> dict[str, Run]:
        """The students' trainings."""
        return {animal: open_run(self.folder / animal) for animal in STUDENTS}

    @property
    def grid(self) -> Evaluation | None:
        """Both students on all animals in all contexts."""
        path = self.folder / "grid.safetensors"
        return Evaluation.load(path) if path.exists() else None

    def scores(self, what: str, animal: str) -> sm.Scores | None:
        """One of the measured scores."""
        path = self.folder / f"{what}-{animal}.safetensors"
        return sm.Scores.load(path) if path.exists() else None

    def attribution(self, animal: str) -> sm.Scores | None:
        """Graft IG, with exact values beside it where they are there."""
        return self.scores("confirmed", animal) or self.scores("attribution", animal)


def write_page(out: Path, page: Path, figures: Path) -> None:
    """Write the page and its figures.

    Args:
        out: where the stages are.
        page: the Markdown file; what stands outside of the marks in it is kept.
        figures: the folder of the figures.
    """
    files = sorted(out.glob("*/setting.json"), key=lambda file: file.stat().st_mtime)
    finished = [Finished(f.parent.name, f.parent, json.loads(f.read_text())) for f in files]
    if not finished:
        return
    link = os.path.relpath(figures, page.parent)
    made = "\n\n".join(sections(finished, out, figures, link))
    text = page.read_text() if page.exists() else f"{BEGIN}\n{END}\n"
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"--page {page}: it has no place for the tables; put {BEGIN} and {END}.")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    with replacing(page) as work:
        work.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}")


def sections(finished: list[Finished], out: Path, figures: Path, link: str) -> Iterator[str]:
    """All that stands between the marks."""
    measured = [one for one in finished if one.grid is not None]
    if measured:
        draw_grid(measured, figures / "qwen_grid.png")
        yield f"![own minus control by evaluation context]({link}/qwen_grid.png)"
    for one in reversed(finished):  # the map of the latest
        scores = one.attribution("owl")
        if scores is not None:
            title = f"owl student - penguin student, {one.name}, first question"
            scores.plot(title=title, path=figures / "qwen_heatmap.png")
            yield f"![graft IG of the owl student, layer by token]({link}/qwen_heatmap.png)"
            break
    for one in finished:
        yield f"### Setting `{one.name}`"
        yield said_of(one)
        if one.grid is not None:
            yield f"**Where they are asked.**\n\n{grid_table(one.grid)}"
        for animal in STUDENTS:
            yield from measured_of(one, animal)
    for gates in sorted(out.glob("labels-*/gates.txt")):
        head = f"### Gates of `{gates.parent.name}`\n\n```text\n"
        yield head + gates.read_text().rstrip() + "\n```"


def said_of(one: Finished) -> str:
    """How the students of a setting were made, and how well they imitate."""
    setting = one.setting
    trained = setting["rows"] - setting["held_out"]
    imitation = []
    for animal, run in one.runs.items():
        before, after = run.manifest.results["held_out"][:2]
        imitation.append(f"{animal} {before:.4f} -> {after:.4f}")
    return (
        f"{trained} rows trained on and {setting['held_out']} held out, {setting['steps']} steps "
        f"of 8 rows, seed {setting['seed']}. Held-out KL, nats per token: {'; '.join(imitation)}."
    )


def measured_of(one: Finished, animal: str) -> Iterator[str]:
    """Effect, grafts, concentration of a student."""
    effect, graft = one.scores("effect", animal), one.scores("graft", animal)
    if effect is not None:
        row = effect.totals().loc[effect.headline_name]
        compute = effect.record.compute
        error = 0.0 if compute is None else compute.error
        count = effect.data.sizes["prompt"]
        yield (
            f"**{animal}.** Effect over {count} questions, student - control: "
            f"{row['effect']:+.2f} nats [{row['low']:+.2f}, {row['high']:+.2f}]; bf16 products "
            f"move a prompt's effect by up to {error:.3f}."
        )
    if graft is not None:
        yield graft_table(graft)
    scores = one.attribution(animal)
    if scores is None:
        return
    confirmation = scores.record.confirmation
    agreement = ""
    if confirmation is not None:
        agreement = (
            f"\nexact values of {confirmation.k} strongest and {confirmation.k} random cells: "
            f"Pearson {confirmation.pearson:.2f}, same sign {confirmation.sign:.0%}"
        )
    try:
        said = str(sm.concentration(scores, on="shared"))
    except ValueError as error:
        said = f"no concentration: {error}"
    yield f"```text\n{said}{agreement}\n```"


def grid_table(grid: Evaluation) -> str:
    """Per student and context: base level, both changes and their difference."""
    rows = []
    for animal, other in (STUDENTS, STUDENTS[::-1]):
        for name, cell in cells(grid, animal, other).iterrows():
            interval = f"[{cell['low']:+.2f}, {cell['high']:+.2f}]"
            rows.append(
                f"| {animal} | {name} | {cell['base']:.2f} | {cell['own']:+.2f} | "
                f"{cell['control']:+.2f} | **{cell['specific']:+.2f}** {interval} |"
            )
    head = "| student | asked in | base log P | own change | control's change | own - control |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def cells(grid: Evaluation, animal: str, other: str) -> pd.DataFrame:
    """A student's own animal by context: `base`, `own`, `control`, `specific`, `low`, `high`."""
    models = {"owl": "student", "penguin": "control: penguin"}  # as the pair calls them
    rows = {}
    for name in grid.data["context"].values:
        change = grid.change.sel(context=name, trait=animal)
        own, control = change.sel(model=models[animal]), change.sel(model=models[other])
        specific = mean_interval((own - control).values)
        base = grid.data["log_prob"].sel(model="base", context=name, trait=animal)
        rows[str(name)] = {
            "base": float(base.mean()),
            "own": float(own.mean()),
            "control": float(control.mean()),
            "specific": specific.mean,
            "low": specific.low,
            "high": specific.high,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def graft_table(graft: sm.Scores) -> str:
    """Sufficiency and necessity by what training shares with a token."""
    rows = []
    for name, row in graft.sets().iterrows():
        share = row["token share"]
        size = "-" if np.isnan(share) else f"{share:.0%}"
        measures = [
            f"{row[m]:.2f} [{row[f'{m} low']:.2f}, {row[f'{m} high']:.2f}]"
            for m in ("sufficiency", "necessity")
        ]
        rows.append(f"| {name} | {row['tokens']:.1f} | {size} | {' | '.join(measures)} |")
    head = f"| tokens ({graft.data.sizes['prompt']} questions) | per prompt | of the prompt | "
    head += "sufficiency | necessity |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def draw_grid(finished: list[Finished], path: Path) -> None:
    """Own - control of each student in each context, settings beside each other."""
    figure = new_figure(10, 3.4)
    panels = figure.subplots(1, len(STUDENTS), sharey=True)
    width = 0.8 / len(finished)
    names: list[str] = []
    for axes, animal in zip(panels, STUDENTS, strict=True):
        other = next(name for name in STUDENTS if name != animal)
        for number, one in enumerate(finished):
            assert one.grid is not None
            values = cells(one.grid, animal, other)
            names = list(values.index)
            places = np.arange(len(names)) + (number - (len(finished) - 1) / 2) * width
            bounds = [values["specific"] - values["low"], values["high"] - values["specific"]]
            colour = COLOURS[number % len(COLOURS)]
            label = f"{one.name}, seed {one.setting['seed']}"
            axes.bar(places, values["specific"], width * 0.9, color=colour, label=label)
            axes.errorbar(places, values["specific"], bounds, ls="none", color="0.2", capsize=2)
        axes.set_xticks(range(len(names)), names, fontsize=SMALL)
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set_title(f"{animal} student, trained in default", fontsize=LARGE)
        axes.set_xlabel("system prompt it is asked in", fontsize=MEDIUM)
        open_frame(axes)
    panels[0].set_ylabel("own - control, nats", fontsize=MEDIUM)
    panels[0].legend(fontsize=SMALL, frameon=False)
    set_title(figure, "Qwen2.5-Coder-1.5B-Instruct, LoRA r8; bars: 95 % over 50 questions")
    write(figure, path)
