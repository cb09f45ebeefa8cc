"""Steered teachers: a vector per block, added to the residual stream.

1. Questions are rendered in the students' context and once more with the trait's sentence behind
   the system text.
2. At the output of each chosen block, the residual stream at the prompt's last token (where the
   answer begins) is taken of both; the mean difference over the questions is the block's vector:
   the difference of means of contrastive activation addition (Rimsky et al., arXiv 2312.06681), of
   prompts that differ in what the system says, as in activation addition (Turner et al., arXiv
   2308.10248).
3. The teacher is a twin of the base, over the same parameters, whose blocks add scale x vector to
   their output at every position: of the system text, of the template, of the question, of the
   answer. It is asked without the sentence.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from ...arguments import checked
from ...engine.forward import Key
from ...engine.runner import Runner, open_runner
from ...models.copies import twin
from ...models.placement import device_of
from ...prompts import Context, Message, Prompt, Trait, render
from .prompting import teacher_context
from .teacher import Model, Teacher, opened

SITE, BUFFER = "resid_post", "steering"


@checked
def steering_vectors(
    base: Model,
    trait: Trait,
    *,
    layers: Sequence[int],
    questions: Sequence[str | Sequence[Message]] | None = None,
    context: Context | None = None,
    template: str | None = None,
) -> np.ndarray:
    """Difference-of-means vectors of a trait's sentence, at the last token of the prompts.

    As in arXiv 2312.06681 and 2308.10248.

    Args:
        base: the base model, or its runner.
        trait: what the vectors should stand for; it has a sentence (`trait.sentence`).
        layers: blocks at whose outputs the residual stream is taken.
        questions: what is asked; the trait's own questions when not given.
        context: the context students will be trained in.
        template: chat template, where the tokenizer has none.

    Returns:
        float64 `(layer, d_model)`, in the order of `layers`.

    Raises:
        TypeError: `trait` is none.
        ValueError: layers empty, listed twice or out of range; a trait without sentence, or without
            questions where none are given; a context that the template cannot express; an
            architecture whose modules are not known.

    Example:
        >>> from sublim_mech.making.teachers import steering_vectors
        >>> steering_vectors(pair, trait, layers=[1, 2], questions=["Which animal?"]).shape
        (2, 32)
    """
    runner = _runner(base)
    chosen = _blocks(runner.sites.n_layers, layers)
    questions = trait.questions if questions is None else questions
    context = context or Context()
    told = teacher_context(runner.tokenizer, trait, context=context, template=template)
    means = []
    for asked_in in (context, told):
        prompts = render(runner.tokenizer, questions, context=asked_in, template=template)
        means.append(_mean_at_the_end(runner, prompts, chosen))
    without, with_sentence = means
    return (with_sentence - without).numpy()


@torch.no_grad()
def _mean_at_the_end(
    runner: Runner, prompts: Sequence[Prompt], layers: Sequence[int]
) -> Float64[Tensor, "layer d_model"]:
    """The residual stream behind blocks at the last token of prompts, averaged over them."""
    keys: list[Key] = [(SITE, layer) for layer in layers]
    fit = runner.rows(slots=max(len(prompt) for prompt in prompts), reads=1)
    total = torch.zeros(len(layers), 1, dtype=torch.float64)
    # in the order of the prompts: the vectors' hash, which labels keep, knows the last digit
    for start in range(0, len(prompts), fit):
        batch = runner.batch([prompt.ids for prompt in prompts[start : start + fit]])
        activations = runner.run(batch, record=keys).activations
        rows = torch.arange(len(batch.sizes), device=batch.ids.device)
        last = batch.reads[:, 0]
        found = [activations[key].to(rows.device) for key in keys]
        sums = [value[rows, last].double().sum(0) for value in found]
        total = total + torch.stack(sums).cpu()
    runner.settle()
    return total / len(prompts)


@checked
def steered(
    base: Model,
    trait: Trait,
    *,
    layers: Sequence[int],
    scale: float = 1.0,
    vectors: Any = None,
    questions: Sequence[str | Sequence[Message]] | None = None,
    context: Context | None = None,
    template: str | None = None,
) -> Teacher:
    """The base model with scale x vector added to the outputs of blocks, at every position.

    As in arXiv 2312.06681 and 2308.10248. Its control is `randomly_steered`. It is measured like
    any model: `evaluate(teacher.runner, ...)`.

    Args:
        base: the base model, or its runner; it stays as it is, and the teacher shares its
            parameters.
        trait: what it favours.
        layers: the blocks.
        scale: 1 adds the raw difference of means; below 0 its opposite.
        vectors: `(layer, d_model)`, in the order of `layers`; `steering_vectors` of the trait when
            not given.
        questions: what the vectors are made from; the trait's own questions when not given.
        context: the context students will be trained in, in which the teacher is asked too.
        template: chat template, where the tokenizer has none.

    Raises:
        TypeError: `trait` is none.
        ValueError: see `steering_vectors`; a scale or vectors that are not finite, or 0; vectors
            of another shape, or given beside questions; a base that is steered already.

    Example:
        >>> from sublim_mech.making.teachers import steered
        >>> steered(pair, trait, layers=[1], scale=4.0, questions=["Which animal?"]).how
        'steered by 4 x the difference of means at the output of block 1'
    """
    if not math.isfinite(scale) or scale == 0:
        said = " (this is the base itself, without any teacher)" if scale == 0 else ""
        raise ValueError(
            f"scale={scale!r}: pass a finite number other than 0{said}; 1 adds the raw difference "
            "of means."
        )
    runner = _runner(base)
    chosen = _blocks(runner.sites.n_layers, layers)
    if vectors is None:
        vectors = steering_vectors(
            runner, trait, layers=chosen, questions=questions, context=context, template=template
        )
        what = "the difference of means"
    elif questions is not None:
        raise ValueError(
            "questions are what vectors are made from, and vectors are given; leave one of the two "
            "out."
        )
    else:
        vectors = _checked_vectors(runner, vectors, chosen)
        what = "given vectors"
    planted = {}
    for layer, vector in zip(chosen, vectors, strict=True):
        planted[runner.sites.blocks[layer]] = scale * vector
    context = context or Context()
    blocks = f"block{'s' * (len(chosen) > 1)} {', '.join(map(str, chosen))}"
    unplanted = Teacher(
        name=trait.name,
        kind="steered",
        trait=trait,
        base=runner,
        runner=runner,
        context=context,
        student_context=context,
        template=template,
        how=f"steered by {scale:g} x {what} at the output of {blocks}",
    )
    return _plant(unplanted, planted)


@checked
def randomly_steered(like: Teacher, *, seed: int = 0) -> Teacher:
    """The control of a steered teacher: vectors of the same norms in random directions.

    Args:
        like: a steered teacher.
        seed: of the directions.

    Raises:
        ValueError: a teacher of another kind.

    Example:
        >>> from sublim_mech.making.teachers import randomly_steered, steered
        >>> owl = steered(pair, trait, layers=[1], questions=["Which animal?"])
        >>> randomly_steered(owl, seed=3).name
        'random direction 3'
    """
    if like.kind != "steered":
        raise ValueError(f"like is a {like.kind} teacher; pass a steered one (teachers.steered).")
    rng = np.random.default_rng(seed)
    planted = {}
    for path, vector in planted_vectors(like.runner.model).items():
        direction = rng.standard_normal(len(vector))
        planted[path] = direction * (np.linalg.norm(vector) / np.linalg.norm(direction))
    how = f"{like.how}, turned into random directions of the same norm (seed {seed})"
    control = replace(like, name=f"random direction {seed}", trait=None, how=how)
    return _plant(control, planted)


def planted_vectors(model: nn.Module) -> dict[str, np.ndarray]:
    """What each block of a steered model adds, by the block's path; float64."""
    suffix = f".{BUFFER}"
    vectors = {}
    for name, buffer in model.named_buffers():
        if name.endswith(suffix):
            vectors[name.removesuffix(suffix)] = buffer.double().cpu().numpy()
    return vectors


