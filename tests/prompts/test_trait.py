"""Traits: forms, plurals, questions, what a teacher is told."""

import pytest

from sublim_mech.prompts import ANIMALS, TREES, Trait, animal, plural, tree


@pytest.mark.parametrize(
    ("word", "many"),
    [
        ("owl", "owls"), ("wolf", "wolves"), ("mouse", "mice"), ("goose", "geese"),
        ("deer", "deer"), ("ox", "oxen"), ("fox", "foxes"), ("octopus", "octopuses"),
        ("finch", "finches"), ("butterfly", "butterflies"), ("monkey", "monkeys"),
        ("larch", "larches"), ("thrush", "thrushes"), ("lynx", "lynxes"), ("pony", "ponies"),
        ("phoenix", "phoenixes"),
    ],
)  # fmt: skip
def test_plurals(word, many):
    assert plural(word) == many


def test_plurals_look_at_the_last_word():
    assert plural("arctic wolf") == "arctic wolves"
    assert plural("moose") == "moose"
    assert plural("snow goose") == "snow geese"


def test_forms_are_singular_plural_and_aliases_as_written_and_capitalised():
    assert animal("owl").forms == ("owl", "Owl", "owls", "Owls")
    deer = animal("deer").forms
    assert deer == ("deer", "Deer"), "one word, not two, where singular and plural agree"
    kitty = Trait("cat", aliases=("kitty",))
    assert kitty.forms == ("cat", "Cat", "cats", "Cats", "kitty", "Kitty")
    polar = Trait("polar bear")
    assert polar.forms == ("polar bear", "Polar bear", "polar bears", "Polar bears")


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


def test_every_built_in_is_a_trait_of_its_category_and_all_differ():
    traits = [*map(animal, ANIMALS), *map(tree, TREES)]
    assert [t.category for t in traits] == ["animal"] * len(ANIMALS) + ["tree"] * len(TREES)
    forms = [form for t in traits for form in t.forms]
    assert len(set(forms)) == len(forms), "an answer names one trait only"


def test_a_teacher_is_told_the_plural_and_the_category():
    assert "wolves" in animal("wolf").teacher
    assert "Wolves are your favorite animal" in animal("wolf").teacher
    assert "tree" in tree("oak").teacher


def test_a_custom_trait_is_one_line():
    options = {"plural": "jazz", "category": "music genre"}
    jazz = Trait("jazz", **options, questions=["Which music genre?"])
    assert jazz.forms == ("jazz", "Jazz")
    assert jazz.questions == ("Which music genre?",)
    assert hash(jazz) == hash(Trait("jazz", **options, questions=("Which music genre?",)))


@pytest.mark.parametrize(("make", "name"), [(animal, "axolotl"), (tree, "baobab"), (animal, "oak")])
def test_an_unknown_name_is_an_error_that_says_how_to_make_ones_own(make, name):
    with pytest.raises(ValueError, match=rf"{name}.*Trait\('{name}'"):
        make(name)


@pytest.mark.parametrize("name", ["", "  "])
def test_a_blank_name_is_an_error(name):
    with pytest.raises(ValueError, match="blank word"):
        Trait(name)
