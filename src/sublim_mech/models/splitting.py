"""Students in parts: by singular band, by attention head, or several students as one.

What is no matrix or is not decomposed (norms, biases, embeddings, mixtures of experts, mixers with
state, whatever a student replaces otherwise) is the part `rest`, so that the parts of a student
always add up to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..hints import counted
from .deltas import Delta, LowRank
from .names import REST, TAIL, PartName
from .parts import Banded, Columns, Parts, Rows, Several
from .placement import device_of, plain
from .singular import bias_change, is_matrix
from .sites import Sites, holds_transposed
from .spectra import Decomposed, How, decompose
from .students import Student, invocation_of
from .watching import Watches

EXPANDING = "kv_b_proj"
"""A projection that computes earlier slots again, each under the one gate it had (`latents`)."""


# -------------------------------------------------------------------------------------------- bands


def split_bands(
    student: Student, model: nn.Module, widths: Sequence[int], how: How | None = None
) -> Student:
    """A student whose matrices are split into bands of singular directions.

    Args:
        student: a student that is not split.
        model: the base's model.
        widths: directions of each band, from the largest singular value on. What a matrix has
            beyond them is one more band, `tail`; one of lower rank has fewer.
        how: up to which size a replaced matrix is decomposed exactly, and the seed of randomised
            SVD above it, whose bands a note tells; `How()` when not given.

    Raises:
        ValueError: widths below 1; more directions than any of its matrices has; no matrix at all.
    """
    _check_whole(student)
    if not widths or min(widths) < 1:
        raise ValueError(f"bands={list(widths)}: give at least one band of at least 1 direction.")
    values, wanted, most = plain(model), sum(widths), 0
    how = How() if how is None else how
    how = replace(how, found=max(how.found, wanted))
    parts: dict[str, Parts] = {}
    sketched: list[float] = []
    for path, delta in student.deltas.items():
        module = values.get_submodule(path)
        if not is_matrix(delta, module) or path.rpartition(".")[2] == EXPANDING:
            continue
        done = decompose(delta, module, how)
        if done.method == "randomised":
            sketched.append(done.residual / (done.norm or 1.0))
        found, rank = _banded(delta, done, (module, model.get_submodule(path)), widths)
        parts[path], most = found, max(most, rank)
    if not parts:
        raise ValueError(
            f"bands: student={student.name!r} changes no matrix, so there is nothing to split."
        )
    if wanted > most:
        asked = wanted if set(widths) == {1} else list(widths)  # bands=3 is three of one
        raise ValueError(
            f"bands={asked}: {counted(wanted, 'direction')} are beyond the rank: the changes of "
            f"student={student.name!r} have at most {most}; ask for so many or fewer."
        )
    split = replace(student, parts=parts, split_by="band", widths=tuple(widths))
    if not sketched:
        return split
    note = (
        f"bands of {len(sketched)} of {len(parts)} matrices by randomised SVD (smaller side above "
        f"{how.exact}, seed {how.seed}): what its {how.found} directions leave out, up to "
        f"{max(sketched):z.1%} of a change's norm, is in {TAIL}"
    )
    return replace(split, sketch=(how.exact, how.found, how.seed), notes=(*split.notes, note))


def _banded(
    delta: Delta, done: Decomposed, modules: tuple[nn.Module, nn.Module], widths: Sequence[int]
) -> tuple[Banded, int]:
    """A matrix in bands, and its rank at most.

    Args:
        delta: the difference.
        done: its singular basis, of which those directions are known that `widths` ask for.
        modules: the base's module with its weights in memory, and the one that computes.
        widths: directions of each band.
    """
    module, computing = modules
    u, s, v = done.basis
    if done.method == "randomised":  # what it has not found is there all the same
        rank = min(len(u), v.shape[1])
    else:  # directions that are rounding of weights are none
        rank = len(s) if isinstance(delta, LowRank) else max(done.known, 1)
    of_direction, names = list[int](), list[PartName]()
    for number, width in enumerate(widths):
        inside = min(width, rank - len(of_direction))
        if inside > 0:
            of_direction += [len(names)] * inside
            names.append(PartName(band=number))
    leading = len(of_direction)
    if leading < rank:
        names.append(PartName(band=TAIL))
    last = None
    bias = bias_change(delta, module)
    if isinstance(delta, LowRank):  # all of it is in its directions
        of_direction += [len(names) - 1] * (rank - leading)
        leading = rank
        device, dtype = delta.a.device, delta.a.dtype
    else:  # the last part is what the module's own difference has beside the others
        last = len(names) - 1
        device, dtype = device_of(computing), next(module.parameters()).dtype
    if bias is not None:
        names.append(PartName(band=REST))
    dtype = torch.promote_types(dtype, torch.float32)
    a = v[:leading].to(device=device, dtype=dtype)
    b = (u * s)[:, :leading].to(device=device, dtype=dtype)
    numbers = torch.tensor(of_direction, device=device)
    return Banded(tuple(names), delta, a.contiguous(), b.contiguous(), numbers, last, bias), rank


# -------------------------------------------------------------------------------------------- heads


class _Cut(NamedTuple):
    """How a projection belongs to heads.

    Attributes:
        side: `out` where its outputs do, `in` where its inputs do.
        names: the heads, and `rest` where it holds what is no head's.
        of: per output or input, which of the names.
    """

    side: str
    names: tuple[PartName, ...]
    of: Tensor


def split_heads(student: Student, model: nn.Module, sites: Sites) -> Student:
    """A student whose attention is split by head: rows of the query, key and value projections,
    columns of the output projection.

    Keys and values that several heads share belong to none of them: they are parts of their own,
    `kv 0` for those of the first group.

    Args:
        student: a student that is not split.
        model: the base's model.
        sites: its map.

    Raises:
        ValueError: heads that are not known in this architecture; a student that changes no
            projection of a head.
    """
    _check_whole(student)
    values = plain(model)
    cuts = _cuts(model, sites)
    parts: dict[str, Parts] = {}
    for path, delta in student.deltas.items():
        module = values.get_submodule(path)
        if path not in cuts or not is_matrix(delta, module):
            continue
        side, names, of = cuts[path]
        bias = bias_change(delta, module)
        if bias is not None and names[-1].head != REST:
            names = (*names, PartName(head=REST))
        if side == "out":
            parts[path] = Rows(names, delta, of, bias)
        else:
            parts[path] = Columns(names, delta, of, model.get_submodule(path), bias)
    if not parts:
        raise ValueError(
            f"split: student={student.name!r} changes no projection of an attention head, so there "
            "is nothing to split by head."
        )
    return replace(student, parts=parts, split_by="head")


def _cuts(model: nn.Module, sites: Sites) -> dict[str, _Cut]:
    """The projections of heads by path."""
    if "z" not in sites.sites or "q" not in sites.sites:
        raise ValueError(
            f"split: which rows of the attention of {type(model).__name__} are whose head's is not "
            "known; split by band, or graft whole modules (masks.modules('attention'))."
        )
    found: dict[str, _Cut] = {}
    for layer, root in enumerate(sites.blocks):
        if layer not in sites.layers_of("z"):
            continue
        z = sites.sites["z"]
        path = f"{root}.{z.path}"
        _, width = _shape(model.get_submodule(path))
        each = width // z.heads
        names = tuple(PartName(head=head) for head in range(z.heads))
        found[path] = _Cut("in", names, torch.arange(width) // each)
        numbers: dict[str, dict[PartName, Tensor]] = {}
        for name in "qkv":
            if name not in sites.sites or layer not in sites.layers_of(name):
                continue
            site = sites.sites[name]
            path = f"{root}.{site.path}"
            rows, _ = _shape(model.get_submodule(path))
            own = torch.arange(rows) if site.columns is None else site.columns.cpu()
            heads = z.heads if name == "q" else len(own) // each
            if len(own) % heads or z.heads % heads or (name != "q" and len(own) % each):
                continue  # what is no whole number of heads is not decomposed
            shared = heads != z.heads
            here = numbers.setdefault(path, {})
            for head, some in enumerate(own.reshape(heads, -1)):
                part = PartName(head=f"kv {head}" if shared else head)
                here[part] = torch.cat([here[part], some]) if part in here else some
        for path, of_parts in numbers.items():
            rows, _ = _shape(model.get_submodule(path))
            of = torch.full((rows,), len(of_parts))
            for number, some in enumerate(of_parts.values()):
                of[some] = number
            left = bool((of == len(of_parts)).any())
            found[path] = _Cut("out", (*of_parts, *([PartName(head=REST)] * left)), of)
    return found


def _shape(module: Any) -> tuple[int, int]:
    """Outputs and inputs of a projection."""
    if hasattr(module, "out_features"):
        return int(module.out_features), int(module.in_features)
    out, inputs = module.weight.shape[::-1] if holds_transposed(module) else module.weight.shape
    return int(out), int(inputs)


# ----------------------------------------------------------------------------------------- students


def join(students: Sequence[Student]) -> Student:
    """Several students of one base as one, whose difference is the sum of theirs.

    Its parts are the students, by name. There is one base and no copy of a weight; the sum has no
    model of its own (`Student.model` is the first one's).

    Args:
        students: at least two, which are not split.

    Raises:
        ValueError: fewer; students of different bases; equal names; an aLoRA; two students that
            change a projection of compressed keys and values.
    """
    names = [student.name for student in students]
    if len(students) < 2:
        raise ValueError(f"split: one student ({', '.join(names)}) is none of several; give two.")
    for student in students:
        _check_whole(student)
    if len(set(names)) < len(names):
        raise ValueError(
            f"split: students have the same name twice: {names}; load them with "
            "load_student(name=...)."
        )
    bases = {student.base_hash for student in students if student.base_hash}
    if len(bases) > 1:
        raise ValueError(
            f"split: students {', '.join(names)} were loaded with different bases (hashes "
            f"{', '.join(sorted(base[:12] for base in bases))}); load them with one."
        )
    parts: dict[str, Parts] = {}
    deltas: dict[str, Any] = {}
    for path in dict.fromkeys(path for student in students for path in student.deltas):
        own = [student for student in students if path in student.deltas]
        if path.rpartition(".")[2] == EXPANDING and len(own) > 1:
            raise ValueError(
                f"split: {' and '.join(one.name for one in own)} change {path}, which computes "
                "compressed keys and values again under the one gate that each token had; take "
                "students of which one alone changes it."
            )
        labels = tuple(PartName(student=one.name) for one in own)
        deltas[path] = parts[path] = Several(labels, tuple(one.deltas[path] for one in own))
    gated = [one.name for one in students if one.gates is not None]
    if gated:
        raise ValueError(
            f"split: {', '.join(gated)} was loaded with the gates of its training; load it without "
            "(gates=None), which is another model, one that works everywhere, and choose its cells "
            "by the mask."
        )
    waiting = [one.name for one in students if invocation_of(one.deltas)]
    if waiting:
        raise ValueError(
            f"split: {', '.join(waiting)} is an aLoRA, which waits for tokens of its own; several "
            "students are joined where all of them act everywhere."
        )
    watches = [student.watch for student in students if student.watch is not None]
    digest = hashlib.sha256("".join(f"{one.name} {one.hash}\n" for one in students).encode())
    return Student(
        name=" + ".join(names),
        kind=_kind(students),
        deltas=_in_order(deltas, students),
        model=students[0].model,
        manifest=None,
        hash=digest.hexdigest(),
        base_hash=next(iter(bases), ""),
        watch=Watches(watches) if watches else None,
        split_by="student",
        parts=parts,
    )


def _kind(students: Sequence[Student]) -> str:
    kinds = {student.kind for student in students}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _in_order(deltas: Mapping[str, Any], students: Sequence[Student]) -> dict[str, Any]:
    """Differences in the order in which the students have them."""
    return {path: deltas[path] for student in students for path in student.deltas}


def _check_whole(student: Student) -> None:
    if student.split_by:
        raise ValueError(
            f"split: student={student.name!r} is split by {student.split_by} already; split the "
            "pair that load_pair gave."
        )
