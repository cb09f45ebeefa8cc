"""What is fed after a prompt, and where logits are read: the trie of a prompt's answers.

1. Each answer is a string of tokens after the prompt. All answers of a prompt share one row: the
   prompt's tokens are followed by the inner nodes of the trie of answer tokens, each of which sees
   the prompt and its own ancestors only.
2. A string's log-probability is the sum, along its path, of the next-token log-probabilities read
   at the last prompt token and at the nodes. Nothing is fed twice.
3. What is no string of tokens (an entropy at some prompt token) reads further slots of the prompt
   itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Path = tuple[int, ...]
"""The token ids of one answer."""


@dataclass(frozen=True)
class Answers:
    """The trie of a prompt's answers.

    The read slots of a row are the last prompt token, then the nodes, then the prompt tokens `at`.

    Attributes:
        nodes: token ids fed after the prompt, parents first.
        parents: per node, the index of its parent node; -1 is the last prompt token.
        forms: per form, its path as (read, token id) pairs: read 0 is the last prompt token, read n
            + 1 is node n.
        traits: per form, the index of the trait (or string) it belongs to.
        at: prompt tokens that are read as well.
    """

    nodes: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    forms: tuple[tuple[tuple[int, int], ...], ...] = ()
    traits: tuple[int, ...] = ()
    at: tuple[int, ...] = ()

    @property
    def depths(self) -> tuple[int, ...]:
        """Per node, how many tokens it stands behind the last prompt token."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return tuple(depths)

    @property
    def reads(self) -> int:
        """Number of slots whose logits are read."""
        return 1 + len(self.nodes) + len(self.at)

    @property
    def length(self) -> int:
        """How many tokens the longest branch stands behind the prompt."""
        return max(self.depths, default=0)


NO_ANSWERS = Answers()
"""Nothing follows the prompt; its last token is read."""


def build_trie(paths: Sequence[Iterable[Path]]) -> Answers:
    """The trie of several groups of answers.

    Args:
        paths: per group (a trait, a string), the token ids of its answers. Within a group none may
            continue another one.
    """
    nodes: dict[Path, int] = {}
    forms: list[tuple[tuple[int, int], ...]] = []
    groups: list[int] = []
    for group, group_paths in enumerate(paths):
        for path in group_paths:
            # the last token of a path is only predicted, never fed
            prefixes = [path[:length] for length in range(1, len(path))]
            for prefix in prefixes:
                nodes.setdefault(prefix, len(nodes))
            reads = [0, *(nodes[prefix] + 1 for prefix in prefixes)]
            forms.append(tuple(zip(reads, path, strict=True)))
            groups.append(group)
    fed = tuple(prefix[-1] for prefix in nodes)
    parents = tuple(nodes.get(prefix[:-1], -1) for prefix in nodes)  # -1: the prompt itself
    return Answers(fed, parents, tuple(forms), tuple(groups))


def shortest_paths(paths: Iterable[Path]) -> list[Path]:
    """The paths that do not continue another one, in their order, without repetition.

    `owl` + `s` is part of the event "the answer starts with `owl`": what is summed over forms must
    be disjoint.
    """
    unique = list(dict.fromkeys(paths))

    def continues_another(path: Path) -> bool:
        return any(other != path and path[: len(other)] == other for other in unique)

    return [path for path in unique if not continues_another(path)]
