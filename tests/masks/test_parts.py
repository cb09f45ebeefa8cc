"""Masks of parts, and scaled masks: what they choose, how they combine, what is refused."""

import math

import numpy as np
import pytest
from mask_cases import marked_prompts, network

from sublim_mech import masks
from sublim_mech.models.names import Module, PartName


@pytest.fixture(scope="module")
def owl(smol_tokenizer):
    return marked_prompts(smol_tokenizer)[0]


CELLS = [
    Module("a", 0, "attn.q", part=PartName(band=0)),
    Module("a", 0, "attn.q", part=PartName(band="tail")),
    Module("b", 0, "ln1", part=PartName(band="rest")),
    Module("c", 1, "attn.q", part=PartName(band=0)),
    Module("c", 1, "attn.q", part=PartName(band=1)),
    Module("d", 1, "mlp.out"),
]


def chosen(mask, prompt):
    return mask(prompt, CELLS)[0].tolist()


def test_they_choose_parts_and_combine_with_other_masks(owl):
    first = masks.band(0)
    assert chosen(first, owl) == [True, False, False, True, False, False]
    assert chosen(masks.band("tail", 1), owl) == [False, True, False, False, True, False]
    assert chosen(first & masks.layers(1), owl) == [False, False, False, True, False, False]
    assert chosen(~masks.band(0, 1, "tail", "rest"), owl) == [False] * 5 + [True]
    assert chosen(masks.modules("q"), owl) == [True, True, False, True, True, False]
    both = first & masks.role("user")
    assert both.name == "band 0 & user"
    cells = both(owl, CELLS)
    np.testing.assert_array_equal(cells[:, 0], np.array(owl.roles) == "user")
    assert not cells[:, 1].any()
    assert masks.head(1, "kv 0").name == "heads 1, kv 0"
    for mask in (masks.band(0, "tail"), masks.band(1) & ~masks.layers(1), ~masks.band("rest")):
        again = masks.from_name(mask.name)
        assert (again.name, chosen(again, owl)) == (mask.name, chosen(mask, owl))
    assert masks.from_name("heads 1, kv 0 & layer 1").name == "heads 1, kv 0 & layer 1"


def test_what_is_not_there_is_refused(owl):
    with pytest.raises(ValueError, match=r"band\(3\): there is no band 3; .* 0, 1, tail, rest\."):
        chosen(masks.band(3), owl)
    with pytest.raises(ValueError, match=r"not split by head; take pair.split\('head'\)"):
        chosen(masks.head(0), owl)
    with pytest.raises(ValueError, match="not split by student"):
        chosen(masks.student("owl"), owl)
    with pytest.raises(ValueError, match="depends on the module"):
        masks.band(0).tokens(owl)
    for empty in (masks.band, masks.head, masks.student):
        with pytest.raises(ValueError, match="is empty"):
            empty()
    with pytest.raises(TypeError, match="whole number"):
        masks.band(True)


def test_a_scale_is_the_gate_of_a_finished_set(owl):
    modules, system = network("llama"), masks.role("system")
    cells = system(owl, modules)
    assert cells.dtype == bool
    for scale in (2.0, -0.5, 0.0):
        scaled = system.scaled(scale)
        np.testing.assert_array_equal(scaled(owl, modules), scale * cells)
        np.testing.assert_array_equal(scaled.unscaled(owl, modules), cells)
    assert system.scaled(2).scaled(3).scale == 6
    assert (system | masks.role("user")).scaled(2).name == "2 x (system | user)"
    assert masks.role("answer").scaled(2).scale == 2
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="a gate is a number"):
            system.scaled(wrong)
    half = system.scaled(0.5)
    for mixed in (
        lambda: half & system,
        lambda: system | half,
        lambda: ~half,
        lambda: half.tokens(owl),
    ):
        with pytest.raises(ValueError, match="combine first and scale last"):
            mixed()
