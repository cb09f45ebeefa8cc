"""Scores in files and in notebooks."""

import json

import numpy as np
import pytest
import synthetic
import xarray as xr
from safetensors import safe_open
from safetensors.numpy import save_file

from sublim_mech.results.page import token_page
from sublim_mech.results.scores import Scores

ALL = synthetic.all_scores()


@pytest.mark.parametrize("name", ALL)
def test_save_and_load_are_equal(name, tmp_path):
    scores, path = ALL[name], tmp_path / "deep" / "scores.safetensors"
    scores.save(path)
    loaded = Scores.load(path)
    xr.testing.assert_identical(loaded.data, scores.data)
    assert (loaded.kind, loaded.record) == (scores.kind, scores.record)
    assert repr(loaded) == repr(scores)
    assert [p.name for p in path.parent.iterdir()] == ["scores.safetensors"]
    first = path.read_bytes()
    scores.save(path)
    assert path.read_bytes() == first


def test_other_tools_can_read_the_file(tmp_path):
    synthetic.patch().save(tmp_path / "s.safetensors")
    with safe_open(str(tmp_path / "s.safetensors"), "np") as handle:
        meta = json.loads(handle.metadata()["sublim_mech.scores"])
        assert handle.get_tensor("effect").shape == (1, 2, 4, 40)
    assert meta["variables"]["effect"]["dims"] == ["model", "prompt", "layer", "position"]
    assert meta["provenance"]["site"] == "resid_pre"


def test_refuses_what_is_not_scores(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        Scores.load(tmp_path / "none.safetensors")
    save_file({"x": np.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="holds no scores"):
        Scores.load(tmp_path / "x.safetensors")
    synthetic.effect().save(tmp_path / "s.safetensors")
    data = (tmp_path / "s.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="truncated"):
        Scores.load(tmp_path / "cut.safetensors")


def test_a_notebook_shows_the_token_page():
    assert ALL["attribution"]._repr_html_() == token_page(ALL["attribution"])


def test_both_directions_are_two_pages_in_a_notebook():
    both = ALL["patch both"]
    pages = [token_page(both.sel(direction=name)) for name in ("denoising", "noising")]
    assert both._repr_html_() == "".join(pages)


def test_without_tokens_a_notebook_shows_the_table_that_says_it():
    assert "<th>student - controls</th>" in ALL["effect"]._repr_html_()
    assert "<th>sufficiency low</th>" in ALL["graft"]._repr_html_()
    assert ALL["patch sets"]._repr_html_().startswith("<pre>activation patching")
