"""Points are added until cells add up: closed forms, and the models' own paths."""

import numpy as np
import pytest
import tiny
from pairs import CAT, NO_SYSTEM, QUIET, TRAIT, far_pair
from planted_changes import plant

import sublim_mech as sm
from sublim_mech.instruments import completing
from sublim_mech.instruments.completing import CAP, TOLERANCE, Way
from sublim_mech.instruments.quadrature import NESTED, gauss_legendre


@pytest.mark.parametrize(("rule", "points", "degree"), [(0, 8, 15), (1, 17, 25), (2, 35, 53)])
def test_each_rule_keeps_the_nodes_of_the_one_before_and_is_exact(rule, points, degree):
    nodes = np.concatenate([level.nodes for level in NESTED[: rule + 1]])
    weights = np.concatenate([level.weights[rule] for level in NESTED[: rule + 1]])
    assert len(set(nodes)) == len(nodes) == points
    assert ((nodes > 0) & (nodes < 1)).all()
    assert (weights > 0).all()
    for power in range(degree + 1):
        assert (weights * nodes**power).sum() == pytest.approx(1 / (power + 1), abs=1e-15)
    for level in NESTED[rule + 1 :]:
        assert not level.weights[rule].any()


def test_the_first_rule_is_that_of_eight_points():
    nodes, weights = gauss_legendre(8)
    assert NESTED[0].nodes.tobytes() == nodes.tobytes()
    assert NESTED[0].weights[0].tobytes() == weights.tobytes()


def complete(curve, slope, *, least=0.0):
    """Complete the integral of a function of one variable, whose antiderivative is known."""
    start, end = curve(0.0), curve(1.0)
    way = Way(end - start, start, least=least, total=float)
    while not way.done:
        if way.middle is not None:
            way.split(curve(way.middle))
        for one in way.asked():
            one.take(slope(one.node))
        way.settle()
    return way


def turn(width, at=0.37):
    """A metric that turns from 0 to 1 within so much of the way, and its slope."""

    def curve(a):
        return float(1 / (1 + np.exp(-(a - at) / width)))

    return curve, lambda a: curve(a) * (1 - curve(a)) / width


@pytest.mark.parametrize("width", [0.5, 0.1, 0.03, 0.01, 0.003, 0.001])
def test_a_turn_of_any_width_is_integrated_to_one_per_cent(width):
    curve, slope = turn(width)
    way = complete(curve, slope)
    effect = curve(1) - curve(0)
    assert not way.capped
    assert way.points <= CAP
    assert abs(way.integral - effect) <= TOLERANCE * effect


def test_a_smooth_way_needs_no_more_than_eight_points():
    way = complete(np.exp, np.exp)
    nodes, weights = gauss_legendre(8)
    assert way.points == 8
    assert way.integral == pytest.approx(float((weights * np.exp(nodes)).sum()), rel=1e-15)


def test_a_jump_stops_at_the_cap_and_says_so():
    """No node sees a jump, so its slopes never add up to it."""
    way = complete(lambda a: float(a > 1 / 3), lambda a: 0.0)
    assert way.capped
    assert CAP - 2 * 8 < way.points <= CAP


def test_rounding_is_not_chased():
    """A gap within what the type can tell ends the way, whatever the effect."""
    jitter = 1e-6
    way = complete(lambda a: jitter * float(a > 0.5), lambda a: 0.0, least=2 * jitter)
    assert (way.points, way.capped) == (8, False)


# ------------------------------------------------------------------------------------------- models


@pytest.fixture(scope="module")
def far(smol_tokenizer):
    """Peaked models far apart, on whose path 8 points are too few."""
    return far_pair("llama", "lora", smol_tokenizer)


@pytest.fixture(scope="module")
def completed(far, marked):
    return sm.attribute(far, marked, TRAIT, **QUIET)


