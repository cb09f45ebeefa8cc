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
}
SIZES = {"half of 9 x 4": (9, 4, 1, 2), "alone, 5 x 3": (5, 3, 1, 1), "quarter": (9, 7, 2, 2)}


def drawn(kind, size):
    """A picture in the first of some axes, and these."""
    make, by = MAKE[kind]
    width, height, down, across = SIZES[size]
    figure = Figure(figsize=(width, height), layout="constrained", dpi=100)
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
         ("sharing", "alone, 5 x 3")]  # fmt: skip
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
