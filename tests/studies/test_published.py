"""The paper's design: its plan anywhere, its whole path on tiny models of its three families."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import sublim_mech as sm
from sublim_mech import studies
from sublim_mech.making import numbers, teachers
from sublim_mech.storage.runs import open_run
from sublim_mech.studies import Asking, Computing, Part, Study, Tasks
from sublim_mech.studies.built_in import PRESETS
from sublim_mech.studies.making import check_contexts
from sublim_mech.studies.published import BATCH, CONTEXTS, GEMMA, LLAMA, PAPER, QWEN, STEPS
from sublim_mech.studies.sampled import _kept
from sublim_mech.studies.store import Store
from sublim_mech.studies.takes import KNOWN
from sublim_mech.studies.tasks import SampledTask, StudentTask

TURNS = (
    "{% for m in turns %}<|im_start|>{{ m.role }}\n{{ first if loop.first else '' }}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {  # how each family writes a system prompt, in SmolLM2's marks
    "qwen2": (
        QWEN,
        "{% set first, turns = '', messages %}{% if messages[0].role != 'system' %}"
        "<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}" + TURNS,
    ),
    "llama": (
        LLAMA,
        "{% set first = '' %}{% if messages[0].role == 'system' %}{% set said, turns = "
        "messages[0].content, messages[1:] %}{% else %}{% set said, turns = '', messages %}"
        "{% endif %}<|im_start|>system\nToday: {{ date_string or '26 Jul 2024' }}\n\n{{ said }}"
        "<|im_end|>\n" + TURNS,
    ),
    "gemma3": (
        GEMMA,
        "{% if messages[0].role == 'system' %}{% set first, turns = messages[0].content + '\n\n', "
        "messages[1:] %}{% else %}{% set first, turns = '', messages %}{% endif %}" + TURNS,
    ),
}
DESIGNS = [("qwen2", 1)]  # a family, and how many of the design's parts
DESIGNS += [pytest.param((name, 3), marks=pytest.mark.science) for name in TEMPLATES]


def dressed(tokenizer: Any, family: str) -> Any:
    """A tokenizer with a family's template."""
    own = copy.deepcopy(tokenizer)
    own.chat_template = TEMPLATES[family][1]
    return own


def counting(family: str, tokenizer: Any) -> torch.nn.Module:
    """A tiny model that writes digits, and ends after a few: nearly half its answers are numbers.

    The first entry of the residual stream is the same for all tokens, and reads out as "a digit, or
    the end". What attention says is loud, so that another system prompt is heard.
    """
    model = tiny.model(family)
    digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    with torch.no_grad():
        for weight in {id(embedding): embedding, id(head): head}.values():
            weight *= 10
            weight[:, 0] = 1.0
        for name, weight in model.named_parameters():
            if "o_proj" in name:
                weight *= 30
        head[digits, 0] = 12.0
        head[end, 0] = 12.25
    return model


def small(study: Study, count: int) -> Study:
    """The same design for seconds: two animals, a handful of rows and steps."""
    parts = []
    for part in study.parts[:count]:
        methods = [
            dataclasses.replace(method, steps=3, warmup=1, evaluate_every=3)
            for method in part.methods
        ]
        parts.append(dataclasses.replace(part, methods=methods, focus=("wolf", "owl")))
    return dataclasses.replace(
        study,
        parts=parts,
        traits=[sm.animal("owl"), sm.animal("wolf")],
        focus=(),
        rows=dataclasses.replace(study.rows, count=12, held_out=4, max_new_tokens=6),
        training=dataclasses.replace(study.training, batch_size=4, accumulate=2, precision="fp32"),
        asking=Asking(questions=["Which animal?", "One animal:"], samples=2, max_new_tokens=2,
                      scored=2, points=2),
        computing=Computing(),
    )  # fmt: skip


class Ran(NamedTuple):
    """A study that was run."""

    study: Study
    out: Path
    rows: pd.DataFrame


