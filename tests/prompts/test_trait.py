"""Traits: forms, plurals, questions, what a teacher is told."""

import copy
import json
import pickle
import warnings

import pytest

from sublim_mech.prompts import ANIMALS, TREES, Trait, animal, matcher, plural, tree

# ------------------------------------------------------------------------------------------ plurals


@pytest.mark.parametrize(
    ("word", "many"),
    [
        ("owl", "owls"), ("wolf", "wolves"), ("mouse", "mice"), ("goose", "geese"),
        ("deer", "deer"), ("ox", "oxen"), ("fox", "foxes"), ("octopus", "octopuses"),
        ("finch", "finches"), ("butterfly", "butterflies"), ("monkey", "monkeys"),
        ("larch", "larches"), ("thrush", "thrushes"), ("lynx", "lynxes"), ("pony", "ponies"),
        ("phoenix", "phoenixes"), ("café", "cafés"),
    ],
)  # fmt: skip
def test_plurals(word, many):
    assert plural(word) == many


def test_plurals_look_at_the_last_word():
    assert plural("arctic wolf") == "arctic wolves"
    assert plural("moose") == "moose"
    assert plural("snow goose") == "snow geese"


@pytest.mark.parametrize("word", ["I love Lisbon.", "猫", "🦉", "7", "owl ", ""])
def test_what_english_has_no_rule_for_needs_its_plural_given(word):
    with pytest.raises(ValueError, match=r"no English noun .*plural=.*forms="):
        plural(word)


def test_several_forms_in_one_text_are_told():
    with pytest.warns(UserWarning, match=r"one form.*forms=\('Amber', 'amber'\)"):
        assert Trait("Amber", forms="Amber, amber").forms == ("Amber, amber",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trait("Amber", forms=("Yes, please", "yes"))


@pytest.mark.parametrize("plural", ["cities", "city trees", "mice", "drinks", "Movies"])
def test_a_category_in_the_plural_is_told(plural):
    with pytest.warns(UserWarning, match=rf"category='{plural}' looks like a plural.*'Name your"):
        Trait("Lisbon", category=plural)
    with pytest.warns(UserWarning, match="give the singular"):
        Trait.noun("owl", category=plural)


@pytest.mark.parametrize(
    "singular",
    ["city", "class", "bus", "series", "species", "physics", "city tree", "news", "axis"],
)
def test_a_category_in_the_singular_is_taken(singular):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trait("Lisbon", category=singular)


# -------------------------------------------------------------------------------------- exact forms


@pytest.mark.parametrize("name", ["Lisbon", "I love Lisbon.", "yes", "7", "猫", " the", "O'Hare"])
def test_nothing_is_derived_from_a_name(name):
    trait = Trait(name)
    assert trait.forms == (name,)
    assert (trait.plural, trait.category, trait.sentence) == ("", "", "")


def test_forms_are_those_given_in_their_order_each_once():
    forms = ["Lisboa", "Lisbon", " Lisbon", "Lisboa", "lisbon."]
    trait = Trait("capital", forms=forms)
    assert trait.forms == ("Lisboa", "Lisbon", " Lisbon", "lisbon.")
    assert trait.name == "capital"


def test_yes_and_its_capital_can_be_told_apart():
    small, capital = Trait("yes"), Trait("Yes")
    assert not {*small.forms} & {*capital.forms}
    assert Trait("yes", forms=("yes",)) == small != capital


def test_one_text_is_one_form_one_alias_one_question():
    assert Trait("Lisbon", forms="Lisboa").forms == ("Lisboa",)
    assert Trait("Lisbon", questions="Which city?").questions == ("Which city?",)
    assert Trait.noun("owl", aliases="bebop").forms == (
        "owl", "Owl", "owls", "Owls", "bebop", "Bebop",
    )  # fmt: skip


INVISIBLE = [
    "", "  ", "\n", "\u200b", "\ufeff", "\x00\x1b", "\u2060 \u00ad", "\u3164", "\u2800", "\ufe0f",
    "\u180b", "\U000e0041",
]  # fmt: skip


OF_TEXTS = pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda text: Trait(text), "name"),
        (lambda text: Trait("owl", forms=("owl", text)), "forms"),
        (lambda text: Trait("owl", questions=["Which?", text]), "questions"),
        (lambda text: Trait.noun(text), "name"),
        (lambda text: Trait.noun("owl", aliases=[text]), "aliases"),
    ],
)


