"""The picture that suits the cells of some scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from .arrays import ScoreArrays
from .bars import set_bars, total_bars
from .heatmaps import column_map, heatmap
from .kinds import KINDS, Picture
from .tokens import check_prompt


def plot(scores: ScoreArrays, prompt: int = 0, *, path: str | Path | None = None) -> Figure:
    """The picture that suits the cells of the scores.

    Tokens: `heatmap` of one prompt. Patched heads or token sets: layers x heads or sets, mean over
    prompts. Graft: sufficiency and necessity of each token set. Effect: the total effect of
    student, controls and their difference. Bars carry 95 % intervals over prompts.

    Args:
        scores: what to show.
        prompt: which prompt a heatmap shows.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        IndexError: no such prompt.
        ValueError: the scores hold both directions, or heads of several token sets; the message
            says how to choose.
    """
    check_prompt(scores, prompt)
    draw_bars = _BARS.get(KINDS[scores.kind].picture)
    if draw_bars is not None:
        return draw_bars(scores, path=path)
    if "head" in scores.data["effect"].dims:
        return column_map(scores, scores.head_effect(), path=path)
    if scores.has_sets:
        return column_map(scores, scores.set_effect(), path=path)
    return heatmap(scores, prompt, path=path)


_BARS: dict[Picture, Callable[..., Figure]] = {"set bars": set_bars, "total bars": total_bars}
