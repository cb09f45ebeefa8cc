"""What of a teacher is its own: how far its trait moved, and whether its labels carry its mark.

Every number is a difference to the base model, and then to teachers of other traits. Any longer
prompt moves what a model writes, all of them alike; only what a teacher does beyond the others can
tell a student which trait it was (arXiv 2507.14805; `docs/making/gates.md`).

1. `trait_shift`: the teacher is asked for the trait in its own context, the base in the students'.
2. `label_signal`: how far soft labels are from the base's, and how far from those of the other
   traits.

What rows carry is in `shifts`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ...arguments import checked
from ...evaluation.measuring import evaluate
from ...hints import outside
from ...prompts import Trait
from ...results.frames import Table
from ...stats import mean_interval, ratio_interval
from ..labelling.views import log_softmax
from ..teachers.teacher import BASE, Teacher
from .asked import notes_of
from .comparing import Compared, columns, compare, of_distinct, others_of

if TYPE_CHECKING:
    from ..labelling.store import Labels


@checked
def trait_shift(
    teachers: Sequence[Teacher],
    *,
    traits: Sequence[Trait] | None = None,
    questions: Sequence[str] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """How far each teacher moved each trait.

    That is log P(the trait is named) minus the base's in the students' context, in nats.

    Args:
        teachers: teachers of one base for students of one context; with a trait, or controls
            without.
        traits: the traits asked for; the teachers' own when not given.
        questions: what is asked; the traits' own questions when not given.
        progress: show progress bars.

    Returns:
        Per teacher and trait: `own`, whether it is the teacher's; `change`; `others`, the mean
        change of the other traits; `minus others`, their difference. `low` and `high` are 95 %
        bootstrap intervals over questions: of fewer than 6 narrower than that, of a single one NaN.
        Notes on the questions (they name a trait, a teacher was trained on them or in another
        context) stand below it, and are `attrs["notes"]`.

    Raises:
        ValueError: no teachers, two of one name, of different bases or student contexts; a
            teacher's trait is not among `traits`; fewer than two traits; see `evaluate`.

    Example:
        >>> from sublim_mech.making import readiness, teachers
        >>> both = [teachers.prompted(pair, sm.animal(name)) for name in ("owl", "cat")]
        >>> asked = ["Which animal?", "Your animal?"]
        >>> table = readiness.trait_shift(both, questions=asked, progress=False)
        >>> table.loc[("owl", "owl"), ["change low", "change high"]].is_monotonic_increasing
        True
    """
    found = shift_of_traits(teachers, traits, questions, progress=progress)
    found.table.attrs["notes"] = list(found.notes)
    return found.table


class TraitShift(NamedTuple):
    """How far traits moved.

    Attributes:
        table: of `trait_shift`.
        questions: how many each trait was asked with.
        notes: on these.
    """

    table: pd.DataFrame
    questions: int
    notes: tuple[str, ...]


def shift_of_traits(
    teachers: Sequence[Teacher],
    traits: Sequence[Trait] | None,
    questions: Sequence[str] | None,
    *,
    progress: bool,
) -> TraitShift:
    """How far each teacher moved each trait, over how many questions, and notes on these."""
    compared = compare(teachers, "trait_shift: teachers")
    asked_for = _traits_by_name(compared, traits)
    scored = list(asked_for.values())
    values, texts = _log_probs(compared, scored, questions, progress)
    lines = []
    for teacher in compared.teachers:
        change = values[teacher.name] - values[compared.base.name]  # (trait, question)
        others = (change.sum(0) - change) / (len(change) - 1)
        own = None if teacher.trait is None else teacher.trait.name
        for i, name in enumerate(asked_for):
            line = {"teacher": teacher.name, "trait": name, "own": name == own}
            line |= columns("change", mean_interval(change[i]))
            line["others"] = float(others[i].mean())
            line |= columns("minus others", mean_interval(change[i] - others[i]))
            lines.append(line)
    table = Table(lines).set_index(["teacher", "trait"])
    return TraitShift(table, len(texts), notes_of(compared, scored, texts))


def _traits_by_name(compared: Compared, traits: Sequence[Trait] | None) -> dict[str, Trait]:
    """The traits asked for.

    Raises:
        ValueError: fewer than two; a teacher's is not among them.
    """
    own = [teacher.trait for teacher in compared.teachers if teacher.trait is not None]
    by_name = {trait.name: trait for trait in (own if traits is None else traits)}
    if len(by_name) < 2:
        raise ValueError(
            f"trait_shift: traits={list(by_name)}: own minus others needs at least two; add one, "
            "traits=[own, *others]."
        )
    missing = []
    for teacher in compared.teachers:
        if teacher.trait is not None and teacher.trait.name not in by_name:
            missing.append(teacher.name)
    if missing:
        raise ValueError(
            f"trait_shift: traits={list(by_name)} lacks the trait of {', '.join(missing)}; add it."
        )
    return by_name


def _log_probs(
    compared: Compared,
    traits: Sequence[Trait],
    questions: Sequence[str] | None,
    progress: bool,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Per teacher, the log-probability of each trait, `(trait, question)`; and the questions."""
    # one call per model: prompted teachers are the base's model in other contexts
    by_model: dict[int, list[Teacher]] = {}
    for teacher in compared.everybody:
        by_model.setdefault(id(teacher.runner.model), []).append(teacher)
    values: dict[str, np.ndarray] = {}
    texts: list[str] = []
    for group in by_model.values():
        evaluation = evaluate(
            group[0].runner,
            traits,
            contexts={teacher.name: teacher.context for teacher in group},
            template=compared.base.template,
            questions=questions,
            progress=progress,
        )
        log_prob = evaluation.data["log_prob"].sel(model="base")
        for teacher in group:
            values[teacher.name] = log_prob.sel(context=teacher.name).values
        texts = list(map(str, evaluation.data["text"].values))
    return values, texts


