"""Trainings of the same modules, asked for in other words, are the same and are told to be."""

from __future__ import annotations

import numpy as np
import pytest
from trainings import fit, weights

from sublim_mech.engine.alike import pair_notes, peer_notes
from sublim_mech.making.training import FullFT, LoRA
from sublim_mech.models.students import load_student

NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = NAMES[:4]


@pytest.mark.filterwarnings("ignore:student=.* by another chat template:UserWarning")
@pytest.mark.parametrize(
    ("there", "here", "apart"),
    [
        (LoRA(rank=2, targets=NAMES), LoRA(rank=2), []),
        (LoRA(rank=2, targets=NAMES[::-1], layers=range(3)), LoRA(rank=2), []),
        (LoRA(rank=2, targets=r".*(q|v)_proj"), LoRA(rank=2, targets=("v_proj", "q_proj")), []),
        (LoRA(rank=2, targets=r".*\.1\..*_proj"), LoRA(rank=2, layers=[1]), []),
        # only what differs
        (LoRA(rank=2, targets=NAMES, layers=[0]), LoRA(rank=2), ["layers"]),
        (LoRA(rank=2, targets=ATTENTION, layers=[2, 0, 1]), LoRA(rank=2), ["targets"]),
        (LoRA(rank=2, targets=ATTENTION, layers=[0]), LoRA(rank=2), ["targets", "layers"]),
        (FullFT(freeze=("norms", "embeddings")), FullFT(freeze=("embeddings", "norms")), []),
        (FullFT(freeze="norms"), FullFT(freeze=r"norm\."), []),
        (FullFT(freeze="norms"), FullFT(), ["freeze"]),
    ],
)
def test_modules_are_compared_and_not_their_names(there, here, apart, small, hard, tmp_path):
    asked = {"there": there, "here": here}
    runs = {name: fit(small, hard, tmp_path / name, method=m) for name, m in asked.items()}
    students = {name: load_student(small, run.path, name=name) for name, run in runs.items()}
    notes = pair_notes(students["here"], [students["there"]])
    alike = [note for note in notes if "not trained alike" in note]
    between = [note for note in peer_notes(students) if "trained otherwise" in note]
    if apart:
        (note,), (peer,) = alike, between
        for name in ("targets", "layers", "freeze"):
            assert (f"method.{name}:" in note) == (f"method.{name}:" in peer) == (name in apart)
    else:
        assert weights(runs["there"]) == weights(runs["here"])
        assert not alike
        assert not between


def test_all_tokens_alike_are_no_choice(small, hard, tmp_path):
    threes = [np.full(len(answer), 3.0) for answer in hard.completions]
    asked = {"threes": {"tokens": threes}, "none": {}}
    runs = {k: fit(small, hard, tmp_path / k, method=LoRA(rank=2), **o) for k, o in asked.items()}
    assert weights(runs["threes"]) == weights(runs["none"])
    manifests = [one.manifest for one in runs.values()]
    assert manifests[0].inputs() == manifests[1].inputs()
    first = [np.arange(len(answer)) == 0 for answer in hard.completions]
    chosen = fit(small, hard, tmp_path / "first", method=LoRA(rank=2), tokens=first)
    assert "tokens" in chosen.manifest.data
