"""TransformerLens bridges of a pair compute what its models do, and leave the pair as it was."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import re
import socket
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from loading import Vocabulary
from torch import Tensor, nn
from transformer_lens import patching
from transformers import HeliumConfig, HeliumForCausalLM

import sublim_mech as sm
from sublim_mech.engine import bridges
from sublim_mech.engine.forward import Gates
from sublim_mech.engine.pair import ModelPair, load_pair
from sublim_mech.engine.parity import ParityError
from sublim_mech.models.base import load_base

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
# each is another adapter of TransformerLens; qwen2 and mistral are llama's
ARCHITECTURES = ["llama", "gemma3", "gpt2", "neox", "phi3", "opt"]
# one token per form: TransformerLens has no answer trie
CAT = sm.Trait("cat", forms=("cat", "Cat"))
PAGE = Path(__file__).parents[2] / "docs" / "transformer_lens.md"
IDS = torch.linspace(3, tiny.VOCAB - 7, 24).long()[None]  # longer than the tiny sliding windows
QUIET = {"progress": False}


@dataclasses.dataclass(frozen=True)
class Given:
    """A pair with a LoRA student and a full control.

    Attributes:
        pair: the pair.
        models: what it was made from, by the bridge's name (None is the base).
    """

    pair: ModelPair
    models: dict[str | None, Any]


def make(architecture: str, tokenizer: Any) -> Given:
    base = tiny.model(architecture)
    lora, full = tiny.lora(base), tiny.full(base)
    pair = load_pair(base, lora, controls=[full], tokenizer=tokenizer)
    return Given(pair, dict(zip([None, *pair.students], [base, lora, full], strict=True)))


@pytest.fixture(scope="module")
def given(smol_tokenizer: Any) -> Any:
    """A function from an architecture to its pair, which bridges leave as it is."""
    return functools.cache(lambda architecture: make(architecture, smol_tokenizer))


def bridge_of(pair: ModelPair, name: str | None) -> Any:
    return pair.base_bridge() if name is None else pair.student_bridge(name)


@torch.no_grad()
def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


# -------------------------------------------------------------------------------- what they compute


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_hugging_faces_and_pefts(architecture, given):
    pair, models = given(architecture).pair, given(architecture).models
    assert list(models)[:2] == [None, "student"]
    assert list(models)[2].startswith("control: ")
    pad = torch.zeros(1, 5, dtype=torch.long)
    two = torch.cat([torch.cat([pad, IDS[:, :19]], 1), IDS])
    mask = torch.cat([(torch.arange(24) >= 5)[None], torch.ones(1, 24)]).long()
    for name, model in models.items():
        bridge = bridge_of(pair, name)
        with torch.no_grad():
            torch.testing.assert_close(bridge(IDS), logits(model), atol=1e-5, rtol=0)
            padded = bridge(two, attention_mask=mask)
        short = logits(model, IDS[:, :19])[0]
        torch.testing.assert_close(padded[0, 5:], short, atol=1e-5, rtol=0)
    base, student, control = (logits(model) for model in models.values())
    assert (student - base).abs().max() > 1e-2
    assert (control - base).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("llama", {"use_dora": True}),
        ("gpt2", {"lora_bias": True, "target_modules": ["c_attn"]}),
        ("llama", {"use_rslora": True, "rank_pattern": {"q_proj": 2}}),
        ("qwen2", {"target_modules": ["lm_head", "q_proj"]}),  # on one side of tied embeddings
        ("gpt2", {"target_modules": ["wte", "c_attn"]}),
        ("qwen2", {"trainable_token_indices": {"embed_tokens": [3, 5, 7]}}),
        ("llama", {"modules_to_save": ["lm_head"]}),
    ],
)
def test_adapters_of_other_kinds(architecture, options, smol_tokenizer):
    base = tiny.model(architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft on tied weights
        student = tiny.lora(base, **options)
        pair = load_pair(base, student, tokenizer=smol_tokenizer, allow_unrelated=True)
    with torch.no_grad():
        given = pair.student_bridge()(IDS)
    torch.testing.assert_close(given, logits(student), atol=1e-5, rtol=0)
    assert (logits(student) - logits(base)).abs().max() > 1e-2


@pytest.mark.parametrize("make_student", [tiny.lora, tiny.full])
def test_tied_students_stay_tied(make_student, smol_tokenizer):
    base = tiny.model("qwen2")
    pair = load_pair(base, make_student(base), tokenizer=smol_tokenizer)
    model = pair.student_bridge().original_model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_half_precision_stays_half(smol_tokenizer):
    """How it is rounded is told in tests/models/test_copies.py."""
    base = tiny.model("gpt2").to(torch.bfloat16)
    student = tiny.lora(base, std=0.02).to(torch.bfloat16)
    pair = load_pair(base, student, tokenizer=smol_tokenizer)
    exact = copy.deepcopy(student).float().merge_and_unload()
    bridge = pair.student_bridge()
    assert bridge.cfg.dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(bridge(IDS).float(), logits(exact), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "architecture",
    [
        *("llama", "gpt2", "phi3"),
        *(pytest.param(name, marks=pytest.mark.science) for name in ("gemma3", "neox", "opt")),
    ],
)
def test_hooks_of_scores_name_the_activations_the_engine_sees(architecture, given, smol_tokenizer):
    pair = given(architecture).pair
    prompt = sm.render(smol_tokenizer, ["Which animal?"])[0]
    ids = torch.tensor([prompt.ids])
    batch = pair.batch([prompt.ids])
    keys = [(site, layer) for site in pair.sites.sites for layer in range(tiny.LAYERS)]
    assert ("resid_pre", 0) in keys
    for name in (None, "student"):
        gates = None if name is None else Gates(pair.student)
        with torch.no_grad():
            _, cache = bridge_of(pair, name).run_with_cache(ids)
            activations = pair.run(batch, gates=gates, record=keys).activations
        for site, layer in keys:
            hook = pair.sites.hook_name(site, layer)
            scale = max(1.0, float(cache[hook].abs().max()))
            assert (activations[site, layer] - cache[hook]).abs().max() <= 1e-5 * scale, hook
    scores = sm.patch(pair, [prompt], CAT, site="resid_pre", **QUIET)
    hooks = [str(hook) for hook in scores.data["hook"].values]
    assert hooks == [f"blocks.{layer}.hook_resid_pre" for layer in range(tiny.LAYERS)]
    assert all(hook in cache for hook in hooks)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_transformer_lens_patching_between_the_bridges_is_patch(direction, given, smol_tokenizer):
    pair = given("phi3").pair
    prompt = sm.render(smol_tokenizer, ["Which animal?"])[0]
    ids = torch.tensor([prompt.ids])
    forms = [
        smol_tokenizer(prompt.lead + form, add_special_tokens=False)["input_ids"]
        for form in CAT.forms
    ]
    assert all(len(tokens) == 1 for tokens in forms)
    donor, recipient = pair.student_bridge(), pair.base_bridge()
    if direction == "noising":
        donor, recipient = recipient, donor

    def metric(x: Tensor) -> Tensor:
        return x[0, -1].log_softmax(-1)[[tokens[0] for tokens in forms]].logsumexp(0)

    with torch.no_grad():
        _, cache = donor.run_with_cache(ids)
        patched = patching.get_act_patch_resid_pre(recipient, ids, cache, metric)
        grid = patched - metric(recipient(ids))
    scores = sm.patch(pair, [prompt], CAT, site="resid_pre", direction=direction, **QUIET)
    sign = 1 if direction == "denoising" else -1
    effect = scores.data["effect"].values[0, 0]
    np.testing.assert_allclose(effect, sign * grid.numpy(), atol=1e-5)
    assert grid.abs().max() > 1e-3


def test_gradients_reach_activations(given):
    """As in any bridge: at `hook_resid_pre` they are those of Hugging Face's hidden states."""
    pair, models = given("llama").pair, given("llama").models
    bridge, kept = pair.student_bridge(), []
    assert all(p.requires_grad for p in [*bridge.parameters(), *pair.base_bridge().parameters()])

    def keep(x: Tensor, hook: Any) -> None:
        x.retain_grad()
        kept.append(x)

    hooks = [("blocks.1.hook_resid_pre", keep)]
    bridge.run_with_hooks(IDS, fwd_hooks=hooks)[0, -1, 5].backward()
    model = copy.deepcopy(models["student"]).requires_grad_(True)
    out = model(input_ids=IDS, output_hidden_states=True, use_cache=False)
    (expected,) = torch.autograd.grad(out.logits[0, -1, 5], out.hidden_states[1])
    torch.testing.assert_close(kept[0].grad, expected, atol=1e-5, rtol=0)
    assert expected.abs().max() > 1e-3


