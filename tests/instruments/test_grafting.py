"""Grafts and their sweeps: exact identities, and independent implementations of the same graft."""

import copy

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from pairs import (
    CAT,
    LONG,
    PAIRS,
    QUIET,
    TRAIT,
    answer_ids,
    brute_force,
    far_pair,
    make_pair,
    one_cell,
    shared_pair,
    student_gates,
    whole_run,
)
from transformers import DynamicCache

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.instruments.task import prepare
from sublim_mech.models.compat import call_model

ALL = {"all": masks.everything()}
STUDENT_ANSWERS = {"answer_in_sufficiency": True, "answer_in_necessity": False}


def sufficient(scores):
    """The metric under the first set's graft, `(prompt,)`."""
    effect = scores.data["effect"].isel(model=0, set=0).sel(measure="sufficiency")
    return scores.data["base"].values[0] + effect.values


# --------------------------------------------------------------------------------------- identities


def test_a_sweep_of_some_cells_says_which_and_has_no_others(smol_tokenizer):
    """What nothing switches has no value: a 0 there would read like a finding."""
    pair = shared_pair("llama", "lora", smol_tokenizer)
    prompts = sm.render(pair, ["Which animal?"])
    trait = sm.Trait("marmalade")

    def sweep(only, **options):
        return sm.instruments.graft_sweep(pair, prompts, trait, only=only, **options, **QUIET)

    def has_value(scores):
        return np.isfinite(scores.data["effect"].values[0, 0]).all(0)  # by position

    system = sweep(masks.role("system"))
    assert ", only system" in repr(system).splitlines()[0]
    tokens = masks.role("system").tokens(prompts[0])
    assert np.flatnonzero(has_value(system)).tolist() == list(tokens)  # the answer's are none
    mlp = sweep(masks.modules("mlp"))
    assert ", only mlp" in repr(mlp).splitlines()[0]
    assert has_value(mlp).all()  # of all tokens, the answer's too
    assert ", only" not in repr(sweep(masks.everything())).splitlines()[0]
    assert sweep(masks.layers([1])).data["layer"].values.tolist() == [1]
    with pytest.raises(ValueError, match=r"layers=\[0, 1\]: only='layer 1' holds nothing .* \[0\]"):
        sweep(masks.layers([1]), layers=[0, 1])


def test_batched_and_padded_equal_one_by_one(pair, marked):
    together = sm.graft(pair, marked, TRAIT, "role", **QUIET).data["effect"].values
    alone = [sm.graft(pair, [p], TRAIT, "role", **QUIET).data["effect"].values for p in marked]
    np.testing.assert_allclose(together, np.concatenate(alone, axis=1), atol=2e-6)
    backwards = sm.graft(pair, marked[::-1], TRAIT, "role", **QUIET).data["effect"].values
    np.testing.assert_allclose(together, backwards[:, ::-1], atol=2e-6)


def test_all_tokens_and_the_answer_are_the_whole_effect(pair, marked):
    scores = sm.graft(pair, marked, TRAIT, ALL, **STUDENT_ANSWERS, **QUIET)
    effect = scores.data["effect"].isel(set=0, model=0).transpose("measure", "prompt")
    for measured in effect.values:
        np.testing.assert_allclose(measured, scores.total.values, atol=1e-5)


def test_tokens_of_the_answer_count(pair, marked):
    """On random models one-token forms would drown what the trie's nodes compute."""
    assert all(len(answer_ids(pair.tokenizer, marked[0], form)) > 1 for form in LONG.forms)
    inside = sm.graft(pair, marked, LONG, ALL, **STUDENT_ANSWERS, **QUIET)
    outside = sm.graft(pair, marked, LONG, ALL, **QUIET)
    for name, model in (("base", pair.model), ("student", pair.student.model)):
        expected = [brute_force(model, pair.tokenizer, prompt, LONG) for prompt in marked]
        np.testing.assert_allclose(inside.data[name].values[0], expected, atol=2e-5)
    total = inside.total.values
    for measured in inside.data["effect"].isel(set=0, model=0).transpose("measure", ...).values:
        np.testing.assert_allclose(measured, total, atol=2e-5)
    # with the answer's own tokens computed by the other model
    for measured in outside.data["effect"].isel(set=0, model=0).transpose("measure", ...).values:
        assert np.abs(measured - total).max() > 1e-4


