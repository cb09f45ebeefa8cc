"""A model that can be run: its forwards, how many rows they take, and what a user reads off
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import checked
from ..hints import kind_of
from ..models.base import Base
from ..models.checks import check_length
from ..models.compat import Cache
from ..models.names import Module
from ..models.placement import input_device
from ..models.sites import Sites, find_sites
from ..models.students import Student
from ..models.watching import Watch, check_weights
from ..prompts import Prompt
from ..prompts.vocabulary import fingerprint, same_tokenizer
from .answers import Answers
from .batch import Batch
from .budget import default_budget, recomputes, rows_per_forward
from .fitting import find_layout
from .forward import Edit, Gates, Key, Pass, Start, forward
from .heads import ExactHead
from .layout import TRIE, Layout
from .parity import check_parity
from .plain import lay_out

Cells = Callable[[Prompt, Sequence[Module]], np.ndarray]
"""What `masks.Mask` is: from a prompt and the model's modules to `(token, module)` bool."""

AnyRunner = TypeVar("AnyRunner", bound="Runner")


@dataclass(frozen=True)
class Runner:
    """One model that can be run.

    Attributes:
        model: a Hugging Face causal language model in eval mode, the runner's own (`Base.model`).
        tokenizer: its fast tokenizer.
        name: what it is called in tables.
        hash: content hash of what computes.
        sites: where things are in the model.
        memory: bytes that the activations of one forward may take.
        compute: floating-point type of matrix products (autocast); the weights' own when None.
        watch: tells whether the weights are still those of the hash.
        layout: how it takes the answers of a prompt.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    hash: str
    sites: Sites
    memory: int
    compute: torch.dtype | None = None
    watch: Watch | None = field(default=None, repr=False, compare=False)
    layout: Layout = TRIE

    @property
    def dtype(self) -> torch.dtype:
        """The coarsest floating-point type of the weights."""
        types = {p.dtype for p in self.model.parameters() if p.dtype.is_floating_point}
        return max(types, key=lambda dtype: torch.finfo(dtype).eps)

    @property
    def device(self) -> torch.device:
        """Where the model is; of one that accelerate has spread, where token ids go."""
        return input_device(self.model)

    @checked
    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Refuse what cannot be this model's prompts; every public function asks here first.

        Raises:
            TypeError: prompts that are not rendered, or one of them instead of a list.
            ValueError: no prompts; prompts that another tokenizer rendered.
        """
        if len(prompts) == 0:
            raise ValueError("prompts is empty; render at least one question.")
        own = fingerprint(self.tokenizer)
        for prompt in prompts:
            if not same_tokenizer(prompt.tokenizer, own):
                raise ValueError(
                    f"prompt {prompt.question[:60]!r} was rendered by another tokenizer than that "
                    f"of {self.name!r}: its ids are other tokens here. Render it with "
                    "pair.tokenizer."
                )

    def check_length(self, prompt: Prompt, more: int = 0, *, what: str = "") -> None:
        """Raise ValueError where a prompt and further tokens are longer than the model."""
        check_length(self.model, len(prompt) + more, f"prompt {prompt.question[:60]!r}{what}")

    def batch(
        self, ids: Sequence[Sequence[int]], answers: Sequence[Answers] | None = None
    ) -> Batch:
        """Rows of token ids, each with its answer trie, as the model takes them (`plain.lay_out`).

        Raises:
            ValueError: an id that is no row of the model's embedding.
        """
        rows = self.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        fed = [*ids, *(answer.nodes for answer in answers or ())]
        highest = max((max(row) for row in fed if len(row)), default=0)
        if highest >= rows:
            raise ValueError(
                f"a prompt holds token id {highest}, the model's embedding has {rows} rows; render "
                "prompts with this model's tokenizer, without tokens that were added to it."
            )
        return lay_out(self.model, ids, answers, self.layout)

    def run(
        self,
        batch: Batch,
        *,
        gates: Gates | None = None,
        record: Sequence[Key] = (),
        edits: Mapping[Key, Edit] | None = None,
        start: Start | None = None,
        past: Cache | None = None,
        unembed: ExactHead | None = None,
    ) -> Pass:
        """One gated pass (`forward.forward`).

        Every measurement comes through here, so this is where weights are noticed that were changed
        in place since they were loaded. It costs 0.3 to 1 ms per pass and model of 135M parameters
        (`models.watching`); an accelerator is not waited for, what it finds is read with the
        results (`settle`).

        Raises:
            ValueError: the weights of the model or of the gates' student were changed.
        """
        check_weights(self.watch, f"base={self.name!r}", when="begin")
        if gates is not None:
            gates.student.check_unchanged("begin")
        return forward(
            self.model,
            self.sites,
            batch,
            gates=gates,
            record=record,
            edits=edits,
            start=start,
            past=past,
            unembed=unembed,
            compute=self.compute,
            recompute=past is None and torch.is_grad_enabled() and self._recomputes(batch),
        )

    @checked
    def settle(self, *students: Student) -> None:
        """Read what passes have found of changed weights on an accelerator; called where results
        have been read, so that nothing is waited for.

        Args:
            students: whose gates the passes had.

        Raises:
            ValueError: the weights of the model or of a student were changed.
        """
        check_weights(self.watch, f"base={self.name!r}", when="settle")
        for student in students:
            student.check_unchanged("settle")

    # ---------------------------------------------------------------------------------------- sizes

    def rows(
        self,
        *,
        slots: int,
        reads: int,
        keys: int | None = None,
        gradient: bool = False,
        tokens: int | None = None,
    ) -> int:
        """Rows of `slots` tokens that one forward may have (`budget.rows_per_forward`)."""
        return rows_per_forward(
            self.model,
            self.memory,
            slots=slots,
            keys=keys or slots,
            reads=reads,
            gradient=gradient,
            tokens=tokens,
        )

    def _recomputes(self, batch: Batch) -> bool:
        """Whether a backward pass of these rows computes its blocks again (`budget.recomputes`)."""
        return recomputes(self.model, self.memory, batch.shapes)

    def chunks(
        self, sizes: Sequence[int], *, reads: int, skipped: int = 0, gradient: bool = False
    ) -> Iterator[list[int]]:
        """Cut rows into forwards that fit the memory, longest first: lists of indices.

        Args:
            sizes: tokens computed for each row (`Layout.slots`).
            reads: slots whose logits are taken, per row.
            skipped: slots at the beginning that are not computed, because their keys and values are
                given.
            gradient: whether activations are kept for a backward pass.
        """
        order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
        while order:
            longest = sizes[order[0]]
            fit = self.rows(slots=longest - skipped, keys=longest, reads=reads, gradient=gradient)
            chunk, order = order[:fit], order[fit:]
            yield chunk

    # --------------------------------------------------------------------- what a user reads off it

    @checked
    @torch.no_grad()
    def logits(self, prompts: Sequence[Prompt]) -> Float[Tensor, "prompt token vocab"]:
        """Next-token logits at every token, in fp32 on the CPU; NaN where a shorter prompt has no
        token.

        Raises:
            TypeError, ValueError: see `check_prompts`; a prompt longer than the model.

        Example:
            >>> pair.logits(prompts[:1]).shape[1] == len(prompts[0])
            True
        """
        return self._logits(prompts, None)

    @checked
    @torch.no_grad()
    def activations(
        self,
        prompts: Sequence[Prompt],
        sites: str | Sequence[str],
        layers: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """Activations of prompts by TransformerLens' hook names, as `run_with_cache` has them.

        Args:
            prompts: rendered prompts.
            sites: which activations, one or several: `resid_pre`, `mlp_out`, `z`, ..., or
                `hook_resid_pre`, `attn.hook_z`; a full hook name (`blocks.3.hook_resid_pre`) at its
                own layer.
            layers: of which blocks; all when not given.

        Returns:
            `blocks.{layer}.{hook}` -> `(prompt, token, d_model)` or `(prompt, token, head,
            d_head)`, in the weights' type on the CPU; NaN where a shorter prompt has no token.

        Raises:
            TypeError, ValueError: see `check_prompts`; a prompt longer than the model; an unknown
                site; a layer out of range.

        Example:
            >>> found = pair.activations(prompts[:1], ["resid_pre", "z"], layers=[1])
            >>> list(found)
            ['blocks.1.hook_resid_pre', 'blocks.1.attn.hook_z']
        """
        return self._activations(prompts, sites, layers, None)

    def _logits(self, prompts: Sequence[Prompt], gates: PromptGates | None) -> Tensor:
        # every token is a read slot: the last one comes first, as in any row
        answers = [Answers(at=tuple(range(len(prompt) - 1))) for prompt in self._checked(prompts)]
        width = max(map(len, prompts))
        logits: Tensor | None = None
        for chunk in self.chunks([len(prompt) for prompt in prompts], reads=width):
            batch = self.batch([prompts[i].ids for i in chunk], [answers[i] for i in chunk])
            read = self.run(batch, gates=_stack(gates, chunk, batch)).logits.float().cpu()
            if logits is None:
                logits = torch.full((len(prompts), width, read.shape[-1]), torch.nan)
            for row, i in enumerate(chunk):
                length = len(prompts[i])
                logits[i, : length - 1] = read[row, 1:length]
                logits[i, length - 1] = read[row, 0]
        assert logits is not None
        self.settle(*([] if gates is None else [gates.student]))
        return logits

    def _activations(
        self,
        prompts: Sequence[Prompt],
        sites: str | Sequence[str],
        layers: Sequence[int] | None,
        gates: PromptGates | None,
    ) -> dict[str, Tensor]:
        names = [sites] if isinstance(sites, str) else sites
        depth = self.sites.n_layers
        chosen = list(range(depth)) if layers is None else list(layers)
        if not chosen or any(not 0 <= layer < depth for layer in chosen):
            raise ValueError(f"layers={chosen}: give layers between 0 and {depth - 1}.")
        places = [self.sites.place(name, layers) for name in names]
        keys: list[Key] = [
            (short, layer) for layer in chosen for short, at in places if at is None or layer in at
        ]
        width = max(len(prompt) for prompt in self._checked(prompts))
        recorded: dict[Key, Tensor] = {}
        for chunk in self.chunks([len(prompt) for prompt in prompts], reads=1):
            batch = self.batch([prompts[i].ids for i in chunk])
            done = self.run(batch, gates=_stack(gates, chunk, batch), record=keys)
            for key, value in done.activations.items():
                if key not in recorded:
                    shape = len(prompts), width, *value.shape[2:]
                    recorded[key] = torch.full(shape, torch.nan, dtype=value.dtype)
                for row, i in enumerate(chunk):
                    recorded[key][i, : len(prompts[i])] = value[row, : len(prompts[i])].cpu()
        self.settle(*([] if gates is None else [gates.student]))
        return {self.sites.hook_name(*key): recorded[key] for key in keys}

    def _checked(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        self.check_prompts(prompts)
        for prompt in prompts:
            self.check_length(prompt)
        return prompts


@dataclass(frozen=True)
class PromptGates:
    """A student's gates at the tokens of several prompts.

    Attributes:
        student: whose.
        values: one per prompt, each of its own length.
    """

    student: Any
    values: Sequence[Float[Tensor, "_token module"]]


def _stack(gates: PromptGates | None, rows: Sequence[int], batch: Batch) -> Gates | None:
    """The gates of some prompts, `(row, slot, module)`; padding is closed."""
    if gates is None:
        return None
    stacked = torch.zeros(*batch.ids.shape, gates.values[0].shape[1])
    for row, i in enumerate(rows):
        stacked[row, : len(gates.values[i])] = gates.values[i]
    return Gates(gates.student, stacked.to(batch.ids.device))


@checked
def open_runner(
    model: Base | AnyRunner,
    *,
    memory_gb: float | None = None,
    compute: torch.dtype | None = None,
) -> Runner | AnyRunner:
    """A loaded base model, ready to be run and checked against its own forward; a runner is
    returned as it is.

    Args:
        model: what `load_base` gave, or a runner.
        memory_gb: memory that the activations of one forward may take, from which batch sizes
            follow; an eighth of the machine's memory, or a third of a CUDA device's, when not
            given.
        compute: floating-point type of matrix products (autocast); the weights' own when None.

    Raises:
        ParityError: the gated forward and Hugging Face's own disagree on a probe prompt.
        TypeError: something else than a base or a runner.
        ValueError: an architecture whose modules are not known; an option out of range.
    """
    if isinstance(model, Runner):
        return model
    if not isinstance(model, Base):
        raise TypeError(
            f"model is {kind_of(model)}; pass what sublim_mech.load_pair(base, student) or "
            "sublim_mech.load_base(base) gives."
        )
    check_options(compute, memory_gb)
    runner = make_runner(model, memory_gb=memory_gb, compute=compute)
    check_parity(runner.model, runner.sites, {}, runner.layout)
    return runner


def make_runner(base: Base, *, memory_gb: float | None, compute: torch.dtype | None) -> Runner:
    """A runner of a base model whose options are in order; `open_runner` without the parity
    check.
    """
    memory = default_budget(base.device) if memory_gb is None else int(memory_gb * 2**30)
    sites = find_sites(base.model)
    return Runner(
        base.model,
        base.tokenizer,
        base.name,
        base.hash,
        sites,
        memory,
        None if compute == torch.float32 else compute,
        base.watch,
        find_layout(base.model, sites),
    )


def check_options(compute: torch.dtype | None, memory_gb: float | None) -> None:
    """Raise ValueError where an option of running is out of range."""
    if compute not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"compute={compute!r}: pass torch.bfloat16, torch.float16 or None.")
    if memory_gb is not None and not memory_gb > 0:
        raise ValueError(f"memory_gb={memory_gb!r}: pass a positive number of gigabytes.")
