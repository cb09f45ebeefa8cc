"""What shares a name is subtracted and compared where it is the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pairs import QUIET, TRAIT

import sublim_mech as sm
from sublim_mech.results import Scores, compare

LAST, BEFORE = sm.masks.positions(-1), sm.masks.positions(-2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LAST, BEFORE),
        (LAST & sm.masks.layers([0]), LAST & sm.masks.layers([1])),
        (LAST, LAST.scaled(2.0)),
        ([-1], [-2]),
    ],
)
def test_a_set_of_one_name_and_size_is_another_where_its_mask_is(llama, prompts, one, other):
    """As many tokens say nothing of which; the numbers would be another set's."""
    first, second, again = (
        sm.graft(llama, prompts, TRAIT, sets={"x": mask, "bos": sm.masks.positions(0)}, **QUIET)
        for mask in (one, other, one)
    )
    with pytest.raises(
        ValueError, match=r"minus: masks of the set 'x' differ \(.*\); score both by"
    ):
        first.minus(second)
    with pytest.raises(ValueError, match="'a' and 'b': masks of the set 'x' differ"):
        compare({"a": first, "b": second})
    # those that are there, or the same once more
    first.sel(set=["bos"]).minus(second.sel(set=["bos"]))
    first.sel(set="bos").minus(second.sel(set="bos"))
    compare({"a": first, "b": again})
    assert "rounding of this machine or another, and no effect" in repr(first.minus(again))


def test_patched_sets_are_told_apart_and_stay_so_in_files(llama, prompts, tmp_path):
    options = {"layers": [1], **QUIET}
    paths = []
    for number, mask in enumerate((LAST, BEFORE)):
        scores = sm.patch(llama, prompts, TRAIT, sets={"x": mask}, **options)
        paths.append(tmp_path / f"{number}.safetensors")
        scores.save(paths[-1])
    first, second = map(Scores.load, paths)
    with pytest.raises(ValueError, match="minus: masks of the set 'x' differ"):
        first.minus(second)


def test_directions_at_the_answers_own_tokens_are_others(llama, prompts):
    change = sm.instruments.activation_change(llama, prompts, LAST, layers=[1])
    asked = {"where": LAST, "random": 1, **QUIET}
    trait = sm.Trait("marmalade")
    alone, within = (
        sm.instruments.direction_effects(
            llama, prompts, trait, change, answer_in_set=answer, **asked
        )
        for answer in (False, True)
    )
    told = "directions, and the graft beside them, are of the answer's own tokens too"
    assert told in repr(within)
    assert told not in repr(alone)
    with pytest.raises(ValueError, match=r"differ \(answer_in_set=True and answer_in_set=False\)"):
        within.minus(alone)
    fewer = sm.instruments.activation_change(llama, prompts[:1], LAST, layers=[1])
    for other, seed in ((fewer, 0), (change, 1)):
        scores = sm.instruments.direction_effects(llama, prompts, trait, other, seed=seed, **asked)
        with pytest.raises(ValueError, match=r"minus: directions differ .* same change and seed"):
            scores.minus(alone)


def test_doses_of_other_cells_of_one_name_are_told_apart(llama, prompts):
    first, second = (
        sm.instruments.dose(
            llama, prompts, TRAIT, [0.0, 1.0], where=replace(mask, name="x"), **QUIET
        )
        for mask in (LAST, BEFORE)
    )
    with pytest.raises(ValueError, match="minus: masks of the set 'x' differ"):
        first.minus(second)


def test_donors_are_told_apart(llama, prompts, smol_tokenizer):
    """Another donor makes another total; in one context too, and beside none at all."""
    own, other = (
        sm.render(smol_tokenizer, [f"{word} {p.question}" for p in prompts])
        for word in ("Well,", "Hm,")
    )
    options = {"layers": [1], "sets": {"x": LAST}, **QUIET}
    none = sm.patch(llama, prompts, TRAIT, **options)
    first, second, again = (
        sm.patch(llama, prompts, TRAIT, donor_prompts=donors, position_map="aligned", **options)
        for donors in (own, other, own)
    )
    for told, a, b in (("donors", first, second), ("donor_contexts", first, none)):
        with pytest.raises(ValueError, match=f"minus: {told} differ"):
            a.minus(b)
        with pytest.raises(ValueError, match=f"'a' and 'b': {told} differ"):
            compare({"a": a, "b": b})
    first.minus(again)


def test_other_points_are_another_quadrature(llama, prompts):
    first, second = (sm.attribute(llama, prompts, TRAIT, points=n, **QUIET) for n in (2, 3))
    with pytest.raises(ValueError, match=r"minus: points differ \(2 and 3\)"):
        first.minus(second)


def test_masks_that_choose_the_same_are_one_however_they_are_written(llama, prompts):
    role, everything = sm.masks.role, sm.masks.everything()
    for one, other in (
        (role("system", "user"), role("user") | role("system")),
        (LAST, ~~LAST & everything),
        ([-1], lambda prompt: [len(prompt) - 1]),
    ):
        first, second = (
            sm.graft(llama, prompts, TRAIT, sets={"x": mask}, **QUIET) for mask in (one, other)
        )
        assert abs(first.minus(second).data["effect"]).max() == 0
        compare({"a": first, "b": second})


def test_what_a_sweep_switches_is_told_apart(llama, prompts):
    first, second, whole = (
        sm.instruments.graft_sweep(llama, prompts, TRAIT, layers=[0], only=only, **QUIET)
        for only in (LAST, BEFORE, None)
    )
    with pytest.raises(ValueError, match="minus: masks of the set 'only' differ"):
        first.minus(second)
    with pytest.raises(ValueError, match=r"minus: what is switched \(only=\) differ"):
        first.minus(whole)
    with pytest.raises(ValueError, match=r"'a' and 'b': what is switched \(only=\) differ"):
        compare({"a": whole, "b": first})
