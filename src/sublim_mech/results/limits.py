"""What limits the numbers of a result, listed once.

Tables, token pages and `Scores.notes` say each limit in full, pictures in short below their axes
(`dress.introduce`). What is measured alike elsewhere (`evaluate`) says it in the same words. Of
several steps one line names those at which the same holds. Numbers are of what is shown (`Shown`):
parts of the prompt's effect stand beside shares of it, parts of the total beside totals, parts of a
dosed set's effect beside its doses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from ..hints import ranges
from .arrays import ScoreArrays, holding_whole
from .completeness import gap_in_short, gap_in_words, gap_of_steps, stopped
from .confirming import agreement
from .kinds import KINDS
from .limit_kinds import SHARES, TOTALS, Kind, Limit, Shown
from .limits_of_effects import of_doses, of_noise, of_the_ceiling, of_the_controls, of_the_sign
from .limits_of_students import (
    few_prompts,
    of_a_sum,
    of_contexts,
    of_gates,
    of_one_value,
    without_controls,
)
from .select import of_each_step


def limits(scores: ScoreArrays, shown: Shown = SHARES) -> list[Limit]:
    """All that limits these scores, in the order in which it is said.

    Args:
        scores: the result.
        shown: what of it; of several steps always the effects alone.
    """
    scores = holding_whole(scores)
    told = [
        *of_contexts(scores),
        *of_a_sum(scores),
        *of_gates(scores),
        *without_controls(scores),
        *(_of_steps(scores) if scores.has_steps else _of_effects(scores, shown)),
        *few_prompts(scores.data.sizes["prompt"]),
        *of_one_value(scores),
        *_of_places(scores),
        *_of_the_gap(scores),
        *_of_estimates(scores),
        *_of_the_answer(scores),
    ]
    return sorted(told, key=lambda limit: get_args(Kind).index(limit.kind))


def _of_effects(scores: ScoreArrays, shown: Shown) -> list[Limit]:
    """What limits the effects themselves, which are others at every step."""
    return [
        *of_noise(scores, shown),
        *of_the_controls(scores, shown),
        *of_doses(scores),
        *of_the_ceiling(scores),
        *of_the_sign(scores, shown),
    ]


def _of_steps(scores: ScoreArrays) -> list[Limit]:
    """What limits the effects of several steps: a line for all steps at which the same holds."""
    views = of_each_step(scores)
    found: dict[tuple[Kind, str, tuple[str, ...]], dict[int, Limit]] = {}
    for step, view in views.items():
        for limit in _of_effects(view, TOTALS):
            key = limit.kind, limit.alike or limit.short, limit.models
            found.setdefault(key, {})[step] = limit
    told = []
    for (kind, alike, models), there in found.items():
        where = _at_steps(list(there), list(views))
        limit = next(iter(there.values()))
        if len(there) == 1:
            told.append(
                limit._replace(text=f"{where}: {limit.text}", short=f"{where}: {limit.short}")
            )
            continue
        whose = f"{', '.join(models)}: " if models else ""
        short = f"{where}: {alike}"
        told.append(Limit(kind, f"{where}: {whose}{alike}{limit.why}", short, models))
    return told


def _at_steps(steps: Sequence[int], scored: Sequence[int]) -> str:
    """Steps in words: the ends alone of three or more that follow one another among the scored."""
    if 1 < len(scored) == len(steps):
        return "at all steps"
    told = ranges([scored.index(step) for step in steps], scored)
    return f"at step{'s' if len(steps) > 1 else ''} {told}"


def in_full(scores: ScoreArrays, *without: Kind, shown: Shown = SHARES) -> list[str]:
    """The limits as tables, pages and notes say them, but for those of some kinds."""
    return [limit.text for limit in limits(scores, shown) if limit.kind not in without]


def _of_places(scores: ScoreArrays) -> list[Limit]:
    """That a boundary of a scan is not behind one token in prompts of other lengths."""
    if scores.kind != "scan":
        return []
    lengths = scores.of_prompt.sum("position").values
    low, high = int(lengths.min()), int(lengths.max())
    if low == high:
        return []
    told = (
        f"prompts of {low} to {high} tokens: inside texts of unlike lengths a boundary is behind "
        "other tokens in some"
    )
    return [Limit("places", told, told)]


# ---------------------------------------------------------------------------- gaps and estimates


def _of_the_gap(scores: ScoreArrays) -> list[Limit]:
    """What cells miss of the effect they should add up to, and which integrals stopped short."""
    text = gap_of_steps(scores) if scores.has_steps else gap_in_words(scores)
    short = text if scores.has_steps else gap_in_short(scores, text)
    gaps = [Limit("gap", text, short)] if text else []
    return [*gaps, *(Limit("estimate", *told) for told in stopped(scores))]


def _of_estimates(scores: ScoreArrays) -> list[Limit]:
    """That estimates were not compared with exact values, or not these."""
    compared = agreement(scores)
    if not KINDS[scores.kind].estimate or (compared is not None and compared.confirmation):
        return []
    if compared is not None:
        return [Limit("estimate", compared.line, compared.line.partition(":")[0])]
    # without a site (gradient x input) no intervention gives the exact value
    how = "no exact counterpart" if scores.record.site is None else "sublim_mech.confirm"
    told = f"not confirmed: estimates from gradients ({how})"
    return [Limit("estimate", told, told)]


def _of_the_answer(scores: ScoreArrays) -> list[Limit]:
    """Who computes the answer's own tokens in a graft, where another does than is usual (in
    sufficiency the base, in necessity the student), and that they are patched with each set, or
    with directions: part of every number is then of these.
    """
    gates = scores.record.answer_gate
    if scores.kind == "patch" and gates:
        patched = "the answer's own tokens are patched with each set"
        return [Limit("answer", patched, patched)]
    if scores.kind == "direction" and "direction" in gates:
        added = "directions, and the graft beside them, are of the answer's own tokens too"
        return [Limit("answer", added, added)]
    if scores.kind == "dose":
        return _of_a_dosed_answer(scores)
    if scores.kind != "graft" or scores.record.hybrid is not None:
        return []
    told = []
    if gates.get("sufficiency", 0.0) > 0:
        told.append("sufficiency: the student computes the answer's own tokens too")
    if gates.get("necessity", 1.0) < 1:
        told.append("necessity: the base computes the answer's own tokens too")
    return [Limit("answer", line, line) for line in told]


def _of_a_dosed_answer(scores: ScoreArrays) -> list[Limit]:
    """Whether the answer's own tokens have the gate of a dose, where that is not the usual."""
    record = scores.record
    opened = record.answer_gate.get("dose")
    told = ""
    if opened == 0 and record.where in (None, "everything"):
        told = "the base computes the answer's own tokens at every gate"
    elif opened == 1 and record.where not in (None, "everything"):
        told = "the answer's own tokens have the gate of these cells too"
    return [Limit("answer", told, told)] if told else []
