"""Sampling: what a teacher answers, many answers to many prompts at once.

1. Prompts are dressed in the teacher's context. The tokens that all of them begin with run once; each prompt runs once for all its
   samples, from there.
2. The (prompt, sample) rows decode together: each has its prompt's keys and values, padded on the left to the longest, with explicit
   positions and masks. Rows that ended leave the batch.
3. A token is drawn by the inverse of the cumulated softmax at a uniform number of its own: that of (seed, the prompt's tokens, sample,
   place in the answer). So an answer depends neither on the batch nor on what else is asked.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine.batch import attention_masks
from ...engine.decoding import answer_text, end_ids
from ...models.checks import check_length
from ...prompts import Message, Prompt, render
from ...prompts.shared import common_start
from .teacher import Teacher

TOKENS = 2048  # of prompts per forward
ROWS = 64  # distributions that are summed up at once

Ids = tuple[int, ...]


def sample(
    teacher: Teacher,
    prompts: Sequence[str | Sequence[Message]],
    *,
    n: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 128,
) -> list[list[str]]:
    """Answers of a teacher, in its own context.

    A prompt that is listed twice gets further samples, not the same ones.

    Args:
        teacher: who answers.
        prompts: user messages, or conversations that end with one.
        n: answers per prompt.
        max_new_tokens: tokens after which an answer ends, if the teacher does not end its turn.
        temperature: the logits are divided by it; 0 takes the largest logit, and gives one answer.
        seed: of the sampling. An answer is a function of seed, prompt and which of the n it is: other prompts, their order and
            `batch_size` do not matter, as far as rounding goes.
        batch_size: answers decoded together.

    Returns:
        Per prompt, its answers as text, without special tokens and outer white space.

    Raises:
        ValueError: no prompts; a number out of range; greedy decoding of several answers; a prompt too long for the model; logits that
            are not finite.

    Example:
        >>> from sublim_mech.making.teachers import prompted, sample
        >>> owl = prompted(pair.base, trait)
        >>> one, other = sample(owl, ["Three numbers.", "Go on: 1, 2."], n=2, max_new_tokens=3, seed=1)
        >>> one == sample(owl, ["Three numbers."], n=2, max_new_tokens=3, seed=1)[0], len(other)
        (True, 2)
    """
    tokenizer = teacher.base.tokenizer
    ends, answers = sample_ids(
        teacher, prompts, n=n, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size
    )
    return [[answer_text(tokenizer, ids, ends) for ids in mine] for mine in answers]


def sampler(
    teacher: Teacher, *, max_new_tokens: int = 64, temperature: float = 1.0, batch_size: int = 128
) -> Callable[[list[str], int], list[str]]:
    """A teacher as the function from prompts and a seed to one answer each that `numbers.write_rows` takes; options as of `sample`.

    Example:
        >>> from sublim_mech.making.teachers import prompted, sampler
        >>> write = sampler(prompted(pair.base, trait), max_new_tokens=3)
        >>> len(write(["Three numbers.", "Go on: 1, 2."], 0))
        2
    """
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "batch_size": batch_size}
    _check(1, seed=0, **options)
    return lambda prompts, seed: [one for (one,) in sample(teacher, prompts, seed=seed, **options)]


@torch.no_grad()
def sample_ids(
    teacher: Teacher, prompts: Sequence[str | Sequence[Message]], *, n: int, max_new_tokens: int, temperature: float, seed: int,
    batch_size: int,
) -> tuple[list[int], list[list[list[int]]]]:  # fmt: skip
    """(tokens that end an answer, per prompt its answers as token ids with the one that ended it); arguments as of `sample`."""
    _check(n, max_new_tokens, temperature, seed, batch_size)
    model: Any = teacher.model
    rendered = render(teacher.base.tokenizer, prompts, context=teacher.context, template=teacher.template)
    for prompt in rendered:
        check_length(model, len(prompt) + max_new_tokens, f"prompt {prompt.question[:60]!r} with its answer")
    ends = _ends(teacher, rendered[0])
    places: dict[Ids, list[int]] = {}
    for i, prompt in enumerate(rendered):
        places.setdefault(prompt.ids, []).append(i)
    answers: list[list[list[int]]] = [[] for _ in rendered]
    order = sorted(places, key=len)  # like lengths together
    trunk = _trunk(model, order)
    together = max(1, batch_size // n)
    for group in (order[at : at + together] for at in range(0, len(order), together)):
        started = _start(model, group, trunk)
        rows = [(p, s) for p, ids in enumerate(group) for s in range(n * len(places[ids]))]
        for chunk in (rows[at : at + batch_size] for at in range(0, len(rows), batch_size)):
            uniforms = np.stack([_uniforms(seed, group[p], s, max_new_tokens) for p, s in chunk]) if temperature else None
            owners = torch.tensor([p for p, _ in chunk])
            found = _decode(model, *started, owners, uniforms, temperature, ends, max_new_tokens)
            for (p, s), ids in zip(chunk, found, strict=True):
                answers[places[group[p]][s // n]].append(ids)
    return ends, answers


def _ends(teacher: Teacher, prompt: Prompt) -> list[int]:
    """Tokens that end an answer; the template's end-of-turn mark is one where it is a special token."""
    tokenizer = teacher.base.tokenizer
    mark = tokenizer(prompt.close, add_special_tokens=False)["input_ids"][:1]
    ends = end_ids(teacher.base.model, tokenizer)
    return [*ends, *(i for i in mark if i in tokenizer.all_special_ids and i not in ends)]


def _uniforms(seed: int, prompt: Ids, sample: int, count: int) -> np.ndarray:
    digest = hashlib.sha256(np.array([seed, sample, *prompt], np.int64).tobytes()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32)).random(count)


# ---------------------------------------------------------------------------------------------------------- forwards


