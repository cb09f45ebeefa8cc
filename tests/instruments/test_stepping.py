"""Instruments over the snapshots of a training: each step is the scores of that snapshot's pair."""

import dataclasses
import re
import shutil
import warnings

import numpy as np
import pytest
import tiny
from pairs import QUIET, TRAIT
from trainings import ROWS, SHORT

import sublim_mech as sm
from sublim_mech.instruments import over_steps, step_pairs, stepping
from sublim_mech.making.training import LoRA, gates_of, hard_data, train
from sublim_mech.models.base import load_base
from sublim_mech.storage.manifest import Manifest

STEPS = [2, 3, 4]  # the last one is the run's own end


@pytest.fixture(scope="module")
def base(smol_tokenizer):
    return load_base(tiny.model("llama"), tokenizer=smol_tokenizer)


@pytest.fixture(scope="module")
def runs(base, smol_tokenizer, tmp_path_factory):
    """Two runs that differ in their order."""
    folder, data = tmp_path_factory.mktemp("runs"), hard_data(smol_tokenizer, ROWS)
    made = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in (0, 1):
            options = {**SHORT, "snapshots": [1, 2, 3], "lr": 3e-2, "order_seed": seed}
            made.append(train(base, data, out=folder / str(seed), method=LoRA(rank=2), **options))
    return made


@pytest.fixture(scope="module")
def asked(base):
    return sm.render(base.tokenizer, ["Which animal?", "Name one animal, please."])


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def test_a_step_at_which_nothing_has_moved_is_left_out(runs, base, asked):
    """The first step of a warm-up has a learning rate of 0."""
    run, _ = runs
    assert 1 in run.snapshots
    everything = over_steps(run, effect_of(asked), base=base, **QUIET)
    assert everything.data["step"].values.tolist() == STEPS
    first = over_steps(run, effect_of(asked), base=base, steps=[1], **QUIET)
    np.testing.assert_array_equal(first.data["effect"], 0)


def test_pairs_of_steps_are_those_that_scores_are_made_of(runs, base, asked):
    run, other = runs
    options = {"base": base, "controls": [other], "steps": [2], **QUIET}
    joined = over_steps(run, effect_of(asked), **options)
    seen = []
    for step, pair in step_pairs(run, **options):
        seen.append(step)
        assert pair.base.model is base.model
        scores = effect_of(asked)(pair)
        np.testing.assert_array_equal(
            scores.data["effect"].values, joined.sel(step=step).data["effect"].values
        )
    assert seen == [2]
    with pytest.raises(ValueError, match="give steps of which there is a snapshot"):
        step_pairs(run, base=base, steps=[7])  # before any pair is asked for
    with pytest.raises(TypeError, match=r"for step, pair in instruments\.step_pairs\(run\)"):
        over_steps(run, lambda pair: {"step": 1}, base=base, steps=[2], **QUIET)


