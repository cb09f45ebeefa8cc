"""The exact check that a concentration advises can be pasted: it grafts the selection's cells."""

import numpy as np
import pytest
import tiny
from pairs import QUIET, TRAIT

import sublim_mech as sm
from sublim_mech.results import concentration

SELECTIONS = [
    {},
    {"layer": 1},
    {"layer": [0, 2]},
    {"layer": [0, 1, 2]},
    {"module": "attn.q"},
    {"layer": [0, 1], "module": ["attn.q", "mlp.out"]},
    {"layer": 2, "position": [1, 2, 3, 4]},
    {"position": [1, 5, 1000]},
]


@pytest.fixture(scope="module")
def asked(smol_tokenizer):
    return sm.render(smol_tokenizer, TRAIT.questions[:6])


@pytest.fixture(scope="module")
def scores(llama, asked):
    return sm.attribute(llama, asked, TRAIT, points=1, **QUIET)


@pytest.mark.parametrize("labels", SELECTIONS, ids=str)
def test_the_advised_mask_holds_the_selected_cells(llama, asked, scores, labels):
    known = scores.data["position"].values.tolist()
    if "position" in labels:
        labels = labels | {"position": [min(p, known[-1]) for p in labels["position"]]}
    some = scores.sel(**labels)
    check = concentration(some, on="template").exact_check
    code = check.partition("in ")[2].removesuffix(".")
    seen = {}

    def graft(pair, prompts, trait, sets):
        seen.update(sets)

    stub = type("sm", (), {"graft": staticmethod(graft), "masks": sm.masks})
    eval(code, {"sm": stub, "pair": llama, "prompts": asked, "trait": TRAIT})
    ((_, mask),) = seen.items()
    modules = llama.cells()
    # what the student changes; a graft of other modules does nothing
    names = scores.data["module"].values.tolist()
    changed = np.array([module.name in names for module in modules])
    layers = np.atleast_1d(labels.get("layer", scores.data["layer"].values)).tolist()
    kept = np.atleast_1d(labels.get("module", names)).tolist()
    chosen = [module.layer in layers and module.name in kept for module in modules]
    assert np.any(changed & chosen)
    for prompt in asked:
        positions = labels.get("position", range(len(prompt)))
        tokens = [
            role == "template" and place in positions for place, role in enumerate(prompt.roles)
        ]
        cells = np.broadcast_to(mask(prompt, modules), (len(prompt), len(modules)))
        expected = np.outer(tokens, chosen)
        np.testing.assert_array_equal(cells[:, changed], expected[:, changed])


def test_what_is_pasted_runs(llama, asked, scores):
    check = concentration(scores.sel(layer=[0, 1]), on="template").exact_check
    code = check.partition("in ")[2].removesuffix(".")
    found = eval(code, {"sm": sm, "pair": llama, "prompts": asked[:1], "trait": TRAIT})
    assert found.data["set"].values.tolist() == ["chosen"]


def test_parts_are_named_as_masks_name_them(llama, asked):
    split = llama.split("band", bands=2)
    scores = sm.attribute(split, asked, TRAIT, points=1, **QUIET)
    band = scores.data["band"].values.tolist()
    code = concentration(scores.sel(band=band[0], layer=1), on="template").mask
    mask = eval(code, {"sm": sm})
    cells = split.cells()
    chosen = [one.layer == 1 and str(one.part.band) == str(band[0]) for one in cells]
    np.testing.assert_array_equal(mask(asked[0], cells)[0], chosen)
    assert any(chosen)


def test_scores_of_one_model_are_not_as_attribute_gave_them(asked, smol_tokenizer):
    """Exact values would be of student minus controls, the estimates of one of them."""
    base = tiny.model("llama")
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    control = sm.models.load_student(loaded, tiny.lora(base, seed=2), name="other")
    both = sm.load_pair(loaded, tiny.lora(base), controls=[control])
    scores = sm.attribute(both, asked[:1], TRAIT, points=1, **QUIET)
    with pytest.raises(ValueError, match="as attribute gave them, then select"):
        sm.confirm(both, asked[:1], TRAIT, scores.sel(model="student"), k=2, **QUIET)
