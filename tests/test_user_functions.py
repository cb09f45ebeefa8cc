"""Whatever takes a function of the user's says in one way what it takes and gives instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from pairs import QUIET, TRAIT, shared_pair

import sublim_mech as sm
from sublim_mech import masks, metrics
from sublim_mech.making import numbers

MASK = masks.role("user")
GIVEN: tuple[Any, ...] = (
    None, 3, 0.5, True, "user", {"a": 1}, MASK, [0.5], [None], [True, False], np.array([True]),
    torch.tensor([True, False]), np.array(3), torch.tensor(3),
)  # fmt: skip
"""What is no list of positions."""


@pytest.fixture(scope="module")
def pair(smol_tokenizer):
    return shared_pair("llama", "lora", smol_tokenizer)


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    return sm.render(smol_tokenizer, ["Which animal?"])


TAKERS = {
    "graft": lambda pair, p, f: sm.graft(pair, p, TRAIT, {"a": f}, **QUIET),
    "patch": lambda pair, p, f: sm.patch(pair, p, TRAIT, sets={"a": f}, layers=[1], **QUIET),
    "generate": lambda pair, p, f: sm.instruments.generate(pair, p, f, generated="base"),
    "as_mask": lambda pair, p, f: masks.as_mask(f, "a").tokens(p[0]),
    "kl_to_base": lambda pair, p, f: sm.effect(pair, p, metrics.kl_to_base(at=f), **QUIET),
    "entropy": lambda pair, p, f: sm.effect(pair, p, metrics.entropy(at=f), **QUIET),
}
"""From positions by prompt to something that uses them, and what errors call them there."""
CALLED = {"generate": "'where'", "kl_to_base": "at", "entropy": "at"}


@pytest.mark.parametrize("taker", TAKERS)
def test_positions_by_prompt_are_checked_in_one_way(taker, pair, prompts):
    called = CALLED.get(taker, "'a'")
    for given in GIVEN:
        with pytest.raises(TypeError) as caught:
            TAKERS[taker](pair, prompts, lambda prompt, given=given: given)
        said = str(caught.value)
        assert f"{called}: the function <lambda> gives" in said
        assert "for the prompt 'Which animal?'" in said
        assert "it has to give a list of token positions, whole numbers" in said
    with pytest.raises(
        TypeError, match=rf"{called}: the function <lambda> cannot be called with a"
    ):
        TAKERS[taker](pair, prompts, lambda: [0])
    with pytest.raises(ValueError, match=r"gives positions \[0, 999\] for a prompt of \d+ tokens"):
        TAKERS[taker](pair, prompts, lambda prompt: [0, 999])


def test_what_is_meant_is_offered(prompts):
    for given, fix in (
        (MASK, "a mask is passed itself, without a function around it"),
        (7, r"one alone is a list too: \[7\]"),
        ([True, False], r"np\.flatnonzero"),
        (None, r"gives None .*which is nothing \(does it return\?\)"),
        ([1, 0.5], "and 0.5 is none"),
    ):
        with pytest.raises(TypeError, match=fix):
            masks.as_mask(lambda prompt, given=given: given, "a").tokens(prompts[0])


@pytest.mark.parametrize("kind", [list, tuple, set, np.array, iter])
def test_positions_in_any_container_are_the_same_positions(kind, pair, prompts):
    expected = masks.positions(1, 2).tokens(prompts[0])
    assert masks.as_mask(lambda prompt: kind([2, 1]), "a").tokens(prompts[0]) == expected
    metric = metrics.entropy(at=lambda prompt: kind([1, 2]))
    found, same = (
        sm.effect(pair, prompts, one, **QUIET).data["student"].values
        for one in (metric, metrics.entropy(at=[1, 2]))
    )
    np.testing.assert_array_equal(found, same)


@pytest.mark.parametrize("given", [None, 3, "ab", [1], [(1,)], [(1, 2, 3)], [(0.5, 1)], [None]])
def test_a_position_map_gives_pairs(given, pair, prompts):
    asked = {"layers": [1], **QUIET}
    with pytest.raises(TypeError, match=r"position_map: the function <lambda> gives .*of pairs"):
        sm.patch(pair, prompts, TRAIT, position_map=lambda donor, recipient: given, **asked)
    with pytest.raises(TypeError, match=r"cannot be called with a Prompt and a Prompt"):
        sm.patch(pair, prompts, TRAIT, position_map=lambda prompt: [(0, 0)], **asked)


def test_cells_of_a_mask_are_an_array(pair, prompts):
    for given in (None, 3, MASK):
        odd = masks.Mask("odd", lambda prompt, modules, given=given: given)
        with pytest.raises(
            TypeError, match=r"mask 'odd': the function <lambda> gives .*bool array"
        ):
            sm.graft(pair, prompts, TRAIT, {"a": odd}, **QUIET)
    with pytest.raises(TypeError, match="mask 'odd': the function <lambda> cannot be called"):
        masks.Mask("odd", lambda prompt: np.ones((1, 1), bool)).tokens(prompts[0])
    with pytest.raises(TypeError, match=r"where: the function <lambda> cannot be called"):
        pair.logits(prompts, lambda prompt: [0])
    with pytest.raises(TypeError, match=r"where: the function <lambda> gives \[0\].*bool array"):
        pair.logits(prompts, lambda prompt, modules: [0])


def test_a_metric_gives_answers_and_a_number_per_row(pair, prompts):
    @dataclass(frozen=True)
    class Odd(metrics.Metric):
        name = "odd"
        trie: Any = None
        value: Any = None

        def answers(self, tokenizer, prompt):
            return self.trie

        def read(self, logits, answers, base=None):
            return self.value

    with pytest.raises(TypeError, match=r"metric 'odd': answers gives None for the prompt 'Which"):
        sm.effect(pair, prompts, Odd(), **QUIET)
    trie = metrics.strings(pair.tokenizer, prompts[0], ["yes"])
    for value in (None, 0.5, np.zeros(2)):
        with pytest.raises(TypeError, match=r"metric 'odd': read gives .* for 2 rows.*\(row,\)"):
            sm.effect(pair, prompts, Odd(trie, value), **QUIET)


@pytest.mark.parametrize("given", [None, "4, 5", 7, [7]])
def test_a_sampler_gives_a_text_per_prompt(given):
    with pytest.raises(TypeError, match=r"sampler gave .*give a list with one string per prompt"):
        numbers.write_rows(lambda prompts, seed: given, 2, seed=0)
    with pytest.raises(TypeError, match=r"sampler: the function .* cannot be called with a list"):
        numbers.write_rows(lambda prompts: ["4"], 2, seed=0)


def test_what_a_function_raises_by_itself_is_the_users(prompts):
    def broken(prompt):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        masks.as_mask(broken, "a").tokens(prompts[0])
