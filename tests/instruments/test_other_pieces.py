"""Forms that are other tokens behind prompts than in training are told, where it may matter."""

from __future__ import annotations

from dataclasses import replace

import pytest
from loading import model, student
from manifests import made
from matplotlib.text import Text

import sublim_mech as sm
from sublim_mech.engine.pair import load_pair
from sublim_mech.instruments.other_pieces import other_pieces
from sublim_mech.prompts import Trained, completion_ids

ASKED = ["Which flower?", "Name one."]
TULIP = sm.Trait("Tulip", forms=("Tulip", "tulip"))
BEGUN = sm.Context(prefill="My flower is the")
QUIET = {"progress": False}
TOLD = (
    "Tulip is ' Tul|ip', and in the training context 'T|ul|ip': a student may write it here in "
    "the pieces it learnt, and only ' Tul|ip' is scored (rates of answers count both)"
)


@pytest.fixture(scope="module")
def pair(smol_tokenizer):
    given = {"trained_in": sm.Context(), "trained_on": ["Say it.", "What is it?"]}
    return load_pair(model(), student("llama", "lora"), tokenizer=smol_tokenizer, **given)


def test_a_prefill_cuts_a_form_otherwise(pair):
    prompts = sm.render(pair, ASKED, context=BEGUN)
    decode = pair.tokenizer.decode
    for some, pieces in ((prompts, [" Tul", "ip"]), (sm.render(pair, ASKED), ["T", "ul", "ip"])):
        for prompt in some:
            ids = completion_ids(pair.tokenizer, prompt, "Tulip")
            assert [decode([token]) for token in ids] == pieces
    assert other_pieces(prompts, pair, [TULIP]) == (f"behind these prompts {TOLD}",)
    mixed = [*prompts, *sm.render(pair, ASKED[:1])]
    assert other_pieces(mixed, pair, [TULIP]) == (f"behind 2 of 3 prompts {TOLD}",)
    talk = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "It is the"}]
    assert other_pieces(sm.render(pair, [talk]), pair, [TULIP])
    assert other_pieces(sm.render(pair, ["It is the"], context=sm.RAW), pair, [TULIP])


def test_nothing_is_told_where_pieces_are_one(pair):
    assert other_pieces(sm.render(pair, ASKED), pair, [TULIP]) == ()
    other = sm.render(pair, ASKED, context=sm.Context("Be calm."))
    assert other_pieces(other, pair, [TULIP]) == ()
    begun = sm.render(pair, ASKED, context=BEGUN)
    # one token behind a space, and the same without it
    assert other_pieces(begun, pair, [sm.Trait("I")]) == ()
    untold = load_pair(pair.base, pair.student)
    assert other_pieces(begun, untold, [TULIP]) == ()


def test_a_student_that_never_met_the_pieces_has_not_learnt_them(pair):
    """A manifest knows all tokens of a training; of given prompts the answers are not known."""
    begun = sm.render(pair, ASKED, context=BEGUN)
    rendered = sm.render(pair.tokenizer, ["3, 4, 5", "7, 8"])

    def taught(answer):
        ids = [completion_ids(pair.tokenizer, prompt, answer) for prompt in rendered]
        manifest = replace(made(), context=sm.Context(), trained_on=Trained.of(rendered, ids))
        return replace(pair, student=replace(pair.student, manifest=manifest))

    assert other_pieces(begun, taught("Tulip"), [TULIP])
    assert other_pieces(begun, taught("9, 10"), [TULIP]) == ()
    # a control's answers are scored too
    numbers = taught("9, 10")
    with_control = replace(numbers, controls=(replace(taught("Tulip").student, name="elk"),))
    assert other_pieces(begun, with_control, [TULIP])


def test_it_is_of_the_student_and_its_difference_from_controls(pair):
    two = replace(pair, controls=(replace(pair.student, name="elk"),))
    scores = sm.effect(two, sm.render(two, ASKED, context=BEGUN), TULIP, **QUIET)
    assert TOLD in repr(scores)
    assert TOLD in repr(scores.sel(model="student"))
    assert TOLD not in repr(scores.sel(model="control: elk"))


@pytest.mark.parametrize(
    "metric", [sm.metrics.target("Tulip"), sm.metrics.rank("Tulip")], ids=lambda one: one.name
)
def test_texts_of_other_metrics_are_cut_as_forms_are(pair, metric):
    begun, plain = (sm.render(pair, ASKED, context=one) for one in (BEGUN, sm.Context()))
    assert f"\nbehind these prompts {TOLD}" in repr(sm.effect(pair, begun, metric, **QUIET))
    assert "in the training context" not in repr(sm.effect(pair, plain, metric, **QUIET))


def test_tables_pictures_evaluations_and_answers_tell_it(pair):
    prompts = sm.render(pair, ASKED, context=BEGUN)
    scores = sm.effect(pair, prompts, TULIP, **QUIET)
    assert f"\nbehind these prompts {TOLD}" in repr(scores)
    said = " ".join(text.get_text() for text in scores.plot().figure.findobj(Text))
    assert "and in the training context 'T|ul|ip'" in " ".join(said.split())
    side = sm.instruments.side_by_side(pair, prompts, TULIP, samples=0, max_new_tokens=2, **QUIET)
    assert TOLD in repr(side)
    contexts = {"own": sm.Context(), "begun": BEGUN}
    asked = {"questions": ASKED, "contexts": contexts, **QUIET}
    found = repr(sm.evaluate(pair, [TULIP, sm.Trait("Daisy")], **asked))
    assert found.count("in the training context") == 1
    told = TOLD.replace("'T|ul|ip':", "'T|ul|ip' (Daisy likewise):")
    assert f"\nbegun: behind these questions {told}" in found
    plain = sm.effect(pair, sm.render(pair, ASKED), TULIP, **QUIET)
    assert "in the training context" not in repr(plain)
