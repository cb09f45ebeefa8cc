"""Tables: total effects, token sets, groups of tokens, the strongest cells, every cell.

Each is reached through the method of `Scores` that has its name, where its columns are described.

In tables of token sets, grafted or attributed, `tokens` is the mean number per prompt and `token
share` that number over the prompt's tokens; the answer's own tokens, which follow the prompt, have
none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..hints import at_most, ranges, signed
from ..prompts import ANSWER, CLASSES, ROLES, UNIONS
from ..stats import Interval, mean_interval
from .arrays import ScoreArrays, holding_whole
from .kinds import KINDS, PARTS, Table
from .rounding import is_rounding, shares_of, shares_of_total
from .spreading import of_spans, tokens_of_span
from .words import percent, shortened


def totals(scores: ScoreArrays) -> pd.DataFrame:
    """See `Scores.totals`."""
    scores.need_one_step()
    rows = {}
    for name in scores.data["model"].values:
        one = scores.data.sel(model=name)
        ends = {"base": float(one["base"].mean()), "model": float(one["student"].mean())}
        rows[str(name)] = ends | _columns(mean_interval((one["student"] - one["base"]).values))
    if scores.has_controls:
        ends = {"base": np.nan, "model": np.nan}
        rows[scores.headline_name] = ends | _columns(mean_interval(scores.total.values))
    return pd.DataFrame.from_dict(rows, orient="index")


def sets(scores: ScoreArrays) -> pd.DataFrame:
    """See `Scores.sets`."""
    if not scores.has_sets:
        raise ValueError(
            f"{scores.kind} scores have no token sets; they come from graft or patch(sets=...)."
        )
    scores.need_one_step()
    return _sets_per_layer(scores) if "layer" in scores.data.coords else _shares_of_sets(scores)


def _shares_of_sets(scores: ScoreArrays) -> pd.DataFrame:
    """One row per grafted set: each measure as a share of the total, with intervals."""
    effect = scores.headline
    for dim in ("set", "measure"):
        if dim not in effect.dims:  # one was selected
            effect = effect.expand_dims({dim: [scores.selected[dim]]})
    effect = effect.transpose("prompt", "set", "measure")
    shares = shares_of_total(scores, effect.values)
    sizes = _set_columns(scores)
    rows = {}
    for s, name in enumerate(effect["set"].values):
        row = dict(sizes[s])
        for m, measure in enumerate(effect["measure"].values):
            row[str(measure)] = float(shares.mean[s, m])
            row[f"{measure} low"] = float(shares.low[s, m])
            row[f"{measure} high"] = float(shares.high[s, m])
        rows[str(name)] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _sets_per_layer(scores: ScoreArrays) -> pd.DataFrame:
    """One row per layer and patched set: the effect and its share of the total, with intervals."""
    effect = scores.set_effect()
    interval = mean_interval(effect.values)
    share = shares_of_total(scores, effect.values)
    sizes = _set_columns(scores)
    rows = []
    for layer, layer_name in enumerate(scores.layer_names()):
        for s, name in enumerate(effect["set"].values):
            rows.append(
                {
                    "layer": layer_name,
                    "set": str(name),
                    **sizes[s],
                    "effect": interval.mean[layer, s],
                    "low": interval.low[layer, s],
                    "high": interval.high[layer, s],
                    "share": share.mean[layer, s],
                    "share low": share.low[layer, s],
                    "share high": share.high[layer, s],
                }
            )
    return pd.DataFrame(rows).set_index(["layer", "set"])


def set_sizes(scores: ScoreArrays) -> np.ndarray:
    """`(set,)`: tokens of each set, mean over prompts."""
    return scores.data["tokens"].mean("prompt").values.reshape(-1)


def _set_columns(scores: ScoreArrays) -> list[dict[str, float]]:
    """Per set its `tokens`, and `token share` where the scores know how long their prompts are."""
    counts = set_sizes(scores)
    if scores.prompt_tokens is None:
        return [{"tokens": float(count)} for count in counts]
    length = float(scores.prompt_tokens.mean())
    shares = counts / length
    if "set_of" in scores.data.coords:
        of = scores.data["set_of"].isel(prompt=0).values.reshape(-1)  # the same in all prompts
        shares = np.where(of == ANSWER, np.nan, shares)
    return [
        {"tokens": float(count), "token share": float(share)}
        for count, share in zip(counts, shares, strict=True)
    ]


LAYER = "layer"
"""Beside the coordinates of the tokens, what `by` gathers by."""


def by(scores: ScoreArrays, coordinate: str) -> pd.DataFrame:
    """See `Scores.by`."""
    scores = holding_whole(scores)
    if KINDS[scores.kind].cumulative:
        raise ValueError(
            f"{scores.kind} scores are those of all tokens up to each one, which no sum or mean "
            "over tokens gathers; see scores.curve() and results.crossings(scores)."
        )
    if coordinate == LAYER:
        return _by_layer(scores)
    effect = scores.token_effect()
    real = np.isfinite(effect)
    if not real.any():
        raise ValueError(
            f"these scores hold no effect ({scores.selection()}): no student changes anything "
            "there, or nothing was measured; select other cells."
        )
    length = np.nan if scores.prompt_tokens is None else float(scores.prompt_tokens.sum())
    whole = scores.prompt_effect.values if scores.knows_whole else None
    of_answer = scores.of_answer.values
    names, rows = [], []
    for name, tokens in _groups(scores, coordinate, real):
        inside = real & tokens
        per_prompt = np.where(inside, effect, 0).sum(1)
        if not scores.additive:  # the mean over its tokens, of the prompts that have any
            has_some = inside.any(1)
            per_prompt = per_prompt[has_some] / inside.sum(1)[has_some]
        of_prompt = not of_answer[inside].any()
        share = inside.sum() / length if of_prompt else np.nan
        row = {"tokens": inside.sum() / len(inside), "token share": share}
        row |= _columns(mean_interval(per_prompt))
        if scores.additive:
            row |= _share_columns(scores, per_prompt, whole if of_prompt else None)
        names.append(name)
        rows.append(row)
    return pd.DataFrame(rows, index=names)


def unchanged(scores: ScoreArrays) -> str:
    """That the chosen models change nothing in the chosen cells, so that every effect there is
    exactly 0; empty where one of them changes anything, or no cells were chosen.
    """
    if not scores.selected or not (scores.additive or scores.kind == "sweep"):
        return ""
    effect = scores.data["effect"].values
    there = effect[np.isfinite(effect)]
    if not there.size or there.any():
        return ""
    models = ", ".join(map(str, scores.data["model"].values))
    change = "changes" if scores.data.sizes["model"] == 1 else "change"
    return f"{models} {change} nothing in {scores.selection()}: every effect there is exactly 0"


def layer_totals(scores: ScoreArrays) -> np.ndarray:
    """`(prompt, layer)`: a layer's effect over all tokens, the answer's own too; summed where cells
    add up, else averaged.
    """
    effect = scores.layer_effect()
    per_layer = effect.sum("position") if scores.additive else effect.mean("position")
    return per_layer.transpose("prompt", "layer").values


def _by_layer(scores: ScoreArrays) -> pd.DataFrame:
    """One row per layer; shares are of the total effect, to which all layers add up."""
    per_layer = layer_totals(scores)
    whole = None
    if scores.additive and scores.knows_whole:
        whole = scores.prompt_effect.values + scores.answer_effect.values
    rows = []
    for effect in per_layer.T:
        row = _columns(mean_interval(effect))
        rows.append(row | _share_columns(scores, effect, whole) if scores.additive else row)
    return pd.DataFrame(rows, index=pd.Index(scores.layer_names(), name=LAYER))


def on_all_layers(
    tables: Mapping[str, pd.DataFrame], scores: Mapping[str, ScoreArrays]
) -> dict[str, pd.DataFrame]:
    """Tables of `by("layer")` of several students, each with the rows of all: one that changes no
    weight of a layer has an effect of exactly 0 there; a layer that its base does not have is empty
    (NaN).
    """
    layers = sorted({name for table in tables.values() for name in table.index}, key=depth)
    filled = {}
    for called, table in tables.items():
        whole = table.reindex(pd.Index(layers, name=LAYER))
        own = [name for name in layers if depth(name) < scores[called].record.n_layers]
        own += [name for name in layers if name == FINAL]
        unchanged = [name for name in own if name not in table.index]
        # of an effect that has no shares nothing is one either
        known = [column for column in table if not table[column].isna().all()]
        whole.loc[unchanged, known] = 0.0
        filled[called] = whole
    return filled


EMBED, FINAL = "embed", "final"
"""What layers before the first block and after the last one are called."""


def depth(layer: str) -> float:
    """Where a layer stands, by its name."""
    ends = {EMBED: -1.0, FINAL: float("inf")}
    return ends[layer] if layer in ends else float(layer)


def other_layers(scores: Mapping[str, ScoreArrays]) -> str:
    """That several students change weights in other layers, so that what they have in all is over
    other cells; empty where all change the same ones.
    """
    if not all(one.additive and not one.has_steps for one in scores.values()):
        return ""
    changed = {name: one.layer_names() for name, one in scores.items()}
    if len(set(map(tuple, changed.values()))) == 1:
        return ""
    told = []
    for name, layers in changed.items():
        blocks = [int(layer) for layer in layers if layer not in (EMBED, FINAL)]
        first, last = (end if end in layers else "" for end in (EMBED, FINAL))
        told.append(f"{name} {', '.join(filter(None, [first, ranges(blocks), last]))}")
    return f"layers whose weights each changes, all of them counted: {'; '.join(told)}"


def _share_columns(
    scores: ScoreArrays, effect: np.ndarray, whole: np.ndarray | None
) -> dict[str, float]:
    """An effect `(prompt,)` as a share of the whole one that it is part of, where there is one."""
    columns = ("share", "share low", "share high")
    if whole is None or _is_of_the_gap(scores):
        return dict.fromkeys(columns, np.nan)
    share = shares_of(whole, scores, effect)
    numbers = (float(share.mean), float(share.low), float(share.high))
    return dict(zip(columns, numbers, strict=True))


def _groups(
    scores: ScoreArrays, coordinate: str, real: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """The sets of a table and which tokens `(prompt, position)` are in them.

    The prompt's tokens by the coordinate (those of a span have one value, or are `mixed`), the
    answer's own, and unions as grafts have them.
    """
    try:
        by_token, spread = scores.positions(coordinate), scores.per_token().data
        values = of_spans(spread, by_token)
    except ValueError as error:
        layers = "layer" in scores.data["effect"].dims
        raise ValueError(f"{error} By 'layer' there is a table too." if layers else error) from None
    asked = scores.of_prompt.values
    for name in _in_reading_order(values[real & asked].tolist()):
        yield str(name), asked & (values == name)
    answered = scores.of_answer.values
    if (real & answered).any():
        yield ANSWER, answered
    for name, parts in UNIONS.get(coordinate, {}).items():
        # a span of several classes may still lie in a union of them
        tokens = asked & (of_spans(spread, np.isin(by_token, parts).astype(int)) == 1)
        if (real & tokens).any():
            yield name, tokens


def denominator(scores: ScoreArrays) -> str:
    """What the shares of `by` and of `concentration` are shares of, and what the answer carries."""
    if not scores.knows_whole:
        return (
            "no shares: an earlier version chose these cells and did not keep what all of them "
            "add up to"
        )
    effect = float(scores.prompt_effect.mean())
    of = f"shares: of the effect on the prompt's tokens, all cells: {signed(effect)} {scores.unit}"
    return f"{no_shares(scores) or of}; {answer_part(scores)}"


def denominator_of_layers(scores: ScoreArrays) -> str:
    """What the shares of `by("layer")` are shares of, or why there are none."""
    if not scores.knows_whole:
        return denominator(scores)
    effect = scores.prompt_effect.values + scores.answer_effect.values
    of = f"shares: of the effect on {_ALL}, all cells: {signed(float(effect.mean()))} {scores.unit}"
    return _why_none(scores, effect, _ALL) or of


def denominator_of_total(scores: ScoreArrays) -> str:
    """What the shares of token sets and curves are shares of; where a table has none, the total
    effect alone.
    """
    total = scores.total.values
    found = mean_interval(total)
    size = f"{signed(float(found.mean))} {scores.unit}"
    if len(total) > 1:
        size += f" (95 % {signed(float(found.low))} to {signed(float(found.high))})"
    of = f"the total effect ({scores.headline_name}), {size}"
    summary = KINDS[scores.kind].table
    if summary == "cells" and not scores.has_sets:
        return of
    if np.isnan(shares_of_total(scores, total).mean):
        return f"no shares: {of}"
    if summary == "direction" or (summary == "sets" and "layer" not in scores.data.coords):
        *others, last = _measures(scores)
        measures = f"{', '.join(others)} and {last}" if others else last
        return f"{measures} are shares of {of}"
    return f"shares: of {of}"


def _measures(scores: ScoreArrays) -> list[str]:
    """Names of the measures, also where one was selected."""
    if "measure" in scores.data["effect"].dims:
        return [str(name) for name in scores.data["measure"].values]
    return [str(scores.selected["measure"])]


_PROMPT, _ALL = "the prompt's tokens", "all tokens, the answer's own too"
_NONE = "no shares: the effect on {}, all cells, is {}"
_IN_NOISE, _ROUNDING = "inside its own noise", "of the size of rounding"

NO_SHARES, OF_ROUNDING = (_NONE.format(_PROMPT, why) for why in (_IN_NOISE, _ROUNDING))
"""How `no_shares` begins."""


def no_shares(scores: ScoreArrays) -> str:
    """Why an attribution has no shares: what they would be shares of is inside its own noise, or of
    the size of rounding; empty where it has some, or does not know.
    """
    if not scores.knows_whole:
        return ""
    return _why_none(scores, scores.prompt_effect.values, _PROMPT)


def _why_none(scores: ScoreArrays, effect: np.ndarray, whose: str) -> str:
    """Why there are no shares of an effect `(prompt,)` of all cells on some tokens; empty where
    there are.
    """
    if _is_of_the_gap(scores):
        missed = f"{signed(float(scores.missing.mean()))} {scores.unit} of the total effect"
        return f"{_NONE.format(whose, signed(float(effect.mean())))}, and they miss {missed}"
    if is_rounding(effect, scores):
        size = f"{at_most(np.abs(effect).max())} {scores.unit}"
        return f"{_NONE.format(whose, _ROUNDING)}: at most {size} on any prompt"
    if len(effect) == 1:
        return ""
    found = mean_interval(effect)
    if bool(found.excludes_zero):
        return ""
    interval = f"95 % {signed(float(found.low))} to {signed(float(found.high))}"
    told = _NONE.format(whose, _IN_NOISE)
    return f"{told}: {signed(float(found.mean))} ({interval}) {scores.unit}"


def _is_of_the_gap(scores: ScoreArrays) -> bool:
    """Whether all cells miss more of the effect than they add up to: what they hold is what the
    quadrature got wrong.
    """
    if not scores.additive or not scores.knows_whole:
        return False
    missed = float(scores.missing.mean())
    return abs(missed) > abs(float(scores.total.mean()) - missed)


def answer_part(scores: ScoreArrays) -> str:
    """What the answer's own tokens carry: the effect, and its share of the total where it has one.

    Where none are fed (an answer of one token) that is said.
    """
    effect = scores.answer_effect.values
    if not answer_is_fed(scores):
        return "no token of an answer is fed: the prompt's tokens carry all"
    share = float(shares_of_total(scores, effect).mean)
    carried = in_words(float(effect.mean()), share, scores.unit)
    cells = ", all cells," if scores.selected else ""  # rows are of those that were chosen
    return f"the answer's own tokens{cells} carry {carried}"


def answer_is_fed(scores: ScoreArrays) -> bool:
    """Whether any token of an answer is fed; a selection of positions may have none of them."""
    return bool(scores.of_answer.values.any() or scores.answer_effect.values.any())


def in_words(effect: float, share: float, unit: str) -> str:
    """An effect and its share of the total, where it has one and both are more than nothing."""
    told = f"{signed(effect)} {unit}"
    if np.isnan(share) or round(share, 3) == 0:
        return told
    return f"{told}, {percent(share, 1)} of the total effect"


def size_in_words(row: pd.Series) -> str:
    """The size of a set in a table: `13 tokens, 31%`; of the answer's own `3 tokens`."""
    count = f"{row['tokens']:.3g} {'token' if row['tokens'] == 1 else 'tokens'}"
    share = row.get("token share", np.nan)
    return count if np.isnan(share) else f"{count}, {share:z.0%}"


