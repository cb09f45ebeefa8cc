"""Numbers of docs/findings.md from its rows: pandas, numpy and scipy, and nothing of the library.

Written from the words of the page and of docs/statistics.md, not from the source.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import integrate, optimize, stats

OWN = "Students acquire their own trait"
SHARED = "The effect sits on shared tokens"
TRAINED_AT = (
    "Training at the shared tokens gives students the trait, and more of it than at other tokens"
)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def read_all(paths: list[Path]) -> pd.DataFrame:
    """Of several files, a student of which one asked it in more contexts first from there."""
    rows = pd.concat([read(path).assign(file=path.name) for path in paths], ignore_index=True)
    student = ["trait", "row_seed", "training_seed", "labels", "c", "where", "trained_in",
               "method", "kind", "rank", "rule", "lr", "step"]  # fmt: skip
    of_student = rows.groupby(["file", *student], dropna=False)["evaluated_in"]
    asked = of_student.transform("nunique").sort_values(ascending=False, kind="stable")
    return rows.loc[asked.index]


def gamma(rows: pd.DataFrame) -> pd.Series:
    """Of each row seed: mean of the diagonal minus mean of the rest."""
    made = rows["trait"].unique()
    changes = rows.groupby(["row_seed", "trait"])[[f"change {name}" for name in made]].mean()
    own = np.array([column.endswith(f" {trait}") for _, trait in changes.index
                    for column in changes]).reshape(changes.shape)  # fmt: skip
    found = changes.where(own).stack().groupby("row_seed").mean()
    return found - changes.where(~own).stack().groupby("row_seed").mean()


def share(rows: pd.DataFrame) -> pd.Series:
    excess = rows["ig shared share"] - rows["ig shared token share"]
    return excess.groupby(rows["row_seed"]).mean()


def sufficiency(rows: pd.DataFrame) -> pd.Series:
    total = rows["graft total"]
    excess = rows["graft shared sufficiency"] - rows["graft shared token share"] * total
    turned = np.where((total < 0) & rows["ig shared share"].notna(), -excess, excess)
    return pd.Series(turned, rows.index).groupby(rows["row_seed"]).mean()


def shared_only(rows: pd.DataFrame) -> pd.Series:
    return rows[rows["where"] == "shared"].groupby("row_seed")["specific"].mean()


def shared_less_the_others(rows: pd.DataFrame) -> pd.Series:
    arms = rows.pivot_table("specific", ["trait", "row_seed", "training_seed"], "where")
    return (arms["shared"] - arms["not shared"]).dropna().groupby("row_seed").mean()


OF_STATEMENT: dict[tuple[str, str], tuple[Callable[[pd.DataFrame], pd.Series], str]] = {
    (OWN, "the diagonal"): (gamma, "specific"),
    (SHARED, "share of the effect on shared tokens"): (share, "ig shared share"),
    (SHARED, "sufficiency of shared tokens"): (sufficiency, "graft total"),
    (TRAINED_AT, "trained at shared tokens only"): (shared_only, "specific"),
    (TRAINED_AT, "trained at shared - "): (shared_less_the_others, "specific"),
}
"""Claim and statement -> one number per row seed, and a column that its rows have."""


class Told(NamedTuple):
    """A line of the page, and the same from the rows."""

    statement: str
    page: tuple[str, ...]
    again: tuple[str, ...]


def told(page: str, rows: pd.DataFrame) -> Iterator[Told]:
    """Every line of which there is something in `OF_STATEMENT` and on the page a number."""
    for (claim, statement), (per_row_seed, needed) in OF_STATEMENT.items():
        section = page.partition(f"\n## {claim}\n")[2].partition("\n## ")[0]
        for line in re.findall(rf"^\| {re.escape(statement)}.*$", section, re.MULTILINE):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[1] == "-":
                continue
            here = of_setting(rows, section, needed)
            asked = re.search(r"\(evaluated_in ([^)]*)\)", cells[0])
            if asked:
                here = here[here["evaluated_in"] == asked[1]]
            else:
                here = here[here["evaluated_in"] == here["trained_in"]]
            yield Told(cells[0], tuple(cells[1:5]), over_row_seeds(per_row_seed(here)))


def of_setting(rows: pd.DataFrame, section: str, needed: str) -> pd.DataFrame:
    """Students of the setting that a section is told of, each once: of several parts, and of two
    devices the one that stands first.
    """
    (words,) = set(re.findall(r"Told of: (.*?)\.(?: The study has|$)", section, re.MULTILINE))
    rows = rows[(rows["step"].fillna(0) == 0) & rows[needed].notna()]
    for name, value in (pair.split(" ", 1) for pair in words.split(", ")):
        same = rows[name] == (float(value) if rows[name].dtype.kind in "if" else value)
        rows = rows[same]
    who = ["trait", "row_seed", "training_seed", "where", "trained_in", "evaluated_in"]
    return rows.drop_duplicates(who)


def over_row_seeds(values: pd.Series) -> tuple[str, ...]:
    """Mean, Student's interval, row seeds, what 80 % of studies would see: as the page has them."""
    mean, count, error = values.mean(), len(values), values.sem()
    if count < 2:
        return f"{mean:+.3f}", "no interval", str(count), "-"
    low, high = stats.t.interval(0.95, count - 1, mean, error)
    seen = detectable(count - 1) * error
    return f"{mean:+.3f}", f"[{low:+.3f}, {high:+.3f}]", str(count), f"{seen:.2g}"


@functools.cache
def detectable(freedom: int) -> float:
    """In standard errors: what a two-sided t test at 5 % finds in 80 % of studies."""
    limit = stats.t.ppf(0.975, freedom)

    def missing(effect: float) -> float:
        def found(share: float) -> float:  # given where the estimated variance lies
            scale = limit * math.sqrt(stats.chi2.ppf(share, freedom) / freedom)
            return float(stats.norm.sf(scale - effect) + stats.norm.cdf(-scale - effect))

        return integrate.quad(found, 0, 1)[0] - 0.8

    return float(optimize.brentq(missing, 0.5, 30, xtol=1e-4))


def permutation_p(rows: pd.DataFrame) -> tuple[float, int]:
    """The share of assignments within row seeds whose gamma is at least the observed; of how
    many.
    """
    sums = np.zeros(1)
    for _, here in rows.groupby("row_seed"):
        made = sorted(here["trait"].unique())
        changes = here.groupby("trait")[[f"change {name}" for name in made]].mean().to_numpy()
        rest = (changes.sum() - changes.trace()) / (changes.size - len(made))
        observed = changes.trace() / len(made) - rest
        every = []
        for order in permutations(range(len(made))):
            own = sum(changes[i, j] for i, j in enumerate(order))
            every.append(own / len(made) - (changes.sum() - own) / (changes.size - len(made)))
        sums = np.add.outer(sums, np.array(every) - observed).ravel()
    return float(np.mean(sums >= -1e-9)), math.prod(sums.shape)
