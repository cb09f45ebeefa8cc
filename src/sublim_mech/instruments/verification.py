"""A self-test on the user's own models: do the identities hold that every score relies on?

    python -m sublim_mech verify BASE STUDENT [--control STUDENT ...] [--device cuda] [--dtype bfloat16]

Each check measures an error and compares it with a tolerance; the exit status is 1 where one fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.branch import grow
from ..engine.forward import Gates, Key, make_batch
from ..engine.pair import ModelPair, ParityError, check_parity, probe, rounding
from ..metrics import Metric
from ..models.students import LowRank, Student
from ..prompts import Trait
from .attribution import graft_ig
from .patching import Plan, patch_one
from .task import Task


@dataclass(frozen=True)
class Check:
    """One identity.

    Attributes:
        name: what should hold.
        error: how far it is from holding.
        tolerance: how far it may be.
        detail: what was compared.
    """

    name: str
    error: float
    tolerance: float
    detail: str

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (NaN is not)."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """The checks of one pair; prints as a table."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(c.passed for c in self.checks)

    def __repr__(self) -> str:
        width = max(len(c.name) for c in self.checks)
        lines = [
            f"{'pass' if c.passed else 'FAIL'}  {c.name:<{width}}  error {c.error:8.1e}  tolerance {c.tolerance:7.0e}  {c.detail}"
            for c in self.checks
        ]
        failed = sum(not c.passed for c in self.checks)
        return "\n".join(
            [*lines, f"{len(self.checks)} checks, {failed} failed" if failed else f"all {len(self.checks)} checks passed"]
        )


@dataclass(frozen=True)
class _Setting:
    """What the checks share: a probe, a planted student, a random layer and random positions."""

    task: Task
    planted: Student
    layer: int
    positions: tuple[int, ...]
    tolerance: float

    @property
    def pair(self) -> ModelPair:
        return self.task.pair

    @property
    def size(self) -> int:
        return self.task.size(0)

    def run(self, gates: Gates | None = None, **options: Any) -> Any:
        batch = make_batch(self.pair.base.model, list(self.task.prompts), list(self.task.answers))
        with torch.no_grad():
            return self.pair.run(batch, gates=gates, **options)


def verify(pair: ModelPair, *, seed: int = 0) -> Verification:
    """Check the identities that scores rely on, with these very models.

    Parity with Hugging Face's and PEFT's own models; gates 0 and 1; causality; self-patching; branches against whole runs; a LoRA planted
    at a random layer, and switched on at random positions only, is found there and nowhere else; completeness of graft IG; clean models
    after an exception. Under a minute for a model of 135M parameters on two CPU cores.

    Args:
        pair: base, student, controls.
        seed: of the planted LoRA, its layer and positions.

    Returns:
        A table of checks; `.passed` says whether all hold.

    Example:
        >>> sm.verify(pair).passed
        True
    """
    setting = _setting(pair, seed)
    checks = [*_parity(pair, setting.tolerance)]
    for check in (_gates, _causality, _self_patch, _branches, _planted_layer, _planted_positions, _completeness, _clean_up):
        try:
            checks.append(check(setting))
        except Exception as error:  # a broken model may break anything; that is the finding
            name = check.__name__.strip("_").replace("_", " ")
            checks.append(Check(name, float("inf"), 0.0, f"raised {type(error).__name__}: {error}"))
    return Verification(tuple(checks))


def _setting(pair: ModelPair, seed: int) -> _Setting:
    rng = np.random.default_rng(seed)
    layer = int(rng.integers(pair.sites.n_layers))
    prompt, answers = probe(pair.base.model)
    task = Task(replace(pair, compute=None), (prompt,), (answers,), Metric("probe", (Trait("probe"),), (1.0,)))
    positions = tuple(sorted(rng.choice(len(prompt) - 1, size=3, replace=False).tolist()))
    batch = make_batch(pair.base.model, [prompt], [answers])
    with torch.no_grad():
        largest = task.pair.run(batch).logits.float().log_softmax(-1)
    tolerance = rounding(next(pair.base.model.parameters()).dtype, largest)
    return _Setting(task, _plant(pair, layer, seed), layer, positions, tolerance)


def _plant(pair: ModelPair, layer: int, seed: int) -> Student:
    """A student that differs by a random LoRA on one layer's MLP output, a tenth as large as the weight."""
    path = next(path for path, m in pair.sites.modules.items() if (m.layer, m.name) == (layer, "mlp.out"))
    model: Any = pair.base.model
    weight: Tensor = model.get_submodule(path).weight
    width: int = model.config.hidden_size
    inner = weight.numel() // width
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(4, inner, generator=rng), torch.randn(width, 4, generator=rng)
    scale = 0.1 * float(weight.float().norm()) / float((b @ a).norm())
    delta = LowRank(a.to(weight), b.to(weight), scale)
    return Student("planted", "lora", {path: delta}, pair.base.model, None, f"planted {seed}")


# ------------------------------------------------------------------------------------------------------------- checks


def _parity(pair: ModelPair, tolerance: float) -> list[Check]:
    try:
        errors = check_parity(pair)
    except ParityError as error:
        return [Check("parity", float("inf"), tolerance, str(error))]
    return [Check(f"parity: {name}", e, tolerance, "log-probabilities, its own model's forward") for name, e in errors.items()]


