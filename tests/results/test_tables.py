"""Tables: sums, shares and intervals against hand computation."""

import numpy as np
import pandas as pd
import pytest
import synthetic

from sublim_mech.prompts import ROLES
from sublim_mech.stats import mean_interval


def bounds(values):
    interval = mean_interval(values)
    return float(interval.low), float(interval.high)


def test_by_role_adds_up_to_the_total():
    scores = synthetic.attribution()
    table = scores.by("role")
    assert table["effect"].sum() == pytest.approx(float(scores.total.mean()))
    assert table["share"].sum() == pytest.approx(1)
    assert table["tokens"].sum() == pytest.approx(1)
    assert table.index.tolist() == [r for r in ROLES if r in table.index]  # one order for all
    user = np.where(scores.data["role"].values == "user", scores.token_effect(), 0)
    assert table.loc["user", "effect"] == pytest.approx(np.nansum(user) / 3)


def test_patching_is_averaged_not_summed():
    scores = synthetic.patch()
    effect = scores.data["effect"].isel(model=0).mean("layer").values
    role = scores.data["role"].values
    by_hand = np.mean([effect[i][role[i] == "system"].mean() for i in range(2)])
    assert scores.by("role").loc["system", "effect"] == pytest.approx(by_hand)
    assert "share" not in scores.by("role")


def test_sets_are_ratios_of_means():
    scores = synthetic.graft()
    table, head, total = scores.sets(), scores.headline.values, scores.total.values
    np.testing.assert_allclose(table["sufficiency"], head[:, :, 0].mean(0) / total.mean())
    np.testing.assert_allclose(table["necessity"], head[:, :, 1].mean(0) / total.mean())
    assert (table["sufficiency low"] < table["sufficiency"]).all()


def test_an_effect_inside_its_noise_is_not_divided_by():
    scores = synthetic.graft(total=0.0)
    assert scores.sets()[["sufficiency", "necessity"]].isna().all().all()
    assert "inside its own noise" in repr(scores)


def test_graft_tables_of_one_set_or_measure():
    scores = synthetic.graft()
    whole = scores.sets()
    pd.testing.assert_frame_equal(scores.sel(set="user").sets(), whole.loc[["user"]])
    necessity = ["tokens", "necessity", "necessity low", "necessity high"]
    pd.testing.assert_frame_equal(scores.sel(measure="necessity").sets(), whole[necessity])


def test_patched_sets_are_effects_and_shares():
    scores = synthetic.patched_sets()
    effect, table = scores.data["effect"].values[0], scores.sets()
    mean = effect.mean(0).ravel()
    np.testing.assert_allclose(table["effect"], mean)
    np.testing.assert_allclose(table["share"], mean / float(scores.total.mean()))
    interval = table.loc[("0", "system"), ["low", "high"]].tolist()
    np.testing.assert_allclose(interval, bounds(effect[:, 0, 0]))
    assert table.loc[("2", "user"), "tokens"] == 9
    one = scores.sel(set="user").sets()
    pd.testing.assert_frame_equal(one, table.xs("user", level="set", drop_level=False))
    assert f"{effect[:, 3, 1].mean():.3f}" in repr(scores).splitlines()[-1]


def test_other_cells_are_no_token_sets():
    with pytest.raises(ValueError, match="patch scores have no token sets"):
        synthetic.patch().sets()
    with pytest.raises(ValueError, match="effect scores have no token sets"):
        synthetic.effect().sets()


def test_totals_of_one_prompt_have_no_interval():
    scores = synthetic.effect(prompts=1)
    assert np.isnan(scores.totals()["low"]).all()
    assert "one prompt: no intervals" in repr(scores)


def test_the_strongest_cells_are_the_largest():
    scores = synthetic.attribution()
    cell = {"prompt": 1, "layer": 2, "module": "attn.o", "position": 20}
    scores.data["effect"].loc[{"model": "student", **cell}] = -7
    top = scores.strongest(5)
    effects = scores.headline.values
    largest = np.sort(np.abs(effects[np.isfinite(effects)]))[::-1][:5]
    np.testing.assert_allclose(np.abs(top["effect"]), largest)
    first = top.iloc[0]
    assert (first["name"], first["token"]) == ("blocks.2.attn.o", repr(synthetic.chat()[20][0]))
    assert first["question"] == "Name your favorite animal usin"[:29] + "…"
    assert first["effect"] < -6.9
    shown = top.to_string(index=False, float_format=lambda value: f"{value:.3f}")
    assert shown in repr(scores)


def test_the_strongest_sets_are_means_over_prompts():
    scores = synthetic.patched_sets(heads=2)
    first = scores.strongest(1).iloc[0]
    assert first["effect"] == pytest.approx(scores.data["effect"].values[0].mean(0).max())
    assert (first["set"], first["name"]) == ("system", "blocks.0.attn.hook_z")
    with pytest.raises(ValueError, match="no layers or tokens"):
        synthetic.effect().strongest()


def test_dataframe_holds_every_finite_cell():
    scores = synthetic.attribution()
    frame = scores.to_dataframe()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == int(np.isfinite(scores.data["effect"]).sum())
    columns = {"model", "layer", "layer_name", "module", "token", "role", "sharing", "effect"}
    assert columns <= set(frame.columns)
    assert frame["effect"].sum() == pytest.approx(float(scores.data["effect"].sum()))


def test_dataframe_names_every_cell():
    found = synthetic.attribution().to_dataframe()
    alone = found["module"].isin(["embed", "ln_final", "unembed"])
    block = np.where(alone, "", "blocks." + found["layer"].astype(str) + ".")
    assert (found["name"] == block + found["module"]).all()
    gradients = synthetic.gradient(method="gradient_x_input").to_dataframe()
    assert set(gradients["name"]) == {"hook_embed"}
