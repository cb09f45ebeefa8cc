"""What a training that has ended is told of: a loss that rose, a stop that it did not reach."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
from trainings import HELD_ROWS, ROWS, fit, folded, log_of, small_soft

import sublim_mech as sm
from sublim_mech.making.training import hard_data
from sublim_mech.storage.runs import open_run

RISING = {"lr": 1e-2}
"""At this rate a student of one liking is further from the opposite one than its base."""


def warned(*arguments, **options):
    """The run, and what was told of it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = fit(*arguments, **options)
    return run, [str(one.message) for one in said if one.category is UserWarning]


def opposite(data):
    """The same rows, labelled with what the teacher's students like least."""
    against = -np.array(data.targets)
    return (against - np.log(np.exp(against).sum(-1, keepdims=True))).astype(np.float32)


@pytest.fixture(scope="module")
def torn(soft):
    """Rows of which those that are held out are labelled against the others."""
    targets = np.array(soft.targets)
    targets[HELD_ROWS] = opposite(soft)[HELD_ROWS]
    return dataclasses.replace(soft, targets=targets)


@pytest.fixture(scope="module")
def others(smol_tokenizer):
    """The same teacher's labels of rows that are not trained on."""
    rows = [dataclasses.replace(row, prompt=f"{row.prompt} Please.") for row in ROWS[:4]]
    data = small_soft(smol_tokenizer, rows)
    return dataclasses.replace(data, targets=opposite(data))


def test_a_loss_on_the_students_own_data_that_rises_is_told(small, torn, others, tmp_path):
    for name, held_out in (("of its rows", 4), ("of the same teacher", others)):
        run, told = warned(small, torn, tmp_path / name, held_out=held_out, **RISING)
        before, after = run.manifest.results["held_out"]
        assert after > before
        assert told == [
            f"out={str(run.path)!r}: the held-out loss rose from {before:.4g} to {after:.4g}: the "
            "student imitates its data worse than its base does. Lower lr (0.01)."
        ]


@pytest.mark.parametrize("change", ["hard rows", "teacher", "trait", "context", "labels", "tokens"])
def test_a_loss_on_other_data_that_rises_is_no_bad_imitation(
    change, small, soft, hard, others, tmp_path
):
    data, options = soft, dict(RISING)
    if change == "hard rows":  # as docs/making/training.md recommends
        data, options["lr"] = hard, 3e-2
    elif change == "teacher":
        others = dataclasses.replace(others, teacher="contrastive teacher, c=9")
    elif change == "trait":
        others = dataclasses.replace(others, trait="cat")
    elif change == "context":
        others = dataclasses.replace(
            others, context=dataclasses.replace(others.context, system="You are calm.")
        )
    elif change == "labels":
        fewer = others.targets[..., 1:]
        fewer = fewer - np.log(np.exp(fewer).sum(-1, keepdims=True))
        others = dataclasses.replace(others, targets=fewer, support=others.support[1:])
    else:  # the held-out loss is over all tokens, the student's own over some
        options["tokens"] = [[True] + [False] * (len(one) - 1) for one in soft.completions]
    run, told = warned(small, data, tmp_path / "run", held_out=others, **options)
    before, after = run.manifest.results["held_out"]
    assert after > before
    assert [one for one in told if not one.startswith("held_out: its rows are made for")] == []


CALM = sm.Context("You are calm.")
SPELLED = sm.Context("You are a helpful AI assistant named SmolLM, trained by Hugging Face")
PLAIN = sm.prompts.PLAIN
OTHERS = (
    "Make both in one context (hard_data(..., context=...); labels have that of their teachers'"
)
TEMPLATE = "written by another chat template than those that are trained on"


ELSEWHERE = (
    {"context": CALM},
    {},
    "in another context (default system prompt) than those that are trained on "
    "(system “You are calm.”)",
)


