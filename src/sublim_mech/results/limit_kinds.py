"""What a limit of a result is, and what of a result may be shown."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal[
    "context",
    "sum",
    "gated",
    "no controls",
    "unmoved",
    "unlearnt",
    "alike",
    "noise",
    "controls",
    "intervals",
    "places",
    "ceiling",
    "sign",
    "gap",
    "estimate",
    "answer",
]
"""In the order in which they are said."""


class Shown(NamedTuple):
    """What is shown of some scores.

    Attributes:
        total: of an attribution, effects of all tokens, the answer's too; else those of the
            prompt's tokens, and shares of them.
        shares: whether there are shares at all.
        classes: whether what training shares is shown, of tokens or of sets.
    """

    total: bool = False
    shares: bool = True
    classes: bool = True


SHARES = Shown()
TOTALS = Shown(total=True, shares=False, classes=False)
"""Effects alone: bars by layer, over steps."""
OF_LAYERS = Shown(total=True)
"""A table by layer: effects of all tokens, and shares of them."""


class Limit(NamedTuple):
    """One thing that limits the numbers of a result.

    Attributes:
        kind: what it is about.
        text: as tables, pages and notes say it.
        short: as pictures say it.
        models: whose it is, where `short` is of single models.
        alike: the same of several steps, whose numbers differ; `short` where it has none.
        why: what `text` says besides, which is the same at all steps.
    """

    kind: Kind
    text: str
    short: str
    models: tuple[str, ...] = ()
    alike: str = ""
    why: str = ""
