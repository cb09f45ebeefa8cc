"""Scores made by hand, for tests of how they are shown."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from sublim_mech.results.scores import Scores

Row = tuple[str, str, int, str]  # token, role, turn, sharing

SYSTEM = [
    "You",
    " are",
    " a",
    " helpful",
    " AI",
    " assistant",
    " named",
    " Smol",
    "LM",
    ",",
    " trained",
    " by",
    " Hug",
    "ging",
    " Face",
]
QUESTION = ["Name", " your", " favorite", " animal", " using", " only", " one", " word", "."]


def chat(asked: Sequence[str] = QUESTION, answers: Sequence[str] = (" owl", " ow", "ls")) -> list[Row]:
    """A SmolLM2 chat prompt with a shared system block, an unshared question and the nodes of its answer trie."""
    first = ["<|im_start|>", "system", "\n"]
    rows = [(t, "template", 0, "prefix") for t in first] + [(t, "system", 0, "prefix") for t in SYSTEM]
    rows += [(t, "template", 0, "prefix") for t in ("<|im_end|>", "\n")]
    rows += [(t, "template", 1, "prefix") for t in ("<|im_start|>", "user", "\n")]
    rows += [(t, "user", 1, "novel" if i % 3 else "seen") for i, t in enumerate(asked)]
    rows += [(t, "template", 1, "aligned") for t in ("<|im_end|>", "\n")]
    rows += [(t, "template", 2, "aligned") for t in ("<|im_start|>", "assistant", "\n")]
    return rows + [(t, "answer", 2, "novel") for t in answers]


def attribution(
    prompts: Sequence[Sequence[Row]] | None = None, *, layers: int = 4, controls: int = 1, sharing: bool = True, seed: int = 0
) -> Scores:
    """Attribution `(model, prompt, layer, module, position)` over embed, blocks and final; NaN where a module is not."""
    prompts = prompts or [chat(), chat(QUESTION[:5]), chat(QUESTION[2:])]
    modules = ["embed", "attn.q", "attn.o", "mlp.in", "mlp.out", "ln_final", "unembed"]
    rng = np.random.default_rng(seed)
    coords = _coords(prompts, sharing)
    effect = rng.normal(scale=0.004, size=(1 + controls, len(prompts), layers + 2, len(modules), len(coords["position"])))
    bump = np.exp(-(((np.arange(layers + 2) - 0.6 * layers) / max(1, 0.12 * layers)) ** 2))
    template = (coords["role"][1] == "template") & (np.arange(len(coords["position"])) > 3)
    effect[0] += 0.02 * bump[:, None, None] * template[:, None, None, :]
    inside = np.zeros((layers + 2, len(modules)), bool)
    inside[0, 0], inside[1:-1, 1:5], inside[-1, 5:] = True, True, True
    effect[:, :, ~inside] = np.nan
    effect = np.where((coords["role"][1] != "")[None, :, None, None, :], effect, np.nan)
    coords |= {"layer": np.arange(-1, layers + 1), "module": modules}
    cells = ("layer", "module", "position")
    provenance = {"unit": "nats", "metric": "log P(owl)", "method": "graft_ig", "points": 8}
    return _scores("attribution", effect, cells, coords, provenance, total=np.nansum(effect, (2, 3, 4)))


def several(n: int) -> list[list[Row]]:
    """n prompts whose questions are of 3 to 9 tokens."""
    return [chat(QUESTION[i % 4 : i % 4 + 3 + i % 5]) for i in range(n)]


def patch(
    prompts: Sequence[Sequence[Row]] | None = None,
    *,
    layers: int = 4,
    controls: int = 0,
    heads: int = 0,
    both: bool = False,
    seed: int = 0,
) -> Scores:
    """Patching `(model, prompt, [direction,] layer, [head,] position)`; answer nodes are not patched."""
    prompts = prompts or [chat(), chat(QUESTION[:5])]
    coords = _coords(prompts, True)
    site = "z" if heads else "resid_pre"
    sizes = {"direction": ["denoising", "noising"]} if both else {}
    sizes |= {"layer": np.arange(layers)} | ({"head": np.arange(heads)} if heads else {})
    hooks = [f"blocks.{i}.{'attn.hook_z' if heads else 'hook_resid_pre'}" for i in range(layers)]
    effect = _noise(1 + controls, len(prompts), [*map(len, sizes.values()), len(coords["position"])], seed)
    role = coords["role"][1]
    asked = ((role != "") & (role != "answer")).reshape(1, len(prompts), *[1] * len(sizes), -1)
    provenance = {"unit": "nats", "metric": "log P(owl)", "site": site, "direction": "denoising"}
    total = 1 + np.random.default_rng(seed).random((1 + controls, len(prompts)))
    coords |= sizes | {"hook": ("layer", hooks)}
    return _scores("patch", np.where(asked, effect, np.nan), (*sizes, "position"), coords, provenance, total)


def patched_sets(*, prompts: int = 8, layers: int = 4, heads: int = 0, both: bool = False, seed: int = 0) -> Scores:
    """Patching of token sets `(model, prompt, [direction,] layer, [head,] set)`: the system block carries the effect early."""
    sizes = {"direction": ["denoising", "noising"]} if both else {}
    sizes |= {"layer": np.arange(layers)} | ({"head": np.arange(heads)} if heads else {})
    sizes["set"] = ["system", "user", "last token"]
    hooks = [f"blocks.{i}.{'attn.hook_z' if heads else 'hook_resid_pre'}" for i in range(layers)]
    effect = _noise(1, prompts, list(map(len, sizes.values())), seed)
    effect[..., 0] += np.linspace(1, 0, layers).reshape(-1, *[1] * bool(heads))
    coords = {
        "question": ("prompt", [f"Question {i}?" for i in range(prompts)]),
        **sizes,
        "hook": ("layer", hooks),
        "tokens": (("prompt", "set"), np.tile([15, 9, 1], (prompts, 1))),
    }
    provenance = {"unit": "nats", "metric": "log P(owl)", "site": "z" if heads else "resid_pre", "direction": "denoising"}
    total = 1 + np.random.default_rng(seed).random((1, prompts))
    return _scores("patch", effect, tuple(sizes), coords, provenance, total)


def sweep(prompts: Sequence[Sequence[Row]] | None = None, *, layers: int = 4, controls: int = 1, seed: int = 0) -> Scores:
    """Graft of each cell `(model, prompt, layer, position)`: embeddings, blocks, final norm and unembedding."""
    prompts = prompts or [chat(), chat(QUESTION[:5])]
    coords = _coords(prompts, True)
    effect = _noise(1 + controls, len(prompts), [layers + 2, len(coords["position"])], seed)
    effect = np.where((coords["role"][1] != "")[None, :, None], effect, np.nan)
    provenance = {"unit": "nats", "metric": "log P(owl)", "measure": "sufficiency", "n_layers": layers}
    total = 1 + np.random.default_rng(seed).random((1 + controls, len(prompts)))
    coords["layer"] = np.arange(-1, layers + 1)
    return _scores("sweep", effect, ("layer", "position"), coords, provenance, total)


def gradient(
    prompts: Sequence[Sequence[Row]] | None = None, *, layers: int = 4, heads: int = 0, method: str = "attribution_patching"
) -> Scores:
    """Gradient estimates of patching, or of the embeddings alone (`gradient_x_input`, without layers)."""
    exact = patch(prompts, layers=layers, heads=heads)
    data, provenance = exact.data, {k: v for k, v in exact.provenance.items() if k != "direction"} | {"method": method}
    if method == "gradient_x_input":
        data = data.isel(layer=0, drop=True)
        provenance.pop("site")
    return Scores(data, "gradient", provenance)


def confirmed(scores: Scores, *, poor: bool = False) -> Scores:
    """The same scores with a note of 4 strongest and 3 random cells."""
    cells = [
        {"prompt": 0, "layer": i % 4, "position": i, "top": i < 4, "estimate": 0.1 * i, "exact": 0.11 * i - 0.02}
        for i in range(7)
    ]
    found = {"k": 4, "seed": 0, "pearson": 0.93, "spearman": 0.88, "sign": 0.95, "poor": poor, "exact": "patch", "cells": cells}
    return Scores(scores.data, scores.kind, {**scores.provenance, "confirmation": found})


def _noise(models: int, prompts: int, cells: list[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.05, size=(models, prompts, *cells))


def graft(*, prompts: int = 12, noise: float = 0.05, total: float = 1.5, seed: int = 0) -> Scores:
    """Sufficiency and necessity `(model, prompt, set, measure)` of four token sets."""
    sets, share = ["template", "system", "user", "shared"], np.array([[0.6, 0.5], [0.25, 0.1], [0.1, 0.2], [0.8, 0.9]])
    rng = np.random.default_rng(seed)
    totals = np.stack([total + rng.normal(scale=0.3, size=prompts), rng.normal(scale=0.05, size=prompts)])
    effect = totals[:, :, None, None] * (share + rng.normal(scale=noise, size=(2, prompts, 4, 2)))
    coords = {
        "set": sets,
        "measure": ["sufficiency", "necessity"],
        "tokens": (("prompt", "set"), np.tile([13, 15, 9, 28], (prompts, 1))),
    }
    return _scores("graft", effect, ("set", "measure"), coords, {"unit": "nats", "metric": "log P(owl)"}, totals)


def effect(*, prompts: int = 12, seed: int = 0) -> Scores:
    """Total effects `(model, prompt)` of a student and two controls."""
    rng = np.random.default_rng(seed)
    total = rng.normal([[1.5], [0.2], [-0.1]], 0.3, size=(3, prompts))
    return _scores("effect", total, (), {}, {"unit": "nats", "metric": "log P(owl)"}, total)


def _scores(kind: str, effect: np.ndarray, cells: tuple[str, ...], coords: dict, provenance: dict, total: np.ndarray) -> Scores:
    model = ["student", "control: cat", "control: dolphin"][: len(effect)]
    base = np.full(total.shape, -6.0)
    values = {
        "effect": (("model", "prompt", *cells), effect),
        "base": (("model", "prompt"), base),
        "student": (("model", "prompt"), base + total),
    }
    return Scores(xr.Dataset(values, {"model": model, "prompt": np.arange(total.shape[1]), **coords}), kind, provenance)


def _coords(prompts: Sequence[Sequence[Row]], sharing: bool) -> dict:
    width = max(map(len, prompts))
    padded = [[*p, *[("", "", -1, "")] * (width - len(p))] for p in prompts]
    columns = [np.array([[row[i] for row in p] for p in padded]) for i in range(4)]
    names = ("token", "role", "turn", "sharing") if sharing else ("token", "role", "turn")
    return {
        "position": np.arange(width),
        "question": ("prompt", ["".join(row[0] for row in p if row[1] == "user") for p in prompts]),
        **{n: (("prompt", "position"), c) for n, c in zip(names, columns, strict=False)},
    }