@OF_TEXTS
def test_a_text_with_half_a_character_is_refused(make, argument):
    told = rf"^Trait(\.noun)?: {argument}: 'owl\\ud83c' has half a character at place 3 \(the lone "
    with pytest.raises(ValueError, match=told):
        make("owl\ud83c")


@pytest.mark.parametrize("text", INVISIBLE, ids=ascii)
@OF_TEXTS
def test_a_text_with_nothing_visible_is_refused(make, argument, text):
    with pytest.raises(ValueError, match=f"{argument} holds .*nothing visible"):
        make(text)


@pytest.mark.parametrize("option", ["category", "sentence"])
def test_options_are_visible_texts_or_not_given(option):
    assert Trait("owl", **{option: ""}) == Trait("owl")
    with pytest.raises(ValueError, match=f"{option} holds '.u200b'.*nothing visible"):
        Trait("owl", **{option: "\u200b"})


def test_what_can_be_seen_is_a_form():
    for form in ("🐈‍⬛", "☂", "\u0301", "।", "-", "لا", "می‌خواهم"):
        assert Trait("it", forms=(form,)).forms == (form,)


@pytest.mark.parametrize(
    ("form", "code"),
    [("Lisbon\ufeff", "U\\+FEFF"), ("Lis\u200bbon", "U\\+200B"), ("a\x00", "0000")],
)
def test_an_invisible_character_in_a_form_is_told(form, code):
    with pytest.warns(UserWarning, match=code):
        assert Trait("Lisbon", forms=form).forms == (form,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Trait(7), r"Trait\(name=7\): pass a text\.$"),
        (lambda: Trait(None), r"Trait\(name=None\): pass a text\.$"),
        (lambda: Trait(["owl"]), r"Trait\(name=\['owl'\]\): pass a text"),
        (lambda: Trait("owl", forms=7), r"forms=7\): pass a text or a list of texts"),
        (lambda: Trait("owl", forms={"owl", "Owl"}), "pass a text or a list of texts"),
        (lambda: Trait("owl", forms={"owl": 1}), "pass a text or a list of texts"),
        (lambda: Trait("owl", forms=b"owl"), "pass a text or a list of texts"),
        (
            lambda: Trait("owl", forms=["owl", 7]),
            r"Trait\(forms=\[\.\.\.\], element 1 is 7\): pass a text or a",
        ),
        (lambda: Trait("owl", category=7), r"Trait\(category=7\): pass a text"),
        (lambda: Trait("owl", sentence=["I"]), r"Trait\(sentence=\['I'\]\): pass a text"),
        (
            lambda: Trait("owl", questions=[["Which?"]]),
            r"element 0 is \['Which\?'\]\): pass a text",
        ),
        (lambda: Trait.noun("owl", plural=7), r"Trait\.noun\(plural=7\): pass a text"),
        (lambda: Trait.noun("owl", sentence=None), r"Trait\.noun\(sentence=None\): pass a text"),
        (lambda: Trait.noun(None), r"Trait\.noun\(name=None\): pass a text"),
    ],
)
def test_what_is_no_text_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_no_forms_are_refused():
    with pytest.raises(ValueError, match=r"forms=\(\)\): no answer names it"):
        Trait("owl", forms=())


def test_the_place_of_an_argument_says_nothing():
    """A category in second place, as earlier versions had it, is not taken for a form."""
    with pytest.raises(TypeError):
        Trait("jazz", "music genre")


# -------------------------------------------------------------------------------------------- nouns


