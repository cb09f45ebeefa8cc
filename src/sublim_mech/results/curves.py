"""Curves: scores that are read along an axis (tokens up to a boundary, doses, layers, steps).

1. A *scan* is lined up over prompts by place (`cells`): a boundary behind a place is a boundary
   behind all of a prompt's tokens up to it, also in a prompt that has fewer tokens there. So every
   prompt has a value at every boundary.
2. A *dose* is a curve over the gate of a set of cells, in units of the metric.
3. *Directions* are a curve over layers per vector, as shares of the total effect; their nulls are
   of the student alone.
4. Scores of several *steps* of a training are a curve over steps: the total effect, and of grafts
   the effect of each set.

Intervals are percentile bootstraps over prompts, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..arguments import checked
from ..hints import counted
from ..prompts import ANSWER
from ..stats import Interval, bootstrap_weights, mean_interval
from .arrays import ScoreArrays
from .cells import align
from .frames import Table
from .kinds import KINDS, STEP
from .rounding import is_rounding, shares_of, shares_of_total

START = "start"
"""What stands behind no token yet."""

TOTAL = "total effect"
"""What tables over steps call it, beside sets."""

ENTERS, HALF, SETTLES = "enters", "half", "settles"
LEVELS = {ENTERS: 0.1, HALF: 0.5}
"""Shares of the total effect that a scan is said to reach."""

NOT_REACHED = "not reached in the prompt"
"""What stands in a table for the token that a curve is said to cross behind."""

INFINITE = (
    "low, high: inf where so many of the curves of resampled prompts do not reach it in the prompt"
)

NEAR = 0.1
"""A scan has settled where it stays within this share of the total effect of its value behind the
whole prompt."""


def curve(scores: ScoreArrays) -> pd.DataFrame:
    """See `Scores.curve`."""
    if scores.has_steps:
        return _over_steps(scores)
    table = KINDS[scores.kind].table
    if table == "scan":
        return _scan_table(scores)
    if table == "dose":
        return _dose_table(scores)
    if table == "direction":
        return _direction_table(scores)
    raise ValueError(
        f"{scores.kind} scores are no curve; curves come from prefix_scan, dose, direction_effects "
        "and over_steps. See by(), sets() or totals()."
    )


# -------------------------------------------------------------------------------------------- scans


@dataclass(frozen=True)
class Boundaries:
    """A scan lined up over prompts.

    Attributes:
        names: of the boundaries: `start`, the token before each, and `answer` where one is fed.
        roles: of these tokens; empty for `start`.
        tokens: tokens of the prompt before each, mean over prompts.
        measures: which curves.
        values: `(prompt, measure, boundary)` headline.
    """

    names: list[str]
    roles: list[str]
    tokens: np.ndarray
    measures: list[str]
    values: np.ndarray

    @property
    def of_prompt(self) -> int:
        """How many boundaries stand in the prompt, the one before it included."""
        return sum(role != ANSWER for role in self.roles)


def boundaries(scores: ScoreArrays) -> Boundaries:
    """Line up a scan.

    Raises:
        ValueError: prompts of other layouts, in which one boundary is not the same place.
    """
    scores.need_one_step()
    alignment = align(scores)
    chosen = [i for i, place in enumerate(alignment.places) if place.role != ANSWER]
    effect = scores.headline
    if "measure" not in effect.dims:
        effect = effect.expand_dims({"measure": [scores.selected["measure"]]})
    effect = effect.transpose("prompt", "measure", "position")
    texts = scores.positions("token")
    names: list[set[str]] = [set() for _ in chosen]
    present = [0] * len(chosen)  # in how many prompts
    values, before = [], []
    for prompt, of_token in enumerate(alignment.of_token):
        there = np.flatnonzero(np.isin(of_token, chosen))
        numbers = np.searchsorted(chosen, of_token[there])
        if (np.diff(numbers) <= 0).any():
            raise ValueError(
                "these prompts are laid out in different ways, so that no boundary is one place "
                "in all of them; look at one: scores.sel(prompt=0), or at those of one context."
            )
        for place, position in zip(numbers, there, strict=True):
            names[place].add(str(texts[prompt, position]))
            present[place] += 1
        # tokens before the boundary behind each place, and the value there
        count = np.searchsorted(numbers, np.arange(len(chosen)), side="right")
        of_prompt = np.concatenate(
            [np.zeros((effect.shape[1], 1)), effect.values[prompt][:, there]], 1
        )
        values.append(of_prompt[:, np.r_[0, count]])
        before.append(np.r_[0, count])
    # a prompt that has no such place is at the one before it, behind another token
    shown = [
        START,
        *(
            name.pop() if len(name) == 1 and at == len(texts) else "…"
            for name, at in zip(names, present, strict=True)
        ),
    ]
    roles = ["", *(alignment.places[i].role for i in chosen)]
    lined_up, tokens = np.stack(values), np.mean(before, axis=0)
    if scores.of_answer.values.any():
        whole = np.broadcast_to(scores.total.values[:, None, None], (*lined_up.shape[:2], 1))
        lined_up = np.concatenate([lined_up, whole], 2)
        shown, roles, tokens = [*shown, ANSWER], [*roles, ANSWER], np.r_[tokens, tokens[-1]]
    measures = [str(name) for name in effect["measure"].values]
    return Boundaries(shown, roles, tokens, measures, lined_up)


def _scan_table(scores: ScoreArrays) -> pd.DataFrame:
    """One row per measure and boundary."""
    lined_up = boundaries(scores)
    interval = mean_interval(lined_up.values)
    share = shares_of_total(scores, lined_up.values)
    rows = []
    for m, measure in enumerate(lined_up.measures):
        for b, name in enumerate(lined_up.names):
            row: dict[str, Any] = {"measure": measure, "up to": name, "role": lined_up.roles[b]}
            row["tokens"] = lined_up.tokens[b]
            rows.append(row | _columns(interval, (m, b)) | {"share": float(share.mean[m, b])})
    return Table(rows).set_index("measure")


@checked
def crossings(scores: ScoreArrays) -> pd.DataFrame:
    """Where a prefix scan enters, is half way, and settles: behind how many tokens.

    Of the mean curve over prompts, as shares of the total effect:

    - `enters`: the first boundary at which it reaches 10 %;
    - `half`: the first boundary at which it reaches 50 %;
    - `settles`: the first boundary from which on it stays within 10 % (of the total effect) of its
      value behind the whole prompt: which weights compute the tokens after it no longer matters.

    Args:
        scores: of kind `scan`.

    Returns:
        Per measure and event: `tokens` before the boundary (mean over prompts), with the 95 %
        interval of the bootstrap over prompts (infinite: so many resamples do not reach it within
        the prompt); the token the boundary is `behind`, and its role; the share there. Where the
        curve does not reach it `behind` says so, and numbers are empty (NaN), as all are where the
        total effect is inside its own noise; no interval for one prompt.

    Raises:
        ValueError: scores of another kind, or of prompts that are laid out in different ways.

    Example:
        >>> scan = sm.instruments.prefix_scan(pair, prompts, trait, progress=False)
        >>> sm.results.crossings(scan).index.get_level_values("where").unique().tolist()
        ['enters', 'half', 'settles']
    """
    if scores.kind != "scan":
        raise ValueError(f"{scores.kind} scores are no prefix scan; see prefix_scan.")
    lined_up = boundaries(scores)
    total = scores.total.values
    prompts = len(total)
    known = bool(mean_interval(total).excludes_zero) if prompts > 1 else bool(total[0] != 0)
    known = known and not is_rounding(total, scores)
    weights = [np.full((1, prompts), 1 / prompts)]
    if prompts > 1:
        weights.append(bootstrap_weights(prompts))
    rows = []
    for m, measure in enumerate(lined_up.measures):
        inside = lined_up.values[:, m, : lined_up.of_prompt]
        with np.errstate(divide="ignore", invalid="ignore"):  # over nothing there is no share
            shares = [(one @ inside) / (one @ total)[:, None] for one in weights]
        found = [_crossed(one) for one in shares]
        for event in (ENTERS, HALF, SETTLES):
            row: dict[str, Any] = {"measure": measure, "where": event}
            at = found[0][event][0]
            row |= _place(lined_up, at if known else -1)
            if known and at < 0:
                row["behind"] = NOT_REACHED
            row |= {"low": np.nan, "high": np.nan, "share": np.nan}
            if known and at >= 0:
                row["share"] = float(inside[:, at].mean() / total.mean())
            if known and len(found) > 1:
                drawn = found[1][event]
                # a curve that does not reach it crosses behind everything
                tokens = np.where(drawn < 0, np.inf, lined_up.tokens[drawn])
                low, high = np.quantile(tokens, [0.025, 0.975], method="nearest")
                row |= {"low": float(low), "high": float(high)}
            rows.append(row)
    table = Table(rows).set_index(["measure", "where"])
    if np.isinf(table[["low", "high"]].to_numpy()).any():
        table.attrs["notes"] = [INFINITE]
    return table


def _crossed(shares: np.ndarray) -> dict[str, np.ndarray]:
    """Per event the first boundary of each curve `(curve, boundary)`; -1 where there is none."""
    found = {}
    for event, level in LEVELS.items():
        reached = shares >= level
        found[event] = np.where(reached.any(1), reached.argmax(1), -1)
    with np.errstate(invalid="ignore"):  # over nothing there is no share, and none is near
        near = np.abs(shares - shares[:, -1:]) <= NEAR
    # the first of the last run of boundaries that are near
    first = near.shape[1] - np.cumprod(near[:, ::-1], 1).sum(1)
    found[SETTLES] = np.where(near[:, -1], first, -1)
    return found


def _place(lined_up: Boundaries, at: int) -> dict[str, Any]:
    if at < 0:
        return {"tokens": np.nan, "behind": "", "role": ""}
    behind = lined_up.names[at] if at == 0 else repr(lined_up.names[at])
    return {"tokens": lined_up.tokens[at], "behind": behind, "role": lined_up.roles[at]}


# -------------------------------------------------------------------------------------------- doses


def _dose_table(scores: ScoreArrays) -> pd.DataFrame:
    """One row per scale."""
    effect = _with_scales(scores)
    interval = mean_interval(effect.values)
    share = shares_of_total(scores, effect.values)
    rows = {}
    for s, scale in enumerate(effect["scale"].values):
        rows[float(scale)] = _columns(interval, (s,)) | _share(share, (s,))
    table = Table.from_dict(rows, orient="index")
    table.index.name = "scale"
    return Table(table)


@checked
def linearity(scores: ScoreArrays) -> pd.DataFrame:
    """Is the effect linear in the weights? Shares of the effect at scale 1, with 95 % intervals.

    - `at 0.5`: E(0.5) / E(1); 0.5 if linear, more where it saturates, less where it takes off;
    - `at 2`: E(2) / E(1); 2 if linear;
    - `deviation from the chord at 1`: (E(1) - E(2) / 2) / E(1): how far the curve is above the
      straight line from 0 to 2; 0 if linear, positive where it saturates. A dose of other scales
      has the rows whose scales it holds.

    Args:
        scores: of kind `dose`, whose scales hold 1 and 0.5 or 2.

    Returns:
        Per row: its value, `low`, `high`, and what a linear effect has; empty (NaN) where the
        effect at 1 is inside its own noise.

    Raises:
        ValueError: scores of another kind, or without these scales.

    Example:
        >>> scores = sm.instruments.dose(pair, prompts, trait, [0.5, 1.0, 2.0], progress=False)
        >>> sm.results.linearity(scores).index.tolist()
        ['at 0.5', 'at 2', 'deviation from the chord at 1']
    """
    if scores.kind != "dose":
        raise ValueError(f"{scores.kind} scores are no dose; see sublim_mech.instruments.dose.")
    effect = _with_scales(scores)
    found = {float(scale): effect.values[:, s] for s, scale in enumerate(effect["scale"].values)}
    if 1.0 not in found or {0.5, 2.0}.isdisjoint(found):
        known = ", ".join(f"{scale:g}" for scale in found)
        raise ValueError(
            f"linearity needs the scales 1 and 0.5 or 2; these scores have {known}: measure them "
            "with scales=(0.5, 1, 2)."
        )
    one = found[1.0]
    asked: list[tuple[str, np.ndarray, float]] = []
    if 0.5 in found:
        asked.append(("at 0.5", found[0.5], 0.5))
    if 2.0 in found:
        asked.append(("at 2", found[2.0], 2.0))
        asked.append(("deviation from the chord at 1", one - found[2.0] / 2, 0.0))
    rows = {}
    for name, part, linear in asked:
        ratio = shares_of(one, scores, part)
        numbers = {"value": ratio.mean, "low": ratio.low, "high": ratio.high}
        rows[name] = {key: float(number) for key, number in numbers.items()}
        rows[name]["if linear"] = linear
    return Table(Table.from_dict(rows, orient="index"))


def _with_scales(scores: ScoreArrays) -> xr.DataArray:
    """`(prompt, scale)` headline."""
    scores.need_one_step()
    effect = scores.headline
    if "scale" not in effect.dims:
        effect = effect.expand_dims({"scale": [scores.selected["scale"]]})
    return effect.transpose("prompt", "scale")


# --------------------------------------------------------------------------------------- directions

OWN, OTHERS, RANDOM, GRAFT = "own", "others'", "random", "graft"


def _vectors(scores: ScoreArrays) -> list[str]:
    """Names of the vectors, also where one was selected."""
    return [str(name) for name in np.atleast_1d(scores.data["vector"].values)]


def vector_effects(scores: ScoreArrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Effects of vectors and the total each is a share of.

    Nulls are of the student alone. Its controls are in the vectors of `others'` already; and the
    same random vectors act in student and controls, so that a difference of the two says nothing
    of what a random one does.

    Returns:
        Per row (`own`, each random one, `random`, `others'`, `graft`) the effects `(prompt, layer,
        measure)`, and the totals `(prompt,)`.
    """
    scores.need_one_step()
    dims = "prompt", "layer", "vector", "measure"
    names = _vectors(scores)
    headline = scores.headline.transpose(*dims).values
    student = scores.data.isel(model=0)
    alone = student["effect"].transpose(*dims).values
    own_total = (student["student"] - student["base"]).values
    of, totals = {OWN: headline[:, :, names.index(OWN)]}, {OWN: scores.total.values}
    randoms = [i for i, name in enumerate(names) if name.startswith(RANDOM)]
    of |= {names[i]: alone[:, :, i] for i in randoms}
    if randoms:
        of[RANDOM] = alone[:, :, randoms].mean(2)
    if OTHERS in names:
        of[OTHERS] = alone[:, :, names.index(OTHERS)]
    totals |= {name: own_total for name in of if name != OWN}
    graft = scores.data["graft"].transpose("model", "prompt", "measure").values
    grafted = graft[0] - graft[1:].mean(0) if len(graft) > 1 else graft[0]
    of[GRAFT] = np.repeat(grafted[:, None], headline.shape[1], 1)
    totals[GRAFT] = totals[OWN]
    return of, totals


