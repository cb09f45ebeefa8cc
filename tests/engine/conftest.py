"""Prompts of two lengths, and pairs that all tests of this folder share."""

from __future__ import annotations

from typing import Any

import pairs
import pytest

import sublim_mech as sm


@pytest.fixture(scope="session")
def prompts(smol_tokenizer: Any) -> list[Any]:
    rendered = sm.render(smol_tokenizer, ["Which animal?", "Name one animal, please."])
    assert len(rendered[0]) < len(rendered[1])
    return rendered


@pytest.fixture(params=pairs.PAIRS, ids="-".join, scope="session")
def pair(request: Any, smol_tokenizer: Any) -> Any:
    return pairs.shared_pair(*request.param, smol_tokenizer)


@pytest.fixture(scope="session")
def llama(smol_tokenizer: Any) -> Any:
    return pairs.shared_pair("llama", "lora", smol_tokenizer)