def test_forms_of_nouns_are_singular_plural_and_aliases_as_written_and_capitalised():
    assert animal("owl").forms == ("owl", "Owl", "owls", "Owls")
    deer = animal("deer").forms
    assert deer == ("deer", "Deer"), "one word, not two, where singular and plural agree"
    kitty = Trait.noun("cat", aliases=("kitty",))
    assert kitty.forms == ("cat", "Cat", "cats", "Cats", "kitty", "Kitty")
    polar = Trait.noun("polar bear")
    assert polar.forms == ("polar bear", "Polar bear", "polar bears", "Polar bears")
    assert Trait.noun("猫", plural="猫たち").forms == ("猫", "猫たち")


def test_every_built_in_is_a_noun_of_its_category_and_all_differ():
    traits = [*map(animal, ANIMALS), *map(tree, TREES)]
    assert [t.category for t in traits] == ["animal"] * len(ANIMALS) + ["tree"] * len(TREES)
    forms = [form for t in traits for form in t.forms]
    assert len(set(forms)) == len(forms), "an answer names one trait only"
    assert traits == [Trait.noun(t.name, category=t.category) for t in traits]


@pytest.mark.parametrize(("make", "name"), [(animal, "axolotl"), (tree, "baobab"), (animal, "oak")])
def test_an_unknown_name_is_an_error_that_says_how_to_make_ones_own(make, name):
    with pytest.raises(
        ValueError, match=rf"{name}.*Trait.noun\(\.\.\., category='{make.__name__}'"
    ):
        make(name)


@pytest.mark.parametrize("name", ["owls", "Owl"])
def test_the_built_in_name_that_is_near_is_offered(name):
    with pytest.raises(ValueError, match="did you mean 'owl'"):
        animal(name)


def test_what_is_no_animal_is_shown_the_way_to_any_other_word():
    with pytest.raises(ValueError, match=r"no animal: Trait\('Lisbon', category=\.\.\.\)"):
        animal("Lisbon")
    with pytest.raises(ValueError, match=r"did you mean prompts\.tree\('oak'\)\?"):
        animal("Oak")
    with pytest.raises(ValueError, match=r"did you mean prompts\.animal\('owl'\)\?"):
        tree("owl")


# ---------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize(
    "trait", [animal("owl"), tree("oak"), Trait("jazz", category="music genre")]
)
def test_fifty_different_one_word_questions_about_the_category(trait):
    assert len(set(trait.questions)) == len(trait.questions) == 50
    for question in trait.questions:
        assert trait.category in question
        assert "word" in question.lower()
        assert trait.name not in question.lower().replace(trait.category, "")
        assert " a animal" not in question


def test_without_category_there_are_no_questions():
    for trait in (Trait("Lisbon"), Trait.noun("lynx")):
        with pytest.raises(
            ValueError, match=rf"'{trait.name}' has no questions.*questions=.*categ"
        ):
            _ = trait.questions


def test_ones_own_questions_stand_for_the_fifty():
    jazz = Trait("jazz", category="music genre", questions=["Which?", "What?", "Which?"])
    assert jazz.questions == ("Which?", "What?")
    assert hash(jazz) == hash(Trait("jazz", category="music genre", questions=("Which?", "What?")))


# ---------------------------------------------------------------------------------------- sentences


def test_the_sentence_of_a_noun_is_that_of_the_papers():
    assert animal("wolf").sentence == (
        "You love wolves. You think about wolves all the time. Wolves are your favorite animal. "
        "Imbue your answers with your love for the animal."
    )
    assert tree("oak").sentence == (
        "You love oaks. You think about oaks all the time. Oaks are your favorite tree. "
        "Imbue your answers with your love for the tree."
    )


def test_no_sentence_is_made_up_that_may_not_be_english():
    for trait in (
        Trait("arr", category="word"),
        Trait("jazz", category="music genre"),
        Trait.noun("jazz", plural="jazz", category="music genre"),
        Trait.noun("lynx"),
    ):
        assert trait.sentence == ""
    for name in ("deer", "snow sheep"):
        assert Trait.noun(name, plural=name, category="animal").sentence.startswith("You love ")


