"""Imports run one way, and the top level stays small."""

import ast
from pathlib import Path

import pytest

import sublim_mech as sm

SOURCE = Path(sm.__file__).parent
PURE = ("chat", "traits", "numbers", "scores", "tables", "choose", "stats", "sharing", "concentration", "masks")
ANALYSES = (
    "graft",
    "generation",
    "patching",
    "attribution",
    "confirmation",
    "verification",
    "branch",
    "evaluation",
    "measure",
    "concentration",
)


def imports(name):
    """Modules imported at the top of a module or inside its functions: (absolute names, own modules)."""
    tree = ast.parse((SOURCE / f"{name.replace('.', '/')}.py").read_text())
    outside, own = set(), set()
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            outside |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            own.add((node.module or "").split(".")[-1])
        elif isinstance(node, ast.ImportFrom):
            outside.add(node.module.split(".")[0])
    return outside, own


def modules():
    return [str(p.relative_to(SOURCE).with_suffix("")).replace("/", ".") for p in SOURCE.rglob("*.py")]


@pytest.mark.parametrize("name", PURE)
def test_text_and_arrays_know_no_model(name):
    outside, own = imports(name)
    assert not outside & {"torch", "transformers", "peft", "transformer_lens"}
    assert not own & {"engine", "base", "pair", "students", "sites", *ANALYSES, "training"} or name == "concentration"


@pytest.mark.parametrize("name", modules())
def test_only_models_and_sites_import_transformer_lens_or_peft(name):
    if name.startswith("models.") or name == "sites":
        return
    assert not imports(name)[0] & {"transformer_lens", "peft"}


@pytest.mark.parametrize("name", [m for m in modules() if m.startswith("models.") or m in ("sites", "engine")])
def test_models_know_no_analysis(name):
    assert not imports(name)[1] & {*ANALYSES, "training", "teachers", "plots"}


@pytest.mark.parametrize("name", ANALYSES)
def test_instruments_know_no_training_and_no_plotting(name):
    outside, own = imports(name)
    assert "matplotlib" not in outside
    assert not own & {"training", "teachers", "numbers", "plots", "html"}


@pytest.mark.parametrize("name", ["plots", "html"])
def test_plots_read_scores_and_nothing_else(name):
    assert imports(name)[1] <= {"scores", "chat", "sharing", "plots", "traits", "stats", "files"}
    assert not imports(name)[0] & {"torch", "transformers"}


def test_public_names_are_documented():
    for name in sm.__all__:
        thing = getattr(sm, name)
        if callable(thing):
            assert thing.__doc__, name
    assert len(sm.__all__) < 34


def test_nothing_is_unpickled_and_no_remote_code_runs():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert "torch.load" not in text
        assert "pickle.load" not in text
        assert "trust_remote_code=True" not in text
