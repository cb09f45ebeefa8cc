"""Concentration: does a set of tokens carry more of the effect than its share of tokens?

1. The effect on the prompt's tokens, all cells together, is what shares are shares of. The answer's
   own tokens, which follow the prompt, are no part of it; what they carry stands beside it.
2. The share of that (signed) effect that falls on the set, all prompts together, beside its share
   of absolute mass and its share of the prompt's tokens.
3. A confidence interval of the share from resampling prompts.
4. A null: the shares the set would have elsewhere, shifted cyclically through the prompt, by the
   same shift in all prompts, for prompts share their layout (`null`).
5. Of a selection of cells the share is still one of the whole effect. What it is compared with is
   what the set would have, were the selection's effect spread evenly over its tokens.
6. Where the effect is inside its own noise, no share is given.
7. What all cells together miss of the total effect (the completeness gap) may belong anywhere. The
   verdict is found three times more: with all of it on the set, on the other tokens, and in cells
   that were not selected. Where student and controls miss effects that cancel in the headline, each
   may be in another of these places. Where verdicts differ there is none.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from ..arguments import checked
from ..hints import counted, nearest, signed
from ..prompts import ANSWER, CLASSES, ROLES, SHARED, UNIONS
from ..prompts.shared import none_shared
from ..stats import FEWEST, mean_interval
from . import mask_code
from .arrays import ScoreArrays, holding_whole
from .completeness import missing_by_sign
from .evidence import Asked, Shared, find, verdict, with_gap
from .held import notes_held
from .limit_kinds import Limit
from .limits import limits
from .limits_of_effects import of_the_controls, of_the_sign
from .limits_of_students import over_contexts, voided
from .null import layout, too_few_places
from .record import (
    ELSEWHERE,
    FIRST_MARKS,
    GATED,
    LEARNT,
    ONE_VALUE,
    OTHER_MARKS,
    OTHER_PIECES,
    OTHER_TRAIT,
    REPEATED,
)
from .report import warning
from .rounding import is_rounding, shares_of_total
from .tables import answer_is_fed, in_words, unchanged
from .words import percent


@dataclass(frozen=True, kw_only=True)
class Concentration:
    """The share of an effect that falls on a token set, beside what chance would give it.

    *The prompt's effect* is the effect on the prompt's tokens, all cells together.

    Attributes:
        on: the token set.
        of: whose effect (student minus controls, or the student alone).
        share: its share of the prompt's effect, signed; NaN where that is inside its own noise.
        low, high: 95 % bootstrap interval of the share over prompts.
        absolute_share: its share of the sum of absolute effects of tokens (of a selection: in these
            cells).
        token_share: its share of the prompt's tokens.
        tokens: mean number of its tokens per prompt.
        expected: the share it would have, were the effect of these cells spread evenly over their
            tokens: the token share times `part`.
        excess_low, excess_high: 95 % bootstrap interval of share minus expected.
        enrichment: share over expected; NaN where expected is not positive.
        null_low, null_high: 95 % of the shares that the set has when it is shifted.
        p: in how many of its places it has at least this share (one-sided).
        p_less: in how many it has at most this share.
        effect: the prompt's effect, mean over prompts, in `unit`, with its 95 % interval
            `(effect_low, effect_high)`.
        prompts: number of prompts.
        unit: unit of the effect.
        cells: the selection of cells in words; empty where these are all.
        mask: the same as the Python that gives their mask.
        part: share of the prompt's effect that these cells have on all its tokens; 1 of all cells.
        answer_effect: mean effect on the answer's own tokens, all cells.
        answer_share: the same over the total effect; NaN where that is inside its own noise.
        total: mean total effect, of prompt and answer.
        missing: mean total effect minus what all cells add up to (the completeness gap).
        gaps: the same without cancelling: sizes of what cells of student and controls miss, added
            up as they are in the headline; NaN where that is not known.
        undecided: `more`, `less` or `more or less`: what could be so of the set, as the gap may be
            on it or off it; empty where the verdict is the same either way.
        warning: that `confirm` found exact values to disagree; empty where it did not.
        controls: that a large part of the effect is the controls' fall (or rise), which shares
            then hold too; empty where it is not.
        sign: that the effect is negative, and what shares are then parts of; empty where it is not.
        limits: what else the sentence has to be read with: contexts that are several, not those of
            training or not given, no controls, controls that were not trained alike, students that
            act at some tokens only, sums of students.
        model: the only one of several that these scores hold; empty of all of them.
        places: in how many the null has the set, so that no p is below one in so many; 0 where that
            is not known.
        answered: whether any token of an answer is fed (none of answers of one token).
    """

    on: str
    of: str
    share: float
    low: float
    high: float
    absolute_share: float
    token_share: float
    tokens: float
    expected: float
    excess_low: float
    excess_high: float
    enrichment: float
    null_low: float
    null_high: float
    p: float
    p_less: float
    effect: float
    effect_low: float
    effect_high: float
    prompts: int
    unit: str
    cells: str = ""
    mask: str = ""
    part: float = 1.0
    answer_effect: float = 0.0
    answer_share: float = float("nan")
    total: float = float("nan")
    missing: float = 0.0
    gaps: float = float("nan")
    undecided: str = ""
    warning: str = ""
    controls: str = ""
    sign: str = ""
    limits: tuple[str, ...] = ()
    model: str = ""
    places: int = 0
    answered: bool = True

    @property
    def turned(self) -> bool:
        """Whether the verdict would be another one, were the gap on the set or off it."""
        return bool(self.undecided)

    @property
    def direction(self) -> str:
        """`more` or `less` than expected, where interval and null both say so, wherever the
        completeness gap may belong; else empty, as it is of fewer prompts than `stats.FEWEST`.
        """
        if self.prompts < FEWEST or self.turned:
            return ""
        return verdict(self.excess_low, self.excess_high, self.p, self.p_less)

    @property
    def gap(self) -> float:
        """Completeness gap over the prompt's effect, signed."""
        return self.missing / self.effect if self.effect else float("nan")

    @property
    def _most(self) -> float:
        """The largest part of the prompt's effect that gaps may be, where they do not cancel."""
        gaps = abs(self.missing) if np.isnan(self.gaps) else self.gaps
        return gaps / abs(self.effect) if self.effect else float("nan")

    def _apart(self) -> str:
        """That gaps of student and controls cancel, and what they are together; empty where they
        hardly do.
        """
        if not self._most > max(LARGE_GAP, 2 * abs(self.gap)):
            return ""
        return (
            f"; the student's and the controls', which cancel in it, come to {self.gaps:z.3f} "
            f"{self.unit}, {self._most:z.1%}"
        )

    @property
    def conclusion(self) -> str:
        """What the numbers say: a sentence, one on the answer's own tokens where any carry, one
        where much of the effect is the controls', one where it is negative, one where exact values
        disagree with the attribution, and the exact check.
        """
        return " ".join(self._sentences())

    def _sentences(self) -> list[str]:
        parts = (
            self._verdict(), self._answer(), self.controls, self.sign, *self.limits, self.warning,
            self.exact_check,
        )  # fmt: skip
        return [part for part in parts if part]

    @property
    def exact_check(self) -> str:
        """Which call measures what these shares, which are an attribution's, stand for; empty where
        there are none.
        """
        if np.isnan(self.share):
            return ""
        kind = next((kind for kind, names in _SETS.items() if self.on in names), "")
        tokens = mask_code.of_tokens(kind, self.on) if kind else "tokens"
        name = "chosen" if self.mask or not kind else self.on
        sets = f"{{{name!r}: {' & '.join(filter(None, [tokens, self.mask]))}}}"
        if kind == "sharing" and not self.mask:  # sets='role' is refused of raw text, a mask never
            sets = repr(kind)
        of = f" of {self.on!r}" if kind and not self.mask else ""
        which = "" if kind else ", where tokens is a mask of the same tokens"
        return (
            f"Exact check: sufficiency and necessity{of} in sm.graft(pair, prompts, trait, "
            f"sets={sets}){self._of_model()}{which}."
        )

    def _of_model(self) -> str:
        return f".sel(model={self.model!r})" if self.model else ""

    def _why_none(self) -> str:
        """Why there is no share: an effect outside its noise is of the size of rounding."""
        stands_out = self.effect_low > 0 or self.effect_high < 0
        return ROUNDING if stands_out or (self.prompts == 1 and self.effect) else NOISE

    def _verdict(self) -> str:
        if np.isnan(self.share):
            where = f"the effect on the prompt's tokens{self._all_cells()}"
            missed = ""
            if abs(self.missing) > LARGE_GAP * abs(self.effect):
                missed = f", and all cells miss {signed(self.missing)} {self.unit}; raise points"
            return f"No conclusion: {where} ({self._effect()}) {self._why_none()}{missed}."
        if self.prompts < FEWEST:
            chance = 2 ** (1 - self.prompts)
            few = (
                "one prompt has no interval"
                if self.prompts == 1
                else (
                    f"{self.prompts} prompts are too few: that all of them lean one way happens by "
                    f"chance in {chance:z.0%} of cases"
                )
            )
            return f"No conclusion: {few}; score at least {FEWEST}."
        if too_few := too_few_places(self.places):
            return too_few
        if self.turned:
            return self._cannot_tell()
        digits = self._digits()
        share, low, high = (percent(x, digits) for x in (self.share, self.low, self.high))
        carried = f"{share} of the prompt's effect on {self.token_share:z.0%} of its tokens"
        cells = ""
        if self.cells:
            cells = f" in {self.cells}"
            part, expected = percent(self.part, digits), percent(self.expected, digits)
            even = f"{part} spread evenly would give {expected}"
            carried += f", where {even}"
        chance = f"{self._null(digits)}, {self._p()}"
        if self.direction:
            times = "" if np.isnan(self.enrichment) else f", {self.enrichment:z.2f} times"
            name = self.on[0].upper() + self.on[1:]
            than = f"{name} tokens carry {self.direction} than their share{cells}"
            return f"{than}: {carried}{times} ({chance})."
        return (
            f"No evidence that {self.on} tokens carry more than their share{cells}: {carried} "
            f"(95 % {low} to {high}; {chance}){self._whatever_is_missed()}."
        )

    def _whatever_is_missed(self) -> str:
        """Where nothing is found beside a large gap, that it turns nothing, and what it does do."""
        if not self._most > LARGE_GAP:
            return ""
        return (
            f"; nor with all that cells miss ({signed(self.missing)} {self.unit}, completeness gap "
            f"{abs(self.gap):z.0%} of the prompt's effect{self._apart()}) put on the set, or off "
            "it, though shares are off by as much: raise points"
        )

    def _cannot_tell(self) -> str:
        where = f" in {self.cells}" if self.cells else ""
        whole = ""
        if not np.isnan(self.total):
            found = signed(self.total - self.missing)
            whole = f"all cells together, those of the answer's tokens too, add up to {found} of "
            whole += f"the total effect of {signed(self.total)} {self.unit} and "
        # what is missing of their difference may be next to nothing
        which = "; what student and controls miss apart" if self._apart() else ", which"
        return (
            f"Cannot tell whether {self.on} tokens carry {self.undecided} than their share{where}: "
            f"{whole}miss {signed(self.missing)} {self.unit}{which} could turn the verdict "
            f"(completeness gap {abs(self.gap):z.0%} of the prompt's effect{self._apart()}); raise "
            "points."
        )

    def _answer(self) -> str:
        if signed(self.answer_effect) == signed(0):
            return ""
        whose = "The answer's own tokens, which are none of the prompt's,"
        return f"{whose} carry {self._carried()}."

    def _all_cells(self) -> str:
        """That a number is of all cells, where a selection of them is told of."""
        return ", all cells" if self.cells else ""

    def _carried(self) -> str:
        told = in_words(self.answer_effect, self.answer_share, self.unit)
        return f"{told}{self._all_cells()}"

    def _effect(self) -> str:
        interval = ""
        if not np.isnan(self.effect_low):
            interval = f", 95 % {signed(self.effect_low)} to {signed(self.effect_high)}"
        return f"{signed(self.effect)} {self.unit}{interval}"

    def _digits(self) -> int:
        """Of the sentence's shares: one where most of the effect is in other cells, or where one of
        them would be 0 that the rows above it do not have as 0.
        """
        told = (self.share, self.low, self.high, self.null_low, self.null_high)
        lost = any(percent(x) == "0%" and percent(x, 1) != "0.0%" for x in told)
        return 1 if self.cells or lost else 0

    def _null(self, digits: int) -> str:
        low, high = percent(self.null_low, digits), percent(self.null_high, digits)
        return f"shifted sets: {low} to {high}"

    def _p(self) -> str:
        """The p of the sentence's own direction; `more` is what is asked where none is found."""
        p = self.p_less if self.direction == "less" else self.p
        return f"p = {p:.2g}"

    def __repr__(self) -> str:
        cells = f", {self.cells}" if self.cells else ""
        prompts = counted(self.prompts, "prompt")
        lines = [f"concentration on {self.on} tokens ({self.of}, {prompts}{cells})"]
        lines.append(f"  the prompt's effect {self._effect()}, all cells")
        if np.isnan(self.share):
            lines.append("  share of effect     not given")
        else:
            interval = f"95 % {percent(self.low, 1)} to {percent(self.high, 1)}"
            if np.isnan(self.low):
                interval = "one prompt: no interval"
            of = " of the prompt's effect, all cells" if self.cells else ""
            lines.append(f"  share of effect     {percent(self.share, 1)}{of} ({interval})")
            if self.cells:
                lines.append(
                    f"  share of the cells  {percent(self.part, 1)} on all tokens; spread evenly, "
                    f"{percent(self.expected, 1)} on this set"
                )
        enriched = "" if np.isnan(self.enrichment) else f", enrichment {self.enrichment:z.2f}"
        lines.append(
            f"  share of tokens     {self.token_share:z.1%} of the prompt's "
            f"({self.tokens:z.1f} {'token' if self.tokens == 1 else 'tokens'} per prompt){enriched}"
        )
        if not np.isnan(self.absolute_share):
            where = " of these cells" if self.cells else ""
            lines.append(f"  absolute share      {self.absolute_share:z.1%}{where}")
        if not np.isnan(self.share):
            lines.append(f"  {self._null(1).replace(':', '       ')}, {self._p()}")
            gap = abs(self.gap)
            lines.append(
                f"  completeness gap    {signed(self.missing)} {self.unit}, {gap:z.1%} of the "
                f"prompt's effect{self._all_cells()}{self._apart()}"
            )
        carried = self._carried() if self.answered else "none is fed: the prompt's carry all"
        lines.append(f"  the answer's tokens {carried}")
        return "\n".join([*lines, *(f"  {sentence}" for sentence in self._sentences())])


