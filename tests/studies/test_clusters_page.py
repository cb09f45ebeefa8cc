"""What docs/clusters.md shows parses, and names what there is."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from sublim_mech import studies
from sublim_mech.__main__ import parser
from sublim_mech.studies.running import Shard

PAGE = (Path(__file__).parents[2] / "docs/clusters.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SLURM = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_CPUS_PER_TASK": "2"}
SKY = {"SKYPILOT_NODE_RANK": "3", "SKYPILOT_NUM_NODES": "4"}


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def sky_run() -> str:
    (task,) = (yaml.safe_load(text) for text in blocks("yaml"))
    assert set(task) == {"name", "num_nodes", "workdir", "resources", "envs", "setup", "run"}
    return task["run"]


def calls() -> list[str]:
    """Every `sublim-mech run` of the page, in one line, its variables filled in."""
    texts = [*blocks("bash"), sky_run()]
    lines = "\n".join(texts).replace("\\\n", " ").splitlines()
    found = [line.strip() for line in lines if line.strip().startswith("sublim-mech run")]
    for name, value in (SLURM | SKY).items():
        found = [line.replace(f"${name}", value) for line in found]
    return found


@pytest.mark.parametrize("text", [*blocks("bash"), sky_run()])
def test_shell_scripts_are_bash(text):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    done = subprocess.run([bash, "-n"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", calls())
def test_commands_are_what_the_command_line_takes(line):
    words = shlex.split(line, comments=True)
    given = parser().parse_args(words[1:])
    assert given.out == "/shared/mine"
    if given.shard is not None:
        assert Shard.read(given.shard).number == 3


def test_the_python_block_calls_what_there_is():
    (code,) = blocks("python")
    names = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "studies"
    }
    assert names == {"read_study", "run", "status"}
    assert all(callable(getattr(studies, name)) for name in names)
