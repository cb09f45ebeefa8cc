"""Budgets: how many rows a forward has, and that nothing but the time depends on it."""

import pytest
import torch

from sublim_mech.engine import budget
from sublim_mech.engine.budget import default_budget, row_bytes, rows_per_forward

SIZES = {"slots": 40, "keys": 40, "reads": 4}


@pytest.mark.parametrize("more", ["slots", "keys", "reads"])
def test_a_row_needs_more_where_more_is_computed(llama, more):
    larger = SIZES | {more: 2 * SIZES[more]}
    assert row_bytes(llama.model, **larger) > row_bytes(llama.model, **SIZES)


def test_a_backward_pass_needs_more_memory(llama):
    assert row_bytes(llama.model, **SIZES, gradient=True) > row_bytes(llama.model, **SIZES)


def test_rows_are_as_many_as_fit_the_memory_and_the_tokens(llama):
    need = row_bytes(llama.model, **SIZES)
    assert rows_per_forward(llama.model, 5 * need, **SIZES, tokens=10**6) == 5
    assert rows_per_forward(llama.model, 6 * need - 1, **SIZES, tokens=10**6) == 5
    assert rows_per_forward(llama.model, 10**6 * need, **SIZES, tokens=130) == 130 // 40
    assert rows_per_forward(llama.model, 10**6 * need, **SIZES, tokens=7) == 1


def test_a_cpu_has_its_own_number_of_tokens(llama):
    many = 10**6 * row_bytes(llama.model, **SIZES)
    assert rows_per_forward(llama.model, many, **SIZES) == budget.TOKENS_PER_FORWARD_ON_CPU // 40


def test_a_row_that_does_not_fit_is_an_error_with_what_it_needs(llama):
    need = row_bytes(llama.model, **SIZES, gradient=True)
    message = r"is too small: one row of 40 tokens needs about .* GB with gradients"
    with pytest.raises(ValueError, match=message):
        rows_per_forward(llama.model, need - 1, **SIZES, gradient=True)
    assert rows_per_forward(llama.model, need, **SIZES, gradient=True) == 1


def test_the_default_is_a_share_of_the_machine(monkeypatch):
    memory = type("Memory", (), {"total": 64 * 2**30})
    monkeypatch.setattr(budget.psutil, "virtual_memory", lambda: memory)
    assert default_budget(torch.device("cpu")) == 8 * 2**30
