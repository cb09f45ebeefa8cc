"""Arguments of public functions, checked at the edge in one way: against their annotations.

`@checked` on a function, a method or a dataclass:

1. A keyword that is none of its options is a TypeError that offers the nearest ones.
2. A value of another kind than annotated is a TypeError that names the argument, the value and
   what to pass. All elements of a sequence are looked at.
3. A seed (`seed`, `..._seed`) is from 0 to 2**63 - 1, else a ValueError.
4. Stricter than `isinstance` where Python is lenient and a mistake likely: one string is no
   sequence of strings, True is no number, 1.0 is no whole number, a set has no order.

What an argument may be beyond its kind (a range, a choice) the function says itself, as
ValueError.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, wraps
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NoReturn, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np

from .hints import kind_of, nearest, with_article

P = ParamSpec("P")
R = TypeVar("R")

_SEQUENCES = (Sequence, Collection)
_WORDS: dict[Any, tuple[str, str]] = {
    type(None): ("None", "None"),
    bool: ("True or False", "True or False"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    Path: ("a path", "paths"),
    np.ndarray: ("a numpy array", "numpy arrays"),
    Any: ("anything", "anything"),
}
"""What a kind is called, one and several."""

_MADE_BY = {
    "Axes": "matplotlib's plt.subplots()[1]",
    "Base": "sublim_mech.load_base(...)",
    "Context": "sublim_mech.Context(system='...'), sublim_mech.RAW",
    "Mask": "sublim_mech.masks.role('system'), sublim_mech.masks.sharing('shared')",
    "Metric": "sublim_mech.metrics.log_prob(trait)",
    "ModelPair": "sublim_mech.load_pair(...)",
    "Runner": "sublim_mech.load_pair(...)",
    "Prompt": "sublim_mech.render(pair, questions)",
    "ScoreArrays": "sublim_mech.attribute(...), sublim_mech.Scores.load(path)",
    "Scores": "sublim_mech.attribute(...), sublim_mech.Scores.load(path)",
    "System": "Context.DEFAULT, Context.EMPTY, Context.NONE",
    "Taught": "sublim_mech.load_pair(...)",
    "Teacher": "sublim_mech.teachers.prompted(...)",
    "Trained": "pair.training_prompts",
    "TrainedGates": "sublim_mech.training.gates_of(run)",
    "Trait": "sublim_mech.animal('owl'), sublim_mech.Trait('Lisbon')",
    "TrainingData": "sublim_mech.training.hard_data(...)",
    "device": "torch.device('cuda:0')",
    "dtype": "torch.float32",
}
"""Where the objects of a class come from."""

SEEDS = 2**63
"""What seeds are below: more than that torch's generators do not take."""

_ASKED = ("prompt", "question", "text")
"""What columns of texts are called that somebody asks or trains on."""

_OF_STUDENTS = ("ModelPair", "Runner")
"""What a training's run is opened as."""

_WRITTEN = {
    "Context": {
        "default": "sublim_mech.Context()",
        "empty": "sublim_mech.Context(system=sublim_mech.Context.EMPTY)",
        "none": "sublim_mech.Context(system=sublim_mech.Context.NONE)",
        "raw": "sublim_mech.RAW",
    },
    "dtype": {name: f"torch.{name}" for name in ("float32", "bfloat16", "float16")},
}
"""How what a text names is written, by class."""

_NOTHING = {"System": "for no system block: system=Context.NONE"}
"""What to pass instead of None, by class."""


def checked(function: Callable[P, R], name: str = "") -> Callable[P, R]:
    """The same function (or class), whose arguments are checked first.

    Args:
        function: annotated; a class is checked when it is built.
        name: what errors call it; its own name when not given.
    """
    if inspect.isclass(function):
        # the class itself stays what it is
        builder = checked(function.__init__, function.__name__)
        setattr(function, "__init__", builder)  # noqa: B010  mypy holds methods for constant
        return function  # type: ignore[return-value]

    signature = inspect.signature(function)
    called = name or function.__name__
    if "cls" in signature.parameters and not name:
        called = ".".join(function.__qualname__.split(".")[-2:])  # as it is called, of its class
    parameters = [p for p in signature.parameters if p not in ("self", "cls")]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if not takes_any:
            _check_keywords(called, kwargs, parameters)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:  # too many, or one missing
            raise TypeError(f"{called}: {error}; it takes {_listed(signature)}.") from None
        hints = _hints(function)
        for argument, value in given.items():
            if argument not in hints:
                continue
            kind = signature.parameters[argument].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                for each in value:
                    check(called, f"*{argument}", each, hints[argument])
            elif kind is not inspect.Parameter.VAR_KEYWORD:
                check(called, argument, value, hints[argument])
                if argument == "seed" or argument.endswith("_seed"):
                    _check_seed(argument, value)
        return function(*args, **kwargs)

    return wrapper


