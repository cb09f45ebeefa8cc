"""Where an answer ends: at the tokens of model and tokenizer, and at the close of its own prompt.

A template may end an answer with another token than the tokenizer's end of sequence (Gemma's
`<end_of_turn>`, GLM's `<|user|>`), or with words that are no special token at all. The first kind
ends the writing; the second is looked for in what was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..prompts import Prompt
from ..prompts.vocabulary import special_in


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end every answer: those of the model's generation configuration, and the
    tokenizer's end of sequence.
    """
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return list(dict.fromkeys(i for i in (*ids, tokenizer.eos_token_id) if i is not None))


def close_ids(tokenizer: Any, prompt: Prompt) -> tuple[int, ...]:
    """The token that ends the answer to a prompt: the first special token of its close; none where
    the close has none.
    """
    first = _split(tokenizer, prompt.close)[1]
    return (tokenizer.convert_tokens_to_ids(first),) if first else ()


def answer_text(
    tokenizer: Any, ids: Sequence[int], ends: Sequence[int], prompt: Prompt | None = None
) -> str:
    """The answer up to what ends it, without special tokens and outer white space.

    Args:
        tokenizer: of the ids.
        ids: the tokens that were written.
        ends: tokens that end every answer (`end_ids`).
        prompt: what was answered: at the words of its close the answer ends as well.
    """
    words = ""
    if prompt is not None:
        ends = (*ends, *close_ids(tokenizer, prompt))
        words, special = _split(tokenizer, prompt.close)
        # white space before a special token is stripped anyway, and an answer may have some
        words = "" if special and not words.strip() else words
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    text = str(tokenizer.decode(list(ids[:stop]), skip_special_tokens=True))
    return (text.partition(words)[0] if words else text).strip()


def is_ended(tokenizer: Any, ids: Sequence[int], ends: Sequence[int], prompt: Prompt) -> bool:
    """Whether what was written has ended, and is no answer that was cut off; arguments as of
    `answer_text`.
    """
    if not {*ends, *close_ids(tokenizer, prompt)}.isdisjoint(ids):
        return True
    words, special = _split(tokenizer, prompt.close)
    if not words or (special and not words.strip()):
        return False
    return words in str(tokenizer.decode(list(ids), skip_special_tokens=True))


def _split(tokenizer: Any, close: str) -> tuple[str, str]:
    """The words of a close before its first special token, and that token; `""` without one."""
    special = special_in(tokenizer, close)
    if not special:
        return close, ""
    first = min(special, key=close.index)
    return close[: close.index(first)], first
