"""Bars: their lengths, intervals and notes are those of the tables."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from synthetic import attribution, chat, effect, graft, patch, recorded

from sublim_mech.results import compare
from sublim_mech.results.bars import compare_bars, role_bars
from sublim_mech.results.colours import OTHER_COLOUR, ROLE_COLOURS
from sublim_mech.results.plots import plot
from sublim_mech.results.tables import size_in_words


def lengths(axes):
    return np.array([bar.get_width() for bar in axes.patches])


def below(axes):
    """What limits the numbers."""
    return " ".join(text.get_text() for text in axes.texts)


def rows(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


@pytest.mark.parametrize("by", ["role", "sharing", "turn"])
@pytest.mark.parametrize("scores", [attribution(), patch()], ids=["attribution", "patch"])
def test_role_bars_are_the_table(scores, by):
    axes = role_bars(scores, by=by)
    table = scores.by(by)
    np.testing.assert_allclose(lengths(axes), table["effect"])
    named = [row.split("\n") for row in rows(axes)]
    assert [name for name, *_ in named] == list(table.index)
    intervals = [segment[:, 0] for segment in axes.collections[-1].get_segments()]
    np.testing.assert_allclose(intervals, table[["low", "high"]].values)
    _, size, *share = named[0]
    assert size == size_in_words(table.iloc[0])
    assert len(share) == scores.additive
    assert not any("nan" in row for row in rows(axes))
    assert "nats" in axes.get_xlabel()


def conversation():
    """A user message, the assistant's, and another question."""
    rows = chat()
    said = [(t, "assistant", 2, "novel") for t in ("Hi", "!")]
    opened = next(at for at, row in enumerate(rows) if row[2] == 2)
    again = [(t, role, 2 + turn, of) for t, role, turn, of in rows if turn > 0]
    return [*rows[: opened + 3], *said, *again]


def test_turns_of_several_roles_are_told_in_table_and_figure():
    told = (
        "of 3 prompts, turn 2 is assistant in 2 and the opening of the answer in 1: their rows mix "
        "these"
    )
    scores = attribution([conversation(), conversation(), chat()])
    assert scores.by("turn").attrs["notes"] == [told]
    assert told in repr(scores.by("turn"))
    other = recorded(scores, notes=("another",))
    assert told in compare({"one": scores, "other": other}, by="turn").attrs["notes"]
    pictures = role_bars(scores, by="turn"), compare_bars({"a": scores, "b": other}, by="turn")
    for axes in pictures:
        drawn = axes.figure.findobj(lambda part: hasattr(part, "get_text"))
        assert any(told in " ".join(text.get_text().split()) for text in drawn)
    alone = scores.sel(prompt=[0, 1])
    for table in (scores.by("role"), alone.by("turn"), attribution().by("turn")):
        assert "notes" not in table.attrs


def test_role_bars_have_the_colours_of_the_band():
    axes = role_bars(attribution())
    names = attribution().by("role").index
    expected = [to_rgba(ROLE_COLOURS.get(name, OTHER_COLOUR)) for name in names]
    assert [bar.get_facecolor() for bar in axes.patches] == expected


def test_dollar_signs_are_no_formulas():
    scores = attribution([chat(["$\\frac$", " $", "\t\x07"])])
    role_bars(scores, by="token").figure.draw_without_rendering()  # a formula would raise here


def test_graft_bars_are_the_shares():
    axes = plot(graft())
    table = graft().sets()
    np.testing.assert_allclose(lengths(axes), [*table["sufficiency"], *table["necessity"]])
    assert rows(axes)[0] == "template\n13 tokens"


def test_graft_bars_of_one_measure():
    scores = graft().sel(measure="necessity")
    axes = plot(scores)
    np.testing.assert_allclose(lengths(axes), scores.sets()["necessity"])


def test_graft_inside_the_noise_gives_no_shares_and_says_so():
    axes = plot(graft(total=0.0))
    assert np.isnan(lengths(axes)).all()
    assert any("noise" in text.get_text() for text in axes.texts)
    axes = plot(graft())
    assert not axes.texts


def test_effect_bars_are_the_totals():
    axes = plot(effect())
    np.testing.assert_allclose(lengths(axes), effect().totals()["effect"])
    assert rows(axes)[-1] == "student - controls"


def test_single_prompt_has_no_interval_but_a_bar():
    axes = role_bars(attribution([chat()]))
    assert np.isfinite(lengths(axes)).all()


def test_bars_of_one_prompt_have_no_interval_and_say_so():
    for scores in (graft(prompts=1), effect(prompts=1), attribution([chat()])):
        pictures = [plot(scores)] if scores.kind != "attribution" else []
        pictures += [role_bars(scores), plot(scores, by="layer")] if not pictures else []
        for axes in pictures:
            assert "mean and 95 % interval" not in " ".join(axes.get_xlabel().split())
            assert "one prompt: no intervals" in below(axes)
    assert "mean and 95 % interval over prompts" in plot(graft(prompts=6)).get_xlabel()


def test_bars_of_few_prompts_promise_no_95_per_cent():
    axes = plot(graft(prompts=3))
    assert " ".join(axes.get_xlabel().split()).endswith("mean and interval over 3 prompts")
    assert "3 prompts: too few for 95 % intervals" in below(axes)


def test_bars_of_attributions_carry_what_their_cells_miss():
    scores = attribution()
    half = replace(scores, data=scores.data.assign(student=2 * scores.data["student"] + 6.0))
    for one in (scores, half):
        gap = abs(float(one.missing.mean() / one.total.mean()))
        assert f"completeness gap {gap:.2%}" in below(role_bars(one))
    assert "gap" not in below(role_bars(patch()))
