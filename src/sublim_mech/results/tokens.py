"""The tokens of one prompt, as the heatmap and the token page show them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..hints import counted
from .arrays import ScoreArrays
from .cells import verdicts
from .words import shortened

_VISIBLE = str.maketrans({"\n": "↵", "\r": "\\r", "\t": "⇥", " ": "␣"})


RAW_ROLE = "text"
"""Role of the tokens of raw text, which has no template."""


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of one prompt and of its answers, without the padding behind them.

    Attributes:
        name: the prompt's label in the scores.
        question: what was asked.
        real: `(position,)` which positions of the scores they are.
        texts, roles: `(token,)`.
        sharing: `(token,)`; None where prompts are not marked.
        effect: `(token,)` headline.
        noise: `(token,)` whether it is not distinguishable from 0 over all prompts; False where
            that was not tested.
        untested: `(token,)` whether it was not tested because too few of the prompts have it; False
            where there are too few prompts for any test.
        coarse: `(token,)` whether it shows the value of a span that was not refined; None where no
            span was.
    """

    name: int
    question: str
    real: np.ndarray
    texts: np.ndarray
    roles: np.ndarray
    sharing: np.ndarray | None
    effect: np.ndarray
    noise: np.ndarray
    untested: np.ndarray
    coarse: np.ndarray | None = None


def prompt_tokens(scores: ScoreArrays, prompt: int) -> PromptTokens:
    """The tokens of a prompt.

    Raises:
        IndexError: no such prompt.
        ValueError: no position axis; both directions.
    """
    check_prompt(scores, prompt)
    roles = scores.positions("role")[prompt]
    real = roles != ""  # past the end of a shorter prompt there is no role
    sharing = None
    if "sharing" in scores.data.coords:
        sharing = scores.positions("sharing")[prompt, real]
    coarse = None
    if "coarse" in scores.data.coords:
        shown = np.isfinite(scores.token_effect()[prompt, real])
        coarse = scores.positions("coarse")[prompt, real].astype(bool) & shown
    nothing = np.zeros(int(real.sum()), bool)
    test = verdicts(scores, prompt, tokens=True)
    return PromptTokens(
        name=scores.data["prompt"].values[prompt],
        question=str(scores.data["question"].values[prompt]),
        real=real,
        texts=scores.positions("token")[prompt, real],
        roles=roles[real],
        sharing=sharing,
        effect=scores.token_effect()[prompt, real],
        noise=nothing if test is None else test.noise[real],
        untested=nothing if test is None else test.untested[real],
        coarse=coarse,
    )


def check_prompt(scores: ScoreArrays, prompt: int) -> None:
    """Raise IndexError where there is no such prompt."""
    prompts = scores.data.sizes["prompt"]
    if not 0 <= prompt < prompts:
        raise IndexError(
            f"prompt={prompt}: these scores have {counted(prompts, 'prompt')}; choose 0 to "
            f"{prompts - 1}."
        )


def visible(token: str) -> str:
    """A token's text with white space and control characters shown."""
    shown = token.translate(_VISIBLE)
    return "".join(c if c.isprintable() else _escaped(c) for c in shown)


def label(token: str) -> str:
    """`visible`, cut where it would crowd out the rest."""
    return shortened(visible(token), 24)


def _escaped(character: str) -> str:
    """A character as Python writes it, where two digits are enough; else its code point."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{{{code:x}}}"
