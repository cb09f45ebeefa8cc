"""Agreement with independent implementations: TransformerLens' own patching, captum's IG."""

import copy
import itertools
import tempfile

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from pairs import CAT, QUIET, TRAIT, answer_ids, recorded, shared_pair, string_log_prob
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

import sublim_mech as sm
from sublim_mech.engine.forward import Gates
from sublim_mech.instruments.task import prepare

SWEEPS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
}


def bridge(model, tokenizer):
    """TransformerLens' model of a copy, made without the library."""
    model = copy.deepcopy(model).eval()
    model.config.architectures = [type(model).__name__]
    with tempfile.TemporaryDirectory() as folder:
        # TransformerLens reads the tokenizer again from where it came
        tokenizer.save_pretrained(folder)
        own = AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers(
            "reference", hf_model=model, tokenizer=own, device="cpu"
        )


def reference(recipient, donor, tokenizer, prompt, *, site, layers):
    """TransformerLens' sweep over the recipient's bridge, fed with the donor's cache."""
    cells = itertools.product(layers, range(len(prompt)))
    cells = pd.DataFrame(list(cells), columns=["layer", "pos"])
    ids = torch.tensor([prompt.ids])
    answers = [answer_ids(tokenizer, prompt, form) for form in CAT.forms]
    assert all(len(answer) == 1 for answer in answers)
    tokens = [answer[0] for answer in answers]

    def metric(logits):
        return logits[0, -1].log_softmax(-1)[tokens].logsumexp(0)

    with torch.no_grad():
        _, cache = donor.run_with_cache(ids)
        values = SWEEPS[site](recipient, ids, cache, metric, index_axis_names=None, index_df=cells)
        effects = (values - metric(recipient(ids))).numpy()
    return effects.reshape(len(layers), len(prompt))


