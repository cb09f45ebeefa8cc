"""The picture that suits the cells of some scores.

Every picture is drawn inside one `Axes`, which is returned: one of its own figure, or the `ax` that
was given, whose figure keeps its size and its other axes. A picture of several parts (a heatmap's
strip, map and band) lays them out inside it: they are `ax.child_axes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ..arguments import checked
from .arrays import ScoreArrays
from .bars import layer_bars, role_bars, set_bars, total_bars
from .curve_plots import CURVES, step_curve, step_map
from .heatmaps import column_map, heatmap
from .kinds import KINDS, STEP, Picture
from .tokens import check_prompt


@checked
def plot(
    scores: ScoreArrays,
    prompt: int = 0,
    *,
    by: str | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """The picture that suits the cells of the scores.

    Tokens: `heatmap` of one prompt. Patched heads or token sets: layers x heads or sets, mean over
    prompts. Graft: sufficiency and necessity of each token set. Effect: the total effect of
    student, controls and their difference. Bars carry 95 % intervals over prompts. Prefix scans,
    doses and directions: curves. Several steps of a training: steps by the tokens of one prompt,
    or a curve over steps where there are no tokens.

    In a notebook the figure shows itself once; not where it went to `path` or into `ax`.

    Args:
        scores: what to show.
        prompt: which prompt a heatmap shows.
        by: bars of the effect gathered by `role`, `sharing`, `turn` or `token` of the tokens, or
            by `layer`, over all prompts; `step`: the curve over steps of a training.
        ax: draw there; a new figure when not given.
        title: in place of what was scored; `""` for none. What limits the numbers stays.
        labels: names of models, sets, measures, layers, roles, sharing classes, tokens or of the
            metric -> what the picture calls them.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Returns:
        The axes; `axes.figure` is the figure.

    Raises:
        IndexError: no such prompt.
        TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: the scores hold both directions, or heads of several token sets; the message
            says how to choose. Or `by` is no coordinate, `labels` names what is not there, or a
            prompt is named of a picture of all of them.
    """
    check_prompt(scores, prompt)
    if prompt and not _is_of_one_prompt(scores, by):
        raise ValueError(
            f"plot(prompt={prompt}): this picture is of all prompts together; of one alone: "
            f"scores.sel(prompt=[{scores.data['prompt'].values[prompt].item()}]).plot(...)."
        )
    wishes: dict[str, Any] = {"ax": ax, "title": title, "labels": labels, "path": path}
    if by == STEP:
        return step_curve(scores, **wishes)
    if scores.has_steps and by is None:
        return (
            step_map(scores, prompt, **wishes)
            if scores.has_tokens
            else step_curve(scores, **wishes)
        )
    if by == "layer":
        return layer_bars(scores, **wishes)
    if by is not None:
        return role_bars(scores, by=by, **wishes)
    draw = _WHOLE.get(KINDS[scores.kind].picture)
    if draw is not None:
        return draw(scores, **wishes)
    if "head" in scores.data["effect"].dims and not scores.additive:
        return column_map(scores, scores.head_effect(), **wishes)
    if scores.has_sets:
        return column_map(scores, scores.set_effect(), **wishes)
    return heatmap(scores, prompt, **wishes)


def _is_of_one_prompt(scores: ScoreArrays, by: str | None) -> bool:
    """Whether the picture shows the tokens of a single prompt."""
    if by is not None:
        return False
    if scores.has_steps:
        return scores.has_tokens
    by_head = "head" in scores.data["effect"].dims and not scores.additive
    return KINDS[scores.kind].picture not in _WHOLE and not by_head and not scores.has_sets


_WHOLE: dict[Picture, Callable[..., Axes]] = {
    "set bars": set_bars,
    "total bars": total_bars,
    **CURVES,
}
"""Pictures of all prompts at once."""
