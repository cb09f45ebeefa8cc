"""Attribution: all cells at once, from gradients; one call for four methods.

- *Graft IG* (`graft_ig`): integrated gradients along the path of grafts; cells add up to the whole
  effect (`graft_ig`).
- `attribution_patching`, `activation_ig`, `gradient_x_input`: estimates of activation patching
  (`estimates`).

Estimates can be far off; `confirm` compares them with exact values.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

from ..arguments import checked
from ..engine.pair import ModelPair
from ..metrics import Metric
from ..prompts import Prompt, Trait
from ..results.scores import Scores
from .completing import AUTO, Points
from .estimates import Estimate, estimate_patching, gradient_x_input
from .graft_ig import graft_ig
from .keeping import keep_folder
from .patching import DIRECTIONS
from .reach import reach_notes
from .task import prepare

OPTIONS: dict[str, tuple[str, ...]] = {
    "graft_ig": ("points",),
    "attribution_patching": ("site", "direction"),
    "activation_ig": ("site", "direction", "points"),
    "gradient_x_input": (),
}
"""The methods, and the options each of them has."""

MOST_POINTS = 1000
"""More would gain nothing: their nodes are found by a matrix of points x points."""


@checked
def attribute(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    *,
    method: Literal[
        "graft_ig", "attribution_patching", "activation_ig", "gradient_x_input"
    ] = "graft_ig",
    points: Points | None = None,
    site: str | None = None,
    direction: Literal["denoising", "noising"] | None = None,
    keep: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Scores:
    """Attribute the effect to cells.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait or a metric.
        method: `graft_ig`, `attribution_patching`, `activation_ig` or `gradient_x_input` (see the
            module).
        points: of the integral of `graft_ig` and `activation_ig`. `auto`, also when not given:
            8 Gauss-Legendre points, and more for each student and prompt (`activation_ig`: and
            layer) whose cells do not add up to within 1 % of the effect, or to what the
            floating-point type can tell (`completing`); what stops at the cap is told. A number:
            so many Gauss-Legendre points for all.
        site: which activation, for `attribution_patching` and `activation_ig`, as in `patch`;
            `resid_pre` when not given.
        direction: as in `patch`, for the same two; `denoising` when not given.
        keep: a folder in which finished prompts are stored, one file per student and prompt: the
            same call goes on where an earlier one ended, with the same bits (`keeping`).
        progress: show a progress bar.

    Returns:
        `graft_ig`: scores of kind `attribution`, `(model, prompt, layer, module, position)`.
        Modules that no student changes are absent; layer -1 holds the embeddings, the layer after
        the last one the final norm and the unembedding.
        Others: scores of kind `gradient`, `(model, prompt, layer, [head,] position)`, or
        `(model, prompt, position)` for `gradient_x_input`. They estimate what `patch` gives; they
        do not add up to the total effect.

    Raises:
        ValueError: unknown method, site or direction; points out of range; an option that the
            method does not use; a metric that is not differentiable; a student that equals its
            base.

    Example:
        >>> scores = sm.attribute(pair, prompts, trait, points=16, progress=False)
        >>> scores.data["effect"].dims
        ('model', 'prompt', 'layer', 'module', 'position')
        >>> scores.gap < 0.01
        True
    """
    if method not in OPTIONS:
        raise ValueError(f"method={method!r} is not known; choose one of {', '.join(OPTIONS)}.")
    _refuse_unused(method, points=points, site=site, direction=direction)
    points = AUTO if points is None else points
    direction = "denoising" if direction is None else direction
    check_points(points)
    if direction not in DIRECTIONS:
        raise ValueError(
            f"direction={direction!r}: pass 'denoising' (student into base) or 'noising' (base "
            "into student)."
        )
    folder = keep_folder(keep)
    task = prepare(pair, prompts, trait, keeps_gates=True)
    if not task.metric.differentiable:
        raise ValueError(
            f"trait: {task.metric.name} is not differentiable, so gradients say nothing of it; use "
            "graft, graft_sweep or patch."
        )
    if not any(student.deltas for student in pair.students.values()):
        raise ValueError(
            f"pair: {pair.student.name!r} equals its base, so there is no effect to attribute."
        )
    if method == "graft_ig":
        return graft_ig(task, points=points, progress=progress, keep=folder)
    if method == "gradient_x_input":
        return gradient_x_input(task, progress=progress, keep=folder)
    site, layers = pair.sites.place("resid_pre" if site is None else site)
    # (of attribution patching they decide nothing; kept units of earlier calls are named with 8)
    points = points if method == "activation_ig" else 8
    asked = Estimate(method, site, direction, points, None if layers is None else tuple(layers))
    chosen = range(pair.sites.n_layers) if layers is None else layers
    silent = reach_notes(pair, site, chosen)
    return estimate_patching(task, asked, notes=silent, progress=progress, keep=folder)


def check_points(points: Points) -> None:
    """Raise ValueError where an integral cannot have so many points."""
    counted = not isinstance(points, str) and 1 <= points <= MOST_POINTS
    if points != AUTO and not counted:
        raise ValueError(
            f"points={points!r}: give 1 to {MOST_POINTS}, or 'auto' for as many as each student "
            "and prompt needs."
        )


def _refuse_unused(method: str, **options: Any) -> None:
    """Raise for an option that the method has not: dropped in silence, it would read as if it had
    had an effect.
    """
    for name, value in options.items():
        if value is not None and name not in OPTIONS[method]:
            users = ", ".join(other for other, used in OPTIONS.items() if name in used)
            raise ValueError(
                f"{name}={value!r} plays no part in method={method!r}; leave it out ({name} is an "
                f"option of {users})."
            )
