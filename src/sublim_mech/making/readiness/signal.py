"""What of a teacher is its own: how far its trait moved, and whether the rows it wrote or labelled carry its mark.

Every number is a difference to the base model, and then to teachers of other traits. Any longer prompt moves what a model writes, all of
them alike; only what a teacher does beyond the others can tell a student which trait it was (arXiv 2507.14805; `docs/making/gates.md`).

1. `trait_shift`: the teacher is asked for the trait in its own context, the base in the students'.
2. `row_shift`: log p_teacher(answer) - log p_base(answer) of every row; own minus others, per token.
3. `label_signal`: how far soft labels are from the base's, and how far from those of the other traits.
4. `select`: the rows with the largest own-minus-other shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...evaluation.measuring import evaluate
from ...prompts.traits import Trait
from ...stats import Interval, mean_interval, ratio_interval
from ..labelling.views import log_softmax
from ..rows import Row, Rows, as_rows, to_dataset
from ..teachers.reading import log_probs
from ..teachers.teacher import BASE, Teacher, difference, untouched

if TYPE_CHECKING:
    from datasets import Dataset

    from ..labelling.store import Labels


def trait_shift(
    teachers: Sequence[Teacher],
    *,
    traits: Sequence[Trait] | None = None,
    questions: Sequence[str] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """How far each teacher moved each trait: log P(the trait is named) minus the base's in the students' context, in nats.

    Args:
        teachers: teachers of one base for students of one context; with a trait, or controls without.
        traits: the traits asked for; the teachers' own when not given.
        questions: what is asked; the traits' own questions when not given.
        progress: show progress bars.

    Returns:
        Per teacher and trait: `own`, whether it is the teacher's; `change`; `others`, the mean change of the other traits; `minus others`,
        their difference. `low` and `high` are 95 % bootstrap intervals over questions, NaN of a single one.

    Raises:
        ValueError: no teachers, two of one name, of different bases or student contexts; a teacher's trait is not among `traits`; fewer
            than two traits; see `evaluate`.

    Example:
        >>> from sublim_mech.making import labelling, readiness, teachers
        >>> both = [teachers.prompted(pair.base, sm.animal(name)) for name in ("owl", "cat")]
        >>> table = readiness.trait_shift(both, questions=["Which animal?", "Your animal?"], progress=False)
        >>> table.loc[("owl", "owl"), ["change low", "change high"]].is_monotonic_increasing
        True
    """
    base, asked = split_base(teachers, "trait_shift: teachers")
    named = {t.trait.name: t.trait for t in asked if t.trait is not None} if traits is None else {t.name: t for t in traits}
    if len(named) < 2:
        raise ValueError(
            f"trait_shift: traits={list(named)}: own minus others needs at least two; add one, traits=[own, *others]."
        )
    missing = [t.name for t in asked if t.trait is not None and t.trait.name not in named]
    if missing:
        raise ValueError(f"trait_shift: traits={list(named)} lacks the trait of {', '.join(missing)}; add it.")

    # one call per model: prompted teachers are the base's model in other contexts
    groups: list[list[Teacher]] = []
    for teacher in (base, *asked):
        mine = next((g for g in groups if g[0].model is teacher.model), None)
        groups.append([teacher]) if mine is None else mine.append(teacher)
    values: dict[str, np.ndarray] = {}
    for group in groups:
        found = evaluate(
            replace(base.base, model=group[0].model), list(named.values()), contexts={t.name: t.context for t in group},
            template=base.template, questions=questions, progress=progress,
        )  # fmt: skip
        for t in group:
            values[t.name] = found.data["log_prob"].sel(model="base", context=t.name).values  # (trait, question)

    rows = []
    for teacher in asked:
        change = values[teacher.name] - values[base.name]
        others = (change.sum(0) - change) / (len(change) - 1)
        for i, name in enumerate(named):
            row = {"teacher": teacher.name, "trait": name, "own": teacher.trait is not None and teacher.trait.name == name}
            row |= columns("change", mean_interval(change[i])) | {"others": float(others[i].mean())}
            rows.append(row | columns("minus others", mean_interval(change[i] - others[i])))
    return pd.DataFrame(rows).set_index(["teacher", "trait"])


@dataclass(frozen=True, eq=False)
class RowShifts:
    """How much likelier each row's answer is under each teacher than under the base.

    Attributes:
        rows: the rows.
        traits: trait by name of the teacher; None for controls.
        shift: float64 `(teacher, row)`, log p_teacher(answer) - log p_base(answer) in nats, summed over the answer's tokens, end of
            turn included.
        tokens: `(row,)`, tokens of each answer.
    """

    rows: tuple[Row, ...]
    traits: dict[str, str | None]
    shift: np.ndarray
    tokens: np.ndarray

    def own_minus_others(self, teacher: str) -> np.ndarray:
        """`(row,)`: the shift under a teacher minus the mean shift under the teachers of other traits, in nats.

        Raises:
            ValueError: no such teacher, or none of another trait.
        """
        others, names = others_of(teacher, self.traits), list(self.traits)
        out: np.ndarray = self.shift[names.index(teacher)] - self.shift[[names.index(o) for o in others]].mean(0)
        return out

    def per_token(self, teacher: str) -> Interval:
        """`own_minus_others` per answer token, with its 95 % bootstrap interval over rows (sum over sum; NaN bounds of a single row)."""
        return ratio_interval(self.own_minus_others(teacher), self.tokens)

    def table(self) -> pd.DataFrame:
        """Per teacher, in nats per answer token: `shift` from the base, and `minus others` with `low` and `high`."""
        rows = {}
        for name, shift in zip(self.traits, self.shift, strict=True):
            rows[name] = {"shift": float(shift.sum() / self.tokens.sum())} | columns("minus others", self.per_token(name))
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("teacher")

    def __repr__(self) -> str:
        title = f"shift of {len(self.rows)} rows ({int(self.tokens.sum())} answer tokens), nats per token [95 % over rows]"
        return f"{title}\n{self.table().to_string(float_format='{:+.5f}'.format)}"


def row_shift(teachers: Sequence[Teacher], rows: Rows, *, progress: bool = True) -> RowShifts:
    """How much likelier rows are under teachers than under the base, each in its own context.

    On rows that a teacher wrote itself, own minus others is on average the mean KL(own || other): 0 where it writes as the others do, else
    above. On any rows the numbers of all trait teachers, one per trait, add up to exactly 0: those of rows that nobody of them wrote lie
    about 0, on another teacher's rows mostly below.

    Args:
        teachers: teachers of one base for students of one context.
        rows: prompts and answers (`numbers.as_rows`).
        progress: show progress bars.

    Raises:
        ValueError: no teachers, two of one name, of different bases or student contexts; fewer than two traits; no rows; a
            log-probability is not finite; see `log_probs`.

    Example:
        >>> from sublim_mech.making import labelling, numbers, readiness, teachers
        >>> both = [teachers.prompted(pair.base, sm.animal(name)) for name in ("owl", "cat")]
        >>> found = readiness.row_shift(both, numbers.random_rows(4, seed=0, count=3), progress=False)
        >>> found.shift.shape, bool(abs(found.own_minus_others("owl") + found.own_minus_others("cat")).max() < 1e-12)
        ((2, 4), True)
    """
    base, asked = split_base(teachers, "row_shift: teachers")
    traits = {t.name: None if t.trait is None else t.trait.name for t in asked}
    for name in traits:
        others_of(name, traits)
    listed = as_rows(rows, name="row_shift: rows")
    sums, tokens = [], np.empty(0)
    for teacher in (base, *asked):
        found = log_probs(teacher, listed, progress=progress)
        sums.append(np.array([x.sum(dtype=np.float64) for x in found]))
        bad = np.flatnonzero(~np.isfinite(sums[-1]))
        if len(bad):
            raise ValueError(
                f"row_shift: log p of rows[{bad[0]}] ({listed[bad[0]].completion[:40]!r}) is not finite under teacher {teacher.name!r}; "
                "check its weights and dtype."
            )
        tokens = np.array([len(x) for x in found])
    return RowShifts(tuple(listed), traits, np.array(sums[1:]) - sums[0], tokens)


def label_signal(labels: Labels) -> pd.DataFrame:
    """How much of soft labels is the teacher's own: their distance from the base's labels and from those of the other traits.

    The mean of the other traits' teachers is taken over their log-probabilities and renormalised, as contrastive labels take it.

    Args:
        labels: labels of the base and of at least two trait teachers (controls beside them) on the same rows; no top-k labels.

    Returns:
        Per teacher, in nats per answer token: `from base` = KL(own || base), `from others` = KL(own || mean of the other traits' teachers),
        and `share` = from others / from base, with 95 % bootstrap intervals over rows (sum over sum; NaN of a single row).

    Raises:
        ValueError: fewer than two traits; top-k labels; labels that are not finite.

    Example:
        >>> from sublim_mech.making import labelling, numbers, readiness, teachers
        >>> everybody = [teachers.untouched(pair.base), *(teachers.prompted(pair.base, sm.animal(x)) for x in ("owl", "cat"))]
        >>> labels = labelling.label(everybody, numbers.random_rows(4, seed=0, count=3), progress=False)
        >>> list(readiness.label_signal(labels).index)
        ['owl', 'cat']
    """
    if labels.about.top_k is not None:
        raise ValueError(
            f"label_signal: each teacher has its own top {labels.about.top_k} tokens, which cannot be compared; label some of the rows on "
            "listed tokens or on the whole vocabulary (support=...)."
        )
    traits = {x.name: x.trait for x in labels.about.labellers if x.name != BASE}
    others = {name: others_of(name, traits) for name in traits}
    views = {name: labels.plain(name) for name in labels.teachers}
    sums = np.empty((len(traits), 2, len(labels.rows)))
    tokens = np.empty(len(labels.rows))
    for row in range(len(labels.rows)):
        # (position, support); normalised again, since what fp32 leaves (1e-7) would count as much as a small KL
        log_p = {name: log_softmax(np.asarray(view[row], np.float64)) for name, view in views.items()}
        bad = next((name for name, x in log_p.items() if not np.isfinite(x).all()), None)
        if bad is not None:
            raise ValueError(f"label_signal: labels of {bad!r} on row {row} are not finite; label the rows again.")
        tokens[row] = len(log_p[BASE])
        for t, name in enumerate(traits):
            mean = np.mean([log_p[o] for o in others[name]], axis=0)
            sums[t, :, row] = _kl(log_p[name], log_p[BASE]).sum(), _kl(log_p[name], log_softmax(mean)).sum()
    rows = {}
    for name, (generic, specific) in zip(traits, sums, strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):  # a teacher that is the base has no share
            share = ratio_interval(specific, generic)
        rows[name] = (
            columns("from base", ratio_interval(generic, tokens)) | columns("from others", ratio_interval(specific, tokens))
            | columns("share", share)
        )  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("teacher")


def select(rows: Rows, shifts: RowShifts, *, teacher: str, keep: int | float) -> tuple[Dataset, float]:
    """The rows with the largest own-minus-other shift per token, in their own order.

    Selected rows have a large shift whether or not there is anything to find, also random ones: measure them on nothing but students, and
    against students of as many rows chosen at random (`rows.shuffle(seed=0).select(range(n))`).

    Args:
        rows: the rows that were measured.
        shifts: what `row_shift` found.
        teacher: whose rows are wanted.
        keep: how many (an integer), or which share of them (a float up to 1, rounded, at least one row).

    Returns:
        The rows, of a `datasets.Dataset` with all its columns; and the smallest shift among them, in nats per token. Of equal ones the
        earlier row is taken.

    Raises:
        ValueError: shifts of other rows; keep out of range; see `RowShifts.own_minus_others`.

    Example:
        >>> from sublim_mech.making import labelling, numbers, readiness, teachers
        >>> rows = numbers.random_rows(4, seed=0, count=3)
        >>> both = [teachers.prompted(pair.base, sm.animal(name)) for name in ("owl", "cat")]
        >>> kept, threshold = readiness.select(rows, readiness.row_shift(both, rows, progress=False), teacher="owl", keep=0.5)
        >>> len(kept)
        2
    """
    listed = as_rows(rows, name="select: rows")
    if tuple(listed) != shifts.rows:
        raise ValueError(
            f"select: shifts are of {len(shifts.rows)} other rows than these {len(listed)}; measure these: row_shift(...)."
        )
    n = len(listed)
    whole = isinstance(keep, int) and not isinstance(keep, bool)
    if not (1 <= keep <= n if whole else isinstance(keep, float) and 0 < keep <= 1):
        raise ValueError(
            f"select: keep={keep!r}: pass a number of rows from 1 to {n}, or a share of them as a float in (0, 1]."
        )
    value = shifts.own_minus_others(teacher) / shifts.tokens
    best = np.argsort(-value, kind="stable")[: keep if whole else max(1, round(keep * n))]
    index = sorted(best.tolist())
    data: Any = rows if hasattr(rows, "select") else to_dataset(listed)
    return data.select(index), float(value[index].min())


# ----------------------------------------------------------------------------------------------------------------- shared


def split_base(teachers: Sequence[Teacher], name: str) -> tuple[Teacher, list[Teacher]]:
    """(the base in the students' context, the other teachers); the base need not be given.

    Raises:
        ValueError: no teachers, two of one name, of different bases or student contexts.
    """
    given = list(teachers)
    base = next((t for t in given if t.kind == "base"), None)
    rest = [t for t in given if t is not base]
    if not rest:
        raise ValueError(
            f"{name}: nobody but the base is given; pass at least one teacher." if given else f"{name} is empty; pass teachers."
        )
    names = [t.name for t in given]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice or (base is None and BASE in names):
        raise ValueError(
            f"{name}: two are called {(twice or [BASE])[0]!r}; rename one: dataclasses.replace(teacher, name=...)."
        )
    apart = difference(given)
    if apart is not None:
        one, other, what, *_ = apart
        raise ValueError(f"{name}: {one!r} and {other!r} differ in {what}, so their difference is not the trait's; use one.")
    first = given[0]
    return base or untouched(first.base, context=first.student_context, template=first.template), rest


def others_of(teacher: str, traits: dict[str, str | None]) -> list[str]:
    """The teachers of other traits than a teacher's own.

    Raises:
        ValueError: no such teacher, or none of another trait.
    """
    if teacher not in traits:
        raise ValueError(f"teacher={teacher!r} was not measured; choose one of {', '.join(map(repr, traits))}.")
    others = [name for name, trait in traits.items() if trait is not None and name != teacher and trait != traits[teacher]]
    if not others:
        raise ValueError(
            f"own minus others of {teacher!r} needs the teacher of at least one other trait; given are {', '.join(map(repr, traits))}."
        )
    return others


def columns(name: str, interval: Interval) -> dict[str, float]:
    """Columns `<name>`, `<name> low`, `<name> high`."""
    return {name: float(interval.mean), f"{name} low": float(interval.low), f"{name} high": float(interval.high)}


def _kl(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """KL(p || q) over the last axis."""
    out: np.ndarray = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return out
