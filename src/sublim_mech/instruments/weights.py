"""A student's weight changes, module by module, as the instruments on weights share them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn
from tqdm.auto import tqdm

from ..engine.pair import ModelPair
from ..models.names import Module, modules_named
from ..models.placement import plain
from ..models.sites import Sites
from ..models.spectra import Decomposed, How, decompose, has_basis, tied_to
from ..models.students import Student


class Change(NamedTuple):
    """One module's weight change.

    Attributes:
        module: where it is.
        done: its singular basis.
    """

    module: Module
    done: Decomposed


def named(pair: ModelPair, model: str) -> tuple[str, Student]:
    """(what the pair calls it, one of its students), whose weights and whose base's are those that
    were loaded.

    Raises:
        ValueError: no student of this name, or several; weights that were changed in place.
    """
    key = pair.key_of(model)
    student = pair.students[key]
    pair.base.check_unchanged()
    student.check_unchanged()
    return key, student


def how_of(exact: int, values: int, seed: int) -> How:
    """How changes are decomposed.

    Raises:
        ValueError: a size below 1.
    """
    if values < 1:
        raise ValueError(f"values={values}: how many are found must be at least 1.")
    return How(exact, values, seed)


def chosen(
    pair: ModelPair,
    student: Student,
    modules: str | Sequence[str] | None,
    layers: Sequence[int] | None = None,
) -> list[Module]:
    """The modules of a student's changes that have a singular basis, each weight once, in the
    order of its changes.

    Args:
        pair: the models.
        student: whose changes.
        modules: groups, names or full names, as `masks.modules` takes them; None for all.
        layers: of which blocks; None for all.

    Raises:
        ValueError: no such module or layer; nothing that is left has a singular basis.
    """
    known = pair.sites.modules
    wanted = None
    if modules is not None:
        names = [modules] if isinstance(modules, str) else modules
        wanted = {m.path for name in names for m in modules_named(name, list(known.values()))}
    for layer in layers or ():
        if not -1 <= layer <= pair.sites.n_layers:
            raise ValueError(
                f"layers={list(layers or ())}: there is no layer {layer}; the model has 0 to "
                f"{pair.sites.n_layers - 1}."
            )
    found = [
        module
        for module in with_basis((pair.model, pair.sites), student)
        if (wanted is None or module.path in wanted) and (layers is None or module.layer in layers)
    ]
    if not found and (modules is not None or layers is not None):
        asked = f"modules={modules!r}" if modules is not None else f"layers={list(layers or ())}"
        raise ValueError(
            f"{asked}: student={student.name!r} changes no matrix there; spectrum(pair).table() "
            "lists what it changes."
        )
    return found


def with_basis(base: tuple[nn.Module, Sites], student: Student) -> list[Module]:
    """The modules of a student's changes that have a singular basis, each weight once.

    Args:
        base: the base's model and its map.
        student: whose changes.
    """
    model, sites = plain(base[0]), base[1]
    tied = tied_to(base[0], student.deltas)
    return [
        sites.modules[path]
        for path, delta in student.deltas.items()
        if has_basis(delta, model.get_submodule(path)) and path not in tied
    ]


def changes(
    base: nn.Module,
    student: Student,
    modules: Sequence[Module],
    how: How,
    *,
    title: str,
    progress: bool,
) -> Iterator[Change]:
    """The singular bases of some modules' changes, one at a time.

    Args:
        base: the base's model.
        student: whose changes.
        modules: which (`chosen`).
        how: how they are decomposed.
        title: of the progress bar.
        progress: show it.
    """
    model = plain(base)
    for module in tqdm(modules, desc=title, disable=not progress):
        delta = student.deltas[module.path]
        yield Change(module, decompose(delta, model.get_submodule(module.path), how))
