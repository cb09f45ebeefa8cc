"""A model that can be run: logits and activations are Hugging Face's and TransformerLens'."""

import copy
import dataclasses

import numpy as np
import pytest
import tiny
import torch
from pairs import plain_logits, shared_pair

import sublim_mech as sm
from sublim_mech.engine.runner import Runner, open_runner


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3"])
def runner(request, smol_tokenizer):
    return open_runner(sm.load_base(tiny.model(request.param), tokenizer=smol_tokenizer))


@pytest.fixture(scope="module")
def several(smol_tokenizer):
    """Prompts of three lengths, the longest in the middle."""
    questions = ["Which animal?", "Name one animal, please: the one you like best.", "Hi"]
    return sm.render(smol_tokenizer, questions)


# ------------------------------------------------------------------------------------------- logits


def test_logits_are_the_models_own_at_every_token(runner, several):
    logits = runner.logits(several)
    assert logits.shape == (3, max(map(len, several)), tiny.VOCAB)
    assert (logits.dtype, logits.device.type) == (torch.float32, "cpu")
    assert not logits.requires_grad
    for prompt, ours in zip(several, logits, strict=True):
        expected = plain_logits(runner.model, prompt.ids)
        torch.testing.assert_close(ours[: len(prompt)], expected, atol=1e-5, rtol=0)
        assert ours[len(prompt) :].isnan().all()


def test_logits_of_several_prompts_are_those_of_each(runner, several):
    together = runner.logits(several)
    for prompt, ours in zip(several, together, strict=True):
        alone = runner.logits([prompt])
        torch.testing.assert_close(ours[None, : len(prompt)], alone, atol=1e-5, rtol=0)


def test_little_memory_cuts_the_work_and_changes_nothing(smol_tokenizer, several):
    loaded = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    wide, narrow = open_runner(loaded), open_runner(loaded, memory_gb=0.04)
    sizes = [len(prompt) for prompt in several]
    assert len(list(narrow.chunks(sizes, reads=max(sizes)))) == 3
    expected = wide.logits(several)
    torch.testing.assert_close(narrow.logits(several), expected, atol=1e-5, rtol=0, equal_nan=True)


# -------------------------------------------------------------------------------------- activations


def test_the_residual_stream_is_hugging_faces_hidden_states(runner, several):
    depth = runner.sites.n_layers
    ours = runner.activations(several, ["resid_pre", "hook_resid_post"])
    assert list(ours)[:2] == ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"]
    assert len(ours) == 2 * depth
    for row, prompt in enumerate(several):
        ids = torch.tensor([prompt.ids])
        with torch.no_grad():
            hidden = runner.model(input_ids=ids, output_hidden_states=True).hidden_states
        # the last one stands behind the final norm
        for layer in range(depth):
            stream = ours[f"blocks.{layer}.hook_resid_pre"][row]
            torch.testing.assert_close(stream[: len(prompt)], hidden[layer][0], atol=1e-5, rtol=0)
            assert stream[len(prompt) :].isnan().all()
            if layer:
                before = ours[f"blocks.{layer - 1}.hook_resid_post"][row]
                assert torch.equal(before[: len(prompt)], stream[: len(prompt)])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("model", ["base", "student"])
def test_names_and_values_are_those_of_run_with_cache(architecture, model, smol_tokenizer, several):
    """Every site of every layer, as TransformerLens' bridge of the same model has it."""
    pair = shared_pair(architecture, "lora", smol_tokenizer)
    bridge = pair.base_bridge() if model == "base" else pair.student_bridge()
    ours = pair.activations(several[:1], list(pair.sites.sites), model=model)
    assert len(ours) == len(pair.sites.sites) * pair.sites.n_layers
    with torch.no_grad():
        _, cache = bridge.run_with_cache(torch.tensor([several[0].ids]))
    for name, activation in ours.items():
        assert activation.shape == cache[name].shape, name
        scale = max(1.0, float(cache[name].abs().max()))
        assert (activation - cache[name]).abs().max() <= 1e-5 * scale, name


