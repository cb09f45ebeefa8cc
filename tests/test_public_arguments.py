"""Every public function refuses every wrong kind of every argument, in our words."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch

from sublim_mech.arguments import _hints, fits

PACKAGES = (
    "", "engine", "evaluation", "instruments", "making.labelling", "making.numbers",
    "making.readiness", "making.teachers", "making.training", "masks", "metrics", "models",
    "prompts", "results", "stats", "storage", "studies",
)  # fmt: skip

WITH_METHODS = (
    "Scores", "Evaluation", "TraitMatrix", "ModelPair", "Runner", "Base", "Labels", "Mask",
    "TrainingData", "Trait", "Alignment", "Hybrid", "Intruders", "SingularReadings", "Spectrum",
)  # fmt: skip
"""Classes whose methods a user calls."""

RECORDS = (
    "ActivationChange", "Alignment", "AnswerMask", "Base", "Check", "Compute", "Concentration",
    "Confirmation", "Correlation", "Detectable", "DiagonalExcess", "EqualKL", "Evaluation",
    "Extraction", "FolderInUseError", "Hybrid", "Interval", "IntruderCost", "Intruders", "Kind",
    "Labels", "Manifest", "MaxT", "Message", "Metric", "ModelPair", "NestedInterval",
    "Occurrence", "ParityError", "Parsed", "Plan", "Prompt", "Readiness", "Reading", "Record",
    "Reliability", "Report", "Row", "RowLabels", "RowShifts", "Rows", "Run", "Runner", "Scores",
    "Shifts", "SideBySide", "SingularReadings", "Sites", "Spectrum", "Statement", "Status",
    "Student", "Teacher", "Trained", "TrainingData", "TraitMatrix", "Verdict", "Verification",
    "Where",
)  # fmt: skip
"""Classes that functions make and users read."""

PARTS = (
    "as_metric", "scored_forms", "trait_forms", "strings", "string_log_probs", "by_trait",
)  # fmt: skip
"""What metrics are made of: called for every prompt and form."""

HOT = (
    "batch",
    "run",
    "rows",
    "chunks",
    "check_length",
    "part_names",
    "prompt_gates",
    "asked_gates",
)
"""Methods that instruments call many times per prompt."""

WRONG: tuple[Any, ...] = (
    object(), 7, 0.5, "text", True, None, [object()], ["text"], [0.5], {"text": object()}, {1: 2},
    b"bytes", {"a", "b"}, ValueError,
)  # fmt: skip


def public() -> dict[str, Callable[..., Any]]:
    """Functions, constructors and methods by dotted name, each once."""
    found: dict[str, Callable[..., Any]] = {}
    for package in PACKAGES:
        module = importlib.import_module(f"sublim_mech.{package}".rstrip("."))
        for name in getattr(module, "__all__", None) or vars(module):
            thing = getattr(module, name)
            own = getattr(thing, "__module__", "").startswith("sublim_mech")
            if package == "metrics":
                own = inspect.isfunction(thing) and thing.__module__ == module.__name__
            if not own or name in PARTS or name.startswith("_"):
                continue
            called = f"{thing.__module__.removeprefix('sublim_mech.')}.{name}"
            if inspect.isfunction(thing):
                found[called] = thing
            elif inspect.isclass(thing):
                if is_dataclass(thing) and name not in RECORDS:
                    found[called] = thing
                if name in WITH_METHODS:
                    found |= methods(thing, called)
    return found


def methods(cls: type, called: str) -> dict[str, Callable[..., Any]]:
    """Public methods that take something."""
    found = {}
    for name, member in inspect.getmembers(cls):
        function = member.__func__ if inspect.ismethod(member) else member
        if not inspect.isfunction(function) or name.startswith("_") or name in HOT:
            continue
        if not function.__module__.startswith("sublim_mech"):
            continue
        if set(inspect.signature(function).parameters) - {"self", "cls"}:
            found[f"{called}.{name}"] = function
    return found


PUBLIC = public()


def builder(thing: Callable[..., Any]) -> Callable[..., Any]:
    return thing.__init__ if inspect.isclass(thing) else thing


ARGUMENTS = [
    (called, argument)
    for called, thing in PUBLIC.items()
    for argument, hint in _hints(builder(thing)).items()
    if argument != "return" and hint is not Any and argument in inspect.signature(thing).parameters
]


@pytest.mark.parametrize("called", PUBLIC)
def test_every_public_function_checks_its_arguments(called: str) -> None:
    function = builder(PUBLIC[called])
    assert inspect.unwrap(function) is not function, f"{called} lacks @checked"


class Stand:
    """Passes for an object of any class; nothing of it is ever used."""

    def __init__(self, cls: type) -> None:
        self.cls = cls

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self.cls


def right(hint: Any) -> Any:
    """A value of the right kind."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return right(inner[0])
    if origin is Literal:
        return inner[0]
    if origin is tuple and inner[-1:] != (Ellipsis,):
        return tuple(map(right, inner))
    if origin is Callable:
        return len
    if origin is not None and inspect.isclass(origin):
        if issubclass(origin, Mapping):
            return {}
        if origin is tuple:
            return ()
        if origin in (Sequence, Iterable) or issubclass(origin, list):
            return []
    simple = {int: 1, float: 0.5, str: "text", bool: True, Path: Path("x"), type(None): None}
    if hint in simple:
        return simple[hint]
    if hint is torch.dtype:
        return torch.float32
    if hint is Any or isinstance(hint, typing.TypeVar):
        return None
    return Stand(hint)


@pytest.mark.parametrize(("called", "argument"), ARGUMENTS)
def test_wrong_kinds_are_refused(called: str, argument: str) -> None:
    thing = PUBLIC[called]
    function = builder(thing)
    hints, parameters = _hints(function), inspect.signature(function).parameters
    parts = called.split(".")
    # a class method is called of its class
    name = ".".join(parts[-2:]) if "cls" in parameters else parts[-1]
    for wrong in WRONG:
        if fits(wrong, hints[argument]):
            continue
        positional, keywords = [], {}
        for other, parameter in parameters.items():
            given = wrong if other == argument else right(hints.get(other, Any))
            if other in ("self", "cls"):
                positional.append(Stand(object))
            elif parameter.kind is parameter.VAR_POSITIONAL:
                positional += [wrong] if other == argument else []
            elif other == argument or parameter.default is parameter.empty:
                if parameter.kind is parameter.KEYWORD_ONLY:
                    keywords[other] = given
                elif len(positional) == list(parameters).index(other):
                    positional.append(given)
                elif parameter.kind is not parameter.VAR_KEYWORD:
                    keywords[other] = given
        with pytest.raises(TypeError) as caught:
            function(*positional, **keywords)
        assert str(caught.value).startswith((f"{name}({argument}=", f"{name}(*{argument}=")), wrong
