"""Steered teachers: a vector per block, added to the residual stream.

1. Questions are rendered in the students' context and once more with the trait's sentence behind the system text.
2. At the output of each chosen block, the residual stream at the prompt's last token (where the answer begins) is taken of both; the
   mean difference over the questions is the block's vector: the difference of means of contrastive activation addition (Rimsky et al.,
   arXiv 2312.06681), of prompts that differ in what the system says, as in activation addition (Turner et al., arXiv 2308.10248).
3. The teacher is a twin of the base, over the same parameters, whose blocks add scale x vector to their output at every position: of
   the system text, of the template, of the question, of the answer. It is asked without the sentence.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...engine.answers import Answers
from ...engine.batch import make_batch
from ...engine.budget import default_budget, rows_per_forward
from ...engine.forward import forward
from ...models.base import Base
from ...models.copies import twin
from ...models.sites import find_sites
from ...prompts import Context, Message, Trait, render
from .teacher import Teacher, teacher_context

SITE, BUFFER = "resid_post", "steering"


@torch.no_grad()
def steering_vectors(
    base: Base,
    trait: Trait,
    *,
    layers: Sequence[int],
    questions: Sequence[str | Sequence[Message]] | None = None,
    context: Context | None = None,
    template: str | None = None,
) -> np.ndarray:
    """Difference-of-means vectors of a trait's sentence, at the last token of the prompts (arXiv 2312.06681, 2308.10248).

    Args:
        base: the base model.
        trait: what the vectors should stand for; `trait.teacher` is the sentence.
        layers: blocks at whose outputs the residual stream is taken.
        questions: what is asked; the trait's own questions when not given.
        context: the context students will be trained in.
        template: chat template, where the tokenizer has none.

    Returns:
        float64 `(layer, d_model)`, in the order of `layers`.

    Raises:
        TypeError: `trait` is none.
        ValueError: layers empty, listed twice or out of range; no questions; a context that the template cannot express.

    Example:
        >>> from sublim_mech.making.teachers import steering_vectors
        >>> steering_vectors(pair.base, trait, layers=[1, 2], questions=["Which animal?"]).shape
        (2, 32)
    """
    _check_trait(trait)
    sites = find_sites(base.model)
    keys = [(SITE, layer) for layer in _blocks(sites.n_layers, layers)]
    asked = trait.questions if questions is None else questions
    context = context or Context()
    told = teacher_context(base.tokenizer, trait, context=context, template=template)
    both = [render(base.tokenizer, asked, context=c, template=template) for c in (context, told)]
    means = []
    for prompts in both:
        longest = max(map(len, prompts))
        rows = rows_per_forward(base.model, default_budget(base.device), slots=longest, keys=longest, reads=1)
        total = torch.zeros(len(keys), 1, dtype=torch.float64)
        for at in range(0, len(prompts), rows):
            some = prompts[at : at + rows]
            batch = make_batch(base.model, some, [Answers((), (), (), ())] * len(some))
            seen = forward(base.model, sites, batch, record=keys).activations
            last = torch.tensor([len(prompt) - 1 for prompt in some], device=batch.ids.device)
            ends = [seen[key][torch.arange(len(some), device=last.device), last] for key in keys]  # (row, d_model) each
            total = total + torch.stack([x.double().sum(0) for x in ends]).cpu()
        means.append(total / len(prompts))
    return (means[1] - means[0]).numpy()


def steered(
    base: Base,
    trait: Trait,
    *,
    layers: Sequence[int],
    scale: float = 1.0,
    vectors: Any = None,
    questions: Sequence[str | Sequence[Message]] | None = None,
    context: Context | None = None,
    template: str | None = None,
) -> Teacher:
    """The base model with scale x vector added to the outputs of blocks, at every position (arXiv 2312.06681, 2308.10248).

    Its control is `randomly_steered`. To measure it as a model: `evaluate(dataclasses.replace(base, model=teacher.model), ...)`.

    Args:
        base: the base model; it stays as it is, and the teacher shares its parameters.
        trait: what it favours.
        layers: the blocks.
        scale: 1 adds the raw difference of means, 0 nothing.
        vectors: `(layer, d_model)`, in the order of `layers`; `steering_vectors` of the trait when not given.
        questions: what the vectors are made from; the trait's own questions when not given.
        context: the context students will be trained in, in which the teacher is asked too.
        template: chat template, where the tokenizer has none.

    Raises:
        TypeError: `trait` is none.
        ValueError: see `steering_vectors`; a scale or vectors that are not finite, vectors of another shape, or given beside
            questions; a base that is steered already.

    Example:
        >>> from sublim_mech.making.teachers import steered
        >>> steered(pair.base, trait, layers=[1], scale=4.0, questions=["Which animal?"]).how
        'steered by 4 x the difference of means at the output of blocks 1'
    """
    _check_trait(trait)
    if not math.isfinite(scale):
        raise ValueError(f"scale={scale!r}: pass a finite number; 1 adds the raw difference of means.")
    sites = find_sites(base.model)
    chosen = _blocks(sites.n_layers, layers)
    if vectors is None:
        vectors = steering_vectors(base, trait, layers=chosen, questions=questions, context=context, template=template)
        what = "the difference of means"
    else:
        if questions is not None:
            raise ValueError("questions are what vectors are made from, and vectors are given; leave one of the two out.")
        vectors, what = np.asarray(vectors, np.float64), "given vectors"
        shape = len(chosen), base.model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        if vectors.shape != shape:
            raise ValueError(f"vectors have shape {vectors.shape}; layers={list(layers)} of this model need {shape}.")
        if not np.isfinite(vectors).all():
            raise ValueError("vectors hold NaN or infinity; check what they were computed from.")
    planted = {sites.blocks[layer]: scale * vector for layer, vector in zip(chosen, vectors, strict=True)}
    how = f"steered by {scale:g} x {what} at the output of blocks {', '.join(map(str, chosen))}"
    return _steered(base, planted, trait.name, trait, context or Context(), template, how)


def randomly_steered(like: Teacher, *, seed: int = 0) -> Teacher:
    """The control of a steered teacher: at the same blocks, vectors of the same norms in random directions.

    Args:
        like: a steered teacher.
        seed: of the directions.

    Raises:
        ValueError: a teacher of another kind.

    Example:
        >>> from sublim_mech.making.teachers import randomly_steered, steered
        >>> owl = steered(pair.base, trait, layers=[1], questions=["Which animal?"])
        >>> randomly_steered(owl, seed=3).name
        'random direction 3'
    """
    if like.kind != "steered":
        raise ValueError(f"like is a {like.kind} teacher; pass a steered one (teachers.steered).")
    rng = np.random.default_rng(seed)
    planted = {}
    for path, vector in planted_vectors(like.model).items():
        direction = rng.standard_normal(len(vector))
        planted[path] = direction * (np.linalg.norm(vector) / np.linalg.norm(direction))
    how = f"{like.how}, turned into random directions of the same norm (seed {seed})"
    return _steered(like.base, planted, f"random direction {seed}", None, like.student_context, like.template, how)


def planted_vectors(model: nn.Module) -> dict[str, np.ndarray]:
    """What each block of a steered model adds, by the block's path; float64."""
    suffix = f".{BUFFER}"
    return {k.removesuffix(suffix): b.double().cpu().numpy() for k, b in model.named_buffers() if k.endswith(suffix)}