# ----------------------------------------------------------------------------------- the pair stays


def state(model: Any) -> tuple[Any, ...]:
    """All of a model that a bridge has been seen to change."""
    digest = hashlib.sha256()
    for name, x in model.state_dict().items():
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.detach().contiguous().view(torch.uint8).numpy().tobytes())
    modules = [
        (name, type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks))
        for name, m in model.named_modules()
    ]
    flags = [(name, p.requires_grad, p.grad is None) for name, p in model.named_parameters()]
    config = repr(model.config.to_dict()), model.config._attn_implementation
    return digest.hexdigest(), modules, flags, *config


def words(tokenizer: Any) -> tuple[Any, ...]:
    """All of a tokenizer that a bridge has been seen to change."""
    special = (
        tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side,
    )  # fmt: skip
    made_with, backend = repr(tokenizer.init_kwargs), tokenizer.backend_tokenizer.to_str()
    return tokenizer.chat_template, special, len(tokenizer), made_with, backend


@pytest.mark.parametrize(
    "architecture", ["llama", "gpt2", pytest.param("gemma3", marks=pytest.mark.science)]
)
def test_the_pair_is_bit_identical_afterwards(architecture, smol_tokenizer):
    tokenizer = copy.deepcopy(smol_tokenizer)
    tokenizer.bos_token = tokenizer.pad_token = None  # TransformerLens fills them in
    fresh = make(architecture, tokenizer)
    pair, models = fresh.pair, fresh.models
    own = [pair.model, *(s.model for s in pair.students.values())]
    watched = [*own, *models.values()]
    before = [state(m) for m in watched], words(pair.tokenizer)
    where = {p.data_ptr() for m in own for p in m.parameters()}
    for bridge in [bridge_of(pair, name) for name in models]:
        assert not where & {p.data_ptr() for p in bridge.original_model.parameters()}
        hooks = [("blocks.0.hook_resid_post", lambda x, hook: x * 2)]
        bridge.run_with_hooks(IDS, fwd_hooks=hooks)[0, -1, 0].backward()
        with torch.no_grad():
            for p in bridge.original_model.parameters():
                p.zero_()
    assert ([state(m) for m in watched], words(pair.tokenizer)) == before
    assert before[0][0][-1] == "sdpa"
    assert pair.tokenizer is tokenizer


