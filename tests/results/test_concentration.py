"""Concentration: planted effects are found, even ones are not, noise is called noise."""

import numpy as np
import pytest
import synthetic
import xarray as xr

import sublim_mech as sm
from sublim_mech.results.scores import Scores


def planted(effect, *, prompts=12):
    """Attribution of one layer and module whose token effects are a function of (sharing, rng)."""
    rng = np.random.default_rng(0)
    rows = [synthetic.chat(synthetic.QUESTION[: 4 + i % 6]) for i in range(prompts)]
    coords = synthetic._coords(rows, True)
    share = coords["sharing"][1]
    values = np.where(share == "", np.nan, effect(share, rng))[None, :, None, None, :]
    coords |= {"layer": [0], "module": ["attn.q"]}
    provenance = {"unit": "nats", "metric": "log P(owl)"}
    return synthetic._scores(
        "attribution", values, ("layer", "module", "position"), coords, provenance, total=np.nansum(values, (2, 3, 4))
    )


def test_all_on_shared_tokens():
    found = sm.concentration(planted(lambda s, r: np.isin(s, ["prefix", "aligned"]) * 0.1))
    assert found.share == pytest.approx(1)
    assert found.absolute_share == pytest.approx(1)
    assert found.enrichment == pytest.approx(1 / found.token_share)
    assert found.p < 0.01
    assert "carry more than their share" in found.conclusion


def test_even_effect_is_its_share_of_tokens():
    found = sm.concentration(planted(lambda s, r: np.full(s.shape, 0.1)))
    assert found.share == pytest.approx(found.token_share)
    assert found.enrichment == pytest.approx(1)
    assert found.p == 1.0  # every random set has the same share
    assert "No evidence that shared tokens carry more than their share" in found.conclusion


def test_less_than_its_share_is_said():
    found = sm.concentration(planted(lambda s, r: np.where(np.isin(s, ["prefix", "aligned"]), 0.01, 0.5)))
    assert found.high < found.token_share
    assert "carry less than their share" in found.conclusion


def test_effect_on_one_position_is_not_concentration_of_its_block():
    """One strong token inside the shared set: random sets of the same runs often hold it too, so p is not small."""

    def effect(share, rng):
        out = np.full(share.shape, 0.001)
        out[:, 18] = 1.0
        return out

    found = sm.concentration(planted(effect))
    assert found.share > 0.9
    assert found.p > 0.05
    assert found.conclusion.startswith("No evidence")


def test_noise_gets_no_share():
    found = sm.concentration(planted(lambda s, r: r.normal(size=s.shape)))
    assert np.isnan(found.share)
    assert found.conclusion.startswith("No conclusion")


def test_hand_computed_share_of_a_role_and_of_an_array():
    scores = synthetic.attribution(controls=0)
    cells, role = scores.token_effect(), scores.data["role"].values
    inside = role == "template"
    by_hand = np.where(inside, np.nan_to_num(cells), 0).sum() / np.nansum(cells)
    assert sm.concentration(scores, on="template").share == pytest.approx(by_hand)
    assert sm.concentration(scores, on=inside).share == pytest.approx(by_hand)
    assert sm.concentration(scores, on="template").token_share == pytest.approx(inside.sum() / (role != "").sum())


def test_same_seed_same_numbers_and_the_null_is_a_null():
    """On exchangeable tokens p is uniform: over many data sets about one in ten is below 0.1."""
    scores = synthetic.attribution()
    assert repr(sm.concentration(scores)) == repr(sm.concentration(scores))
    below = 0
    for seed in range(60):
        noise = np.random.default_rng(seed)
        found = sm.concentration(
            planted(lambda s, r, noise=noise: 0.2 + noise.normal(size=s.shape) * 0.1, prompts=4), draws=200
        )
        below += found.p < 0.1
    assert 1 <= below <= 14


def test_a_fixed_profile_over_positions_is_no_evidence_for_a_random_set():
    """Type I error: prompts share their layout and their effects by position, so they are not independent placements."""
    rng = np.random.default_rng(0)
    length, prompts, found = 45, 12, 0
    for _ in range(60):
        profile = rng.gamma(0.5, size=length)
        given = np.zeros(length, bool)
        given[: rng.integers(5, 25)] = given[40:] = True
        inside = sm.stats.random_like(given, 1, rng)[0]
        rows = [[("x", "user", 0, "prefix" if c else "novel") for c in inside]] * prompts
        coords = synthetic._coords(rows, True) | {"layer": [0], "module": ["attn.q"]}
        values = (profile + rng.normal(size=(prompts, length)) * 0.05)[None, :, None, None, :]
        provenance = {"unit": "nats", "metric": "m"}
        cells = ("layer", "module", "position")
        scores = synthetic._scores("attribution", values, cells, coords, provenance, values.sum((2, 3, 4)))
        found += sm.concentration(scores, draws=200).p < 0.05
    assert found <= 8  # 3 expected; about 20 where each prompt is placed on its own


def test_patching_effects_have_no_shares():
    with pytest.raises(ValueError, match="do not add up"):
        sm.concentration(synthetic.patch())


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("assistant", "no token of any prompt"),
        ("shard", "on='shard' is not known"),
        (np.ones(3, bool), r"\(prompt, position\)"),
    ],
)
def test_refuses_sets_it_cannot_find(on, message):
    with pytest.raises(ValueError, match=message):
        sm.concentration(synthetic.attribution(), on=on)


def test_controls_are_subtracted_before_sharing_out():
    scores = planted(lambda s, r: np.isin(s, ["prefix", "aligned"]) * 0.1 + 0.05)
    common = planted(lambda s, r: np.full(s.shape, 0.05))
    both = xr.concat([scores.data, common.data.assign_coords(model=["control: cat"])], "model")
    found = sm.concentration(Scores(both, "attribution", scores.provenance))
    assert found.share == pytest.approx(1)
    assert found.of == "student - controls"
