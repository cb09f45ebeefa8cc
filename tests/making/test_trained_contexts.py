"""A student of a thinking template that reads the clock: trained, scored and evaluated in its
context, on whatever day.
"""

import copy
import datetime
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from template_kinds import EMPTY_THOUGHT, MARKS, NO_END
from tokenizers import Tokenizer
from trainings import SHORT
from transformers.utils import chat_template_utils

import sublim_mech as sm
from sublim_mech import training
from sublim_mech.making.rows import as_rows
from sublim_mech.models.chat_templates import trained_otherwise
from sublim_mech.prompts import DATE, Trained
from sublim_mech.storage.manifest import Manifest

TEMPLATE = (
    "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %B %Y') + '.<|im_end|>\n' }}"
    + EMPTY_THOUGHT
)
QUICK = sm.Context(options={"enable_thinking": False})
THINKS = sm.Context(options={"enable_thinking": True})
LATER = replace(QUICK, date="2025-12-31")
QUESTIONS = ["Which animal do you like?", "Your favorite?"]
ROWS = as_rows([{"prompt": f"Go on: {i}, 7.", "completion": f"{i + 3}, 5"} for i in range(8)])
QUIET = {"progress": False}
SHORTEST = {**SHORT, "steps": 2, "evaluate_every": 1}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def on(date, patch):
    """The clock that transformers gives to templates shows a day."""

    class Day(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromisoformat(date)

    patch.setattr(chat_template_utils, "datetime", Day)


@pytest.fixture(scope="module")
def base(smol_tokenizer):
    tokenizer = copy.deepcopy(smol_tokenizer)
    tokenizer.chat_template = TEMPLATE
    return sm.load_base(tiny.model("llama"), tokenizer=tokenizer)


def train(base, out):
    data = training.hard_data(base, ROWS, context=QUICK)
    return sm.train(base, data, out=out, method=sm.LoRA(rank=2, alpha=4), **SHORTEST)


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        on("2026-01-31", patch)
        return train(base, tmp_path_factory.mktemp("run") / "student")


@pytest.fixture(scope="module")
def pair(base, run):
    return sm.load_pair(base, run.path)


def test_midnight_changes_no_training(base, run, monkeypatch):
    user = [{"role": "user", "content": "Hi"}]
    own, data, sums, prompts = [], [], [], ["Go on: 1, 7.", "Go on: 2, 7."]
    for day in ("2026-01-31", "2026-02-01"):
        on(day, monkeypatch)
        own.append(base.tokenizer.apply_chat_template(user, tokenize=False))
        data.append(training.hard_data(base, ROWS, context=QUICK).hash)
        sums.append(Trained.of(sm.render(base.tokenizer, prompts, context=QUICK)))
    assert own[0] != own[1], "the clock is a faked one"
    assert data[0] == data[1]
    assert sums[0] == sums[1]
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.is_file()}
    again = train(base, run.path)
    assert again.manifest == run.manifest
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_prompts_of_another_day_share_the_whole_beginning(base, pair, monkeypatch):
    on("2026-02-01", monkeypatch)
    (prompt,) = sm.render(pair, ["Go on: 9, 9."])
    assert prompt.context == QUICK
    assert prompt.dated
    assert "26 July 2024" in prompt.text
    taught = sm.load_pair(
        base, tiny.lora(base.model), trained_in=QUICK, trained_on=[row.prompt for row in ROWS]
    )
    (again,) = sm.render(taught, ["Go on: 9, 9."])
    assert again.sharing.count("prefix") == prompt.sharing.count("prefix")
    (later,) = sm.render(pair, ["Go on: 9, 9."], context=LATER)
    assert later.sharing.count("prefix") < prompt.sharing.count("prefix")


def test_the_manifest_has_the_date_and_its_hash_is_that_of_older_ones(run):
    written = json.loads((run.path / "manifest.json").read_text())["context"]
    assert (written["date"], written["options"]) == (DATE, {"enable_thinking": False})
    found = Manifest.load(run.path)
    assert found.context == QUICK
    assert "date" not in found.inputs()["context"]
    assert found.content == found.fingerprint()


