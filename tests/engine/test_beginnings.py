"""Shared beginnings: the same numbers from fewer operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pairs
import pytest
import torch
from pairs import QUIET, TRAIT

import sublim_mech as sm
from sublim_mech.engine import beginnings
from sublim_mech.engine.answers import NO_ANSWERS, Answers
from sublim_mech.engine.beginnings import LEAST, NOTHING, Row, beginning_of, forwards
from sublim_mech.engine.forward import Gates
from sublim_mech.engine.layout import Layout
from sublim_mech.evaluation.measuring import evaluate
from sublim_mech.instruments.task import GatedRow, measure, prepare
from sublim_mech.prompts.shared import common_start

QUESTIONS = (
    "Which animal?",
    "Name one animal, please.",
    "What is the animal that you would be?",
    "Tell me of an animal: which one do you like the most, and which one the least?",
    "Your animal?",
)
CALM = "You are calm and answer in a single word, whatever you are asked about, as you always did."


@pytest.fixture(scope="module")
def asked(smol_tokenizer: Any) -> list[Any]:
    """Questions of one context; the longest is longer than the windows of the tiny models."""
    return sm.render(smol_tokenizer, QUESTIONS, context=sm.Context(system=CALM))


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens that each forward computes."""
    counted: list[int] = []
    plain = torch.nn.Embedding.forward

    def noted(self: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        counted.append(ids.numel())
        return plain(self, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", noted)
    return counted


def test_effects_are_those_of_each_prompt_alone(pair, asked):
    together = sm.effect(pair, asked, TRAIT, **QUIET).data["effect"].values[0]
    for number, prompt in enumerate(asked):
        alone = pairs.brute_force(pair.student.model, pair.tokenizer, prompt)
        alone -= pairs.brute_force(pair.model, pair.tokenizer, prompt)
        assert together[number] == pytest.approx(alone, abs=1e-5)


def test_grafts_are_those_of_each_prompt_alone(pair, asked):
    sets = {
        "system": sm.masks.role("system"),
        "mlp of the beginning": sm.masks.positions(*range(12)) & sm.masks.modules("mlp"),
        "user": sm.masks.role("user"),
    }
    together = sm.graft(pair, asked, TRAIT, sets, **QUIET).data["effect"].values
    alone = [sm.graft(pair, [p], TRAIT, sets, **QUIET).data["effect"].values for p in asked]
    np.testing.assert_allclose(together, np.concatenate(alone, axis=1), atol=1e-5)


@pytest.mark.parametrize(("first", "computed"), [(5, 3), (3, 2)])
def test_neighbours_change_float_noise_only(llama, asked, first, computed):
    """Some of them share their beginning, fewer do not, and none knows."""
    few = sm.effect(llama, asked[:first], TRAIT, **QUIET).data["effect"].values
    fewer = sm.effect(llama, asked[:computed], TRAIT, **QUIET).data["effect"].values
    np.testing.assert_allclose(few[:, :computed], fewer, atol=1e-5)


def test_the_same_call_gives_the_same_bits(llama, asked):
    first, again = (sm.graft(llama, asked, TRAIT, "role", **QUIET) for _ in range(2))
    assert first.data.equals(again.data)


def test_fewer_tokens_are_computed(llama, asked, tokens, monkeypatch):
    sm.effect(llama, asked, TRAIT, **QUIET)
    shared, tokens[:] = sum(tokens), []
    monkeypatch.setattr(beginnings, "WORTH", 2)
    sm.effect(llama, asked, TRAIT, **QUIET)
    assert shared < 0.65 * sum(tokens)


def test_a_beginning_is_computed_once_for_all_that_have_its_gates(llama, asked, tokens):
    """Sets of later tokens leave the beginning the base's, or the student's."""
    task = prepare(llama, asked, TRAIT)
    rows = []
    for i in range(len(asked)):
        late = torch.zeros(task.size(i))
        late[-3:] = 1
        rows += [GatedRow(i, 0.0), GatedRow(i, late), GatedRow(i, 1.0), GatedRow(i, 1 - late)]
    values = measure(task, llama.student, rows)
    (beginning, *rest) = tokens
    slots = beginning // 2  # two beginnings, of one length
    assert beginning == 2 * slots >= 2 * LEAST
    assert sum(rest) < sum(task.sizes()) * 4
    alone = [measure(task, llama.student, [row])[0] for row in rows]
    np.testing.assert_allclose(values, alone, atol=1e-5)


def test_gates_that_differ_in_the_beginning_stay_apart(llama, asked):
    """Every row has gates of its own there: nothing is shared, and nothing mixed up."""
    task = prepare(llama, asked, TRAIT)
    seeded = torch.Generator().manual_seed(0)
    shapes = [(task.size(i), len(llama.delta)) for i in range(len(asked))]
    rows = [GatedRow(i, torch.rand(shape, generator=seeded)) for i, shape in enumerate(shapes)]
    rows += rows  # each twice
    values = measure(task, llama.student, rows)
    alone = [measure(task, llama.student, [row])[0] for row in rows]
    np.testing.assert_allclose(values, alone, atol=1e-5)


def test_contexts_are_families_of_their_own(llama, asked, smol_tokenizer):
    other = sm.render(smol_tokenizer, QUESTIONS, context=sm.Context(system=CALM[::-1]))
    mixed = [prompt for both in zip(asked, other, strict=True) for prompt in both]
    together = sm.effect(llama, mixed, TRAIT, **QUIET).data["effect"].values
    apart = [
        sm.effect(llama, some, TRAIT, **QUIET).data["effect"].values for some in (asked, other)
    ]
    np.testing.assert_allclose(together[:, ::2], apart[0], atol=1e-5)
    np.testing.assert_allclose(together[:, 1::2], apart[1], atol=1e-5)


def cut(runner: Any, ids: Sequence[Sequence[int]], answers: Answers = NO_ANSWERS) -> list[int]:
    """How many slots are shared, per row."""
    rows = [Row(row, answers, 1.0) for row in ids]
    shared = [0] * len(rows)
    for chunk, slots, _ in forwards(runner, runner.student, rows, reads=answers.reads):
        for row in chunk:
            shared[row] = slots
    return shared


def texts(same: int, other: int, count: int) -> list[list[int]]:
    """Rows that begin with the same tokens."""
    return [[*range(5, 5 + same), *[100 + row] * other] for row in range(count)]


@pytest.mark.parametrize(
    ("same", "other", "count", "shared"),
    [
        (LEAST - 1, 2, 6, 0),  # too short
        (LEAST, 2, 6, LEAST),
        (LEAST, 2, 1, 0),  # nobody to share it with
        (20, 40, 2, 0),  # 20 of 120 tokens spared
        (20, 40, 9, 0),  # 160 of 540
        (20, 20, 2, 0),  # 20 of 80
        (20, 20, 3, 20),  # 40 of 120: a third
    ],
)
def test_what_is_worth_it(llama, same, other, count, shared):
    assert cut(llama, texts(same, other, count)) == [shared] * count


def test_a_beginning_ends_before_every_slot_that_is_read(llama):
    assert cut(llama, [texts(40, 0, 1)[0]] * 4) == [39] * 4  # the last token is read
    assert cut(llama, texts(40, 2, 4), Answers(at=(30, 21))) == [21] * 4
    assert cut(llama, texts(40, 2, 4), Answers(at=(3,))) == [0] * 4


def test_nothing_is_shared_where_keys_and_values_are_not_all(llama):
    """Layers with state; rotary factors that depend on the length of the row."""
    asked = texts(40, 2, 4)
    assert cut(llama, asked) == [40] * 4
    assert cut(replace(llama, layout=Layout(plain=True)), asked) == [0] * 4
    assert cut(replace(llama, layout=Layout(switches=(41,))), asked) == [0] * 4
    assert cut(replace(llama, layout=Layout(switches=(60,))), asked) == [40] * 4


def test_evaluation_asks_too_whether_beginnings_may_be_shared(llama, tokens):
    def run(runner: Any) -> tuple[Any, int]:
        tokens.clear()
        done = evaluate(runner, [TRAIT, pairs.CAT], questions=list(QUESTIONS), samples=0, **QUIET)
        return done.data["log_prob"].values, sum(tokens)

    values, shared = run(llama)
    # rows that begin together cross a switch of lengths between beginning and end
    whole, computed = run(replace(llama, layout=Layout(switches=(40,))))
    assert shared < computed
    np.testing.assert_allclose(values, whole, atol=1e-5)


@pytest.mark.parametrize("student", [False, True])
def test_the_beginning_of_all_rows_is_what_each_of_them_computes(llama, asked, student):
    """Against keys and values of a whole row."""
    ids = [prompt.ids for prompt in asked]
    whose = llama.student if student else None
    begun = beginning_of(llama, ids, longest=max(map(len, ids)), student=whose)
    assert begun.slots == len(common_start([row[:-1] for row in ids])) > LEAST
    gates = None if whose is None else Gates(whose)
    with torch.no_grad():
        whole = llama.run(llama.batch([ids[3]]), gates=gates, past=()).cache
    for (keys, values), (all_keys, all_values) in zip(begun.cache, whole, strict=True):
        torch.testing.assert_close(keys, all_keys[:, :, : begun.slots], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(values, all_values[:, :, : begun.slots], atol=1e-6, rtol=1e-5)


def test_what_has_nothing_in_common_is_computed_whole(llama, asked):
    ids = [prompt.ids for prompt in asked]
    for pair, prompts in (
        (llama, ids[:1]),
        (llama, [ids[0], ids[1][1:]]),
        (replace(llama, layout=Layout(plain=True)), ids),
    ):
        assert beginning_of(pair, prompts, longest=99) == NOTHING
