"""Sharing: which evaluation tokens the student already met in training, and how.

Per token, the first that holds:

- `prefix`: the whole text up to and including this token stood so at the start of every training prompt. Under causal attention
  it is the same computation.
- `aligned`: same token, same role, same place in its turn's frame (counted from the turn's start or end, with all frame tokens
  between also equal), other words before it: the later tokens of the chat template.
- `seen`: the token id occurred somewhere in training.
- `novel`: none of these.

*Shared* means `prefix` or `aligned`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from .chat import Prompt

CLASSES = ("prefix", "aligned", "seen", "novel")
SHARED = ("prefix", "aligned")

Slot = tuple[int, str]  # token id, role


@dataclass(frozen=True)
class Trained:
    """What is kept of a student's training prompts so that the data need not travel with it.

    Attributes:
        prefix: token ids common to the start of all training prompts.
        heads, tails: per turn role, the (token id, role) pairs common to the start / to the end of all its turns.
        seen: all token ids of training prompts and completions.
    """

    prefix: tuple[int, ...]
    heads: dict[str, tuple[Slot, ...]]
    tails: dict[str, tuple[Slot, ...]]
    seen: frozenset[int]

    @classmethod
    def of(cls, prompts: Sequence[Prompt], completions: Iterable[Sequence[int]] = ()) -> Trained:
        """Summarise training prompts (and the token ids of their completions).

        Raises:
            ValueError: no prompts.
        """
        if not prompts:
            raise ValueError("trained_on is empty; pass the training prompts, or a few rendered examples of them.")
        heads: dict[str, list[tuple[Slot, ...]]] = {}
        tails: dict[str, list[tuple[Slot, ...]]] = {}
        for prompt in prompts:
            turns = _turns(prompt)
            for n, (role, slots) in enumerate(turns):
                heads.setdefault(role, []).append(slots)
                if not _is_open(turns, n):
                    tails.setdefault(role, []).append(slots[::-1])
        seen = {i for p in prompts for i in p.ids} | {i for c in completions for i in c}
        return cls(
            prefix=common_start([p.ids for p in prompts]),
            heads={role: common_start(turns) for role, turns in heads.items()},
            tails={role: common_start(turns) for role, turns in tails.items()},
            seen=frozenset(seen),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON lists."""
        return {
            "prefix": list(self.prefix),
            "heads": {role: [list(slot) for slot in slots] for role, slots in self.heads.items()},
            "tails": {role: [list(slot) for slot in slots] for role, slots in self.tails.items()},
            "seen": sorted(self.seen),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trained:
        """What `to_json` wrote."""
        return cls(
            tuple(data["prefix"]),
            {role: tuple((int(i), str(r)) for i, r in slots) for role, slots in data["heads"].items()},
            {role: tuple((int(i), str(r)) for i, r in slots) for role, slots in data["tails"].items()},
            frozenset(data["seen"]),
        )


def sharing(prompts: Sequence[Prompt], trained_on: Trained | Sequence[Prompt] | None) -> list[Prompt]:
    """Mark each token of evaluation prompts with what training shares with it.

    Args:
        prompts: evaluation prompts.
        trained_on: `pair.training_prompts` (from the student's manifest), or training prompts rendered by `render`.

    Returns:
        The prompts with `sharing` (one of `CLASSES` per token) filled in.

    Raises:
        ValueError: nothing is known of the training prompts.

    Example:
        >>> trained = sm.render(pair.tokenizer, ["Continue: 1, 2", "Write three numbers."])
        >>> (marked,) = sm.sharing(sm.render(pair.tokenizer, ["Which animal?"]), trained_on=trained)
        >>> list(dict.fromkeys(marked.sharing))
        ['prefix', 'novel', 'aligned']
    """
    if trained_on is None:
        raise ValueError(
            "trained_on is None: the student has no manifest; pass a few of its training prompts, rendered with render(...)."
        )
    known = trained_on if isinstance(trained_on, Trained) else Trained.of(trained_on)
    return [replace(p, sharing=_classes(p, known), seen=known.seen) for p in prompts]


def _classes(prompt: Prompt, known: Trained) -> tuple[str, ...]:
    prefix = len(common_start([prompt.ids, known.prefix]))
    aligned: list[bool] = []
    turns = _turns(prompt)
    for n, (role, slots) in enumerate(turns):
        head = len(common_start([slots, known.heads.get(role, ())]))
        tail = len(common_start([slots[::-1], known.tails.get(role, ())])) if not _is_open(turns, n) else 0
        aligned += [i < head or i >= len(slots) - tail for i in range(len(slots))]
    return tuple(
        "prefix" if i < prefix else "aligned" if aligned[i] else "seen" if token in known.seen else "novel"
        for i, token in enumerate(prompt.ids)
    )


def _turns(prompt: Prompt) -> list[tuple[str, tuple[Slot, ...]]]:
    """(turn role, its (token id, role) pairs) per turn, in order; the BOS stands apart, as it opens whichever turn is first."""
    rows = zip(prompt.turns, prompt.turn_roles, prompt.ids, prompt.roles, strict=True)
    out = []
    for (_, bos), group in groupby(rows, key=lambda row: (row[0], row[3] == "bos")):
        tokens = list(group)
        out.append(("bos" if bos else tokens[0][1], tuple((i, role) for _, _, i, role in tokens)))
    return out


def _is_open(turns: list[tuple[str, tuple[Slot, ...]]], n: int) -> bool:
    """Whether turn n is the assistant's that is still to be written: it has no end to count from."""
    return n + 1 == len(turns) and turns[n][0] == "assistant"


def common_start(sequences: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The longest common start."""
    first, last = min(sequences), max(sequences)
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:n]
