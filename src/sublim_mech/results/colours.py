"""What colours mean, in figures and token pages alike.

Colours of categories are those of Okabe and Ito, which colour-blind readers tell apart (raw text
has one more); effects are on a blue-red scale centred on 0.
"""

from __future__ import annotations

import numpy as np

ROLE_COLOURS = {
    "bos": "#999999",
    "template": "#56B4E9",
    "system": "#E69F00",
    "user": "#009E73",
    "assistant": "#CC79A7",
    "text": "#7D6BD6",
    "answer": "#D55E00",
}
SHARING_COLOURS = {
    "prefix": "#000000",
    "aligned": "#0072B2",
    "seen": "#F0E442",
    "novel": "#BBBBBB",
    "answer": "#D55E00",  # as its role: never a class of prompt tokens
}
MEASURE_COLOURS = {"sufficiency": "#0072B2", "necessity": "#E69F00"}
COMPARED_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#000000",
    "#56B4E9",
    "#D55E00",
)
"""Of students beside each other, in their order."""
STUDENT_COLOUR = "#D55E00"
HEADLINE_COLOUR = "#000000"
OTHER_COLOUR = "#666666"
NOISE_COLOUR = "#D0D0D0"
WARNING_COLOUR = "#C00000"


def half_range(values: np.ndarray) -> float:
    """The half width of a scale centred on 0; 1 where nothing has an effect: a scale needs one."""
    return float(np.nanmax(np.abs(values), initial=0)) or 1.0
