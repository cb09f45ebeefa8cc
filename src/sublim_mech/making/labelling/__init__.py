"""Labels: what teachers would write next at every token of given rows, made once and shared by all students."""

from .writing import label
from .store import Labels, tokenizer_hash
from .views import RowLabels

__all__ = ["Labels", "RowLabels", "label", "tokenizer_hash"]
