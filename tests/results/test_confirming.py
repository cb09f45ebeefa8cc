"""A confirmation is told of those compared cells that scores hold, and of the numbers compared."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic

from sublim_mech import Scores
from sublim_mech.results.report import POOR_AGREEMENT, notes

QUESTIONS = [synthetic.chat(), synthetic.chat(), synthetic.chat()]


def confirmed(kind=synthetic.attribution, *, wrong_layer=None):
    """Scores confirmed on 12 strong and 12 random cells of layers 0 to 3 and prompts 0 and 1; exact
    values are 0.9 times the estimates, and their opposites in a wrong layer.
    """
    scores = synthetic.confirmed(kind(QUESTIONS))
    rng = np.random.default_rng(0)
    cells = []
    for number in range(24):
        layer, estimate = number % 4, float(rng.uniform(0.5, 1) * (1 if number < 12 else 0.1))
        where = {"prompt": number // 4 % 2, "layer": layer, "position": number}
        if kind is synthetic.attribution:
            where["module"] = "attn.q"
        exact = (-0.9 if layer == wrong_layer else 0.9) * estimate
        cells.append({**where, "top": number < 12, "estimate": estimate, "exact": exact})
    told = replace(scores.record.confirmation, k=12, pearson=1.0, sign=1.0, cells=tuple(cells))
    return synthetic.recorded(scores, confirmation=told)


def line(scores):
    (one,) = (note for note in scores.notes() if "confirmed" in note)
    return one


def test_all_that_was_compared_is_told_as_it_was():
    scores = confirmed()
    whole = line(scores)
    assert whole.startswith("confirmed on 12 strongest and 12 random cells: Pearson 1.00")
    assert line(scores.sel(prompt=[0, 1])) == whole  # nothing was compared in the third
    assert line(scores.sel(layer=[0, 1, 2, 3])) == whole
    assert len(scores.confirmation) == 24


@pytest.mark.parametrize(
    "labels", [{"prompt": [0]}, {"layer": [1, 2]}, {"prompt": 1, "layer": [0, 3]}, {"layer": 2}]
)
def test_a_selection_is_counted_over_its_own_cells(labels):
    """By numpy, of the cells with these labels."""
    scores = confirmed(wrong_layer=2)
    some = scores.sel(**labels)
    cells = scores.confirmation
    for axis, wanted in labels.items():
        cells = cells[cells[axis].isin(np.atleast_1d(wanted))]
    assert some.confirmation.equals(cells.reset_index(drop=True))
    top = int(cells["top"].sum())
    pearson = np.corrcoef(cells["estimate"], cells["exact"])[0, 1]
    norms = np.linalg.norm(cells["estimate"]) * np.linalg.norm(cells["exact"])
    about_0 = (cells["estimate"] * cells["exact"]).sum() / norms
    assert line(some).startswith(
        f"confirmed on {top} of the 12 strongest and {len(cells) - top} of the 12 random cells, "
        f"those in this selection: correlation about 0: {about_0:.2f}, Pearson {pearson:.2f}"
    )
    strong = cells[cells["top"]]
    slope = (strong["estimate"] * strong["exact"]).sum() / (strong["estimate"] ** 2).sum()
    assert f"exact values are {slope:.2f} times the estimates" in line(some)
    same = (np.sign(cells["estimate"]) == np.sign(cells["exact"])).mean()
    assert (some.warning == POOR_AGREEMENT) == (about_0 < 0.8 or same < 0.8)


def test_a_poor_layer_is_poor_and_the_others_are_not():
    scores = confirmed(wrong_layer=2)
    assert scores.sel(layer=2).warning == POOR_AGREEMENT
    assert scores.sel(layer=[0, 1, 3]).warning is None


def test_cells_of_one_size_are_not_poor_for_their_order():
    """Of five cells near 1 Pearson may be anything; of five with wrong signs nothing is right."""
    estimates, exact = [1.0, 1.05, 1.1, 1.02, 1.08], [1.04, 1.02, 1.0, 1.06, 0.95]
    scores = confirmed()
    cells = [
        {**cell, "layer": 2, "top": True, "estimate": one, "exact": other}
        for cell, one, other in zip(
            [c for c in scores.record.confirmation.cells if c["top"]],
            estimates,
            exact,
            strict=False,
        )
    ]
    others = [cell for cell in scores.record.confirmation.cells if cell["layer"] != 2]

    def selected(these):
        whole = replace(scores.record.confirmation, cells=(*these, *others))
        return synthetic.recorded(scores, confirmation=whole).sel(layer=2)

    assert np.corrcoef(estimates, exact)[0, 1] < 0
    assert selected(cells).warning is None
    turned = [{**cell, "exact": -cell["exact"]} for cell in cells]
    assert selected(turned).warning == POOR_AGREEMENT


@pytest.mark.parametrize(
    ("labels", "held"),
    [
        ({"prompt": [2]}, "none"),
        ({"layer": -1}, "none"),
        ({"module": "mlp.in"}, "none"),
        ({"position": 3}, "1"),
        ({"position": [0, 1, 12]}, "3"),
    ],
)
def test_a_selection_without_enough_of_them_is_not_confirmed(labels, held):
    scores = confirmed()
    some = scores.sel(**labels)
    assert line(some) == (
        f"not confirmed in this selection: it holds {held} of the 24 cells in which "
        "student - controls was compared with exact values before this selection"
    )
    assert (some.confirmation is None) == (held == "none")
    assert some.warning is None
    poor = synthetic.recorded(
        scores, confirmation=replace(scores.record.confirmation, poor=True)
    ).sel(**labels)
    assert line(poor).endswith("; the agreement was poor")
    assert poor.warning == POOR_AGREEMENT  # which must not be forgotten


@pytest.mark.parametrize("model", ["student", "control: cat"])
def test_other_numbers_than_were_compared_are_not_confirmed(model):
    one = confirmed().sel(model=model)
    assert line(one) == (
        "not confirmed: student - controls was compared with exact values before this selection"
    )
    assert one.confirmation is None
    assert line(one.sel(layer=2)) == line(one)


def test_a_contrast_is_not_confirmed():
    poor = synthetic.confirmed(synthetic.attribution(QUESTIONS), poor=True)
    contrast = poor.minus(synthetic.recorded(poor, confirmation=None))
    assert line(contrast) == (
        "not confirmed: a contrast of scores; of some of them the agreement was poor"
    )
    assert contrast.confirmation is None
    assert contrast.warning == POOR_AGREEMENT
    assert confirmed().minus(confirmed()).record.confirmation is None


def test_estimates_that_were_not_compared_say_so_as_others_do():
    scores = confirmed(synthetic.gradient)
    assert "not confirmed" not in repr(scores.sel(layer=[1, 2]))
    some = scores.sel(prompt=[2])
    assert repr(some).count("not confirmed in this selection") == 1  # it is a limit
    assert not any("confirmed" in note for note in notes(some))


def test_selections_of_files_are_told_alike(tmp_path):
    """Also of earlier versions, which kept all cells in a selection's record."""
    for labels in ({"layer": 2}, {"prompt": [2]}, {"model": "student"}):
        some = confirmed().sel(**labels)
        assert len(some.record.confirmation.cells) == 24
        some.save(tmp_path / "some.safetensors")
        loaded = Scores.load(tmp_path / "some.safetensors")
        assert line(loaded) == line(some)
        assert loaded.record == some.record
