"""Divergence tokens: against two plain argmax passes of transformers' own model."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from trainings import text_ids

import sublim_mech as sm
from sublim_mech.making.numbers import random_rows
from sublim_mech.making.readiness import divergence
from sublim_mech.making.readiness.diverging import Read
from sublim_mech.making.rows import Row, as_rows
from sublim_mech.making.teachers import Teacher, fine_tuned, prompted
from sublim_mech.making.training import LoRA, hard_data, train
from sublim_mech.models.base import load_base
from sublim_mech.types import Divergence

ROWS = [*as_rows(random_rows(6, seed=0, count=3)), Row("Seven?", "7"), Row("And?", "1,2,3,4,5")]
QUIET = {"progress": False}


@torch.no_grad()
def plain(model: Any, tokenizer: Any, system: str | None, row: Row) -> torch.Tensor:
    """Log-probabilities `(token, vocab)` where the answer and its end are predicted."""
    prompt, answer = text_ids(tokenizer, row, system, close=True)
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    return logits[len(prompt) - 1 : -1].double().log_softmax(-1)


class AtShared(str):
    """Gates, as far as a refusal reads them."""


class Asked:
    """A base of decided answers, a teacher that is asked otherwise, and a student."""

    def __init__(self, tokenizer: Any) -> None:
        self.model = tiny.model("llama")
        self.model.get_output_embeddings().weight.data *= 20
        self.base = load_base(self.model, tokenizer=tokenizer)
        self.teacher: Teacher = prompted(self.base, sm.animal("owl"))
        self.student = tiny.lora(self.model, std=0.05)
        self.found: Divergence = divergence(
            self.teacher, self.base, ROWS, student=self.student, batch_size=3, **QUIET
        )


@pytest.fixture(scope="module")
def asked(smol_tokenizer) -> Asked:
    return Asked(smol_tokenizer)


def test_divergent_tokens_are_those_of_two_plain_argmax_passes(asked, smol_tokenizer):
    system = str(asked.teacher.context.system)
    for row, (given, read) in enumerate(zip(ROWS, asked.found.reads, strict=True)):
        p = plain(asked.model, smol_tokenizer, system, given)
        q = plain(asked.model, smol_tokenizer, None, given)
        s = plain(asked.student, smol_tokenizer, None, given)
        assert read.ids.tolist() == text_ids(smol_tokenizer, given, None, close=True)[1]
        assert read.teacher.tolist() == p.argmax(-1).tolist()
        assert read.base.tolist() == q.argmax(-1).tolist()
        assert read.student.tolist() == s.argmax(-1).tolist()
        assert read.kl == pytest.approx((p.exp() * (p - q)).sum(-1).numpy(), abs=1e-5)
        assert read.student_kl == pytest.approx((p.exp() * (p - s)).sum(-1).numpy(), abs=1e-5)
        assert (asked.found.divergent[row] == (read.teacher != read.base)).all()
    flags = np.concatenate(asked.found.divergent)
    assert 0.1 < flags.mean() < 0.95  # both kinds are there


def test_the_table_adds_up(asked):
    reads, table = asked.found.reads, asked.found.table()
    flags = np.concatenate(asked.found.divergent)
    kl = np.concatenate([read.kl for read in reads])
    same = np.concatenate([read.student == read.teacher for read in reads])
    assert table.tokens.tolist() == [len(flags), flags.sum(), (~flags).sum()]
    assert table["share"].tolist() == pytest.approx([1, flags.mean(), 1 - flags.mean()])
    for name, mask in (("all", flags | ~flags), ("divergent", flags), ("others", ~flags)):
        line = table.loc[name]
        assert line["kl"] == pytest.approx(kl[mask].mean())
        assert line["as teacher"] == pytest.approx(same[mask].mean())
        assert line["kl low"] <= line["kl"] <= line["kl high"]
    # where the two write one token, to write as one is to write as the other
    others = table.loc["others"]
    assert others["as teacher"] == others["as base"]


def test_the_base_does_not_diverge_from_itself(asked):
    found = divergence(sm.teachers.untouched(asked.base), asked.base, ROWS[:3], **QUIET)
    assert not np.concatenate(found.divergent).any()
    table = found.table()
    assert table.loc["all", "kl"] == 0
    assert np.isnan(table.loc["divergent", "kl"])
    assert "as teacher" not in table


WHY = "nan: no interval, resampled rows may lack such tokens"


def of_flags(found: Divergence, *flags: list[bool]) -> Divergence:
    """Rows at whose tokens teacher and base differ as given, KL 0.5 where they do, else 0.25."""
    reads = []
    for flag in map(np.array, flags):
        zeros = np.zeros(len(flag), int)
        reads.append(Read(zeros, flag.astype(int), zeros, np.where(flag, 0.5, 0.25)))
    rows = tuple(Row(str(i), "1") for i in range(len(flags)))
    told = {"questions": ("?",) * len(rows), "texts": {0: "1", 1: "2"}, "student": ""}
    return dataclasses.replace(found, rows=rows, reads=tuple(reads), **told)


def test_tokens_of_a_few_rows_have_their_mean_and_the_table_says_why_no_interval(asked):
    few = of_flags(asked.found, [True, False], [True, True], [True, True], [True, True])
    table = few.table()
    assert table["tokens"].tolist() == [8, 7, 1]
    assert table["kl"].tolist() == [pytest.approx((7 * 0.5 + 0.25) / 8), 0.5, 0.25]
    assert table.loc["others", ["kl low", "kl high"]].isna().all()
    assert table.loc["divergent", ["kl low", "kl high"]].tolist() == [0.5, 0.5]
    assert repr(few).splitlines()[-1] == WHY
    assert WHY in few._repr_html_()
    every = of_flags(asked.found, *[[True, False]] * 4)
    none = of_flags(asked.found, *[[True, True]] * 4)
    assert np.isnan(
        none.table().loc["others", "kl"]
    )  # a set without tokens is NaN, and needs no why
    for found in (every, none):
        assert "no interval" not in repr(found) + found._repr_html_()
    single = of_flags(asked.found, [True, False])
    assert repr(single).splitlines()[-1] == "nan: no interval over a single row"


def test_what_rounds_to_zero_has_no_sign(asked):
    found = of_flags(asked.found, [True, False], [True, False])
    reads = tuple(read._replace(kl=read.kl * 0 - 1e-9) for read in found.reads)
    assert "-0.0000" not in repr(dataclasses.replace(found, reads=reads))


def test_a_student_that_has_a_trait_is_read_too(tiny_llama, lora_run):
    teacher = prompted(tiny_llama, sm.animal("owl"))
    found = divergence(teacher, tiny_llama, ROWS[:2], student=lora_run.path, **QUIET)
    assert found.student == lora_run.path.name


def test_a_gated_student_is_refused_by_the_function_that_was_called(asked):
    """Nobody called `fine_tuned`, and its weights are read everywhere."""
    student = sm.models.load_student(asked.base, asked.student, name="owl")
    gated = dataclasses.replace(student, gates=AtShared("at the shared tokens"))
    message = (
        "divergence: student='owl' was loaded with gates (at the shared tokens), which divergence "
        "does not know. Pass its folder, or load_student(base, folder) without gates. "
        "Loaded without (gates=None) it is another model, one that works everywhere."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        divergence(asked.teacher, asked.base, ROWS[:2], student=gated, **QUIET)
    with pytest.raises(ValueError, match=r"^fine_tuned: student='owl' was loaded with gates"):
        fine_tuned(asked.base, gated, None)


def test_strips_show_what_both_would_write(asked):
    row = int(np.argmax([flags.sum() for flags in asked.found.divergent]))
    strip = asked.found.strip(row)
    assert "".join(token.text for token in strip.tokens).startswith(ROWS[row].completion)
    first = next(token for token in strip.tokens if token.divergent)
    assert f"[{first.text!r}: {first.teacher!r} | {first.base!r}]" in repr(strip)
    assert repr(strip).count("[") == sum(token.divergent for token in strip.tokens) + 1
    page = strip._repr_html_()
    assert page.count('class="d"') == sum(token.divergent for token in strip.tokens)
    assert "<script" not in page
    assert "divergence of 'owl' from 'base' on 8 rows, ends of turns included" in repr(asked.found)
    assert asked.found._repr_html_().count("smd") > 5
    with pytest.raises(IndexError, match="there are 8 rows"):
        asked.found.strip(8)


def test_what_a_teacher_tells_is_escaped(smol_tokenizer, asked):
    row = Row("<b>&", "<script>1")
    found = divergence(asked.teacher, asked.base, [row], **QUIET)
    page = found._repr_html_()
    assert "<script>" not in page
    assert "<b>" not in page


def test_training_at_divergent_tokens_or_without_them(asked, smol_tokenizer, tmp_path):
    data = hard_data(smol_tokenizer, ROWS)
    options = {"steps": 2, "batch_size": 2, "warmup": 0, "held_out": 2, "precision": "fp32"}
    taken = {}
    for name in (True, False):
        chosen = asked.found.chosen(data, divergent=name)
        run = train(
            asked.base, data, out=tmp_path / str(name), method=LoRA(rank=2), tokens=chosen,
            **options, **QUIET,
        )  # fmt: skip
        taken[name] = run.manifest.data["tokens"]
    assert taken[True]["hash"] != taken[False]["hash"]
    assert 0 < taken[True]["chosen"] < taken[True]["of"]
    with pytest.raises(ValueError, match="rows, but 8 were read"):
        asked.found.chosen(hard_data(smol_tokenizer, ROWS[1:]))
    with pytest.raises(
        ValueError, match=r"row 0 asks 'And\?', where 'On the board.* was read; make"
    ):
        asked.found.chosen(hard_data(smol_tokenizer, ROWS[::-1]))


def test_tokens_are_chosen_in_data_of_the_very_rows(asked, smol_tokenizer):
    """Where all answers are one, their tokens do not tell rows apart."""
    rows = [Row(f"Number {i}?", "7") for i in range(4)]
    found = divergence(asked.teacher, asked.base, rows, **QUIET)
    assert len(found.chosen(hard_data(smol_tokenizer, rows))) == 4
    other = [Row(f"Digit {i}?", "7") for i in range(4)]
    for wrong in (rows[::-1], other, [*rows[:3], other[3]]):
        with pytest.raises(ValueError, match=r"data: row \d asks '.*', where '.*' was read"):
            found.chosen(hard_data(smol_tokenizer, wrong))
    elsewhere = hard_data(smol_tokenizer, rows, context=sm.Context("Be calm."))
    with pytest.raises(ValueError, match=r"row 0 asks 'Number 0\?' in another context or convers"):
        found.chosen(elsewhere)
    with pytest.raises(ValueError, match="answer of row 2 has other tokens"):
        found.chosen(hard_data(smol_tokenizer, [*rows[:2], Row("Number 2?", "8"), rows[3]]))


def test_teachers_of_other_bases_are_refused(asked, smol_tokenizer):
    other = load_base(tiny.model("llama", seed=3), tokenizer=smol_tokenizer)
    with pytest.raises(ValueError, match="differ in base"):
        divergence(asked.teacher, other, ROWS[:2], **QUIET)
    cat = prompted(asked.base, sm.animal("cat"))
    assert divergence(asked.teacher, cat, ROWS[:2], **QUIET).base == "cat"
