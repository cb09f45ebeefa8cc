"""`read_singular`: what do the directions read as that a student writes into the residual stream?

The left singular vectors of the change of a module that writes to the residual stream (attention's
and the MLP's output projections, embeddings) are directions of that stream. They are read through
the base's final norm and unembedding (`unembedding.read_vectors`). A singular vector's sign means
nothing, so both ends of the vocabulary are looked at.
"""

from __future__ import annotations

import copy
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..arguments import checked
from ..engine.pair import ModelPair
from ..hints import counted
from ..models.names import Dimensions, Module, module_group
from ..models.placement import plain
from ..models.spectra import EXACT, FOUND
from ..prompts import Trait
from ..results.frames import Table
from ..results.words import shortened
from .unembedding import Reading, read_vectors
from .weights import changes, chosen, how_of, named

WRITERS = ("o", "out", "o_proj", "out_proj", "down_proj", "c_proj", "w2", "dense", "output_linear")
"""Last parts of the names of modules that write to the residual stream, where their output is as
wide.
"""

_BEHIND = {  # norms that a block puts behind its attention or MLP, before it adds them
    "attention": ("post_attention_layernorm", "post_self_attn_layernorm"),
    "mlp": ("post_feedforward_layernorm", "post_mlp_layernorm"),
}


@dataclass(frozen=True, eq=False)
class SingularReading:
    """What one left singular vector reads as.

    Attributes:
        name: the module's full name.
        layer: its block.
        module: its name inside the block.
        number: which direction, 1 for the largest singular value.
        value: its singular value.
        share: of the squared norm of the module's change.
        vector: `(d_model,)` in the residual stream, of length 1.
        reading: tokens and the trait's forms.
    """

    name: str
    layer: int
    module: str
    number: int
    value: float
    share: float
    vector: np.ndarray
    reading: Reading

    @property
    def nearest(self) -> pd.Series | None:
        """The form of the trait that stands nearest to either end; None where none was asked."""
        forms = self.reading.forms
        if forms is None or forms.empty:
            return None
        ends = forms[["rank", "rank from below"]].min(axis=1)
        return forms.loc[ends.idxmin()]


@dataclass(frozen=True, eq=False)
class SingularReadings:
    """What left singular vectors read as; prints as a summary.

    Attributes:
        student: the student's name in its pair.
        trait: the trait whose forms were looked up; empty without one.
        readings: module by module, direction by direction.
        random: of random directions, sorted: how near to either end the nearest form stands; empty
            without a trait.
        seed: of the random directions.
    """

    student: str
    trait: str
    readings: tuple[SingularReading, ...]
    random: np.ndarray
    seed: int = 0

    def __getitem__(self, place: int) -> SingularReading:
        return self.readings[place]

    @checked
    def table(self, tokens: int = 5) -> pd.DataFrame:
        """One row per direction.

        Args:
            tokens: how many of either end are listed.

        Returns:
            By full name and `direction`: `layer`, `module`, `value`, `share` of the change's
            squared norm, `one end` and `other end` (tokens that are no numbers; which end is which
            means nothing), `numbers` (mean score of number tokens, standard deviations); with a
            trait `form` (the one nearest to an end), `from the end` (its rank from there, 1 is the
            last) and `p` (share of random directions with a form as near, the observed one counted
            in).
        """
        rows = []
        for one in self.readings:
            ends = one.reading.tokens
            row: dict[str, Any] = {
                "name": one.name,
                "direction": one.number,
                "layer": one.layer,
                "module": one.module,
                "value": one.value,
                "share": one.share,
                "one end": _listed(ends["top"], tokens),
                "other end": _listed(ends["bottom"], tokens),
                "numbers": one.reading.numbers[0],
            }
            nearest = one.nearest
            if nearest is not None:
                rank = _from_end(nearest)
                reached = int((self.random <= rank).sum())
                row["form"] = nearest["form"]
                row["from the end"] = rank
                row["p"] = (reached + 1) / (len(self.random) + 1)
            rows.append(row)
        return Table(rows).set_index(["name", "direction"])

    def __repr__(self) -> str:
        lines = [
            f"what {counted(len(self.readings), 'direction')} read as that {self.student} writes "
            "into the residual stream (left singular vectors of its weight changes)",
            "the sign of a singular vector means nothing: which end is which is arbitrary",
        ]
        table = self.table()
        if self.trait:
            lines.append(
                f"forms of {self.trait}: rank of a form's first token from the nearer end, which "
                "other words may begin with; p against "
                f"{counted(len(self.random), 'random direction')} (seed {self.seed}), of each "
                f"direction by itself: {int((table['p'] < 0.05).sum())} of {len(table)} below "
                f"0.05, by chance about {0.05 * len(table):.2g}"
            )
            table = table.sort_values("p", kind="stable")
        shown = table.head(10).drop(columns=["layer", "module"])
        lines.append(shown.to_string(float_format="{:z.3g}".format))
        if len(table) > 10:
            lines.append(f"and {len(table) - 10} more: table()")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


