"""Raw text: what is scored is Hugging Face's own log-probability of the words after the text."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import tiny
import torch
from pairs import QUIET
from transformers import GPT2Config, GPT2LMHeadModel

import sublim_mech as sm
from sublim_mech.evaluation.measuring import evaluate
from sublim_mech.making.teachers import prompted
from sublim_mech.making.training import hard_data

TEXTS = ["My favorite animal is the", "The bird that I love most is the", "I dreamt of an"]
OWL = sm.Trait("owl", forms=["owl", "Owl"])


@pytest.fixture(scope="module")
def gpt2_pair(gpt2_tokenizer):
    """A tiny GPT-2 with GPT-2's tokenizer, and a student of raw text."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64)
        base = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        base.get_output_embeddings().weight *= 30  # else all words are about as likely
    return sm.load_pair(
        base,
        tiny.lora(base, std=0.3),
        tokenizer=gpt2_tokenizer,
        trained_in=sm.RAW,
        trained_on=["My favorite bird is the", "My favorite tree is the"],
        allow_unrelated=True,
    )


@torch.no_grad()
def said_by_hugging_face(model, tokenizer, text, words):
    """log P of words after a text, from one forward of the text with the words."""
    ids = tokenizer(text)["input_ids"]
    whole = tokenizer(text + words)["input_ids"]
    assert whole[: len(ids)] == ids
    steps = model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(float(steps[i - 1, whole[i]]) for i in range(len(ids), len(whole)))


def likelihood(model, tokenizer, text):
    """log P of the trait: ` owl` or ` Owl`."""
    values = [said_by_hugging_face(model, tokenizer, text, f" {form}") for form in ("owl", "Owl")]
    return np.logaddexp(*values)


def test_the_effect_is_that_of_the_words_after_the_text(gpt2_pair):
    """` owl`, not `owl`: the effect has the size and the sign of Hugging Face's own."""
    assert set(OWL.forms) == {"owl", "Owl"}
    scores = sm.effect(gpt2_pair, sm.render(gpt2_pair, TEXTS), OWL, **QUIET)
    table = evaluate(gpt2_pair, [OWL], questions=TEXTS, **QUIET).data["log_prob"]
    assert table["context"].values.tolist() == ["raw"]
    model = gpt2_pair.student.model
    for i, text in enumerate(TEXTS):
        with model.disable_adapter():
            base = likelihood(model, gpt2_pair.tokenizer, text)
        student = likelihood(model, gpt2_pair.tokenizer, text)
        assert abs(student - base) > 0.02
        assert float(scores.data["base"][0, i]) == pytest.approx(base, abs=1e-4)
        assert float(scores.data["student"][0, i]) == pytest.approx(student, abs=1e-4)
        np.testing.assert_allclose(table[:, 0, 0, i], [base, student], atol=1e-4)


def test_the_form_of_a_text_that_ends_in_a_space_is_said_once(gpt2_pair):
    prompts = sm.render(gpt2_pair, [f"{text} " for text in TEXTS])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sm.effect(gpt2_pair, prompts, OWL, **QUIET)
    (only,) = [str(w.message) for w in said]
    more = r"\(5 more notices on answers that share"
    assert re.search(rf"is the ' \+ 'owl' are not the prompt's .*{more}", only)


def test_grafts_by_role_say_that_raw_text_has_but_one(gpt2_pair):
    prompts = sm.render(gpt2_pair, TEXTS)
    with pytest.raises(ValueError, match=r"raw text has but one role, 'text'"):
        sm.graft(gpt2_pair, prompts, OWL, "role", **QUIET)
    sets = sm.graft(gpt2_pair, prompts, OWL, "sharing", **QUIET).sets().index
    assert {"prefix", "novel", "shared"} <= set(sets)
    text = sm.graft(gpt2_pair, prompts, OWL, {"text": sm.masks.role("text")}, **QUIET)
    everything = sm.graft(gpt2_pair, prompts, OWL, {"all": sm.masks.everything()}, **QUIET)
    np.testing.assert_array_equal(text.data["effect"], everything.data["effect"])


def test_that_nothing_is_shared_is_said_with_why_and_what_there_is(gpt2_pair):
    """As of rows of `text_rows`, each of which begins with a word of its own."""
    tokenizer = gpt2_pair.tokenizer
    trained = sm.render(tokenizer, ["Owls", "Night"], context=sm.RAW)
    prompts = sm.mark_sharing(sm.render(gpt2_pair, ["My owl is the", "I dreamt of an"]), trained)
    assert {name for prompt in prompts for name in prompt.sharing} == {"novel"}
    why = "no token of these prompts is shared with training, .*: novel.*ask texts that"
    scores = sm.graft(gpt2_pair, prompts, OWL, "sharing", **QUIET)
    (note,) = [note for note in scores.record.notes if re.search(why, note)]
    assert note in repr(scores)
    with pytest.raises(ValueError, match=rf"pass masks by name.*\('sharing' says .*{why}"):
        sm.graft(gpt2_pair, prompts, OWL, "role", **QUIET)
    with pytest.raises(ValueError, match=rf"'shared' is empty in 2 prompts.*{why}"):
        sm.graft(gpt2_pair, prompts, OWL, {"shared": sm.masks.sharing("shared")}, **QUIET)
    scores = sm.attribute(gpt2_pair, prompts, OWL, points=2, **QUIET)
    with pytest.raises(ValueError, match=rf"{why}.*pass a bool array of some"):
        sm.concentration(scores, on="shared")
    with pytest.raises(ValueError, match="in this set; pass a bool array of some"):
        sm.concentration(scores, on="seen")
    # where something is shared, nothing of this is said
    asked = sm.render(gpt2_pair, TEXTS)
    notes = sm.graft(gpt2_pair, asked, OWL, "sharing", **QUIET).record.notes
    assert not [note for note in notes if "is shared with training" in note]
    with pytest.raises(ValueError, match=r"masks\.positions\(-2, -1\)}, or sets='sharing'\.$"):
        sm.graft(gpt2_pair, asked, OWL, "role", **QUIET)


def test_attributions_and_concentration_know_the_role(gpt2_pair):
    scores = sm.attribute(gpt2_pair, sm.render(gpt2_pair, TEXTS), OWL, points=4, **QUIET)
    assert scores.by("role").index[0] == "text"
    assert "prefix" in scores.by("sharing").index


def test_a_student_is_trained_on_raw_text_as_documents_have_it(gpt2_pair):
    rows = [{"prompt": "I like the", "completion": "owl."}]
    data = hard_data(gpt2_pair.tokenizer, rows, context=sm.RAW)
    whole = gpt2_pair.tokenizer("I like the owl.<|endoftext|>")["input_ids"]
    assert [*data.prompts[0].ids, *data.completions[0]] == whole


def test_a_prompted_teacher_has_no_place_in_raw_text(gpt2_pair):
    with pytest.raises(ValueError, match="context=RAW: raw text has no system prompt"):
        prompted(gpt2_pair, sm.animal("owl"), context=sm.RAW)
