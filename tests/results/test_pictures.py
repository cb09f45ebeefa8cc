"""What holds for every picture: where it is drawn, what can be read, what it leaves behind."""

import sys
import warnings
from itertools import pairwise
from unittest import mock

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic import (
    attribution,
    chat,
    confirmed,
    effect,
    graft,
    patch,
    patched_sets,
    recorded,
    several,
)

from sublim_mech.results import notebook_figures
from sublim_mech.results.bars import MOST_ROWS, compare_bars, layer_bars, role_bars
from sublim_mech.results.heatmaps import heatmap
from sublim_mech.results.plots import plot
from sublim_mech.results.tables import size_in_words

LONG = "log P(a trait of which somebody wrote a whole sentence, at length) - mean log P(all others)"
SCRIPTS = ["猫头鹰", " مرحبا", "بالعالم", " 😀", "🦉", " שלום", "\u200d", "❤️", "e\u0301"]
PICTURES = {
    "heatmap": lambda **wishes: plot(attribution(), **wishes),
    "heads": lambda **wishes: plot(patch(several(8), heads=3), **wishes),
    "sets": lambda **wishes: plot(patched_sets(), **wishes),
    "grafts": lambda **wishes: plot(graft(), **wishes),
    "totals": lambda **wishes: plot(effect(), **wishes),
    "roles": lambda **wishes: plot(attribution(), by="role", **wishes),
    "layers": lambda **wishes: plot(attribution(), by="layer", **wishes),
    "students": lambda **wishes: compare_bars({"a": graft(), "b": graft(seed=1)}, **wishes),
}


def of_words(count):
    return chat([f" word{i}" for i in range(count)])


def texts_of(axes):
    """All words that are drawn of a figure, once it is laid out; axes keep marks that are not."""
    drawn, draw = [], Text.draw

    def recorded_draw(text, *args, **kwargs):
        drawn.append(text)
        return draw(text, *args, **kwargs)

    canvas = FigureCanvasAgg(axes.figure)
    with mock.patch.object(Text, "draw", recorded_draw):
        canvas.draw()
    return [text for text in drawn if text.get_text().strip()]


def said(axes):
    """The words around a picture, whatever lines they stand in."""
    above = [axes.get_title(), *(text.get_text() for text in axes.texts)]
    return " ".join(" ".join(above).split())


def assert_readable(axes):
    """Every word is inside the figure, and no two names of tokens, layers or rows overlap."""
    texts, figure = texts_of(axes), axes.figure.bbox
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= figure.x0 - 1, text
        assert box.x1 <= figure.x1 + 1, text
        assert box.y0 >= figure.y0 - 1, text
        assert box.y1 <= figure.y1 + 1, text
    for one in (axes, *axes.child_axes):
        for labels in (one.get_xticklabels(), one.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels if label in texts]
            for first, second in pairwise(boxes):
                assert not first.padded(-0.5).overlaps(second.padded(-0.5)), labels


# ------------------------------------------------------------------------------- where it is drawn


@pytest.mark.parametrize("name", PICTURES)
def test_it_is_drawn_in_the_axes_that_are_given_and_nowhere_else(name):
    figure = Figure(figsize=(12, 5))
    left, right = figure.subplots(1, 2)
    left.plot([0, 1])
    place, drawn = left.get_position().bounds, len(left.get_children())
    assert PICTURES[name](ax=right) is right
    figure.draw_without_rendering()
    assert tuple(figure.get_size_inches()) == (12, 5)
    assert figure.axes == [left, right]
    assert left.get_position().bounds == place
    assert len(left.get_children()) == drawn
    assert right.get_title()
    # parts lie inside
    for part in right.child_axes:
        assert right.bbox.padded(1).fully_contains(*part.bbox.p0)
        assert right.bbox.padded(1).fully_contains(*part.bbox.p1)


@pytest.mark.parametrize("name", PICTURES)
def test_it_is_readable_and_leaves_nothing_behind(name):
    settings, open_figures = dict(matplotlib.rcParams), plt.get_fignums()
    axes = PICTURES[name]()
    assert isinstance(axes, Axes)
    assert_readable(axes)
    assert dict(matplotlib.rcParams) == settings
    assert plt.get_fignums() == open_figures
    assert notebook_figures._waiting == []  # there is no notebook


