"""Headline, totals and the views along the axes, against hand computation; what is refused."""

import numpy as np
import pytest
import synthetic
import xarray as xr

from sublim_mech.results.scores import Scores


def test_headline_is_student_minus_mean_of_controls():
    scores = synthetic.effect()
    effect = scores.data["effect"].values
    np.testing.assert_allclose(scores.headline.values, effect[0] - (effect[1] + effect[2]) / 2)
    assert scores.headline_name == "student - controls"
    alone = Scores(scores.data.isel(model=[0]), "effect", scores.record)
    np.testing.assert_allclose(alone.headline.values, effect[0])
    assert "no controls" in alone.headline_name
    assert "controls left out of this selection" in repr(alone)


def test_normalised_is_over_each_prompts_own_total():
    scores = synthetic.patch()
    by_hand = scores.headline.values / scores.total.values[:, None, None]
    np.testing.assert_allclose(scores.normalised.values, by_hand)


def test_gap_is_the_missing_part():
    scores = synthetic.attribution(controls=0)
    assert scores.gap == pytest.approx(0, abs=1e-12)
    short = scores.data.copy()
    short["student"] = short["base"] + (short["student"] - short["base"]) * 1.25
    assert Scores(short, "attribution", scores.record).gap == pytest.approx(0.2)
    with pytest.raises(ValueError, match="completeness gap"):
        _ = synthetic.patch().gap


def test_the_whole_is_the_prompt_s_and_the_answer_s():
    scores = synthetic.attribution()
    role, effect = scores.data["role"].values, scores.token_effect()
    for inside, part in (
        ((role != "") & (role != "answer"), scores.prompt_effect),
        (role == "answer", scores.answer_effect),
    ):
        np.testing.assert_allclose(part.values, np.where(inside, effect, 0).sum(1))
    both = scores.prompt_effect.values + scores.answer_effect.values
    np.testing.assert_allclose(both, scores.total.values)
    one = scores.sel(layer=[2], prompt=[2, 0], model="student")
    expected = scores.whole["prompt_effect"].sel(model=["student"], prompt=[0, 2]).values
    np.testing.assert_array_equal(one.whole["prompt_effect"].values, expected)
    assert one.prompt_tokens.values.tolist() == [37, 35]
    with pytest.raises(ValueError, match="patch scores do not add up"):
        _ = synthetic.patch().whole


def test_files_in_which_answer_tokens_were_seen_or_novel_are_read_as_answer(tmp_path):
    scores = synthetic.attribution()
    old = scores.data["sharing"].where(scores.data["role"] != "answer", "novel")
    before = Scores(scores.data.assign_coords(sharing=old), scores.kind, scores.record)
    assert (before.positions("sharing") == "answer").sum() == 0
    before.save(tmp_path / "before.safetensors")
    assert Scores.load(tmp_path / "before.safetensors").data.equals(scores.data)


# -------------------------------------------------------------------------------------------- views


def test_both_directions_are_never_mixed():
    both = synthetic.patch(both=True)
    refused = r"these scores hold both directions; choose one: scores.sel\(direction='denoising'\)"
    views = [both.token_effect, both.layer_effect, both.plot, both.cells]
    views += [lambda: both.by("role"), lambda: both.noise(0)]
    views += [synthetic.patch(both=True, heads=2).head_effect]
    views += [synthetic.patched_sets(both=True).sets]
    for view in views:
        with pytest.raises(ValueError, match=refused):
            view()


def test_heads_are_averaged_only_where_it_is_said():
    scores = synthetic.patch(heads=3)
    effect = scores.data["effect"].isel(model=0)
    with pytest.raises(ValueError, match=r"choose one: scores.sel\(head=0\), or use head_effect"):
        scores.layer_effect()
    chosen = scores.sel(head=2).layer_effect().values
    np.testing.assert_array_equal(chosen, effect.sel(head=2).values)
    real = scores.data["role"].isin(["template", "system", "user"]).values
    by_hand = [
        [[head[tokens].mean() for head in layer] for layer in prompt]
        for prompt, tokens in zip(effect.values, real, strict=True)
    ]
    np.testing.assert_allclose(scores.head_effect().values, by_hand)
    np.testing.assert_allclose(scores.token_effect(), effect.values.mean((1, 2)))
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


