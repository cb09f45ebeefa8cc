"""Scores: sums, shares and tables against hand computation; files; refusals."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic
import xarray as xr
from safetensors import safe_open
from safetensors.numpy import save_file

import sublim_mech as sm
from sublim_mech.scores import Scores, position_coords


def test_headline_is_student_minus_mean_of_controls():
    scores = synthetic.effect()
    e = scores.data["effect"].values
    np.testing.assert_allclose(scores.headline.values, e[0] - (e[1] + e[2]) / 2)
    assert scores.headline_name == "student - controls"
    alone = Scores(scores.data.isel(model=[0]), "effect", scores.provenance)
    np.testing.assert_allclose(alone.headline.values, e[0])
    assert "no controls" in alone.headline_name
    assert "no controls" in repr(alone)


def test_by_role_adds_up_to_the_total():
    scores = synthetic.attribution()
    table = scores.by("role")
    assert table["effect"].sum() == pytest.approx(float(scores.total.mean()))
    assert table["share"].sum() == pytest.approx(1)
    assert table["tokens"].sum() == pytest.approx(1)
    assert table.index.tolist() == [r for r in sm.chat.ROLES if r in table.index]  # one order for all tables
    by_hand = np.nansum(np.where(scores.data["role"].values == "user", scores.token_effect(), 0)) / 3
    assert table.loc["user", "effect"] == pytest.approx(by_hand)


def test_patching_is_averaged_not_summed():
    scores = synthetic.patch()
    effect = scores.data["effect"].isel(model=0).mean("layer").values
    role = scores.data["role"].values
    by_hand = np.mean([effect[i][role[i] == "system"].mean() for i in range(2)])
    assert scores.by("role").loc["system", "effect"] == pytest.approx(by_hand)
    assert "share" not in scores.by("role")
    with pytest.raises(ValueError, match="completeness gap"):
        _ = scores.gap


def test_gap_is_the_missing_part():
    scores = synthetic.attribution(controls=0)
    assert scores.gap == pytest.approx(0, abs=1e-12)
    short = scores.data.copy()
    short["student"] = short["base"] + (short["student"] - short["base"]) * 1.25
    assert Scores(short, "attribution", scores.provenance).gap == pytest.approx(0.2)


def test_sets_are_ratios_of_means():
    scores = synthetic.graft()
    head, total = scores.headline.values, scores.total.values
    np.testing.assert_allclose(scores.sets()["sufficiency"], head[:, :, 0].mean(0) / total.mean())
    np.testing.assert_allclose(scores.sets()["necessity"], head[:, :, 1].mean(0) / total.mean())
    assert (scores.sets()["sufficiency low"] < scores.sets()["sufficiency"]).all()


def test_an_effect_inside_its_noise_is_not_divided_by():
    scores = synthetic.graft(total=0.0)
    assert scores.sets()[["sufficiency", "necessity"]].isna().all().all()
    assert "inside its own noise" in repr(scores)


def test_totals_of_one_prompt_have_no_interval():
    scores = synthetic.effect(prompts=1)
    assert np.isnan(scores.totals()["low"]).all()
    assert "one prompt: no intervals" in repr(scores)


@pytest.mark.parametrize("make", [synthetic.attribution, synthetic.patch, synthetic.graft, synthetic.effect])
def test_save_and_load_are_equal(make, tmp_path):
    scores = make()
    scores.save(tmp_path / "deep" / "scores.safetensors")
    loaded = Scores.load(tmp_path / "deep" / "scores.safetensors")
    xr.testing.assert_identical(loaded.data, scores.data)
    assert (loaded.kind, loaded.provenance) == (scores.kind, scores.provenance)
    assert repr(loaded) == repr(scores)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["scores.safetensors"]
    first = (tmp_path / "deep" / "scores.safetensors").read_bytes()
    scores.save(tmp_path / "deep" / "scores.safetensors")
    assert (tmp_path / "deep" / "scores.safetensors").read_bytes() == first


def test_other_tools_can_read_the_file(tmp_path):
    synthetic.patch().save(tmp_path / "s.safetensors")
    with safe_open(str(tmp_path / "s.safetensors"), "np") as handle:
        meta = json.loads(handle.metadata()["sublim_mech.scores"])
        assert handle.get_tensor("effect").shape == (1, 2, 4, 40)
    assert meta["variables"]["effect"]["dims"] == ["model", "prompt", "layer", "position"]
    assert meta["provenance"]["site"] == "resid_pre"


def test_refuses_what_is_not_scores(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        Scores.load(tmp_path / "none.safetensors")
    save_file({"x": np.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="holds no scores"):
        Scores.load(tmp_path / "x.safetensors")
    synthetic.effect().save(tmp_path / "s.safetensors")
    data = (tmp_path / "s.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="truncated"):
        Scores.load(tmp_path / "cut.safetensors")


def test_missing_axes_and_coordinates_are_named():
    with pytest.raises(ValueError, match="no position axis"):
        synthetic.effect().by("role")
    with pytest.raises(ValueError, match=r"'sharing' \(mark the prompts first"):
        synthetic.attribution(sharing=False).by("sharing")
    with pytest.raises(ValueError, match="no token sets"):
        synthetic.patch().sets()


def test_dataframe_holds_every_finite_cell():
    scores = synthetic.attribution()
    frame = scores.to_dataframe()
    assert len(frame) == int(np.isfinite(scores.data["effect"]).sum())
    assert {"model", "layer", "module", "token", "role", "sharing", "effect"} <= set(frame.columns)
    assert frame["effect"].sum() == pytest.approx(float(scores.data["effect"].sum()))
    assert isinstance(frame, pd.DataFrame)


def test_position_coords_put_the_answer_trie_behind_the_prompt(smol_tokenizer):
    owl = sm.animal("owl")
    prompts = sm.render(smol_tokenizer, owl.questions[:2])
    marked = sm.sharing(prompts, trained_on=prompts)
    tries = [sm.metrics.answers(smol_tokenizer, p, sm.metrics.log_prob(owl)) for p in marked]
    coords = position_coords(marked, tries, smol_tokenizer.decode)
    for i, (p, a) in enumerate(zip(marked, tries, strict=True)):
        n = len(p)
        assert coords["token"][1][i, :n].tolist() == list(p.tokens)
        assert coords["token"][1][i, n : n + len(a.nodes)].tolist() == [smol_tokenizer.decode([t]) for t in a.nodes]
        assert set(coords["role"][1][i, n : n + len(a.nodes)]) == {"answer"}
        assert set(coords["role"][1][i, n + len(a.nodes) :]) <= {""}
    assert "sharing" not in position_coords(prompts, tries, smol_tokenizer.decode)
