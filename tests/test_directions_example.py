"""The second notebook and the page behind it, on a tiny model: every question is asked, every table
is whole, and its numbers are those of the instruments."""

import importlib
import json
import re
import sys
from pathlib import Path

import matplotlib
import pytest
import tiny
from matplotlib import pyplot as plt

import sublim_mech as sm

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples/directions.ipynb"
SMALLER = {
    "questions[:6]": "questions[:4]",
    "prompts[3:]": "prompts[3:4]",
    "[9, 19, 29]": "[0, 2]",
    "vector(29)": "vector(2)",
    "masks.head(8)": "masks.head(1)",
    "random_rows(6, seed=0)": "random_rows(2, seed=0, count=3)",
}
"""What a tiny model does not have, and what would take long."""


@pytest.fixture(scope="module")
def students(smol_tokenizer):
    base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    loras = [tiny.lora(base.model, seed=seed, r=8) for seed in (1, 2)]
    return base, [
        sm.models.load_student(base, lora, name=name)
        for lora, name in zip(loras, ("owl", "penguin"), strict=True)
    ]


@pytest.fixture(scope="module")
def pair(students):
    base, (owl, penguin) = students
    return sm.load_pair(base, owl, controls=[penguin])


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield importlib.import_module("directions")
    for name in ("directions", "train_students"):
        sys.modules.pop(name, None)


@pytest.fixture
def asked(example, students, pair):
    base, (owl, penguin) = students
    other = sm.load_pair(base, penguin, controls=[owl])
    prompts = {
        name: sm.mark_sharing(
            sm.render(base.tokenizer, sm.animal(name).questions[:2]),
            trained_on=sm.render(base.tokenizer, ["Continue: 12, 7.", "More: 3, 4."]),
        )
        for name in ("owl", "penguin")
    }
    return example.Asked(
        "owl", "penguin", pair, other, prompts["owl"], prompts["penguin"], 2, rows=2
    )


def tables(said):
    """The cells of a Markdown table, without its head."""
    lines = [line for line in said.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_question_has_a_whole_table(example, asked, capsys, tmp_path):
    drawn = asked._replace(figures=tmp_path)
    for name, question in example.QUESTIONS.items():
        question(drawn)
        rows = tables(capsys.readouterr().out)
        assert len(rows) > 1, name
        if name not in ("doses", "heads"):  # which have two tables
            assert len({len(row) for row in rows}) == 1, name
        assert not [cell for row in rows for cell in row if cell in ("nan", "None")], name
    wanted = [*(f"hybrid-{number}.png" for number in range(1, 7)), "scan.png"]
    assert sorted(file.name for file in tmp_path.iterdir()) == wanted


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_tables_hold_the_numbers_of_the_instruments(example, asked, pair, capsys):
    trait = sm.animal("owl")
    total = sm.effect(pair, asked.prompts, trait, progress=False).total.values.mean()
    example.effects(asked)
    owl, penguin = tables(capsys.readouterr().out)[1:]
    assert (owl[0], penguin[0], owl[1]) == ("owl", "penguin", "2")
    assert float(owl[4].split()[0]) == pytest.approx(total, abs=0.0051)
    example.graft_ig_bands(asked)
    said = capsys.readouterr().out
    left = float(re.search(r"left over (\S+) nats", said)[1])
    summed = sum(float(row[1].split()[0]) for row in tables(said)[1:])
    assert summed + left == pytest.approx(total, abs=0.0051)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_notebook_runs(pair, monkeypatch):
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    errors = [
        o for cell in cells for o in cell["outputs"] if o["output_type"] in ("error", "stream")
    ]
    assert not errors
    matplotlib.use("Agg")
    monkeypatch.setattr(sm, "load_pair", lambda *_, **__: pair)
    names: dict = {}
    for cell in cells:
        code = "".join(cell["source"])
        for long, short in SMALLER.items():
            code = code.replace(long, short)
        exec(compile(code, str(NOTEBOOK), "exec"), names)
    plt.close("all")
    assert set(names["found"].table().index) == {"all", "divergent", "others"}


@pytest.mark.science
def test_the_notebook_runs_as_it_stands():
    """On the embedded model, all of it."""
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(ROOT / "examples")}}
    NotebookClient(notebook, timeout=1200, resources=where).execute()
    printed = [json.dumps(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    assert any("divergent" in output for output in printed)
