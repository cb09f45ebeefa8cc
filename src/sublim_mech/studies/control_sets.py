"""Sets of controls in tables of a study: of parts of another focus another mean is taken off.

What a set is, and how it is told: `stats.control_sets`.
"""

from __future__ import annotations

import pandas as pd

from ..stats.control_sets import FOCUS, addresses, sets_of

__all__ = ["FOCUS", "focus_of", "in_order"]


def in_order(controls: pd.Series) -> pd.Series:
    """Addresses of controls, the same text for the same ones; empty for none."""
    return controls.map(addresses)


def focus_of(rows: pd.DataFrame) -> list[str]:
    """Per row the traits whose students are compared with each other, in words.

    Args:
        rows: with `trait`; `student` and `controls` as studies write them, without which nothing is
            known.
    """
    needed = [name for name in ("trait", "student", "controls") if name in rows]
    return sets_of(rows[needed].to_dict("records"))
