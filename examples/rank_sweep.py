"""Trait against capacity: LoRA ranks and full fine-tuning (arXiv 2606.00831, claims 1 and 2).

    python examples/rank_sweep.py --out out/science    # labels and finished students there are used

The paper finds an inverted U in the rank and nothing under full fine-tuning. Its rule, kept here,
is alpha = rank at one learning rate for all ranks, so that the rank axis is also a learning-rate
axis. Hence the second panel: the same students, along their training, against how well they imitate
their teacher on rows nobody trained on. If the curves of all capacities fall on one another there,
the U is effective learning rate; if full fine-tuning lies below the others at equal KL, it is not.

At every capacity there are two students, owl and penguin, of contrastive teachers
(`train_students.py`); each is the other's control.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from train_students import STUDENTS, make_labels, make_student, parser, told

import sublim_mech as sm
from sublim_mech.evaluation.outcome import Evaluation
from sublim_mech.models.base import Base
from sublim_mech.results.colours import SHARING_COLOURS, STUDENT_COLOUR
from sublim_mech.results.style import MEDIUM, SMALL, new_figure, open_frame, set_title, write
from sublim_mech.stats import mean_interval
from sublim_mech.storage.runs import Run

STEPS, SNAPSHOTS = 32, (8, 16)
WARMUP = 10  # of full fine-tuning
TITLE = (
    "SmolLM2-135M, contrastive prompted teachers (c = 4), default context; one seed; "
    "bars: 95 % over 50 questions"
)
COLOURS = {"owl": STUDENT_COLOUR, "penguin": SHARING_COLOURS["aligned"]}
LINES = (  # in the legend, in the table, line style, opacity
    ("specific", "specific", "-", 1.0),
    ("own", "own", "--", 0.5),
    ("control", "control", ":", 0.5),
)
OWL_AND_PENGUIN = [sm.animal(name) for name in STUDENTS]


def main() -> None:
    ours = parser(__doc__, "out/science")
    ours.add_argument("--ranks", type=int, nargs="+", default=[2, 8, 32, 128])
    options = ours.parse_args()
    out = Path(options.out).expanduser()
    base = sm.load_base(options.base, device=options.device)
    try:
        for rank in options.ranks:
            # a rank beyond the model's matrices is told before an hour of labels
            sm.LoRA(rank=rank, alpha=rank).attach(base)
    except ValueError as error:
        ours.error(f"--ranks: {error}")
    labels = make_labels(base, sm.Context(), out / "labels-default")

    points = []
    for name, method, more in capacities(options.ranks):
        more |= {"method": method, "steps": STEPS, "snapshots": SNAPSHOTS, "evaluate_every": STEPS}
        runs = {}
        for animal in STUDENTS:
            runs[animal] = make_student(base, labels, animal, out / f"{animal}-{name}", **more)
        for step in (*SNAPSHOTS, STEPS):
            for point in measure(base, runs, step):
                points.append(point | {"capacity": name, "step": step})
    table = pd.DataFrame(points).set_index(["capacity", "step", "animal"])

    out.mkdir(parents=True, exist_ok=True)
    draw(table, out / "rank_sweep.png")
    (out / "rank_sweep.md").write_text(markdown(table))
    print(markdown(table), f"\nfigure and table: {out}/rank_sweep.png, .md")


def capacities(ranks: list[int]) -> list[tuple[str, sm.LoRA | sm.FullFT, dict[str, Any]]]:
    """Name, method and its options.

    Adam's first steps move all weights of a full fine-tune in step, so that takes a longer warm-up.
    """
    lora = [(f"r{rank}", sm.LoRA(rank=rank, alpha=rank), {"lr": 1e-3}) for rank in ranks]
    return [*lora, ("full", sm.FullFT(), {"lr": 2e-5, "warmup": WARMUP})]


def measure(base: Base, runs: dict[str, Run], step: int) -> list[dict[str, Any]]:
    """Both students of a capacity after a step.

    What each did to its own animal, and what the other one did to it.
    """
    paths = {animal: run.snapshots.get(step, run.path) for animal, run in runs.items()}
    students = {}
    for animal, path in paths.items():
        students[animal] = sm.models.load_student(base, path, name=animal)
    pair = sm.load_pair(base, students["owl"], controls=[students["penguin"]])
    outcome = sm.evaluate(pair, OWL_AND_PENGUIN, progress=False)
    excess = outcome.trait_matrix({"student": "owl", "control: penguin": "penguin"})
    models = {"owl": "student", "penguin": "control: penguin"}
    points = []
    for own, other in (STUDENTS, STUDENTS[::-1]):
        own_change = change(outcome, models[own], own)
        control_change = change(outcome, models[other], own)
        specific = mean_interval(own_change - control_change)
        log_prob = outcome.data["log_prob"].sel(model="base", trait=own)
        manifest = students[own].manifest
        assert manifest is not None
        untrained, trained = manifest.results["held_out"][:2]
        point = {"animal": own, "own": own_change.mean(), "control": control_change.mean()}
        point |= {"specific": specific.mean, "low": specific.low, "high": specific.high}
        point |= {"base": float(log_prob.mean()), "KL": trained, "untrained KL": untrained}
        point |= {"excess": excess.gamma, "excess low": excess.low, "excess high": excess.high}
        points.append(point)
    return points


def change(outcome: Evaluation, model: str, animal: str) -> Any:
    """`(question,)` change of log P(animal) against the base, nats."""
    return outcome.change.sel(model=model, trait=animal).isel(context=0).values


def draw(table: pd.DataFrame, path: Path) -> None:
    """Trait against capacity, and against held-out KL."""
    figure = new_figure(11, 5)
    by_capacity, by_imitation = figure.subplots(1, 2)
    draw_capacities(by_capacity, table)
    draw_imitation(by_imitation, table)
    for axes in (by_capacity, by_imitation):
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
        axes.legend(fontsize=SMALL, ncols=3, frameon=False, **below)
        axes.tick_params(labelsize=SMALL)
        open_frame(axes)
    set_title(figure, TITLE)
    write(figure, path)


def draw_capacities(axes: Axes, table: pd.DataFrame) -> None:
    """What each student did to its own animal after the last step, beside its control."""
    names = capacity_names(table)
    last = table.xs(STEPS, level="step")
    for animal, marker in zip(STUDENTS, "os", strict=True):
        cells, colour = last.xs(animal, level="animal").loc[names], COLOURS[animal]
        for label, column, line, alpha in LINES:
            points: dict[str, Any] = {"marker": marker, "color": colour, "alpha": alpha}
            ranks = range(len(names) - 1)
            axes.plot(ranks, cells[column][:-1], ls=line, label=f"{animal}: {label}", **points)
            # full fine-tuning is no rank: no line leads to it
            axes.plot([len(names) - 1], cells[column][-1:], **points)
        bounds = [cells["specific"] - cells["low"], cells["high"] - cells["specific"]]
        places = range(len(names))
        axes.errorbar(places, cells["specific"], bounds, ls="none", capsize=3, color=colour)
    axes.set_xticks(range(len(names)), [name.replace("full", "full FT") for name in names])
    capacity = f"capacity (alpha = rank, lr 1e-3; full FT lr 2e-5), step {STEPS}"
    axes.set_xlabel(capacity, fontsize=MEDIUM)
    axes.set_ylabel("change of log P(animal), nats", fontsize=MEDIUM)


def draw_imitation(axes: Axes, table: pd.DataFrame) -> None:
    """The diagonal excess along the training of each capacity, against held-out KL."""
    names = capacity_names(table)
    colours = matplotlib.colormaps["viridis"].resampled(len(names) + 1)
    for number, name in enumerate(names):
        cells = table.loc[name].xs("owl", level="animal")
        kl = table.loc[name]["KL"].groupby("step").mean().loc[cells.index]
        bounds = [cells["excess"] - cells["excess low"], cells["excess high"] - cells["excess"]]
        points: dict[str, Any] = {"marker": ".", "capsize": 2, "color": colours(number)}
        axes.errorbar(kl, cells["excess"], bounds, label=name, **points)
    axes.axvline(table["untrained KL"].mean(), color="0.6", ls=":", label="untrained")
    axes.set_xscale("log")
    axes.invert_xaxis()
    imitation = "held-out KL(teacher || student), nats per token (right: closer)"
    axes.set_xlabel(imitation, fontsize=MEDIUM)
    axes.set_ylabel("diagonal excess gamma of owl and penguin, nats", fontsize=MEDIUM)


def capacity_names(table: pd.DataFrame) -> list[str]:
    """The capacities, in the order they were trained in."""
    return list(dict.fromkeys(table.index.get_level_values("capacity")))


def markdown(table: pd.DataFrame) -> str:
    """The points as a Markdown table."""
    head = ["capacity", "step", "held-out KL, owl / penguin"]
    head += [f"{animal}: own, control, specific" for animal in STUDENTS]
    head.append("diagonal excess")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (name, step), points in table.groupby(level=["capacity", "step"], sort=False):
        owl, penguin = (points.xs(animal, level="animal").iloc[0] for animal in STUDENTS)
        cells = [name, step, f"{owl['KL']:.5f} / {penguin['KL']:.5f}"]
        for point in (owl, penguin):
            interval = f"[{point['low']:+.2f}, {point['high']:+.2f}]"
            changes = f"{point['own']:+.2f}, {point['control']:+.2f}"
            cells.append(f"{changes}, **{point['specific']:+.2f}** {interval}")
        interval = f"[{owl['excess low']:+.2f}, {owl['excess high']:+.2f}]"
        cells.append(f"{owl['excess']:+.2f} {interval}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    levels = []
    for animal, first in table.groupby("animal", sort=False).first().iterrows():
        kl = f"{first['untrained KL']:.5f}"
        levels.append(f"{animal}: log P {first['base']:.2f}, held-out KL {kl}")
    return "\n".join([*lines, "", f"Base line (the untuned base): {'; '.join(levels)}.", ""])


if __name__ == "__main__":
    told(main)