def test_every_prompt_adds_up_or_is_told(far, marked, completed):
    eight = sm.attribute(far, marked, TRAIT, points=8, **QUIET)
    assert completed.record.points == "auto"
    points, capped = (completed.data[name].values[0] for name in ("points", "capped"))
    gap, before = (np.abs(one.missing.values / one.total.values) for one in (completed, eight))
    assert (before > TOLERANCE).any()  # else nothing was added
    assert not capped.any()
    assert (gap <= TOLERANCE).all()
    for i in range(len(marked)):
        same = completed.data["effect"][0, i].values.tobytes() == (
            eight.data["effect"][0, i].values.tobytes()
        )
        # where 8 points suffice these are the numbers of 8 points, bit for bit
        assert same == (points[i] == 8) == (before[i] <= TOLERANCE)


def test_cells_agree_with_very_many_points(far, marked, completed):
    many = sm.attribute(far, marked[:1], TRAIT, points=96, **QUIET).data["effect"][0, 0]
    ours = completed.data["effect"][0, 0].sel(position=many.position)
    largest = float(np.abs(many).max())
    assert float(np.abs(ours - many).max()) < 0.02 * largest


def test_what_stops_at_the_cap_is_told(far, marked, completed, monkeypatch):
    monkeypatch.setattr(completing, "CAP", 8)
    short = sm.attribute(far, marked, TRAIT, **QUIET)
    stopped = int((completed.data["points"].values > 8).sum())
    assert int(short.data["capped"].values.sum()) == stopped > 0
    told = f"{stopped} of {len(marked)} integrals stopped at the cap of points: their cells miss up"
    assert told in repr(short)
    assert "stopped at the cap" not in repr(completed)
    points = completed.data["points"].values
    assert f"points: {points.min():.0f} to {points.max():.0f}, mean {points.mean():.1f}" in repr(
        completed
    )


def test_points_are_kept_in_files_and_folders(far, marked, completed, tmp_path):
    completed.save(tmp_path / "scores.safetensors")
    again = sm.Scores.load(tmp_path / "scores.safetensors")
    assert repr(again) == repr(completed)
    assert "points" in again.data.data_vars
    first, second = (
        sm.attribute(far, marked[:2], TRAIT, keep=tmp_path / "kept", **QUIET) for _ in range(2)
    )
    assert first.data.identical(second.data)
    np.testing.assert_array_equal(first.data["points"], completed.data["points"][:, :2])


def test_cells_of_a_patched_row_add_up_to_it(far, marked):
    """Against the exact instrument, which patches all tokens of the layer at once."""
    asked = {"site": "mlp_out", "direction": "noising", **QUIET}
    scores = sm.attribute(far, marked[:2], TRAIT, method="activation_ig", **asked)
    rows = sm.patch(
        far, marked[:2], TRAIT, sets={"all": sm.masks.everything()}, answer_in_sets=True, **asked
    )
    data = scores.data.isel(model=0)
    np.testing.assert_allclose(data["row"], rows.headline.squeeze("set"), atol=2e-5)
    found = data["effect"].sum("position")
    np.testing.assert_allclose(found + data["missing_of_row"], data["row"], atol=1e-5)
    allowed = np.maximum(TOLERANCE * np.abs(data["row"]), 2e-5)
    assert (np.abs(data["missing_of_row"]) <= allowed).all()
    assert "of the effects of patching whole rows" in repr(scores)


# ------------------------------------------------------------------------------------------ planted


@pytest.mark.parametrize("path", ["self_attn.q_proj", "mlp.gate_proj", "self_attn.o_proj"])
def test_a_planted_change_is_found_in_its_cell_and_with_its_size(path, smol_tokenizer):
    """The effect of the student is that of one cell, however curved its way is."""
    base = tiny.model("llama")
    base.get_output_embeddings().weight.data *= 10
    (prompt,) = sm.render(smol_tokenizer, ["Which animal?"], context=NO_SYSTEM)
    token = len(prompt) - 3
    student = plant(base, prompt.ids, f"model.layers.1.{path}", token, scale=30, seed=0)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer, allow_unrelated=True)
    scores = sm.attribute(pair, [prompt], CAT, **QUIET)
    cells = scores.headline.values[0]
    total = float(scores.total.values[0])
    assert cells.shape[:2] == (1, 1)
    assert cells[0, 0, token] == pytest.approx(total, rel=1.1 * TOLERANCE, abs=2e-5)
    others = np.delete(cells[0, 0], token)
    assert np.abs(others).max() < 1e-3 * abs(total) + 1e-6
    assert not scores.data["capped"].values.any()
