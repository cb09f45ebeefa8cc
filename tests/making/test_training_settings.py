"""Options of `train`: what they may be, in which words they are refused, which a manifest lists."""

import dataclasses

import pytest
from trainings import fit, settings_of

from sublim_mech.making import training
from sublim_mech.making.training.settings import Settings, log_spaced, snapshot_steps


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


def test_unknown_options_are_named_with_the_nearest():
    message = r"train has no option 'batchsize'; did you mean 'batch_size'"
    with pytest.raises(TypeError, match=message):
        training.train(None, None, out="x", batchsize=4)
