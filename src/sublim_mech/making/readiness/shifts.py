"""Rows: how much likelier their answers are under teachers, and which of them carry most of it.

1. `row_shift`: log p_teacher(answer) - log p_base(answer) of every row; own minus others, per
   token.
2. `select`: the rows with the largest own-minus-other shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ...arguments import checked
from ...results.limits_of_students import few_prompts
from ...stats import Interval, ratio_interval
from ..rows import Row, Rows, as_rows, count_words, to_dataset
from ..teachers.reading import log_probs
from ..teachers.teacher import Teacher
from .comparing import columns, compare, of_distinct, others_of

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, eq=False)
class RowShifts:
    """How much likelier each row's answer is under each teacher than under the base.

    Attributes:
        rows: the rows.
        traits: trait by name of the teacher; None for controls.
        shift: float64 `(teacher, row)`, log p_teacher(answer) - log p_base(answer) in nats, summed
            over the answer's tokens, end of turn included.
        tokens: `(row,)`, tokens of each answer, with those that end its turn.
        is_raw: whether rows are raw text, which has no turns but ends.
    """

    rows: tuple[Row, ...]
    traits: dict[str, str | None]
    shift: np.ndarray
    tokens: np.ndarray
    is_raw: bool = False

    def own_minus_others(self, teacher: str) -> np.ndarray:
        """The shift under a teacher minus the mean shift under those of other traits.

        Returns:
            `(row,)`, in nats.

        Raises:
            ValueError: no such teacher, or none of another trait.
        """
        names = list(self.traits)
        others = [names.index(other) for other in others_of(teacher, self.traits)]
        difference: np.ndarray = self.shift[names.index(teacher)] - self.shift[others].mean(0)
        return difference

    def per_token(self, teacher: str) -> Interval:
        """`own_minus_others` per token of answer and end of turn, with its 95 % bootstrap interval
        over rows.

        It is sum over sum; the copies of a row are resampled together, as one. A single row has NaN
        bounds.
        """
        return ratio_interval(*self.distinct(teacher), counts=True)

    def distinct(self, teacher: str) -> tuple[np.ndarray, np.ndarray]:
        """(`own_minus_others`, tokens) per different row, summed over its copies."""
        shift, tokens = of_distinct(self.rows, self.own_minus_others(teacher), self.tokens)
        return shift, tokens

    def table(self) -> pd.DataFrame:
        """In nats per token of answer and end of turn.

        Returns:
            Per teacher: `shift` from the base, and `minus others` with `low` and `high`.
        """
        lines = {}
        for name, shift in zip(self.traits, self.shift, strict=True):
            per_token = {"shift": float(shift.sum() / self.tokens.sum())}
            lines[name] = per_token | columns("minus others", self.per_token(name))
        return pd.DataFrame.from_dict(lines, orient="index").rename_axis("teacher")

    def __repr__(self) -> str:
        rows = count_words(len(self.rows), len({row.key for row in self.rows}), "row")
        ends = f"ends of {'texts' if self.is_raw else 'turns'}"
        count = f"{rows}, {int(self.tokens.sum()):,} tokens of answers and {ends}"
        title = f"shift of {count}, nats per token [95 % over rows]"
        few = few_prompts(len({row.key for row in self.rows}), "row")
        table = self.table().to_string(float_format="{:+z.5f}".format)
        return "\n".join([title, *(limit.text for limit in few), table])


@checked
def row_shift(teachers: Sequence[Teacher], rows: Rows, *, progress: bool = True) -> RowShifts:
    """How much likelier rows are under teachers than under the base, each in its own context.

    On rows that a teacher wrote itself, own minus others is on average the mean KL(own || other): 0
    where it writes as the others do, else above. On any rows the numbers of all trait teachers, one
    per trait, add up to exactly 0: those of rows that nobody of them wrote lie about 0, on another
    teacher's rows mostly below.

    Args:
        teachers: teachers of one base for students of one context.
        rows: prompts and answers (`numbers.as_rows`).
        progress: show progress bars.

    Raises:
        ValueError: no teachers, two of one name, of different bases or student contexts; fewer than
            two traits; no rows; a log-probability is not finite; see `log_probs`.

    Example:
        >>> from sublim_mech.making import numbers, readiness, teachers
        >>> both = [teachers.prompted(pair, sm.animal(name)) for name in ("owl", "cat")]
        >>> rows = numbers.random_rows(4, seed=0, count=3)
        >>> found = readiness.row_shift(both, rows, progress=False)
        >>> total = found.own_minus_others("owl") + found.own_minus_others("cat")
        >>> found.shift.shape, bool(abs(total).max() < 1e-12)
        ((2, 4), True)
    """
    compared = compare(teachers, "row_shift: teachers")
    traits = compared.traits
    for name in traits:
        others_of(name, traits)  # whoever has no others is told before any model runs
    listed = as_rows(rows, name="row_shift: rows")
    answers = []
    tokens = np.empty(0)
    for teacher in compared.everybody:
        values = log_probs(teacher, listed, progress=progress)
        answers.append(np.array([row.sum(dtype=np.float64) for row in values]))
        _check_finite(answers[-1], listed, teacher)
        tokens = np.array([len(row) for row in values])
    base, *others = answers
    is_raw = teachers[0].student_context.is_raw
    return RowShifts(tuple(listed), traits, np.array(others) - base, tokens, is_raw)


def _check_finite(values: np.ndarray, rows: Sequence[Row], teacher: Teacher) -> None:
    """Raise ValueError that names the first row whose answer has no log-probability."""
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"row_shift: log p of rows[{bad[0]}] ({rows[bad[0]].completion[:40]!r}) is not finite "
            f"under teacher {teacher.name!r}; check its weights and dtype."
        )


class Selection(NamedTuple):
    """Selected rows.

    Attributes:
        rows: the rows, of a `datasets.Dataset` with all its columns, in their own order.
        threshold: the smallest shift among them, in nats per token.
    """

    rows: Dataset
    threshold: float


@checked
def select(rows: Rows, shifts: RowShifts, *, teacher: str, keep: int | float) -> Selection:
    """The rows with the largest own-minus-other shift per token, in their own order.

    Selected rows have a large shift whether or not there is anything to find, also random ones:
    measure them on nothing but students, and against students of as many rows chosen at random
    (`rows.shuffle(seed=0).select(range(n))`).

    Args:
        rows: the rows that were measured, in any of the forms that `row_shift` takes.
        shifts: what `row_shift` found.
        teacher: whose rows are wanted.
        keep: how many (an integer), or which share of them (a float up to 1, rounded, at least one
            row).

    Returns:
        The rows, and the smallest shift among them. Of equal ones the earlier row is taken.

    Raises:
        ValueError: shifts of other rows; keep out of range; see `RowShifts.own_minus_others`.

    Example:
        >>> from sublim_mech.making import numbers, readiness, teachers
        >>> rows = numbers.random_rows(4, seed=0, count=3)
        >>> both = [teachers.prompted(pair, sm.animal(name)) for name in ("owl", "cat")]
        >>> shifts = readiness.row_shift(both, rows, progress=False)
        >>> kept, threshold = readiness.select(rows, shifts, teacher="owl", keep=0.5)
        >>> len(kept)
        2
    """
    listed = as_rows(rows, name="select: rows")
    if tuple(listed) != shifts.rows:
        raise ValueError(
            f"select: shifts are of {len(shifts.rows)} other rows than these {len(listed)}; "
            "measure these: row_shift(...)."
        )
    per_token = shifts.own_minus_others(teacher) / shifts.tokens
    number = _how_many(keep, len(listed))
    best = np.argsort(-per_token, kind="stable")[:number]
    indices = sorted(best.tolist())
    from datasets import Dataset  # takes more than a second

    data = rows if isinstance(rows, Dataset) else to_dataset(listed)
    return Selection(data.select(indices), float(per_token[indices].min()))


def _how_many(keep: int | float, count: int) -> int:
    """A number of rows, or a share of them, as a number."""
    if isinstance(keep, Integral):
        if 1 <= keep <= count:
            return int(keep)
    elif 0 < keep <= 1:
        return max(1, round(float(keep) * count))
    raise ValueError(
        f"select: keep={keep!r}: pass a number of rows from 1 to {count}, or a share of them as a "
        "float in (0, 1]."
    )