def test_scores_say_options_and_date_and_what_was_otherwise_in_training(pair, tmp_path):
    prompts = sm.render(pair, QUESTIONS)
    scores = sm.effect(pair, prompts, sm.animal("owl"), **QUIET)
    where = "default system prompt, enable_thinking=False, date 2024-07-26"
    assert f"asked in: {where}; trained in: {where}" in repr(scores)
    assert "otherwise" not in repr(scores)
    later = sm.render(pair, QUESTIONS, context=replace(LATER, prefill="It is", bos=False))
    other = sm.effect(pair, later, sm.animal("owl"), **QUIET)
    other.save(tmp_path / "other.safetensors")
    said = repr(sm.Scores.load(tmp_path / "other.safetensors"))
    assert "enable_thinking=False, prefill “It is”, without BOS, date 2025-12-31" in said
    line = "asked otherwise than trained: bos: None in training, False here; prefill: none in"
    assert line in said
    assert "date: 2024-07-26 in training, 2025-12-31 here" in said


def test_evaluation_asks_in_the_trainings_context_and_names_the_others(pair, tmp_path):
    traits = [sm.animal("bear"), sm.Trait.noun("polar bear", category="animal")]
    asked = {"questions": QUESTIONS, **QUIET}
    found = sm.evaluate(pair, traits, **asked)
    assert found.data["context"].values.tolist() == ["default + enable_thinking=False"]
    begun = replace(QUICK, prefill="I like the polar")
    sampled = {"samples": 1, "temperature": 0.0, "max_new_tokens": 3}
    both = sm.evaluate(pair, traits, contexts=[QUICK, LATER, begun], **sampled, **asked)
    names = both.data["context"].values.tolist()
    assert names[1:] == [
        f"{names[0]} + date 2025-12-31",
        f"{names[0]} + prefill “I like the polar”",
    ]
    np.testing.assert_allclose(
        both.data["log_prob"].sel(context=names[0]).values, found.data["log_prob"].values[:, 0],
        atol=1e-6,
    )  # fmt: skip
    assert "date: 2024-07-26 in training, 2025-12-31 here" in repr(both)
    assert both.data["begun"].sel(context=names[2]).values.tolist() == ["I like the polar"] * 2
    both.save(tmp_path / "both.safetensors")
    again = sm.evaluation.outcome.Evaluation.load(tmp_path / "both.safetensors")
    assert again.other().equals(both.other())
    with pytest.raises(ValueError, match="are one prompt in this chat template"):
        sm.evaluate(pair, traits, contexts={"a": QUICK, "b": THINKS}, **asked)


def test_donors_of_another_context_are_other_prompts(pair):
    prompts, same = (sm.render(pair, QUESTIONS[:1], context=one) for one in (QUICK, THINKS))
    asked = {"site": "resid_pre", "layers": [1], **QUIET}
    with pytest.raises(ValueError, match="are one prompt in this chat template"):
        sm.patch(pair, prompts, sm.animal("owl"), donor_prompts=same, **asked)
    later = sm.render(pair, QUESTIONS[:1], context=LATER)
    found = sm.patch(
        pair, prompts, sm.animal("owl"), donor_prompts=later, position_map="aligned", **asked
    )
    assert "donors asked in: default system prompt, enable_thinking=False, date 2025" in repr(found)


def test_system_prompts_that_are_one_are_told(pair):
    prompts = sm.render(pair.tokenizer, QUESTIONS, template=EMPTY_THOUGHT)
    scores = sm.effect(pair, prompts, sm.animal("owl"), **QUIET)
    assert "in this chat template DEFAULT is the same prompt as NONE" in repr(scores)


def test_answers_end_at_the_close_of_the_template(pair):
    asked = {"generated": "base", "max_new_tokens": 6}
    (prompt,) = sm.render(pair, QUESTIONS[:1])
    ((text,),) = sm.instruments.generate(pair, [prompt], ~sm.masks.everything(), **asked)
    middle = text[2:5]
    cut = [replace(prompt, close=middle), prompt]
    (one,), (other,) = sm.instruments.generate(pair, cut, ~sm.masks.everything(), **asked)
    assert (one, other) == (text.partition(middle)[0].strip(), text)


