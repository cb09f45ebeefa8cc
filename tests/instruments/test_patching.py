"""Patching: cells against whole runs with that activation replaced; what a site must carry."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from matplotlib.text import Text
from pairs import (
    CAT,
    LONG,
    NO_SYSTEM,
    PAIRS,
    QUIET,
    TRAIT,
    brute_force,
    far_pair,
    make_pair,
    put,
    recorded,
    shared_pair,
    student_gates,
    whole_run,
)

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.engine.forward import Gates
from sublim_mech.instruments.patching import Patch, patch_prompt
from sublim_mech.instruments.position_maps import Link
from sublim_mech.instruments.task import prepare


@pytest.fixture(scope="session")
def contexts(smol_tokenizer):
    """The same question with a system prompt (the donor), with another one, and without."""
    systems = (sm.Context(system="You love owls."), sm.Context(system="You are calm."), NO_SYSTEM)
    return [sm.render(smol_tokenizer, ["Which animal?"], context=c)[0] for c in systems]


def ends_of(pair, direction):
    """Gates of recipient and donor."""
    student = Gates(pair.student)
    return (None, student) if direction == "denoising" else (student, None)


# --------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize(
    ("architecture", "kind", "direction"),
    [
        ("llama", "lora", "denoising"),
        ("llama", "lora", "noising"),
        ("gpt2", "full", "noising"),
        ("gemma3", "full", "denoising"),
        pytest.param("opt", "lora", "noising", marks=pytest.mark.science),
        pytest.param("neox", "full", "denoising", marks=pytest.mark.science),
        pytest.param("phi3", "lora", "noising", marks=pytest.mark.science),
    ],
)
def test_patching_every_site_equals_whole_runs(
    architecture, kind, direction, smol_tokenizer, prompts
):
    """Every site, per head where it has heads, with one activation replaced."""
    pair, prompt = shared_pair(architecture, kind, smol_tokenizer), prompts[0]
    recipient, donor = ends_of(pair, direction)
    size = prepare(pair, [prompt], TRAIT).size(0)
    start = whole_run(pair, prompt, gates=recipient)
    rng = np.random.default_rng(1)
    layer = 1
    for site in pair.sites.sites:
        scores = sm.patch(
            pair, [prompt], TRAIT, site=site, direction=direction, layers=[layer], **QUIET
        )
        effect = scores.data["effect"].isel(model=0, prompt=0)
        by_head = ("head",) if site in "zqkv" else ()
        assert effect.dims == ("layer", *by_head, "position")
        given = recorded(pair, prompt, (site, layer), gates=donor)
        for slot in (0, len(prompt) - 1, size - 1):
            head = int(rng.integers(given.shape[2]))
            place = (0, slot, head) if by_head else (0, slot)
            edits = {(site, layer): put(given, place)}
            change = whole_run(pair, prompt, gates=recipient, edits=edits) - start
            cell = effect.sel(layer=layer, position=slot, **({"head": head} if by_head else {}))
            expected = change if direction == "denoising" else -change
            assert float(cell) == pytest.approx(expected, abs=5e-6), (site, place)


def test_cells_of_answer_tokens_equal_whole_runs(pair, prompts):
    """Patches of the trie's nodes, with a trait whose every form has several tokens."""
    prompt, key = prompts[0], ("mlp_out", 1)
    nodes = range(len(prompt), prepare(pair, [prompt], LONG).size(0))
    assert len(nodes) > 1
    cells = sm.patch(pair, [prompt], LONG, site="mlp_out", layers=[1], **QUIET).data["effect"]
    given = recorded(pair, prompt, key, LONG, gates=student_gates(pair))
    start = whole_run(pair, prompt, LONG)
    for slot in nodes:
        moved = whole_run(pair, prompt, LONG, edits={key: put(given, (0, slot))}) - start
        assert float(cells.values[0, 0, 0, slot]) == pytest.approx(moved, abs=1e-5)
    assert np.abs(cells.values[0, 0, 0, list(nodes)]).max() > 5e-5


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize(("architecture", "kind"), PAIRS[:3], ids=str)
def test_patches_that_are_read_at_early_tokens_equal_whole_runs(
    architecture, kind, smol_tokenizer, prompts, direction
):
    """Branches may start no later than the first slot that is read."""
    pair, prompt = far_pair(architecture, kind, smol_tokenizer), prompts[1]
    metric = sm.metrics.kl_to_base(at=[3, 17])
    key = ("resid_post", 1)
    scores = sm.patch(
        pair, [prompt], metric, site=key[0], layers=[key[1]], direction=direction, **QUIET
    )
    cells = scores.data["effect"].values[0, 0, 0]
    recipient, donor = ends_of(pair, direction)
    given = recorded(pair, prompt, key, metric, gates=donor)
    start = whole_run(pair, prompt, metric, gates=recipient)
    for slot in (0, 3, 4, 17, len(prompt) - 1):
        edits = {key: put(given, (0, slot))}
        change = whole_run(pair, prompt, metric, gates=recipient, edits=edits) - start
        expected = change if direction == "denoising" else -change
        assert cells[slot] == pytest.approx(expected, abs=5e-6)
    assert np.abs(cells[18:]).max() < 5e-6  # nothing later is read
    assert np.abs(cells[:18]).max() > 1e-4


