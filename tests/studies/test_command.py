"""The command line: plan, run, status, export, and what it says of mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from sublim_mech import studies
from sublim_mech.__main__ import main


@pytest.fixture
def file(made, tmp_path):
    studies.write_study(made.study, tmp_path / "study.toml")
    return str(tmp_path / "study.toml")


def test_status_and_plan_and_export_of_a_finished_study(made, file, tmp_path, capsys):
    out = str(made.out)
    assert main(["status", file, "--out", out]) == 0
    assert f"study 'small': {len(made.rows)} runs: {len(made.rows)} done" in capsys.readouterr().out
    assert main(["status", file, "--out", out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"done": len(made.rows)}
    assert main(["plan", file, "--out", out, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["finished"] == len(made.rows)
    assert not any("its size is not known" in note for note in planned["notes"]), "nothing to do"
    assert main(["export", file, "--out", out, "--to", str(tmp_path / "rows.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "rows.csv")) == len(made.rows)
    assert main(["run", file, "--out", out, "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == len(made.rows)


def test_presets_are_planned_without_a_model_and_saved(tmp_path, capsys):
    for name, make in studies.built_in.PRESETS.items():
        saved = tmp_path / f"{name}.toml"
        assert main(["plan", name, "--save", str(saved)]) == 0
        assert f"plan of study '{name}'" in capsys.readouterr().out
        assert studies.read_study(saved) == make()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["plan", "latop"], "did you mean 'laptop'"),
        (["plan", "none.toml"], "no such file"),
        (["status", "quick", "--out", __file__], "is a file"),
        (["run", "quick", "--out", "o", "--shard", "3/2"], "--shard=3/2"),
        (["run", "quick", "--out", "o", "--workers", "-1"], "--workers=-1"),
        (["plan", "quick", "--out", __file__], "--out="),
        (["run", "quick", "--out", __file__], "--out="),
        (["status", "quick", "--out", __file__], "--out="),
        (["report", "quick", "--out", "nowhere"], "--out='"),
        (["export", "quick", "--out", "nowhere", "--to", "rows.csv"], "--out='"),
        (["export", "quick", "--out", "nowhere", "--to", "rows.xls"], "--to='rows.xls'"),
        (["plan", "latop"], "STUDY='latop'"),
        (["plan", "quick", "--save", "plan.yaml"], "--save='plan.yaml'"),
        (["plan", "quick", "--save", f"{__file__}/plan.toml"], "is a file"),
        (["plan", "quick", "--save", "."], "--save='.'"),
        (["report", "quick", "--out", "nowhere", "--to", __file__], "--to='"),
        (["export", "quick", "--out", "nowhere", "--to", f"{__file__}/a.csv"], "--to='"),
        (["export", "none.toml", "--out", "o", "--to", "o.csv"], "STUDY='none.toml': no such file"),
    ],
)
def test_mistakes_are_told_in_one_line(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    told, table = capsys.readouterr()[::-1]
    assert not table  # whatever is wrong is told before anything is worked out
    assert says in told
    assert len(told.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())  # such as an empty table


def test_status_says_that_nothing_was_run_there(capsys, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert main(["status", "quick", "--out", str(nowhere)]) == 1
    assert f"{str(nowhere)!r}: there is no folder of studies" in capsys.readouterr().out
    assert not nowhere.exists()


def test_a_reader_that_goes_away_ends_the_command_without_a_word():
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "sublim_mech", "plan", "quick"]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert done.returncode == 141
    assert "roken" not in done.stderr


@pytest.mark.parametrize("command", ["plan", "run", "status", "report", "export"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "sublim-mech run quick --out" in capsys.readouterr().out
