"""The engine: a model that can be run under gates, with what it is run on.

Axis words of its shapes: `row` (of a batch), `slot` (a token or a node of an answer trie), `read`
(a slot whose logits are taken),
`vocab`, `module` (a changed one), `layer`, `head`, `d_model`, `d_head`, `query` and `key` (slots in
attention), `prompt` and `token` where nothing is padded into a batch.
"""

from .pair import ModelPair, load_pair
from .parity import ParityError
from .runner import Runner, open_runner

__all__ = ["ModelPair", "ParityError", "Runner", "load_pair", "open_runner"]
