"""Two prompts side by side, token by token: what both have, what one has alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape
from typing import Any, NamedTuple

from ..arguments import checked
from .context import Context
from .prompt import Message, Prompt
from .rendering import render

_ENDS = 3  # tokens of a long run of equal ones that are printed at either end
_STYLE = """<style>
.smc{font:13px/1.45 system-ui,sans-serif}
.smc td,.smc th{text-align:left;padding:1px 10px 1px 0;border:0}
.smc code{white-space:pre-wrap}
.smc .a{background:rgba(214,96,77,.22)}.smc .b{background:rgba(67,147,195,.22)}
</style>"""


class Pair(NamedTuple):
    """A line of a comparison: the place of a token in each of the prompts, None where it is in one
    of them only.
    """

    a: int | None
    b: int | None


@checked
@dataclass(frozen=True)
class Comparison:
    """Two prompts side by side; prints as text, and as a table in a notebook.

    Attributes:
        a, b: the prompts.
        pairs: their tokens in order, those that are equal (same id, same role) in one line.
    """

    a: Prompt
    b: Prompt
    pairs: tuple[Pair, ...]

    @property
    def equal(self) -> bool:
        """Whether the two are one prompt, token for token, to which answers are the same tokens."""
        return (self.a.ids, self.a.lead, self.a.close) == (self.b.ids, self.b.lead, self.b.close)

    @property
    def differences(self) -> tuple[str, ...]:
        """What differs in how they were asked for, and around the answer, in words."""
        lines = _unlike(_asked(self.a), _asked(self.b))
        for name in ("lead", "close"):
            one, other = getattr(self.a, name), getattr(self.b, name)
            lines += [f"{name}: {one!r} in a, {other!r} in b"] if one != other else []
        return tuple(lines)

    def __repr__(self) -> str:
        rows = [_cells(self, pair) for pair in self.pairs]
        width = max((len(row[1]) for row in rows), default=0)
        printed = []
        for start, end in _shown(self.pairs):
            if start is None:
                printed.append(f"    ... {end} equal tokens")
                continue
            for mark, one, other, role in rows[start:end]:
                printed.append(f"  {mark} {one:{width}}  {other:{width}}  {role}".rstrip())
        return "\n".join([*self._head(), *printed])

    def _repr_html_(self) -> str:
        lines = "".join(f"<div>{escape(line)}</div>" for line in self._head())
        body = []
        for pair in self.pairs:
            mark, one, other, role = map(escape, _cells(self, pair))
            kind = {"-": ' class="a"', "+": ' class="b"'}.get(mark, "")
            cells = f"<td><code>{one}</code></td><td><code>{other}</code></td><td>{role}</td>"
            body.append(f"<tr{kind}>{cells}</tr>")
        heads = "<tr><th>a</th><th>b</th><th>role</th></tr>"
        return f'{_STYLE}<div class="smc">{lines}<table>{heads}{"".join(body)}</table></div>'

    def _head(self) -> list[str]:
        both = sum(None not in pair for pair in self.pairs)
        sizes = len(self.a), len(self.b)
        head = (
            f"{sizes[0]} tokens in a, {sizes[1]} in b: {both} equal, {sizes[0] - both} only in a, "
            f"{sizes[1] - both} only in b"
        )
        if self.equal:
            head = f"one prompt: {sizes[0]} tokens, all equal"
        told = [
            f"{name} is the same as {' and '.join(prompt.same_as)}"
            for name, prompt in (("a", self.a), ("b", self.b))
            if prompt.same_as
        ]
        return [head, *self.differences, *told]


@checked
def compare(
    a: Prompt | Context,
    b: Prompt | Context,
    *,
    tokenizer: Any = None,
    question: str | Sequence[Message] = "Which animal?",
    template: str | None = None,
) -> Comparison:
    """Two prompts side by side, token by token; or two contexts, of one question.

    Args:
        a: a prompt or a context.
        b: what it is compared with, likewise.
        tokenizer: what renders contexts: a fast Hugging Face tokenizer, or a pair.
        question: what is asked in contexts.
        template: a Jinja chat template to use instead of the tokenizer's.

    Returns:
        A `Comparison`: `print` shows equal tokens (same id and role) in one line, with `-` those
        that only `a` has, with `+` those of `b`; and which of system prompt, template variables,
        date, beginning and BOS differ. Long runs of equal tokens are shortened, not in a notebook.

    Raises:
        ValueError: a context without a tokenizer; prompts of two tokenizers; see `render`.

    Example:
        >>> from sublim_mech.prompts import compare
        >>> found = compare(sm.Context(), sm.Context(sm.Context.NONE), tokenizer=tokenizer)
        >>> found.differences, len(found.a) - len(found.b)
        (('system: default in a, none in b',), 21)
    """
    one, other = (
        prompt if isinstance(prompt, Prompt) else _rendered(prompt, tokenizer, question, template)
        for prompt in (a, b)
    )
    if one.tokenizer and other.tokenizer and one.tokenizer != other.tokenizer:
        raise ValueError(
            "a and b were rendered by two tokenizers, so their ids are other tokens; render both "
            "with one."
        )
    left, right = (list(zip(each.ids, each.roles, strict=True)) for each in (one, other))
    pairs: list[Pair] = []
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    for kind, start, end, first, last in matcher.get_opcodes():
        if kind == "equal":
            pairs += [Pair(i, first + i - start) for i in range(start, end)]
        else:
            pairs += [Pair(i, None) for i in range(start, end)]
            pairs += [Pair(None, i) for i in range(first, last)]
    return Comparison(one, other, tuple(pairs))


def _rendered(
    context: Context, tokenizer: Any, question: str | Sequence[Message], template: str | None
) -> Prompt:
    if tokenizer is None:
        raise ValueError(
            "compare: a context is no prompt until it is rendered; pass tokenizer=pair.tokenizer, "
            "or two prompts of `render`."
        )
    (prompt,) = render(tokenizer, [question], context=context, template=template)
    return prompt


def _asked(prompt: Prompt) -> dict[str, Any]:
    """What a context says, flat, by name; the template's variables as `options[...]`."""
    told = dict(prompt.described())
    system = told.pop("system")
    told.pop("fallback")  # what came of it is in the tokens
    flat: dict[str, Any] = {"system": system.get("text", system.get("kind"))}
    options: Mapping[str, Any] = told.pop("options", {})
    flat |= {name: value for name, value in told.items() if value not in ("", None)}
    return flat | {f"options[{name!r}]": value for name, value in options.items()}