def test_sufficiency_is_the_total_minus_the_necessity_of_the_complement(pair, prompts):
    """By definition, with the answer's tokens on the same side; masks on every kind of module."""
    chosen = masks.role("user") & (masks.modules("mlp", "norms") | masks.layers(1))
    alone = sm.graft(pair, prompts, TRAIT, {"s": chosen}, answer_in_sufficiency=False, **QUIET)
    without = sm.graft(pair, prompts, TRAIT, {"s": ~chosen}, answer_in_necessity=False, **QUIET)
    gained = alone.data["effect"].sel(measure="sufficiency").values[..., 0]
    lost = without.data["effect"].sel(measure="necessity").values[..., 0]
    assert max(len(trie.nodes) for trie in prepare(pair, prompts, TRAIT).answers) > 0
    np.testing.assert_allclose(gained, alone.total.values - lost, atol=1e-5)


def test_sets_by_name_are_the_masks_they_stand_for(llama, marked):
    for name, by in (("role", masks.by_role), ("sharing", masks.by_sharing)):
        short = sm.graft(llama, marked, TRAIT, name, **QUIET)
        sets = by(marked, answer=True)
        # a set that is empty somewhere is refused when somebody named it
        everywhere = {
            k: m for k, m in sets.items() if k == "answer" or all(m.tokens(p) for p in marked)
        }
        named = sm.graft(llama, marked, TRAIT, everywhere, **QUIET)
        assert short.data["set"].values.tolist() == list(sets)
        for one in everywhere:
            ours, other = (s.data["effect"].sel(set=one).values for s in (short, named))
            np.testing.assert_allclose(ours, other, atol=2e-6)
        nodes = [len(trie.nodes) for trie in prepare(llama, marked, TRAIT).answers]
        counted = [
            [n if k == "answer" else len(mask.tokens(p)) for k, mask in sets.items()]
            for p, n in zip(marked, nodes, strict=True)
        ]
        assert short.data["tokens"].values.tolist() == counted


@pytest.mark.parametrize("name", ["role", "sharing"])
def test_grafts_and_attributions_have_the_same_sets_of_the_same_size(llama, marked, name):
    grafted = sm.graft(llama, marked, LONG, name, **QUIET)
    attributed = sm.attribute(llama, marked, LONG, points=2, **QUIET)
    sizes = ["tokens", "token share"]
    pd.testing.assert_frame_equal(grafted.sets()[sizes], attributed.by(name)[sizes])
    assert "answer" in grafted.sets().index
    ours, other = (grafted.sel(set="answer").sets(), grafted.sets().loc[["answer"]])
    pd.testing.assert_frame_equal(ours, other)


# ----------------------------------------------------------------------------- the answer's tokens


def test_the_answer_alone_is_what_all_prompt_tokens_leave(pair, marked):
    """Whatever is asked of the answer's gate with other sets."""
    sets = {"all": masks.everything(), "answer": masks.role("answer")}
    scores = sm.graft(pair, marked, LONG, sets, **QUIET)
    total = scores.total.values
    effect = scores.data["effect"].isel(model=0)
    alone, lost = (effect.sel(set="answer", measure=m).values for m in effect["measure"].values)
    prompt, without = (effect.sel(set="all", measure=m).values for m in effect["measure"].values)
    np.testing.assert_allclose(alone, total - without, atol=2e-5)
    np.testing.assert_allclose(lost, total - prompt, atol=2e-5)
    assert np.abs(alone).max() > 1e-4
    other_gates = sm.graft(pair, marked, LONG, sets, **STUDENT_ANSWERS, **QUIET)
    again = other_gates.data["effect"].sel(set="answer").values
    np.testing.assert_allclose(again, scores.data["effect"].sel(set="answer").values, atol=2e-6)


