"""The effect: base and student against plain forwards of plain models, beside the controls."""

from dataclasses import dataclass

import numpy as np
import pytest
import tiny
from pairs import NO_SYSTEM, QUIET, TRAIT, brute_force

import sublim_mech as sm
from sublim_mech.engine.answers import Answers
from sublim_mech.results.limits import in_full


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


def test_tokens_read_before_the_question_are_one_prompts_evidence(llama, marked, smol_tokenizer):
    early = sm.metrics.kl_to_base(at=[2])
    result = sm.effect(llama, marked, early, **QUIET)
    assert result.data.sizes["prompt"] == 1
    assert np.isnan(result.totals().loc["student", ["low", "high"]]).all()
    told = f"3 of {len(marked)} prompts are others up to the last token that the metric reads"
    assert told in repr(result)
    assert "token by token" not in repr(result)
    assert "one prompt: no intervals" in in_full(result)

    # where it is read behind the question, and in another context, prompts are evidence each
    late = sm.metrics.kl_to_base(at=[3, -1])
    assert sm.effect(llama, marked, late, **QUIET).data.sizes["prompt"] == len(marked)
    other = sm.render(smol_tokenizer, ["Which animal?", "Name one."], context=NO_SYSTEM)
    result = sm.effect(llama, [*marked, *other], early, **QUIET)
    assert (result.record.copies, result.record.unread) == (4, 4)

    # of copies token by token it is told by itself
    twice = sm.effect(llama, [*marked, marked[0]], early, **QUIET)
    assert "1 of 5 prompts is a copy of others, token by token" in repr(twice)
    assert "3 of 5 prompts are others up to the last token" in repr(twice)


@dataclass(frozen=True)
class Early(sm.metrics.Metric):
    """A metric of one's own that reads one token."""

    name = "first logit"
    place: int = 3

    def answers(self, tokenizer, prompt):
        return Answers(at=(self.place % len(prompt),))

    def read(self, logits, answers, base=None):
        return logits[:, 1, 0]


def test_one_value_of_prompts_that_are_one_as_far_as_is_read_is_told(llama, marked):
    result = sm.effect(llama, marked, Early(), **QUIET)
    assert result.data.sizes["prompt"] == len(marked), "nobody knows what its read uses"
    told = "4 of 4 prompts have the same tokens up to the last one that is read, and one value"
    assert [limit for limit in in_full(result) if limit.startswith(told)]
    assert repr(result).count(told) == 1
    assert told not in repr(sm.effect(llama, marked, Early(-1), **QUIET))