_SETS = {
    "role": (*ROLES, *UNIONS["role"]),
    "sharing": (*CLASSES, *UNIONS["sharing"]),
}
"""The sets of tokens that `graft(sets=...)` has under the same names."""

NOISE = "is inside its own noise"
ROUNDING = "is of the size of rounding"
LARGE_GAP = 0.05
"""Completeness gap over the prompt's effect that is told where nothing is found."""


def _sentence(limits: Sequence[Limit]) -> str:
    return " ".join(f"{limit.text[:1].upper()}{limit.text[1:]}." for limit in limits)


@checked
def concentration(
    scores: ScoreArrays, *, on: str | np.ndarray = "shared", draws: int = 2000, seed: int = 0
) -> Concentration:
    """Compare the share of the prompt's effect on a token set with its share of tokens.

    Args:
        scores: attributions, whose cells add up to the effect; or some of their cells
            (`scores.sel(layer=29)`), whose shares are of the whole effect all the same.
        on: `shared` (prefix or aligned), `not shared`, a sharing class, a role, or a bool array
            `(prompt, position)` of the prompt's tokens.
        draws: number of bootstrap resamples.
        seed: of them.

    Raises:
        ValueError: the set is empty in every prompt, or all of every prompt, unknown, or holds the
            answer's own tokens; the scores do not add up to an effect that could be shared out, or
            are some of its cells and do not know it; no student changes anything in them.

    Example:
        >>> scores = sm.attribute(pair, prompts, trait, points=4, progress=False)
        >>> on_shared = sm.concentration(scores, on="shared")
        >>> bool(0 < on_shared.token_share < 1)
        True
    """
    if draws < 1:
        raise ValueError(f"draws={draws}: at least one is needed; 2000 is the default.")
    if not scores.additive:
        raise ValueError(
            f"{scores.kind} scores do not add up over tokens, so nothing is concentrated in them; "
            "take attribute(...), or read sufficiency and necessity of graft(sets='sharing')."
        )
    scores = holding_whole(scores)
    prompt_effect, answer_effect = scores.prompt_effect.values, scores.answer_effect.values
    effect = scores.token_effect()
    real = scores.of_prompt.values
    inside = _token_set(scores, on) & real
    name = on if isinstance(on, str) else "chosen"
    given = f"on={on!r}" if isinstance(on, str) else "on, a bool array"
    if not inside.any():
        raise ValueError(f"{given}: {_empty(scores, name)}.")
    if not (real & ~inside).any():
        raise ValueError(f"{given}: {_whole(scores)}.")
    if not np.isfinite(effect[real]).any():
        raise ValueError(
            f"these scores hold no effect ({scores.selection()}): no student changes anything "
            "there; select other cells."
        )

    if nothing := unchanged(scores):
        raise ValueError(f"these scores hold no effect: {nothing}; select other cells.")

    effect = np.where(real & np.isfinite(effect), effect, 0.0)
    lengths = scores.prompt_tokens
    total = mean_interval(prompt_effect, seed=seed)
    asked = Asked(inside, real, layout(scores), draws, seed)
    shared = Shared(effect, prompt_effect)
    missing = missing_by_sign(scores)
    filled = with_gap(shared, missing, asked, selected=bool(scores.selected))
    found, *others = find([shared, *filled], asked)
    with np.errstate(divide="ignore", invalid="ignore"):
        absolute = (np.abs(effect) * inside).sum() / np.abs(effect).sum()
    gaps = np.abs(missing.mean(1)).sum()
    # beyond that the cells say nothing of the effect
    open_to_all = gaps > 0.5 * abs(prompt_effect.mean()) > 0
    undecided = _undecided({one.direction for one in (found, *others)}, open_to_all)

    # a share of an effect that may be 0 says nothing
    noisy = prompt_effect.sum() == 0 or (len(effect) > 1 and not bool(total.excludes_zero))
    noisy = noisy or is_rounding(prompt_effect, scores)

    def unless_noisy(value: float) -> float:
        return float("nan") if noisy else float(value)

    expected, poor = asked.even * found.part, warning(scores)
    return Concentration(
        on=name,
        of=scores.headline_name,
        share=unless_noisy(found.share),
        low=unless_noisy(found.low),
        high=unless_noisy(found.high),
        absolute_share=float(absolute),
        token_share=float(inside.sum() / (real.sum() if lengths is None else lengths.sum())),
        tokens=float(inside.sum(1).mean()),
        expected=unless_noisy(expected),
        excess_low=unless_noisy(found.excess_low),
        excess_high=unless_noisy(found.excess_high),
        enrichment=unless_noisy(found.share / expected if expected > 0 else np.nan),
        null_low=unless_noisy(found.null_low),
        null_high=unless_noisy(found.null_high),
        p=unless_noisy(found.p),
        p_less=unless_noisy(found.p_less),
        effect=float(total.mean),
        effect_low=float(total.low),
        effect_high=float(total.high),
        prompts=len(effect),
        unit=scores.unit,
        cells=scores.selection(),
        mask=mask_code.of_selection(scores),
        part=unless_noisy(found.part),
        answer_effect=float(answer_effect.mean()),
        answer_share=float(shares_of_total(scores, answer_effect, seed=seed).mean),
        total=float(scores.total.mean()),
        missing=float(scores.missing.mean()),
        gaps=float(gaps),
        undecided=undecided,
        warning="" if poor is None else f"{poor}.",
        controls=_sentence(of_the_controls(scores)),
        sign=_sentence(of_the_sign(scores)),
        model=chosen[0]
        if len(chosen := scores.data["model"].values.tolist()) == 1
        and len(scores.record.students) > 1
        else "",
        limits=tuple(f"{line[:1].upper()}{line[1:]}." for line in _read_with(scores)),
        places=found.places,
        answered=answer_is_fed(scores),
    )


