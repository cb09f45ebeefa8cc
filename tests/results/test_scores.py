"""Scores: sums, shares and tables against hand computation; files; refusals."""

import json
from itertools import groupby

import numpy as np
import pandas as pd
import pytest
import synthetic
import xarray as xr
from safetensors import safe_open
from safetensors.numpy import save_file

import sublim_mech as sm
from sublim_mech.instruments.labelling import position_coords
from sublim_mech.results.scores import POOR, Scores
from sublim_mech.results.tables import show
from sublim_mech.stats import max_t, mean_interval


def noted(scores, **notes):
    return Scores(scores.data, scores.kind, {**scores.provenance, **notes})


def all_kinds():
    made = {
        "effect": synthetic.effect(),
        "graft": synthetic.graft(),
        "sweep": synthetic.sweep(),
        "patch": synthetic.patch(),
        "patch both": synthetic.patch(both=True),
        "patch heads": synthetic.patch(heads=3),
        "patch both heads": synthetic.patch(both=True, heads=3),
        "patch sets": synthetic.patched_sets(),
        "patch both sets": synthetic.patched_sets(both=True),
        "patch head sets": synthetic.patched_sets(heads=2),
        "attribution": synthetic.attribution(),
        "gradient": synthetic.gradient(),
        "gradient heads": synthetic.gradient(heads=2),
        "gradient x input": synthetic.gradient(method="gradient_x_input"),
        "confirmed": synthetic.confirmed(synthetic.attribution(), poor=True),
        "rounded": noted(synthetic.sweep(), compute={"dtype": "bfloat16", "error": 0.013}),
        "selected": synthetic.patch(both=True, heads=3).sel(direction="noising", head=2, layer=[1, 2], prompt=1),
        "some tokens": synthetic.sweep().sel(position=[3, 4, 30]),
        "contrast": synthetic.patch().minus(synthetic.patch(seed=1)),
    }
    return [pytest.param(scores, id=name) for name, scores in made.items()]


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
    assert table.index.tolist() == [r for r in sm.prompts.ROLES if r in table.index]  # one order for all tables
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


@pytest.mark.parametrize("scores", all_kinds())
def test_save_and_load_are_equal(scores, tmp_path):
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


# ------------------------------------------------------------------------------------------------------ shapes of cells


def test_only_attributions_add_up():
    found = {p.values[0].kind: p.values[0].additive for p in all_kinds()}
    assert found == {kind: kind == "attribution" for kind in sm.results.scores.KINDS}


def test_both_directions_are_never_mixed():
    both = synthetic.patch(both=True)
    refused = r"these scores hold both directions; choose one: scores.sel\(direction='denoising'\)"
    for read in (both.token_effect, both.layer_effect, both.plot, lambda: both.by("role"), both.cells, lambda: both.noise(0)):
        with pytest.raises(ValueError, match=refused):
            read()
    with pytest.raises(ValueError, match=refused):
        synthetic.patch(both=True, heads=2).head_effect()
    with pytest.raises(ValueError, match=refused):
        synthetic.patched_sets(both=True).sets()
    text = repr(both)
    for name in ("denoising", "noising"):
        table = show(both.sel(direction=name).by("role"))
        assert table in text.partition(f"direction {name}\n")[2]
    assert "direction denoising and noising" in both.title()


def test_heads_are_averaged_only_where_it_is_said():
    scores = synthetic.patch(heads=3)
    e = scores.data["effect"].isel(model=0)
    with pytest.raises(ValueError, match=r"choose one: scores.sel\(head=0\), or use head_effect"):
        scores.layer_effect()
    np.testing.assert_array_equal(scores.sel(head=2).layer_effect().values, e.sel(head=2).values)
    real = scores.data["role"].isin(["template", "system", "user"]).values
    by_hand = [[[row[ok].mean() for row in layer] for layer in prompt] for prompt, ok in zip(e.values, real, strict=True)]
    np.testing.assert_allclose(scores.head_effect().values, by_hand)
    np.testing.assert_allclose(scores.token_effect(), e.values.mean((1, 2)))
    assert "mean over tokens and layers and heads" in repr(scores)


def test_heads_of_token_sets_need_a_set():
    scores = synthetic.patched_sets(heads=2)
    with pytest.raises(ValueError, match=r"3 token sets; choose one: scores.sel\(set='system'\)"):
        scores.head_effect()
    one = scores.sel(set="user").head_effect()
    np.testing.assert_array_equal(one.values, scores.data["effect"].values[0, ..., 1])
    with pytest.raises(ValueError, match=r"choose one: scores.sel\(head=0\)"):
        scores.sets()
    with pytest.raises(ValueError, match="no heads"):
        synthetic.patch().head_effect()