@pytest.mark.parametrize("name", PICTURES)
def test_a_title_takes_the_place_of_the_usual_one(name):
    usual = PICTURES[name]().get_title()
    assert usual
    assert PICTURES[name](title="mine, of $\\frac$").get_title() == "mine, of $\\frac$"
    assert PICTURES[name](title="").get_title() == ""


def test_what_limits_the_numbers_stays_under_any_title():
    from synthetic import gradient

    assert "not confirmed" in said(heatmap(gradient(), title="mine"))
    assert "POOR" in said(heatmap(confirmed(gradient(), poor=True), title="mine"))


def test_words_of_the_caller_in_the_axes_stay_his():
    axes = Figure().subplots()
    text = axes.text(0.5, 0.5, "$x^2$")
    plot(effect(), ax=axes)
    assert text.get_parse_math()
    assert text in axes.texts


# ------------------------------------------------------------------------------------------- labels


def test_names_are_what_the_caller_calls_them():
    labels = {"student": "owl, rank 8", "control: cat": "cats", "log P(owl)": "owl"}
    axes = plot(effect(), labels=labels)
    rows = [text.get_text() for text in axes.get_yticklabels()]
    assert rows == ["owl, rank 8", "cats", "control: dolphin", "owl, rank 8 - controls"]
    assert axes.get_xlabel().startswith("change of owl from the base model")
    axes = plot(patched_sets(), labels={"system": "the role", 3: "last"})
    (grid, _) = axes.child_axes
    assert grid.get_xticklabels()[0].get_text() == "the role\n(15 tokens)"
    assert grid.get_yticklabels()[-1].get_text() == "last"
    axes = plot(attribution(), labels={"user": "question", "prefix": "same"})
    entries = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"question", "shared with training: same"} <= set(entries)
    band = axes.child_axes[2]
    assert "user" in [text.get_text() for text in band.get_xticklabels()]  # the token
    axes = plot(graft(), labels={"sufficiency": "enough", "shared": "all shared"})
    assert axes.get_legend().get_texts()[0].get_text() == "enough"
    assert axes.get_yticklabels()[-1].get_text().startswith("all shared\n")


# ------------------------------------------------------------------------------------ long ones


@pytest.mark.parametrize("words", [10, 64, 165, 960])
def test_long_prompts_are_drawn_in_rows_of_bounded_width(words):
    scores = patch([of_words(words)], layers=30)
    axes = heatmap(scores)
    width, height = axes.figure.get_size_inches() * 120
    assert width <= 1800
    assert height <= 3600
    assert_readable(axes)
    grids = axes.child_axes[1:-1:3]
    drawn = np.concatenate([np.ma.filled(g.images[0].get_array(), np.nan) for g in grids], axis=1)
    expected, count = scores.layer_effect().values[0], len(of_words(words))
    if count <= 256:
        np.testing.assert_array_equal(drawn, expected)
        assert "not drawn" not in said(axes)
    else:  # the start and the end
        np.testing.assert_array_equal(drawn, np.c_[expected[:, :128], expected[:, -128:]])
        assert f"tokens 129 to {count - 128} of {count} are not drawn" in said(axes)
        hidden = scores.token_effect()[0, 128:-128]
        strongest = hidden[np.abs(hidden).argmax()]
        assert f"the largest effect there is {strongest:+.2g} nats" in said(axes)
        assert "save_page" in said(axes)
    # one scale for all rows, that of all tokens
    assert {g.images[0].norm.vmax for g in grids} == {np.nanmax(np.abs(expected))}
    assert len({strip.get_ylim() for strip in axes.child_axes[:-1:3]}) == 1


def test_tokens_of_all_rows_are_as_wide():
    axes = heatmap(patch([of_words(165)]))
    axes.figure.draw_without_rendering()
    grids = axes.child_axes[1:-1:3]
    widths = [g.bbox.width / g.images[0].get_array().shape[1] for g in grids]
    np.testing.assert_allclose(widths, widths[0])


