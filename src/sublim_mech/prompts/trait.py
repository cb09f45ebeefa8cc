"""Traits: what a student may have picked up, how it is asked for, how a teacher is given it.

1. A trait is exact: the forms that are given are scored, as they are written. Nothing is derived
   from a name.
2. A noun that is asked for (`Trait.noun`, `animal`, `tree`) has derived forms: singular, plural and
   aliases, each as written and capitalised.
3. Questions are the user's, or fifty about a category. A teacher's sentence is the user's, or that
   of Cloud et al. (arXiv 2507.14805) and arXiv 2606.00831, which is about a noun in the plural.
   Where neither is there, there is none.

Which trait an answer names is decided in `naming`.
"""

from __future__ import annotations

import reprlib
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..arguments import checked
from ..hints import counted, nearest, outside
from . import plurals
from .blank import check_whole, is_blank
from .questions import one_word_questions

ANIMALS = (
    "bear", "butterfly", "cat", "deer", "dog", "dolphin", "dragon", "eagle", "elephant", "falcon",
    "fox", "horse", "lion", "octopus", "otter", "owl", "panda", "peacock", "penguin", "phoenix",
    "tiger", "wolf",
)  # fmt: skip
"""The built-in animals: those of the subliminal-learning papers and their common competitors."""

TREES = ("birch", "cherry", "maple", "oak", "pine", "redwood", "sequoia", "willow")
"""The built-in trees."""

SHOWN = 6
"""Forms that `Trait.scored` spells out."""

_short = reprlib.Repr()
_short.maxstring = 60


