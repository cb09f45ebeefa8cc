"""The self-test passes on sound pairs and names what is wrong with others."""

import contextlib
import itertools
from dataclasses import replace

import pytest
import tiny
import torch
from covering import covering
from pairs import make_pair, shared_pair

import sublim_mech as sm
from sublim_mech.__main__ import main
from sublim_mech.engine import forward as engine
from sublim_mech.instruments import patching, verification
from sublim_mech.models.deltas import LowRank

CHECKS = [
    "parity: base",
    "parity: student",
    "one value per prompt",
    "gates 0 and 1",
    "causality",
    "self-patch",
    "branches",
    "planted layer",
    "planted positions",
    "completeness",
    "clean-up",
]


@pytest.mark.parametrize(
    ("architecture", "kind"), covering(list(itertools.product(tiny.CONFIGS, ("lora", "full"))))
)
def test_sound_pairs_pass(architecture, kind, smol_tokenizer):
    report = sm.verify(shared_pair(architecture, kind, smol_tokenizer), seed=3)
    assert report.passed, report
    assert [check.name for check in report.checks] == CHECKS


def failed(report):
    return {check.name for check in report.checks if not check.passed}


def test_a_wrong_delta_fails_parity(smol_tokenizer):
    pair = make_pair("llama", "lora", smol_tokenizer)
    deltas = {path: LowRank(d.a, d.b, 1.1 * d.scale) for path, d in pair.delta.items()}
    report = sm.verify(replace(pair, student=replace(pair.student, deltas=deltas)))
    # prompts are compared with the model's own forward, too
    assert failed(report) == {"parity", "one value per prompt"}
    assert "in the gated forward" in repr(report)
    assert "FAIL" in repr(report)


def test_a_look_ahead_fails_causality_and_branches(smol_tokenizer):
    """A hook that lets tokens see later ones, on the last layer of the pair's own model."""
    pair = make_pair("llama", "lora", smol_tokenizer)
    block = pair.model.get_submodule(pair.sites.blocks[2])
    handle = block.register_forward_hook(lambda _, args, out: out + 0.1 * out.mean(1, keepdim=True))
    broken = failed(sm.verify(pair))
    handle.remove()
    assert {"causality", "branches"} <= broken
    assert sm.verify(pair).passed


def lose_edits(monkeypatch):
    monkeypatch.setattr(patching, "_put", lambda *given, **options: lambda hidden: hidden)


def test_a_lost_edit_fails_the_planted_checks(smol_tokenizer, monkeypatch):
    pair = make_pair("gpt2", "lora", smol_tokenizer)
    lose_edits(monkeypatch)
    assert failed(sm.verify(pair)) == {"planted layer"}


def test_an_error_that_is_no_number_fails(smol_tokenizer, monkeypatch):
    """Also where it is not the first of those that a check takes the largest of."""
    pair = make_pair("llama", "lora", smol_tokenizer)
    errors = itertools.cycle([0.0, float("nan")])
    monkeypatch.setattr(verification, "_distance", lambda x, y: next(errors))
    assert failed(sm.verify(pair)) >= {"gates 0 and 1", "causality", "self-patch", "branches"}


def test_a_hook_left_behind_fails_clean_up(smol_tokenizer, monkeypatch):
    pair = make_pair("llama", "lora", smol_tokenizer)
    skip, alive = engine._skip, []

    class Leaky:
        """Skips blocks and does not take it back."""

        def __init__(self, *args):
            self.inner = skip(*args)
            alive.append(self.inner)  # a collected generator would clean up by itself

        def __enter__(self):
            return self.inner.__enter__()

        def __exit__(self, *error):
            return False

    monkeypatch.setattr(engine, "_skip", Leaky)
    broken = failed(sm.verify(pair))
    # nested leaks on the same blocks: all but the last find nothing left
    for inner in reversed(alive):
        with contextlib.suppress(AttributeError):
            inner.__exit__(None, None, None)
    assert {"clean-up", "clean up"} & broken


@pytest.fixture
def folders(smol_tokenizer, tmp_path):
    """A base and a LoRA student on disk."""
    base = tiny.model("llama")
    base.save_pretrained(tmp_path / "base")
    smol_tokenizer.save_pretrained(tmp_path / "base")
    tiny.lora(base).save_pretrained(tmp_path / "student")
    return str(tmp_path / "base"), str(tmp_path / "student")


def test_command_line(folders, tmp_path, capsys):
    base, student = folders
    assert main(["verify", base, student]) == 0
    assert "all 11 checks passed" in capsys.readouterr().out
    assert main(["verify", base, str(tmp_path / "nothing")]) == 2
    assert "STUDENT='" in capsys.readouterr().err
    # a student that is its base fails nothing
    assert main(["verify", base, base]) == 0
    told = capsys.readouterr()
    assert "the student changes nothing, so that there are no cells" in told.out
    assert "STUDENT='base': equals its base" in told.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--device", "gpu"], "--device='gpu' is no device; torch calls it 'cuda'"),
        (["--device", "cuda:99"], "device='cuda:99' is not there. This machine has cpu"),
        (["--control", "no such folder"], "--control='no such folder' is not a directory"),
    ],
)
def test_bad_input_has_a_status_of_its_own(options, told, folders, capsys):
    assert main(["verify", *folders, *options]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--seed", "-1"], "no whole number from 0 on"),
        (["--dtype", "int8"], "invalid choice"),
    ],
)
def test_options_that_are_none_have_it_too(options, told, folders, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["verify", *folders, *options])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_a_verification_that_breaks_off_is_no_failed_check(folders, capsys, monkeypatch):
    def break_off(pair, *, seed):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("sublim_mech.__main__.verify", break_off)
    assert main(["verify", *folders]) == 2
    assert "out of memory" in capsys.readouterr().err


def test_command_line_reports_failure(folders, capsys, monkeypatch):
    lose_edits(monkeypatch)
    assert main(["verify", *folders]) == 1
    assert "1 failed" in capsys.readouterr().out


def test_verify_leaves_the_pair_as_it_was(smol_tokenizer):
    pair = make_pair("llama", "full", smol_tokenizer)
    before = [parameter.clone() for parameter in pair.model.parameters()]
    generator = torch.get_rng_state()
    sm.verify(pair)
    after = pair.model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(generator, torch.get_rng_state())
