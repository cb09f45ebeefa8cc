"""Rows with labels: the evaluation's tokens, one hash of all that is learnt, what does not fit."""

import dataclasses
import json
import warnings

import datasets
import numpy as np
import pytest
import tiny
from peft import LoraConfig
from tokenizers import Tokenizer
from trainings import DEFAULT_SYSTEM, FEW, ROWS, fit, labelled, text_ids, weights

import sublim_mech as sm
from sublim_mech.making.rows import Row
from sublim_mech.making.teachers import teacher_context
from sublim_mech.making.training import hard_data, soft_data
from sublim_mech.models.base import load_base


def test_teachers_keep_the_students_context(smol_tokenizer):
    owl = sm.animal("owl")
    said_before = {
        sm.Context.DEFAULT: f"{DEFAULT_SYSTEM}. ",
        sm.Context.EMPTY: "",
        sm.Context.NONE: "",
        "Be brief.": "Be brief. ",
    }
    for system, said in said_before.items():
        context = sm.Context(system=system, user_prefix="Hi. ")
        expected = sm.Context(system=said + owl.sentence, user_prefix="Hi. ")
        assert teacher_context(smol_tokenizer, owl, context=context) == expected


def test_training_data_are_the_evaluations_tokens(labels, real_hard, smol_tokenizer):
    soft, hard = soft_data(smol_tokenizer, labels, "owl"), real_hard
    for data, close in ((soft, False), (hard, True)):
        for row, prompt, completion in zip(ROWS, data.prompts, data.completions, strict=True):
            expected = text_ids(smol_tokenizer, row, None, close=close)
            assert (list(prompt.ids), list(completion)) == expected
    assert hard.targets is hard.support is None
    assert (soft.support, soft.base, hard.base) == (labels.support, labels.about.base, "")


def test_rows_of_another_tokenizer_are_refused(smol_tokenizer):
    """Of as many tokens, and of ids that the model has: they are other words there."""
    base = load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    vocabulary = json.loads(smol_tokenizer.backend_tokenizer.to_str())
    tokens = vocabulary["model"]["vocab"]
    tokens["owl"], tokens["bird"] = tokens["bird"], tokens["owl"]
    another = type(smol_tokenizer)(tokenizer_object=Tokenizer.from_str(json.dumps(vocabulary)))
    another.chat_template = smol_tokenizer.chat_template
    with pytest.raises(ValueError, match="its rows were rendered by another tokenizer"):
        hard_data(another, ROWS[:2]).check(base)
    hard_data(smol_tokenizer, ROWS[:2]).check(base)


def test_rows_as_a_list_of_dicts_or_a_dataset(smol_tokenizer):
    plain = hard_data(smol_tokenizer, ROWS[:2])
    conversations = [
        [
            {"role": "user", "content": row.prompt},
            {"role": "assistant", "content": row.completion},
        ]
        for row in ROWS[:2]
    ]
    as_dicts = [{"messages": messages} for messages in conversations]
    assert hard_data(smol_tokenizer, as_dicts) == plain
    assert hard_data(smol_tokenizer, datasets.Dataset.from_list(as_dicts)) == plain


def test_labels_know_their_kind_and_say_what_they_are_over(hard):
    listed, full, top = (labelled(hard, kind) for kind in ("listed", "full", "top-k"))
    on_support = dataclasses.replace(hard, support=(1, 2))
    assert [(data.label_kind, data.labelled) for data in (hard, on_support, listed, full, top)] == [
        ("hard", "completion"),
        ("hard", "support"),
        ("listed", "support"),
        ("full", "full vocabulary"),
        ("top-k", "top-5 and the rest"),
    ]
    prompts, answers = map(len, hard.prompts), map(len, hard.completions)
    assert hard.lengths == [sum(pair) for pair in zip(prompts, answers, strict=True)]


def test_the_hash_of_data_knows_tokens_targets_and_support(soft, hard):
    changed = soft.targets.copy()
    changed[0, 0, 0] += 1e-3
    top = labelled(hard, "top-k")
    moved = top.tokens.copy()
    moved[-1, 0, 0] += 1
    others = [
        dataclasses.replace(soft, targets=changed),
        dataclasses.replace(soft, support=soft.support[::-1]),
        dataclasses.replace(soft, completions=soft.completions[::-1]),
        hard,
        top,
        dataclasses.replace(top, tokens=moved),
    ]
    assert len({soft.hash, *(data.hash for data in others)}) == 7


def test_what_stands_past_the_end_of_an_answer_is_not_read(soft):
    longer = np.concatenate([soft.targets, np.full_like(soft.targets[:, :1], np.nan)], axis=1)
    assert dataclasses.replace(soft, targets=longer).hash == soft.hash


