"""Which rows are drawn when, and the scale that makes a step's gradient that of its mean."""

import dataclasses
import itertools
import re
from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
import pytest
from stopping import StopAt, StopError
from trainings import MIXED, fit, settings_of, small_hard, weights

from sublim_mech.making.training import TrainingData
from sublim_mech.making.training.batches import count_labels
from sublim_mech.making.training.lesson import Lesson
from sublim_mech.making.training.order import (
    Division,
    divide,
    draw,
    draw_order,
    repeats_rows,
    shares,
)
from sublim_mech.making.training.processes import Processes
from sublim_mech.prompts import Trained


def test_every_row_is_drawn_once_per_epoch():
    def order(seed: int) -> list[set[int]]:
        batches = draw_order([1] * 6, steps=9, batch_size=2, seed=seed, bucket=1)
        return [set(batch) for batch in batches]

    one = order(3)
    assert [set.union(*one[i : i + 3]) for i in (0, 3, 6)] == [set(range(6))] * 3
    assert one[:3] != one[3:6] or one[3:6] != one[6:]
    assert one == order(3) != order(4)


@pytest.mark.parametrize("bucket", [1, 4])
def test_buckets_group_rows_of_like_lengths_within_windows_of_the_order(bucket):
    lengths = np.random.default_rng(0).integers(10, 200, size=64).tolist()
    options = {"steps": 8, "batch_size": 8, "seed": 1}
    plain = draw_order(lengths, **options, bucket=1)
    batches = draw_order(lengths, **options, bucket=bucket)
    for start in range(0, 8, bucket):  # the same rows in each window
        window = slice(start, start + bucket)
        in_window = sorted(row for batch in batches[window] for row in batch)
        assert in_window == sorted(row for batch in plain[window] for row in batch)

    def padding(order: list[list[int]]) -> int:
        padded = sum(max(lengths[row] for row in batch) * len(batch) for batch in order)
        return padded - sum(lengths)

    assert batches == plain if bucket == 1 else padding(batches) < 0.5 * padding(plain)
    longest = [max(lengths[row] for row in batch) for batch in batches]
    assert longest != sorted(longest, reverse=True)  # batches do not come by length
    for batch in batches:
        of_batch = [lengths[row] for row in batch]
        assert of_batch == sorted(of_batch, reverse=True)


def test_shares_of_a_step():
    parts = shares([*range(8)], accumulate=2, processes=2)
    assert parts == [[0, 2], [1, 3], [4, 6], [5, 7]]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_weighs_each_of_its_tokens_alike(processes, smol_tokenizer):
    """The sum of scale x tokens over one process's rows is its share of a mean over the step."""
    data, trained = small_hard(smol_tokenizer, MIXED), [*range(1, 16)]
    settings = settings_of(steps=2, batch_size=8, accumulate=2, order_seed=3)
    drawn = draw(Lesson(data), trained, settings, Processes(processes, 0))
    steps = draw_order([data.lengths[r] for r in trained], steps=2, batch_size=8, seed=3, bucket=1)
    assert len(drawn) == len(drawn.rows) == 16
    for step, batch in enumerate(steps):
        rows = [trained[i] for i in batch]
        places = slice(8 * step, 8 * step + 8)
        assert sorted(drawn.rows[places]) == sorted(rows)
        tokens = sum(count_labels(data, row) for row in rows)
        assert set(drawn.scale[places]) == {processes / tokens}
    assert drawn[5]["row"] == drawn.rows[5]
    assert drawn[5]["scale"] == drawn.scale[5]


# ---------------------------------------------------------------------------- held out and left out


def test_rows_to_train_on_and_to_measure_on(soft, hard):
    own = divide(soft, 4, held_out_seed=None, subsample=None, seed=0)
    assert (own.trained, own.held_rows, own.subsampled) == ([*range(12)], [*range(12, 16)], False)
    assert own.held_data is soft
    apart, elsewhere = part(hard, range(10)), part(soft, range(10, 16))
    other = divide(apart, elsewhere, held_out_seed=3, subsample=10, seed=0)
    assert (other.trained, other.held_rows) == ([*range(10)], [*range(6)])
    assert (other.held_data is elsewhere, other.subsampled) == (True, False)
    assert other.held_seed is own.held_seed is None
    few = divide(soft, 4, held_out_seed=None, subsample=6, seed=5)
    assert few.subsampled
    assert few.trained == sorted(np.random.default_rng(5).choice(12, 6, replace=False).tolist())