def _check_seed(argument: str, seed: int | None) -> None:
    """Refuse a seed that numpy's or torch's generators do not take."""
    if seed is None:
        return
    if seed < 0:
        raise ValueError(f"{argument}={seed}: must be at least 0.")
    if seed >= SEEDS:
        raise ValueError(f"{argument}={seed}: must be below 2**63, or no generator takes it.")


def check(called: str, argument: str, value: Any, hint: Any) -> None:
    """Refuse a value of another kind.

    Args:
        called: the function, as errors name it.
        argument: the argument's name.
        value: what was given.
        hint: what it may be: a class, a union, a sequence or mapping of these.

    Raises:
        TypeError: it is none of it.

    Example:
        >>> from sublim_mech.arguments import check
        >>> check("patch", "layers", 5, list[int] | None)
        Traceback (most recent call last):
        TypeError: patch(layers=5): pass a list of whole numbers or None; one alone is a list \
too: layers=[5].
    """
    if fits(value, hint):
        return
    wrong = shown(value)
    place = _first_misfit(value, hint)
    if place is not None:
        wrong = f"[...], element {place} is {shown(value[place])}"
    raise TypeError(
        f"{called}({argument}={wrong}): pass {in_words(hint)}"
        f"{_of_rows(argument, value, hint) or _advice(argument, value, hint)}."
    )


# ------------------------------------------------------------------------------------------- kinds


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the annotated kind."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or hint is object or isinstance(hint, TypeVar):
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if origin is Literal:
        # which of the choices is the function's own question, with the nearest ones in its answer
        kinds = {type(choice) for choice in inner}
        return type(value) in kinds or (str in kinds and isinstance(value, str))
    if origin is typing.Annotated:
        return fits(value, inner[0])
    if hint is bool:
        return isinstance(value, bool | np.bool_)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if hint is Path:
        return isinstance(value, PathLike)
    if origin is None:
        return _is_instance(value, hint)
    return _fits_container(value, origin, inner)


