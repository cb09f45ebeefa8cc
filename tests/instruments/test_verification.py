"""The self-test passes on sound pairs and names what is wrong with others."""

import contextlib
from dataclasses import replace

import pytest
import tiny
import torch
from test_instruments import make_pair

import sublim_mech as sm
from sublim_mech.__main__ import main
from sublim_mech.models.deltas import LowRank


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("architecture", list(tiny.CONFIGS))
def test_sound_pairs_pass(architecture, kind, smol_tokenizer):
    report = sm.verify(make_pair(architecture, kind, smol_tokenizer), seed=3)
    assert report.passed, report
    assert len(report.checks) == 10


def failed(report):
    return {c.name for c in report.checks if not c.passed}


def test_a_wrong_delta_fails_parity(smol_tokenizer):
    pair = make_pair("llama", "lora", smol_tokenizer)
    deltas = {path: LowRank(d.a, d.b, 1.1 * d.scale) for path, d in pair.delta.items()}
    report = sm.verify(replace(pair, student=replace(pair.student, deltas=deltas)))
    assert failed(report) == {"parity"}
    assert "in the gated forward" in repr(report)
    assert "FAIL" in repr(report)


def test_a_look_ahead_fails_causality_and_branches(smol_tokenizer):
    """A hook that lets tokens see later ones, on the last layer of the pair's own model."""
    pair = make_pair("llama", "lora", smol_tokenizer)
    block = pair.base.model.get_submodule(pair.sites.blocks[2])
    handle = block.register_forward_hook(lambda m, a, out: out + 0.1 * out.mean(1, keepdim=True))
    broken = failed(sm.verify(pair))
    handle.remove()
    assert {"causality", "branches"} <= broken
    assert sm.verify(pair).passed


def test_a_lost_edit_fails_the_planted_checks(smol_tokenizer, monkeypatch):
    from sublim_mech.instruments import patching

    pair = make_pair("gpt2", "lora", smol_tokenizer)
    monkeypatch.setattr(patching, "_put", lambda source, rows, first: lambda x: x)
    assert failed(sm.verify(pair)) == {"planted layer"}


def test_a_hook_left_behind_fails_clean_up(smol_tokenizer, monkeypatch):
    from sublim_mech.engine import forward as engine

    pair = make_pair("llama", "lora", smol_tokenizer)
    kept, alive = engine._skip, []

    class Leaky:
        def __init__(self, *args):
            self.inner = kept(*args)
            alive.append(self.inner)  # a collected generator would clean up by itself

        def __enter__(self):
            return self.inner.__enter__()

        def __exit__(self, *error):
            return False

    monkeypatch.setattr(engine, "_skip", Leaky)
    broken = failed(sm.verify(pair))
    for inner in reversed(alive):  # nested leaks on the same blocks: all but the last find nothing left
        with contextlib.suppress(AttributeError):
            inner.__exit__(None, None, None)
    assert {"clean-up", "clean up"} & broken


def test_command_line(smol_tokenizer, tmp_path, capsys):
    base = tiny.model("llama")
    base.save_pretrained(tmp_path / "base")
    smol_tokenizer.save_pretrained(tmp_path / "base")
    tiny.lora(base).save_pretrained(tmp_path / "student")
    assert main(["verify", str(tmp_path / "base"), str(tmp_path / "student")]) == 0
    assert "all 10 checks passed" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "base"), str(tmp_path / "nothing")]) == 2
    assert "is not a directory" in capsys.readouterr().err


def test_command_line_reports_failure(smol_tokenizer, tmp_path, capsys, monkeypatch):
    from sublim_mech.instruments import patching

    base = tiny.model("llama")
    base.save_pretrained(tmp_path / "base")
    smol_tokenizer.save_pretrained(tmp_path / "base")
    tiny.lora(base).save_pretrained(tmp_path / "student")
    monkeypatch.setattr(patching, "_put", lambda source, rows, first: lambda x: x)
    assert main(["verify", str(tmp_path / "base"), str(tmp_path / "student")]) == 1
    assert "1 failed" in capsys.readouterr().out


def test_verify_leaves_the_pair_as_it_was(smol_tokenizer):
    pair = make_pair("llama", "full", smol_tokenizer)
    before = [p.clone() for p in pair.base.model.parameters()]
    rng = torch.get_rng_state()
    sm.verify(pair)
    assert all(torch.equal(a, b) for a, b in zip(before, pair.base.model.parameters(), strict=True))
    assert torch.equal(rng, torch.get_rng_state())
