"""The gated forward: gates, edits, branching and clean-up, against forwards of plain models."""

import copy
import warnings

import pytest
import tiny
import torch
from pairs import make_pair, plain_logits, put, shared_pair

import sublim_mech as sm
from sublim_mech.engine.answers import Answers, build_trie
from sublim_mech.engine.forward import EMBED, Gates, Start
from sublim_mech.models.compat import KeysValues

# two branches of two tokens: nodes that must not see each other
TRIE = build_trie([[(300, 41, 7), (300, 52, 8), (61, 9)]])


@pytest.fixture
def batch(pair, prompts):
    return pair.batch([p.ids for p in prompts], [TRIE] * len(prompts))


def all_keys(pair, site="resid_pre"):
    return [(site, layer) for layer in range(pair.sites.n_layers)]


@torch.no_grad()
def run(pair, batch, **options):
    return pair.run(batch, **options)


# -------------------------------------------------------------------------------------------- gates


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gates: gates[:-1], "gates have shape"),
        (lambda gates: gates[:, :-1], "gates have shape"),
        (lambda gates: gates[..., :-1], "gates have shape"),
        (lambda gates: gates[0], "gates have shape"),
        (lambda gates: gates / 0, "gates hold NaN or infinity"),
        (lambda gates: float("nan"), "gates hold NaN or infinity"),
    ],
)
def test_gates_that_do_not_belong_to_the_batch_are_refused(pair, batch, change, message):
    gates = change(torch.zeros(*batch.ids.shape, len(pair.delta)))
    with pytest.raises(ValueError, match=message):
        run(pair, batch, gates=Gates(pair.student, gates))


def test_gates_of_zero_and_one_are_the_plain_models(pair, prompts, batch):
    """At the prompt's last token and at every node, each fed by itself in a plain forward."""
    shape = (*batch.ids.shape, len(pair.delta))
    ends = {
        pair.model: [None, Gates(pair.student, torch.zeros(shape))],
        pair.student.model: [Gates(pair.student), Gates(pair.student, torch.ones(shape))],
    }
    assert TRIE.nodes == (300, 41, 52, 61)
    fed = [(), (300,), (300, 41), (300, 52), (61,)]  # behind the prompt, at each read slot
    for model, gates in ends.items():
        for row, prompt in enumerate(prompts):
            texts = [[*prompt.ids, *branch] for branch in fed]
            expected = torch.stack([plain_logits(model, ids)[-1] for ids in texts])
            for one in gates:
                logits = run(pair, batch, gates=one).logits[row]
                torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_a_number_a_gate_per_token_and_a_gate_per_module_agree(pair, batch):
    half = torch.full((*batch.ids.shape, len(pair.delta)), 0.5)
    by_module = run(pair, batch, gates=Gates(pair.student, half)).logits
    by_token = run(pair, batch, gates=Gates(pair.student, half[..., 0])).logits
    number = run(pair, batch, gates=Gates(pair.student, 0.5)).logits
    torch.testing.assert_close(by_token, by_module, atol=0, rtol=0)
    torch.testing.assert_close(number, by_module, atol=1e-6, rtol=0)


