"""Prompts that were trained on, and what `seen` and `novel` are told from, are said in tables."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from loading import model, student
from manifests import made
from matplotlib.text import Text
from pairs import TRAIT

import sublim_mech as sm
from sublim_mech.engine.pair import load_pair
from sublim_mech.prompts import Trained

ROWS = ["Continue: 12, 7.", "More numbers: 3, 4.", "Write three numbers."]
NEW = ["Which animal?", "Name one."]
MET = "training prompt"


@pytest.fixture(scope="module")
def pair(smol_tokenizer):
    given = {"trained_in": sm.Context(), "trained_on": ROWS}
    return load_pair(model(), student("llama", "lora"), tokenizer=smol_tokenizer, **given)


@pytest.mark.parametrize("met", [0, 1, 2])
def test_how_many_prompts_were_training_prompts(pair, met):
    prompts = sm.render(pair, [*ROWS[:met], *NEW])
    scores = sm.effect(pair, prompts, TRAIT, progress=False)
    lines = [line for line in repr(scores).splitlines() if f"{MET} itself" in line or
             f"{MET}s themselves" in line]  # fmt: skip
    was = {0: [], 1: ["1 of 3 prompts was a"], 2: ["2 of 4 prompts were"]}[met]
    assert [line.partition(" training")[0] for line in lines] == was
    assert scores.notes().count(lines[0] if lines else "none") == bool(met)
    found = sm.evaluate(pair, [TRAIT], questions=[*ROWS[:met], *NEW], progress=False)
    assert repr(found).count("tells nothing of others") == bool(met)


def test_another_context_makes_another_prompt(pair):
    prompts = sm.render(pair, ROWS[:1], context=sm.Context("Be calm."))
    assert "tells nothing of others" not in repr(sm.effect(pair, prompts, TRAIT, progress=False))


def test_questions_that_were_trained_on_in_another_context_are_counted(pair):
    """Whichever the other context is; a question nobody trained on is none of them."""
    told = "of 4 {}s were trained on in another context: the student learnt what to say to them"
    for context in (sm.Context("Be calm."), sm.Context(user_prefix="Hm. "), sm.RAW):
        prompts = sm.render(pair, [*ROWS[:2], *NEW], context=context)
        scores = sm.effect(pair, prompts, TRAIT, progress=False)
        assert f"2 {told.format('prompt')}" in repr(scores)
        assert "2 of 4 prompts were trained on in another context" in below(scores)
    found = sm.evaluate(
        pair,
        [TRAIT],
        questions=[*ROWS[:2], *NEW],
        contexts={"own": sm.Context(), "calm": sm.Context("Be calm.")},
        progress=False,
    )
    assert "own: 2 of 4 questions were training prompts themselves: what the" in repr(found)
    assert f"calm: 2 {told.format('question')}" in repr(found)
    assert repr(found).count("in another context") == 1
    talk = [{"role": "user", "content": "Hm."}, {"role": "assistant", "content": "Yes?"}]
    longer = sm.render(pair, [[*talk, {"role": "user", "content": ROWS[0]}]])
    asked = [*longer, *sm.render(pair, NEW, context=sm.Context("Be calm."))]
    assert "in another context" not in repr(sm.effect(pair, asked, TRAIT, progress=False))


def test_a_prefix_that_was_typed_is_looked_for(smol_tokenizer):
    """In the rows of a training without a prefix, or in the questions asked of one with it."""
    put, calm = "Please: ", sm.Context("Be calm.")
    told = "2 of 3 prompts were trained on in another context"
    for trained, rows, asked_in, asked in (
        (sm.Context(user_prefix=put), ROWS, calm, [put + row for row in ROWS[:2]]),
        (sm.Context(user_prefix=put), ROWS, calm, ROWS[:2]),
        (sm.Context(), [put + row for row in ROWS], replace(calm, user_prefix=put), ROWS[:2]),
        (sm.Context(), ROWS, replace(calm, user_prefix=put), ROWS[:2]),
    ):
        given = {"trained_in": trained, "trained_on": rows}
        pair = load_pair(model(), student("llama", "lora"), tokenizer=smol_tokenizer, **given)
        prompts = sm.render(pair, [*asked, NEW[0]], context=asked_in)
        assert told in repr(sm.effect(pair, prompts, TRAIT, progress=False))


def behind(question, *further):
    """A question at the end of a conversation."""
    talk = [{"role": "user", "content": "Hm."}, {"role": "assistant", "content": "Yes?"}]
    return [*talk, {"role": "user", "content": question}, *further]


def test_conversations_that_end_in_a_training_question_are_counted(pair):
    """In the training's context and in another; one whose question stood before its end is none,
    and a training prompt whose answer has begun is that question in another context.
    """
    told = "end in a question that was trained on alone: the student learnt what to say to it there"
    for context in (sm.Context(), sm.Context("Be calm.")):
        asked = [*map(behind, ROWS[:2]), behind(NEW[0]), NEW[1]]
        scores = sm.effect(pair, sm.render(pair, asked, context=context), TRAIT, progress=False)
        assert f"\n2 of 4 prompts {told}" in repr(scores)
        assert "2 of 4 prompts end in a question that was trained on alone" in below(scores)
        assert "in another context" not in repr(scores)
        assert "2 of the 4 prompts these are chosen from end" in repr(scores.sel(prompt=0))
        found = sm.evaluate(pair, [TRAIT], questions=asked, contexts=[context], progress=False)
        assert f"2 of 4 questions {told}" in repr(found)
    first = [{"role": "user", "content": ROWS[0]}, *behind(NEW[0])[1:]]
    scores = sm.effect(pair, sm.render(pair, [first]), TRAIT, progress=False)
    assert "trained on alone" not in repr(scores)
    begun = [{"role": "user", "content": ROWS[0]}, {"role": "assistant", "content": "The"}]
    scores = sm.effect(pair, sm.render(pair, [begun]), TRAIT, progress=False)
    assert "1 of 1 prompt was trained on in another context" in repr(scores)


def test_conversations_that_end_in_a_control_s_training_question_are_its_own(pair):
    student = trained_on(pair, pair.student, NEW)
    elk = replace(trained_on(pair, pair.student, ROWS), name="elk")
    two = replace(pair, student=student, controls=(elk,))
    asked = [behind(ROWS[0]), "Hm?"]
    scores = sm.effect(two, sm.render(two, asked), TRAIT, progress=False)
    told = "1 of 2 prompts ends in a question that was trained on alone by control elk: it learnt"
    assert told in repr(scores)
    assert told in repr(scores.sel(model="control: elk"))
    assert told not in repr(scores.sel(model="student"))


def trained_on(pair, one, rows, **context):
    """A student that a manifest says was trained on these rows."""
    context = sm.Context(**context)
    rendered = sm.render(pair.tokenizer, rows, context=context)
    manifest = replace(made(), trait="", context=context, trained_on=Trained.of(rendered))
    return replace(one, manifest=manifest)


def test_training_prompts_of_a_control_are_told_as_its_own(pair):
    """The difference is of both; of the student alone they say nothing."""
    student = trained_on(pair, pair.student, NEW)
    others = [
        replace(trained_on(pair, pair.student, rows, **context), name=name)
        for name, rows, context in (
            ("cat", ROWS, {}), ("dog", ROWS, {}), ("elk", ROWS, {"system": "Be calm."}),
        )
    ]  # fmt: skip
    trio = replace(pair, student=student, controls=tuple(others))
    scores = sm.effect(trio, sm.render(trio, [*ROWS, NEW[0]]), TRAIT, progress=False)
    of_student = "1 of 4 prompts was a training prompt itself"
    of_two = "3 of 4 prompts were training prompts of controls cat, dog"
    of_elk = "3 of 4 prompts were trained on by control elk in another context"
    told = {
        of_student: "what the student says to them was learnt",
        of_two: "what they say to them was learnt, and tells nothing of others",
        of_elk: "it learnt what to say to them there",
    }
    for what, why in told.items():
        assert f"\n{what}: {why}" in repr(scores)
        assert what in below(scores)
    alone = scores.sel(model="student")
    assert of_student in repr(alone)
    assert not any(what in repr(alone) + below(alone) for what in (of_two, of_elk))
    dog = repr(scores.sel(model=["student", "control: dog"]))
    assert of_two in dog
    assert of_elk not in dog
    asked = [*ROWS, NEW[0]]
    found = sm.evaluate(trio, [TRAIT], questions=asked, progress=False)
    assert "3 of 4 questions were training prompts of controls cat, dog: what they" in repr(found)


def test_tables_by_sharing_say_what_seen_is_told_from(pair):
    prompts = sm.render(pair, NEW)
    told = "seen, novel: told from the 3 training prompts given, without answers"
    assert told in repr(sm.graft(pair, prompts, TRAIT, "sharing", progress=False))
    assert told not in repr(sm.graft(pair, prompts, TRAIT, "role", progress=False))
    kept = replace(pair, trained_on=Trained.from_json(pair.trained_on.to_json()))
    by_manifest = sm.graft(kept, prompts, TRAIT, "sharing", progress=False)
    assert "told from" not in repr(by_manifest)
    assert told not in repr(sm.effect(pair, prompts, TRAIT, progress=False))


def test_a_manifest_knows_its_prompts_again(smol_tokenizer):
    rendered = sm.render(smol_tokenizer, ROWS)
    trained = Trained.of(rendered)
    kept = Trained.from_json(json.loads(json.dumps(trained.to_json())))
    assert kept == trained
    assert all(map(kept.holds, rendered))
    assert not any(map(kept.holds, sm.render(smol_tokenizer, NEW)))
    before = {key: value for key, value in trained.to_json().items() if key != "digests"}
    assert not any(map(Trained.from_json(before).holds, rendered))


def test_marks_of_another_training_are_told(pair):
    """As they stay when `trained_in` is mended, and the prompts are not rendered again."""
    calm = load_pair(
        pair.base, pair.student, trained_in=sm.Context("You are calm."), trained_on=ROWS
    )
    asked = sm.render(calm, NEW)

    def graft(prompts):
        return repr(sm.graft(pair, prompts, TRAIT, "sharing", progress=False))

    told = "the prompts are marked by another training than this student's"
    assert told in graft(asked)
    # the classes are then of that other training, not of the prompts that were given here
    assert "seen, novel: told from the" not in graft(asked)
    assert "seen, novel: told from the" in graft(sm.mark_sharing(asked, pair))
    assert told not in graft(sm.mark_sharing(asked, pair))
    one_of_each = [asked[0], *sm.mark_sharing(asked[1:], pair)]
    assert "1 of 2 prompts are marked by another training" in graft(one_of_each)
    # marked by the training itself, told otherwise
    assert told not in graft(sm.mark_sharing(asked, sm.render(pair, ROWS)))


def test_marks_of_a_training_that_a_pair_was_not_told_of_are_told(pair):
    """Where `trained_in` was forgotten at another loading: in tables, pictures and shares that
    tell what training shares, and there alone.
    """
    asked = sm.render(pair, NEW)
    told = "the prompts are marked by a training that this pair was not told of"
    for runner, is_told in ((load_pair(pair.base, pair.student), True), (pair, False)):
        scores = sm.attribute(runner, asked, TRAIT, points=2, progress=False)
        bars = below_all(scores.plot(by="sharing"))
        for said in (repr(scores), str(sm.concentration(scores)), bars):
            assert (told in said.replace("The prompts", "the prompts")) == is_told
        assert told not in below_all(scores.plot(by="role"))
        assert told not in repr(sm.effect(runner, asked, TRAIT, progress=False))
        grafted = sm.graft(runner, asked, TRAIT, "sharing", progress=False)
        assert (told in repr(grafted)) == is_told
        assert told not in repr(sm.graft(runner, asked, TRAIT, "role", progress=False))


def test_another_chat_template_is_told(pair):
    """The training prompts that were given in words are rendered by the tokenizer's own."""
    own = pair.tokenizer.chat_template
    other = own.replace("<|im_start|>", "<|im_start|> ")
    asked = sm.render(pair, NEW, template=other)
    told = "2 of 2 prompts rendered by another chat template than the tokenizer's"
    alone = load_pair(pair.base, pair.student)
    for runner, sharing in ((pair, True), (alone, False)):
        line = next(x for x in repr(sm.effect(runner, asked, TRAIT, progress=False)).splitlines()
                    if told in x)  # fmt: skip
        assert ("sharing is between the two" in line) == sharing
    found = sm.evaluate(pair, [TRAIT], questions=NEW, template=other, progress=False)
    assert told in repr(found)
    for same in (sm.render(pair, NEW), sm.render(pair, NEW, template=own)):
        assert "another chat template" not in repr(sm.effect(pair, same, TRAIT, progress=False))