def test_heads_of_one_set_are_those_of_the_set():
    scores = synthetic.patched_sets(heads=3)
    one = scores.sel(set=["user"])
    xr.testing.assert_equal(
        one.head_effect().drop_vars(["set", "tokens"], errors="ignore"),
        scores.sel(set="user").head_effect().drop_vars(["set", "tokens"], errors="ignore"),
    )
    assert "shares" not in repr(one)


def test_gradients_at_the_embeddings_have_no_layers():
    scores = synthetic.gradient(method="gradient_x_input")
    np.testing.assert_array_equal(scores.token_effect(), scores.data["effect"].values[0])
    with pytest.raises(ValueError, match="gradient_x_input scores have no layers"):
        scores.layer_effect()


def test_missing_axes_and_coordinates_are_named():
    with pytest.raises(ValueError, match="no position axis"):
        synthetic.effect().by("role")
    with pytest.raises(ValueError, match=r"'sharing' \(their prompts were not marked"):
        synthetic.attribution(sharing=False).by("sharing")
    with pytest.raises(ValueError, match="no token sets per layer"):
        synthetic.patch().set_effect()


# -------------------------------------------------------------------------------------------- names


def test_layers_are_named():
    assert synthetic.attribution(layers=2).layer_names() == ["embed", "0", "1", "final"]
    assert synthetic.sweep(layers=2).layer_names() == ["embed", "0", "1", "final"]
    assert synthetic.patch(layers=3).layer_names() == ["0", "1", "2"]
    # the last one kept is not the model's last, and the model's last keeps its name alone
    scores = synthetic.attribution()
    assert scores.sel(layer=[2, 3]).layer_names() == ["2", "3"]
    assert scores.sel(layer=4, module="attn.q").layer_names() == ["final"]


def test_cells_have_transformer_lens_names():
    def names(scores):
        return [name for layer in scores.cell_names() for name in layer]

    assert names(synthetic.patch()) == [f"blocks.{i}.hook_resid_pre" for i in range(4)]
    blocks = [f"blocks.{i}" for i in range(4)]
    assert names(synthetic.sweep()) == ["embed", *blocks, "ln_final+unembed"]
    assert names(synthetic.sweep().sel(layer=[2, 3])) == ["blocks.2", "blocks.3"]
    assert names(synthetic.gradient(method="gradient_x_input")) == ["hook_embed"]
    scores = synthetic.attribution()
    assert scores.cell_names()[0][0] == "embed"
    assert scores.cell_names()[3][1:5] == [
        f"blocks.2.{module}" for module in ("attn.q", "attn.o", "mlp.in", "mlp.out")
    ]
    assert scores.cell_names()[5][5:] == ["ln_final", "unembed"]
    assert names(scores.sel(module="attn.q", layer=2)) == ["blocks.2.attn.q"]


def test_layers_whose_modules_are_summed_are_blocks():
    scores = synthetic.attribution()
    blocks = [f"blocks.{i}" for i in range(4)]
    assert scores.block_names() == ["embed", *blocks, "ln_final+unembed"]
    assert scores.sel(module=["attn.q", "attn.o"], layer=[1]).block_names() == ["blocks.1"]
    assert scores.sel(module="attn.q", layer=1).block_names() == ["blocks.1.attn.q"]


# ------------------------------------------------------------------------------------- construction


def test_what_a_kind_is_not_is_refused():
    scores = synthetic.sweep()
    near = "kind='swep' is none of effect, graft, .*; did you mean 'sweep'"
    with pytest.raises(ValueError, match=near):
        Scores(scores.data, "swep", scores.record)
    strange = "sweep scores have no axis 'head'; theirs are model, prompt, "
    with pytest.raises(ValueError, match=strange):
        Scores(synthetic.patch(heads=2).data, "sweep", scores.record)
    with pytest.raises(ValueError, match="layers have no names"):
        Scores(scores.data.drop_vars("layer_name"), "sweep", scores.record)
