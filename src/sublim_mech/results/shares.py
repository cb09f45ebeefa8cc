"""Concentration: does a set of tokens carry more of the effect than its share of tokens?

1. The share of the signed effect that falls on the set, all prompts together, beside its share of
   absolute mass and its share of the tokens.
2. A confidence interval of the share from resampling prompts.
3. A null: the shares of random token sets of the same size and as contiguous, placed the same way
   in all prompts, for prompts share their layout.
4. Where the total effect is inside its own noise, no share is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..prompts import CLASSES, ROLES, SHARED
from ..stats import bootstrap_weights, mean_interval, random_like
from .arrays import ScoreArrays


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
        null_low, null_high: 95 % of the shares of random token sets of the same size and as
            contiguous.
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
                f"No conclusion: the effect ({self.effect:+.3f} {self.unit}, 95 % "
                f"{self.effect_low:+.3f} to {self.effect_high:+.3f}) is inside its own noise."
            )
        shares = f"{self.share:.0%} of the effect on {self.token_share:.0%} of the tokens"
        p = self.p_less if self.share < self.token_share else self.p
        chance = f"random sets: {self.null_low:.0%} to {self.null_high:.0%}, p = {p:.2g}"
        times = f"{self.enrichment:.2f} times"
        name = self.on.capitalize()
        if self.low > self.token_share and self.p < 0.05:
            return f"{name} tokens carry more than their share: {shares}, {times} ({chance})."
        if self.high < self.token_share and self.p_less < 0.05:
            return f"{name} tokens carry less than their share: {shares}, {times} ({chance})."
        return (
            f"No evidence that {self.on} tokens carry more than their share: {shares} "
            f"(95 % {self.low:.0%} to {self.high:.0%}; {chance})."
        )

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"concentration on {self.on} tokens ({self.of}, {self.prompts} prompts)",
                f"  share of effect   {self.share:.1%}  (95 % {self.low:.1%} to {self.high:.1%})",
                f"  share of tokens   {self.token_share:.1%}  ({self.tokens:.1f} tokens per "
                "prompt), "
                f"enrichment {self.enrichment:.2f}",
                f"  absolute share    {self.absolute_share:.1%}",
                f"  random token sets {self.null_low:.1%} to {self.null_high:.1%}, p = "
                f"{self.p:.3g}",
                f"  {self.conclusion}",
            ]
        )


def concentration(
    scores: ScoreArrays, *, on: str | np.ndarray = "shared", draws: int = 2000, seed: int = 0
) -> Concentration:
    """Compare the share of the effect on a token set with its share of tokens.

    Args:
        scores: attributions, whose cells add up to the effect (answer tokens included).
        on: `shared` (prefix or aligned), a sharing class, a role, or a bool array
            `(prompt, position)`.
        draws: number of bootstrap resamples and of random sets.
        seed: of both.

    Raises:
        ValueError: the set is empty in every prompt, or unknown; the scores do not add up to an
            effect that could be shared out.

    Example:
        >>> scores = sm.attribute(pair, prompts, trait, points=4, progress=False)
        >>> on_shared = sm.concentration(scores, on="shared")
        >>> bool(0 < on_shared.token_share < 1)
        True
    """
    if not scores.additive:
        raise ValueError(
            f"{scores.kind} effects do not add up, so they have no shares; use attribute(...) or "
            "graft(sets='sharing')."
        )
    effect = scores.token_effect()
    real = np.isfinite(effect)
    inside = _token_set(scores, on) & real
    name = on if isinstance(on, str) else "chosen"
    if not inside.any():
        raise ValueError(f"on={name!r}: no token of any prompt is in this set.")

    # share of the effect, of all prompts together: sums over prompts, not a mean of ratios
    effect = np.where(real, effect, 0.0)
    on_set, whole = (effect * inside).sum(1), effect.sum(1)  # (prompt,)
    share = on_set.sum() / whole.sum()
    token_share = inside.sum() / real.sum()
    total = mean_interval(whole, seed=seed)

    # what other prompts would have given
    low, high = np.nan, np.nan
    if len(whole) > 1:
        weights = bootstrap_weights(len(whole), draws=draws, seed=seed)
        low, high = np.percentile((weights @ on_set) / (weights @ whole), [2.5, 97.5])

    # what other sets of tokens would have given
    null = _null(effect, inside, real, draws=draws, seed=seed) / whole.sum()
    null_low, null_high = np.percentile(null, [2.5, 97.5])
    at_least = (1 + (null >= share - 1e-12).sum()) / (1 + draws)
    at_most = (1 + (null <= share + 1e-12).sum()) / (1 + draws)

    # a share of an effect that may be 0 says nothing
    noisy = len(whole) > 1 and not bool(total.excludes_zero)

    def unless_noisy(value: float) -> float:
        return float("nan") if noisy else float(value)

    return Concentration(
        on=name,
        of=scores.headline_name,
        share=unless_noisy(share),
        low=unless_noisy(low),
        high=unless_noisy(high),
        absolute_share=float((np.abs(effect) * inside).sum() / np.abs(effect).sum()),
        token_share=float(token_share),
        tokens=float(inside.sum(1).mean()),
        enrichment=unless_noisy(share / token_share),
        null_low=unless_noisy(null_low),
        null_high=unless_noisy(null_high),
        p=unless_noisy(at_least),
        p_less=unless_noisy(at_most),
        effect=float(total.mean),
        effect_low=float(total.low),
        effect_high=float(total.high),
        prompts=len(whole),
        unit=scores.unit,
    )


def _null(
    effect: np.ndarray, inside: np.ndarray, real: np.ndarray, *, draws: int, seed: int
) -> np.ndarray:
    """`(draw,)`: the effect on random token sets, summed over prompts.

    Args:
        effect: `(prompt, position)`, 0 past a shorter prompt.
        inside: `(prompt, position)` the set.
        real: `(prompt, position)` tokens that were scored.
        draws: random sets.
        seed: of them.
    """
    width = real.shape[1] + 1
    on_random_sets = np.zeros(draws)
    for row, tokens, length in zip(effect, inside, real.sum(1), strict=True):
        # one placement per draw for all prompts: they share their layout, so each starts anew
        generator = np.random.default_rng(seed)
        sets = random_like(tokens[:length], draws, generator, width=width)
        on_random_sets += sets @ row[:length]
    return on_random_sets


def _token_set(scores: ScoreArrays, on: str | np.ndarray) -> np.ndarray:
    """`(prompt, position)` bool."""
    if isinstance(on, np.ndarray):
        shape = scores.token_effect().shape
        if on.shape != shape or on.dtype != bool:
            raise ValueError(
                f"on: an array must be bool of shape (prompt, position) = {shape}, got "
                f"{on.dtype} {on.shape}."
            )
        return on
    if on == "shared":
        return np.isin(scores.positions("sharing"), SHARED)
    if on in CLASSES:
        return scores.positions("sharing") == on
    if on in ROLES:
        return scores.positions("role") == on
    raise ValueError(
        f"on={on!r} is not known; choose 'shared', one of {', '.join((*CLASSES, *ROLES))}, or "
        "pass a bool array."
    )