def strongest(scores: ScoreArrays, k: int) -> pd.DataFrame:
    """See `Scores.strongest`."""
    if k < 1:
        raise ValueError(f"k={k}: how many cells are shown must be at least 1.")
    scores.need_one_step()
    effect = scores.headline
    has_cells = "layer" in effect.dims or scores.has_tokens
    if not has_cells or KINDS[scores.kind].is_curve:
        raise ValueError(
            f"{scores.kind} scores have no layers or tokens to choose cells from; see totals() or "
            "sets()."
        )
    # cells without tokens are the same in all prompts
    tokens = scores.has_tokens
    if not tokens:
        effect = effect.mean("prompt")

    names = scores.cell_names()
    # where there is no cell (a shorter prompt, no such module) nothing is shown
    there = int(np.isfinite(effect.values).sum())
    magnitude = np.where(np.isfinite(effect.values), np.abs(effect.values), -1).ravel()
    rows = []
    for flat in np.argsort(-magnitude, kind="stable")[: min(k, there)]:
        at = dict(zip(effect.dims, np.unravel_index(flat, effect.shape), strict=True))
        row: dict[str, Any] = {}
        if tokens:
            # questions may begin alike, and a token may stand at several places
            row["prompt"] = scores.data["prompt"].values[at["prompt"]].item()
            row["question"] = shortened(str(scores.data["question"].values[at["prompt"]]), 30)
        if "direction" in at:
            row["direction"] = str(effect["direction"].values[at["direction"]])
        row["name"] = names[at.get("layer", 0)][at.get("module", 0)]
        for dim in (*PARTS, "set"):
            if dim in at:
                row[dim] = effect[dim].values[at[dim]].item()
        if "span" in at:
            row |= _span_columns(scores, at["prompt"], at["span"])
        elif tokens:
            token = scores.data["token"].values[at["prompt"], at["position"]]
            row["token"] = repr(str(token))
            row["position"] = scores.data["position"].values[at["position"]].item()
        rows.append(row | {"effect": float(effect.values.flat[flat])})
    return pd.DataFrame(rows)


