"""What checks shapes while the tests run: jaxtyping and beartype, on the annotations that have any.

Annotations without shapes are left to mypy: with them checked as well, a caller's mistake would
end in beartype's message instead of ours, and the tests are about ours. Functions without any are
left alone: jaxtyping's own import hook wraps every function, those inside functions each time they
are made, and the instruments took twice as long.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any, get_args

import jaxtyping
from beartype import beartype

MODULES = ("sublim_mech.engine", "sublim_mech.instruments", "sublim_mech.metrics")
DTYPES = {
    name
    for name, thing in vars(jaxtyping).items()
    if isinstance(thing, type) and issubclass(thing, jaxtyping.AbstractDtype)
}


def install() -> None:
    """Check shapes in what is imported of `MODULES` from now on."""
    sys.meta_path.insert(0, _Finder())


def checked(thing: Any) -> Any:
    """A function whose arguments and result, or a dataclass whose fields, have their shapes."""
    return jaxtyping.jaxtyped(thing, typechecker=check_shapes)


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping decorates with: it hands a stand-in with a function's annotations."""
    annotations = function.__annotations__
    function.__annotations__ = {name: kept for name, kept in annotations.items() if has_shape(kept)}
    return beartype(function)


def has_shape(annotation: Any) -> bool:
    """Whether a jaxtyping annotation stands in it anywhere."""
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(has_shape(part) for part in get_args(annotation))


# ----------------------------------------------------------------------------------------- imports


class _Finder(MetaPathFinder):
    """Finds what is checked before Python's own finder does."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: Any = None
    ) -> ModuleSpec | None:
        if not any(name == one or name.startswith(f"{one}.") for one in MODULES):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Compiles a module with the checks in it."""

    def path_stats(self, path: Any) -> Any:
        raise OSError("compiled files are neither read nor written: they have no checks")

    def source_to_code(self, data: Any, path: Any, **options: Any) -> Any:  # type: ignore[override]
        tree = ast.parse(data)
        shaped = DTYPES | aliases(Path(path).parent)
        found = False
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and mentions(node, shaped):
                # innermost of a function, what other decorators leave of it; a class as it is made
                place = len(node.decorator_list) if isinstance(node, ast.FunctionDef) else 0
                name = ast.copy_location(ast.Name("_with_shapes", ast.Load()), node)
                node.decorator_list.insert(place, name)
                found = True
        if found:
            line = ast.parse("from shapes import checked as _with_shapes").body[0]
            tree.body.insert(_first(tree), line)
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


def mentions(node: ast.FunctionDef | ast.ClassDef, names: set[str]) -> bool:
    """Whether a function's signature, or a class' fields, name one of these."""
    return any(
        isinstance(part, ast.Name) and part.id in names
        for annotation in _annotations(node)
        for part in ast.walk(annotation)
    )


def _annotations(node: ast.FunctionDef | ast.ClassDef) -> Iterator[ast.expr]:
    if isinstance(node, ast.ClassDef):
        yield from (line.annotation for line in node.body if isinstance(line, ast.AnnAssign))
        return
    given = node.args
    several = [one for one in (given.vararg, given.kwarg) if one is not None]
    for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, *several):
        if argument.annotation is not None:
            yield argument.annotation
    if node.returns is not None:
        yield node.returns


def aliases(folder: Path) -> set[str]:
    """Names that modules of a folder give to annotations with shapes."""
    dtypes = "|".join(sorted(DTYPES))
    alias = re.compile(rf"^(\w+) = .*\b(?:{dtypes})\[", re.MULTILINE)
    return {name for file in folder.glob("*.py") for name in alias.findall(file.read_text())}


def _first(tree: ast.Module) -> int:
    """Where a module's imports may begin: behind its docstring and `__future__`."""
    for n, line in enumerate(tree.body):
        is_text = isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
        if not is_text and not (isinstance(line, ast.ImportFrom) and line.module == "__future__"):
            return n
    return len(tree.body)
