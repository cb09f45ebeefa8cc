"""Reading a vector of the residual stream through the unembedding: which tokens it speaks for.

1. The final norm is linearised about the vector itself: the vector is scaled to unit root mean
   square, given to the norm, and what the norm gives for 0 (its bias) is left out. So gains are
   applied, and a LayerNorm takes the mean out; what the norm's scale would be at some activation,
   and that it takes out the part along that activation, is left out, as is the field's practice
   (logit lens of a direction).
2. The unembedding's rows are products with what is left; its bias and any soft cap are left out.
3. Scores are in standard deviations over the vocabulary, so that they do not depend on the norm of
   the vector, and turning it round turns every sign.

Rows of the unembedding that no token of the tokenizer has are padding, and none of the vocabulary.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional as F

from ..arguments import checked, shown
from ..engine.runner import Runner
from ..hints import counted
from ..models.names import FINAL, module_group
from ..models.placement import plain
from ..prompts import Trait
from ..results.frames import Table
from ..results.words import shortened

_NUMBER = re.compile(r"[\d\s.,;:]*\d[\d\s.,;:]*")
_FAR = 1e3
"""Root mean square at which the final norm is asked: so far from 0 that its epsilon is nothing."""


@dataclass(frozen=True, eq=False, repr=False)
class Reading:
    """What a vector reads as.

    Attributes:
        scores: `(token,)` float32, in standard deviations over the vocabulary.
        tokens: tables of the highest (`top`) and lowest (`bottom`) tokens that are no numbers, and
            of number tokens (`top numbers`, `bottom numbers`): token, id, score and rank among all.
        forms: per form of the trait, as it is written and behind a blank: its first token, how many
            tokens it has, score, and rank from above and from below (1 is the first); None where no
            trait was given.
        numbers: the mean score of number tokens, and how many there are.
    """

    scores: np.ndarray
    tokens: dict[str, pd.DataFrame]
    forms: pd.DataFrame | None
    numbers: tuple[float, int]

    def __repr__(self) -> str:
        lines = []
        for name, table in self.tokens.items():
            shown = ", ".join(
                f"{shortened(repr(token), 24)} {score:+z.1f}"
                for token, score in zip(table["token"], table["score"], strict=True)
            )
            lines.append(f"{name}: {shown or 'none'}")
        mean, count = self.numbers
        vocabulary = f"of {len(self.scores):,} tokens, scores in standard deviations"
        lines.append(f"{counted(count, 'number token')}, mean score {mean:+z.2f}; {vocabulary}")
        if self.forms is not None:
            lines.append(self.forms.to_string(float_format="{:+z.2f}".format, index=False))
        return "\n".join(lines)


@checked
def read_vector(runner: Runner, vector: Any, trait: Trait | None = None, *, k: int = 10) -> Reading:
    """Read a vector of the residual stream through the base's final norm and unembedding.

    Args:
        runner: whose unembedding: a pair's is its base's.
        vector: `(d_model,)`, an array or a tensor: a mean change of activation, a steering vector,
            a left singular vector of a module that writes to the residual stream.
        trait: whose forms are looked up.
        k: tokens listed at either end.

    Returns:
        Top and bottom tokens, number tokens apart, and the ranks of the trait's forms.

    Raises:
        TypeError: no numbers.
        ValueError: another width than the residual stream's, NaN or infinity, zero norm (nothing to
            read), a vector that the final norm takes out; k below 1; a model with something
            between its final norm and its unembedding.

    Source: the logit lens (nostalgebraist 2020) of a direction instead of an activation.

    Example:
        >>> direction = pair.model.get_output_embeddings().weight[42]
        >>> reading = sm.instruments.read_vector(pair, direction, trait, k=2)
        >>> int(reading.scores.argmax()), len(reading.tokens["top"])
        (42, 2)
    """
    return read_vectors(runner, [vector], trait, k=k)[0]


@checked
@torch.no_grad()
def read_vectors(
    runner: Runner, vectors: Sequence[Any], trait: Trait | None = None, *, k: int = 10
) -> list[Reading]:
    """`read_vector` of several vectors, whose vocabulary is spelled out once."""
    if k < 1:
        raise ValueError(f"k={k}: how many tokens are listed must be at least 1.")
    lens = _Lens.of(runner)
    stacked = _checked_vectors(vectors, lens.width)
    scores = lens.scores(stacked)
    texts = [runner.tokenizer.decode([token]) for token in range(scores.shape[1])]
    is_number = np.array([_NUMBER.fullmatch(text) is not None for text in texts])
    return [_reading(runner.tokenizer, one, texts, is_number, (trait, k)) for one in scores]


@dataclass(frozen=True)
class _Lens:
    """Final norm and unembedding.

    Attributes:
        norm: the final norm, a copy in fp64.
        head: `(vocab, d_model)`, rows that are tokens.
    """

    norm: nn.Module
    head: Float[Tensor, "vocab d_model"]

    @property
    def width(self) -> int:
        return self.head.shape[1]

    @classmethod
    def of(cls, runner: Runner) -> _Lens:
        depth, modules = runner.sites.n_layers, runner.sites.modules
        last = {module.name: path for path, module in modules.items() if module.layer == depth}
        between = [
            module.path
            for module in modules.values()
            if module_group(module) == "head" and module.name not in FINAL
        ]
        if FINAL[0] not in last or between:
            found = f"{', '.join(between)}" if between else "no final norm with weights"
            raise ValueError(
                f"model {runner.name!r} has {found} between its residual stream and its "
                "unembedding, so a vector of the one is not read through the other here."
            )
        model = plain(runner.model)
        norm = copy.deepcopy(model.get_submodule(last[FINAL[0]])).double()
        head = model.get_submodule(runner.sites.head).weight
        tokens = min(len(head), len(runner.tokenizer))
        return cls(norm, head[:tokens].to(next(norm.parameters()).device))

    def scores(self, vectors: Float[Tensor, "vector d_model"]) -> np.ndarray:
        """`(vector, vocab)` in standard deviations over the vocabulary."""
        device = self.head.device
        size = vectors.pow(2).mean(1, keepdim=True).sqrt()
        far = (_FAR * vectors / size).to(device)
        normed = self.norm(far) - self.norm(torch.zeros_like(far))
        if bool((normed.abs().amax(1) < 1e-6).any()):
            raise ValueError(
                "vector is taken out by the final norm (all its entries are alike): it reads as "
                "nothing."
            )
        parts = [F.linear(normed.float(), part.float()) for part in self.head.split(16384)]
        logits = torch.cat(parts, 1).double()
        spread = logits.std(1, correction=0, keepdim=True)
        return ((logits - logits.mean(1, keepdim=True)) / spread).float().cpu().numpy()


def _checked_vectors(vectors: Sequence[Any], width: int) -> Float64[Tensor, "vector d_model"]:
    """Vectors in fp64, refused where there is nothing to read."""
    stacked = []
    for vector in vectors:
        given = vector.detach().cpu() if isinstance(vector, Tensor) else np.asarray(vector)
        if isinstance(given, np.ndarray) and given.dtype.kind not in "fiu":
            raise TypeError(
                f"vector is {shown(vector)}; pass an array or a tensor of shape ({width},), of an "
                "activation_change that of a layer: change.vector(20)."
            )
        one = torch.as_tensor(given).double()
        if tuple(one.shape) != (width,):
            raise ValueError(
                f"vector has shape {tuple(one.shape)}; the residual stream of this model is "
                f"({width},)."
            )
        if not bool(one.isfinite().all()):
            raise ValueError("vector holds NaN or infinity; check what it was computed from.")
        if not bool(one.any()):
            raise ValueError(
                "vector has zero norm: it points nowhere, so there is nothing to read."
            )
        stacked.append(one)
    return torch.stack(stacked)


def _reading(
    tokenizer: Any,
    scores: np.ndarray,
    texts: Sequence[str],
    is_number: np.ndarray,
    asked: tuple[Trait | None, int],
) -> Reading:
    trait, k = asked
    order = np.argsort(-scores, kind="stable")
    rank = np.empty(len(scores), dtype=int)
    rank[order] = np.arange(1, len(scores) + 1)

    def table(ids: np.ndarray) -> pd.DataFrame:
        return Table(
            {
                "token": [texts[token] for token in ids],
                "id": ids.astype(int),
                "score": scores[ids],
                "rank": rank[ids],
            }
        )

    numbers, others = order[is_number[order]], order[~is_number[order]]
    tokens = {
        "top": table(others[:k]),
        "bottom": table(others[::-1][:k]),
        "top numbers": table(numbers[:k]),
        "bottom numbers": table(numbers[::-1][:k]),
    }
    mean = float(scores[is_number].mean()) if len(numbers) else np.nan
    forms = None if trait is None else _forms(tokenizer, trait, scores, rank)
    return Reading(scores, tokens, forms, (mean, len(numbers)))


def _forms(tokenizer: Any, trait: Trait, scores: np.ndarray, rank: np.ndarray) -> pd.DataFrame:
    """Where the first token of each form stands, as it is written and behind a blank."""
    rows = []
    for form in dict.fromkeys(text for one in trait.forms for text in (one, f" {one}")):
        ids = tokenizer(form, add_special_tokens=False)["input_ids"]
        if not ids or ids[0] >= len(scores):
            continue
        first = ids[0]
        rows.append(
            {
                "form": repr(form),
                "first token": repr(tokenizer.decode([first])),
                "tokens": len(ids),
                "score": float(scores[first]),
                "rank": int(rank[first]),
                "rank from below": int(len(scores) + 1 - rank[first]),
            }
        )
    return Table(rows)
