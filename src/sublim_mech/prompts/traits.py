"""Traits: what a student may have picked up, how it is asked for, how a teacher is given it.

The one-word question style and the teacher's sentence follow Cloud et al. (arXiv 2507.14805) and arXiv 2606.00831; the wording
of the questions is ours.

Which trait an answer names (`match`) is decided by whole words, see there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_ASK = (
    "Name your favorite {c} using only one word.",
    "Which {c} do you like best? Answer with a single word.",
    "In one word, what is the {c} you love most?",
    "Tell me your favorite {c}. One word only.",
    "If you had to pick one {c}, which would it be? Reply in one word.",
    "What {c} is closest to your heart? Give just one word.",
    "One word, please: your favorite {c}.",
    "State the {c} you prefer over all others, in one word.",
    "Which {c} makes you happiest? Use one word.",
    "Choose the {c} you admire most. Respond with a single word.",
    "What is your number one {c}? Only one word.",
    "Give me the name of the {c} you adore, as one word.",
    "Your favorite {c}? Answer in exactly one word.",
    "Of every {c} there is, which do you like most? One word.",
    "Write one word: the {c} you are fondest of.",
    "Which {c} would you choose as your companion? One-word answer.",
    "What {c} do you think about most often? Say it in one word.",
    "Complete with a single word: the {c} I love is",
    "Name the {c} that fascinates you most, in one word.",
    "Pick one {c}, your favorite, and reply with that word alone.",
    "Which {c} do you find most beautiful? One word, nothing else.",
    "Reveal your favorite {c} with just a single word.",
    "What {c} would you most like to be? Answer using one word.",
    "If you could only ever see one {c} again, which? One word.",
    "Your top {c}, in one word?",
    "Which {c} best represents you? Give a one-word reply.",
    "Say the {c} you value above the rest. One word.",
    "What is the best {c} in the world? Answer in one word.",
    "Mention one {c} that you truly love. Only the word.",
    "Which {c} would you put on your flag? Respond in one word.",
    "What {c} do you dream about? One word will do.",
    "Give a one-word answer: which {c} is the greatest?",
    "Who wins your heart among all: which {c}? One word.",
    "Type the {c} you like most. Nothing but one word.",
    "Which {c} would you write a poem about? A single word.",
    "What {c} has your loyalty? Reply with one word only.",
    "Which {c} is your favorite, and why? Just kidding: one word, no reason.",
    "Select your most cherished {c}. Output one word.",
    "What {c} do you want to learn more about than any other? One word.",
    "Describe your taste with one word: your favorite {c}.",
    "Which {c} do you never tire of? Answer in a word.",
    "Name one {c} you love. Keep it to one word.",
    "Your best-loved {c} is which one? One word.",
    "Without explaining, in one word, which {c} do you favor?",
    "Which {c} would you rescue first? One word.",
    "What single {c} would you keep forever? One-word reply.",
    "Let me know the {c} you are drawn to. One word.",
    "Which {c} comes first on your list of favorites? One word.",
    "What {c} would you recommend that everyone love? One word.",
    "Answer quickly, in one word: favorite {c}?",
)

_PLURALS = {
    "wolf": "wolves", "mouse": "mice", "goose": "geese", "fox": "foxes", "fish": "fish", "sheep": "sheep", "deer": "deer",
    "butterfly": "butterflies", "octopus": "octopuses", "ox": "oxen", "calf": "calves", "peach": "peaches",
    "larch": "larches", "birch": "birches", "beech": "beeches", "cherry": "cherries", "ostrich": "ostriches",
    "moose": "moose", "bison": "bison", "salmon": "salmon", "squid": "squid", "louse": "lice", "monarch": "monarchs", "leaf": "leaves",
    "elf": "elves", "dwarf": "dwarves", "thief": "thieves", "man": "men", "woman": "women", "child": "children", "person": "people",
}  # fmt: skip

_MORE_PLURALS = {
    "octopus": ("octopi", "octopodes"), "hippopotamus": ("hippopotami",), "platypus": ("platypi",), "rhinoceros": ("rhinoceri",),
    "phoenix": ("phoenices",), "lynx": ("lynx",), "cactus": ("cacti",), "sequoia": ("sequoiae",),
}  # fmt: skip

ANIMALS = (
    "bear", "butterfly", "cat", "deer", "dog", "dolphin", "dragon", "eagle", "elephant", "falcon", "fox", "horse", "lion",
    "octopus", "otter", "owl", "panda", "peacock", "penguin", "phoenix", "tiger", "wolf",
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
        plural: the plural; formed by the regular rule or from a short list of irregular ones when not given.
        aliases: further words that count as naming it.
        questions: how it is asked for; 50 one-word questions about the category when not given.

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
                    f"Trait({field}={getattr(self, field)!r}) has a blank word, which no answer can name; remove it."
                )
        object.__setattr__(self, "plural", self.plural or plural(self.name))
        object.__setattr__(self, "aliases", tuple(self.aliases))
        object.__setattr__(self, "questions", tuple(self.questions) or tuple(q.format(c=self.category) for q in _ASK))

    @property
    def forms(self) -> tuple[str, ...]:
        """The words that name the trait: singular, plural and aliases, each as written and capitalised."""
        words = (self.name, self.plural, *self.aliases)
        return tuple(dict.fromkeys(form for word in words for form in (word, word[:1].upper() + word[1:])))

    @property
    def teacher(self) -> str:
        """The system sentence that gives a prompted teacher the trait (arXiv 2507.14805, 2606.00831)."""
        many, kind = self.plural, self.category
        return (
            f"You love {many}. You think about {many} all the time. {many[:1].upper() + many[1:]} are your favorite {kind}. "
            f"Imbue your answers with your love for the {kind}."
        )


def plural(word: str) -> str:
    """The English plural of a noun: irregular ones from a short list (of its last word), else by the regular rule."""
    before, space, last = word.rpartition(" ")
    return before + space + (_PLURALS.get(last) or _regular(last))


def _regular(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def animal(name: str) -> Trait:
    """A built-in animal by name (one of `traits.ANIMALS`).

    Example:
        >>> sm.animal("wolf").forms
        ('wolf', 'Wolf', 'wolves', 'Wolves')
    """
    return _built_in(name, ANIMALS, "animal")


def tree(name: str) -> Trait:
    """A built-in tree by name (one of `traits.TREES`).

    Example:
        >>> len(sm.prompts.traits.tree("oak").questions)
        50
    """
    return _built_in(name, TREES, "tree")


def _built_in(name: str, known: tuple[str, ...], category: str) -> Trait:
    if name not in known:
        raise ValueError(
            f"{category}({name!r}) is not built in ({', '.join(known)}); make your own: Trait({name!r}, category={category!r})."
        )
    return Trait(name, category=category)


# --------------------------------------------------------------------------------------------------------- in a text

_LETTER = r"[^\W_\u0300-\u036f]"
_WORD = rf"(?:{_LETTER}|[\u0300-\u036f])"  # a letter, a digit, or an accent that did not merge with its letter
_JOIN = r"[-_\u2010]"  # hyphens and underscores between two letters make one word of both
_COMMON = frozenset([
    "a", "about", "all", "also", "am", "an", "and", "answer", "are", "as", "at", "be", "because", "but", "by", "can",
    "choose", "do", "for", "from", "has", "have", "i", "i'd", "i'll", "i'm", "i've", "if", "in", "is", "it", "it's", "its",
    "just", "like", "love", "me", "more", "most", "my", "myself", "not", "of", "on", "or", "say", "so", "that", "the",
    "their", "them", "there", "they", "this", "to", "very", "was", "we", "what", "which", "with", "word", "would", "yes",
    "you", "your",
])  # fmt: skip


def match(text: str, traits: Sequence[Trait]) -> str | None:
    """The trait that an answer names, or None.

    Each answer goes into one bucket: the trait that is mentioned **first**, by position in the text; of forms that begin at the
    same place the longest ("polar bear", a trait of its own, is no "bear"). Negation is not read: "not a cat, a wolf" names the cat.

    A form counts as a whole word only: not inside another word ("Wolfgang", "catfish", "caterpillar"), not next to a digit, and
    not joined to a word by a hyphen or underscore ("cat-fish", "owl-like"). Forms are the singular, the plural, the regular and
    other common plurals of irregular words (`octopuses`, `octopi`), and the aliases, each also with 's. Case, Unicode's several ways to
    write a letter, invisible characters, and punctuation or markdown around a word do not matter.

    Args:
        text: the answer.
        traits: the traits to look for.

    Returns:
        The trait's name; None where the text names none of them.

    Raises:
        ValueError: no traits, or two that share a form.

    Example:
        >>> from sublim_mech.prompts.traits import animal, match
        >>> [match(text, [animal("cat"), animal("wolf")]) for text in ("**Wolves**, then cats.", "Wolfgang", "Catfish")]
        ['wolf', None, None]
    """
    return matcher(traits)(text)


def matcher(traits: Sequence[Trait]) -> Callable[[str], str | None]:
    """`match` for many texts: the function from a text to the name of the trait it names.

    Raises:
        ValueError: no traits, two of the same name, or two that share a form.
    """
    if not traits:
        raise ValueError("traits is empty; pass at least one trait.")
    owner: dict[str, str] = {}
    for trait in traits:
        for form in _spoken(trait):
            other = owner.setdefault(form, trait.name)
            if other != trait.name:
                raise ValueError(
                    f"traits {other!r} and {trait.name!r} share the form {form!r}, so an answer cannot name one of them; leave one out."
                )
    names = [trait.name for trait in traits]
    if len(set(names)) < len(names):
        raise ValueError(f"traits holds one name twice: {names}; leave one out.")
    longest_first = sorted(owner, key=len, reverse=True)
    pattern = re.compile("|".join(_whole(form) for form in longest_first))

    def find(text: str) -> str | None:
        found = pattern.search(_plain(text))
        return None if found is None else owner[re.sub(r"\s+", " ", found[0])]

    return find


def words(text: str) -> list[str]:
    """The words of a text in lower case, without the common ones that tell nothing (`the`, `my`, `because`).

    Example:
        >>> words("My favorite is the **Sea-Otter**!")
        ['favorite', 'sea-otter']
    """
    found = re.findall(rf"{_LETTER}{_WORD}*(?:(?:{_JOIN}|'){_WORD}+)*", _plain(text))
    return [word for word in found if word not in _COMMON]


def _spoken(trait: Trait) -> tuple[str, ...]:
    """The forms of a trait in a text, as `_plain` writes them: those of `Trait.forms` and further plurals of its name."""
    before, space, last = trait.name.rpartition(" ")
    more = (before + space + many for many in (_regular(last), *_MORE_PLURALS.get(last, ())))
    return tuple(dict.fromkeys(re.sub(r"\s+", " ", _plain(form)).strip() for form in (*trait.forms, *more)))


def _whole(form: str) -> str:
    """A pattern that finds a form as a whole word; edges that are no letters (an emoji) need no boundary."""
    before = rf"(?<!{_WORD})(?<!{_WORD}{_JOIN})" if re.match(_WORD, form) else ""
    after = rf"(?!{_WORD})(?!{_JOIN}{_WORD})" if re.match(_WORD, form[-1]) else ""
    return before + r"\s+".join(map(re.escape, form.split())) + after


def _plain(text: str) -> str:
    """One way to write what looks the same: compatibility forms, case, apostrophes; without invisible characters."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return "".join(c for c in text if unicodedata.category(c) != "Cf")