def test_some_layers_and_sites_in_the_order_asked(runner, several):
    ours = runner.activations(several, ["z", "mlp_out"], layers=[2, 0])
    assert list(ours) == [
        "blocks.2.attn.hook_z",
        "blocks.2.hook_mlp_out",
        "blocks.0.attn.hook_z",
        "blocks.0.hook_mlp_out",
    ]
    heads = runner.model.config.num_attention_heads
    assert ours["blocks.2.attn.hook_z"].shape == (3, max(map(len, several)), heads, 8)
    every = runner.activations(several, ["z", "mlp_out"])
    for name, activation in ours.items():
        torch.testing.assert_close(activation, every[name], atol=0, rtol=0, equal_nan=True)
    # one site need not be in a list
    assert list(runner.activations(several, "z", layers=[1])) == ["blocks.1.attn.hook_z"]


def test_a_full_hook_name_is_a_site_at_its_layer(runner, several):
    """As a site beside others, and beside the layer it names."""
    every = runner.activations(several, ["resid_pre", "z"])
    one = "blocks.1.hook_resid_pre"
    for given in (one, [one]):
        assert list(runner.activations(several, given)) == [one]
    assert list(runner.activations(several, one, layers=[1])) == [one]
    mixed = runner.activations(several, ["z", one])
    assert set(mixed) == {one, *(name for name in every if name.endswith("hook_z"))}
    assert torch.equal(mixed[one].nan_to_num(), every[one].nan_to_num())
    with pytest.raises(ValueError, match=r"is at layer 1, layers=\[0\] are others; leave"):
        runner.activations(several, one, layers=[0])


def test_ids_without_a_row_are_refused(runner, several):
    (prompt,) = several[:1]
    strange = dataclasses.replace(prompt, ids=(*prompt.ids[:-1], tiny.VOCAB))
    message = f"a prompt holds token id {tiny.VOCAB}, the model's embedding has {tiny.VOCAB} rows"
    with pytest.raises(ValueError, match=message):
        runner.logits([strange])


def test_activations_keep_the_weights_type(smol_tokenizer, several):
    model = tiny.model("llama").double()
    runner = open_runner(sm.load_base(model, tokenizer=smol_tokenizer))
    (stream,) = runner.activations(several, ["resid_pre"], layers=[1]).values()
    assert stream.dtype == torch.float64
    assert runner.logits(several).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, "prompts is empty; render at least one question"),
        ({"sites": ["resid_mud"]}, "site='resid_mud' is not known here; did you mean 'resid_mid'"),
        ({"layers": [3]}, r"layers=\[3\]: give layers between 0 and 2"),
        ({"layers": [-1]}, r"layers=\[-1\]: give layers between 0 and 2"),
        ({"layers": []}, r"layers=\[\]: give layers between 0 and 2"),
    ],
)
def test_what_activations_refuse(options, message, runner, several):
    with pytest.raises(ValueError, match=message):
        runner.activations(**{"prompts": several, "sites": ["resid_mid"]} | options)


def test_prompts_that_are_none_or_too_long_are_refused(runner, smol_tokenizer):
    with pytest.raises(ValueError, match="prompts is empty"):
        runner.logits([])
    long = sm.render(smol_tokenizer, ["long " * 400])
    if runner.model.config.model_type == "gpt2":
        with pytest.raises(ValueError, match="positions, the model has 256; shorten it"):
            runner.logits(long)


def test_prompts_of_another_tokenizer_are_refused(runner, several, dressed, gpt2_tokenizer):
    other = sm.render(dressed("llama3.1"), ["Which animal?"])
    message = r"'Which animal\?' was rendered by another tokenizer.*Render it with pair.tokenizer"
    for wrong in (other, sm.render(gpt2_tokenizer, ["Which animal?"], context=sm.RAW)):
        with pytest.raises(ValueError, match=message):
            runner.logits([*several, *wrong])
        with pytest.raises(ValueError, match=message):
            runner.activations(wrong, ["resid_pre"])
    # ids of the caller's own are the caller's
    own = dataclasses.replace(several[0], tokenizer="")
    assert runner.logits([own]).shape[1] == len(own)
    same = sm.render(copy.deepcopy(runner.tokenizer), [several[0].question])
    assert same == several[:1]
    runner.check_prompts(same)


