"""The loop is plain AdamW on the step's mean, and measures, stops, stores and logs as it says."""

import dataclasses
import functools
import math
import os
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from comparing import distance, own_logits, snapshot
from peft import PeftModel
from trainings import (
    FEW,
    HELD_OUT,
    HELD_ROWS,
    MIXED,
    fit,
    labelled,
    load_small,
    log_of,
    plain_kl,
    plain_logits,
    plain_loss,
    small_base,
    small_hard,
    small_model,
    tensors,
    weights,
)
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback

from sublim_mech.engine.pair import load_pair
from sublim_mech.making.training import FullFT, LoRA, TrainingData
from sublim_mech.making.training.loop import Loop
from sublim_mech.making.training.order import draw_order
from sublim_mech.models.students import load_student
from sublim_mech.prompts.shared import digests_of, parted
from sublim_mech.storage.runs import open_run


@pytest.fixture(scope="module")
def mixed(smol_tokenizer) -> TrainingData:
    """Rows of several lengths with random labels over a few tokens."""
    return labelled(small_hard(smol_tokenizer, MIXED), "listed")


# ---------------------------------------------------------------------------------------- the steps


def learning_rate(step: int) -> float:
    """Two steps of warm-up, then half a cosine over three, as a share of the peak."""
    return step / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 3))


def plain_training(model: Any, data: TrainingData) -> list[float]:
    """Five steps in plain torch on unpadded rows; the norms of their gradients."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    without_decay = {name for name in named if re.search(r"norm|bias|ln_", name)}
    optimiser = torch.optim.AdamW(
        [
            {"params": [named[n] for n in named if n not in without_decay], "weight_decay": 0.1},
            {"params": [named[n] for n in named if n in without_decay], "weight_decay": 0.0},
        ],
        lr=3e-3,
    )
    norms = []
    order = draw_order(data.lengths[:-HELD_OUT], steps=5, batch_size=4, seed=0, bucket=2)
    for step, batch in enumerate(order):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * learning_rate(step)
        terms = []
        for row in batch:
            prompt, completion = data.prompts[row].ids, data.completions[row]
            logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0]
            z = logits[len(prompt) - 1 : -1][:, list(data.support)]  # (token, outcome)
            t = torch.from_numpy(data.targets[row, : len(z)])
            terms += [plain_loss("forward-kl", z[i], t[i]) for i in range(len(z))]
        optimiser.zero_grad()
        torch.stack(terms).mean().backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(named.values(), 0.1)))
        optimiser.step()
    return norms


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()])
def test_the_loop_is_plain_adamw_with_warmup_decay_and_clipping(
    method, architecture, mixed, smol_tokenizer, tmp_path
):
    base = small_base(smol_tokenizer, architecture, dropout=False)
    options = {"lr": 3e-3, "steps": 5, "warmup": 2, "clip": 0.1, "weight_decay": 0.1}
    run = fit(base, mixed, tmp_path / "run", method=method, **options, schedule="cosine", bucket=2)
    torch.manual_seed(0)
    model = method.attach(base)
    norms = plain_training(model, mixed)
    assert max(norms) > 0.1
    assert [row["grad_norm"] for row in log_of(run)[1:]] == pytest.approx(norms, rel=1e-3)
    stored = tensors(run.path)
    named = {name.replace(".default", ""): p for name, p in model.named_parameters()}
    learnt = {name: p for name, p in named.items() if p.requires_grad}
    assert learnt.keys() == stored.keys()
    for name, parameter in learnt.items():
        assert torch.allclose(stored[name], parameter, atol=2e-5), name


@pytest.mark.parametrize(
    "options", [{"accumulate": 2}, {"accumulate": 4}, {"gradient_checkpointing": True}], ids=str
)
@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()])
def test_memory_savers_change_no_gradient(method, options, small, mixed, tmp_path):
    """Rows of different lengths: a mean of the forwards' means would be another gradient."""
    plain = fit(small, mixed, tmp_path / "plain", method=method, lr=1e-3)
    saving = fit(small, mixed, tmp_path / "saving", method=method, lr=1e-3, **options)
    one, other = tensors(plain.path), tensors(saving.path)
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 2e-6
    for row, same in zip(log_of(plain), log_of(saving), strict=True):
        assert row == pytest.approx(same, rel=1e-4)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0, 0.5, 1, 2 / 3, 1 / 3]),
        ("constant", [0, 0.5, 1, 1, 1]),
        ("cosine", [0, 0.5, 1, 0.75, 0.25]),
    ],
)
def test_schedules(schedule, expected, small, hard, tmp_path):
    run = fit(small, hard, tmp_path / "run", schedule=schedule, lr=1e-2, steps=5, warmup=2)
    rates = [row["lr"] for row in log_of(run)[1:]]
    assert rates == pytest.approx([1e-2 * share for share in expected])


