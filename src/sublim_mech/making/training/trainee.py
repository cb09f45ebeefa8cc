"""The model in training: made of a base and a method, stored as a folder that other tools open."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models.base import Base
from ...models.compat import quiet_transformers
from .gating import FrozenBase, Gating, freeze_closed
from .lesson import Lesson
from .methods import FullFT, LoRA
from .objectives import AnswerHead, answer_losses
from .resume import trained_parameters
from .where import Where

FIRST_MATRIX = re.compile(r"\.lora_(A|embedding_B)\.")
"""In names of an adapter's parameters: the matrix that is random at the start."""


@dataclass(frozen=True)
class Trainee:
    """A model in training.

    Attributes:
        model: what trains: a PEFT model, or a copy of the base.
        inner: the transformers model in it.
        head: the unembedding in training (`AnswerHead` over the model's own).
        tokenizer: goes into the folder of a full model.
        start: what trains, each beside what it was in the base. Of an adapter's two matrices the
            second, which is 0 there: where it stays so, the first adds nothing.
        gating: its gates, where it trains at chosen cells only.
    """

    model: Any
    inner: Any
    head: AnswerHead
    tokenizer: Any
    start: tuple[tuple[Tensor, Tensor], ...]
    gating: Gating | None = None

    @classmethod
    def of(
        cls,
        base: Base,
        method: LoRA | FullFT,
        *,
        where: Where | None = None,
        lesson: Lesson | None = None,
    ) -> Trainee:
        """A fresh one; adapters are initialised from torch's generator.

        Args:
            base: the base.
            method: what trains.
            where: at which cells; everywhere when None.
            lesson: the rows with these cells.
        """
        model = method.attach(base)
        is_adapter = isinstance(method, LoRA)
        inner = model.get_base_model() if is_adapter else model
        if is_adapter:
            parameters = trained_parameters(model).items()
            chosen = [p for name, p in parameters if not FIRST_MATRIX.search(name)]
            start = [(p, p.detach().clone()) for p in chosen]
        else:
            if lesson is not None and lesson.cells is not None:
                freeze_closed(inner, lesson.cells, lesson.rows)
            both = zip(model.parameters(), base.model.parameters(), strict=True)
            start = [(p, of_base) for p, of_base in both if p.requires_grad]
        head = AnswerHead(inner.get_output_embeddings())
        gating = None
        if where is not None:
            gating = Gating.on(inner, head, FrozenBase(base, in_fp32=not is_adapter), where)
        inner.set_output_embeddings(head)
        return cls(model, inner, head, base.tokenizer, tuple(start), gating)

    def losses(
        self,
        model: Any,
        batch: Mapping[str, Tensor],
        objective: str,
        support: tuple[int, ...] | None,
    ) -> Tensor:
        """Loss per labelled token of a batch (`answer_losses`), at the cells that are open in it.

        Args:
            model: this one, or what data parallelism has put around it.
            batch: the rows.
            objective: the loss.
            support: of the labels.
        """
        is_open = None if self.gating is None else self.gating.aim(batch)
        return answer_losses(model, self.head, batch, objective, support, is_open)

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return next(self.model.parameters()).device

    @property
    def head_path(self) -> str:
        """Where the unembedding is."""
        return next(name for name, part in self.model.named_modules() if part is self.head)

    def has_moved(self, dtype: torch.dtype, state: Mapping[str, Tensor] | None) -> bool | None:
        """Whether the student as it is stored differs from the base at all.

        Args:
            dtype: the precision it is stored in.
            state: as `save` takes it; where it is given, the parameters here are pieces, and the
                answer is None.
        """
        if state is not None:
            return None
        return any(
            not torch.equal(now.detach().to(dtype), start.to(now.device, dtype))
            for now, start in self.start
        )

    def save(self, folder: Path, dtype: torch.dtype, state: Mapping[str, Tensor] | None) -> None:
        """Write the weights in PEFT's or transformers' layout; the model stays as it is.

        Args:
            folder: where to.
            dtype: of what was trained.
            state: the model's tensors, where they are not whole in the model itself (FSDP).
        """
        is_adapter = self.inner is not self.model
        trained = set(trained_parameters(self.model))

        # other tools know the model without our head: it steps aside while they write
        self.inner.set_output_embeddings(self.head.head)
        try:
            tensors = state or self.model.state_dict()
            with quiet_transformers():
                if is_adapter:
                    stored = _cast(tensors, dtype, only=trained)
                    self.model.save_pretrained(
                        folder, state_dict=stored, save_embedding_layers=False
                    )
                    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
                else:
                    self.model.save_pretrained(folder, state_dict=_cast(tensors, dtype))
                    _name_dtype(folder / "config.json", dtype)
                    self.tokenizer.save_pretrained(folder)
        finally:
            self.inner.set_output_embeddings(self.head)


def _cast(
    tensors: Mapping[str, Tensor], dtype: torch.dtype, only: set[str] | None = None
) -> dict[str, Tensor]:
    """Tensors in another precision, tied ones still one tensor.

    Args:
        tensors: by name.
        dtype: the precision.
        only: names of those that are cast, the others staying as they are; None for all.
    """
    cast: dict[tuple[int, torch.Size], Tensor] = {}
    stored = {}
    for name, tensor in tensors.items():
        if only is not None and name not in only:
            stored[name] = tensor.detach()
            continue
        place = (tensor.data_ptr(), tensor.shape)
        if place not in cast:
            cast[place] = tensor.detach().to(dtype)
        stored[name] = cast[place]
    return stored


def _name_dtype(config: Path, dtype: torch.dtype) -> None:
    """Name the stored precision; transformers writes the live model's."""
    options = json.loads(config.read_text())
    options["dtype"] = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(options, indent=2, sort_keys=True) + "\n")
