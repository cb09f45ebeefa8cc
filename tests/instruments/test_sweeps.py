"""Sweeps, sets, heads, position maps, directions: exact identities and brute force on tiny models."""

import copy

import numpy as np
import pytest
import tiny
import torch
from test_instruments import ARCHITECTURES, LONG, QUIET, TRAIT, brute_force, make_pair

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.engine.batch import make_batch
from sublim_mech.engine.branch import grow
from sublim_mech.engine.forward import Gates, forward
from sublim_mech.instruments.task import prepare
from sublim_mech.metrics import reader
from sublim_mech.results.record import Compute

CAT = sm.Trait("cat", plural="cat")


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    return sm.render(smol_tokenizer, ["Which animal?", "Name one animal, please."])


@pytest.fixture(params=[(a, k) for a in ARCHITECTURES for k in ("lora", "full")], ids="-".join, scope="module")
def pair(request, smol_tokenizer):
    return make_pair(*request.param, smol_tokenizer)


def whole_run(pair, prompt, *, gates=None, edits=None, trait=TRAIT):
    """The metric of one prompt from one whole forward, without branching."""
    task = prepare(pair, [prompt], trait)
    batch = make_batch(pair.base.model, [prompt], task.answers)
    with torch.no_grad():
        logits = forward(pair.base.model, pair.sites, batch, gates=gates, edits=edits).logits
    return float(reader(task.metric, task.answers)(logits))


@pytest.mark.parametrize("measure", ["sufficiency", "necessity"])
def test_graft_sweep_equals_whole_runs(pair, prompts, measure):
    """Every layer x slot cell against a forward of the whole prompt with that cell's gates switched."""
    sweep = sm.instruments.graft_sweep(pair, prompts[:1], TRAIT, measure=measure, **QUIET)
    where = np.array([pair.sites.modules[path].layer for path in pair.delta])
    size = prepare(pair, prompts[:1], TRAIT).size(0)
    rng = np.random.default_rng(0)
    base, top = sweep.data["base"].values[0, 0], sweep.data["student"].values[0, 0]
    layers = sweep.data["layer"].values.tolist()
    for layer in layers:
        for slot in {0, size - 1, len(prompts[0]) - 1, *rng.integers(0, size, 2).tolist()}:
            gates = torch.zeros(1, size, len(where))
            gates[0, slot, torch.as_tensor(where == layer)] = 1
            gates = gates if measure == "sufficiency" else 1 - gates
            value = whole_run(pair, prompts[0], gates=Gates(pair.student, gates))
            expected = value - base if measure == "sufficiency" else top - value
            assert sweep.data["effect"].values[0, 0, layers.index(layer), slot] == pytest.approx(expected, abs=5e-6)
    assert np.nanmax(np.abs(sweep.data["effect"].values)) > 1e-3


def test_sweep_of_one_layer_and_token_is_the_graft_of_that_cell(pair, prompts):
    chosen = {"cell": masks.positions(9) & masks.layers(1)}
    graft = sm.graft(pair, prompts, TRAIT, chosen, **QUIET).data["effect"].isel(model=0, set=0)
    for measure in ("sufficiency", "necessity"):
        sweep = sm.instruments.graft_sweep(pair, prompts, TRAIT, measure=measure, layers=[1], **QUIET)
        cell = sweep.data["effect"].values[0, :, 0, 9]
        np.testing.assert_allclose(cell, graft.sel(measure=measure).values, atol=5e-6)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_patching_every_site_equals_whole_runs(pair, prompts, direction):
    """Every site, per head where it has heads, against a forward of the whole prompt with one activation replaced."""
    prompt, student = prompts[0], Gates(pair.student)
    recipient, donor = (None, student) if direction == "denoising" else (student, None)
    task = prepare(pair, [prompt], TRAIT)
    batch = make_batch(pair.base.model, [prompt], task.answers)
    rng = np.random.default_rng(1)
    start = whole_run(pair, prompt, gates=recipient)
    for site in pair.sites.sites:
        scores = sm.patch(pair, [prompt], TRAIT, site=site, direction=direction, layers=[2, 0], **QUIET)
        effect = scores.data["effect"].isel(model=0, prompt=0)
        assert effect.dims == (("layer", "head", "position") if site in "zqkv" else ("layer", "position"))
        for layer in (0, 2):
            key = (site, layer)
            with torch.no_grad():
                given = forward(pair.base.model, pair.sites, batch, gates=donor, record=[key]).activations[key]
            for slot in (0, 7, len(prompt) - 1, task.size(0) - 1):
                at = (0, slot, int(rng.integers(given.shape[2]))) if given.dim() == 4 else (0, slot)

                def put(x, at=at, given=given):
                    x = x.clone()
                    x[at] = given[at]
                    return x

                towards = whole_run(pair, prompt, gates=recipient, edits={key: put}) - start
                found = effect.sel(layer=layer, position=slot, **({"head": at[2]} if given.dim() == 4 else {}))
                assert float(found) == pytest.approx(towards if direction == "denoising" else -towards, abs=5e-6), (site, at)


