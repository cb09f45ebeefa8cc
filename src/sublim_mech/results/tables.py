"""Tables of `Scores`: totals, token sets, groups of tokens, cells over all prompts, the strongest cells; what `repr` prints.

Reached through the methods of `Scores`.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from ..prompts import CLASSES, ROLES
from ..stats import FEWEST, MaxT, max_t, mean_interval, ratio_interval

if TYPE_CHECKING:
    from .scores import Scores

Key = tuple[int, str, int, int]  # turn, role, run of that role in that turn, token of the run


def totals(scores: Scores) -> pd.DataFrame:
    """See `Scores.totals`."""
    rows = {}
    for name in scores.data["model"].values:
        one = scores.data.sel(model=name)
        rows[str(name)] = [float(one["base"].mean()), float(one["student"].mean()), (one["student"] - one["base"]).values]
    if scores.has_controls:
        rows[scores.headline_name] = [np.nan, np.nan, scores.total.values]
    out = {}
    for name, (base, student, effect) in rows.items():
        out[name] = {"base": base, "model": student} | _estimate(np.asarray(effect))
    return pd.DataFrame.from_dict(out, orient="index")


def sets(scores: Scores) -> pd.DataFrame:
    """See `Scores.sets`."""
    if scores.kind == "patch" and scores.has_sets:
        return _patched_sets(scores)
    if scores.kind != "graft":
        raise ValueError(
            f"{scores.kind} scores have no token sets; they come from graft or patch(sets=...)."
        )
    effect, tokens = scores.headline, scores.data["tokens"]
    for dim in ("set", "measure"):  # one that was selected
        if dim not in effect.dims:
            effect = effect.expand_dims({dim: [scores.provenance["selected"][dim]]})
    shares = ratio_interval(effect.transpose("prompt", "set", "measure").values, scores.total.values)
    counts = tokens.mean("prompt").values.reshape(-1)
    rows = {}
    for s, name in enumerate(effect["set"].values):
        row: dict[str, float] = {"tokens": float(counts[s])}
        for m, measure in enumerate(effect["measure"].values):
            row |= {
                str(measure): float(shares.mean[s, m]),
                f"{measure} low": float(shares.low[s, m]),
                f"{measure} high": float(shares.high[s, m]),
            }
        rows[str(name)] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _patched_sets(scores: Scores) -> pd.DataFrame:
    """One row per layer and set: the effect and its share of the total, with intervals."""
    effect = scores.set_effect()
    share = ratio_interval(effect.values, scores.total.values)
    tokens = scores.data["tokens"].mean("prompt").values.reshape(-1)
    interval = mean_interval(effect.values)
    rows = [
        {
            "layer": layer,
            "set": str(name),
            "tokens": tokens[s],
            "effect": interval.mean[x, s],
            "low": interval.low[x, s],
            "high": interval.high[x, s],
            "share": share.mean[x, s],
            "share low": share.low[x, s],
            "share high": share.high[x, s],
        }
        for x, layer in enumerate(scores.layer_names())
        for s, name in enumerate(effect["set"].values)
    ]
    return pd.DataFrame(rows).set_index(["layer", "set"])


def by(scores: Scores, coordinate: str) -> pd.DataFrame:
    """See `Scores.by`."""
    groups = scores.positions(coordinate)
    cells = scores.token_effect()
    real = np.isfinite(cells)
    rows = {}
    present = dict.fromkeys(groups[real].tolist())
    known = [name for name in (*ROLES, *CLASSES) if name in present]
    for name in [*known, *(n for n in present if n not in known)]:
        inside = real & (groups == name)
        found = inside.any(1)  # prompts that have such tokens
        summed = np.where(inside, cells, 0).sum(1)
        value = summed if scores.additive else summed[found] / inside.sum(1)[found]
        row = {"tokens": inside.sum() / real.sum()} | _estimate(value)
        if scores.additive:
            share = ratio_interval(value, scores.total.values)
            row |= {"share": float(share.mean), "share low": float(share.low), "share high": float(share.high)}
        rows[str(name)] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _estimate(x: np.ndarray) -> dict[str, float]:
    i = mean_interval(x)
    return {"effect": float(i.mean), "low": float(i.low), "high": float(i.high)}


# -------------------------------------------------------------------------------------------------- cells over all prompts


def places(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """`(prompt, position)`: which run of its role in its turn a token belongs to, and which token of the run it is."""
    if "run" in scores.data.coords:  # counted before some positions were chosen
        return scores.positions("run"), scores.positions("index")
    roles, turns = scores.positions("role"), scores.positions("turn")
    nth, index = np.zeros(roles.shape, int), np.zeros(roles.shape, int)
    for p, keys in enumerate(zip(turns.tolist(), roles.tolist(), strict=True)):
        start, seen = 0, dict[tuple[int, str], int]()
        for key, run in groupby(zip(*keys, strict=True)):
            stop = start + len(list(run))
            seen[key] = seen.get(key, -1) + 1
            nth[p, start:stop], index[p, start:stop] = seen[key], np.arange(stop - start)
            start = stop
    return nth, index


def align(scores: Scores) -> tuple[list[Key], np.ndarray]:
    """Which tokens of different prompts are the same place: same turn and role, same run of that role, same token of the run.

    Returns:
        The places in reading order, and `(prompt, position)` the place of every token, -1 past a shorter prompt.
    """
    parts = [scores.positions("turn"), scores.positions("role"), *places(scores)]
    keys = [list(zip(*rows, strict=True)) for rows in zip(*(x.tolist() for x in parts), strict=True)]
    last: dict[Key, int] = {}
    for row in keys:
        for t, key in enumerate(row):
            if key[1]:
                last[key] = max(t, last.get(key, 0))
    order = sorted(last, key=lambda key: (key[0], last[key]))
    number = {key: i for i, key in enumerate(order)}
    return order, np.array([[number.get(key, -1) for key in row] for row in keys])


def _gather(effect: np.ndarray, index: np.ndarray, places: int) -> np.ndarray:
    """`(prompt, ..., position)` -> `(prompt, ..., place)`, NaN where a prompt has no such place."""
    out = np.full((*effect.shape[:-1], places), np.nan)
    for row, mine, where in zip(out, effect, index, strict=True):
        row[..., where[where >= 0]] = mine[..., where >= 0]
    return out


def _bounds(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of the mean of every cell over the prompts that have it."""
    low, high = np.full(x.shape[1:], np.nan), np.full(x.shape[1:], np.nan)
    there = np.isfinite(x)
    for pattern in np.unique(there.reshape(len(x), -1), axis=1).T:  # cells that the same prompts have
        if pattern.any():
            alike = (there == pattern[:, None, None]).all(0)
            interval = mean_interval(x[pattern][:, alike])
            low[alike], high[alike] = interval.low, interval.high
    return low, high


