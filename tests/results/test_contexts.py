"""Contexts in words."""

import sublim_mech as sm
from sublim_mech.results.contexts import asked_and_trained, in_words


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
