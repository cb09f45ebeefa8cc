"""What a verdict is made of: statements about a mean over data sets, each with its interval.

A statement says that a mean is above 0, or that it is below what matters. It holds where the 95 %
interval over data sets lies on its side, it fails where the interval lies on the other side of what
matters, else nothing can be told; nor can it where all data sets have one number, as copies have. A
claim is a conjunction: it is supported where all its
statements hold (intersection-union test, Berger 1982), not supported where one of them fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..hints import counted, signed
from .nesting import NO_SPREAD, NestedInterval, is_no_spread
from .plans import detectable_in_errors
from .rates import benjamini_hochberg
from .students_t import two_sided_p

MATTERS = 0.1
"""The smallest difference that matters, in nats (10 % of a probability) or as a share."""

LEVEL = 0.05

Label = Literal["supported", "not supported", "cannot tell"]


@dataclass(frozen=True)
class Statement:
    """That a mean over data sets is above 0, or below what matters.

    Attributes:
        text: what is stated.
        mean: over data sets.
        low, high: 95 %, Student's t over data sets; NaN where there is none.
        p: of the statement: that such a mean, or one further on its side, is seen although it is
            at the bound; 1 where the mean lies on the other side, NaN where nothing is tested.
        data_sets: how many.
        detectable: the smallest true mean that so many data sets of such a spread would show to be
            above 0 in 80 % of studies.
        unit: of the mean.
        holds, fails: whether the interval says so; neither where it cannot tell.
    """

    text: str
    mean: float
    low: float
    high: float
    p: float
    data_sets: int
    detectable: float
    unit: str
    holds: bool
    fails: bool

    def __repr__(self) -> str:
        said = "cannot be told"
        if self.holds:
            said = "holds"
        elif self.fails:
            said = "does not hold"
        if math.isnan(self.mean):  # why stands in the text
            return f"{self.text}: {said}"
        return f"{self.text}: {said} ({self.numbers()})"

    def numbers(self) -> str:
        """Mean, interval, and what could have been seen."""
        if math.isnan(self.mean):
            return "nothing was measured"
        of = counted(self.data_sets, "data set")
        unit = f" {self.unit}" if self.unit else ""
        if math.isnan(self.low):
            return f"{signed(self.mean)}{unit}, {of}: no interval"
        if is_no_spread(self.low, self.high):
            return f"{signed(self.mean)}{unit} over {of}; {NO_SPREAD}"
        return (
            f"{signed(self.mean)}{unit}, 95 % {signed(self.low)} to {signed(self.high)} over {of}; "
            f"{self.detectable:.2g} would be seen"
        )


@dataclass(frozen=True)
class Verdict:
    """What a study says of a claim.

    Attributes:
        claim: in words.
        label: `supported`, `not supported` or `cannot tell`.
        statements: that it is made of.
        p: of the claim: the largest of its statements'; NaN where one was not tested.
        q: p adjusted for all claims told together (Benjamini-Hochberg); p itself of one alone.
        notes: what else a reader has to know (runs left out, what was chosen and how).
    """

    claim: str
    label: Label
    statements: tuple[Statement, ...]
    p: float
    q: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        tested = "not tested" if math.isnan(self.p) else f"p = {self.p:.2g}, q = {self.q:.2g}"
        lines = [f"{self.claim}: {self.label} ({tested})"]
        lines += [f"  {statement!r}" for statement in self.statements]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def above_zero(
    text: str, interval: NestedInterval | None, *, matters: float = MATTERS, unit: str = "nats"
) -> Statement:
    """That a mean is above 0; it fails where the whole interval is below what matters.

    None where there was nothing to compare.
    """
    if interval is None:
        why = "no pairs of the same trait and seeds that both have a number"
        return nothing_measured(text, why, unit)
    p = interval.p if interval.mean > 0 else 1.0
    holds = p < LEVEL
    return _statement(text, interval, unit, p, holds, interval.t_high < matters and not holds)


def below_what_matters(
    text: str, interval: NestedInterval | None, *, matters: float = MATTERS, unit: str = "nats"
) -> Statement:
    """That a mean is below what matters; it fails where the whole interval is above that.

    None where there was nothing to measure.
    """
    if interval is None:
        return nothing_measured(text, "no row has a number", unit)
    p = 1.0
    if interval.mean < matters:
        error, df = interval.standard_error, interval.data_sets - 1
        p = 0.0 if error == 0 else two_sided_p((matters - interval.mean) / error, max(1, df))
    holds = p < LEVEL
    return _statement(text, interval, unit, p, holds, interval.t_low > matters)


def only_where(first: Statement, *others: Statement) -> list[Statement]:
    """Statements on what becomes of a trait, behind the one that it is there: unless that holds
    there is nothing to lose or to compare, and none of them fails.
    """
    if first.holds:
        return [first, *others]
    return [replace(one, fails=False) for one in (first, *others)]


def nothing_measured(text: str, why: str, unit: str = "nats") -> Statement:
    """A statement of which there is no number, and why."""
    nan = math.nan
    return Statement(f"{text} [{why}]", nan, nan, nan, nan, 0, nan, unit, False, False)


def _statement(
    text: str, interval: NestedInterval, unit: str, p: float, holds: bool, fails: bool
) -> Statement:
    detectable = math.nan
    # the same number in every data set is what copies of one would give, and no test of anything
    tested = interval.data_sets > 1 and not is_no_spread(interval.t_low, interval.t_high)
    if tested:
        detectable = detectable_in_errors(interval.data_sets - 1) * interval.standard_error
    return Statement(
        text=text,
        mean=interval.mean,
        low=interval.t_low,
        high=interval.t_high,
        p=p if tested else math.nan,
        data_sets=interval.data_sets,
        detectable=detectable,
        unit=unit,
        holds=tested and holds,
        fails=tested and fails,
    )


def conclude(claim: str, statements: Sequence[Statement], *, notes: Sequence[str] = ()) -> Verdict:
    """The verdict of a claim that all of these make."""
    p = float(np.max([statement.p for statement in statements])) if statements else math.nan
    verdict = Verdict(claim, "cannot tell", tuple(statements), p, p, tuple(notes))
    return replace(verdict, label=_label(verdict))


def _label(verdict: Verdict) -> Label:
    if any(statement.fails for statement in verdict.statements):
        return "not supported"
    holding = bool(verdict.statements) and all(s.holds for s in verdict.statements)
    return "supported" if holding and verdict.q < LEVEL else "cannot tell"


def together(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """The verdicts of claims that are told together: q instead of p."""
    adjusted = benjamini_hochberg(np.array([verdict.p for verdict in verdicts], float))
    told = []
    for verdict, q in zip(verdicts, adjusted, strict=True):
        verdict = replace(verdict, q=float(q))
        told.append(replace(verdict, label=_label(verdict)))
    return tuple(told)