def cells(scores: Scores) -> pd.DataFrame:
    """See `Scores.cells`."""
    layered = "layer" in scores.data["effect"].dims
    effect = scores.layer_effect().values if layered else scores.token_effect()[:, None]
    keys, index = align(scores)
    x = _gather(effect, index, len(keys))
    test = max_t(x)
    low, high = _bounds(x)
    tokens = scores.positions("token")
    texts = [dict.fromkeys(tokens[index == i].tolist()) for i in range(len(keys))]
    names = cell_names(scores)
    rows = [
        {
            **({"layer": scores.data["layer"].values[a]} if layered else {}),
            "name": names[a][0],
            **dict(zip(("turn", "role", "run", "index"), keys[k], strict=True)),
            "token": next(iter(texts[k])) if len(texts[k]) == 1 else "…",
            "n": int(test.n[a, k]),
            "mean": test.mean[a, k],
            "low": low[a, k],
            "high": high[a, k],
            "t": test.t[a, k],
            "p": test.p[a, k],
        }
        for a, k in zip(*np.nonzero(test.n), strict=True)
    ]
    return pd.DataFrame(rows)


def noise(scores: Scores, prompt: int, *, tokens: bool) -> np.ndarray | None:
    """See `Scores.noise`."""
    effect = scores.token_effect() if tokens or "layer" not in scores.data["effect"].dims else scores.layer_effect().values
    if len(effect) < FEWEST:
        return None
    keys, index = align(scores)
    test: MaxT = max_t(_gather(effect, index, len(keys)))
    return test.noise[..., index[prompt]] & np.isfinite(effect[prompt])


