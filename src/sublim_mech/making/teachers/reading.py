"""Running a teacher over given rows: its logits where the tokens of the answers are predicted.

1. Each row is dressed in the teacher's context and tokenised together with its answer. The answer
   is a trie of one branch: all its tokens but the last are fed, and logits are read at the last
   token of the prompt and behind each of them.
2. The tokens that all prompts begin with (the teacher's system text, mostly) run once; all rows
   reuse their keys and values.
3. Rows of like lengths go together, so that little is padding. The unembedding is computed at the
   answers' positions only, and there on the supported tokens only, in fp32: differences between
   teachers would drown in bf16 logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ...arguments import checked
from ...engine.answers import build_trie
from ...engine.beginnings import NOTHING, beginning_of
from ...engine.heads import ExactHead, pad
from ...engine.runner import Runner
from ...models.checks import check_length
from ...models.devices import without_autocast
from ...models.placement import input_device
from ...prompts import Prompt, completion_ids, render
from ...prompts.notices import said_once
from ..rows import Row, Rows, as_rows, check_raw
from .teacher import Teacher


class RowLogits(NamedTuple):
    """A teacher's logits on one row.

    Attributes:
        row: its index.
        logits: float32 `(position, token)`, where the answer's tokens are predicted.
    """

    row: int
    logits: Tensor


class RowTokens(NamedTuple):
    """Rows in a teacher's context.

    Attributes:
        prompts: per row, the rendered prompt.
        answers: per row, the token ids of the answer.
    """

    prompts: list[Prompt]
    answers: list[list[int]]


ReadRows = Callable[[Sequence[int]], Float[Tensor, "row position token"]]
"""From indices of rows to their logits; rows with shorter answers are padded."""


@checked
def read_rows(
    teacher: Teacher,
    rows: Rows,
    *,
    support: Sequence[int] | None = None,
    close: bool = False,
    batch_size: int = 16,
    share_prefix: bool = True,
    bar: Any = None,
) -> Iterator[RowLogits]:
    """A teacher's logits at the positions that predict the tokens of given answers.

    Args:
        teacher: who is asked, in its own context (`teacher.context`).
        rows: prompts and answers (`numbers.as_rows`).
        support: the token ids whose logits are computed; the whole vocabulary when None.
        close: whether the answer's end-of-turn text is read too.
        batch_size: rows per forward.
        share_prefix: run the tokens that all prompts begin with once, instead of in every row.
            Architectures that the gated forward cannot run, run whole rows in any case.
        bar: a progress bar to advance by rows.

    Yields:
        (index of the row, its float32 logits `(position, support)` on the model's device), rows of
        like lengths one after the other.

    Raises:
        ValueError: no rows; a row without answer tokens, or longer than the model; batch_size below
            1.

    Example:
        >>> from sublim_mech.making.teachers import prompted, read_rows
        >>> rows = [{"prompt": "Go on.", "completion": "1, 2"}]
        >>> ((row, logits),) = read_rows(prompted(pair, trait), rows, support=[5, 7])
        >>> row, logits.shape
        (0, torch.Size([4, 2]))
    """
    _check_batch_size(batch_size)
    tokens = tokenise(teacher, as_rows(rows), close=close)
    head = ExactHead(None if support is None else tuple(support))
    read = _reader(teacher, tokens, head, share_prefix=share_prefix)
    return _read_batches(read, tokens, batch_size, bar)


@checked
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

    Example:
        >>> from sublim_mech.making.teachers import log_probs, prompted
        >>> rows = [{"prompt": "Go on.", "completion": "1, 2"}]
        >>> (values,) = log_probs(prompted(pair, trait), rows, close=False, progress=False)
        >>> values.shape, bool((values < 0).all())
        ((4,), True)
    """
    _check_batch_size(batch_size)
    tokens = tokenise(teacher, as_rows(rows), close=close)
    read = _reader(teacher, tokens, ExactHead(), share_prefix=True)
    values = [np.empty(0, np.float32)] * len(tokens.prompts)
    title = f"{teacher.name}: read rows"
    with tqdm(total=len(values), desc=title, disable=not progress) as bar:
        for row, logits in _read_batches(read, tokens, batch_size, bar):
            said = torch.tensor(tokens.answers[row], device=logits.device)
            log_p = logits.log_softmax(-1).gather(-1, said[:, None])[:, 0]
            values[row] = log_p.cpu().numpy()
    return values


@said_once()
def tokenise(teacher: Teacher, rows: Sequence[Row], *, close: bool) -> RowTokens:
    """Rows in the teacher's context.

    Raises:
        ValueError: a row without answer tokens, or longer than the model; raw text in another
            context than `RAW`.
    """
    empty = [row.prompt for row in rows if not row.completion]
    if empty:
        raise ValueError(f"rows without completion tokens: {empty[:3]!r}; give each an answer.")
    check_raw(rows, teacher.context, "rows")
    tokenizer = teacher.base.tokenizer
    asked = [row.prompt for row in rows]
    prompts = render(tokenizer, asked, context=teacher.context, template=teacher.template)
    answers = []
    for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        answer = completion_ids(tokenizer, prompt, row.completion, close=close)
        what = f"row {number}, {prompt.question[:60]!r}, to teacher {teacher.name!r}"
        check_length(teacher.runner.model, len(prompt) + len(answer), what)
        answers.append(answer)
    return RowTokens(prompts, answers)


@torch.no_grad()
def _read_batches(
    read: ReadRows, tokens: RowTokens, batch_size: int, bar: Any
) -> Iterator[RowLogits]:
    """Read rows of like lengths together."""
    sizes = [len(p) + len(a) for p, a in zip(tokens.prompts, tokens.answers, strict=True)]
    # the largest first: what does not fit fails at once
    order = sorted(range(len(sizes)), key=lambda row: -sizes[row])
    for start in range(0, len(order), batch_size):
        together = order[start : start + batch_size]
        with without_autocast():
            read_now = read(together).float()
        for row, logits in zip(together, read_now, strict=True):
            yield RowLogits(row, logits[: len(tokens.answers[row])])
        if bar is not None:
            bar.update(len(together))


def _reader(
    teacher: Teacher, tokens: RowTokens, head: ExactHead, *, share_prefix: bool
) -> ReadRows:
    """What reads rows: behind their common beginning where the model can be run so."""
    if isinstance(teacher.runner, Runner):
        return _behind_prefix(teacher.runner, tokens, head, share_prefix=share_prefix)
    return _whole_rows(teacher.runner.model, tokens, head)


@torch.no_grad()
def _behind_prefix(
    runner: Runner, tokens: RowTokens, head: ExactHead, *, share_prefix: bool
) -> ReadRows:
    """Read rows from the token on at which they begin to differ."""
    ids = [prompt.ids for prompt in tokens.prompts]
    tries = [build_trie([[tuple(answer)]]) for answer in tokens.answers]
    shared, past = NOTHING
    if share_prefix:
        longest = max(len(row) + trie.length for row, trie in zip(ids, tries, strict=True))
        shared, past = beginning_of(runner, ids, longest=longest, unembed=head)

    def read(rows: Sequence[int]) -> Tensor:
        batch = runner.batch([ids[row] for row in rows], [tries[row] for row in rows])
        return runner.run(batch.after(shared), past=past, unembed=head).logits

    return read


def _whole_rows(model: Any, tokens: RowTokens, head: ExactHead) -> ReadRows:
    """Read rows by the model's own forward, for architectures that the gated one cannot run.

    Rows are padded on the right: under causal attention that changes nothing on the left.
    """
    unembedding = model.get_output_embeddings()
    device = input_device(model)

    def read(rows: Sequence[int]) -> Tensor:
        texts = [(tokens.prompts[row].ids, tokens.answers[row]) for row in rows]
        ids = pad([[*prompt, *answer[:-1]] for prompt, answer in texts]).to(device)
        spans = []
        for prompt, answer in texts:
            first = len(prompt) - 1  # what stands here predicts the answer's first token
            spans.append(range(first, first + len(answer)))
        reads = pad(spans).to(device)
        places = torch.arange(len(texts), device=device)[:, None], reads
        handle = unembedding.register_forward_pre_hook(
            lambda _, args: (args[0].to(device)[places], *args[1:])
        )
        try:
            with head.in_place_of(unembedding):
                logits: Tensor = model(input_ids=ids, use_cache=False).logits
        finally:
            handle.remove()
        return logits

    return read


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1.")
