"""Tables: sums, shares and intervals against hand computation."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic

from sublim_mech.results.scores import Scores
from sublim_mech.stats import mean_interval

SUMMED = ["tokens", "token share", "effect", "share"]


def bounds(values):
    interval = mean_interval(values)
    return float(interval.low), float(interval.high)


def test_by_role_adds_up_to_the_total():
    scores = synthetic.attribution()
    table = scores.by("role")
    assert table.index.tolist() == ["template", "system", "user", "answer", "all prompt tokens"]
    asked = table.loc[["template", "system", "user"]]
    every, answer = table.loc["all prompt tokens"], table.loc["answer"]
    pd.testing.assert_series_equal(asked[SUMMED].sum(), every[SUMMED], check_names=False)
    assert (every["share"], every["token share"]) == (pytest.approx(1), 1)
    assert every["effect"] + answer["effect"] == pytest.approx(float(scores.total.mean()))
    assert every["effect"] == pytest.approx(float(scores.prompt_effect.mean()))
    assert answer["effect"] == pytest.approx(float(scores.answer_effect.mean()))
    assert answer["tokens"] == 3
    assert answer[["token share", "share", "share low"]].isna().all()
    assert every["tokens"] == np.mean([37, 33, 35])
    user = np.where(scores.data["role"].values == "user", scores.token_effect(), 0)
    assert table.loc["user", "effect"] == pytest.approx(np.nansum(user) / 3)


def test_cells_that_miss_more_than_they_hold_have_no_shares():
    """What they hold is then the error of the quadrature."""
    scores = synthetic.attribution()
    moved = scores.data["student"] - scores.data["base"]

    def told(part):  # a total so many times what the cells add up to
        return replace(scores, data=scores.data.assign(student=scores.data["base"] + part * moved))

    for part, shares in ((1.0, True), (1.9, True), (2.1, False), (0.1, True), (-0.1, False)):
        found = told(part)
        for table in (found.by("role"), found.by("layer")):
            assert table["share"].notna().any() == shares, part
            assert np.isfinite(table["effect"]).any()
        summed = float(scores.prompt_effect.mean())
        missed = (part - 1) * float(scores.total.mean())
        reason = (
            f"no shares: the effect on the prompt's tokens, all cells, is {summed:+.3f}, and they "
            f"miss {missed:+.3f} nats of the total effect"
        )
        assert (reason in repr(found)) != shares, part


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
    assert f"{effect[:, 3, 1].mean():.3f}" in repr(scores).splitlines()[-2]


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


def test_by_sharing_has_the_sets_of_grafts_and_their_unions():
    table = synthetic.attribution().by("sharing")
    names = ["prefix", "aligned", "seen", "novel", "answer", "shared", "not shared"]
    assert table.index.tolist() == names
    for union, parts in (("shared", ["prefix", "aligned"]), ("not shared", ["seen", "novel"])):
        summed = table.loc[parts, SUMMED].sum()
        pd.testing.assert_series_equal(summed, table.loc[union, SUMMED], check_names=False)
    averaged = synthetic.patch().by("sharing")  # of other kinds the mean over the tokens
    assert averaged.loc["shared", "tokens"] == averaged.loc[["prefix", "aligned"], "tokens"].sum()


def test_a_span_of_tokens_of_several_classes_is_of_none_of_them():
    scores = synthetic.spanned()  # questions are seen and novel, and were patched as a whole
    table, of_roles = scores.by("sharing"), scores.by("role")
    of_classes = ["prefix", "aligned", "mixed"]
    assert table.index.tolist() == [*of_classes, "answer", "shared", "not shared"]
    np.testing.assert_allclose(table.loc["not shared"], of_roles.loc["user"])  # all of it is
    np.testing.assert_allclose(table.loc["mixed"], of_roles.loc["user"])
    assert "\nmixed: spans whose tokens are of several classes; of shared" in repr(scores)
    assert "mixed" not in repr(synthetic.patch())


@pytest.mark.parametrize("coordinate", ["turn", "token"])
def test_answer_tokens_are_one_row_by_whatever_coordinate(coordinate):
    """An answer has the turn of the template tokens that open it, and may repeat a prompt's."""
    rows = [synthetic.chat(answers=[" favorite", "owl"])] * 3
    scores = synthetic.attribution(rows)
    table = scores.by(coordinate)
    assert table.loc["answer", "tokens"] == 2
    assert table.loc["2" if coordinate == "turn" else " favorite", "tokens"] == (
        3 if coordinate == "turn" else 1
    )
    assert table["token share"].sum() == pytest.approx(1)
    assert table["share"].sum() == pytest.approx(1)


def test_shares_of_parts_are_of_the_whole():
    scores = synthetic.attribution()
    whole = scores.by("role")
    parts = [scores.sel(layer=layer).by("role") for layer in scores.data["layer"].values]
    np.testing.assert_allclose(sum(part["share"] for part in parts), whole["share"])
    for part in parts:
        pd.testing.assert_frame_equal(part[["tokens", "token share"]], whole[SUMMED[:2]])
    some = scores.sel(position=[0, 3, 4]).by("role")
    assert some["tokens"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(some["token share"], some["tokens"] / 35)
    assert some.loc["all prompt tokens", "share"] < 1


def test_the_denominator_is_named_and_no_share_is_of_noise():
    scores = synthetic.attribution()
    effect, answer = float(scores.prompt_effect.mean()), float(scores.answer_effect.mean())
    line = f"shares: of the effect on the prompt's tokens, all cells: {effect:+.3f} nats; "
    carried = f"the answer's own tokens carry {answer:+.3f} nats"
    assert f"\n{line}{carried}" in repr(scores)
    told = repr(scores.sel(layer=2))
    assert f"\n{line}the answer's own tokens, all cells, carry {answer:+.3f} nats" in told
    nothing = scores.minus(scores)
    assert "no shares: the effect on the prompt's tokens, all cells, is inside its own noise" in (
        repr(nothing)
    )
    assert nothing.by("role")["share"].isna().all()


def test_sets_have_a_share_of_the_prompts_tokens_where_its_length_is_known():
    scores = synthetic.graft()
    assert "token share" not in scores.sets()
    lengths = ("prompt", np.full(12, 40))
    of = (("prompt", "set"), [["prompt", "prompt", "answer", "prompt"]] * 12)
    data = scores.data.assign(prompt_tokens=lengths).assign_coords(set_of=of)
    known = Scores(data, "graft", scores.record)
    table = known.sets()
    np.testing.assert_allclose(table["token share"], [13 / 40, 15 / 40, np.nan, 28 / 40])
    for name in ("user", "shared"):
        pd.testing.assert_frame_equal(known.sel(set=name).sets(), table.loc[[name]])
