"""Labels: what teachers would write next at every token of given rows, shared by all students."""

from .about import tokenizer_hash
from .coverage import Coverage
from .store import Labels
from .views import RowLabels
from .writing import DIGITS, label

__all__ = ["DIGITS", "Coverage", "Labels", "RowLabels", "label", "tokenizer_hash"]
