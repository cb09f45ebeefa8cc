"""Directions of activation: one that is planted by a bias is found, and explains its graft."""

import copy

import numpy as np
import pytest
import tiny
import torch
from pairs import CAT, QUIET, TRAIT, recorded, student_gates, whole_run

import sublim_mech as sm
from sublim_mech.instruments import activation_change, direction_effects
from sublim_mech.instruments.changes import cosine

LAYER, EVERYWHERE = 1, sm.masks.everything()


def unit(seed):
    vector = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def planted(base, vector, layer=LAYER):
    """A student that adds a vector to the residual stream behind a block, by a bias."""
    student = copy.deepcopy(base)
    with torch.no_grad():
        student.transformer.h[layer].mlp.c_proj.bias += vector
    return student


@pytest.fixture(scope="module")
def gpt2_base():
    return tiny.model("gpt2")


@pytest.fixture(scope="module")
def biased(gpt2_base, smol_tokenizer):
    """The student's bias, its control's, and their pair."""
    vectors = 3 * unit(1), 2 * unit(2)
    student, control = (planted(gpt2_base, vector) for vector in vectors)
    pair = sm.load_pair(gpt2_base, student, controls=[control], tokenizer=smol_tokenizer)
    return vectors, pair


def test_a_planted_direction_is_found_with_cosine_1(biased, prompts):
    (vector, other), pair = biased
    change = activation_change(pair, prompts, sm.masks.role("user"), layers=[0, 1])
    assert cosine(change.vector(1), vector.numpy()) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(change.vector(1), vector, atol=1e-5)
    np.testing.assert_allclose(
        change.vector(1, "control: " + pair.controls[0].name), other, atol=1e-5
    )
    assert not change.vector(0).any()
    table = change.table()
    assert table.loc[1, "norm"] == pytest.approx(3, abs=1e-5)
    assert table.loc[1, "consistency"] == pytest.approx(1, abs=1e-6)
    assert np.isnan(table.loc[0, "consistency"])
    found = change.cosine(vector.numpy()[None], layers=[1])["cosine"]
    assert found.iloc[0] == pytest.approx(1, abs=1e-6)
    assert found.iloc[1] == pytest.approx(float(unit(1) @ unit(2)), abs=1e-5)


def test_means_are_over_tokens_then_prompts(llama, prompts):
    where = sm.masks.role("user")
    change = activation_change(llama, prompts, where, site="resid_mid", layers=[2])
    means = []
    for prompt in prompts:
        key = ("resid_mid", 2)
        after = recorded(llama, prompt, key, gates=student_gates(llama))
        moved = (after - recorded(llama, prompt, key))[0, where.tokens(prompt)]
        means.append(moved.double().mean(0).numpy())
    np.testing.assert_allclose(change.vector(2), np.mean(means, 0), atol=1e-6)


def test_a_constant_direction_explains_its_graft_exactly(biased, prompts):
    """A bias at one layer does to these tokens what its graft does, whatever the tokens."""
    _, pair = biased
    for where in (sm.masks.role("user"), EVERYWHERE):
        change = activation_change(pair, prompts, where, layers=[LAYER])
        scores = direction_effects(pair, prompts, TRAIT, change, random=1, **QUIET)
        own = scores.data["effect"].sel(vector="own").isel(layer=0)
        graft = scores.data["graft"]
        for measure in ("added", "subtracted"):
            np.testing.assert_allclose(
                own.sel(measure=measure), graft.sel(measure=measure), atol=2e-5
            )
        assert float(abs(graft.sel(measure="added")).max()) > 1e-3
        sets = sm.graft(pair, prompts, TRAIT, {"chosen": where}, **QUIET).data["effect"]
        np.testing.assert_allclose(
            graft.sel(measure="added"), sets.sel(set="chosen", measure="sufficiency"), atol=2e-5
        )
        np.testing.assert_allclose(
            graft.sel(measure="subtracted"), sets.sel(set="chosen", measure="necessity"), atol=2e-5
        )


def test_the_answer_belongs_to_it_where_that_is_asked(biased, prompts):
    _, pair = biased
    change = activation_change(pair, prompts, EVERYWHERE, layers=[LAYER])
    asked = {"random": 0, "answer_in_set": True, **QUIET}
    scores = direction_effects(pair, prompts, TRAIT, change, **asked)
    own = scores.data["effect"].sel(vector="own", measure="added").isel(layer=0)
    total = scores.data["student"] - scores.data["base"]
    np.testing.assert_allclose(own, total, atol=2e-5)  # all of it, for it is all there is


def test_the_others_direction_is_that_of_the_control(biased, prompts):
    (_, other), pair = biased
    change = activation_change(pair, prompts, EVERYWHERE, layers=[LAYER])
    scores = direction_effects(pair, prompts[:1], CAT, change, random=0, **QUIET)
    effect = scores.data["effect"].isel(prompt=0, layer=0).sel(measure="added")
    names = scores.data["model"].values.tolist()
    # added to the base, the control's direction is its own and the student's "others'"
    for one, another in (names, names[::-1]):
        ours = effect.sel(model=one, vector="others'")
        assert float(ours) == pytest.approx(
            float(effect.sel(model=another, vector="own")), abs=2e-5
        )
    key = ("resid_post", LAYER)
    by_hand = whole_run(pair, prompts[0], CAT, edits={key: lambda hidden: hidden + other})
    base = whole_run(pair, prompts[0], CAT)
    ours = effect.sel(model="student", vector="others'")
    assert float(ours) == pytest.approx(by_hand - base, abs=2e-5)


