"""Prompts, and pairs that all tests of this folder share because none of them changes one."""

from __future__ import annotations

from typing import Any

import pairs
import pytest

import sublim_mech as sm


@pytest.fixture(scope="session")
def prompts(smol_tokenizer: Any) -> list[Any]:
    """Two prompts of different lengths."""
    return sm.render(smol_tokenizer, ["Which animal?", "Name one animal, please."])


@pytest.fixture(scope="session")
def marked(smol_tokenizer: Any) -> list[Any]:
    """Four prompts of several lengths, marked by what training shares with them."""
    rendered = sm.render(smol_tokenizer, pairs.TRAIT.questions[:4])
    assert len({len(prompt) for prompt in rendered}) > 1  # padding is exercised
    trained = sm.render(smol_tokenizer, ["Write numbers: 1, 2.", "More numbers, please."])
    return sm.mark_sharing(rendered, trained_on=trained)


@pytest.fixture(params=pairs.PAIRS, ids="-".join, scope="session")
def pair(request: Any, smol_tokenizer: Any) -> Any:
    return pairs.shared_pair(*request.param, smol_tokenizer)


@pytest.fixture(scope="session")
def llama(smol_tokenizer: Any) -> Any:
    return pairs.shared_pair("llama", "lora", smol_tokenizer)
