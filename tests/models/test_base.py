"""Base models: what is loaded computes what was given, and what was given stays as it was."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from comparing import own_logits, pointers, snapshot
from loading import TOKENIZER, Vocabulary, base, model, options
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from sublim_mech.models.base import load_base

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


def test_a_live_base_shares_its_weights_and_is_another_object():
    loaded = base().model
    assert loaded is not model()
    assert pointers(loaded) == pointers(model())
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not any(m.training for m in loaded.modules())


def test_a_loaded_base_passes_through():
    assert load_base(base()) is base()


def test_a_live_base_needs_its_tokenizer():
    with pytest.raises(
        ValueError, match=r"a live model needs tokenizer=\.\.\.; pass the tokenizer"
    ):
        load_base(model())


def test_the_name_of_a_live_base_is_where_it_came_from():
    assert base().name == "LlamaForCausalLM"
    named = copy.deepcopy(model())
    named.config.name_or_path = "some/where"
    assert load_base(named, tokenizer=TOKENIZER).name == "some/where"


def test_attention_that_ignores_masks():
    fast = copy.deepcopy(model())
    fast.config._attn_implementation = "flash_attention_2"
    message = r"uses flash_attention_2 attention.*attn_implementation='sdpa'"
    with pytest.raises(ValueError, match=message):
        load_base(fast, tokenizer=TOKENIZER)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("llama", "lora"),
        ("llama", "dora"),
        ("llama", "modules_to_save"),
        ("llama", "trained embedding"),
        ("llama", "embedding adapter"),
        ("llama", "trained tokens"),
        ("qwen2", "modules_to_save"),  # on one side of tied embeddings
        ("qwen2", "trained tokens"),
        ("gpt2", "lora"),
        ("gpt2", "embedding adapter"),
    ],
)
def test_a_base_with_injected_adapters_loads_as_the_clean_base(architecture, name):
    mine = tiny.model(architecture)
    more = {} if name == "lora" else options(architecture, name)
    config = {"target_modules": "all-linear", **more}
    peft_model = tiny.adapted(mine, LoraConfig(r=4, task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for key, p in peft_model.named_parameters():
            if p.requires_grad:
                p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(key)))
    before = snapshot(mine)
    assert before["types"] != snapshot(model(architecture))["types"]  # PEFT did change it
    for source in (mine, peft_model):
        loaded = load_base(source, tokenizer=TOKENIZER)
        assert loaded.hash == base(architecture).hash
        assert list(loaded.model.state_dict()) == list(model(architecture).state_dict())
        assert torch.equal(own_logits(loaded.model), own_logits(model(architecture)))
    assert snapshot(mine) == before


def test_a_loaded_base_takes_no_other_tokenizer_or_device():
    loaded = base()
    assert load_base(loaded, tokenizer=loaded.tokenizer, device="cpu") is loaded
    with pytest.raises(ValueError, match="base='LlamaForCausalLM' is loaded already, with a token"):
        load_base(loaded, tokenizer=Vocabulary(tiny.VOCAB))


# ------------------------------------------------------------------------------------------- stored


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "gemma3"])
def test_a_stored_base_is_the_same(architecture, smol_tokenizer, tmp_path):
    loaded = load_base(tiny.model(architecture), tokenizer=smol_tokenizer)
    before = snapshot(loaded.model)
    loaded.save_pretrained(tmp_path / "deep" / "base")
    assert snapshot(loaded.model) == before
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["base"]  # nothing half written
    again = load_base(tmp_path / "deep" / "base")
    assert (again.hash, again.name) == (loaded.hash, "base")
    assert torch.equal(own_logits(again.model), own_logits(loaded.model))
    text = [{"role": "user", "content": "Which animal?"}]
    rendered = [one.tokenizer.apply_chat_template(text, tokenize=False) for one in (loaded, again)]
    assert rendered[0] == rendered[1]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "deep" / "base")
    assert torch.equal(own_logits(theirs.eval()), own_logits(loaded.model))
    assert AutoTokenizer.from_pretrained(tmp_path / "deep" / "base").get_vocab() == (
        smol_tokenizer.get_vocab()
    )


def test_a_base_is_stored_where_nothing_is(smol_tokenizer, tmp_path):
    loaded = load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    (tmp_path / "empty").mkdir()
    loaded.save_pretrained(str(tmp_path / "empty"))
    for place in (tmp_path / "empty", tmp_path):
        with pytest.raises(FileExistsError, match=r"folder='.*' exists, and is not empty; choose"):
            loaded.save_pretrained(place)


def test_a_base_that_cannot_be_stored_leaves_nothing(smol_tokenizer, tmp_path, monkeypatch):
    loaded = load_base(tiny.model("llama"), tokenizer=smol_tokenizer)

    def full(*args, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(type(smol_tokenizer), "save_pretrained", full)
    with pytest.raises(OSError, match="no space left"):
        loaded.save_pretrained(tmp_path / "base")
    assert list(tmp_path.iterdir()) == []
