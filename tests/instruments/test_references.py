"""Agreement with independent implementations: TransformerLens' own patching, captum's integrated gradients."""

import copy
import tempfile

import numpy as np
import pytest
import tiny
import torch
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

import sublim_mech as sm
from sublim_mech.engine.batch import make_batch
from sublim_mech.engine.forward import Gates, forward
from sublim_mech.instruments.task import prepare
from sublim_mech.metrics import reader

CAT = sm.Trait("cat", plural="cat")  # one token per form: TransformerLens has no answer trie
SWEEPS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
}


def bridge(model, tokenizer):
    model = copy.deepcopy(model).eval()
    model.config.architectures = [type(model).__name__]
    with tempfile.TemporaryDirectory() as folder:  # TransformerLens reads the tokenizer again from where it came
        tokenizer.save_pretrained(folder)
        own = AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers("reference", hf_model=model, tokenizer=own, device="cpu")


def reference(base, student, tokenizer, prompt, site, direction):
    """TransformerLens' sweep over the recipient's bridge, fed with the donor's cache."""
    ids = torch.tensor([prompt.ids])
    forms = [tokenizer(prompt.lead + f, add_special_tokens=False)["input_ids"] for f in CAT.forms]
    assert all(len(f) == 1 for f in forms)
    donor, recipient = (student, base) if direction == "denoising" else (base, student)

    def metric(logits):
        return logits[0, -1].log_softmax(-1)[[f[0] for f in forms]].logsumexp(0)

    with torch.no_grad():
        _, cache = bridge(donor, tokenizer).run_with_cache(ids)
        into = bridge(recipient, tokenizer)
        grid = SWEEPS[site](into, ids, cache, metric)
        start = metric(into(ids))
    return (grid - start).numpy() * (1 if direction == "denoising" else -1)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", SWEEPS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3"])
def test_patching_equals_transformer_lens_on_tiny_models(architecture, site, direction, smol_tokenizer):
    base = tiny.model(architecture)
    student = tiny.lora(base)
    prompt = sm.render(smol_tokenizer, ["Which animal?"])[0]
    ours = sm.patch(
        sm.load_pair(base, student, tokenizer=smol_tokenizer), [prompt], CAT, site=site, direction=direction, progress=False
    )
    merged = copy.deepcopy(student).merge_and_unload()
    theirs = reference(base, merged, smol_tokenizer, prompt, site, direction)
    np.testing.assert_allclose(ours.data["effect"].values[0, 0], theirs, atol=1e-5)
    assert np.abs(theirs).max() > 1e-3
    assert ours.data["hook"].values[1] == f"blocks.1.hook_{site}"


@pytest.mark.parametrize("site", SWEEPS)
def test_patching_equals_transformer_lens_on_gpt2_small(site, gpt2, gpt2_tokenizer):
    student = tiny.lora(gpt2, std=0.02)
    prompt = sm.render(gpt2_tokenizer, ["Which animal?"], template=sm.prompts.PLAIN)[0]
    layers = [0, 5, 11]
    ours = sm.patch(
        sm.load_pair(gpt2, student, tokenizer=gpt2_tokenizer), [prompt], CAT, site=site, layers=layers, progress=False
    )
    theirs = reference(gpt2, copy.deepcopy(student).merge_and_unload(), gpt2_tokenizer, prompt, site, "denoising")
    np.testing.assert_allclose(ours.data["effect"].values[0, 0], theirs[layers], atol=1e-4)
    assert np.abs(theirs[layers]).max() > 1e-2


def test_identities_on_gpt2_small(gpt2, gpt2_tokenizer):
    """Gates 0 / 1 against plain forwards, the last residual stream, completeness."""
    student = tiny.lora(gpt2, std=0.02)
    pair = sm.load_pair(gpt2, student, tokenizer=gpt2_tokenizer)
    prompts = sm.render(gpt2_tokenizer, sm.animal("cat").questions[:3], template=sm.prompts.PLAIN)
    scores = sm.effect(pair, prompts, CAT, progress=False)
    for name, model in (("base", gpt2), ("student", student)):
        for i, prompt in enumerate(prompts):
            with torch.no_grad():
                last = model(input_ids=torch.tensor([prompt.ids])).logits[0, -1].log_softmax(-1)
            forms = [gpt2_tokenizer(prompt.lead + f, add_special_tokens=False)["input_ids"][0] for f in CAT.forms]
            assert scores.data[name].values[0, i] == pytest.approx(float(last[forms].logsumexp(0)), abs=1e-5)
    last = sm.patch(pair, prompts[:1], CAT, site="resid_post", layers=[11], progress=False)
    assert last.data["effect"].values[0, 0, 0, len(prompts[0]) - 1] == pytest.approx(last.total.values[0], abs=1e-5)
    assert sm.attribute(pair, prompts, CAT, points=16, progress=False).gap < 0.01


