"""Tables print all their columns, and files are what their names say."""

import numpy as np
import pandas as pd
import pytest
import synthetic
from planted import planted

from sublim_mech.results.frames import Table

TABLES = {
    "totals": synthetic.effect().totals,
    "sets": synthetic.graft().sets,
    "sets per layer": synthetic.patched_sets().sets,
    "by": lambda: synthetic.attribution().by("role"),
    "cells": lambda: synthetic.attribution(synthetic.several(7)).cells(),
    "strongest": synthetic.attribution().strongest,
    "to_dataframe": synthetic.attribution().to_dataframe,
    "confirmation": lambda: synthetic.confirmed(synthetic.gradient()).confirmation,
    "evaluation": planted(np.zeros((3, 1, 2, 4))).table,
    "ranks": planted(np.zeros((3, 1, 2, 4))).ranks,
    "evaluation rows": planted(np.zeros((3, 1, 2, 4))).to_dataframe,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_narrow_terminal_sees_every_column(name):
    table = TABLES[name]()
    # max_columns 0: as many as the width holds, which is what pandas does in a terminal
    with pd.option_context("display.width", 60, "display.max_columns", 0):
        said = repr(table)
    for column in table.columns:
        assert str(column) in said, column
    with pd.option_context("display.max_columns", 2):
        assert table._repr_html_().count("<th>") >= len(table.columns)


def test_a_table_is_printed_in_one_piece():
    table = Table({f"column {i}": [0.123] for i in range(40)})
    assert "\\" not in repr(table)
    assert len(repr(table).splitlines()) == 2


def test_what_comes_of_a_table_is_one():
    table = Table({f"c{i}": [1.0, 2.0] for i in range(30)})
    assert type(table[table["c0"] > 1].sort_values("c1")) is Table
    assert pd.get_option("display.max_columns") != 30
    assert "c15" in repr(table.head(1))


def test_rows_are_written_as_csv(tmp_path):
    scores = synthetic.attribution()
    scores.to_csv(tmp_path / "deep" / "s.csv")
    back = pd.read_csv(
        tmp_path / "deep" / "s.csv", keep_default_na=False, float_precision="round_trip"
    )
    frame = scores.to_dataframe()
    assert back.columns.tolist() == frame.columns.tolist()
    assert len(back) == len(frame)
    np.testing.assert_allclose(back["effect"].astype(float), frame["effect"], rtol=0, atol=0)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["s.csv"]

    evaluation = planted(np.arange(24.0).reshape(3, 1, 2, 4))
    evaluation.to_csv(tmp_path / "e.csv")
    back = pd.read_csv(tmp_path / "e.csv")
    assert back["log_prob"].tolist() == list(range(24))
    assert back.columns[:5].tolist() == ["model", "context", "trait", "question", "text"]


@pytest.mark.parametrize("thing", [synthetic.effect(), planted(np.zeros((2, 1, 1, 2)))])
def test_a_name_that_promises_another_format_is_refused(thing, tmp_path):
    for name in ("x.csv", "x", "x.json"):
        said = r"what is written is a \.safetensors file; name it '.*x\.safetensors' \(.*to_csv"
        with pytest.raises(ValueError, match=said):
            thing.save(tmp_path / name)
    for name in ("x.safetensors", "x", "x.tsv"):
        with pytest.raises(ValueError, match=r"is a \.csv file; name it '.*x\.csv' \(.*save"):
            thing.to_csv(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("thing", [synthetic.effect(), planted(np.zeros((2, 1, 1, 2)))])
@pytest.mark.parametrize("name", ["adapter_config.json", "config.json", "manifest.json"])
def test_arrays_are_not_written_beside_a_model_s_weights(thing, name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"path=.*is a model's folder \(it has {name}\)"):
        thing.save(tmp_path / "x.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == [name]
    thing.to_csv(tmp_path / "x.csv")  # which no one takes for weights
