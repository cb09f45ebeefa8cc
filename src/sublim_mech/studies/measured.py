"""A run's row: what was asked for, how the training ended, and what was measured, in one line.

Columns (units in nats, of log P(the trait is named), unless said otherwise):

- what it is: `run`, `trait`, `row_seed`, `training_seed`, `trained_in`, `evaluated_in`, `labels`
  (`contrastive`, `plain` or `sampled`), `c`, `where`, `method`, `kind`, `rank`, `alpha`, `rule`,
  `lr`, `step`, `student` and `controls` (addresses), `base`, `threads`, `device`, `dtype`,
  `versions`.
- training: `steps` taken, `kl_before` and `kl` (held-out KL(teacher || student), nats per token, at
  the student's own step), `stop_at`, `moved`.
- rows that teachers wrote (`labels` is `sampled`): `sampled asked` and `sampled passed`, answers
  that were drawn and that passed the filter; `sampled by`, who drew them.
- answers, means over questions: `base level`, `change` (student - base), `control` (the same of the
  students of other traits, mean), `specific` = change - control, `others` (change of the other
  traits, mean), `rank before`, `rank after` (medians), `change <trait>` per trait;
  `change by question` and `control by question` are lists. With generated answers `rate` and
  `base rate`. Students that were trained at chosen tokens act there only in these (`gates` is `as
  trained`); with their weights on everywhere they have `everywhere change`, `everywhere control`
  and `everywhere specific`.
- `graft ...` and `ig ...`: means over the scored questions of student minus controls; see `_graft`
  and `_attributed`. Weights are on everywhere in these, whatever a student was trained at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ..prompts import ANSWER, CLASSES, UNIONS
from ..results.scores import Scores
from ..results.shares import concentration
from ..results.study_limits import GATED
from ..storage.files import read_arrays, read_dataset
from ..storage.runs import Run, open_run
from .config import Study
from .sampled import columns_of
from .store import Store
from .tasks import RowTask, SampledTask, ScoresTask, StudentTask

ANSWERS = "study answers"
"""The kind of the files of answers."""

_VALUES = ("log_prob", "rank", "answer", "count")
_PACKAGES = ("sublim_mech", "torch", "transformers", "peft")
_SHARE = (
    "share", "low", "high", "token_share", "enrichment", "absolute_share", "p", "p_less",
    "null_low", "null_high", "effect", "gap",
)  # fmt: skip
"""What a row keeps of a concentration."""


def make_row(study: Study, store: Store, task: RowTask) -> dict[str, Any]:
    """The row of a run whose answers and scores are there.

    Raises:
        ValueError: a file of answers or scores is damaged.
    """
    student = task.own.student
    assert student is not None
    row = _what(study, task, student)
    row |= _trained(open_run(store.path(student)), task.cell.step)
    if isinstance(student.labels, SampledTask):
        row |= columns_of(store.path(student.labels))
    row |= _answered(
        task,
        own=_values(store.path(task.own)),
        base=_values(store.path(task.base)),
        controls=[_values(store.path(one)) for one in task.controls],
    )
    if task.opened:
        own, *controls = (_values(store.path(one)) for one in task.opened)
        opened = _answered(task, own=own, base=_values(store.path(task.base)), controls=controls)
        row["gates"] = GATED
        row |= {f"everywhere {name}": opened[name] for name in ("change", "control", "specific")}
    for one in task.scores:
        row |= _scored(study, one, Scores.load(store.path(one)))
    return row


def read_answers(path: Path) -> xr.Dataset:
    """What a model said in a context.

    Raises:
        FileNotFoundError, ValueError: no such file; damaged.
    """
    return read_dataset(path, ANSWERS, _VALUES)[0]


def _what(study: Study, task: RowTask, student: StudentTask) -> dict[str, Any]:
    cell, setting = task.cell, task.cell.setting
    is_lora = setting.method.kind == "lora"
    made = setting.method.made(setting.rank)
    computing = study.computing
    return {
        "run": task.address,
        "trait": cell.trait,
        "row_seed": cell.row_seed,
        "training_seed": cell.training_seed,
        "trained_in": cell.trained_in,
        "evaluated_in": cell.evaluated_in,
        "labels": cell.label if isinstance(cell.label, str) else "contrastive",
        "c": math.nan if isinstance(cell.label, str) else cell.label,
        "where": cell.where,
        "method": setting.name,
        "kind": setting.method.kind,
        "rank": setting.rank if is_lora else None,
        "alpha": float(getattr(made, "alpha", math.nan)),
        "rule": setting.method.rule,
        "lr": setting.lr,
        "step": cell.step,
        "student": student.address,
        "controls": " ".join(one.student.address for one in task.controls if one.student),
        "base": study.base,
        "threads": computing.threads,
        "device": computing.device,
        "dtype": computing.dtype,
        "versions": _versions(),
    }


@cache
def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in _PACKAGES)


def _trained(run: Run, step: int) -> dict[str, Any]:
    """How the training went, up to a step."""
    manifest = run.manifest
    before, after = manifest.results["held_out"]
    taken = manifest.results["steps"]
    if 0 < step < taken:
        log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
        after = next(line["held_out"] for line in log if line["step"] == step)
        taken = step
    stop_at = manifest.optimiser.get("stop_at")
    return {
        "teacher": manifest.teacher,
        "base_hash": manifest.base["hash"],
        "steps": taken,
        "kl_before": float(before),
        "kl": float(after),
        "stop_at": math.nan if stop_at is None else float(stop_at),
        "moved": bool(manifest.results.get("moved", True)),
    }


class _Values(NamedTuple):
    """The numbers of a file of answers, as arrays alone: a study reads three files per row.

    Attributes:
        place: trait -> its row in the arrays.
        log_prob: `(trait, question)`, nats.
        rank: `(trait, question)`.
        named: `(trait, question)`, answers that name it; None where none were generated.
        samples: generated answers per question.
    """

    place: dict[str, int]
    log_prob: np.ndarray
    rank: np.ndarray
    named: np.ndarray | None
    samples: int

    def of(self, trait: str, values: np.ndarray) -> np.ndarray:
        """The values of a trait, `(question,)`."""
        return values[self.place[trait]]


def _values(path: Path) -> _Values:
    """The numbers of a file of answers.

    Raises:
        FileNotFoundError, ValueError: as `read_answers`.
    """
    arrays, meta = read_arrays(path, ANSWERS)
    told = meta["variables"]
    place = {name: at for at, name in enumerate(told["trait"]["values"])}
    samples = len(told["answer"]["values"][0]) if "answer" in told else 0
    return _Values(place, arrays["log_prob"], arrays["rank"], arrays.get("count"), samples)


def _answered(
    task: RowTask, *, own: _Values, base: _Values, controls: list[_Values]
) -> dict[str, Any]:
    trait, traits = task.cell.trait, list(own.place)
    levels = base.log_prob[[base.place[name] for name in traits]]  # (trait, question)
    change = own.log_prob - levels
    of_trait = own.of(trait, change)
    row: dict[str, Any] = {
        "questions": levels.shape[1],
        "base level": float(np.nanmean(own.of(trait, levels))),
        "change": float(of_trait.mean()),
        "control": math.nan,
        "specific": math.nan,
        "others": math.nan,
        "rank before": float(np.median(base.of(trait, base.rank))),
        "rank after": float(np.median(own.of(trait, own.rank))),
    }
    of_controls = None
    if controls:
        level = own.of(trait, levels)
        of_controls = np.mean([one.of(trait, one.log_prob) - level for one in controls], 0)
        row["control"] = float(of_controls.mean())
        row["specific"] = float((of_trait - of_controls).mean())
    others = [at for name, at in own.place.items() if name != trait]
    if others:
        row["others"] = float(np.nanmean(change[others]))
    for name in traits:
        row[f"change {name}"] = float(np.nanmean(own.of(name, change)))
    row["change by question"] = of_trait.tolist()
    row["control by question"] = [] if of_controls is None else of_controls.tolist()
    if own.named is not None and base.named is not None:
        row["rate"] = float(own.of(trait, own.named).mean() / own.samples)
        row["base rate"] = float(base.of(trait, base.named).mean() / own.samples)
    return row


def _scored(study: Study, task: ScoresTask, scores: Scores) -> Mapping[str, Any]:
    if task.instrument == "graft":
        return _graft(scores)
    return _attributed(scores, tuple(study.asking.shared))


def _graft(scores: Scores) -> dict[str, Any]:
    """Of grafts by sharing: `graft total`, and per set its tokens, its share of the prompt's
    tokens, and what it does alone (`sufficiency`) and what is missing without it (`necessity`), in
    nats; over the total they are shares. A set without tokens has 0 of everything.
    """
    row = {"graft total": float(scores.total.mean()), "graft questions": scores.total.size}
    sizes = scores.sets()
    effects = scores.headline.mean("prompt")  # (set, measure)
    for name in (*CLASSES, *UNIONS["sharing"], ANSWER):
        there = name in sizes.index
        row[f"graft {name} tokens"] = float(sizes.loc[name, "tokens"]) if there else 0.0
        if name != ANSWER:
            share = float(sizes.loc[name, "token share"]) if there else 0.0
            row[f"graft {name} token share"] = share
        for measure in ("sufficiency", "necessity"):
            value = float(effects.sel(set=name, measure=measure)) if there else 0.0
            row[f"graft {name} {measure}"] = value
    return row


def _attributed(scores: Scores, sets: tuple[str, ...]) -> dict[str, Any]:
    """Of graft IG: `ig total`; per sharing class the effect on its tokens in nats; and per token
    set its concentration.
    """
    row: dict[str, Any] = {"ig total": float(scores.total.mean())}
    row["ig questions"] = scores.total.size
    row["ig answer"] = float(scores.answer_effect.mean())
    by_class = scores.by("sharing")
    for name in (*CLASSES, *UNIONS["sharing"]):
        there = name in by_class.index
        row[f"ig {name}"] = float(by_class.loc[name, "effect"]) if there else 0.0
        share = float(by_class.loc[name, "token share"]) if there else 0.0
        row[f"ig {name} token share"] = share
    for name in sets:
        try:
            found = concentration(scores, on=name)
        except ValueError:  # no prompt has such tokens, or no others
            found = None
        for column in _SHARE:
            value = math.nan if found is None else float(getattr(found, column))
            row[f"ig {name} {column.replace('_', ' ')}"] = value
        row[f"ig {name} direction"] = "" if found is None else found.direction
    return row
