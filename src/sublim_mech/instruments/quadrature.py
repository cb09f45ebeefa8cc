"""Gauss-Legendre quadrature on [0, 1]: beats the midpoint rule by orders of magnitude at equal
points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Quadrature(NamedTuple):
    """Nodes on [0, 1] and their weights, which sum to 1."""

    nodes: np.ndarray
    weights: np.ndarray


def gauss_legendre(points: int) -> Quadrature:
    """The rule of so many points."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return Quadrature((nodes + 1) / 2, weights / 2)
