"""What limits the effects themselves: what of them the controls have, noise, sign and ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..hints import at_most, signed, told_apart
from ..stats import mean_interval
from . import tables
from .arrays import ScoreArrays
from .ceiling import at_the_ceiling, doses, saturated
from .completeness import LARGE, single_gaps, stands_out
from .kinds import KINDS
from .limit_kinds import SHARES, TOTALS, Limit, Shown
from .rounding import floor_of, is_rounding

CONTROLS = 0.25
"""Part of the headline from which on it is said that the controls have it."""

ALONG = 0.5
"""Part of the student's own move from which on it is said that the controls moved along."""

BEND = 0.1
"""By how much a dose differs where it is said: the controls' part from theirs at scale 1, and the
student's share of its effect at 1 from the headline's, of the larger of 1 and the latter."""

NOISE = "the total effect is inside its own noise"
NO_SHARES = f"{NOISE}: no shares are given"
OF_ROUNDING = "the total effect is of the size of rounding"
NOTHING = "exactly 0 on every prompt, no noise: no weight that is on moves what is scored"


def _plain(value: float, sign: str = "") -> str:
    """Two decimals; where these are 0, two digits."""
    text = f"{value:{sign}.2f}"
    return f"{value:{sign}.2g}" if float(text) == 0 else text


class Named(NamedTuple):
    """What the sides of a difference are called where it is said whose it is."""

    headline: str = "the headline"
    own: str = "the student's"
    others: str = "the controls"


class Moved(NamedTuple):
    """How far student and controls moved a metric, means over prompts or questions."""

    student: float
    controls: float

    @property
    def headline(self) -> float:
        """Student minus controls."""
        return self.student - self.controls

    @property
    def part(self) -> float:
        """Which part of the headline the controls have, which moved the other way; 0 of none."""
        return -self.controls / self.headline if self.headline else 0.0

    @property
    def along(self) -> float:
        """Which part of the student's own move the controls made too; 0 of none, and where they
        moved further than it.
        """
        part = self.controls / self.student if self.student else 0.0
        return part if 0 < part < 1 else 0.0

    @property
    def alike(self) -> str:
        """What is told of several, whose numbers differ."""
        if self.along > ALONG:
            return f"the controls made more than {ALONG:z.0%} of the student's move"
        way = "fall" if self.headline > 0 else "rise"
        if self.part > 1:
            return f"the headline is the controls' {way}"
        return f"more than {CONTROLS:z.0%} of the headline are the controls' {way}"

    def told(self, unit: str, where: str = "", named: Named | None = None) -> str:
        """What of the headline is the controls'; empty where it is little.

        Args:
            unit: of both.
            where: on which tokens, in words; none of all.
            named: what they are called, where they are no student and controls.
        """
        named = Named() if named is None else named
        told = " ".join(filter(None, [unit, where]))
        if self.along > ALONG:
            way = "rose" if self.controls > 0 else "fell"
            sizes = told_apart(abs(self.controls), abs(self.student), digits=3)
            return (
                f"{named.others} {way} by {sizes[0]} of {named.own} {sizes[1]} {told}: "
                f"{named.headline} is what is left"
            )
        if self.part <= CONTROLS:
            return ""
        moved = "fall" if self.headline > 0 else "rise"
        if self.part > 1:
            theirs, own = _plain(abs(self.controls)), "0.00"
            if self.student:
                own = _plain(self.student, "+")
                if own[1:] == theirs:  # the one is larger, which two decimals do not show
                    theirs, own = told_apart(abs(self.controls), abs(self.student), digits=2)
                    own = f"{'+' if self.student > 0 else '-'}{own}"
            whole = f"they {moved} by {theirs} {told}, beyond {named.own} own {own}"
            return f"{named.headline} is {named.others}': {whole}"
        both = abs(self.controls), abs(self.headline)
        # to two digits both, where two decimals would show the one as 0
        tiny = float(f"{both[0]:z.2f}") == 0
        part, whole = (f"{size:.2g}" if tiny else _plain(size) for size in both)
        of = f"{part} of {whole} {told}"
        of += f" ({self.part:z.0%})"
        return f"{of} are {named.others}' {moved}"


