"""Arguments are checked against their annotations, in one way and in our words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import pytest
import torch

from sublim_mech.arguments import checked, fits, in_words, shown
from sublim_mech.prompts import Context


@runtime_checkable
class Sized(Protocol):
    def size(self) -> int: ...


FITS = [
    (3, int), (np.int64(3), int), (3, float), (0.5, float), (np.float32(1), float),
    (True, bool), (np.True_, bool), ("a", str), (None, int | None), (Path("x"), str | Path),
    ([1, 2], Sequence[int]), ((1, 2), Sequence[int]), (range(3), Sequence[int]),
    (np.arange(3), Sequence[int]), ([], Sequence[str]), (["a", ["b"]], Sequence[str | list[str]]),
    ((1, "a"), tuple[int, str]), ((1, 2, 3), tuple[int, ...]), ({"a": 1}, Mapping[str, float]),
    (len, Callable[[Any], int]), ("x", Literal["a", "b"]), (torch.float32, torch.dtype),
    (np.str_("a"), Literal["a"]),
    ({1, 2}, Iterable[int]), (iter("ab"), Iterable[int]),
]  # fmt: skip

MISFITS = [
    (True, int), (np.True_, float), (1.0, int), ("1", int), ("1e-4", float), (1, bool), (1, str),
    ("abc", Sequence[str]), (b"abc", Sequence[int]), ({1, 2}, Sequence[int]), (5, Sequence[int]),
    ([1, "a"], Sequence[int]), ([True], Sequence[int]), (np.zeros((2, 2)), Sequence[float]),
    (np.array(["a"]), Sequence[int]), ([1, 2], tuple[int, ...]), ((1,), tuple[int, str]),
    ({"a": "b"}, Mapping[str, float]), ({1: 1.0}, Mapping[str, float]), ([1], Mapping[str, int]),
    (3, Callable[[Any], int]), (3, Literal["a", "b"]), ("float32", torch.dtype),
    (pd.DataFrame({"a": ["b"]}), Iterable[str]), (np.zeros((2, 2)), Iterable[Any]),
    ("ab", Iterable[str]), (None, int), ([None], Sequence[int] | None), ({"a": 1}, Iterable[str]),
    (np.array(1), Iterable[int]), (Sized, Sized),
]  # fmt: skip


@pytest.mark.parametrize(("value", "hint"), FITS)
def test_what_fits(value: Any, hint: Any) -> None:
    assert fits(value, hint)


@pytest.mark.parametrize(("value", "hint"), MISFITS)
def test_what_does_not_fit(value: Any, hint: Any) -> None:
    assert not fits(value, hint)


@checked
def example(
    layers: Sequence[int] | None,
    *numbers: int,
    lr: float = 1.0,
    points: int = 8,
    method: Method | None = None,
    **others: Any,
) -> tuple[Any, ...]:
    """Gives back what it got."""
    return layers, numbers, lr, points, method, others


@checked
def arrays(tokens: Sequence[np.ndarray] = ()) -> None:
    """Takes an array per row."""


@checked
def several(controls: Sequence[Any] = ()) -> None:
    """Takes anything, in a list."""


@checked
def placed(
    contexts: Sequence[Context] = (),
    dtype: torch.dtype = torch.float32,
    *,
    texts: Sequence[str] = (),
) -> None:
    """Takes what a text may name."""


@checked
@dataclass(frozen=True)
class Method:
    rank: int = 8
    targets: tuple[str, ...] = ()

    @classmethod
    @checked
    def read(cls, text: str) -> Method:
        return cls(int(text))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: example(5),
            "example(layers=5): pass a list of whole numbers or None; one alone is a list too: "
            "layers=[5].",
        ),
        (
            lambda: example([0, "a"]),
            "example(layers=[...], element 1 is 'a'): pass a list of whole numbers or None.",
        ),
        (
            lambda: example(None, lr="1e-4"),
            "example(lr='1e-4'): pass a number; without quotes: lr=1e-4.",
        ),
        (lambda: example(None, points=8.0), "example(points=8.0): pass a whole number: points=8."),
        (
            lambda: example(None, 2.0),
            "example(*numbers=2.0): pass a whole number: 2.",
        ),
        (
            lambda: Method.read(3),
            "Method.read(text=3): pass a text.",
        ),
        (
            lambda: example(None, 1, "two"),
            "example(*numbers='two'): pass a whole number.",
        ),
        (
            lambda: example(None, [1, 2]),
            "example(*numbers=[1, 2]): pass a whole number; unpack it: *[1, 2].",
        ),
        (
            lambda: example(None, method=Method),
            "example(method=Method): pass a Method or None; call it: method=Method(...).",
        ),
        (
            lambda: Method(rank="8"),
            "Method(rank='8'): pass a whole number; without quotes: rank=8.",
        ),
        (
            lambda: Method(rnk=8),
            "Method has no option 'rnk'; did you mean 'rank'? Its options are rank, targets.",
        ),
        (
            lambda: several("path"),
            "several(controls='path'): pass a list; one alone is a list too: controls=['path'].",
        ),
        (
            lambda: arrays(np.ones((2, 3))),
            "arrays(tokens=array([[1., 1., 1.], [1., 1., 1.]])): pass a list of numpy arrays; of "
            "one array its rows: tokens=list(tokens).",
        ),
        (
            lambda: several({"owl": "path"}),
            "several(controls={'owl': 'path'}): pass a list; without names: "
            "controls=list(controls.values()).",
        ),
        (
            lambda: placed("default"),
            "placed(contexts='default'): pass a list of Contexts "
            "(sublim_mech.Context(system='...'), sublim_mech.RAW); 'default' is "
            "sublim_mech.Context().",
        ),
        (
            lambda: placed([Context(), "RAW"]),
            "placed(contexts=[...], element 1 is 'RAW'): pass a list of Contexts "
            "(sublim_mech.Context(system='...'), sublim_mech.RAW); 'RAW' is sublim_mech.RAW.",
        ),
        (
            lambda: placed([], "bfloat16"),
            "placed(dtype='bfloat16'): pass a dtype (torch.float32); 'bfloat16' is torch.bfloat16.",
        ),
        (
            lambda: placed([], texts=Path(__file__)),
            f"placed(texts={shown(Path(__file__))}): pass a list of texts; that is a file: pass "
            f"what it holds, texts=Path({__file__!r}).read_text('utf-8').splitlines().",
        ),
        (
            lambda: Context(system=None),
            "Context(system=None): pass a System (Context.DEFAULT, Context.EMPTY, Context.NONE) or "
            "a text; for no system block: system=Context.NONE.",
        ),
        (
            lambda: example(),
            "example: missing a required argument: 'layers'; it takes layers, numbers; by name "
            "lr=, points=, method=.",
        ),
    ],
)
def test_messages(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message


def test_a_call_that_is_right_reaches_the_function_as_it_is() -> None:
    layers, numbers = [1], (2, 3)
    method = Method(rank=4)
    got = example(layers, *numbers, lr=2, method=method, free="a")
    assert got == (layers, numbers, 2, 8, method, {"free": "a"})
    assert got[0] is layers
    assert example.__doc__ == "Gives back what it got."


def test_what_can_be_read_once_is_not_read() -> None:
    @checked
    def total(numbers: Iterable[int]) -> int:
        return sum(numbers)

    assert total(iter([1, 2, 3])) == 6


def test_a_value_whose_repr_fails_is_still_named() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(TypeError, match=r"example\(layers=a Broken\): pass a list"):
        example(Broken())


def test_words() -> None:
    assert in_words(Annotated[dict[str, Any], "{...}"] | Sequence[Any]) == ("{...} or a list")
    assert in_words(Mapping[str, Sequence[int]] | Literal["role"]) == (
        "a dict from texts to lists of whole numbers or 'role'"
    )
