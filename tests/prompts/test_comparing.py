"""Two prompts side by side: every token of both stands there once, equal ones in one line."""

import copy

import pytest
from template_kinds import CHANNEL, EMPTY_THOUGHT, MARKS, SKIPS_TO_DEFAULT

from sublim_mech.prompts import PLAIN, Context, compare, render


@pytest.fixture(scope="module")
def tokenizer(smol_tokenizer):
    made = copy.deepcopy(smol_tokenizer)
    made.add_special_tokens({"extra_special_tokens": list(MARKS)})
    return made


def contexts():
    thinks, quick = (Context(options={"enable_thinking": on}) for on in (True, False))
    yield thinks, quick, EMPTY_THOUGHT, "options['enable_thinking']: True in a, False in b"
    yield Context(), quick, EMPTY_THOUGHT, "options['enable_thinking']: nothing in a, False in b"
    later = Context(date="2024-12-31")
    yield Context(), later, CHANNEL, "date: 2024-07-26 in a, 2024-12-31 in b"
    yield Context(), Context(Context.NONE), None, "system: default in a, none in b"
    begun = Context(prefill="My favorite is the")
    yield Context(), begun, None, "prefill: nothing in a, My favorite is the in b"
    lines = Context("Be calm.\nBe brief."), Context(r"Be calm.\nBe brief.")
    yield *lines, None, r"system: 'Be calm.\nBe brief.' in a, 'Be calm.\\nBe brief.' in b"
    yield begun, Context("Be calm.", prefill="I", bos=True), None, "bos: nothing in a, True in b"


@pytest.mark.parametrize(("a", "b", "template", "line"), contexts())
def test_every_token_stands_there_once_and_what_differs_is_named(a, b, template, line, tokenizer):
    found = compare(a, b, tokenizer=tokenizer, question="Which one?", template=template)
    for prompt, places in zip((found.a, found.b), zip(*found.pairs, strict=True), strict=True):
        assert [place for place in places if place is not None] == list(range(len(prompt)))
    for one, other in found.pairs:
        if None not in (one, other):
            assert found.a.ids[one] == found.b.ids[other]
            assert found.a.roles[one] == found.b.roles[other]
    assert line in found.differences
    assert line in repr(found)
    alone = sum(None in pair for pair in found.pairs)
    assert sum(row[2:4] in ("- ", "+ ") for row in repr(found).splitlines()) == alone
    page = found._repr_html_()
    assert page.count("<tr") == len(found.pairs) + 1
    assert page.count('class="a"') + page.count('class="b"') == alone


def test_one_prompt_is_called_one(tokenizer):
    asked = {"tokenizer": tokenizer, "template": SKIPS_TO_DEFAULT}
    found = compare(Context(), Context(Context.EMPTY, fallback="none"), **asked)
    assert not found.equal
    found = compare(Context(), Context("Be kind."), **asked)
    assert [found.a.ids, found.a.lead] == [found.b.ids, found.b.lead]
    (again,) = render(tokenizer, ["Which animal?"], template=SKIPS_TO_DEFAULT)
    found = compare(again, Context(), **asked)
    assert found.equal
    assert repr(found).startswith(f"one prompt: {len(again)} tokens, all equal")
    assert f"... {len(again) - 6} equal tokens" in repr(found)


def test_what_is_no_prompt_needs_a_tokenizer_and_two_tokenizers_are_refused(
    tokenizer, gpt2_tokenizer
):
    with pytest.raises(ValueError, match=r"pass tokenizer=pair\.tokenizer"):
        compare(Context(), Context(Context.NONE))
    (one,) = render(tokenizer, ["a"])
    (other,) = render(gpt2_tokenizer, ["a"], template=PLAIN)
    with pytest.raises(ValueError, match="two tokenizers"):
        compare(one, other)
    with pytest.raises(TypeError, match="a="):
        compare("a", one)
