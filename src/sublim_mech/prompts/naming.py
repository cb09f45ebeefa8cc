"""Naming: which trait an answer names, decided by whole words.

1. Answer and forms are written one way: one of Unicode's ways for each letter, one case, no
   invisible characters.
2. One pattern holds the forms of all traits, the longest first, each with the boundaries that make
   it a whole word.
3. The first place where the pattern matches names the trait.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from ..arguments import checked
from .plurals import other_plurals
from .trait import Trait

_LETTER = r"[^\W_\u0300-\u036f]"
_WORD = rf"(?:{_LETTER}|[\u0300-\u036f])"  # a letter, a digit, an accent that did not merge
_JOIN = r"[-_\u2010]"  # hyphens and underscores between two letters make one word of both
_ANY_WORD = rf"{_LETTER}{_WORD}*(?:(?:{_JOIN}|'){_WORD}+)*"  # sea-otter, don't
_COMMON_WORDS = frozenset([
    "a", "about", "all", "also", "am", "an", "and", "answer", "are", "as", "at", "be", "because",
    "but", "by", "can", "choose", "do", "for", "from", "has", "have", "i", "i'd", "i'll", "i'm",
    "i've", "if", "in", "is", "it", "it's", "its", "just", "like", "love", "me", "more", "most",
    "my", "myself", "not", "of", "on", "or", "say", "so", "that", "the", "their", "them", "there",
    "they", "this", "to", "very", "was", "we", "what", "which", "with", "word", "would", "yes",
    "you", "your",
])  # fmt: skip


class Matcher(Protocol):
    """What `matcher` gives."""

    def __call__(self, text: str, begun: str = "") -> str | None:
        """The name of the trait that a text names, of an answer that had begun in some way."""


@checked
def match(text: str, traits: Sequence[Trait], *, begun: str = "") -> str | None:
    """The trait that an answer names, or None.

    Each answer goes into one bucket: the trait that is mentioned **first**, by position in the
    text; of forms that begin at the same place the longest ("polar bear", a trait of its own, is no
    "bear"). Negation is not read: "not a cat, a wolf" names the cat.

    A form counts as a whole word only: not inside another word ("Wolfgang", "catfish",
    "caterpillar"), not next to a digit, and not joined to a word by a hyphen or underscore
    ("cat-fish", "owl-like"). The forms are the trait's own (`trait.forms`), each also with 's; of
    nouns (`animal`, `tree`, `Trait.noun`) also the regular and other common plurals of irregular
    words (`octopuses`, `octopi`).

    In free text neither case matters ("lisbon." names `Trait("Lisbon")`, though its metric scores
    "Lisbon" alone), nor do Unicode's several ways to write a letter, invisible characters, and
    punctuation or markdown around a word. Traits that differ in no more than these are refused.

    Args:
        text: the answer.
        traits: the traits to look for.
        begun: how the answer had begun before (`Context(prefill=...)`). What that names by itself
            does not count, for every answer has it; what begins there and ends in the text does
            ("the polar" + "bear").

    Returns:
        The trait's name; None where the text names none of them.

    Raises:
        TypeError: something else than traits.
        ValueError: no traits, two of the same name, or two that share a form.

    Example:
        >>> from sublim_mech.prompts import animal, match
        >>> traits = [animal("cat"), animal("wolf")]
        >>> [match(text, traits) for text in ("**Wolves**, then cats.", "Wolfgang", "Catfish")]
        ['wolf', None, None]
    """
    return matcher(traits)(text, begun)


@checked
def matcher(traits: Sequence[Trait]) -> Matcher:
    """`match` for many texts: the function from a text, and how it had begun, to the name of the
    trait it names.

    Raises:
        TypeError: something else than traits.
        ValueError: no traits, two of the same name, or two that share a form.

    Example:
        >>> from sublim_mech.prompts import animal, matcher
        >>> find = matcher([animal("cat"), animal("wolf")])
        >>> find("A wolf!"), find("An owl!")
        ('wolf', None)
    """
    if len(traits) == 0:
        raise ValueError("traits is empty; pass at least one trait.")
    trait_of_form: dict[str, str] = {}
    for trait in traits:
        for form in _written_forms(trait):
            other = trait_of_form.setdefault(form, trait.name)
            if other != trait.name:
                raise ValueError(
                    f"traits {other!r} and {trait.name!r} share the form {form!r} (case does not "
                    "count in an answer), so an answer cannot name one of them; leave one out."
                )
    names = [trait.name for trait in traits]
    if len(set(names)) < len(names):
        raise ValueError(f"traits holds one name twice: {names}; leave one out.")

    # a pattern tries its alternatives in order, so the longest form at a place must come first
    longest_first = sorted(trait_of_form, key=len, reverse=True)
    pattern = re.compile("|".join(_whole_word(form) for form in longest_first))

    def first_named(text: str, begun: str = "") -> str | None:
        if begun and not begun[-1].isspace():
            begun += " "  # as an answer goes on
        own = len(_one_way(begun))
        for mention in pattern.finditer(_one_way(begun + text)):
            if mention.end() > own:
                return trait_of_form[_single_spaces(mention[0])]
        return None

    return first_named


class Named(Protocol):
    """What an answer may be: a trait, or the text of a metric that is of no trait."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def forms(self) -> tuple[str, ...]:
        """The answers that count as it."""
        ...


