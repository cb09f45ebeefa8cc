"""Tokens of a prompt, and how their text is shown."""

import numpy as np
import pytest
import synthetic

from sublim_mech.results.tokens import label, prompt_tokens, visible


def test_padding_is_left_out():
    scores = synthetic.attribution()
    for prompt in range(3):
        tokens = prompt_tokens(scores, prompt)
        real = scores.positions("role")[prompt] != ""
        np.testing.assert_array_equal(tokens.real, real)
        assert tokens.texts.tolist() == scores.positions("token")[prompt, real].tolist()
        assert tokens.roles.tolist() == scores.positions("role")[prompt, real].tolist()
        assert tokens.sharing.tolist() == scores.positions("sharing")[prompt, real].tolist()
        np.testing.assert_array_equal(tokens.effect, scores.token_effect()[prompt, real])


def test_noise_is_that_of_the_scores_where_it_was_tested():
    scores = synthetic.attribution(synthetic.several(9))
    tokens = prompt_tokens(scores, 2)
    untold = tokens.noise | tokens.untested
    np.testing.assert_array_equal(untold, scores.noise(2, tokens=True)[tokens.real])
    assert tokens.untested.any()
    assert not (tokens.noise & tokens.untested).any()
    assert not prompt_tokens(synthetic.attribution(), 0).noise.any()


def test_unmarked_prompts_have_no_sharing():
    assert prompt_tokens(synthetic.attribution(sharing=False), 0).sharing is None


@pytest.mark.parametrize("prompt", [3, -1])
def test_unknown_prompt(prompt):
    with pytest.raises(IndexError, match=rf"prompt={prompt}.*3 prompts.*0 to 2"):
        prompt_tokens(synthetic.attribution(), prompt)


def test_white_space_of_tokens_is_visible():
    assert visible(" owl\n") == "␣owl↵"
    assert visible("\t\x07") == "⇥\\x07"
    assert visible("\u200d") == "\\u{200d}"
    assert label("x" * 100) == "x" * 23 + "…"
    assert label("猫" * 100) == "猫" * 11 + "…"  # each is as wide as two letters
