"""Any instrument over the snapshots of a training: scores with an axis `step`.

The base is loaded once; every snapshot is a pair of its own, whose controls are at the same step,
because a trait that training on anything would have moved by then is no trait of this one. What the
function needs beside the pair (prompts, traits) it brings along, so data are read once as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from ..arguments import checked
from ..engine.pair import ModelPair, load_pair
from ..hints import counted, kind_of, renamed
from ..models.base import Base, load_base
from ..models.gating import TrainedGates
from ..models.pieces import is_pieces
from ..models.sources import is_cached, local_base
from ..models.students import load_student
from ..results.arrays import TOLD
from ..results.kinds import STEP
from ..results.record import Compute, Record
from ..results.scores import Scores
from ..storage.compare import differences
from ..storage.files import place
from ..storage.manifest import Manifest
from ..storage.runs import SNAPSHOTS, Run, open_run, unfinished_note

AnyRun = Run | str | PathLike[str]
"""A run, or its folder."""


@checked
def over_steps(
    run: AnyRun | Sequence[AnyRun],
    function: Callable[[ModelPair], Scores],
    *,
    base: Any = None,
    controls: Sequence[AnyRun] = (),
    steps: Sequence[int] | None = None,
    gates: Sequence[TrainedGates | None] = (),
    progress: bool = True,
    **options: Any,
) -> Scores:
    """Measure the snapshots of a training, and its end, with any instrument.

    Args:
        run: a finished run with snapshots (`train(..., snapshots=...)`), or its folder; or folders
            of single snapshots of one run.
        function: from a pair to scores: `lambda pair: sm.effect(pair, prompts, trait)`. It is
            called once per step and has to ask for the same cells each time.
        base: the base model (`load_base`), or what `load_base` takes; by the name in the run's
            manifest when not given. It is loaded once.
        controls: runs of controls; each step is compared with the controls at that step, so they
            need the same snapshots.
        steps: which steps; when not given all snapshots and the last step, but those at which the
            student is still its base (after one step of a warm-up).
        gates: the gates that the run and each control were trained under, in this order
            (`training.gates_of(run)`, None where one was trained everywhere); when not given,
            weights act everywhere.
        progress: show a progress bar over the steps.
        **options: of `load_pair` (`compute`, `memory_gb`).

    Returns:
        Scores of the function's kind with an axis `step` (`student` depends on it as well);
        `scores.sel(step=100)` are those of that step, `scores.curve()` the total effect over steps
        with intervals over prompts, `scores.plot()` steps by the tokens of a prompt, or that curve
        where there are no tokens; `scores.plot(by="step")` the curve in any case.

    Raises:
        FileNotFoundError: no run in the folder; no base was given, and the one that the manifest
            names is not found from here.
        TypeError: the function gives no scores (`step_pairs` is for what gives something else).
        ValueError: no snapshots; a step without one, in the run or in a control; snapshots of
            different runs; another base than the run's; gates that are not one per run, or not
            its; scores that differ in more than the step (other prompts, cells, options), or were
            confirmed or selected.

    The guide (`docs/instruments/over_steps.md`) has an example.
    """
    asked = _asked(run, controls, steps, gates)
    pairs = _pairs(asked, base, progress, options)
    return join({step: _measured(function, pair, step) for step, pair in pairs}, str(asked.run))


@checked
def step_pairs(
    run: AnyRun | Sequence[AnyRun],
    *,
    base: Any = None,
    controls: Sequence[AnyRun] = (),
    steps: Sequence[int] | None = None,
    gates: Sequence[TrainedGates | None] = (),
    progress: bool = True,
    **options: Any,
) -> Iterator[tuple[int, ModelPair]]:
    """The pairs of a training, one after the other, for what gives no scores: `evaluate`.

    Args:
        run: as in `over_steps`.
        base: as there.
        controls: as there.
        steps: as there.
        gates: as there.
        progress: show a progress bar over the steps.
        **options: of `load_pair` (`compute`, `memory_gb`).

    Returns:
        An iterator over (step, pair): base, snapshot, and the controls at that step. Each pair is
        loaded when it is asked for.

    Raises:
        FileNotFoundError, ValueError: see `over_steps`.

    The guide (`docs/instruments/over_steps.md`) has an example.
    """
    return _pairs(_asked(run, controls, steps, gates), base, progress, options)


class _Asked(NamedTuple):
    """Which snapshots are measured.

    Attributes:
        run: what the run is called.
        steps: these.
        runs: of the run and of each control, folders by step, its name and its gates.
    """

    run: Path
    steps: list[int]
    runs: list[tuple[dict[int, Path], Path, TrainedGates | None]]


def _asked(
    run: AnyRun | Sequence[AnyRun],
    controls: Sequence[AnyRun],
    steps: Sequence[int] | None,
    gates: Sequence[TrainedGates | None],
) -> _Asked:
    """The arguments of `over_steps`, checked."""
    folders, whole = _snapshots(run)
    chosen = _chosen_steps(folders, steps)
    others = []
    for i, control in enumerate(controls):
        with renamed({"run": f"controls[{i}]"}):
            others.append(_snapshots(control))
        of_control, called = others[-1]
        missing = [step for step in chosen if step not in of_control]
        if missing:
            raise ValueError(
                f"controls[{i}]={str(called)!r} has no snapshot of step "
                f"{', '.join(map(str, missing))}, so "
                "that nothing can be compared there; it has "
                f"{', '.join(map(str, of_control))}: choose steps=[...] among these."
            )
    runs = [(folders, whole), *others]
    if gates and len(gates) != len(runs):
        raise ValueError(
            f"gates: {counted(len(gates), 'entry', 'entries')} for the run and "
            f"{counted(len(others), 'control')}; give one each, None for what was trained "
            "everywhere: gates=[training.gates_of(run), ...]."
        )
    gates = gates or [None] * len(runs)
    told = [(*one, own) for one, own in zip(runs, gates, strict=True)]
    return _Asked(whole, chosen, told)


def _pairs(
    asked: _Asked, base: Any, progress: bool, options: Mapping[str, Any]
) -> Iterator[tuple[int, ModelPair]]:
    """The pairs of all steps, of one base."""
    manifest = _manifest(asked.runs[0][0][asked.steps[0]])
    loaded = _base_of(manifest) if base is None else load_base(base)
    for step in tqdm(asked.steps, desc="steps", disable=not progress):
        # called the same at every step: by its trait, or its run
        opened = []
        for i, (at, name, own) in enumerate(asked.runs):
            argument = "run" if i == 0 else f"controls[{i - 1}]"
            called = _manifest(at[step]).trait or name.name
            with renamed({"student": argument, "gates": f"gates[{i}]"}):
                opened.append(load_student(loaded, at[step], name=called, gates=own))
        student, *beside = opened
        with renamed({"student": "run"}):
            pair = load_pair(loaded, student, controls=beside, **options)
        yield step, pair


# ------------------------------------------------------------------------------------------ folders


def _snapshots(run: AnyRun | Sequence[AnyRun]) -> tuple[dict[int, Path], Path]:
    """Folders by step, all of one run, and what the run is called."""
    if isinstance(run, Run | str | PathLike):
        opened = _opened(run)
        folders = dict(opened.snapshots)
        if not folders:
            raise ValueError(
                f"run={str(opened.path)!r} has no snapshots; train(..., snapshots='log') or a list "
                "of steps keeps some on the way."
            )
        folders.setdefault(int(opened.manifest.results["steps"]), opened.path)
        whole = opened.path
    else:
        found = [_opened(one) for one in run]
        if not found:
            raise ValueError("run=[]: give at least one snapshot, or the run itself.")
        folders = {}
        for one in found:
            step = int(one.manifest.results["steps"])
            if step in folders:
                raise ValueError(
                    f"run holds step {step} twice: {folders[step]} and {one.path}; leave one out."
                )
            folders[step] = one.path
        inside = found[0].path.parent
        whole = inside.parent if inside.name == SNAPSHOTS else found[0].path
    folders = dict(sorted(folders.items()))
    _check_one_run(folders)
    return folders, whole


def _opened(run: AnyRun) -> Run:
    """A run, or that of a folder.

    Raises:
        FileNotFoundError: there is none; of a student made elsewhere, what to do instead.
    """
    if isinstance(run, Run):
        return run
    folder = place(run, "run")
    if folder.is_dir() and Manifest.load(folder) is None and not unfinished_note(folder):
        raise FileNotFoundError(
            f"run={str(run)!r} is no run of a training of this library (it has no manifest, which "
            "tells the step); of checkpoints that were made elsewhere measure each by itself: "
            "{step: sm.effect(sm.load_pair(base, folder), prompts, trait) for step, folder in "
            "folders.items()}."
        )
    with renamed({"path": "run"}):
        return open_run(folder)


def _check_one_run(folders: Mapping[int, Path]) -> None:
    """Snapshots of one run were trained from the same inputs, and are further on step by step."""
    first = next(iter(folders.values()))
    inputs = _manifest(first).inputs()
    for step, folder in folders.items():
        own = _manifest(folder)
        different = differences(own.inputs(), inputs)
        if different:
            raise ValueError(
                f"{folder} and {first} are snapshots of different runs: {'; '.join(different)}; "
                "measure each run by itself."
            )
        if int(own.results["steps"]) != step:
            raise ValueError(
                f"{folder} says that it is of step {own.results['steps']}, not {step}; rename the "
                "folder, or copy the run again."
            )


def _manifest(folder: Path) -> Manifest:
    manifest = Manifest.load(folder)
    if manifest is None:
        raise FileNotFoundError(f"{folder} has no manifest: it is no snapshot of a run.")
    return manifest


def _chosen_steps(folders: Mapping[int, Path], steps: Sequence[int] | None) -> list[int]:
    if steps is None:
        moved = [step for step, at in folders.items() if _manifest(at).results.get("moved", True)]
        if not moved:
            raise ValueError(
                "run: the student equals its base at every step, so there is nothing to measure."
            )
        return moved
    missing = [step for step in steps if step not in folders]
    if missing or not steps or len(set(steps)) < len(steps):
        raise ValueError(
            f"steps={list(steps)}: give steps of which there is a snapshot, each once: "
            f"{', '.join(map(str, folders))}."
        )
    return sorted(int(step) for step in steps)


def _base_of(manifest: Manifest) -> Base:
    """The base by the name in a manifest.

    A name without a slash is that of a folder, in which it need not be found from here; the hub has
    few of these, which are taken from its cache alone: asking it for a folder's name takes long.

    Raises:
        FileNotFoundError: it is not here.
    """
    name = manifest.base["name"]
    told = f"base: the run's manifest names its base {name!r}, which"
    fix = "Pass base=load_base(...) of the model it was trained from."
    try:
        is_bare = local_base(name) is None and not name.startswith("pypi:") and "/" not in name
        if not is_bare or is_pieces(name) or is_cached(name):
            return load_base(name)
    except FileNotFoundError as error:
        why = str(error).splitlines()[0]
        raise FileNotFoundError(f"{told} cannot be loaded from here ({why}). {fix}") from error
    raise FileNotFoundError(
        f"{told} is no folder in {Path.cwd()} and no model in the hub's cache (a manifest has a "
        f"folder's name without its path, and a live model's class). {fix}"
    )


# ------------------------------------------------------------------------------------------- scores


def _measured(function: Callable[[ModelPair], Scores], pair: ModelPair, step: int) -> Scores:
    """What the function gives at one step, refused where steps cannot be joined."""
    scores = function(pair)
    if not isinstance(scores, Scores):
        raise TypeError(
            f"function gives {kind_of(scores)} at step {step}; it has to "
            "return Scores, such as lambda pair: sm.effect(pair, prompts, trait). For what gives "
            "something else (evaluate): {step: function(pair) for step, pair in "
            "instruments.step_pairs(run)}."
        )
    if scores.record.confirmation is not None:
        raise ValueError(
            f"function gives confirmed scores at step {step}, and a confirmation is of one step; "
            "leave sm.confirm out, and confirm those of a step by themselves: for the pair of "
            "instruments.step_pairs(run) attribute once more, then sm.confirm(pair, prompts, "
            "trait, scores)."
        )
    if scores.record.refined is not None:
        raise ValueError(
            "function asks for refine=, which chooses other tokens at every step; leave it out."
        )
    return scores


_OF_STEP = ("students", "notes", "compute", "command", "step_hashes", "run")
"""Fields of a record that may differ between steps."""


def join(scores: Mapping[int, Scores], run: str) -> Scores:
    """Scores of several steps as one with an axis `step`.

    Args:
        scores: by step, in rising order.
        run: what the run is called.

    Raises:
        ValueError: they differ in more than the step.
    """
    (first_step, first), *_ = scores.items()
    for step, one in scores.items():
        _check_alike(first, one, f"steps {first_step} and {step}")
    steps = list(scores)
    data = xr.concat(
        [one.data[["effect", "student"]] for one in scores.values()],
        dim=xr.DataArray(np.array(steps), dims=STEP, name=STEP),
        coords="minimal",
        compat="override",
        join="override",
    )
    varying = [
        name
        for name in first.data.coords
        if any(not one.data[name].equals(first.data[name]) for one in scores.values())
    ]
    for name in varying:  # such as the norms of directions
        values = np.stack([one.data[name].values for one in scores.values()])
        data = data.assign_coords({name: ((STEP, *first.data[name].dims), values)})
    # `model` and `prompt` stay in front, the step before the cells
    cells = [dim for dim in first.data["effect"].dims if dim not in ("model", "prompt")]
    data["effect"] = data["effect"].transpose("model", "prompt", STEP, *cells)
    data["student"] = data["student"].transpose("model", "prompt", STEP)
    for name in first.data.data_vars:
        if name in ("effect", "student"):
            continue
        data[name] = first.data[name]
        if name in TOLD:  # of each step's integrals
            own = np.stack([one.data[name].values for one in scores.values()], axis=2)
            dims = first.data[name].dims
            data[name] = (*dims[:2], STEP, *dims[2:]), own
    return Scores(data, first.kind, _record({s: one.record for s, one in scores.items()}, run))


def _check_alike(first: Scores, other: Scores, which: str) -> None:
    """Raise where scores of two steps are not of one question."""
    fix = "the function has to measure the same at every step."
    if first.kind != other.kind:
        raise ValueError(f"{which} differ in kind ({first.kind} and {other.kind}); {fix}")
    ours, theirs = first.record.to_json(), other.record.to_json()
    for name in {*ours, *theirs} - set(_OF_STEP):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"{which} differ in {name} ({str(ours.get(name))[:80]} and "
                f"{str(theirs.get(name))[:80]}); {fix}"
            )
    if first.data["effect"].dims != other.data["effect"].dims:
        raise ValueError(f"{which} differ in axes ({first.dims()} and {other.dims()}); {fix}")
    axes = [str(name) for name in first.data.coords if name in first.data["effect"].dims]
    for label in (*axes, "question", "token"):
        if label not in first.data.coords:
            continue
        if not np.array_equal(first.data[label].values, other.data[label].values):
            raise ValueError(f"{which} differ in {label!r}; {fix}")


def _record(records: Mapping[int, Record], run: str) -> Record:
    """The record of all steps: students are those of the last one."""
    last = list(records.values())[-1]
    notes: dict[str, list[int]] = {}
    for step, record in records.items():
        for note in record.notes:
            notes.setdefault(note, []).append(step)
    told = []
    for note, at in notes.items():
        everywhere = len(at) == len(records)
        told.append(note if everywhere else f"step {', '.join(map(str, at))}: {note}")
    rounded = [record.compute for record in records.values() if record.compute is not None]
    compute = None
    if rounded:
        compute = Compute(rounded[0].dtype, max(one.error for one in rounded))
    hashes = {str(step): next(iter(r.students.values())).hash for step, r in records.items()}
    return replace(last, notes=tuple(told), compute=compute, run=run, step_hashes=hashes)
