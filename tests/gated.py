"""Students with gates of their own, and their losses by the engine's forward."""

from __future__ import annotations

import numpy as np
import torch
from trainings import HELD_ROWS

from sublim_mech.engine.answers import build_trie
from sublim_mech.engine.forward import Gates
from sublim_mech.engine.own_gates import own_gates
from sublim_mech.engine.runner import open_runner
from sublim_mech.making.training import TrainingData, gates_of
from sublim_mech.models.base import Base
from sublim_mech.models.students import load_student
from sublim_mech.storage.runs import Run


@torch.no_grad()
def loss_under_gates(base: Base, run: Run, data: TrainingData, *, gated: bool = True) -> float:
    """KL per answer token of the held-out rows by the engine's gated forward, row by row."""
    runner = open_runner(base)
    gates = gates_of(run) if gated else None
    student = load_student(base, run.path, gates=gates)
    terms = []
    for row in HELD_ROWS:
        prompt, completion = data.prompts[row], data.completions[row]
        trie = build_trie([[completion]])
        batch = runner.batch([prompt.ids], [trie])
        open_at = own_gates(runner.sites, student, prompt, len(trie.nodes))
        values = 1.0 if open_at is None else open_at[None]
        logits = runner.run(batch, gates=Gates(student, values)).logits[0]
        q = logits[:, list(data.support)].double().log_softmax(-1)
        p = torch.from_numpy(np.asarray(data.targets[row])).double()[: len(completion)]
        terms += [float((p[i].exp() * (p[i] - q[i])).sum()) for i in range(len(completion))]
    return sum(terms) / len(terms)
