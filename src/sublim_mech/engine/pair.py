"""The pair: a base model, its student and the students of other traits it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.base import Base, load_base
from ..models.sites import Sites, find_sites
from ..models.students import Delta, Student, load_student
from ..prompts import Context, Prompt, Trained
from .answers import Answers
from .budget import default_budget, rows_per_forward
from .forward import Batch, Gates, Pass, forward, make_batch


class ParityError(RuntimeError):
    """The pair's logits are not those of the models it was loaded from."""


@dataclass(frozen=True)
class ModelPair:
    """A base and its student, with controls.

    Attributes:
        base: the base model.
        student: the student.
        controls: students trained alike on other traits.
        sites: where things are in the model.
        memory: bytes that the activations of one forward may take.
        compute: floating-point type of matrix products (autocast); the weights' own when None.
    """

    base: Base
    student: Student
    controls: tuple[Student, ...]
    sites: Sites
    memory: int
    compute: torch.dtype | None = None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that base and students share."""
        return self.base.tokenizer

    @property
    def delta(self) -> Mapping[str, Delta]:
        """The student's difference from the base, by module path."""
        return self.student.deltas

    @property
    def students(self) -> dict[str, Student]:
        """The student as `student`, each control as `control: <name>`."""
        return {"student": self.student, **{f"control: {c.name}": c for c in self.controls}}

    @property
    def training_prompts(self) -> Trained | None:
        """What the student's manifest keeps of its training prompts; None without a manifest."""
        return self.student.manifest.trained_on if self.student.manifest is not None else None

    @property
    def training_context(self) -> Context | None:
        """The context the student was trained in; None without a manifest."""
        return self.student.manifest.context if self.student.manifest is not None else None

    def base_bridge(self) -> Any:
        """The base as a TransformerLens `TransformerBridge` over a copy of it; the pair stays as it is.

        Every call copies the weights. Hand the bridge ids and `attention_mask`, see `docs/transformer_lens.md`.

        Raises:
            ValueError: TransformerLens cannot boot the architecture.
            ParityError: the bridge's logits are not those of the base.
        """
        from .bridges import make_bridge

        return make_bridge(self.base)

    def student_bridge(self, name: str = "student") -> Any:
        """A student as a TransformerLens `TransformerBridge`, merged in fp32 into a copy of the base; the pair stays as it is.

        Args:
            name: one of `students`: `student` or `control: <name>`.

        Raises:
            ValueError: no student of this name; TransformerLens cannot boot the architecture.
            ParityError: the bridge's logits are not those of the student.
        """
        from .bridges import make_bridge

        if name not in self.students:
            raise ValueError(f"name={name!r} is no student of this pair; choose one of {', '.join(map(repr, self.students))}.")
        return make_bridge(self.base, self.students[name])

    def run(self, batch: Batch, **options: Any) -> Pass:
        """One gated pass (`engine.forward`) of the pair's base."""
        return forward(self.base.model, self.sites, batch, compute=self.compute, **options)

    def rows(
        self, *, slots: int, reads: int, keys: int | None = None, gradient: bool = False, tokens: int | None = None
    ) -> int:
        """Rows of `slots` tokens that one forward may have (`budget.rows_per_forward`)."""
        return rows_per_forward(
            self.base.model, self.memory, slots=slots, keys=keys or slots, reads=reads, gradient=gradient, tokens=tokens
        )

    def chunks(self, sizes: Sequence[int], *, reads: int, skipped: int = 0, gradient: bool = False) -> Iterator[list[int]]:
        """Cut rows into forwards that fit the memory, longest first: lists of indices.

        Args:
            sizes: slots of each row.
            reads: slots whose logits are taken, per row.
            skipped: slots at the beginning that are not computed, because their keys and values are given.
            gradient: whether activations are kept for a backward pass.
        """
        order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
        while order:
            longest = sizes[order[0]]
            fit = self.rows(slots=longest - skipped, keys=longest, reads=reads, gradient=gradient)
            chunk, order = order[:fit], order[fit:]
            yield chunk

    def __repr__(self) -> str:
        controls = ", ".join(c.name for c in self.controls) or "none"
        return f"ModelPair(base={self.base.name!r}, student={self.student!r}, controls: {controls})"


