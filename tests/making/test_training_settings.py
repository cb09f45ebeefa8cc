"""Options of `train`: what they may be, in which words they are refused, which a manifest lists."""

import dataclasses
import os

import pytest
import torch
from trainings import fit, settings_of

from sublim_mech.making import training
from sublim_mech.making.training.settings import Settings, log_spaced, snapshot_steps, step_count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, r"steps=0: must be at least 1"),
        ({"batch_size": 0}, r"batch_size=0: must be at least 1"),
        ({"accumulate": 0}, r"accumulate=0: must be at least 1"),
        ({"bucket": 0}, r"bucket=0: must be at least 1"),
        ({"evaluate_every": 0}, r"evaluate_every=0: must be at least 1"),
        ({"warmup": -1}, r"warmup=-1: must be at least 0"),
        ({"checkpoint_every": -1}, r"checkpoint_every=-1: must be at least 0"),
        ({"lr": 0.0}, r"lr=0\.0: must be above 0\."),
        ({"lr": float("nan")}, r"lr=nan: must be above 0\."),
        ({"clip": 0.0}, r"clip=0\.0: must be above 0, or None for no clipping"),
        ({"weight_decay": -1.0}, r"weight_decay=-1\.0: must not be below 0"),
        (
            {"schedule": "linaer"},
            r"schedule='linaer' is none of linear, cosine, constant; did you mean 'linear'\?",
        ),
        ({"precision": "fp8"}, r"precision='fp8': pass 'bf16' or 'fp32'"),
        ({"snapshots": (2, 9)}, r"snapshots=\[2, 9\]: steps \[9\] are not among the 4 steps"),
        ({"warmup": 4}, r"warmup=4: must be below the 4 steps .* 0\.00075 at most .*=0\.001; pass"),
        ({"warmup": 1, "steps": 1}, r"warmup=1: must be below the 1 step of .* reach 0 at most"),
        (
            {"stop_at": float("nan")},
            r"stop_at=nan: pass a held-out loss, which is not below 0",
        ),
        ({"lr": float("inf")}, r"lr=inf: must be above 0\."),
        ({"store": torch.int8}, r"store=torch\.int8: weights are stored in one of torch\.float32"),
        ({"order_seed": -1}, r"order_seed=-1: must be at least 0"),
        ({"snapshots": (0,)}, r"snapshots=\[0\]: steps \[0\] are not among the 4 steps"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        settings_of(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 0}, r"held_out=0: must be between 1 and 15"),
        ({"subsample": 13}, r"subsample=13: must be between 1 and 12, the rows not held out"),
        ({"steps": 0}, r"steps=0: must be at least 1"),
        ({"lr": 0.0}, r"lr=0\.0: must be above 0\."),
        ({"accumulate": 3}, r"batch_size=4: must be a multiple of accumulate=3 x 1 processes"),
        ({"snapshots": [9, 2]}, r"snapshots=\[2, 9\]: steps \[9\] are not among the 4 steps"),
        ({"snapshots": "lin"}, r"snapshots='lin' is none of log"),
        (
            {"objective": "forward_kl"},
            r"objective='forward_kl' is none of .*did you mean 'forward-kl'",
        ),
        (
            {"objective": "cross-entropy"},
            r"objective='cross-entropy' does not fit data with soft labels; pass one of forward-kl",
        ),
    ],
)
def test_a_training_with_wrong_options_leaves_nothing(options, message, small, soft, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(small, soft, tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_step_is_shared_out_equally():
    settings = settings_of(batch_size=8, accumulate=2)
    assert settings.rows_per_forward == 4
    settings.check_processes(4)
    message = r"batch_size=8: must be a multiple of accumulate=2 x 3 processes"
    with pytest.raises(ValueError, match=message):
        settings.check_processes(3)


def test_snapshots_are_ascending_steps_or_log():
    assert log_spaced(6) == snapshot_steps("log", 6) == (1, 2, 4)
    assert (log_spaced(1), log_spaced(2), log_spaced(8)) == ((), (1,), (1, 2, 4))
    assert snapshot_steps([3, 1, 3], 6) == (1, 3)


def test_a_manifest_lists_what_leaves_a_trace_in_the_result():
    """All but what it lists elsewhere, and how often a checkpoint is written."""
    settings = settings_of(snapshots=(2, 4))
    options = {field.name for field in dataclasses.fields(Settings)}
    elsewhere = {"init_seed", "order_seed", "subsample_seed", "subsample", "store"}
    recorded = settings.recorded()
    assert set(recorded) == options - elsewhere - {"checkpoint_every"}
    for name, value in recorded.items():
        expected = getattr(settings, name)
        assert value == (list(expected) if name == "snapshots" else expected)


@pytest.mark.parametrize(
    ("epochs", "rows", "batch_size", "steps"),
    [(1, 240, 8, 30), (1, 241, 8, 31), (0.1, 240, 8, 3), (2.5, 6, 4, 4), (1e-9, 6, 4, 1)],
)
def test_epochs_draw_every_row_so_often_and_no_step_more(epochs, rows, batch_size, steps):
    assert step_count(None, epochs, rows=rows, batch_size=batch_size) == steps


@pytest.mark.parametrize("epochs", [0, -1.0, float("nan"), float("inf")])
def test_epochs_out_of_range(epochs):
    with pytest.raises(ValueError, match=rf"epochs={epochs}: must be above 0"):
        step_count(None, epochs, rows=4, batch_size=2)
    assert step_count(None, None, rows=4, batch_size=2) == 60


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("learning_rate", "'lr'"),
        ("num_train_epochs", "'epochs'"),
        ("per_device_train_batch_size", "'batch_size'"),
        ("max_steps", "'steps'"),
        ("warmup_steps", "'warmup'"),
        ("seed", "'init_seed' or 'order_seed' or 'subsample_seed' or 'held_out_seed'"),
    ],
)
def test_options_of_other_trainers_are_told_ours(theirs, ours):
    with pytest.raises(TypeError, match=rf"has no option '{theirs}'; did you mean {ours}\?"):
        training.train(None, None, out="x", **{theirs: 1})
    with pytest.raises(TypeError, match=r"has no option 'lora_alpha'; did you mean 'alpha'\?"):
        training.LoRA(lora_alpha=8)


def test_a_place_that_cannot_be_written_is_told_before_training(small, soft, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match=r"out='.*run': '.*file' is a file; choose another"):
        fit(small, soft, tmp_path / "file" / "runs" / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"out='.*run': '.*' cannot be written to"):
        fit(small, soft, tmp_path / "new" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_callbacks_are_looked_at_before_the_first_step(small, soft, tmp_path):
    with pytest.raises(TypeError, match=r"callbacks\[0\] is 'nobody'; pass instances of transf"):
        fit(small, soft, tmp_path / "run", callbacks=["nobody"])
    assert list(tmp_path.iterdir()) == []


def test_unknown_options_are_named_with_the_nearest():
    message = r"train has no option 'batchsize'; did you mean 'batch_size'"
    with pytest.raises(TypeError, match=message):
        training.train(None, None, out="x", batchsize=4)