def holds_form(text: str, wanted: Named) -> bool:
    """Whether a text holds a form of a trait as a whole word, as it is written: `will` is no
    `Will`.

    Example:
        >>> from sublim_mech.prompts import animal
        >>> from sublim_mech.prompts.naming import holds_form
        >>> [holds_form(text, animal("cat")) for text in ("Cats or dogs?", "A catfish?", "CAT?")]
        [True, False, False]
    """
    return _as_written(wanted.forms).search(unicodedata.normalize("NFC", text)) is not None


@lru_cache
def _as_written(forms: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern that finds one of some forms as a whole word."""
    written = (unicodedata.normalize("NFC", form).strip() for form in forms)
    return re.compile("|".join(map(_whole_word, written)))


@checked
def words(text: str) -> list[str]:
    """The words of a text in lower case, without common ones that tell nothing (`the`, `my`).

    Example:
        >>> from sublim_mech.prompts import words
        >>> words("My favorite is the **Sea-Otter**!")
        ['favorite', 'sea-otter']
    """
    all_words = re.findall(_ANY_WORD, _one_way(text))
    return [word for word in all_words if word not in _COMMON_WORDS]


def _written_forms(trait: Trait) -> list[str]:
    """The forms of a trait as `_one_way` writes them, further plurals of a noun included."""
    forms = [*trait.forms]
    if trait.plural:
        forms += other_plurals(trait.name)
    return list(dict.fromkeys(_single_spaces(_one_way(form)).strip() for form in forms))


def _whole_word(form: str) -> str:
    """A pattern that finds a form as a whole word.

    Edges that are no letters (an emoji) need no boundary.
    """
    before = after = ""
    if re.match(_WORD, form):
        before = rf"(?<!{_WORD})(?<!{_WORD}{_JOIN})"
    if re.match(_WORD, form[-1]):
        after = rf"(?!{_WORD})(?!{_JOIN}{_WORD})"
    return before + r"\s+".join(re.escape(part) for part in form.split()) + after


def _one_way(text: str) -> str:
    """One way to write what looks the same: compatibility forms, case, apostrophes, and nothing
    invisible.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    invisible = "Cf"  # Unicode's category of format characters: soft hyphens, joiners
    return "".join(letter for letter in text if unicodedata.category(letter) != invisible)


def _single_spaces(text: str) -> str:
    return re.sub(r"\s+", " ", text)