def test_the_answer_in_some_modules_equals_whole_runs(llama, prompts):
    prompt, sets = prompts[0], {"in layer 1": masks.layers(1) & masks.role("answer")}
    scores = sm.graft(llama, [prompt], LONG, sets, **QUIET)
    task = prepare(llama, [prompt], LONG)
    gates = torch.zeros(1, task.size(0), len(llama.delta))
    nodes = range(len(prompt), task.size(0))
    for slot in nodes:
        gates += one_cell(task, llama, layer=1, slot=slot)
    alone = whole_run(llama, prompt, LONG, gates=student_gates(llama, gates))
    without = whole_run(llama, prompt, LONG, gates=student_gates(llama, 1 - gates))
    effect, data = scores.data["effect"].isel(model=0, set=0, prompt=0), scores.data
    expected = [alone - data["base"].item(), data["student"].item() - without]
    np.testing.assert_allclose(effect.values, expected, atol=1e-5)
    assert scores.data["tokens"].item() == len(nodes) > 1


def test_an_answer_of_one_token_has_no_tokens_of_its_own(llama, marked):
    for name in ("role", "sharing"):
        assert "answer" not in sm.graft(llama, marked, CAT, name, **QUIET).data["set"].values
    message = "'mine' is empty in 4 prompts, .* the answer is one token, which is read and never"
    assert len(marked) == 4
    with pytest.raises(ValueError, match=message):
        sm.graft(llama, marked, CAT, {"mine": masks.role("answer")}, **QUIET)


def test_how_an_answer_is_cut_moves_no_token_of_the_prompt(llama, marked):
    """The same prompts with answers of no, few and many tokens of their own."""
    tables = [sm.attribute(llama, marked, t, points=1, **QUIET) for t in (CAT, TRAIT, LONG)]
    shares = [sm.concentration(scores, draws=10).token_share for scores in tables]
    assert len(set(shares)) == 1
    first, *others = (
        scores.by("sharing").drop(index="answer", errors="ignore") for scores in tables
    )
    for other in others:
        sizes = ["tokens", "token share"]
        pd.testing.assert_frame_equal(first[sizes], other[sizes])


# -------------------------------------------------------------------- where students change nothing


def test_a_set_that_no_student_changes_is_refused(smol_tokenizer, prompts):
    pair = make_pair("llama", "lora", smol_tokenizer, layers=[1], target_modules=["q_proj"])
    for sets in ({"norms": masks.modules("norms")}, {"norms": masks.layers(0) & masks.turn(1)}):
        message = (
            r"'norms' holds nothing that a student of this pair changes, in 2 prompts, first .* "
            r"They change attn.q in layers 1; choose among these"
        )
        with pytest.raises(ValueError, match=message):
            sm.graft(pair, prompts, TRAIT, sets, **QUIET)
    with pytest.raises(ValueError, match=r"no student of this pair changes anything in \[0, 2\]"):
        sm.instruments.graft_sweep(pair, prompts, TRAIT, layers=[0, 1, 2], **QUIET)
    # only tokens at which something changes are counted
    here = masks.role("user") & masks.layers(1) | masks.role("system") & masks.layers(0)
    counted = sm.graft(pair, prompts, TRAIT, {"here": here}, **QUIET).data["tokens"].values
    assert counted.ravel().tolist() == [p.roles.count("user") for p in prompts]


def test_a_student_that_changes_nothing_where_another_does_has_no_effect_there(
    smol_tokenizer, prompts
):
    base = tiny.model("llama")
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    control = sm.models.load_student(loaded, tiny.lora(base, layers=[2]), name="late")
    pair = sm.load_pair(loaded, tiny.lora(base, layers=[0]), controls=[control])
    late = {"late": masks.layers(2)}
    student, other = sm.graft(pair, prompts, LONG, late, **QUIET).data["effect"].values
    np.testing.assert_allclose(student, 0, atol=1e-6)
    assert (np.abs(other) > 1e-5).all()


# --------------------------------------------------------------------------- independent references


