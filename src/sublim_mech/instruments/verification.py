"""A self-test on the user's own models: do the identities hold that every score relies on?

    python -m sublim_mech verify BASE STUDENT [--control STUDENT ...] [--device cuda] [--dtype
    bfloat16]

Each check measures an error and compares it with a tolerance; the exit status is 1 where one fails.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import checked
from ..engine.branch import grow
from ..engine.forward import Edit, Gates, Key, Pass, Start
from ..engine.own_gates import refuse_gates
from ..engine.pair import ModelPair
from ..engine.parity import ParityError, Probe, check_parity, probe, rounding
from ..hints import counted
from ..metrics import TraitMetric
from ..models.deltas import LowRank, Replaced
from ..models.experts import find_experts
from ..models.names import Dimensions, Module
from ..models.parts import Several
from ..models.placement import device_of, has_own_forward, plain
from ..models.quantised import is_quantised, precision, square_norm
from ..models.students import Student, invocation_of
from ..prompts import Context, Prompt, Trait
from .graft_ig import graft_ig
from .neighbours import disagreement, spread
from .patching import Cell, Patch, Patched, patch_prompt
from .position_maps import Link
from .task import Task

COMPLETENESS_POINTS = (16, 64, 256)  # models with kinks (ReLU) converge slowly
LARGEST_GAP = 0.01  # of completeness, as a share of the cells' magnitudes
SHARES = (1 / 4, 1 / 16, 1 / 64)  # of the way to a student whose experts change on it
FIRST_OPEN = 8  # the token from which on the causality check opens gates
SWITCHED_ON = 3  # tokens at which a planted student is switched on


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

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        numbers = f"error {self.error:8.1e}  tolerance {self.tolerance:7.0e}"
        return f"{verdict}  {self.name}  {numbers}  {self.detail}"


@dataclass(frozen=True)
class Verification:
    """The checks of one pair; prints as a table."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)

    def __repr__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [str(replace(check, name=check.name.ljust(width))) for check in self.checks]
        count, failed = len(self.checks), sum(not check.passed for check in self.checks)
        if failed:
            return "\n".join([*lines, f"{counted(count, 'check')}, {failed} failed"])
        return "\n".join([*lines, f"all {counted(count, 'check')} passed"])


@checked
def verify(
    pair: ModelPair, prompts: Sequence[Prompt] | None = None, *, seed: int = 0
) -> Verification:
    """Check the identities that scores rely on, with these very models.

    Parity with Hugging Face's and PEFT's own models; one value per prompt, whatever stands beside
    it; gates 0 and 1; causality; self-patching; branches against whole runs; a LoRA planted at a
    random layer, and switched on at random positions only, is found there and nowhere else;
    completeness of graft IG; clean models after an exception. Under a minute for a model of 135M
    parameters on two CPU cores.

    Args:
        pair: base, student, controls.
        prompts: your own, of which some of all lengths are measured alone, beside the others, and
            by their models' own forwards; two short ones when not given.
        seed: of the planted LoRA, its layer and positions, and of the graft that prompts are
            measured under.

    Returns:
        A table of checks; `.passed` says whether all hold.

    Raises:
        TypeError, ValueError: see `Runner.check_prompts`; a prompt longer than the model.

    Example:
        >>> sm.verify(pair, prompts).passed
        True
    """
    if prompts is not None:
        pair.check_prompts(prompts)
        for prompt in prompts:
            pair.check_length(prompt, 1, what=" with its answer")
    refuse_gates(pair.students.values(), "verify")
    try:
        setting = _Setting.of(pair, seed, prompts)
        checks = _parity(pair, setting.tolerance)
    except Exception as error:  # a model that does not run at all: no identity can hold
        return Verification((_raised("runs a probe", error),))
    for check in (
        _one_value,
        _gates,
        _causality,
        _self_patch,
        _branches,
        _planted_layer,
        _planted_positions,
        _completeness,
        _clean_up,
    ):
        try:
            checks.append(check(setting))
        except Exception as error:  # a broken model may break anything; that is the finding
            checks.append(_raised(check.__name__.strip("_").replace("_", " "), error))
    return Verification(tuple(checks))


def _raised(name: str, error: Exception) -> Check:
    """A check that could not be made, which therefore failed."""
    said = " ".join(str(error).split())
    return Check(name, float("inf"), 0.0, f"raised {type(error).__name__}: {said}")


# ------------------------------------------------------------------------------------------ setting


