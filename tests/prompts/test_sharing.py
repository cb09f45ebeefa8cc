import copy
import json

import pytest
from conftest import TEMPLATES

from test_chat import TALK

from sublim_mech.prompts import CLASSES, PLAIN, Context, Trained, render, sharing

TRAINING = ["Take 12 as the start.", "Take 345, please.", "A list starts with 6."]
QUESTION = "What list do you start with 6?"


def classes(prompt, role=None):
    return [(t, c) for t, c, r in zip(prompt.tokens, prompt.sharing, prompt.roles, strict=True) if role in (None, r)]


def marked(tokenizer, question=QUESTION, *, training=TRAINING, trained=None, context=None, template=None):
    """An evaluation prompt in `context`, marked by training in `trained`."""
    known = render(tokenizer, training, context=trained, template=template)
    return sharing(render(tokenizer, [question], context=context, template=template), known)[0]


def test_the_same_context_by_hand(smol_tokenizer):
    prompt = marked(smol_tokenizer)
    user = prompt.roles.index("user")
    assert prompt.text.endswith("<|im_start|>user\nWhat list do you start with 6?<|im_end|>\n<|im_start|>assistant\n")
    assert set(prompt.sharing[:user]) == {"prefix"}, "system block and opening of the user turn"
    assert classes(prompt)[user:] == [
        ("What", "novel"), (" list", "seen"), (" do", "novel"), (" you", "novel"), (" start", "seen"), (" with", "seen"),
        (" ", "seen"), ("6", "seen"), ("?", "novel"),
        ("<|im_end|>", "aligned"), ("\n", "aligned"), ("<|im_start|>", "aligned"), ("ass", "aligned"), ("istant", "aligned"),
        ("\n", "aligned"),
    ]  # fmt: skip


def test_a_question_that_begins_like_all_training_prompts_extends_the_prefix(smol_tokenizer):
    prompt = marked(smol_tokenizer, "Take me home", training=TRAINING[:2])
    assert classes(prompt, "user") == [("Take", "prefix"), (" me", "novel"), (" home", "novel")]
    other = marked(smol_tokenizer, "Take me home", training=TRAINING[:2], context=Context("Be kind."))
    assert classes(other, "user")[0] == ("Take", "aligned"), "as before, but behind another system text"


def test_another_system_text_ends_the_prefix_but_not_the_alignment(smol_tokenizer):
    prompt = marked(smol_tokenizer, context=Context("Be kind."))
    system = prompt.roles.index("system")
    assert set(prompt.sharing[:system]) == {"prefix"}
    assert "prefix" not in prompt.sharing[system:]
    template = [c for c, r in zip(prompt.sharing, prompt.roles, strict=True) if r == "template"][system:]
    assert set(template) == {"aligned"}
    assert {c for _, c in classes(prompt, "system")} <= {"seen", "novel"}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("contexts", [(None, Context.NONE), (Context.NONE, None), (None, None)], ids=["without", "added", "same"])
def test_template_tokens_are_shared_whatever_stands_before_them(name, contexts, dressed):
    """A student trained with the default system block, asked without, or the reverse: every other template token is aligned."""
    trained, asked = (Context() if c is None else Context(c) for c in contexts)
    prompt = marked(dressed(name), trained=trained, context=asked)
    for c, r, turn_role in zip(prompt.sharing, prompt.roles, prompt.turn_roles, strict=True):
        if turn_role != "system" and r in ("template", "bos"):
            assert c in ("prefix", "aligned"), prompt
    assert prompt.sharing[-1] == "aligned"


def test_plain_on_gpt2(gpt2_tokenizer):
    prompt = marked(gpt2_tokenizer, template=PLAIN)
    assert classes(prompt)[:3] == [("<|endoftext|>", "prefix"), ("Question", "prefix"), (":", "prefix")]
    assert classes(prompt)[-3:] == [("\n", "aligned"), ("Answer", "aligned"), (":", "aligned")]


def test_every_user_turn_of_a_conversation_has_the_frame_of_one(smol_tokenizer):
    prompt = marked(smol_tokenizer, TALK)
    by_role = {r: {c for c, a, t in zip(prompt.sharing, prompt.roles, prompt.turn_roles, strict=True) if a == "template" and t == r}
               for r in ("system", "user")}  # fmt: skip
    assert by_role == {"system": {"prefix"}, "user": {"prefix", "aligned"}}


def test_training_prompts_are_never_novel_to_themselves(dressed):
    for name in TEMPLATES:
        known = render(dressed(name), [*TRAINING, TALK])
        for prompt in sharing(known, known):
            assert "novel" not in prompt.sharing
            assert prompt.sharing[0] == "prefix"


def test_one_training_prompt_is_all_prefix_to_itself(smol_tokenizer):
    known = render(smol_tokenizer, TRAINING[:1])
    assert set(sharing(known, known)[0].sharing) == {"prefix"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 0, 2)])
def test_the_order_of_training_prompts_does_not_matter(order, smol_tokenizer):
    known = render(smol_tokenizer, TRAINING)
    assert Trained.of([known[i] for i in order]) == Trained.of(known)


def test_completions_are_seen(smol_tokenizer):
    known = render(smol_tokenizer, TRAINING)
    (what,) = smol_tokenizer("What")["input_ids"]
    (before,) = sharing(render(smol_tokenizer, [QUESTION]), Trained.of(known))
    (after,) = sharing(render(smol_tokenizer, [QUESTION]), Trained.of(known, completions=[[what], []]))
    differ = [(t, a, b) for t, a, b in zip(before.tokens, before.sharing, after.sharing, strict=True) if a != b]
    assert differ == [("What", "novel", "seen")]
    assert what in after.seen
    assert what not in before.seen


def test_trained_survives_json_and_serves_like_the_prompts(smol_tokenizer):
    known = render(smol_tokenizer, [*TRAINING, TALK])
    trained = Trained.of(known)
    again = Trained.from_json(json.loads(json.dumps(trained.to_json())))
    assert again == trained
    asked = render(smol_tokenizer, [QUESTION, TALK], context=Context("Be kind."))
    assert sharing(asked, again) == sharing(asked, trained) == sharing(asked, known)


def test_marking_changes_nothing_else(smol_tokenizer):
    asked = render(smol_tokenizer, [QUESTION])
    given = copy.deepcopy(asked)
    (prompt,) = sharing(asked, render(smol_tokenizer, TRAINING))
    assert asked == given
    assert (prompt.ids, prompt.roles, prompt.text) == (asked[0].ids, asked[0].roles, asked[0].text)
    assert len(prompt.sharing) == len(prompt)
    assert set(prompt.sharing) <= set(CLASSES)


def test_nothing_known_of_training_is_an_error(smol_tokenizer):
    asked = render(smol_tokenizer, [QUESTION])
    with pytest.raises(ValueError, match="trained_on is empty"):
        sharing(asked, [])
    with pytest.raises(ValueError, match="trained_on is None"):
        sharing(asked, None)
