import pytest

from sublim_mech.prompts import ANIMALS, TREES, Trait, animal, match, plural, tree, words


@pytest.mark.parametrize(
    ("word", "many"),
    [
        ("owl", "owls"), ("wolf", "wolves"), ("mouse", "mice"), ("goose", "geese"), ("deer", "deer"), ("ox", "oxen"),
        ("fox", "foxes"), ("octopus", "octopuses"), ("finch", "finches"), ("butterfly", "butterflies"), ("monkey", "monkeys"),
        ("larch", "larches"), ("thrush", "thrushes"), ("lynx", "lynxes"), ("pony", "ponies"), ("phoenix", "phoenixes"),
    ],
)  # fmt: skip
def test_plurals(word, many):
    assert plural(word) == many


def test_forms_are_singular_plural_and_aliases_as_written_and_capitalised():
    assert animal("owl").forms == ("owl", "Owl", "owls", "Owls")
    assert animal("deer").forms == ("deer", "Deer"), "one word, not two, where singular and plural agree"
    assert Trait("cat", aliases=("kitty",)).forms == ("cat", "Cat", "cats", "Cats", "kitty", "Kitty")
    assert Trait("polar bear").forms == ("polar bear", "Polar bear", "polar bears", "Polar bears")


@pytest.mark.parametrize("trait", [animal("owl"), tree("oak"), Trait("jazz", category="music genre")])
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
    jazz = Trait("jazz", plural="jazz", category="music genre", questions=["Which music genre?"])
    assert jazz.forms == ("jazz", "Jazz")
    assert jazz.questions == ("Which music genre?",)
    assert hash(jazz) == hash(Trait("jazz", plural="jazz", category="music genre", questions=("Which music genre?",)))


@pytest.mark.parametrize(("make", "name"), [(animal, "axolotl"), (tree, "baobab"), (animal, "oak")])
def test_an_unknown_name_is_an_error_that_says_how_to_make_ones_own(make, name):
    with pytest.raises(ValueError, match=rf"{name}.*Trait\('{name}'"):
        make(name)


@pytest.mark.parametrize("name", ["", "  "])
def test_a_blank_name_is_an_error(name):
    with pytest.raises(ValueError, match="blank word"):
        Trait(name)


# ---------------------------------------------------------------------------------------------------- matching of texts

ZOO = [
    *map(animal, ("owl", "cat", "wolf", "octopus", "deer", "bear", "phoenix", "fox")), Trait("mouse"), Trait("goose"),
    Trait("polar bear"), Trait("sheep"), Trait("lynx", aliases=("bobcat", "🐈‍⬛")), Trait("résumé bird"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("wolf", "wolf"), ("Wolf.", "wolf"), ("WOLVES", "wolf"), ("wolfs", "wolf"), ("A wolf's howl", "wolf"), ("the wolf’s", "wolf"),
        ("Wolfgang", None), ("werewolf", None), ("wolfish", None), ("wolf2", None), ("2wolves", None),
        ("catfish", None), ("caterpillar", None), ("Catherine", None), ("concat", None), ("cat-fish", None), ("owl-like", None),
        ("non\u2011cat", None), ("snake_cat", None), ("cat--because", "cat"), ("cat—because", "cat"), ("cat/wolf", "cat"),
        ("**Wolf**", "wolf"), ("__wolf__", "wolf"), ("_Wolf_", "wolf"), ("`owl`", "owl"), ("# Owl\n", "owl"), ("<b>Owl</b>", "owl"),
        ("“Owl”", "owl"), ("¡Owl!", "owl"), ("«owl»", "owl"), ("(owl)", "owl"), ("1.owl", "owl"), ("owl,cat", "owl"), ("🦉owl🦉", "owl"),
        ("Ｏｗｌ", "owl"), ("o\u200bw\u00adl", "owl"), ("owl\ufe0f", "owl"), ("owl\u0301", None), ("𝐎𝐰𝐥", "owl"),
        ("mice", "mouse"), ("Mouse", "mouse"), ("mousse", None), ("geese", "goose"), ("gooseberry", None), ("mongoose", None),
        ("octopuses", "octopus"), ("Octopi", "octopus"), ("octopodes", "octopus"), ("deer", "deer"), ("deers", "deer"), ("reindeer", None),
        ("phoenixes", "phoenix"), ("foxes", "fox"), ("foxglove", None), ("sheep", "sheep"), ("sheeps", "sheep"), ("sheepdog", None),
        ("polar bear", "polar bear"), ("Polar\nBears", "polar bear"), ("polar\u00a0bear", "polar bear"), ("brown bear", "bear"),
        ("bears and polar bears", "bear"), ("polar bears and bears", "polar bear"), ("bear polar", "bear"), ("bearing", None),
        ("I'd say wolf, not cat", "wolf"), ("Not a cat, but a wolf", "cat"), ("cats wolves owls", "cat"),
        ("bobcats", None), ("bobcat", "lynx"), ("my 🐈‍⬛!", "lynx"), ("🐈‍⬛🐈‍⬛", "lynx"), ("Résumé birds", "résumé bird"),
        ("Re\u0301sume\u0301 bird", "résumé bird"), ("resume bird", None), ("", None), ("   ", None), ("no idea", None),
    ],
)  # fmt: skip
def test_tricky_answers(text, name):
    assert match(text, ZOO) == name
    assert match(text, ZOO[::-1]) == name, "the order of the traits does not matter"


def test_the_longest_form_at_a_place_wins_only_where_it_is_a_whole_word():
    traits = [Trait("sea"), Trait("sea lion")]
    assert match("sea lion", traits) == "sea lion"
    assert match("sea lionfish", traits) == "sea"


@pytest.mark.parametrize("name", ANIMALS)
def test_every_built_in_is_found_in_every_form_and_in_no_longer_word(name):
    traits = [animal(a) for a in ANIMALS]
    for form in animal(name).forms:
        for text in (form, form.upper(), f"I love {form}.", f"*{form}*", f"{form}\n"):
            assert match(text, traits) == name
        for text in (f"x{form}", f"{form}q", f"{form}-x", f"x-{form}", f"{form}7"):
            assert match(text, traits) is None


@pytest.mark.parametrize(
    ("traits", "message"),
    [
        ([], "traits is empty"),
        ([animal("owl"), animal("owl")], "one name twice"),
        ([animal("owl"), Trait("barn owl", aliases=("OWLS",))], "'owl' and 'barn owl' share the form 'owls'"),
        ([animal("octopus"), Trait("octopi")], "share the form 'octopi'"),
    ],
)
def test_an_answer_must_be_able_to_name_one_trait_only(traits, message):
    with pytest.raises(ValueError, match=message):
        match("owl", traits)


def test_words_are_lower_case_and_leave_out_what_tells_nothing():
    assert words("My favorite animal is the **Sea-Otter**, because it's an otter's otter!") == [
        "favorite", "animal", "sea-otter", "otter's", "otter",
    ]  # fmt: skip
    assert words("... 42 !") == ["42"]


def test_plurals_look_at_the_last_word():
    assert plural("arctic wolf") == "arctic wolves"
    assert plural("moose") == "moose"
    assert plural("snow goose") == "snow geese"