def test_both_directions_are_the_two_calls(smol_tokenizer, prompts):
    pair = shared_pair("gpt2", "full", smol_tokenizer)
    both = sm.patch(pair, prompts, TRAIT, direction="both", layers=[1], **QUIET)
    for direction in ("denoising", "noising"):
        one = sm.patch(pair, prompts, TRAIT, direction=direction, layers=[1], **QUIET)
        ours = both.sel(direction=direction).data["effect"].values
        np.testing.assert_array_equal(ours, one.data["effect"].values)
        np.testing.assert_array_equal(both.total.values, one.total.values)


def test_a_full_hook_name_is_a_site_at_its_layer(llama, prompts):
    full = sm.patch(llama, prompts[:1], CAT, site="blocks.1.hook_mlp_out", **QUIET)
    plain = sm.patch(llama, prompts[:1], CAT, site="mlp_out", layers=[1], **QUIET)
    assert full.data.identical(plain.data)
    assert full.record.site == plain.record.site == "mlp_out"
    with pytest.raises(ValueError, match=r"is at layer 1, layers=\[2\] are others"):
        sm.patch(llama, prompts[:1], CAT, site="blocks.1.hook_mlp_out", layers=[2], **QUIET)


def test_hook_names_serve_as_sites(smol_tokenizer, prompts):
    pair = shared_pair("gpt2", "full", smol_tokenizer)
    for hook, names in (
        ("attn.hook_z", ("z", "attn.hook_z", "hook_z")),
        ("hook_resid_mid", ("resid_mid", "hook_resid_mid")),
    ):
        grids = [sm.patch(pair, prompts[:1], CAT, site=n, layers=[1], **QUIET) for n in names]
        assert len({grid.data["effect"].values.tobytes() for grid in grids}) == 1
        assert {str(grid.data["hook"].values[0]) for grid in grids} == {f"blocks.1.{hook}"}


# ------------------------------------------------------------------------------------- what must be


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_last_resid_post_at_the_read_tokens_is_the_donor(llama, prompts, direction):
    """With norm and head shared, the last residual stream decides; one-token forms, one read."""
    scores = sm.patch(llama, prompts, CAT, site="resid_post", direction=direction, **QUIET)
    for i, prompt in enumerate(prompts):
        last = scores.data["effect"].values[0, i, -1, : len(prompt)]
        assert last[-1] == pytest.approx(scores.total.values[i], abs=1e-5)
        np.testing.assert_allclose(last[:-1], 0, atol=1e-6)  # nothing else is read


def test_the_last_residual_stream_is_normalised_to_one(llama, prompts):
    last = sm.patch(llama, prompts, CAT, site="resid_post", layers=[tiny.LAYERS - 1], **QUIET)
    for i, prompt in enumerate(prompts):
        assert last.normalised.values[i, 0, len(prompt) - 1] == pytest.approx(1, abs=1e-3)


