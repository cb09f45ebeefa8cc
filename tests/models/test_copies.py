"""Copies share weights where they should, and nothing else."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from comparing import distance, own_logits, pointers
from loading import TOKENIZER, adapter, base, model, student

from sublim_mech.models.base import load_base
from sublim_mech.models.copies import merge, share, twin
from sublim_mech.models.students import load_student

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


def test_a_twin_has_modules_of_its_own_over_the_same_weights():
    mine = model()
    made = twin(mine)
    assert pointers(made) == pointers(mine)
    assert not {id(m) for m in made.modules()} & {id(m) for m in mine.modules()}
    made.get_submodule("model.norm").register_forward_hook(lambda *_: None)
    made.train()
    assert not mine.get_submodule("model.norm")._forward_hooks
    assert not mine.training


def test_a_twin_may_have_some_weights_of_its_own():
    mine = tiny.model("qwen2")
    made = twin(mine, copied={"model.embed_tokens.weight"})
    assert len(pointers(mine) - pointers(made)) == 1
    assert made.get_input_embeddings().weight is made.get_output_embeddings().weight
    with torch.no_grad():
        made.get_input_embeddings().weight.zero_()
    assert bool(mine.get_input_embeddings().weight.any())


def test_tied_weights_stay_tied():
    loaded = load_base(model("qwen2"), tokenizer=TOKENIZER).model
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight


def test_a_base_with_merged_adapters_is_refused():
    mine = student("llama", "lora")
    mine.merge_adapter()
    message = r"adapters merged into model\.layers\.0\.self_attn\.q_proj; unmerge them"
    with pytest.raises(ValueError, match=message):
        share(mine)


@pytest.mark.parametrize("name", ["dora", "embedding adapter", "modules_to_save"])
def test_a_merged_student_is_a_plain_model_that_computes_alike(name):
    """On tied embeddings too: what PEFT adapted on one side comes apart."""
    made = adapter("qwen2", name)
    loaded = load_student(base("qwen2"), made, allow_unrelated=True)
    merged = merge(base("qwen2"), loaded)
    assert type(merged) is type(model("qwen2"))
    assert distance(own_logits(merged), own_logits(made)) < 1e-5
    assert distance(own_logits(merged), own_logits(model("qwen2"))) > 1e-3
    assert not pointers(merged) & (pointers(model("qwen2")) | pointers(made))
    assert not merged.training
    assert all(p.requires_grad for p in merged.parameters())


def test_a_merged_base_is_a_copy_of_it():
    merged = merge(base(), None)
    assert torch.equal(own_logits(merged), own_logits(model()))
    assert not pointers(merged) & pointers(model())


def test_merging_rounds_once():
    """Weights are the fp32 sum, rounded to the base's precision."""
    low = copy.deepcopy(model("gpt2")).bfloat16()
    made = tiny.lora(low, std=0.02).to(torch.bfloat16)
    loaded = load_base(low, tokenizer=TOKENIZER)
    merged = merge(loaded, load_student(loaded, made))
    exact = copy.deepcopy(made).float().merge_and_unload()
    for (name, p), q in zip(merged.named_parameters(), exact.parameters(), strict=True):
        assert p.dtype == torch.bfloat16
        assert torch.equal(p, q.to(torch.bfloat16)), name


def test_merged_weights_keep_each_its_own_type():
    """A base need not be of one type: fp32 norms beside bf16 matrices stay so."""
    low = copy.deepcopy(model()).bfloat16()
    for path, module in low.named_modules():
        if path.endswith("norm"):
            module.float()
    low.model.embed_tokens.float()  # the first parameter of all is none of the usual type
    loaded = load_base(low, tokenizer=TOKENIZER)
    made = tiny.lora(low, std=0.02, target_modules=["q_proj", "v_proj"])
    merged = merge(loaded, load_student(loaded, made))
    expected = {name: p.dtype for name, p in low.named_parameters()}
    assert {name: p.dtype for name, p in merged.named_parameters()} == expected
    assert set(expected.values()) == {torch.float32, torch.bfloat16}
