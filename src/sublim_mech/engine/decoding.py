"""Where an answer ends, and its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: those of the model's generation configuration, and the tokenizer's end of sequence."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = own if isinstance(own, list) else [own]
    return list(dict.fromkeys(i for i in (*ids, tokenizer.eos_token_id) if i is not None))


def answer_text(tokenizer: Any, ids: Sequence[int], ends: Sequence[int]) -> str:
    """The answer up to the first token that ends it, without special tokens and outer white space."""
    stop = next((n for n, i in enumerate(ids) if i in ends), len(ids))
    return str(tokenizer.decode(list(ids[:stop]), skip_special_tokens=True)).strip()