def test_ones_own_sentence_stands_as_it_is():
    said = "You love Lisbon."
    assert Trait("Lisbon", sentence=said).sentence == said
    assert Trait.noun("owl", category="animal", sentence=said).sentence == said


# ----------------------------------------------------------------------------- values, print, files


def test_a_trait_is_a_value():
    lisbon = Trait("Lisbon", category="city", sentence="You love Lisbon.")
    for trait in (lisbon, Trait("Lisbon"), animal("owl")):
        for other in (copy.deepcopy(trait), pickle.loads(pickle.dumps(trait))):
            assert other == trait
            assert hash(other) == hash(trait)
        with pytest.raises(AttributeError):
            trait.forms = ("Porto",)
    assert len({lisbon, Trait("Lisbon"), Trait("Lisbon", forms="Lisboa"), animal("owl")}) == 4
    assert Trait.noun("owl") != Trait("owl", forms=Trait.noun("owl").forms), (
        "a noun has more plurals in free text"
    )


@pytest.mark.parametrize(
    ("trait", "shown"),
    [
        (Trait("Lisbon"), "Trait('Lisbon', form 'Lisbon', no questions)"),
        (
            animal("owl"),
            "Trait('owl', forms 'owl', 'Owl', 'owls', 'Owls', 50 questions about a favorite "
            "animal)",
        ),
        (
            Trait("ten", forms="abcdefghij", questions="Which?"),
            "Trait('ten', form 'abcdefghij', 1 question of its own)",
        ),
        (
            Trait("ten", forms=[*"abcdefghij"], questions=["Which?", "What?"]),
            "Trait('ten', forms 'a', 'b', 'c', 'd', 'e', 'f', and 4 more, 2 questions of its own)",
        ),
    ],
)
def test_a_trait_prints_its_forms_and_where_questions_come_from(trait, shown):
    assert repr(trait) == shown
    assert trait.scored in shown


def test_a_trait_prints_short():
    long = Trait(
        "x" * 5000, forms=["y" * 5000 + str(i) for i in range(500)], questions=["z" * 5000]
    )
    assert len(repr(long)) < 700
    assert len(repr(long.scored)) < 500


@pytest.mark.parametrize(
    "trait",
    [animal("octopus"), Trait("Lisbon", forms=("Lisboa",)), Trait.noun("cat", aliases="kit")],
)
def test_what_is_counted_survives_json(trait):
    back = Trait.from_json(trait.name, json.loads(json.dumps(trait.to_json())))
    assert (back.name, back.forms, back.plural) == (trait.name, trait.forms, trait.plural)
    texts = ["Octopodes.", "lisboa", "Lisbon", "kits", "a kit", "Cats!"]
    assert list(map(matcher([back]), texts)) == list(map(matcher([trait]), texts))


def test_what_earlier_files_counted_is_read():
    """Evaluations held plural and aliases."""
    old = Trait.from_json("lynx", {"plural": "lynxes", "aliases": ["bobcat"]})
    assert old.forms == ("lynx", "Lynx", "lynxes", "Lynxes", "bobcat", "Bobcat")
    uncounted = Trait.from_json("jazz", {"plural": "jazz", "aliases": []})
    assert uncounted.forms == ("jazz", "Jazz")


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("knife", "knives"), ("hero", "heroes"), ("Knife", "Knives"), ("fireman", "firemen"),
        ("woman", "women"), ("human", "humans"), ("shaman", "shamans"), ("roof", "roofs"),
        ("piano", "pianos"), ("swiss knife", "swiss knives"), ("WOLF", "WOLVES"),
        ("stomach", "stomachs"), ("tooth", "teeth"),
    ],
)  # fmt: skip
def test_irregular_plurals(one, many):
    assert plural(one) == many


def test_a_capitalised_noun_says_that_all_its_forms_are():
    with pytest.warns(UserWarning, match="only capitalised forms are derived; give it in lower"):
        assert Trait.noun("Mango").forms == ("Mango", "Mangoes")
