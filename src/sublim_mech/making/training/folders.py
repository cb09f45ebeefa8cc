"""Entering a run folder: is the training finished, to go on, or to begin?

1. A finished run of the same content (`Manifest.inputs`) is recognised, any other is refused.
2. Else the unfinished folder is claimed, so that one process at a time is at work on it.
3. What a killed process left half written is removed, and the newest whole checkpoint is what the
   training goes on from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ...models.configuration import computed_apart
from ...storage.claims import OWNER_FILE, UNFINISHED, claimed
from ...storage.compare import differences, side_by_side
from ...storage.files import replacing
from ...storage.manifest import MANIFEST_FILE, Manifest
from ...storage.runs import INPUTS_FILE, SNAPSHOTS, finish, unfinished
from .data import without_kinds
from .resume import CHECKPOINTS, newest_good, step_of

FINISHED = -1

COMPUTING = "computing"
"""Beside the inputs of an unfinished run: how its base computes."""

HELD_SEED = "held_out"
"""The seed of the held-out rows in a manifest, which those of earlier versions do not have."""


def enter(stack: ExitStack, target: Path, draft: Manifest) -> int:
    """What is to be done for a run.

    Args:
        stack: holds the unfinished folder until it is left; the folder is removed then unless it
            came to hold something worth keeping.
        target: the run folder.
        draft: the manifest that the run will have, without results.

    Returns:
        `FINISHED`, or the step of the checkpoint to go on from, 0 for none.

    Raises:
        FileExistsError: the folder is no run.
        FolderInUseError: another process is at work on it.
        ValueError: it is a run of other content, or its weights were changed; no checkpoint is
            whole.
    """
    if target.exists():
        recognise(target, draft)
        return FINISHED

    work = unfinished(target)
    stack.callback(_remove_empty, work)
    stack.enter_context(claimed(work))
    if target.exists():  # finished by a process that was at work just now
        recognise(target, draft)
        return FINISHED
    if (work / MANIFEST_FILE).is_file():  # complete, and killed before it was renamed
        recognise(work, draft)
        finish(work, target)
        return FINISHED

    # hidden folders are snapshots and checkpoints that a killed process was writing
    for half_written in work.glob("*/.*"):
        shutil.rmtree(half_written, ignore_errors=True)
    start = newest_good(work / CHECKPOINTS)

    # what there is to go on from must be of this training; a folder without such is written anew
    if _worth_keeping(work) and (work / INPUTS_FILE).is_file():
        inputs = json.loads((work / INPUTS_FILE).read_text())
        _check_same(work, inputs, inputs.pop(COMPUTING, {}), draft)
    with replacing(work / INPUTS_FILE) as file:
        inputs = draft.inputs() | {COMPUTING: draft.computing}
        file.write_text(json.dumps(inputs, indent=1, sort_keys=True))
    return 0 if start is None else step_of(start)


def recognise(folder: Path, draft: Manifest) -> None:
    """Whether a complete folder is the run that the draft describes.

    Raises:
        FileExistsError: it is no run.
        ValueError: it is another run, or its weights are not those of its manifest.
    """
    manifest = Manifest.load(folder)
    if manifest is None:
        raise FileExistsError(in_the_way(folder, "a run", MANIFEST_FILE))
    _check_same(folder, manifest.inputs(), manifest.computing, draft)
    changed = manifest.changed_files(folder)
    if changed:
        raise ValueError(
            f"out={str(folder)!r}: {', '.join(changed)}: not the files its manifest.json names; "
            "choose another folder to train again, or copy the run's own files back."
        )


def in_the_way(folder: Path, what: str, mark: str) -> str:
    """That something else stands where a folder is to be written: what is in it, and never to
    remove it.
    """
    if folder.name.endswith(UNFINISHED) and (folder / INPUTS_FILE).is_file():
        finished = str(folder).removesuffix(UNFINISHED)
        return (
            f"out={str(folder)!r} is the unfinished run of {finished!r}: train(out={finished!r}) "
            "goes on with it."
        )
    there = "it is a file"
    if folder.is_dir():
        names = sorted(entry.name for entry in folder.iterdir())
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        there = f"it holds {shown}" if names else "it is empty"
    return (
        f"out={str(folder)!r} exists and is not {what} ({there}, no {mark}); choose another folder."
    )


def _check_same(
    folder: Path, inputs: Mapping[str, Any], computing: Mapping[str, Any], draft: Manifest
) -> None:
    if inputs.get("teacher") == without_kinds(draft.teacher):
        inputs = {**inputs, "teacher": draft.teacher}
    apart = computed_apart(computing, draft.computing, training=True)
    different = differences(inputs, draft.inputs()) + side_by_side(apart, "base.")
    if different:
        draws = HELD_SEED in draft.seeds
        hint = ""
        if draws and HELD_SEED not in inputs["seeds"] and not inputs["data"].get("held_out_hash"):
            hint = (
                " An earlier version kept the last rows out of it: held_out_seed=None is that "
                "split."
            )
        raise ValueError(
            f"out={str(folder)!r} is another training: {'; '.join(different)}.{hint} "
            "Choose another folder."
        )


def _worth_keeping(work: Path) -> bool:
    """Whether an unfinished folder holds something to go on from, or to look at."""
    return any(any(work.glob(f"{kind}/step-*")) for kind in (CHECKPOINTS, SNAPSHOTS))


def _remove_empty(work: Path) -> None:
    """Remove an unfinished folder that nobody holds and that has nothing to go on from."""
    is_complete, is_held = (work / MANIFEST_FILE).is_file(), (work / OWNER_FILE).exists()
    if work.exists() and not _worth_keeping(work) and not is_complete and not is_held:
        shutil.rmtree(work)