def _undecided(directions: Set[str], open_to_all: bool) -> str:
    """See `Concentration.undecided`.

    Args:
        directions: the verdicts that differ by where the gap is.
        open_to_all: that it is too large for any of them.
    """
    if len(directions) == 1 and not open_to_all:
        return ""
    named = [way for way in ("more", "less") if way in directions]
    return " or ".join(named or ["more", "less"])


def _read_with(scores: ScoreArrays) -> list[str]:
    """What a share of these scores has to be read with, whoever quotes it without their table."""
    told = [over_contexts(scores)]
    gated = sum(GATED in note for note in notes_held(scores))
    elsewhere = "elsewhere there is no effect to find"
    if gated < scores.data.sizes["model"]:
        elsewhere = "elsewhere is nothing of these students, and what stands there is the others'"
    for limit in limits(scores):
        whose = f"{', '.join(limit.models)}: " if limit.models else ""
        if limit.kind == "gated":
            told.append(f"{limit.short}: {elsewhere}")
        elif limit.kind not in _TOLD:
            told.append(f"{whose}{limit.short}")
    told += voided(scores)
    told += [note for note in notes_held(scores) if any(one in note for one in _TO_READ)]
    return [line for line in told if line]


_TO_READ = (
    OTHER_TRAIT,
    REPEATED,
    LEARNT,
    ELSEWHERE,
    ONE_VALUE,
    OTHER_MARKS,
    FIRST_MARKS,
    OTHER_PIECES,
)
"""What notes hold that belong to a share."""