def test_a_base_that_is_not_here_is_asked_for_at_once(runs, asked, monkeypatch, tmp_path):
    """A manifest has a folder's name alone: the hub is not asked for it."""
    monkeypatch.setattr(stepping, "load_base", lambda name: pytest.fail(f"loads {name}"))
    monkeypatch.chdir(tmp_path)
    run, _ = runs
    named = Manifest.load(run.path).base["name"]
    message = (
        f"base: the run's manifest names its base {named!r}, which is no folder in {tmp_path} and "
        "no model in the hub's cache (a manifest has a folder's name without its path, and a live "
        "model's class). Pass base=load_base(...) of the model it was trained from."
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        over_steps(run, effect_of(asked), **QUIET)


@pytest.mark.parametrize("name", ["gone.gguf", "pypi:no-such-package-here", "/gone/base"])
def test_a_base_that_cannot_be_loaded_from_here_is_asked_for(name, runs, asked, monkeypatch):
    def renamed(folder):
        manifest = Manifest.load(folder)
        return dataclasses.replace(manifest, base={**manifest.base, "name": name})

    monkeypatch.setattr(stepping, "_manifest", renamed)
    with pytest.raises(
        FileNotFoundError, match=r"cannot be loaded from here .*Pass base=load_base"
    ):
        over_steps(runs[0], effect_of(asked), **QUIET)


def test_a_base_is_found_by_its_folder_name(runs, base, asked, monkeypatch, tmp_path):
    named = Manifest.load(runs[0].path).base["name"]
    base.save_pretrained(tmp_path / named)
    monkeypatch.chdir(tmp_path)
    assert over_steps(runs[0], effect_of(asked), steps=[2], **QUIET).data.sizes["step"] == 1


def test_steps_of_a_student_that_was_trained_at_chosen_tokens(base, smol_tokenizer, tmp_path):
    """With its gates each step is the graft of the one without at the tokens of its training."""
    prompts = sm.render(base.tokenizer, ["Which animal?"])
    user = sm.masks.role("user")
    data = hard_data(smol_tokenizer, ROWS)
    options = {**SHORT, "snapshots": [2], "lr": 3e-2, "where": user}
    run = train(base, data, out=tmp_path / "run", method=LoRA(rank=2), **options)
    gates = gates_of(run)
    steps = {"base": base, "steps": [2], **QUIET}
    gated = over_steps(run, effect_of(prompts), gates=[gates], **steps)

    def graft(pair):
        return sm.graft(pair, prompts, TRAIT, {"user": user}, **QUIET)

    plain = over_steps(run, graft, **steps)
    axes = "prompt", "step"
    expected = plain.headline.sel(set="user", measure="sufficiency").transpose(*axes).values
    np.testing.assert_allclose(gated.total.transpose(*axes).values, expected, atol=2e-6)
    assert np.abs(expected).max() > 1e-5
    with pytest.raises(ValueError, match="gates: 2 entries for the run and 0 controls"):
        over_steps(run, graft, base=base, gates=[gates, None], **QUIET)


def folders(run):
    return {**run.snapshots, 4: run.path}


@pytest.mark.parametrize(
    "function",
    [
        lambda pair, prompts: sm.effect(pair, prompts, TRAIT, **QUIET),
        lambda pair, prompts: sm.graft(pair, prompts, TRAIT, "role", **QUIET),
        lambda pair, prompts: sm.attribute(pair, prompts, TRAIT, points=2, **QUIET),
    ],
    ids=["effect", "graft", "attribute"],
)
def test_a_step_is_the_scores_of_its_snapshot(function, runs, base, asked, tmp_path):
    run, other = runs
    scores = over_steps(
        run, lambda pair: function(pair, asked), base=base, controls=[other], **QUIET
    )
    assert scores.data["step"].values.tolist() == STEPS
    for step in STEPS:
        student, control = folders(run)[step], folders(other)[step]
        alone = function(sm.load_pair(base, student, controls=[control]), asked)
        one = scores.sel(step=step)
        assert one.data["effect"].dims == alone.data["effect"].dims
        for name in ("effect", "base", "student"):
            np.testing.assert_array_equal(one.data[name].values, alone.data[name].values)
        assert scores.record.step_hashes[str(step)] == alone.record.students["student"].hash
        if one.additive:  # a step keeps what its shares are shares of
            assert one.gap == pytest.approx(alone.gap)
            np.testing.assert_allclose(one.prompt_effect, alone.prompt_effect)
        repr(one)
    scores.save(tmp_path / "steps.safetensors")
    assert sm.Scores.load(tmp_path / "steps.safetensors").data.equals(scores.data)


def test_what_is_told_of_integrals_is_of_each_step(runs, base, asked):
    """Points, and where they stopped: a step's own, not the first one's."""
    run, _ = runs
    pair = sm.load_pair(base, run.path)
    scores = effect_of(asked)(pair)
    of_step = {}
    for step, points in ((2, 8.0), (4, 23.0)):
        told = np.full((1, len(asked)), points)
        axes = ("model", "prompt")
        data = scores.data.assign(points=(axes, told), capped=(axes, told * 0 + (step == 4)))
        of_step[step] = dataclasses.replace(scores, data=data)
    joined = stepping.join(of_step, "run")
    for step, one in of_step.items():
        for name in ("points", "capped"):
            np.testing.assert_array_equal(joined.sel(step=step).data[name], one.data[name])
    assert "points: 8 to 23, mean 15.5 for each student, prompt and step" in repr(joined)
    assert "points: 23 for each student and prompt" in repr(joined.sel(step=4))


def test_it_is_read_as_a_curve_over_steps(runs, base, asked):
    run, _ = runs
    scores = over_steps(
        str(run.path), lambda pair: sm.effect(pair, asked, TRAIT, **QUIET), base=base, **QUIET
    )
    curve = scores.curve()
    assert curve.index.tolist() == STEPS
    for step in STEPS:
        assert curve.loc[step, "effect"] == pytest.approx(
            scores.sel(step=step).totals()["effect"].iloc[0]
        )
    assert "by step" in repr(scores)
    assert "no controls" in repr(scores)
    assert scores._repr_html_().startswith("<pre>")
    with pytest.raises(ValueError, match=r"choose one: scores\.sel\(step=4\)"):
        scores.totals()
    axes = scores.plot()
    assert axes.get_xlabel() == "optimiser step"
    grafts = over_steps(
        run, lambda p: sm.graft(p, asked, TRAIT, "role", **QUIET), base=base, steps=[3], **QUIET
    )
    assert grafts.curve().loc[(3, "system", "sufficiency"), "effect"] == pytest.approx(
        float(grafts.headline.sel(step=3, set="system", measure="sufficiency").mean())
    )
    total = grafts.curve().loc[(3, "total effect", ""), "effect"]
    assert total == pytest.approx(curve.loc[3, "effect"], abs=1e-6)
    assert grafts.title().endswith(f"steps of {run.path.name}")


def test_snapshots_far_apart_stand_on_a_scale_of_ratios(runs, base, asked):
    run, _ = runs
    scores = over_steps(run, effect_of(asked), base=base, **QUIET)
    assert scores.plot().get_xscale() == "linear"  # steps 2, 3, 4
    many = scores.data.isel(step=[0, 1, 2, 0, 1, 2, 0, 1])
    far = many.assign_coords(step=[1, 2, 4, 8, 16, 32, 64, 256])
    axes = dataclasses.replace(scores, data=far).plot()
    assert axes.get_xscale() == "log"
    named = [text.get_text() for text in axes.get_xticklabels()]
    assert named == ["256", "64", "32", "16", "8", "4", "2", "1"]


def test_the_base_is_loaded_once(runs, base, asked, monkeypatch):
    loaded = []
    monkeypatch.setattr(stepping, "load_base", lambda source: loaded.append(source) or base)

    def function(pair):
        assert pair.model.get_input_embeddings().weight.data_ptr() == (
            base.model.get_input_embeddings().weight.data_ptr()
        )
        return sm.effect(pair, asked, TRAIT, **QUIET)

    over_steps(runs[0], function, base="its/folder", **QUIET)
    assert loaded == ["its/folder"]
    monkeypatch.setattr(stepping, "is_cached", lambda name: True)
    over_steps(runs[0], function, steps=[2], **QUIET)
    assert loaded[1:] == [runs[0].manifest.base["name"]]


def effect_of(asked):
    return lambda pair: sm.effect(pair, asked, TRAIT, **QUIET)


def test_snapshots_of_different_runs_are_refused(runs, base, asked, tmp_path):
    run, other = runs
    mixed = [run.snapshots[2], other.snapshots[3]]
    with pytest.raises(ValueError, match=r"snapshots of different runs: seeds.order"):
        over_steps(mixed, effect_of(asked), base=base)
    # also where one was copied into the folder of another
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder)
    shutil.rmtree(folder / "snapshots" / run.snapshots[3].name)
    shutil.copytree(other.snapshots[3], folder / "snapshots" / run.snapshots[3].name)
    with pytest.raises(ValueError, match="different runs"):
        over_steps(folder, effect_of(asked), base=base)
    with pytest.raises(ValueError, match="twice"):
        over_steps([run.snapshots[2], other.snapshots[2]], effect_of(asked), base=base)
    own = over_steps([run.snapshots[3], run.snapshots[2]], effect_of(asked), base=base, **QUIET)
    assert own.data["step"].values.tolist() == [2, 3]


