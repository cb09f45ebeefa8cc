"""What is asked of a tokenizer itself: which one it is, and what it reads as special tokens."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary


class _Known(NamedTuple):
    """What was found out about a tokenizer, while its tokens are these."""

    tokens: tuple[int, tuple[str, ...]]
    fingerprint: str
    special_ids: frozenset[int]
    special: re.Pattern[str] | None


_KNOWN: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()


def fingerprint(tokenizer: Any) -> str:
    """Hash of all that turns a text into ids: vocabulary and merges, added tokens, normaliser and
    pre-tokenizer. Padding, truncation, chat template and added BOS do not count.

    It serves comparisons in one process and is not stored: another version of the tokenizer's
    software may write the same tokenizer in another way. Empty for what is no fast tokenizer.
    """
    return _of(tokenizer).fingerprint if _is_fast(tokenizer) else ""


def vocabulary_hash(tokenizer: Any, *, added: bool = False) -> str:
    """SHA-256 of the ids that a tokenizer gives, for files.

    Args:
        tokenizer: the tokenizer.
        added: whether tokens that were added to it count; who adds a padding token leaves all
            others as they are.
    """
    apart: set[str] = set()
    if not added and hasattr(tokenizer, "get_added_vocab"):
        apart = set(tokenizer.get_added_vocab())
    ids = sorted((token, i) for token, i in tokenizer.get_vocab().items() if token not in apart)
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def same_tokenizer(one: str, other: str) -> bool:
    """Whether two fingerprints may be of one tokenizer: they are equal, or one is not known."""
    return one == other or not one or not other


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the special tokens."""
    return _of(tokenizer).special_ids


def special_in(tokenizer: Any, text: str) -> list[str]:
    """The special tokens whose text stands in a text and is tokenised as them."""
    if not _is_fast(tokenizer) or getattr(tokenizer, "split_special_tokens", False):
        return []
    special = _of(tokenizer).special
    return [] if special is None else list(dict.fromkeys(special.findall(text)))


def _is_fast(tokenizer: Any) -> bool:
    return getattr(tokenizer, "backend_tokenizer", None) is not None


def _of(tokenizer: Any) -> _Known:
    """What is known of a tokenizer, found out once, and again when tokens were added."""
    tokens = len(tokenizer), tuple(tokenizer.all_special_tokens)
    known = _KNOWN.get(tokenizer)
    if known is None or known.tokens != tokens:
        added = tokenizer.added_tokens_decoder
        special = {i: str(token) for i, token in added.items() if token.special}
        texts = sorted(filter(None, special.values()), key=len, reverse=True)
        known = _KNOWN[tokenizer] = _Known(
            tokens,
            _fingerprint(tokenizer.backend_tokenizer, added),
            frozenset(special),
            re.compile("|".join(map(re.escape, texts))) if texts else None,
        )
    return known


def _fingerprint(backend: Any, added: dict[int, Any]) -> str:
    digest = hashlib.sha256()
    for part in (backend.model, backend.normalizer, backend.pre_tokenizer):
        digest.update((b"" if part is None else part.__getstate__()) + b"\0")
    for token_id, token in sorted(added.items()):
        how = token.single_word, token.lstrip, token.rstrip, token.normalized
        digest.update(repr((token_id, str(token), *how)).encode())
    return digest.hexdigest()