SEEDS = {
    "lora": ("llama", LoRA(rank=2)),
    "lora with dropout": ("llama", LoRA(rank=2, dropout=0.2)),
    "full": ("llama", FullFT()),
    "full with dropout": ("gpt2", FullFT()),
}


@pytest.mark.parametrize("name", SEEDS)
def test_a_seed_is_live_exactly_where_it_changes_the_weights(name, hard, smol_tokenizer, tmp_path):
    architecture, method = SEEDS[name]
    base = small_base(smol_tokenizer, architecture)
    run = functools.partial(fit, base, hard, method=method, steps=2, batch_size=2)
    torch.manual_seed(0)
    one = run(tmp_path / "one")
    torch.manual_seed(99)  # the caller's generator plays no part
    same = run(tmp_path / "same")
    init = run(tmp_path / "init", init_seed=1)
    order = run(tmp_path / "order", order_seed=1)
    assert weights(same) == weights(one)

    seeds = one.manifest.seeds
    assert seeds == {"init": 0, "order": 0, "subsample": 0, "live": seeds["live"]}
    assert init.manifest.seeds["init"] == order.manifest.seeds["order"] == 1
    others = {"init": init, "order": order}
    changed = {seed: weights(other) != weights(one) for seed, other in others.items()}
    assert changed == {seed: seed in seeds["live"] for seed in others}
    assert changed == {"init": name != "full", "order": True}


def generators() -> tuple[Any, ...]:
    """The state of every generator."""
    name, keys, *rest = np.random.get_state()
    return random.getstate(), (name, keys.tolist(), *rest), torch.get_rng_state().tolist()


@pytest.mark.parametrize("lr", [1e-3, 1e30])
def test_the_callers_random_state_is_given_back(lr, small, hard, tmp_path):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = generators()
    if lr < 1:
        fit(small, hard, tmp_path / "run", lr=lr, method=LoRA(dropout=0.1))
    else:
        with pytest.raises(ValueError, match=r"became (nan|inf)"):
            fit(small, hard, tmp_path / "run", lr=lr)
    assert generators() == before


@pytest.mark.parametrize("method", [LoRA(dropout=0.1), FullFT()])
def test_the_base_is_untouched(method, hard, smol_tokenizer, tmp_path):
    model = small_model().train()
    base = load_small(model, smol_tokenizer)
    before, loaded = snapshot(model), snapshot(base.model)
    fit(base, hard, tmp_path / "run", method=method, lr=1e-2)
    assert snapshot(model) == before
    assert snapshot(base.model) == loaded
    parameters = list(base.model.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in parameters)


# ---------------------------------------------------------------------------------------- measuring


def test_held_out_loss_falls_and_is_the_trained_models(either_run, tiny_llama, taught):
    before, after = either_run.manifest.results["held_out"]
    student = load_student(tiny_llama, either_run.path).model
    assert before == pytest.approx(plain_kl(taught, tiny_llama.model, HELD_ROWS), abs=1e-5)
    assert after == pytest.approx(plain_kl(taught, student, HELD_ROWS), abs=1e-5)
    assert after < 0.5 * before


def test_held_out_loss_is_taken_without_dropout(small, soft, tmp_path):
    run = fit(small, soft, tmp_path / "run", method=LoRA(rank=4, dropout=0.5), lr=1e-2)
    stored = plain_kl(soft, load_student(small, run.path).model, HELD_ROWS)
    assert run.manifest.results["held_out"][1] == pytest.approx(stored, abs=1e-6)


