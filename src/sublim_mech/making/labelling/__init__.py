"""Labels: what teachers would write next at every token of given rows, made once and shared by all students."""

from .store import Labels, tokenizer_hash
from .views import RowLabels
from .writing import label

__all__ = ["Labels", "RowLabels", "label", "tokenizer_hash"]
