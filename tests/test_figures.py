"""The committed figures can be drawn again from the scores stored beside them."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

import sublim_mech as sm

ROOT = Path(__file__).parents[1]
STORED = ROOT / "docs" / "figures" / "scores"


@pytest.fixture
def redraw(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield importlib.import_module("redraw_figures")
    sys.modules.pop("redraw_figures")


def test_every_figure_is_drawn_as_large_as_the_committed_one(redraw, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["redraw_figures", "--out", str(tmp_path)])
    redraw.main()
    for name in redraw.NAMES:
        drawn, committed = imread(tmp_path / f"{name}.png"), imread(redraw.FIGURES / f"{name}.png")
        assert drawn.shape == committed.shape


def test_stored_scores_are_small(redraw):
    for name in redraw.NAMES:
        assert (STORED / f"{name}.safetensors").stat().st_size < 300_000


def test_what_is_kept_shows_the_same(redraw):
    scores = sm.Scores.load(STORED / "attribution.safetensors")
    modules = scores.data["effect"].expand_dims(module=["attn.q", "mlp.in"], axis=-1) / 2
    whole = replace(scores, data=scores.data.assign(effect=modules))
    kept = redraw.smaller(whole)
    assert kept.data["effect"].dims == ("model", "prompt", "layer", "position")
    assert kept.layer_effect().equals(scores.layer_effect())