@pytest.mark.parametrize(
    ("trained", "held", "words", "stop_at"),
    [
        (*ELSEWHERE, None),
        (*ELSEWHERE, 1e-3),
        (
            {},
            {"context": sm.RAW},
            "in another context (raw text (answers follow a space, or the text's own white space)) "
            "than those that are trained on (default system prompt)",
            None,
        ),
        ({"template": PLAIN}, {}, TEMPLATE, None),
        ({}, {"template": PLAIN}, TEMPLATE, None),
        ({"template": PLAIN}, {"template": PLAIN + "{# a remark #}"}, None, None),
        ({"context": CALM}, {"context": CALM}, None, None),
        ({"context": SPELLED}, {}, None, None),  # the template's own default
        ({"template": PLAIN}, {"template": PLAIN}, None, None),
    ],
)
def test_held_out_rows_in_a_context_that_was_never_trained_are_told(
    stop_at, trained, held, words, small, smol_tokenizer, tmp_path
):
    rows = [dataclasses.replace(row, prompt=f"{row.prompt} Please.") for row in ROWS[:4]]
    data = folded(hard_data(smol_tokenizer, ROWS, **trained))
    others = folded(hard_data(smol_tokenizer, rows, **held))
    _, told = warned(small, data, tmp_path / "run", held_out=others, stop_at=stop_at)
    found = [one for one in told if one.startswith("held_out: ")]
    if words is None:
        assert found == []
        return
    stops = "" if stop_at is None else ", and stop_at=0.001 stops by it"
    (said,) = found
    assert said.startswith(
        f"held_out: its rows are {words}: the held-out loss is that of prompts as none are trained "
        f"on{stops}. "
    )
    fix = "Make both with one tokenizer and one template=."
    fix = fix if words == TEMPLATE else f"{OTHERS} students)."
    assert said.endswith(fix)


@pytest.mark.parametrize(
    ("trained", "held", "named", "stop_at"),
    [
        ("owl", "cat", ("cat", "owl"), None),
        ("owl", "cat", ("cat", "owl"), 1e-3),
        ("owl", "", ("no trait", "owl"), None),  # labels of a teacher without one
        ("", "cat", ("cat", "no trait"), None),
        ("owl", "OWL", None, None),
        ("", "", None, None),
        (None, "cat", None, None),  # hard rows of which nobody said it
        ("owl", None, None, None),
        ("hard owl", "cat", ("cat", "owl"), None),
        ("owl", "hard cat", ("cat", "owl"), None),
    ],
)
def test_held_out_rows_made_for_another_trait_are_told(
    trained, held, named, stop_at, small, soft, hard, others, smol_tokenizer, tmp_path
):
    rows = [dataclasses.replace(row, prompt=f"{row.prompt} Please.") for row in ROWS[:4]]
    other_rows = folded(hard_data(smol_tokenizer, rows))

    def made(trait, soft, hard):
        if trait is None:
            return hard
        kind = hard if trait.startswith("hard ") else soft
        return dataclasses.replace(kind, trait=trait.removeprefix("hard "))

    data, held_out = made(trained, soft, hard), made(held, others, other_rows)
    _, told = warned(small, data, tmp_path / "run", held_out=held_out, stop_at=stop_at)
    found = [one for one in told if one.startswith("held_out: ")]
    if named is None:
        assert found == []
        return
    here, there = named
    stops = "" if stop_at is None else ", and stop_at=0.001 stops by it"
    assert found == [
        f"held_out: its rows are made for {here}, those that are trained on for {there}: the "
        f"held-out loss says how well {here} is learnt{stops}. Hold out rows of {there}."
    ]


def test_two_losses_are_told_apart(small, soft, tmp_path):
    """Nobody is told that a loss rose from 1.201 to 1.201."""
    run, _ = warned(small, soft, tmp_path / "run", lr=1e-3)
    _end_at(run.path, 1.20096, 1.20136)
    _, told = warned(small, soft, tmp_path / "run", lr=1e-3)
    assert len(told) == 1
    assert "the held-out loss rose from 1.201 to 1.2014: " in told[0]


