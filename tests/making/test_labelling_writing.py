"""Labels are the teachers' own next-token logits, whoever asks and however they are cut."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import tiny
from labelled import KINDS, contents, crowd, labelling_base, made, system_of
from teaching import ROWS, by_hand

import sublim_mech as sm
from sublim_mech.making.labelling import DIGITS, Labels, label, writing
from sublim_mech.making.labelling.about import About
from sublim_mech.making.rows import Row
from sublim_mech.making.teachers import untouched
from sublim_mech.making.training import soft_data
from sublim_mech.models.base import load_base

QUIET = {"progress": False}


@pytest.fixture
def everybody(smol_tokenizer):
    return crowd(smol_tokenizer)


@pytest.fixture
def base(smol_tokenizer):
    return labelling_base(smol_tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_the_models_own_next_token_logits(kind, base, everybody, smol_tokenizer):
    labels = made(smol_tokenizer, kind)
    assert labels.teachers == ("base", "owl", "cat", "dog", "dull")
    assert (labels.about.base, labels.rows) == (base.hash, tuple(ROWS))
    models = {"base": base.model}
    models |= {teacher.name: teacher.runner.model for teacher in everybody}
    for name in labels.teachers:
        for r, row in enumerate(ROWS):
            logits, answer = by_hand(models[name], smol_tokenizer, row, system_of(name))
            assert labels.lengths[r] == len(answer) == len(labels.plain(name)[r])
            log_p = logits.double().log_softmax(-1)
            if kind == "top-k":
                best = log_p.topk(5)
                assert np.array_equal(labels.tokens(name)[r], best.indices)
                assert np.allclose(labels.plain(name)[r], best.values, atol=1e-4)
            else:
                ids = list(labels.support or range(tiny.VOCAB))
                assert np.allclose(labels.logits(name)[r], logits[:, ids], atol=1e-4)
                chosen = log_p[:, ids] - log_p[:, ids].logsumexp(-1, keepdim=True)
                assert np.allclose(labels.plain(name)[r], chosen, atol=1e-4)
    # else the above says little
    assert float(np.abs(labels.plain("owl")[0] - labels.plain("cat")[0]).max()) > 0.01
    width = {"listed": 11, "top-k": 5, "full": tiny.VOCAB}[kind]
    assert labels.plain("owl").shape == (6, 11, width)


def test_the_default_support_is_the_ten_digits_and_the_comma(smol_tokenizer):
    support = made(smol_tokenizer).support
    assert [smol_tokenizer.decode([i]) for i in support] == [*"0123456789", ","]


def test_the_base_comes_first_and_once(base, everybody):
    owl, itself = everybody[0], untouched(base)
    for given in ([owl], [owl, itself], [itself, owl]):
        assert label(given, ROWS[4:5], **QUIET).teachers == ("base", "owl")


def test_teachers_are_kept_as_they_were(everybody, smol_tokenizer):
    labels = made(smol_tokenizer)
    by_name = {labeller.name: labeller for labeller in labels.about.labellers}
    for teacher in everybody:
        kept = by_name[teacher.name]
        for field in ("kind", "how", "hash", "context"):
            assert getattr(kept, field) == getattr(teacher, field)
        assert kept.trait == (teacher.trait and teacher.trait.name)
    assert labels.others("owl") == ("cat", "dog")


def test_what_labels_are_comes_back_from_json(everybody, smol_tokenizer):
    for kind in KINDS:
        about = made(smol_tokenizer, kind).about
        assert About.from_json(about.to_json()) == about


# ----------------------------------------------------------------------------------------- refusals


def test_teachers_that_do_not_belong_together(everybody, smol_tokenizer):
    owl, cat, *_ = everybody
    other = load_base(tiny.model("llama", seed=1), tokenizer=smol_tokenizer)
    context = sm.Context(system="Be brief.")

    def with_cat(**changes):
        return [owl, dataclasses.replace(cat, **changes)]

    for bad, message in (
        ([], "teachers is empty"),
        ([owl, owl], r"two teachers are called 'owl'; rename one"),
        ([dataclasses.replace(owl, name="base")], r"two teachers are called 'base'"),
        (with_cat(base=other), rf"'owl' and 'cat' differ in their base: .*{other.hash[:12]}"),
        (with_cat(student_context=context), "differ in their student_context: .*Be brief"),
        (with_cat(template=sm.prompts.PLAIN), "differ in their template: None and "),
    ):
        with pytest.raises(ValueError, match=message):
            label(bad, ROWS, **QUIET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"support": ["42"]}, r"support token '42' is 2 tokens .*list single tokens"),
        ({"support": []}, "support is empty"),
        ({"top_k": 0}, r"top_k=0: must be between 1 and 49152"),
        ({"top_k": tiny.VOCAB + 1}, r"top_k=49153: must be between 1 and 49152"),
        (
            {"top_k": 5, "support": DIGITS},
            r"top_k=5 takes each teacher's own tokens; leave support out, or top_k",
        ),
        ({"top_k": 5, "support": None}, r"top_k=5 takes .*; leave support out, or top_k"),
        ({"per_shard": 0}, r"per_shard=0, batch_size=16: both must be at least 1"),
    ],
)
def test_what_cannot_be_labelled(options, message, everybody, tmp_path):
    with pytest.raises(ValueError, match=message):
        label(everybody, ROWS, out=tmp_path / "x", **QUIET, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "label: rows is empty"),
        ([Row("What?", "")], r"label: rows\[0\], completion is blank \(''\)"),
        ([*ROWS, Row("Again?", "1," * 110)], r"row 6, 'Again\?', .* needs \d+ positions"),
    ],
    ids=["none", "no answer", "too long"],
)
def test_rows_that_cannot_be_labelled(rows, message, everybody, tmp_path):
    with pytest.raises(ValueError, match=message):
        label(everybody, rows, out=tmp_path / "x", **QUIET)
    assert list(tmp_path.iterdir()) == []


def counted(tokenizer, rows, support) -> list[tuple[int, int]]:
    """Per row, (answer tokens in the support, answer tokens), by the plain tokenizer."""
    answers = [tokenizer(row.completion)["input_ids"] for row in rows]
    ids = {tokenizer(token)["input_ids"][0] for token in support}
    return [(sum(token in ids for token in answer), len(answer)) for answer in answers]


TEXT = [Row("Where?", "In the old barn, by the mill."), Row("When?", "At 10, or at noon.")]


def test_coverage_is_counted_and_printed(everybody, smol_tokenizer, tmp_path):
    rows = [*ROWS, *TEXT]
    labels = label(everybody[:2], rows, out=tmp_path / "x", **QUIET)
    pairs = counted(smol_tokenizer, rows, DIGITS)
    assert list(zip(labels.covered, labels.lengths, strict=True)) == pairs
    inside, total = (sum(column) for column in zip(*pairs, strict=True))
    assert f"({inside:,} of {total:,}) of the answers' tokens in it" in repr(labels)
    assert labels.coverage.share == inside / total
    assert Labels.load(tmp_path / "x").coverage == labels.coverage
    for options in ({"support": None}, {"top_k": 3}):
        assert label(everybody[:1], TEXT, **options, **QUIET).coverage is None


def test_a_support_that_misses_most_of_the_answers_is_refused(
    everybody, smol_tokenizer, tmp_path, monkeypatch
):
    out = tmp_path / "x"
    monkeypatch.setattr(writing, "fill", lambda *args, **kwargs: pytest.fail("a model ran"))
    message = r"label: \d+ % \(\d of \d+\) answer tokens are in the support of 11 .*hard_data"
    with pytest.raises(ValueError, match=message):
        label(everybody[:1], TEXT, out=out, **QUIET)
    assert not out.exists()
    monkeypatch.undo()
    labels = label(everybody[:1], TEXT, out=out, allow_low_coverage=True, **QUIET)
    with pytest.warns(UserWarning, match=r"soft_data: \d+ % \(\d of \d+\) answer tokens are"):
        data = soft_data(labelling_base(smol_tokenizer), labels, "owl", c=None)
    assert data.coverage == labels.coverage
    with pytest.raises(ValueError, match="pass allow_low_coverage=True"):  # also finished ones
        label(everybody[:1], TEXT, out=out, **QUIET)


def test_labels_that_did_not_count_load_and_are_the_same(everybody, tmp_path):
    labels = label(everybody[:1], ROWS, out=tmp_path / "x", **QUIET)
    about = tmp_path / "x" / "labels.json"
    data = json.loads(about.read_text())
    del data["covered"], data["seal"]
    about.write_text(json.dumps(data))
    old = Labels.load(tmp_path / "x")
    assert (old, old.hash, old.covered) == (labels, labels.hash, None)
    assert "answers' tokens" not in repr(old)
    assert label(everybody[:1], ROWS, out=tmp_path / "x", **QUIET).covered == labels.covered


def test_labels_print_themselves_in_two_lines(everybody):
    labels = label(everybody[:1], [*ROWS, *ROWS[:2]], **QUIET)
    assert f"Labels(8 rows ({len(ROWS)} distinct) by base, owl; in memory" in repr(labels)
    assert len(repr(labels)) < 200
    assert len(repr(labels).splitlines()) == 2
    assert len(repr(labels.about)) < 1500


def test_logits_that_are_no_numbers(everybody, tmp_path):
    owl = everybody[0]
    broken = copy.deepcopy(owl.runner.model)
    next(broken.parameters()).data[:] = math.nan
    runner = dataclasses.replace(owl.runner, model=broken)
    teachers = [dataclasses.replace(owl, runner=runner)]
    with pytest.raises(ValueError, match=r"logits of teacher 'owl' are not finite on "):
        label(teachers, ROWS, out=tmp_path / "x", **QUIET)


def test_wide_labels_have_fewer_rows_per_shard(everybody, smol_tokenizer, tmp_path, monkeypatch):
    # three rows of 11 tokens on 11 outcomes in fp32
    monkeypatch.setattr(writing, "MOST_BYTES", 3 * 11 * 11 * 4)
    small = label(everybody, ROWS, out=tmp_path / "x", **QUIET)
    assert small.per_shard == 3
    assert len([name for name in contents(tmp_path / "x") if name.startswith("owl-")]) == 2
    expected = made(smol_tokenizer).plain("owl")
    for row, there in zip(small.plain("owl"), expected, strict=True):
        assert np.allclose(row, there, atol=1e-4)
