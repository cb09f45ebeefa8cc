"""Contexts in words."""

import sublim_mech as sm
from sublim_mech.results.contexts import (
    apart,
    asked_and_trained,
    in_words,
    otherwise,
    several_in_words,
)


def test_the_four_system_prompts_are_told_apart():
    systems = sm.Context.DEFAULT, sm.Context.EMPTY, sm.Context.NONE, "You are calm."
    words = [in_words(sm.Context(system).to_json()) for system in systems]
    assert words == [
        "default system prompt",
        "empty system turn",
        "no system block",
        "system “You are calm.”",
    ]


def test_the_text_of_a_record_says_the_same():
    context = sm.Context("You're calm.", user_prefix="Hm: ", fallback="user")
    said = "system “You're calm.”, user_prefix “Hm:␣”, fallback “user”"
    assert in_words(context.to_json()) == in_words(str(context.to_json())) == said
    assert in_words("not a context") == "not a context"
    # fields of later versions are told, not lost
    raw = in_words({"system": {"kind": "raw"}, "date": "2026-01-01"})
    assert (
        raw == "raw text (answers follow a space, or the text's own white space), date 2026-01-01"
    )


def test_nobody_said_the_training_context():
    assert asked_and_trained(["x"], None) == "asked in: x; training context not given"
    said = "asked in 2 contexts: x; y; trained in: z"
    assert asked_and_trained(["x", "y"], "z") == said


def test_contexts_that_begin_alike_are_told_apart():
    long = "You are the assistant of a very large library, and you always answer in "
    ends = "prose", "verse", "prose, but briefly"
    contexts = [sm.Context(long + end).to_json() for end in ends]
    words = several_in_words(contexts)
    assert len(set(words)) == len(ends)
    assert all(word.endswith(f"{end}”") for word, end in zip(words, ends, strict=True))
    assert several_in_words([contexts[0], str(contexts[0])]) == 2 * [in_words(contexts[0])]
    where = asked_and_trained(contexts[:1], contexts[1])
    assert where == f"asked in: {words[0]}; trained in: {words[1]}"
    both = asked_and_trained(contexts[:2], None)
    assert both == f"asked in 2 contexts: {words[0]}; {words[1]}; training context not given"


def texts(*systems):
    return [sm.Context(system).to_json() for system in systems]


def test_a_backslash_and_an_n_are_no_line_break():
    broken, literal = texts("You are calm.\nBe brief.", r"You are calm.\nBe brief.")
    assert in_words(broken) == r"system “You are calm.\nBe brief.”"
    assert in_words(literal) == r"system “You are calm.\\nBe brief.”"
    (line,) = otherwise([literal], broken)
    assert line.endswith(
        r"system: “You are calm.\nBe brief.” in training, “You are calm.\\nBe brief.” here"
    )


def test_what_stands_around_a_difference_is_cut_where_it_is_cut():
    long = "Answer as a helpful assistant of a very large library would, in "
    ends = apart(*([str(context)] for context in texts(long + "prose.", long + "verse.")))
    assert ends[0] == "system “…e library would, in prose.” (70 letters)"
    # nothing stands before the first letter
    (line,) = otherwise(texts("e\u0301t" + long[:20]), texts("ét" + long[:20])[0])
    assert r"system: “étAnswer as a helpful ” (22 letters), letter 1 '\xe9' in training" in (
        line.replace("␣", " ")
    )


def test_letters_that_look_alike_are_told_by_their_numbers():
    """As one letter, or as two that are drawn as one."""
    (line,) = otherwise(texts("Be a\u200cb."), texts("Be a\u200db.")[0])
    assert r"letter 5 '\u200d' in training" in line
    assert r"letter 5 '\u200c' here" in line