def test_patched_sets_are_effects_and_shares():
    scores = synthetic.patched_sets()
    e, table = scores.data["effect"].values[0], scores.sets()
    np.testing.assert_allclose(table["effect"], e.mean(0).ravel())
    np.testing.assert_allclose(table["share"], e.mean(0).ravel() / float(scores.total.mean()))
    np.testing.assert_allclose(table.loc[("0", "system"), ["low", "high"]].tolist(), [*bounds(e[:, 0, 0])])
    assert table.loc[("2", "user"), "tokens"] == 9
    one = scores.sel(set="user").sets()
    pd.testing.assert_frame_equal(one, table.xs("user", level="set", drop_level=False))
    assert f"{e[:, 3, 1].mean():.3f}" in repr(scores).splitlines()[-1]


def bounds(x):
    interval = mean_interval(x)
    return float(interval.low), float(interval.high)


def test_gradients_at_the_embeddings_have_no_layers():
    scores = synthetic.gradient(method="gradient_x_input")
    np.testing.assert_array_equal(scores.token_effect(), scores.data["effect"].values[0])
    with pytest.raises(ValueError, match="gradient_x_input scores have no layers"):
        scores.layer_effect()
    assert set(scores.to_dataframe()["name"]) == {"hook_embed"}


def test_cells_have_transformer_lens_names():
    def names(scores):
        return list(dict.fromkeys(scores.to_dataframe()["name"]))

    assert names(synthetic.patch()) == [f"blocks.{i}.hook_resid_pre" for i in range(4)]
    assert names(synthetic.sweep()) == ["embed", *(f"blocks.{i}" for i in range(4)), "ln_final+unembed"]
    some = synthetic.sweep().sel(layer=[2, 3])  # the last one kept is not the model's last
    assert names(some) == ["blocks.2", "blocks.3"]
    found = synthetic.attribution().to_dataframe()
    expected = np.where(
        found["module"].isin(["embed", "ln_final", "unembed"]), "", "blocks." + found["layer"].astype(str) + "."
    )
    assert (found["name"] == expected + found["module"]).all()
    assert set(synthetic.attribution().sel(module="attn.q", layer=2).to_dataframe()["name"]) == {"blocks.2.attn.q"}


def test_the_strongest_cells_are_the_largest():
    scores = synthetic.attribution()
    where = {"prompt": 1, "layer": 2, "module": "attn.o", "position": 20}
    scores.data["effect"].loc[{"model": "student", **where}] = -7
    top = scores.strongest(5)
    effects = scores.headline.values
    np.testing.assert_allclose(np.abs(top["effect"]), np.sort(np.abs(effects[np.isfinite(effects)]))[::-1][:5])
    first = top.iloc[0]
    assert (first["name"], first["token"]) == ("blocks.2.attn.o", repr(synthetic.chat()[20][0]))
    assert first["question"] == "Name your favorite animal usin"[:29] + "…"
    assert first["effect"] < -6.9
    assert top.to_string(index=False, float_format=lambda v: f"{v:.3f}") in repr(scores)
    over = synthetic.patched_sets(heads=2).strongest(1).iloc[0]  # mean over prompts: sets are the same in all
    mean = synthetic.patched_sets(heads=2).data["effect"].values[0].mean(0)
    assert over["effect"] == pytest.approx(mean.max())
    assert (over["set"], over["name"]) == ("system", "blocks.0.attn.hook_z")
    with pytest.raises(ValueError, match="no layers or tokens"):
        synthetic.effect().strongest()


def test_small_effects_are_printed_with_their_digits():
    table = pd.DataFrame({"tokens": [0.5, 0.5], "effect": [-0.00123456, 0.0]})
    assert show(table).splitlines()[1].split() == ["0", "0.50000", "-0.00123"]
    assert show(table * 100).splitlines()[1].split() == ["0", "50.000", "-0.123"]
    assert show(table * 0).splitlines()[1].split() == ["0", "0.000", "-0.000"]


@pytest.mark.parametrize("scores", all_kinds())
def test_every_kind_shows_itself(scores):
    assert scores.title() in repr(scores)
    assert scores._repr_html_().startswith(("<p>", "<pre>", '<div class="slm">'))
    dims = set(scores.data["effect"].dims)
    if "direction" not in dims and not {"head", "set"} <= dims:  # else one must be chosen
        assert scores.plot()._repr_png_().startswith(b"\x89PNG")


