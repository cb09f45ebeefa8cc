"""One set, many sets, one cell: each is drawn and told by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import synthetic
from matplotlib.figure import Figure

from sublim_mech.hints import signed
from sublim_mech.results.bars import compare_bars
from sublim_mech.results.intruders import IntruderModule, Intruders
from sublim_mech.results.limits import limits
from sublim_mech.results.plots import plot
from sublim_mech.results.report import show
from sublim_mech.results.scores import Scores
from sublim_mech.results.shares import concentration
from sublim_mech.results.words import percent


def scaled(scales=(1.0, 2.0, 1.0, 0.5)):
    """Grafts of four sets with these gates; at 2 the control falls far."""
    scores = synthetic.graft()
    data = scores.data.assign_coords(scale=("set", np.array(scales)))
    effect = data["effect"].copy(deep=True)
    effect[1, :, 1] -= 2.0
    return replace(scores, data=data.assign(effect=effect))


@pytest.mark.parametrize("name", ["template", "system", "shared"])
def test_a_selected_set_keeps_what_is_said_of_its_scale(name, tmp_path):
    scores = scaled()
    one, several = scores.sel(set=name), scores.sel(set=[name])
    assert [limit.text for limit in limits(one)] == [limit.text for limit in limits(several)]
    told = [limit.text for limit in limits(scores) if "at set" in limit.text]
    assert len(told) == 1
    assert (told[0] in repr(one)) == (name == "system")
    one.save(tmp_path / "one.safetensors")
    loaded = Scores.load(tmp_path / "one.safetensors")
    assert loaded.data.equals(one.data)
    assert repr(loaded) == repr(one)


ONE = {
    "graft": lambda **kept: synthetic.graft().sel(**kept),
    "patch": lambda **kept: synthetic.patched_sets().sel(**kept),
    "heads": lambda **kept: synthetic.patched_sets(heads=2).sel(**kept),
    "a head": lambda **kept: synthetic.patched_sets(heads=2).sel(head=0, **kept),
    "direction": lambda **kept: synthetic.patched_sets(both=True).sel(direction="noising", **kept),
    "steps": lambda **kept: synthetic.stepped(synthetic.graft).sel(**kept),
}


@pytest.mark.parametrize("kind", ONE)
def test_a_single_set_is_drawn_however_it_was_chosen(kind):
    for kept in ("system", ["system"]):
        scores = ONE[kind](set=kept)
        axes = plot(scores)
        assert "set" not in scores.data["effect"].dims or scores.data.sizes["set"] == 1
        assert "system" in repr(scores)
        assert "set system" in " ".join(axes.get_title().split())


def seven(seed=0):
    """Grafts of seven sets, whose sufficiencies are apart."""
    scores = synthetic.graft(seed=seed)
    data = scores.data.isel(set=[0, 1, 2, 3, 0, 1, 2]).assign_coords(set=list("abcdefg"))
    effect = data["effect"] * np.linspace(0.5, 1, 7)[:, None]
    return replace(scores, data=data.assign(effect=effect))


def test_curves_over_steps_tell_as_many_sets_apart_as_sharing_has():
    scores = synthetic.stepped(seven)
    axes = plot(scores)
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(lines) == len(looks) == 8
    entries = [text.get_text() for text in axes.get_legend().get_texts()]
    assert entries[1:] == [f"sufficiency of {name}" for name in "abcdefg"]
    handles = axes.get_legend().legend_handles[1:]
    assert [h.get_linestyle() for h in handles] == [line.get_linestyle() for line in lines[1:]]
    for line, name in zip(lines[1:], "abcdefg", strict=True):
        drawn = scores.headline.sel(set=name, measure="sufficiency").mean("prompt")
        np.testing.assert_allclose(line.get_ydata(), drawn)
    assert "shares" not in repr(scores)


def test_a_set_of_steps_that_was_selected_has_its_curve_and_rows():
    scores = synthetic.stepped(synthetic.graft).sel(set="user", measure="necessity")
    table = scores.curve()
    values = scores.headline.mean("prompt").values
    of_set = table.xs(("user", "necessity"), level=("set", "measure"))["effect"]
    np.testing.assert_allclose(of_set, values)
    axes = plot(scores)
    np.testing.assert_allclose(axes.lines[-1].get_ydata(), values)
    assert axes.get_legend().get_texts()[1].get_text() == "necessity of user"


def test_every_line_of_the_strongest_cells_points_at_one_cell():
    """Texts that begin alike, and tokens that come twice."""
    words = ["A", " very", " long", " beginning", " that", " all", " texts", " have", " a", " a"]
    rows = [(word, "text", 0, "novel") for word in words]
    for scores in (
        synthetic.attribution([rows] * 6, layers=2),
        synthetic.sweep([rows] * 6, layers=2),
        synthetic.gradient([rows] * 6, method="gradient_x_input"),
    ):
        top = scores.strongest(10**6)
        assert not top.drop(columns=["effect", "token", "question"]).duplicated().any()
        for _, row in top.head(5).iterrows():
            token = scores.positions("token")[row["prompt"], row["position"]]
            assert row["token"] == repr(str(token))
            cells = scores.headline.sel(prompt=row["prompt"], position=row["position"])
            assert np.isclose(cells, row["effect"]).any()


@pytest.mark.parametrize(
    ("steps", "scale"),
    [
        ((2, 4, 8, 16, 32, 40), "log"),
        ((1, 2, 4, 8), "log"),
        ((10, 20, 30, 40, 50), "linear"),
        ((100, 200, 300, 350), "linear"),
        ((10, 100, 1000), "linear"),
    ],
)
def test_snapshots_that_lie_ever_further_apart_have_a_scale_of_ratios(steps, scale):
    axes = plot(synthetic.stepped(synthetic.effect, steps))
    assert axes.get_xscale() == scale
    assert ("scale of ratios" in axes.get_xlabel()) == (scale == "log")


def test_of_a_selection_the_answer_is_said_to_be_of_all_cells():
    scores = synthetic.attribution(synthetic.several(8))
    whole, one = concentration(scores), concentration(scores.sel(layer=[1]))
    carried = whole._carried()
    assert one._carried() == f"{carried}, all cells"
    assert f"carry {carried}, all cells." in one.conclusion


def test_a_set_that_is_the_whole_prompt_is_not_advised():
    rows = [(word, "text", 0, "novel") for word in ("The", " owl", " is", " my")]
    with pytest.raises(ValueError, match="no token") as refused:
        concentration(synthetic.attribution([rows] * 6), on="shared")
    assert "'text'" not in str(refused.value)
    assert "bool array" in str(refused.value)


def test_of_effect_is_explained_where_a_row_says_it():
    scores = synthetic.filled(synthetic.attribution(synthetic.several(6), layers=2))
    for axes in (plot(scores, by="role"), compare_bars({"a": scores, "b": scores}, by="role")):
        rows = " ".join(text.get_text() for text in axes.get_yticklabels())
        assert ("of effect" in rows) == ("“of effect”" in axes.get_xlabel())
        assert "of effect" in rows
    data = scores.data.copy(deep=True)
    data["effect"][:] = data["effect"] * 0
    none = plot(replace(scores, data=data), by="role")
    assert "of effect" not in none.get_xlabel()


# --------------------------------------------------------------------------- nothing, and its sign


@pytest.mark.parametrize("value", [-0.0004, -1e-12, -0.0, 0.0, 1e-9, 0.0004999])
def test_what_rounds_to_nothing_has_no_sign(value):
    assert signed(value) == "0.000"
    assert percent(value) == "0%"
    table = show(synthetic.effect().totals().assign(low=value))
    assert "-0.000" not in table


@pytest.mark.parametrize("value", [-1.2345, -0.0006, 0.25, 17.0])
def test_other_numbers_have_their_sign(value):
    assert float(signed(value)) == pytest.approx(value, abs=5e-4)
    assert signed(value)[0] == ("-" if value < 0 else "+")
    assert float(percent(value, 1)[:-1]) == pytest.approx(100 * value, abs=0.06)


def test_of_nothing_there_is_no_percentage():
    scores = synthetic.filled(synthetic.attribution(synthetic.several(8)))
    told = repr(scores)
    assert "the answer's own tokens carry 0.000 nats\n" in told
    for sign in ("+0.000", "-0.0%", "-0%"):
        assert sign not in told


def intruders(cosines):
    modules = tuple(
        IntruderModule(f"blocks.{n}.mlp.out", n, "mlp.out", (8, 8), np.ones(3), np.array(of))
        for n, of in enumerate(cosines)
    )
    return Intruders("student", "left", 3, 0.5, len(modules), modules, ("a note",))


@pytest.mark.parametrize("cosines", [[[1, 0.99, 0.9]] * 2, [[1, 0.1, 0.2], [1, 1, 0.3]]])
def test_counts_of_intruders_are_whole_and_none_is_said(cosines):
    found = intruders(cosines)
    axes = found.plot()
    axes.figure.canvas.draw()
    (bar,) = (image.colorbar for image in axes.images)
    low, high = bar.vmin, bar.vmax
    assert (low, high) == (0, max(1, found.table()["intruders"].max()))
    ticks = [tick for tick in bar.get_ticks() if low <= tick <= high]
    assert all(float(tick).is_integer() for tick in ticks)
    below = " ".join(axes.get_xlabel().split())
    line = "none: each of these vectors has a cosine of at least 0.900 to one of the base's"
    assert (line in below) == (line in repr(found)) == (found.count == 0)
    assert "a note" in below
    assert "none" not in found.plot("mean cosine").get_xlabel()
    narrow = Figure(figsize=(3, 2), layout="constrained").subplots()
    assert found.plot(ax=narrow) is narrow
