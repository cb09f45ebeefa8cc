"""The trie of a prompt's answers: what is fed after the prompt, and where logits are read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answers:
    """The trie of a prompt's answers.

    Attributes:
        nodes: token ids fed after the prompt, parents first.
        parents: per node, the index of its parent node; -1 is the last prompt token.
        forms: per form, its path as (slot, token id) pairs; slot 0 is the last prompt token, slot n + 1 is node n.
        traits: per form, the index of its trait in the metric.
    """

    nodes: tuple[int, ...]
    parents: tuple[int, ...]
    forms: tuple[tuple[tuple[int, int], ...], ...]
    traits: tuple[int, ...]

    @property
    def depths(self) -> tuple[int, ...]:
        """Per node, how many tokens it stands behind the last prompt token."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return tuple(depths)


NO_ANSWERS = Answers((), (), (), ())
