"""What limits the numbers of a result, listed once.

Tables, token pages and `Scores.notes` say each limit in full, pictures in short below their axes
(`dress.introduce`). What is measured alike elsewhere (`evaluate`) says it in the same words. Of
several steps one line names those at which the same holds. Numbers are of what is shown (`Shown`):
parts of the prompt's effect stand beside shares of it, parts of the total beside totals, parts of a
dosed set's effect beside its doses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from ..stats import FEWEST, mean_interval
from . import tables
from .arrays import ScoreArrays
from .ceiling import at_the_ceiling, doses, saturated
from .completeness import gap_in_words, gap_of_steps, stands_out, stopped
from .confirming import agreement
from .contexts import NOT_GIVEN, OTHERWISE, asked_and_trained, in_words, otherwise, unlike
from .kinds import KINDS
from .record import GATED, SUM, VOID, Record
from .select import of_each_step
from .words import signed

Kind = Literal[
    "context",
    "sum",
    "gated",
    "no controls",
    "unmoved",
    "unlearnt",
    "alike",
    "noise",
    "controls",
    "intervals",
    "ceiling",
    "sign",
    "gap",
    "estimate",
    "answer",
]
"""In the order in which they are said."""

CONTROLS = 0.25
"""Part of the headline from which on it is said that the controls have it."""

BEND = 0.1
"""By how much a dose differs where it is said: the controls' part from theirs at scale 1, and the
student's share of its effect at 1 from the headline's, of the larger of 1 and the latter."""

NOISE = "the total effect is inside its own noise"
NO_SHARES = f"{NOISE}: no shares are given"


class Shown(NamedTuple):
    """What is shown of some scores.

    Attributes:
        total: of an attribution, effects of all tokens, the answer's too; else those of the
            prompt's tokens, and shares of them.
        shares: whether there are shares at all.
    """

    total: bool = False
    shares: bool = True


SHARES = Shown()
TOTALS = Shown(total=True, shares=False)
"""Effects alone: by layer, over steps."""


class Limit(NamedTuple):
    """One thing that limits the numbers of a result.

    Attributes:
        kind: what it is about.
        text: as tables, pages and notes say it.
        short: as pictures say it.
        models: whose it is, where `short` is of single models.
        alike: the same of several steps, whose numbers differ; `short` where it has none.
        why: what `text` says besides, which is the same at all steps.
    """

    kind: Kind
    text: str
    short: str
    models: tuple[str, ...] = ()
    alike: str = ""
    why: str = ""


def limits(scores: ScoreArrays, shown: Shown = SHARES) -> list[Limit]:
    """All that limits these scores, in the order in which it is said.

    Args:
        scores: the result.
        shown: what of it; of several steps always the effects alone.
    """
    told = [
        *of_contexts(scores),
        *_of_a_sum(scores),
        *of_gates(scores),
        *_without_controls(scores),
        *(_of_steps(scores) if scores.has_steps else _of_effects(scores, shown)),
        *few_prompts(scores.data.sizes["prompt"]),
        *_of_the_gap(scores),
        *_of_estimates(scores),
        *_of_the_answer(scores),
    ]
    return sorted(told, key=lambda limit: get_args(Kind).index(limit.kind))


def _of_effects(scores: ScoreArrays, shown: Shown) -> list[Limit]:
    """What limits the effects themselves, which are others at every step."""
    return [
        *_of_noise(scores, shown),
        *of_the_controls(scores, shown),
        *_of_doses(scores),
        *_of_the_ceiling(scores),
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
    places = [scored.index(step) for step in steps]
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    parts = []
    for run in runs:
        names = [str(scored[place]) for place in run]
        parts.append(f"{names[0]} to {names[-1]}" if len(run) > 2 else ", ".join(names))
    return f"at step{'s' if len(steps) > 1 else ''} {', '.join(parts)}"


def in_full(scores: ScoreArrays, *without: Kind) -> list[str]:
    """The limits as tables, pages and notes say them, but for those of some kinds."""
    return [limit.text for limit in limits(scores) if limit.kind not in without]


# ---------------------------------------------------------------------------------------- contexts


def where_asked(record: Record) -> str:
    """In which contexts prompts were asked, and in which the student was trained, in one line."""
    trained = None if record.training_context is None else in_words(record.training_context)
    where = asked_and_trained([in_words(context) for context in record.contexts], trained)
    if record.donor_contexts:
        where += f"; donors asked in: {'; '.join(map(in_words, record.donor_contexts))}"
    return where


def of_contexts(scores: ScoreArrays) -> list[Limit]:
    """That nobody said in which context the student was trained, or that it was asked otherwise;
    nothing of files older than these fields.
    """
    record = scores.record
    if not record.measured:
        return []
    if record.training_context is None:
        return [Limit("context", where_asked(record), NOT_GIVEN)]
    compared = record.contexts, record.training_context, record.notes
    names = ", ".join(unlike(*compared))
    return [Limit("context", line, f"{OTHERWISE}: {names}") for line in otherwise(*compared)]


def over_contexts(scores: ScoreArrays) -> str:
    """That means are over prompts of several contexts; empty where they are not.

    Of one prompt there is one context, whichever: files of earlier versions do not know which.
    """
    record, count = scores.record, scores.data.sizes["prompt"]
    if not record.measured or len(record.contexts) < 2 or count < 2:
        return ""
    return "prompts of several contexts: every mean is over all of them"


# ------------------------------------------------------------------------------- controls, prompts


def voided(scores: ScoreArrays) -> list[str]:
    """Of which students the difference is not what it is called, in short: tables have all of it
    among their notes.
    """
    told = []
    for note in scores.record.notes:
        told += [f"{note.partition(phrase)[0]}{phrase}" for phrase in VOID if phrase in note]
    return told


def uncontrolled(students: Sequence[Mapping[str, Any]], what: str = "effect") -> str:
    """What else may move answers where there are no controls.

    Args:
        students: their sources, as a record has them.
        what: part of which it may be.
    """
    of_numbers = bool(students) and all(student.get("data") == "numbers" for student in students)
    cause = "training on any numbers" if of_numbers else "fine-tuning as such"
    return f"part of any {what} may come from {cause}"


def _of_a_sum(scores: ScoreArrays) -> list[Limit]:
    """That the student is none that was trained, but several added up; nothing of a hybrid, which
    says who is where.
    """
    if scores.record.hybrid is not None:
        return []
    return [Limit("sum", note, note) for note in scores.record.notes if SUM in note]


def of_gates(scores: ScoreArrays) -> list[Limit]:
    """Where alone students act that have gates of their own: elsewhere there is nothing of them to
    find. Students of one mask in one line.
    """
    told: dict[str, list[str]] = {}
    for note in scores.record.notes:
        _, gated, where = note.partition(GATED)
        if gated:
            told.setdefault(where.strip(), []).append(note)
    return [
        Limit("gated", "; ".join(notes), f"as trained, weights are on only at {where}")
        for where, notes in told.items()
    ]


def _without_controls(scores: ScoreArrays) -> list[Limit]:
    """That there are no controls, and what that means; nothing where there are some, or of a
    hybrid, whose parts are what it is compared with.
    """
    if scores.has_controls or scores.record.hybrid is not None:
        return []
    students = [vars(source) for source in scores.record.students.values()]
    given = "no controls given" if len(students) == 1 else "controls left out of this selection"
    if scores.record.is_sum:
        given = "no controls beside the sum"
    told = f"{given}: {uncontrolled(students)}"
    return [Limit("no controls", told, told)]


def few_prompts(count: int, what: str = "prompt") -> list[Limit]:
    """What an interval over so few is worth, or that one has none; nothing of enough.

    It lies within the range of what was seen, which leaves the middle of all on one side with
    probability 2^(1 - n).
    """
    if count >= FEWEST:
        return []
    if count == 1:
        told = f"one {what}: no intervals"
        return [Limit("intervals", told, told)]
    text = (
        f"{count} {what}s: intervals over so few are no 95 % intervals: they miss in at least "
        f"{2 ** (1 - count):.0%} of cases; {FEWEST} or more can hold 95 %"
    )
    return [Limit("intervals", text, f"{count} {what}s: too few for 95 % intervals")]


def _plain(value: float, sign: str = "") -> str:
    """Two decimals; where these are 0, two digits."""
    text = f"{value:{sign}.2f}"
    return f"{value:{sign}.2g}" if float(text) == 0 else text


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
    def alike(self) -> str:
        """What is told of several, whose numbers differ."""
        way = "fall" if self.headline > 0 else "rise"
        if self.part > 1:
            return f"the headline is the controls' {way}"
        return f"more than {CONTROLS:.0%} of the headline are the controls' {way}"

    def told(self, unit: str, where: str = "") -> str:
        """What of the headline is the controls'; empty where it is little.

        Args:
            unit: of both.
            where: on which tokens, in words; none of all.
        """
        if self.part <= CONTROLS:
            return ""
        moved = "fall" if self.headline > 0 else "rise"
        told = " ".join(filter(None, [unit, where]))
        if self.part > 1:
            beyond = f"beyond the student's own {signed(self.student, 2)}"
            whole = f"they {moved} by {_plain(abs(self.controls))} {told}, {beyond}"
            return f"the headline is the controls': {whole}"
        of = f"{_plain(abs(self.controls))} of {_plain(abs(self.headline))} {told}"
        of += f" ({self.part:.0%})"
        return f"{of} are the controls' {moved}"


def of_the_controls(scores: ScoreArrays, shown: Shown = SHARES) -> list[Limit]:
    """That a large part of what is shown (of what shares are shares of) is not what the student
    gained but what its controls lost (or the reverse), or all of it, where they moved further than
    the student on its own way; nothing where it is not, or where the headline is inside its own
    noise.
    """
    moves = _moves(scores, shown)
    if not scores.has_controls or moves is None or not stands_out(moves[0] - moves[1:].mean(0)):
        return []
    moved = _moved(moves)
    short = moved.told(scores.unit, _where(scores, shown))
    if not short:
        return []
    has_shares = shown.shares and _has_shares(scores) and moved.part <= 1
    shares = ": shares hold that too" if has_shares else ""
    name = str(scores.data["model"].values[0])
    why = f"{shares}; see sel(model={name!r})"
    return [Limit("controls", f"{short}{why}", short, alike=moved.alike, why=why)]


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


def _of_doses(scores: ScoreArrays) -> list[Limit]:
    """At which doses (of grafts, in which scaled sets) a large part of the headline is the
    controls', and a larger one than at 1, of which the line on the whole models speaks; and where a
    bend of a dose's headline is not the student's own. Nothing of doses inside their own noise.
    """
    if not scores.has_controls:
        return []
    told, own = [], []
    whole = _moves(scores, TOTALS)
    at_one = 0.0 if whole is None else _moved(whole).part
    for name, scale, moves in doses(scores):
        headline = moves[0] - moves[1:].mean(0)
        if scale in (0, 1) or not stands_out(headline):
            continue
        moved = _moved(moves)
        line = moved.told(scores.unit)
        if line and moved.part - at_one > BEND:
            told.append(f"at {name}: {line}")
        if scores.kind != "dose" or whole is None:
            continue
        at_gate_one = whole[0] - whole[1:].mean(0)
        if stands_out(whole[0]) and stands_out(at_gate_one):
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
        f"at scale {scale:g} {student} alone has {share:.2f} of its effect at 1, where "
        f"{headline} has {of_headline:.2f} of its own"
    ]
    told += [
        f"at scale {one:g} they have {part:.2f} and {other:.2f}" for one, part, other in others
    ]
    return "; ".join(told)


# ------------------------------------------------------------------------------ the total effect


def exceeds_noise(scores: ScoreArrays) -> bool:
    """Whether the total effect is outside its own noise."""
    return bool(mean_interval(scores.total.values).excludes_zero)


def _of_noise(scores: ScoreArrays, shown: Shown) -> list[Limit]:
    """That the effect may be none, and no shares are given."""
    if scores.data.sizes["prompt"] == 1:
        return []
    if scores.additive and not shown.total:
        text = tables.no_shares(scores)
        return [Limit("noise", text, text, alike=tables.NO_SHARES)] if text else []
    if exceeds_noise(scores):
        return []
    if is_dose_of_a_set(scores):
        told = "the total effect of the whole models is inside its own noise: no shares of it are"
        return [Limit("noise", f"{told} given", NOISE)]
    told = NO_SHARES if shown.shares else NOISE
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
    if not (mean < 0 and stands_out(effect)):
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
    elif moved is not None and moved.told(scores.unit):
        whose = "the student's fall and the controls' rise"
    else:
        whose = "a fall"
    alike, why = f"{of_what} is negative", f"; shares are parts of {whose}" * shown.shares
    short = f"{alike}: {_plain(mean, sign='+')} {scores.unit}"
    return [Limit("sign", f"{short}{why}", short, alike=alike, why=why)]


def _of_the_ceiling(scores: ScoreArrays) -> list[Limit]:
    """That a log-probability cannot rise any more: at some doses, or of whole models."""
    told = at_the_ceiling(scores)
    # a dose says it of scale 1, and one of a set nothing of whole models
    if scores.kind != "dose" or not (told or is_dose_of_a_set(scores)):
        told += saturated(scores)
    return [Limit("ceiling", one.text, one.short, one.models, why=one.why) for one in told]


# ---------------------------------------------------------------------------- gaps and estimates


def _of_the_gap(scores: ScoreArrays) -> list[Limit]:
    """What cells miss of the effect they should add up to, and which integrals stopped short."""
    text = gap_of_steps(scores) if scores.has_steps else gap_in_words(scores)
    short = text if scores.has_steps else text.partition(" of ")[0]
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
    sufficiency the base, in necessity the student): part of every number is then of these.
    """
    gates = scores.record.answer_gate
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
