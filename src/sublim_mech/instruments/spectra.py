"""`spectrum`: in how many directions did each module's weights change?"""

from __future__ import annotations

from torch import nn

from ..arguments import checked
from ..engine.pair import ModelPair
from ..models.names import Module
from ..models.placement import plain
from ..models.sites import Sites
from ..models.spectra import EXACT, FOUND, How, left_over, tied_to, weight_norm
from ..models.students import Student
from ..results.spectra import ModuleSpectrum, NotDecomposed, Spectrum
from .weights import changes, how_of, named, with_basis

FUSED = {"qkv": "queries, keys and values", "query_key_value": "queries, keys and values",
         "gate_up_proj": "gate and up projection"}  # fmt: skip
"""Last parts of the names of fused projections, and what they hold as one matrix."""


@checked
def spectrum(
    pair: ModelPair,
    *,
    model: str = "student",
    exact: int = EXACT,
    values: int = FOUND,
    seed: int = 0,
    progress: bool = True,
) -> Spectrum:
    """In how many directions did each module's weights change? From the weights alone, no prompts.

    The singular values of each module's weight change: of an adapter's low-rank pair from thin QR
    of its factors, the change itself never formed; of a matrix that is replaced (full fine-tunes;
    DoRA and other adapters by their merged difference) exactly up to a size, and by randomised SVD
    (arXiv 0909.4061) above it, with what it leaves out measured. Norms, biases, blocks of experts
    and mixers with state are listed with their norm.

    The rank counts singular values above rounding. Of a difference of weights that is rounding of
    the weights, in all directions: eps times the largest norm of a row and of a column of the
    weight, eps that of fp32 (of fp64 weights theirs; of what PiSSA and its like left of a
    base in half precision that type's).

    Args:
        pair: base, student, controls.
        model: whose weights, one of `pair.students`, or a student's own name.
        exact: largest smaller side of a replaced matrix that is decomposed exactly.
        values: how many singular values of a larger one are found.
        seed: of randomised SVD.
        progress: show a progress bar.

    Returns:
        Singular values by module, in the units of the weights, with their table and map.

    Raises:
        ValueError: no student of this name, or several; `exact` or `values` below 1; weights that
            were changed in place since they were loaded.

    Example:
        >>> found = sm.instruments.spectrum(pair, progress=False)
        >>> print(*found.table().loc["blocks.1.mlp.out", ["out", "in", "method", "rank"]])
        32 48 factors 4.0
    """
    model, student = named(pair, model)
    how = how_of(exact, values, seed)
    return Spectrum(
        student=model,
        kind=student.kind,
        hash=student.hash,
        n_layers=pair.sites.n_layers,
        modules=spectra_of((pair.model, pair.sites), student, how, progress=progress),
        rest=tuple(not_decomposed(pair, student)),
        seed=seed,
        notes=student.notes,
    )


def spectra_of(
    base: tuple[nn.Module, Sites], student: Student, how: How, *, progress: bool
) -> tuple[ModuleSpectrum, ...]:
    """The singular values of a student's changes, module by module.

    Args:
        base: the base's model and its map.
        student: whose changes.
        how: how they are decomposed.
        progress: show a progress bar.
    """
    (model, sites), found = base, []
    weights, like = plain(model), next(model.parameters()).dtype
    every = with_basis(base, student)
    for module, done in changes(model, student, every, how, title="spectrum", progress=progress):
        found.append(
            ModuleSpectrum(
                path=module.path,
                name=module.full_name(sites.n_layers),
                layer=module.layer,
                module=module.name,
                shape=(done.basis.u.shape[0], done.basis.v.shape[1]),
                method=done.method,
                values=done.basis.s.numpy(),
                norm=done.norm,
                base=weight_norm(weights.get_submodule(module.path), like),
                residual=done.residual,
                floor=done.floor,
                note=_fused(module),
            )
        )
    return tuple(found)


def not_decomposed(pair: ModelPair, student: Student) -> list[NotDecomposed]:
    """What of a student's changes has no singular values, tied weights among it."""
    known, depth = pair.sites.modules, pair.sites.n_layers
    found = []
    for left in left_over(pair.model, student.deltas):
        module, tail = known[left.module], left.path.removeprefix(left.module)
        name, inside = module.full_name(depth) + tail, module.name + tail
        found.append(
            NotDecomposed(left.path, name, module.layer, inside, left.norm, left.base, left.why)
        )
    for path, other in tied_to(pair.model, student.deltas).items():
        module = known[path]
        why = f"tied to {known[other].full_name(depth)}: the same weights, counted there"
        found.append(
            NotDecomposed(path, module.full_name(depth), module.layer, module.name, 0.0, 0.0, why)
        )
    return found


def _fused(module: Module) -> str:
    """That a projection holds several as one matrix; empty for others."""
    held = FUSED.get(module.name.rpartition(".")[2])
    return f"fused: {held} as one matrix" if held else ""