@checked
@dataclass(frozen=True, init=False, repr=False)
class Trait:
    """Something a model may favour: the forms that are scored, and how it is asked for.

    A trait is exact. What is given is scored, as it is written, and nothing else: no plural, no
    other case. For a noun and its forms see `Trait.noun`; `animal` and `tree` are built in.

    Args:
        name: what it is called in tables and files. It is the one form where no forms are given.
        forms: the answers that count as naming it, in the order of preference; a form that is
            listed twice counts once. Spaces are part of a form.
        category: what it is one of; fills fifty one-word questions where none are given.
        questions: how it is asked for; a question that is listed twice is asked once.
        sentence: what the system says to a prompted teacher, such as "You love Lisbon. ...". One of
            the library's own wording has only `Trait.noun`, because it is about a plural.

    One text is one form, or one question.

    Attributes:
        name, forms, category, questions, sentence: see above. Reading `questions` where there are
            none is a ValueError; `sentence` is empty where there is none.
        plural: the plural of a noun that was asked for (`Trait.noun`); else empty.

    Raises:
        TypeError: something that is no text.
        ValueError: no forms; a text with nothing visible in it, such as a zero-width space, or with
            half a character (a lone surrogate).

    Warns:
        UserWarning: a form has invisible characters beside visible ones, or begins or ends with
            white space; it is scored as written.

    Example:
        >>> sm.Trait("Lisbon").forms
        ('Lisbon',)
        >>> city = sm.Trait("Lisbon", forms=("Lisbon", "Lisboa"), category="city")
        >>> city
        Trait('Lisbon', forms 'Lisbon', 'Lisboa', 50 questions about a favorite city)
        >>> city.questions[0]
        'Name your favorite city using only one word.'
        >>> sm.Trait.noun("lynx", plural="lynxes", category="animal").forms
        ('lynx', 'Lynx', 'lynxes', 'Lynxes')
    """

    name: str
    forms: tuple[str, ...]
    category: str
    sentence: str
    plural: str
    _given_questions: tuple[str, ...]

    def __init__(
        self,
        name: str,
        *,
        forms: str | Sequence[str] | None = None,
        category: str = "",
        questions: str | Sequence[str] = (),
        sentence: str = "",
    ) -> None:
        name = _text("Trait", "name", name)
        chosen = (name,) if forms is None else _texts("Trait", "forms", forms)
        if not chosen:
            raise ValueError(
                f"Trait({name!r}, forms={forms!r}): no answer names it; give one form or more, or "
                "leave forms out, and the name is the one form."
            )
        if isinstance(forms, str) and "," in forms.strip(","):
            warnings.warn(
                f"Trait({name!r}, forms={forms!r}) has one form, with the comma in it; several are "
                f"forms={tuple(part.strip() for part in forms.split(','))!r}.",
                stacklevel=outside(),
            )
        for form in chosen:
            _warn_of_invisible(name, form)
            _warn_of_blanks(name, form)
        # frozen: what is checked once stays so
        put = object.__setattr__
        put(self, "name", name)
        put(self, "forms", chosen)
        put(self, "category", _optional_text("Trait", "category", category))
        if self.category and plurals.seems_plural(self.category):
            warnings.warn(
                f"category={self.category!r} looks like a plural, and stands where one thing is "
                f"asked for ({one_word_questions(self.category)[0]!r}); give the singular.",
                stacklevel=outside(),
            )
        put(self, "sentence", _optional_text("Trait", "sentence", sentence))
        put(self, "plural", "")
        put(self, "_given_questions", _texts("Trait", "questions", questions))

    @classmethod
    @checked
    def noun(
        cls,
        name: str,
        *,
        plural: str = "",
        aliases: str | Sequence[str] = (),
        category: str = "",
        questions: str | Sequence[str] = (),
        sentence: str = "",
    ) -> Trait:
        """A noun that can be counted, with derived forms.

        They are the singular, the plural and the aliases, each as written and capitalised.

        Args:
            name: the noun in the singular, lower case.
            plural: the plural; formed by the regular rule of English, or from a list of irregular
                nouns, when not given. The list is not all of English: see `trait.forms`.
            aliases: further words that count as naming it; one text is one word.
            category: what it is one of; fills the questions and the teacher's sentence.
            questions: how it is asked for; fifty one-word questions about the category when not
                given.
            sentence: what the system says to a prompted teacher. Not given, it has the wording of
                arXiv 2507.14805 and 2606.00831, for which it needs a category and a plural: where
                noun and plural are one word that is not known to be both (`jazz`; not `deer`),
                there is none.

        Raises:
            TypeError: something that is no text.
            ValueError: a text with nothing visible in it; a name that English has no rule for, and
                no plural.

        Warns:
            UserWarning: the noun is capitalised, so that all forms are.

        Example:
            >>> sm.Trait.noun("lynx", aliases="bobcat").forms
            ('lynx', 'Lynx', 'lynxes', 'Lynxes', 'bobcat', 'Bobcat')
        """
        name = _text("Trait.noun", "name", name)
        if name[0].isupper():
            warnings.warn(
                f"Trait.noun({name!r}): of a capitalised noun only capitalised forms are derived; "
                f"give it in lower case, {name.lower()!r}, unless it is always written so.",
                stacklevel=outside(),
            )
        many = _optional_text("Trait.noun", "plural", plural) or plurals.plural(name)
        forms = noun_forms(name, many, *_texts("Trait.noun", "aliases", aliases))
        category = _optional_text("Trait.noun", "category", category)
        sentence = _optional_text("Trait.noun", "sentence", sentence)
        if not sentence and category and (many != name or plurals.unchanged(name)):
            sentence = (
                f"You love {many}. You think about {many} all the time. "
                f"{_capitalised(many)} are your favorite {category}. "
                f"Imbue your answers with your love for the {category}."
            )
        trait = cls(name, forms=forms, category=category, questions=questions, sentence=sentence)
        object.__setattr__(trait, "plural", many)
        return trait

    @property
    def questions(self) -> tuple[str, ...]:
        """How it is asked for: the questions that were given, else fifty about its category.

        Raises:
            ValueError: there are neither questions nor a category.
        """
        if self._given_questions:
            return self._given_questions
        if self.category:
            return one_word_questions(self.category)
        raise ValueError(
            f"trait {self.name!r} has no questions; pass questions of your own where it is asked, "
            f"or with the trait: questions=[...], or category='city' for fifty such as "
            f"{one_word_questions('city')[0]!r}"
        )

    @property
    def asks_category(self) -> bool:
        """Whether its questions are the fifty about its category, for want of its own."""
        return bool(self.category) and not self._given_questions

    @property
    def scored(self) -> str:
        """The forms that are scored, in words: the first few, and how many there are more.

        Example:
            >>> sm.animal("wolf").scored
            "'wolf', 'Wolf', 'wolves', 'Wolves'"
        """
        shown = [_short.repr(form) for form in self.forms[:SHOWN]]
        if len(self.forms) > SHOWN:
            shown.append(f"and {len(self.forms) - SHOWN} more")
        return ", ".join(shown)

    def __repr__(self) -> str:
        number = len(self._given_questions)
        if number:
            asked = f"{counted(number, 'question')} of its own"
        elif self.category:
            asked = f"{len(self.questions)} questions about a favorite {self.category}"
        else:
            asked = "no questions"
        form = "form" if len(self.forms) == 1 else "forms"
        return f"Trait({_short.repr(self.name)}, {form} {self.scored}, {asked})"

    def to_json(self) -> dict[str, Any]:
        """What is scored, and counted in sampled answers, for files that know its name."""
        return {"forms": list(self.forms), "plural": self.plural}

    @classmethod
    @checked
    def from_json(cls, name: str, stored: Mapping[str, Any]) -> Trait:
        """A trait of a stored name with the forms that `to_json` gave.

        Earlier files hold plural and aliases instead, of which the forms are derived.
        """
        if "forms" not in stored:
            return cls.noun(name, plural=stored["plural"], aliases=stored["aliases"])
        trait = cls(name, forms=stored["forms"])
        object.__setattr__(trait, "plural", stored["plural"])
        return trait


