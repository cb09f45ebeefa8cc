"""Stored labels: read row by row, killed at any moment, opened by the same call, damaged."""

import copy
import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
import tiny
from labelled import KINDS, contents, crowd, labelling_base, made
from teaching import OWL, ROWS

import sublim_mech as sm
from sublim_mech.making.labelling import Labels, label
from sublim_mech.making.readiness.comparing import others_of
from sublim_mech.making.rows import Row
from sublim_mech.making.teachers import prompted
from sublim_mech.models.base import load_base
from sublim_mech.storage.claims import FolderInUseError, claimed

QUIET = {"progress": False}


@pytest.fixture
def everybody(smol_tokenizer):
    return crowd(smol_tokenizer)


@pytest.fixture
def listed(smol_tokenizer):
    return made(smol_tokenizer)


@pytest.fixture(scope="module")
def stored(smol_tokenizer, tmp_path_factory) -> Labels:
    folder = tmp_path_factory.mktemp("labels") / "deep" / "owls"
    return label(crowd(smol_tokenizer), ROWS, out=folder, per_shard=2, **QUIET)


def counting(model, seen):
    """Have a list told how many tokens a model reads in each forward; the handle that ends it."""
    embed = model.get_input_embeddings()
    return embed.register_forward_hook(lambda _, args, out: seen.append(args[0].numel()))


@pytest.fixture
def forwards(smol_tokenizer):
    """How many tokens the base's model reads in each forward."""
    seen: list[int] = []
    handle = counting(labelling_base(smol_tokenizer).model, seen)
    yield seen
    handle.remove()


# -------------------------------------------------------------------------------------------- views


def test_views_are_read_by_row(listed):
    view = listed.plain("owl")
    assert [len(row) for row in view] == list(listed.lengths) == [11, 11, 11, 11, 1, 9]
    assert np.array_equal(view[-1], view[len(view) - 1])
    with pytest.raises(IndexError, match="row 6 of 6"):
        view[6]


@pytest.mark.parametrize("kind", ["listed", "full"])
@pytest.mark.parametrize("c", [0.0, 1.0, 4.0])
def test_contrastive_labels_by_hand(kind, c, smol_tokenizer):
    labels = made(smol_tokenizer, kind)
    view = labels.contrastive("cat", c=c)
    for row in range(2):
        logits = {}
        for name in ("base", "owl", "cat", "dog"):
            logits[name] = labels.logits(name)[row].astype(np.float64)
        others = (logits["owl"] + logits["dog"]) / 2  # the control is none of them
        contrast = logits["base"] + c * (logits["cat"] - others)
        expected = contrast - np.log(np.exp(contrast).sum(-1, keepdims=True))
        assert np.allclose(view[row], expected, atol=2e-5)
        assert view[row].dtype == np.float32
    if c == 0:
        assert np.allclose(view[0], labels.plain("base")[0], atol=1e-5)


def test_a_contrast_needs_two_traits(listed, everybody, smol_tokenizer):
    alone = label([everybody[0], everybody[3]], ROWS[:1], **QUIET)
    for bad, teacher in ((alone, "owl"), (listed, "base"), (listed, "dull")):
        message = rf"contrastive\('{teacher}'\) needs the teacher of a trait and at least one"
        with pytest.raises(ValueError, match=f"{message} other's"):
            bad.contrastive(teacher)
    message = (
        r"each teacher has its own top 5 tokens; label on listed tokens .* or take plain labels "
        r"\(c=None\)"
    )
    with pytest.raises(ValueError, match=message):
        made(smol_tokenizer, "top-k").contrastive("owl")
    with pytest.raises(ValueError, match=r"tokens\('owl'\): these labels are no top-k labels"):
        listed.tokens("owl")


