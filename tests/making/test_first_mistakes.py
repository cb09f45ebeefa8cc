"""What a first visit gets wrong about files, rows and training, said before anything runs."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from trainings import fit, small_base, small_hard

from sublim_mech.making.numbers import Row, as_rows, split, text_rows
from sublim_mech.making.readiness.report import _own_share
from sublim_mech.making.training import FullFT, LoRA, hard_data, loop
from sublim_mech.making.training.order import divide
from sublim_mech.making.training.run import _same_prompts
from sublim_mech.prompts import RAW
from sublim_mech.storage.manifest import prompts_hash

SHAREGPT = [{"from": "human", "value": "Three?"}, {"from": "gpt", "value": "1, 2, 3"}]
BY_PROMPT = {"held_out": 1, "held_out_seed": 0, "held_out_by": "prompt"}
SAME_PROMPT = [Row(f"Prompt {i % 4}.", f"{i}, {i + 1}") for i in range(12)]


@pytest.fixture(scope="module")
def base(smol_tokenizer):
    return small_base(smol_tokenizer)


@pytest.fixture(scope="module")
def data(smol_tokenizer):
    return small_hard(smol_tokenizer, SAME_PROMPT)


# --------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize(
    "rows", [[{"conversations": SHAREGPT}], [{"messages": SHAREGPT}]], ids=["columns", "messages"]
)
def test_sharegpt_is_told_how_to_become_messages(rows):
    with pytest.raises((ValueError, TypeError), match="ShareGPT's conversations") as caught:
        as_rows(rows)
    assert "rename" not in str(caught.value)
    # the advice is code that does it
    advice = str(caught.value).partition("write them as messages: ")[2].partition(" (a message")[0]
    names = {"rows": [{"conversations": SHAREGPT}]}
    exec(advice, names)
    assert as_rows(names["rows"]) == [Row("Three?", "1, 2, 3")]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_no_json_lines(indent, tmp_path):
    rows = [{"prompt": "Three?", "completion": "1"}]
    (tmp_path / "x.jsonl").write_text(json.dumps(rows, indent=indent))
    with pytest.raises(ValueError, match="is one JSON array, not JSON Lines"):
        as_rows(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text(json.dumps(rows[0], indent=2))
    with pytest.raises(ValueError, match="one JSON object over several lines"):
        as_rows(tmp_path / "x.jsonl")


def test_tables_are_read_by_pandas_and_home_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.csv").write_text("prompt,completion\na,b\n")
    with pytest.raises(ValueError, match=r"is a \.csv file.*pandas\.read_csv\("):
        as_rows(tmp_path / "x.csv")
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    assert as_rows("~/x.jsonl") == [Row("a", "b")]
    with pytest.raises(ValueError, match="data='' is empty"):
        as_rows("")


# ----------------------------------------------------------------------------------------- held out


def held(data, **options):
    return divide(data, 4, **{"held_out_seed": 0, "subsample": None, "seed": 0, **options})


def test_rows_of_a_prompt_stay_together_where_that_is_asked(data):
    by_row, by_prompt = (
        held(data),
        divide(data, 1, held_out_seed=0, subsample=None, seed=0, held_out_by="prompt"),
    )
    prompts = [prompt.ids for prompt in data.prompts]
    trained = {prompts[row] for row in by_row.trained}
    assert by_row.same_prompt == sum(prompts[row] in trained for row in by_row.held_rows) > 0
    assert by_prompt.same_prompt == 0
    assert {prompts[row] for row in by_prompt.held_rows}.isdisjoint(
        prompts[row] for row in by_prompt.trained
    )
    assert sorted([*by_prompt.trained, *by_prompt.held_rows]) == list(range(12))
    with pytest.raises(ValueError, match="number of different prompts less one"):
        held(data, held_out_by="prompt")
    with pytest.raises(ValueError, match="held_out_by='prompt' is a way to draw rows"):
        held(data, held_out_by="prompt", held_out_seed=None)


def test_prompts_on_both_sides_are_told_and_the_manifest_knows_its_prompts(base, data, tmp_path):
    with pytest.warns(UserWarning, match="have a prompt that is trained on with another answer"):
        run = fit(base, data, tmp_path / "row", steps=2, held_out=3)
    assert "held_out_by" not in run.manifest.data
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run = fit(base, data, tmp_path / "p", steps=2, **BY_PROMPT)
    assert run.manifest.data["held_out_by"] == "prompt"
    trained = held(data, held_out_by="row").trained
    ids = [data.prompts[row].ids for row in trained]
    assert prompts_hash(ids) == prompts_hash(ids[::-1] + ids[:2]) != run.manifest.prompts


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize(
    "texts", [["Owls fly", "Owls eat", "Night falls", "Night ends", "A b"] * 3]
)
def test_the_advised_number_of_prompts_can_be_held_out(seed, texts, smol_tokenizer):
    """Of rows of raw text there are as many prompts as first words, fewer than rows are held."""
    listed = [f"{text} {number}." for number, text in enumerate(texts)]
    rows = text_rows(listed)
    data = hard_data(smol_tokenizer, rows, context=RAW)
    for held_out in (1, 2, 6, 13):
        division = divide(data, held_out, held_out_seed=seed, subsample=None, seed=0)
        told = _same_prompts(division, data)
        if seed is None:
            few = int(told.partition("split(rows, ")[2].partition(",")[0])
            assert all(map(len, split(rows, few, seed=0)))
        else:
            few = int(told.partition("; held_out=")[2].partition(",")[0])
            again = divide(data, few, held_out_seed=0, subsample=None, seed=0, held_out_by="prompt")
            assert again.same_prompt == 0
            assert again.trained
        assert f"{few} of the 3 different prompts" in told
    with pytest.raises(ValueError, match=r"held_out=2 \(different prompts\) and held_out_seed=0"):
        divide(data, 6, held_out_seed=None, subsample=None, seed=0, held_out_by="prompt")
    one = hard_data(smol_tokenizer, text_rows(["Owls fly.", "Owls eat."]), context=RAW)
    division = divide(one, 1, held_out_seed=0, subsample=None, seed=0)
    assert "all rows have one prompt" in _same_prompts(division, one)


def test_data_held_against_itself_is_not_told_of_a_seed(data):
    with pytest.raises(ValueError, match="pass rows of their own") as caught:
        divide(data, data, held_out_seed=0, subsample=None, seed=0)
    assert "held_out_seed" not in str(caught.value)
    advised = int(str(caught.value).partition("held_out=")[2].rstrip("."))
    assert divide(data, advised, held_out_seed=0, subsample=None, seed=0).held_rows


# -------------------------------------------------------------------------------------------- train


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_seed": 2**70}, r"init_seed=\d+: must be below 2\*\*63"),
        ({"init_seed": 2**32}, r"init_seed=4294967296: must be below 2\*\*32"),
        ({"order_seed": -1}, "order_seed=-1: must be at least 0"),
        ({"stop_at": -1.0}, r"stop_at=-1\.0: pass a held-out loss, which is not below 0"),
        ({"report_to": "wandbb"}, r"report_to='wandbb' is none of .*did you mean 'wandb'"),
        ({"report_to": "mlflow"}, "report_to='mlflow': this tracker is not installed"),
        ({"method": LoRA(rank=8, targets=("qproj",))}, "qproj"),
        ({"method": FullFT(freeze="embeddigns")}, "did you mean 'embeddings'"),
    ],
)
def test_a_folder_that_is_there_hides_no_mistake(options, message, base, data, tmp_path):
    (tmp_path / "there").mkdir()
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        fit(base, data, tmp_path / "there", **{"steps": 2, "held_out": 3, **options})
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("out", ["", " "])
def test_a_run_has_a_name(out, base, data):
    with pytest.raises(ValueError, match="is empty; name a file or a folder"):
        fit(base, data, out)


@pytest.mark.parametrize("out", [".", "..", "/"])
def test_a_run_has_a_name_of_its_own(out, base, data):
    with pytest.raises(ValueError, match="has no name of its own"):
        fit(base, data, out)


def test_home_is_no_folder_called_tilde(base, data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run = fit(base, data, "~/made/run", steps=2, **BY_PROMPT)
    assert run.path == tmp_path / "made" / "run"
    assert not (tmp_path / "~").exists()


def test_more_than_all_is_not_printed():
    assert _own_share(0.42) == "42% is its own"
    told = "farther from the others than from the base: part of that is the others' own move"
    assert _own_share(10.08) == told


def test_a_tracker_that_does_not_start_is_told(base, data, tmp_path, monkeypatch):
    class RefusalError(RuntimeError):
        __module__ = "wandb.errors"

    def refuse(self, **options):
        raise RefusalError("no login")

    monkeypatch.setattr(loop, "check_trackers", lambda report_to: None)
    monkeypatch.setattr(loop, "_arguments", without_tracker(loop._arguments))
    monkeypatch.setattr(loop.Loop, "train", refuse)
    with pytest.raises(ValueError, match=r"the tracker does not start \(no login"):
        fit(base, data, tmp_path / "run", steps=2, held_out=3, report_to="wandb")


def without_tracker(arguments):
    return lambda job, *, log_steps, report_to: arguments(job, log_steps=False, report_to="none")