@dataclass(frozen=True)
class _Setting:
    """What the checks share.

    Attributes:
        task: the probe, without the pair's compute type.
        planted: a student that differs at one layer only.
        layer: that layer.
        positions: where it is switched on.
        tolerance: of log-probabilities.
        beside: prompts of several lengths.
        seed: as given.
    """

    task: Task
    planted: Student
    layer: int
    positions: tuple[int, ...]
    tolerance: float
    beside: Task
    seed: int

    @classmethod
    def of(cls, pair: ModelPair, seed: int, prompts: Sequence[Prompt] | None) -> _Setting:
        """Draw layer, positions and the planted student."""
        rng = np.random.default_rng(seed)
        layer = _plantable(pair, int(rng.integers(pair.sites.n_layers)))
        waits_for = invocation_of(pair.student.deltas)
        given = probe(pair.model, waits_for)
        task = _probe_task(replace(pair, compute=None), given)
        few = spread(prompts) if prompts else [_probe_prompt(given.ids[:9]), task.prompts[0]]
        beside = Task(task.pair, tuple(few), task.answers * len(few), task.metric)
        length = len(task.prompts[0])
        positions = rng.choice(length - 1, size=SWITCHED_ON, replace=False)
        with torch.no_grad():
            log_probs = task.pair.run(task.batch([0])).logits.float().log_softmax(-1)
        tolerance = rounding(precision(pair.model), log_probs)
        planted = _plant(pair, layer, seed)
        places = tuple(sorted(positions.tolist()))
        return cls(task, planted, layer, places, tolerance, beside, seed)

    @property
    def pair(self) -> ModelPair:
        """The models."""
        return self.task.pair

    @property
    def layers(self) -> range:
        """All blocks."""
        return range(self.pair.sites.n_layers)

    @property
    def size(self) -> int:
        """Slots of the probe."""
        return self.task.size(0)

    def run(self, gates: Gates | None = None, **options: Any) -> Pass:
        """One pass over the probe."""
        with torch.no_grad():
            return self.pair.run(self.task.batch([0]), gates=gates, **options)


def _probe_task(pair: ModelPair, given: Probe) -> Task:
    """The probe as a task."""
    metric = TraitMetric("probe", (Trait.noun("probe"),), (1.0,))
    return Task(pair, (_probe_prompt(given.ids),), (given.answers,), metric)


def _probe_prompt(ids: tuple[int, ...]) -> Prompt:
    """Token ids as a prompt without text."""
    count = len(ids)
    return Prompt(
        question="probe",
        text="",
        ids=ids,
        tokens=tuple(f"<{i}>" for i in ids),
        offsets=((0, 0),) * count,
        roles=("user",) * count,
        turns=(0,) * count,
        turn_roles=("user",) * count,
        context=Context(),
    )


def _plant(pair: ModelPair, layer: int, seed: int) -> Student:
    """A student that differs by a random LoRA of rank 4 on one layer's MLP output (its attention's
    where the MLP is a mixture of experts), a tenth as large as the weight.
    """
    width = Dimensions.of(pair.model.config).width
    module = _writer(pair, layer, width)
    of: Any = plain(pair.model).get_submodule(module.path)
    like = next(pair.model.parameters())
    if is_quantised(of):
        inner, size = of.in_features, math.sqrt(square_norm(of, like.dtype))
    else:
        like = of.weight
        inner = like.numel() // width  # some models keep the weight transposed
        size = float(like.float().norm())
    rng = torch.Generator().manual_seed(seed)
    a = torch.randn(4, inner, generator=rng)
    b = torch.randn(width, 4, generator=rng)
    scale = 0.1 * size / float((b @ a).norm())
    device = device_of(pair.model.get_submodule(module.path))
    delta = LowRank(a.to(device, like.dtype), b.to(device, like.dtype), scale)
    return Student("planted", "lora", {module.path: delta}, pair.model, None, f"planted {seed}")


def _plantable(pair: ModelPair, drawn: int) -> int:
    """The layer that was drawn, or the next one that has a matrix to plant a student on."""
    width, layers = Dimensions.of(pair.model.config).width, pair.sites.n_layers
    for layer in (*range(drawn, layers), *range(drawn)):
        with contextlib.suppress(ValueError):
            _writer(pair, layer, width)
            return layer
    return drawn


def _writer(pair: ModelPair, layer: int, width: int) -> Module:
    """The matrix of a block that writes last into the residual stream.

    Raises:
        ValueError: the block has none.
    """
    here = [module for module in pair.sites.modules.values() if module.layer == layer]
    of_mlps = ["mlp.out", "down_proj", "c_proj", "w2", "output_linear", "channel_mix.out"]
    for name in [*of_mlps, "attn.o", "o_proj", "out_proj"]:
        for module in here:
            of: Any = pair.model.get_submodule(module.path)
            weight = getattr(of, "weight", None)
            if weight is None or not f".{module.name}".endswith(f".{name}"):
                continue
            if width in ((of.out_features,) if is_quantised(of) else weight.shape):
                return module
    known = ", ".join(module.name for module in here)
    raise ValueError(f"layer {layer} has no matrix to plant a student on; its modules are {known}.")


