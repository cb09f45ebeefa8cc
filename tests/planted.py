"""Evaluations of given numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from sublim_mech.evaluation.outcome import Evaluation
from sublim_mech.prompts import Trait, animal, match

TRAITS = [animal("owl"), animal("wolf"), animal("butterfly")]


def planted(
    log_prob: Any,
    models: Sequence[str] = ("base", "student", "control: x"),
    said: Any = None,
    traits: Sequence[Trait] = TRAITS,
) -> Evaluation:
    """An evaluation of given numbers.

    Args:
        log_prob: `(model, context, trait, question)`.
        models: names of the models.
        said: answers `(model, context, question, sample)`.
        traits: the first of them are those of `log_prob`.
    """
    log_prob = np.asarray(log_prob, float)
    n_models, n_contexts, n_traits, n_questions = log_prob.shape
    traits = traits[:n_traits]
    dims = ("model", "context", "trait", "question")
    ranks = np.arange(1, log_prob.size + 1).reshape(log_prob.shape)
    arrays: dict[str, Any] = {"log_prob": (dims, log_prob), "rank": (dims, ranks)}
    if said is not None:
        said = np.array(said)
        named = np.vectorize(lambda answer: str(match(answer, traits)))(said)
        counts = np.stack([(named == trait.name).sum(-1) for trait in traits], 2)
        arrays["answer"] = (("model", "context", "question", "sample"), said)
        arrays["count"] = (dims, counts)
    coordinates = {
        "model": list(models[:n_models]),
        "context": ["default", "empty"][:n_contexts],
        "trait": [trait.name for trait in traits],
        "question": np.arange(n_questions),
        "text": ("question", ["Name an animal."] * n_questions),
    }
    forms = {trait.name: trait.to_json() for trait in traits}
    data = xr.Dataset(arrays, coordinates)
    return Evaluation(data, {"vocabulary": 101, "traits": forms})