@pytest.mark.parametrize("method", [LoRA(rank=4), FullFT()])
def test_hard_rows_are_learnt(method, small, hard, tmp_path):
    options = {"lr": 1e-2, "steps": 8, "precision": "bf16"}
    run = fit(small, hard, tmp_path / "run", method=method, **options)
    before, after = run.manifest.results["held_out"]
    assert before == pytest.approx(math.log(FEW), abs=1)
    assert after < before - 0.1
    assert run.manifest.objective == "cross-entropy on completion"
    assert run.manifest.data["support"] is None


@pytest.mark.parametrize(
    ("objective", "words"), [("reverse-kl", "reverse KL"), ("logit-mse", "logit MSE")]
)
def test_other_objectives_are_measured_by_the_same_held_out_kl(
    objective, words, small, soft, tmp_path
):
    options = {"objective": objective, "lr": 1e-2, "steps": 8}
    run = fit(small, soft, tmp_path / "run", method=LoRA(rank=4), **options)
    before, after = run.manifest.results["held_out"]
    student = load_student(small, run.path).model
    assert after == pytest.approx(plain_kl(soft, student, HELD_ROWS), abs=1e-5)
    assert after < before
    assert run.manifest.objective.startswith(words)
    assert run.manifest.results["measure"] == "forward KL on support, nats per token"


def test_held_out_data_of_its_own(small, soft, hard, tmp_path):
    """A student of hard rows, measured by its KL from a teacher on other rows."""
    first, last = slice(10), slice(10, 16)
    cut = {"prompts": hard.prompts[first], "completions": hard.completions[first]}
    trained = dataclasses.replace(hard, **cut)
    cut = {"prompts": soft.prompts[last], "completions": soft.completions[last]}
    measured = dataclasses.replace(soft, **cut, targets=soft.targets[last])
    base_kl = plain_kl(measured, small.model, list(range(6)))
    options = {"held_out": measured, "subsample": 8, "subsample_seed": 3}
    options |= {"method": LoRA(rank=4), "lr": 1e-4}
    run = fit(small, trained, tmp_path / "run", **options)
    student = load_student(small, run.path).model
    expected = plain_kl(measured, student, list(range(6)))
    assert run.manifest.results["held_out"] == pytest.approx([base_kl, expected], abs=1e-5)
    assert run.manifest.data["held_out"] == 6
    assert run.manifest.data["held_out_hash"] == measured.hash
    assert run.manifest.data["subsample"] == 8
    assert run.manifest.seeds["live"] == ["init", "order", "subsample"]


def test_training_stops_at_a_held_out_loss(small, soft, tmp_path):
    options = {"method": LoRA(rank=4), "lr": 1e-2, "steps": 12, "evaluate_every": 5}
    free = log_of(fit(small, soft, tmp_path / "free", **options))
    losses = [row["held_out"] for row in free if "held_out" in row]
    assert losses[2] < losses[1]
    goal = (losses[1] + losses[2]) / 2  # between the evaluations after 5 and after 10 steps
    run = fit(small, soft, tmp_path / "run", **options, stop_at=goal)
    assert run.manifest.results["steps"] == 10
    assert run.manifest.results["held_out"] == [losses[0], losses[2]]
    assert run.manifest.optimiser["stop_at"] == goal
    assert log_of(run) == free[:11]  # the schedule is that of all 12 steps


def test_the_log_has_a_row_per_step(lora_run):
    rows = log_of(lora_run)
    assert [row["step"] for row in rows] == list(range(13))
    assert [row["step"] for row in rows if "held_out" in row] == [0, 5, 10, 12]
    assert ["loss" in row for row in rows] == [False, *[True] * 12]
    losses = [row["held_out"] for row in rows if "held_out" in row]
    results = dict(lora_run.manifest.results)
    assert len(results.pop("rows_hash")) == 64
    assert len(parted(results.pop("row_digests"))) == 12
    assert results == {
        "held_out": [losses[0], losses[-1]],
        "steps": 12,
        "epochs": 4.0,
        "rows": 12,
        "distinct_rows": 12,
        "cut": 0,
        "moved": True,
        "largest_grad_norm": max(row["grad_norm"] for row in rows[1:]),
        "measure": "forward KL on support, nats per token",
        "processes": [[0, 1]],
    }
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_a_loss_that_the_base_has_already_stops_nothing(small, soft, tmp_path):
    base_kl = plain_kl(soft, small.model, HELD_ROWS)
    message = r"stop_at=.*: the base's own held-out loss is .* nothing to train; pass a lower one"
    with pytest.raises(ValueError, match=message):
        fit(small, soft, tmp_path / "run", stop_at=base_kl * 1.001)
    assert list(tmp_path.iterdir()) == []
    run = fit(small, soft, tmp_path / "run", stop_at=base_kl * 0.9999, lr=1e-2)
    assert run.manifest.results["steps"] == 2