def of_the_controls(scores: ScoreArrays, shown: Shown = SHARES) -> list[Limit]:
    """That a large part of what is shown (of what shares are shares of) is not what the student
    gained but what its controls lost (or the reverse), or all of it, where they moved further than
    the student on its own way; or that they made most of the student's own move, of which it is
    what is left; nothing where it is not, or where the headline is inside its own noise. Of the
    total effects where cells miss so much of a model's that they are not what it did.
    """
    of_shares = shown
    if _on_prompt(scores, shown) and (single_gaps(scores).largest or 0.0) > LARGE:
        shown = TOTALS
    moves = _moves(scores, shown)
    if (
        not scores.has_controls
        or moves is None
        or not stands_out(moves[0] - moves[1:].mean(0), scores)
    ):
        return []
    moved, names = _moved(moves), [str(name) for name in scores.data["model"].values[1:]]
    limits = []
    apart = moved_apart(moved.headline, dict(zip(names, moves[1:].mean(1), strict=True)))
    if apart:
        limits.append(Limit("controls", apart, apart, alike=APART))
    short = moved.told(scores.unit, _where(scores, shown))
    if not short:
        return limits
    shares = ""
    if of_shares.shares and _has_shares(scores) and moved.part <= 1:
        same = shown == of_shares
        shares = ": shares hold that too" if same else _in_shares(scores, of_shares)
    name = str(scores.data["model"].values[0])
    why = f"{shares}; see sel(model={name!r})"
    return [Limit("controls", f"{short}{why}", short, alike=moved.alike, why=why), *limits]


def _in_shares(scores: ScoreArrays, shown: Shown) -> str:
    """Which part of what shares are parts of is the controls', where the line beside it is of the
    total effects because cells miss much of one model's; empty where that is small, or no part.
    """
    moves = _moves(scores, shown)
    if moves is None or not stands_out(moves[0] - moves[1:].mean(0), scores):
        return ""
    part = _moved(moves).part
    if not CONTROLS < part <= 1:
        return ""
    return f": shares, which are of the effect {_where(scores, shown)}, hold that too ({part:z.0%})"


APART = "controls moved opposite ways, which cancel in their mean"


def moved_apart(headline: float, controls: Mapping[str, float]) -> str:
    """That some controls rose and others fell, each by a large part of the headline, so that their
    mean says little of any of them; empty where they did not.

    Args:
        headline: student minus their mean.
        controls: how far each moved, by name.
    """
    least = CONTROLS * abs(headline)
    fallen, risen = min(controls, key=controls.__getitem__), max(controls, key=controls.__getitem__)
    low, high = controls[fallen], controls[risen]
    if not (low < -least and high > least):
        return ""
    mean = signed(sum(controls.values()) / len(controls), 2)
    return f"{APART} ({mean}): {fallen} {signed(low, 2)}, {risen} {signed(high, 2)}"


def _on_prompt(scores: ScoreArrays, shown: Shown) -> bool:
    """Whether what is shown is the effect on the prompt's tokens, not the total effect."""
    return scores.additive and scores.knows_whole and not shown.total


def _where(scores: ScoreArrays, shown: Shown) -> str:
    """On which tokens, or at which gate, the effect is that limits speak of; empty of the total."""
    if is_dose_of_a_set(scores):
        return "at gate 1 of these cells"
    cells = ", all cells" if scores.selected else ""  # of which these are some
    if _on_prompt(scores, shown):
        return f"on the prompt's tokens{cells}"
    return f"on all tokens{cells}" if scores.additive and shown.total else ""