def spread_in_words(scores: ScoreArrays) -> str:
    """What the interval of `random` is in a table; empty where there is none."""
    names = _vectors(scores)
    count = sum(name.startswith(RANDOM) for name in names)
    if not count:
        return ""
    return f"{RANDOM}: the mean of {counted(count, 'direction')}, low and high the least and most"


def nulls_in_words(scores: ScoreArrays) -> str:
    """Whose the nulls of directions are; empty where all is of one student, or there are none."""
    names = _vectors(scores)
    shown = [RANDOM] * any(name.startswith(RANDOM) for name in names)
    shown += [OTHERS] * (OTHERS in names)
    if not shown or not scores.has_controls:
        return ""
    whose = scores.data["model"].values[0]
    return f"{' and '.join(shown)}: in {whose} alone, of its own total effect"


def _direction_table(scores: ScoreArrays) -> pd.DataFrame:
    """One row per layer and vector: shares of the total effect with their interval over prompts; of
    `random` the mean of all random directions, and the least and the most of them. The graft once,
    at the end.
    """
    missing = {"vector", "measure"} - set(scores.data["effect"].dims)
    if missing:
        raise ValueError(
            f"these scores are of one {' and '.join(sorted(missing))}; take the curve of all of "
            "them, and choose from the table."
        )
    of, totals = vector_effects(scores)
    measures = [str(name) for name in scores.data["measure"].values]
    shares = {name: shares_of(totals[name], scores, values) for name, values in of.items()}
    singles = [share.mean for name, share in shares.items() if name.startswith(f"{RANDOM} ")]
    if singles:  # what one direction does by chance; the mean of many does nothing
        low, high = np.min(singles, axis=0), np.max(singles, axis=0)
        shares[RANDOM] = replace(shares[RANDOM], low=low, high=high)
    rows = []
    for layer, layer_name in enumerate(scores.layer_names()):
        for name, share in shares.items():
            if name in (OWN, RANDOM, OTHERS):
                rows.append(_shares_of_vector(share, layer, measures, (layer_name, name)))
    rows.append(_shares_of_vector(shares[GRAFT], 0, measures, ("all", GRAFT)))
    return Table(rows).set_index(["layer", "vector"])


