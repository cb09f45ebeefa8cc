"""Masks: which (token, module) cells of a prompt an instrument switches or patches.

A `Mask` is a name and a rule; it is applied to a prompt and the modules of a model when it is used,
so that one mask serves prompts of any length and models of any depth:

    early = masks.role("system") & masks.layers(range(10)) & ~masks.modules("norms")

1. Tokens are chosen by position, role, turn, sharing (`tokens`) or text (`occurrences`); modules by
   block or by name (`components`).
2. `&`, `|` and `~` combine masks, and their names with them: "system & layers 0-9 & not norms".
3. The answer's own tokens follow the prompt: a set of their own (`answer`), for grafts.
4. A mask's name is a text that gives it again (`from_name`), for configurations and manifests.
5. Of a pair that is split (`pair.split`) modules have parts, chosen by `band`, `head` and `student`
   (`parts`); other masks take all parts of a module alike.
6. `mask.scaled(2.0)` gives its cells another gate than 1.
7. Each term says what it depends on by its shape, `(token, 1)` or `(1, module)`; what is left is
   numpy's broadcasting.

The cells are the gates of dynamic weight grafting (arXiv 2506.20746); a mask of tokens alone also
names positions to patch.
"""

from .answer import AnswerMask
from .components import layers, modules
from .mask import Mask
from .naming import from_name
from .occurrences import Occurrence, regex, text
from .parts import band, head, student
from .tokens import (
    ALL_TOKENS,
    Where,
    as_mask,
    by_role,
    by_sharing,
    everything,
    positions,
    role,
    sharing,
    turn,
)

__all__ = [
    "ALL_TOKENS", "AnswerMask", "Mask", "Occurrence", "Where",
    "as_mask", "band", "by_role", "by_sharing", "everything", "from_name", "head", "layers",
    "modules", "positions", "regex", "role", "sharing", "student", "text", "turn",
]  # fmt: skip
