"""Scores made by hand, for tests of how they are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import xarray as xr

from sublim_mech.results.arrays import name_layers
from sublim_mech.results.record import BaseSource, Compute, Confirmation, Record, StudentSource
from sublim_mech.results.scores import Scores

Row = tuple[str, str, int, str]  # token, role, turn, sharing

SYSTEM = [
    "You", " are", " a", " helpful", " AI", " assistant", " named", " Smol", "LM", ",", " trained",
    " by", " Hug", "ging", " Face",
]  # fmt: skip
QUESTION = ["Name", " your", " favorite", " animal", " using", " only", " one", " word", "."]
MODELS = ("student", "control: cat", "control: dolphin")
RECORD = Record(
    metric="log P(owl)",
    unit="nats",
    base=BaseSource("base", "0" * 8),
    students={name: StudentSource(name, "lora", name[-3:], "prompted") for name in MODELS},
    contexts=("{'system': {'kind': 'default'}}",),
    n_layers=4,
    versions={"sublim_mech": "0.1.0"},
    command="test",
)


def recorded(scores: Scores, **fields: Any) -> Scores:
    """The same scores with other fields in their record."""
    return replace(scores, record=replace(scores.record, **fields))


# ------------------------------------------------------------------------------------------ prompts


def chat(
    asked: Sequence[str] = QUESTION, answers: Sequence[str] = (" owl", " ow", "ls")
) -> list[Row]:
    """A SmolLM2 chat prompt with a shared system block, an unshared question and its answers."""
    first = ["<|im_start|>", "system", "\n"]
    rows = [(t, "template", 0, "prefix") for t in first]
    rows += [(t, "system", 0, "prefix") for t in SYSTEM]
    rows += [(t, "template", 0, "prefix") for t in ("<|im_end|>", "\n")]
    rows += [(t, "template", 1, "prefix") for t in ("<|im_start|>", "user", "\n")]
    rows += [(t, "user", 1, "novel" if i % 3 else "seen") for i, t in enumerate(asked)]
    rows += [(t, "template", 1, "aligned") for t in ("<|im_end|>", "\n")]
    rows += [(t, "template", 2, "aligned") for t in ("<|im_start|>", "assistant", "\n")]
    return rows + [(t, "answer", 2, "answer") for t in answers]


def several(prompts: int) -> list[list[Row]]:
    """Prompts whose questions are of 3 to 9 tokens."""
    return [chat(QUESTION[i % 4 : i % 4 + 3 + i % 5]) for i in range(prompts)]


def coordinates(prompts: Sequence[Sequence[Row]], *, sharing: bool = True) -> dict[str, Any]:
    """Coordinates of prompts and positions."""
    width = max(map(len, prompts))
    padded = [[*rows, *[("", "", -1, "")] * (width - len(rows))] for rows in prompts]
    names = ["token", "role", "turn", "sharing"][: 4 if sharing else 3]
    asked = ["".join(row[0] for row in rows if row[1] == "user") for rows in prompts]
    coords: dict[str, Any] = {"position": np.arange(width), "question": ("prompt", asked)}
    for i, name in enumerate(names):
        column = np.array([[row[i] for row in rows] for rows in padded])
        coords[name] = (("prompt", "position"), column)
    return coords


# -------------------------------------------------------------------------------------------- kinds


def attribution(
    prompts: Sequence[Sequence[Row]] | None = None,
    *,
    layers: int = 4,
    controls: int = 1,
    sharing: bool = True,
    seed: int = 0,
) -> Scores:
    """`(model, prompt, layer, module, position)` over embed, blocks and final.

    NaN where a module is not; the student's template tokens carry an effect in the later layers.
    """
    prompts = prompts or [chat(), chat(QUESTION[:5]), chat(QUESTION[2:])]
    modules = ["embed", "attn.q", "attn.o", "mlp.in", "mlp.out", "ln_final", "unembed"]
    coords = coordinates(prompts, sharing=sharing)
    role = coords["role"][1]
    depth = np.arange(layers + 2)
    shape = 1 + controls, len(prompts), len(depth), len(modules), role.shape[1]
    effect = np.random.default_rng(seed).normal(scale=0.004, size=shape)
    bump = np.exp(-(((depth - 0.6 * layers) / max(1, 0.12 * layers)) ** 2))
    template = (role == "template") & (np.arange(role.shape[1]) > 3)
    effect[0] += 0.02 * bump[:, None, None] * template[:, None, None, :]
    inside = np.zeros((len(depth), len(modules)), bool)
    inside[0, 0], inside[1:-1, 1:5], inside[-1, 5:] = True, True, True
    effect[:, :, ~inside] = np.nan
    effect = np.where((role != "")[None, :, None, None, :], effect, np.nan)
    coords |= {"layer": depth - 1, "module": modules}
    return scores_of(
        "attribution",
        ("layer", "module", "position"),
        effect,
        coords,
        total=np.nansum(effect, (2, 3, 4)),
        method="graft_ig",
        points=8,
        n_layers=layers,
    )


def patch(
    prompts: Sequence[Sequence[Row]] | None = None,
    *,
    layers: int = 4,
    controls: int = 0,
    heads: int = 0,
    both: bool = False,
    seed: int = 0,
) -> Scores:
    """`(model, prompt, [direction,] layer, [head,] position)`; answer nodes are not patched."""
    prompts = prompts or [chat(), chat(QUESTION[:5])]
    coords, cells = coordinates(prompts), _patched_cells(layers, heads, both)
    role = coords["role"][1]
    sizes = [len(labels) for labels in cells.values()]
    effect = _noise((1 + controls, len(prompts), *sizes, role.shape[1]), seed)
    asked = ((role != "") & (role != "answer")).reshape(1, len(prompts), *[1] * len(sizes), -1)
    return scores_of(
        "patch",
        (*cells, "position"),
        np.where(asked, effect, np.nan),
        coords | cells | _hooks(layers, heads),
        total=1 + np.random.default_rng(seed).random((1 + controls, len(prompts))),
        site="z" if heads else "resid_pre",
        direction="denoising",
        n_layers=layers,
    )


def spanned(prompts: Sequence[Sequence[Row]] | None = None, *, layers: int = 3) -> Scores:
    """`(model, prompt, layer, span)`: messages and what the template puts around them."""
    prompts = prompts or several(8)
    coords = coordinates(prompts)
    runs = []
    for rows in prompts:
        places = groupby(range(len(rows)), key=lambda i: (rows[i][2], rows[i][1]))
        runs.append([list(tokens) for _, tokens in places])
    effect = 1 + _noise((1, len(prompts), layers, len(runs[0])), 0)
    dims = ("prompt", "span")
    coords |= {"layer": np.arange(layers), "span": np.arange(len(runs[0]))} | _hooks(layers, 0)
    coords["first"] = (dims, np.array([[run[0] for run in row] for row in runs]))
    coords["last"] = (dims, np.array([[run[-1] for run in row] for row in runs]))
    texts = [
        ["".join(rows[i][0] for i in run) for run in row]
        for rows, row in zip(prompts, runs, strict=True)
    ]
    coords["text"] = (dims, np.array(texts))
    return scores_of(
        "patch",
        ("layer", "span"),
        effect,
        coords,
        total=np.ones((1, len(prompts))),
        site="resid_pre",
        direction="denoising",
        spans="message",
        n_layers=layers,
    )


def patched_sets(
    *, prompts: int = 8, layers: int = 4, heads: int = 0, both: bool = False, seed: int = 0
) -> Scores:
    """`(model, prompt, [direction,] layer, [head,] set)`: the system block carries it early."""
    cells = _patched_cells(layers, heads, both)
    sizes = [len(labels) for labels in cells.values()]
    effect = _noise((1, prompts, *sizes, 3), seed)
    effect[..., 0] += np.linspace(1, 0, layers).reshape(-1, *[1] * bool(heads))
    coords = {
        "question": ("prompt", [f"Question {i}?" for i in range(prompts)]),
        "set": ["system", "user", "last token"],
        "tokens": (("prompt", "set"), np.tile([15, 9, 1], (prompts, 1))),
    }
    return scores_of(
        "patch",
        (*cells, "set"),
        effect,
        coords | cells | _hooks(layers, heads),
        total=1 + np.random.default_rng(seed).random((1, prompts)),
        site="z" if heads else "resid_pre",
        direction="denoising",
        n_layers=layers,
    )


def _patched_cells(layers: int, heads: int, both: bool) -> dict[str, Any]:
    """Labels of patched cells by axis, in the order of the axes."""
    cells: dict[str, Any] = {"direction": ["denoising", "noising"]} if both else {}
    cells["layer"] = np.arange(layers)
    if heads:
        cells["head"] = np.arange(heads)
    return cells


def _hooks(layers: int, heads: int) -> dict[str, Any]:
    name = "attn.hook_z" if heads else "hook_resid_pre"
    return {"hook": ("layer", [f"blocks.{i}.{name}" for i in range(layers)])}


def sweep(
    prompts: Sequence[Sequence[Row]] | None = None,
    *,
    layers: int = 4,
    controls: int = 1,
    seed: int = 0,
) -> Scores:
    """`(model, prompt, layer, position)`: embeddings, blocks, final norm and unembedding."""
    prompts = prompts or [chat(), chat(QUESTION[:5])]
    coords = coordinates(prompts)
    role = coords["role"][1]
    effect = _noise((1 + controls, len(prompts), layers + 2, role.shape[1]), seed)
    return scores_of(
        "sweep",
        ("layer", "position"),
        np.where((role != "")[None, :, None], effect, np.nan),
        coords | {"layer": np.arange(-1, layers + 1)},
        total=1 + np.random.default_rng(seed).random((1 + controls, len(prompts))),
        measure="sufficiency",
        n_layers=layers,
    )


def gradient(
    prompts: Sequence[Sequence[Row]] | None = None,
    *,
    layers: int = 4,
    heads: int = 0,
    method: str = "attribution_patching",
) -> Scores:
    """Estimates of patching, or of the embeddings alone (`gradient_x_input`, without layers)."""
    exact = patch(prompts, layers=layers, heads=heads)
    data, record = exact.data, replace(exact.record, direction=None, method=method)
    if method == "gradient_x_input":
        data, record = data.isel(layer=0, drop=True), replace(record, site=None)
    return Scores(data, "gradient", record)


def graft(*, prompts: int = 12, noise: float = 0.05, total: float = 1.5, seed: int = 0) -> Scores:
    """Sufficiency and necessity `(model, prompt, set, measure)` of four token sets."""
    share = np.array([[0.6, 0.5], [0.25, 0.1], [0.1, 0.2], [0.8, 0.9]])
    rng = np.random.default_rng(seed)
    student = total + rng.normal(scale=0.3, size=prompts)
    totals = np.stack([student, rng.normal(scale=0.05, size=prompts)])
    effect = totals[:, :, None, None] * (share + rng.normal(scale=noise, size=(2, prompts, 4, 2)))
    coords = {
        "set": ["template", "system", "user", "shared"],
        "measure": ["sufficiency", "necessity"],
        "tokens": (("prompt", "set"), np.tile([13, 15, 9, 28], (prompts, 1))),
    }
    gate = {"sufficiency": 0.0, "necessity": 1.0}
    axes = ("set", "measure")
    return scores_of("graft", axes, effect, coords, total=totals, answer_gate=gate)


def effect(*, prompts: int = 12, seed: int = 0) -> Scores:
    """Total effects `(model, prompt)` of a student and two controls."""
    rng = np.random.default_rng(seed)
    total = rng.normal([[1.5], [0.2], [-0.1]], 0.3, size=(3, prompts))
    return scores_of("effect", (), total, {}, total=total)


def scan(
    prompts: Sequence[Sequence[Row]] | None = None,
    *,
    controls: int = 1,
    enters: int = 5,
    noise: float = 0.0,
    seed: int = 0,
) -> Scores:
    """Prefix scan `(model, prompt, measure, position)`: 0, then all of it from a token on; the
    necessity rises evenly over the prompt.
    """
    prompts = prompts or [chat(), chat(QUESTION[:5]), chat(QUESTION[2:])]
    coords = coordinates(prompts)
    role, rng = coords["role"][1], np.random.default_rng(seed)
    total = 1.5 + noise * rng.normal(size=(1 + controls, len(prompts)))
    total[1:] = noise * rng.normal(size=(controls, len(prompts)))
    lengths = ((role != "") & (role != "answer")).sum(1)
    at = np.arange(role.shape[1])
    steps = np.broadcast_to((at >= enters).astype(float), role.shape)
    rises = np.minimum(1, (at + 1) / lengths[:, None])
    effect = total[:, :, None, None] * np.stack([steps, rises], 1)
    effect = np.where((role != "")[None, :, None], effect, np.nan)
    coords |= {"measure": ["sufficiency", "necessity"]}
    axes = ("measure", "position")
    gate = {"sufficiency": 0.0, "necessity": 1.0}
    return scores_of("scan", axes, effect, coords, total=total, answer_gate=gate)


def dose(*, prompts: int = 8, power: float = 1.0, controls: int = 1, seed: int = 0) -> Scores:
    """Doses `(model, prompt, scale)` that go with a power of the scale."""
    scales = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
    rng = np.random.default_rng(seed)
    total = rng.normal([[2.0], [0.1]], 0.1, size=(2, prompts))[: 1 + controls]
    coords = {"scale": scales, "question": ("prompt", [f"Question {i}?" for i in range(prompts)])}
    effect = total[:, :, None] * scales**power
    return scores_of("dose", ("scale",), effect, coords, total=total, where="everything")


def direction(*, prompts: int = 8, layers: int = 4, controls: int = 1, seed: int = 0) -> Scores:
    """Directions `(model, prompt, layer, vector, measure)`: half of the graft, from layer to
    layer more; random ones do nothing.
    """
    rng = np.random.default_rng(seed)
    total = rng.normal([[2.0], [0.1]], 0.1, size=(2, prompts))[: 1 + controls]
    vectors = ["own", "random 1", "random 2", *["others'"] * bool(controls)]
    shape = (*total.shape, layers, len(vectors), 3)
    effect = rng.normal(scale=0.02, size=shape)
    effect[:, :, :, 0] += 0.5 * total[:, :, None, None] * np.linspace(0.2, 1, layers)[:, None]
    graft = np.stack([0.8 * total, 0.7 * total, np.full(total.shape, np.nan)], 2)
    coords = {
        "layer": np.arange(layers),
        "hook": ("layer", [f"blocks.{i}.hook_resid_post" for i in range(layers)]),
        "vector": vectors,
        "measure": ["added", "subtracted", "projected out"],
        "graft": (("model", "prompt", "measure"), graft),
        "norm": (("model", "layer"), np.ones((len(total), layers))),
        "question": ("prompt", [f"Question {i}?" for i in range(prompts)]),
    }
    axes = ("layer", "vector", "measure")
    fields = {"site": "resid_post", "where": "user", "n_layers": layers}
    return scores_of("direction", axes, effect, coords, total=total, **fields)


def stepped(make: Any, steps: Sequence[int] = (10, 20, 40)) -> Scores:
    """Scores of several steps of a training, those of each one of another seed."""
    parts = [make(seed=seed) for seed in range(len(steps))]
    first = parts[0]
    data = first.data.drop_vars(["effect", "student"])
    effect = xr.concat([one.data["effect"] for one in parts], "step")
    student = xr.concat([one.data["student"] for one in parts], "step")
    cells = [dim for dim in first.data["effect"].dims if dim not in ("model", "prompt")]
    data["effect"] = effect.transpose("model", "prompt", "step", *cells)
    data["student"] = student.transpose("model", "prompt", "step")
    data = data.assign_coords(step=list(steps))
    return Scores(data, first.kind, replace(first.record, run="runs/owl"))


def filled(scores: Scores) -> Scores:
    """The same scores, in which an attribution has all of it on the prompt's tokens, evenly."""
    if not scores.additive:
        return scores
    data, cell = scores.data, {"layer": 1, "module": 1}
    moved = data["student"] - data["base"]  # (model, prompt)
    even = scores.of_prompt / scores.of_prompt.sum("position")
    effect = data["effect"] * 0
    effect[cell] = (moved * even).transpose(*effect[cell].dims).values
    return replace(scores, data=data.assign(effect=effect.where(data["effect"].notnull())))