# ------------------------------------------------------------------------------------------- checks


def _parity(pair: ModelPair, tolerance: float) -> list[Check]:
    try:
        errors = check_parity(pair.model, pair.sites, pair.students, pair.layout)
    except ParityError as error:
        return [Check("parity", float("inf"), tolerance, str(error))]
    detail = "log-probabilities, its own model's forward"
    return [Check(f"parity: {name}", error, tolerance, detail) for name, error in errors.items()]


def _one_value(setting: _Setting) -> Check:
    found = disagreement(setting.beside, setting.seed)
    return Check("one value per prompt", found.error, setting.tolerance, found.detail)


def _gates(setting: _Setting) -> Check:
    student = setting.pair.student
    closed = torch.zeros(1, setting.size, student.width, device=setting.pair.device)
    off = setting.run(Gates(student, closed)).logits
    on = setting.run(Gates(student, closed + 1)).logits
    base, whole_student = setting.run().logits, setting.run(Gates(student)).logits
    error = _largest([_distance(off, base), _distance(on, whole_student)])
    detail = "base and student, a gate per token and module"
    return Check("gates 0 and 1", error, setting.tolerance, detail)


def _causality(setting: _Setting) -> Check:
    keys: list[Key] = [("resid_post", layer) for layer in setting.layers]
    gates = torch.zeros(1, setting.size, device=setting.pair.device)
    gates[:, FIRST_OPEN:] = 1
    plain = setting.run(record=keys).activations
    late = setting.run(Gates(setting.planted, gates), record=keys).activations
    errors = [_distance(plain[key][:, :FIRST_OPEN], late[key][:, :FIRST_OPEN]) for key in keys]
    detail = f"residual streams before token {FIRST_OPEN}, gates open from there on"
    return Check("causality", _largest(errors), 0.0, detail)


def _self_patch(setting: _Setting) -> Check:
    student = Gates(setting.pair.student)
    errors = []
    for site in setting.pair.sites.sites:
        keys: list[Key] = [(site, layer) for layer in setting.pair.sites.layers_of(site)]
        clean = setting.run(student, record=keys)
        edits = {key: _put_back(clean.activations[key]) for key in keys}
        errors.append(_distance(setting.run(student, edits=edits).logits, clean.logits))
    sites = ", ".join(setting.pair.sites.sites)
    # plain rows compute a token several times: they are the same but for rounding
    tolerance = setting.tolerance if setting.pair.layout.plain else 0.0
    return Check("self-patch", _largest(errors), tolerance, f"all layers, sites {sites}")


def _branches(setting: _Setting) -> Check:
    gates = Gates(setting.pair.student)
    trunk = grow(setting.pair, setting.task.prompts[0].ids, setting.task.answers[0], gates)
    errors = []
    # from the embeddings (-1) to what follows the last block
    for layer in range(-1, setting.pair.sites.n_layers + 1):
        slot = (5 * layer + 7) % (trunk.first_read + 1)  # another one at every layer
        with torch.no_grad():
            logits = trunk.branch(layer, slot, rows=1, gates=gates)
        errors.append(_distance(logits, trunk.done.logits))
    detail = "runs that start at a later layer and token, whole runs"
    if setting.pair.layout.plain:
        detail = "whole runs: this model takes no others"
    return Check("branches", _largest(errors), setting.tolerance, detail)


def _planted_layer(setting: _Setting) -> Check:
    single_slots = [(Link(slot, slot),) for slot in range(setting.size)]
    whole_row = [tuple(Link(slot, slot) for slot in range(setting.size))]
    before = _patch(setting, "resid_pre", setting.layers[: setting.layer + 1], single_slots)
    after = _patch(setting, "resid_post", setting.layers[setting.layer :], whole_row)
    total = after.student - after.base
    error = _largest([np.abs(before.effect).max(), np.abs(after.effect - total).max()])
    detail = f"LoRA on layer {setting.layer} alone: no effect before it, all of it after it"
    return Check("planted layer", error, setting.tolerance, detail)


def _patch(setting: _Setting, site: str, layers: Sequence[int], cells: Sequence[Cell]) -> Patched:
    plan = Patch(site, tuple(layers), (None,), tuple(cells))
    return patch_prompt(setting.task, setting.task, setting.planted, 0, plan)