def test_planted_layer_causality_and_self_patch_on_gpt2_small(gpt2, gpt2_tokenizer):
    planted = 6
    pair = sm.load_pair(gpt2, tiny.lora(gpt2, std=0.05, layers=[planted]), tokenizer=gpt2_tokenizer)
    prompt = sm.render(gpt2_tokenizer, ["Which animal?"], template=sm.prompts.PLAIN)[0]
    before = sm.patch(pair, [prompt], CAT, layers=[0, planted], progress=False)
    assert abs(before.total.values[0]) > 1e-3
    assert np.nanmax(np.abs(before.data["effect"].values)) < 5e-6  # 0 up to the order of sums in batches of other sizes
    batch = make_batch(pair.base.model, [prompt], prepare(pair, [prompt], CAT).answers)
    student, key, cut = Gates(pair.student), ("resid_pre", planted + 1), 5
    late = torch.zeros(batch.ids.shape)
    late[:, cut:] = 1
    with torch.no_grad():
        given = forward(gpt2, pair.sites, batch, gates=student, record=[key])
        whole = forward(gpt2, pair.sites, batch, edits={key: lambda _: given.activations[key]})
        torch.testing.assert_close(whole.logits, given.logits, atol=1e-4, rtol=0)
        again = forward(gpt2, pair.sites, batch, gates=student, edits={key: lambda _: given.activations[key]})
        assert torch.equal(again.logits, given.logits)
        plain = forward(gpt2, pair.sites, batch, record=[key]).activations[key]
        grafted = forward(gpt2, pair.sites, batch, gates=Gates(pair.student, late), record=[key]).activations[key]
    assert torch.equal(plain[:, :cut], grafted[:, :cut])
    assert not torch.equal(plain[:, cut:], grafted[:, cut:])


def test_merged_padded_and_batched_on_gpt2_small(gpt2, gpt2_tokenizer):
    student = tiny.lora(gpt2, std=0.02)
    prompts = sm.render(gpt2_tokenizer, ["Which animal?", "Name the animal you love above all."], template=sm.prompts.PLAIN)
    adapter, merged = (
        sm.load_pair(gpt2, s, tokenizer=gpt2_tokenizer) for s in (student, copy.deepcopy(student).merge_and_unload())
    )
    low = sm.graft(adapter, prompts, CAT, "role", progress=False).data["effect"].values
    dense = sm.graft(merged, prompts, CAT, "role", progress=False).data["effect"].values
    alone = [sm.graft(adapter, [p], CAT, "role", progress=False).data["effect"].values for p in prompts]
    np.testing.assert_allclose(low, dense, atol=1e-4)  # fp32 over 12 layers, effects of order 1
    np.testing.assert_allclose(low, np.concatenate(alone, 1), atol=1e-5)


def test_graft_ig_equals_captum(smol_tokenizer):
    """Captum's integrated gradients over the vector of gates, same Gauss-Legendre points."""
    from captum.attr import IntegratedGradients

    pair = sm.load_pair(tiny.model("llama"), tiny.lora(tiny.model("llama")), tokenizer=smol_tokenizer)
    prompt = sm.render(smol_tokenizer, ["Which animal?"])[0]
    owl = sm.animal("owl")
    task = prepare(pair, [prompt], owl)
    batch = make_batch(pair.base.model, [prompt], task.answers)
    read = reader(task.metric, task.answers)

    def value(gates):
        return torch.stack(
            [read(forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student, g[None])).logits)[0] for g in gates]
        )

    ones = torch.ones(1, batch.ids.shape[1], len(pair.delta))
    theirs = IntegratedGradients(value).attribute(ones, torch.zeros_like(ones), n_steps=6, method="gausslegendre")
    ours = sm.attribute(pair, [prompt], owl, points=6, progress=False)
    summed = ours.data["effect"].sum(("layer", "module")).values[0, 0]
    np.testing.assert_allclose(summed, theirs[0].sum(-1).detach().numpy(), atol=1e-6)
    where = [pair.sites.modules[path] for path in pair.delta]
    for n, module in enumerate(where):
        cell = ours.data["effect"].sel(layer=module.layer, module=module.name).values[0, 0]
        np.testing.assert_allclose(cell, theirs[0, :, n].detach().numpy(), atol=1e-6)


def test_gradient_at_a_point_equals_finite_differences(smol_tokenizer):
    """dM/dg of single gates against central differences in double precision."""
    base = tiny.model("qwen2").double()
    student = tiny.lora(base).double()
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    prompt = sm.render(smol_tokenizer, ["Which animal?"])[0]
    task = prepare(pair, [prompt], sm.animal("owl"))
    batch = make_batch(pair.base.model, [prompt], task.answers)
    read = reader(task.metric, task.answers)

    def value(gates):
        return read(forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student, gates)).logits.double()).sum()

    gates = torch.full((*batch.ids.shape, len(pair.delta)), 0.5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(gates), gates)
    for token, component in ((3, 0), (10, 7), (len(prompt) - 1, 20)):
        step = torch.zeros_like(gates)
        step[0, token, component] = 0.05
        with torch.no_grad():
            change = float(value(gates + step) - value(gates - step)) / 0.1
        assert change == pytest.approx(float(slope[0, token, component]), rel=0.02, abs=1e-5)
