"""Generation under a graft: what the model says when the student's weights work at chosen tokens only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..engine.answers import Answers
from ..engine.decoding import answer_text, end_ids
from ..engine.forward import Gates, Pass, make_batch, next_step
from ..engine.pair import ModelPair
from ..masks import Mask, as_mask
from ..models.base import check_length
from ..prompts import Prompt

POLICIES = ("base", "student", "mask")


@torch.no_grad()
def generate(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    where: Mask | Callable[[Prompt], Sequence[int]] | Sequence[int],
    *,
    generated: Literal["base", "student", "mask"],
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    samples: int = 1,
    seed: int = 0,
    model: str = "student",
) -> list[list[str]]:
    """Generate answers under a graft (arXiv 2606.00831).

    Args:
        pair: base, student, controls.
        prompts: rendered prompts.
        where: the cells at which the student computes the prompt: a mask, positions, or a function from a prompt to them.
        generated: who computes the generated tokens: the `base`, the `student`, or the student with the modules that the `mask` selects
            at any token of the prompt. There is no default: leaving adapters on while decoding is a known trap.
        max_new_tokens: tokens after which an answer ends, if the model does not end it.
        temperature: 0 is greedy; otherwise the logits are divided by it and sampled from.
        samples: answers per prompt; they share one pass over the prompt.
        seed: of the sampling.
        model: whose weights are grafted, one of `pair.students`.

    Returns:
        Per prompt, its answers as text, without special tokens.

    Raises:
        ValueError: unknown policy or model; a negative temperature; greedy decoding of several samples; a prompt too long.

    Example:
        >>> answers = sm.generate(pair, prompts[:1], sm.masks.role("system"), generated="base", max_new_tokens=5)
        >>> [len(samples) for samples in answers]
        [1]
    """
    if generated not in POLICIES:
        raise ValueError(f"generated={generated!r}: say who computes generated tokens, one of {', '.join(POLICIES)}.")
    if model not in pair.students:
        raise ValueError(f"model={model!r}: choose one of {', '.join(pair.students)}.")
    if temperature < 0 or (temperature == 0 and samples != 1) or samples < 1 or max_new_tokens < 1:
        raise ValueError(
            f"temperature={temperature}, samples={samples}, max_new_tokens={max_new_tokens}: greedy decoding (temperature 0) gives one "
            "sample; sampling needs a positive temperature; both numbers are at least 1."
        )
    mask = as_mask(where, "where")
    out = []
    for i, prompt in enumerate(prompts):
        check_length(pair.base.model, len(prompt) + max_new_tokens, f"prompt {prompt.question[:60]!r} with its answer")
        rng = torch.Generator().manual_seed(hash((seed, i)))
        out.append(_one(pair, prompt, mask, generated, max_new_tokens, temperature, samples, rng, model))
    return out


def _one(
    pair: ModelPair, prompt: Prompt, mask: Mask, generated: str, max_new_tokens: int, temperature: float, samples: int,
    rng: torch.Generator, model: str,
) -> list[str]:  # fmt: skip
    student, paths = pair.students[model], list(pair.sites.modules)
    cells = torch.from_numpy(mask(prompt, list(pair.sites.modules.values())))[
        :, [paths.index(p) for p in student.deltas]
    ].float()
    batch = make_batch(pair.base.model, [prompt], [Answers((), (), (), ())])
    to = batch.ids.device
    done = pair.run(batch, gates=Gates(student, cells[None].to(to)), past=())
    used = (cells.amax(0) if len(student.deltas) else cells[0])[None, None]
    after = {"base": None, "student": Gates(student), "mask": Gates(student, used.expand(samples, 1, -1).to(to))}[generated]
    fit = pair.rows(slots=1, keys=len(prompt) + max_new_tokens, reads=1)
    texts: list[str] = []
    while len(texts) < samples:
        rows = min(fit, samples - len(texts))
        own = after if after is None or isinstance(after.values, float) else Gates(student, after.values[:rows])
        texts += _decode(pair, len(prompt), done, own, rows, max_new_tokens, temperature, rng)
    return texts


def _decode(
    pair: ModelPair, length: int, done: Pass, gates: Gates | None, rows: int, max_new_tokens: int, temperature: float,
    rng: torch.Generator,
) -> list[str]:  # fmt: skip
    """Continue a finished pass over one prompt in several rows."""
    logits, cache = done.logits[:, -1].expand(rows, -1), done.cache
    ids: list[Tensor] = []
    ended = torch.zeros(rows, dtype=torch.bool)
    ends = end_ids(pair.base.model, pair.tokenizer)
    for step in range(max_new_tokens):
        chosen = _choose(logits.float().cpu(), temperature, rng)
        ids.append(chosen)
        ended |= torch.isin(chosen, torch.tensor(ends))
        if bool(ended.all()) or step + 1 == max_new_tokens:
            break
        batch = next_step(pair.base.model, chosen.to(logits.device), length + step)
        forward = pair.run(batch, gates=gates, past=cache)
        logits, cache = forward.logits[:, -1], forward.cache
    return [answer_text(pair.tokenizer, row, ends) for row in torch.stack(ids, 1).tolist()]


def _choose(logits: Tensor, temperature: float, rng: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=rng)[:, 0]