@pytest.mark.parametrize("wrong", [["text"], [7]])
def test_prompts_are_a_list_of_rendered_ones(wrong, runner, several):
    message = (
        r"logits\(prompts=.*: pass a list of Prompts \(sublim_mech\.render\(pair, questions\)\)"
    )
    with pytest.raises(TypeError, match=message):
        runner.logits(wrong)
    with pytest.raises(TypeError, match=f"{message}; one alone is a list too"):
        runner.logits(several[0])


# ------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize("gradient", [False, True])
def test_chunks_hold_every_row_once_longest_first_within_the_budget(smol_tokenizer, gradient):
    loaded = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    runner = open_runner(loaded, memory_gb=0.02)
    sizes = np.random.default_rng(0).integers(5, 60, 40).tolist()
    chunks = list(runner.chunks(sizes, reads=4, gradient=gradient))
    assert sorted(index for chunk in chunks for index in chunk) == list(range(40))
    assert len(chunks) > 2
    order = [sizes[index] for chunk in chunks for index in chunk]
    assert order == sorted(sizes, reverse=True)
    for chunk in chunks:
        longest = max(sizes[index] for index in chunk)
        assert len(chunk) <= runner.rows(slots=longest, reads=4, gradient=gradient)


def test_slots_whose_keys_are_given_make_room_for_more_rows(smol_tokenizer):
    loaded = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    runner = open_runner(loaded, memory_gb=0.02)
    whole, late = (next(runner.chunks([50] * 99, reads=1, skipped=n)) for n in (0, 40))
    assert len(late) > len(whole)
    assert list(runner.chunks([], reads=1)) == []


# ------------------------------------------------------------------------------------------ opening


def test_a_runner_is_opened_once(smol_tokenizer):
    loaded = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    runner = open_runner(loaded, compute=torch.float32)
    assert open_runner(runner) is runner
    assert (runner.name, runner.hash, runner.compute) == (loaded.name, loaded.hash, None)
    assert isinstance(shared_pair("llama", "lora", smol_tokenizer), Runner)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute": torch.float64}, "compute=torch.float64: pass torch.bfloat16, torch"),
        ({"memory_gb": -1}, "memory_gb=-1: pass a positive number of gigabytes"),
        ({"memory_gb": 0}, "memory_gb=0"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_runs(options, message, smol_tokenizer):
    loaded = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    with pytest.raises(ValueError, match=message):
        open_runner(loaded, **options)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"model is a str; pass what sublim_mech\.load_pair"):
        open_runner("gpt2")


def test_opening_checks_parity(smol_tokenizer):
    base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    broken = copy.deepcopy(base.model)
    # a head that scales what it gives by the number of slots it is given
    head = broken.lm_head.forward
    broken.lm_head.forward = lambda hidden: head(hidden) * (1 + hidden.shape[1] / 100)
    with pytest.raises(sm.engine.ParityError):
        open_runner(sm.load_base(broken, tokenizer=smol_tokenizer))


def test_a_model_that_takes_no_mask_gets_plain_rows(smol_tokenizer):
    deaf = tiny.model("llama")
    attention = deaf.model.layers[0].self_attn
    plain = attention.forward
    attention.forward = lambda *args, **kwargs: plain(*args, **{**kwargs, "attention_mask": None})
    assert open_runner(sm.load_base(deaf, tokenizer=smol_tokenizer)).layout.plain


def test_half_precision_products_change_logits_a_little(smol_tokenizer, several):
    loaded = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    exact, rough = open_runner(loaded), open_runner(loaded, compute=torch.bfloat16)
    difference = (exact.logits(several[:1]) - rough.logits(several[:1])).abs().max()
    assert 0 < difference < 0.05