def test_cells_of_answer_tokens_equal_whole_runs(pair, prompts):
    """Grafts and patches of the trie's nodes, with a trait whose every form has several tokens."""
    prompt = prompts[0]
    task = prepare(pair, [prompt], LONG)
    nodes = range(len(prompt), task.size(0))
    assert len(nodes) > 1
    where = np.array([pair.sites.modules[path].layer for path in pair.delta])
    sweep = sm.instruments.graft_sweep(pair, [prompt], LONG, layers=[1], **QUIET)
    patched = sm.patch(pair, [prompt], LONG, site="mlp_out", layers=[1], **QUIET)
    batch = make_batch(pair.base.model, [prompt], task.answers)
    key = ("mlp_out", 1)
    with torch.no_grad():
        given = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student), record=[key]).activations[key]
    start = whole_run(pair, prompt, trait=LONG)
    for slot in nodes:
        gates = torch.zeros(1, task.size(0), len(where))
        gates[0, slot, torch.as_tensor(where == 1)] = 1

        def put(x, slot=slot):
            x = x.clone()
            x[:, slot] = given[:, slot]
            return x

        grafted = whole_run(pair, prompt, gates=Gates(pair.student, gates), trait=LONG) - start
        moved = whole_run(pair, prompt, edits={key: put}, trait=LONG) - start
        assert sweep.data["effect"].values[0, 0, 0, slot] == pytest.approx(grafted, abs=1e-5)
        assert patched.data["effect"].values[0, 0, 0, slot] == pytest.approx(moved, abs=1e-5)
    for scores in (sweep, patched):
        assert np.abs(scores.data["effect"].values[0, 0, 0, len(prompt) : task.size(0)]).max() > 5e-5


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "phi3"])
def test_fused_projections_are_cut_where_the_model_cuts_them(architecture, smol_tokenizer, prompts):
    """Patching q, k and v of all heads and slots together is patching the whole fused output."""
    pair = make_pair(architecture, "lora", smol_tokenizer)
    batch = make_batch(pair.base.model, prompts[:1], prepare(pair, prompts[:1], TRAIT).answers)
    path = f"{pair.sites.blocks[1]}.{pair.sites.site('q').path}"
    keys = [(site, 1) for site in "qkv"]
    with torch.no_grad():
        given = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student), record=keys).activations
        parts = forward(pair.base.model, pair.sites, batch, edits={k: (lambda _, k=k: given[k]) for k in keys}).logits
        grabbed = []
        handle = pair.base.model.get_submodule(path).register_forward_hook(lambda m, a, out: grabbed.append(out))
        whole_donor = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student, torch.ones(batch.ids.shape)))
        handle.remove()
        assert whole_donor.logits.shape == parts.shape
        module = pair.base.model.get_submodule(path)
        index = list(pair.delta).index(path)
        only = torch.zeros(*batch.ids.shape, len(pair.delta))
        only[..., index] = 1
        before = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student), record=[("resid_pre", 1)]).activations
        fused = module(pair.base.model.get_submodule(_norm_of(pair, path))(before["resid_pre", 1]))
        fused = fused + pair.delta[path](fused, pair.base.model.get_submodule(_norm_of(pair, path))(before["resid_pre", 1]))
        handle = module.register_forward_hook(lambda m, a, out: fused)
        whole = forward(pair.base.model, pair.sites, batch).logits
        handle.remove()
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    assert not torch.allclose(parts, forward(pair.base.model, pair.sites, batch).logits, atol=1e-3)