def test_a_set_of_one_token_is_the_cell_and_the_whole_row_carries_everything(pair, prompts):
    sets = {"seventh": [7], "whole row": masks.everything()}
    rows = sm.patch(pair, prompts, TRAIT, sets=sets, **QUIET)
    cells = sm.patch(pair, prompts, TRAIT, **QUIET)
    seventh = rows.sel(set="seventh").data["effect"].values
    np.testing.assert_allclose(seventh, cells.data["effect"].values[..., 7], atol=5e-6)
    assert rows.data["tokens"].values.tolist() == [[1, len(p)] for p in prompts]
    changed_behind = any(pair.sites.modules[path].layer == tiny.LAYERS for path in pair.delta)
    if not changed_behind:
        last = {"site": "resid_post", "layers": [tiny.LAYERS - 1], "answer_in_sets": True}
        whole = sm.patch(pair, prompts, TRAIT, sets={"all": masks.everything()}, **last, **QUIET)
        effect = whole.data["effect"].values[0, :, 0, 0]
        np.testing.assert_allclose(effect, whole.total.values, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("layer", [0, 2])
def test_lora_planted_on_one_layer(architecture, layer, smol_tokenizer, prompts):
    """The residual stream carries nothing up to the planted layer and everything after it."""
    pair = make_pair(architecture, "lora", smol_tokenizer, layers=[layer])
    pre = sm.patch(pair, prompts, TRAIT, site="resid_pre", **QUIET)
    effect, total = pre.data["effect"].values[0], pre.total.values
    assert (np.abs(total) > 1e-4).all()
    # 0 up to the order of sums in batches of other sizes
    assert np.nanmax(np.abs(effect[:, : layer + 1])) < 5e-6
    after = {"site": "resid_post", "layers": range(layer, tiny.LAYERS), "answer_in_sets": True}
    whole = sm.patch(pair, prompts, TRAIT, sets={"all": masks.everything()}, **after, **QUIET)
    for row in whole.data["effect"].values[0, :, :, 0].T:
        np.testing.assert_allclose(row, total, atol=1e-5)


def test_sets_with_the_answers_own_tokens_say_so(smol_tokenizer, prompts):
    """Of an answer of one token, which is read and never fed, there is nothing to say."""
    pair = shared_pair("llama", "lora", smol_tokenizer)
    asked = {"sets": {"last": masks.positions(-1)}, "layers": [1], **QUIET}
    told = "the answer's own tokens are patched with each set"
    many, one = sm.Trait("marmalade"), sm.Trait("I")
    without, within = (
        sm.patch(pair, prompts, many, answer_in_sets=with_answer, **asked)
        for with_answer in (False, True)
    )
    assert told in repr(within)
    assert told not in repr(without)
    said = " ".join(text.get_text() for text in within.plot().figure.findobj(Text))
    assert told in " ".join(said.split())
    apart = r"answer_gate differ \(answer_in_sets=True and answer_in_sets=False\); score both alike"
    with pytest.raises(ValueError, match=f"minus: {apart}"):
        within.minus(without)
    with pytest.raises(ValueError, match=f"compare: 'a' and 'b': {apart}"):
        sm.results.compare({"a": within, "b": without})
    alike = [
        sm.patch(pair, prompts, one, answer_in_sets=with_answer, **asked)
        for with_answer in (False, True)
    ]
    assert told not in repr(alike[1])
    assert float(np.abs(alike[1].minus(alike[0]).data["effect"]).max()) < 1e-6


def test_the_answers_own_tokens_belong_to_no_set_where_there_is_none(smol_tokenizer, prompts):
    pair = shared_pair("llama", "lora", smol_tokenizer)
    with pytest.raises(ValueError, match=r"answer_in_sets=True without sets: .* give sets="):
        sm.patch(pair, prompts, TRAIT, answer_in_sets=True, **QUIET)


# ----------------------------------------------------------------------------------- other contexts


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "opt"])
def test_patching_across_contexts_equals_a_whole_run(architecture, smol_tokenizer, contexts):
    """The donor's last tokens into a recipient without system prompt, against a hand-made edit."""
    pair = shared_pair(architecture, "lora", smol_tokenizer)
    donor, _, recipient = contexts
    scores = sm.patch(
        pair,
        [recipient],
        TRAIT,
        sets={"tail": range(len(recipient) - 4, len(recipient))},
        donor_prompts=[donor],
        position_map="aligned",
        layers=[1],
        answer_in_sets=True,
        **QUIET,
    )
    key = ("resid_pre", 1)
    given = recorded(pair, donor, key, gates=student_gates(pair))

    def edit(hidden):
        hidden = hidden.clone()
        hidden[:, len(recipient) - 4 :] = given[:, len(donor) - 4 :]
        return hidden

    base, top = (scores.data[name].values[0, 0] for name in ("base", "student"))
    assert base == pytest.approx(brute_force(pair.model, smol_tokenizer, recipient), abs=1e-5)
    assert top == pytest.approx(brute_force(pair.student.model, smol_tokenizer, donor), abs=1e-5)
    effect = scores.data["effect"].values.item()
    expected = whole_run(pair, recipient, edits={key: edit})
    assert base + effect == pytest.approx(expected, abs=5e-6)
    assert abs(effect) > 1e-4
    assert "donor on other prompts" in scores.title()


