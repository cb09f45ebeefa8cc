"""Gates: what must be there before a student is trained, printed with a verdict for every teacher."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...prompts.traits import Trait
from ...stats import DRAWS, Interval, bootstrap_weights
from ..labelling.store import Labeller
from ..rows import Rows
from ..teachers.teacher import Teacher
from .signal import RowShifts, columns, label_signal, row_shift, split_base, trait_shift

if TYPE_CHECKING:
    from ..labelling.store import Labels

FLOOR = 1e-8
"""KL per token below which labels count as equal, in nats; rounding of fp32 logits makes 2e-11 at most (SmolLM2, other batches)."""

MEANS = {
    "trait": "asked for {trait}, this teacher names it no more than the base does, beyond the other traits: a student that imitates it "
    "perfectly cannot be expected to either",
    "rows": "its rows are no likelier under this teacher than the others' rows are: a student of them cannot be expected to take up "
    "{trait} more than a student of the others' rows",
    "labels": "its labels are those of the other traits' teachers: a student of them cannot be expected to differ from a student of theirs",
}
"""What a "no" means, by gate."""


@dataclass(frozen=True, eq=False)
class Gates:
    """What `gates` measured; prints as a report. A null is a result, not an error.

    Attributes:
        own: the trait's name by teacher; None for controls, which show what no trait looks like.
        traits: the table of `trait_shift`.
        rows: what `row_shift` found of the rows of each teacher; empty where rows were not given.
        labels: the table of `label_signal`; None where labels were not given.
    """

    own: Mapping[str, str | None]
    traits: pd.DataFrame
    rows: Mapping[str, RowShifts]
    labels: pd.DataFrame | None

    def table(self) -> pd.DataFrame:
        """One line per teacher and its trait; of controls, one per trait of the teachers.

        Returns:
            Columns, where measured, with `low` and `high`: `change` (of the trait when asked, in nats), `minus others`; `rows`, the
            own-minus-other shift of the trait's teacher on the line's rows, in nats per token, `elsewhere`, the same on the rows of the
            others (mean over those of other traits and controls), and `excess`, their difference; `from base`, `from others`, `share` of
            the line's labels (see `trait_shift`, `label_signal`). Verdicts `trait moved`, `rows carry signal`, `labels carry signal`:
            `yes` where the interval of `minus others` and of `excess` is above 0, of `from others` above `FLOOR`; else `no`; `not
            measured` without labels or rows (its own and another's), and of a single question or row; nothing for controls.
        """
        lines = []
        for name, trait in self.own.items():
            for of in self._traits if trait is None else (trait,):
                line: dict[str, Any] = {"teacher": name, "trait": of}
                line |= self.traits.loc[(name, of)].drop("own").to_dict()
                if self.rows:
                    line |= self._row_columns(name, of)
                if self.labels is not None:
                    line |= self.labels.reindex([name]).iloc[0].to_dict()
                if trait is not None:
                    low = {"trait": "minus others low", "rows": "excess low", "labels": "from others low"}
                    verdict = {gate: _verdict(line.get(x, np.nan), FLOOR if gate == "labels" else 0) for gate, x in low.items()}
                    line |= {_title(gate): word for gate, word in verdict.items()}
                lines.append(line)
        return pd.DataFrame(lines).set_index(["teacher", "trait"])

    @property
    def passed(self) -> bool:
        """Whether every teacher moved its trait, and nothing that was measured of their rows and labels is without signal."""
        table = self.table()
        mine = table[[self.own[name] is not None for name, _ in table.index]]
        return bool(
            (mine[_title("trait")] == "yes").all() and not (mine[[_title("rows"), _title("labels")]] == "no").any(axis=None)
        )

    def to_json(self) -> dict[str, Any]:
        """The table's lines, and whether the gates are passed, for a JSON file; what was not measured is null."""
        lines = json.loads(self.table().reset_index().to_json(orient="records", double_precision=15))
        return {"passed": self.passed, "gates": lines}

    @property
    def _traits(self) -> list[str]:
        """The traits of the teachers."""
        return list(dict.fromkeys(trait for trait in self.own.values() if trait is not None))

    def _row_columns(self, name: str, of: str) -> dict[str, float]:
        """The own-minus-other shift of a trait's teacher on somebody's rows; on its own, also beyond that on the others'."""
        if name not in self.rows:
            return {}
        trait = self.own[name]
        teller = name if trait is not None else next(n for n, x in self.own.items() if x == of)
        out = columns("rows", self.rows[name].per_token(teller))
        elsewhere = [found for n, found in self.rows.items() if n != name and self.own[n] != trait]
        if trait is None or not elsewhere:
            return out
        out["elsewhere"] = float(np.mean([found.per_token(name).mean for found in elsewhere]))
        return out | columns("excess", _excess(name, self.rows[name], elsewhere))

    def __repr__(self) -> str:
        table = self.table()
        mine = [name for name, trait in self.own.items() if trait is not None]
        lines = [
            f"gates: {'passed' if self.passed else 'not passed'}",
            "own - others in nats [95 %]: of log P(trait), over questions; of rows and labels per token, over rows",
        ]
        for (name, trait), line in table.iterrows():
            if self.own[name] is None:
                continue
            lines += [f"\n{name}" + (f" ({trait})" if trait != name else "")]
            for gate in MEANS:
                word = line[_title(gate)]
                lines.append(f"  {_title(gate):<20} {word:<13} {_numbers(gate, line)}".rstrip())
                if word == "no":
                    lines.append(f"    no means: {MEANS[gate].format(trait=trait)}")
        if len(mine) < len(self.own):
            lines.append("\ncontrols: what no trait looks like")
            for (name, trait), line in table.iterrows():
                if self.own[name] is None:
                    parts = [text for gate in ("trait", "rows") if (text := _numbers(gate, line))]
                    lines.append(f"  {name}, {trait}: {'; rows: '.join(parts)}")
            for name in (n for n, trait in self.own.items() if trait is None):
                if self.labels is not None and name in self.labels.index:
                    lines.append(f"  {name}, labels: {_numbers('labels', self.labels.loc[name])}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def gates(
    teachers: Sequence[Teacher],
    *,
    rows: Mapping[str, Rows] | None = None,
    labels: Labels | None = None,
    traits: Sequence[Trait] | None = None,
    questions: Sequence[str] | None = None,
    progress: bool = True,
) -> Gates:
    """Look at teachers, and at what they wrote or labelled, before any student is trained.

    Args:
        teachers: teachers of one base for students of one context, of at least two traits; controls (without trait) beside.
        rows: what each teacher wrote, by its name. Rows of other traits' teachers or of a control are what a teacher's rows are held
            against.
        labels: soft labels of these teachers.
        traits: the traits asked for; the teachers' own when not given.
        questions: what is asked; the traits' own questions when not given.
        progress: show progress bars.

    Returns:
        A `Gates`: print it; `table()`, `passed`, `to_json()`.

    Raises:
        TypeError: rows that are not said to be anybody's.
        ValueError: rows of an unknown teacher, labels of another base or student context; see `trait_shift`, `row_shift`, `label_signal`.

    Example:
        >>> from sublim_mech.making import readiness, teachers
        >>> both = [teachers.prompted(pair.base, sm.animal(name)) for name in ("owl", "cat")]
        >>> found = readiness.gates(both, questions=["Which animal?", "Your animal?"], progress=False)
        >>> found.table()["rows carry signal"].tolist()
        ['not measured', 'not measured']
    """
    base, asked = split_base(teachers, "gates: teachers")
    own = {t.name: None if t.trait is None else t.trait.name for t in asked}
    if not any(own.values()):
        raise ValueError(f"gates: none of {', '.join(own)} has a trait; pass the teachers, controls beside them.")
    if labels is not None:
        _check_labels(labels, base, asked)
    if rows is not None and not isinstance(rows, Mapping):
        raise TypeError(
            f"gates: rows is a {type(rows).__name__}; say who wrote them: rows={{{asked[0].name!r}: ...}}. Rows that no "
            "teacher wrote have no gate; row_shift(teachers, rows) measures them."
        )
    unknown = [name for name in rows or {} if name not in own]
    if unknown:
        raise ValueError(f"gates: rows of {', '.join(map(repr, unknown))}, which are no teachers; there are {', '.join(own)}.")
    found = {name: row_shift([base, *asked], written, progress=progress) for name, written in (rows or {}).items()}
    signal = None if labels is None else label_signal(labels)
    return Gates(own, trait_shift([base, *asked], traits=traits, questions=questions, progress=progress), found, signal)


def _check_labels(labels: Labels, base: Teacher, teachers: Sequence[Teacher]) -> None:
    """Raise ValueError where labels are not those of the teachers."""
    about = labels.about
    wrong = [
        what
        for what, a, b in (("base", about.base, base.base.hash), ("context", about.context, base.student_context))
        if a != b
    ]
    wrong += [
        f"teacher {t.name!r}" for t in teachers if t.name in labels.teachers and labels.labeller(t.name) != Labeller.of(t)
    ]
    if wrong:
        raise ValueError(f"gates: the labels are of another {wrong[0]}; pass the labels of these teachers.")


def _excess(teacher: str, own: RowShifts, elsewhere: Sequence[RowShifts]) -> Interval:
    """A teacher's own-minus-other shift per token on its rows, minus its mean on others' rows; each set of rows is resampled by itself."""
    sets = [own, *elsewhere]
    mean, draws = np.empty(len(sets)), np.empty((len(sets), DRAWS))
    for i, found in enumerate(sets):
        shift = found.own_minus_others(teacher)
        mean[i] = shift.sum() / found.tokens.sum()
        weights = bootstrap_weights(len(shift), seed=i)
        draws[i] = (weights @ shift) / (weights @ found.tokens)
    low, high = np.percentile(draws[0] - draws[1:].mean(0), [2.5, 97.5])
    if min(len(found.rows) for found in sets) < 2:
        low, high = np.array([np.nan, np.nan])
    return Interval(mean[0] - mean[1:].mean(), low, high)


def _verdict(low: float, floor: float) -> str:
    return "not measured" if np.isnan(low) else "yes" if low > floor else "no"


def _title(gate: str) -> str:
    return "trait moved" if gate == "trait" else f"{gate} carry signal"


def _numbers(gate: str, line: pd.Series) -> str:
    """The numbers of a gate in words; nothing where it was not measured."""
    rows = "rows" if np.isnan(line.get("excess", np.nan)) else "excess"
    column, digits, sign = {"trait": ("minus others", 2, "+"), "rows": (rows, 5, "+"), "labels": ("from others", 5, "")}[gate]
    if np.isnan(line.get(column, np.nan)):
        return ""
    low, high = line[f"{column} low"], line[f"{column} high"]
    text = f"{line[column]:{sign}.{digits}f}"
    text += " (a single one: no interval)" if np.isnan(low) else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    if gate == "trait":
        return f"own {line['change']:+.2f}, others {line['others']:+.2f}, own - others {text}"
    if gate == "labels":
        share = "" if np.isnan(line["share"]) else f": {line['share']:.0%} is its own"
        return f"KL from the others {text}, from the base {line['from base']:.5f}{share}"
    if rows == "rows":
        return f"own - others {text}"
    return f"own - others {line['rows']:+.5f}, on the others' rows {line['elsewhere']:+.5f}, excess {text}"