def _shares_of_vector(
    share: Interval, layer: int, measures: list[str], names: tuple[str, str]
) -> dict[str, Any]:
    row: dict[str, Any] = {"layer": names[0], "vector": names[1]}
    for m, measure in enumerate(measures):
        row[measure] = float(share.mean[layer, m])
        row[f"{measure} low"] = float(share.low[layer, m])
        row[f"{measure} high"] = float(share.high[layer, m])
    return row


# -------------------------------------------------------------------------------------------- steps


def sets_of_steps(scores: ScoreArrays) -> xr.DataArray | None:
    """`(prompt, step, set, measure)` headline of grafted sets, one that was selected too; None of
    other scores.
    """
    if scores.kind != "graft":
        return None
    effect = scores.headline
    for dim in ("set", "measure"):
        if dim not in effect.dims:
            effect = effect.expand_dims({dim: [scores.selected[dim]]})
    return effect.transpose("prompt", STEP, "set", "measure")


def _over_steps(scores: ScoreArrays) -> pd.DataFrame:
    """One row per step: the total effect; of grafts also one per step, set and measure."""
    steps = scores.data[STEP].values
    total = mean_interval(scores.total.transpose("prompt", STEP).values)
    effect = sets_of_steps(scores)
    if effect is not None:
        interval = mean_interval(effect.values)
        rows = []
        for s, step in enumerate(steps):
            rows.append({"step": int(step), "set": TOTAL, "measure": ""} | _columns(total, (s,)))
            for n, name in enumerate(effect["set"].values):
                for m, measure in enumerate(effect["measure"].values):
                    row = {"step": int(step), "set": str(name), "measure": str(measure)}
                    rows.append(row | _columns(interval, (s, n, m)))
        return Table(rows).set_index(["step", "set", "measure"])
    table = Table([_columns(total, (s,)) for s in range(len(steps))], index=steps)
    table.index.name = STEP
    return table


# -------------------------------------------------------------------------------------------- parts


def _columns(interval: Interval, at: tuple[int, ...]) -> dict[str, float]:
    return {
        "effect": float(interval.mean[at]),
        "low": float(interval.low[at]),
        "high": float(interval.high[at]),
    }


def _share(share: Interval, at: tuple[int, ...]) -> dict[str, float]:
    return {
        "share": float(share.mean[at]),
        "share low": float(share.low[at]),
        "share high": float(share.high[at]),
    }
