"""Split-half reliability: closed form, invariances, and what is said of it."""

import numpy as np
import pytest
import synthetic

from sublim_mech.results.stability import SPLITS, is_map, reliability, split_half


def noisy(prompts, spread, *, cells=20_000, seed=0):
    """Maps of one true map of spread 1, each prompt's with a spread of its own around it."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=cells) + spread * rng.normal(size=(prompts, cells))


@pytest.mark.parametrize(("prompts", "spread"), [(2, 0.5), (4, 1.0), (16, 2.0), (16, 8.0)])
def test_known_ratio_of_signal_and_noise(prompts, spread):
    """s^2 / (s^2 + n^2 / prompts), the correlation of the map with one of as many new prompts."""
    value, _ = split_half(noisy(prompts, spread), splits=20)
    assert value == pytest.approx(1 / (1 + spread**2 / prompts), abs=0.02)
    again, _ = split_half(noisy(prompts, spread), splits=20)
    assert again == value


def test_it_is_the_correlation_with_the_map_of_other_prompts():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=20_000)
    ours, theirs = (truth + 2 * rng.normal(size=(8, 20_000)) for _ in range(2))
    between = np.corrcoef(ours.mean(0), theirs.mean(0))[0, 1]
    assert split_half(ours)[0] == pytest.approx(between, abs=0.02)


def test_noise_alone_has_none_and_one_map_has_all():
    noise = np.random.default_rng(0).normal(size=(10, 20_000))
    assert abs(split_half(noise)[0]) < 0.03
    assert split_half(np.tile(noise[:1], (6, 1)))[0] == pytest.approx(1)
    assert split_half(np.stack([noise[0], -noise[0]]))[0] == pytest.approx(-1)


def test_neither_order_nor_scale_nor_missing_cells_matter():
    maps = noisy(6, 1.0, cells=300)  # 10 halvings: all are taken
    value, splits = split_half(maps)
    assert splits == 10
    assert split_half(maps[::-1])[0] == pytest.approx(value)
    assert split_half(5 * maps + 3)[0] == pytest.approx(value)
    nowhere = np.concatenate([maps, np.full((6, 40), np.nan)], 1)
    assert split_half(nowhere)[0] == pytest.approx(value)


def test_halvings_of_few_prompts_by_hand():
    maps = np.random.default_rng(1).normal(size=(3, 50))
    r = np.mean([np.corrcoef(maps[i], np.delete(maps, i, 0).mean(0))[0, 1] for i in range(3)])
    value, splits = split_half(maps)
    assert splits == 3
    assert value == pytest.approx(2 * r / (1 + abs(r)))
    assert split_half(np.random.default_rng(1).normal(size=(30, 50)))[1] == SPLITS


def test_one_prompt_has_none_and_says_so():
    one = synthetic.attribution([synthetic.chat()])
    found = reliability(one)
    assert np.isnan(found.value)
    assert "one prompt: the map has no split-half reliability" in repr(one)
    several = synthetic.attribution()
    assert f"split-half reliability of the map {reliability(several).value:.2f}" in repr(several)


def test_a_map_is_that_of_the_headline_lined_up_by_place():
    """Tokens of a longer question are other places; the template after it is the same."""
    scores = synthetic.attribution(synthetic.several(6))
    effect = scores.layer_effect()
    whole = reliability(scores)
    assert whole.prompts == 6
    assert whole.cells >= effect.sizes["layer"] * effect.sizes["position"]
    assert is_map(scores)
    assert is_map(synthetic.patch())


def test_what_is_no_map_is_refused():
    with pytest.raises(ValueError, match="effect scores are no map"):
        reliability(synthetic.effect())
    with pytest.raises(ValueError, match="splits=0"):
        reliability(synthetic.attribution(), splits=0)


@pytest.mark.parametrize("name", synthetic.all_scores())
def test_every_map_is_told_with_its_reliability(name):
    scores = synthetic.all_scores()[name]
    told = repr(scores).count("split-half reliability")
    if not is_map(scores):
        assert told == 0
        return
    both = "direction" in scores.data["effect"].dims
    assert told == (2 if both else 1)
    if both:
        with pytest.raises(ValueError, match="both directions"):
            reliability(scores)
        scores = scores.sel(direction="noising")
    if scores.data.sizes["prompt"] > 1:
        assert -1 <= reliability(scores).value <= 1
