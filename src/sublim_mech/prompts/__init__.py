"""Text: traits and their questions, contexts, rendered prompts, and what training shares with them.

Nothing here needs a model or torch; a tokenizer is handed in.
"""

from .context import Context
from .naming import match, matcher, words
from .prompt import ROLES, Message, Prompt
from .rendering import completion_ids, render
from .shared import ANSWER, CLASSES, SHARED, UNIONS, Trained, sharing
from .template import PLAIN
from .trait import ANIMALS, TREES, Trait, animal, plural, tree

__all__ = [
    "ANIMALS", "ANSWER", "CLASSES", "PLAIN", "ROLES", "SHARED", "TREES", "UNIONS",
    "Context", "Message", "Prompt", "Trained", "Trait",
    "animal", "completion_ids", "match", "matcher", "plural", "render", "sharing", "tree", "words",
]  # fmt: skip
