"""Rows that teachers of a study write: what is advised where too few pass."""

from __future__ import annotations

from dataclasses import fields

import pytest
from small_studies import R2, small_study

from sublim_mech import studies
from sublim_mech.instruments.command_words import in_commands
from sublim_mech.studies import Part, RowPlan


def test_a_failed_study_names_keys_that_it_has(base_folder, tmp_path):
    plan = RowPlan(count=4, held_out=1, numbers=3, max_new_tokens=4)
    part = Part(name="written", methods=[R2], labels=["sampled"])
    study = small_study(base_folder, part, rows=plan)
    with pytest.warns(UserWarning, match="tasks failed"):
        studies.run(study, tmp_path / "out", progress=False)
    reached = studies.status(study, tmp_path / "out")
    (told, *_) = [one["error"] for one in reached.failures]
    assert told.endswith(
        "the last one was cut off. Most were cut off: raise RowPlan(max_new_tokens=4), or lower "
        "one of RowPlan(numbers=3, temperature=1)."
    )
    assert "max_attempts" not in told
    assert {"max_new_tokens", "numbers", "temperature"} <= {one.name for one in fields(RowPlan)}
    commands = in_commands(told, {})
    assert commands.endswith(
        "raise [rows] max_new_tokens = 4, or lower one of [rows] numbers = 3, temperature = 1."
    )
