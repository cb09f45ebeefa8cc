"""Which variables a chat template takes from its caller, read off its syntax tree."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import ext, nodes
from jinja2.meta import find_undeclared_variables

CLOCK = "strftime_now"
"""The clock of a template."""

OWNED = frozenset(
    {
        "messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template",
        "conversation", "tokenize", "padding", "truncation", "max_length", "return_tensors",
        "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
        "sanitize_control_tokens", "raise_exception", "self", CLOCK,
        "bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token",
        *jinja2.Environment().globals,
    }
)  # fmt: skip
"""Names in templates, and arguments of `apply_chat_template`, that are no variables of a
caller's."""


class _Generation(ext.Extension):
    """The block that marks the assistant's tokens, `{% generation %}`, as transformers has it."""

    tags = {"generation"}  # noqa: RUF012  jinja's own way

    def parse(self, parser: Any) -> list[nodes.Node]:
        """The block's body."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


@lru_cache(maxsize=64)
def variables(template: str) -> frozenset[str]:
    """What a template reads that it has not set before, its clock (`CLOCK`) among it.

    Raises:
        ValueError: the template is no Jinja.
    """
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
    )
    try:
        tree = environment.parse(template)
        undeclared = find_undeclared_variables(tree)
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template cannot be read as Jinja: {error}.") from error
    first: dict[str, str] = {}
    for name in _names(tree):
        first.setdefault(name.name, name.ctx)
    # what is set in one branch and read in another is the template's own
    asked = {name for name in undeclared if first.get(name) == "load"}
    return frozenset(asked - (OWNED - {CLOCK}))


@lru_cache(maxsize=64)
def texts_set_to(template: str, variable: str) -> tuple[str, ...]:
    """The texts that a template sets a variable to by itself."""
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
    )
    texts = []
    for set_ in environment.parse(template).find_all(nodes.Assign):
        target, value = set_.target, set_.node
        if isinstance(target, nodes.Name) and target.name == variable:
            texts += [value.value] if isinstance(value, nodes.Const) else []
    return tuple(text for text in texts if isinstance(text, str))


def _names(node: nodes.Node) -> Iterator[nodes.Name]:
    """All names below a node in the order in which they are met; a value before what it is set."""
    if isinstance(node, nodes.Name):
        yield node
    children: list[nodes.Node] = list(node.iter_child_nodes())
    if isinstance(node, nodes.Assign):
        children = [node.node, node.target]
    for child in children:
        yield from _names(child)
