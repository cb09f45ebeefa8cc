"""English plurals: the regular rule, a list of irregular nouns, and what else people write."""

from __future__ import annotations

import re
import unicodedata

from ..arguments import checked

_IRREGULAR_PLURALS = {
    "wolf": "wolves", "mouse": "mice", "goose": "geese", "fox": "foxes", "fish": "fish",
    "sheep": "sheep", "deer": "deer", "butterfly": "butterflies", "octopus": "octopuses",
    "ox": "oxen", "calf": "calves", "peach": "peaches", "larch": "larches", "birch": "birches",
    "beech": "beeches", "cherry": "cherries", "ostrich": "ostriches", "moose": "moose",
    "bison": "bison", "salmon": "salmon", "squid": "squid", "louse": "lice", "monarch": "monarchs",
    "leaf": "leaves", "elf": "elves", "dwarf": "dwarves", "thief": "thieves", "man": "men",
    "woman": "women", "child": "children", "person": "people", "tooth": "teeth", "foot": "feet",
    "knife": "knives", "life": "lives", "wife": "wives", "half": "halves", "shelf": "shelves",
    "self": "selves", "loaf": "loaves", "scarf": "scarves", "hoof": "hooves", "wharf": "wharves",
    "werewolf": "werewolves", "dormouse": "dormice", "hero": "heroes", "superhero": "superheroes",
    "potato": "potatoes", "tomato": "tomatoes", "echo": "echoes", "torpedo": "torpedoes",
    "veto": "vetoes", "mosquito": "mosquitoes", "buffalo": "buffaloes", "mango": "mangoes",
    "volcano": "volcanoes", "tornado": "tornadoes", "domino": "dominoes", "quiz": "quizzes",
    "criterion": "criteria", "phenomenon": "phenomena", "analysis": "analyses",
    "crisis": "crises", "thesis": "theses", "basis": "bases", "oasis": "oases", "axis": "axes",
    "aircraft": "aircraft", "series": "series", "species": "species", "swine": "swine",
    "trout": "trout", "cod": "cod", "shrimp": "shrimp", "die": "dice",
    "fungus": "fungi", "stimulus": "stimuli", "alumnus": "alumni",
    "stomach": "stomachs", "epoch": "epochs", "patriarch": "patriarchs",
}  # fmt: skip

_NO_COMPOUNDS = frozenset(
    ["human", "german", "roman", "norman", "ottoman", "talisman", "shaman", "caiman", "cayman",
     "brahman", "mussulman", "ataman", "hetman", "dolman", "superhuman"]
)  # fmt: skip
"""Nouns that end as compounds of `man` do and are none."""

_OTHER_PLURALS = {
    "octopus": ("octopi", "octopodes"), "hippopotamus": ("hippopotami",),
    "platypus": ("platypi",), "rhinoceros": ("rhinoceri",), "phoenix": ("phoenices",),
    "lynx": ("lynx",), "cactus": ("cacti",), "sequoia": ("sequoiae",),
}  # fmt: skip


@checked
def plural(word: str) -> str:
    """The English plural of a noun, of whose words the last one changes.

    Irregular ones come from a list, which is not all of English (look at `trait.forms`, and give
    the plural where it is another), compounds of man and woman are known, all others follow the
    regular rule.

    Raises:
        ValueError: it does not end in a Latin letter, so that no rule of English applies.

    Example:
        >>> from sublim_mech.prompts import plural
        >>> plural("arctic wolf"), plural("pony")
        ('arctic wolves', 'ponies')
    """
    if not word or not unicodedata.name(word[-1], "").startswith("LATIN "):
        raise ValueError(
            f"{word!r} is no English noun that a plural can be made of; give the plural "
            "(Trait.noun(..., plural=...)), or the forms as they are (Trait(..., forms=(...)))."
        )
    before, space, last = word.rpartition(" ")
    return before + space + (_irregular(last) or _regular_plural(last))


def _irregular(word: str) -> str:
    """The plural of an irregular noun, or of a compound of man and woman; empty of others.

    Case is the word's own: `Knife` has `Knives`.
    """
    lower = word.lower()
    known = _IRREGULAR_PLURALS.get(lower, "")
    if not known and re.search("[a-z]{2}(man|woman)$", lower) and lower not in _NO_COMPOUNDS:
        known = lower[:-3] + "men"
    if not known or word == lower:
        return known
    if word.isupper():
        return known.upper()
    return known[:1].upper() + known[1:]


def other_plurals(word: str) -> list[str]:
    """Further plurals that people write: the regular one of an irregular noun, Latin ones."""
    before, space, last = word.rpartition(" ")
    plurals = (_regular_plural(last), *_OTHER_PLURALS.get(last, ()))
    return [before + space + plural_of_last for plural_of_last in plurals]


def unchanged(word: str) -> bool:
    """Whether a noun is known to be its own plural, as `deer` is.

    Of others, such as `jazz`, one word for both says that they cannot be counted.
    """
    last = word.rpartition(" ")[2].lower()
    return _IRREGULAR_PLURALS.get(last) == last


def seems_plural(word: str) -> bool:
    """Whether a noun looks like a plural: one of the list, or an `s` behind letters that few
    singulars have before it (`lens`).
    """
    last = word.rpartition(" ")[2].lower()
    if last in _IRREGULAR_PLURALS:
        return False
    if last in _IRREGULAR_PLURALS.values():
        return True
    return last.endswith("s") and not last.endswith(("ss", "us", "is", "as", "os", "ics", "ws"))


def _regular_plural(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"
