"""Completing an integral: nodes are added until the cells add up to the effect.

The integral of all slopes along a way from 0 to 1 is known beforehand: it is what the metric
changes by. How far a quadrature is from it is the *completeness gap*, and here it says where nodes
are needed.

1. A way begins as one panel with the first of the nested rules (`quadrature.NESTED`). Where that
   suffices, nothing is added, and the numbers are those of 8 Gauss-Legendre points.
2. Else the panel of largest gap takes the next rule, which keeps the nodes it has. After the last
   one, and where the last step has not halved its gap, it is halved itself: the slopes turn too
   sharply for it. One value of the metric in the middle tells what each half has to add up to.
3. It ends where the gaps of all panels together are within the tolerance, or, short of it, before
   the next step would exceed `CAP` nodes.

The tolerance is a share of the effect, and not below what the floating-point type can tell apart
(`floor`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ..engine.pair import ModelPair
from ..results.rounding import FLOOR, HALF_FLOOR
from .quadrature import NESTED

AUTO: Literal["auto"] = "auto"
"""As many points as it takes."""

Points = int | Literal["auto"]
"""Points of a quadrature."""

Reached = Mapping[str, np.ndarray]
"""What is told of integrals that were completed: `points` and `capped` (1 where they ended short of
the tolerance), of each."""

TOLERANCE = 0.01
"""Completeness gap over the effect at which no more nodes are added."""

CAP = 160
"""Most nodes of a way."""


def first_points(points: Points) -> int:
    """How many nodes there are before any is added."""
    return len(NESTED[0].nodes) if points == AUTO else points


def asked_of(points: Points) -> Any:
    """What decides the nodes, for the names of kept units."""
    return [AUTO, TOLERANCE, CAP, FLOOR, HALF_FLOOR] if points == AUTO else points


def floor(pair: ModelPair, *values: float) -> float:
    """What a difference of the metric is known to, by the coarsest type that it is computed in.

    Args:
        pair: the models.
        values: the metric at both ends.
    """
    types = [pair.dtype] if pair.compute is None else [pair.dtype, pair.compute]
    coarsest = max(torch.finfo(dtype).eps for dtype in types)
    roundings = FLOOR if coarsest <= torch.finfo(torch.float32).eps else HALF_FLOOR
    return roundings * coarsest * max(1.0, *map(abs, values))


@dataclass(eq=False)
class Panel:
    """A part of the way.

    Attributes:
        start, end: between 0 and 1.
        effect: what the metric changes by on it.
        level: the rule it has.
        before: its gap by the rule before; None where it has the first.
        sums: per rule, the integral by the nodes that are there; None where there are none yet.
    """

    start: float
    end: float
    effect: float
    level: int = 0
    before: float | None = None
    sums: list[Any] = field(default_factory=lambda: [None] * len(NESTED))

    @property
    def integral(self) -> Any:
        """By its own rule."""
        return self.sums[self.level]

    @property
    def added(self) -> np.ndarray:
        """The nodes that its rule adds to the one before."""
        return self.start + (self.end - self.start) * NESTED[self.level].nodes

    def add(self, node: int, slope: Any) -> None:
        """Take in the slopes at one of `added`, for this rule and all later ones."""
        for rule in range(self.level, len(NESTED)):
            weight = (self.end - self.start) * NESTED[self.level].weights[rule, node]
            held = 0.0 if self.sums[rule] is None else self.sums[rule]
            self.sums[rule] = held + weight * slope


class Asked(NamedTuple):
    """A node at which slopes are wanted.

    Attributes:
        node: between 0 and 1.
        take: hand the slopes over.
    """

    node: float
    take: Callable[[Any], None]


class Way:
    """One integral on its way to completeness: of a prompt, or of a layer of one.

    Args:
        effect: what the metric changes by from 0 to 1.
        start: the metric at 0.
        least: the rounding floor of the metric (`floor`).
        total: adds up the slopes, or their integral, of all cells.

    Attributes:
        points: nodes so far.
        capped: whether it ended short of its tolerance.
        done: whether it ended.
    """

    def __init__(
        self,
        effect: float,
        start: float,
        *,
        least: float,
        total: Callable[[Any], float],
    ) -> None:
        self.points = 0
        self.capped = self.done = False
        self._tolerance = max(TOLERANCE * abs(effect), least)
        self._start = start
        self._total = total
        self._panels = [Panel(0.0, 1.0, effect)]
        self._open = list(self._panels)
        self._middle: float | None = None

    @property
    def middle(self) -> float | None:
        """Where the value of the metric is wanted before the next nodes; None for nowhere."""
        return self._middle

    def split(self, value: float) -> None:
        """Halve the panel around `middle`, where the metric has this value."""
        panel = self._worst()
        assert self._middle is not None
        before = self._value_at(panel.start)
        halves = [
            Panel(panel.start, self._middle, value - before),
            Panel(self._middle, panel.end, before + panel.effect - value),
        ]
        place = self._panels.index(panel)
        self._panels[place : place + 1] = halves
        self._open, self._middle = halves, None

    def asked(self) -> list[Asked]:
        """The nodes at which slopes are wanted, in their order."""
        wanted = []
        for panel in self._open:
            for number, node in enumerate(panel.added):
                wanted.append(Asked(float(node), _taker(panel, number)))
        self.points += len(wanted)
        return wanted

    def settle(self) -> None:
        """Decide, once all slopes are there, what comes next."""
        if sum(map(self._gap, self._panels)) <= self._tolerance:
            self.done = True
            return
        panel = self._worst()
        gap = self._gap(panel)
        helps = panel.before is None or gap < panel.before / 2
        halved = panel.level + 1 == len(NESTED) or not helps
        cost = 2 * len(NESTED[0].nodes) if halved else len(NESTED[panel.level + 1].nodes)
        if self.points + cost > CAP:
            self.done = self.capped = True
        elif halved:
            self._middle = (panel.start + panel.end) / 2
            self._open = []
        else:
            panel.before = gap
            panel.level += 1
            self._open = [panel]

    @property
    def integral(self) -> Any:
        """Of the slopes over the whole way."""
        first, *others = self._panels
        return sum((panel.integral for panel in others), start=first.integral)

    def _gap(self, panel: Panel) -> float:
        gap = abs(panel.effect - self._total(panel.integral))
        return gap if np.isfinite(gap) else np.inf

    def _worst(self) -> Panel:
        return max(self._panels, key=self._gap)

    def _value_at(self, start: float) -> float:
        return self._start + sum(panel.effect for panel in self._panels if panel.start < start)


def _taker(panel: Panel, number: int) -> Callable[[Any], None]:
    return lambda slope: panel.add(number, slope)
