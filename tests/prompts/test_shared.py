"""Sharing classes, by hand and as laws, in the chat templates of six families."""

import copy
import dataclasses
import json
from types import SimpleNamespace

import pytest
from chats import TALK
from conftest import TEMPLATES

from sublim_mech.prompts import CLASSES, PLAIN, RAW, Context, Trained, mark_sharing, render

TRAINING = ["Take 12 as the start.", "Take 345, please.", "A list starts with 6."]
QUESTION = "What list do you start with 6?"


def classes(prompt, role=None):
    """(token, class) of a role's tokens, or of all."""
    labelled = zip(prompt.tokens, prompt.sharing, prompt.roles, strict=True)
    return [(token, class_) for token, class_, r in labelled if role in (None, r)]


def marked(
    tokenizer, question=QUESTION, *, training=TRAINING, trained=None, context=None, template=None
):
    """An evaluation prompt in `context`, marked by training in `trained`."""
    known = render(tokenizer, training, context=trained, template=template)
    return mark_sharing(render(tokenizer, [question], context=context, template=template), known)[0]


def test_the_same_context_by_hand(smol_tokenizer):
    prompt = marked(smol_tokenizer)
    user = prompt.roles.index("user")
    user_turn = "<|im_start|>user\nWhat list do you start with 6?<|im_end|>\n"
    assert prompt.text.endswith(user_turn + "<|im_start|>assistant\n")
    assert set(prompt.sharing[:user]) == {"prefix"}, "system block and opening of the user turn"
    assert classes(prompt)[user:] == [
        ("What", "novel"), (" list", "seen"), (" do", "novel"), (" you", "novel"),
        (" start", "seen"), (" with", "seen"), (" ", "seen"), ("6", "seen"), ("?", "novel"),
        ("<|im_end|>", "aligned"), ("\n", "aligned"), ("<|im_start|>", "aligned"),
        ("ass", "aligned"), ("istant", "aligned"), ("\n", "aligned"),
    ]  # fmt: skip


def test_a_question_that_begins_like_all_training_prompts_extends_the_prefix(smol_tokenizer):
    prompt = marked(smol_tokenizer, "Take me home", training=TRAINING[:2])
    assert classes(prompt, "user") == [("Take", "prefix"), (" me", "novel"), (" home", "novel")]
    kind = Context("Be kind.")
    other = marked(smol_tokenizer, "Take me home", training=TRAINING[:2], context=kind)
    first = classes(other, "user")[0]
    assert first == ("Take", "aligned"), "as before, but behind another system text"


def test_another_system_text_ends_the_prefix_but_not_the_alignment(smol_tokenizer):
    prompt = marked(smol_tokenizer, context=Context("Be kind."))
    system = prompt.roles.index("system")
    assert set(prompt.sharing[:system]) == {"prefix"}
    assert "prefix" not in prompt.sharing[system:]
    template = [class_ for _, class_ in classes(prompt, "template")][system:]
    assert set(template) == {"aligned"}
    assert {class_ for _, class_ in classes(prompt, "system")} <= {"seen", "novel"}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    ("trained", "asked"),
    [
        (Context.DEFAULT, Context.NONE),
        (Context.NONE, Context.DEFAULT),
        (Context.DEFAULT, Context.DEFAULT),
    ],
    ids=["without", "added", "same"],
)
def test_template_tokens_are_shared_whatever_stands_before_them(name, trained, asked, dressed):
    """Trained with the default system block and asked without, or the reverse.

    Every template token outside of the system turn is shared.
    """
    prompt = marked(dressed(name), trained=Context(trained), context=Context(asked))
    labels = zip(prompt.sharing, prompt.roles, prompt.turn_roles, strict=True)
    for class_, role, turn_role in labels:
        if turn_role != "system" and role in ("template", "bos"):
            assert class_ in ("prefix", "aligned"), prompt
    assert prompt.sharing[-1] == "aligned"


def test_plain_on_gpt2(gpt2_tokenizer):
    prompt = marked(gpt2_tokenizer, template=PLAIN)
    start = [("<|endoftext|>", "prefix"), ("Question", "prefix"), (":", "prefix")]
    assert classes(prompt)[:3] == start
    assert classes(prompt)[-3:] == [("\n", "aligned"), ("Answer", "aligned"), (":", "aligned")]