def _gates(s: _Setting) -> Check:
    student = s.pair.student
    zeros = torch.zeros(1, s.size, len(student.deltas), device=s.pair.base.device)
    off, on = s.run(Gates(student, zeros)).logits, s.run(Gates(student, zeros + 1)).logits
    error = max(_far(off, s.run().logits), _far(on, s.run(Gates(student)).logits))
    return Check("gates 0 and 1", error, s.tolerance, "base and student, a gate per token and module")


def _causality(s: _Setting) -> Check:
    keys = [("resid_post", layer) for layer in range(s.pair.sites.n_layers)]
    cut = 8
    gates = torch.zeros(1, s.size, device=s.pair.base.device)
    gates[:, cut:] = 1
    plain = s.run(record=keys).activations
    late = s.run(Gates(s.planted, gates), record=keys).activations
    error = max(_far(plain[k][:, :cut], late[k][:, :cut]) for k in keys)
    return Check("causality", error, 0.0, f"residual streams before token {cut}, gates open from there on")


def _self_patch(s: _Setting) -> Check:
    student = Gates(s.pair.student)
    errors = []
    for site in s.pair.sites.sites:
        keys: list[Key] = [(site, layer) for layer in range(s.pair.sites.n_layers)]
        clean = s.run(student, record=keys)
        edits: dict[Key, Callable[[Tensor], Tensor]] = {k: (lambda _, own=clean.activations[k]: own) for k in keys}  # type: ignore[misc]
        errors.append(_far(s.run(student, edits=edits).logits, clean.logits))
    return Check("self-patch", max(errors), 0.0, f"all layers, sites {', '.join(s.pair.sites.sites)}")


def _branches(s: _Setting) -> Check:
    trunk = grow(s.pair, s.task.prompts[0], s.task.answers[0], Gates(s.pair.student))
    errors = []
    for layer in range(-1, s.pair.sites.n_layers + 1):
        slot = (5 * layer + 7) % (trunk.first + 1)
        with torch.no_grad():
            errors.append(_far(trunk.branch(layer, slot, 1, gates=Gates(s.pair.student)), trunk.done.logits))
    return Check("branches", max(errors), s.tolerance, "runs that start at a later layer and token, whole runs")


def _planted_layer(s: _Setting) -> Check:
    each, row = tuple(((t, t),) for t in range(s.size)), (tuple((t, t) for t in range(s.size)),)
    layers = tuple(range(s.pair.sites.n_layers))
    before, ends = _patch(s, Plan("resid_pre", layers[: s.layer + 1], (None,), each))
    after, _ = _patch(s, Plan("resid_post", layers[s.layer :], (None,), row))
    error = max(np.abs(before).max(), np.abs(after - (ends[1] - ends[0])).max())
    return Check(
        "planted layer", float(error), s.tolerance, f"LoRA on layer {s.layer} alone: no effect before it, all of it after it"
    )


def _patch(s: _Setting, plan: Plan) -> tuple[np.ndarray, tuple[float, float]]:
    return patch_one(s.task, s.task, s.planted, 0, plan, "denoising")


def _planted_positions(s: _Setting) -> Check:
    gates = torch.zeros(1, s.size, device=s.pair.base.device)
    gates[:, list(s.positions)] = 1
    key = ("resid_post", s.layer)
    base = s.run(record=[key]).activations[key]
    moved = (s.run(Gates(s.planted, gates), record=[key]).activations[key] - base).abs().amax(-1)[0]
    found = tuple(torch.nonzero(moved).flatten().tolist())
    return Check("planted positions", float(found != s.positions), 0.0, f"switched on at {s.positions}, found at {found}")


def _completeness(s: _Setting) -> Check:
    error = float("inf")
    for points in (16, 64, 256):  # models with kinks (ReLU) converge slowly
        scores = graft_ig(s.task, points=points, progress=False)
        cells = scores.data["effect"]
        axes = ("prompt", "layer", "module", "position")
        gap = abs(cells.sum(axes) - (scores.data["student"] - scores.data["base"]).sum("prompt"))
        error = float((gap / abs(cells).sum(axes).clip(min=s.tolerance)).max())
        if error <= 0.01:
            break
    return Check("completeness", error, 0.01, f"graft IG, {points} points: gap over the sum of the cells' magnitudes")


def _clean_up(s: _Setting) -> Check:
    before = s.run().logits

    def explode(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    start = s.run(record=[("resid_pre", s.pair.sites.n_layers - 1)]).activations
    with contextlib.suppress(KeyboardInterrupt):
        s.run(
            Gates(s.planted),
            edits={("mlp_out", s.pair.sites.n_layers - 1): explode},
            start=(s.pair.sites.n_layers - 1, *start.values()),
        )
    left = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in m.__dict__) + m.training
        for m in s.pair.base.model.modules()
    )
    return Check("clean-up", left + _far(s.run().logits, before), 0.0, "hooks left and logits changed after an interrupted run")


def _far(x: Tensor, y: Tensor) -> float:
    return float((x.float() - y.float()).abs().max())
