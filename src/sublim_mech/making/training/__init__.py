"""Training students: LoRA and full fine-tuning, one loop, one loss mask, one order, one manifest.

1. Rows become token ids with labels: soft ones (`soft_data`) or the answers themselves
   (`hard_data`).
2. `train` draws them in an order of their own seed and takes the loss on the answer's tokens only,
   the unembedding computed there and nowhere else. The loop is transformers' `Trainer` on
   accelerate.
3. It writes checkpoints: killed at any moment, the same call goes on to the same bits. A finished
   run is recognised by what determines it, and opened.

A run is a folder with safetensors weights (PEFT's layout for adapters, transformers' for full
models), `manifest.json` and `log.jsonl`; it appears under its name only when it is complete.
"""

from .data import TrainingData, hard_data, soft_data
from .methods import FullFT, LoRA
from .objectives import OBJECTIVES
from .run import train
from .settings import log_spaced
from .where import gates_of

__all__ = [
    "OBJECTIVES",
    "FullFT",
    "LoRA",
    "TrainingData",
    "gates_of",
    "hard_data",
    "log_spaced",
    "soft_data",
    "train",
]