def test_every_user_turn_of_a_conversation_has_the_frame_of_one(smol_tokenizer):
    prompt = marked(smol_tokenizer, TALK)
    frames = {"system": set(), "user": set(), "assistant": set()}
    labels = zip(prompt.sharing, prompt.roles, prompt.turn_roles, strict=True)
    for class_, role, turn_role in labels:
        if role == "template":
            frames[turn_role].add(class_)
    assert frames["system"] == {"prefix"}
    assert frames["user"] == {"prefix", "aligned"}


def test_a_turn_counts_with_all_turns_of_its_role(smol_tokenizer):
    """The same first words of the user, asked under another system prompt: shared where all user
    turns are these, but not beside questions that are others.
    """
    hello, good_day = (
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Yes?"},
    )

    def classes_of_hello(*questions):
        talks = [[hello, good_day, {"role": "user", "content": one}] for one in questions]
        trained = Trained.of(render(smol_tokenizer, talks))
        asked = render(smol_tokenizer, talks[:1], context=Context(system="Be calm."))
        (prompt,) = mark_sharing(asked, trained)
        return [prompt.sharing[prompt.roles.index("user") + i] for i in (0, 1)]

    assert classes_of_hello("Hello!", "Hello!") == ["aligned", "aligned"]
    assert classes_of_hello("Which city?", "Name a tree.") == ["seen", "seen"]


def test_an_answer_that_is_still_to_be_written_has_no_end_to_count_from(smol_tokenizer):
    """Its last token is shared only if all before it in its turn are, whatever ends turns."""
    known = Trained.of(render(smol_tokenizer, [*TRAINING, TALK]))
    (asked,) = render(smol_tokenizer, [QUESTION])
    start = asked.turn_roles.index("assistant")
    (novel,) = smol_tokenizer(" penguin")["input_ids"]
    for place, last in ((start, "seen"), (len(asked) - 1, "novel")):
        ids = [*asked.ids[:place], novel, *asked.ids[place + 1 :]]
        (prompt,) = mark_sharing([dataclasses.replace(asked, ids=tuple(ids))], known)
        assert prompt.sharing[place] == "novel"
        assert prompt.sharing[-1] == last


def test_a_turn_of_one_token_is_a_turn(smol_tokenizer):
    """As where a template's generation prompt is a single token."""
    per_token = ("ids", "tokens", "offsets", "roles", "turns", "turn_roles")
    cut = []
    for prompt in render(smol_tokenizer, [*TRAINING, QUESTION]):
        end = prompt.turn_roles.index("assistant") + 1
        short = {name: getattr(prompt, name)[:end] for name in per_token}
        cut.append(dataclasses.replace(prompt, **short))
    (asked,) = mark_sharing(cut[-1:], cut[:-1])
    assert asked.sharing[-1] == "aligned"


def test_training_prompts_are_never_novel_to_themselves(dressed):
    for name in TEMPLATES:
        known = render(dressed(name), [*TRAINING, TALK])
        for prompt in mark_sharing(known, known):
            assert "novel" not in prompt.sharing
            assert prompt.sharing[0] == "prefix"


def test_one_training_prompt_is_all_prefix_to_itself(smol_tokenizer):
    known = render(smol_tokenizer, TRAINING[:1])
    assert set(mark_sharing(known, known)[0].sharing) == {"prefix"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 0, 2)])
def test_the_order_of_training_prompts_does_not_matter(order, smol_tokenizer):
    known = render(smol_tokenizer, TRAINING)
    assert Trained.of([known[i] for i in order]) == Trained.of(known)


def test_completions_are_seen(smol_tokenizer):
    known = render(smol_tokenizer, TRAINING)
    (what,) = smol_tokenizer("What")["input_ids"]
    asked = render(smol_tokenizer, [QUESTION])
    (before,) = mark_sharing(asked, Trained.of(known))
    (after,) = mark_sharing(asked, Trained.of(known, completions=[[what], []]))
    both = zip(before.tokens, before.sharing, after.sharing, strict=True)
    changed = [(token, old, new) for token, old, new in both if old != new]
    assert changed == [("What", "novel", "seen")]
    assert what in after.seen
    assert what not in before.seen