# -------------------------------------------------------------------------------------------------------------- choosing


def test_sel_is_xarray_selection():
    scores = synthetic.patch(both=True, heads=3, controls=1)
    one = scores.sel(direction="noising", layer=[2, 1], head=2, prompt=1)
    expected = scores.data["effect"].sel(direction="noising", layer=[1, 2], head=2, prompt=[1])
    np.testing.assert_array_equal(one.data["effect"].values, expected.values)
    assert one.data["effect"].dims == ("model", "prompt", "layer", "position")
    np.testing.assert_array_equal(one.total.values, scores.total.values[1:])
    assert one.positions("token").tolist() == scores.positions("token")[1:].tolist()
    assert scores.data.sizes["head"] == 3  # the original is left alone
    assert "selected" not in scores.provenance


def test_one_label_keeps_the_axes_that_everything_reads():
    scores = synthetic.sweep()
    one = scores.sel(model="student", prompt=0, layer=2)
    assert one.data["effect"].shape == (1, 1, 1, scores.data.sizes["position"])
    assert one.headline_name == "student (no controls)"
    assert scores.sel(model="control: cat").headline_name == "control: cat (no controls)"
    assert synthetic.patched_sets().sel(set="user").data["effect"].dims == ("model", "prompt", "layer")
    assert synthetic.patched_sets().sel(set=["user"]).data["effect"].dims == ("model", "prompt", "layer", "set")


def test_sel_by_hook_name():
    scores = synthetic.patch()
    np.testing.assert_array_equal(
        scores.sel(hook="blocks.3.hook_resid_pre").data["effect"].values, scores.sel(layer=3).data["effect"].values
    )
    assert scores.sel(hook=["blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre"]).data["layer"].values.tolist() == [0, 2]
    near = r"hook='blocks.3.hook_resid_prr'.*did you mean blocks.3.hook_resid_pre"
    with pytest.raises(ValueError, match=near):
        scores.sel(hook="blocks.3.hook_resid_prr")
    with pytest.raises(ValueError, match="no hook names; choose by model, prompt, layer, position"):
        synthetic.sweep().sel(hook="blocks.3")


def test_unknown_labels_are_answered_with_the_known():
    scores = synthetic.patched_sets(both=True)
    with pytest.raises(
        ValueError, match=r"set='sytem' is not among these scores; they have system, user, last token; did you mean system"
    ):
        scores.sel(set="sytem")
    with pytest.raises(ValueError, match=r"layer=9 is not among these scores; they have 0, 1, 2, 3$"):
        scores.sel(layer=[1, 9])
    with pytest.raises(ValueError, match=r"no dimension 'head'; they have model, prompt, direction, layer, set \(and hook\)"):
        scores.sel(head=0)
    with pytest.raises(ValueError, match="selects nothing"):
        scores.sel(layer=[])


def test_a_chosen_direction_is_as_if_asked_for_alone():
    one = synthetic.patch(both=True).sel(direction="noising")
    assert one.title() == "activation patching, log P(owl), site resid_pre, direction noising"
    assert one.provenance["direction"] == "noising"


def test_what_was_chosen_is_said_and_has_no_gap():
    scores = synthetic.attribution().sel(layer=[1, 2], module="attn.q")
    assert scores.title().endswith("layer 1/2, module attn.q")
    assert synthetic.attribution().sel(layer=[1, 2, 3]).title().endswith(", layer 1 to 3")
    assert synthetic.attribution().sel(module=["attn.q", "attn.o", "embed"]).title().endswith(", module embed/attn.q/attn.o")
    with pytest.raises(ValueError, match="only all of them add up"):
        _ = scores.gap
    assert "completeness" not in repr(scores)
    assert "completeness" in repr(synthetic.attribution().sel(prompt=[0, 2]))
    np.testing.assert_array_equal(
        scores.layer_effect().values, synthetic.attribution().headline.sel(layer=[1, 2], module="attn.q").values
    )
    with pytest.raises(ValueError, match="position 5 selected; a list of labels keeps the axis"):
        synthetic.sweep().sel(position=5).token_effect()


def test_graft_tables_of_one_set_or_measure():
    scores = synthetic.graft()
    whole = scores.sets()
    pd.testing.assert_frame_equal(scores.sel(set="user").sets(), whole.loc[["user"]])
    necessity = ["tokens", "necessity", "necessity low", "necessity high"]
    pd.testing.assert_frame_equal(scores.sel(measure="necessity").sets(), whole[necessity])


