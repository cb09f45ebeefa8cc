"""Graft IG: completeness, and the integral of plain autograd's slopes."""

import copy

import numpy as np
import pytest
import tiny
import torch
from pairs import QUIET, TRAIT, far_pair, make_pair, shared_pair

import sublim_mech as sm
from sublim_mech.engine.forward import Gates
from sublim_mech.instruments.graft_ig import changed_axes
from sublim_mech.instruments.quadrature import gauss_legendre
from sublim_mech.instruments.task import prepare

CELLS = ("layer", "module", "position")


def test_cells_add_up_to_the_effect(pair, prompts):
    scores = sm.attribute(pair, prompts, TRAIT, points=64, **QUIET)  # tiny models have curved paths
    summed = scores.data["effect"].sum(CELLS).values[0]
    # ReLU: the integrand jumps, so quadrature converges slowly
    kinked = pair.model.config.model_type == "opt"
    np.testing.assert_allclose(summed, scores.total.values, atol=2e-3 if kinked else 5e-6)


def test_completeness_gap_falls_with_points(llama, marked):
    gaps = [sm.attribute(llama, marked, TRAIT, points=n, **QUIET).gap for n in (1, 4, 16)]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]


@pytest.mark.parametrize("metric", ["kl", "target", "trait"])
def test_cells_are_the_integral_of_slopes_prompt_by_prompt(metric, smol_tokenizer, prompts):
    """The quadrature by hand, one prompt at a time, against batches of several."""
    pair = far_pair("llama", "lora", smol_tokenizer)
    metric = {
        "kl": sm.metrics.kl_to_base(at=[5, -1]),
        "target": sm.metrics.target("Owls are the best"),
        "trait": TRAIT,
    }[metric]
    points = 3
    scores = sm.attribute(pair, prompts, metric, points=points, **QUIET)
    task = prepare(pair, prompts, metric)
    for i in range(len(prompts)):
        batch = task.batch([i])
        expected = torch.zeros(*batch.ids.shape, len(pair.delta))
        for node, weight in zip(*gauss_legendre(points), strict=True):
            gates = torch.full(expected.shape, float(node), requires_grad=True)
            logits = pair.run(batch, gates=Gates(pair.student, gates)).logits
            (slope,) = torch.autograd.grad(task.value([i], logits).sum(), gates)
            expected += float(weight) * slope
        for column, path in enumerate(pair.delta):
            place = pair.sites.modules[path]
            cell = scores.data["effect"].sel(layer=place.layer, module=place.name).values[0, i]
            ours = cell[: task.size(i)]
            np.testing.assert_allclose(ours, expected[0, :, column], atol=1e-6, rtol=1e-4)
            assert np.isnan(cell[task.size(i) :]).all()


def test_no_other_layer_is_credited_than_the_one_that_differs(smol_tokenizer, marked):
    pair = make_pair("llama", "lora", smol_tokenizer, layers=[1])
    scores = sm.attribute(pair, marked, TRAIT, points=32, **QUIET)
    assert scores.data["layer"].values.tolist() == [1]
    assert scores.gap < 0.01


def test_modules_that_one_student_changes_are_cells_of_all(smol_tokenizer, prompts):
    """A module another student leaves alone has effect 0 in it; what nobody has stays NaN."""
    base = tiny.model("llama")
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    attention = tiny.lora(base, target_modules=["q_proj", "v_proj"], layers=[0, 2])
    control = sm.models.load_student(loaded, tiny.full(base), name="full")
    pair = sm.load_pair(loaded, attention, controls=[control])
    axes = changed_axes(prepare(pair, prompts, TRAIT))
    assert axes.layers == [-1, 0, 1, 2, 3]
    assert axes.modules[0] == "embed"
    assert axes.modules[-1] == "unembed"
    assert axes.modules.index("ln1") < axes.modules.index("attn.q") < axes.modules.index("mlp.out")
    effect = sm.attribute(pair, prompts, TRAIT, points=2, **QUIET).data["effect"].isel(prompt=1)
    student, other = effect.values
    columns = [axes.modules.index(name) for name in ("attn.q", "attn.v")]
    inside = np.zeros(student.shape[:2], bool)
    inside[np.ix_([1, 3], columns)] = True
    assert (student[inside] != 0).any(-1).all()
    rest = student[~inside]
    assert set(rest[np.isfinite(rest)]) == {0.0}
    np.testing.assert_array_equal(np.isnan(student), np.isnan(other))
    assert np.isnan(other[0, axes.modules.index("unembed")]).all()  # no such module in that layer


def test_same_input_same_bytes(llama, prompts):
    first, second = (sm.attribute(llama, prompts, TRAIT, points=4, **QUIET) for _ in range(2))
    assert first.data["effect"].values.tobytes() == second.data["effect"].values.tobytes()


def test_no_parameter_takes_a_gradient(smol_tokenizer, prompts):
    pair = shared_pair("gpt2", "full", smol_tokenizer)
    sm.attribute(pair, prompts, TRAIT, points=1, **QUIET)
    for model in (pair.model, pair.student.model):
        assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("points", [1, 2, 5])
def test_the_rule_is_exact_for_polynomials_of_twice_the_points(points):
    nodes, weights = gauss_legendre(points)
    assert weights.sum() == pytest.approx(1)
    assert ((nodes > 0) & (nodes < 1)).all()
    for power in range(2 * points):
        assert (weights * nodes**power).sum() == pytest.approx(1 / (power + 1))


@pytest.mark.filterwarnings("ignore:.*equals its base")
def test_a_student_that_is_its_base_has_cells_of_0_beside_one_that_is_not(smol_tokenizer, prompts):
    base = tiny.model("llama")
    same = copy.deepcopy(base)
    options = {"tokenizer": smol_tokenizer, "controls": [same]}
    scores = sm.attribute(
        sm.load_pair(base, tiny.lora(base), **options), prompts, TRAIT, points=2, **QUIET
    )
    student, control = scores.data["effect"].values
    assert np.abs(np.nan_to_num(student)).max() > 0
    assert (control[np.isfinite(student)] == 0).all()
    alone = sm.load_pair(base, same, tokenizer=smol_tokenizer)
    with pytest.raises(ValueError, match="equals its base, so there is no effect to attribute"):
        sm.attribute(alone, prompts, TRAIT, points=2, **QUIET)
