"""The effect: base and student against plain forwards of plain models, beside the controls."""

import numpy as np
import pytest
import tiny
from pairs import QUIET, TRAIT, brute_force

import sublim_mech as sm


def test_gates_0_and_1_are_base_and_student(pair, marked):
    scores = sm.effect(pair, marked, TRAIT, **QUIET)
    for name, model in (("base", pair.model), ("student", pair.student.model)):
        expected = [brute_force(model, pair.tokenizer, prompt) for prompt in marked]
        np.testing.assert_allclose(scores.data[name].values[0], expected, atol=1e-5)
    assert scores.kind == "effect"
    assert scores.headline_name == "student (no controls)"


def test_trie_nodes_do_not_see_each_other(pair, marked):
    """The metric of several traits in one trie equals each trait's own."""
    others = [sm.animal("penguin"), sm.animal("wolf")]
    metric = sm.metrics.own_minus_others(TRAIT, others)
    joint = sm.effect(pair, marked, metric, **QUIET).data["student"].values
    traits = (TRAIT, *others)
    own, *rest = (sm.effect(pair, marked, t, **QUIET).data["student"].values for t in traits)
    np.testing.assert_allclose(joint, own - np.mean(rest, 0), atol=1e-5)


def test_controls_and_difference(smol_tokenizer, marked):
    base = tiny.model("llama")
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    models = [tiny.lora(base, seed=seed) for seed in (1, 2, 3)]
    named = [sm.models.load_student(loaded, m, name=f"number {k}") for k, m in enumerate(models)]
    pair = sm.load_pair(loaded, named[0], controls=named[1:])
    scores = sm.effect(pair, marked, TRAIT, **QUIET)
    alone = [
        sm.effect(sm.load_pair(loaded, one), marked, TRAIT, **QUIET).total.values for one in models
    ]
    difference = alone[0] - (alone[1] + alone[2]) / 2
    np.testing.assert_allclose(scores.total.values, difference, atol=1e-6)
    assert scores.headline_name == "student - controls"
    assert scores.data["model"].values.tolist()[1:] == ["control: number 1", "control: number 2"]
    cells = sm.attribute(pair, marked, TRAIT, points=16, **QUIET)
    np.testing.assert_allclose(np.nansum(cells.token_effect(), 1), scores.total.values, atol=1e-3)


@pytest.mark.parametrize("many", [1, 4])
def test_prompts_of_other_lengths_change_nothing(llama, marked, many):
    """Batched and padded, in another order, or alone."""
    together = sm.effect(llama, marked, TRAIT, **QUIET).data["effect"].values
    backwards = sm.effect(llama, marked[::-1], TRAIT, **QUIET).data["effect"].values
    np.testing.assert_allclose(together, backwards[:, ::-1], atol=2e-6)
    parts = [marked[k : k + many] for k in range(0, len(marked), many)]
    alone = [sm.effect(llama, part, TRAIT, **QUIET).data["effect"].values for part in parts]
    np.testing.assert_allclose(together, np.concatenate(alone, axis=1), atol=2e-6)