def _unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in dict.fromkeys((*one, *other)):
        if name not in one or name not in other or one[name] != other[name]:
            said = [_said(name, values) for values in (one, other)]
            lines.append(f"{name}: {said[0]} in a, {said[1]} in b")
    return lines


def _said(name: str, values: Mapping[str, Any]) -> str:
    if name not in values:
        return "nothing"
    value = values[name]
    # a text that holds more than letters as Python writes it, as the tokens below it are
    plain = str(value).isprintable() and "\\" not in str(value)
    return str(value) if plain and not name.startswith("options") else repr(value)


def _cells(comparison: Comparison, pair: Pair) -> tuple[str, str, str, str]:
    """A mark, the token of either side with its place, and the role."""
    a, b = comparison.a, comparison.b
    one = "" if pair.a is None else f"{pair.a:>3} {a.tokens[pair.a]!r}"
    other = "" if pair.b is None else f"{pair.b:>3} {b.tokens[pair.b]!r}"
    if pair.a is None:
        assert pair.b is not None
        return "+", one, other, b.roles[pair.b]
    return "-" if pair.b is None else " ", one, other, a.roles[pair.a]


def _shown(pairs: Sequence[Pair]) -> list[tuple[int | None, int]]:
    """Stretches of lines that are printed, `(start, end)`; `(None, n)` for n equal ones that are
    not.
    """
    stretches: list[tuple[int | None, int]] = []
    start = 0
    while start < len(pairs):
        is_equal, end = None not in pairs[start], start
        while end < len(pairs) and (None not in pairs[end]) == is_equal:
            end += 1
        if is_equal and end - start > 2 * _ENDS + 1:
            hidden = end - start - 2 * _ENDS
            stretches += [(start, start + _ENDS), (None, hidden), (end - _ENDS, end)]
        else:
            stretches.append((start, end))
        start = end
    return stretches