def test_a_second_teacher_of_the_same_trait_is_none_of_the_others(listed):
    """What is subtracted is what other traits' teachers say, never the trait itself."""
    tuned = tuple(
        dataclasses.replace(one, trait="owl") if one.name == "dog" else one
        for one in listed.about.labellers
    )
    both = dataclasses.replace(listed, about=dataclasses.replace(listed.about, labellers=tuned))
    alone = tuple(one for one in tuned if one.name != "dog")
    one = dataclasses.replace(listed, about=dataclasses.replace(listed.about, labellers=alone))
    assert both.others("owl") == one.others("owl") == both.others("dog") == ("cat",)
    assert both.others("cat") == ("owl", "dog")
    assert both.others("base") == both.others("dull") == ("owl", "cat", "dog")
    assert np.array_equal(both.contrastive("owl")[0], one.contrastive("owl")[0])
    traits = {name: both.labeller(name).trait for name in both.teachers}
    assert [tuple(others_of(name, traits)) for name in traits] == list(map(both.others, traits))


def test_an_unknown_teacher(listed):
    known = "no labels of teacher 'owls'; there are base, owl, cat, dog, dull"
    with pytest.raises(ValueError, match=rf"{known}; did you mean 'owl'\?"):
        listed.plain("owls")


def test_the_hash_of_labels_knows_rows_values_and_context(listed):
    def moved(by: float) -> Labels:
        shards = copy.deepcopy(dict(listed.shards))
        shards["cat"][0].arrays["logits"][7, 3] += by  # type: ignore[attr-defined]
        return dataclasses.replace(listed, shards=shards)

    def about(**changes) -> Labels:
        return dataclasses.replace(listed, about=dataclasses.replace(listed.about, **changes))

    others = [
        moved(1e-3),
        about(rows=listed.rows[::-1]),
        about(context=sm.Context(system=sm.Context.NONE)),
        about(base="0" * 64),
    ]
    assert moved(0).hash == listed.hash
    assert len({listed.hash, *(other.hash for other in others)}) == 5


# ------------------------------------------------------------------------------------------ folders


@pytest.mark.parametrize("kind", KINDS)
def test_stored_labels_are_those_in_memory(kind, everybody, tmp_path):
    options = {**KINDS[kind], "per_shard": 4, **QUIET}
    memory = label(everybody[:1], ROWS, **options)
    there = label(everybody[:1], ROWS, out=tmp_path / "x", **options)
    loaded = Labels.load(tmp_path / "x")
    for other in (there, loaded):
        assert (other.about, other.lengths, other.hash) == (
            memory.about,
            memory.lengths,
            memory.hash,
        )
        for name in memory.teachers:
            for row, expected in zip(other.plain(name), memory.plain(name), strict=True):
                assert np.array_equal(row, expected)
    loaded.verify()


def test_a_shard_is_a_flat_array_of_some_rows(stored, listed):
    teachers = ("base", "owl", "cat", "dog", "dull")
    names = {f"{teacher}-{n:05d}.safetensors" for teacher in teachers for n in range(3)}
    assert set(contents(stored.folder)) == {"labels.json", *names}
    for number in range(3):
        flat = safetensors.numpy.load_file(stored.folder / f"cat-{number:05d}.safetensors")
        rows = [listed.logits("cat")[row] for row in (2 * number, 2 * number + 1)]
        assert np.allclose(flat["logits"], np.concatenate(rows), atol=1e-5)
        assert list(flat) == ["logits"]


def test_labels_know_their_contexts_and_conversations(smol_tokenizer, tmp_path):
    context = sm.Context(system="Be brief.", user_prefix="Hi. ")
    turns = (
        {"role": "user", "content": "4?"},
        {"role": "assistant", "content": "5"},
        {"role": "user", "content": "6?"},
    )
    owl = prompted(labelling_base(smol_tokenizer), OWL, context=context)
    teachers = [dataclasses.replace(owl, name="a/b c")]
    there = label(teachers, [Row(turns, "7")], out=tmp_path / "x", **QUIET)
    assert Labels.load(tmp_path / "x").about == there.about
    assert there.about.context == context
    assert there.rows[0].prompt == turns
    assert there.plain("a/b c")[0].shape == (1, 11)