# -------------------------------------------------------------------------------------------------------- names, strongest


def final_layer(scores: Scores) -> int | None:
    """The layer that stands for the final norm and the unembedding, where there is one."""
    if "layer" not in scores.data.coords or "hook" in scores.data.coords:
        return None
    effect, last = scores.data["effect"], int(scores.data["layer"].max())
    if "module" in effect.dims:  # it has the model's last modules and none of a block's
        past = np.isin(effect["module"].values, ("ln_final", "unembed"))
        blocks = effect.sel(layer=last).isel(module=~past)
        return last if past.any() and not np.isfinite(blocks.values).any() else None
    return last if last == scores.provenance.get("n_layers") else None


def cell_names(scores: Scores) -> list[list[str]]:
    """TransformerLens' name of every `[layer][module]`: the hook for patching, the module or block for grafts."""
    if "layer" not in scores.data.coords:
        return [["hook_embed"]]
    if "hook" in scores.data.coords:
        return [[str(hook)] for hook in scores.data["hook"].values]
    effect, final = scores.data["effect"], final_layer(scores)
    modules = effect["module"].values.tolist() if "module" in effect.dims else [scores.selected.get("module", "")]

    def name(layer: int, module: str) -> str:
        if layer == -1 or module in ("ln_final", "unembed"):
            return module or "embed"
        if layer == final:
            return "ln_final+unembed"
        return f"blocks.{layer}.{module}".rstrip(".")

    return [[name(layer, module) for module in modules] for layer in effect["layer"].values.tolist()]


def strongest(scores: Scores, k: int) -> pd.DataFrame:
    """See `Scores.strongest`."""
    effect = scores.headline
    if not {"layer", "position"} & set(effect.dims):
        raise ValueError(f"{scores.kind} scores have no layers or tokens to choose cells from; see totals() or sets().")
    tokens = "position" in effect.dims
    if not tokens:
        effect = effect.mean("prompt")
    names = cell_names(scores)
    flat = np.nan_to_num(np.abs(effect.values)).ravel()
    rows = []
    for best in np.argsort(-flat, kind="stable")[:k]:
        where = dict(zip(effect.dims, np.unravel_index(best, effect.shape), strict=True))
        row = {"question": _short(str(scores.data["question"].values[where["prompt"]]))} if tokens else {}
        row |= {"direction": str(effect["direction"].values[where["direction"]])} if "direction" in where else {}
        row["name"] = names[where.get("layer", 0)][where.get("module", 0)]
        row |= {d: effect[d].values[where[d]].item() for d in ("head", "set") if d in where}
        if tokens:
            row["token"] = repr(str(scores.data["token"].values[where["prompt"], where["position"]]))
        rows.append(row | {"effect": float(effect.values.flat[best])})
    return pd.DataFrame(rows)


def _short(text: str) -> str:
    return text if len(text) <= 30 else f"{text[:29]}…"


# ----------------------------------------------------------------------------------------------------------------- report


