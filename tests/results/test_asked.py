"""What users ask of scores and did not get: a table by layer, numbers of one thing, our errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import synthetic

from sublim_mech.results import compare, tables
from sublim_mech.results.page import save_page, token_page
from sublim_mech.results.record import Confirmation
from sublim_mech.results.scores import Scores
from sublim_mech.results.shares import concentration
from sublim_mech.stats import FEWEST


def test_by_layer_is_what_the_picture_shows_and_adds_up():
    scores = synthetic.attribution()
    table = scores.by("layer")
    assert table.index.tolist() == scores.layer_names()
    np.testing.assert_allclose(table["effect"], tables.layer_totals(scores).mean(0))
    whole = float((scores.prompt_effect + scores.answer_effect).mean())
    assert table["effect"].sum() == pytest.approx(whole)
    assert table["share"].sum() == pytest.approx(1)
    one = scores.sel(layer=2).by("layer")  # a part of the same whole
    assert one.loc["2", "share"] == pytest.approx(table.loc["2", "share"])
    both = compare({"a": scores, "b": scores}, by="layer")
    np.testing.assert_allclose(both.loc["a"], table)
    with pytest.raises(ValueError, match="no position axis"):
        synthetic.graft().by("layer")


def test_a_slice_is_told_to_be_a_range():
    scores = synthetic.attribution()
    with pytest.raises(ValueError, match=r"pass a list or a range of them.*layer=range\(1, 3\)"):
        scores.sel(layer=slice(1, 3))
    assert scores.sel(layer=range(1, 3)).data["layer"].values.tolist() == [1, 2]


@pytest.mark.parametrize("k", [0, -1])
def test_a_table_has_a_row(k):
    with pytest.raises(ValueError, match=f"k={k}: how many cells are shown must be at least 1"):
        synthetic.attribution().strongest(k)


def test_what_users_try_with_an_array_is_told():
    scores = synthetic.attribution()
    with pytest.raises(TypeError, match=r"scores\['effect'\]: the arrays are in scores\.data"):
        scores["effect"]
    with pytest.raises(TypeError, match=r"scores\.minus\(other\) is the paired contrast"):
        scores - scores
    with pytest.raises(TypeError, match="stand beside each other"):
        scores + scores


def test_tables_are_not_read_back(tmp_path):
    scores = synthetic.attribution()
    scores.to_csv(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"is a table.*load the \.safetensors file"):
        Scores.load(tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match="is a folder; name a file in it"):
        Scores.load(tmp_path)


def test_every_file_makes_its_folders_and_knows_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    scores = synthetic.attribution()
    writers = {
        "s.safetensors": scores.save,
        "t.csv": scores.to_csv,
        "page.html": lambda path: save_page(scores, path),
        "bars.png": lambda path: scores.plot(by="role", path=path),
    }
    for name, write in writers.items():
        write(f"~/made/for/{name}")
        assert (tmp_path / "made" / "for" / name).is_file()
        for empty in ("", " "):
            with pytest.raises(ValueError, match=r"path='.*' is empty|what is written is"):
                write(empty)
    assert Scores.load("~/made/for/s.safetensors").data.equals(scores.data)
    with pytest.raises(FileExistsError, match="is a file; choose another folder"):
        scores.save(tmp_path / "made/for/t.csv/s.safetensors")
    with pytest.raises(ValueError, match=r"not written as \.xyz, but as one of .*png"):
        scores.plot(by="role", path=tmp_path / "new" / "x.xyz")
    assert not (tmp_path / "new").exists()


def test_pages_say_what_was_measured_and_that_there_are_no_controls(tmp_path):
    scores = synthetic.attribution(controls=0)
    record = dataclasses.replace(scores.record, measured="log P(owl)")
    page = token_page(dataclasses.replace(scores, record=record))
    assert "controls left out of this selection: part of any effect may come from" in page
    assert "asked in:" in page


@pytest.mark.parametrize("number", [1, 2])
def test_one_prompt_is_one_prompt(number):
    scores = synthetic.attribution([synthetic.chat() for _ in range(number)])
    said = repr(scores).splitlines()[0]
    assert said.endswith(f", {number} prompt{'s' * (number > 1)}, nats")


@pytest.mark.parametrize("number", [2, FEWEST - 1, FEWEST])
def test_a_verdict_needs_as_many_prompts_as_can_tell_a_sign_from_chance(number):
    """All prompts of one sign, as they are by chance in 2 of 2 ** n cases."""
    scores = synthetic.attribution([synthetic.chat()] * number)
    found = concentration(scores)
    few = number < FEWEST
    assert ("are too few" in found.conclusion) == few
    assert (2 ** (1 - number) > 0.05) == few
    assert "sufficiency and necessity of 'shared' in sm.graft(" in found.conclusion
    assert "sets='sharing'" in found.conclusion
    assert (
        "sets={'template': sm.masks.role('template')}"
        in concentration(scores, on="template").conclusion
    )


def confirmation(factor):
    """Strong cells that are off by a factor, and weak ones: two clusters on a line."""
    rng = np.random.default_rng(0)
    estimates = np.concatenate([1 + 0.1 * rng.normal(size=10), 1e-3 * rng.normal(size=10)])
    cells = [
        {"top": i < 10, "estimate": e, "exact": factor * e}
        for i, e in enumerate(estimates.tolist())
    ]
    return Confirmation(10, 0, 1.0, 1.0, 1.0, False, "patch", tuple(cells))


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0])
def test_the_scale_of_the_strongest_cells_is_printed(factor):
    scores = synthetic.attribution(controls=2)
    record = dataclasses.replace(scores.record, confirmation=confirmation(factor))
    assert record.confirmation.scale == pytest.approx(factor)
    assert record.confirmation.pearson_top == pytest.approx(1)
    said = repr(dataclasses.replace(scores, record=record))
    assert f"exact values are {factor:.2f} times the estimates, Pearson 1.00" in said