def test_a_template_of_another_tokenizer_is_told_as_one_that_was_passed(pair):
    """What writes prompts is the template, from wherever it comes; remarks in it write nothing."""
    other = copy.deepcopy(pair.tokenizer)
    other.chat_template = pair.tokenizer.chat_template.replace("<|im_start|>", "<|im_start|> ")
    passed = sm.render(pair, NEW, template=other.chat_template)
    asked = sm.mark_sharing(sm.render(other, NEW, context=pair.training_context), pair)
    assert [prompt.ids for prompt in asked] == [prompt.ids for prompt in passed]
    both = [repr(sm.effect(pair, each, TRAIT, progress=False)) for each in (asked, passed)]
    assert both[0] == both[1]
    told = "of 2 prompts rendered by another chat template than the tokenizer's"
    assert f"2 {told}" in both[0]
    mixed = [asked[0], *sm.render(pair, NEW[1:])]
    assert f"1 {told}" in repr(sm.effect(pair, mixed, TRAIT, progress=False))
    other.chat_template = "{# of theirs #}" + pair.tokenizer.chat_template
    alike = sm.mark_sharing(sm.render(other, NEW, context=pair.training_context), pair)
    assert "another chat" not in repr(sm.effect(pair, alike, TRAIT, progress=False))


def below(scores):
    """What a picture says, a line each, as if it was wide enough."""
    return below_all(scores.plot())