def is_dose_of_a_set(scores: ScoreArrays) -> bool:
    """Whether doses are of some cells, so that they say nothing of whole students."""
    record = scores.record
    whole = record.where in (None, "everything") and record.answer_gate.get("dose", 1.0) == 1
    return scores.kind == "dose" and not whole


def _moves(scores: ScoreArrays, shown: Shown) -> np.ndarray | None:
    """`(model, prompt)`: what is shown of each model, all of it: the effect on the prompt's tokens,
    the total effect, or that of a dosed set at gate 1; None where this was not measured.
    """
    if is_dose_of_a_set(scores):
        return next((dose.effect for dose in doses(scores) if dose.scale == 1), None)
    if _on_prompt(scores, shown):
        moves = scores.whole["prompt_effect"]
    else:
        moves = scores.data["student"] - scores.data["base"]
    return moves.transpose("model", "prompt").values


def _has_shares(scores: ScoreArrays) -> bool:
    of_sets = scores.has_sets and "head" not in scores.data["effect"].dims
    return scores.additive or of_sets or KINDS[scores.kind].is_curve


def _moved(moves: np.ndarray) -> Moved:
    """How far student and controls moved, means over prompts of `(model, prompt)`."""
    student, *controls = moves.mean(1)
    return Moved(float(student), float(np.mean(controls)))


def of_doses(scores: ScoreArrays) -> list[Limit]:
    """At which doses (of grafts, in which scaled sets) a large part of the headline is the
    controls', and a larger one than at 1, of which the line on the whole models speaks; and where a
    bend of a dose's headline is not the student's own. Nothing of doses inside their own noise.
    """
    if not scores.has_controls:
        return []
    told, own = [], []
    whole = _moves(scores, TOTALS)
    at_one = Moved(0.0, 0.0) if whole is None else _moved(whole)
    for name, scale, moves, _ in doses(scores):
        headline = moves[0] - moves[1:].mean(0)
        if scale in (0, 1) or not stands_out(headline, scores):
            continue
        moved = _moved(moves)
        line = moved.told(scores.unit)
        larger = moved.part - at_one.part
        if moved.along > ALONG:  # their part of the student's move, which `part` is not
            larger = moved.along - at_one.along
        if line and larger > BEND:
            told.append(f"at {name}: {line}")
        if scores.kind != "dose" or whole is None:
            continue
        at_gate_one = whole[0] - whole[1:].mean(0)
        if stands_out(whole[0], scores) and stands_out(at_gate_one, scores):
            share = moved.student / float(whole[0].mean())
            of_headline = float(headline.mean() / at_gate_one.mean())
            if abs(share - of_headline) > BEND * max(1, abs(of_headline)):
                own.append((scale, share, of_headline))
    limits = []
    if told:
        said = "; ".join(told)
        alike = "at some scales a larger part of the headline is the controls' than at 1"
        limits.append(Limit("controls", said, said, alike=alike))
    if own:
        name = str(scores.data["model"].values[0])
        why = f"; see sel(model={name!r})"
        said = f"{_of_its_own(name, scores.headline_name, own)}{why}"
        alike = f"{name} alone bends otherwise than the headline at some scales"
        limits.append(Limit("controls", said, said, alike=alike, why=why))
    return limits


def _of_its_own(student: str, headline: str, found: Sequence[tuple[float, float, float]]) -> str:
    """At which scales a student alone has another part of its effect at 1 than the headline has of
    its own.

    Args:
        student: what it is called.
        headline: what the headline is.
        found: per scale, it and the two parts.
    """
    (scale, share, of_headline), *others = found
    told = [
        f"at scale {scale:g} {student} alone has {share:z.2f} of its effect at 1, where "
        f"{headline} has {of_headline:z.2f} of its own"
    ]
    told += [
        f"at scale {one:g} they have {part:z.2f} and {other:z.2f}" for one, part, other in others
    ]
    return "; ".join(told)


# ------------------------------------------------------------------------------ the total effect


