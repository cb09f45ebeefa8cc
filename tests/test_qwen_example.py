"""`examples/qwen.py` on a tiny model: its stages, what it does again, and the page."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

import sublim_mech as sm
from sublim_mech.evaluation.outcome import Evaluation

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def finished(smol_tokenizer, tmp_path_factory):
    """(module, its page's module, folder of stages) after all stages of one setting, of which one
    was stopped and gone on with."""
    folder, out = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("out")
    tiny.model("qwen2").save_pretrained(folder)
    smol_tokenizer.save_pretrained(folder)
    animal = sm.animal
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        example = importlib.import_module("qwen")
        page = importlib.import_module("qwen_page")

        def short(name):
            return sm.Trait.noun(name, category="animal", questions=animal(name).questions[:8])

        patch.setattr(sm, "animal", short)
        setting = example.Setting(
            rows=8, held_out=4, steps=2, seed=0, prompts=6, points=2, labels="short"
        )
        patch.setattr(example, "SETTINGS", {"short": setting})
        patch.setattr(example, "POOL", 20)

        def go(*options):
            command = ["qwen.py", "--base", str(folder), "--out", str(out), *options]
            patch.setattr(sys, "argv", command)
            example.main()

        attribution = example.MEASURES["attribution"]
        example.MEASURES["attribution"] = stop
        with pytest.raises(KeyboardInterrupt):
            go()
        before = stamps(out)
        example.MEASURES["attribution"] = attribution
        go()
        yield example, page, out, go, before
    for name in ("qwen", "qwen_page"):
        sys.modules.pop(name, None)


def stop(job):
    raise KeyboardInterrupt


def stamps(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}


def test_rows_are_those_with_the_shortest_prompts_of_the_pool(finished):
    example = finished[0]
    rows = example.short_rows(8)
    pool = sm.numbers.random_rows(example.POOL, seed=0, count=example.COUNT)
    assert [row["prompt"] for row in rows] == sorted(pool["prompt"], key=lambda p: (len(p), p))[:8]


def test_finished_stages_are_not_done_again(finished):
    _, _, out, go, before = finished
    after = stamps(out)
    assert len(before) == 9  # labels of base and three teachers, two students, grid, effect, graft
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 6
    go()
    assert stamps(out) == after


def test_the_page_holds_what_the_stages_say_and_leaves_the_reading_alone(finished, tmp_path):
    _, page, out, go, _ = finished
    target = tmp_path / "science" / "qwen.md"
    target.parent.mkdir()
    target.write_text(f"# Mine\n{page.BEGIN}\nold\n{page.END}\nread so\n")
    figures = tmp_path / "figures"
    go("--page", str(target), "--figures", str(figures))
    said = target.read_text()
    assert said.startswith(f"# Mine\n{page.BEGIN}\n")
    assert said.endswith(f"{page.END}\nread so\n")
    assert "old" not in said.split()
    for name in re.findall(r"\]\(\.\./figures/(.*?)\)", said):
        assert (figures / name).stat().st_size > 10_000
    assert said.count("](../figures/") == 2

    grid = Evaluation.load(out / "short" / "grid.safetensors")
    change = grid.change.sel(trait="penguin", context="empty").mean("question")
    own, control = (float(change.sel(model=m)) for m in ("control: penguin", "student"))
    line = next(x for x in said.splitlines() if x.startswith("| penguin | empty |"))
    told = [float(x) for x in re.findall(r"[+-]\d+\.\d+", line)]
    np.testing.assert_allclose(told[1:4], [own, control, own - control], atol=0.0051)

    graft = sm.Scores.load(out / "short" / "graft-owl.safetensors").sets().loc["shared"]
    line = next(x for x in said.splitlines() if x.startswith("| shared |"))
    assert line.split("|")[4].split()[0] == f"{graft['sufficiency']:.2f}"
    assert said.count("same sign") == 2
    assert said.count("gates: ") == 1


def test_a_page_without_the_marks_is_left_alone(finished, tmp_path):
    page, out = finished[1], finished[2]
    target = tmp_path / "qwen.md"
    target.write_text("# Mine\n")
    with pytest.raises(SystemExit, match="it has no place for the tables; put <!-- begin"):
        page.write_page(out, target, tmp_path)
    assert target.read_text() == "# Mine\n"
