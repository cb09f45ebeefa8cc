"""The model in training: built from a base and a method, stored as a folder that other tools open."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models.base import Base
from ...models.compat import quiet_transformers
from .methods import FullFT, LoRA
from .objectives import AnswerHead
from .resume import trained


@dataclass(frozen=True)
class Trainee:
    """A model in training.

    Attributes:
        model: what trains: a PEFT model, or a copy of the base.
        inner: the transformers model in it.
        head: the unembedding in training (`AnswerHead` over the model's own).
        tokenizer: goes into the folder of a full model.
    """

    model: Any
    inner: Any
    head: AnswerHead
    tokenizer: Any

    @classmethod
    def of(cls, base: Base, method: LoRA | FullFT) -> Trainee:
        """A fresh one; adapters are initialised from torch's generator."""
        model = method.attach(base)
        inner = model.get_base_model() if isinstance(method, LoRA) else model
        head = AnswerHead(inner.get_output_embeddings())
        inner.set_output_embeddings(head)
        return cls(model, inner, head, base.tokenizer)

    @property
    def head_path(self) -> str:
        """Where the unembedding is."""
        return next(name for name, module in self.model.named_modules() if module is self.head)

    def save(self, folder: Path, dtype: torch.dtype, state: dict[str, Tensor] | None = None) -> None:
        """Write the weights in PEFT's or transformers' layout; the model stays as it is.

        Args:
            folder: where to.
            dtype: of what was trained.
            state: the model's tensors, where they are not whole in the model itself (FSDP).
        """
        learnt, adapter = set(trained(self.model)), self.inner is not self.model
        self.inner.set_output_embeddings(self.head.head)
        try:
            cast: dict[tuple[int, torch.Size], Tensor] = {}  # tied weights stay one tensor
            state = {
                key: cast.setdefault((x.data_ptr(), x.shape), x.detach().to(dtype))
                if not adapter or key in learnt
                else x.detach()
                for key, x in (state or self.model.state_dict()).items()
            }
            with quiet_transformers():
                if adapter:
                    self.model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
                    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
                else:
                    self.model.save_pretrained(folder, state_dict=state)
                    config = json.loads((folder / "config.json").read_text())
                    config["dtype"] = str(dtype).removeprefix("torch.")  # transformers writes the live model's
                    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
                    self.tokenizer.save_pretrained(folder)
        finally:
            self.inner.set_output_embeddings(self.head)