def test_what_cannot_be_joined_is_refused(runs, base, asked, smol_tokenizer, tmp_path):
    run, other = runs
    with pytest.raises(ValueError, match=r"steps=\[7\]"):
        over_steps(run, effect_of(asked), base=base, steps=[7])
    with pytest.raises(TypeError, match="function gives an int at step 2"):
        over_steps(run, lambda pair: 3, base=base, **QUIET)
    with pytest.raises(FileNotFoundError):
        over_steps(tmp_path / "nowhere", effect_of(asked), base=base)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(FileNotFoundError, match="made elsewhere measure each by itself"):
        over_steps(tmp_path / "elsewhere", effect_of(asked), base=base)
    shutil.copytree(run.path, tmp_path / "bare", ignore=shutil.ignore_patterns("snapshots"))
    with pytest.raises(ValueError, match="has no snapshots"):
        over_steps(tmp_path / "bare", effect_of(asked), base=base)
    counted = iter([asked, asked[:1], asked])

    def other_prompts(pair):
        return sm.effect(pair, next(counted), TRAIT, **QUIET)

    with pytest.raises(ValueError, match="steps 2 and 3 differ in"):
        over_steps(run, other_prompts, base=base, **QUIET)
    part = tmp_path / "part"
    shutil.copytree(other.path, part, ignore=shutil.ignore_patterns(other.snapshots[2].name))
    with pytest.raises(ValueError, match="no snapshot of step 2, "):
        over_steps(run, effect_of(asked), base=base, controls=[part], **QUIET)


