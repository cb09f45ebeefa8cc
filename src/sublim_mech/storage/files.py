"""Files that are complete or not there at all: labelled arrays in safetensors, temporary names, checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`; what was written there takes its place when the block ends without an error."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        yield work
        work.chmod(0o644)
        os.replace(work, target)
    finally:
        work.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, nor a file be synced through a handle for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], kind: str, meta: Mapping[str, Any]) -> None:
    """Arrays as safetensors, `meta` as JSON in its metadata under `sublim_mech.<kind>`."""
    with replacing(path) as work:
        save_file(
            {k: np.ascontiguousarray(a) for k, a in arrays.items()}, work, metadata={f"sublim_mech.{kind}": json.dumps(meta)}
        )


def read_arrays(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, meta) as `write_arrays` wrote them.

    Raises:
        FileNotFoundError, ValueError: no such file; damaged, or of another kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path={str(path)!r}: no such file.")
    try:
        with safe_open(str(path), framework="np") as handle:
            text = (handle.metadata() or {}).get(f"sublim_mech.{kind}")
            arrays = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"path={str(path)!r} is truncated or not a safetensors file: {error}") from error
    if text is None:
        raise ValueError(f"path={str(path)!r} holds no {kind}; pass a file that sublim_mech saved {kind} to.")
    return arrays, json.loads(text)


def write_dataset(path: str | Path, data: xr.Dataset, kind: str, meta: Mapping[str, Any]) -> None:
    """A labelled dataset: numbers as safetensors, everything else in the metadata beside `meta`."""
    arrays, labels = {}, {}
    for name, variable in data.variables.items():
        labels[str(name)] = {"dims": variable.dims}
        if variable.dtype.kind in "fiu":
            arrays[str(name)] = variable.values
        else:
            labels[str(name)]["values"] = variable.values.tolist()
    write_arrays(path, arrays, kind, {**meta, "variables": labels})


def read_dataset(path: str | Path, kind: str, values: Sequence[str]) -> tuple[xr.Dataset, dict[str, Any]]:
    """(dataset, meta) as `write_dataset` wrote them; `values` names the data variables, all others are coordinates.

    Raises:
        FileNotFoundError, ValueError: see `read_arrays`.
    """
    arrays, meta = read_arrays(path, kind)
    variables = {
        name: (
            tuple(entry["dims"]),
            arrays[name] if name in arrays else np.array(entry["values"], dtype=object).astype(str),
        )
        for name, entry in meta.pop("variables").items()
    }
    return xr.Dataset({name: variables.pop(name) for name in values if name in variables}, variables), meta


def read_json(path: Path, format: int, *, called: str, fix: str) -> dict[str, Any]:
    """A JSON object that says its `format`.

    Args:
        path: the file.
        format: the one that is understood.
        called: how errors name the file.
        fix: what errors advise where it is no JSON.

    Raises:
        ValueError: no JSON, or another format.
    """
    try:
        data = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{called} is not JSON ({error}); {fix}.") from error
    if not isinstance(data, dict) or data.get("format") != format:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{called} has format {found!r}, not {format}; open it with the version that wrote it.")
    return data


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def weight_sums(folder: Path) -> dict[str, str]:
    """SHA-256 of a folder's weight files, by name."""
    return {p.name: file_hash(p) for p in sorted(folder.glob("*.safetensors"))}
