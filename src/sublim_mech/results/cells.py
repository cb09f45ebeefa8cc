"""Cells over all prompts: which tokens are the same place, and which cells differ from 0.

1. A place is a turn and role, the run of that role in the turn (0: before its content, 1: after it,
   for template tokens) and the token of the run, counted from its start. Of runs that are longer in
   some prompts the second half is counted from the end (-1: the last), so that last tokens meet.
2. Spans are places as a whole: counted in their run as tokens are. Where some were refined, the
   others stand where their first token does, apart from single tokens.
3. Prompts are lined up by place; a prompt without a place has no value there.
4. Every cell of the lined-up map is tested over prompts by sign flips with the largest |t| of the
   map (`stats.max_t`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..stats import FEWEST, max_t, mean_interval
from .arrays import ScoreArrays


@dataclass(frozen=True)
class Place:
    """Where in its prompt a token or a span stands; a whole one beside those that were refined."""

    turn: int
    role: str
    run: int
    index: int
    whole: bool = False


@dataclass(frozen=True)
class Runs:
    """`(prompt, position)` each: the run of its role in its turn, and which token or span of the
    run (from its end, below 0, in the second half of a run that is longer in some prompts).
    """

    run: np.ndarray
    index: np.ndarray


@dataclass(frozen=True)
class Alignment:
    """The places of all prompts in reading order.

    Attributes:
        places: P of them.
        of_token: `(prompt, position)`: the number of every token's place, -1 past a shorter prompt;
            the tokens of a span have one.
    """

    places: list[Place]
    of_token: np.ndarray


def count_runs(scores: ScoreArrays) -> Runs:
    """Runs of tokens of one role in one turn.

    Args:
        scores: per token.
    """
    if "run" in scores.data.coords:  # counted before some positions were chosen
        return Runs(scores.positions("run"), scores.positions("index"))
    roles, turns = scores.positions("role"), scores.positions("turn")
    run, index = np.zeros(roles.shape, int), np.zeros(roles.shape, int)
    cells = _cells_of_runs(scores)
    pieces: dict[tuple[int, str, int], list[tuple[int, slice]]] = {}
    for prompt, frames in enumerate(zip(turns.tolist(), roles.tolist(), strict=True)):
        start = 0
        runs_so_far: dict[tuple[int, str], int] = {}
        for turn_and_role, tokens in groupby(zip(*frames, strict=True)):
            stop = start + len(list(tokens))
            number = runs_so_far.get(turn_and_role, 0)
            run[prompt, start:stop] = number
            pieces.setdefault((*turn_and_role, number), []).append((prompt, slice(start, stop)))
            runs_so_far[turn_and_role] = number + 1
            start = stop
    for alike in pieces.values():
        counts = [np.cumsum(_begins(cells[at])) - 1 for at in alike]
        lengths = [counted[-1] + 1 for counted in counts]
        for at, counted, length in zip(alike, counts, lengths, strict=True):
            index[at] = counted
            if len(set(lengths)) > 1:
                index[at][counted >= (length + 1) // 2] -= length
    if "coarse" in scores.data.coords:
        _place_whole_spans(scores, index)
    return Runs(run, index)


def _cells_of_runs(scores: ScoreArrays) -> np.ndarray:
    """`(prompt, position)` numbers of what is counted: spans, or tokens (beside refined spans)."""
    if "span" in scores.data.coords and "coarse" not in scores.data.coords:
        return scores.positions("span")
    shape = scores.positions("role").shape
    return np.broadcast_to(np.arange(shape[1]), shape)


def _begins(numbers: np.ndarray) -> np.ndarray:
    """Whether each number is another one than that before it."""
    return np.r_[True, numbers[1:] != numbers[:-1]]


def _place_whole_spans(scores: ScoreArrays, index: np.ndarray) -> None:
    """All tokens of a span that was not refined stand where its first one does."""
    spans, coarse = scores.positions("span"), scores.positions("coarse").astype(bool)
    for of_prompt, numbers, whole in zip(index, spans, coarse, strict=True):
        for number in np.unique(numbers[whole]):
            of_prompt[numbers == number] = of_prompt[numbers == number][0]


def align(scores: ScoreArrays) -> Alignment:
    """Line up the tokens or spans of all prompts by place."""
    scores = scores.per_token()
    runs = count_runs(scores)
    # the fields of a place, `(prompt, position)` each
    fields = [scores.positions("turn"), scores.positions("role"), runs.run, runs.index]
    if "coarse" in scores.data.coords:
        fields.append(scores.positions("coarse").astype(bool))
    places_of_prompts = []
    for of_prompt in zip(*(field.tolist() for field in fields), strict=True):
        places_of_prompts.append([Place(*place) for place in zip(*of_prompt, strict=True)])
    # within a turn, places are read in the order of where they stand last in any prompt
    last_position: dict[Place, int] = {}
    for places in places_of_prompts:
        for position, place in enumerate(places):
            if place.role:  # past a shorter prompt there is none
                last_position[place] = max(position, last_position.get(place, 0))
    order = sorted(last_position, key=lambda place: (place.turn, last_position[place]))
    number = {place: i for i, place in enumerate(order)}
    of_token = [[number.get(place, -1) for place in places] for places in places_of_prompts]
    return Alignment(order, np.array(of_token))


def cells(scores: ScoreArrays) -> pd.DataFrame:
    """See `Scores.cells`."""
    layered = "layer" in scores.data["effect"].dims
    effect = scores.layer_effect().values if layered else scores.token_effect()[:, None]
    alignment = align(scores)
    lined_up = line_up(effect, alignment)
    test = max_t(lined_up)
    low, high = _bounds(lined_up)
    names, called = scores.block_names(), "span" if "span" in scores.data.coords else "token"
    refined = "refined" in scores.data.coords
    texts = _texts(scores, alignment)
    rows = []
    for layer, p in zip(*np.nonzero(test.n), strict=True):
        row = {"layer": scores.data["layer"].values[layer]} if layered else {}
        place = asdict(alignment.places[p])
        whole = place.pop("whole")
        row |= {"name": names[layer], **place, called: texts[p]}
        row |= {"refined": "no" if whole else "yes"} if refined else {}
        row |= {
            "n": int(test.n[layer, p]),
            "mean": test.mean[layer, p],
            "low": low[layer, p],
            "high": high[layer, p],
            "t": test.t[layer, p],
            "p": test.p[layer, p],
        }
        rows.append(row)
    return pd.DataFrame(rows)


def noise(scores: ScoreArrays, prompt: int, *, tokens: bool = False) -> np.ndarray | None:
    """See `Scores.noise`."""
    found = verdicts(scores, prompt, tokens=tokens)
    return None if found is None else found.noise | found.untested


class Verdicts(NamedTuple):
    """What the test over prompts says of a prompt's cells, `(layer, position)` or `(position,)`.

    Attributes:
        noise: which were tested and are not distinguishable from 0.
        untested: which too few prompts have.
    """

    noise: np.ndarray
    untested: np.ndarray


def verdicts(scores: ScoreArrays, prompt: int, *, tokens: bool = False) -> Verdicts | None:
    """The test that `Scores.noise` is of, what was not tested by itself; None where there are fewer
    than 6 prompts.
    """
    if tokens or "layer" not in scores.data["effect"].dims:
        effect = scores.token_effect()
    else:
        effect = scores.layer_effect().values
    if len(effect) < FEWEST:
        return None
    alignment = align(scores)
    test = max_t(line_up(effect, alignment))
    here, there = alignment.of_token[prompt], np.isfinite(effect[prompt])
    untested = np.isnan(test.p)[..., here] & there
    return Verdicts(test.noise[..., here] & there & ~untested, untested)


def line_up(effect: np.ndarray, alignment: Alignment) -> np.ndarray:
    """`(prompt, ..., position)` -> `(prompt, ..., place)`, NaN where a prompt has no such place.

    Tokens without a value are passed over: others of their span have that of the place.
    """
    lined_up = np.full((*effect.shape[:-1], len(alignment.places)), np.nan)
    for target, source, places in zip(lined_up, effect, alignment.of_token, strict=True):
        there = (places >= 0) & np.isfinite(source).reshape(-1, len(places)).any(0)
        target[..., places[there]] = source[..., there]
    return lined_up


def _texts(scores: ScoreArrays, alignment: Alignment) -> list[str]:
    """Per place the text of its token or span, or … where prompts differ."""
    tokens = scores.positions("token")
    shown = []
    for place in range(len(alignment.places)):
        there = alignment.of_token == place
        prompts = np.flatnonzero(there.any(1))
        texts = {"".join(tokens[prompt, there[prompt]].tolist()) for prompt in prompts}
        shown.append(texts.pop() if len(texts) == 1 else "…")
    return shown


def _bounds(lined_up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of each cell's mean over the prompts that have it; no bounds for one prompt."""
    low, high = np.full(lined_up.shape[1:], np.nan), np.full(lined_up.shape[1:], np.nan)
    there = np.isfinite(lined_up)
    # cells that the same prompts have share their resampling, so they are taken together
    for pattern in np.unique(there.reshape(len(there), -1), axis=1).T:
        if pattern.any():
            alike = (there == pattern[:, None, None]).all(0)
            interval = mean_interval(lined_up[pattern][:, alike])
            low[alike], high[alike] = interval.low, interval.high
    return low, high
