"""Generation under a graft: what the model says when the student's weights work at chosen tokens
only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float

from ..arguments import checked
from ..engine.closed import tell_closed
from ..engine.decoding import decode
from ..engine.drawing import Decoding, Request
from ..engine.endings import answer_text, close_ids, end_ids
from ..engine.own_gates import own_gates
from ..engine.pair import ModelPair
from ..masks import Mask, Where, as_mask
from ..models.students import Student
from ..prompts import Prompt

POLICIES = ("base", "student", "mask")


@checked
def generate(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    where: Where,
    *,
    generated: Literal["base", "student", "mask"],
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    samples: int = 1,
    seed: int = 0,
    model: str = "student",
) -> list[list[str]]:
    """Generate answers under a graft (arXiv 2506.20746).

    An answer goes on where its prompt ends: behind what the template writes before answers, or
    behind one that has begun (`Context(prefill=...)`), which is no part of what is returned. It
    ends where model or tokenizer say so, or at the prompt's own close.

    Args:
        pair: base, student, controls.
        prompts: rendered prompts; one that is listed twice gets further samples, not the same ones.
        where: the cells at which the student computes the prompt: a mask, positions, or a function
            from a prompt to them.
        generated: who computes the generated tokens: the `base`, the `student`, or the student with
            the modules that the `mask` selects at any token of the prompt; where a student brings
            gates of its own, within those of its answer. There is no default:
            leaving adapters on while decoding is a known trap.
        max_new_tokens: tokens after which an answer ends, if the model does not end it.
        temperature: 0 is greedy; otherwise the logits are divided by it and sampled from.
        samples: answers per prompt; they share one pass over the prompt.
        seed: of the sampling. An answer is a function of seed, prompt and which of the samples it
            is: other prompts, their order and the number of samples do not matter, as far as
            rounding goes.
        model: whose weights are grafted, one of `pair.students`, or a student's own name.

    Returns:
        Per prompt, its answers as text, without special tokens.

    Raises:
        ValueError: unknown policy or model; a negative temperature; greedy decoding of several
            samples; a prompt too long; logits that are not finite.

    Warns:
        UserWarning: `where` holds nothing that the student changes (and its gates leave open), and
            the student does not write the answer either: the base answers.

    Example:
        >>> system = sm.masks.role("system")
        >>> asked = {"generated": "base", "max_new_tokens": 5}
        >>> answers = sm.instruments.generate(pair, prompts[:1], system, **asked)
        >>> [len(samples) for samples in answers]
        [1]
    """
    if generated not in POLICIES:
        raise ValueError(
            f"generated={generated!r}: say who computes generated tokens, one of "
            f"{', '.join(POLICIES)}."
        )
    student = pair.named_student(model)
    _check_sampling(samples, temperature, max_new_tokens)
    pair.check_prompts(prompts)
    mask = as_mask(where, "where")
    requests, rows = [], []
    for prompt in prompts:
        pair.check_length(prompt, max_new_tokens, what=" with its answer")
        gates, behind = graft_gates(pair, prompt, mask, student, generated)
        rows.append((prompt, torch.cat([gates, behind[None]])))
        requests.append(Request(prompt.ids, gates, behind, close_ids(pair.tokenizer, prompt)))
    tell_closed(pair.sites, student, mask, rows)
    ends = end_ids(pair.model, pair.tokenizer)
    how = Decoding(max_new_tokens, ends, samples, temperature=temperature, seed=seed)
    answers = decode(pair, requests, how, student=student)
    return [
        [answer_text(pair.tokenizer, ids, ends, prompt) for ids in texts]
        for prompt, texts in zip(prompts, answers, strict=True)
    ]


def _check_sampling(samples: int, temperature: float, max_new_tokens: int) -> None:
    """Raise ValueError where no answers can be drawn so."""
    for name, value in (("samples", samples), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1.")
    if not 0 <= temperature < math.inf:
        raise ValueError(
            f"temperature={temperature}: pass 0 for the likeliest token, or a number above it to "
            "sample."
        )
    if temperature == 0 and samples != 1:
        raise ValueError(
            f"samples={samples} with temperature=0: greedy decoding gives one answer, always the "
            "same; pass a temperature above 0 to sample, or samples=1."
        )


def graft_gates(
    pair: ModelPair, prompt: Prompt, mask: Mask, student: Student, generated: str
) -> tuple[Float[torch.Tensor, "token cell"], Float[torch.Tensor, "cell"]]:
    """The gates of a prompt's tokens and of the tokens that are generated behind it, each closed
    where the student's own gates are.

    Which modules a mask selects is the mask's alone: a student whose gates are open at the answer
    only computes the answer with them.

    Args:
        pair: base, student, controls.
        prompt: a rendered prompt.
        mask: the cells of the prompt.
        student: whose weights.
        generated: who computes the generated tokens (`generate`).
    """
    gates = pair.asked_gates(prompt, mask, student)
    behind = _answer_gates(gates, student, generated)
    own = own_gates(pair.sites, student, prompt, nodes=1)
    return (gates, behind) if own is None else (gates * own[:-1], behind * own[-1])


def _answer_gates(gates: torch.Tensor, student: Student, generated: str) -> torch.Tensor:
    """Who is asked to compute generated tokens, `(cell,)`."""
    if generated == "base":
        return torch.zeros(student.width)
    if generated == "student":
        return torch.ones(student.width)
    # of a scaled mask with its scale
    strongest = gates.abs().argmax(0, keepdim=True)
    return gates.gather(0, strongest)[0]