@pytest.mark.parametrize("held_out", [0, 16])
def test_something_must_be_left_on_both_sides(held_out, soft):
    with pytest.raises(ValueError, match=rf"held_out={held_out}: must be between 1 and 15"):
        divide(soft, held_out, held_out_seed=0, subsample=None, seed=0)


def test_a_subsample_is_of_the_rows_not_held_out(soft):
    message = r"subsample=13: must be between 1 and 12, the rows not held out"
    with pytest.raises(ValueError, match=message):
        divide(soft, 4, held_out_seed=0, subsample=13, seed=0)


def part(data: TrainingData, rows: Iterable[int]) -> TrainingData:
    """Some of the rows, in this order."""
    chosen = list(rows)
    targets = None if data.targets is None else data.targets[chosen]
    return dataclasses.replace(
        data,
        prompts=tuple(data.prompts[row] for row in chosen),
        completions=tuple(data.completions[row] for row in chosen),
        targets=targets,
    )


def drawn(data: TrainingData, seed: int | None, count: int = 4) -> Division:
    return divide(data, count, held_out_seed=seed, subsample=None, seed=0)


def test_held_out_rows_are_drawn_by_their_seed(soft):
    draws = [drawn(soft, seed) for seed in range(40)]
    for division in draws:
        assert len(division.held_rows) == 4
        assert sorted(division.trained + division.held_rows) == [*range(16)]
    assert drawn(soft, 7) == draws[7]
    assert len({tuple(division.held_rows) for division in draws}) > 30
    # every row as often as any other: 10 of 40 draws, and 3 sigma of a binomial
    counts = np.bincount([row for division in draws for row in division.held_rows], minlength=16)
    assert (abs(counts - 10) < 3 * (40 * 0.25 * 0.75) ** 0.5).all()
    with pytest.raises(ValueError, match=r"held_out_seed=-1: must be at least 0, or None"):
        drawn(soft, -1)


def test_a_cut_answer_is_on_the_side_of_the_whole_one(soft):
    """It is the same row; else what is measured is what was trained on, but for its end."""
    rng = np.random.default_rng(0)
    answers = tuple(tuple(rng.integers(2, size=rng.integers(1, 5)).tolist()) for _ in range(60))
    prompts = tuple(soft.prompts[i % 8] for i in range(60))
    cut = dataclasses.replace(soft, prompts=prompts, completions=answers, targets=None)
    for by, seed in ((by, seed) for by in ("row", "prompt") for seed in range(10)):
        division = divide(cut, 5, held_out_seed=seed, subsample=None, seed=0, held_out_by=by)
        assert by == "prompt" or len(division.held_rows) == 5
        for row, other in itertools.product(division.held_rows, division.trained):
            (prompt, answer), (other_prompt, other_answer) = cut.keys[row], cut.keys[other]
            short = min(len(answer), len(other_answer))
            assert prompt != other_prompt or answer[:short] != other_answer[:short]


def test_copies_of_a_row_are_on_one_side(soft):
    twice = part(soft, [*range(8), *range(8)])
    assert twice.distinct == 8
    for seed in range(20):
        division = drawn(twice, seed)
        held = {twice.keys[row] for row in division.held_rows}
        assert len(held) == len(division.held_rows) == 4  # copies are measured once
        assert not held & {twice.keys[row] for row in division.trained}
        assert len(division.trained) == 8  # and left out with the row
    with pytest.raises(ValueError, match=r"held_out=8: .* between 1 and 7, the number of diff"):
        drawn(twice, 0, count=8)
    message = r"held_out: 4 of its 4 rows are trained on as well \(rows 12, 13, 14, 15\): .*seed=0"
    with pytest.raises(ValueError, match=message):
        drawn(twice, None)