@checked
def label_signal(labels: Labels) -> pd.DataFrame:
    """How much of soft labels is the teacher's own.

    That is their distance from the base's labels and from those of the other traits. The mean of
    the other traits' teachers is taken over their log-probabilities and renormalised, as
    contrastive labels take it.

    Args:
        labels: labels of the base and of at least two trait teachers (controls beside them) on the
            same rows; no top-k labels.

    Returns:
        Per teacher, in nats per answer token: `from base` = KL(own || base), `from others` =
        KL(own || mean of the other traits' teachers), and `share` = from others / from base, with
        95 % bootstrap intervals over rows (sum over sum; copies of a row are resampled together;
        NaN of a single row).

    Raises:
        ValueError: fewer than two traits; top-k labels; labels that are not finite.

    Warns:
        UserWarning: the traits' teachers are of several kinds.

    Example:
        >>> from sublim_mech.making import labelling, numbers, readiness, teachers
        >>> both = [teachers.prompted(pair, sm.animal(name)) for name in ("owl", "cat")]
        >>> rows = numbers.random_rows(4, seed=0, count=3)
        >>> labels = labelling.label(both, rows, progress=False)
        >>> list(readiness.label_signal(labels).index)
        ['owl', 'cat']
    """
    if labels.about.top_k is not None:
        raise ValueError(
            f"label_signal: each teacher has its own top {labels.about.top_k} tokens, which cannot "
            "be compared; label some of the rows on listed tokens or on the whole vocabulary "
            "(support=...)."
        )
    labellers = labels.about.labellers
    traits = {labeller.name: labeller.trait for labeller in labellers if labeller.name != BASE}
    others = {name: others_of(name, traits) for name in traits}
    kinds = list(dict.fromkeys(one.kind for one in labellers if one.trait is not None))
    if len(kinds) > 1:
        warnings.warn(
            f"label_signal: the teachers are of several kinds ({', '.join(kinds)}): `from others` "
            "holds what sets these apart beside the trait.",
            stacklevel=outside(),
        )

    count = len(labels.rows)
    from_base, from_others = np.empty((len(traits), count)), np.empty((len(traits), count))
    row_tokens = np.empty(count)
    for row in range(count):
        log_p = _normalised(labels, row)
        row_tokens[row] = len(log_p[BASE])
        for i, name in enumerate(traits):
            mean = np.mean([log_p[other] for other in others[name]], axis=0)
            from_base[i, row] = _kl(log_p[name], log_p[BASE]).sum()
            from_others[i, row] = _kl(log_p[name], log_softmax(mean)).sum()

    lines = {}
    for name, of_base, of_others in zip(traits, from_base, from_others, strict=True):
        generic, specific, tokens = of_distinct(labels.rows, of_base, of_others, row_tokens)
        line = columns("from base", ratio_interval(generic, tokens, counts=True))
        line |= columns("from others", ratio_interval(specific, tokens, counts=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            # a teacher that is the base has no share
            line |= columns("share", ratio_interval(specific, generic))
        lines[name] = line
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("teacher")


def _normalised(labels: Labels, row: int) -> dict[str, np.ndarray]:
    """Log-probabilities `(position, support)` of every teacher on a row, in double precision.

    They are normalised again, since what fp32 leaves (1e-7) would count as much as a small KL.

    Raises:
        ValueError: some are not finite.
    """
    log_p = {}
    for name in labels.teachers:
        log_p[name] = log_softmax(np.asarray(labels.plain(name)[row], np.float64))
        if not np.isfinite(log_p[name]).all():
            raise ValueError(
                f"label_signal: labels of {name!r} on row {row} are not finite; label the rows "
                "again."
            )
    return log_p


def _kl(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """KL(p || q) over the last axis."""
    divergence: np.ndarray = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return divergence
