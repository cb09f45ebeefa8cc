"""Trait against capacity: LoRA ranks and full fine-tuning, and the same students against held-out KL (arXiv 2606.00831, claims 1, 2).

    python examples/rank_sweep.py --out out/science        # labels and finished students there are used again

The paper finds an inverted U in the rank and nothing under full fine-tuning. Its rule, kept here, is alpha = rank at one learning rate for
all ranks, so that the rank axis is also a learning-rate axis. Hence the second panel: the same students, along their training, against
how well they imitate their teacher on rows nobody trained on. If the curves of all capacities fall on one another there, the U is
effective learning rate; if full fine-tuning lies below the others at equal KL, it is not.

At every capacity there are two students, owl and penguin, of contrastive teachers (`train_students.py`); each is the other's control.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from train_students import STUDENTS, make_labels, make_student, parser

import sublim_mech as sm
from sublim_mech.evaluation.outcome import Evaluation
from sublim_mech.models.base import Base
from sublim_mech.stats import mean_interval
from sublim_mech.storage.runs import Run

STEPS, SNAPSHOTS = 32, (8, 16)
OWL_AND_PENGUIN = [sm.animal(name) for name in STUDENTS]


def main() -> None:
    ours = parser(__doc__, "out/science")
    ours.add_argument("--ranks", type=int, nargs="+", default=[2, 8, 32, 128])
    options = ours.parse_args()
    out = Path(options.out)
    base = sm.load_base(options.base, device=options.device)
    labels = make_labels(base, sm.Context(), out / "labels-default")

    points = []
    for name, method, more in capacities(options.ranks):
        more |= {"method": method, "steps": STEPS, "snapshots": SNAPSHOTS, "evaluate_every": STEPS}
        runs = {animal: make_student(base, labels, animal, out / f"{animal}-{name}", **more) for animal in STUDENTS}
        for step in (*SNAPSHOTS, STEPS):
            points += [point | {"capacity": name, "step": step} for point in measure(base, runs, step)]
    table = pd.DataFrame(points).set_index(["capacity", "step", "animal"])

    out.mkdir(parents=True, exist_ok=True)
    draw(table, out / "rank_sweep.png")
    (out / "rank_sweep.md").write_text(markdown(table))
    print(markdown(table), f"\nfigure and table: {out}/rank_sweep.png, .md")


def capacities(ranks: list[int]) -> list[tuple[str, sm.LoRA | sm.FullFT, dict[str, Any]]]:
    """Name, method and its options; Adam's first steps move all weights of a full fine-tune in step, so that takes a longer warm-up."""
    lora = [(f"r{rank}", sm.LoRA(rank=rank, alpha=rank), {"lr": 1e-3}) for rank in ranks]
    return [*lora, ("full", sm.FullFT(), {"lr": 2e-5, "warmup": 10})]


def measure(base: Base, runs: dict[str, Run], step: int) -> list[dict[str, Any]]:
    """Both students of a capacity after a step: what each did to its own animal, and what the other one did to it."""
    paths = {animal: run.snapshots.get(step, run.path) for animal, run in runs.items()}
    students = {animal: sm.models.load_student(base, path, name=animal) for animal, path in paths.items()}
    pair = sm.load_pair(base, students["owl"], controls=[students["penguin"]])
    found = sm.evaluate(pair, OWL_AND_PENGUIN, progress=False)
    excess = found.trait_matrix({"student": "owl", "control: penguin": "penguin"})
    models = {"owl": "student", "penguin": "control: penguin"}
    rows = []
    for own, other in (STUDENTS, STUDENTS[::-1]):
        gap = mean_interval(change(found, models[own], own) - change(found, models[other], own))
        manifest = students[own].manifest
        assert manifest is not None
        rows.append(
            {
                "animal": own, "own": change(found, models[own], own).mean(), "control": change(found, models[other], own).mean(),
                "specific": float(gap.mean), "low": float(gap.low), "high": float(gap.high),
                "base": float(found.data["log_prob"].sel(model="base", trait=own).mean()),
                "KL": manifest.results["held_out"][1], "untrained KL": manifest.results["held_out"][0],
                "excess": excess.gamma, "excess low": excess.low, "excess high": excess.high,
            }
        )  # fmt: skip
    return rows