def confirmed(scores: Scores, *, poor: bool = False) -> Scores:
    """The same scores, confirmed on their 4 strongest and 3 random cells."""
    cells = tuple(
        {
            "prompt": 0,
            "layer": i % 4,
            "position": i,
            "top": i < 4,
            "estimate": 0.1 * i,
            "exact": 0.11 * i - 0.02,
        }
        for i in range(7)
    )
    confirmation = Confirmation(
        k=4,
        seed=0,
        pearson=0.93,
        spearman=0.88,
        sign=0.95,
        poor=poor,
        exact="patch",
        cells=cells,
    )
    # all models of the record are compared
    sources = scores.record.students
    students = {name: sources[name] for name in scores.data["model"].values.tolist()}
    return recorded(scores, confirmation=confirmation, students=students)


def rounded(scores: Scores, *, error: float = 0.013) -> Scores:
    """The same scores, as if they had been computed in bfloat16."""
    return recorded(scores, compute=Compute("bfloat16", error))


def scores_of(
    kind: str,
    axes: tuple[str, ...],
    effect: np.ndarray,
    coords: Mapping[str, Any],
    *,
    total: np.ndarray,
    **fields: Any,
) -> Scores:
    """Scores of given effects.

    Args:
        kind: one of `KINDS`.
        axes: names of the axes after model and prompt.
        effect: `(model, prompt, <axes>)`.
        coords: coordinates of the axes, positions and prompts.
        total: `(model, prompt)`.
        **fields: of the record.
    """
    base = np.full(total.shape, -6.0)
    data = xr.Dataset(
        {
            "effect": (("model", "prompt", *axes), effect),
            "base": (("model", "prompt"), base),
            "student": (("model", "prompt"), base + total),
        },
        {"model": list(MODELS[: len(effect)]), "prompt": np.arange(total.shape[1]), **coords},
    )
    record = replace(RECORD, **fields)
    return Scores(name_layers(data, record.n_layers), kind, record)


