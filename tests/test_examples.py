"""The example scripts on a tiny model: their tables hold what `evaluate` says, and finished parts
are used again."""

import copy
import dataclasses
import importlib
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

import sublim_mech as sm
from sublim_mech import studies

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
        monkeypatch.setattr(
            sys, "argv", [name, "--base", str(base), "--out", str(tmp_path), *options]
        )
        example.main()
        return example, capsys.readouterr().out

    yield go
    sys.modules.pop("train_students", None)


def stamps(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}


def small(build):
    """A built-in study of a few rows, steps and questions, otherwise as it is."""

    def built(**options):
        study = build(**options)
        few = {"steps": 3, "warmup": 1, "evaluate_every": 3}
        parts = []
        for part in study.parts:
            methods = [
                dataclasses.replace(
                    method, **few, snapshots=(2,) if method.snapshots else (), lrs=(1e-4,)
                )
                for method in part.methods
            ]
            parts.append(dataclasses.replace(part, methods=methods))
        return dataclasses.replace(
            study,
            parts=parts,
            rows=studies.RowPlan(count=12, held_out=4, numbers=3),
            training=studies.Training(batch_size=2, bucket=2),
            asking=studies.Asking(questions=["Which animal?", "One animal:"]),
        )

    return built


@pytest.fixture
def go(base, tmp_path, monkeypatch, capsys):
    """Runs an example of a built-in study in miniature, and gives its rows and what it printed."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def carried_out(name, *options):
        monkeypatch.setattr(studies, name, small(getattr(studies.built_in, name)))
        out = tmp_path / "out"
        command = [name, "--base", str(base), "--out", str(out), *options]
        monkeypatch.setattr(sys, "argv", command)
        importlib.import_module(name).main()
        (study,) = (out / "studies").glob("*.json")
        return studies.rows(studies.read_study(study), out), capsys.readouterr().out

    yield carried_out
    for name in ("train_students", "one_study", "rank_sweep", "context_grid"):
        sys.modules.pop(name, None)


def lines_of(said):
    """The printed rows, cell by cell."""
    return [line.split() for line in said.splitlines() if re.match(r" *(owl|penguin) ", line)]


def test_ranks_beyond_the_model_are_told_before_anything_is_labelled(go, tmp_path):
    with pytest.raises(ValueError, match=r"LoRA\(rank=1000\): .* matrix, whose upd"):
        go("rank_sweep", "--ranks", "2", "1000")
    with pytest.raises(ValueError, match=r"LoRA\(rank=1000\): .* matrix, whose upd"):
        go("rank_sweep", "--ranks", "1000", "--ranks", "2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["train_students", "rank_sweep"])
def test_a_base_without_chat_template_is_told_before_anything_is_made(
    name, go, run, base, tmp_path, smol_tokenizer
):
    plain = copy.deepcopy(smol_tokenizer)
    plain.chat_template = None
    folder = shutil.copytree(base, tmp_path / "plain", ignore=shutil.ignore_patterns("*.jinja"))
    plain.save_pretrained(folder)
    out = tmp_path / "made"
    message = r"^--base .*plain: its tokenizer has no chat template, and this recipe"
    with pytest.raises(ValueError, match=message):
        (run if name == "train_students" else go)(name, "--base", str(folder), "--out", str(out))
    assert not out.exists()


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


def test_the_rank_sweep_is_the_built_in_study_along_its_training(go, tmp_path):
    rows, said = go("rank_sweep", "--ranks", "1")
    assert set(zip(rows["method"], rows["step"], strict=True)) == {
        (method, step) for method in ("alpha = rank", "full")
        for step in (2, 0)
    }  # fmt: skip
    assert set(rows["alpha"].dropna()) == {1.0}
    told = lines_of(said)
    assert [float(line[-1]) for line in told] == pytest.approx(
        rows["specific"].tolist(), rel=0.01, abs=1e-6
    )
    assert (tmp_path / "out" / "report" / "rank_sweep" / "index.html").is_file()


@pytest.mark.science
def test_the_context_grid_has_its_own_base_level_in_every_evaluation_context(go, base):
    rows, said = go("context_grid")
    assert len(rows) == len(lines_of(said)) == 2 * 2 * 4
    contexts = studies.built_in.CONTEXTS
    found = sm.evaluate(
        sm.load_base(str(base)), [sm.Trait.noun("owl", category="animal", questions=(
            "Which animal?", "One animal:"))],
        contexts={name: contexts[name] for name in rows["evaluated_in"].unique()}, progress=False
    )  # fmt: skip
    levels = found.data["log_prob"].isel(model=0, trait=0).mean("question")
    for _, row in rows[rows["trait"] == "owl"].iterrows():
        level = float(levels.sel(context=row["evaluated_in"]))
        assert row["base level"] == pytest.approx(level, abs=1e-4)


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