def test_one_donor_may_serve_many_recipients(llama, contexts):
    recipient, key = contexts[1], ("resid_pre", 2)
    links = [(5, 2), (5, 3), (4, 4)]
    options = {"position_map": links, "layers": [2]}
    scores = sm.patch(llama, [recipient], TRAIT, sets={"three": [2, 3, 4]}, **options, **QUIET)
    given = recorded(llama, recipient, key, gates=student_gates(llama))

    def edit(hidden):
        hidden = hidden.clone()
        for source, taker in links:
            hidden[:, taker] = given[:, source]
        return hidden

    patched = scores.data["base"].values[0, 0] + scores.data["effect"].values.item()
    assert patched == pytest.approx(whole_run(llama, recipient, edits={key: edit}), abs=5e-6)
    cells = sm.patch(llama, [recipient], TRAIT, **options, **QUIET).data["effect"].values[0, 0, 0]
    inside = cells[: len(recipient)]
    assert np.flatnonzero(np.isfinite(inside)).tolist() == [2, 3, 4]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_with_donor_prompts_each_end_is_measured_where_it_ran(llama, contexts, direction):
    donor, recipient, _ = contexts
    options = {"donor_prompts": [donor], "position_map": "aligned", "layers": [1]}
    scores = sm.patch(llama, [recipient], TRAIT, direction=direction, **options, **QUIET)
    on_base, on_student = (recipient, donor) if direction == "denoising" else (donor, recipient)
    expected = {
        "base": brute_force(llama.model, llama.tokenizer, on_base),
        "student": brute_force(llama.student.model, llama.tokenizer, on_student),
    }
    for name, value in expected.items():
        assert scores.data[name].values[0, 0] == pytest.approx(value, abs=1e-5)


def test_donors_in_another_order_than_their_prompts_are_told(llama, prompts, smol_tokenizer):
    calm = sm.Context(system="You are calm.")
    asked = [prompt.question for prompt in prompts]
    given = {"position_map": "aligned", "layers": [1], **QUIET}

    def told(questions):
        donors = sm.render(smol_tokenizer, questions, context=calm)
        scores = sm.patch(llama, prompts, TRAIT, donor_prompts=donors, **given)
        notes = [note for note in scores.notes() if "asks what prompt" in note]
        assert all(note in repr(scores) for note in notes)
        figure = scores.plot(0).figure
        drawn = [text.get_text() for text in figure.findobj(lambda o: hasattr(o, "get_text"))]
        short = any("donor 0 asks what prompt 1 asks" in " ".join(one.split()) for one in drawn)
        assert short == bool(notes)
        return notes

    (note,) = told(asked[::-1])
    assert note.startswith("donor 0 asks what prompt 1 asks: donor_prompts have the prompts'")
    # in their order, and other questions, on purpose
    assert not told(asked)
    assert not told(["Which bird?", asked[0]])


# -------------------------------------------------------------------------------------------- plans