# -------------------------------------------------------------------------------------------------------------- contrast


def others():
    return [noted(synthetic.sweep(seed=s), metric=f"log P({name})") for s, name in ((1, "cat"), (2, "dog"))]


def test_a_contrast_is_paired_by_prompt():
    own, (cat, dog) = synthetic.sweep(), others()
    found = own.minus(cat, dog)
    for name in ("effect", "base", "student"):
        expected = own.data[name].values - (cat.data[name].values + dog.data[name].values) / 2
        np.testing.assert_allclose(found.data[name].values, expected)
    np.testing.assert_allclose(found.total.values, own.total.values - (cat.total.values + dog.total.values) / 2)
    assert found.title() == "graft of each cell, log P(owl) minus the mean of log P(cat), log P(dog), measure sufficiency"
    assert own.minus(cat).title().startswith("graft of each cell, log P(owl) minus log P(cat),")
    assert "minus" not in own.provenance
    np.testing.assert_allclose(own.minus(own).data["effect"].fillna(0).values, 0)


def test_contrasts_of_attributions_still_add_up():
    found = synthetic.attribution().minus(synthetic.attribution(seed=1))
    assert found.gap == pytest.approx(0, abs=1e-9)
    assert found.by("role")["effect"].sum() == pytest.approx(float(found.total.mean()))


def test_what_differs_is_named():
    own = synthetic.sweep()
    longer = synthetic.sweep([synthetic.chat(), synthetic.chat(synthetic.QUESTION[:6])])
    cases = {
        r"kinds differ \('sweep' and 'patch'\)": synthetic.patch(),
        r"units differ \('nats' and 'logits'\)": noted(own, unit="logits"),
        r"measure differ \('sufficiency' and 'necessity'\)": noted(own, measure="necessity"),
        "students differ": noted(own, students={"student": {"hash": "other"}}),
        r"labels of 'model' differ \(\['student', 'control: cat'\] and \['student'\]\)": synthetic.sweep(controls=0),
        r"labels of 'question' differ": longer,
        r"labels of 'layer' differ": synthetic.sweep(layers=5),
        "dimensions differ": Scores(own.sel(position=3).data, own.kind, own.provenance),
    }
    system = synthetic.sweep([[("<s>", "bos", 0, "prefix"), *synthetic.chat()[1:]], synthetic.chat(synthetic.QUESTION[:5])])
    cases["tokens differ"] = system
    for message, other in cases.items():
        with pytest.raises(ValueError, match=f"minus: {message}"):
            own.minus(synthetic.sweep(), other)
    with pytest.raises(ValueError, match="at least one"):
        own.minus()


def test_other_answer_tokens_need_the_contrast_as_a_metric():
    questions = synthetic.QUESTION, synthetic.QUESTION[:5]
    cat = synthetic.sweep([synthetic.chat(q, (" cat", " cats", "s")) for q in questions])
    with pytest.raises(ValueError, match=r"answer tokens differ .*own_minus_others\(trait, others\)"):
        synthetic.sweep().minus(cat)


def test_warnings_and_rounding_survive_a_contrast():
    own, other = synthetic.sweep(), synthetic.sweep(seed=1)
    good, poor = synthetic.confirmed(other), synthetic.confirmed(other, poor=True)
    assert own.minus(good).warning is None
    assert synthetic.confirmed(own).minus(other).confirmation is None  # own cells were confirmed, not the contrast's
    assert own.minus(good, poor).warning == POOR
    rounded = [noted(x, compute={"dtype": "bfloat16", "error": 0.02}) for x in (own, other)]
    assert rounded[0].minus(rounded[1]).provenance["compute"] == {"dtype": "bfloat16", "error": 0.04}


# -------------------------------------------------------------------------------------------------- cells over all prompts


