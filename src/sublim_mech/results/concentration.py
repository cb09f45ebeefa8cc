"""Concentration: does a set of tokens carry more of the effect than its share of tokens?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..prompts import CLASSES, ROLES, SHARED
from ..stats import bootstrap_weights, mean_interval, random_like
from .scores import Scores


@dataclass(frozen=True)
class Concentration:
    """The share of an effect that falls on a token set, beside what chance would give it.

    Attributes:
        on: the token set.
        of: whose effect (student minus controls, or the student alone).
        share: its share of the signed effect; NaN where the effect is inside its own noise.
        low, high: 95 % bootstrap interval of the share over prompts.
        absolute_share: its share of the sum of absolute token effects.
        token_share: its share of all scored tokens (answer tokens included).
        tokens: mean number of its tokens per prompt.
        enrichment: share over token share.
        null_low, null_high: 95 % of the shares of random token sets of the same size and as contiguous.
        p: how often such a random set has at least this share (one-sided).
        p_less: how often it has at most this share.
        effect: the mean effect, in `unit`, with its 95 % interval `(effect_low, effect_high)`.
        prompts: number of prompts.
        unit: unit of the effect.
    """

    on: str
    of: str
    share: float
    low: float
    high: float
    absolute_share: float
    token_share: float
    tokens: float
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

    @property
    def conclusion(self) -> str:
        """What the numbers say, in one sentence."""
        if self.prompts == 1:
            return "No conclusion: one prompt has no interval; score several."
        if np.isnan(self.share):
            return (
                f"No conclusion: the effect ({self.effect:+.3f} {self.unit}, 95 % {self.effect_low:+.3f} to {self.effect_high:+.3f}) is "
                "inside its own noise."
            )
        found = f"{self.share:.0%} of the effect on {self.token_share:.0%} of the tokens"
        less = self.share < self.token_share
        chance = f"random sets: {self.null_low:.0%} to {self.null_high:.0%}, p = {self.p_less if less else self.p:.2g}"
        name = self.on.capitalize()
        if self.low > self.token_share and self.p < 0.05:
            return f"{name} tokens carry more than their share: {found}, {self.enrichment:.2f} times ({chance})."
        if self.high < self.token_share and self.p_less < 0.05:
            return f"{name} tokens carry less than their share: {found}, {self.enrichment:.2f} times ({chance})."
        return (
            f"No evidence that {self.on} tokens carry more than their share: {found} "
            f"(95 % {self.low:.0%} to {self.high:.0%}; {chance})."
        )

    def __repr__(self) -> str:
        return "\n".join([
            f"concentration on {self.on} tokens ({self.of}, {self.prompts} prompts)",
            f"  share of effect   {self.share:.1%}  (95 % {self.low:.1%} to {self.high:.1%})",
            f"  share of tokens   {self.token_share:.1%}  ({self.tokens:.1f} tokens per prompt), enrichment {self.enrichment:.2f}",
            f"  absolute share    {self.absolute_share:.1%}",
            f"  random token sets {self.null_low:.1%} to {self.null_high:.1%}, p = {self.p:.3g}",
            f"  {self.conclusion}",
        ])  # fmt: skip


def concentration(scores: Scores, *, on: str | np.ndarray = "shared", draws: int = 2000, seed: int = 0) -> Concentration:
    """Compare the share of the effect on a token set with its share of tokens.

    Args:
        scores: attributions, whose cells add up to the effect (answer tokens included).
        on: `shared` (prefix or aligned), a sharing class, a role, or a bool array `(prompt, position)`.
        draws: number of bootstrap resamples and of random sets.
        seed: of both.

    Raises:
        ValueError: the set is empty in every prompt, or unknown; the scores do not add up to an effect that could be shared out.

    Example:
        >>> scores = sm.attribute(pair, prompts, trait, points=4, progress=False)
        >>> found = sm.concentration(scores, on="shared")
        >>> bool(0 < found.token_share < 1)
        True
    """
    if not scores.additive:
        raise ValueError(
            f"{scores.kind} effects do not add up, so they have no shares; use attribute(...) or graft(sets='sharing')."
        )
    effect = scores.token_effect()
    real = np.isfinite(effect)
    inside = _inside(scores, on) & real
    name = on if isinstance(on, str) else "chosen"
    if not inside.any():
        raise ValueError(f"on={name!r}: no token of any prompt is in this set.")
    cells = np.where(real, effect, 0.0)
    part, whole = (cells * inside).sum(1), cells.sum(1)
    total = mean_interval(whole, seed=seed)
    noisy = len(whole) > 1 and not bool(total.excludes_zero)
    null = np.zeros(draws)
    for row, mine, n in zip(cells, inside, real.sum(1), strict=True):
        alike = np.random.default_rng(seed)  # one placement per draw for all prompts: they share their layout
        null += random_like(mine[:n], draws, alike, width=real.shape[1] + 1) @ row[:n]
    null /= whole.sum()
    share = part.sum() / whole.sum()
    weights = bootstrap_weights(len(whole), draws=draws, seed=seed)
    low, high = np.percentile((weights @ part) / (weights @ whole), [2.5, 97.5]) if len(whole) > 1 else (np.nan, np.nan)
    token_share = inside.sum() / real.sum()
    null_low, null_high = np.percentile(null, [2.5, 97.5])
    nan = float("nan")
    return Concentration(
        on=name,
        of=scores.headline_name,
        share=nan if noisy else float(share),
        low=nan if noisy else float(low),
        high=nan if noisy else float(high),
        absolute_share=float((np.abs(cells) * inside).sum() / np.abs(cells).sum()),
        token_share=float(token_share),
        tokens=float(inside.sum(1).mean()),
        enrichment=nan if noisy else float(share / token_share),
        null_low=nan if noisy else float(null_low),
        null_high=nan if noisy else float(null_high),
        p=nan if noisy else float((1 + (null >= share - 1e-12).sum()) / (1 + draws)),
        p_less=nan if noisy else float((1 + (null <= share + 1e-12).sum()) / (1 + draws)),
        effect=float(total.mean),
        effect_low=float(total.low),
        effect_high=float(total.high),
        prompts=len(whole),
        unit=scores.unit,
    )


def _inside(scores: Scores, on: str | np.ndarray) -> np.ndarray:
    if isinstance(on, np.ndarray):
        shape = scores.token_effect().shape
        if on.shape != shape or on.dtype != bool:
            raise ValueError(f"on: an array must be bool of shape (prompt, position) = {shape}, got {on.dtype} {on.shape}.")
        return on
    if on == "shared":
        return np.isin(scores.positions("sharing"), SHARED)
    if on in CLASSES:
        return scores.positions("sharing") == on
    if on in ROLES:
        return scores.positions("role") == on
    raise ValueError(f"on={on!r} is not known; choose 'shared', one of {', '.join((*CLASSES, *ROLES))}, or pass a bool array.")
