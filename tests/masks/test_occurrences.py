"""Masks of text, against slicing and `re`."""

import re

import pytest
from mask_cases import QUESTION, marked_prompts

from sublim_mech import masks
from sublim_mech.prompts import render


@pytest.fixture(scope="module")
def owl(smol_tokenizer):
    return marked_prompts(smol_tokenizer)[0]


def touched(prompt, start, end):
    """Tokens that share a character with text[start:end], by marking characters."""
    marked = set(range(start, end))
    return [t for t, (a, b) in enumerate(prompt.offsets) if set(range(a, b)) & marked]


@pytest.mark.parametrize(
    "substring",
    [
        "owl", "Owl", "an owl", "🦉", "🦉 an", "Hugging", "ugg", "<|im_start|>", "\n", "birds?<",
        "s",
    ],
)  # fmt: skip
def test_text_finds_what_slicing_finds(owl, substring):
    size = len(substring)
    starts = [i for i in range(len(owl.text)) if owl.text[i : i + size] == substring]
    each = [touched(owl, start, start + size) for start in starts]
    assert starts
    for k, expected in enumerate(each):
        assert masks.text(substring, which=k).tokens(owl) == expected
        assert masks.text(substring, which=k - len(each)).tokens(owl) == expected
    assert masks.text(substring, which="first").tokens(owl) == each[0]
    assert masks.text(substring, which="last").tokens(owl) == each[-1]
    together = sorted({t for tokens in each for t in tokens})
    assert masks.text(substring, which="all").tokens(owl) == together
    if len(each) == 1:
        assert masks.text(substring).tokens(owl) == each[0]


def test_a_token_that_is_only_touched_counts_and_its_neighbours_do_not(owl):
    first = masks.text("wls and f").tokens(owl)
    assert [owl.tokens[t] for t in first] == [" owls", " and", " f"]
    bird = [owl.tokens[t] for t in masks.text("🦉").tokens(owl)]
    assert bird == [" 🦉", "🦉", "🦉"], "three tokens share one character"
    assert owl.text.count("🦉") == 1


def test_occurrences_do_not_overlap(smol_tokenizer):
    prompt = render(smol_tokenizer, ["ha hahaha"])[0]
    assert prompt.text.count("haha") == 1
    start = prompt.text.index("haha")
    assert masks.text("haha").tokens(prompt) == touched(prompt, start, start + 4)


def test_regex_knows_words_flags_and_ignores_empty_matches(owl):
    words = [m.span() for m in re.finditer(r"\bowls?\b", owl.text, re.IGNORECASE)]
    assert len(words) == 3, "owl, Owl, owls; not fowls"
    tokens = sorted({t for span in words for t in touched(owl, *span)})
    assert masks.regex(r"(?i)\bowls?\b", which="all").tokens(owl) == tokens
    optional = masks.regex(r"(?i)(\bowls?\b)?", which="all")
    assert optional.tokens(owl) == tokens, "the matches of length 0 are none"
    assert masks.regex(r"(?i)\bowls?\b", which=1).tokens(owl) == touched(owl, *words[1])
    start, end = owl.text.index("fowls"), owl.text.index("birds") + 5
    assert masks.regex("fowls.*birds").tokens(owl) == touched(owl, start, end)
    with pytest.raises(ValueError, match=r"regex\('x\*', which='all'\): 0 occurrences"):
        masks.regex("x*", which="all").tokens(owl)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            masks.text("wolf"),
            "text('wolf', which=None): 0 occurrences in the prompt {q!r}; compare spelling",
        ),
        (
            masks.text("wolf", which="first"),
            "text('wolf', which='first'): 0 occurrences in the prompt {q!r}",
        ),
        (
            masks.text("wolf", which="all"),
            "text('wolf', which='all'): 0 occurrences in the prompt {q!r}",
        ),
        (
            masks.text("owl", which=3),
            "text('owl', which=3): 3 occurrences in the prompt {q!r}; pass which='all', 'first', "
            "'last' or",
        ),
        (
            masks.text("owl", which=-4),
            "text('owl', which=-4): 3 occurrences in the prompt {q!r}",
        ),
        (
            masks.text("owl"),
            "text('owl', which=None): 3 occurrences in the prompt {q!r}; pass which='all', 'first',"
            " 'last' or a number, 0 to 2 or -3 to -1 from the end.",
        ),
        (
            masks.text("fowl", which=1),
            "text('fowl', which=1): 1 occurrence in the prompt {q!r}",
        ),
        (
            masks.regex("[oO]wl"),
            "regex('[oO]wl', which=None): 4 occurrences in the prompt {q!r}; pass which",
        ),
        (
            masks.role("user") & ~masks.text("wolf"),
            "text('wolf', which=None): 0 occurrences",
        ),
    ],
)
def test_a_wrong_occurrence_is_an_error_that_tells_which(owl, mask, message):
    for apply in (mask.tokens, lambda prompt: mask(prompt, [])):
        with pytest.raises(ValueError, match=re.escape(message.format(q=QUESTION))):
            apply(owl)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: masks.text(""), ValueError, "text('') is empty"),
        (lambda: masks.text(5), TypeError, "text(substring=5): pass a text."),
        (
            lambda: masks.text("a", which="second"),
            ValueError,
            "text(which='second'): pass 'all', 'first', 'last' or a number",
        ),
        (lambda: masks.text("a", which=True), TypeError, "text(which=True): pass 'all' or"),
        (
            lambda: masks.regex("("),
            ValueError,
            "regex('(') is not a regular expression: missing ), unterminated subpattern",
        ),
        (lambda: masks.regex(re.compile("a")), TypeError, "regex(pattern=re.compile('a')): pass a"),
        (lambda: masks.regex("a", which=0.5), TypeError, "which=0.5): pass 'all' or 'first'"),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
