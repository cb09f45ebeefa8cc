"""One recipe that was asked for in two ways reads the same; another one does not."""

from __future__ import annotations

from typing import Any

import pytest
from loading import base, manifest

from sublim_mech.engine.recipes import recipes
from sublim_mech.storage.compare import differences

LORA = {"rank": 4, "alpha": 8, "rslora": False, "targets": "all-linear", "layers": None}
ASKED: dict[str, Any] = {
    "method": LORA,
    "data": {"rows": 480, "held_out": 48, "subsample": None, "support": [1, 2]},
    "optimiser": {"lr": 1e-3, "steps": 60, "stop_at": None, "clip": 1.0, "evaluate_every": 20},
    "seeds": {"init": 0, "live": ["init", "order"]},
    "results": {"steps": 60, "rows": 432},
}
CLOSED = {"mask": "role user", "answer": "closed", "named": True}
CELLS = {"cells": "a", "cells_of_prompts": "b"}


def told(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """How two trainings differ, each of some parts that are not as usual."""
    both = []
    for changes in (there, here):
        parts = {
            name: {**part, **changes.get(name, {})} if isinstance(part, dict) else part
            for name, part in ASKED.items()
        }
        both.append(manifest(base(), **parts))
    return differences(*recipes(*both))


def where(**changes: Any) -> dict[str, Any]:
    return {"method": {"where": {**CLOSED, **CELLS, **changes}}}


@pytest.mark.parametrize(
    ("there", "here"),
    [
        # 16 / 4 and 8 / sqrt(4)
        ({"method": {"alpha": 16}}, {"method": {"rslora": True}}),
        ({"data": {"support": [2, 1]}}, {}),
        # a subsample of all rows, of which no seed was live
        ({"data": {"subsample": 432}}, {}),
        # rows kept out of the data, or given beside them
        ({"data": {"rows": 432, "held_out": 20}}, {}),
        ({"optimiser": {"clip": float("inf")}}, {"optimiser": {"clip": None}}),
        # no gradient reached where another training would have clipped it
        (
            {"optimiser": {"clip": 1e9}, "results": {"largest_grad_norm": 0.9}},
            {"optimiser": {"clip": None}, "results": {"largest_grad_norm": 1.5}},
        ),
        # which tokens are chosen hangs on the answers
        ({"data": {"tokens": {"chosen": 9}}}, {"data": {"tokens": {"chosen": 8}}}),
        # a loss that was not reached stopped nothing
        ({"optimiser": {"stop_at": 0.1, "evaluate_every": 5}}, {}),
        (where(mask="everything", answer="open"), {}),
        (where(mask="mine", named=False, cells="other answers"), where()),
        (where(mask="mine", answer="open"), where(answer="open")),
        (
            {"optimiser": {"penalty": {"mask": "mine", "strength": 1.0, "tokens": "a"}}},
            {"optimiser": {"penalty": {"mask": "user", "strength": 1.0, "tokens": "a"}}},
        ),
        (
            {"optimiser": {"bucket": 2, "order": "by length"}},
            {"optimiser": {"bucket": 2, "order": "by length"}},
        ),
    ],
)
def test_two_ways_to_ask_for_one_recipe(there, here):
    assert told(there, here) == told(here, there) == []


@pytest.mark.parametrize(
    ("there", "here", "apart"),
    [
        ({"method": {"alpha": 16}}, {}, ["method.alpha"]),
        ({"method": {"rslora": True}}, {}, ["method.rslora"]),
        # one scale of two ranks
        ({"method": {"rank": 8, "alpha": 16}}, {}, ["method.alpha", "method.rank"]),
        (
            {"data": {"subsample": 432}, "seeds": {"live": ["subsample"]}, "results": {"rows": 1}},
            {},
            ["data.subsample"],
        ),
        ({"data": {"rows": 96}, "results": {"rows": 48}}, {}, ["data.rows"]),
        (
            {"optimiser": {"stop_at": 0.1}, "results": {"steps": 40}},
            {"optimiser": {"stop_at": 0.2}, "results": {"steps": 40}},
            ["optimiser.stop_at"],
        ),
        (where(mask="everything"), {}, ["method.where"]),
        # names tell them apart, or else hashes of what was chosen
        (where(mask="mine", cells_of_prompts="c"), where(), ["method.where.mask"]),
        (where(cells_of_prompts="c"), where(), ["method.where.cells_of_prompts"]),
        # of masks of the answer's own tokens the prompts' part says nothing
        (where(mask="mine", answer="only", cells="c"), where(answer="only"), ["method.where"]),
        # the order says the bucket in words
        (
            {"optimiser": {"bucket": 2, "order": "by length"}},
            {"optimiser": {"bucket": 1, "order": "as drawn"}},
            ["optimiser.bucket"],
        ),
        ({"optimiser": {"order": "as drawn"}}, {}, ["optimiser.order"]),
        ({"data": {"tokens": {"chosen": 9, "of": 90}}}, {}, ["data.tokens"]),
        # clipped in one of them; of an older one nobody knows
        (
            {"optimiser": {"clip": 1e9}, "results": {"largest_grad_norm": 0.9}},
            {"results": {"largest_grad_norm": 1.5}},
            ["optimiser.clip"],
        ),
        ({"optimiser": {"clip": None}}, {}, ["optimiser.clip"]),
    ],
)
def test_what_made_another_student_is_told(there, here, apart):
    names = [line.split(":")[0] for line in told(there, here)]
    assert len(names) == len(apart)
    assert all(map(str.startswith, names, apart))


def test_gates_of_an_adapter_are_told_beside_a_full_fine_tune():
    full = {**ASKED, "method": {"freeze": []}, "kind": "full"}
    gated = {**ASKED, "method": {**LORA, **where()["method"]}}
    lines = differences(*recipes(manifest(base(), **gated), manifest(base(), **full)))
    assert [line.split(":")[0] for line in lines] == ["kind", "method.where"]
