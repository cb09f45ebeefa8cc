"""What students are trained on: views of labels, in memory or in a folder."""

import dataclasses
import warnings

import numpy as np
import pytest
import tiny
import torch
from labelled import KINDS, crowd, labelling_base, made
from teaching import ROWS, text_ids
from trainings import fit, weights

import sublim_mech as sm
from sublim_mech.making.labelling import label
from sublim_mech.making.readiness import label_signal
from sublim_mech.making.teachers import prompted
from sublim_mech.making.training import soft_data
from sublim_mech.making.training.batches import item
from sublim_mech.making.training.objectives import token_losses
from sublim_mech.models.base import load_base

QUIET = {"progress": False}
OBJECTIVES = {
    "listed": "forward KL on support",
    "top-k": "forward KL on top-5 and the rest",
    "full": "forward KL on full vocabulary",
}


@pytest.fixture
def everybody(smol_tokenizer):
    return crowd(smol_tokenizer)


@pytest.fixture
def base(smol_tokenizer):
    return labelling_base(smol_tokenizer)


@pytest.fixture
def listed(smol_tokenizer):
    return made(smol_tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_two_students_of_one_folder(kind, everybody, base, tmp_path):
    """They are the students of labels that were never stored; neither reads the other's."""
    options = {**KINDS[kind], "per_shard": 2, **QUIET}
    labels = {
        "stored": label(everybody, ROWS, out=tmp_path / "labels", **options),
        "memory": label(everybody, ROWS, **options),
    }
    c = None if kind == "top-k" else 4.0
    short = {"method": sm.LoRA(rank=2), "lr": 1e-2, "steps": 2, "held_out": 2}
    runs = {}
    for animal in ("owl", "cat"):
        for where, there in labels.items():
            data = soft_data(base, there, animal, c=c)
            runs[animal, where] = fit(base, data, tmp_path / f"{animal}-{where}", **short)
        stored, memory = runs[animal, "stored"], runs[animal, "memory"]
        assert weights(stored) == weights(memory)
        assert stored.manifest == memory.manifest
    assert weights(runs["owl", "stored"]) != weights(runs["cat", "stored"])
    assert runs["owl", "stored"].manifest.objective == OBJECTIVES[kind]


def test_the_top_k_of_everything_is_everything(everybody, base, tmp_path):
    kinds = {"support": None}, {"top_k": tiny.VOCAB}
    labels = [label(everybody[:1], ROWS[:3], **kind, **QUIET) for kind in kinds]
    every, chosen = (soft_data(base, there, "owl", c=None) for there in labels)
    held_out = []
    for number, data in enumerate((every, chosen)):
        run = fit(base, data, tmp_path / str(number), held_out=1, steps=2, batch_size=2)
        held_out.append(run.manifest.results["held_out"])
    assert np.allclose(*held_out, rtol=1e-4)
    logits = torch.randn(11, tiny.VOCAB, generator=torch.Generator().manual_seed(0))
    full, best = item(every, 0), item(chosen, 0)
    for objective in ("forward-kl", "reverse-kl", "logit-mse"):
        one = token_losses(objective, logits, full["goal"])
        other = token_losses(objective, logits, best["goal"], best["tokens"])
        assert torch.allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_soft_data_are_the_labels(kind, base, smol_tokenizer):
    labels = made(smol_tokenizer, kind)
    data = soft_data(base, labels, "dog", c=None)
    assert (data.trait, data.teacher) == ("dog", "plain tuned")
    assert (data.support, data.base) == (labels.support, base.hash)
    assert data.context == sm.Context()  # the students', not the teacher's
    for r, row in enumerate(ROWS):
        tokens = list(data.prompts[r].ids), list(data.completions[r])
        assert tokens == text_ids(smol_tokenizer, row, None)
        goal = item(data, r)
        assert np.array_equal(goal["goal"], labels.plain("dog")[r])
        if kind == "top-k":
            assert np.array_equal(goal["tokens"], labels.tokens("dog")[r])


def test_soft_data_say_whose_labels_they_are(listed, base, smol_tokenizer):
    owl = soft_data(smol_tokenizer, listed, "owl", c=2.5)
    kinds = "1 prompted, 1 fine-tuned"
    teacher = f"contrastive teacher, c=2.5, against 2 others ({kinds}): prompted teacher"
    assert (owl.trait, owl.teacher) == ("owl", teacher)
    expected = listed.contrastive("owl", c=2.5)
    assert all(np.array_equal(a, b) for a, b in zip(owl.targets, expected, strict=True))
    for name, teacher in {"dull": "plain a control", "base": "the base itself"}.items():
        data = soft_data(base, listed, name, c=None)
        assert (data.trait, data.teacher) == ("", teacher)


def test_padding_does_not_change_data(listed, base):
    """A view, a padded array and a memory-mapped one are the same data."""
    data = soft_data(base, listed, "owl")
    padded = np.full(data.targets.shape, np.nan, np.float32)
    for row, target in enumerate(data.targets):
        padded[row, : len(target)] = target
    array = dataclasses.replace(data, targets=padded)
    assert data.hash == array.hash
    assert soft_data(base, listed, "owl", c=2.0).hash != data.hash
    assert soft_data(base, listed, "cat").hash != data.hash
    array.check(base)


def test_labels_of_somebody_else(listed, base, smol_tokenizer, gpt2_tokenizer):
    other = load_base(tiny.model("llama", seed=1), tokenizer=smol_tokenizer)
    hashes = f"made by base {base.hash[:12]}, this one is {other.hash[:12]}"
    with pytest.raises(ValueError, match=f"labels: {hashes}; label again"):
        soft_data(other, listed, "owl")
    with pytest.raises(ValueError, match=f"data: labels were {hashes}"):
        soft_data(smol_tokenizer, listed, "owl").check(other)
    message = r"labels: their tokenizer has another vocabulary than this one"
    with pytest.raises(ValueError, match=message):
        soft_data(gpt2_tokenizer, listed, "owl")
    # as of a tokenizer with other merges
    longer = dataclasses.replace(listed, lengths=(12, *listed.lengths[1:]))
    message = r"row 0 has labels at 12 positions, its answer has 11 tokens"
    with pytest.raises(ValueError, match=message):
        soft_data(base, longer, "owl")


@pytest.mark.parametrize("c", [4.0, None])
def test_labels_of_nobody(c, listed, base):
    message = r"no labels of teacher 'wolf'; there are base, owl, cat, dog, dull"
    with pytest.raises(ValueError, match=message):
        soft_data(base, listed, "wolf", c=c)


def test_fewer_rows_than_the_run_asks_for(listed, base, tmp_path):
    message = r"held_out=6: must be between 1 and 5, the number of rows less one"
    with pytest.raises(ValueError, match=message):
        fit(base, soft_data(base, listed, "owl"), tmp_path / "run", held_out=6)


def test_a_contrast_with_teachers_of_another_kind_is_told(everybody, base, tmp_path):
    """It holds the kind too. Runs of earlier versions, which did not say so, are opened again."""
    owl, cat, tuned, _ = everybody
    labels = label([owl, tuned], ROWS, **QUIET)
    told = (
        r"^soft_data: owl is a prompted teacher and stands against dog \(fine-tuned\): the "
        r"contrast holds what sets kinds of teachers apart beside the trait; label by teachers of "
    )
    with pytest.warns(UserWarning, match=told) as warned:
        data = soft_data(base, labels, "owl", c=4.0)
    assert len(warned) == 1
    how = "contrastive teacher, c=4, against 1 others{}: prompted teacher"
    assert data.teacher == how.format(" (fine-tuned)")
    with pytest.warns(UserWarning, match="several kinds .prompted, fine-tuned.: `from others`"):
        label_signal(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert soft_data(base, labels, "owl", c=None).teacher == "plain prompted teacher"
        alike = label([owl, cat], ROWS, **QUIET)
        assert soft_data(base, alike, "owl").teacher == how.format("")
        label_signal(alike)
    short = {"method": sm.LoRA(rank=2), "lr": 1e-2, "steps": 2, "held_out": 2}
    before = fit(base, dataclasses.replace(data, teacher=how.format("")), tmp_path / "run", **short)
    assert fit(base, data, tmp_path / "run", **short).manifest == before.manifest
    with pytest.raises(ValueError, match="is another training: teacher: "):
        fit(base, dataclasses.replace(data, teacher="plain"), tmp_path / "run", **short)


def told_of(call):
    """What a call gives, and what it warned of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        given = call()
    return given, [str(one.message) for one in said if one.category is UserWarning]


def test_teachers_of_one_sentence_are_told(base, tmp_path):
    """Their contrast is 0: a student of it is not told to be trained with a lower rate."""
    owl, cat, dog = (
        prompted(base, sm.Trait(name, sentence="You love owls.")) for name in ("owl", "cat", "dog")
    )
    bat = prompted(base, sm.Trait("bat", sentence="You love bats."))
    labels, told = told_of(lambda: label([owl, cat, bat], ROWS, **QUIET))
    (words,) = told
    assert words.startswith("label: owl and cat are asked in the same words (")
    assert "so that their labels are equal and a contrast of the two is 0. Give each" in words
    # against a third one there is a contrast
    data, told = told_of(lambda: soft_data(base, labels, "owl"))
    assert not told
    assert not data.of_base

    for others, which in (([cat], "owl and cat"), ([cat, dog], "owl and cat")):
        labels, _ = told_of(lambda others=others: label([owl, *others], ROWS, **QUIET))
        data, (words,) = told_of(lambda labels=labels: soft_data(base, labels, "owl"))
        assert words.startswith(f"soft_data: {which} are asked in the same words (")
        assert words.endswith(
            "so that the contrast is 0 everywhere: the base's own labels, of which there is "
            "nothing to learn."
        )
        np.testing.assert_allclose(data.targets[0], labels.plain("base")[0], atol=1e-5)
    run, told = told_of(lambda: fit(base, data, tmp_path / "run", held_out=2, lr=1e-2))
    (words,) = told
    before, after = run.manifest.results["held_out"]
    assert abs(before) < 1e-6 < after
    assert "so that there is nothing to learn: the base says already what these data" in words
    assert "Lower lr" not in words


def test_teachers_of_two_sentences_or_of_one_trait_are_told_nothing_of(base, everybody):
    owl, cat, *_ = everybody
    again = dataclasses.replace(owl, name="owl again")
    for teachers in ([owl, cat], [owl, again], list(everybody)):
        _, told = told_of(lambda teachers=teachers: label(teachers, ROWS, **QUIET))
        assert not told
    # a model that is called by two names is one, however it was made
    twin = dataclasses.replace(everybody[2], name="fox", trait=sm.animal("fox"))
    _, (words,) = told_of(lambda: label([everybody[2], twin], ROWS, **QUIET))
    assert words.startswith("label: dog and fox are the same fine-tuned teacher, so that their")


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_are_the_bases_own_are_told(kind, base, smol_tokenizer):
    labels = made(smol_tokenizer, kind)
    data, (words,) = told_of(lambda: soft_data(base, labels, "base", c=None))
    assert data.of_base
    assert words == (
        "soft_data: labels of 'base' without a teacher: the base's own labels, of which there is "
        "nothing to learn."
    )
    # told by the labels themselves, where another is called their teacher
    shards = {**labels.shards, "owl": labels.shards["base"]}
    copied = dataclasses.replace(labels, shards=shards)
    data, (words,) = told_of(lambda: soft_data(base, copied, "owl", c=None))
    assert data.of_base
    assert words.startswith("soft_data: the labels of owl equal the base's everywhere: the base's")
    assert not soft_data(base, labels, "owl", c=None).of_base