def _norm_of(pair, path):
    return next(p for p, m in pair.sites.modules.items() if m.layer == 1 and m.name == "ln1")


def test_a_set_of_one_token_is_the_cell_and_the_whole_row_carries_everything(pair, prompts):
    sets = {"seventh": [7], "whole row": masks.everything()}
    rows = sm.patch(pair, prompts, TRAIT, sets=sets, answer_in_sets=False, layers=[0, 1, 2], **QUIET)
    cells = sm.patch(pair, prompts, TRAIT, layers=[0, 1, 2], **QUIET)
    np.testing.assert_allclose(rows.sel(set="seventh").data["effect"].values, cells.data["effect"].values[..., 7], atol=5e-6)
    assert rows.data["tokens"].values.tolist() == [[1, len(p)] for p in prompts]
    full = sm.patch(
        pair, prompts, TRAIT, site="resid_post", layers=[2], sets={"all": masks.everything()}, answer_in_sets=True, **QUIET
    )
    changed_after = any(pair.sites.modules[path].layer == tiny.LAYERS for path in pair.delta)
    if not changed_after:
        np.testing.assert_allclose(full.data["effect"].values[0, :, 0, 0], full.total.values, atol=1e-5)


def test_both_directions_are_the_two_calls(smol_tokenizer, prompts):
    pair = make_pair("llama", "full", smol_tokenizer)
    both = sm.patch(pair, prompts, TRAIT, direction="both", layers=[1], **QUIET)
    for direction in ("denoising", "noising"):
        one = sm.patch(pair, prompts, TRAIT, direction=direction, layers=[1], **QUIET)
        np.testing.assert_array_equal(both.sel(direction=direction).data["effect"].values, one.data["effect"].values)
        np.testing.assert_array_equal(both.total.values, one.total.values)


# ------------------------------------------------------------------------------------------------------ position maps


@pytest.fixture(scope="module")
def contexts(smol_tokenizer):
    """The same question in three contexts: with a system prompt (donor), with another one, without."""
    question = ["Which animal?"]
    return [
        sm.render(smol_tokenizer, question, context=sm.Context(system=system))[0]
        for system in ("You love owls.", "You are a calm assistant.", sm.Context.NONE)
    ]


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "opt"])
def test_patching_across_contexts_equals_a_whole_run(architecture, smol_tokenizer, contexts):
    """The donor's last tokens into a recipient without system prompt, against a hand-made edit of a whole forward."""
    pair = make_pair(architecture, "lora", smol_tokenizer)
    donor, _, recipient = contexts
    shift = len(donor) - len(recipient)
    aligned = {"tail": range(len(recipient) - 4, len(recipient))}
    scores = sm.patch(
        pair,
        [recipient],
        TRAIT,
        sets=aligned,
        donor_prompts=[donor],
        position_map="aligned",
        layers=[1],
        answer_in_sets=True,
        **QUIET,
    )
    tasks = [prepare(pair, [p], TRAIT) for p in (donor, recipient)]
    batches = [make_batch(pair.base.model, t.prompts, t.answers) for t in tasks]
    key = ("resid_pre", 1)
    with torch.no_grad():
        given = forward(pair.base.model, pair.sites, batches[0], gates=Gates(pair.student), record=[key]).activations[key]

    def put(x):
        x = x.clone()
        x[:, len(recipient) - 4 :] = given[:, len(recipient) - 4 + shift :]
        return x

    expected = whole_run(pair, recipient, edits={key: put})
    assert scores.data["base"].values[0, 0] == pytest.approx(brute_force(pair.base.model, smol_tokenizer, recipient), abs=1e-5)
    assert scores.data["student"].values[0, 0] == pytest.approx(
        brute_force(pair.student.model, smol_tokenizer, donor), abs=1e-5
    )
    found = scores.data["base"].values[0, 0] + scores.data["effect"].values.item()
    assert found == pytest.approx(expected, abs=5e-6)
    assert abs(scores.data["effect"].values.item()) > 1e-4
    assert "donor on other prompts" in scores.title()


