"""Students in parts: parts add up, a part is what a model assembled by hand computes, and the
instruments take parts as they take whole differences."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pairs import QUIET, TRAIT, plain_logits

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.engine.forward import Gates

CASES = [
    ("llama", "lora"), ("gpt2", "full"), ("phi3", "full"), ("opt", "lora"), ("qwen2", "full"),
    ("neox", "lora"), ("gemma3", "dora"),
]  # fmt: skip
SPLITS: dict[str, Any] = {"band": {"bands": [1, 2]}, "head": {}}
EVERYTHING = {"all": masks.everything()}


def _students(architecture: str, kind: str) -> tuple[Any, Any]:
    """A base and a student of it in fp64; biases differ too."""
    base = tiny.model(architecture).double()
    if kind != "full":
        return base, tiny.lora(base, use_dora=kind == "dora").double()
    student = tiny.full(base)
    with torch.no_grad():
        for name, p in student.named_parameters():
            if name.endswith("bias"):
                p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)))
    return base, student


@functools.cache
def exact_pair(architecture: str, kind: str, tokenizer: Any) -> Any:
    """A pair in fp64 that no test changes."""
    base, student = _students(architecture, kind)
    return sm.load_pair(base, student, tokenizer=tokenizer)


@functools.cache
def split_pair(architecture: str, kind: str, by: str, tokenizer: Any) -> Any:
    return exact_pair(architecture, kind, tokenizer).split(by, **SPLITS[by])


@pytest.fixture(params=CASES, ids="-".join)
def case(request, smol_tokenizer):
    return *request.param, smol_tokenizer


def log_probs(pair: Any, batch: Any, values: Any = None) -> torch.Tensor:
    gates = None if values is None else Gates(pair.student, values)
    with torch.no_grad():
        return pair.run(batch, gates=gates).logits.log_softmax(-1)


# --------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("by", list(SPLITS))
def test_parts_add_up_to_the_student(case, by, prompts):
    whole, split = exact_pair(*case), split_pair(*case[:2], by, case[2])
    width = split.student.width
    assert width > len(whole.delta)
    batch = whole.batch([prompt.ids for prompt in prompts])
    shape = *batch.ids.shape, width
    student, base = log_probs(whole, batch, 1.0), log_probs(whole, batch)
    assert float((student - base).abs().max()) > 1e-3
    assert float((log_probs(split, batch, torch.ones(shape)) - student).abs().max()) < 1e-9
    assert float((log_probs(split, batch, 1.0) - student).abs().max()) == 0
    assert float((log_probs(split, batch, torch.zeros(shape)) - base).abs().max()) == 0
    # one gate for all parts of a module is that module's gate, whatever the number
    paths = list(whole.delta)
    modules = torch.randn(*batch.ids.shape, len(paths), generator=torch.Generator().manual_seed(0))
    of_cells = [paths.index(path) for path, _ in split.student.cells]
    expected = log_probs(whole, batch, modules)
    assert float((log_probs(split, batch, modules[..., of_cells]) - expected).abs().max()) < 1e-9
    # and parts are not alike
    some = (torch.arange(width) % 2).expand(shape).float()
    assert float((log_probs(split, batch, some) - student).abs().max()) > 1e-4


@pytest.mark.parametrize("by", list(SPLITS))
def test_graft_ig_over_parts_adds_up_to_that_of_modules(case, by, prompts):
    asked = {"points": 3, **QUIET}
    plain = sm.attribute(exact_pair(*case), prompts, TRAIT, **asked).data["effect"]
    scores = sm.attribute(split_pair(*case[:2], by, case[2]), prompts, TRAIT, **asked)
    assert scores.data["effect"].dims == ("model", "prompt", "layer", "module", by, "position")
    summed = scores.data["effect"].sum(by)
    # the gates, and so their slopes, are fp32
    np.testing.assert_allclose(summed, plain.fillna(0), atol=1e-6 * float(abs(plain).max()) + 1e-8)
    layers = scores.layer_effect().sum("layer").sum("position")
    np.testing.assert_allclose(layers, scores.prompt_effect + scores.answer_effect, atol=1e-9)
    assert by in scores.strongest(2).columns
    assert scores.sel(**{by: 0}).data["effect"].dims == plain.dims


def test_sets_of_parts_and_sweeps_are_those_of_modules(smol_tokenizer, prompts):
    for by in SPLITS:
        whole = exact_pair("llama", "lora", smol_tokenizer)
        split = split_pair("llama", "lora", by, smol_tokenizer)
        sets = {"system": masks.role("system") & masks.layers([0, 1]), "mlp": masks.modules("mlp")}
        pairs = [sm.graft(pair, prompts, TRAIT, sets, **QUIET) for pair in (whole, split)]
        expected, found = (scores.data["effect"].values for scores in pairs)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        asked = {"layers": [1], "measure": "necessity", **QUIET}
        sweeps = [
            sm.instruments.graft_sweep(pair, prompts[:1], TRAIT, **asked) for pair in (whole, split)
        ]
        expected, found = (scores.data["effect"].values for scores in sweeps)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_sweep_of_some_parts_is_the_graft_of_each_cell(smol_tokenizer, prompts):
    pair = split_pair("llama", "lora", "band", smol_tokenizer)
    prompt, first = prompts[0], masks.band(0) & masks.modules("mlp")
    for measure in ("sufficiency", "necessity"):
        asked = {"only": first, "layers": [1, 2], "measure": measure, **QUIET}
        sweep = sm.instruments.graft_sweep(pair, [prompt], TRAIT, **asked).data["effect"]
        for layer, position in ((1, 3), (2, len(prompt) - 1)):
            cell = first & masks.layers(layer) & masks.positions(position)
            graft = sm.graft(pair, [prompt], TRAIT, {"cell": cell}, **QUIET).headline
            expected = float(graft.sel(set="cell", measure=measure)[0])
            found = float(sweep.sel(layer=layer, position=position)[0, 0])
            assert found == pytest.approx(expected, abs=1e-9)
            assert abs(expected) > 1e-6
    everything = sm.instruments.graft_sweep(pair, [prompt], TRAIT, layers=[1], **QUIET)
    of_all = sm.instruments.graft_sweep(
        pair, [prompt], TRAIT, layers=[1], only=masks.everything(), **QUIET
    )
    np.testing.assert_array_equal(of_all.data["effect"], everything.data["effect"])
    with pytest.raises(ValueError, match="holds nothing that a student of this pair changes"):
        sm.instruments.graft_sweep(pair, [prompt], TRAIT, only=masks.modules("norms"), **QUIET)


# ------------------------------------------------------------------------------- assembled by hand


def is_matrix(module: Any) -> bool:
    return type(module).__name__ in ("Linear", "Conv1D")


@pytest.mark.parametrize(("architecture", "kind"), CASES[:5], ids="-".join)
def test_a_band_is_the_model_whose_weights_were_assembled_by_hand(
    architecture, kind, smol_tokenizer, prompts
):
    """W_base + the singular triplets 1 and 2 of W_student - W_base, nothing else."""
    base, student = _students(architecture, kind)
    merged = copy.deepcopy(student)
    merged = merged.merge_and_unload() if kind == "lora" else merged
    made = copy.deepcopy(base)
    head = made.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.clone())  # where it is tied
    for path, module in made.named_modules():
        if not is_matrix(module):
            continue
        change = merged.get_submodule(path).weight.detach() - base.get_submodule(path).weight
        u, s, v = np.linalg.svd(change.detach().numpy(), full_matrices=False)
        module.weight.data += torch.from_numpy((u[:, 1:3] * s[1:3]) @ v[1:3])
    pair = split_pair(architecture, kind, "band", smol_tokenizer)
    found = pair.logits(prompts, masks.band(1))
    for prompt, row in zip(prompts, found, strict=True):
        expected = plain_logits(made, prompt.ids)
        np.testing.assert_allclose(row[: len(prompt)], expected, atol=1e-6, rtol=1e-6)


HEADS = {
    # path of a projection -> rows of its weight (out, in) that are head 2's, columns that are
    "llama": {"q_proj": slice(16, 24), "o_proj": slice(16, 24)},
    "phi3": {"qkv_proj": slice(16, 24), "o_proj": slice(16, 24)},
    "gpt2": {"c_attn": [*range(16, 24), *range(48, 56), *range(80, 88)], "c_proj": slice(16, 24)},
    # query, key and value of one head after another
    "neox": {"query_key_value": slice(48, 72), "dense": slice(16, 24)},
}
GROUPS = {
    "llama": {"k_proj": slice(8, 16), "v_proj": slice(8, 16)},
    "phi3": {"qkv_proj": [*range(40, 48), *range(56, 64)]},
}


@pytest.mark.parametrize("architecture", list(HEADS))
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_head_is_the_model_whose_rows_and_columns_were_assembled_by_hand(
    architecture, kind, smol_tokenizer, prompts
):
    base, student = _students(architecture, kind)
    merged = copy.deepcopy(student)
    merged = merged.merge_and_unload() if kind == "lora" else merged
    cases = [(masks.head(2), HEADS[architecture])]
    if architecture in GROUPS:
        cases.append((masks.head("kv 1"), GROUPS[architecture]))
    pair = split_pair(architecture, kind, "head", smol_tokenizer)
    for mask, projections in cases:
        made = copy.deepcopy(base)
        for path, module in made.named_modules():
            name = path.rpartition(".")[2]
            if name not in projections or not is_matrix(module) or ".mlp" in path:
                continue
            change = merged.get_submodule(path).weight.detach() - module.weight.detach()
            transposed = type(module).__name__ == "Conv1D"
            kept = torch.zeros_like(change)
            side = name in ("o_proj", "c_proj", "dense")
            at = projections[name]
            if side != transposed:
                kept[:, at] = change[:, at]
            else:
                kept[at] = change[at]
            module.weight.data += kept
        found = pair.logits(prompts[:1], mask)[0]
        expected = plain_logits(made, prompts[0].ids)
        assert float((expected - plain_logits(base, prompts[0].ids)).abs().max()) > 1e-4
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gpt2", "neox", "qwen3"])
def test_a_head_is_that_of_the_model_s_own_attention(architecture, smol_tokenizer, prompts):
    """Queries of a head change its own output and no other head's, keys and values those of their
    group."""
    split = split_pair(architecture, "full", "head", smol_tokenizer)
    batch = split.batch([prompts[0].ids])
    key = ("z", 0)

    def z(gates: Any) -> torch.Tensor:
        with torch.no_grad():
            return split.run(batch, gates=gates, record=[key]).activations[key]

    plain = z(None)
    heads = plain.shape[2]
    found = {}
    for label in dict.fromkeys(name.head for _, name in split.student.cells):
        if label == "rest":
            continue
        values = torch.zeros(*batch.ids.shape, split.student.width)
        for column, (path, name) in enumerate(split.student.cells):
            inside = split.sites.modules[path].layer == 0
            values[..., column] = float(name.head == label and inside)
        moved = (z(Gates(split.student, values)) - plain).abs().amax((0, 1, 3)) > 0
        found[label] = set(moved.nonzero().flatten().tolist())
    groups = sum(isinstance(label, str) for label in found)
    expected: dict[Any, set[int]] = {head: {head} for head in range(heads)}
    if groups:
        each = heads // groups
        expected |= {f"kv {n}": set(range(n * each, (n + 1) * each)) for n in range(groups)}
    assert found == expected


def test_of_a_planted_rank_one_change_the_first_band_is_everything(smol_tokenizer, prompts):
    base = tiny.model("llama").double()
    student = tiny.lora(base, layers=[1]).double()
    for name, p in student.named_parameters():
        if "lora_B" in name:
            p.data[:, 1:] = 0
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    split = pair.split("band", bands=4)
    sets = {str(band): masks.band(band) for band in range(4)}
    opened = {"answer_in_sufficiency": True, "answer_in_necessity": False}
    scores = sm.graft(split, prompts, TRAIT, sets, **opened, **QUIET)
    effect, total = scores.data["effect"].values[0], scores.total.values
    assert np.abs(total).min() > 1e-3
    np.testing.assert_allclose(effect[:, 0], np.stack([total, total], 1), atol=1e-9)
    np.testing.assert_allclose(effect[:, 1:], 0, atol=1e-9)
    cells = sm.attribute(split, prompts, TRAIT, points=2, **QUIET).data["effect"]
    assert float(abs(cells.sel(band=["1", "2", "3"])).max()) < 1e-9 < float(abs(cells).max())


# -------------------------------------------------------------------------------------------- scale


def test_a_scaled_set_is_the_model_with_a_scaled_adapter(smol_tokenizer, prompts):
    base, student = _students("llama", "lora")
    pair = exact_pair("llama", "lora", smol_tokenizer)
    opened = {"answer_in_sufficiency": True, "answer_in_necessity": False}
    for scale in (0.5, 2.0, -1.0):
        scaled = copy.deepcopy(student)
        for module in scaled.modules():
            if isinstance(getattr(module, "scaling", None), dict):
                module.scaling = {name: scale * one for name, one in module.scaling.items()}
        found = pair.logits(prompts[:1], masks.everything().scaled(scale))[0]
        np.testing.assert_allclose(found, plain_logits(scaled, prompts[0].ids), atol=1e-6)
        sets = {"dose": masks.everything().scaled(scale)}
        scores = sm.graft(pair, prompts, TRAIT, sets, **opened, **QUIET)
        expected = sm.effect(
            sm.load_pair(base, scaled, tokenizer=smol_tokenizer), prompts, TRAIT, progress=False
        )
        sufficiency = scores.headline.sel(set="dose", measure="sufficiency")
        np.testing.assert_allclose(sufficiency, expected.total, atol=1e-6)
        assert scores.data["scale"].values.tolist() == [scale]
    # what is lost without so much of it
    lost = scores.headline.sel(set="dose", measure="necessity")
    twice = {"twice": masks.everything().scaled(2.0)}
    doubled = sm.graft(pair, prompts, TRAIT, twice, **opened, **QUIET).headline
    doubled = doubled.sel(set="twice", measure="sufficiency")
    np.testing.assert_allclose(lost, scores.total - doubled, atol=1e-9)


def test_the_dose_of_a_part_is_its_scaled_graft(smol_tokenizer, prompts):
    split, first = split_pair("llama", "lora", "band", smol_tokenizer), masks.band(0)
    scores = sm.instruments.dose(split, prompts, TRAIT, [0.5, 2.0], where=first, **QUIET)
    sets = {"half": first.scaled(0.5), "twice": first.scaled(2.0)}
    grafts = sm.graft(split, prompts, TRAIT, sets, **QUIET).headline
    np.testing.assert_allclose(scores.headline, grafts.sel(measure="sufficiency"), atol=1e-9)
    with pytest.raises(ValueError, match="is scaled; pass the mask as it is"):
        sm.instruments.dose(split, prompts, TRAIT, [1.0], where=first.scaled(2.0), **QUIET)


def test_a_scale_of_one_is_no_scale(llama, prompts, tmp_path):
    system = masks.role("system")
    plain = sm.graft(llama, prompts, TRAIT, {"s": system}, keep=tmp_path, **QUIET)
    same = sm.graft(llama, prompts, TRAIT, {"s": system.scaled(1.0)}, keep=tmp_path, **QUIET)
    assert len(list(tmp_path.iterdir())) == len(prompts)
    np.testing.assert_array_equal(plain.data["effect"], same.data["effect"])
    sm.graft(llama, prompts, TRAIT, {"s": system.scaled(0.5)}, keep=tmp_path, **QUIET)
    assert len(list(tmp_path.iterdir())) == 2 * len(prompts)
    for bands in (1, [2], [1, 1]):  # what a student is split into names its units too
        split = llama.split("band", bands=bands)
        sm.graft(split, prompts[:1], TRAIT, {"s": masks.band(0)}, keep=tmp_path, **QUIET)
    assert len(list(tmp_path.iterdir())) == 2 * len(prompts) + 3


def test_generation_takes_parts_and_scales(smol_tokenizer, prompts):
    whole = exact_pair("llama", "lora", smol_tokenizer)
    split = split_pair("llama", "lora", "head", smol_tokenizer)

    def say(pair, where, generated="mask"):
        return sm.instruments.generate(pair, prompts, where, generated=generated, max_new_tokens=4)

    everything = masks.everything()
    assert say(split, everything) == say(whole, everything, "student")
    heads = masks.head(0, 1, 2, 3, "kv 0", "kv 1", "rest")
    assert say(split, heads) == say(whole, everything)
    assert say(whole, everything.scaled(0.0)) == say(whole, everything.scaled(0.0), "base")
    assert say(whole, everything.scaled(-30.0)) != say(whole, everything)


def test_confirm_takes_the_cells_of_parts(smol_tokenizer, prompts):
    split = split_pair("llama", "lora", "band", smol_tokenizer)
    scores = sm.attribute(split, prompts[:1], TRAIT, points=4, **QUIET)
    confirmed = sm.confirm(split, prompts[:1], TRAIT, scores, k=4, **QUIET)
    assert confirmed.record.confirmation.pearson > 0.8
    assert "band" in confirmed.confirmation.columns


# ----------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_split_is_refused(llama, smol_tokenizer, prompts):
    with pytest.raises(ValueError, match=r"5 directions are beyond the rank.*at most 4"):
        llama.split("band", bands=5)
    with pytest.raises(ValueError, match="at least 1 direction"):
        llama.split("band", bands=[1, 0])
    for by, options in (("band", {}), ("head", {"bands": 2})):
        with pytest.raises(ValueError, match="needs bands="):
            llama.split(by, **options)
    with pytest.raises(ValueError, match="split by head already"):
        llama.split("head").split("band", bands=1)
    with pytest.raises(ValueError, match="none of several"):
        llama.split("student")
    only_mlp = tiny.lora(tiny.model("llama"), target_modules=["up_proj"])
    pair = sm.load_pair(tiny.model("llama"), only_mlp, tokenizer=smol_tokenizer)
    with pytest.raises(ValueError, match="no projection of an attention head"):
        pair.split("head")
    split = llama.split("band", bands=4)
    cells = [*split.student.cells[:2]]
    assert [name.band for _, name in cells] == [0, 1]
    batch = split.batch([prompt.ids for prompt in prompts])
    gates = Gates(split.student, torch.ones(*batch.ids.shape, 3))
    with pytest.raises(ValueError, match=r"part of a module\) = \(2, \d+, 84\)"):
        split.run(batch, gates=gates)
