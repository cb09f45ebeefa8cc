"""Quadrature on [0, 1]: Gauss-Legendre, and the nested rules that grow out of it.

1. `gauss_legendre`: beats the midpoint rule by orders of magnitude at equal points.
2. `NESTED`: the 8 points of Gauss, the 17 of their Kronrod extension, the 35 of its Patterson
   extension (Patterson 1968, doi:10.1090/S0025-5718-68-99866-9). Every rule has the nodes of the
   one before it, so what was computed there serves again; polynomials up to degree 15, 25 and 53
   are integrated exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre


class Quadrature(NamedTuple):
    """Nodes on [0, 1] and their weights, which sum to 1."""

    nodes: np.ndarray
    weights: np.ndarray


def gauss_legendre(points: int) -> Quadrature:
    """The rule of so many points."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return Quadrature((nodes + 1) / 2, weights / 2)


class Level(NamedTuple):
    """What a rule adds to the one before it.

    Attributes:
        nodes: `(node,)`, those that the rule before does not have.
        weights: `(rule, node)`, their weights in this rule and in all later ones; 0 in earlier
            ones, which do not have them.
    """

    nodes: np.ndarray
    weights: np.ndarray


_FIRST = 8
"""Points of the first rule."""

# on [-1, 1], the nodes from 0 on; those below 0 mirror them
_ADDED = (
    (
        0.0,
        0.36070109792813195719,
        0.67235407094515867716,
        0.89412090684745642195,
        0.99337987588171615594,
    ),
    (
        0.092096130813286646653,
        0.27323554876708193203,
        0.44504593712866709858,
        0.60149612621419673838,
        0.73758307493069112192,
        0.84904456658609010242,
        0.93133765648328671348,
        0.98085645545605429027,
        0.99898196546797340441,
    ),
)


def _nested() -> tuple[Level, ...]:
    first = gauss_legendre(_FIRST)
    added = [first.nodes]
    for above in _ADDED:
        both = sorted({*(-node for node in above), *above})
        added.append((np.array(both) + 1) / 2)
    weights = []
    for rule in range(len(added)):
        nodes = np.concatenate(added[: rule + 1])
        of_rule = first.weights if rule == 0 else _interpolatory(nodes)
        weights.append(np.concatenate([of_rule, np.zeros(sum(map(len, added[rule + 1 :])))]))
    starts = np.cumsum([0, *map(len, added)])
    return tuple(
        Level(nodes, np.stack(weights)[:, start : start + len(nodes)])
        for nodes, start in zip(added, starts, strict=False)
    )


def _interpolatory(nodes: np.ndarray) -> np.ndarray:
    """Weights that integrate the polynomial through all nodes: of the Legendre polynomials all but
    the first have integral 0.
    """
    values = legendre.legvander(2 * nodes - 1, len(nodes) - 1)
    integrals = np.zeros(len(nodes))
    integrals[0] = 1
    return np.linalg.solve(values.T, integrals)


NESTED = _nested()
"""The nested rules, of 8, 17 and 35 points."""