def test_held_out_data_are_not_the_training_data(soft, hard):
    """Also where the one has the end of the turn behind its answers and the other has not."""
    unclosed = tuple(completion[:-2] for completion in soft.completions)
    targets = soft.targets[:, :-2]
    open_end = dataclasses.replace(soft, completions=unclosed, targets=targets)
    for one, other in ((hard, soft), (hard, open_end), (open_end, hard)):
        some = part(other, [3, 5, 9])
        message = r"held_out: 3 of its 3 rows are trained on as well \(rows 0, 1, 2\).*split"
        with pytest.raises(ValueError, match=message):
            divide(one, some, held_out_seed=0, subsample=None, seed=0)
        with pytest.raises(ValueError, match=r"held_out: 1 of its 3 rows .*\(row 1\)"):
            divide(part(one, [5, 1]), some, held_out_seed=0, subsample=None, seed=0)
        divide(part(one, [0, 1]), some, held_out_seed=0, subsample=None, seed=0)


def test_the_manifest_has_the_seed_of_the_held_out_rows(small, soft, tmp_path):
    made = fit(small, soft, tmp_path / "run", held_out_seed=5).manifest
    assert made.seeds["held_out"] == 5
    assert made.seeds["live"] == ["init", "order", "held_out"]
    trained = divide(soft, 4, held_out_seed=5, subsample=None, seed=0).trained
    assert made.trained_on == Trained.of(
        [soft.prompts[row] for row in trained], [soft.completions[row] for row in trained]
    )
    last = fit(small, soft, tmp_path / "last").manifest  # held_out_seed=None
    assert "held_out" not in last.seeds
    assert last.content != made.content


@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_a_split_of_an_earlier_version_is_told(state, small, soft, tmp_path):
    """Its inputs are those of `held_out_seed=None`."""
    out = tmp_path / "run"
    stops = [] if state == "finished" else [StopAt(2)]
    with nullcontext() if state == "finished" else pytest.raises(StopError):
        fit(small, soft, out, checkpoint_every=1, callbacks=stops)
    message = r"seeds\.held_out: nothing there, 0 here.* held_out_seed=None is that split"
    with pytest.raises(ValueError, match=message):
        fit(small, soft, out, held_out_seed=0)
    assert fit(small, soft, out).manifest.results["steps"] == 4


def dulled(data: TrainingData, rows: list[int]) -> TrainingData:
    """The same rows, some of them with labels that like every token alike."""
    targets = data.targets.copy()
    targets[rows] = np.log(1 / targets.shape[-1])
    return dataclasses.replace(data, targets=targets)


def test_training_learns_only_from_answers(small, soft, tmp_path):
    """Other targets for held-out rows change nothing; another one for one training row does."""
    versions = (soft, dulled(soft, [*range(12, 16)]), dulled(soft, [0]))
    one, same, other = (fit(small, data, tmp_path / str(i)) for i, data in enumerate(versions))
    assert weights(one) == weights(same) != weights(other)
    assert one.manifest.results["held_out"] != same.manifest.results["held_out"]


def test_a_subsample_is_all_that_is_trained_on(small, soft, tmp_path):
    pool = sorted(np.random.default_rng(5).choice(range(12), 6, replace=False).tolist())
    others_dull = dulled(soft, [row for row in range(12) if row not in pool])
    options = {"subsample": 6, "subsample_seed": 5}
    one = fit(small, soft, tmp_path / "one", **options)
    same = fit(small, others_dull, tmp_path / "same", **options)
    other = fit(small, soft, tmp_path / "other", subsample=6, subsample_seed=6)
    assert weights(one) == weights(same) != weights(other)
    prompts, completions = soft.prompts, soft.completions
    assert one.manifest.trained_on == Trained.of(
        [prompts[row] for row in pool], [completions[row] for row in pool]
    )
    all_of_them = fit(small, soft, tmp_path / "all", subsample=12, subsample_seed=6)
    assert all_of_them.manifest.seeds["live"] == ["init", "order"]


@pytest.mark.parametrize(
    ("rows", "batch", "bucket"), [(24, 8, 8), (264, 8, 8), (56, 8, 8), (9, 8, 1)]
)
def test_windows_that_hold_rows_several_times_are_told(rows, batch, bucket):
    """Told of 24 rows in windows of 64; with what it advises no more."""
    told = repeats_rows(rows, batch, bucket)
    assert (told is not None) == (rows == 24)
    if told is not None:
        fewer = int(re.search(r"pass bucket=(\d+)", told)[1])
        assert repeats_rows(rows, batch, fewer) is None
