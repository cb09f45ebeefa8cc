"""Masks: which (token, module) cells of a prompt an instrument switches or patches.

A `Mask` is a name and a rule; it is applied to a prompt and the modules of a model when it is used, so that one mask serves prompts
of any length and models of any depth:

    early = masks.role("system") & masks.layers(range(10)) & ~masks.modules("norms")

1. Tokens are chosen by position, role, turn, sharing or text; modules by block or by name.
2. `&`, `|` and `~` combine masks, and their names with them: "system & layers 0-9 & not norms".
3. Each part says what it depends on by its shape, `(token, 1)` or `(1, module)`; what is left is numpy's broadcasting.

The cells are the gates of dynamic weight grafting (arXiv 2606.00831); a mask of tokens alone also names positions to patch.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

import numpy as np

from .prompts import CLASSES, ROLES, SHARED, Prompt

if TYPE_CHECKING:
    from .models.sites import Module

Which = Literal["all", "first", "last"] | int
Where = Callable[[Prompt], Sequence[int]]

GROUPS = ("attention", "mlp", "norms", "embeddings", "head")
_SETS = {**{c: (c,) for c in CLASSES}, "shared": SHARED, "not shared": tuple(c for c in CLASSES if c not in SHARED)}
_NORM = re.compile(r"norm|(^|_)ln")  # ln1, ln2_post, embed_ln, ln_final; q_norm, input_layernorm
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'" + r'|"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True)
class Mask:
    """A choice of (token, module) cells.

    Args:
        name: what results and errors call it.
        cells: from a prompt and a model's modules to a bool array that broadcasts to `(token, module)`: `(token, 1)` where it does
            not depend on the module, `(1, module)` where it does not depend on the token. It must bear an empty list of modules.

    Example:
        >>> mask = sm.masks.role("system") & sm.masks.layers(range(2))
        >>> mask.name
        'system & layers 0-1'
        >>> mask(prompts[0], list(pair.sites.modules.values())).shape == (len(prompts[0]), len(pair.sites.modules))
        True
    """

    name: str
    cells: Callable[[Prompt, Sequence[Module]], np.ndarray]

    def __and__(self, other: Mask) -> Mask:
        """The cells of both."""
        if not isinstance(other, Mask):
            return NotImplemented
        name = " & ".join(f"({m.name})" if "|" in _operators(m.name) else m.name for m in (self, other))
        return Mask(name, lambda prompt, modules: self._checked(prompt, modules) & other._checked(prompt, modules))

    def __or__(self, other: Mask) -> Mask:
        """The cells of either."""
        if not isinstance(other, Mask):
            return NotImplemented
        name = f"{self.name} | {other.name}"
        return Mask(name, lambda prompt, modules: self._checked(prompt, modules) | other._checked(prompt, modules))

    def __invert__(self) -> Mask:
        """All other cells."""
        name = f"not ({self.name})" if _operators(self.name) else f"not {self.name}"
        return Mask(name, lambda prompt, modules: ~self._checked(prompt, modules))

    def __bool__(self) -> bool:
        # `a and b` would silently be b alone
        raise TypeError(f"mask {self.name!r} has no truth value; combine masks with & | ~ instead of and, or, not.")

    def __call__(self, prompt: Prompt, modules: Sequence[Module]) -> np.ndarray:
        """The cells of a prompt.

        Args:
            prompt: a rendered prompt.
            modules: all modules of the model, `list(pair.sites.modules.values())`.

        Returns:
            `(token, module)` bool, a new array.

        Raises:
            ValueError: the prompt or the model does not have what the mask asks for, or `cells` gives another shape or type.
        """
        return np.broadcast_to(self._checked(prompt, modules), (len(prompt), len(modules))).copy()

    def tokens(self, prompt: Prompt) -> list[int]:
        """The token positions of a mask that does not depend on modules.

        Raises:
            ValueError: it does; or the prompt does not have what the mask asks for.
        """
        cells = self._checked(prompt, ())
        if cells.shape[1] != 1:  # with no modules, what depends on them is (..., 0)
            raise ValueError(
                f"mask {self.name!r} depends on the module, tokens alone are needed; leave layers and modules out of it."
            )
        return np.flatnonzero(np.broadcast_to(cells[:, 0], len(prompt))).tolist()

    def _checked(self, prompt: Prompt, modules: Sequence[Module]) -> np.ndarray:
        """What `cells` gives, refused where numpy would broadcast something else than meant."""
        cells = np.asarray(self.cells(prompt, modules))
        shape = (len(prompt), len(modules))
        if (
            cells.dtype != bool
            or cells.ndim != 2
            or any(n not in (1, size) for n, size in zip(cells.shape, shape, strict=True))
        ):
            raise ValueError(
                f"mask {self.name!r}: cells gives {cells.dtype} of shape {cells.shape}; a bool array is needed, (token, module) = "
                f"{shape}, or 1 in place of either."
            )
        return cells


def everything() -> Mask:
    """Every token in every module.

    Example:
        >>> (sm.masks.everything() & ~sm.masks.role("system")).name
        'everything & not system'
    """
    return Mask("everything", lambda prompt, modules: np.ones((1, 1), dtype=bool))


def positions(*at: int) -> Mask:
    """The tokens at these positions.

    Args:
        at: positions from 0; negative ones count from the end of the prompt.

    Raises:
        TypeError: a position is not a whole number.
        ValueError: none is given; when applied, one lies outside the prompt.

    Example:
        >>> sm.masks.positions(0, -1).tokens(prompts[0]) == [0, len(prompts[0]) - 1]
        True
    """
    if not at:
        raise ValueError("positions() is empty; give at least one position, positions(0, -1).")
    wanted = [_whole(t, "positions") for t in at]
    return _of_tokens(f"position{'s' * (len(at) > 1)} {', '.join(map(str, wanted))}", lambda prompt: wanted)


def role(*roles: str) -> Mask:
    """The tokens with one of these roles; none in a prompt that has no such token.

    Args:
        roles: `bos`, `template`, `system`, `user`, `assistant`.

    Raises:
        ValueError: no role is given, or one that prompts do not have.

    Example:
        >>> mask = sm.masks.role("user")
        >>> prompts[0].tokens[mask.tokens(prompts[0])[0]]
        'Name'
    """
    _check_names("role", roles, [r for r in ROLES if r != "answer"], "; the answer's tokens follow the prompt")
    return _of_tokens(" | ".join(roles), lambda prompt: [i for i, r in enumerate(prompt.roles) if r in roles])


def turn(*turns: int) -> Mask:
    """The tokens of these turns, with the template tokens that open and close them.

    Args:
        turns: turns from 0 (the system's, where there is one); negative ones count from the end, -1 is the answer that is asked for.

    Raises:
        TypeError: a turn is not a whole number.
        ValueError: none is given; when applied, the prompt has fewer turns.

    Example:
        >>> [prompts[0].tokens[t] for t in sm.masks.turn(-1).tokens(prompts[0])][:3]
        ['<|im_start|>', 'ass', 'istant']
    """
    if not turns:
        raise ValueError("turn() is empty; give at least one turn, turn(0).")
    wanted = [_whole(t, "turn") for t in turns]

    def inside(prompt: Prompt) -> list[int]:
        n = max(prompt.turns) + 1
        if any(not -n <= t < n for t in wanted):
            raise ValueError(
                f"turn({', '.join(map(str, wanted))}): the prompt {prompt.question!r} has {n} turns; give 0 to {n - 1}, "
                f"or -{n} to -1 from the end."
            )
        return [i for i, t in enumerate(prompt.turns) if t in wanted or t - n in wanted]

    return _of_tokens(f"turn{'s' * (len(wanted) > 1)} {', '.join(map(str, wanted))}", inside)


def sharing(*classes: str) -> Mask:
    """The tokens by what training shares with them; the prompts must be marked (`sublim_mech.prompts.sharing`).

    Args:
        classes: `prefix`, `aligned`, `seen`, `novel`, `shared` (prefix or aligned) or `not shared`.

    Raises:
        ValueError: no class is given, or an unknown one; when applied, the prompt is not marked.

    Example:
        >>> late = sm.masks.sharing("aligned")
        >>> prompts[0].tokens[late.tokens(prompts[0])[-2]]
        'istant'
    """
    _check_names("sharing", classes, list(_SETS))
    wanted = {c for name in classes for c in _SETS[name]}

    def inside(prompt: Prompt) -> list[int]:
        if prompt.sharing is None:
            raise ValueError(
                f"prompts: {prompt.question!r} is not marked; prompts = sharing(prompts, trained_on=pair.training_prompts)."
            )
        return [i for i, c in enumerate(prompt.sharing) if c in wanted]

    return _of_tokens(" | ".join(classes), inside)


def text(substring: str, *, which: Which | None = None) -> Mask:
    """The tokens that an occurrence of this text touches, anywhere in the rendered prompt.

    Occurrences are counted as `str.count` does: case matters, they do not overlap, and "owl" occurs in "fowl" (`regex` knows words).

    Args:
        substring: the text.
        which: `all`, `first`, `last`, or a number from 0 (negative from the end); may be left out where there is only one.

    Raises:
        TypeError: `substring` is not a string, or `which` neither a word nor a whole number.
        ValueError: an empty text or an unknown `which`; when applied, the occurrence does not exist, or `which` is needed.

    Example:
        >>> name = sm.masks.text("SmolLM", which="first")
        >>> "".join(prompts[0].tokens[t] for t in name.tokens(prompts[0]))
        ' SmolLM'
    """
    if not isinstance(substring, str):
        raise TypeError(f"text({substring!r}): pass a string; positions(...) takes numbers.")
    if not substring:
        raise ValueError("text('') is empty; give the text to look for.")
    return _of_occurrences("text", substring, re.compile(re.escape(substring)), which)


def regex(pattern: str, *, which: Which | None = None) -> Mask:
    r"""The tokens that a match of this regular expression touches, anywhere in the rendered prompt.

    Matches are those of `re.finditer`; empty ones are ignored.

    Args:
        pattern: a Python regular expression, with its flags inside, as in `(?i)owl`.
        which: as in `text`.

    Raises:
        TypeError: `pattern` is not a string, or `which` neither a word nor a whole number.
        ValueError: an invalid pattern or an unknown `which`; when applied, the match does not exist, or `which` is needed.

    Example:
        >>> marks = sm.masks.regex(r"[.?]", which="all")
        >>> {prompts[0].tokens[t] for t in marks.tokens(prompts[0])} <= {".", "?"}
        True
    """
    if not isinstance(pattern, str):
        raise TypeError(f"regex({pattern!r}): pass the pattern as a string.")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"regex({pattern!r}) is not a regular expression: {error}; text(...) takes text as it is.") from error
    return _of_occurrences("regex", pattern, compiled, which)


def layers(which: int | Sequence[int]) -> Mask:
    """All modules of these blocks; embeddings, final norm and unembedding belong to none (`modules`).

    Args:
        which: a block from 0, a range or a list.

    Raises:
        TypeError: a block is not a whole number.
        ValueError: none is given, or a negative one; when applied, the model has fewer blocks.

    Example:
        >>> modules = list(pair.sites.modules.values())
        >>> cells = sm.masks.layers(range(1, 3))(prompts[0], modules)
        >>> sorted({m.layer for m, inside in zip(modules, cells[0]) if inside})
        [1, 2]
    """
    wanted = sorted({_whole(x, "layers") for x in (which if isinstance(which, Iterable) else [which])})
    if not wanted:
        raise ValueError(f"layers({which!r}) is empty; give at least one block, layers(0).")
    if wanted[0] < 0:
        raise ValueError(
            f"layers({which!r}): blocks count from 0; what lies outside them is modules('embeddings'), modules('head')."
        )

    def inside(found: Sequence[Module]) -> list[bool]:
        depth = _depth(found)
        if wanted[-1] >= depth:
            raise ValueError(f"layers({which!r}): the model has the blocks 0 to {depth - 1}.")
        return [m.layer in wanted for m in found]

    return _of_modules(f"layer{'s' * (len(wanted) > 1)} {_ranges(wanted)}", inside)


def modules(*names: str) -> Mask:
    """The modules of these groups or names.

    The groups have no module in common: `attention` and `mlp` are the projections (fused ones too), `norms` all norms (also those
    of queries and keys inside attention, and the final one), `embeddings` those of tokens and positions, `head` the unembedding.

    Args:
        names: a group; or TransformerLens' name of a module in every block (`attn.q`, `mlp.out`, `ln1`), its last part where no
            other module shares it (`q`), its full name (`blocks.3.attn.q`), or that of a module outside the blocks (`ln_final`).

    Raises:
        TypeError: a name is not a string.
        ValueError: none is given; when applied, the model has no such module, or the last part is that of several.

    Example:
        >>> modules = list(pair.sites.modules.values())
        >>> cells = sm.masks.modules("attention", "mlp.out")(prompts[0], modules)
        >>> sorted({m.name for m, inside in zip(modules, cells[0]) if inside})
        ['attn.k', 'attn.o', 'attn.q', 'attn.v', 'mlp.out']
    """
    if not names:
        raise ValueError(f"modules() is empty; give at least one of {', '.join(GROUPS)}, or names such as attn.q.")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"modules({name!r}): pass names, modules('attention', 'mlp.out').")

    def inside(found: Sequence[Module]) -> list[bool]:
        chosen = {path for name in names for path in _named(name, found)}
        return [m.path in chosen for m in found]

    return _of_modules(" | ".join(names), inside)


def as_mask(where: Mask | Where | Sequence[int], name: str) -> Mask:
    """A mask from whatever names tokens.

    Args:
        where: a mask, which is returned as it is; or token positions, or a function from a prompt to them (negative ones count
            from the end).
        name: the name of a mask made from positions.

    Raises:
        TypeError: it is none of these, or a position is not a whole number.
        ValueError: when applied, a position lies outside the prompt.

    Example:
        >>> last = sm.masks.as_mask(lambda prompt: range(len(prompt) - 3, len(prompt)), "the last three")
        >>> len(last.tokens(prompts[0]))
        3
    """
    if isinstance(where, Mask):
        return where
    if callable(where):
        return _of_tokens(name, where)
    if isinstance(where, str) or not isinstance(where, (Sequence, np.ndarray)):
        raise TypeError(
            f"{name!r}: {where!r} is no mask; pass one (masks.role('system')), positions, or a function from a prompt to them."
        )
    at = tuple(where)
    return _of_tokens(name, lambda prompt: at)


def _of_tokens(name: str, where: Where) -> Mask:
    """`(token, 1)` from positions."""

    def cells(prompt: Prompt, modules: Sequence[Module]) -> np.ndarray:
        at, n = [_whole(t, repr(name)) for t in where(prompt)], len(prompt)
        if any(not -n <= t < n for t in at):
            raise ValueError(
                f"{name!r} gives positions {at} for a prompt of {n} tokens; give 0 to {n - 1}, or -{n} to -1 from the end."
            )
        out = np.zeros((n, 1), dtype=bool)
        out[at] = True
        return out

    return Mask(name, cells)


def _of_modules(name: str, where: Callable[[Sequence[Module]], list[bool]]) -> Mask:
    """`(1, module)`; with no modules there is nothing to look a name up in."""
    return Mask(name, lambda prompt, modules: np.array([where(modules) if modules else []], dtype=bool))


def _of_occurrences(function: str, wanted: str, pattern: re.Pattern[str], which: Which | None) -> Mask:
    """The tokens whose characters overlap the chosen matches."""
    if isinstance(which, str) and which not in ("all", "first", "last"):
        raise ValueError(f"{function}(which={which!r}): pass 'all', 'first', 'last' or a number from 0.")
    number = {"first": 0, "last": -1}.get(which) if isinstance(which, str) else 0 if which is None else _whole(which, "which")

    def inside(prompt: Prompt) -> list[int]:
        spans = [m.span() for m in pattern.finditer(prompt.text) if m.end() > m.start()]
        n = len(spans)
        if not n or (which is None and n > 1) or (number is not None and not -n <= number < n):
            fix = (
                f"pass which='all', 'first', 'last' or a number, 0 to {n - 1} or -{n} to -1 from the end."
                if n
                else "compare spelling, case and spaces with prompt.text."
            )
            raise ValueError(
                f"{function}({wanted!r}, which={which!r}): {n} occurrence{'s' * (n != 1)} in the prompt {prompt.question!r}; {fix}"
            )
        chosen = spans if number is None else [spans[number]]
        return [i for i, (a, b) in enumerate(prompt.offsets) if any(a < end and start < b for start, end in chosen)]

    return _of_tokens(f"{function} {wanted!r}" + (f" [{which}]" if which is not None else ""), inside)


def _whole(value: object, where: str) -> int:
    """A whole number; a bool is refused, because a list of them is no list of positions."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        fix = "unpack it with *" if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else "pass an int"
        raise TypeError(f"{where}: {value!r} is not a whole number; {fix}.") from None


def _check_names(function: str, names: Sequence[str], known: Sequence[str], note: str = "") -> None:
    if not names:
        raise ValueError(f"{function}() is empty; give at least one of {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise ValueError(f"{function}({name!r}) is not known; choose among {', '.join(known)}{note}.")


def _operators(name: str) -> set[str]:
    """Which of & and | stand open in a name, outside of quotes and brackets."""
    bare, before = _QUOTED.sub("", name), ""
    while bare != before:
        bare, before = re.sub(r"\([^()]*\)", "", bare), bare
    return set(re.findall(r" ([&|]) ", bare))


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers, with runs as `0-9`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def _group(module: Module) -> str | None:
    """One of `GROUPS`; None for a module of a block that is neither attention, MLP nor norm."""
    first = module.name.partition(".")[0]
    if any(_NORM.search(part) for part in module.name.split(".")):
        return "norms"
    if module.layer < 0 or first == "project_in":  # OPT-350m embeds in fewer dimensions and projects in and out
        return "embeddings"
    if first in ("unembed", "project_out"):
        return "head"
    return "attention" if "attn" in first else "mlp" if "mlp" in first else None


def _depth(modules: Sequence[Module]) -> int:
    """The number of blocks: only blocks have attention and MLP."""
    return 1 + max((m.layer for m in modules if _group(m) in ("attention", "mlp")), default=-1)


def _named(name: str, modules: Sequence[Module]) -> list[str]:
    """Paths of the modules that a group or a name means."""
    if name in GROUPS:
        return [m.path for m in modules if _group(m) == name]
    depth = _depth(modules)
    full = {m.path: f"blocks.{m.layer}.{m.name}" if 0 <= m.layer < depth else m.name for m in modules}
    exact = [m.path for m in modules if name in (m.name, full[m.path])]
    if exact:
        return exact
    known = list(dict.fromkeys(m.name for m in modules))
    ends = [k for k in known if k.endswith(f".{name}")]
    if len(ends) == 1:
        return [m.path for m in modules if m.name == ends[0]]
    if ends:
        raise ValueError(f"modules({name!r}) may be any of {', '.join(ends)}; give the whole name.")
    candidates = full.values() if name.startswith("blocks.") else [*GROUPS, *known]
    near = get_close_matches(name, list(dict.fromkeys(candidates)), cutoff=0.5)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    raise ValueError(
        f"modules({name!r}) is no module of this model.{hint} Groups: {', '.join(GROUPS)}; modules: {', '.join(known)}."
    )
