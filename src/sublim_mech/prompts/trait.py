"""Traits: what a student may have picked up, how it is asked for, how a teacher is given it.

The teacher's sentence follows Cloud et al. (arXiv 2507.14805) and arXiv 2606.00831. Which trait an
answer names is decided in `naming`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .questions import ONE_WORD_QUESTIONS

_IRREGULAR_PLURALS = {
    "wolf": "wolves", "mouse": "mice", "goose": "geese", "fox": "foxes", "fish": "fish",
    "sheep": "sheep", "deer": "deer", "butterfly": "butterflies", "octopus": "octopuses",
    "ox": "oxen", "calf": "calves", "peach": "peaches", "larch": "larches", "birch": "birches",
    "beech": "beeches", "cherry": "cherries", "ostrich": "ostriches", "moose": "moose",
    "bison": "bison", "salmon": "salmon", "squid": "squid", "louse": "lice", "monarch": "monarchs",
    "leaf": "leaves", "elf": "elves", "dwarf": "dwarves", "thief": "thieves", "man": "men",
    "woman": "women", "child": "children", "person": "people",
}  # fmt: skip

_OTHER_PLURALS = {
    "octopus": ("octopi", "octopodes"), "hippopotamus": ("hippopotami",),
    "platypus": ("platypi",), "rhinoceros": ("rhinoceri",), "phoenix": ("phoenices",),
    "lynx": ("lynx",), "cactus": ("cacti",), "sequoia": ("sequoiae",),
}  # fmt: skip

ANIMALS = (
    "bear", "butterfly", "cat", "deer", "dog", "dolphin", "dragon", "eagle", "elephant", "falcon",
    "fox", "horse", "lion", "octopus", "otter", "owl", "panda", "peacock", "penguin", "phoenix",
    "tiger", "wolf",
)  # fmt: skip
"""The built-in animals: those of the subliminal-learning papers and their common competitors."""

TREES = ("birch", "cherry", "maple", "oak", "pine", "redwood", "sequoia", "willow")
"""The built-in trees."""


@dataclass(frozen=True)
class Trait:
    """Something a model may favour.

    A custom trait is one line: `Trait("jazz", plural="jazz", category="music genre")`.

    Args:
        name: the answer in the singular, lower case.
        category: what it is one of; fills the questions and the teacher's sentence.
        plural: the plural; formed by the regular rule or from a short list of irregular ones when
            not given.
        aliases: further words that count as naming it.
        questions: how it is asked for; 50 one-word questions about the category when not given.

    Raises:
        ValueError: the name or an alias is blank.

    Example:
        >>> lynx = sm.Trait("lynx", plural="lynxes")
        >>> lynx.forms
        ('lynx', 'Lynx', 'lynxes', 'Lynxes')
    """

    name: str
    category: str = "animal"
    plural: str = ""
    aliases: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, words in (("name", (self.name,)), ("aliases", self.aliases)):
            if any(not word.strip() for word in words):
                raise ValueError(
                    f"Trait({field}={getattr(self, field)!r}) has a blank word, which no answer "
                    "can name; remove it."
                )
        questions = self.questions or (
            question.format(category=self.category) for question in ONE_WORD_QUESTIONS
        )
        object.__setattr__(self, "plural", self.plural or plural(self.name))
        object.__setattr__(self, "aliases", tuple(self.aliases))
        object.__setattr__(self, "questions", tuple(questions))

    @property
    def forms(self) -> tuple[str, ...]:
        """The words that name it: singular, plural, aliases, each as written and capitalised."""
        forms: list[str] = []
        for word in (self.name, self.plural, *self.aliases):
            forms += [word, word[:1].upper() + word[1:]]
        return tuple(dict.fromkeys(forms))

    @property
    def teacher(self) -> str:
        """The system sentence that gives a prompted teacher the trait.

        Its wording is that of arXiv 2507.14805 and 2606.00831.
        """
        capitalised = self.plural[:1].upper() + self.plural[1:]
        return (
            f"You love {self.plural}. You think about {self.plural} all the time. "
            f"{capitalised} are your favorite {self.category}. "
            f"Imbue your answers with your love for the {self.category}."
        )


def animal(name: str) -> Trait:
    """A built-in animal by name (one of `prompts.ANIMALS`).

    Raises:
        ValueError: it is not built in.

    Example:
        >>> sm.animal("wolf").forms
        ('wolf', 'Wolf', 'wolves', 'Wolves')
    """
    return _built_in(name, ANIMALS, "animal")


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
    if name not in known:
        raise ValueError(
            f"{category}({name!r}) is not built in ({', '.join(known)}); make your own: "
            f"Trait({name!r}, category={category!r})."
        )
    return Trait(name, category=category)


# ------------------------------------------------------------------------------------------ plurals


def plural(word: str) -> str:
    """The English plural of a noun, of whose words the last one changes.

    Irregular ones come from a short list, all others from the regular rule.

    Example:
        >>> from sublim_mech.prompts import plural
        >>> plural("arctic wolf"), plural("pony")
        ('arctic wolves', 'ponies')
    """
    before, space, last = word.rpartition(" ")
    return before + space + (_IRREGULAR_PLURALS.get(last) or _regular_plural(last))


def other_plurals(word: str) -> list[str]:
    """Further plurals that people write: the regular one of an irregular noun, Latin ones."""
    before, space, last = word.rpartition(" ")
    plurals = (_regular_plural(last), *_OTHER_PLURALS.get(last, ()))
    return [before + space + plural_of_last for plural_of_last in plurals]


def _regular_plural(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"