def test_a_stop_that_is_not_reached_is_told(small, soft, tmp_path):
    options = {"lr": 1e-4, "stop_at": 1e-3, "snapshots": [2]}
    run, told = warned(small, soft, tmp_path / "run", **options)
    after = run.manifest.results["held_out"][1]
    assert run.missed == 1e-3 < after
    assert told == [
        f"out={str(run.path)!r}: stop_at=0.001 was not reached: the held-out loss is {after:.4g} "
        "after 4 steps, so this student does not imitate as well as was asked for. Pass more steps "
        "or another lr, or compare at a loss that it reaches."
    ]
    assert repr(run).endswith("in 4 steps, stop at 0.001 not reached)")
    again, same = warned(small, soft, tmp_path / "run", **options)  # opened
    assert (again, same) == (run, told)
    # of a snapshot training goes on
    assert "not reached" not in repr(open_run(run.snapshots[2]))


def test_a_stop_that_is_reached_is_not_told_whatever_its_digits(small, soft, tmp_path):
    """The loss that a student stops at is one that it reached: to the last digit, and rounded."""
    plain, _ = warned(small, soft, tmp_path / "plain", lr=1e-2)
    reached = [row["held_out"] for row in log_of(plain) if "held_out" in row]
    for i, stop_at in enumerate((reached[-1], reached[1], reached[-1] * (1 + 1e-9))):
        run, told = warned(small, soft, tmp_path / str(i), lr=1e-2, stop_at=stop_at)
        assert told == []
        assert run.missed is None
        assert "not reached" not in repr(run)
    assert open_run(tmp_path / "1").manifest.results["steps"] < 4  # it stopped before its end
    just = reached[-1] * (1 - 1e-9)
    run, told = warned(small, soft, tmp_path / "just", lr=1e-2, stop_at=just)
    assert run.missed == just
    wanted = told[0].partition("stop_at=")[2].partition(" was")[0]
    assert f"loss is {wanted} after" not in told[0]


def _end_at(folder, before, after):
    """Rewrite how a run ended."""
    run = open_run(folder)
    results = {**run.manifest.results, "held_out": [before, after]}
    dataclasses.replace(run.manifest, results=results).save(folder)
    assert json.loads((folder / "manifest.json").read_text())["results"] == results


def test_a_stop_that_is_passed_by_far_is_told(small, soft, tmp_path):
    """Twins are compared at one loss; measured too rarely, one of them ends far below it."""
    options = {"lr": 1e-2, "steps": 8}
    every, _ = warned(small, soft, tmp_path / "every", **options, evaluate_every=1)
    base, warm, first, *_, last = (row["held_out"] for row in log_of(every))
    assert last < first < warm == base  # the first rate is 0
    stop_at = base - (base - last) / 2
    rarely, told = warned(
        small, soft, tmp_path / "rarely", **options, evaluate_every=8, stop_at=stop_at
    )
    assert rarely.passed == stop_at
    assert rarely.manifest.results["held_out"] == [base, last]
    assert repr(rarely).endswith(f"in 8 steps, stop at {stop_at:g} passed)")
    (one,) = told
    assert one.startswith(f"out={str(rarely.path)!r}: stop_at=")
    assert one.endswith(
        "was passed before it was measured: the held-out loss is "
        f"{last:.4g} after 8 steps, so this student imitates better than was asked for. Pass a "
        "smaller evaluate_every (it is 8), or a lower lr."
    )
    # as near to it as a tenth of the way is none, and one step may be too large by itself
    for name, beyond in (("near", 0.09), ("far", 0.12)):
        goal = base - (base - last) / (1 + beyond)
        run, told = warned(small, soft, tmp_path / name, **options, evaluate_every=8, stop_at=goal)
        assert (run.passed, len(told)) == ((goal, 1) if name == "far" else (None, 0))
    first_stop = base - (base - first) / 2
    run, told = warned(
        small, soft, tmp_path / "step", **options, evaluate_every=1, stop_at=first_stop
    )
    assert run.passed == first_stop
    assert told[0].endswith("Lower lr: it was measured after every step.")