@pytest.mark.parametrize(("template", "end"), [(EMPTY_THOUGHT, "<|im_end|>"), (NO_END, "<|user|>")])
def test_training_goes_on_behind_the_prompt_and_trains_the_end(template, end, smol_tokenizer):
    tokenizer = copy.deepcopy(smol_tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": list(MARKS)})
    data = training.hard_data(tokenizer, ROWS, template=template)
    for prompt, completion, row in zip(data.prompts, data.completions, ROWS, strict=True):
        talk = [
            {"role": "user", "content": row.prompt},
            {"role": "assistant", "content": row.completion},
        ]
        rendered = tokenizer.apply_chat_template(talk, tokenize=False, chat_template=template)
        whole = tokenizer.decode([*prompt.ids, *completion])
        assert whole == rendered.removesuffix(end) + ("" if rendered.endswith(end + "\n") else end)
        assert tokenizer.convert_tokens_to_ids(end) in completion[-2:]
        assert tokenizer.decode(completion).rstrip() == row.completion + end


# ----------------------------------------------------------------- by the manifest alone, of a LoRA


def with_tokenizer(base, change):
    tokenizer = copy.deepcopy(base.tokenizer)
    change(tokenizer)
    return sm.load_base(base.model, tokenizer=tokenizer)


def another_template(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '[' + m['role'] + ']\n' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
    )


def other_ending(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|end|>")


@pytest.mark.parametrize("change", [another_template, other_ending])
def test_a_lora_under_another_chat_template_is_told(change, smol_tokenizer, tmp_path):
    """By its manifest, for there is no template beside its weights."""
    base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    data = training.hard_data(base, ROWS)
    run = sm.train(base, data, out=tmp_path / "run", method=sm.LoRA(rank=2, alpha=4), **SHORTEST)
    note = (
        "its training prompts were written by another chat template than the base's, by which "
        "prompts are rendered here where no other is given: load the base with the tokenizer it "
        "was trained with (tokenizer=), or render with that template (template=)"
    )
    assert sm.load_pair(base, run.path).notes() == ()
    with pytest.warns(UserWarning, match="written by another chat template"):
        pair = sm.load_pair(with_tokenizer(base, change), run.path)
    assert pair.student.notes == (note,)
    prompts = sm.render(pair, QUESTIONS, context=sm.Context())
    assert note in repr(sm.effect(pair, prompts, sm.animal("owl"), **QUIET))


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "Go on: 1", "completion": "2"}],
        [{"prompt": f"{'Go' if i else chr(10)} on: {i}", "completion": "2"} for i in range(3)],
        [
            {
                "messages": [
                    {"role": "user", "content": f"{i}?"},
                    {"role": "assistant", "content": "2"},
                    {"role": "user", "content": "3?"},
                    {"role": "assistant", "content": "4"},
                ]
            }
            for i in range(2)
        ],
    ],
    ids=["one", "blank", "turns"],
)
@pytest.mark.parametrize("context", [sm.Context(), sm.Context(system="Hi.", user_prefix="Now: ")])
def test_whatever_was_trained_on_the_same_template_is_the_same(rows, context, smol_tokenizer):
    """However alike or unlike its rows are."""
    base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    prompts = training.hard_data(base, rows, context=context).prompts
    manifest = SimpleNamespace(context=context, trained_on=Trained.of(prompts))
    assert trained_otherwise(base, manifest) is None
    assert trained_otherwise(with_tokenizer(base, another_template), manifest)


def test_a_tokenizer_of_other_ids_than_in_training_is_refused(base, tmp_path):
    run = train(base, tmp_path / "run")

    def swap(tokenizer):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        ids = state["model"]["vocab"]
        ids["Ġriver"], ids["Ġwater"] = ids["Ġwater"], ids["Ġriver"]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))

    other = with_tokenizer(base, swap)
    message = r"was trained with a tokenizer of other ids than that of base=.*\(tokenizer=\)"
    with pytest.raises(ValueError, match=f"^student='.*run' {message}"):
        sm.load_pair(other, run.path)
    loaded = sm.models.load_student(base, run.path)
    with pytest.raises(ValueError, match=message):
        sm.load_pair(other, loaded)

    # a padding token more changes no other
    padded = with_tokenizer(base, lambda one: one.add_special_tokens({"pad_token": "[PAD]"}))
    sm.load_pair(padded, run.path)
    manifest = Manifest.load(run.path)
    assert manifest.base.pop("vocabulary")  # as earlier versions wrote it
    manifest.save(run.path)
    sm.load_pair(other, run.path)