def load_pair(
    base: Any,
    student: Any,
    *,
    controls: Sequence[Any] = (),
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    compute: torch.dtype | None = None,
    memory_gb: float | None = None,
    allow_unrelated: bool = False,
) -> ModelPair:
    """Load a base and its student and check that what is analysed is what was trained.

    Args:
        base: whatever `load_base` takes.
        student: whatever `load_student` takes.
        controls: students of other traits, trained alike.
        tokenizer: needed for a live base model.
        dtype: floating-point type of weights read from files.
        device: where to put the models.
        compute: floating-point type of matrix products, `torch.bfloat16` for speed (autocast; the weights stay in `dtype`). Scores
            then carry, and print, how far their totals are from those computed without it.
        memory_gb: memory that the activations of one forward may take, from which batch sizes follow; an eighth of the machine's
            memory, or a third of the accelerator's, when not given.
        allow_unrelated: accept students of another lineage.

    Raises:
        ParityError: the gated forward and Hugging Face's (PEFT's) own disagree on a probe prompt.
        ValueError, FileNotFoundError: see `load_base` and `load_student`.

    Example:
        >>> again = sm.load_pair(base, student, tokenizer=pair.tokenizer)
        >>> again.student.hash == pair.student.hash
        True
    """
    if compute not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"compute={compute!r}: pass torch.bfloat16, torch.float16 or None.")
    if memory_gb is not None and not memory_gb > 0:
        raise ValueError(f"memory_gb={memory_gb!r}: pass a positive number of gigabytes.")
    loaded = load_base(base, tokenizer=tokenizer, dtype=dtype, device=device)
    main = load_student(loaded, student, allow_unrelated=allow_unrelated)
    others = tuple(load_student(loaded, c, allow_unrelated=allow_unrelated) for c in controls)
    if len({c.name for c in others}) < len(others):
        raise ValueError(
            f"controls have the same name twice: {[c.name for c in others]}; load them with load_student(name=...)."
        )
    if main.hash in {c.hash for c in others}:
        raise ValueError(
            f"controls hold the student itself (hash {main.hash[:12]}); pass students trained alike on other traits."
        )
    memory = default_budget(loaded.device) if memory_gb is None else int(memory_gb * 2**30)
    pair = ModelPair(loaded, main, others, find_sites(loaded.model), memory, compute if compute != torch.float32 else None)
    check_parity(pair)
    return pair


def probe(model: Any) -> tuple[Prompt, Answers]:
    """A prompt of 16 tokens from all over the vocabulary, with two one-token continuations and a form that ends behind each."""
    size = model.get_input_embeddings().weight.shape[0]
    ids = tuple(int(i) for i in torch.linspace(1, size - 1, 16).long())
    nodes = ids[3], ids[11]
    forms = ((0, nodes[0]), (1, ids[5])), ((0, nodes[1]), (2, ids[7]))
    tokens = tuple(f"<{i}>" for i in ids)
    prompt = Prompt("probe", "", ids, tokens, ((0, 0),) * 16, ("user",) * 16, (0,) * 16, ("user",) * 16, Context())
    return prompt, Answers(nodes, (-1, -1), forms, (0, 0))


def rounding(dtype: torch.dtype, log_probs: Tensor) -> float:
    """How far two ways to compute the same log-probabilities may be apart: kernels round differently, in proportion to size.

    1e-4 in single and 0.1 in half precision, or 5e-6 and 0.02 of the largest value (trained models have log-probabilities below -30).
    """
    least, relative = (0.1, 0.02) if dtype in (torch.bfloat16, torch.float16) else (1e-4, 5e-6)
    return max(least, relative * float(log_probs.abs().max()))


@torch.no_grad()
def check_parity(pair: ModelPair) -> dict[str, float]:
    """Largest difference in log-probability between the gated forward and each model's own.

    The probe is a prompt with two one-token continuations side by side in one row, so that the attention mask and the position ids
    of the answer trie are part of what is checked; the model's own forwards are plain and one per continuation.

    Raises:
        ParityError: one is above the tolerance (`rounding`).
    """
    prompt, answers = probe(pair.base.model)
    batch = make_batch(pair.base.model, [prompt], [answers])
    plain = [
        torch.tensor([[*prompt.ids, *more]], device=batch.ids.device) for more in ((), answers.nodes[:1], answers.nodes[1:])
    ]
    errors = {}
    for name, student in {"base": None, **pair.students}.items():
        own = student.model if student is not None else pair.base.model
        theirs = torch.stack([own(input_ids=x, use_cache=False).logits[0, -1] for x in plain]).float().log_softmax(-1)
        gates = None if student is None else Gates(student)
        ours = forward(pair.base.model, pair.sites, batch, gates=gates).logits[0].float().log_softmax(-1)
        errors[name] = float((ours - theirs).abs().max())
        tolerance = rounding(next(own.parameters()).dtype, theirs)
        if not errors[name] <= tolerance:
            read, token = divmod(int((ours - theirs).abs().argmax()), ours.shape[1])
            raise ParityError(
                f"{name}: log-probability of token {token} is {float(ours[read, token]):.6f} in the gated forward and "
                f"{float(theirs[read, token]):.6f} in the model's own (difference {errors[name]:.2g}, tolerance {tolerance:.0e}); "
                "this model cannot be analysed."
            )
    return errors
