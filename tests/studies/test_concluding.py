"""Which rows speak of which claim."""

from itertools import product

import pandas as pd

from sublim_mech.studies.concluding import Evidence, students


def test_students_of_chosen_tokens_speak_of_training_at_tokens_alone():
    """Even where they imitate better, which decides between settings otherwise."""
    of_all = {
        "training_seed": 0, "labels": "contrastive", "c": 4.0, "trained_in": "default",
        "evaluated_in": "default", "method": "r8", "kind": "lora", "rank": 8, "rule": "",
        "lr": 1e-3, "step": 0, "base level": -9.0, "change": 0.1, "control": 0.0,
    }  # fmt: skip
    arms = {"everywhere": 0.5, "shared": 0.1, "not shared": 0.2}
    rows = [
        {**of_all, "trait": trait, "row_seed": seed, "where": arm, "kl": kl, "specific": kl}
        for (arm, kl), trait, seed in product(arms.items(), ("owl", "cat"), (0, 1))
    ]
    evidence = Evidence(students(pd.DataFrame(rows)))
    assert set(evidence.traits().rows["where"]) == {"everywhere"}
    assert set(evidence.trained_at().rows["where"]) == set(arms)
    only = Evidence(students(pd.DataFrame([row for row in rows if row["where"] == "shared"])))
    assert set(only.traits().rows["where"]) == {"shared"}