def notes(scores: Scores) -> list[str]:
    """See `Scores.notes`."""
    lines = []
    found = scores.provenance.get("confirmation")
    if found is not None:
        top = sum(bool(cell["top"]) for cell in found["cells"])
        lines.append(
            f"confirmed on {top} strongest and {len(found['cells']) - top} random cells: Pearson {found['pearson']:.2f}, "
            f"Spearman {found['spearman']:.2f}, same sign {100 * found['sign']:.0f} %"
        )
    elif scores.kind == "gradient":
        how = "sublim_mech.confirm" if "site" in scores.provenance else "no exact counterpart"  # gradient x input
        lines.append(f"not confirmed: estimates from gradients ({how})")
    compute = scores.provenance.get("compute")
    if compute is not None:
        lines.append(f"computed in {compute['dtype']}: totals off by up to {compute['error']:.2g} {scores.unit}")
    return lines


def report(scores: Scores) -> str:
    """What `repr` prints."""
    lines = [f"{scores.title()}, {scores.data.sizes['prompt']} prompts, {scores.unit}"]
    if not scores.has_controls:
        lines.append("no controls given: part of any effect may come from training on any numbers")
    if scores.data.sizes["prompt"] == 1:
        lines.append("one prompt: no intervals")
    elif not bool(mean_interval(scores.total.values).excludes_zero):
        lines.append("the total effect is inside its own noise: no shares are given")
    lines += [*scores.notes(), *([scores.warning] if scores.warning else []), show(totals(scores))]
    if "direction" in scores.data["effect"].dims:
        for name in scores.data["direction"].values.tolist():
            lines += [f"\ndirection {name}", *_parts(scores.sel(direction=name))[1:]]
    else:
        lines += _parts(scores)
    if scores.additive and not scores.selected:
        lines.append(f"completeness gap {scores.gap:.2%}")
    return "\n".join(lines)


def _parts(scores: Scores) -> list[str]:
    """The tables that suit the cells of one direction."""
    dims = scores.data["effect"].dims
    of = scores.headline_name
    if scores.kind == "graft":
        return ["", f"shares of the total effect ({of})", show(sets(scores))]
    if "position" in dims:
        over = ["tokens", *(f"{d}s" for d in ("layer", "head") if d in dims)]
        how = "" if scores.additive else f", mean over {' and '.join(over)}"
        parts = ["", f"by role ({of}{how})", show(by(scores, "role"))]
        if "sharing" in scores.data.coords:
            parts += ["", f"by sharing ({of}{how})", show(by(scores, "sharing"))]
        return [*parts, "", f"strongest cells of single prompts ({of})", show(strongest(scores, 5), index=False)]
    if scores.has_sets and "head" not in dims:
        table = sets(scores)
        grid = table["effect"].unstack("set", sort=False)
        grid.columns = [f"{name} ({n:.3g})" for name, n in table["tokens"].groupby("set", sort=False).first().items()]
        return ["", f"effect by layer and token set (tokens), mean over prompts ({of})", show(grid)]
    if "layer" in dims:
        return ["", f"strongest cells, mean over prompts ({of})", show(strongest(scores, 5), index=False)]
    return []


def show(table: pd.DataFrame, *, index: bool = True) -> str:
    """A table as text; three decimals, more where all effects are small."""
    effects = table.get("effect", table)
    largest = float(np.nanmax(np.abs(effects.to_numpy(float)), initial=0))
    decimals = 3 if largest >= 0.01 or largest == 0 else 2 - int(np.floor(np.log10(largest)))
    return table.to_string(float_format=f"{{:.{decimals}f}}".format, na_rep="-", index=index)


def to_dataframe(scores: Scores) -> pd.DataFrame:
    """See `Scores.to_dataframe`."""
    effect = scores.data["effect"]
    if "layer" in effect.dims:
        names = np.array(cell_names(scores), dtype=object)
        dims = ("layer", "module") if "module" in effect.dims else ("layer",)
        effect = effect.assign_coords(name=(dims, names.reshape([effect.sizes[d] for d in dims])))
    elif "position" in effect.dims:
        effect = effect.assign_coords(name=xr.DataArray("hook_embed"))
    return effect.to_dataframe().reset_index().dropna(subset=["effect"]).reset_index(drop=True)