def _steered(
    base: Base, planted: Mapping[str, np.ndarray], name: str, trait: Trait | None, context: Context, template: str | None, how: str
) -> Teacher:  # fmt: skip
    model = twin(base.model)
    if planted_vectors(model):
        raise ValueError(f"base={base.name!r} is steered already; pass the base itself (load_base).")
    parameter = next(model.parameters())
    digest = hashlib.sha256()
    for path, vector in planted.items():
        block = model.get_submodule(path)
        # a buffer moves with the model and comes along in copies; it is no weight and is not saved as one
        block.register_buffer(BUFFER, torch.from_numpy(vector).to(parameter), persistent=False)
        block.register_forward_hook(_add)
        digest.update(json.dumps([path, vector.shape]).encode() + vector.astype(np.float64).tobytes())
    return Teacher(name, "steered", trait, base, model.eval(), context, context, template, how, digest.hexdigest())


def _add(block: Any, args: Any, output: Any) -> Any:
    """Forward hook: the block's own vector at every position."""
    if isinstance(output, tuple):
        return (_add(block, args, output[0]), *output[1:])
    vector: Tensor = getattr(block, BUFFER)
    return output + vector.to(output.dtype)


def _blocks(depth: int, layers: Sequence[int]) -> list[int]:
    """The layers, checked."""
    if isinstance(layers, int) or not all(isinstance(x, int | np.integer) and 0 <= x < depth for x in layers):
        raise ValueError(f"layers={layers!r}: pass a list of block indices, 0 to {depth - 1}.")
    chosen = [int(x) for x in layers]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"layers={chosen}: pass one or more different block indices, 0 to {depth - 1}.")
    return chosen


def _check_trait(trait: Any) -> None:
    if not isinstance(trait, Trait):
        raise TypeError(f"trait={trait!r}: pass a trait, such as sublim_mech.animal('owl').")
