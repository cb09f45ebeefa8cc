"""In axes of the caller's that are small, names stand apart: roles, tokens, rows, scales."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import synthetic
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sublim_mech.results.plots import plot

TEXT = [*((token, "text", 0, "novel") for token in ("The", " owl", " is", " my")),
        (" owl", "answer", 0, "answer")]  # fmt: skip
FEW = [synthetic.chat(synthetic.QUESTION[:2])[18:]] * 3
MAKE = {
    "raw text": (lambda: synthetic.attribution([TEXT] * 3), None),
    "few tokens": (lambda: synthetic.attribution(FEW), None),
    "chat": (synthetic.attribution, None),
    "roles": (synthetic.attribution, "role"),
    "sharing": (synthetic.attribution, "sharing"),
    "roles of raw text": (lambda: synthetic.attribution([TEXT] * 3), "role"),
    "scan": (synthetic.scan, None),
    "scan of a long metric": (
        lambda: synthetic.recorded(synthetic.scan([TEXT] * 3), metric=f"log P({'owl ' * 20})"),
        None,
    ),
    "dose": (synthetic.dose, None),
    "directions": (synthetic.direction, None),
    "layers": (synthetic.attribution, "layer"),
    "grafts": (synthetic.graft, None),
    "totals": (synthetic.effect, None),
    "steps": (lambda: synthetic.stepped(synthetic.graft), None),
    "steps of tokens": (lambda: synthetic.stepped(synthetic.attribution), None),
}
SIZES = {"half of 9 x 4": (9, 4, 1, 2), "alone, 5 x 3": (5, 3, 1, 1), "quarter": (9, 7, 2, 2)}


def drawn(kind, size, layout="constrained"):
    """A picture in the first of some axes, and these."""
    make, by = MAKE[kind]
    width, height, down, across = SIZES[size]
    figure = Figure(figsize=(width, height), layout=layout, dpi=100)
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(down, across)).ravel()
    plot(make(), ax=axes[0], by=by)
    figure.canvas.draw()
    return axes[0]


def names(axes):
    """Visible texts of axes and what is in them, with their boxes."""
    texts = []
    for one in [axes, *axes.child_axes]:
        texts += [*one.texts, one.title, one._left_title]
        if one.axison:
            texts += [one.xaxis.label, one.yaxis.label]
            for axis, limits in ((one.xaxis, one.get_xlim()), (one.yaxis, one.get_ylim())):
                low, high = sorted(limits)
                for tick in axis.get_major_ticks():
                    if low <= tick.get_loc() <= high:
                        texts += [tick.label1, tick.label2]
        if one.get_legend():
            texts += [*one.get_legend().get_texts(), one.get_legend().get_title()]
    seen = [text for text in texts if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in seen]


FIRST = [("few tokens", "half of 9 x 4"), ("roles", "half of 9 x 4"), ("scan", "quarter"),
         ("sharing", "alone, 5 x 3"), ("dose", "quarter"), ("layers", "alone, 5 x 3")]  # fmt: skip
REST = [one for one in product(MAKE, SIZES) if one not in FIRST]


@pytest.mark.parametrize(
    ("kind", "size"),
    [*FIRST, *(pytest.param(*one, marks=pytest.mark.science) for one in REST)],
)
def test_no_name_lies_on_another(kind, size):
    found = names(drawn(kind, size))
    for (one, box), (other, beside) in combinations(found, 2):
        across = min(box.x1, beside.x1) - max(box.x0, beside.x0)
        down = min(box.y1, beside.y1) - max(box.y0, beside.y0)
        assert across < 2 or down < 2, (one, other)


def test_small_axes_name_all_that_large_ones_do():
    for kind in ("roles", "few tokens"):
        small = "\n".join(text for text, _ in names(drawn(kind, "half of 9 x 4")))
        for role in ("template", "user", "answer"):
            assert role in small
        if kind == "roles":  # never an effect without its share of the tokens
            assert "13 tokens, 37%" in small


WHOLE = [("scan", "half of 9 x 4"), ("layers", "alone, 5 x 3"), ("totals", "quarter")]


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *WHOLE,
        *(
            pytest.param(*one, marks=pytest.mark.science)
            for one in product(MAKE, SIZES)
            if one not in WHOLE
        ),
    ],
)
@pytest.mark.parametrize("layout", ["constrained", None])
def test_words_are_inside_the_figure_and_no_scale_is_cut(kind, size, layout):
    axes = drawn(kind, size, layout)
    figure = axes.figure.bbox
    for text, box in names(axes):
        lacks = figure.x0 - box.x0, figure.y0 - box.y0, box.x1 - figure.x1, box.y1 - figure.y1
        assert max(lacks) < 3, (text, lacks)
    for one in [axes, *axes.child_axes]:
        assert not one.get_ylabel().endswith("…")


def test_axes_without_a_layout_shrink_within_their_place_and_others_stay():
    figure = Figure(figsize=(9, 4), dpi=100)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    before = [one.get_position() for one in (left, right)]
    plot(synthetic.scan(), ax=right)
    assert left.get_position().bounds == before[0].bounds
    now = right.get_position()
    assert before[1].x0 <= now.x0 < now.x1 <= before[1].x1
    assert before[1].y0 <= now.y0 < now.y1 <= before[1].y1
    assert right.get_tightbbox().x0 >= 450 - 1
    # where the caller put them they stay
    placed = Figure(figsize=(4, 3)).add_axes((0.1, 0.1, 0.8, 0.8))
    FigureCanvasAgg(placed.figure)
    plot(synthetic.scan(), ax=placed)
    assert placed.get_position().bounds == pytest.approx((0.1, 0.1, 0.8, 0.8))
