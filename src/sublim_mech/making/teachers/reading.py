"""Running a teacher over given rows: its logits where the tokens of the answers are predicted.

1. Each row is dressed in the teacher's context and tokenised together with its answer.
2. The tokens that all prompts begin with (the teacher's system text, mostly) run once; all rows reuse their keys and values.
3. Rows of like lengths go together, so that little is padding. The unembedding is computed at the answers' positions only, and there
   on the supported tokens only, in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...engine.answers import Answers
from ...engine.forward import forward, make_batch
from ...engine.heads import SupportHead, exact_logits, pad
from ...models.base import check_length
from ...models.copies import twin
from ...models.sites import find_sites
from ...prompts.chat import Prompt, completion_ids, render
from ...prompts.sharing import common_start
from ..rows import Row, Rows, as_rows
from .teacher import Teacher

NO_ANSWERS = Answers((), (), (), ())
Reader: TypeAlias = Callable[[Sequence[Prompt], Tensor], Tensor]
"""From rows (prompt and answer) and the positions to read, `(row, read)`, to logits `(row, read, token)`."""


def read_rows(
    teacher: Teacher,
    rows: Rows,
    *,
    support: Sequence[int] | None = None,
    close: bool = False,
    batch_size: int = 16,
    share_prefix: bool = True,
    bar: Any = None,
) -> Iterator[tuple[int, Tensor]]:
    """A teacher's logits at the positions that predict the tokens of given answers.

    Args:
        teacher: who is asked, in its own context (`teacher.context`).
        rows: prompts and answers (`numbers.as_rows`).
        support: the token ids whose logits are computed; the whole vocabulary when None.
        close: whether the answer's end-of-turn text is read too.
        batch_size: rows per forward.
        share_prefix: run the tokens that all prompts begin with once, instead of in every row. Architectures that cannot run whole
            rows in any case.
        bar: a progress bar to advance by rows.

    Yields:
        (index of the row, its float32 logits `(position, support)` on the model's device), rows of like lengths one after the other.

    Raises:
        ValueError: no rows; a row without answer tokens, or longer than the model; batch_size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1.")
    prompts, answers = tokens(teacher, as_rows(rows), close=close)
    return _read(teacher.model, prompts, answers, support, batch_size, share_prefix, bar)


def log_probs(
    teacher: Teacher, rows: Rows, *, close: bool = True, batch_size: int = 16, progress: bool = True
) -> list[np.ndarray]:
    """Log-probability of each token of given answers, over the whole vocabulary.

    Args:
        teacher: who is asked, in its own context.
        rows: prompts and answers (`numbers.as_rows`).
        close: whether the answer's end-of-turn text counts as part of it.
        batch_size: rows per forward.
        progress: show a progress bar.

    Returns:
        Per row, float32 `(token,)`.

    Raises:
        ValueError: see `read_rows`.
    """
    listed = as_rows(rows)
    answers = tokens(teacher, listed, close=close)[1]
    out = [np.empty(0, np.float32)] * len(listed)
    with tqdm(total=len(listed), desc=f"{teacher.name}: read rows", disable=not progress) as bar:
        for row, logits in read_rows(teacher, listed, close=close, batch_size=batch_size, bar=bar):
            said = torch.tensor(answers[row], device=logits.device)
            out[row] = logits.log_softmax(-1).gather(-1, said[:, None])[:, 0].cpu().numpy()
    return out


def tokens(teacher: Teacher, rows: Sequence[Row], *, close: bool) -> tuple[list[Prompt], list[list[int]]]:
    """(prompts in the teacher's context, token ids of the answers).

    Raises:
        ValueError: a row without answer tokens, or longer than the model.
    """
    empty = [r.prompt for r in rows if not r.completion]
    if empty:
        raise ValueError(f"rows without completion tokens: {empty[:3]!r}; give each an answer.")
    tokenizer = teacher.base.tokenizer
    prompts = render(tokenizer, [r.prompt for r in rows], context=teacher.context, template=teacher.template)
    answers = [completion_ids(tokenizer, p, r.completion, close=close) for p, r in zip(prompts, rows, strict=True)]
    for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        check_length(
            teacher.model, len(prompt) + len(answer), f"row {n}, {prompt.question[:60]!r}, to teacher {teacher.name!r}"
        )
    return prompts, answers


@torch.no_grad()
def _read(
    source: nn.Module, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], support: Sequence[int] | None, batch_size: int,
    share_prefix: bool, bar: Any,
) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
    model: Any = twin(source).eval()  # its unembedding is replaced, and its hooks are its own
    head = model.get_output_embeddings()
    model.set_output_embeddings(_Float(head) if support is None else SupportHead(head, support).to(head.weight.device))
    rows = [replace(p, ids=(*p.ids, *a)) for p, a in zip(prompts, answers, strict=True)]
    firsts = [len(p) - 1 for p in prompts]
    order = sorted(range(len(rows)), key=lambda r: -len(rows[r]))  # the largest first: what does not fit fails at once
    read = _sharing(model, rows, firsts, order[-1]) if share_prefix and len(rows) > 1 else _whole(model)
    for at in range(0, len(order), batch_size):
        chunk = order[at : at + batch_size]
        reads = pad([range(firsts[r], len(rows[r]) - 1) for r in chunk]).to(head.weight.device)
        logits = read([rows[r] for r in chunk], reads).float()
        for r, x in zip(chunk, logits, strict=True):
            yield r, x[: len(answers[r])]
        if bar is not None:
            bar.update(len(chunk))


