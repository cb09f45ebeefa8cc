"""Imports run one way: a folder imports only folders that stand below it, however it does so."""

import ast
from functools import cache
from pathlib import Path

import pytest

import sublim_mech as sm

SOURCE = Path(sm.__file__).parent
FLOORS = (
    ("hints", "threads", "completion", "options"),
    ("arguments", "tables"),
    ("prompts", "stats"),
    ("storage",),
    ("models", "results"),
    ("engine",),
    ("metrics", "masks"),
    ("instruments",),
    ("evaluation",),
    ("making",),
    ("studies",),
    ("types", "__main__", ""),
)
"""Folders and files of the top, from the ground up; those of one floor do not know each other."""

ROOMS_OF_MAKING = (("rows", "numbers"), ("teachers",), ("labelling",), ("training", "readiness"))
"""The same inside `making`."""

WITHOUT_TORCH = (
    "prompts",
    "stats",
    "hints",
    "arguments",
    "tables",
    "threads",
    "storage",
    "results",
)
HEAVY = {"torch", "transformers", "peft", "transformer_lens", "accelerate"}
ONLY_IN = {  # who may import other people's packages
    "peft": ("models",),
    "transformer_lens": ("models", "engine.bridges"),
    "accelerate": ("making.training", "models.placement"),
    "matplotlib": ("results",),
}


def modules() -> list[str]:
    """Dotted names below `sublim_mech`, of packages too; the top itself is empty."""
    names = []
    for path in SOURCE.rglob("*.py"):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        names.append(name.removesuffix("__init__").removesuffix("."))
    return names


MODULES = set(modules())


def file_of(module: str) -> Path:
    path = SOURCE.joinpath(*module.split(".")) if module else SOURCE
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def imports(module: str) -> tuple[frozenset[str], frozenset[str]]:
    """(own modules, other packages) that a module imports anywhere: on top, in functions, for
    types."""
    path = file_of(module)
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    package = [part for part in package if part]
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            prefix = ["sublim_mech", *start] if node.level else []
            base = [*prefix, *(node.module.split(".") if node.module else [])]
            # what is imported may be a module itself: `from . import masks`
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] != "sublim_mech":
                others.add(name[0])
                continue
            inside = ".".join(name[1:])
            own.add(inside if inside in MODULES else ".".join(name[1:-1]))
    return frozenset(own), frozenset(others)


@cache
def reached(module: str) -> frozenset[str]:
    """All own modules that importing a module runs, the packages on the way included."""
    found: set[str] = set()
    open_ends = [module]
    while open_ends:
        for name in imports(open_ends.pop())[0]:
            parts = name.split(".")
            # the top imports everything; it is not what a module asks for
            for end in range(1, len(parts) + 1):
                step = ".".join(parts[:end])
                if step and step not in found:
                    found.add(step)
                    open_ends.append(step)
    return frozenset(found)


def floor(name: str, floors: tuple[tuple[str, ...], ...]) -> int:
    for height, rooms in enumerate(floors):
        if name in rooms:
            return height
    raise AssertionError(f"{name} stands on no floor; say in test_walls.py where it belongs")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_folder_imports_only_folders_below_it(module):
    own = module.split(".")[0]
    height = floor(own, FLOORS)
    for name in reached(module):
        room = name.split(".")[0]
        assert room == own or floor(room, FLOORS) < height, f"{module} reaches {name}"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("making.")))
def test_rooms_of_making_import_only_rooms_below_them(module):
    own = module.split(".")[1]
    height = floor(own, ROOMS_OF_MAKING)
    for name in reached(module):
        if name.startswith("making."):
            room = name.split(".")[1]
            below = floor(room, ROOMS_OF_MAKING) < height
            alike = room in ROOMS_OF_MAKING[0] and own in ROOMS_OF_MAKING[0]
            assert room == own or below or alike, f"{module} reaches {name}"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.split(".")[0] in WITHOUT_TORCH))
def test_text_and_arrays_know_no_model(module):
    for name in (module, *reached(module)):
        assert not imports(name)[1] & HEAVY, f"{module} reaches {name}"


@pytest.mark.parametrize("package", ONLY_IN)
def test_other_packages_stay_in_their_rooms(package):
    users = {module for module in MODULES if package in imports(module)[1]}
    outside = {m for m in users if not m.startswith(ONLY_IN[package])}
    assert users
    assert not outside


def test_the_walls_would_be_noticed():
    """Lazy imports and imports of modules by name are followed."""
    assert "engine.bridges" in imports("engine.pair")[0]  # inside a method
    assert "masks" in imports("instruments.grafting")[0]  # from .. import masks
    assert "models.students" in reached("instruments")
    assert "" not in reached("instruments.grafting")


def test_public_names_are_documented():
    for name in sm.__all__:
        thing = getattr(sm, name)
        if callable(thing):
            assert thing.__doc__, name
    assert len(sm.__all__) <= 25


def test_no_function_hides_a_module_of_its_name():
    for module in MODULES:
        package, _, name = module.rpartition(".")
        tree = ast.parse(file_of(package).read_text())
        exported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if node.module and node.module.split(".")[-1] == name
        }
        assert name not in exported, f"{package or 'sublim_mech'}.{name} is a module and a function"


def test_nothing_is_unpickled_and_no_remote_code_runs():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert "torch.load" not in text
        assert "pickle.load" not in text
        assert "trust_remote_code=True" not in text