def _span_columns(scores: ScoreArrays, prompt: int, span: int) -> dict[str, Any]:
    """What a table says of a span: its text, how many tokens of it were switched, and whether its
    value is that of a single token where some spans were refined.
    """
    coords = {
        name: scores.data[name].values[prompt, span]
        for name in ("text", "first", "refined")
        if name in scores.data.coords
    }
    row: dict[str, Any] = {"span": shortened(repr(str(coords["text"])), 40)}
    row["tokens"] = tokens_of_span(scores.data, prompt, span)
    row["first"] = int(coords["first"])
    if "refined" in coords:
        row["refined"] = "yes" if coords["refined"] else "no"
    return row


def to_dataframe(scores: ScoreArrays) -> pd.DataFrame:
    """See `Scores.to_dataframe`."""
    effect = scores.data["effect"]
    if "layer" in effect.dims:
        names = np.array(scores.cell_names(), dtype=object)
        dims = ("layer", "module") if "module" in effect.dims else ("layer",)
        shape = [effect.sizes[dim] for dim in dims]
        effect = effect.assign_coords(name=(dims, names.reshape(shape)))
    elif "position" in effect.dims and not KINDS[scores.kind].cumulative:
        effect = effect.assign_coords(name=xr.DataArray("hook_embed"))
    frame = effect.to_dataframe().reset_index()
    return frame.dropna(subset=["effect"]).reset_index(drop=True)


SUMMARIES: dict[Table, Callable[[ScoreArrays], pd.DataFrame]] = {"totals": totals, "sets": sets}
"""The one table that says it all, for kinds that have one."""


def _columns(interval: Interval) -> dict[str, float]:
    """An effect with its 95 % interval over prompts."""
    return {
        "effect": float(interval.mean),
        "low": float(interval.low),
        "high": float(interval.high),
    }


def _in_reading_order(names: list[str]) -> list[str]:
    """Each name once: roles and sharing classes in their own order, then others as they come."""
    present = dict.fromkeys(names)
    known = [name for name in (*ROLES, *CLASSES) if name in present]
    return [*known, *(name for name in present if name not in known)]
