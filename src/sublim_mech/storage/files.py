"""Files that are complete or not there at all: labelled arrays, versioned JSON, checksums."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..hints import nearest_path


def place(path: str | os.PathLike[str], argument: str = "path") -> Path:
    """The place that a user's path means: `~` is the home folder.

    Args:
        path: as it was given.
        argument: what errors call it.

    Raises:
        ValueError: an empty path, or the home folder of somebody unknown.
    """
    text = os.fspath(path)
    if not text.strip():
        raise ValueError(f"{argument}={text!r} is empty; name a file or a folder.")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{argument}={text!r}: whose home folder this is cannot be told; write it in full."
        ) from None


def check_place(target: Path, argument: str) -> None:
    """Whether a file or folder can be written at its place; folders above it may be missing.

    Raises:
        FileExistsError: a file stands in the way.
        PermissionError: the folder above it cannot be written to, or cannot be there.
        ValueError: it has no name of its own.
    """
    if target.name in ("", ".."):
        raise ValueError(
            f"{argument}={str(target)!r} has no name of its own; name a file or a folder in it."
        )
    above = target.parent
    try:
        while not above.exists() and above != above.parent:
            above = above.parent
    except OSError as error:  # a name that the file system does not take
        raise _no_folder(target, argument, error) from error
    if not above.is_dir():
        raise FileExistsError(
            f"{argument}={str(target)!r}: {str(above)!r} is a file; choose another folder."
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{argument}={str(target)!r}: {str(above)!r} cannot be written to; choose another "
            "folder, or change its permissions."
        )


def check_file(path: str | os.PathLike[str], argument: str = "path") -> Path:
    """The file that a path means, where it can be written (`check_place`).

    For whoever works long before writing it: what is wrong with the place is told first.

    Raises:
        FileExistsError, PermissionError, ValueError: see `place` and `check_place`.
        IsADirectoryError: a folder has this name.
    """
    target = place(path, argument)
    check_place(target, argument)
    if target.is_dir():
        raise IsADirectoryError(f"{argument}={os.fspath(path)!r} is a folder; name a file in it.")
    return target


_OF_MODELS = ("adapter_config.json", "config.json", "manifest.json")
"""Files by which a folder is a student's or a base's."""


def check_no_model(folder: Path, argument: str, given: str | os.PathLike[str]) -> None:
    """Refuse a model's folder as the place of `.safetensors` files that are no weights: it is
    compared with its manifest, and what is beside the weights may be read as weights.

    Args:
        folder: where they would be.
        argument: what errors call what was given.
        given: the folder, or a file in it, as it was given.

    Raises:
        ValueError: it is one.
    """
    found = next((name for name in _OF_MODELS if (folder / name).is_file()), None)
    if found is not None:
        raise ValueError(
            f"{argument}={os.fspath(given)!r}: {str(folder)!r} is a model's folder (it has "
            f"{found}), where these would be taken for weights; name another folder."
        )


def make_folder(folder: Path, argument: str, given: str | os.PathLike[str] | None = None) -> None:
    """Make a folder, and those above it, where it is not there yet.

    Args:
        folder: the folder.
        argument: what errors call what it is for.
        given: what was given there, where that is another place.

    Raises:
        PermissionError: the system makes none there (a read-only or a virtual file system, a name
            that is too long, a full disk); says why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_folder(given or folder, argument, error) from error


def _no_folder(given: str | os.PathLike[str], argument: str, error: OSError) -> PermissionError:
    """That no folder can be made at a place, and why."""
    return PermissionError(
        f"{argument}={os.fspath(given)!r}: no folder can be made there "
        f"({error.strerror or error}); choose another folder."
    )


