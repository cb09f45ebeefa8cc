"""What a low-rank adapter keeps of a student: by module, and of what it does. No torch here."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..hints import counted
from ..stats import Interval
from .frames import Table
from .spectra import NotDecomposed, over


@dataclass(frozen=True)
class ExtractedModule:
    """What the adapter keeps of one module's weight change.

    Attributes:
        path: the module's path in the Hugging Face model.
        name: its full name.
        layer: its block.
        module: its name inside the block.
        rank: of its factors.
        norm: Frobenius norm of the student's change.
        error: Frobenius norm of what the factors leave out of it.
    """

    path: str
    name: str
    layer: int
    module: str
    rank: int
    norm: float
    error: float


@dataclass(frozen=True, eq=False)
class Extraction:
    """A low-rank adapter of a student and what it keeps; prints as a summary.

    Attributes:
        path: the adapter's folder.
        student: the student's name in its pair.
        rank: the largest rank of a module.
        modules: what it keeps, module by module.
        left_out: what it leaves out altogether, with its norm.
        kept: what it keeps of what the student does on prompts, as a share with its interval: of
            the effect on a metric by its name, of `KL to the base`; empty where no prompts were
            given.
        prompts: how many distinct prompts that is over.
        notes: what to know before trusting the numbers.
        limits: what limits `kept`: contexts, prompts, a metric at its ceiling.
    """

    path: Path
    student: str
    rank: int
    modules: tuple[ExtractedModule, ...]
    left_out: tuple[NotDecomposed, ...]
    kept: Mapping[str, Interval] = field(default_factory=dict)
    prompts: int = 0
    notes: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """How much of the squared norm of all of the student's changes it keeps."""
        kept = sum(one.norm**2 - one.error**2 for one in self.modules)
        rest = sum(left.norm**2 for left in self.left_out)
        return over(kept, sum(one.norm**2 for one in self.modules) + rest)

    def table(self) -> pd.DataFrame:
        """One row per changed module; those that are left out have rank 0.

        Returns:
            By full name: `layer`, `module`, `rank`, `norm` of the student's change, `error` (norm
            of what is left out of it), `share` of its squared norm that is kept, `left out` (why).
        """
        rows: list[dict[str, Any]] = []
        for one in self.modules:
            share = over(one.norm**2 - one.error**2, one.norm**2)
            rows.append(_row(one, one.rank, one.error) | {"share": share, "left out": ""})
        for left in self.left_out:
            rows.append(_row(left, 0, left.norm) | {"share": 0.0, "left out": left.why})
        return Table(rows).set_index("name")

    def to_json(self) -> dict[str, Any]:
        """Modules, what is left out and what is kept, for JSON."""
        return {
            "student": self.student,
            "rank": self.rank,
            "share": self.share,
            "modules": {one.name: {"rank": one.rank, "norm": one.norm, "error": one.error}
                        for one in self.modules},
            "left_out": {left.name: {"norm": left.norm, "why": left.why}
                         for left in self.left_out},
        }  # fmt: skip

    def __repr__(self) -> str:
        lines = [
            f"adapter of rank {self.rank} of {self.student}, {counted(len(self.modules), 'module')}"
            f": {self.path}",
            f"keeps {self.share:z.2%} of the squared norm of all weight changes",
            *self.notes,
        ]
        for name, share in self.kept.items():
            lines.append(f"keeps of the {name}: {_in_words(share)}, {self._over()}")
        lines += [f"  {limit}" for limit in self.limits]
        if self.left_out:
            lines.append("left out")
            kinds: dict[tuple[str, str], list[float]] = {}
            for left in self.left_out:
                kinds.setdefault((left.module, left.why), []).append(left.norm)
            for (module, why), norms in kinds.items():
                many = f" in {counted(len(norms), 'layer')}" if len(norms) > 1 else ""
                lines.append(f"  {module}{many}: {why}, norm {np.linalg.norm(norms):.3g}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    def _over(self) -> str:
        return f"mean over {counted(self.prompts, 'prompt')}"


def _row(one: ExtractedModule | NotDecomposed, rank: int, error: float) -> dict[str, Any]:
    place = {"name": one.name, "layer": one.layer, "module": one.module}
    return {**place, "rank": rank, "norm": one.norm, "error": error}


def _in_words(share: Interval) -> str:
    """A share with its interval; why there is none."""
    if np.isnan(share.mean):
        return "not told, for the student's own is inside its noise"
    if np.isnan(share.low):
        return f"{float(share.mean):z.1%} (one prompt: no interval)"
    return f"{float(share.mean):z.1%} [{float(share.low):z.1%}, {float(share.high):z.1%}]"