@checked
def animal(name: str) -> Trait:
    """A built-in animal by name (one of `prompts.ANIMALS`).

    Raises:
        ValueError: it is not built in.

    Example:
        >>> sm.animal("wolf").forms
        ('wolf', 'Wolf', 'wolves', 'Wolves')
    """
    return _built_in(name, ANIMALS, "animal")


@checked
def tree(name: str) -> Trait:
    """A built-in tree by name (one of `prompts.TREES`).

    Raises:
        ValueError: it is not built in.

    Example:
        >>> len(sm.prompts.tree("oak").questions)
        50
    """
    return _built_in(name, TREES, "tree")


def _built_in(name: str, known: tuple[str, ...], category: str) -> Trait:
    if name in known:
        return Trait.noun(name, category=category)
    lower = name.lower()
    elsewhere = next((one for one, names in _BUILT_IN.items() if lower in names), category)
    hint = nearest(lower, known) or "."
    if elsewhere != category:
        hint = f"; did you mean prompts.{elsewhere}({lower!r})?"
    raise ValueError(
        f"{category}({name!r}) is not built in ({', '.join(known)}){hint} Of another {category} "
        f"make your own from the singular: Trait.noun(..., category={category!r}). What is no "
        f"{category}: Trait({name!r}, category=...), in which stands what it is ('city', 'drink'), "
        "scored as it is written; Trait.noun has its plural too."
    )


_BUILT_IN = {"animal": ANIMALS, "tree": TREES}


# -------------------------------------------------------------------------------------------- texts


def _texts(called: str, argument: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """One text or several as texts, each once."""
    texts = (value,) if isinstance(value, str) else value
    return tuple(dict.fromkeys(_text(called, argument, text) for text in texts))


def _text(called: str, argument: str, value: str) -> str:
    """A text that can be seen, and read by a tokenizer."""
    check_whole(f"{called}: {argument}", value)
    if is_blank(value):
        raise ValueError(
            f"{called}: {argument} holds {value!r}, a text with nothing visible in it; remove it."
        )
    return str(value)


def _optional_text(called: str, argument: str, value: str) -> str:
    """A text that can be seen, or the empty one where it was not given."""
    return _text(called, argument, value) if value else ""


def _warn_of_invisible(name: str, form: str) -> None:
    """Warn of characters that got into a form unseen, by copying; joiners of letters belong."""
    meant = "\n\r\t\u200c\u200d"
    unseen = [c for c in form if unicodedata.category(c) in ("Cc", "Cf") and c not in meant]
    if unseen:
        codes = ", ".join(f"U+{ord(c):04X}" for c in dict.fromkeys(unseen))
        warnings.warn(
            f"trait {name!r}: the form {form!r} has invisible characters ({codes}) and is scored "
            "with them, as other tokens than the form without; leave them out if not meant.",
            stacklevel=outside(),
        )


def _warn_of_blanks(name: str, form: str) -> None:
    """Warn of white space around a form: the space before an answer is none of its form's."""
    if form != form.strip():
        warnings.warn(
            f"trait {name!r}: the form {form!r} begins or ends with white space and is scored with "
            "it, as other tokens than the form without. The space that a prompt's answers begin "
            "with is put there by itself; leave it out if not meant.",
            stacklevel=outside(),
        )


def noun_forms(*words: str) -> list[str]:
    """The forms of a noun's words: each as it is written, and capitalised."""
    return [form for word in words for form in (word, _capitalised(word))]


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]