def test_errors_name_the_control_that_they_are_of(runs, base, asked, tmp_path):
    """Nobody gave `run=` where a control lacks what is needed."""
    run, other = runs
    bare, part, made = tmp_path / "bare", tmp_path / "part", tmp_path / "made"
    shutil.copytree(other.path, bare, ignore=shutil.ignore_patterns("snapshots"))
    shutil.copytree(other.path, part, ignore=shutil.ignore_patterns(other.snapshots[2].name))
    made.mkdir()
    (tmp_path / "run.unfinished").mkdir()
    said = {
        str(bare): f"controls[1]={str(bare)!r} has no snapshots; train(..., snapshots='log')",
        str(part): f"controls[1]={str(part)!r} has no snapshot of step 2, so",
        str(made): f"controls[1]={str(made)!r} is no run of a training",
        str(tmp_path / "run"): f"controls[1]={str(tmp_path / 'run')!r} is no run folder",
    }
    for control, message in said.items():
        with pytest.raises((ValueError, FileNotFoundError), match=f"^{re.escape(message)}"):
            step_pairs(run, base=base, controls=[other, control])
    with pytest.raises(FileNotFoundError, match=r"^run='"):
        step_pairs(tmp_path / "run", base=base)
    # what is found when a pair is loaded
    cut = tmp_path / "cut"
    shutil.copytree(other.path, cut)
    (cut / "snapshots" / other.snapshots[2].name / "adapter_model.safetensors").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"^controls\[0\]="):
        next(step_pairs(run, base=base, controls=[cut], steps=[2], progress=False))


def test_a_map_has_a_row_per_step(runs, base, asked):
    scores = over_steps(
        runs[0], lambda p: sm.attribute(p, asked, TRAIT, points=2, **QUIET), base=base, **QUIET
    )
    axes = scores.plot(1)
    image = axes.child_axes[0].images[0].get_array()
    assert image.shape == (3, int((scores.data["role"][1] != "").sum()))
    for row, step in enumerate(STEPS):
        one = scores.sel(step=step).token_effect()[1]
        np.testing.assert_allclose(image[row], one[np.isfinite(one)])
    assert scores.plot(by="step").get_xlabel() == "optimiser step"