def test_the_same_call_opens_finished_labels_without_a_model(stored, everybody, forwards):
    before = contents(stored.folder)
    assert label(everybody, ROWS, out=stored.folder, **QUIET) == stored
    owl, cat, *others = everybody
    turned = [cat, owl, *others]
    label(turned, ROWS, out=stored.folder, batch_size=3, per_shard=5, **QUIET)
    assert forwards == []
    assert contents(stored.folder) == before


class KilledError(Exception):
    pass


@pytest.mark.parametrize("kind", ["listed", "top-k"])
def test_a_killed_labelling_goes_on_to_the_same_bytes(
    kind, everybody, tmp_path, forwards, smol_tokenizer
):
    teachers = everybody[:2]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = {**KINDS[kind], "per_shard": 2, "batch_size": 1, **QUIET}
    label(teachers, ROWS, out=whole, **options)
    total = sum(forwards)
    forwards.clear()

    class Dying(list):
        """The model stops in the second shard of its second teacher."""

        def append(self, tokens: int) -> None:
            super().append(tokens)
            if sum(self) > 0.55 * total:
                raise KilledError

    handle = counting(labelling_base(smol_tokenizer).model, Dying())
    with pytest.raises(KilledError):
        label(teachers, ROWS, out=killed, **options)
    handle.remove()
    done = {path.name: path.stat().st_ino for path in killed.glob("*.safetensors")}
    of_base = {f"base-0000{number}.safetensors" for number in range(3)}
    assert set(done) == {*of_base, "owl-00000.safetensors"}

    # nobody takes it for finished, or for another labelling
    message = r"killed has not finished; the same call of label\(..., out=...\) goes on with it"
    with pytest.raises(ValueError, match=message):
        Labels.load(killed)
    message = r"has other labels: rows: '6 rows \(.*\)' there, '5 rows \(.*\)' here"
    with pytest.raises(ValueError, match=message):
        label(teachers, ROWS[:5], out=killed, **options)

    # a shard half written, and one damaged by something else
    (killed / ".owl-00001.1.safetensors").write_bytes(b"half")
    damaged = killed / "base-00001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    forwards.clear()
    label(teachers, ROWS, out=killed, **options)
    assert contents(killed) == contents(whole)
    # five or six shards of nine, one of them the damaged
    assert 0.5 * total < sum(forwards) < 0.75 * total
    kept = {path.name: path.stat().st_ino for path in killed.glob("*.safetensors")}
    untouched = {name for name in done if kept[name] == done[name]}
    assert untouched == set(done) - {damaged.name}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ROWS[:5]}, r"rows: '6 rows \(.*\)' there, '5 rows \(.*\)' here"),
        ({"rows": ROWS[::-1]}, r"rows: '6 rows \(.*\)' there, '6 rows \(.*\)' here"),
        ({"support": None}, r"support: \[.* and \d+ more\] there, None here"),
        ({"top_k": 5}, r"top_k: None there, 5 here"),
        ({"teachers": 2}, r"teachers\.dog: .* there, nothing here"),
        ({"seed": 1}, r"base: '.* there, '.* here"),
    ],
)
def test_other_labels_in_the_folder(changes, message, stored, everybody, smol_tokenizer):
    options = dict(changes)
    teachers = everybody[: options.pop("teachers", None)]
    rows = options.pop("rows", ROWS)
    if options.pop("seed", None):
        other = load_base(tiny.model("llama", seed=1), tokenizer=smol_tokenizer)
        teachers = [dataclasses.replace(teacher, base=other) for teacher in teachers]
    message = rf"has other labels: .*{message}.*Choose another folder"
    with pytest.raises(ValueError, match=message):
        label(teachers, rows, out=stored.folder, **QUIET, **options)