def test_a_row_that_leaves_out_the_middle_has_a_line_there():
    figure = Figure(figsize=(6, 4))
    axes = heatmap(patch([of_words(200)]), ax=figure.subplots())
    strip, grid, band, _ = axes.child_axes
    shown = grid.images[0].get_array().shape[1]
    assert shown < 60
    for part in (strip, grid, band):
        (line,) = [line for line in part.lines if line.get_linestyle() == ":"]
        assert line.get_xdata()[0] == shown // 2 - 0.5
    assert "not drawn" in said(axes)


@pytest.mark.parametrize("name", ["student", "metric", "role"])
def test_long_names_are_readable(name):
    scores = recorded(attribution(layers=30), metric=LONG if name == "metric" else "log P(owl)")
    labels = {"student": {"student": "x" * 90}, "role": {"user": "the user " * 20}}.get(name)
    for draw in (heatmap, role_bars, layer_bars):
        assert_readable(draw(scores, labels=labels))
    assert_readable(plot(recorded(effect(), metric=LONG), labels={"control: cat": "cat " * 40}))
    labels = {"system": "every token of the system prompt, and more " * 2, "user": "y" * 70}
    assert_readable(plot(recorded(patched_sets(), metric=LONG), labels=labels))
    assert_readable(plot(patch(several(8), heads=128, layers=32)))


def test_of_many_tokens_the_strongest_have_bars():
    scores = attribution([of_words(200)])
    axes, table = role_bars(scores, by="token"), scores.by("token")
    heights = np.array([abs(bar.get_width()) for bar in axes.patches])
    np.testing.assert_allclose(np.sort(heights), np.sort(table["effect"].abs())[-MOST_ROWS:])
    assert f"{MOST_ROWS} of {len(table)} rows" in said(axes)


def test_layer_bars_add_up_to_the_effect():
    scores = attribution()
    axes = plot(scores, by="layer")
    heights = [bar.get_height() for bar in axes.patches]
    assert sum(heights) == pytest.approx(np.nansum(scores.token_effect()) / 3)
    with pytest.raises(ValueError, match="heads"):
        plot(patch(heads=2), by="layer")


# ------------------------------------------------------------------------------------------ scripts


def test_words_in_any_script_are_drawn_or_named_without_a_warning():
    axes = heatmap(attribution([chat(SCRIPTS)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a missing glyph
        assert_readable(axes)
    names = [text.get_text() for text in axes.child_axes[2].get_xticklabels()]
    tokens = names[23 : 23 + len(SCRIPTS)]
    assert "␣مرحبا" in tokens or sys.modules["matplotlib"].__version__ < "3.11"
    assert "\\u{200d}" in tokens
    assert "❤" in tokens
    lacking = [name for name in names if "\\u{" in name and name != "\\u{200d}"]
    assert bool(lacking) == ("characters that no font here has" in said(axes))


def test_what_no_font_has_is_said_once_and_the_page_is_pointed_to(only_dejavu):
    owl = "猫"
    axes = heatmap(attribution([chat([owl, f" {owl}{owl}"])]))
    assert said(axes).count("no font here has") == 1
    assert "save_page" in said(axes)
    names = [text.get_text() for text in axes.child_axes[2].get_xticklabels()]
    assert names[23:25] == ["\\u{732b}", "␣\\u{732b 732b}"]
    axes = compare_bars({owl: effect(), "b": effect(seed=1)})
    assert "save_page" not in said(axes)  # totals have no page
    assert "no font here has" in said(axes)
    assert "no font" not in said(plot(effect()))


# --------------------------------------------------------------------------------- several students


def test_students_are_drawn_beside_each_other():
    first, second = attribution(), attribution(seed=1)
    axes = compare_bars({"rank 8": first, "rank 64": second}, by="role")
    tables = [first.by("role"), second.by("role")]
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(widths, np.concatenate([table["effect"] for table in tables]))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["rank 8", "rank 64"]
    colours = [bar.get_facecolor() for bar in axes.patches]
    rows = len(tables[0])
    assert len(set(colours[:rows])) == len(set(colours[rows:])) == 1
    assert colours[0] != colours[rows]
    row = axes.get_yticklabels()[0].get_text().split("\n")
    shares = [f"{table['share'].iloc[0]:.0%}" for table in tables]
    of_effect = f"{' / '.join(shares)} of effect"
    assert row == ["template", size_in_words(tables[0].iloc[0]), of_effect]


def test_students_of_grafts_and_effects():
    one, other = graft(), graft(seed=1)
    axes = compare_bars({"a": one, "b": other})
    widths = np.array([bar.get_width() for bar in axes.patches]).reshape(2, -1, 2)
    for drawn, scores in zip(widths, (one, other), strict=True):
        np.testing.assert_allclose(drawn, scores.sets()[["sufficiency", "necessity"]])
    axes = compare_bars({"a": effect(), "b": effect(seed=1)})
    expected = [scores.totals()["effect"].iloc[-1] for scores in (effect(), effect(seed=1))]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], expected)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (patch(controls=1), "kinds differ"),
        (
            recorded(attribution(), metric="log P(cat)"),
            r"metrics differ \('log P\(owl\)' and 'log P\(cat\)'\)",
        ),
        (recorded(attribution(), points=9), r"points differ \(8 and 9\)"),
        (attribution(controls=0), r"controls differ \('with controls' and 'without'\)"),
        (attribution([chat()]), "labels of 'question' differ"),
        (attribution().sel(layer=[1, 2]), "selected differ"),
    ],
)
def test_scores_that_do_not_compare_are_refused(other, message):
    with pytest.raises(ValueError, match=f"'a' and 'b': {message}"):
        compare_bars({"a": attribution(), "b": other})


