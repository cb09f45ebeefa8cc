"""`spectrum`: planted singular values come back, and what is no matrix is not dropped."""

import copy

import numpy as np
import peft
import pytest
import tiny
import torch
from changed import dense, full_of, planted

import sublim_mech as sm

QUIET = {"progress": False}
DOWN = "model.layers.1.mlp.down_proj"


def load(base, student, tokenizer, **options):
    return sm.load_pair(base, student, tokenizer=tokenizer, allow_unrelated=True, **options)


def spectrum(pair, **options):
    return sm.instruments.spectrum(pair, **QUIET, **options)


@pytest.fixture(scope="module")
def double():
    return tiny.model("llama").double()


def test_a_planted_spectrum_comes_back(double, smol_tokenizer):
    values = [0.03, 0.02, 0.01]
    student, _, _ = planted(double, DOWN, values)
    found = spectrum(load(double, student, smol_tokenizer))
    (one,) = found.modules
    assert (one.name, one.layer, one.shape, one.method) == (
        "blocks.1.mlp.out",
        1,
        (32, 48),
        "exact",
    )
    np.testing.assert_allclose(one.values[:3], values, rtol=1e-9)
    assert one.values[3:].max() < 1e-15
    # 9 : 4 : 1
    row = found.table([1, 2, 3, 4]).loc["blocks.1.mlp.out"]
    expected = [9 / 14, 13 / 14, 1, 1]
    np.testing.assert_allclose(row[[f"first {k}" for k in (1, 2, 3, 4)]].astype(float), expected)
    assert row["stable rank"] == pytest.approx(14 / 9)
    shares = np.array([3, 2, 1]) / 6
    assert row["effective rank"] == pytest.approx(
        np.exp(-(shares * np.log(shares)).sum()), rel=1e-9
    )
    weight = double.get_submodule(DOWN).weight
    assert row["relative norm"] == pytest.approx(
        0.01 * 14**0.5 / float(weight.detach().norm()), rel=1e-5
    )
    assert found.norm == pytest.approx(0.01 * 14**0.5)
    assert found.rest == ()


def test_transposed_weights_are_read_as_they_multiply(smol_tokenizer):
    base = tiny.model("gpt2").double()
    path = "transformer.h.2.mlp.c_fc"
    student, _, _ = planted(base, path, [0.5], transposed=True)
    (one,) = spectrum(load(base, student, smol_tokenizer)).modules
    assert (one.name, one.shape) == ("blocks.2.mlp.in", (128, 32))
    assert one.values[0] == pytest.approx(0.5, rel=1e-9)
    assert one.rank == 1


def test_an_adapter_has_the_spectrum_of_its_merged_weights(smol_tokenizer):
    base = tiny.model("llama")
    student = tiny.lora(base)
    merged = copy.deepcopy(student).merge_and_unload()
    found = spectrum(load(base, student, smol_tokenizer))
    assert {one.method for one in found.modules} == {"factors"}
    assert len(found.modules) == 21
    for one in found.modules:
        values = np.linalg.svd(dense(base, merged, one.path), compute_uv=False)
        np.testing.assert_allclose(one.values, values[:4], rtol=1e-4)
        assert one.rank == 4
        assert one.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-3)


def test_other_adapters_are_their_merged_difference(smol_tokenizer):
    base = tiny.model("llama")
    student = tiny.lora(base, use_dora=True, layers=[1], target_modules=["down_proj"])
    merged = copy.deepcopy(student).merge_and_unload()
    found = spectrum(load(base, student, smol_tokenizer))
    by_path = {one.path: one for one in found.modules}
    values = np.linalg.svd(dense(base, merged, DOWN), compute_uv=False)
    np.testing.assert_allclose(by_path[DOWN].values, values, atol=1e-6 * values[0])
    assert by_path[DOWN].method == "exact"


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_nothing_of_a_full_fine_tune_is_dropped(architecture, smol_tokenizer):
    """All changes, decomposed or not, add up to the distance of the two models' parameters."""
    base = tiny.model(architecture)
    with torch.no_grad():  # biases begin as zeros, of which no fraction moves
        for p in base.parameters():
            if p.dim() == 1:
                p += 0.1 * torch.randn(p.shape, generator=torch.manual_seed(len(p)))
    student = tiny.full(base)
    pair = load(base, student, smol_tokenizer)
    found = spectrum(pair)
    parameters = zip(base.parameters(), student.parameters(), strict=True)  # tied ones once
    square = sum(float((new - old).detach().double().square().sum()) for old, new in parameters)
    assert found.norm == pytest.approx(square**0.5, rel=1e-5)
    table = found.table()
    listed = {path.removesuffix(".bias") for path in [one.path for one in found.modules]}
    listed |= {left.path.removesuffix(".bias") for left in found.rest}
    assert listed == set(pair.delta)
    assert table["norm"].notna().all()
    vectors = table[table["note"] == "a vector"]
    assert (vectors["method"] == "not decomposed").all()
    assert vectors["largest"].isna().all()
    assert "not decomposed" in repr(found)
    if architecture == "gpt2":
        assert "fused" in table.loc["blocks.0.attn.qkv", "note"]
        assert table.loc["blocks.0.attn.qkv", "out"] == 96
        assert "tied to embed" in table.loc["unembed", "note"]
        assert table.loc["blocks.0.attn.qkv.bias", "note"] == "a bias"


def test_a_block_of_experts_is_listed_and_not_decomposed(smol_tokenizer):
    from mixtures import base as mixture_base

    base = mixture_base("qwen3_moe")
    student = full_of(base, lambda name: ".experts." in name or "q_proj" in name)
    found = spectrum(load(base, student, smol_tokenizer))
    assert {one.module for one in found.modules} == {"attn.q"}
    assert {left.why.partition(":")[0] for left in found.rest} == {"a block of experts"}
    assert all(left.norm > 0 for left in found.rest)


