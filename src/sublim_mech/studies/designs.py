"""What the designs of a plan could tell: the least p, and the minimum detectable effect."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..hints import counted
from ..stats import Spread, least_p, minimum_detectable_effect, spread
from ..stats.spreads import degrees
from .config import Part, Study
from .control_sets import FOCUS, focus_of, in_order

GUESS = Spread(0.1, 0.1)
"""Nats between row seeds, and between students of one row seed beside what traits differ by, before
a folder has students."""

_ONE_GROUP = ("method", "trained_in", "evaluated_in", "labels", "c", "where", FOCUS)


class Design(NamedTuple):
    """What of a part decides which effects it could tell: what `stats` takes of a plan.

    Attributes:
        part: its name.
        traits: that have students.
        row_seeds: data sets of each trait.
        training_seeds: students of each data set.
        questions: prompts of each student.
    """

    part: str
    traits: int
    row_seeds: int
    training_seeds: int
    questions: int

    @property
    def least_p(self) -> float:
        """The least p of permutations of students and traits within row seeds."""
        return least_p([self.traits] * self.row_seeds)

    def detectable(self, known: Spread) -> float:
        """The smallest true mean over row seeds that would be seen in 80 % of studies, in the unit
        of the spread; infinite for one row seed, and of one trait, whose students have no controls.
        """
        if self.traits < 2:
            return math.inf
        found = minimum_detectable_effect(
            known, data_sets=self.row_seeds, training_seeds=self.training_seeds * self.traits
        )
        return found.effect

    def line(self, known: Spread) -> str:
        """In words."""
        plan = (
            f"{counted(self.traits, 'trait')} x {counted(self.row_seeds, 'row seed')} x "
            f"{counted(self.training_seeds, 'training seed')}"
        )
        if self.traits < 2:
            return f"  {self.part}: {plan}: one trait: no specific changes to see"
        effect = self.detectable(known)
        seen = f"{effect:.2g} nats would be seen"
        if math.isinf(effect):
            seen = "no interval over row seeds"
        return f"  {self.part}: {plan}: least p {self.least_p:.2g}, {seen}"


def design_of(study: Study, part: Part) -> Design:
    """The design of a part."""
    return Design(
        part=part.name,
        traits=len(study.focus_of(part)),
        row_seeds=len(part.row_seeds),
        training_seeds=len(part.training_seeds),
        questions=len(study.questions),
    )


def spread_of(rows: pd.DataFrame) -> Spread | None:
    """How much specific changes differ between row seeds, and between students of one row seed
    beside what their traits differ by in all row seeds (that is no noise of a mean over row seeds,
    whose error verdicts take from those means alone): root mean squares over methods, contexts,
    contrasts and so on that have two row seeds; None without any.
    """
    found = []
    if len(rows):
        ended = rows[(rows["step"] == 0) & rows["specific"].notna()]
        controls = in_order(ended["controls"]) if "controls" in ended else ""
        ended = ended.assign(controls=controls)
        ended[FOCUS] = focus_of(ended)
        # a student stands in every part that asks for it
        ended = ended.drop_duplicates(["student", "evaluated_in", "controls"])
        by = [name for name in _ONE_GROUP if name in ended]
        for _, group in ended.groupby(by, dropna=False):
            seeds, traits = group["row_seed"].tolist(), group["trait"].tolist()
            if min(degrees(seeds, traits)) > 0:
                found.append(spread(group["specific"].to_numpy(float), seeds, trait=traits))
    if not found:
        return None
    return Spread(
        *(
            math.sqrt(sum(getattr(one, name) ** 2 for one in found) / len(found))
            for name in ("data_set", "training_seed")
        )
    )


def spread_in(study: Study, folder: Path) -> Spread | None:
    """The same of a study's folder."""
    from .study import rows

    return spread_of(rows(study, folder)) if (folder / "rows").is_dir() else None