def _fits_container(value: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    """Whether a value is a container of the right elements, or a function."""
    if origin is Callable:
        return callable(value)
    if origin is type:
        return inspect.isclass(value)
    if issubclass(origin, Mapping):
        key, entry = inner
        return isinstance(value, Mapping) and all(
            fits(k, key) and fits(v, entry) for k, v in value.items()
        )
    if origin in _SEQUENCES:
        return _is_sequence(value) and all(fits(element, inner[0]) for element in value)
    if origin is tuple and isinstance(value, tuple):
        if inner[-1:] == (Ellipsis,):
            return all(fits(element, inner[0]) for element in value)
        return len(value) == len(inner) and all(map(fits, value, inner))
    if origin in (Iterable, Iterator):
        # what can be gone through only once is not looked into
        one_pass = isinstance(value, Iterator)
        return _is_iterable(value) and (one_pass or all(fits(e, inner[0]) for e in value))
    if origin in (list, set, frozenset):
        return isinstance(value, origin) and all(fits(element, inner[0]) for element in value)
    return _is_instance(value, origin)


def _is_sequence(value: Any) -> bool:
    """Lists, tuples, ranges, 1-d arrays: in order, and no single text."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_iterable(value: Any) -> bool:
    """What has elements; of a mapping, a table or a matrix it is not clear which are meant."""
    if isinstance(value, str | bytes | Mapping) or getattr(value, "ndim", 1) != 1:
        return False
    try:
        iter(value)
    except TypeError:  # such as an array of no dimension, whose class has elements
        return False
    return True


def _is_instance(value: Any, kind: Any) -> bool:
    """`isinstance`; True where a kind cannot be asked."""
    if inspect.isclass(value) and getattr(kind, "_is_protocol", False):
        return False  # it has the methods, its instances can be used
    try:
        return isinstance(value, kind)
    except TypeError:
        return True


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a function's parameters that can be resolved here.

    Names imported for type checkers only cannot; their arguments are not checked.
    """
    names = inspect.unwrap(function).__globals__
    hints = {}
    for argument, annotation in inspect.get_annotations(function).items():
        try:
            hint = eval(annotation, names) if isinstance(annotation, str) else annotation
        except NameError:
            continue
        hints[argument] = hint
    return hints


# ------------------------------------------------------------------------------------------- words


def in_words(hint: Any) -> str:
    """What may be passed, in words.

    Example:
        >>> from sublim_mech.arguments import in_words
        >>> in_words(dict[str, float] | None)
        'a dict from texts to numbers or None'
    """
    return " or ".join(dict.fromkeys(_named(option)[0] for option in _options(hint)))


def _options(hint: Any) -> list[Any]:
    """The alternatives of a union, unions within unions taken apart; None last."""
    if get_origin(hint) not in (Union, types.UnionType):
        return [hint]
    options = [option for part in get_args(hint) for option in _options(part)]
    return sorted(options, key=lambda option: option is type(None))


def _named(hint: Any) -> tuple[str, str]:
    """What a kind is called, one and several."""
    if hint in _WORDS:
        return _WORDS[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        named = [_named(option) for option in _options(hint)]
        one, several = zip(*named, strict=True)
        return " or ".join(dict.fromkeys(one)), " or ".join(dict.fromkeys(several))
    if origin is Literal:
        choices = " or ".join(map(repr, inner))
        return choices, choices
    if origin is typing.Annotated:
        words = [note for note in inner[1:] if isinstance(note, str)]
        return (words[0], words[0]) if words else _named(inner[0])
    if origin is Callable:
        return "a function", "functions"
    if origin is type:
        return "a class", "classes"
    if origin is PathLike:
        return "a path", "paths"
    if origin is not None and issubclass(origin, Mapping):
        entries = " to ".join(_named(part)[1] for part in inner)
        return f"a dict from {entries}", f"dicts from {entries}"
    if origin is tuple and inner[-1:] != (Ellipsis,):
        parts = ", ".join(_named(part)[0] for part in inner)
        return f"({parts})", f"({parts})"
    if origin is not None and inner:
        container = "tuple" if origin is tuple else "list"
        if inner[0] is Any:
            return f"a {container}", f"{container}s"
        elements = _named(inner[0])[1]
        return f"a {container} of {elements}", f"{container}s of {elements}"
    name = getattr(hint, "__name__", str(hint)).removeprefix("torch.")
    made = f" ({_MADE_BY[name]})" if name in _MADE_BY else ""
    return f"{with_article(name)}{made}", f"{name.removesuffix('s')}s{made}"


def is_file(value: Any) -> bool:
    """Whether a text or path is that of a file which is there."""
    try:
        return isinstance(value, str | PathLike) and Path(value).is_file()
    except (OSError, ValueError):  # no name of a file
        return False


def read_from(file: str | PathLike[str]) -> str:
    """How what a file holds is read: of training rows their prompts, other JSON Lines as they are,
    else its lines.
    """
    name = repr(str(file))
    try:
        with Path(file).open(encoding="utf-8-sig") as lines:
            first = json.loads(next((line for line in lines if line.strip()), ""))
    except ValueError:  # texts, or none at all
        return f"Path({name}).read_text('utf-8').splitlines()"
    if isinstance(first, Mapping):
        key = next((key for key in ("messages", "prompt") if key in first), "")
        said = first.get(key)
        if isinstance(said, list) and said and said[0].get("role") == "system":
            # which is given once for all, as the context
            kept = "[1:-1]" if key == "messages" else "[1:]"
            return f"[json.loads(line)[{key!r}]{kept} for line in open({name}, encoding='utf-8')]"
        return f"[row.prompt for row in sublim_mech.numbers.as_rows({name})]"
    return f"[json.loads(line) for line in open({name}, encoding='utf-8')]"


_OF_PROMPTS = ("questions", "prompts", "trained_on")
"""Arguments that take prompts, for which training rows are passed by mistake."""


def _of_rows(argument: str, value: Any, hint: Any) -> str:
    """What to pass instead of training rows, where texts that are asked belong."""
    takes_texts = argument in _OF_PROMPTS and fits(["Which animal?"], hint)
    if not takes_texts or isinstance(value, str | Mapping):
        return ""
    prompts = ""
    columns = getattr(value, "column_names", getattr(value, "columns", None))
    if columns is not None:  # a dataset, a data frame
        texts = [name for name in _ASKED if name in columns]
        prompts = f"list(rows[{texts[0]!r}])" if texts else ""
        prompts = prompts or (_WITHOUT_ANSWERS if "messages" in columns else "")
    elif _is_sequence(value) and len(value):
        first = value[0]
        keys = first if isinstance(first, Mapping) else ()
        if hasattr(first, "completion"):
            prompts = "[row.prompt for row in rows]"
        elif "prompt" in keys:
            prompts = "[row['prompt'] for row in rows]"
        elif "messages" in keys:
            prompts = "[row['messages'][:-1] for row in rows]"
    return f"; of training rows the prompts: {argument}={prompts}" if prompts else ""


_WITHOUT_ANSWERS = "[messages[:-1] for messages in rows['messages']]"


def _advice(argument: str, value: Any, hint: Any) -> str:
    """What to change, where the mistake is one of the usual ones."""
    name = "" if argument.startswith("*") else f"{argument}="
    place = _first_misfit(value, hint)
    for kind in _kinds(hint):
        text = value if place is None else value[place]
        if isinstance(text, str) and text.lower() in _WRITTEN.get(kind, ()):
            return f"; {text!r} is {_WRITTEN[kind][text.lower()]}"
    for option in _options(hint):
        origin, inner = get_origin(option), get_args(option)
        fixed = origin is tuple and inner[-1:] != (Ellipsis,)
        if fixed and inner and not _is_sequence(value) and fits(value, inner[0]):
            rest = ", ".join(_named(part)[0] for part in inner[1:])
            return f"; with what goes with it: {argument}=({shown(value)}, {rest})"
        takes_several = not fixed and origin in (*_SEQUENCES, list, tuple, Iterable)
        if takes_several and inner and not _is_sequence(value) and fits(value, inner[0]):
            if inner[0] is Any and isinstance(value, Mapping):  # several by name, not one
                return f"; without names: {argument}=list({argument}.values())"
            if value is None:
                return f"; leave {argument}= out for none"
            if not fits(Path(), inner[0]) and is_file(value):
                return _of_file(argument, value)
            if not inspect.isclass(value) and getattr(value, "ndim", 1) > 1:
                return f"; of one array its rows: {argument}=list({argument})"
            return f"; one alone is a list too: {argument}=[{shown(value)}]"
        of_texts = takes_several and bool(inner) and fits("", inner[0])
        if of_texts and isinstance(value, PathLike) and is_file(value):
            return _of_file(argument, value)
        takes_named = origin is Mapping and inner[0] is str and not isinstance(value, Mapping)
        if takes_named and not _is_sequence(value) and fits(value, inner[1]):
            return f"; by name: {argument}={{'name': {shown(value)}}}"
        if argument.startswith("*") and _is_sequence(value) and fits(list(value), Sequence[option]):  # type: ignore[valid-type]
            return f"; unpack it: *{shown(value)}"
        if inspect.isclass(value) and _is_subclass(value, option):
            return f"; call it: {name}{value.__name__}(...)"
        if option in (int, float) and isinstance(value, str) and _is_number(value, option):
            return f"; without quotes: {name}{value}"
        if option is int and isinstance(value, float) and value.is_integer():
            return f": {name}{int(value)}"
        if option is int and isinstance(value, float) and 0 < value < 1:
            return "; how many, not which part of them"
        if type(value).__name__ == "Run" and getattr(option, "__name__", "") in _OF_STUDENTS:
            return "; open it: sublim_mech.load_pair(base, run.path)"
        if value is None and getattr(option, "__name__", "") in _NOTHING:
            return f"; {_NOTHING[option.__name__]}"
    return ""


def _of_file(argument: str, value: Any) -> str:
    return f"; that is a file: pass what it holds, {argument}={read_from(value)}"


def _kinds(hint: Any) -> list[str]:
    """The names of the classes that a hint holds."""
    parts = [part for part in get_args(hint) if part is not Ellipsis]
    return [getattr(hint, "__name__", "")] + [kind for part in parts for kind in _kinds(part)]


def _is_subclass(value: type, kind: Any) -> bool:
    """`issubclass`; False where a kind cannot be asked."""
    try:
        return issubclass(value, kind)
    except TypeError:
        return False


def _is_number(text: str, kind: type[int] | type[float]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _first_misfit(value: Any, hint: Any) -> int | None:
    """The first element for which a sequence is refused; None where it is refused as a whole."""
    if not _is_sequence(value):
        return None
    for option in _options(hint):
        origin, inner = get_origin(option), get_args(option)
        several = origin in (*_SEQUENCES, list, Iterable)
        if several or (origin is tuple and inner[-1:] == (Ellipsis,)):
            for place, element in enumerate(value):
                if not fits(element, inner[0]):
                    return place
    return None


def shown(value: Any) -> str:
    """A value as an error quotes it."""
    if inspect.isclass(value) or inspect.isroutine(value):
        return value.__name__
    try:
        text = repr(value)
    except Exception:  # whatever a stranger's repr does, the error is about the argument
        text = kind_of(value)
    text = " ".join(text.split())
    name = getattr(value, "name", None) if len(text) > 60 else None
    # such as of a trait or a metric, which hold much beside
    if isinstance(name, str) and not isinstance(value, PathLike):
        text = f"{type(value).__name__}({name!r})"
    return text if len(text) <= 60 else f"{text[:59]}…"


def _listed(signature: inspect.Signature) -> str:
    """What a function takes, those that have to be named behind the others and as such."""
    placed, named = list[str](), list[str]()
    for name, parameter in signature.parameters.items():
        if name in ("self", "cls") or parameter.kind is parameter.VAR_KEYWORD:
            continue
        (named if parameter.kind is parameter.KEYWORD_ONLY else placed).append(name)
    by_name = f"by name {', '.join(f'{name}=' for name in named)}" if named else ""
    return "; ".join(filter(None, [", ".join(placed), by_name]))


def answer_of(
    argument: str, function: Callable[..., Any], *given: Any, example: str = "lambda prompt: [-1]"
) -> Any:
    """What a function of the user's gives; one that does not take what it is called with is told so
    by our own name for it. What it raises by itself is the user's own.

    Args:
        argument: where it was given.
        function: what was given there.
        given: what it is called with.
        example: a function that would do.

    Raises:
        TypeError: it takes something else.

    Example:
        >>> from sublim_mech.arguments import answer_of
        >>> answer_of("at", lambda: None, prompts[0])
        Traceback (most recent call last):
        TypeError: at: the function <lambda> cannot be called with a Prompt (too many positional \
arguments); write one such as lambda prompt: [-1].
    """
    try:
        inspect.signature(function).bind(*given)
    except ValueError:
        pass  # a built-in that does not say what it takes
    except TypeError as error:
        what = " and ".join(_named(type(one))[0].partition(" (")[0] for one in given)
        raise TypeError(
            f"{argument}: the function {shown(function)} cannot be called with {what} ({error}); "
            f"write one such as {example}."
        ) from None
    return function(*given)


def refuse_answer(
    argument: str, function: Callable[..., Any], given: Any, *, of: str, wanted: str
) -> NoReturn:
    """Say what a function of the user's gave, and what it has to give.

    Args:
        argument: where it was given.
        function: what was given there.
        given: what came of it.
        of: for what, `the prompt 'Which animal?'`.
        wanted: what it has to give, and how to get there.

    Raises:
        TypeError: always.
    """
    nothing = ", which is nothing (does it return?)" if given is None else ""
    raise TypeError(
        f"{argument}: the function {shown(function)} gives {shown(given)} for {of}{nothing}; it "
        f"has to give {wanted}."
    )


def _check_keywords(called: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for keyword in given:
        if keyword not in known:
            raise TypeError(
                f"{called} has no option {keyword!r}{nearest(keyword, known) or '.'} "
                f"Its options are {', '.join(known)}."
            )