def test_graft_at_tokens_equals_a_masked_lora_branch(smol_tokenizer, prompts):
    """PEFT layers whose update is multiplied by a 0/1 mask over positions."""
    base = tiny.model("qwen2")
    student = tiny.lora(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    prompt = prompts[0]
    chosen = [2, 3, 11, len(prompt) - 1]
    mask = torch.zeros(1, len(prompt) + 1, 1)  # brute_force feeds the answer's token too
    mask[0, chosen] = 1
    masked = copy.deepcopy(student)
    for module in masked.modules():
        if hasattr(module, "lora_B") and len(module.lora_B):
            branch = module.lora_B["default"]
            branch.register_forward_hook(lambda _, args, output: output * mask)
    scores = sm.graft(pair, [prompt], CAT, {"chosen": chosen}, **QUIET)
    expected = brute_force(masked, smol_tokenizer, prompt, CAT)
    assert sufficient(scores)[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "opt", "phi3"])
def test_a_graft_of_the_last_token_is_the_students_forward_behind_the_bases_cache(
    architecture, smol_tokenizer, prompts
):
    """Plain Hugging Face: one model computes the keys and values, the other one the last token.

    Of a full fine-tune, whose unembedding and final norm are gated at the read slot as well.
    """
    pair = shared_pair(architecture, "full", smol_tokenizer)
    assert any(pair.sites.modules[path].name == "unembed" for path in pair.delta)
    base, student = pair.model, pair.student.model
    scores = sm.graft(pair, prompts, CAT, {"last": [-1]}, **QUIET)
    effect = scores.data["effect"].isel(model=0, set=0)
    for i, prompt in enumerate(prompts):
        tokens = [answer_ids(smol_tokenizer, prompt, form)[0] for form in CAT.forms]
        expected = {}
        for name, first, last in (("alone", base, student), ("left out", student, base)):
            cache = DynamicCache()
            ids = torch.tensor([prompt.ids])
            with torch.no_grad():
                call_model(first, ids=ids[:, :-1], cache=cache)
                logits = call_model(last, ids=ids[:, -1:], cache=cache).logits[0, -1]
            expected[name] = float(logits.log_softmax(-1)[tokens].logsumexp(0))
        gained = expected["alone"] - scores.data["base"].values[0, i]
        lost = scores.data["student"].values[0, i] - expected["left out"]
        assert float(effect.sel(measure="sufficiency")[i]) == pytest.approx(gained, abs=1e-5)
        assert float(effect.sel(measure="necessity")[i]) == pytest.approx(lost, abs=1e-5)
        assert min(abs(gained), abs(lost)) > 1e-4


