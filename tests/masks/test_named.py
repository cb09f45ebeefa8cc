"""Names of sets that say what is in a set are true, in grafts and in patching alike."""

from __future__ import annotations

import pytest
from pairs import QUIET, TRAIT, shared_pair

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.masks.named import AXES, named_sets


@pytest.fixture(scope="module")
def pair(smol_tokenizer):
    return shared_pair("llama", "lora", smol_tokenizer)


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    trained = sm.render(smol_tokenizer, ["Continue: 1, 2", "Write three numbers."])
    return sm.mark_sharing(sm.render(smol_tokenizer, ["Which animal?", "Yours?"]), trained)


def both(pair, prompts, sets):
    """Both that take named sets."""
    yield lambda: sm.graft(pair, prompts, TRAIT, sets, **QUIET)
    yield lambda: sm.patch(pair, prompts, TRAIT, sets=sets, layers=[1], **QUIET)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("answer", "'answer' is what the answer's own tokens are called"),
        ("shared", r"'shared' is what tables call the tokens of masks\.sharing\('shared'\)"),
        ("not shared", "'not shared' is what tables call"),
        ("novel", "'novel' is what tables call"),
        ("all prompt tokens", r"call the tokens of masks\.everything\(\)"),
        ("layer", "'layer' is the name of an axis"),
        ("position", "'position' is the name of an axis"),
        ("sharing", "'sharing' is the name of an axis"),
        (" ", "the name ' ' is blank"),
        ("a ", "the name 'a ' begins or ends with white space"),
    ],
)
def test_a_name_of_other_tokens_is_refused(name, message, pair, prompts):
    for call in both(pair, prompts, {name: [0]}):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_set_that_moves_no_gate_is_refused_as_an_empty_one_is(pair, prompts):
    """Its sufficiency and necessity of 0 would read like a finding."""
    with pytest.raises(ValueError, match="'off' is scaled by 0, which neither opens nor closes"):
        sm.graft(pair, prompts, TRAIT, {"off": masks.everything().scaled(0)}, **QUIET)


def test_what_is_called_by_its_name_is_taken(pair, prompts):
    modules = list(pair.sites.modules.values())
    true = {name: masks.sharing(name) for name in ("prefix", "aligned", "shared", "not shared")}
    true |= {"all prompt tokens": masks.everything(), "answer": masks.role("answer")}
    assert list(named_sets(true, prompts, modules)) == list(true)
    # whatever it was made from: these are the same tokens
    for prompt in prompts:
        tokens = masks.sharing("shared").tokens(prompt)
        named_sets({"shared": tokens}, [prompt], modules)
        named_sets({"shared": masks.sharing("prefix", "aligned")}, [prompt], modules)
        with pytest.raises(ValueError, match="'shared' is what tables call"):
            named_sets({"shared": tokens[1:]}, [prompt], modules)
    early = {"shared": masks.sharing("shared") & masks.layers([0]), "system": masks.role("system")}
    assert sm.graft(pair, prompts, TRAIT, early, **QUIET).sets().index.tolist() == list(early)


def test_sharing_of_prompts_that_are_not_marked_is_nobodys_name(pair, smol_tokenizer):
    plain = sm.render(smol_tokenizer, ["Which animal?"])
    with pytest.raises(ValueError, match=r"'shared' is .*this prompt is not marked: render\(pair,"):
        sm.graft(pair, plain, TRAIT, {"shared": [0]}, **QUIET)


def test_the_names_of_axes_are_those_that_scores_have(pair, prompts):
    scores = sm.patch(pair, prompts, TRAIT, site="z", layers=[1], direction="both", **QUIET)
    spans = sm.patch(pair, prompts, TRAIT, layers=[1], by="word", **QUIET)
    grafts = sm.graft(pair, prompts, TRAIT, "role", **QUIET)
    cells = sm.attribute(pair, prompts, TRAIT, points=1, progress=False)
    axes = {str(dim) for one in (scores, spans, grafts, cells) for dim in one.data["effect"].dims}
    assert axes <= set(AXES)


def test_donors_that_are_the_prompts_themselves_are_refused(pair, prompts, smol_tokenizer):
    asked = {"layers": [1], **QUIET}
    again = sm.render(smol_tokenizer, ["Which animal?", "Yours?"])
    for position_map in ("identity", "aligned"):
        with pytest.raises(ValueError, match="donor_prompts: they are the prompts themselves"):
            sm.patch(pair, prompts, TRAIT, donor_prompts=again, position_map=position_map, **asked)
    scores = sm.patch(
        pair, prompts, TRAIT, donor_prompts=again[::-1], position_map="aligned", **asked
    )
    assert "donor on other prompts" in scores.title()


def test_a_layer_is_swept_once(pair, prompts):
    with pytest.raises(ValueError, match=r"layers=\[1, 1\]: give each layer once"):
        sm.instruments.graft_sweep(pair, prompts, TRAIT, layers=[1, 1], progress=False)