@pytest.mark.parametrize("method", [LoRA(rank=2), LoRA(rank=2, dora=True), FullFT()])
def test_a_student_that_is_its_base_is_told(method, small, soft, tmp_path):
    still = {"method": method, "lr": 1e-30, "weight_decay": 0.1}
    store = {} if method.kind == "lora" else {"store": torch.bfloat16}
    if method.kind == "lora":  # 1e-30 is a number, and a student
        moved = fit(small, soft, tmp_path / "moved", **still)
        assert moved.manifest.results["moved"] is True
        store = {"store": torch.bfloat16, "lr": 1e-45}
    with pytest.warns(UserWarning, match=r"the student's weights are still those of its base"):
        run = fit(small, soft, tmp_path / "run", **{**still, **store})
    assert run.manifest.results["moved"] is False
    assert "equal to its base" in repr(run)
    with pytest.warns(UserWarning, match=r"it is no student"):  # opened
        fit(small, soft, tmp_path / "run", **{**still, **store})


def test_epochs_are_steps(small, soft, tmp_path):
    run = fit(small, soft, tmp_path / "run", steps=None, epochs=2)
    assert run.manifest.optimiser["steps"] == run.manifest.results["steps"] == 6
    assert run.manifest.results["epochs"] == 2
    same = fit(small, soft, tmp_path / "run", steps=6)  # the same training: opened
    assert same == run
    with pytest.raises(ValueError, match=r"steps=6 and epochs=2: pass one of the two"):
        fit(small, soft, tmp_path / "other", steps=6, epochs=2)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()])
def test_weights_are_readable_by_whom_the_files_beside_them_are(
    mask, method, small, soft, tmp_path
):
    before = os.umask(mask)
    try:
        run = fit(small, soft, tmp_path / "run", method=method, lr=1e-2, snapshots=[2])
    finally:
        os.umask(before)
    for path in [run.path, *run.path.rglob("*")]:
        whole = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == whole & ~mask, path


