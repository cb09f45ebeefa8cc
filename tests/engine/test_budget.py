"""Budgets: how many rows a forward has, and that nothing but the time depends on it."""

import pytest
import tiny
import torch

from sublim_mech.engine import budget
from sublim_mech.engine.answers import build_trie
from sublim_mech.engine.budget import (
    Shape,
    default_budget,
    least_bytes,
    recomputes,
    row_bytes,
    rows_per_forward,
)
from sublim_mech.engine.layout import Layout
from sublim_mech.engine.plain import lay_out

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


LONG = {"slots": 200, "keys": 200, "reads": 4}


def test_a_row_that_does_not_fit_runs_the_leanest_way(llama, recwarn):
    """Torch's attention keeps no scores, and a backward pass can compute its blocks again."""
    assert budget.keeps_no_scores(llama.model)
    wide = row_bytes(llama.model, **LONG, gradient=True)
    plain = least_bytes(llama.model, **LONG, gradient=True)
    again = least_bytes(llama.model, **LONG, gradient=True, recompute=True)
    assert again < plain < wide
    for memory in (wide, wide - 1, plain - 1, again):
        assert rows_per_forward(llama.model, memory, **LONG, gradient=True) == 1
    run = [Shape(1, 200, 4)]
    assert [recomputes(llama.model, m, run) for m in (wide, plain, plain - 1)] == [0, 0, 1]
    assert not recwarn.list  # all of it within the budget


def test_a_row_beyond_the_budget_takes_what_is_free_and_says_so(llama, monkeypatch):
    need = least_bytes(llama.model, **LONG, gradient=True, recompute=True)
    monkeypatch.setattr(budget, "free_memory", lambda device: need)
    message = r"^one row of 200 tokens needs about .* GB with gradients, more than memory_gb="
    with pytest.warns(UserWarning, match=message):
        assert rows_per_forward(llama.model, need - 1, **LONG, gradient=True) == 1


def test_a_row_that_the_machine_cannot_hold_is_an_error_with_what_it_needs(llama, monkeypatch):
    need = least_bytes(llama.model, **LONG, gradient=True, recompute=True)
    monkeypatch.setattr(budget, "free_memory", lambda device: need - 1)
    message = r"is too small: one row of 200 tokens needs about .* GB with gradients, and the mach"
    with pytest.raises(ValueError, match=message):
        rows_per_forward(llama.model, need - 1, **LONG, gradient=True)


def test_what_is_recomputed_depends_on_the_budget_alone(llama, monkeypatch):
    run = [Shape(2, 200, 4)]
    need = 2 * least_bytes(llama.model, **LONG, gradient=True)
    for free in (0, 10**15):
        monkeypatch.setattr(budget, "free_memory", lambda device, free=free: free)
        assert [recomputes(llama.model, m, run) for m in (need, need - 1)] == [False, True]


def test_plain_rows_count_by_what_is_computed(llama):
    """Every answer form is a row of its own there; their activations are all kept."""
    answers = build_trie([[(5,), (6, 7, 1), (8, 9, 1)]])
    prompt = list(range(10, 30))
    asked = lay_out(llama.model, [prompt], [answers], Layout(plain=True))
    shapes = asked.shapes
    assert sum(rows * slots for rows, slots, _ in shapes) >= asked.computed
    assert asked.computed > asked.ids.numel()
    sizes = [{"slots": slots, "keys": slots, "reads": reads} for _, slots, reads in shapes]
    need = sum(
        shape.rows * least_bytes(llama.model, **size, gradient=True)
        for shape, size in zip(shapes, sizes, strict=True)
    )
    assert [recomputes(llama.model, m, shapes) for m in (need, need - 1)] == [False, True]
    one = lay_out(llama.model, [prompt], [answers])
    assert one.shapes == [Shape(1, one.ids.shape[1], one.reads.shape[1])]


@pytest.mark.parametrize(("architecture", "fused"), [("llama", True), ("gemma2", False)])
def test_attention_that_keeps_scores_is_told_by_its_kernel(architecture, fused):
    """Soft caps are computed by the plain way, which keeps them."""
    model = tiny.model(architecture)
    assert budget.keeps_no_scores(model) == fused
    more = least_bytes(model, **LONG) - least_bytes(model, slots=200, keys=200, reads=0)
    assert more < row_bytes(model, **LONG)


def test_heads_whose_keys_and_values_differ_in_width_keep_scores(monkeypatch):
    model = tiny.model("llama")
    monkeypatch.setattr(model.config, "v_head_dim", 12, raising=False)
    monkeypatch.setattr(model.config, "qk_head_dim", 16, raising=False)
    assert not budget.keeps_no_scores(model)


def test_the_default_is_a_share_of_the_machine(monkeypatch):
    memory = type("Memory", (), {"total": 64 * 2**30})
    monkeypatch.setattr(budget.psutil, "virtual_memory", lambda: memory)
    assert default_budget(torch.device("cpu")) == 8 * 2**30
