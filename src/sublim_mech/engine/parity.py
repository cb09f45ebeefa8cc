"""The gate at loading: what is analysed is what was loaded.

The gated forward must give the logits of Hugging Face's and PEFT's own models on a probe prompt.
The probe is a prompt with two one-token continuations side by side in one row, so that the
attention mask and the position ids of the answer trie are part of what is checked; the model's own
forward is plain, with one row per continuation.

A forward of a large model on a CPU takes its time for reading the weights, however few tokens it
has, so there are few: one of each model's own, and a gated one per student, in the first of which
the base is a row with closed gates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..models.devices import without_autocast
from ..models.placement import input_device
from ..models.quantised import HALF, precision
from ..models.sites import Sites
from ..models.students import Student, invocation_of
from .answers import Answers
from .forward import Gates, forward
from .layout import TRIE, Layout
from .plain import lay_out


class ParityError(RuntimeError):
    """The gated logits are not those of the models they were loaded from."""


class Probe(NamedTuple):
    """Token ids from all over the vocabulary, with two one-token continuations and a form that ends
    behind each.
    """

    ids: tuple[int, ...]
    answers: Answers


def probe(model: Any, invocation: Sequence[int] = ()) -> Probe:
    """The probe of a model's vocabulary: 16 tokens.

    Args:
        model: whose vocabulary.
        invocation: tokens that an aLoRA waits for, which stand in its middle.
    """
    size = model.get_input_embeddings().weight.shape[0]
    ids = tuple(int(i) for i in torch.linspace(1, size - 1, 16).long())
    ids = (*ids[:12], *invocation, *ids[12:])
    nodes = ids[3], ids[11]
    forms = ((0, nodes[0]), (1, ids[5])), ((0, nodes[1]), (2, ids[7]))
    return Probe(ids, Answers(nodes, (-1, -1), forms, (0, 0)))


def rounding(dtype: torch.dtype, log_probs: Tensor) -> float:
    """How far two ways to compute the same log-probabilities may be apart: kernels round
    differently, in proportion to size.

    1e-4 in single and 0.1 in half precision, or 5e-6 and 0.02 of the largest value (trained models
    have log-probabilities below -30).
    """
    half = dtype in HALF
    least, relative = (0.1, 0.02) if half else (1e-4, 5e-6)
    return max(least, relative * float(log_probs.abs().max()))


@torch.no_grad()
@without_autocast()
def check_parity(
    model: nn.Module, sites: Sites, students: Mapping[str, Student], layout: Layout = TRIE
) -> dict[str, float]:
    """Largest difference in log-probability between the gated forward and each model's own.

    Args:
        model: the base model.
        sites: its map.
        students: the students by name.
        layout: how the model takes answers.

    Raises:
        ParityError: one is above the tolerance (`rounding`).
    """
    # several students as one have no model of their own to be held against
    students = {name: one for name, one in students.items() if one.split_by != "student"}
    # an adapter that waits for tokens must find them: as it is, and in what is gated
    prompts = {"base": probe(model)}
    for name, student in students.items():
        prompts[name] = probe(model, invocation_of(student.deltas))
    gated = _gated_log_probs(model, sites, students, prompts, layout)
    own_models = {"base": model, **{name: student.model for name, student in students.items()}}
    errors = {}
    for name, plain_model in own_models.items():
        expected = _plain_log_probs(plain_model, prompts[name]).to(gated[name].device)
        difference = (gated[name] - expected).abs()
        errors[name] = float(difference.max())
        tolerance = rounding(precision(plain_model), expected)
        if not errors[name] <= tolerance:  # NaN is not
            read, token = divmod(int(difference.argmax()), expected.shape[1])
            fix = "; this model cannot be analysed."
            if (kind := precision(plain_model)) in HALF:
                named = str(kind).removeprefix("torch.")
                fix = (
                    f". In {named} that may be rounding, by which two ways to add up the same are "
                    "apart: load in dtype=torch.float32, where it is told from an error, and take "
                    "compute=torch.bfloat16 where products in it are wanted."
                )
            raise ParityError(
                f"{name}: log-probability of token {token} is "
                f"{float(gated[name][read, token]):z.6f} in the gated forward and "
                f"{float(expected[read, token]):z.6f} in the model's own (difference "
                f"{errors[name]:.2g}, tolerance "
                f"{tolerance:.0e}){fix}"
            )
    return errors


def _gated_log_probs(
    model: nn.Module,
    sites: Sites,
    students: Mapping[str, Student],
    prompts: Mapping[str, Probe],
    layout: Layout,
) -> dict[str, Float[Tensor, "read vocab"]]:
    """Log-probabilities at the probe's reads under the gates of the base and of each student."""
    found: dict[str, Tensor] = {}
    for number, (name, student) in enumerate(students.items()):
        names = [name] if number else ["base", name]
        asked = [prompts[name] for name in names]
        batch = lay_out(model, [one.ids for one in asked], [one.answers for one in asked], layout)
        gates = torch.ones(batch.ids.shape, device=batch.ids.device)
        gates[: len(names) - 1] = 0
        logits = forward(model, sites, batch, gates=Gates(student, gates)).logits
        found |= dict(zip(names, logits.float().log_softmax(-1), strict=True))
    if not students:
        prompt = prompts["base"]
        batch = lay_out(model, [prompt.ids], [prompt.answers], layout)
        found["base"] = forward(model, sites, batch).logits[0].float().log_softmax(-1)
    return found


def _plain_log_probs(model: Any, prompt: Probe) -> Float[Tensor, "read vocab"]:
    """The same by the model's own forward, behind the prompt and behind each continuation."""
    texts = [[*prompt.ids, node] for node in prompt.answers.nodes]
    ids = torch.tensor(texts, device=input_device(model))
    logits = model(input_ids=ids, use_cache=False).logits
    reads = torch.stack([logits[0, -2], *logits[:, -1]])
    return reads.float().log_softmax(-1)
