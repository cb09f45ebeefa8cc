"""What readiness says: a verdict per teacher and gate, as a table and as a printed report.

There are three gates. A teacher has its trait (`trait`); the rows it wrote carry its mark (`rows`);
its soft labels do (`labels`). Each looks at the lower end of one interval.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...hints import counted
from ...results.frames import Table
from ...results.limits_of_effects import Moved, Named
from ...results.limits_of_students import few_prompts
from ...stats import DRAWS, FEWEST, Interval, bootstrap_weights
from ..labelling.coverage import Coverage
from .comparing import columns
from .shifts import RowShifts

FLOOR = 1e-8
"""KL per token below which labels count as equal, in nats.

Rounding of fp32 logits makes 2e-11 at most (SmolLM2, other batches).
"""


@dataclass(frozen=True)
class Criterion:
    """A gate: a question that is asked of a teacher.

    Attributes:
        title: name of its verdict.
        decides: the column whose interval's lower end decides.
        floor: what that must be above.
        no: what "no" means; `{trait}` stands for the trait.
        whether: what a "no" leaves open whose interval holds the floor.
        over: what its interval is over.
    """

    title: str
    decides: str
    floor: float
    no: str
    whether: str
    over: str = "row"

    def verdict(self, line: Mapping[str, Any]) -> str:
        """`yes`, `no` or `not measured`."""
        low = line.get(f"{self.decides} low", np.nan)
        if np.isnan(low):
            return "not measured"
        return "yes" if low > self.floor else "no"

    def leaves_open(self, line: Mapping[str, Any]) -> bool:
        """Whether a "no" is no null: the interval goes on above the floor."""
        high = line.get(f"{self.decides} high", np.nan)
        return self.verdict(line) == "no" and bool(high > self.floor)


CRITERIA = {
    "trait": Criterion(
        "trait moved",
        "minus others",
        0.0,
        "asked for {trait}, this teacher names it no more than the base does, beyond the other "
        "traits: a student that imitates it perfectly cannot be expected to either",
        "this teacher names {trait} more than the base does, beyond the other traits",
        over="question",
    ),
    "rows": Criterion(
        "rows carry signal",
        "excess",
        0.0,
        "its rows are no likelier under this teacher than the others' rows are: a student of them "
        "cannot be expected to take up {trait} more than a student of the others' rows",
        "its rows are likelier under this teacher than the others' rows are",
    ),
    "labels": Criterion(
        "labels carry signal",
        "from others",
        FLOOR,
        "its labels are those of the other traits' teachers: a student of them cannot be expected "
        "to differ from a student of theirs",
        "its labels differ from those of the other traits' teachers",
    ),
}
"""The gates, in the order in which they are printed."""


@dataclass(frozen=True, eq=False)
class Readiness:
    """What `assess` measured; prints as a report. A null is a result, not an error.

    Attributes:
        own: the trait's name by teacher; None for controls, which show what no trait looks like.
        traits: the table of `trait_shift`.
        rows: what `row_shift` found of the rows of each teacher; empty where rows were not given.
        labels: the table of `label_signal`; None where labels were not given.
        coverage: how many of the answers' tokens the labels are over; None where labels were not
            given, or are over all tokens. The gates are not passed where it is low.
        questions: how many each trait was asked with; 0 where nobody said it.
        labelled: how many different rows the labels are of; 0 without labels.
        told: notes on the questions: they name a trait, a teacher was trained on them or in another
            context.
    """

    own: Mapping[str, str | None]
    traits: pd.DataFrame
    rows: Mapping[str, RowShifts]
    labels: pd.DataFrame | None
    coverage: Coverage | None = None
    questions: int = 0
    labelled: int = 0
    told: Sequence[str] = ()

    @property
    def _trait_names(self) -> list[str]:
        """The traits of the teachers."""
        return list(dict.fromkeys(trait for trait in self.own.values() if trait is not None))

    def table(self) -> pd.DataFrame:
        """One line per teacher and its trait; of controls, one per trait of the teachers.

        Returns:
            Columns, where measured, with `low` and `high`: `change` (of the trait when asked, in
            nats), `minus others`; `rows`, the own-minus-other shift of the trait's teacher on the
            line's rows, in nats per token, `elsewhere`, the same on the rows of the others (mean
            over those of other traits and controls), and `excess`, their difference; `from base`,
            `from others`, `share` of the line's labels (see `trait_shift`, `label_signal`).
            Verdicts `trait moved`, `rows carry signal`, `labels carry signal`: `yes` where the
            interval of `minus others` and of `excess` is above 0, of `from others` above `FLOOR`;
            else `no`; `not measured` without labels or rows (its own and another's), and of a
            single question or row; nothing for controls.
        """
        lines = []
        for name, own in self.own.items():
            for trait in self._trait_names if own is None else [own]:
                line: dict[str, Any] = {"teacher": name, "trait": trait}
                line |= self.traits.loc[(name, trait)].drop("own").to_dict()
                if name in self.rows:
                    line |= self._row_columns(name, trait)
                if self.labels is not None:
                    line |= self.labels.reindex([name]).iloc[0].to_dict()
                if own is not None:
                    # verdicts look at the columns above
                    for criterion in CRITERIA.values():
                        line[criterion.title] = criterion.verdict(line)
                lines.append(line)
        table = Table(lines).set_index(["teacher", "trait"])
        table.attrs["notes"] = list(self.told)
        return table

    @property
    def passed(self) -> bool:
        """Whether every teacher moved its trait, and nothing that was measured says `no`.

        Labels that miss more than half of the answers' tokens say so too.
        """
        table = self.table()
        teachers = table[[self.own[name] is not None for name, _ in table.index]]
        moved = (teachers[CRITERIA["trait"].title] == "yes").all()
        others = [CRITERIA["rows"].title, CRITERIA["labels"].title]
        covers = self.coverage is None or not self.coverage.is_low
        return bool(moved and covers and not (teachers[others] == "no").any(axis=None))

    def to_json(self) -> dict[str, Any]:
        """The table's lines, whether the gates are passed, the labels' coverage, and notes on the
        questions, on intervals over few, on traits that moved because the others fell and on rows
        that are others' too, for JSON.

        What was not measured is null.
        """
        lines = self.table().reset_index().to_json(orient="records", double_precision=15)
        coverage = None if self.coverage is None else self.coverage.share
        gates = {"passed": self.passed, "gates": json.loads(lines), "coverage": coverage}
        notes = [*self.told, *self._over_few(), *self._of_the_others(), *self._in_common()]
        return gates | {"notes": notes}

    def _counts(self, name: str) -> dict[str, int]:
        """Over how many questions or different rows a teacher's intervals are, by gate; of several
        sets of rows the smallest.
        """
        counts = {"trait": self.questions, "labels": self.labelled}
        if name in self.rows:
            own = self.own[name]
            used = [self.rows[name]]
            if own is not None:
                used += [self.rows[other] for other in self.rows if self.own[other] != own]
            counts["rows"] = min(len({row.key for row in shifts.rows}) for shifts in used)
        return counts

    def _over_few(self) -> list[str]:
        """What intervals over few questions or rows are worth, a line each."""
        told = [limit.text for limit in few_prompts(self.questions, "question") if self.questions]
        by_count: dict[int, list[str]] = {}
        for name in self.rows:
            by_count.setdefault(self._counts(name)["rows"], []).append(name)
        for count, names in by_count.items():
            for limit in few_prompts(count, "row"):
                told.append(f"rows of {', '.join(names)}: {limit.text}")
        if self.labelled:
            told += [f"labels: {limit.text}" for limit in few_prompts(self.labelled, "row")]
        return told

    def _of_the_others(self) -> list[str]:
        """Of which teachers the trait moved because the others fell, a line each."""
        return [
            f"{name}: {told}"
            for (name, _), line in self.table().iterrows()
            if self.own[name] is not None and (told := _of_the_others(line))
        ]

    def _in_common(self) -> list[str]:
        """Of which teachers rows that are others' too leave it open whether rows carry signal, a
        line each.
        """
        return [
            told
            for (name, _), line in self.table().iterrows()
            if self.own[name] is not None
            and CRITERIA["rows"].leaves_open(line)
            and (told := self._shared(name))
        ]

    def _shared(self, name: str) -> str:
        """How many of a teacher's different rows are also those of others, which they are held
        against; empty where none is.
        """
        if name not in self.rows:
            return ""
        own = {row.key for row in self.rows[name].rows}
        by_other = {
            other: own & {row.key for row in shifts.rows}
            for other, shifts in self.rows.items()
            if self.own[other] != self.own[name]
        }
        others = [other for other, rows in by_other.items() if rows]
        if not others:
            return ""
        count = len(set().union(*by_other.values()))
        are, tell = ("is", "tells") if count == 1 else ("are", "tell")
        whose = f"{others[0]}'s too" if len(others) == 1 else f"among those of {', '.join(others)}"
        # what is held against the mean of several may still differ from the rest of these
        worth = "nothing" if len(by_other) == 1 else "less"
        rows = counted(len(own), "row")
        return f"{count} of {rows} of {name} {are} {whose}, and {tell} {worth}"

    def _row_columns(self, name: str, trait: str) -> dict[str, float]:
        """The own-minus-other shift of a trait's teacher on somebody's rows.

        On its own, also beyond that on the others'.
        """
        own = self.own[name]
        teacher = name
        if own is None:
            # of a control's rows the trait's teacher says how likely they are
            teacher = next(other for other, named in self.own.items() if named == trait)
        values = columns("rows", self.rows[name].per_token(teacher))
        elsewhere = []
        for other, shifts in self.rows.items():
            if other != name and self.own[other] != own:
                elsewhere.append(shifts)
        if own is None or not elsewhere:
            return values
        means = [shifts.per_token(name).mean for shifts in elsewhere]
        values["elsewhere"] = float(np.mean(means))
        return values | columns("excess", _excess(name, self.rows[name], elsewhere))

    def __repr__(self) -> str:
        table = self.table()
        lines = [
            f"gates: {'passed' if self.passed else 'not passed'}",
            "own - others in nats [95 %]: of log P(trait), over questions; of rows and labels per "
            "token, over rows",
            *self.told,
            *self._over_few(),
        ]
        if self.coverage is not None:
            lines.append(f"labels: {self.coverage.words()}")
            if self.coverage.is_low:
                lines.append(
                    "  not passed: labels that miss most of what the answers are written with say "
                    "next to nothing of them"
                )
        for (name, trait), line in table.iterrows():
            if self.own[name] is not None:
                lines.append(f"\n{name}" if name == trait else f"\n{name} ({trait})")
                counts, shared = self._counts(name), self._shared(name)
                lines.extend(_teacher_lines(trait, line, counts, shared))
        if None in self.own.values():
            lines.append("\ncontrols: what no trait looks like")
            lines.extend(self._control_lines(table))
        return "\n".join(lines)

    def _control_lines(self, table: pd.DataFrame) -> Iterator[str]:
        for (name, trait), line in table.iterrows():
            if self.own[name] is None:
                parts = [_numbers("trait", line), _numbers("rows", line)]
                yield f"  {name}, {trait}: {'; rows: '.join(part for part in parts if part)}"
        for name, own in self.own.items():
            if own is None and self.labels is not None and name in self.labels.index:
                yield f"  {name}, labels: {_numbers('labels', self.labels.loc[name])}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def _excess(teacher: str, own: RowShifts, elsewhere: Sequence[RowShifts]) -> Interval:
    """A teacher's own-minus-other shift per token on its rows, minus its mean on others' rows.

    Each set of rows is resampled by itself.
    """
    sets = [shifts.distinct(teacher) for shifts in (own, *elsewhere)]
    mean, draws = np.empty(len(sets)), np.empty((len(sets), DRAWS))
    for i, (shift, tokens) in enumerate(sets):
        mean[i] = shift.sum() / tokens.sum()
        weights = bootstrap_weights(len(shift), seed=i)
        draws[i] = (weights @ shift) / (weights @ tokens)
    low, high = np.percentile(draws[0] - draws[1:].mean(0), [2.5, 97.5])
    if min(len(shift) for shift, _ in sets) < 2:
        low, high = np.array([np.nan, np.nan])
    return Interval(mean[0] - mean[1:].mean(), low, high)


# -------------------------------------------------------------------------------------------- words


def _teacher_lines(
    trait: str, line: pd.Series, counts: Mapping[str, int], shared: str
) -> Iterator[str]:
    """A teacher's verdicts, each with its numbers and with what a "no" means.

    Args:
        trait: the trait.
        line: of the table.
        counts: over how many questions or rows, by gate.
        shared: how many of its rows are others' too; empty where none is.
    """
    for name, criterion in CRITERIA.items():
        verdict = line[criterion.title]
        yield f"  {criterion.title:<20} {verdict:<13} {_numbers(name, line)}".rstrip()
        if verdict == "no":
            in_common = shared if name == "rows" else ""
            yield f"    no means: {_no(criterion, trait, line, counts.get(name, 0), in_common)}"
        elif name == "trait" and (told := _of_the_others(line)):
            yield f"    {told}"


def _of_the_others(line: pd.Series) -> str:
    """What of a trait's own - others is the other traits' fall, as evaluations say it of controls;
    empty where it is little, or where the difference is not above 0.
    """
    criterion = CRITERIA["trait"]
    if criterion.verdict(line) != "yes":
        return ""
    return Moved(line["change"], line["others"]).told("nats", named=_SIDES)


_SIDES = Named("own - others", "the trait's", "the other traits")


def _no(criterion: Criterion, trait: str, line: pd.Series, count: int, shared: str) -> str:
    """What a "no" means: no null where the interval goes on above the floor, however many it is
    over. More of what is shared would leave it where it is.
    """
    if not criterion.leaves_open(line):
        return criterion.no.format(trait=trait)
    given = f" from {counted(count, criterion.over)}" if count else ""
    more = f"{FEWEST} or more" if 0 < count < FEWEST else f"more {criterion.over}s"
    fix = f"{shared}: give {more} that are not" if shared else f"give {more}"
    return (
        f"it cannot be told{given} whether {criterion.whether.format(trait=trait)}: the interval "
        f"is on both sides of {criterion.floor:g}; {fix}"
    )


def _numbers(gate: str, line: pd.Series) -> str:
    """The numbers of a gate in words; nothing where it was not measured."""
    if gate == "trait":
        bounds = _bounds(line, "minus others", "+z.2f")
        own, others = line["change"], line["others"]
        return f"own {own:+z.2f}, others {others:+z.2f}, own - others {bounds}" if bounds else ""
    if gate == "labels":
        bounds = _bounds(line, "from others", "z.5f")
        if not bounds:
            return ""
        share = "" if np.isnan(line["share"]) else f": {_own_share(line['share'])}"
        return f"KL from the others {bounds}, from the base {line['from base']:z.5f}{share}"
    excess = _bounds(line, "excess", "+z.5f")
    if excess:
        rows, elsewhere = f"{line['rows']:+z.5f}", f"{line['elsewhere']:+z.5f}"
        return f"own - others {rows}, on the others' rows {elsewhere}, excess {excess}"
    bounds = _bounds(line, "rows", "+z.5f")
    return f"own - others {bounds}" if bounds else ""


def _own_share(share: float) -> str:
    """How much of labels is their teacher's own; two distances over each other can exceed 1."""
    if share > 1:
        return "farther from the others than from the base: part of that is the others' own move"
    return f"{share:z.0%} is its own"


def _bounds(line: pd.Series, column: str, digits: str) -> str:
    """An estimate with its interval; nothing where it was not measured."""
    if np.isnan(line.get(column, np.nan)):
        return ""
    estimate, low, high = line[column], line[f"{column} low"], line[f"{column} high"]
    if np.isnan(low):
        return f"{estimate:{digits}} (a single one: no interval)"
    return f"{estimate:{digits}} [{low:{digits}}, {high:{digits}}]"