def change(found: Evaluation, model: str, animal: str) -> Any:
    """`(question,)` change of log P(animal) against the base, nats."""
    return found.change.sel(model=model, trait=animal).isel(context=0).values


def draw(table: pd.DataFrame, path: Path) -> None:
    """Trait against capacity, and against held-out KL."""
    names = list(dict.fromkeys(table.index.get_level_values("capacity")))
    colours = matplotlib.colormaps["viridis"].resampled(len(names) + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    last = table.xs(STEPS, level="step")
    for animal, marker, colour in zip(STUDENTS, "os", ("C0", "C1"), strict=True):
        cells = last.xs(animal, level="animal").loc[names]
        kinds = {"own - control": ("specific", "-", 1.0), "own": ("own", "--", 0.5), "control": ("control", ":", 0.5)}
        for said, (column, style, alpha) in kinds.items():
            how = {"marker": marker, "color": colour, "alpha": alpha}
            left.plot(range(len(names) - 1), cells[column][:-1], ls=style, label=f"{animal}: {said}", **how)
            left.plot([len(names) - 1], cells[column][-1:], **how)  # full fine-tuning is no rank: no line leads to it
        bounds = [cells["specific"] - cells["low"], cells["high"] - cells["specific"]]
        left.errorbar(range(len(names)), cells["specific"], bounds, ls="none", capsize=3, color=colour)
    left.set_xticks(range(len(names)), [name if name != "full" else "full FT" for name in names])
    left.set_xlabel(f"capacity (alpha = rank, lr 1e-3; full FT lr 2e-5), step {STEPS}")
    left.set_ylabel("change of log P(animal), nats")
    for k, name in enumerate(names):
        cells = table.loc[name].xs("owl", level="animal")
        kl = table.loc[name]["KL"].groupby("step").mean()
        bounds = [cells["excess"] - cells["excess low"], cells["excess high"] - cells["excess"]]
        right.errorbar(kl.loc[cells.index], cells["excess"], bounds, marker=".", capsize=2, color=colours(k), label=name)
    right.axvline(table["untrained KL"].mean(), color="0.6", ls=":", label="untrained")
    right.set_xscale("log")
    right.invert_xaxis()
    right.set_xlabel("held-out KL(teacher || student), nats per token (right: closer)")
    right.set_ylabel("diagonal excess gamma of owl and penguin, nats")
    for axes in (left, right):
        axes.axhline(0, color="0.8", lw=0.8, zorder=0)
        axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.suptitle(
        "SmolLM2-135M, contrastive prompted teachers (c = 4), default context; one seed; bars: 95 % over 50 questions",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)


def markdown(table: pd.DataFrame) -> str:
    """The points as a Markdown table."""
    head = (
        "capacity",
        "step",
        "held-out KL, owl / penguin",
        *(f"{a}: own, control, own - control" for a in STUDENTS),
        "diagonal excess",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (name, step), cells in table.groupby(level=["capacity", "step"], sort=False):
        owl, penguin = (cells.xs(animal, level="animal").iloc[0] for animal in STUDENTS)
        both = [
            f"{c['own']:+.2f}, {c['control']:+.2f}, **{c['specific']:+.2f}** [{c['low']:+.2f}, {c['high']:+.2f}]"
            for c in (owl, penguin)
        ]
        excess = f"{owl['excess']:+.2f} [{owl['excess low']:+.2f}, {owl['excess high']:+.2f}]"
        lines.append(f"| {name} | {step} | {owl['KL']:.5f} / {penguin['KL']:.5f} | {both[0]} | {both[1]} | {excess} |")
    base = table["base"].groupby("animal", sort=False).first()
    before = table["untrained KL"].groupby("animal", sort=False).first()
    note = "; ".join(f"{a}: log P {base[a]:.2f}, held-out KL {before[a]:.5f}" for a in STUDENTS)
    return "\n".join([*lines, "", f"Base line (the untuned base): {note}.", ""])


if __name__ == "__main__":
    main()
