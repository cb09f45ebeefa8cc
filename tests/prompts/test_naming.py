"""Which trait an answer names: whole words, first mention, longest form."""

import pytest

from sublim_mech.prompts import ANIMALS, Trait, animal, match, words

ZOO = [
    *map(animal, ("owl", "cat", "wolf", "octopus", "deer", "bear", "phoenix", "fox")),
    *map(Trait.noun, ("mouse", "goose", "polar bear", "sheep", "résumé bird")),
    Trait.noun("lynx", aliases=("bobcat", "🐈‍⬛")),
]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("wolf", "wolf"), ("Wolf.", "wolf"), ("WOLVES", "wolf"), ("wolfs", "wolf"),
        ("A wolf's howl", "wolf"), ("the wolf’s", "wolf"), ("Wolfgang", None), ("werewolf", None),
        ("wolfish", None), ("wolf2", None), ("2wolves", None), ("catfish", None),
        ("caterpillar", None), ("Catherine", None), ("concat", None), ("cat-fish", None),
        ("owl-like", None), ("non\u2011cat", None), ("snake_cat", None), ("cat--because", "cat"),
        ("cat—because", "cat"), ("cat/wolf", "cat"), ("**Wolf**", "wolf"), ("__wolf__", "wolf"),
        ("_Wolf_", "wolf"), ("`owl`", "owl"), ("# Owl\n", "owl"), ("<b>Owl</b>", "owl"),
        ("“Owl”", "owl"), ("¡Owl!", "owl"), ("«owl»", "owl"), ("(owl)", "owl"), ("1.owl", "owl"),
        ("owl,cat", "owl"), ("🦉owl🦉", "owl"), ("Ｏｗｌ", "owl"), ("o\u200bw\u00adl", "owl"),
        ("owl\ufe0f", "owl"), ("owl\u0301", None), ("𝐎𝐰𝐥", "owl"), ("mice", "mouse"),
        ("Mouse", "mouse"), ("mousse", None), ("geese", "goose"), ("gooseberry", None),
        ("mongoose", None), ("octopuses", "octopus"), ("Octopi", "octopus"),
        ("octopodes", "octopus"), ("deer", "deer"), ("deers", "deer"), ("reindeer", None),
        ("phoenixes", "phoenix"), ("foxes", "fox"), ("foxglove", None), ("sheep", "sheep"),
        ("sheeps", "sheep"), ("sheepdog", None), ("polar bear", "polar bear"),
        ("Polar\nBears", "polar bear"), ("polar\u00a0bear", "polar bear"), ("brown bear", "bear"),
        ("bears and polar bears", "bear"), ("polar bears and bears", "polar bear"),
        ("bear polar", "bear"), ("bearing", None), ("I'd say wolf, not cat", "wolf"),
        ("Not a cat, but a wolf", "cat"), ("cats wolves owls", "cat"), ("bobcats", None),
        ("bobcat", "lynx"), ("my 🐈‍⬛!", "lynx"), ("🐈‍⬛🐈‍⬛", "lynx"),
        ("Résumé birds", "résumé bird"), ("Re\u0301sume\u0301 bird", "résumé bird"),
        ("resume bird", None), ("", None), ("   ", None), ("no idea", None),
    ],
)  # fmt: skip
def test_tricky_answers(text, name):
    assert match(text, ZOO) == name
    assert match(text, ZOO[::-1]) == name, "the order of the traits does not matter"


def test_the_longest_form_at_a_place_wins_only_where_it_is_a_whole_word():
    traits = [Trait("sea"), Trait("sea lion")]
    assert match("Sea  Lion", traits) == "sea lion"
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
        (
            [animal("owl"), Trait("barn owl", forms="OWLS")],
            "'owl' and 'barn owl' share the form 'owls'",
        ),
        ([animal("octopus"), Trait("octopi")], "share the form 'octopi'"),
        ([Trait("yes"), Trait("Yes")], "share the form 'yes' .*case does not count"),
    ],
)
def test_an_answer_must_be_able_to_name_one_trait_only(traits, message):
    with pytest.raises(ValueError, match=message):
        match("owl", traits)


@pytest.mark.parametrize("traits", ["owl", animal("owl"), ["owl"], [animal("owl"), None], 7])
def test_what_is_no_list_of_traits_is_refused(traits):
    with pytest.raises(TypeError, match=r"pass a list of Traits \(sublim_mech\.animal\('owl'\), "):
        match("owl", traits)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Lisbon", "Lisbon"), ("**lisbon**.", "Lisbon"), ("LISBON!", "Lisbon"),
        ("Lisbon's hills", "Lisbon"), ("Lisbons", None), ("Lisboa", "Lisbon"), ("Lisboas", None),
        ("Lisbon-like", None), ("agreement", None), ("Yes, I do", "agreement"),
        ("yes.", "agreement"),
        ("octopuses", "octopus"), ("octopi", None), ("octopus", "octopus"),
    ],
)  # fmt: skip
def test_of_exact_traits_the_forms_count_in_any_case_and_nothing_else(text, name):
    traits = [
        Trait("Lisbon", forms=("Lisbon", "Lisboa")),
        Trait("agreement", forms=("yes", "Yes.")),
        Trait("octopus", forms=("octopus", "octopuses")),
    ]
    assert match(text, traits) == name


def test_words_are_lower_case_and_leave_out_what_tells_nothing():
    assert words("My favorite animal is the **Sea-Otter**, because it's an otter's otter!") == [
        "favorite", "animal", "sea-otter", "otter's", "otter",
    ]  # fmt: skip
    assert words("... 42 !") == ["42"]


@pytest.mark.parametrize(
    ("begun", "text", "named"),
    [
        ("I like the polar", "bear", "polar bear"),
        ("", "bear", "bear"),
        ("Not a cat, but a", "bear, a cat", "bear"),
        ("A cat", "and more", None),
        ("A cat\n", "cat", "cat"),
        ("Cats are fine. Polar bears are", "better", None),
    ],
)
def test_what_had_begun_names_nothing_by_itself(begun, text, named):
    traits = [animal("cat"), animal("bear"), Trait.noun("polar bear", category="animal")]
    assert match(text, traits, begun=begun) == named