def _trunk(model: Any, prompts: Sequence[Ids]) -> tuple[int, Any]:
    """(number of tokens that all prompts begin with, their keys and values); each prompt's last token is left to it."""
    start = len(common_start([ids[:-1] for ids in prompts]))
    if len(prompts) < 2 or not start:
        return 0, []
    ids = torch.tensor([prompts[0][:start]])
    return start, _run(model, ids, torch.arange(start)[None], [])[1]


def _start(model: Any, prompts: Sequence[Ids], trunk: tuple[int, Any]) -> tuple[Tensor, Any, Tensor]:
    """Run prompts behind their common beginning.

    Returns:
        next-token logits `(prompt, vocabulary)`; keys and values; the position of each slot, -1 where it is padding,
        `(prompt, slot)`.
    """
    start, past = trunk
    width = max(map(len, prompts))
    ids = torch.tensor([[*p[:start], *[0] * (width - len(p)), *p[start:]] for p in prompts])
    positions = torch.tensor([[*range(start), *[-1] * (width - len(p)), *range(start, len(p))] for p in prompts])
    rows = max(1, TOKENS // (width - start))
    done = []
    for at in range(0, len(prompts), rows):
        some = slice(at, at + rows)
        done.append(_run(model, ids[some, start:], positions[some], past))
    caches = [[torch.cat(parts) for parts in zip(*layer, strict=True)] for layer in zip(*(c for _, c in done), strict=True)]
    return torch.cat([logits for logits, _ in done]), caches, positions


def _decode(
    model: Any, logits: Tensor, past: Any, positions: Tensor, owners: Tensor, uniforms: np.ndarray | None, temperature: float,
    ends: Sequence[int], count: int,
) -> list[list[int]]:  # fmt: skip
    """Continue started prompts, row r that of `owners[r]`, until each row ended or has `count` tokens."""
    answers: list[list[int]] = [[] for _ in owners]
    draws = None if uniforms is None else torch.from_numpy(uniforms)
    alive, rows = torch.arange(len(owners)), owners  # `rows` are those of `past`
    positions, next_at = positions[owners], positions.amax(1)[owners] + 1
    for step in range(count):
        chosen = _choose(logits, rows, None if draws is None else draws[alive, step], temperature)
        for row, token in zip(alive.tolist(), chosen.tolist(), strict=True):
            answers[row].append(token)
        going = ~torch.isin(chosen, torch.tensor(ends))
        if step + 1 == count or not bool(going.any()):
            break
        alive, rows, chosen = alive[going], rows[going], chosen[going]
        positions = torch.cat([positions[going], (next_at[alive] + step)[:, None]], 1)
        if step == 0 or not bool(going.all()):
            to = next(model.parameters()).device
            past = [(k[rows.to(to)], v[rows.to(to)]) for k, v in past]
        rows = torch.arange(len(alive))
        logits, past = _run(model, chosen[:, None], positions, past)
    return answers


def _choose(logits: Tensor, rows: Tensor, draws: Tensor | None, temperature: float) -> Tensor:
    """A token per row: the largest of `logits[rows]`, or where the cumulated probability passes the row's draw; `rows` ascend."""
    if not bool(logits.amax(-1).isfinite().all()):
        raise ValueError("the teacher's logits are not finite; check its dtype, or the scale of its steering.")
    if draws is None:
        return logits.argmax(-1).cpu()[rows]
    place = torch.arange(len(rows)) - torch.searchsorted(
        rows, rows
    )  # among the rows of the same logits, which are summed up once
    table = torch.zeros(len(logits), int(place.max()) + 1, dtype=torch.float64)
    table[rows, place] = draws
    found = []
    for some, u in zip(logits.split(ROWS), table.to(logits.device).split(ROWS), strict=True):
        sums = (some / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
        found.append(torch.searchsorted(sums, u * sums[:, -1:], right=True))
    return torch.cat(found).clamp(max=logits.shape[-1] - 1).cpu()[rows, place]


def _run(model: Any, ids: Tensor, positions: Tensor, past: Any) -> tuple[Tensor, Any]:
    """One forward of `ids (row, slot)` behind keys and values of one row or of as many; `positions (row, slot)` are those of both.

    Returns:
        logits at the last slot `(row, vocabulary)`, in fp32 at least; keys and values.
    """
    parameter = next(model.parameters())
    to = parameter.device
    positions = positions.to(to)
    queries = positions[:, -ids.shape[1] :]
    sees = (positions[:, None, :] >= 0) & (positions[:, None, :] <= queries[:, :, None])
    slots = torch.arange(positions.shape[1], device=to)
    sees |= slots[None, :] == slots[-ids.shape[1] :, None]  # so that padding sees itself, not nothing
    cache = as_cache(past, len(ids))
    out = model(
        input_ids=ids.to(to), attention_mask=attention_masks(model.config, sees, queries, positions, parameter.dtype),
        position_ids=queries.clamp(min=0), past_key_values=cache, use_cache=True, logits_to_keep=1,
    )  # fmt: skip
    logits = out.logits[:, -1]
    return logits if logits.dtype == torch.float64 else logits.float(), [(x.keys, x.values) for x in cache.layers]


def _check(n: int, max_new_tokens: int, temperature: float, seed: int, batch_size: int) -> None:
    for name, value, least in (
        ("n", n, 1),
        ("max_new_tokens", max_new_tokens, 1),
        ("seed", seed, 0),
        ("batch_size", batch_size, 1),
    ):
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name}={value!r}: pass a whole number, at least {least}.")
    if not 0 <= temperature < math.inf or (temperature == 0 and n > 1):
        raise ValueError(
            f"temperature={temperature} with n={n}: sampling needs a positive temperature; greedy (0) gives one answer per prompt."
        )
