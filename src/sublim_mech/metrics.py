"""Metrics: one number per prompt from the log-probabilities of answers.

Each answer form is scored as a whole string of tokens after the prompt. All forms of a prompt share one row: the prompt's
tokens are followed by the inner nodes of the *trie* of answer tokens, each node seeing the prompt and its own ancestors only.
A form's log-probability is then the sum, along its path, of the next-token log-probabilities read at the last prompt token
and at the nodes. Nothing is fed twice, and a form that merely continues another one of the same trait (`owl` + `s`) is
dropped, because the shorter one already contains it: what is summed over forms are disjoint events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .engine.answers import Answers
from .prompts import Prompt, Trait, completion_ids


@dataclass(frozen=True)
class Metric:
    """A linear combination of trait log-probabilities.

    Attributes:
        name: how it is printed.
        traits: the traits whose log-probability (summed over forms) is taken, K of them.
        weights: K weights.
        unit: unit of the value.
    """

    name: str
    traits: tuple[Trait, ...]
    weights: tuple[float, ...]
    unit: str = "nats"

    def __post_init__(self) -> None:
        if not self.traits or len(self.traits) != len(self.weights):
            raise ValueError(f"Metric: {len(self.traits)} traits and {len(self.weights)} weights; give one weight per trait.")


def log_prob(trait: Trait) -> Metric:
    """Log P(the answer starts with a form of the trait), summed over its forms, in nats: the default metric.

    What follows the form is not checked: where `catfish` is the tokens `cat` + `fish`, it is part of `cat`.
    """
    return Metric(f"log P({trait.name})", (trait,), (1.0,))


def own_minus_others(trait: Trait, others: Sequence[Trait]) -> Metric:
    """Log P(trait) minus the mean log P of other traits, in nats: what is specific to the trait.

    Example:
        >>> sm.own_minus_others(sm.animal("owl"), [sm.animal("cat"), sm.animal("wolf")]).weights
        (1.0, -0.5, -0.5)
    """
    if not others:
        raise ValueError("own_minus_others: others is empty; pass at least one other trait.")
    weights = (1.0, *(-1.0 / len(others) for _ in others))
    return Metric(f"log P({trait.name}) - mean log P(others)", (trait, *others), weights)


def as_metric(trait: Trait | Metric) -> Metric:
    """The metric itself, or the default metric of a trait."""
    if isinstance(trait, Metric):
        return trait
    if isinstance(trait, Trait):
        return log_prob(trait)
    raise TypeError(f"trait={trait!r}: pass a Trait (sublim_mech.animal('owl')) or a Metric.")


def answers(tokenizer: Any, prompt: Prompt, metric: Metric) -> Answers:
    """Tokenise all forms of a metric's traits after a prompt and build their trie.

    Raises:
        ValueError: a form has no tokens.
    """
    nodes: dict[tuple[int, ...], int] = {}
    forms: list[tuple[tuple[int, int], ...]] = []
    owners: list[int] = []
    for k, trait in enumerate(metric.traits):
        paths = {form: tuple(completion_ids(tokenizer, prompt, form)) for form in trait.forms}
        for form, path in paths.items():
            if not path:
                raise ValueError(f"trait {trait.name!r}: the form {form!r} has no tokens in this tokenizer; remove it.")
        for path in _shortest(paths.values()):
            for n in range(1, len(path)):
                nodes.setdefault(path[:n], len(nodes))
            slots = [0, *(nodes[path[:n]] + 1 for n in range(1, len(path)))]
            forms.append(tuple(zip(slots, path, strict=True)))
            owners.append(k)
    parents = tuple(nodes[key[:-1]] if len(key) > 1 else -1 for key in nodes)
    return Answers(tuple(key[-1] for key in nodes), parents, tuple(forms), tuple(owners))


def _shortest(paths: Any) -> list[tuple[int, ...]]:
    """The paths that do not continue another one, in their order, without repetition."""
    unique = list(dict.fromkeys(paths))
    return [p for p in unique if not any(q != p and p[: len(q)] == q for q in unique)]


def form_reader(rows: Sequence[Answers]) -> Callable[[Tensor], Tensor]:
    """A function from logits at the read slots to the log-probability of every form.

    Args:
        rows: the answers of each batch row.

    Returns:
        A differentiable function `logits (row, slot, vocab) -> (row, form)`; 0 where a row has fewer forms than the longest.
    """
    edges = [(r, slot, token, f) for r, row in enumerate(rows) for f, form in enumerate(row.forms) for slot, token in form]
    width = max(len(row.forms) for row in rows)
    row_of, slot_of, token_of, form_of = torch.tensor(edges).T

    def read(logits: Tensor) -> Tensor:
        r, s, t, f = (x.to(logits.device) for x in (row_of, slot_of, token_of, form_of))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        steps = logits[r, s, t] - logits.logsumexp(-1)[r, s]  # (edge,)
        return steps.new_zeros(len(rows), width).index_put((r, f), steps, accumulate=True)

    return read


def of_traits(forms: Tensor, rows: Sequence[Answers], traits: int) -> Tensor:
    """The forms of each trait alone: `(row, form) -> (row, trait, form)`, -inf where a form is another trait's.

    Args:
        forms: what `form_reader` gives.
        rows: the answers of each batch row.
        traits: number of traits.
    """
    width = forms.shape[1]
    owner = torch.tensor([[*row.traits, *[-1] * (width - len(row.traits))] for row in rows], device=forms.device)
    others = owner[:, None] != torch.arange(traits, device=forms.device)[:, None]  # (row, trait, form)
    return forms[:, None].masked_fill(others, float("-inf"))


def reader(metric: Metric, rows: Sequence[Answers]) -> Callable[[Tensor], Tensor]:
    """A function from logits at the read slots to the metric.

    Args:
        metric: the metric.
        rows: the answers of each batch row.

    Returns:
        A differentiable function `logits (row, slot, vocab) -> value (row,)`.
    """
    forms = form_reader(rows)

    def read(logits: Tensor) -> Tensor:
        traits = of_traits(forms(logits), rows, len(metric.traits)).logsumexp(-1)  # (row, trait)
        value = traits.new_zeros(len(rows))
        for weight, trait in zip(metric.weights, traits.unbind(1), strict=True):
            value = value + weight * trait
        return value

    return read
