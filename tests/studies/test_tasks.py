"""Addresses: everything that decides a thing moves its hash, and nothing else does."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from small_studies import CONTEXTS, FULL, R2, small_study

import sublim_mech as sm
from sublim_mech.studies import Method, Part, Tasks, laptop, rank_sweep
from sublim_mech.studies.addresses import decisive
from sublim_mech.studies.options import Asking, Computing, RowPlan, Training


def addresses(study):
    """Per stage, the addresses of all tasks."""
    found: dict[str, set[str]] = {}
    for task in Tasks(study).ordered:
        found.setdefault(task.stage, set()).add(task.address)
    return found


def scored(**options):
    return Part(**{"name": "p", "methods": [R2], "scores": ("graft", "graft_ig"), **options})


STUDY = small_study("base", scored())
ALL = ("labels", "students", "answers", "scores", "rows")


def changed(**changes):
    return dataclasses.replace(STUDY, **changes)


def other(part=None, **options):
    return changed(parts=[scored(**options)])


ASKING = STUDY.asking
MOVED = {  # a change -> the stages whose tasks are all others
    "base": (changed(base="other"), ALL),
    "threads": (changed(computing=Computing(threads=2)), ALL),
    "dtype": (changed(computing=Computing(dtype="bfloat16")), ALL),
    "rows": (changed(rows=RowPlan(count=13, held_out=4, numbers=3)), ("labels", "students")),
    "held out": (changed(rows=RowPlan(count=12, held_out=5, numbers=3)), ("students",)),
    "row seed": (other(row_seeds=[7]), ("labels", "students")),
    "training seed": (other(training_seeds=[7]), ("students", "scores", "rows")),
    "training": (changed(training=Training(batch_size=4)), ("students", "scores", "rows")),
    "rank": (other(methods=[dataclasses.replace(R2, ranks=[4])]), ("students", "scores", "rows")),
    "rate": (other(methods=[dataclasses.replace(R2, lrs=[1e-4])]), ("students", "rows")),
    "labels": (other(labels=[2.0]), ("students", "scores", "rows")),
    "plain": (other(labels=["plain"]), ("students", "scores", "rows")),
    "trained in": (other(trained_in=["bare"]), ("labels", "students", "scores", "rows")),
    "asked in": (other(evaluated_in=["bare"]), ("answers", "scores", "rows")),
    "questions": (
        changed(asking=dataclasses.replace(ASKING, questions=("Now?", "Then?"))),
        ("answers", "scores", "rows"),
    ),
    "samples": (changed(asking=dataclasses.replace(ASKING, samples=2)), ("answers", "rows")),
    "scored": (changed(asking=dataclasses.replace(ASKING, scored=5)), ("scores", "rows")),
    "shared": (changed(asking=dataclasses.replace(ASKING, shared=["prefix"])), ("rows",)),
    "teachers": (
        changed(traits=[*STUDY.traits[:2], sm.animal("wolf")]),
        ("labels", "students", "answers", "scores", "rows"),
    ),
}


@pytest.mark.parametrize("name", MOVED)
def test_what_decides_a_thing_moves_its_address(name):
    study, stages = MOVED[name]
    before, after = addresses(STUDY), addresses(study)
    assert len(after["rows"]) == len(before["rows"])
    for stage in ALL:
        if stage in stages:
            assert not before[stage] & after[stage], stage


KEPT = {  # a change -> the stages that do not notice
    "name": (changed(name="another"), ALL),
    "part": (other(name="q"), ALL),
    "context's name": (
        changed(
            contexts={"d": CONTEXTS["default"], "bare": CONTEXTS["bare"]},
            parts=[scored(trained_in=["d"], evaluated_in=["d"])],
        ),
        ("labels", "students", "answers", "scores"),
    ),
    "method's name": (
        other(methods=[dataclasses.replace(R2, name="two")]),
        ("labels", "students", "answers", "scores"),
    ),
    "asked": (changed(asking=dataclasses.replace(ASKING, scored=5)), ("labels", "students")),
    "points": (changed(asking=dataclasses.replace(ASKING, points=3)), ("labels", "answers")),
    "sampling that is not done": (
        changed(asking=dataclasses.replace(ASKING, temperature=0.5, seed=3)), ALL,
    ),
    "training": (changed(training=Training(batch_size=4)), ("labels",)),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_what_does_not_decide_it_does_not(name):
    study, stages = KEPT[name]
    before, after = addresses(STUDY), addresses(study)
    for stage in stages:
        assert before[stage] == after[stage], stage


def test_one_base_level_per_context_and_labels_per_seed_and_context_serve_all():
    part = scored(
        methods=[R2, FULL],
        row_seeds=[0, 1, 2],
        training_seeds=[0, 1],
        trained_in=["default", "bare"],
        evaluated_in=["default", "bare"],
    )
    tasks = Tasks(small_study("base", part))
    seeds, trainings, contexts, methods, traits, asked = 3, 2, 2, 2, 2, 2
    students = seeds * trainings * contexts * methods * traits
    assert Counter(task.stage for task in tasks.ordered) == {
        "labels": seeds * contexts,
        "students": students,
        "answers": asked * (students + 1),
        "scores": 2 * asked * students,
        "rows": asked * students,
    }
    assert len(tasks.runs) == asked * students


def test_needs_come_first_and_everything_once():
    part = scored(methods=[R2, FULL], row_seeds=[0, 1], evaluated_in=["default", "bare"])
    more = Part(name="more", methods=[R2], row_seeds=[1, 2])
    tasks = Tasks(small_study("base", part, more))
    seen: set[str] = set()
    for task in tasks.ordered:
        assert task.address not in seen
        assert {need.address for need in task.needs} <= seen
        seen.add(task.address)
    # the runs of a part are ended before those of the next one begin
    last = {run.cell.part: i for i, run in enumerate(tasks.runs)}
    first = [run.cell.part for run in tasks.runs].index("more")
    assert last["p"] < first


def test_a_twin_decides_the_student_that_stops_with_it():
    one = addresses(small_study("base", Part(name="p", methods=[R2, FULL])))
    slower = dataclasses.replace(R2, lrs=[1e-4])
    two = addresses(small_study("base", Part(name="p", methods=[slower, FULL])))
    assert not one["students"] & two["students"]
    alone = dataclasses.replace(FULL, stop_with="")
    assert len(addresses(small_study("base", Part(name="p", methods=[alone])))["students"]) == 2


def test_two_cells_of_one_hash_are_named():
    same = [Method(name="", ranks=[2]), Method(name="r2", ranks=[2])]
    with pytest.raises(ValueError, match="two cells of one hash"):
        Tasks(small_study("base", Part(name="p", methods=same)))


def test_training_and_asking_at_their_defaults_are_those_of_the_recipe():
    assert (Training().batch_size, RowPlan().count, RowPlan().held_out) == (8, 264, 24)
    assert (Method().steps, Method().ranks, Method().alpha) == (60, (8,), 32.0)
    assert Asking().samples == 0


def test_addresses_of_earlier_versions_are_still_found():
    """Results of hours stand under them: a new option must leave them as they are."""
    tasks = Tasks(laptop())
    scored = [run for run in tasks.runs if run.cell.part == "headline, more seeds, scored"]
    ends = tasks.runs[0].task.address, scored[-1].task.address
    assert ends == ("f1e5309059be6bb38c8c6c31", "b502f5b688e010186a814d12")
    assert tasks.ordered[1].file == "labels/c9d2198ab03de1750a613a79"
    assert Tasks(rank_sweep()).runs[-1].task.address == "caf3aaad642d72962f68e4fc"


def test_an_option_that_is_new_decides_where_it_is_not_at_its_default():
    @dataclasses.dataclass
    class Options:
        rank: int = 8
        new: float = 0.5

    assert decisive(Options(), ["rank"]) == {"rank": 8}
    assert decisive(Options(new=1.0), ["rank"]) == {"rank": 8, "new": 1.0}