def test_one_donor_may_serve_many_recipients(smol_tokenizer, contexts):
    pair = make_pair("llama", "lora", smol_tokenizer)
    recipient = contexts[1]
    pairs = [(5, 2), (5, 3), (4, 4)]
    scores = sm.patch(pair, [recipient], TRAIT, position_map=pairs, sets={"three": [2, 3, 4]}, layers=[2], **QUIET)
    key = ("resid_pre", 2)
    batch = make_batch(pair.base.model, [recipient], prepare(pair, [recipient], TRAIT).answers)
    with torch.no_grad():
        given = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student), record=[key]).activations[key]

    def put(x):
        x = x.clone()
        x[:, 2], x[:, 3], x[:, 4] = given[:, 5], given[:, 5], given[:, 4]
        return x

    found = scores.data["base"].values[0, 0] + scores.data["effect"].values.item()
    assert found == pytest.approx(whole_run(pair, recipient, edits={key: put}), abs=5e-6)
    cells = sm.patch(pair, [recipient], TRAIT, position_map=pairs, layers=[2], **QUIET).data["effect"].values[0, 0, 0]
    size = len(recipient)
    assert np.flatnonzero(np.isfinite(cells[:size])).tolist() == [2, 3, 4]


def test_aligned_pairs_equal_tokens_of_equal_role_in_order(contexts):
    from sublim_mech.instruments.patching import _pairs

    for donor in contexts:
        for recipient in contexts:
            pairs = _pairs(donor, recipient, "aligned")
            assert all(donor.ids[a] == recipient.ids[b] and donor.roles[a] == recipient.roles[b] for a, b in pairs)
            assert pairs == sorted(pairs)
            question = [t for t, role in enumerate(recipient.roles) if role == "user"]
            assert set(question) <= {b for _, b in pairs}
        assert _pairs(donor, donor, "aligned") == _pairs(donor, donor, "identity")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"donor": 0}, r"position_map='identity': donor and recipient have \d+ and \d+ tokens .* pass 'aligned' or pairs"),
        ({"position_map": []}, "position_map is empty for prompt 'Which animal\\?'"),
        ({"position_map": [(0, 99)]}, r"pair \(0, 99\) leaves the prompts"),
        ({"position_map": [(-1, 0)]}, r"pair \(-1, 0\) leaves the prompts"),
        ({"position_map": [(0, 1), (2, 1)]}, "gives recipient position 1 two donors"),
        ({"position_map": "nearest"}, "position_map='nearest'"),
        ({"position_map": [(0, 1)], "sets": {"late": [5]}}, "'late' holds no position with a donor"),
        ({"donor": 0, "direction": "both", "position_map": "aligned"}, "direction='both' with donor_prompts"),
        ({"donor_prompts": []}, "prompts is empty"),
        ({"heads": [0]}, "site 'resid_pre' has no heads"),
        ({"site": "z", "heads": [4]}, r"heads=\[4\]: give heads between 0 and 3"),
        ({"site": "k", "heads": [2]}, r"heads=\[2\]: give heads between 0 and 1"),
        ({"layers": [0, 0]}, r"layers=\[0, 0\]: give layers between 0 and 2, each once"),
        ({"site": "resid_mud"}, "site='resid_mud' is not known here; did you mean 'resid_mid'"),
        ({"sets": {"weights": masks.layers(1)}}, "depends on the module"),
    ],
)  # fmt: skip
def test_what_patch_refuses(options, message, smol_tokenizer, contexts):
    pair = make_pair("llama", "lora", smol_tokenizer)
    options = dict(options)
    if "donor" in options:
        options["donor_prompts"] = [contexts[options.pop("donor")]]
    with pytest.raises(ValueError, match=message):
        sm.patch(pair, [contexts[2]], TRAIT, **{"layers": [0]} | options, **QUIET)


