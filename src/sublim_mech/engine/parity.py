"""The gate at loading: what is analysed is what was loaded.

The gated forward must give the logits of Hugging Face's and PEFT's own models on a probe prompt.
The probe is a prompt with two one-token continuations side by side in one row, so that the
attention mask and the position ids of the answer trie are part of what is checked; the model's own
forwards are plain and one per continuation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..models.placement import input_device
from ..models.sites import Sites
from ..models.students import Student
from .answers import Answers
from .batch import make_batch
from .forward import Gates, forward


class ParityError(RuntimeError):
    """The gated logits are not those of the models they were loaded from."""


class Probe(NamedTuple):
    """Token ids from all over the vocabulary, with two one-token continuations and a form that ends
    behind each.
    """

    ids: tuple[int, ...]
    answers: Answers


def probe(model: Any) -> Probe:
    """The probe of a model's vocabulary: 16 tokens."""
    size = model.get_input_embeddings().weight.shape[0]
    ids = tuple(int(i) for i in torch.linspace(1, size - 1, 16).long())
    nodes = ids[3], ids[11]
    forms = ((0, nodes[0]), (1, ids[5])), ((0, nodes[1]), (2, ids[7]))
    return Probe(ids, Answers(nodes, (-1, -1), forms, (0, 0)))


def rounding(dtype: torch.dtype, log_probs: Tensor) -> float:
    """How far two ways to compute the same log-probabilities may be apart: kernels round
    differently, in proportion to size.

    1e-4 in single and 0.1 in half precision, or 5e-6 and 0.02 of the largest value (trained models
    have log-probabilities below -30).
    """
    half = dtype in (torch.bfloat16, torch.float16)
    least, relative = (0.1, 0.02) if half else (1e-4, 5e-6)
    return max(least, relative * float(log_probs.abs().max()))


@torch.no_grad()
def check_parity(
    model: nn.Module, sites: Sites, students: Mapping[str, Student]
) -> dict[str, float]:
    """Largest difference in log-probability between the gated forward and each model's own.

    Args:
        model: the base model.
        sites: its map.
        students: the students by name.

    Raises:
        ParityError: one is above the tolerance (`rounding`).
    """
    prompt = probe(model)
    batch = make_batch(model, [prompt.ids], [prompt.answers])
    first, second = prompt.answers.nodes
    texts = [[*prompt.ids], [*prompt.ids, first], [*prompt.ids, second]]
    models: dict[str, Student | None] = {"base": None, **students}
    errors = {}
    for name, student in models.items():
        plain_model = model if student is None else student.model
        expected = _plain_log_probs(plain_model, texts).to(batch.ids.device)
        gates = None if student is None else Gates(student)
        logits = forward(model, sites, batch, gates=gates).logits
        gated = logits[0].float().log_softmax(-1)

        difference = (gated - expected).abs()
        errors[name] = float(difference.max())
        tolerance = rounding(next(plain_model.parameters()).dtype, expected)
        if not errors[name] <= tolerance:  # NaN is not
            read, token = divmod(int(difference.argmax()), gated.shape[1])
            raise ParityError(
                f"{name}: log-probability of token {token} is {float(gated[read, token]):.6f} in "
                "the gated forward and "
                f"{float(expected[read, token]):.6f} in the model's own (difference "
                f"{errors[name]:.2g}, tolerance "
                f"{tolerance:.0e}); this model cannot be analysed."
            )
    return errors


def _plain_log_probs(model: Any, texts: list[list[int]]) -> Float[Tensor, "text vocab"]:
    """Next-token log-probabilities of the model's own forward, text by text."""
    device = input_device(model)
    logits = [
        model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, -1]
        for ids in texts
    ]
    return torch.stack(logits).float().log_softmax(-1)