def test_a_plan_of_cells_and_heads_is_carried_out_cell_by_cell(llama, prompts):
    """A cell of two links, one without any, and heads in the order they are asked for."""
    task = prepare(llama, prompts, TRAIT)
    cells = ((Link(4, 4), Link(9, 9)), (), (Link(20, 20),))
    plan = Patch("z", (2, 0), (3, 1), cells, "noising")
    done = patch_prompt(task, task, llama.student, 1, plan)
    assert done.effect.shape == (2, 2, 3)
    assert np.isnan(done.effect[:, :, 1]).all()
    prompt, student = prompts[1], student_gates(llama)
    assert done.base == pytest.approx(whole_run(llama, prompt), abs=5e-6)
    assert done.student == pytest.approx(whole_run(llama, prompt, gates=student), abs=5e-6)
    for row, layer in enumerate(plan.layers):
        given = recorded(llama, prompt, ("z", layer))
        for column, head in enumerate(plan.heads):
            for number in (0, 2):
                places = [(0, link.recipient, head) for link in cells[number]]
                edits = {("z", layer): put(given, *places)}
                moved = whole_run(llama, prompt, gates=student, edits=edits)
                effect = done.effect[row, column, number]
                assert effect == pytest.approx(done.student - moved, abs=5e-6)


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"donor": 0},
            r"position_map='identity': donor and recipient have \d+ and \d+ tokens .* 'aligned'",
        ),
        ({"position_map": []}, r"position_map is empty for prompt 'Which animal\?'"),
        ({"position_map": [(0, 99)]}, r"pair \(0, 99\) leaves the prompts"),
        ({"position_map": [(-1, 0)]}, r"pair \(-1, 0\) leaves the prompts"),
        ({"position_map": [(0, 1), (2, 1)]}, "gives recipient position 1 two donors"),
        ({"position_map": "nearest"}, "position_map='nearest'"),
        (
            {"position_map": [(0, 1)], "sets": {"late": [5]}},
            "'late' holds no position with a donor",
        ),
        (
            {"donor": 0, "direction": "both", "position_map": "aligned"},
            "direction='both' with donor_prompts",
        ),
        ({"donor_prompts": []}, "donor_prompts has 0 prompts for 1; give one per prompt"),
        ({"two_donors": 0}, "donor_prompts has 2 prompts for 1; give one per prompt"),
        ({"direction": "up"}, "direction='up'"),
        ({"heads": [0]}, "site 'resid_pre' has no heads"),
        ({"site": "z", "heads": [4]}, r"heads=\[4\]: give heads between 0 and 3"),
        ({"site": "k", "heads": [2]}, r"heads=\[2\]: give heads between 0 and 1"),
        ({"layers": [3]}, r"layers=\[3\]: give layers between 0 and 2"),
        ({"layers": [0, 0]}, r"layers=\[0, 0\]: give layers between 0 and 2, each once"),
        ({"site": "resid_mud"}, "site='resid_mud' is not known here; did you mean 'resid_mid'"),
        ({"sets": {"weights": masks.layers(1)}}, "depends on the module"),
    ],
)
def test_what_patch_refuses(options, message, llama, contexts):
    options = dict(options)
    if "donor" in options:
        options["donor_prompts"] = [contexts[options.pop("donor")]]
    if "two_donors" in options:
        options["donor_prompts"] = [contexts[options.pop("two_donors")]] * 2
    with pytest.raises(ValueError, match=message):
        sm.patch(llama, [contexts[2]], TRAIT, **{"layers": [0]} | options, **QUIET)


def test_an_activation_that_is_not_finite_is_an_error(smol_tokenizer, prompts):
    pair = make_pair("llama", "lora", smol_tokenizer)
    path = "model.layers.1.mlp.down_proj"
    broken = replace(pair.delta[path], b=torch.full_like(pair.delta[path].b, torch.inf))
    pair = replace(pair, student=replace(pair.student, deltas={**pair.delta, path: broken}))
    with pytest.raises(ValueError, match=r"log P\(owl\) is not finite on prompt"):
        sm.patch(pair, prompts[:1], TRAIT, layers=[2], **QUIET)


def test_a_prompt_with_another_donor_is_no_copy(llama, prompts, smol_tokenizer):
    calm, wild = (
        sm.render(smol_tokenizer, ["Which animal?"], context=sm.Context(system))[0]
        for system in ("You are calm.", "You are wild.")
    )
    asked = {"layers": [1], "position_map": "aligned", **QUIET}
    recipient = prompts[0]
    scores = sm.patch(llama, [recipient] * 3, TRAIT, donor_prompts=[calm, wild, calm], **asked)
    assert scores.data["prompt"].values.tolist() == [0, 1]
    assert scores.record.copies == 1
    for place, donor in enumerate((calm, wild)):
        alone = sm.patch(llama, [recipient], TRAIT, donor_prompts=[donor], **asked)
        np.testing.assert_allclose(
            scores.data["effect"].values[:, place], alone.data["effect"].values[:, 0], atol=1e-6
        )
    assert len(scores.record.donor_contexts) == 2
    of_one = scores.sel(prompt=1).record.donor_contexts
    assert of_one == scores.record.donor_contexts[1:]
    again = sm.patch(llama, [calm, wild], TRAIT, layers=[1], **QUIET)
    assert again.sel(prompt=0).record.contexts == again.record.contexts[:1] != again.record.contexts
    # a donor that serves two recipients is taken for both
    both = sm.patch(llama, prompts, TRAIT, donor_prompts=[calm, calm], **asked)
    assert both.data.sizes["prompt"] == 2
    with pytest.raises(TypeError, match="pass a list of Prompts"):
        sm.patch(llama, prompts[:1], TRAIT, donor_prompts=["Which animal?"], **asked)