@checked
def read_singular(
    pair: ModelPair,
    trait: Trait | None = None,
    *,
    model: str = "student",
    modules: str | Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    directions: int = 1,
    k: int = 10,
    draws: int = 200,
    exact: int = EXACT,
    seed: int = 0,
    progress: bool = True,
) -> SingularReadings:
    """What do the directions read as that a student writes into the residual stream?

    The first left singular vectors of each writing module's weight change, through the base's final
    norm and unembedding. The norm is linearised about the vector itself: its gains are applied (a
    LayerNorm also takes the mean out); its scale, which depends on the activation, is left out.
    Gains of a norm that a block puts behind its attention or MLP are applied first.

    Args:
        pair: base, student, controls.
        trait: whose forms are looked up.
        model: whose weights, one of `pair.students`, or a student's own name.
        modules: groups, names or full names of modules, as `masks.modules` takes them; all that
            write to the residual stream when not given.
        layers: of which blocks; all when not given.
        directions: how many of each module.
        k: tokens listed at either end.
        draws: random directions that the trait's ranks are held against.
        exact: largest smaller side of a replaced matrix that is decomposed exactly (`spectrum`).
        seed: of the random directions and of randomised SVD.
        progress: show a progress bar.

    Returns:
        Readings by module and direction, with their table.

    Raises:
        ValueError: no student, module or layer of this name; a student that changes nothing that
            writes to the residual stream; directions or draws below 1; see `read_vectors`.

    Source: the logit lens (nostalgebraist 2020) of a direction instead of an activation.

    Example:
        >>> read = sm.instruments.read_singular(pair, trait, layers=[1], progress=False)
        >>> read.table()["module"].tolist()
        ['attn.o', 'mlp.out']
    """
    if directions < 1:
        raise ValueError(f"directions={directions}: how many are read must be at least 1.")
    if draws < 1:
        raise ValueError(f"draws={draws}: a null needs at least 1.")
    model, student = named(pair, model)
    width = Dimensions.of(pair.model.config).width
    places = [m for m in chosen(pair, student, modules, layers) if _writes(pair, m, width)]
    if not places:
        raise ValueError(
            f"student={student.name!r} changes no matrix{' there' if modules or layers else ''} "
            "that writes to the residual stream; spectrum(pair).table() lists what it changes."
        )
    how, depth, title = how_of(exact, max(directions, FOUND), seed), pair.sites.n_layers, "read"
    found: list[tuple[Module, int, float, float, Tensor]] = []
    for module, done in changes(pair.model, student, places, how, title=title, progress=progress):
        for number in range(min(directions, done.known)):
            value = float(done.basis.s[number])
            vector = _behind(pair, module, done.basis.u[:, number])
            found.append((module, number + 1, value, (value / done.norm) ** 2, vector))
    read = read_vectors(pair, [vector for *_, vector in found], trait, k=k)
    readings = tuple(
        SingularReading(
            module.full_name(depth), module.layer, module.name, number, value, share,
            vector.numpy(), reading,
        )
        for (module, number, value, share, vector), reading in zip(found, read, strict=True)
    )  # fmt: skip
    random = np.array(sorted(_random_ends(pair, trait, width, draws, seed)))
    return SingularReadings(model, "" if trait is None else trait.name, readings, random, seed)


def _writes(pair: ModelPair, module: Module, width: int) -> bool:
    """Whether a module's output is added to the residual stream."""
    of: Any = pair.model.get_submodule(module.path)
    if module_group(module) == "embeddings":
        return isinstance(of, torch.nn.Embedding) and of.weight.shape[1] == width
    inside = 0 <= module.layer < pair.sites.n_layers
    if not inside or module.name.rpartition(".")[2] not in WRITERS:
        return False
    return width in (getattr(of, "out_features", None), getattr(of, "nf", None))


@torch.no_grad()
def _behind(pair: ModelPair, module: Module, vector: Tensor) -> Tensor:
    """A direction behind the norm that its block puts behind attention or MLP, of length 1; as it
    is in other blocks.
    """
    block = pair.sites.blocks[module.layer] if 0 <= module.layer < pair.sites.n_layers else ""
    inside = dict(plain(pair.model).get_submodule(block).named_children()) if block else {}
    if any(name in inside for name in _BEHIND["mlp"]):  # else that name is of a norm before
        for name in _BEHIND.get(module_group(module) or "", ()):
            if name in inside:
                norm = copy.deepcopy(inside[name]).double().cpu()
                far = 1e3 * vector * len(vector) ** 0.5
                vector = norm(far[None])[0] - norm(torch.zeros_like(far)[None])[0]
    return vector / vector.norm()


def _random_ends(
    pair: ModelPair, trait: Trait | None, width: int, draws: int, seed: int
) -> Iterator[int]:
    """How near to either end the nearest form stands in random directions."""
    if trait is None:
        return
    rng = np.random.default_rng(seed)
    for start in range(0, draws, 50):
        some = rng.standard_normal((min(50, draws - start), width))
        for reading in read_vectors(pair, list(some), trait, k=1):
            assert reading.forms is not None
            yield min(map(_from_end, (row for _, row in reading.forms.iterrows())))


def _from_end(form: pd.Series) -> int:
    return int(min(form["rank"], form["rank from below"]))


def _listed(tokens: pd.DataFrame, most: int) -> str:
    return " ".join(shortened(repr(token), 16) for token in tokens["token"].head(most))