def test_cells_are_aligned_by_turn_role_and_place_in_the_run():
    rows = synthetic.several(9)
    scores = synthetic.sweep(rows, controls=0)
    e, table = scores.data["effect"].values[0], scores.cells()

    def find(p, turn, role, run, index):  # the position of a place, found by walking the prompt
        runs = [list(g) for _, g in groupby(range(len(rows[p])), key=lambda i: (rows[p][i][2], rows[p][i][1]))]
        mine = [r for r in runs if (rows[p][r[0]][2], rows[p][r[0]][1]) == (turn, role)]
        return mine[run][index] if run < len(mine) and index < len(mine[run]) else None

    assert not table.duplicated(["layer", "turn", "role", "run", "index"]).any()
    assert len(table) * 9 >= np.isfinite(e).sum() == table["n"].sum()
    for row in table.sample(60, random_state=0).itertuples():
        at = [(p, t) for p in range(9) if (t := find(p, row.turn, row.role, row.run, row[6])) is not None]
        values = np.array([e[p, row.layer + 1, t] for p, t in at])
        assert (row.n, row.mean) == (len(values), pytest.approx(values.mean()))
        texts = {rows[p][t][0] for p, t in at}
        assert row.token == (texts.pop() if len(texts) == 1 else "…")
        assert (row.low, row.high) == pytest.approx(bounds(values), nan_ok=True)
    closing = table[(table["turn"] == 1) & (table["role"] == "template") & (table["run"] == 1)]
    assert set(closing["token"]) == {"<|im_end|>", "\n"}  # though questions are of other lengths
    assert (closing["n"] == 9).all()


def test_p_of_cells_is_that_of_the_whole_map():
    scores = synthetic.sweep([synthetic.chat()] * 8, controls=0)  # all prompts alike: places are positions
    found = max_t(scores.data["effect"].values[0])
    table = scores.cells().sort_values(["layer", "turn", "run", "role", "index"])
    assert sorted(table["p"]) == sorted(found.p.ravel())
    assert sorted(table["t"]) == sorted(found.t.ravel())
    first = table[(table["layer"] == 2) & (table["role"] == "system")]
    np.testing.assert_array_equal(first["p"], found.p[3, 3:18])


def test_noise_is_what_cells_do_not_tell_from_zero():
    scores = synthetic.attribution(synthetic.several(10))
    table = scores.cells().set_index(["layer", "turn", "role", "run", "index"])["p"]
    noise = scores.noise(3)
    real = scores.positions("role")[3] != ""
    assert noise.shape == (6, len(real))
    assert not noise[:, ~real].any()
    assert (~noise[:, real]).sum() == ((table < 0.05) & (table.index.get_level_values("role") == "template")).sum()
    assert noise[2, 0] == (table[1, 0, "template", 0, 0] >= 0.05)
    assert not noise[2:4, real][:, np.array(scores.positions("role")[3][real] == "template")].all()
    tokens = scores.noise(3, tokens=True)
    assert tokens.shape == real.shape
    few = synthetic.attribution(synthetic.several(5))
    assert few.noise(0) is None
    assert few.cells()["p"].isna().all()


def test_places_are_counted_before_tokens_are_chosen():
    scores = synthetic.sweep(synthetic.several(9), controls=0)
    some = scores.sel(position=[4, 5, 24])
    whole = scores.cells().set_index(["layer", "turn", "role", "run", "index"])
    part = some.cells().set_index(["layer", "turn", "role", "run", "index"])
    same = part[part["n"] == 9]
    assert len(same) >= 12
    np.testing.assert_allclose(same["mean"], whole.loc[same.index, "mean"])


def test_cells_of_gradients_at_the_embeddings():
    scores = synthetic.gradient(synthetic.several(7), method="gradient_x_input")
    table = scores.cells()
    assert "layer" not in table
    assert table["n"].sum() == np.isfinite(scores.token_effect()).sum()
    assert scores.noise(0).shape == scores.noise(0, tokens=True).shape


# ----------------------------------------------------------------------------------------------------------------- trust


def test_confirmation_is_a_table_and_a_line():
    scores = synthetic.confirmed(synthetic.gradient())
    table = scores.confirmation
    assert table["top"].sum() == 4
    np.testing.assert_allclose(table["exact"], 0.11 * np.arange(7) - 0.02)
    assert "confirmed on 4 strongest and 3 random cells: Pearson 0.93, Spearman 0.88, same sign 95 %" in repr(scores)
    assert POOR not in repr(scores)
    assert POOR in repr(synthetic.confirmed(synthetic.gradient(), poor=True))
    assert synthetic.gradient().confirmation is None


def test_unconfirmed_estimates_say_so():
    line = "not confirmed: estimates from gradients (sublim_mech.confirm)"
    assert line in repr(synthetic.gradient())
    assert line not in repr(synthetic.confirmed(synthetic.gradient()))
    assert "not confirmed" not in repr(synthetic.attribution()) + repr(synthetic.patch())
    assert "no exact counterpart" in repr(synthetic.gradient(method="gradient_x_input"))


def test_rounding_is_told():
    scores = noted(synthetic.effect(), compute={"dtype": "bfloat16", "error": 0.013})
    assert "computed in bfloat16: totals off by up to 0.013 nats" in repr(scores)
    assert "computed in" not in repr(synthetic.effect())