def test_tokens_before_the_question_change_once(llama, marked):
    """Prompts that are one up to the last chosen token are no evidence each."""
    change = sm.instruments.activation_change(llama, marked, [2, 3], layers=[1])
    assert change.data.sizes["prompt"] == 1
    cosines = change.cosine(np.ones((1, change.data.sizes["d_model"])))
    assert cosines[["low", "high"]].isna().all(axis=None)
    assert "2 tokens per prompt, 1 prompt" in repr(change)
    late = sm.instruments.activation_change(llama, marked, [-1], layers=[1])
    assert "1 token per prompt, 4 prompts" in repr(late)
    assert late.data.sizes["prompt"] == len(marked)
    assert set(change.made_from) == {prompt.ids for prompt in marked}


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "attn_out", "mlp_out"])
def test_all_three_are_edits_of_whole_forwards(site, llama, prompts):
    where = sm.masks.positions(3, 5, -1)
    change = activation_change(llama, prompts, where, site=site, layers=[1, 2])
    scores = direction_effects(llama, prompts[:1], TRAIT, change, random=2, seed=4, **QUIET)
    at = where.tokens(prompts[0])
    whole = student_gates(llama)
    base, top = (whole_run(llama, prompts[0], gates=gates) for gates in (None, whole))
    drawn = np.random.default_rng(4).standard_normal((2, 2, 32))
    for number, layer in enumerate((1, 2)):
        own = torch.tensor(change.vector(layer)).float()
        random = torch.tensor(drawn[1, number]).float()
        for name, vector in (("own", own), ("random 2", random * own.norm() / random.norm())):

            def added(hidden, vector=vector):
                hidden = hidden.clone()
                hidden[:, at] += vector
                return hidden

            def projected(hidden, vector=vector):
                hidden, line = hidden.clone(), vector / vector.norm()
                hidden[:, at] -= (hidden[:, at] @ line)[..., None] * line
                return hidden

            def run(edit, gates=None, key=(site, layer)):
                return whole_run(llama, prompts[0], gates=gates, edits={key: edit})

            expected = [
                run(added) - base,
                top - run(lambda hidden, v=vector: added(hidden, -v), whole),
                top - run(projected, whole),
            ]
            found = scores.data["effect"].sel(vector=name, layer=layer).values[0, 0]
            np.testing.assert_allclose(found, expected, atol=2e-5)


def test_zero_norms_and_strangers_are_refused(biased, llama, prompts):
    _, pair = biased
    change = activation_change(pair, prompts, [-1])
    with pytest.raises(ValueError, match="zero norm in layer 0"):
        direction_effects(pair, prompts, CAT, change, **QUIET)
    with pytest.raises(ValueError, match="zero norm in layer 0"):
        change.cosine(np.ones((1, 32)), layers=[0])
    with pytest.raises(ValueError, match="zero norm, which has no direction"):
        change.cosine(np.zeros((1, 32)), layers=[1])
    with pytest.raises(ValueError, match=r"\(1, 16\)"):
        change.cosine(np.ones((1, 16)), layers=[1])
    with pytest.raises(ValueError, match="other models"):
        direction_effects(llama, prompts, CAT, change, **QUIET)
    with pytest.raises(ValueError, match="layers=\\[7\\]"):
        direction_effects(pair, prompts, CAT, change, layers=[7], **QUIET)
    with pytest.raises(ValueError, match="random=-1"):
        direction_effects(pair, prompts, CAT, change, layers=[1], random=-1, **QUIET)
    with pytest.raises(ValueError, match="per head"):
        activation_change(llama, prompts, [-1], site="z")
    for site in ("resid", "hook_resid"):
        with pytest.raises(ValueError, match="not known here") as raised:
            activation_change(llama, prompts, [-1], site=site)
        offered = str(raised.value).partition("Choose one of ")[2].removesuffix(".").split(", ")
        assert "resid_post" in offered
        for name in offered:  # what is offered is taken
            activation_change(llama, prompts[:1], [-1], site=name, layers=[1])
    with pytest.raises(ValueError, match="layers=\\[0, 0\\]"):
        activation_change(llama, prompts, [-1], layers=[0, 0])
    with pytest.raises(ValueError, match="is empty in prompt"):
        activation_change(llama, prompts, [])
    with pytest.raises(ValueError, match="depends on the module"):
        activation_change(llama, prompts, sm.masks.layers([1]))
    with pytest.raises(ValueError, match="layer=7 was not measured"):
        change.vector(7)


def test_it_is_saved_and_shown(biased, marked, tmp_path):
    _, pair = biased
    change = activation_change(pair, marked, [-1], layers=[1, 2])
    assert "mean change of resid_post at chosen tokens, 1 token per prompt" in repr(change)
    scores = direction_effects(pair, marked, CAT, change, random=2, **QUIET)
    scores.save(tmp_path / "direction.safetensors")
    loaded = sm.Scores.load(tmp_path / "direction.safetensors")
    assert loaded.data.equals(scores.data)
    assert "shares of the total effect" in repr(loaded)
    table = scores.curve()
    assert table.index.tolist()[-1] == ("all", "graft")
    assert set(table.index.get_level_values("vector")) == {"own", "random", "others'", "graft"}


def test_directions_asked_where_they_were_made_say_so(llama, prompts):
    change = activation_change(llama, prompts[:1], [-1], layers=[1])
    told = [
        repr(direction_effects(llama, asked, CAT, change, random=0, **QUIET))
        for asked in (prompts[:2], prompts[1:])
    ]
    assert "1 of 2 prompts are among those that the directions were made from" in told[0]
    assert "were made from" not in told[1]
