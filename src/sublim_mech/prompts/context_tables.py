"""Contexts as tables of a configuration file, and back."""

from __future__ import annotations

from typing import Any

from ..hints import nearest
from ..tables import as_table, check_keys, toml_value
from .context import Context, System

KEYS = ("system", "user_prefix", "fallback", "options", "date", "prefill", "bos")
"""What the table of a context may hold."""

KINDS = {kind.value: kind for kind in System}
"""System prompts that are no text, by their names."""


def context_to_json(context: Context) -> dict[str, Any]:
    """A context, without what is at its default."""
    written = context.to_json()
    return {key: value for key, value in written.items() if value not in ("", None)}


def context_of(data: Any, where: str) -> Context:
    """A context: a table as `context_to_json` writes it, or `default`, `empty`, `none`, `raw`.

    Args:
        data: what a file says.
        where: what errors call it.

    Raises:
        TypeError, ValueError: no context, a key that it does not have; see `Context`.
    """
    if isinstance(data, str):
        if data not in KINDS:
            raise ValueError(
                f"{where}={data!r}: a context is one of {', '.join(KINDS)}, or a table: "
                f"{{system = {{text = ...}}}}{nearest(data.lower(), KINDS) or '.'}"
            )
        return Context(KINDS[data])
    given = dict(as_table(data, where, '"none", or {system = {text = "..."}}'))
    check_keys(where, given, KEYS)
    system = given.get("system", {"kind": "default"})
    if isinstance(system, str):
        raise ValueError(f"{where}.system={system!r} is no table; {_spelled(system)}.")
    system = as_table(system, f"{where}.system", '{kind = "none"}, or {text = "..."}')
    check_keys(f"{where}.system", system, ("kind", "text"))
    if len(system) != 1:
        raise ValueError(
            f'{where}.system has a kind or a text, one of the two: {{kind = "none"}}, or '
            '{text = "..."}.'
        )
    if "kind" in system and system["kind"] not in KINDS:
        raise ValueError(
            f"{where}.system.kind={system['kind']!r} is none of {', '.join(KINDS)}"
            f"{nearest(str(system['kind']), KINDS) or '.'}"
        )
    usual = {"user_prefix": "", "fallback": None}
    return Context.from_json({**usual, **given, "system": dict(system)})


def _spelled(system: str) -> str:
    """How a system prompt that was given as a text is written."""
    text = f"{{text = {toml_value(system)}}}"
    kind = system.strip().rpartition(".")[2].lower()
    if kind not in KINDS:
        return f"write system = {text}"
    return f'write system = {{kind = "{kind}"}}, or, where this very text is meant, {text}'