def exceeds_noise(scores: ScoreArrays) -> bool:
    """Whether the total effect is outside its own noise, and larger than rounding."""
    total = scores.total.values
    return bool(mean_interval(total).excludes_zero) and not is_rounding(total, scores)


def of_noise(scores: ScoreArrays, shown: Shown) -> list[Limit]:
    """That the effect may be none, and no shares are given."""
    moves = _moves(scores, shown)
    if moves is not None and not moves.any() and not scores.record.minus:
        cells = float(np.nanmax(np.abs(scores.data["effect"].values), initial=0.0))
        rounded = f"; what stands here is rounding (at most {at_most(cells)} {scores.unit})"
        text = NOTHING + rounded * (0 < cells <= floor_of(scores))
        return [Limit("noise", text, text, alike=NOTHING)]
    if scores.additive and not shown.total:
        text = tables.no_shares(scores)
        alike = next((one for one in (tables.NO_SHARES, tables.OF_ROUNDING) if one in text), "")
        return [Limit("noise", text, text, alike=alike)] if text else []
    has_shares = shown.shares and scores.kind != "effect"
    if is_rounding(scores.total.values, scores):
        size = f"{at_most(np.abs(scores.total.values).max())} {scores.unit}"
        told = f"{OF_ROUNDING} (at most {size} on any prompt)"
        given = f": no shares{' of it' * is_dose_of_a_set(scores)} are given"
        return [Limit("noise", told + given * has_shares, told, alike=OF_ROUNDING)]
    if scores.data.sizes["prompt"] == 1 or exceeds_noise(scores):
        return []
    if is_dose_of_a_set(scores):
        told = "the total effect of the whole models is inside its own noise: no shares of it are"
        return [Limit("noise", f"{told} given", NOISE)]
    told = NO_SHARES if has_shares else NOISE
    return [Limit("noise", told, told)]


def of_the_sign(scores: ScoreArrays, shown: Shown = SHARES) -> list[Limit]:
    """That what shares are shares of is negative, and whether that is a fall of the student's or
    the controls' rise; nothing of scores without shares.
    """
    if not _has_shares(scores) or (scores.additive and not scores.knows_whole):
        return []
    moves = _moves(scores, shown)
    if moves is None:
        return []
    effect = moves[0] - moves[1:].mean(0) if scores.has_controls else moves[0]
    mean = float(effect.mean())
    if not (mean < 0 and stands_out(effect, scores)):
        return []
    of_what = "the total effect"
    if is_dose_of_a_set(scores):
        of_what = "the effect at gate 1 of these cells"
    elif _on_prompt(scores, shown):
        of_what = f"the effect {_where(scores, shown)}"
    moved = _moved(moves) if scores.has_controls else None
    if scores.record.minus:
        whose = "a negative difference"
    elif moved is not None and moved.student >= 0:
        whose = "a negative difference: the controls rose further than the student"
    elif moved is not None and moved.along > ALONG:
        whose = "what the student fell further than the controls"
    elif moved is not None and moved.told(scores.unit):
        whose = "the student's fall and the controls' rise"
    else:
        whose = "a fall"
    alike, why = f"{of_what} is negative", f"; shares are parts of {whose}" * shown.shares
    short = f"{alike}: {_plain(mean, sign='+')} {scores.unit}"
    return [Limit("sign", f"{short}{why}", short, alike=alike, why=why)]


def of_the_ceiling(scores: ScoreArrays) -> list[Limit]:
    """That a log-probability cannot rise any more: at some doses, or of whole models."""
    told = at_the_ceiling(scores)
    # a dose says it of scale 1, and one of a set nothing of whole models
    if scores.kind != "dose":
        told += saturated(scores)
    elif not is_dose_of_a_set(scores):
        named = {model for one in told for model in one.models}
        for one in saturated(scores):
            others = tuple(model for model in one.models if model not in named)
            told += [one._replace(models=others)] if others else []
    return [Limit("ceiling", one.text, one.short, one.models, why=one.why) for one in told]
