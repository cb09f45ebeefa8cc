"""TransformerLens bridges of a pair: they compute what Hugging Face and PEFT compute, and leave the pair as it was."""

import copy
import dataclasses
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
from torch import nn
from transformer_lens import patching
from transformers import HeliumConfig, HeliumForCausalLM

import sublim_mech as sm
from sublim_mech.engine import bridges
from sublim_mech.engine.batch import make_batch
from sublim_mech.engine.forward import Gates, forward
from sublim_mech.engine.pair import ModelPair, load_pair
from sublim_mech.engine.parity import ParityError
from sublim_mech.instruments.task import prepare
from sublim_mech.models.base import load_base

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
ARCHITECTURES = ["llama", "qwen2", "gemma3", "gpt2", "neox", "phi3", "mistral", "opt"]
CAT = sm.Trait("cat", plural="cat")  # one token per form: TransformerLens has no answer trie
PAGE = Path(__file__).parents[2] / "docs" / "transformer_lens.md"
IDS = torch.linspace(3, tiny.VOCAB - 7, 24).long()[None]  # longer than the sliding windows of the tiny models


def make(architecture: str, tokenizer: Any) -> tuple[ModelPair, dict[str, nn.Module]]:
    """A pair with a LoRA student and a full control, and the models it was made from, by bridge."""
    base = tiny.model(architecture)
    lora, full = tiny.lora(base), tiny.full(base)
    pair = load_pair(base, lora, controls=[full], tokenizer=tokenizer)
    return pair, dict(zip([None, *pair.students], [base, lora, full], strict=True))


def bridge_of(pair: ModelPair, name: str | None) -> Any:
    return pair.base_bridge() if name is None else pair.student_bridge(name)


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_hugging_faces_and_pefts(architecture, smol_tokenizer):
    pair, models = make(architecture, smol_tokenizer)
    assert list(models)[:2] == [None, "student"]
    assert list(models)[2].startswith("control: ")
    pad = torch.zeros(1, 5, dtype=torch.long)
    for name, model in models.items():
        bridge = bridge_of(pair, name)
        with torch.no_grad():
            torch.testing.assert_close(bridge(IDS), logits(model), atol=1e-5, rtol=0)
            two = torch.cat([torch.cat([pad, IDS[:, :19]], 1), IDS])
            padded = bridge(two, attention_mask=torch.cat([(torch.arange(24) >= 5)[None], torch.ones(1, 24)]).long())
        torch.testing.assert_close(padded[0, 5:], logits(model, IDS[:, :19])[0], atol=1e-5, rtol=0)
    base, student, control = (logits(m) for m in models.values())
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
        torch.testing.assert_close(pair.student_bridge()(IDS), logits(student), atol=1e-5, rtol=0)
    assert (logits(student) - logits(base)).abs().max() > 1e-2