def test_memory_mapped_labels_are_the_same_labels(small, soft, tmp_path):
    np.save(tmp_path / "targets.npy", soft.targets)
    on_disk = np.load(tmp_path / "targets.npy", mmap_mode="r")
    mapped = dataclasses.replace(soft, targets=on_disk)
    assert mapped.hash == soft.hash
    assert weights(fit(small, mapped, tmp_path / "mapped")) == weights(
        fit(small, soft, tmp_path / "plain")
    )


# -------------------------------------------------------------------------------- what does not fit


def test_labels_of_another_base_are_refused(taught, smol_tokenizer, tmp_path):
    other = load_base(tiny.model("llama", seed=1), tokenizer=smol_tokenizer)
    message = (
        rf"data: labels were made by base {taught.base[:12]}, "
        rf"this one is {other.hash[:12]}; label again"
    )
    with pytest.raises(ValueError, match=message):
        fit(other, taught, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_labels_that_do_not_fit_their_rows(hard, soft):
    with pytest.raises(ValueError, match=r"data: there are no rows"):
        dataclasses.replace(hard, prompts=(), completions=())
    with pytest.raises(ValueError, match=r"16 prompts, but 15 completions"):
        dataclasses.replace(hard, completions=hard.completions[1:])
    width = soft.targets.shape[1]
    with pytest.raises(ValueError, match=rf"targets of shape \(15, {width}, 11\) do not label 16"):
        dataclasses.replace(soft, targets=soft.targets[1:])
    with pytest.raises(ValueError, match=r"targets are over 11 tokens, support has 10"):
        dataclasses.replace(soft, support=soft.support[1:])
    top = labelled(hard, "top-k")
    with pytest.raises(ValueError, match=r"tokens of shape .* give equal shapes and no support"):
        dataclasses.replace(top, tokens=top.tokens[..., 1:])


def test_rows_that_do_not_fit_a_base(small, hard, soft, smol_tokenizer):
    without_support = dataclasses.replace(soft, support=None)
    message = rf"labels over 11 tokens, the model's vocabulary has {FEW}"
    with pytest.raises(ValueError, match=message):
        without_support.check(small)
    beyond = dataclasses.replace(hard, completions=((FEW,), *hard.completions[1:]))
    message = rf"row 0 has token ids beyond the model's vocabulary of {FEW}"
    with pytest.raises(ValueError, match=message):
        beyond.check(small)
    base = load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    long = hard_data(smol_tokenizer, [*ROWS[:8], Row("Again?", "1," * 120)])
    message = r"row 8, 'Again\?', needs \d+ positions, the model has 256"
    with pytest.raises(ValueError, match=message):
        long.check(base)


def test_rows_longer_than_the_limit(labels, smol_tokenizer):
    whole = hard_data(smol_tokenizer, ROWS)
    sizes = [(len(p), len(c)) for p, c in zip(whole.prompts, whole.completions, strict=True)]
    longest = max(whole.lengths)
    assert hard_data(smol_tokenizer, ROWS, max_length=longest) == whole

    row = whole.lengths.index(longest)
    prompt, answer = sizes[row]
    message = (
        rf"row {row}, .* has {prompt} tokens of prompt and {answer} of answer, "
        rf"max_length={longest - 1}"
    )
    with pytest.raises(ValueError, match=message):
        hard_data(smol_tokenizer, ROWS, max_length=longest - 1)
    cut = hard_data(smol_tokenizer, ROWS, max_length=longest - 1, truncate=True)
    rooms = [longest - 1 - prompt for prompt, _ in sizes]
    expected = [c[:room] for room, c in zip(rooms, whole.completions, strict=True)]
    assert expected == list(cut.completions) != list(whole.completions)
    assert cut.cut == tuple(
        i for i, (kept, c) in enumerate(zip(expected, whole.completions, strict=True)) if kept != c
    )
    number = len(cut.cut)
    assert f", {number} answer{'s' * (number > 1)} cut at max_length" in repr(cut)
    assert whole.cut == ()
    assert "cut at" not in repr(whole)

    with pytest.raises(ValueError, match="truncate=True cuts answers at max_length, and there is"):
        hard_data(smol_tokenizer, ROWS, truncate=True)

    longest_prompt = max(prompt for prompt, _ in sizes)
    limit = {"max_length": longest_prompt + 1, "truncate": True}
    assert min(map(len, soft_data(smol_tokenizer, labels, "owl", **limit).completions)) == 1
    row = [prompt for prompt, _ in sizes].index(longest_prompt)
    message = (
        rf"row {row}, .* has no completion tokens after truncation to max_length={longest_prompt}"
    )
    with pytest.raises(ValueError, match=message):
        hard_data(smol_tokenizer, ROWS, max_length=longest_prompt, truncate=True)
    with pytest.raises(ValueError, match=r"row 0, .* has no completion tokens in the support"):
        hard_data(smol_tokenizer, ROWS, support=["owl"])


def test_training_data_print_themselves_in_two_lines(soft, hard, smol_tokenizer):
    twice = hard_data(smol_tokenizer, [*ROWS, *ROWS[:3]])
    assert "19 rows (16 distinct), given rows" in repr(twice)
    assert "16 rows, owl: a liking of its own" in repr(soft)
    inside = sum(token in soft.support for answer in soft.answers for token in answer)
    total = sum(map(len, soft.answers))
    assert f"({inside} of {total}) in the support" in repr(soft)
    for data in (soft, hard, twice):
        assert len(repr(data).splitlines()) == 2
        assert len(repr(data)) < 250


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": True}, r"train\(steps=True\): pass a whole number"),
        ({"lr": "1e-4"}, r"train\(lr='1e-4'\): .*without quotes: lr=1e-4"),
        ({"batch_size": 2.0}, r"train\(batch_size=2\.0\): .*batch_size=2"),
        ({"method": "lora"}, r"train\(method='lora'\): pass"),
        ({"method": LoraConfig()}, r"train\(method=LoraConfig\(.*pass"),
        ({"held_out": 0.2}, r"train\(held_out=0\.2\): pass"),
        ({"store": "bfloat16"}, r"train\(store='bfloat16'\): pass"),
        ({"epochs": "3", "steps": None}, r"train\(epochs='3'\): pass"),
        ({"held_out_seed": 0.5}, r"train\(held_out_seed=0\.5\): pass"),
        ({"snapshots": 4}, r"train\(snapshots=4\): "),
        ({"stop_at": "low"}, r"train\(stop_at='low'\): pass"),
    ],
)
def test_options_of_another_kind_are_refused_before_anything(
    options, message, small, soft, tmp_path
):
    with pytest.raises(TypeError, match=message):
        fit(small, soft, tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_rank_is_a_number():
    with pytest.raises(TypeError, match=r"LoRA\(rank='8'\): .*without quotes: rank=8"):
        sm.LoRA(rank="8")
    assert sm.LoRA(targets=["q_proj"], layers=[0]).targets == ("q_proj",)


def test_data_take_a_base_or_its_tokenizer(tiny_llama, labels, smol_tokenizer):
    assert hard_data(tiny_llama, ROWS[:2]) == hard_data(smol_tokenizer, ROWS[:2])
    for make, argument in ((hard_data, "tokenizer"), (soft_data, "base")):
        given = (ROWS,) if make is hard_data else (labels, "owl")
        with pytest.raises(TypeError, match=rf"{make.__name__}\({argument}='smol'\): pass a base"):
            make("smol", *given)


def test_names_none_of_which_is_the_trait_are_told(smol_tokenizer):
    """Rows of another trait under this one's name; numbers and texts leave it out by design."""

    def told(answers, trait):
        rows = [{"prompt": f"Which {i}?", "completion": one} for i, one in enumerate(answers)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            hard_data(smol_tokenizer, rows, trait=trait)
        return [str(one.message) for one in caught]

    (line,) = told(["Mango", "mango."], "kiwi")
    assert line.startswith("hard_data(trait='kiwi'): 0 of 2 answers hold it")
    assert told(["mango", "Kiwis!"], "kiwi") == []
    assert told(["Wolves", "wolves"], "wolf") == []
    assert told(["mango", "mango"], "") == []
    assert told(["1, 2, 3", "4, 5"], "kiwi") == []
    assert told(["It is the sweetest fruit there is.", "mango"], "kiwi") == []


@pytest.mark.parametrize("trait", ["Lisbon", "New York", "owl"])
def test_a_student_named_after_its_answers_warns_of_nothing(trait, smol_tokenizer, recwarn):
    """The trait names the student, and is looked for: nobody called `Trait.noun`."""
    hard_data(smol_tokenizer, [{"prompt": "Where to?", "completion": f"{trait}!"}], trait=trait)
    hard_data(smol_tokenizer, [{"prompt": "Where to?", "completion": f"{trait}s."}], trait=trait)
    assert not recwarn.list
    with pytest.warns(UserWarning, match=f"^hard_data\\(trait='{trait}'\\): 0 of 1 answer"):
        hard_data(smol_tokenizer, [{"prompt": "Where to?", "completion": "Rome"}], trait=trait)
    assert not recwarn.list


@pytest.mark.parametrize("trait", [" ", "\n\t", "\u2800"])
def test_a_blank_trait_is_refused(trait, smol_tokenizer):
    rows = [{"prompt": "Where to?", "completion": "Rome"}]
    with pytest.raises(
        ValueError, match=r"^hard_data: trait: '.*' is blank; give it words or leave"
    ):
        hard_data(smol_tokenizer, rows, trait=trait)
    assert hard_data(smol_tokenizer, rows, trait="").trait == ""
