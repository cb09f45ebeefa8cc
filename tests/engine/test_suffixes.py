"""Suffixes: a row begun by one model and ended by another one, against whole gated forwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mixtures
import pytest
import tiny
import torch

import sublim_mech as sm
from sublim_mech.engine import suffixes
from sublim_mech.engine.answers import build_trie
from sublim_mech.engine.forward import Gates
from sublim_mech.engine.runner import Runner
from sublim_mech.engine.suffixes import Kept, follow, keep

TRIE = build_trie([[(300, 41, 7), (300, 52, 8), (9, 11)]])
EARLY = replace(TRIE, at=(9, 4))
ALONE = build_trie([[(300,)]])


def both(pair: Any, ids: Any, answers: Any, opened: Any = 1.0) -> list[Kept]:
    """The base's and the student's run of a row, the student's under gates of its own."""
    return keep(pair, ids, answers, [Gates(pair.student, 0.0), Gates(pair.student, opened)])


def followed(before: Kept, after: Kept, starts: Any) -> torch.Tensor:
    """Logits of every boundary, each of which is given once."""
    logits: dict[int, torch.Tensor] = {}
    for indices, given in follow(before, after, starts):
        assert not set(indices) & set(logits)
        logits |= dict(zip(indices, given, strict=True))
    return torch.stack([logits[i] for i in range(len(starts))])


@torch.no_grad()
def by_whole_rows(before: Kept, after: Kept, starts: Any) -> torch.Tensor:
    """The same, a whole row per boundary."""
    first, second = _gates(before), _gates(after)
    gates = torch.cat([torch.cat([first[:, :at], second[:, at:]], 1) for at in starts])
    rows = before.batch.expand(len(starts))
    return before.runner.run(rows, gates=replace(after.gates, values=gates)).logits


def _gates(kept: Kept) -> torch.Tensor:
    values = kept.gates.values
    if isinstance(values, float):
        return torch.full((1, kept.size, kept.gates.student.width), values)
    return values


def agree(first: Kept, second: Kept, *, far: float = 1e-4) -> None:
    """Every boundary, in an order of its own and with one asked twice, both ways round."""
    starts = [*range(first.size, 0, -3), 1, 2, 7]
    for before, after in ((first, second), (second, first)):
        given, expected = followed(before, after, starts), by_whole_rows(before, after, starts)
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
        assert float((given - before.logits).abs().max()) > far


def test_a_boundary_is_a_forward_of_the_whole_row(pair, prompts):
    agree(*both(pair, prompts[0].ids, EARLY))


def test_runs_are_those_of_the_two_models(pair, prompts):
    base, student = both(pair, prompts[1].ids, TRIE)
    with torch.no_grad():
        for kept, gates in ((base, None), (student, Gates(pair.student))):
            alone = pair.run(pair.batch([prompts[1].ids], [TRIE]), gates=gates).logits
            torch.testing.assert_close(kept.logits, alone, atol=2e-6, rtol=0)
            assert not kept.logits.requires_grad


def test_gates_of_a_row_are_those_of_its_slots(llama, prompts):
    """A student that is open at some cells only, in each of its slots elsewhere."""
    ids, width = prompts[0].ids, len(llama.delta)
    seeded = torch.Generator().manual_seed(0)
    opened = torch.rand(1, len(ids) + len(EARLY.nodes), width, generator=seeded)
    agree(*both(llama, ids, EARLY, opened.round()))


def test_remembered_slots_keep_the_gates_of_the_model_that_began(smol_tokenizer):
    """Compressed keys and values are expanded again for every suffix, also under closed gates."""
    base = mixtures.base("deepseek_v3")
    student = tiny.lora(base, target_modules=["kv_b_proj"], std=0.3)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    (prompt,) = sm.render(smol_tokenizer, ["Hi, which animal?"], context=sm.RAW)
    agree(*both(pair, prompt.ids, TRIE))


@pytest.mark.parametrize(("memory", "shared"), [(1000, 384), (400_000, 9), (10**9, 9)])
@pytest.mark.filterwarnings("ignore:one row of")
def test_how_rows_are_cut_changes_nothing(llama, prompts, monkeypatch, memory, shared):
    """One row at a time, few, and as many as there are; long suffixes in rows of their own."""
    monkeypatch.setattr(suffixes, "SHARED", shared)
    agree(*both(replace(llama, memory=memory), prompts[0].ids, EARLY))


def test_nothing_is_computed_twice(llama, prompts, monkeypatch):
    """What follows the boundaries fills its rows, and before the last one nothing is left."""
    fed: list[torch.Size] = []
    run = Runner.run

    def counted(self: Any, batch: Any, **options: Any) -> Any:
        fed.append(batch.ids.shape)
        return run(self, batch, **options)

    ids = prompts[0].ids
    for answers in (ALONE, TRIE):
        base, student = both(llama, ids, answers)
        starts = range(1, len(ids) + 1)
        monkeypatch.setattr(Runner, "run", counted)
        list(follow(base, student, starts))
        monkeypatch.undo()
        follows = [base.size - start for start in starts if answers.nodes or start < len(ids)]
        half = (min(follows) + max(follows)) / 2
        assert sum(follows) <= sum(map(torch.Size.numel, fed)) <= sum(follows) + half
        fed.clear()
    (last,) = follow(student, base, [base.size + 1])
    assert torch.equal(last.logits, student.logits)
