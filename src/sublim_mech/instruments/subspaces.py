"""`alignment`: do two students change their weights along the same directions?"""

from __future__ import annotations

import numpy as np

from ..arguments import checked
from ..engine.pair import ModelPair
from ..hints import renamed
from ..models.spectra import EXACT, FOUND, Decomposed
from ..models.students import Student
from ..results.alignments import OF_READING, Alignment, ModuleAlignment, principal_angles
from .weights import changes, chosen, how_of, named


@checked
def alignment(
    pair: ModelPair,
    first: str,
    second: str,
    *,
    k: int = 8,
    draws: int = 500,
    exact: int = EXACT,
    seed: int = 0,
    progress: bool = True,
) -> Alignment:
    """Do two students change their weights along the same directions? From the weights alone.

    Per module the principal angles (Björck and Golub 1973) between the spans of the first k left
    singular vectors of the two changes (what they write), and of the right ones (what they read).
    Beside them those of random subspaces of the same dimensions: one held fixed, the other spanned
    by independent normal vectors, so uniform over all of its dimension.

    Args:
        pair: base, student, controls.
        first: one of `pair.students`, `student` or `control: <name>`, or a student's own name.
        second: another one.
        k: how many directions of each change; all where it has fewer.
        draws: random subspaces per shape.
        exact: largest smaller side of a replaced matrix that is decomposed exactly (`spectrum`).
        seed: of random subspaces and of randomised SVD.
        progress: show a progress bar.

    Returns:
        Angles by module, with their table and map.

    Raises:
        ValueError: no student of this name, or one twice; k or draws below 1; no module that both
            change as a matrix.

    Example:
        >>> both = sm.instruments.alignment(pair, "student", "control: cat", progress=False)
        >>> float(both.table()["left by chance"].iloc[0])  # 4 of 32 dimensions
        0.125
    """
    found = []
    for argument, name in (("first", first), ("second", second)):
        with renamed({"model": argument}):
            found.append(named(pair, name))
    (first, one), (second, other) = found
    both = one, other
    if first == second:
        raise ValueError(f"first and second are both {first!r}; name two students.")
    if k < 1:
        raise ValueError(f"k={k}: how many directions must be at least 1.")
    if draws < 1:
        raise ValueError(f"draws={draws}: a null needs at least 1.")
    how = how_of(exact, max(k, FOUND), seed)
    places = [{m.path: m for m in chosen(pair, student, None)} for student in both]
    depth = pair.sites.n_layers
    common = [m for path, m in places[0].items() if path in places[1]]
    alone = [
        m.full_name(depth)
        for these, those in (places, places[::-1])
        for path, m in these.items()
        if path not in those
    ]
    title = "alignment"
    theirs = changes(pair.model, both[1], common, how, title=title, progress=False)
    ours = changes(pair.model, both[0], common, how, title=title, progress=progress)
    modules = []
    for (module, a), (_, b) in zip(ours, theirs, strict=True):
        dims = _directions(a, k), _directions(b, k)
        if 0 in dims:
            alone.append(module.full_name(depth))
            continue
        (left_a, right_a), (left_b, right_b) = _spans(a, dims[0]), _spans(b, dims[1])
        modules.append(
            ModuleAlignment(
                name=module.full_name(depth),
                layer=module.layer,
                module=module.name,
                shape=(len(left_a), len(right_a)),
                dims=dims,
                left=principal_angles(left_a, left_b),
                right=principal_angles(right_a, right_b),
            )
        )
    if not modules:
        raise ValueError(
            f"first={first!r} and second={second!r}: no module is changed as a matrix by both, so "
            "that there are no subspaces to compare."
        )
    return Alignment(
        students=(first, second),
        n_layers=depth,
        modules=tuple(modules),
        alone=tuple(alone),
        draws=draws,
        seed=seed,
        notes=_notes(*both),
    )


def _directions(done: Decomposed, k: int) -> int:
    """How many of the first k directions a change has: singular vectors of zeros are arbitrary."""
    return min(k, done.known)


def _spans(done: Decomposed, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal columns that span what the first k directions write, and what they read."""
    return done.basis.u[:, :k].numpy(), done.basis.v[:k].T.numpy()


def _has_matrices_a(student: Student) -> bool:
    """Whether it is a LoRA of some kind, DoRA and rsLoRA too."""
    if student.kind == "lora":
        return True
    configs = getattr(student.model, "peft_config", {}).values()
    return any(config.peft_type == "LORA" for config in configs)


def _notes(first: Student, second: Student) -> tuple[str, ...]:
    """What makes two students read alike that is no finding."""
    notes = [f"{one.name}: {note}" for one in (first, second) for note in one.notes]
    manifests = first.manifest, second.manifest
    if all(m is not None and m.kind == "lora" for m in manifests):
        starts = [m.seeds.get("init") for m in manifests if m is not None]
        if starts[0] is not None and starts[0] == starts[1]:
            notes.append(
                f"both adapters began with the same matrices A (init seed {starts[0]}), so that "
                f"{OF_READING} whatever they learned; look at what they write"
            )
    elif any(m is None for m in manifests) and all(map(_has_matrices_a, (first, second))):
        notes.append(
            f"of adapters that began with the same matrices A (one init seed) {OF_READING} "
            "whatever they learned; no manifest says whether these did"
        )
    return tuple(notes)