_STEM = 80  # letters of a name that its temporary name shows: names have at most 255 bytes


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`, which takes its place when the block ends without an error.

    Folders above it are made where they are missing. The file has the permissions of any new file
    (the umask's), however it was written.

    Raises:
        FileExistsError, IsADirectoryError, PermissionError, ValueError: see `check_file`.
    """
    target = check_file(path)
    make_folder(target.parent, "path", path)
    # of nobody else's: processes of two machines may have one number, and threads have it always
    work = target.with_name(f".{target.stem[:_STEM]}.{secrets.token_hex(8)}{target.suffix}")
    try:
        work.touch()
        mode = work.stat().st_mode & 0o777
        yield work
        work.chmod(mode)
        os.replace(work, target)
    finally:
        work.unlink(missing_ok=True)


def is_temporary(file: Path, target: Path) -> bool:
    """Whether a file is one that `replacing(target)` writes, or left behind when it was killed."""
    pattern = rf"\.{re.escape(target.stem[:_STEM])}\.[0-9a-f]{{16}}{re.escape(target.suffix)}"
    return re.fullmatch(pattern, file.name) is not None


def share_files(folder: Path) -> None:
    """Give the files of a folder that was just made the permissions of any new file.

    Writers that go through temporary files leave theirs to their owner alone.
    """
    mode = folder.stat().st_mode & 0o666
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(mode)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk."""
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened, nor a file synced through a reading handle
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------------------- labelled arrays

TABLES = (".csv", ".tsv", ".xlsx", ".parquet")
"""Files of tables, which look like results and are none that could be read back."""


OPENED_BY = {
    "scores": "sublim_mech.Scores.load(path)",
    "evaluation": "sublim_mech.evaluation.Evaluation.load(path)",
}
"""What opens a file of each kind that users save."""


def write_arrays(
    path: str | Path, arrays: Mapping[str, np.ndarray], kind: str, meta: Mapping[str, Any]
) -> None:
    """Arrays as safetensors, `meta` as JSON in its metadata under `sublim_mech.<kind>`."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as work:
        metadata = {_meta_key(kind): json.dumps(meta, default=plain)}
        save_file(contiguous, work, metadata=metadata)


def read_arrays(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, meta) as `write_arrays` wrote them.

    Raises:
        FileNotFoundError, ValueError: no such file; damaged, or of another kind.
    """
    file = place(path)
    if file.is_dir():
        raise FileNotFoundError(f"path={str(path)!r} is a folder; name a file in it.")
    if not file.is_file():
        raise FileNotFoundError(f"path={str(path)!r}: no such file{nearest_path(file) or '.'}")
    if file.suffix in TABLES:
        raise ValueError(
            f"path={str(path)!r} is a table, which has no labels and no record and cannot be read "
            f"back; load the .safetensors file that save(path) wrote (a table: pandas.read_csv)."
        )
    try:
        with safe_open(str(file), framework="np") as handle:
            metadata = handle.metadata() or {}
            text = metadata.get(_meta_key(kind))
            arrays = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"path={str(path)!r} is truncated or not a safetensors file: {error}"
        ) from error
    if text is None:
        kinds = {key: opened for key, opened in OPENED_BY.items() if _meta_key(key) in metadata}
        for other, opened in kinds.items():
            raise ValueError(f"path={str(path)!r} holds no {kind}, but {other}: {opened} opens it.")
        raise ValueError(
            f"path={str(path)!r} holds no {kind}; pass a file that sublim_mech saved {kind} to."
        )
    return arrays, json.loads(text)


def write_dataset(path: str | Path, data: xr.Dataset, kind: str, meta: Mapping[str, Any]) -> None:
    """A labelled dataset: numbers as safetensors, everything else in the metadata beside `meta`."""
    arrays: dict[str, np.ndarray] = {}
    labels: dict[str, dict[str, Any]] = {}
    for name, variable in data.variables.items():
        labels[str(name)] = {"dims": variable.dims}
        if variable.dtype.kind in "fiu":
            arrays[str(name)] = variable.values
        else:
            labels[str(name)]["values"] = variable.values.tolist()
    write_arrays(path, arrays, kind, {**meta, "variables": labels})


def read_dataset(
    path: str | Path, kind: str, values: Sequence[str]
) -> tuple[xr.Dataset, dict[str, Any]]:
    """(dataset, meta) as `write_dataset` wrote them.

    Args:
        path: the file.
        kind: what was written.
        values: names of data variables; all others are coordinates.

    Raises:
        FileNotFoundError, ValueError: see `read_arrays`.
    """
    arrays, meta = read_arrays(path, kind)
    coordinates = {}
    for name, entry in meta.pop("variables").items():
        if name in arrays:
            array = arrays[name]
        else:
            array = np.array(entry["values"], dtype=object)
            is_bool = array.size > 0 and all(type(value) is bool for value in array.flat)
            array = array.astype(bool if is_bool else str)
        dims = tuple(entry["dims"])  # safetensors knows no single number
        coordinates[name] = (dims, array if dims else array.reshape(()))
    variables = {name: coordinates.pop(name) for name in values if name in coordinates}
    return xr.Dataset(variables, coordinates), meta


def _meta_key(kind: str) -> str:
    return f"sublim_mech.{kind}"


# ----------------------------------------------------------------------------------- versioned JSON


def plain(value: Any) -> Any:
    """What `json.dumps(..., default=plain)` writes for a number of numpy.

    Raises:
        TypeError: something else that JSON has no form for.
    """
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r:.60} ({type(value).__name__}) has no form in JSON.")


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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{called} is not JSON ({error}); {fix}.") from error
    if isinstance(data, dict) and "format" not in data:
        raise ValueError(
            f"{called} says no format ({'it is empty' if not data else 'it is something else'}): "
            f"it was not written by sublim_mech, or is damaged; {fix}."
        )
    written_format = data.get("format") if isinstance(data, dict) else type(data).__name__
    if written_format != format:
        raise ValueError(
            f"{called} has format {written_format!r}, not {format}; open it with the version that "
            "wrote it."
        )
    return data


# ---------------------------------------------------------------------------------------- checksums

SEAL = "seal"
"""The key of a sealed JSON object with the hash of all others; older ones have none."""


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its seal, as it is read back."""
    kept: dict[str, Any] = json.loads(json.dumps(data, default=plain))
    return {**kept, SEAL: json_hash(kept)}


def edited(called: str, fix: str) -> ValueError:
    """The error of a file that is not as it was written, which its seal or hash tells.

    Args:
        called: how it names the file.
        fix: what to do.
    """
    return ValueError(
        f"{called} was edited after it was written: it no longer has the hash it names; {fix}."
    )


def json_hash(data: Any) -> str:
    """SHA-256 of JSON with sorted keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


CONFIGURATIONS = ("adapter_config.json", "config.json")
"""Files beside the weights that say what is computed with them."""


def weight_sums(folder: Path) -> dict[str, str]:
    """SHA-256 of a folder's weight files, by name."""
    return {file.name: file_hash(file) for file in sorted(folder.glob("*.safetensors"))}


def configuration_sums(folder: Path) -> dict[str, str]:
    """SHA-256 of a folder's `CONFIGURATIONS`, by name."""
    files = [folder / name for name in CONFIGURATIONS]
    return {file.name: file_hash(file) for file in files if file.is_file()}
