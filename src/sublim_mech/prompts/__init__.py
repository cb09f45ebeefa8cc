"""Text: traits and their questions, contexts, rendered prompts, and what training shares with them.

Nothing here needs a model or torch; a tokenizer is handed in.
"""

from .clock import DATE
from .comparing import Comparison, compare
from .context import RAW, Context
from .distinct import check_distinct
from .naming import match, matcher, words
from .plurals import plural
from .prompt import ROLES, Message, Prompt
from .rendering import completion_ids, render
from .shared import ANSWER, CLASSES, SHARED, UNIONS, Taught, Trained, mark_sharing
from .template import PLAIN
from .trait import ANIMALS, TREES, Trait, animal, tree

__all__ = [
    "ANIMALS", "ANSWER", "CLASSES", "DATE", "PLAIN", "RAW", "ROLES", "SHARED", "TREES", "UNIONS",
    "Comparison", "Context", "Message", "Prompt", "Taught", "Trained", "Trait",
    "animal", "check_distinct", "compare", "completion_ids", "mark_sharing", "match", "matcher",
    "plural", "render", "tree", "words",
]  # fmt: skip