def test_one_gate_per_module_is_a_student_with_only_that_module(smol_tokenizer, prompts):
    """A gate open on one module alone equals PEFT's own model with all other B matrices at zero."""
    base = tiny.model("llama")
    student = tiny.lora(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    prompt = prompts[1]
    batch = pair.batch([prompt.ids])
    only = copy.deepcopy(student)
    b_matrices = {name: p for name, p in only.named_parameters() if "lora_B" in name}
    values = {name: p.detach().clone() for name, p in b_matrices.items()}
    for number, path in enumerate(pair.delta):
        for name, parameter in b_matrices.items():
            parameter.data = values[name] * (f"{path}." in name)
        gates = torch.zeros(*batch.ids.shape, len(pair.delta))
        gates[..., number] = 1
        logits = run(pair, batch, gates=Gates(pair.student, gates)).logits[0, 0]
        torch.testing.assert_close(logits, plain_logits(only, prompt.ids)[-1], atol=1e-5, rtol=0)


def test_a_module_whose_gate_is_closed_everywhere_is_left_alone(llama):
    """One that takes a gradient is not."""
    gates = torch.zeros(1, 5, len(llama.delta))
    assert Gates(llama.student, 0.0).of(0) is None
    assert all(Gates(llama.student, gates).of(k) is None for k in range(len(llama.delta)))
    gates[0, 3, 1] = 1
    assert Gates(llama.student, gates).of(0) is None
    assert torch.equal(Gates(llama.student, gates).of(1), gates[..., 1])
    assert Gates(llama.student, gates.requires_grad_()).of(0) is not None


def test_causality_of_gates(pair, batch):
    """Gates after a token leave its residual stream bit-identical."""
    first = 9
    gates = torch.zeros(batch.ids.shape)
    gates[:, first:] = 1
    keys = all_keys(pair, "resid_post")
    plain = run(pair, batch, record=keys).activations
    late = run(pair, batch, gates=Gates(pair.student, gates), record=keys).activations
    for key in keys:
        assert torch.equal(plain[key][:, :first], late[key][:, :first])
        assert not torch.equal(plain[key][:, first:], late[key][:, first:])


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_unembedding_has_the_gates_of_the_slots_it_reads(architecture, smol_tokenizer, prompts):
    """A student that differs in the unembedding alone moves the logits of exactly the open slots.

    Read slots stand at other places in the row than in the list of reads, and differ between rows.
    """
    base = tiny.model(architecture)
    student = copy.deepcopy(base)
    base_head, student_head = base.get_output_embeddings(), student.get_output_embeddings()
    change = 0.05 * tiny.model("llama", seed=2).lm_head.weight.detach()
    student_head.weight = torch.nn.Parameter(base_head.weight.detach() + change)  # untied in gpt2
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    assert list(pair.delta) == ["lm_head"]
    answers = [
        Answers(nodes=(300, 41), parents=(-1, 0), at=(2, 5, 11)),
        Answers(nodes=(61,), parents=(-1,), at=(7,)),
    ]
    batch = pair.batch([p.ids for p in prompts], answers)
    last = pair.sites.n_layers - 1
    for slot in (2, 7, len(prompts[0]) - 1, len(prompts[0]), len(prompts[1]) - 1):
        gates = torch.zeros(batch.ids.shape)
        gates[:, slot] = 1
        done = run(pair, batch, gates=Gates(pair.student, gates), record=[("resid_post", last)])
        final_norm = pair.sites.module(pair.sites.n_layers, "ln_final")
        normed = pair.model.get_submodule(final_norm.path)(done.activations["resid_post", last])
        for row, reads in enumerate(batch.reads.tolist()):
            for read, read_slot in enumerate(reads):
                unembed = student_head if read_slot == slot else base_head
                expected = unembed(normed[row, read_slot])
                torch.testing.assert_close(done.logits[row, read], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ["gemma3", "qwen3"])
def test_gates_of_query_norms_lie_on_tokens_not_heads(architecture, smol_tokenizer):
    """Gemma-3 has heads before tokens there; with as many tokens as heads its order alone tells."""
    base = tiny.model(architecture)
    student = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in student.named_parameters():
        if "q_norm" in name or "k_norm" in name:
            parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    ids = [5, 6, 7, 8]
    assert len(ids) == base.config.num_attention_heads
    batch = pair.batch([ids])
    gates = torch.zeros(1, len(ids))
    gates[0, 3] = 1
    key = ("resid_post", 0)
    plain = run(pair, batch, record=[key]).activations[key]
    late = run(pair, batch, gates=Gates(pair.student, gates), record=[key]).activations[key]
    assert torch.equal(plain[:, :3], late[:, :3])
    assert not torch.equal(plain[:, 3], late[:, 3])


# -------------------------------------------------------------------------------------- activations


def test_putting_back_what_was_recorded_changes_nothing(pair, prompts):
    batch = pair.batch([prompts[0].ids], [TRIE])
    student = Gates(pair.student)
    for site in pair.sites.sites:
        keys = all_keys(pair, site)
        clean = run(pair, batch, gates=student, record=keys)
        edits = {key: (lambda _, own=clean.activations[key]: own) for key in keys}
        assert torch.equal(run(pair, batch, gates=student, edits=edits).logits, clean.logits), site


def test_an_edited_activation_is_recorded_as_edited(llama, prompts):
    batch = llama.batch([prompts[0].ids])
    key = ("mlp_out", 1)
    edited = run(llama, batch, edits={key: torch.zeros_like}, record=[key]).activations[key]
    assert not edited.any()


def test_a_gate_comes_before_an_edit_of_its_output(llama, prompts):
    """What is patched in is not changed again by the student's difference of that module."""
    batch = llama.batch([prompts[0].ids])
    key = ("mlp_out", 1)
    given = run(llama, batch, record=[key]).activations[key]
    open_gates = Gates(llama.student)
    after = run(llama, batch, gates=open_gates, edits={key: lambda _: given}, record=[key])
    assert torch.equal(after.activations[key], given)


def test_embeddings_can_be_recorded_and_edited(pair, prompts):
    batch = pair.batch([prompts[0].ids])
    embedded = run(pair, batch, record=[EMBED]).activations[EMBED]
    assert embedded.shape[:2] == batch.ids.shape
    swapped = pair.batch([prompts[0].ids[::-1]])
    moved = run(pair, swapped, edits={EMBED: lambda _: embedded}).logits
    torch.testing.assert_close(moved, run(pair, batch).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "phi3"])