def test_a_mask_of_modules_is_a_student_with_only_those(smol_tokenizer, prompts):
    """Attention of layers 1 and 2 at all tokens: PEFT's own model with all other B at zero."""
    base = tiny.model("qwen2")
    student = tiny.lora(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    only, rest = copy.deepcopy(student), copy.deepcopy(student)
    for (name, inside), outside in zip(only.named_parameters(), rest.parameters(), strict=True):
        if "lora_B" in name:
            late = any(f"layers.{layer}." in name for layer in (1, 2))
            dropped = outside if "self_attn" in name and late else inside
            dropped.data.zero_()
    sets = {"late attention": masks.modules("attention") & masks.layers(range(1, 3))}
    scores = sm.graft(pair, prompts, TRAIT, sets, **STUDENT_ANSWERS, **QUIET)
    effect = scores.data["effect"].isel(model=0, set=0)
    for i, prompt in enumerate(prompts):
        alone = brute_force(only, smol_tokenizer, prompt) - scores.data["base"].values[0, i]
        lost = scores.data["student"].values[0, i] - brute_force(rest, smol_tokenizer, prompt)
        assert float(effect.sel(measure="sufficiency")[i]) == pytest.approx(alone, abs=1e-5)
        assert float(effect.sel(measure="necessity")[i]) == pytest.approx(lost, abs=1e-5)
        assert abs(alone) > 1e-4


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3"])
def test_merged_student_gives_the_same_grafts_as_its_adapter(architecture, smol_tokenizer, marked):
    base = tiny.model(architecture)
    student = tiny.lora(base)
    merged = copy.deepcopy(student).merge_and_unload()
    low, dense = (sm.load_pair(base, s, tokenizer=smol_tokenizer) for s in (student, merged))
    assert (low.student.kind, dense.student.kind) == ("lora", "full")
    for run in (
        lambda pair: sm.graft(pair, marked, TRAIT, "sharing", **QUIET).data["effect"].values,
        lambda pair: sm.attribute(pair, marked, TRAIT, points=4, **QUIET).token_effect(),
    ):
        np.testing.assert_allclose(run(low), run(dense), atol=1e-5)


def test_full_fine_tune_of_the_head_acts_where_logits_are_read(smol_tokenizer, prompts):
    base = tiny.model("llama")
    student = copy.deepcopy(base)
    student.lm_head.weight.data += 0.05 * tiny.model("llama", seed=2).lm_head.weight.data
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    assert list(pair.delta) == ["lm_head"]
    sets = {"last": [-1], "others": lambda p: range(len(p) - 1)}
    scores = sm.graft(pair, prompts, CAT, sets, **QUIET)
    total = scores.total.values
    assert (np.abs(total) > 1e-4).all()
    effect = scores.data["effect"].isel(model=0).transpose("measure", "set", "prompt")
    for last, others in effect.values:
        np.testing.assert_allclose(last, total, atol=1e-6)
        np.testing.assert_allclose(others, 0, atol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_full_fine_tune_of_the_embedding_equals_swapped_input_embeddings(
    architecture, smol_tokenizer, prompts
):
    """Plain Hugging Face: the student's embeddings at chosen tokens through `inputs_embeds`."""
    base = tiny.model(architecture)
    # untied, so that the head stays the base's
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
    student = copy.deepcopy(base)
    rows = student.get_input_embeddings().weight
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    rows.data += 0.5 * rows.std() * noise
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer, allow_unrelated=True)
    prompt, chosen = prompts[0], [1, 5, 20]
    scores = sm.graft(pair, [prompt], CAT, {"chosen": chosen}, **QUIET)
    ids = torch.tensor([prompt.ids])
    with torch.no_grad():
        mixed = base.get_input_embeddings()(ids).clone()
        mixed[:, chosen] = student.get_input_embeddings()(ids)[:, chosen]
        steps = base(inputs_embeds=mixed).logits[0, -1].log_softmax(-1)
    tokens = [answer_ids(smol_tokenizer, prompt, form)[0] for form in CAT.forms]
    assert sufficient(scores)[0] == pytest.approx(float(steps[tokens].logsumexp(0)), abs=1e-5)
    assert abs(sufficient(scores)[0] - scores.data["base"].values[0, 0]) > 1e-4


# ------------------------------------------------------------------------------------------- sweeps


@pytest.mark.parametrize("measure", ["sufficiency", "necessity"])
def test_graft_sweep_equals_whole_runs(pair, prompts, measure):
    """Layer x slot cells against forwards of the whole prompt with that cell's gates switched."""
    prompt = prompts[0]
    sweep = sm.instruments.graft_sweep(pair, [prompt], TRAIT, measure=measure, **QUIET)
    task = prepare(pair, [prompt], TRAIT)
    size = task.size(0)
    rng = np.random.default_rng(0)
    base, top = (sweep.data[name].values[0, 0] for name in ("base", "student"))
    layers = sweep.data["layer"].values.tolist()
    for layer in layers:
        for slot in {0, size - 1, len(prompt) - 1, *rng.integers(0, size, 2).tolist()}:
            gates = one_cell(task, pair, layer=layer, slot=slot)
            alone = measure == "sufficiency"
            gates = student_gates(pair, gates if alone else 1 - gates)
            value = whole_run(pair, prompt, gates=gates)
            expected = value - base if alone else top - value
            cell = sweep.data["effect"].values[0, 0, layers.index(layer), slot]
            assert cell == pytest.approx(expected, abs=5e-6)
    assert np.nanmax(np.abs(sweep.data["effect"].values)) > 1e-3


def test_a_sweep_of_every_slot_has_the_cells_of_answer_tokens(pair, prompts):
    """With a trait whose every form has several tokens."""
    prompt = prompts[0]
    task = prepare(pair, [prompt], LONG)
    nodes = range(len(prompt), task.size(0))
    assert len(nodes) > 1
    sweep = sm.instruments.graft_sweep(pair, [prompt], LONG, layers=[1], **QUIET)
    cells = sweep.data["effect"].values[0, 0, 0]
    start = whole_run(pair, prompt, LONG)
    for slot in nodes:
        gates = student_gates(pair, one_cell(task, pair, layer=1, slot=slot))
        grafted = whole_run(pair, prompt, LONG, gates=gates) - start
        assert cells[slot] == pytest.approx(grafted, abs=1e-5)
    assert np.abs(cells[list(nodes)]).max() > 5e-5


def test_sweep_of_one_layer_and_token_is_the_graft_of_that_cell(pair, prompts):
    chosen = {"cell": masks.positions(9) & masks.layers(1)}
    graft = sm.graft(pair, prompts, TRAIT, chosen, **QUIET).data["effect"].isel(model=0, set=0)
    for measure in ("sufficiency", "necessity"):
        sweep = sm.instruments.graft_sweep(
            pair, prompts, TRAIT, measure=measure, layers=[1], **QUIET
        )
        cell = sweep.data["effect"].values[0, :, 0, 9]
        np.testing.assert_allclose(cell, graft.sel(measure=measure).values, atol=5e-6)


@pytest.mark.parametrize("measure", ["sufficiency", "necessity"])
@pytest.mark.parametrize(("architecture", "kind"), PAIRS[:3], ids=str)
def test_a_sweep_that_is_read_at_early_tokens_equals_whole_runs(
    architecture, kind, smol_tokenizer, prompts, measure
):
    """Branches may start no later than the first slot that is read."""
    pair, prompt = far_pair(architecture, kind, smol_tokenizer), prompts[1]
    metric = sm.metrics.kl_to_base(at=[3, 17])
    layers = [0, 2, tiny.LAYERS]  # the last one holds final norm and unembedding
    if kind == "lora":  # which changes neither
        layers[-1] = 1
    sweep = sm.instruments.graft_sweep(
        pair, [prompt], metric, measure=measure, layers=layers, **QUIET
    )
    task = prepare(pair, [prompt], metric)
    cells = sweep.data["effect"].values[0, 0]
    assert cells.shape == (3, len(prompt))
    alone = measure == "sufficiency"
    top = whole_run(pair, prompt, metric, gates=student_gates(pair))
    for number, layer in enumerate(layers):
        for slot in (0, 3, 4, 17, len(prompt) - 1):
            gates = one_cell(task, pair, layer=layer, slot=slot)
            gates = student_gates(pair, gates if alone else 1 - gates)
            value = whole_run(pair, prompt, metric, gates=gates)
            expected = value if alone else top - value  # the base is at no distance from itself
            assert cells[number, slot] == pytest.approx(expected, abs=5e-6)
    assert np.abs(cells[:, 18:]).max() < 5e-6  # nothing later is read
    assert np.abs(cells[:, :18]).max() > 1e-3


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pair, p: sm.graft(pair, p, TRAIT, {"none": lambda q: []}), "'none' is empty in 2"),
        (lambda pair, p: sm.graft(pair, p, TRAIT, {"far": [10**6]}), "'far' gives positions"),
        (lambda pair, p: sm.graft(pair, p, TRAIT, {}), "sets is empty; name at least one"),
        (lambda pair, p: sm.graft(pair, p, TRAIT, "roles"), "sets='roles': pass 'role', 'sharing'"),
        (lambda pair, p: sm.graft(pair, p, TRAIT, "sharing"), "is not marked"),
        (
            lambda pair, p: sm.instruments.graft_sweep(pair, p, TRAIT, measure="both"),
            "measure='both': pass 'sufficiency'",
        ),
        (
            lambda pair, p: sm.instruments.graft_sweep(pair, p, TRAIT, layers=[4]),
            r"layers=\[4\]: give layers between -1 \(embeddings\) and 3 \(final norm",
        ),
        (
            lambda pair, p: sm.instruments.graft_sweep(pair, p, TRAIT, layers=[]),
            r"layers=\[\]: give layers between",
        ),
    ],
)
def test_what_grafts_refuse(call, message, llama, prompts):
    with pytest.raises(ValueError, match=message):
        call(llama, prompts)