def _whole(model: Any) -> Reader:
    """Rows from their first token on, padded on the right: under causal attention that changes nothing on the left."""
    head = model.get_output_embeddings()

    def read(rows: Sequence[Prompt], reads: Tensor) -> Tensor:
        places = torch.arange(len(rows), device=reads.device)[:, None], reads
        handle = head.register_forward_pre_hook(lambda _, args: (args[0][places], *args[1:]))
        try:
            out: Tensor = model(input_ids=pad([p.ids for p in rows]).to(reads.device), use_cache=False).logits
        finally:
            handle.remove()
        return out

    return read


def _sharing(model: Any, rows: Sequence[Prompt], firsts: Sequence[int], short: int) -> Reader:
    """Rows from the token on at which they begin to differ.

    Not every architecture can: some keep more than keys and values, some take no mask of their own or count positions otherwise. So
    the short row is read in both ways, and where they differ all rows are read whole.
    """
    whole = _whole(model)
    # short of the last token of each prompt, which is read in every row
    start = len(common_start([p.ids[:n] for p, n in zip(rows, firsts, strict=True)]))
    if not start or getattr(model, "_is_stateful", False):
        return whole
    one = [rows[short]], torch.arange(firsts[short], len(rows[short]) - 1, device=model.device)[None]
    expected = whole(*one)
    try:
        sites = find_sites(model)
        trunk = make_batch(model, [replace(rows[0], ids=rows[0].ids[:start])], [NO_ANSWERS])
        past = forward(model, sites, trunk, past=()).cache

        def read(rows: Sequence[Prompt], reads: Tensor) -> Tensor:
            # padding is read at the first token there is
            batch = replace(make_batch(model, rows, [NO_ANSWERS] * len(rows)), reads=reads.clamp_min(start))
            return forward(model, sites, batch.after(start), past=past).logits

        error = float((read(*one) - expected).abs().max())
    except Exception:  # whatever a model says that cannot: TypeError, ValueError, AttributeError
        return whole
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 0.1
    return read if error <= tolerance * max(float(expected.std()), 1e-3) else whole


class _Float(nn.Module):
    """An unembedding in fp32, whatever the weights: differences between teachers would drown in bf16 logits."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head

    @property
    def weight(self) -> Tensor:
        """The unembedding's own."""
        weight: Tensor = self.head.weight
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """`(..., d_model)` to logits `(..., vocabulary)`."""
        if type(self.head) is not nn.Linear:
            out: Tensor = self.head(x)
            return out
        return exact_logits(self.head, x)
