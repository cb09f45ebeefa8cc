"""How a model takes answers, found at loading from a few short forwards (`layout`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..models.names import text_config
from ..models.quantised import HALF
from ..models.sites import Sites
from .answers import Answers
from .forward import forward
from .layout import (
    TRIE,
    Layout,
    carries_state,
    counts_slots,
    length_switches,
    relative,
)
from .parity import probe
from .plain import lay_out

CLOSE = 1e-3
"""Logits that are the same but for rounding, in units of their spread."""

CLOSE_WITH_STATE = 3e-5
"""The same for models that say that they have state: an untrained convolution moves little."""

CLOSE_IN_HALF = 0.05
"""The same in half precision, where models that say so are believed."""

SIBLINGS = 32
"""Nodes behind one parent in the probe, the first and the last of which change places: so many
slots apart, what counts slots moves far more than rounding does, in half precision too."""

SHORTER = 9
"""Tokens of a plain row that is padded to the probe's 16."""


@torch.no_grad()
def find_layout(model: Any, sites: Sites) -> Layout:
    """How a model takes the answers of a prompt.

    Args:
        model: a causal language model in eval mode.
        sites: its map.
    """
    config = text_config(model.config)
    half = next(model.parameters()).dtype in HALF
    state = carries_state(model, sites.blocks)
    exact = CLOSE_WITH_STATE if state else CLOSE
    close = CLOSE_IN_HALF if half else exact
    switches = length_switches(config)
    told = counts_slots(config) or (half and state)
    if not told and _siblings_swap(model, sites, close):
        return Layout(switches=switches)
    plain = Layout(plain=True, switches=switches)
    return Layout(plain=True, switches=switches, padded=_may_be_padded(model, sites, plain, close))


def _siblings_swap(model: nn.Module, sites: Sites, close: float) -> bool:
    """Whether two nodes behind one prompt give the same logits in either order, with others
    between them.

    A model that cannot run them at all cannot swap them.
    """
    asked = probe(model)
    first, last = asked.answers.nodes
    between = (asked.ids * SIBLINGS)[: SIBLINGS - 2]
    orders = [(first, *between, last), (last, *between, first)]
    tries = [Answers(nodes, (-1,) * SIBLINGS) for nodes in orders]
    batch = lay_out(model, [asked.ids, asked.ids], tries, TRIE)
    try:
        # with a cache of keys and values, as branches have one
        one, other = forward(model, sites, batch, past=()).logits
    except Exception:  # whatever a model raises that takes no such mask or positions
        return False
    return relative(other[[SIBLINGS, 1]], one[[1, SIBLINGS]]) <= close


def _may_be_padded(model: nn.Module, sites: Sites, layout: Layout, close: float) -> bool:
    """Whether a plain row is the same beside a longer one."""
    asked = probe(model)
    short = asked.ids[:SHORTER]
    beside = forward(model, sites, lay_out(model, [asked.ids, short], layout=layout)).logits[1]
    alone = forward(model, sites, lay_out(model, [short], layout=layout)).logits[0]
    return relative(beside, alone) <= close