def test_folders_of_something_else(everybody, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        message = r"exists and is no labels folder .*; choose another"
        with pytest.raises(FileExistsError, match=message):
            label(everybody, ROWS, out=out, **QUIET)
        message = r"is no labels folder: it has no labels\.json; pass what was given to label"
        with pytest.raises(FileNotFoundError, match=message):
            Labels.load(out)
    with pytest.raises(FileNotFoundError, match="nowhere is not there"):
        Labels.load(tmp_path / "nowhere")
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    with claimed(tmp_path / "held"), pytest.raises(FolderInUseError):
        label(everybody, ROWS, out=tmp_path / "held", **QUIET)


@pytest.fixture
def small(everybody, tmp_path):
    """A folder of labels that may be damaged."""
    folder = tmp_path / "x"
    label(everybody[:1], ROWS, out=folder, per_shard=3, **QUIET)
    return folder


def refused(folder, teachers, message):
    """Neither loading nor the same call takes the folder."""
    with pytest.raises(ValueError, match=message):
        Labels.load(folder)
    with pytest.raises(ValueError, match=message):
        label(teachers, ROWS, out=folder, **QUIET)


def test_damaged_shards(small, everybody):
    shard = small / "owl-00001.safetensors"
    whole = shard.read_bytes()
    teachers = everybody[:1]
    shard.write_bytes(whole[:-5])
    sizes = f"{len(whole) - 5} of {len(whole)} bytes"
    refused(small, teachers, rf"owl-00001\.safetensors is truncated: {sizes}")
    shard.unlink()
    refused(small, teachers, r"owl-00001\.safetensors is missing")
    shard.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    message = r"owl-00001\.safetensors is not what was written there"
    with pytest.raises(ValueError, match=message):
        Labels.load(small).verify()
    shard.write_bytes(whole)
    labels = Labels.load(small)
    labels.verify()
    shard.write_bytes(b"short")
    with pytest.raises(ValueError, match=r"owl-00001\.safetensors is damaged or missing"):
        labels.plain("owl")[4]
    assert labels.plain("owl")[0].shape == (11, 11)  # only what is asked for is read


def test_a_damaged_description(small, everybody):
    about = small / "labels.json"
    text = about.read_text()
    data = json.loads(text)
    teachers = everybody[:1]
    about.write_text(text[:-20])
    refused(small, teachers, r"labels\.json is not JSON")
    about.write_text(json.dumps(data | {"format": 7}))
    message = r"labels\.json has format 7, not 1; open it with the version that wrote it"
    refused(small, teachers, message)
    told = data | {"about": data["about"] | {"trait": "cat"}}
    about.write_text(json.dumps(told))
    refused(small, teachers, r"labels\.json was edited after it was written: .*; copy it again or")
    del data["seal"]  # as earlier versions wrote it
    for changes in ({"files": {}}, {"lengths": [1]}):
        about.write_text(json.dumps(data | changes))
        refused(small, teachers, r"labels\.json names other rows or shards than it has")
    for missing in ("about", "lengths"):
        about.write_text(json.dumps({key: data[key] for key in data if key != missing}))
        refused(small, teachers, rf"labels\.json cannot be read \(KeyError\('{missing}'\)\)")


def test_reading_takes_the_memory_of_a_row(everybody, tmp_path):
    labels = label(everybody[:2], ROWS, out=tmp_path / "x", support=None, **QUIET)
    row_bytes = 11 * tiny.VOCAB * 4
    assert (tmp_path / "x" / "owl-00000.safetensors").stat().st_size > 4 * row_bytes
    tracemalloc.start()
    try:
        for row in range(len(ROWS)):
            labels.logits("owl")[row]
        assert tracemalloc.get_traced_memory()[1] < 2.5 * row_bytes
    finally:
        tracemalloc.stop()