def test_fused_projections_are_cut_where_the_model_cuts_them(architecture, smol_tokenizer, prompts):
    """Patching q, k and v of all heads and slots together is patching the whole fused output."""
    pair = shared_pair(architecture, "lora", smol_tokenizer)
    batch = pair.batch([prompts[0].ids])
    path = f"{pair.sites.blocks[1]}.{pair.sites.site('q').path}"
    fused = pair.model.get_submodule(path)
    keys = [(site, 1) for site in "qkv"]
    student = Gates(pair.student)
    given = run(pair, batch, gates=student, record=[*keys, ("resid_pre", 1)]).activations
    parts = run(pair, batch, edits={key: (lambda _, key=key: given[key]) for key in keys}).logits
    # the student's fused output by hand, put in by a plain hook
    with torch.no_grad():
        normed = pair.model.get_submodule(pair.sites.module(1, "ln1").path)(given["resid_pre", 1])
        output = fused(normed)
        output = output + pair.delta[path](output, normed)
    handle = fused.register_forward_hook(lambda module, args, _: output)
    whole = run(pair, batch).logits
    handle.remove()
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    assert not torch.allclose(parts, run(pair, batch).logits, atol=1e-3)


# ---------------------------------------------------------------------------------------- branching


def test_starting_at_a_later_block_changes_nothing(pair, batch):
    student = Gates(pair.student)
    keys = all_keys(pair)
    clean = run(pair, batch, gates=student, record=keys)
    for key in keys:
        start = Start(key[1], clean.activations[key])
        late = run(pair, batch, gates=student, start=start)
        torch.testing.assert_close(late.logits, clean.logits, atol=1e-6, rtol=0)


def test_starting_behind_the_last_block_leaves_norm_and_head(pair, batch):
    key = ("resid_post", pair.sites.n_layers - 1)
    clean = run(pair, batch, record=[key])
    late = run(pair, batch, start=Start(pair.sites.n_layers, clean.activations[key]))
    torch.testing.assert_close(late.logits, clean.logits, atol=1e-6, rtol=0)


def test_the_callers_edit_of_the_start_comes_on_top_of_it(llama, prompts):
    batch = llama.batch([prompts[0].ids])
    key = ("resid_pre", 1)
    hidden = run(llama, batch, record=[key]).activations[key]
    doubled = run(llama, batch, start=Start(1, hidden), edits={key: lambda x: 2 * x}).logits
    torch.testing.assert_close(doubled, run(llama, batch, edits={key: lambda x: 2 * x}).logits)


def test_slots_behind_keys_and_values_are_those_of_the_whole_row(pair, batch):
    """Keys and values of one row serve all rows, or each its own."""
    student = Gates(pair.student)
    whole = run(pair, batch, gates=student, past=())
    assert len(whole.cache) == pair.sites.n_layers
    slot = 12
    past = tuple(KeysValues(k[:, :, :slot], v[:, :, :slot]) for k, v in whole.cache)
    late = run(pair, batch.after(slot), gates=student, past=past)
    torch.testing.assert_close(late.logits, whole.logits, atol=2e-6, rtol=0)
    # both prompts begin alike, so one row's cache is enough
    one = tuple(KeysValues(k[:1], v[:1]) for k, v in past)
    shared = run(pair, batch.after(slot), gates=student, past=one)
    torch.testing.assert_close(shared.logits, whole.logits, atol=2e-6, rtol=0)
    assert torch.equal(batch.ids[0, :slot], batch.ids[1, :slot])


def test_a_forward_warns_of_nothing(pair, batch):
    """With a cache, without one, under gates and with edits."""
    key = ("attn_out", 1)
    edits = {key: lambda hidden: hidden}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = run(pair, batch, gates=Gates(pair.student), record=[key], edits=edits, past=())
        past = tuple(KeysValues(k[:, :, :5], v[:, :, :5]) for k, v in done.cache)
        run(pair, batch.after(5), past=past)
        run(pair, batch)


# ----------------------------------------------------------------------------------------- clean-up


def test_models_are_clean_after_an_exception(smol_tokenizer, prompts):
    pair = make_pair("llama", "lora", smol_tokenizer)
    batch = pair.batch([prompts[0].ids])
    before = run(pair, batch).logits

    def explode(_):
        raise RuntimeError("on purpose")

    start = Start(1, torch.zeros(*batch.ids.shape, 32))
    with pytest.raises(RuntimeError, match="on purpose"):
        run(pair, batch, gates=Gates(pair.student), edits={("attn_out", 2): explode}, start=start)
    for module in pair.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
        assert not module.training
    assert all(parameter.grad is None for parameter in pair.model.parameters())
    assert torch.equal(run(pair, batch).logits, before)


def test_a_forward_leaves_no_trace_in_the_model(pair, batch):
    state = {name: value.clone() for name, value in pair.model.state_dict().items()}
    generator = torch.get_rng_state()
    key = ("resid_mid" if "resid_mid" in pair.sites.sites else "mlp_out", 0)
    edits = {key: put(torch.zeros(1, 99, 32), (0, 3))}
    run(pair, batch, gates=Gates(pair.student), edits=edits, past=())
    assert all(torch.equal(value, state[name]) for name, value in pair.model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
