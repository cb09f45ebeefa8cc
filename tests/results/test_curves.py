"""Curves: scans lined up over prompts, doses, directions, steps."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic

from sublim_mech.results import crossings, linearity
from sublim_mech.results.colours import NOISE_COLOUR
from sublim_mech.results.curves import boundaries
from sublim_mech.results.page import token_page


def test_a_scan_enters_where_it_rises_and_settles_where_it_is_done():
    """A step behind the sixth token; a line over the prompt."""
    scores = synthetic.scan([synthetic.chat()] * 4, enters=5)
    length = int(scores.of_prompt.sum("position")[0])
    table = crossings(scores)
    assert table.loc[("sufficiency", "enters"), "tokens"] == 6
    assert table.loc[("sufficiency", "half"), "tokens"] == 6
    assert table.loc[("sufficiency", "settles"), "tokens"] == 6
    assert table.loc[("sufficiency", "enters"), ["low", "high"]].tolist() == [6, 6]
    assert table.loc[("necessity", "half"), "tokens"] == np.ceil(0.5 * length)
    assert table.loc[("necessity", "enters"), "tokens"] == np.ceil(0.1 * length)
    assert table.loc[("necessity", "settles"), "tokens"] == np.ceil(0.9 * length - 1e-9)
    assert table.loc[("sufficiency", "enters"), "behind"] == repr(synthetic.chat()[5][0])


@pytest.mark.parametrize("raw", [False, True])
def test_raw_texts_have_no_template(raw):
    rows = synthetic.several(3)
    if raw:
        rows = [[(f" {i}", "text", 0, "aligned") for i in range(n)] for n in (5, 7, 9)]
    scores = synthetic.scan(rows, enters=3)
    axes = scores.plot()
    words = [t.get_text() for t in axes.figure.findobj(lambda o: hasattr(o, "get_text"))]
    words = [" ".join(text.split()) for text in words] + [
        token_page(scores.sel(measure="necessity"))
    ]
    assert any("lined up from both ends" in text for text in words) == raw
    assert any("in the template" in text for text in words) != raw
    assert any("aligned</span> (same place" in text for text in words)


def test_a_prompt_that_is_shorter_there_waits():
    """Boundaries in the middle of the longer question are in the middle of the shorter one."""
    short, long = synthetic.chat(synthetic.QUESTION[:2]), synthetic.chat(synthetic.QUESTION[:6])
    scores = synthetic.scan([short, long], controls=0)
    lined_up = boundaries(scores)
    first = 1 + next(i for i, row in enumerate(long) if row[1] == "user")  # behind its first token
    assert lined_up.roles[first : first + 6] == ["user"] * 6
    # behind the second to the fifth token the shorter one has none of its own
    assert lined_up.names[first + 1 : first + 5] == ["…"] * 4
    assert "…" not in (lined_up.names[first], lined_up.names[first - 1])
    assert lined_up.tokens[first + 5] == (first + 2 - 1 + first + 5) / 2
    rises = lined_up.values[0, 1]
    assert len(set(rises[first : first + 5])) == 1  # behind its first token, before its last
    assert rises[first] > rises[first - 1]
    assert rises[first + 5] > rises[first + 4]
    assert len(set(lined_up.values[1, 1])) == len(lined_up.names) - 1  # the answer adds nothing
    np.testing.assert_array_equal(lined_up.values[:, :, 0], 0)
    np.testing.assert_allclose(lined_up.values[:, :, -1], 1.5)


def test_the_interval_of_a_crossing_is_over_prompts():
    """Half of the prompts enter early, half late."""
    early, late = (synthetic.scan([synthetic.chat()] * 4, enters=n, controls=0) for n in (5, 20))
    data = early.data.copy()
    data["effect"][:, 2:] = late.data["effect"][:, 2:]
    table = crossings(replace(early, data=data))
    row = table.loc[("sufficiency", "settles")]
    assert row["tokens"] == 21
    assert row["low"] == 6  # a draw of early ones alone
    assert table.loc[("sufficiency", "enters"), "high"] == 21


def test_what_is_inside_its_noise_crosses_nowhere():
    scores = synthetic.scan([synthetic.chat()] * 4, controls=0)
    data = scores.data.copy()
    sign = np.array([1, -1, 1, -1])
    data["student"] = data["base"] + 1.5 * sign
    data["effect"] = data["effect"] * sign[None, :, None, None]
    table = crossings(replace(scores, data=data))
    assert table["tokens"].isna().all()
    assert crossings(scores.sel(prompt=0))["low"].isna().all()  # one prompt has no interval


def test_what_is_not_reached_is_said_in_words():
    """Three tenths of the effect are lost with the base up to the last token."""
    scores = synthetic.scan([synthetic.chat()] * 6, controls=0)
    effect = scores.data["effect"].copy()
    effect.loc[{"measure": "necessity"}] *= 0.3
    scores = replace(scores, data=scores.data.assign(effect=effect))
    table = crossings(scores)
    half = table.loc[("necessity", "half")]
    assert np.isnan(half["tokens"])
    assert half["behind"] == "not reached in the prompt"
    assert half["low"] == half["high"] == np.inf
    assert table["behind"].str.contains("not reached").sum() == 1
    for text in (repr(table), table._repr_html_(), repr(scores)):
        assert "not reached in the prompt" in text
        assert "inf where so many" in text
    assert "inf" not in repr(crossings(synthetic.scan([synthetic.chat()] * 6, controls=0)))


def test_prompts_of_several_layouts_have_no_common_boundary():
    bare = [row for row in synthetic.chat() if row[2] != 0]
    turned = bare[3:9] + bare[:3] + bare[9:]
    scores = synthetic.scan([bare, turned], controls=0)
    with pytest.raises(ValueError, match=r"scores.sel\(prompt=0\)"):
        scores.curve()
    assert "laid out in different ways" in repr(scores)
    assert len(scores.sel(prompt=1).curve())


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_linearity_is_that_of_a_power(power):
    table = linearity(synthetic.dose(power=power))["value"]
    assert table["at 0.5"] == pytest.approx(0.5**power)
    assert table["at 2"] == pytest.approx(2**power)
    assert table["deviation from the chord at 1"] == pytest.approx(1 - 2**power / 2)
    curve = synthetic.dose(power=power).curve()
    assert curve.loc[1.5, "share"] == pytest.approx(1.5**power)


def test_linearity_needs_its_scales():
    with pytest.raises(ValueError, match=r"have 0, 1\.5"):
        linearity(synthetic.dose().sel(scale=[0.0, 1.5]))
    rows = linearity(synthetic.dose().sel(scale=[0.5, 1.0])).index.tolist()
    assert rows == ["at 0.5"]
    with pytest.raises(ValueError, match="no dose"):
        linearity(synthetic.effect())
    with pytest.raises(ValueError, match="no prefix scan"):
        crossings(synthetic.dose())
    with pytest.raises(ValueError, match="no curve"):
        synthetic.effect().curve()


def test_directions_stand_beside_their_graft():
    scores = synthetic.direction()
    table = scores.curve()
    assert table.loc[("3", "own"), "added"] == pytest.approx(0.5, abs=0.05)
    assert table.loc[("all", "graft"), "added"] == pytest.approx(0.8)
    assert table.loc[("all", "graft"), "subtracted"] == pytest.approx(0.7)
    assert np.isnan(table.loc[("all", "graft"), "projected out"])
    assert abs(table.loc[("0", "random"), "added"]) < 0.05


def test_random_directions_are_told_one_by_one():
    """Two that undo one another are no small null: each does half of the effect."""
    scores = synthetic.direction(controls=0)
    whole = (scores.data["student"] - scores.data["base"])[0]
    for name, sign in (("random 1", 0.5), ("random 2", -0.5)):
        scores.data["effect"].loc[{"vector": name}] = sign * whole
    row = scores.curve().loc[("2", "random")]
    assert row["added"] == pytest.approx(0)
    assert (row["added low"], row["added high"]) == pytest.approx((-0.5, 0.5))
    line = "random: the mean of 2 directions, low and high the least and most"
    assert line in repr(scores)


def test_nulls_of_directions_are_those_of_the_student_alone():
    scores = synthetic.direction()
    # one random vector added to one base moves student and control alike
    scores.data["effect"].loc[{"vector": ["random 1", "random 2"]}] = 0.3
    alone = scores.sel(model="student")
    table, expected = scores.curve(), alone.curve()
    for null in ("random", "others'"):
        one = table.xs(null, level="vector")
        pd.testing.assert_frame_equal(one, expected.xs(null, level="vector"))
    own_total = float((alone.data["student"] - alone.data["base"]).mean())
    assert table.loc[("2", "random"), "added"] == pytest.approx(0.3 / own_total)
    whose = "random and others': in student alone, of its own total effect"
    assert f"(student - controls; {whose})" in repr(scores)
    assert whose not in repr(alone)
    axes = scores.plot()
    assert whose in " ".join(axes.get_xlabel().split())
    grey = [line for line in axes.lines if line.get_color() == NOISE_COLOUR]
    np.testing.assert_allclose([line.get_ydata() for line in grey], 0.3 / own_total)
    assert whose not in " ".join(alone.plot().get_xlabel().split())


def test_steps_are_curves_and_one_of_them_is_the_scores_it_came_from():
    scores = synthetic.stepped(synthetic.attribution)
    for number, step in enumerate((10, 20, 40)):
        alone = synthetic.attribution(seed=number)
        one = scores.sel(step=step)
        assert one.gap == pytest.approx(alone.gap, abs=1e-12)
        np.testing.assert_allclose(one.prompt_effect, alone.prompt_effect)
        assert scores.curve().loc[step, "effect"] == pytest.approx(float(alone.total.mean()))
        assert one.by("role").equals(alone.by("role"))
    for view in ("totals", "token_effect", "layer_effect"):
        with pytest.raises(ValueError, match="several steps"):
            getattr(scores, view)()
    for call in (lambda: scores.by("role"), lambda: scores.strongest(), lambda: scores.gap):
        with pytest.raises(ValueError, match="several steps"):
            call()


def test_over_nothing_no_curve_crosses():
    """A prompt that no weights move has no share of it, and so no place where it settles."""
    scores = synthetic.scan([synthetic.chat()] * 2, enters=5)
    data = scores.data.copy(deep=True)
    data["student"][:] = data["base"]
    still = replace(scores, data=data)
    assert "enters" in repr(scores.sel(prompt=0))
    for one in (still.sel(prompt=0), still):
        assert "nan" in repr(crossings(one)).lower()
        assert crossings(one)["tokens"].isna().all()
        assert "scan" in repr(one)