def test_hook_names_serve_as_sites(smol_tokenizer, prompts):
    pair = make_pair("gpt2", "lora", smol_tokenizer)
    for names in (("z", "attn.hook_z", "hook_z"), ("resid_mid", "hook_resid_mid")):
        grids = [sm.patch(pair, prompts[:1], CAT, site=name, layers=[1], **QUIET) for name in names]
        assert len({g.data["effect"].values.tobytes() for g in grids}) == 1
        assert {str(g.data["hook"].values[0]) for g in grids} == {f"blocks.1.{names[-2] if names[0] == 'z' else names[-1]}"}


# -------------------------------------------------------------------------------------------------- graft masks


def test_a_mask_of_modules_is_a_student_with_only_those(smol_tokenizer, prompts):
    """Attention modules of layers 1 and 2 at all tokens and the answer: PEFT's own model with all other B matrices zero."""
    base = tiny.model("qwen2")
    student = tiny.lora(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    only = copy.deepcopy(student)
    for name, p in only.named_parameters():
        if "lora_B" in name and not (("self_attn" in name) and any(f"layers.{k}." in name for k in (1, 2))):
            p.data.zero_()
    sets = {"late attention": masks.modules("attention") & masks.layers(range(1, 3))}
    scores = sm.graft(pair, prompts, TRAIT, sets, answer_in_sufficiency=True, answer_in_necessity=False, **QUIET)
    base_value = scores.data["base"].values[0]
    effect = scores.data["effect"].isel(model=0, set=0)
    rest = copy.deepcopy(student)
    for (name, p), (_, q) in zip(rest.named_parameters(), only.named_parameters(), strict=True):
        if "lora_B" in name and bool(q.any()):
            p.data.zero_()
    for i, prompt in enumerate(prompts):
        alone = brute_force(only, smol_tokenizer, prompt) - base_value[i]
        left = scores.data["student"].values[0, i] - brute_force(rest, smol_tokenizer, prompt)
        assert float(effect.sel(measure="sufficiency")[i]) == pytest.approx(alone, abs=1e-5)
        assert float(effect.sel(measure="necessity")[i]) == pytest.approx(left, abs=1e-5)
        assert abs(alone) > 1e-4


def test_sufficiency_of_a_set_is_the_total_minus_the_necessity_of_its_complement(pair, prompts):
    """By definition, with the answer's tokens on the same side: a check of masks and gates on every module kind."""
    chosen = masks.role("user") & (masks.modules("mlp", "norms") | masks.layers(1))
    suff = sm.graft(pair, prompts, TRAIT, {"s": chosen}, answer_in_sufficiency=False, **QUIET)
    need = sm.graft(pair, prompts, TRAIT, {"s": ~chosen}, answer_in_necessity=False, **QUIET)
    a = suff.data["effect"].sel(measure="sufficiency").values
    b = need.data["effect"].sel(measure="necessity").values
    nodes = [len(x.nodes) for x in prepare(pair, prompts, TRAIT).answers]
    assert max(nodes) > 0
    np.testing.assert_allclose(a[..., 0], suff.total.values - b[..., 0], atol=1e-5)


def test_sweeps_leave_room_for_the_budget(smol_tokenizer, prompts):
    """A budget of a few rows gives the same numbers as the default; one below a row is refused with the need."""
    base, student = tiny.model("llama"), tiny.lora(tiny.model("llama"))
    wide = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    narrow = sm.load_pair(base, student, tokenizer=smol_tokenizer, memory_gb=0.02)
    assert narrow.rows(slots=40, reads=4) < wide.rows(slots=40, reads=4)
    for run in (
        lambda p: sm.patch(p, prompts, TRAIT, layers=[1], **QUIET),
        lambda p: sm.graft(p, prompts, TRAIT, "role", **QUIET),
        lambda p: sm.attribute(p, prompts, TRAIT, points=3, **QUIET),
    ):
        np.testing.assert_allclose(run(narrow).data["effect"].values, run(wide).data["effect"].values, atol=5e-6)
    broke = sm.load_pair(base, student, tokenizer=smol_tokenizer, memory_gb=1e-4)
    with pytest.raises(ValueError, match=r"memory_gb=0.0001 is too small: one row of \d+ tokens needs about"):
        sm.effect(broke, prompts, TRAIT, **QUIET)
    with pytest.raises(ValueError, match="memory_gb=-1"):
        sm.load_pair(base, student, tokenizer=smol_tokenizer, memory_gb=-1)


def test_bfloat16_compute_says_how_far_off_it_is(smol_tokenizer, prompts):
    base, student = tiny.model("llama"), tiny.lora(tiny.model("llama"))
    exact = sm.effect(sm.load_pair(base, student, tokenizer=smol_tokenizer), prompts, TRAIT, **QUIET)
    rough = sm.effect(sm.load_pair(base, student, tokenizer=smol_tokenizer, compute=torch.bfloat16), prompts, TRAIT, **QUIET)
    error = np.abs(exact.total.values - rough.total.values).max()
    assert 0 < error < 0.1
    assert rough.record.compute == Compute("bfloat16", pytest.approx(error, rel=1e-4))
    assert exact.record.compute is None
    patched = sm.patch(
        sm.load_pair(base, student, tokenizer=smol_tokenizer, compute=torch.bfloat16), prompts[:1], TRAIT, layers=[1], **QUIET
    )
    whole = sm.patch(sm.load_pair(base, student, tokenizer=smol_tokenizer), prompts[:1], TRAIT, layers=[1], **QUIET)
    np.testing.assert_allclose(patched.data["effect"].values, whole.data["effect"].values, atol=0.1)


def test_branches_of_any_layer_and_slot_equal_the_trunk(pair, prompts):
    task = prepare(pair, prompts, TRAIT)
    trunk = grow(pair, prompts[1], task.answers[1], Gates(pair.student))
    with torch.no_grad():
        for layer in range(-1, tiny.LAYERS + 1):
            for slot in (0, 5, trunk.first):
                logits = trunk.branch(layer, slot, 2, gates=Gates(pair.student))
                for row in logits:
                    torch.testing.assert_close(row[None], trunk.done.logits, atol=2e-6, rtol=0)


@pytest.mark.parametrize("architecture", ["gemma3", "qwen3"])
def test_gates_of_query_norms_lie_on_tokens_not_heads(architecture, smol_tokenizer):
    """Gemma-3 has heads before tokens there; with as many tokens as heads only the module's own order tells them apart."""
    from sublim_mech.engine.answers import Answers
    from sublim_mech.prompts import Context, Prompt

    base = tiny.model(architecture)
    student = copy.deepcopy(base)
    for name, p in student.named_parameters():
        if "q_norm" in name or "k_norm" in name:
            p.data += 0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    n = base.config.num_attention_heads
    prompt = Prompt("", "", (5, 6, 7, 8), ("",) * n, ((0, 0),) * n, ("user",) * n, (0,) * n, ("user",) * n, Context())
    batch = make_batch(pair.base.model, [prompt], [Answers((), (), (), ())])
    gates = torch.zeros(1, n)
    gates[0, 3] = 1
    key = ("resid_post", 0)
    with torch.no_grad():
        plain = forward(pair.base.model, pair.sites, batch, record=[key]).activations[key]
        late = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student, gates), record=[key]).activations[key]
    assert torch.equal(plain[:, :3], late[:, :3])
    assert not torch.equal(plain[:, 3], late[:, 3])