_TOLD = ("noise", "controls", "sign", "intervals", "gap", "answer")
"""Limits that the verdict itself is of."""


def _token_set(scores: ScoreArrays, on: str | np.ndarray) -> np.ndarray:
    """`(prompt, position)` bool."""
    if isinstance(on, np.ndarray):
        shape = scores.of_prompt.shape
        if on.shape != shape or on.dtype != bool:
            raise ValueError(
                f"on: an array must be bool of shape (prompt, position) = {shape}, got "
                f"{on.dtype} {on.shape}."
            )
        if (on & scores.of_answer.values).any():
            raise ValueError(
                "on: the array holds answer tokens, which are none of the prompt's; pass "
                "on & (scores.positions('role') != 'answer'). What they carry is in by('role')."
            )
        return on
    if on == ANSWER:
        raise ValueError(
            "on='answer': shares are of the effect on the prompt's tokens, and the answer's own "
            "are none of them; what they carry is in scores.by('role') and beside every "
            "concentration."
        )
    if on in UNIONS["sharing"]:
        return np.isin(scores.positions("sharing"), UNIONS["sharing"][on])
    if on in CLASSES:
        return scores.positions("sharing") == on
    if on in ROLES:
        return scores.positions("role") == on
    classes = set(_there(scores, "sharing", CLASSES))
    unions = [name for name, of in UNIONS["sharing"].items() if classes & {*of} and classes - {*of}]
    there = [*unions, *_there(scores, "sharing", CLASSES), *_there(scores, "role", ROLES)]
    raise ValueError(f"on={on!r} is not known; {_choose(there)}{nearest(on, there) or '.'}")