def _noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.05, size=shape)


# -------------------------------------------------------------------------------------- all of them


def all_scores() -> dict[str, Scores]:
    """Every kind with every set of axes, and what can be done to them."""
    return {
        "effect": effect(),
        "graft": graft(),
        "sweep": sweep(),
        "patch": patch(),
        "patch both": patch(both=True),
        "patch heads": patch(heads=3),
        "patch both heads": patch(both=True, heads=3),
        "patch sets": patched_sets(),
        "patch both sets": patched_sets(both=True),
        "patch head sets": patched_sets(heads=2),
        "attribution": attribution(),
        "gradient": gradient(),
        "gradient heads": gradient(heads=2),
        "gradient x input": gradient(method="gradient_x_input"),
        "confirmed": confirmed(attribution(), poor=True),
        "rounded": rounded(sweep()),
        "selected": patch(both=True, heads=3).sel(
            direction="noising", head=2, layer=[1, 2], prompt=1
        ),
        "some tokens": sweep().sel(position=[3, 4, 30]),
        "contrast": patch().minus(patch(seed=1)),
        "scan": scan(),
        "one curve": scan().sel(measure="necessity"),
        "dose": dose(),
        "direction": direction(),
        "steps": stepped(effect),
        "steps of grafts": stepped(graft),
        "steps of tokens": stepped(attribution),
    }