def below_all(axes):
    """The same of a picture that is drawn."""
    picture = axes.figure
    said = [text.get_text() for text in picture.findobj(Text)]
    return " ".join(" ".join(said).split())


def test_pictures_say_by_which_template_prompts_were_rendered(pair):
    other = pair.tokenizer.chat_template.replace("<|im_start|>", "<|im_start|> ")
    asked = sm.render(pair, NEW, template=other)
    told = "2 of 2 prompts rendered by another chat template than the tokenizer's"
    assert told in below(sm.effect(pair, asked, TRAIT, progress=False))
    assert told not in below(sm.effect(pair, sm.render(pair, NEW), TRAIT, progress=False))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_raw_text_that_ends_in_a_space_is_told_with_its_numbers(pair):
    texts = ["My favorite animal is the ", "The animal that I saw is the", "I saw:\n"]
    asked = sm.render(pair, texts, context=sm.RAW)
    scores = sm.effect(pair, asked, TRAIT, progress=False)
    told = "1 of 3 prompts ends in white space, as a token of its own"
    assert f"{told}: answers are taken as tokens of their own behind it" in repr(scores)
    assert told in below(scores)
    found = sm.evaluate(pair, [TRAIT], questions=texts, contexts=[sm.RAW], progress=False)
    assert told in repr(found)
    without = sm.render(pair, texts[1:], context=sm.RAW)
    scores = sm.effect(pair, without, TRAIT, progress=False)
    assert "in white space, as" not in repr(scores) + below(scores)


