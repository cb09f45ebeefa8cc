"""Spans: tokens that are switched at once, so that long prompts have few cells.

1. A span is contiguous tokens of one role in one turn; what the template puts around a message is
   apart from it. The answer's own tokens are one span.
2. `by="word"` cuts at white space (scripts without it are cut at sentences at best), `"sentence"`
   after end marks and at ends of lines, `"message"` not at all, a number n every n tokens.
3. `refine=k` measures the single tokens of the k strongest spans of each prompt beside the other
   spans (`Refined`).

The effect of a span is that of a set: it is not the sum of its tokens' effects.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from numbers import Integral
from typing import Any, Literal, NamedTuple

import numpy as np

from ..engine.answers import Answers
from ..hints import counted, nearest
from ..prompts import ANSWER, Prompt
from ..results.spreading import MIXED, SWITCHED
from .task import Measured, Task

By = Literal["token", "word", "sentence", "message"] | int
"""How tokens are taken together: `token` (each by itself), `word`, `sentence`, `message`, or a
number of tokens."""

NAMES = ("token", "word", "sentence", "message")

_WORD = re.compile(r"\S+")
_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[\"”’）」』]*|\n+")


class Span(NamedTuple):
    """Slots from the first to the last one, both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """Number of slots."""
        return self.last - self.first + 1


def check_by(by: By, refine: int | None) -> By:
    """What spans are by, a number as Python's own.

    Raises:
        ValueError: no such spans; `refine` below 1, or without spans to refine.
    """
    known = isinstance(by, str) and by in NAMES
    number = isinstance(by, Integral) and not isinstance(by, bool) and by >= 1
    if not known and not number:
        hint = nearest(by, NAMES) if isinstance(by, str) else ""
        raise ValueError(
            f"by={by!r} is no span; pass 'token', 'word', 'sentence', 'message' or a number of "
            f"tokens of at least 1{hint or '.'}"
        )
    if refine is not None:
        _check_refine(by, refine)
    return by if isinstance(by, str) else int(by)


def _check_refine(by: By, refine: int) -> None:
    if by == "token":
        raise ValueError(
            f"refine={refine}: single tokens cannot be refined; pass by='word', 'sentence', "
            "'message' or a number of tokens."
        )
    if refine < 1:
        raise ValueError(f"refine={refine}: how many spans are refined must be at least 1.")


def in_words(by: By) -> str:
    """What the record calls spans: `word`, or `8 tokens`."""
    if isinstance(by, str):
        return by
    return f"{by} {'token' if by == 1 else 'tokens'}"


def spans_of(prompt: Prompt, nodes: int, by: By) -> tuple[Span, ...]:
    """The spans of a prompt, and one of the answer's own tokens, in their order.

    Args:
        prompt: N tokens.
        nodes: of its answer trie, in the slots behind them.
        by: how tokens are taken together.
    """
    size = len(prompt)
    if by == "token":
        return tuple(Span(slot, slot) for slot in range(size + nodes))
    pieces = _pieces(prompt, by)
    keys = zip(prompt.turns, prompt.roles, pieces, strict=True)
    spans, first = [], 0
    for _, tokens in groupby(keys):
        last = first + len(list(tokens)) - 1
        spans.append(Span(first, last))
        first = last + 1
    if nodes:
        spans.append(Span(size, size + nodes - 1))
    return tuple(spans)


