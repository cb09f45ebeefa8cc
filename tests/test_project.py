"""What the files around the library say of it agrees with the library, and is said once."""

import re
import tomllib
from pathlib import Path

import yaml

import sublim_mech as sm

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINTERS = ("ruff", "mypy")


def test_the_version_is_that_of_the_package():
    assert "version" in PROJECT["project"]["dynamic"]
    source = PROJECT["tool"]["setuptools"]["dynamic"]["version"]
    assert source == {"attr": "sublim_mech.__version__"}
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == sm.__version__
    assert f"({sm.__version__})" in (ROOT / "CHANGELOG.md").read_text()


def test_hooks_run_the_linters_that_are_pinned():
    tools = PROJECT["project"]["optional-dependencies"]["test"]
    pinned = {tool.partition("==")[0] for tool in tools if "==" in tool}
    assert pinned == set(LINTERS)
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]:
        assert repo["repo"] == "local"  # nothing that has a version of its own
        for hook in repo["hooks"]:
            assert hook["entry"].startswith(tuple(f".venv/bin/{linter}" for linter in LINTERS))


def test_every_dependency_has_an_upper_bound_and_a_reason():
    reasons = (ROOT / "docs" / "concepts.md").read_text().split("## Dependencies, and why")[1]
    extras = PROJECT["project"]["optional-dependencies"]
    for need in [
        *PROJECT["project"]["dependencies"],
        *extras["docs"],
        *extras["mutants"],
        *extras["ray"],
        *extras["completion"],
    ]:
        name = re.split("[=<>]", need)[0]
        assert re.search(r">=.+,<\d", need), need
        assert name in reasons, f"{name}: no line in docs/concepts.md"


class Collected:
    """What pytest collects, as far as marking it goes."""

    def __init__(self, place: str, *marks: str) -> None:
        self.path, self.marks = ROOT / "tests" / place, list(marks)
        self.add_marker = self.marks.append

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.marks else None


def test_the_heart_has_no_slow_run_and_nothing_that_is_left_beside(pytestconfig):
    """`-m heart` replaces `-m "not science"` of pyproject.toml."""
    (conftest,) = (
        plugin
        for plugin in pytestconfig.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == str(ROOT / "tests" / "conftest.py")
    )
    plain, slow = Collected("stats/test_claims.py"), Collected("stats/test_claims.py", "science")
    beside, elsewhere = Collected(conftest.BESIDE[0]), Collected("test_examples.py")
    conftest.pytest_collection_modifyitems([plain, slow, beside, elsewhere])
    assert [one.marks for one in (plain, slow, beside, elsewhere)] == [
        ["heart"],
        ["science"],
        [],
        [],
    ]
