"""Side by side: the answers are those of `generate`, their log-probabilities those of one plain
forward and of `target`, and what is refused.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch
from pairs import QUIET, TRAIT, string_log_prob

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.instruments import generate, side_by_side
from sublim_mech.instruments.task import GatedRow, measure, prepare
from sublim_mech.models.students import load_student

SYSTEM = masks.role("system")
SHORT = {"max_new_tokens": 4, **QUIET}
MODELS = {
    "graft": {"student": SYSTEM},
    "rest": {"owl": ~SYSTEM},
    "hybrid": {"owl": SYSTEM, "wolf": ~SYSTEM},
    "whole hybrid": {"owl": masks.everything(), "wolf": masks.everything()},
}
ANSWER = {"rest": "student", "whole hybrid": ["owl", "wolf"]}


@pytest.fixture(scope="module")
def live(smol_tokenizer):
    base = tiny.model("llama").double()
    base.get_output_embeddings().weight.data *= 10  # peaked, so that answers differ
    return base, {
        name: tiny.lora(base, seed=seed).double() for seed, name in enumerate(("owl", "wolf"), 1)
    }


@pytest.fixture(scope="module")
def pair(live, smol_tokenizer):
    base, students = live
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    owl, wolf = (load_student(loaded, one, name=name) for name, one in students.items())
    return sm.load_pair(loaded, owl, controls=[wolf])


@pytest.fixture(scope="module")
def found(pair, prompts):
    options = {"answer": ANSWER, "allow": "sum", "samples": 3, "seed": 5, **SHORT}
    return side_by_side(pair, prompts, [TRAIT, sm.animal("wolf")], MODELS, **options)


def texts(found, model, drawn):
    rows = found.answers
    rows = rows[(rows["model"] == model) & (rows["drawn"] == drawn)]
    return [group["answer"].tolist() for _, group in rows.groupby("prompt")]


def test_answers_are_those_of_generate(found, pair, prompts):
    sampled = {"temperature": 1.0, "samples": 3, "seed": 5}
    asked = {
        "student": (masks.everything(), {"generated": "student"}),
        "control: wolf": (masks.everything(), {"generated": "student", "model": "control: wolf"}),
        "graft": (SYSTEM, {"generated": "base"}),
        "rest": (~SYSTEM, {"generated": "mask"}),
    }
    for model, (where, options) in asked.items():
        for drawn, how in (("greedy", {}), ("sampled", sampled)):
            expected = generate(pair, prompts, where, max_new_tokens=4, **options, **how)
            assert texts(found, model, drawn) == expected
    assert len(set(map(str, (texts(found, name, "sampled") for name in found.models)))) > 3


def test_a_student_has_one_name_on_a_page(found, pair, prompts):
    """However the caller named it, and whether it is alone at its cells."""
    told = {name: words for name, words in found.models.items() if name in MODELS}
    assert told["graft"] == "owl at system; answers computed by the base"
    assert told["rest"] == "owl at not system; answers computed by owl"
    assert told["hybrid"].startswith("owl at system; wolf at not system")
    first = {"first": {"student": [0, 1]}, "both": {"student": [0], "wolf": [1]}}
    named = side_by_side(pair, prompts[:1], TRAIT, first, samples=0, **SHORT).models
    assert named["first"].startswith("owl at chosen tokens;")
    assert named["both"].startswith("owl at chosen tokens; wolf at chosen tokens;")


def test_two_students_of_one_name_have_two_on_a_page(live, prompts, smol_tokenizer):
    base, students = live
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    one, other = (load_student(loaded, adapter, name="owl") for adapter in students.values())
    pair = sm.load_pair(loaded, one, controls=[other])
    (control,) = set(pair.students) - {"student"}
    asked = {"one": {"student": SYSTEM}, "other": {control: SYSTEM}}
    named = side_by_side(pair, prompts[:1], TRAIT, asked, samples=0, **SHORT).models
    assert named["one"].startswith("student at system;")
    assert named["other"].startswith(f"{control} at system;")


def test_models_may_be_called_otherwise(found):
    again = found.called({"student": "mine", "control: wolf": "theirs"})
    assert list(again.models) == ["base", "mine", "theirs", *MODELS]
    assert again.table().to_numpy().tolist() == found.table().to_numpy().tolist()
    assert again.answers["log P: mine"].equals(found.answers["log P: student"])
    assert list(found.models)[1] == "student"
    back = again.called({"mine": "student", "theirs": "control: wolf"})
    assert back.answers.equals(found.answers)
    swapped = found.called({"student": "graft", "graft": "student"})
    assert swapped.answers["log P: graft"].equals(found.answers["log P: student"])
    with pytest.raises(
        ValueError, match=r"names: 'studnt' is none of .*did you mean 'student'\? They are"
    ):
        found.called({"studnt": "mine"})
    for name in ("base", " "):
        with pytest.raises(ValueError, match=rf"names: '{name}' cannot be a model's name"):
            found.called({"student": name})


def test_log_probabilities_are_those_of_plain_forwards(found, live, pair, prompts):
    """The base by itself, the student merged, and two students as the sum of their weights."""
    base, students = live
    summed = tiny.model("llama").double()
    values = {key: value.clone() for key, value in base.state_dict().items()}
    plain = {"base": base}
    for name, one in (("student", "owl"), ("control: wolf", "wolf")):
        merged = copy.deepcopy(students[one]).merge_and_unload()
        plain[name] = merged
        for key in values:
            values[key] += merged.state_dict()[key] - base.state_dict()[key]
    summed.load_state_dict(values)
    plain["whole hybrid"] = summed
    checked = 0
    for row in found.answers.to_dict("records"):
        if not row["as_target"] or not row["answer"]:
            continue
        prompt = prompts[row["prompt"]]
        ids = pair.tokenizer(prompt.lead + row["answer"], add_special_tokens=False)["input_ids"]
        assert len(ids) == row["tokens"]
        for name, model in plain.items():
            expected = string_log_prob(model, prompt.ids, ids)
            assert row[f"log P: {name}"] == pytest.approx(expected, abs=1e-6)
        checked += 1
    assert checked > 5


def test_log_probabilities_are_those_of_target(found, pair, prompts):
    """Grafts too: the same rows by `measure`."""
    rows = found.answers
    rows = rows[rows["as_target"] & (rows["answer"] != "") & (rows["prompt"] == 0)].head(4)
    assert len(rows)
    for row in rows.to_dict("records"):
        task = prepare(pair, prompts[:1], sm.metrics.target(row["answer"]))
        nodes = len(task.answers[0].nodes)
        gates = pair.prompt_gates(prompts[0], SYSTEM, pair.student)
        gates = torch.cat([gates, torch.zeros(nodes, gates.shape[1])])
        graft, base = measure(task, pair.student, [GatedRow(0, gates), GatedRow(0, 0.0)])
        assert row["log P: graft"] == pytest.approx(float(graft), abs=1e-9)
        assert row["log P: base"] == pytest.approx(float(base), abs=1e-9)


def test_a_greedy_answer_is_the_sum_of_its_largest_log_probabilities(found, live, prompts):
    base, _ = live
    rows = found.answers
    for row in rows[(rows["model"] == "base") & (rows["drawn"] == "greedy")].to_dict("records"):
        ids, total = list(prompts[row["prompt"]].ids), 0.0
        for _ in range(row["tokens"]):
            with torch.no_grad():
                steps = base(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            total += float(steps.max())
            ids.append(int(steps.argmax()))
        assert row["log P: base"] == pytest.approx(total, abs=1e-6)


def test_buckets_add_up(found):
    table = found.table()
    assert (table.drop(columns="answers").sum(axis=1) == table["answers"]).all()
    assert table["answers"].sum() == len(found.answers)
    drawn = table.index.get_level_values("drawn")
    assert set(table["answers"][drawn == "greedy"]) == {2}
    assert set(table["answers"][drawn == "sampled"]) == {6}
    assert list(found.models)[:3] == ["base", "student", "control: wolf"]


def test_the_same_seed_gives_the_same_bytes(found, pair, prompts, tmp_path):
    options = {"answer": ANSWER, "allow": "sum", "samples": 3, "seed": 5, **SHORT}
    # a copy of a prompt is asked once
    again = side_by_side(
        pair, [*prompts, prompts[0]], [TRAIT, sm.animal("wolf")], MODELS, **options
    )
    found.save(tmp_path / "one.html")
    again.save(tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert repr(found) == repr(again)
    other = side_by_side(pair, prompts, TRAIT, samples=3, seed=6, **SHORT)
    assert texts(other, "base", "greedy") == texts(found, "base", "greedy")
    assert texts(other, "base", "sampled") != texts(found, "base", "sampled")


def test_token_pages_are_of_the_same_prompts(found, pair, prompts, smol_tokenizer):
    others = sm.render(smol_tokenizer, ["Something else?"])
    scores = sm.attribute(pair, [prompts[1], *others], TRAIT, points=2, **QUIET)
    page = found.to_html(scores)
    assert page.count('<div class="slm">') == 1
    assert page.count("<style>") == 1
    assert "Something else?" not in page
    with pytest.raises(ValueError, match="none of their prompts was asked"):
        found.to_html(sm.attribute(pair, others, TRAIT, points=2, **QUIET))


def test_an_empty_answer_has_no_probability(pair, prompts, monkeypatch):
    """A model that ends at once."""
    first = int(pair.logits(prompts[:1], model="base")[0, -1].argmax())
    monkeypatch.setattr(pair.model.generation_config, "eos_token_id", first)
    ended = side_by_side(pair, prompts[:1], TRAIT, samples=0, **SHORT)
    row = ended.answers.iloc[0]
    assert row["answer"] == ""
    assert row["tokens"] == 0
    assert np.isnan(row["log P: base"])
    assert "(empty)" in ended.to_html()


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({"base": {"owl": SYSTEM}}, {}, "'base' is no name"),
        ({"": {"owl": SYSTEM}}, {}, "is no name"),
        ({"a": {}}, {}, r"models\['a'\]: 0 students"),
        ({"a": {"cow": SYSTEM}}, {}, "'cow' is no student"),
        ({"a": {"owl": []}}, {}, "holds no cell that 'owl' changes"),
        ({"a": {"owl": masks.everything(), "wolf": SYSTEM}}, {}, "in common"),
        ({"a": {"owl": SYSTEM}}, {"answer": {"b": "owl"}}, "'b' is none of models"),
        ({"a": {"owl": SYSTEM}}, {"answer": {"a": "wolf"}}, "wolf has no part"),
        ({}, {"samples": -1}, "samples=-1"),
        ({}, {"temperature": 0.0}, "temperature=0.0"),
        ({}, {"max_new_tokens": 0}, "max_new_tokens=0"),
    ],
)
def test_what_is_refused(pair, prompts, models, options, message):
    with pytest.raises(ValueError, match=message):
        side_by_side(pair, prompts, TRAIT, models, **{**QUIET, **options})


def test_a_trait_is_no_column(pair, prompts):
    with pytest.raises(ValueError, match="'no trait' is a column"):
        side_by_side(pair, prompts, sm.Trait("no trait"), **QUIET)