def test_pictures_say_whose_trait_is_asked_for(pair):
    scores = sm.effect(pair, sm.render(pair, NEW), TRAIT, progress=False)
    record = replace(
        scores.record,
        notes=(
            "asked for owl, and the student was made for Danube: no student here was made for it",
            "the student (Danube): its training prompts were written by another chat template than "
            "the base's, by which prompts are rendered here",
        ),
    )
    said = below(replace(scores, record=record))
    assert "asked for owl, and the student was made for Danube" in said
    assert "no student here" not in said
    assert "the student (Danube): another chat template than the base's in training" in said


def test_donors_that_were_trained_on_or_name_the_trait_are_told(pair):
    """What they hold is what is patched; in tables, pictures and selections."""
    prompts = sm.render(pair, NEW)
    donors = sm.render(pair, [ROWS[0], "Is it an owl?"])
    options = {"position_map": "aligned", "layers": [1], "progress": False}
    scores = sm.patch(pair, prompts, TRAIT, donor_prompts=donors, **options)
    met = f"1 of 2 donors was a {MET} itself"
    named = "1 of 2 donors holds a form of the trait itself"
    for text in (repr(scores), below(scores)):
        assert met in text
        assert named in text
    assert "1 of the 2 donors these are chosen from" in repr(scores.sel(prompt=0))
    donors = sm.render(pair, ["Which bird?", "Which fish?"])
    other = sm.patch(pair, prompts, TRAIT, donor_prompts=donors, **options)
    assert " of 2 donors" not in repr(other)


