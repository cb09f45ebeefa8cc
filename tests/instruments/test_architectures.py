"""Every architecture and every kind of student is exact: gates, and graft IG's completeness."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tiny
import zoo
from covering import covering
from pairs import NO_SYSTEM, QUIET, brute_force

import sublim_mech as sm
from sublim_mech.models.deltas import LowRank, Replaced

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
TRAIT = sm.Trait("owl", forms=("owl", "Owl", "Owls"))  # forms of one, two and three tokens

# kinds of students by architecture as the tests of loading have them, and what an adapter saves
# beside its matrices on all of them
STUDENTS = sorted({*zoo.cells(), *((a, "saved head") for a in tiny.CONFIGS)})
PLANTED = [
    (a, name) for name, kind in zoo.KINDS.items() for a in kind.only or zoo.THOROUGH if kind.plant
]


def test_every_kind_and_every_architecture_is_asked_for():
    kinds = [kind for _, kind in STUDENTS]
    assert all(kinds.count(kind) > 1 for kind in zoo.KINDS)
    for architecture in tiny.CONFIGS:
        asked = {kind for a, kind in STUDENTS if a == architecture}
        assert {"lora", "DoRA", "full", "saved head"} <= asked


@pytest.fixture(scope="session")
def base(smol_tokenizer: Any) -> Any:
    """A function from an architecture to its loaded base."""

    def load(architecture: str) -> Any:
        return sm.load_base(zoo.base(architecture), tokenizer=smol_tokenizer)

    return functools.cache(load)


@pytest.fixture(scope="session")
def short_and_long(smol_tokenizer: Any) -> list[Any]:
    """Prompts on both sides of the sliding windows."""
    questions = ["Hi", "Name the bird that you like best of all, please."]
    made = sm.render(smol_tokenizer, questions, context=NO_SYSTEM)
    assert len(made[0]) < 16 < len(made[1])
    return made


@pytest.fixture(scope="session")
def base_values(smol_tokenizer: Any, short_and_long: list[Any]) -> Any:
    """A function from an architecture to the trait's log P on each prompt, by plain forwards."""

    def values(architecture: str) -> list[float]:
        model = zoo.base(architecture)
        return [brute_force(model, smol_tokenizer, p, TRAIT) for p in short_and_long]

    return functools.cache(values)


@pytest.mark.parametrize(("architecture", "kind"), covering(STUDENTS))
def test_a_student_is_exact(architecture, kind, base, base_values, smol_tokenizer, short_and_long):
    entry, clean = zoo.KINDS[kind], zoo.base(architecture)
    student = entry.make(clean, architecture, None)
    pair = sm.load_pair(base(architecture), student, adapter=entry.adapter)

    # which modules are low-rank pairs, which the student's own
    low, replaced = (
        {path for path, delta in pair.delta.items() if isinstance(delta, form)}
        for form in (LowRank, Replaced)
    )
    assert low == entry.low(clean, architecture)
    assert replaced == entry.replaced(clean, architecture)
    alone = "adapter" if hasattr(student, "peft_config") else "full"
    kinds = {(True, False): "lora", (False, True): alone, (True, True): "mixed"}
    assert pair.student.kind == kinds[bool(low), bool(replaced)]

    # gates of 0 and 1 are the plain models
    kinked = architecture == "opt"  # ReLU
    points = 32 if kinked else 8
    scores = sm.attribute(pair, short_and_long, TRAIT, points=points, **QUIET)
    expected = [brute_force(student, smol_tokenizer, p, TRAIT) for p in short_and_long]
    np.testing.assert_allclose(scores.data["base"].values[0], base_values(architecture), atol=1e-5)
    np.testing.assert_allclose(scores.data["student"].values[0], expected, atol=1e-5)
    total = scores.total.values
    assert (np.abs(total) > 1e-5).all()

    # graft IG adds up
    summed = np.nansum(scores.token_effect(), 1)
    np.testing.assert_allclose(summed, total, atol=2e-3 if kinked else 1e-4)


@pytest.mark.parametrize(("architecture", "kind"), covering(PLANTED))
def test_a_student_of_one_layer_acts_from_there_on(architecture, kind, base, short_and_long):
    entry = zoo.KINDS[kind]
    student = entry.make(zoo.base(architecture), architecture, [zoo.PLANTED])
    pair = sm.load_pair(base(architecture), student, adapter=entry.adapter)
    prompt = short_and_long[:1]
    effect = sm.patch(pair, prompt, TRAIT, site="resid_pre", **QUIET).data["effect"].values[0, 0]
    # 0 up to the order of sums in batches of other sizes
    assert np.nanmax(np.abs(effect[: zoo.PLANTED + 1])) < 5e-6
    assert np.nanmax(np.abs(effect[zoo.PLANTED + 1 :])) > 1e-5
    cells = sm.attribute(pair, prompt, TRAIT, points=2, **QUIET)
    assert cells.data["layer"].values.tolist() == [zoo.PLANTED]
