"""How stable a map is: would other prompts have given the same one?

1. The prompts are halved, and each half has its own map: the mean of every cell over its prompts.
   Cells are the places of `cells` where they are tokens.
2. r is the correlation of the two maps over the cells that both have, averaged over many seeded
   halvings; over all of them where there are few.
3. A map of all prompts is that of twice as many: 2 r / (1 + |r|) (Spearman 1910 and Brown 1910; as
   for reliabilities below 0, Parsons et al. 2019, doi:10.1177/2515245919879695).

With a spread s of the cells' true values and a spread n of each prompt around them it tends to
s^2 / (s^2 + n^2 / prompts). Why: arXiv 2510.00845 finds that maps of circuits vary as much with the
prompts as with the question.

It says nothing of what all prompts share: a bias that is in every one of them is stable.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from ..arguments import checked
from ..hints import counted
from .arrays import ScoreArrays
from .cells import align, line_up
from .kinds import KINDS

SPLITS = 200
"""Random halvings; all of them where there are no more."""

_FEWEST_CELLS = 3  # two points always lie on a line


@dataclass(frozen=True)
class Reliability:
    """How stable a map is over prompts.

    Attributes:
        value: split-half reliability with Spearman-Brown's correction, at most 1; NaN of a single
            prompt, and of maps that are the same number everywhere.
        prompts: how many there are.
        cells: how many the map has.
        splits: halvings that it is the mean of.
    """

    value: float
    prompts: int
    cells: int
    splits: int

    def __str__(self) -> str:
        if self.prompts < 2:
            return "one prompt: the map has no split-half reliability"
        over = f"{counted(self.prompts, 'prompt')}, {counted(self.splits, 'split')}"
        if np.isnan(self.value):
            return f"the map has no split-half reliability ({over}): a half does not vary"
        return f"split-half reliability of the map {self.value:z.2f} (Spearman-Brown, {over})"

    @property
    def short(self) -> str:
        """For a picture."""
        if np.isnan(self.value):
            return "no split-half reliability"
        return f"split-half reliability {self.value:z.2f}"


@checked
def reliability(scores: ScoreArrays, *, splits: int = SPLITS, seed: int = 0) -> Reliability:
    """The split-half reliability of a map over prompts.

    Args:
        scores: attributions, sweeps, patching or gradient estimates, all of their cells; modules
            are summed, as pictures have them.
        splits: random halvings.
        seed: of them.

    Raises:
        ValueError: scores that are no map (`effect`, `graft`); both directions; no splits.

    Example:
        >>> from sublim_mech.results import reliability
        >>> scores = sm.instruments.graft_sweep(pair, prompts, trait, layers=[0], progress=False)
        >>> bool(reliability(scores).value <= 1)
        True
    """
    if splits < 1:
        raise ValueError(f"splits={splits}: at least one is needed; {SPLITS} is the default.")
    if not is_map(scores):
        raise ValueError(f"{scores.kind} scores are no map of cells, so it has no reliability.")
    maps = _maps(scores)
    value, halvings = split_half(maps, splits=splits, seed=seed)
    present = int(np.isfinite(maps).any(0).sum())
    return Reliability(value, len(maps), present, halvings)


def is_map(scores: ScoreArrays) -> bool:
    """Whether scores have cells beside each other, of which each prompt has a map."""
    if scores.has_steps:  # each step has a map of its own
        return False
    return KINDS[scores.kind].picture == "cells" and scores.data["effect"].ndim > 2


def _maps(scores: ScoreArrays) -> np.ndarray:
    """`(prompt, cell)`, NaN where a prompt has no such cell."""
    scores = scores.per_token()
    effect = scores.one_direction()
    if "module" in effect.dims:
        effect = effect.sum("module", min_count=1)
    if "position" not in effect.dims:
        values = effect.transpose("prompt", ...).values
    else:
        values = line_up(effect.transpose("prompt", ..., "position").values, align(scores))
    return values.reshape(len(values), -1)


def split_half(maps: np.ndarray, *, splits: int = SPLITS, seed: int = 0) -> tuple[float, int]:
    """Split-half reliability with Spearman-Brown's correction, and of how many halvings.

    Of an odd number of prompts one half has one more.

    Args:
        maps: `(prompt, cell)`, NaN where a prompt has no such cell.
        splits: random halvings; all of them where there are no more.
        seed: of them.
    """
    present = np.isfinite(maps)
    values = np.where(present, maps, 0.0)
    found = []
    halves = _halves(len(maps), splits, seed)
    for half in halves:
        sums = values[half].sum(0), values[~half].sum(0)
        counts = present[half].sum(0), present[~half].sum(0)
        both = (counts[0] > 0) & (counts[1] > 0)
        if both.sum() >= _FEWEST_CELLS:
            one, other = (summed[both] / n[both] for summed, n in zip(sums, counts, strict=True))
            found.append(_correlation(one, other))
    if not found:
        return float("nan"), len(halves)
    r = float(np.mean(found))
    return 2 * r / (1 + abs(r)), len(halves)


def _halves(prompts: int, splits: int, seed: int) -> np.ndarray:
    """`(split, prompt)`, whether the prompt is in the first half."""
    size = prompts // 2
    halvings = comb(prompts, size) // (2 if prompts % 2 == 0 else 1)
    if size == 0:
        return np.zeros((0, prompts), bool)
    if halvings <= splits:
        # of an even number each halving comes twice: once with the first prompt in either half
        chosen = list(combinations(range(prompts), size))[:halvings]
    else:
        rng = np.random.default_rng(seed)
        chosen = [tuple(rng.permutation(prompts)[:size]) for _ in range(splits)]
    halves = np.zeros((len(chosen), prompts), bool)
    for row, some in zip(halves, chosen, strict=True):
        row[list(some)] = True
    return halves


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; NaN where either does not vary."""
    one, other = one - one.mean(), other - other.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))
