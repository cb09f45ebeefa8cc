"""Scores of several students in one table."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..arguments import checked
from ..hints import check_choice
from . import report, tables
from .arrays import ScoreArrays
from .curves import curve
from .frames import Table
from .kinds import KINDS
from .kinship import kinship
from .select import check_measured_alike, select

_GATHERED = ("role", "sharing", "turn", "token", tables.LAYER)


@checked
def compare(scores: Mapping[str, ScoreArrays], by: str | None = None) -> Table:
    """Several students' scores, measured alike on the same prompts, in one table.

    Args:
        scores: what to call them -> their scores. Students, controls and bases may differ; metric,
            contexts, prompts, options and cells may not. Attributions are of the weights that each
            student changes, all of them (without `sel`), so that an adapter stands beside a full
            fine-tune.
        by: for scores per token, the coordinate to gather them by: `role` (when not given),
            `sharing`, `turn`, `token`, or `layer`.

    Returns:
        One block of rows per entry: the totals of `effect`, the token sets of grafts and patched
        sets, the groups of tokens of scores per token (of each direction of patching), the curves
        of doses, scans, directions and steps, with the columns of `Scores.totals`, `sets`, `by` and
        `curve`; each row is of the headline (student minus controls, where there are some), only
        totals have a row per model. By layer each attribution has the rows of all, 0 where a
        student changes no weight. Below it, and in `attrs["notes"]`, stands what each says above
        and below its own table (all limits, what shares are of, the completeness gap), once where
        all say it, and what scores have in common by construction: one student twice, students that
        are each other's controls.

    Raises:
        ValueError: fewer than two; scores that differ in what was measured; some with controls and
            some without; `by` for scores without tokens.

    Example:
        >>> scores = sm.graft(pair, prompts, trait, "role", progress=False)
        >>> table = sm.results.compare({"first": scores, "again": scores})
        >>> table.loc["first"].index.tolist()
        ['template', 'system', 'user', 'all prompt tokens']
    """
    if len(scores) < 2:
        raise ValueError(
            "compare takes two or more scores by name: compare({'owl': scores, 'cat': others})."
        )
    (first_name, first), *others = scores.items()
    for name, other in others:
        check_measured_alike(first, other, f"compare: {first_name!r} and {name!r}")
    blocks = {name: block(one, by) for name, one in scores.items()}
    if by == tables.LAYER and first.additive:
        blocks = tables.on_all_layers(blocks, scores)
    table = Table(pd.concat(blocks, names=["scores"]))
    table.attrs["notes"] = headings(scores, by)
    return table


def headings(scores: Mapping[str, ScoreArrays], by: str | None = None) -> list[str]:
    """What is said of a table of several scores: what each says around its own (`report.around`),
    once where all say it, else with its name; and what they have in common by construction.

    Args:
        scores: what to call them -> their scores.
        by: what tokens are gathered by.
    """
    said: dict[str, list[str]] = {}
    for name, one in scores.items():
        for line in report.around(one, by):
            said.setdefault(line, []).append(name)
    lines = [
        line if len(names) == len(scores) else f"{', '.join(names)}: {line}"
        for line, names in said.items()
    ]
    return [*lines, *filter(None, [tables.other_layers(scores)]), *kinship(scores)]


def block(scores: ScoreArrays, by: str | None) -> pd.DataFrame:
    """One student's scores in short: totals, sets, groups of tokens, or a curve.

    Args:
        scores: its scores.
        by: as `compare` has it.

    Raises:
        ValueError: `by` for scores without tokens or that are a curve, or none of its choices; a
            scan of prompts that are laid out in different ways.
    """
    if KINDS[scores.kind].is_curve or scores.has_steps:
        if by is not None:
            raise ValueError(
                f"by={by!r}: these scores are a curve, not to be gathered; leave it out."
            )
        return curve(scores)
    if scores.has_tokens:
        check_choice("by", by or "role", _GATHERED)
        if "direction" not in scores.data["effect"].dims:
            return tables.by(scores, by or "role")
        # they are never mixed
        each = {
            name: select(scores, {"direction": name}) for name in scores.data["direction"].values
        }
        tabled = {str(name): tables.by(one, by or "role") for name, one in each.items()}
        return pd.concat(tabled, names=["direction"])
    if by is not None:
        raise ValueError(f"by={by!r}: {scores.kind} scores have no tokens to gather; leave it out.")
    summary = tables.SUMMARIES.get(KINDS[scores.kind].table)
    if summary is not None:
        return summary(scores)
    return tables.sets(scores)