def _planted_positions(setting: _Setting) -> Check:
    gates = torch.zeros(1, setting.size, device=setting.pair.device)
    gates[:, list(setting.positions)] = 1
    key = ("resid_post", setting.layer)
    base = setting.run(record=[key]).activations[key]
    grafted = setting.run(Gates(setting.planted, gates), record=[key]).activations[key]
    moved = (grafted - base).abs().amax(-1)[0]
    places = tuple(torch.nonzero(moved).flatten().tolist())
    detail = f"switched on at {setting.positions}, found at {places}"
    return Check("planted positions", float(places != setting.positions), 0.0, detail)


def _completeness(setting: _Setting) -> Check:
    if not setting.task.pair.student.width:
        detail = "the student changes nothing, so that there are no cells to add up"
        return Check("completeness", 0.0, LARGEST_GAP, detail)
    mixture = bool(find_experts(setting.pair.model))
    few = COMPLETENESS_POINTS[:2] if mixture else COMPLETENESS_POINTS
    error, points = _gap(setting.task, setting.tolerance, few)
    detail = f"graft IG, {points} points: gap over the sum of the cells' magnitudes"
    if mixture and error > LARGEST_GAP:
        # a router that turns to other experts makes the metric jump, and no gradient shows a jump;
        # the path's beginning, between two such turns, has none
        jump = error
        for share in SHARES:
            pair = replace(setting.pair, student=_part(setting.pair.student, share))
            error, points = _gap(replace(setting.task, pair=pair), share * setting.tolerance)
            if error <= LARGEST_GAP:
                break
        detail = (
            f"graft IG, {points} points, over the first {share:.2g} of the way to the student "
            f"(on the whole way, on which experts change, {jump:.1e}): gap over the sum of the "
            "cells' magnitudes"
        )
    return Check("completeness", error, LARGEST_GAP, detail)


def _gap(
    task: Task, smallest: float, tried: Sequence[int] = COMPLETENESS_POINTS
) -> tuple[float, int]:
    """How far graft IG's cells are from adding up, over their magnitudes, and with how many points
    (as many as it takes).
    """
    error, points = float("inf"), 0
    for points in tried:
        scores = graft_ig(task, points=points, progress=False)
        cells = scores.data["effect"]
        axes = [dim for dim in cells.dims if dim != "model"]
        total = (scores.data["student"] - scores.data["base"]).sum("prompt")
        gap = abs(cells.sum(axes) - total)
        # a student like its base has no magnitude to divide by
        magnitude = abs(cells).sum(axes).clip(min=smallest)
        error = float((gap / magnitude).max(skipna=False))
        if error <= LARGEST_GAP:
            break
    return error, points


@dataclass(frozen=True)
class _Part(Replaced):
    """A share of a difference that is no low-rank pair."""

    whole: Any = None
    share: float = 1.0

    def __call__(self, output: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        change: Tensor = self.share * self.whole(output, *args, **kwargs)
        return change


def _part(student: Student, share: float) -> Student:
    """A student that goes a share of the way: its gate 1 is the student's gate `share`. Of a split
    student the whole, whose parts add up to it.
    """
    deltas = {path: _scaled(delta, share) for path, delta in student.deltas.items()}
    return replace(student, deltas=deltas, split_by="", parts={})


def _scaled(delta: Any, share: float) -> Any:
    """A share of a difference."""
    if isinstance(delta, LowRank):
        return replace(delta, scale=share * delta.scale)
    if isinstance(delta, Several):
        return replace(delta, deltas=tuple(_scaled(one, share) for one in delta.deltas))
    return _Part(delta.module, share * delta.distance, delta.hash, delta, share)


def _clean_up(setting: _Setting) -> Check:
    before = setting.run().logits
    last = setting.pair.sites.n_layers - 1

    def explode(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    # a run that starts late swaps the forwards of the blocks before it: they must come back too
    hidden = setting.run(record=[("resid_pre", last)]).activations["resid_pre", last]
    with contextlib.suppress(KeyboardInterrupt):
        start = None if setting.pair.layout.plain else Start(last, hidden)
        setting.run(Gates(setting.planted), edits={("resid_post", last): explode}, start=start)
    left = sum(_left_behind(module) for module in setting.pair.model.modules())
    error = left + _distance(setting.run().logits, before)
    detail = "hooks left and logits changed after an interrupted run"
    return Check("clean-up", error, 0.0, detail)


def _left_behind(module: torch.nn.Module) -> int:
    """Hooks, forwards and modes that a run should have taken back; accelerate's forwards stay."""
    hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
    return hooks + (not has_own_forward(module)) + module.training


def _put_back(activation: Tensor) -> Edit:
    return lambda _: activation


def _largest(errors: Sequence[float]) -> float:
    """The largest of some errors; NaN where one is, which Python's `max` may pass over."""
    return float(np.max(errors))


def _distance(x: Tensor, y: Tensor) -> float:
    return float((x.float() - y.float()).abs().max())