class Keep(TrainerCallback):
    """Keeps what is logged, and stops after three steps."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logged.append(dict(logs))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 3


def test_callbacks_and_trackers_are_passed_through(small, soft, tmp_path):
    keep = Keep()
    run = fit(small, soft, tmp_path / "run", lr=1e-2, callbacks=[keep])
    rows = log_of(run)
    assert run.manifest.results["steps"] == 3
    assert "held_out" in rows[-1]  # measured although it was not the turn
    losses = [logs["loss"] for logs in keep.logged if "loss" in logs]
    assert losses == pytest.approx([row["loss"] for row in rows[1:]], rel=1e-5)
    measured = [logs["held_out"] for logs in keep.logged if "held_out" in logs]
    assert measured == [rows[2]["held_out"]]
    with pytest.raises(ValueError, match="no_such_tracker"):
        fit(small, soft, tmp_path / "other", report_to="no_such_tracker")


# ---------------------------------------------------------------------------------------- snapshots


def test_snapshots_are_the_student_on_its_way(small, soft, tmp_path):
    options = {"method": LoRA(rank=4), "lr": 1e-2, "schedule": "constant"}
    long = fit(small, soft, tmp_path / "long", **options, steps=6, snapshots="log")
    assert list(long.snapshots) == [1, 2, 4]
    short = fit(small, soft, tmp_path / "short", **options, steps=4)
    assert weights(open_run(long.snapshots[4])) == weights(short)
    for step, path in long.snapshots.items():
        student = load_pair(small, path).student
        kl = plain_kl(soft, student.model, HELD_ROWS)
        assert student.manifest.results["held_out"][1] == pytest.approx(kl, abs=1e-5)
        assert student.manifest.results["steps"] == step
        assert log_of(open_run(path)) == log_of(long)[: step + 1]
        of_peft = PeftModel.from_pretrained(small_model(), path).eval()
        assert torch.equal(plain_logits(soft, of_peft, 0), plain_logits(soft, student.model, 0))
    plain = fit(small, soft, tmp_path / "plain", **options, steps=6)
    assert weights(plain) == weights(long)  # looking changes nothing


def test_snapshots_of_a_full_fine_tune_open_in_transformers(tiny_llama, taught, tmp_path):
    options = {"lr": 1e-3, "snapshots": [2], "store": torch.bfloat16}
    run = fit(tiny_llama, taught, tmp_path / "run", method=FullFT(), **options)
    model, info = AutoModelForCausalLM.from_pretrained(run.snapshots[2], output_loading_info=True)
    assert model.dtype == torch.bfloat16
    assert not info["missing_keys"]
    student = load_student(tiny_llama, run.snapshots[2]).model
    assert distance(own_logits(student), own_logits(model.float())) < 1e-5


# -------------------------------------------------------------------------------------- bad numbers


@pytest.mark.parametrize("method", [LoRA(), FullFT()])
def test_a_loss_that_is_no_number(method, small, hard, tmp_path):
    rows = r"rows \d+, \d+, \d+, \d+ of the data"
    message = rf"became (nan|inf) at step 2, on {rows}; lower lr=1e\+30"
    with pytest.raises(ValueError, match=message):
        fit(small, hard, tmp_path / "run", method=method, lr=1e30, warmup=0)
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------- private names of others


OVERRIDDEN = [
    name for name in vars(Loop) if name.startswith("_") and not name.startswith(("__", "_stop"))
]


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_transformers_has_the_private_methods_that_the_loop_overrides(name):
    assert name in Loop.__doc__, f"the docstring of Loop does not list {name}"
    assert hasattr(Trainer, name), (
        f"transformers' Trainer has no {name} any more: what the loop does there is not called. "
        "Look for what took its place."
    )


def test_every_step_is_measured_where_it_should_be(small, soft, tmp_path):
    """Also where a snapshot is due and no evaluation."""
    run = fit(small, soft, tmp_path / "run", evaluate_every=3, snapshots=[1], steps=4)
    assert [row["step"] for row in log_of(run) if "held_out" in row] == [0, 1, 3, 4]


def test_rows_that_no_step_took_were_not_trained_on(small, hard, tmp_path, monkeypatch):
    """Of few steps a manifest knows again what they took, and nothing else of the data."""
    took: list[list[int]] = []
    compute = Loop.compute_loss

    def recorded(self, model, inputs, *args, **options):
        took.append(inputs["index"].tolist())
        return compute(self, model, inputs, *args, **options)

    monkeypatch.setattr(Loop, "compute_loss", recorded)
    options = {"steps": 3, "batch_size": 2, "snapshots": [1], "evaluate_every": 3}
    run = fit(small, hard, tmp_path / "few", **options)
    rows = [*range(12)]
    for made, steps in ((run, 3), (open_run(run.snapshots[1]), 1)):
        taken = {row for step in took[:steps] for row in step}
        assert 0 < len(taken) < len(rows)
        of_rows = [[*hard.prompts[row].ids, *hard.completions[row]] for row in taken]
        assert parted(made.manifest.results["row_digests"]) == digests_of(of_rows)
        met = made.manifest.trained_on
        held = {row for row in rows if met.holds(hard.prompts[row])}
        assert {hard.prompts[row].ids for row in held} == {hard.prompts[row].ids for row in taken}
    # what they have in common is that of all, by which gates and marks go
    whole = fit(small, hard, tmp_path / "whole", **{**options, "steps": 20})
    assert whole.manifest.trained_on == run.manifest.trained_on
    assert len(parted(whole.manifest.results["row_digests"])) == len(rows)