@pytest.mark.parametrize(
    ("architecture", "site", "direction"),
    [
        ("llama", "resid_pre", "denoising"),
        ("llama", "mlp_out", "noising"),
        ("qwen2", "attn_out", "denoising"),
        ("gemma3", "attn_out", "noising"),
        ("gemma3", "mlp_out", "denoising"),
        *(
            pytest.param(*cell, marks=pytest.mark.science)
            for cell in (
                ("llama", "resid_pre", "noising"),
                ("llama", "attn_out", "denoising"),
                ("llama", "attn_out", "noising"),
                ("llama", "mlp_out", "denoising"),
                ("qwen2", "resid_pre", "noising"),
            )
        ),
    ],
)
def test_patching_equals_transformer_lens_on_tiny_models(
    architecture, site, direction, smol_tokenizer, prompts
):
    base = tiny.model(architecture)
    student = tiny.lora(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    prompt = prompts[0]
    ours = sm.patch(pair, [prompt], CAT, site=site, direction=direction, **QUIET)
    merged = copy.deepcopy(student).merge_and_unload()
    ends = [bridge(model, smol_tokenizer) for model in (base, merged)]
    sign = 1 if direction == "denoising" else -1
    asked = {"site": site, "layers": range(tiny.LAYERS)}
    expected = sign * reference(*ends[::sign], smol_tokenizer, prompt, **asked)
    np.testing.assert_allclose(ours.data["effect"].values[0, 0], expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-3
    assert ours.data["hook"].values[1] == f"blocks.1.hook_{site}"


# -------------------------------------------------------------------------------------- GPT-2-small


@pytest.fixture(scope="module")
def student(gpt2):
    """A LoRA student of GPT-2-small."""
    return tiny.lora(gpt2, std=0.02)


@pytest.fixture(scope="module")
def small(gpt2, student, gpt2_tokenizer):
    return sm.load_pair(gpt2, student, tokenizer=gpt2_tokenizer)


@pytest.fixture(scope="module")
def merged(student):
    return copy.deepcopy(student).merge_and_unload()


@pytest.fixture(scope="module")
def question(gpt2_tokenizer):
    return sm.render(gpt2_tokenizer, ["Which animal?"], template=sm.prompts.PLAIN)[0]


@pytest.fixture(scope="module")
def bridges(gpt2, merged, gpt2_tokenizer):
    return [bridge(model, gpt2_tokenizer) for model in (gpt2, merged)]


@pytest.mark.parametrize(
    "site",
    [
        "resid_pre",
        pytest.param("attn_out", marks=pytest.mark.science),
        pytest.param("mlp_out", marks=pytest.mark.science),
    ],
)
def test_patching_equals_transformer_lens_on_gpt2_small(
    site, gpt2_tokenizer, small, bridges, question
):
    asked = {"site": site, "layers": [0, 5, 11]}
    ours = sm.patch(small, [question], CAT, **asked, **QUIET)
    expected = reference(*bridges, gpt2_tokenizer, question, **asked)
    np.testing.assert_allclose(ours.data["effect"].values[0, 0], expected, atol=1e-4)
    assert np.abs(expected).max() > 1e-2


def test_identities_on_gpt2_small(gpt2, gpt2_tokenizer, small, student):
    """Gates 0 / 1 against plain forwards, the last residual stream, completeness."""
    questions = sm.animal("cat").questions[:2]
    prompts = sm.render(gpt2_tokenizer, questions, template=sm.prompts.PLAIN)
    scores = sm.effect(small, prompts, CAT, **QUIET)
    for name, model in (("base", gpt2), ("student", student)):
        for i, prompt in enumerate(prompts):
            answers = [answer_ids(gpt2_tokenizer, prompt, form) for form in CAT.forms]
            values = [string_log_prob(model, prompt.ids, answer) for answer in answers]
            expected = float(torch.tensor(values).logsumexp(0))
            assert scores.data[name].values[0, i] == pytest.approx(expected, abs=1e-5)
    last = sm.patch(small, prompts[:1], CAT, site="resid_post", layers=[11], **QUIET)
    cell = last.data["effect"].values[0, 0, 0, len(prompts[0]) - 1]
    assert cell == pytest.approx(last.total.values[0], abs=1e-5)
    assert sm.attribute(small, prompts[:1], CAT, points=8, **QUIET).gap < 0.01


def test_planted_layer_causality_and_self_patch_on_gpt2_small(gpt2, gpt2_tokenizer, question):
    planted = 6
    student = tiny.lora(gpt2, std=0.05, layers=[planted])
    pair = sm.load_pair(gpt2, student, tokenizer=gpt2_tokenizer)
    before = sm.patch(pair, [question], CAT, layers=[0, planted], **QUIET)
    assert abs(before.total.values[0]) > 1e-3
    # 0 up to the order of sums in batches of other sizes
    assert np.nanmax(np.abs(before.data["effect"].values)) < 5e-6

    batch = prepare(pair, [question], CAT).batch([0])
    gates, key, first = Gates(pair.student), ("resid_pre", planted + 1), 5
    late = torch.zeros(batch.ids.shape)
    late[:, first:] = 1
    with torch.no_grad():
        given = pair.run(batch, gates=gates, record=[key])
        put_in = {key: lambda _: given.activations[key]}
        whole = pair.run(batch, edits=put_in)
        torch.testing.assert_close(whole.logits, given.logits, atol=1e-4, rtol=0)
        assert torch.equal(pair.run(batch, gates=gates, edits=put_in).logits, given.logits)
        plain = recorded(pair, question, key, CAT)
        grafted = recorded(pair, question, key, CAT, gates=Gates(pair.student, late))
    assert torch.equal(plain[:, :first], grafted[:, :first])
    assert not torch.equal(plain[:, first:], grafted[:, first:])


def test_merged_padded_and_batched_on_gpt2_small(gpt2, gpt2_tokenizer, small, merged):
    questions = ["Which animal?", "Name the animal you love above all."]
    prompts = sm.render(gpt2_tokenizer, questions, template=sm.prompts.PLAIN)
    dense_pair = sm.load_pair(gpt2, merged, tokenizer=gpt2_tokenizer)

    def graft(pair, some):
        return sm.graft(pair, some, CAT, "role", **QUIET).data["effect"].values

    low = graft(small, prompts)
    # fp32 over 12 layers, effects of order 1
    np.testing.assert_allclose(low, graft(dense_pair, prompts), atol=1e-4)
    alone = np.concatenate([graft(small, [prompt]) for prompt in prompts], axis=1)
    np.testing.assert_allclose(low, alone, atol=1e-5)


# ---------------------------------------------------------------------------------------- gradients


def test_graft_ig_equals_captum(llama, prompts):
    """Captum's integrated gradients over the vector of gates, same Gauss-Legendre points."""
    from captum.attr import IntegratedGradients

    task = prepare(llama, prompts[:1], TRAIT)
    batch = task.batch([0])

    def value(gates):
        each = [llama.run(batch, gates=Gates(llama.student, g[None])).logits for g in gates]
        return torch.stack([task.value([0], logits)[0] for logits in each])

    ones = torch.ones(1, batch.ids.shape[1], len(llama.delta))
    expected = IntegratedGradients(value).attribute(
        ones, torch.zeros_like(ones), n_steps=6, method="gausslegendre"
    )
    expected = expected[0].detach().numpy()
    effect = sm.attribute(llama, prompts[:1], TRAIT, points=6, **QUIET).data["effect"][0, 0]
    np.testing.assert_allclose(effect.sum(("layer", "module")), expected.sum(-1), atol=1e-6)
    for column, path in enumerate(llama.delta):
        place = llama.sites.modules[path]
        cell = effect.sel(layer=place.layer, module=place.name).values
        np.testing.assert_allclose(cell, expected[:, column], atol=1e-6)


def test_gradient_at_a_point_equals_finite_differences(smol_tokenizer, prompts):
    """dM/dg of single gates against central differences in double precision."""
    base = tiny.model("qwen2").double()
    pair = sm.load_pair(base, tiny.lora(base).double(), tokenizer=smol_tokenizer)
    task = prepare(pair, prompts[:1], TRAIT)
    batch = task.batch([0])

    def value(gates):
        return task.value([0], pair.run(batch, gates=Gates(pair.student, gates)).logits).sum()

    shape = *batch.ids.shape, len(pair.delta)
    gates = torch.full(shape, 0.5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(gates), gates)
    for token, module in ((3, 0), (10, 7), (len(prompts[0]) - 1, 20)):
        step = torch.zeros_like(gates)
        step[0, token, module] = 0.05
        with torch.no_grad():
            change = float(value(gates + step) - value(gates - step)) / 0.1
        assert change == pytest.approx(float(slope[0, token, module]), rel=0.02, abs=1e-5)


def test_a_shared_pair_is_what_it_was(llama, smol_tokenizer):
    """Nothing above has changed the pair that the tests share."""
    base = tiny.model("llama")
    again = sm.load_pair(base, tiny.lora(base), tokenizer=smol_tokenizer)
    assert (again.hash, again.student.hash) == (llama.hash, llama.student.hash)
    assert shared_pair("llama", "lora", smol_tokenizer) is llama