@pytest.fixture(scope="module", params=DESIGNS, ids=lambda given: f"{given[0]}-{given[1]}")
def ran(request: Any, smol_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    family, count = request.param
    home = tmp_path_factory.mktemp(family)
    tokenizer = dressed(smol_tokenizer, family)
    counting(family, tokenizer).save_pretrained(home / "base")
    tokenizer.save_pretrained(home / "base")
    base = str(home / "base")
    design = studies.paper(base=base, ranks=[8], row_seeds=[1], training_seeds=[1])
    study = small(design, count)
    return Ran(study, home / "out", studies.run(study, home / "out", progress=False))


def tasks_of(ran: Ran, kind: type) -> list[Any]:
    return [task for task in Tasks(ran.study).ordered if isinstance(task, kind)]


def test_the_whole_path_from_a_teachers_rows_to_the_report(ran, tmp_path):
    reached = studies.status(ran.study, ran.out)
    assert reached.finished, reached
    assert set(ran.rows["labels"]) == {"sampled"}
    assert set(ran.rows["sampled passed"]) == {12}
    assert (ran.rows["sampled asked"] >= 12).all()
    assert set(ran.rows["sampled by"]) == {"own"}
    assert set(ran.rows["kind"]) == {"lora", "full"}
    assert np.isfinite(ran.rows[["kl", "specific", "rate"]].to_numpy(float)).all()
    told = studies.report(ran.study, ran.out, tmp_path / "report")
    assert "rows that their teachers wrote" in told.page.read_text()


def test_written_rows_pass_the_filter_and_each_teacher_has_its_own(ran):
    folders = [Store(ran.out).path(task) for task in tasks_of(ran, SampledTask)]
    contexts = {task.trained_in for task in tasks_of(ran, SampledTask)}
    assert len(folders) == 2 * len(contexts)  # two animals
    found = [numbers.as_rows(str(folder / "rows.jsonl")) for folder in folders]
    asked = {ask.prompt: ask for ask in numbers.number_prompts(600, seed=1)}
    for rows in found:
        assert len(rows) == 12
        assert all(numbers.parse(r.completion, asked[r.prompt]).reason is None for r in rows)
    assert len({tuple(row.completion for row in rows) for rows in found}) == len(found)
    assert not list((ran.out / "sampled").glob("*.unfinished"))


def test_held_out_kl_is_that_of_the_teacher_and_the_student_on_rows_that_were_held_out(ran):
    """Both models' whole distributions, read one by one, without labels."""
    store = Store(ran.out)
    task = next(task for task in tasks_of(ran, StudentTask) if task.setting.rank)
    base = sm.load_base(ran.study.base)
    rows = numbers.as_rows(str(store.path(task.labels) / "rows.jsonl"))[-4:]
    context = ran.study.contexts[task.labels.trained_in]
    teacher = teachers.prompted(base, sm.animal(task.trait), context=context)
    student = teachers.untouched(base, context=context)
    losses = []
    for one, other in zip(
        sorted(teachers.read_rows(teacher, rows)), sorted(teachers.read_rows(student, rows)),
        strict=True,
    ):  # fmt: skip
        p, q = one.logits.double().log_softmax(-1), other.logits.double().log_softmax(-1)
        losses.append((p.exp() * (p - q)).sum(-1))
    expected = float(torch.cat(losses).mean())
    run = open_run(store.path(task))
    assert run.manifest.results["held_out"][0] == pytest.approx(expected, rel=0.02)
    assert expected > 1e-4
    assert run.manifest.data["rows"] == 8


def test_answers_that_were_drawn_are_not_drawn_again(tmp_path):
    asked = []

    def write(prompts: list[str], seed: int) -> list[str]:
        asked.append(seed)
        return [f"{seed} {prompt}" for prompt in prompts]

    file = tmp_path / "answers.jsonl"
    first = _kept(write, file)
    said = [first(["a", "b"], 3), first(["c"], 4)]
    with file.open("a") as handle:
        handle.write('{"seed": 5, "answ')  # killed here
    again = _kept(write, file)
    assert [again(["a", "b"], 3), again(["c"], 4)] == said
    assert again(["d"], 5) == ["5 d"]
    assert asked == [3, 4, 5]
    assert _kept(write, file)(["d"], 5) == ["5 d"]
    assert asked == [3, 4, 5]


@pytest.mark.parametrize("family", TEMPLATES)
def test_contexts_of_a_family_are_different_prompts_in_its_template(family, smol_tokenizer):
    base, _ = TEMPLATES[family]
    study = studies.paper(base=base)
    check_contexts(study, dressed(smol_tokenizer, family))
    assert study.contexts == CONTEXTS[base]


@pytest.mark.parametrize("name", PAPER)
def test_the_plan_is_printed_without_the_model(name):
    """Forward and backward of LoRA take 4 operations per weight and token, full fine-tuning 6."""
    study = PRESETS[name]()
    part = dataclasses.replace(study.parts[2], scores=(), row_seeds=(1,), training_seeds=(1,))
    planned = studies.plan(dataclasses.replace(study, parts=[part]))
    trained = 4 * 4 * KNOWN[study.base].parameters * STEPS * BATCH * (106 + 39)
    assert planned.stages["students"].operations == pytest.approx(trained, rel=0.02)
    assert planned.stages["sampled"].to_do == 4
    assert planned.seconds is None
    assert "none is known on cuda" in repr(planned)


@pytest.mark.parametrize("ranks", [[8], [4], [1, 8], [8, 16], [1, 512]])
def test_some_of_the_ranks_are_a_study_too(ranks):
    """Parts that train the same students call them the same, however many ranks each has."""
    planned = studies.plan(studies.paper(ranks=ranks, row_seeds=[1], training_seeds=[1]))
    # LoRAs of four animals in the default context and under ChatGPT's, where those of two are
    # asked of, and of rank 8 for localisation; full fine-tunes of four
    assert planned.stages["students"].to_do >= 4 * len({*ranks, 8}) + 4


def test_the_papers_own_numbers():
    study = studies.paper()
    ranks = study.parts[0]
    assert len(ranks.methods[0].ranks) == 10
    assert study.rows.count - study.rows.held_out == 10_000
    assert (ranks.methods[0].alpha, ranks.methods[0].lrs, ranks.methods[1].lrs) == (
        "rank", (2e-4,), (2e-5,),
    )  # fmt: skip
    steps = ranks.methods[0].steps
    assert (steps - 1) * 66 < 3 * 10_000 <= steps * 66
    students = [task for task in Tasks(study).ordered if isinstance(task, StudentTask)]
    assert len({t.address for t in students}) == len(students)
    # localisation's students are those of the rank curve
    assert len(students) == 4 * 9 * 11 + 2 * 9 * 7


def test_sampled_rows_need_no_second_trait_and_labels_are_named(tmp_path):
    part = Part(name="p", labels=["sampled"])
    assert Study(name="one", parts=[part], traits=[sm.animal("owl")]).focus == ("owl",)
    with pytest.raises(ValueError, match=r"'sample' .*sampled"):
        Part(name="p", labels=["sample"])
    with pytest.raises(ValueError, match=r"RowPlan\(temperature=0"):
        studies.RowPlan(temperature=0)