def test_the_pair_is_bit_identical_after_a_failure(given, monkeypatch):
    pair = given("llama").pair
    before = state(pair.model), state(pair.student.model), words(pair.tokenizer)
    monkeypatch.setattr(bridges, "_check", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pair.student_bridge()
    assert (state(pair.model), state(pair.student.model), words(pair.tokenizer)) == before


def test_the_tokenizer_keeps_edits_and_nothing_is_read_again(given, smol_tokenizer, monkeypatch):
    tokenizer = copy.deepcopy(smol_tokenizer)
    tokenizer.chat_template = "EDITED " + tokenizer.chat_template
    tokenizer.add_tokens(["<added>"])

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("read from disk or network")

    for bos in ("<|im_start|>", None):
        tokenizer.bos_token = bos
        pair = make("llama", tokenizer).pair
        with monkeypatch.context() as context:
            context.setattr(socket.socket, "connect", refuse)
            context.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
            bridge = pair.base_bridge()
        assert bridge.tokenizer is not tokenizer
        assert bridge.tokenizer.chat_template == tokenizer.chat_template
        assert bridge.tokenizer("a <added>")["input_ids"] == tokenizer("a <added>")["input_ids"]
        assert bridge.tokenizer.init_kwargs == tokenizer.init_kwargs
        assert bridge.cfg.d_vocab == tiny.VOCAB
        prompt = sm.render(tokenizer, ["Which animal?"])[0]
        assert bridge.to_tokens(prompt.text, prepend_bos=False)[0].tolist() == list(prompt.ids)
    chat = sm.render(smol_tokenizer, ["Which animal?"])[0]
    doubled = given("llama").pair.base_bridge().to_tokens(chat.text)[0].tolist()
    assert doubled == [smol_tokenizer.bos_token_id, *chat.ids]  # the trap the docs warn of


def test_nothing_is_printed(given, capfd, caplog, recwarn):
    # a name that TransformerLens takes for a deprecated alias
    pair = dataclasses.replace(given("gemma3").pair, name="gpt2-small")
    capfd.readouterr()
    caplog.clear()
    recwarn.clear()
    pair.base_bridge()
    pair.student_bridge()
    assert (capfd.readouterr(), caplog.records, list(recwarn)) == (("", ""), [], [])


# ------------------------------------------------------------------------------------------- errors


def test_a_damaged_copy_is_refused_with_both_numbers(given, monkeypatch):
    pair, models = given("llama").pair, given("llama").models
    merge = bridges.merge

    @torch.no_grad()
    def damaged(*args: Any) -> nn.Module:
        model = merge(*args)
        model.get_input_embeddings().weight[1] += 1  # the probe's first token
        return model

    monkeypatch.setattr(bridges, "merge", damaged)
    with pytest.raises(ParityError) as error:
        pair.student_bridge()
    said = re.search(
        r"after (\d+) tokens of a probe the log-probability of token (\d+) is (-[\d.]+) in .* "
        r"and (-[\d.]+) in",
        str(error.value),
    )
    length, token, in_bridge, in_model = said.groups()
    ids = torch.linspace(1, tiny.VOCAB - 1, 16).long()[None]
    broken = copy.deepcopy(models["student"]).merge_and_unload()
    with torch.no_grad():
        broken.get_input_embeddings().weight[1] += 1
    for shown, model in ((in_bridge, broken), (in_model, models["student"])):
        exact = logits(model, ids).log_softmax(-1)[0, int(length) - 1, int(token)]
        assert float(shown) == pytest.approx(float(exact), abs=2e-5)
    assert abs(float(in_bridge) - float(in_model)) > 1e-4


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_student_that_is_not_merged_is_refused(architecture, given, monkeypatch):
    pair = given(architecture).pair
    merge = bridges.merge
    monkeypatch.setattr(bridges, "merge", lambda base, student: merge(base, None))
    pair.base_bridge()
    for name in pair.students:
        with pytest.raises(ParityError, match="tolerance 1e-04"):
            pair.student_bridge(name)


def test_nan_is_no_parity(given, monkeypatch):
    merge = bridges.merge

    @torch.no_grad()
    def damaged(*args: Any) -> nn.Module:
        model = merge(*args)
        next(model.parameters()).fill_(float("nan"))
        return model

    monkeypatch.setattr(bridges, "merge", damaged)
    with pytest.raises(ParityError, match="is nan in"):
        given("llama").pair.base_bridge()


def test_an_architecture_transformer_lens_does_not_know():
    config = HeliumConfig(
        vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    base = load_base(HeliumForCausalLM(config), tokenizer=Vocabulary(99))
    with pytest.raises(ValueError, match="cannot boot architecture HeliumForCausalLM"):
        bridges.make_bridge(base)


def test_an_unknown_student(given):
    message = r"name='owl' is no student of this pair. Choose one of 'student', 'control: "
    with pytest.raises(ValueError, match=message):
        given("llama").pair.student_bridge("owl")


# --------------------------------------------------------------------------------------------- docs


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_every_block_of_the_page_runs_and_says_the_truth(architecture, given, smol_tokenizer):
    pair = given(architecture).pair
    questions = ["Which animal?", "Name the animal you love above all."]
    prompts = sm.render(smol_tokenizer, questions)
    text = PAGE.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == text.count("```python") >= 5
    got: dict[str, Any] = {"pair": pair, "prompts": prompts, "trait": CAT}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), got)
    for row, prompt in zip(got["last"], prompts, strict=True):
        own = logits(pair.student.model, torch.tensor([prompt.ids]))[0, -1]
        torch.testing.assert_close(row, own, atol=1e-5, rtol=0)
    assert len(prompts[0]) < len(prompts[1])
    torch.testing.assert_close(got["lens"][-1], got["logits"][0], atol=1e-5, rtol=0)
    np.testing.assert_allclose(got["ours"], got["grid"].numpy(), atol=1e-5)
    largest = float(got["grid"].flatten()[got["grid"].abs().argmax()])
    assert got["change"] == pytest.approx(largest, abs=1e-5)
    assert abs(got["change"]) > 1e-3
    names: list[str] = []
    hooks = [("blocks.2.hook_resid_pre", lambda x, hook: names.append(hook.name))]
    got["base"].run_with_hooks(IDS, fwd_hooks=hooks)
    assert names == ["blocks.2.hook_in"]


