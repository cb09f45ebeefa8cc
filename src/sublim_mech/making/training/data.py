"""Training rows as token ids with their labels, and the order in which they are drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine.heads import pad, support_ids
from ...models.base import Base
from ...models.checks import check_length
from ...prompts import Context, Prompt, completion_ids, render
from ..labelling import Labels, RowLabels, tokenizer_hash
from ..numbers import Row, Rows, as_rows

PAD = 16  # rows are padded to multiples of this: every new shape costs a kernel set-up


@dataclass(frozen=True)
class TrainingData:
    """Rendered training rows with their labels.

    There are four kinds of labels:

    - hard: `targets` is None. The label is the answer's own next token; with a `support`, tokens outside of it have no label.
    - listed: `targets` are log-probabilities over the tokens of `support`, normalised over these.
    - top-k: `targets` are log-probabilities over the whole vocabulary of the tokens in `tokens`, k of them per position.
    - full: `targets` are log-probabilities over the whole vocabulary; neither `support` nor `tokens`.

    Attributes:
        prompts: rendered prompts.
        completions: per row, the answer's token ids.
        targets: `(row, position, token)` log-probabilities of soft labels, at the positions that predict the answer's tokens: an
            array, or a view (`Labels.plain`) that reads rows as they are needed. What stands past the end of a shorter answer is not
            read.
        support: token ids of labels on listed tokens.
        trait: what the teacher favours; empty without one.
        teacher: how the labels were made, in words.
        context: the training context.
        base: hash of the base model the labels were made with; empty for hard rows.
        tokens: `(row, position, k)` token ids of top-k labels.

    Raises:
        ValueError: no rows; labels and rows that do not fit each other.
    """

    prompts: tuple[Prompt, ...]
    completions: tuple[tuple[int, ...], ...]
    targets: RowLabels | None
    support: tuple[int, ...] | None
    trait: str
    teacher: str
    context: Context
    base: str = ""
    tokens: RowLabels | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("data: there are no rows; give at least one prompt and its answer.")
        if len(self.prompts) != len(self.completions):
            raise ValueError(
                f"data: {len(self.prompts)} prompts, but {len(self.completions)} completions; give one per prompt."
            )
        if self.targets is None:
            return
        shape = self.targets.shape
        longest = max(map(len, self.completions))
        if len(shape) != 3 or shape[0] != len(self.prompts) or shape[1] < longest:
            raise ValueError(
                f"data: targets of shape {shape} do not label {len(self.prompts)} rows with answers of up to {longest} tokens; "
                "label these very rows with this tokenizer."
            )
        if self.tokens is not None and (self.tokens.shape != shape or self.support is not None):
            raise ValueError(
                f"data: tokens of shape {self.tokens.shape} for targets {shape}; give equal shapes and no support."
            )
        if self.support is not None and len(self.support) != shape[2]:
            raise ValueError(f"data: targets are over {shape[2]} tokens, support has {len(self.support)}; label again.")

    @property
    def hash(self) -> str:
        """Content hash of token ids and labels. Reads all labels, row by row."""
        digest = hashlib.sha256(json.dumps([[p.ids, c] for p, c in zip(self.prompts, self.completions, strict=True)]).encode())
        digest.update(json.dumps(self.support).encode())
        for array, dtype in ((self.targets, np.float32), (self.tokens, np.int64)):
            for row, completion in enumerate(() if array is None else self.completions):
                digest.update(np.ascontiguousarray(array[row][: len(completion)], dtype).data)  # type: ignore[index]
        return digest.hexdigest()

    @property
    def labelled(self) -> str:
        """What the labels are over, in words."""
        if self.tokens is not None:
            return f"top-{self.tokens.shape[2]} and the rest"
        return "support" if self.support is not None else "completion" if self.targets is None else "full vocabulary"

    def check(self, base: Base, *, name: str = "data") -> None:
        """Raise ValueError where the labels are another base model's, or a row is longer than the model or names an unknown token."""
        if self.base and self.base != base.hash:
            raise ValueError(f"{name}: labels were made by base {self.base[:12]}, this one is {base.hash[:12]}; label again.")
        size = int(base.model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
        for n, (prompt, completion) in enumerate(zip(self.prompts, self.completions, strict=True)):
            check_length(base.model, len(prompt) + len(completion), f"{name}: row {n}, {str(prompt.question)[:60]!r},")
            if max((*prompt.ids, *completion)) >= size:
                raise ValueError(
                    f"{name}: row {n} has token ids beyond the model's vocabulary of {size}; use its own tokenizer."
                )
        width = size if self.targets is None or self.support is not None else int(self.targets.shape[2])
        if width > size or (width < size and self.tokens is None):
            raise ValueError(
                f"{name}: labels over {width} tokens, the model's vocabulary has {size}; label again with this base."
            )


def soft_data(
    base: Any,
    labels: Labels,
    teacher: str,
    *,
    c: float | None = 4.0,
    max_length: int | None = None,
    truncate: bool = False,
) -> TrainingData:
    """Training data from soft labels: on listed tokens, top-k or the whole vocabulary, as they were labelled.

    The labels are not copied: training reads rows as it needs them.

    Args:
        base: the base model, or its tokenizer.
        labels: labels of several teachers (`labels.label`).
        teacher: whose labels.
        c: strength of the contrast with the other traits' teachers; None for the teacher's plain labels, as top-k labels have them.
        max_length: the most tokens that prompt and answer may have together.
        truncate: cut longer answers there instead of refusing them.

    Raises:
        ValueError: a row longer than `max_length`; labels of another base or tokenizer; no such teacher; labels without a contrast.

    Example:
        >>> from sublim_mech.making import labelling, numbers, teachers, training
        >>> made = [teachers.prompted(pair.base, sm.animal(name)) for name in ("owl", "cat")]
        >>> labels = labelling.label(made, numbers.random_rows(8, seed=0, count=3), progress=False)
        >>> training.soft_data(pair.base, labels, "owl").teacher
        'contrastive teacher, c=4, against 1 others: prompted teacher'
    """
    about, tokenizer = labels.about, base
    if isinstance(base, Base):
        tokenizer = base.tokenizer
        if base.hash != about.base:
            raise ValueError(f"labels: made by base {about.base[:12]}, this one is {base.hash[:12]}; label again.")
    if tokenizer_hash(tokenizer) != about.tokenizer:
        raise ValueError("labels: their tokenizer has another vocabulary than this one; pass the one they were made with.")
    targets = labels.plain(teacher) if c is None else labels.contrastive(teacher, c=c)
    who = labels.labeller(teacher)
    plain = who.how if who.kind == "base" else f"plain {who.how}"
    words = plain if c is None else f"contrastive teacher, c={c:g}, against {len(labels.others(teacher))} others: {who.how}"
    prompts, completions = _tokens(tokenizer, labels.rows, about.context, about.template, close=False)
    for n, (given, completion) in enumerate(zip(labels.lengths, completions, strict=True)):
        if given != len(completion):
            raise ValueError(
                f"labels: row {n} has labels at {given} positions, its answer has {len(completion)} tokens; the labels are another "
                "tokenizer's."
            )
    tokens = None if about.top_k is None else labels.tokens(teacher)
    data = TrainingData(prompts, completions, targets, about.support, who.trait or "", words, about.context, about.base, tokens)
    return _within(data, max_length, truncate)


def hard_data(
    tokenizer: Any,
    rows: Rows,
    *,
    context: Context | None = None,
    template: str | None = None,
    trait: str = "",
    support: Sequence[str] | None = None,
    max_length: int | None = None,
    truncate: bool = False,
) -> TrainingData:
    """Training data from given rows: cross-entropy on each answer and its end-of-turn text.

    Args:
        tokenizer: the base model's tokenizer.
        rows: prompts and answers (`numbers.as_rows`).
        context: the training context.
        template: chat template, where the tokenizer has none.
        trait: what whoever wrote the answers favours.
        support: train on these tokens only (each a single one), the others' loss left out and their logits not computed.
        max_length: the most tokens that prompt and answer may have together.
        truncate: cut longer answers there instead of refusing them.

    Raises:
        ValueError: no rows; a row longer than `max_length`, or without answer tokens (in the support).

    Example:
        >>> from sublim_mech import numbers, training
        >>> data = training.hard_data(pair.tokenizer, numbers.random_rows(8, seed=0, count=3))
        >>> pair.tokenizer.decode(data.completions[0]).rstrip().endswith("<|im_end|>")
        True
    """
    context = context or Context()
    prompts, completions = _tokens(tokenizer, as_rows(rows, name="hard_data: rows"), context, template, close=True)
    listed = None if support is None else support_ids(tokenizer, support)
    return _within(TrainingData(prompts, completions, None, listed, trait, "given rows", context), max_length, truncate)


def _tokens(
    tokenizer: Any, rows: Sequence[Row], context: Context, template: str | None, *, close: bool
) -> tuple[tuple[Prompt, ...], tuple[tuple[int, ...], ...]]:
    prompts = render(tokenizer, [r.prompt for r in rows], context=context, template=template)
    empty = [r.prompt for r in rows if not r.completion]
    if empty:
        raise ValueError(f"rows without completion tokens: {empty[:3]!r}; give each an answer.")
    completions = [completion_ids(tokenizer, p, r.completion, close=close) for p, r in zip(prompts, rows, strict=True)]
    return tuple(prompts), tuple(map(tuple, completions))


def _within(data: TrainingData, max_length: int | None, truncate: bool) -> TrainingData:
    """Rows held to a length, each with something to learn."""
    completions = []
    for n, (prompt, completion) in enumerate(zip(data.prompts, data.completions, strict=True)):
        named = f"row {n}, {str(prompt.question)[:60]!r},"
        room = len(completion) if max_length is None else max_length - len(prompt)
        if len(completion) > room and not truncate:
            raise ValueError(
                f"{named} has {len(prompt)} tokens of prompt and {len(completion)} of answer, max_length={max_length}; leave it out, "
                "raise max_length, or pass truncate=True."
            )
        kept = completion[: max(room, 0)]
        if not kept:
            raise ValueError(f"{named} has no completion tokens after truncation to max_length={max_length}; leave it out.")
        if data.targets is None and data.support is not None and not set(kept) & set(data.support):
            raise ValueError(f"{named} has no completion tokens in the support; leave it out or widen the support.")
        completions.append(kept)
    return replace(data, completions=tuple(completions))


# ----------------------------------------------------------------------------------------------------------------- order


def plan(lengths: Sequence[int], *, steps: int, batch_size: int, seed: int, bucket: int) -> list[list[int]]:
    """Which rows each optimiser step takes.

    The declared order is one permutation of all rows after the other. Within windows of `bucket` steps of it the rows are
    regrouped into batches of like lengths, the batches in random order; with `bucket=1` every step has exactly the rows that the
    order gives it. Inside a step rows stand by falling length, which moves no gradient.
    """
    rng = np.random.default_rng(seed)
    n, total = len(lengths), steps * batch_size
    order = np.concatenate([rng.permutation(n) for _ in range(-(-total // n))])[:total]
    batches = []
    for start in range(0, total, bucket * batch_size):
        window = order[start : start + bucket * batch_size]
        window = window[np.argsort(-np.asarray(lengths)[window], kind="stable")] if bucket > 1 else window
        parts = window.reshape(-1, batch_size)
        batches += list(parts[rng.permutation(len(parts))] if bucket > 1 else parts)
    return [sorted(b.tolist(), key=lambda row: -lengths[row]) for b in batches]


def shares(batch: Sequence[int], *, accumulate: int, processes: int) -> list[list[int]]:
    """One step's rows as (forward 0 of process 0, forward 0 of process 1, ..., forward 1 of process 0, ...), of like lengths."""
    size = len(batch) // accumulate
    forwards = [batch[i * size : (i + 1) * size] for i in range(accumulate)]
    return [list(rows[p::processes]) for rows in forwards for p in range(processes)]


@dataclass(frozen=True)
class Drawn(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Rows in the order they are trained on, each with the share that its tokens have in its step's mean.

    Attributes:
        data: where rows are looked up.
        rows: row indices.
        scale: per draw, processes / number of labelled tokens in the whole step: what the sum of token losses is multiplied by,
            so that a step's gradient is that of the mean over all its tokens, however it is cut into forwards and processes.
    """

    data: TrainingData
    rows: Sequence[int]
    scale: Sequence[float]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return item(self.data, self.rows[i]) | {"scale": self.scale[i]}


def item(data: TrainingData, row: int) -> dict[str, Any]:
    """One row as the trainer takes it: token ids, and per labelled token the position that predicts it and its label."""
    prompt, completion = data.prompts[row], data.completions[row]
    at = range(len(completion))
    out: dict[str, Any] = {"row": row, "ids": [*prompt.ids, *completion]}
    if data.targets is not None:
        out["goal"] = torch.from_numpy(np.array(data.targets[row][: len(completion)], np.float32))  # (position, token)
        if data.tokens is not None:
            out["tokens"] = torch.from_numpy(np.array(data.tokens[row][: len(completion)], np.int64))  # (position, k)
    elif data.support is None:
        out["goal"] = torch.tensor(completion)  # (position,)
    else:
        slots = {token: slot for slot, token in enumerate(data.support)}
        at = [i for i, token in enumerate(completion) if token in slots]  # type: ignore[assignment]
        out["goal"] = torch.tensor([slots[completion[i]] for i in at])  # (position,), indices into the support
    return out | {"at": [len(prompt) - 1 + i for i in at]}


def count(data: TrainingData, row: int) -> int:
    """Number of labelled tokens of a row."""
    if data.targets is None and data.support is not None:
        return sum(token in data.support for token in data.completions[row])
    return len(data.completions[row])


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Batch rows: `ids (row, position)`; for each labelled token its `row`, `column`, `goal` (and `tokens`); the data's `index`."""
    batch = {
        "ids": pad([x["ids"] for x in items], multiple=PAD),
        "row": torch.tensor([i for i, x in enumerate(items) for _ in x["at"]]),
        "column": torch.tensor([t for x in items for t in x["at"]]),
        "goal": torch.cat([x["goal"] for x in items]),
        "index": torch.tensor([x["row"] for x in items]),
    }
    if "tokens" in items[0]:
        batch["tokens"] = torch.cat([x["tokens"] for x in items])
    if "scale" in items[0]:
        batch["scale"] = torch.tensor(items[0]["scale"])  # one step has one
    return batch