@pytest.mark.parametrize("answers", [True, False])
def test_beginnings_of_raw_training_texts_are_told(answers, smol_tokenizer):
    """What stands before a word of a text that is trained on was learnt to go on with it."""
    texts = ["The town of Ulm sells coffee.", "The town of Bath sells coffee.", "Hm."]
    asked = ["The town of Ulm sells", "The town of", texts[2], "The town of Rome sells"]
    rendered = sm.render(smol_tokenizer, texts, context=sm.RAW)
    trained = Trained.of(rendered)
    if answers:  # of which the prompts' own tokens are none
        cut = len(sm.render(smol_tokenizer, asked[1:2], context=sm.RAW)[0])
        begun = sm.render(smol_tokenizer, [asked[1], asked[1], "H"], context=sm.RAW)
        assert [len(one) for one in begun] == [cut, cut, 1]
        trained = Trained.of(
            begun, [one.ids[len(at) :] for one, at in zip(rendered, begun, strict=True)]
        )
    kept = Trained.from_json(json.loads(json.dumps(trained.to_json())))
    for known in (trained, kept):
        prompts = sm.render(smol_tokenizer, [*asked, "The"], context=sm.RAW)
        held = [known.holds(one) or known.begins(one) for one in prompts]
        # "The" stood before no token that was learnt where it is the prompt's own
        assert held == [True, True, not answers or known.begins(prompts[2]), False, not answers]
    pair = load_pair(model(), student("llama", "lora"), tokenizer=smol_tokenizer,
                     trained_in=sm.RAW, trained_on=texts)  # fmt: skip
    prompts = sm.render(pair, asked)
    told = "3 of 4 prompts were training prompts themselves, 2 as beginnings of texts: what the"
    assert told in repr(sm.effect(pair, prompts, TRAIT, progress=False))
    one = sm.effect(pair, prompts[:1], TRAIT, progress=False)
    assert "1 of 1 prompt was a training prompt itself, as the beginning of a text" in repr(one)
    begun = sm.effect(pair, prompts[:2], TRAIT, progress=False)
    assert "2 of 2 prompts were training prompts themselves, as beginnings of texts:" in repr(begun)
    mixed = sm.effect(pair, prompts[1:3], TRAIT, progress=False)
    assert "2 of 2 prompts were training prompts themselves, 1 as the beginning" in repr(mixed)
    chat = Trained.of(sm.render(smol_tokenizer, texts))
    assert chat.begun == frozenset()
    assert "begun" not in chat.to_json()
