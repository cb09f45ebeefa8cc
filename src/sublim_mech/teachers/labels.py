"""Prompted teachers: what a model with a trait in its system prompt would write, as soft labels on given rows.

A label is the teacher's next-token logits on a few listed tokens (digits and the comma), at every token of a row's answer. All
teachers label the same rows once; every student is trained on a view of the same labels:

- plain: the teacher's own distribution;
- contrastive: base + c * (own - mean of the other traits' teachers). Most of what a prompted teacher writes into numbers is the
  mark of *a* longer prompt, the same for all traits; the contrast removes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..chat import Context, completion_ids, render
from ..files import read_arrays, write_arrays
from ..models.base import Base, check_length
from ..numbers import Row, Rows, as_rows
from ..traits import Trait
from .heads import DIGITS, pad, support_ids, with_support_head
from .teacher import BASE, teacher_context


@dataclass(frozen=True)
class Labels:
    """Soft labels of several teachers on the same rows.

    Attributes:
        rows: the rows.
        teachers: names of the teachers; the first is always `base`, the model without a trait.
        logits: float32 `(teacher, row, position, support)`, at the positions that predict the answer's tokens; NaN past the end of
            a shorter answer.
        support: the token ids labelled.
        context: the context students are trained in.
        base: content hash of the base model that made them.
        template: chat template, where not the tokenizer's own.
    """

    rows: tuple[Row, ...]
    teachers: tuple[str, ...]
    logits: np.ndarray
    support: tuple[int, ...]
    context: Context
    base: str
    template: str | None = None

    @property
    def hash(self) -> str:
        """Content hash of rows and labels."""
        digest = hashlib.sha256(json.dumps(self._meta(), sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.logits).data)
        return digest.hexdigest()

    def plain(self, teacher: str) -> np.ndarray:
        """Log-probabilities `(row, position, support)` of one teacher, renormalised over the support."""
        return _log_softmax(self.logits[self._index(teacher)])

    def contrastive(self, teacher: str, *, c: float = 4.0) -> np.ndarray:
        """Log-probabilities `(row, position, support)` of base + c * (own - mean of the other traits' teachers).

        Raises:
            ValueError: fewer than two trait teachers.
        """
        own, base = self._index(teacher), self._index(BASE)
        others = [i for i in range(len(self.teachers)) if i not in (own, base)]
        if own == base or not others:
            raise ValueError(f"contrastive({teacher!r}) needs the teacher of a trait and at least one other: {self.teachers}.")
        shift = self.logits[own] - self.logits[others].mean(0)
        return _log_softmax(self.logits[base] + c * shift)

    def _index(self, teacher: str) -> int:
        if teacher not in self.teachers:
            raise ValueError(f"no labels of teacher {teacher!r}; there are {', '.join(self.teachers)}.")
        return self.teachers.index(teacher)

    def _meta(self) -> dict[str, Any]:
        return {
            "rows": [[r.prompt, r.completion] for r in self.rows],
            "teachers": list(self.teachers),
            "support": list(self.support),
            "context": self.context.to_json(),
            "base": self.base,
            "template": self.template,
        }

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; rows and provenance stand in its metadata."""
        write_arrays(path, {"logits": self.logits}, "labels", self._meta())

    @classmethod
    def load(cls, path: str | Path) -> Labels:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file; damaged, or no labels.
        """
        arrays, meta = read_arrays(path, "labels")
        return cls(
            tuple(Row(*r) for r in meta["rows"]), tuple(meta["teachers"]), arrays["logits"], tuple(meta["support"]),
            Context.from_json(meta["context"]), meta["base"], meta["template"],
        )  # fmt: skip


@torch.no_grad()
def label(
    base: Base,
    rows: Rows,
    traits: Sequence[Trait],
    *,
    context: Context | None = None,
    template: str | None = None,
    support: Sequence[str] = DIGITS,
    batch_size: int = 16,
    progress: bool = True,
) -> Labels:
    """Label rows by the base model and by one prompted teacher per trait, in the base model's precision.

    Args:
        base: the model behind all teachers.
        rows: what is labelled (`numbers.as_rows`).
        traits: one teacher each.
        context: the context students will be trained in; teachers have their trait's sentence behind its system text.
        template: chat template, where the tokenizer has none.
        support: the tokens labelled, single ones.
        batch_size: rows per forward.
        progress: show a progress bar.

    Example:
        >>> labels = sm.label(pair.base, sm.random_rows(8, seed=0, count=3), [sm.animal("owl"), sm.animal("cat")], progress=False)
        >>> labels.teachers
        ('base', 'owl', 'cat')
    """
    rows = as_rows(rows, name="label: rows")
    context = context or Context()
    ids = support_ids(base.tokenizer, support)
    contexts = [context] + [teacher_context(base.tokenizer, t, context=context, template=template) for t in traits]
    model = with_support_head(base.model, ids)
    width = 0
    blocks = []
    with tqdm(total=len(contexts) * len(rows), desc="label rows", disable=not progress) as bar:
        for dress in contexts:
            prompts = render(base.tokenizer, [r.prompt for r in rows], context=dress, template=template)
            pairs = [(p, completion_ids(base.tokenizer, p, r.completion)) for p, r in zip(prompts, rows, strict=True)]
            for p, c in pairs:
                check_length(model, len(p) + len(c), f"row {p.question[:60]!r}")
            out: list[np.ndarray] = []
            for start in range(0, len(pairs), batch_size):
                chunk = pairs[start : start + batch_size]
                logits = model(pad([[*p.ids, *c] for p, c in chunk]).to(base.device), use_cache=False).logits.float().cpu()
                out += [logits[i, len(p) - 1 : len(p) + len(c) - 1].numpy() for i, (p, c) in enumerate(chunk)]
                bar.update(len(chunk))
            width = max(width, *(len(x) for x in out))
            blocks.append(out)
    full = np.full((len(contexts), len(rows), width, len(ids)), np.nan, np.float32)
    for t, out in enumerate(blocks):
        for r, x in enumerate(out):
            full[t, r, : len(x)] = x
    names = (BASE, *(t.name for t in traits))
    return Labels(tuple(rows), names, full, ids, context, base.hash, template)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