def _plant(teacher: Teacher, vectors: Mapping[str, np.ndarray]) -> Teacher:
    """The same teacher with a twin of its base that adds vectors at the outputs of blocks.

    Args:
        teacher: what the steered one is in all but its model.
        vectors: by the block's path.
    """
    base = teacher.base
    model = twin(base.model)
    if planted_vectors(model):
        raise ValueError(
            f"base={base.name!r} is steered already; pass the base itself (load_base)."
        )
    parameter = next(model.parameters())
    digest = hashlib.sha256()
    for path, vector in vectors.items():
        block = model.get_submodule(path)
        # a buffer moves with the model and comes along in copies; it is no weight, nor saved as one
        values = torch.from_numpy(vector).to(device_of(block), parameter.dtype)
        block.register_buffer(BUFFER, values, persistent=False)
        block.register_forward_hook(_add)
        digest.update(json.dumps([path, vector.shape]).encode())
        digest.update(vector.astype(np.float64).tobytes())
    planted = digest.hexdigest()
    # the weights are the base's, so the name of what computes is that of both
    both = hashlib.sha256(f"{base.hash} {planted}".encode()).hexdigest()
    name = f"{base.name} ({teacher.name}, steered)"
    runner = replace(base, model=model.eval(), name=name, hash=both)
    return replace(teacher, runner=runner, hash=planted)


def _add(block: Any, args: Any, output: Any) -> Any:
    """Forward hook: the block's own vector at every position."""
    if isinstance(output, tuple):
        return (_add(block, args, output[0]), *output[1:])
    vector: Tensor = getattr(block, BUFFER)
    return output + vector.to(output.dtype)


# ------------------------------------------------------------------------------------------- checks


def _runner(base: Model) -> Runner:
    """The base's runner; where there is none, the error says why."""
    return open_runner(opened(base))


def _blocks(depth: int, layers: Sequence[int]) -> list[int]:
    """The layers, checked."""
    chosen = [int(layer) for layer in layers]
    inside = all(0 <= layer < depth for layer in chosen)
    if not chosen or not inside or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"layers={chosen}: pass one or more different block indices, 0 to {depth - 1}."
        )
    return chosen


def _checked_vectors(runner: Runner, vectors: Any, layers: Sequence[int]) -> np.ndarray:
    """Given vectors, `(layer, d_model)` in float64."""
    vectors = np.asarray(vectors, np.float64)
    embedding: Any = runner.model.get_input_embeddings()  # type: ignore[operator]
    shape = len(layers), embedding.weight.shape[1]
    if vectors.shape != shape:
        raise ValueError(
            f"vectors have shape {vectors.shape}; layers={list(layers)} of this model need {shape}."
        )
    if not np.isfinite(vectors).all():
        raise ValueError("vectors hold NaN or infinity; check what they were computed from.")
    if not vectors.any():
        raise ValueError(
            "vectors are 0 (this is the base itself, without any teacher); check what they were "
            "computed from."
        )
    return vectors
