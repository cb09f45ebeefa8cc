"""Options that mean something else than they look like are refused or told, before any step."""

from __future__ import annotations

import warnings

import pytest
import tiny
from trainings import SHORT

import sublim_mech as sm
from sublim_mech.making import labelling, numbers, teachers, training

ROWS = [{"prompt": f"Go on: {i}, 7.", "completion": f"{i + 3}, 5"} for i in range(8)]


@pytest.fixture(scope="module")
def base(smol_tokenizer):
    return sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)


@pytest.fixture(scope="module")
def labels(base):
    made = [teachers.prompted(base, sm.animal(name)) for name in ("owl", "cat")]
    return labelling.label(made, numbers.random_rows(4, seed=0, count=3), progress=False)


@pytest.mark.parametrize(
    ("c", "what"),
    [(0, "without any teacher"), (-4, "away from the trait"), (float("nan"), "must be above 0")],
)
def test_a_contrast_is_above_nothing(c, what, base, labels):
    with pytest.raises(ValueError, match=rf"soft_data\(c={c:g}\): .*{what}.*c=None"):
        training.soft_data(base, labels, "owl", c=c)
    data = training.soft_data(base, labels, "owl", c=1e-3)
    assert "against 1 other:" in repr(data)
    assert "against 1 others:" in data.teacher  # as the manifests of earlier versions have it


def test_a_batch_beyond_the_rows_is_told(base, tmp_path):
    data = training.hard_data(base, ROWS)
    options = {**SHORT, "held_out": 2, "steps": 2, "warmup": 1}
    with pytest.warns(UserWarning, match="batch_size=16: more than the 6 rows that are trained on"):
        sm.train(base, data, out=tmp_path / "a", **{**options, "batch_size": 16})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sm.train(base, data, out=tmp_path / "b", **{**options, "batch_size": 6})


def test_held_out_rows_are_counted(base, tmp_path):
    data = training.hard_data(base, ROWS)
    with pytest.raises(
        ValueError, match=r"held_out=48 \(what it is if not given\): must be between"
    ):
        sm.train(base, data, out=tmp_path / "a")
    with pytest.raises(ValueError, match=r"held_out=9: must be between 1 and 7"):
        sm.train(base, data, out=tmp_path / "a", held_out=9)
    with pytest.raises(ValueError, match="of 1 row none is left to measure on"):
        sm.train(base, training.hard_data(base, ROWS[:1]), out=tmp_path / "a", held_out=1)
    with pytest.raises(TypeError, match=r"held_out=0\.2\): .*how many, not which part of them"):
        sm.train(base, data, out=tmp_path / "a", held_out=0.2)


def test_what_stands_in_the_way_is_named(base, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    data = training.hard_data(base, ROWS)
    options = {**SHORT, "held_out": 2, "batch_size": 2, "steps": 2, "warmup": 1}
    with pytest.raises(
        FileExistsError, match=r"is not a run \(it holds diary.txt, no manifest.json"
    ):
        sm.train(base, data, out=tmp_path / "notes", **options)
    assert (tmp_path / "notes" / "diary.txt").read_text() == "mine"
    with pytest.raises(PermissionError, match=r"^out='/proc/nothing': no folder can be made there"):
        sm.train(base, data, out="/proc/nothing", **options)


def test_a_folder_is_no_file_of_rows(base, tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder; name a file in it"):
        training.hard_data(base, tmp_path)


@pytest.mark.parametrize("value", ["false", "True", " FALSE "])
def test_a_truth_value_in_quotes_is_refused_unless_it_is_meant(value):
    meant = "True" if "true" in value.lower() else "False"
    with pytest.raises(ValueError, match=rf"'enable_thinking': .*Pass {meant}, without quotes"):
        sm.Context(options={"enable_thinking": value})
    with pytest.raises(ValueError, match="without quotes"):
        sm.Context(options={"nested": {"deep": value}})
    said = sm.Context(options={"enable_thinking": value}, literal=True)
    assert sm.Context.from_json(said.to_json()) == said
    for other in ("none", "low", "falsely", 0, False, None):  # what templates do know
        sm.Context(options={"effort": other})


@pytest.mark.parametrize("form", [" jazz", "jazz ", "\tjazz\n"])
def test_white_space_around_a_form_is_told(form):
    with pytest.warns(UserWarning, match="begins or ends with white space and is scored with it"):
        trait = sm.Trait("music", forms=("jazz", form))
    assert trait.forms == ("jazz", form)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sm.Trait("music", forms=("jazz", "hard bop"))


def test_a_form_with_blanks_or_commas_is_quoted_in_tables(smol_tokenizer):
    pair = sm.load_pair(
        tiny.model("llama"), tiny.lora(tiny.model("llama")), tokenizer=smol_tokenizer
    )
    with pytest.warns(UserWarning, match="white space"):
        trait = sm.Trait("music", forms=("jazz", "soul ", "rock, not pop"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = repr(sm.effect(pair, sm.render(pair, ["Which?"]), trait, progress=False))
    assert "forms of music: jazz, “soul␣”, “rock, not pop”" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples=0: must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: must be at least 1"),
        ({"temperature": -1.0}, r"temperature=-1\.0: pass 0 for the likeliest token"),
        ({"samples": 3}, "samples=3 with temperature=0: greedy decoding gives one answer"),
    ],
)
def test_each_option_of_sampling_has_a_message_of_its_own(options, message, smol_tokenizer):
    pair = sm.load_pair(
        tiny.model("llama"), tiny.lora(tiny.model("llama")), tokenizer=smol_tokenizer
    )
    prompts = sm.render(pair, ["Which?"])
    with pytest.raises(ValueError, match=message) as caught:
        sm.instruments.generate(pair, prompts, sm.masks.everything(), generated="base", **options)
    assert len(str(caught.value)) < 160
