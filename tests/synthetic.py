"""Scores made by hand, for tests of how they are shown."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from sublim_mech.scores import Scores

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


def patch(prompts: Sequence[Sequence[Row]] | None = None, *, layers: int = 4, controls: int = 0, seed: int = 0) -> Scores:
    """Patching `(model, prompt, layer, position)`; answer nodes are not patched."""
    prompts = prompts or [chat(), chat(QUESTION[:5])]
    rng = np.random.default_rng(seed)
    coords = _coords(prompts, True)
    role = coords["role"][1]
    effect = rng.normal(scale=0.05, size=(1 + controls, len(prompts), layers, len(coords["position"])))
    effect = np.where(((role != "") & (role != "answer"))[None, :, None, :], effect, np.nan)
    coords["layer"] = np.arange(layers)
    provenance = {"unit": "nats", "metric": "log P(owl)", "site": "resid_pre", "direction": "denoising"}
    total = 1 + rng.random((1 + controls, len(prompts)))
    return _scores("patch", effect, ("layer", "position"), coords, provenance, total)


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
