"""The example scripts on a tiny model: their tables hold what `evaluate` says, and finished parts
are used again."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

import sublim_mech as sm

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def base(smol_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.model("llama").save_pretrained(folder)
    smol_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def run(base, tmp_path, monkeypatch, capsys):
    """Runs an example with few rows and steps, and gives its module and what it printed."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    animal = sm.animal

    def short(name):
        asked = animal(name).questions[:3]
        return sm.Trait.noun(name, category="animal", questions=asked)

    monkeypatch.setattr(sm, "animal", short)

    def go(name, *options):
        recipe = importlib.import_module("train_students")
        monkeypatch.setattr(recipe, "ROWS", 12)
        monkeypatch.setattr(recipe, "HELD_OUT", 4)
        few = {"steps": 2, "warmup": 1, "lr": 1e-4}  # a step of 1e-3 would be too far
        monkeypatch.setattr(recipe, "DEFAULTS", {**recipe.DEFAULTS, **few, "batch_size": 2})
        few = {"steps": 3, "warmup": 1}
        monkeypatch.setattr(recipe, "FULL", {**recipe.FULL, **few, "evaluate_every": 1})
        example = importlib.import_module(name)
        if name == "rank_sweep":
            monkeypatch.setattr(example, "STEPS", 3)
            monkeypatch.setattr(example, "WARMUP", 1)
            monkeypatch.setattr(example, "SNAPSHOTS", (2,))
        monkeypatch.setattr(
            sys, "argv", [name, "--base", str(base), "--out", str(tmp_path), *options]
        )
        example.main()
        return example, capsys.readouterr().out

    yield go
    for name in ("train_students", "rank_sweep", "context_grid"):
        sys.modules.pop(name, None)


def stamps(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}


def test_ranks_beyond_the_model_are_told_before_anything_is_labelled(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("rank_sweep", "--ranks", "2", "1000")
    assert re.search(r"--ranks: LoRA\(rank=1000\): .* matrix, whose upd", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def numbers_of(line):
    return [float(x) for x in re.findall(r"[+-]\d+\.\d+", line)]


def test_the_recipe_prints_gates_before_students_and_the_numbers_of_evaluate(run, base, tmp_path):
    recipe, said = run("train_students")
    assert said.index("gates:") < said.index("Run(")
    lines = [line for line in said.splitlines() if " -> " in line and not line.startswith("Run(")]
    assert len(lines) == 4 * len(recipe.CONTEXTS)
    pair = sm.load_pair(str(base), tmp_path / "penguin-full", controls=[tmp_path / "owl-full"])
    found = sm.evaluate(
        pair, [sm.animal(name) for name in recipe.ANIMALS], contexts=recipe.CONTEXTS, progress=False
    )
    change = found.change.sel(trait="penguin", context="none").mean("question").values
    line = next(x for x in lines[-len(recipe.CONTEXTS) :] if "none" in x)
    own, _, control, specific = numbers_of(line)[:4]
    np.testing.assert_allclose(
        [own, control, specific], [change[0], change[1], change[0] - change[1]], atol=0.0051
    )
    before = stamps(tmp_path)
    assert run("train_students")[1].split("\nChange of")[1] == said.split("\nChange of")[1]
    assert stamps(tmp_path) == before


def test_the_rank_sweep_has_every_capacity_and_step_and_the_last_one_is_the_student(
    run, base, tmp_path
):
    _, said = run("rank_sweep", "--ranks", "1", "2")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in said.splitlines()
        if re.match(r"\| (r\d|full)", line)
    ]
    assert [(r[0], r[1]) for r in rows] == [
        (c, s) for c in ("r1", "r2", "full") for s in ("2", "3")
    ]
    pair = sm.load_pair(str(base), tmp_path / "owl-r2", controls=[tmp_path / "penguin-r2"])
    change = (
        sm.evaluate(pair, [sm.animal("owl")], progress=False)
        .change.isel(trait=0, context=0)
        .mean("question")
        .values
    )
    own, control, specific = numbers_of(rows[3][3])[:3]
    np.testing.assert_allclose(
        [own, control, specific], [*change, change[0] - change[1]], atol=0.0051
    )
    assert (tmp_path / "rank_sweep.png").stat().st_size > 10_000


def test_the_context_grid_has_its_own_base_level_in_every_evaluation_context(run, base, tmp_path):
    example, said = run("context_grid")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in said.splitlines()
        if re.match(r"\| (owl|penguin)", line)
    ]
    assert len(rows) == 2 * len(example.TRAINED) * len(example.EVALUATED)
    found = sm.evaluate(
        sm.load_base(str(base)), [sm.animal("owl")], contexts=example.EVALUATED, progress=False
    )
    levels = found.data["log_prob"].isel(model=0, trait=0).mean("question")
    for row in rows:
        if row[0] == "owl":
            assert float(row[3]) == pytest.approx(float(levels.sel(context=row[2])), abs=0.0051)
    assert (tmp_path / "context_grid.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "trait"),
    [
        ([], sm.animal("owl")),
        (["--trait", "wolf", "--category", "animal"], sm.animal("wolf")),
        (["--trait", "wolf"], sm.animal("wolf")),
        (["--trait", "oak"], sm.prompts.tree("oak")),
        (
            ["--trait", "axolotl", "--category", "animal"],
            sm.Trait.noun("axolotl", category="animal"),
        ),
        (["--trait", "oak", "--category", "tree"], sm.prompts.tree("oak")),
        (["--trait", "Lisbon", "--category", "city"], sm.Trait("Lisbon", category="city")),
        (
            ["--trait", "Lisbon", "--category", "city", "--forms", "Lisbon", "Lisboa"],
            sm.Trait("Lisbon", forms=("Lisbon", "Lisboa"), category="city"),
        ),
    ],
    ids=str,
)
def test_words_are_animals_trees_or_exactly_what_is_said(options, trait, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("per_token_heatmap")
    monkeypatch.setattr(sys, "argv", ["per_token_heatmap", *options])
    assert example.trait_of(example.parse()) == trait