def test_what_is_no_comparison():
    with pytest.raises(TypeError, match="pass a dict from texts to ScoreArrays"):
        compare_bars([effect(), effect()])
    with pytest.raises(ValueError, match="1 given"):
        compare_bars({"a": effect()})
    with pytest.raises(ValueError, match="no tokens"):
        compare_bars({"a": effect(), "b": effect()}, by="role")
    with pytest.raises(ValueError, match="layers by sets"):
        compare_bars({"a": patched_sets(), "b": patched_sets()})


# ---------------------------------------------------------------------------------------- notebooks

CELLS = {
    "last": ("plot(effect())", 1),
    "in the middle": ("axes = plot(effect())\n1", 1),
    "with a semicolon": ("plot(effect());", 1),
    "its figure": ("plot(effect()).figure", 1),
    "two in order": ("plot(effect(), title='first')\nplot(graft(), title='second')", 2),
    "changed after": ("axes = plot(effect())\naxes.set_title('changed')\nNone", 1),
    "again": ("axes", 1),
    "written": ("_ = plot(effect(), path='effect.png')", 0),
    "in axes": (
        "from matplotlib.figure import Figure\n_ = plot(effect(), ax=Figure().subplots())",
        0,
    ),
    "inline": ("%matplotlib inline\nimport matplotlib.pyplot as plt\nplot(effect())", 1),
    "inline, middle": ("axes = plot(effect())\n1", 1),
    "inline, figure": ("plot(effect()).figure", 1),
    "inline, axes": ("figure, ax = plt.subplots()\n_ = plot(effect(), ax=ax)", 1),
    "nothing left": (
        "from sublim_mech.results import notebook_figures\n"
        "hooks = get_ipython().events.callbacks['post_execute']\n"
        "assert notebook_figures._waiting == []\n"
        "assert notebook_figures._show_waiting not in hooks\n"
        "assert not plt.get_fignums()",
        0,
    ),
}


def test_a_notebook_shows_every_picture_once(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    first = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from synthetic import effect, graft\nfrom sublim_mech.results.plots import plot"
    )
    cells = [first, *(code for code, _ in CELLS.values())]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    where = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=300, resources=where).execute()
    shown = {}
    for name, cell in zip(CELLS, notebook.cells[1:], strict=True):
        data = [output["data"] for output in cell.outputs if "data" in output]
        shown[name] = sum("image/png" in one for one in data)
    assert shown == {name: count for name, (_, count) in CELLS.items()}