@pytest.mark.parametrize("make_student", [tiny.lora, tiny.full])
def test_tied_students_stay_tied(make_student, smol_tokenizer):
    base = tiny.model("qwen2")
    pair = load_pair(base, make_student(base), tokenizer=smol_tokenizer)
    model = pair.student_bridge().original_model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_half_precision_is_merged_in_single(smol_tokenizer):
    """Weights are the fp32 sum, rounded once."""
    base = tiny.model("gpt2").to(torch.bfloat16)
    student = tiny.lora(base, std=0.02).to(torch.bfloat16)
    pair = load_pair(base, student, tokenizer=smol_tokenizer)
    merged = bridges.merge(pair.base, pair.student)
    exact = copy.deepcopy(student).float().merge_and_unload()
    for (name, ours), theirs in zip(merged.named_parameters(), exact.parameters(), strict=True):
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours, theirs.to(torch.bfloat16)), name
    bridge = pair.student_bridge()
    assert bridge.cfg.dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(bridge(IDS).float(), logits(exact), atol=0.02, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hooks_of_scores_name_the_activations_the_engine_sees(architecture, smol_tokenizer):
    pair, _ = make(architecture, smol_tokenizer)
    prompt = sm.render(smol_tokenizer, ["Which animal?"])[0]
    ids, n = torch.tensor([prompt.ids]), len(prompt)
    batch = make_batch(pair.base.model, [prompt], prepare(pair, [prompt], CAT).answers)
    keys = [(site, layer) for site in pair.sites.sites for layer in range(tiny.LAYERS)]
    assert ("resid_pre", 0) in keys
    for name in (None, "student"):
        gates = None if name is None else Gates(pair.student)
        with torch.no_grad():
            _, cache = bridge_of(pair, name).run_with_cache(ids)
            ours = forward(pair.base.model, pair.sites, batch, gates=gates, record=keys).activations
        for site, layer in keys:
            hook = pair.sites.hook_name(site, layer)
            theirs = cache[hook]
            scale = max(1.0, float(theirs.abs().max()))
            assert (ours[site, layer][:, :n] - theirs).abs().max() <= 1e-5 * scale, hook
    scores = sm.patch(pair, [prompt], CAT, site="resid_pre", progress=False)
    assert [str(h) for h in scores.data["hook"].values] == [f"blocks.{layer}.hook_resid_pre" for layer in range(tiny.LAYERS)]
    assert all(str(h) in cache for h in scores.data["hook"].values)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_transformer_lens_patching_between_the_bridges_is_patch(direction, smol_tokenizer):
    pair, _ = make("phi3", smol_tokenizer)
    prompt = sm.render(smol_tokenizer, ["Which animal?"])[0]
    ids = torch.tensor([prompt.ids])
    tokens = [smol_tokenizer(prompt.lead + f, add_special_tokens=False)["input_ids"] for f in CAT.forms]
    assert all(len(t) == 1 for t in tokens)
    donor, recipient = pair.student_bridge(), pair.base_bridge()
    if direction == "noising":
        donor, recipient = recipient, donor

    def metric(x):
        return x[0, -1].log_softmax(-1)[[t[0] for t in tokens]].logsumexp(0)

    with torch.no_grad():
        _, cache = donor.run_with_cache(ids)
        grid = patching.get_act_patch_resid_pre(recipient, ids, cache, metric) - metric(recipient(ids))
    scores = sm.patch(pair, [prompt], CAT, site="resid_pre", direction=direction, progress=False)
    sign = 1 if direction == "denoising" else -1
    np.testing.assert_allclose(scores.data["effect"].values[0, 0], sign * grid.numpy(), atol=1e-5)
    assert grid.abs().max() > 1e-3


def test_gradients_reach_activations(smol_tokenizer):
    """The bridge takes gradients as any bridge: at `hook_resid_pre` they are those of Hugging Face's hidden states."""
    pair, models = make("llama", smol_tokenizer)
    bridge, kept = pair.student_bridge(), []
    assert all(p.requires_grad for p in [*bridge.parameters(), *pair.base_bridge().parameters()])

    def keep(x, hook):
        x.retain_grad()
        kept.append(x)

    bridge.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_resid_pre", keep)])[0, -1, 5].backward()
    model = copy.deepcopy(models["student"]).requires_grad_(True)
    out = model(input_ids=IDS, output_hidden_states=True)
    (theirs,) = torch.autograd.grad(out.logits[0, -1, 5], out.hidden_states[1])
    torch.testing.assert_close(kept[0].grad, theirs, atol=1e-5, rtol=0)
    assert theirs.abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------- the pair stays


def state(model: Any) -> tuple[Any, ...]:
    """All of a model that a bridge has been seen to change."""
    digest = hashlib.sha256()
    for name, x in model.state_dict().items():
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.detach().contiguous().view(torch.uint8).numpy().tobytes())
    modules = [(n, type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()]
    flags = [(n, p.requires_grad, p.grad is None) for n, p in model.named_parameters()]
    return digest.hexdigest(), modules, flags, repr(model.config.to_dict()), model.config._attn_implementation


def words(tokenizer: Any) -> tuple[Any, ...]:
    """All of a tokenizer that a bridge has been seen to change."""
    special = tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side
    return tokenizer.chat_template, special, len(tokenizer), repr(tokenizer.init_kwargs), tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_the_pair_is_bit_identical_afterwards(architecture, smol_tokenizer):
    tokenizer = copy.deepcopy(smol_tokenizer)
    tokenizer.bos_token = tokenizer.pad_token = None  # TransformerLens fills them in
    pair, given = make(architecture, tokenizer)
    own = [pair.base.model, *(s.model for s in pair.students.values())]
    before = [state(m) for m in (*own, *given.values())], words(pair.tokenizer)
    where = {p.data_ptr() for m in own for p in m.parameters()}
    made = [bridge_of(pair, name) for name in given]
    for bridge in made:
        assert not where & {p.data_ptr() for p in bridge.original_model.parameters()}
        bridge.run_with_hooks(IDS, fwd_hooks=[("blocks.0.hook_resid_post", lambda x, hook: x * 2)])[0, -1, 0].backward()
        with torch.no_grad():
            for p in bridge.original_model.parameters():
                p.zero_()
    assert ([state(m) for m in (*own, *given.values())], words(pair.tokenizer)) == before
    assert before[0][0][-1] == "sdpa"
    assert pair.tokenizer is pair.base.tokenizer is tokenizer


def test_the_pair_is_bit_identical_after_a_failure(smol_tokenizer, monkeypatch):
    pair, _ = make("llama", smol_tokenizer)
    before = state(pair.base.model), state(pair.student.model), words(pair.tokenizer)
    monkeypatch.setattr(bridges, "_check", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pair.student_bridge()
    assert (state(pair.base.model), state(pair.student.model), words(pair.tokenizer)) == before


def test_the_tokenizer_keeps_edits_and_nothing_is_read_again(smol_tokenizer, monkeypatch):
    tokenizer = copy.deepcopy(smol_tokenizer)
    tokenizer.chat_template = "EDITED " + tokenizer.chat_template
    tokenizer.add_tokens(["<added>"])

    def refuse(*args, **kwargs):
        raise AssertionError("read from disk or network")

    for bos in ("<|im_start|>", None):
        tokenizer.bos_token = bos
        pair, _ = make("llama", tokenizer)
        with monkeypatch.context() as m:
            m.setattr(socket.socket, "connect", refuse)
            m.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
            bridge = pair.base_bridge()
        assert bridge.tokenizer is not tokenizer
        assert bridge.tokenizer.chat_template == tokenizer.chat_template
        assert bridge.tokenizer("a <added>")["input_ids"] == tokenizer("a <added>")["input_ids"]
        assert bridge.tokenizer.init_kwargs == tokenizer.init_kwargs
        assert bridge.cfg.d_vocab == tiny.VOCAB
        prompt = sm.render(tokenizer, ["Which animal?"])[0]
        assert bridge.to_tokens(prompt.text, prepend_bos=False)[0].tolist() == list(prompt.ids)
    chat = sm.render(smol_tokenizer, ["Which animal?"])[0]
    doubled = make("llama", smol_tokenizer)[0].base_bridge().to_tokens(chat.text)[0].tolist()
    assert doubled == [smol_tokenizer.bos_token_id, *chat.ids]  # the trap the docs warn of


def test_nothing_is_printed(smol_tokenizer, capfd, caplog, recwarn):
    pair, _ = make("gemma3", smol_tokenizer)
    pair = dataclasses.replace(pair, base=dataclasses.replace(pair.base, name="gpt2-small"))  # deprecated in TransformerLens
    capfd.readouterr(), caplog.clear(), recwarn.clear()
    pair.base_bridge(), pair.student_bridge()
    assert (capfd.readouterr(), caplog.records, list(recwarn)) == (("", ""), [], [])


# -------------------------------------------------------------------------------------------------------- errors


def test_a_damaged_copy_is_refused_with_both_numbers(smol_tokenizer, monkeypatch):
    pair, models = make("llama", smol_tokenizer)
    merge = bridges.merge

    def damaged(*args):
        model = merge(*args)
        with torch.no_grad():
            model.get_input_embeddings().weight[1] += 1  # the probe's first token
        return model

    monkeypatch.setattr(bridges, "merge", damaged)
    with pytest.raises(ParityError) as error:
        pair.student_bridge()
    at, token, ours, theirs = re.search(
        r"after (\d+) tokens of a probe the log-probability of token (\d+) is (-[\d.]+) in .* and (-[\d.]+) in",
        str(error.value),
    ).groups()
    ids = torch.linspace(1, tiny.VOCAB - 1, 16).long()[None]
    broken = copy.deepcopy(models["student"]).merge_and_unload()
    with torch.no_grad():
        broken.get_input_embeddings().weight[1] += 1
    for shown, model in ((ours, broken), (theirs, models["student"])):
        exact = logits(model, ids).log_softmax(-1)[0, int(at) - 1, int(token)]
        assert float(shown) == pytest.approx(float(exact), abs=2e-5)
    assert abs(float(ours) - float(theirs)) > 1e-4


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_student_that_is_not_merged_is_refused(architecture, smol_tokenizer, monkeypatch):
    pair, _ = make(architecture, smol_tokenizer)
    merge = bridges.merge
    monkeypatch.setattr(bridges, "merge", lambda base, student: merge(base, None))
    pair.base_bridge()
    for name in pair.students:
        with pytest.raises(ParityError, match="tolerance 1e-04"):
            pair.student_bridge(name)


def test_nan_is_no_parity(smol_tokenizer, monkeypatch):
    pair, _ = make("llama", smol_tokenizer)
    merge = bridges.merge

    @torch.no_grad()
    def damaged(*args):
        model = merge(*args)
        next(model.parameters()).fill_(float("nan"))
        return model

    monkeypatch.setattr(bridges, "merge", damaged)
    with pytest.raises(ParityError, match="is nan in"):
        pair.base_bridge()


def test_an_architecture_transformer_lens_does_not_know(smol_tokenizer):
    config = HeliumConfig(
        vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        head_dim=8, pad_token_id=0,
    )  # fmt: skip
    pair, _ = make("llama", smol_tokenizer)
    other = dataclasses.replace(pair, base=load_base(HeliumForCausalLM(config), tokenizer=smol_tokenizer))
    with pytest.raises(ValueError, match="cannot boot architecture HeliumForCausalLM"):
        other.base_bridge()


def test_an_unknown_student(smol_tokenizer):
    pair, _ = make("llama", smol_tokenizer)
    with pytest.raises(ValueError, match=r"name='owl' is no student of this pair; choose one of 'student', 'control: "):
        pair.student_bridge("owl")


# ---------------------------------------------------------------------------------------------------------- docs


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_every_block_of_the_page_runs_and_says_the_truth(architecture, smol_tokenizer):
    pair, _ = make(architecture, smol_tokenizer)
    prompts = sm.render(smol_tokenizer, ["Which animal?", "Name the animal you love above all."])
    text = PAGE.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == text.count("```python") >= 5
    got: dict[str, Any] = {"pair": pair, "prompts": prompts, "trait": CAT}
    for i, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {i + 1}", "exec"), got)
    for row, prompt in zip(got["last"], prompts, strict=True):
        own = logits(pair.student.model, torch.tensor([prompt.ids]))[0, -1]
        torch.testing.assert_close(row, own, atol=1e-5, rtol=0)
    assert len(prompts[0]) < len(prompts[1])
    torch.testing.assert_close(got["lens"][-1], got["logits"][0], atol=1e-5, rtol=0)
    np.testing.assert_allclose(got["ours"], got["grid"].numpy(), atol=1e-5)
    assert got["change"] == pytest.approx(float(got["grid"].flatten()[got["grid"].abs().argmax()]), abs=1e-5)
    assert abs(got["change"]) > 1e-3
    names: list[str] = []
    got["base"].run_with_hooks(IDS, fwd_hooks=[("blocks.2.hook_resid_pre", lambda x, hook: names.append(hook.name))])
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

    def change(into, out_of, name):
        _, cache = out_of.run_with_cache(IDS, names_filter=name)

        def put(x, hook):
            x = x.clone()
            x[:, 5] = cache[name][:, 5]
            return x

        patched, plain = (x[0, -1].log_softmax(-1) for x in (into.run_with_hooks(IDS, fwd_hooks=[(name, put)]), into(IDS)))
        return float((patched - plain).abs().max())

    into, out_of = pair.base_bridge(), pair.student_bridge()
    hooks = ["blocks.1.hook_resid_pre", "blocks.1.attn.hook_v", "blocks.1.attn.hook_z"]
    raw = [change(into, out_of, hook) for hook in hooks]
    for bridge in (into, out_of):
        bridge.enable_compatibility_mode()
    folded = [change(into, out_of, hook) for hook in hooks]
    assert folded[0] == pytest.approx(raw[0], rel=1e-2)
    for before, after in zip(raw[1:], folded[1:], strict=True):
        assert abs(after - before) > 0.2 * before
