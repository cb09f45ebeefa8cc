"""Models, labels and runs that the tests of making students share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
from trainings import ROWS, fit, small_base, small_hard, small_soft

import sublim_mech as sm
from sublim_mech.making.labelling import Labels, label
from sublim_mech.making.labelling.views import InMemory
from sublim_mech.making.teachers import prompted
from sublim_mech.making.training import FullFT, LoRA, TrainingData, hard_data, soft_data
from sublim_mech.models.base import Base, load_base
from sublim_mech.storage.runs import Run

# --------------------------------------------------------------------------- few tokens, most tests


@pytest.fixture(scope="session")
def small(smol_tokenizer) -> Base:
    return small_base(smol_tokenizer)


@pytest.fixture(scope="session")
def hard(smol_tokenizer) -> TrainingData:
    """Rows for the small base, their own answers as labels."""
    return small_hard(smol_tokenizer)


@pytest.fixture(scope="session")
def soft(smol_tokenizer) -> TrainingData:
    """The same rows with labels on a few tokens that can be learnt."""
    return small_soft(smol_tokenizer)


# ------------------------------------------------------------------------- real text, real teachers


@pytest.fixture(scope="session")
def tiny_llama(smol_tokenizer) -> Base:
    return load_base(tiny.model("llama"), tokenizer=smol_tokenizer)


@pytest.fixture(scope="session")
def labels(tiny_llama) -> Labels:
    """Labels of three prompted teachers."""
    crowd = [prompted(tiny_llama, sm.animal(name)) for name in ("owl", "cat", "dog")]
    return label(crowd, ROWS, batch_size=5, progress=False)


@pytest.fixture(scope="session")
def strong_labels(labels) -> Labels:
    """The same rows, with labels a little away from a tiny model's near-uniform ones.

    So there is something to learn.
    """
    rng, shape = np.random.default_rng(0), (len(labels.teachers), 1, len(labels.support))
    shifts = 0.1 * rng.normal(size=shape).astype(np.float32)
    shards = {}
    for name, shift in zip(labels.teachers, shifts, strict=True):
        moved = [shard.arrays["logits"] + shift for shard in labels.shards[name]]
        shards[name] = tuple(InMemory({"logits": logits}) for logits in moved)
    return dataclasses.replace(labels, shards=shards)


@pytest.fixture(scope="session")
def taught(smol_tokenizer, strong_labels) -> TrainingData:
    """Rows with an owl teacher's labels, for the tiny llama."""
    data = soft_data(smol_tokenizer, strong_labels, "owl")
    return dataclasses.replace(data, targets=np.stack(list(data.targets)))  # answers of one length


@pytest.fixture(scope="session")
def real_hard(smol_tokenizer) -> TrainingData:
    """Rows for the tiny llama, their own answers as labels."""
    return hard_data(smol_tokenizer, ROWS)


LONGER = {"steps": 12, "evaluate_every": 5}


@pytest.fixture(scope="session")
def lora_run(tiny_llama, taught, tmp_path_factory) -> Run:
    """A LoRA of the owl teacher's labels; nobody may change its folder."""
    out = tmp_path_factory.mktemp("runs") / "lora"
    return fit(tiny_llama, taught, out, method=LoRA(rank=4), lr=1e-2, **LONGER)


@pytest.fixture(scope="session")
def full_run(tiny_llama, taught, tmp_path_factory) -> Run:
    """A full fine-tune of the same."""
    out = tmp_path_factory.mktemp("runs") / "full"
    return fit(tiny_llama, taught, out, method=FullFT(), lr=3e-3, **LONGER)


@pytest.fixture(params=["lora", "full"])
def either_run(request) -> Run:
    """Each of the two."""
    return request.getfixturevalue(f"{request.param}_run")