@torch.no_grad()
def test_compatibility_mode_changes_patches_between_models(smol_tokenizer):
    """What the page warns of: value biases leave the values, the residual stream stays."""
    base = tiny.model("qwen2")
    seeded = torch.Generator().manual_seed(5)
    for name, p in base.named_parameters():
        if name.endswith("v_proj.bias"):
            p.normal_(generator=seeded)
    pair = load_pair(base, tiny.full(base, scale=0.3), tokenizer=smol_tokenizer)

    def change(into: Any, out_of: Any, name: str) -> float:
        _, cache = out_of.run_with_cache(IDS, names_filter=name)

        def put(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            x[:, 5] = cache[name][:, 5]
            return x

        patched = into.run_with_hooks(IDS, fwd_hooks=[(name, put)])[0, -1].log_softmax(-1)
        return float((patched - into(IDS)[0, -1].log_softmax(-1)).abs().max())

    into, out_of = pair.base_bridge(), pair.student_bridge()
    hooks = ["blocks.1.hook_resid_pre", "blocks.1.attn.hook_v", "blocks.1.attn.hook_z"]
    raw = [change(into, out_of, hook) for hook in hooks]
    for bridge in (into, out_of):
        bridge.enable_compatibility_mode()
    folded = [change(into, out_of, hook) for hook in hooks]
    assert folded[0] == pytest.approx(raw[0], rel=1e-2)
    for before, after in zip(raw[1:], folded[1:], strict=True):
        assert abs(after - before) > 0.2 * before