def _empty(scores: ScoreArrays, on: str) -> str:
    """Why a set holds no token, and which sets there are instead."""
    told = "no token of any prompt is in this set"
    roles = set(scores.positions("role")[scores.of_prompt.values])
    there = _there(scores, "role", ROLES)
    if on in CLASSES or on in UNIONS["sharing"]:
        classes = set(scores.positions("sharing")[scores.of_prompt.values])
        nothing = none_shared(classes, raw=roles <= {"bos", "text"})
        if nothing and on in (*SHARED, "shared"):
            told += f": {nothing}"
        there = [*_there(scores, "sharing", CLASSES), *there]
    return f"{told}; {_choose(there)}"


def _whole(scores: ScoreArrays) -> str:
    """Why a set that holds every token is compared with nothing, and which sets there are."""
    there = [*_there(scores, "role", ROLES), *_there(scores, "sharing", CLASSES)]
    told = "it holds every token of every prompt, so its share is 100 % whatever was learned"
    return f"{told}; {_choose(there)}"


def _there(scores: ScoreArrays, by: str, names: Sequence[str]) -> list[str]:
    """Which of these roles or classes some of the prompts' tokens have, and not all of them, which
    would be refused; of prompts without marks none.
    """
    if by not in scores.data.coords:
        return []
    of_tokens = scores.positions(by)[scores.of_prompt.values]
    return [name for name in names if (of_tokens == name).any() and (of_tokens != name).any()]


def _choose(there: Sequence[str]) -> str:
    if not there:
        return "pass a bool array of some of them"
    return f"choose one of {', '.join(map(repr, there))}, or pass a bool array of some"


TOKEN_SETS = tuple(name for name in (*UNIONS["sharing"], *CLASSES, *ROLES) if name != ANSWER)
"""What `concentration` takes by name."""