def _pieces(prompt: Prompt, by: By) -> list[int]:
    """Per token the number of its piece; pieces do not know of roles."""
    if by == "message":
        return [0] * len(prompt)
    if isinstance(by, int):
        pieces = []
        for _, tokens in groupby(zip(prompt.turns, prompt.roles, strict=True)):
            pieces += [number // by for number in range(len(list(tokens)))]
        return pieces
    if by == "word":
        starts = [match.start() for match in _WORD.finditer(prompt.text)]
    else:
        starts = [match.end() for match in _END.finditer(prompt.text)]
    numbers = [_number(prompt.text, offsets, starts) for offsets in prompt.offsets]
    return _placed(prompt, numbers, forwards=by == "word")


def _number(text: str, offsets: tuple[int, int], starts: Sequence[int]) -> int | None:
    """Which piece holds a token's first letter; None of white space alone."""
    first, end = offsets
    part = text[first : max(end, first + 1)]
    if part and not part.strip():
        return None
    return bisect_right(starts, first + len(part) - len(part.lstrip()))


def _placed(prompt: Prompt, numbers: Sequence[int | None], *, forwards: bool) -> list[int]:
    """White space belongs to the word behind it, or to the sentence before it; at an edge of its
    run to what the run has.
    """
    placed: list[int] = []
    frames = list(zip(prompt.turns, prompt.roles, strict=True))
    first = 0
    for _, tokens in groupby(frames):
        run = list(numbers[first : first + len(list(tokens))])
        first += len(run)
        placed += _filled(_filled(run, forwards=forwards), forwards=not forwards)
    return placed


def _filled(run: Sequence[Any], *, forwards: bool) -> list[Any]:
    """Gaps take the number behind them, or the one before them; a run of gaps alone is one piece
    in the end.
    """
    filled: list[Any] = []
    held = None
    for number in reversed(run) if forwards else run:
        held = held if number is None else number
        filled.append(held)
    return filled[::-1] if forwards else filled


# ------------------------------------------------------------------------------------------- labels


def span_coords(
    task: Task,
    spans: Sequence[Sequence[Span]],
    refined: Sequence[Sequence[bool]] | None,
    switched: Sequence[Sequence[bool]] | None = None,
) -> dict[str, Any]:
    """Coordinates of `(prompt, span)`: `text`, `first` and `last` position, `span_role`,
    `span_sharing` where prompts are marked, `refined` (1 where the value is that of a single token)
    where spans were refined. Empty, and -1, past a prompt with fewer spans.

    Where some of the slots were left alone (`switched`: per prompt, whether each was switched),
    `SWITCHED` of `(prompt, position)` has which; a span's sharing class is that of the others.
    """
    shape = len(spans), max(map(len, spans))
    text, role, sharing = (np.full(shape, "", dtype=object) for _ in range(3))
    first, last = np.full(shape, -1), np.full(shape, -1)
    flags = np.zeros(shape, int)
    marked = all(prompt.sharing is not None for prompt in task.prompts)
    decode = task.pair.tokenizer.decode
    for i, of_prompt in enumerate(spans):
        prompt, trie = task.prompts[i], task.answers[i]
        for s, span in enumerate(of_prompt):
            first[i, s], last[i, s] = span
            text[i, s] = _text(prompt, trie, span, decode)
            answered = span.first >= len(prompt)
            role[i, s] = ANSWER if answered else prompt.roles[span.first]
            if marked and prompt.sharing is not None:
                kinds = _kinds(prompt.sharing, span, None if switched is None else switched[i])
                sharing[i, s] = kinds.pop() if len(kinds) == 1 else MIXED
            flags[i, s] = refined is not None and refined[i][s]
    dims = ("prompt", "span")
    coords: dict[str, Any] = {
        "span": np.arange(shape[1]),
        "text": (dims, text.astype(str)),
        "first": (dims, first),
        "last": (dims, last),
        "span_role": (dims, role.astype(str)),
    }
    if marked:
        coords["span_sharing"] = (dims, sharing.astype(str))
    if refined is not None:
        coords["refined"] = (dims, flags)
    if switched is not None and not all(map(all, switched)):
        there = np.zeros((len(switched), max(map(len, switched))), int)
        for i, slots in enumerate(switched):
            there[i, : len(slots)] = slots
        coords[SWITCHED] = (("prompt", "position"), there)
    return coords


def _kinds(sharing: Sequence[str], span: Span, switched: Sequence[bool] | None) -> set[str]:
    """The sharing classes of a span's tokens: of those that were switched, where any was."""
    slots = range(span.first, min(span.last + 1, len(sharing)))
    kinds = {sharing[slot] for slot in slots if switched is None or switched[slot]}
    return kinds or {sharing[slot] for slot in slots} or {ANSWER}


def _text(prompt: Prompt, answers: Answers, span: Span, decode: Callable[[list[int]], str]) -> str:
    if span.first >= len(prompt):
        nodes = answers.nodes[span.first - len(prompt) : span.last + 1 - len(prompt)]
        return " / ".join(decode([node]) for node in nodes)
    start, end = prompt.offsets[span.first][0], prompt.offsets[span.last][1]
    return prompt.text[start:end] or "".join(prompt.tokens[span.first : span.last + 1])


# --------------------------------------------------------------------------------------- refinement


class Refined(NamedTuple):
    """Spans and the single tokens that took the place of some.

    Attributes:
        measured: their effects, `(model, prompt, ..., span)`.
        spans: per prompt, what each is.
        refined: per prompt, whether the value is that of a single token.
    """

    measured: Measured
    spans: list[list[Span]]
    refined: list[list[bool]]


def check_refine(refine: int, spans: Sequence[Sequence[Span]], task: Task) -> None:
    """Raise ValueError where a prompt has fewer spans than are to be refined."""
    for of_prompt, prompt in zip(spans, task.prompts, strict=True):
        if refine > len(of_prompt):
            raise ValueError(
                f"refine={refine}: prompt {prompt.question[:60]!r} has "
                f"{counted(len(of_prompt), 'span')}; give at most as many."
            )


def refined(
    run: Callable[[Sequence[Sequence[Span]]], Measured],
    measured: Measured,
    spans: Sequence[Sequence[Span]],
    refine: int | None,
) -> Refined:
    """Measure the single tokens of the strongest spans too.

    Args:
        run: measures some spans of every prompt.
        measured: the effects of `spans`, `(model, prompt, ..., span)`.
        spans: per prompt.
        refine: how many spans of each prompt; None for none.
    """
    tokens = [] if refine is None else _tokens_of_strongest(measured, spans, refine)
    if any(tokens):
        return _with_tokens(measured, spans, run(tokens), tokens)
    single = [[span.size == 1 for span in of_prompt] for of_prompt in spans]
    return Refined(measured, [list(of_prompt) for of_prompt in spans], single)


def _tokens_of_strongest(
    measured: Measured, spans: Sequence[Sequence[Span]], refine: int
) -> list[list[Span]]:
    """Per prompt, the single tokens of the spans of largest absolute effect (of the headline:
    student minus the mean of the controls), over all other axes.
    """
    student, *controls = measured.effect
    headline = student - np.mean(controls, 0) if controls else student
    chosen = []
    for i, of_prompt in enumerate(spans):
        sizes = np.nan_to_num(np.abs(headline[i])).reshape(-1, headline.shape[-1]).max(0)
        order = np.argsort(-sizes[: len(of_prompt)], kind="stable")[:refine]
        tokens = []
        for number in sorted(order):
            span = of_prompt[number]
            if span.size > 1:
                tokens += [Span(slot, slot) for slot in range(span.first, span.last + 1)]
        chosen.append(tokens)
    return chosen


def _with_tokens(
    measured: Measured,
    spans: Sequence[Sequence[Span]],
    finer: Measured,
    tokens: Sequence[Sequence[Span]],
) -> Refined:
    """Put single tokens in the place of the spans they are of.

    Args:
        measured: the effects of `spans`, `(model, prompt, ..., span)`.
        spans: per prompt.
        finer: the effects of `tokens`, likewise.
        tokens: per prompt, those of some of its spans.
    """
    kept, sources = [], []
    for of_prompt, of_tokens in zip(spans, tokens, strict=True):
        replaced = {token.first for token in of_tokens}
        some = [(span, False, n) for n, span in enumerate(of_prompt) if span.first not in replaced]
        some += [(token, True, n) for n, token in enumerate(of_tokens)]
        some.sort(key=lambda entry: entry[0])
        kept.append([entry[0] for entry in some])
        sources.append([entry[1:] for entry in some])
    effect = np.full((*measured.effect.shape[:-1], max(map(len, kept))), np.nan)
    for i, found in enumerate(sources):
        for place, (fine, number) in enumerate(found):
            source = finer if fine else measured
            effect[:, i, ..., place] = source.effect[:, i, ..., number]
    single = [[span.size == 1 for span in of_prompt] for of_prompt in kept]
    return Refined(replace(measured, effect=effect), kept, single)