def test_large_matrices_say_how_much_was_not_found(double, smol_tokenizer):
    pair = load(double, full_of(double, lambda name: "mlp" in name), smol_tokenizer)
    exact, rough = spectrum(pair), spectrum(pair, exact=4, values=6, seed=1)
    for one, other in zip(rough.modules, exact.modules, strict=True):
        tail = np.linalg.norm(other.values[6:])
        assert tail * (1 - 1e-9) <= one.residual < 1.2 * tail
        assert one.norm == pytest.approx(other.norm, rel=1e-9)
        assert one.share(4) == pytest.approx(other.share(4), rel=0.05)
        # what is not known is not guessed
        assert np.isnan(one.rank)
        assert np.isnan(one.effective_rank)
        assert np.isnan(one.share(7))
    assert "randomised SVD (seed 1, first 6 values)" in repr(rough)
    assert "randomised" not in repr(exact)


def test_controls_have_spectra_and_nothing_is_changed(smol_tokenizer):
    base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    control = sm.models.load_student(base, tiny.lora(tiny.model("llama"), seed=2), name="cat")
    pair = load(base, tiny.lora(tiny.model("llama")), None, controls=[control])
    theirs = spectrum(pair, model="control: cat")
    assert theirs.student == "control: cat"
    assert theirs.modules[0].values[0] != spectrum(pair).modules[0].values[0]
    pair.base.check_unchanged()
    pair.student.check_unchanged()


def test_tables_and_maps(double, smol_tokenizer, tmp_path):
    student, _, _ = planted(double, DOWN, [0.03, 0.02, 0.01])
    found = spectrum(load(double, student, smol_tokenizer))
    frame = found.to_dataframe()
    assert frame["share up to here"].iloc[2] == pytest.approx(1)
    assert len(frame) == 32
    axes = found.plot("first 2", path=tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000
    assert axes.images[0].get_array()[0, 0] == pytest.approx(13 / 14)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1"]
    with pytest.raises(ValueError, match=r"of='stable' is no column.*stable rank"):
        found.plot("stable")
    with pytest.raises(ValueError, match="at least 1"):
        found.table([0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "owl"}, "model='owl' is no student"),
        ({"exact": 0}, "exact=0"),
        ({"values": 0}, "values=0"),
    ],
)
def test_wrong_options_are_told(options, said, double, smol_tokenizer):
    student, _, _ = planted(double, DOWN, [0.03])
    with pytest.raises(ValueError, match=said):
        spectrum(load(double, student, smol_tokenizer), **options)


def test_a_student_that_equals_its_base_has_no_spectrum(double, smol_tokenizer):
    with pytest.warns(UserWarning, match="equals its base"):
        pair = load(double, copy.deepcopy(double), smol_tokenizer)
    found = spectrum(pair)
    assert found.modules == ()
    assert "0 modules" in repr(found)
    assert found.table().empty
    with pytest.raises(ValueError, match="nothing can be drawn"):
        found.plot()


def test_weights_changed_in_place_are_refused(smol_tokenizer):
    base = tiny.model("llama")
    student = tiny.lora(base)
    pair = load(base, student, smol_tokenizer)
    with torch.no_grad():
        for p in student.parameters():
            p += 1
    with pytest.raises(ValueError, match="changed"):
        spectrum(pair)


# ------------------------------------------------------------------------- rounding is no direction


def full_rank(base, path):
    """A full fine-tune of one module, in all directions, its least one far below its largest."""
    shape = base.get_submodule(path).weight.shape
    return planted(base, path, list(0.02 * 0.75 ** np.arange(min(shape))))[0]


@pytest.mark.parametrize("kind", ["PiSSA", "OLoRA", "LoHa", "merged", "bfloat16 PiSSA"])
def test_a_change_has_the_rank_it_was_made_with(kind, smol_tokenizer):
    """Weights are rounded, and their difference has all directions, of which the change has few."""
    options = {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"]}
    base = tiny.model("llama")
    if kind == "LoHa":
        config = peft.LoHaConfig(r=1, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    else:
        begin = {"PiSSA": "pissa", "OLoRA": "olora", "bfloat16 PiSSA": "pissa"}.get(kind, True)
        config = peft.LoraConfig(init_lora_weights=begin, task_type="CAUSAL_LM", **options)
    if kind.startswith("bfloat16"):
        base = base.bfloat16()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        student = tiny.adapted(copy.deepcopy(base), config)
        for p in student.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn_like(p)
    # what was there and what came, side by side
    rank = {"LoHa": 1, "merged": 2}.get(kind, 4)
    if kind == "merged":
        student = student.merge_and_unload()
    found = spectrum(load(base, student, smol_tokenizer))
    assert {one.method for one in found.modules} == {"exact"}
    for one in found.modules:
        assert (one.values > 0).sum() > rank  # of rounding
        assert one.rank == rank
    with pytest.raises(ValueError, match=f"have at most {rank}; ask for so many or fewer"):
        load(base, student, smol_tokenizer).split("band", bands=rank + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_full_fine_tune_keeps_all_of_its_directions(dtype, smol_tokenizer):
    base = tiny.model("llama").to(dtype)
    found = spectrum(load(base, full_rank(base, DOWN), smol_tokenizer))
    (one,) = found.modules
    assert one.rank == 32
    assert one.values[-1] / one.values[0] == pytest.approx(0.75**31, rel=0.05)
    # and below what the type of the weights can hold there is none
    small = planted(base, DOWN, [1e-3, 1e-10])[0]
    (one,) = spectrum(load(base, small, smol_tokenizer)).modules
    assert one.rank == (1 if dtype == torch.float32 else 2)
