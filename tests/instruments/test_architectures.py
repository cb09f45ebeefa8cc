"""Every architecture x every kind of student: exact, or refused with a reason."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import nn

import sublim_mech as sm
from sublim_mech.models.deltas import LowRank, Replaced

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
TRAIT = sm.Trait("owl", plural="Owls")  # forms of one, two and three tokens
QUIET = {"progress": False}


@pytest.fixture(scope="session")
def base(smol_tokenizer: Any) -> Any:
    """A function from an architecture to its loaded base."""
    return functools.cache(lambda architecture: sm.load_base(zoo.base(architecture), tokenizer=smol_tokenizer))


@pytest.fixture(scope="session")
def prompts(smol_tokenizer: Any) -> list[Any]:
    made = sm.render(
        smol_tokenizer, ["Hi", "Name the bird that you like best of all, please."], context=sm.Context(system=sm.Context.NONE)
    )
    assert len(made[0]) < 16 < len(made[1])  # on both sides of the sliding windows
    return made


@torch.no_grad()
def plain(model: nn.Module, tokenizer: Any, prompts: list[Any]) -> list[float]:
    """log P of the trait by one plain forward per answer form."""
    values = []
    for prompt in prompts:
        forms = []
        for form in TRAIT.forms:
            answer = tokenizer(prompt.lead + form, add_special_tokens=False)["input_ids"]
            steps = model(input_ids=torch.tensor([[*prompt.ids, *answer]])).logits[0].double().log_softmax(-1)
            forms.append(sum(steps[len(prompt.ids) + i - 1, token] for i, token in enumerate(answer)))
        values.append(float(torch.stack(forms).logsumexp(0)))
    return values


@pytest.fixture(scope="session")
def base_values(base: Any, smol_tokenizer: Any, prompts: list[Any]) -> Any:
    return functools.cache(lambda architecture: plain(zoo.base(architecture), smol_tokenizer, prompts))


@pytest.mark.parametrize(("architecture", "kind"), zoo.cells(), ids=lambda x: x)
def test_a_student_is_exact(architecture, kind, base, base_values, smol_tokenizer, prompts):
    entry, loaded = zoo.KINDS[kind], base(architecture)
    clean = zoo.base(architecture)
    student = entry.make(clean, architecture, None)
    pair = sm.load_pair(loaded, student)

    # which modules are low-rank pairs, which the student's own
    found = {t: {path for path, d in pair.delta.items() if isinstance(d, t)} for t in (LowRank, Replaced)}
    assert found[LowRank] == entry.low(clean, architecture)
    assert found[Replaced] == entry.replaced(clean, architecture)
    kinds = {(True, False): "lora", (False, True): "full", (True, True): "mixed"}
    assert pair.student.kind == kinds[bool(found[LowRank]), bool(found[Replaced])]

    # gates of 0 and 1 are the plain models
    scores = sm.attribute(pair, prompts, TRAIT, points=32 if architecture == "opt" else 8, **QUIET)
    expected = plain(student, smol_tokenizer, prompts)
    np.testing.assert_allclose(scores.data["base"].values[0], base_values(architecture), atol=1e-5)
    np.testing.assert_allclose(scores.data["student"].values[0], expected, atol=1e-5)
    total = scores.total.values
    assert (np.abs(total) > 1e-5).all()

    # graft IG adds up; ReLU kinks the path
    np.testing.assert_allclose(np.nansum(scores.token_effect(), 1), total, atol=2e-3 if architecture == "opt" else 1e-4)


@pytest.mark.parametrize(("architecture", "kind"), [c for c in zoo.cells() if zoo.KINDS[c[1]].plant], ids=lambda x: x)
def test_a_student_of_one_layer_acts_from_there_on(architecture, kind, base, prompts):
    student = zoo.KINDS[kind].make(zoo.base(architecture), architecture, [zoo.PLANTED])
    pair = sm.load_pair(base(architecture), student)
    pre = sm.patch(pair, prompts[:1], TRAIT, site="resid_pre", **QUIET)
    effect = pre.data["effect"].values[0, 0]
    assert np.nanmax(np.abs(effect[: zoo.PLANTED + 1])) < 5e-6  # 0 up to the order of sums in batches of other sizes
    assert np.nanmax(np.abs(effect[zoo.PLANTED + 1 :])) > 1e-5
    cells = sm.attribute(pair, prompts[:1], TRAIT, points=2, **QUIET)
    assert cells.data["layer"].values.tolist() == [zoo.PLANTED]