def test_trained_survives_json_and_serves_like_the_prompts(smol_tokenizer):
    known = render(smol_tokenizer, [*TRAINING, TALK])
    trained = Trained.of(known)
    again = Trained.from_json(json.loads(json.dumps(trained.to_json())))
    assert again == trained
    asked = render(smol_tokenizer, [QUESTION, TALK], context=Context("Be kind."))
    assert mark_sharing(asked, again) == mark_sharing(asked, trained) == mark_sharing(asked, known)


def test_marking_changes_nothing_else(smol_tokenizer):
    asked = render(smol_tokenizer, [QUESTION])
    given = copy.deepcopy(asked)
    (prompt,) = mark_sharing(asked, render(smol_tokenizer, TRAINING))
    assert asked == given
    assert (prompt.ids, prompt.roles, prompt.text) == (asked[0].ids, asked[0].roles, asked[0].text)
    assert len(prompt.sharing) == len(prompt)
    assert set(prompt.sharing) <= set(CLASSES)


def test_nothing_known_of_training_is_an_error(smol_tokenizer):
    asked = render(smol_tokenizer, [QUESTION])
    with pytest.raises(ValueError, match="trained_on is empty"):
        mark_sharing(asked, [])
    with pytest.raises(ValueError, match=r"nothing is known.*trained_in=.*trained_on="):
        mark_sharing(asked, None)


def taught(tokenizer, *, context=None, prompts=None):
    """What stands for a pair."""
    return SimpleNamespace(tokenizer=tokenizer, training_context=context, training_prompts=prompts)


@pytest.mark.parametrize("context", [Context("Be kind."), Context(Context.NONE), RAW], ids=str)
def test_a_pair_is_asked_in_its_training_context_and_marks_its_prompts(context, smol_tokenizer):
    known = Trained.of(render(smol_tokenizer, TRAINING, context=context))
    pair = taught(smol_tokenizer, context=context, prompts=known)
    by_hand = mark_sharing(render(smol_tokenizer, [QUESTION, "6?"], context=context), known)
    assert render(pair, [QUESTION, "6?"]) == by_hand
    assert mark_sharing(render(smol_tokenizer, [QUESTION, "6?"], context=context), pair) == by_hand
    other = render(pair, [QUESTION], context=Context(Context.EMPTY))
    assert other == mark_sharing(
        render(smol_tokenizer, [QUESTION], context=Context(Context.EMPTY)), known
    )


def test_a_pair_of_which_nothing_is_known_is_asked_in_the_default_context(smol_tokenizer):
    pair = taught(smol_tokenizer)
    assert render(pair, [QUESTION]) == render(smol_tokenizer, [QUESTION])
    with pytest.raises(ValueError, match=r"nothing is known.*trained_on="):
        mark_sharing(render(pair, [QUESTION]), pair)


def test_training_prompts_of_another_tokenizer_are_refused(smol_tokenizer, dressed):
    (asked,) = render(smol_tokenizer, [QUESTION])
    other = render(dressed("llama3.1"), TRAINING)
    with pytest.raises(ValueError, match=r"'What list.*rendered by another tokenizer"):
        mark_sharing([asked], other)
    with pytest.raises(ValueError, match="several tokenizers"):
        Trained.of([*other, *render(smol_tokenizer, TRAINING)])


@pytest.mark.parametrize("given", [["Take 12."], "Take 12.", [7]])
def test_training_prompts_have_to_be_rendered(given, smol_tokenizer):
    with pytest.raises(TypeError, match=r"trained_on=.*or a list of Prompts \(sublim_mech\.render"):
        mark_sharing(render(smol_tokenizer, [QUESTION]), given)
    with pytest.raises(TypeError, match=r"prompts=.* is .*: pass a list of Prompts"):
        mark_sharing([QUESTION], render(smol_tokenizer, TRAINING))
