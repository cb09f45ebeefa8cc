"""`intruders`: planted ones are found, a scaled weight has none, and the cost is told first."""

import copy

import numpy as np
import pytest
import tiny
import torch
from changed import orthonormal

import sublim_mech as sm

QUIET = {"progress": False}
DOWN = "model.layers.1.mlp.down_proj"


def load(base, student, tokenizer):
    return sm.load_pair(base, student, tokenizer=tokenizer, allow_unrelated=True)


@pytest.fixture(scope="module")
def base():
    return tiny.model("llama").double()


def test_a_planted_intruder_is_found_where_it_is(base, smol_tokenizer):
    """A strong direction half way between all of the base's has a cosine of 1/sqrt(n) to each."""
    student = copy.deepcopy(base)
    weight = student.get_submodule(DOWN).weight
    u, _, _ = torch.linalg.svd(weight, full_matrices=False)
    with torch.no_grad():
        weight += 20 * torch.outer(u.mean(1) * 32**0.5, orthonormal(48, 1, 1)[:, 0])
    pair = load(base, student, smol_tokenizer)
    found = sm.instruments.intruders(pair, k=5, **QUIET)
    (one,) = found.modules
    assert one.cosines[0] == pytest.approx(32**-0.5, rel=0.02)
    row = found.table().loc["blocks.1.mlp.out"]
    assert row["strongest"] == 1
    assert row["intruders"] >= 1
    # cosines by numpy alone
    before, after = (
        np.linalg.svd(model.get_submodule(DOWN).weight.detach().numpy(), full_matrices=False)
        for model in (base, student)
    )
    for side, vectors in (("left", 0), ("right", 2)):
        ours = sm.instruments.intruders(pair, k=5, side=side, **QUIET).modules[0]
        old, new = before[vectors], after[vectors]
        cosines = np.abs(old.T @ new[:, :5] if side == "left" else old @ new[:5].T).max(0)
        np.testing.assert_allclose(ours.cosines, cosines, rtol=1e-6)
        np.testing.assert_allclose(ours.values, after[1][:5], rtol=1e-9)


def test_a_weight_that_only_grew_has_no_intruders(base, smol_tokenizer, tmp_path):
    student = copy.deepcopy(base)
    with torch.no_grad():
        for layer in student.model.layers:
            layer.mlp.down_proj.weight *= 1.5
            layer.self_attn.q_proj.weight *= 1.5
    pair = load(base, student, smol_tokenizer)
    found = sm.instruments.intruders(pair, threshold=0.99, **QUIET)
    assert found.count == 0
    assert len(found.modules) == 6
    np.testing.assert_allclose(found.to_dataframe()["cosine"], 1, atol=1e-8)
    assert "0 of 60 left singular vectors" in repr(found)
    assert found.table()["strongest"].isna().all()
    found.plot("mean cosine", path=tmp_path / "map.png")
    # names and layers choose
    one = sm.instruments.intruders(pair, modules="attn.q", layers=[2], **QUIET)
    assert [module.name for module in one.modules] == ["blocks.2.attn.q"]


def test_an_adapter_is_added_to_the_base_with_its_scale(smol_tokenizer):
    base = tiny.model("gpt2")
    student = tiny.lora(base, target_modules=["c_attn"], lora_alpha=40)
    merged = copy.deepcopy(student).merge_and_unload()
    found = sm.instruments.intruders(load(base, student, smol_tokenizer), k=3, **QUIET)
    for one in found.modules:
        weight = merged.get_submodule(f"transformer.h.{one.layer}.attn.c_attn").weight
        values = np.linalg.svd(weight.detach().double().numpy().T, compute_uv=False)
        assert one.shape == (96, 32)
        np.testing.assert_allclose(one.values, values[:3], rtol=1e-5)


def test_the_cost_is_told_and_refused_before_anything_is_computed(
    base, smol_tokenizer, monkeypatch
):
    pair = load(base, tiny.lora(tiny.model("llama")).double(), smol_tokenizer)
    cost = sm.instruments.intruder_cost(pair, modules=["mlp.out", "attn.k"])
    of_one = sum(2 * (6 * m * n**2 + 20 * n**3) for m, n in [(48, 32), (32, 16)])
    assert (cost.modules, cost.operations) == (6, 3 * of_one)
    assert cost.seconds == cost.operations / 2e10
    assert "6 modules" in str(cost)

    def computed(*_, **__):
        raise AssertionError("decomposed before the cost was told")

    with monkeypatch.context() as patched:
        patched.setattr(torch.linalg, "svd", computed)
        with pytest.raises(ValueError, match=r"more than most=1e\+06.*modules=.*most="):
            sm.instruments.intruders(pair, most=1e6, **QUIET)
    whole = sm.instruments.intruder_cost(pair).operations
    assert sm.instruments.intruders(pair, most=whole, k=1, **QUIET).modules


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, "k=0"),
        ({"threshold": 0.0}, "threshold=0.0"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"most": float("nan")}, "most=nan"),
        ({"side": "up"}, "side='up'"),
        ({"modules": "attn.x"}, "attn.x"),
        ({"modules": "norms"}, "changes no matrix there"),
        ({"layers": [7]}, "no layer 7"),
        ({"model": "owl"}, "no student"),
    ],
)
def test_wrong_options_are_told(options, said, base, smol_tokenizer):
    pair = load(base, tiny.full(base), smol_tokenizer)
    with pytest.raises(ValueError, match=said):
        sm.instruments.intruders(pair, **QUIET, **options)


def test_a_student_of_vectors_alone_has_no_intruders_to_look_for(base, smol_tokenizer):
    student = copy.deepcopy(base)
    with torch.no_grad():
        student.get_submodule("model.norm").weight.mul_(1.5)
    pair = load(base, student, smol_tokenizer)
    for call in (sm.instruments.intruders, sm.instruments.intruder_cost):
        with pytest.raises(ValueError, match=r"changes no matrix, .* spectrum\(pair\)\.table\(\)"):
            call(pair)
    assert not sm.instruments.spectrum(pair, **QUIET).modules
