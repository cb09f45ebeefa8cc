"""How a model takes the answers of a prompt: as the trie in one row, or as plain rows.

1. The trie is exact where the attention alone carries tokens forward and takes its mask and its
   position ids from us. Layers with state (linear attention, convolutions, Mamba) carry what stood
   before whatever any mask says; alibi counts slots, and so do masks that a model keeps itself
   (the windows of GPT-Neo). There every answer is a plain row of its own, which the model masks and
   numbers by itself.
2. Which of the two is found at loading, from what the configuration says and by a probe: in a trie
   the nodes behind one parent may stand in any order, and nothing else may change with it.
3. Some rotary embeddings depend on how long a batch is (LongRoPE: other factors past a length).
   Only rows on one side of that length go together, and every number is read in a row of its own
   length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..models.compat import is_stateful
from ..models.configuration import rotary_kind, rotary_parameters
from .answers import Answers


class Strand(NamedTuple):
    """A plain row: some slots of a trie row that stand behind each other.

    Attributes:
        slots: of the trie row, the prompt's first.
        reads: where logits are read: read of the trie row -> place in this row.
    """

    slots: tuple[int, ...]
    reads: dict[int, int]


@dataclass(frozen=True)
class Layout:
    """How rows must be laid out.

    Attributes:
        plain: whether answers are plain rows; else the trie.
        switches: lengths past which the model computes otherwise.
        padded: whether plain rows of several lengths may stand in one forward, padded behind.
    """

    plain: bool = False
    switches: tuple[int, ...] = ()
    padded: bool = True

    def side(self, length: int) -> int:
        """On which side of the switches a row of this length is; 0 is before all of them."""
        return sum(length > switch for switch in self.switches)

    def fits(self, lengths: Sequence[int], answers: Sequence[Answers]) -> bool:
        """Whether prompts of these lengths with their tries are rows of one forward."""
        ends = [length + trie.length for length, trie in zip(lengths, answers, strict=True)]
        return not self.plain and len({self.side(end) for end in (*lengths, *ends)}) == 1

    def shares(self, beginning: int, longest: int) -> bool:
        """Whether rows may reuse keys and values of a beginning that was run alone.

        Args:
            beginning: its tokens.
            longest: tokens of the longest row.
        """
        return not self.plain and self.side(beginning) == self.side(longest)

    def slots(self, length: int, answers: Answers) -> int:
        """Tokens that are computed for a prompt of this length with its answers."""
        if self.fits([length], [answers]):
            return length + len(answers.nodes)
        return sum(len(strand.slots) for strand in self.strands(length, answers))

    def strands(self, length: int, answers: Answers) -> list[Strand]:
        """The plain rows of a prompt of this length with its answers; each read stands in one.

        A node is read in a row on its own side of the switches, so that the row it ends gives what
        the model gives for that row alone.
        """
        trie = answers
        chains: list[tuple[int, ...]] = []  # per node, its ancestors and itself
        for node, parent in enumerate(trie.parents):
            chains.append((*(chains[parent] if parent >= 0 else ()), node))
        sides = [self.side(length + len(chain)) for chain in chains]
        inner = {parent for node, parent in enumerate(trie.parents) if _same(sides, node, parent)}

        prompt = {0: length - 1, **{1 + len(chains) + n: slot for n, slot in enumerate(trie.at)}}
        ends = sorted((n for n in range(len(chains)) if n not in inner), key=sides.__getitem__)
        strands, read = [], set[int]()
        if not ends or sides[ends[0]] != self.side(length):
            strands.append(Strand(tuple(range(length)), prompt))
            prompt = {}
        for end in ends:
            reads, prompt = prompt, {}
            for depth, node in enumerate(chains[end]):
                if node not in read and sides[node] == sides[end]:
                    read.add(node)
                    reads[1 + node] = length + depth
            nodes = (length + node for node in chains[end])
            strands.append(Strand((*range(length), *nodes), reads))
        return strands

    def notes(self) -> Iterator[str]:
        """What it means for the user, a line each; none where nothing is out of the ordinary."""
        if self.plain:
            yield (
                "answers run as plain rows, one per form, and sweeps as whole forwards: a mask "
                "cannot express the answers' trie in this architecture (slower, the same numbers)"
            )
        if self.switches:
            lengths = ", ".join(map(str, self.switches))
            yield f"computes otherwise past {lengths} tokens: rows on one side of it run together"


TRIE = Layout()
"""What most models take."""


def _same(sides: Sequence[int], node: int, parent: int) -> bool:
    return parent >= 0 and sides[parent] == sides[node]


# -------------------------------------------------------------------------- what configurations say


def length_switches(config: Any) -> tuple[int, ...]:
    """Lengths past which a model's rotary embedding changes for all of a batch.

    LongRoPE has other factors there. (`dynamic` changes past the model's own number of positions,
    beyond which every prompt is refused.)
    """
    found = set()
    whole = getattr(config, "original_max_position_embeddings", None)
    for rope in rotary_parameters(getattr(config, "rope_parameters", None)):
        if rotary_kind(rope) == "longrope":
            length = rope.get("original_max_position_embeddings") or whole
            if length:
                found.add(int(length))
    return tuple(sorted(found))


def carries_state(model: nn.Module, blocks: Sequence[str]) -> bool:
    """Whether a model says of itself that something else than attention carries tokens forward."""
    inside = [m for path in blocks for m in model.get_submodule(path).modules()]
    return is_stateful(model) or any(isinstance(module, nn.Conv1d) for module in inside)


ALIBI = frozenset({"bloom", "mpt"})
"""Types of models whose attention always has alibi, whatever their configuration says."""


def counts_slots(config: Any) -> bool:
    """Whether attention goes by slots, whatever position ids and mask are handed to it.

    Alibi is a distance of slots (Bloom, MPT, some of Falcon). GPT-Neo keeps the window of its local
    layers as a mask of slots. Llama-4 scales queries by slot, and attends in chunks of slots. What
    a probe sees of it depends on its length, on the weights and on their type.
    """
    names = ("attn_temperature_tuning", "attention_chunk_size", "alibi")
    layers = getattr(config, "attention_layers", None)
    return (
        any(bool(getattr(config, name, None)) for name in names)
        or getattr(config, "model_type", None) in ALIBI
        or (isinstance(layers, Sequence) and "local" in layers)
    )


def relative(given: Tensor, wanted: Tensor) -> float:
    """How far logits are from others, in units of their own spread over the vocabulary."""
    given, wanted = (x.float() - x.float().mean(-1, keepdim=True) for x in (given, wanted))
    return float((given - wanted).norm() / wanted.norm())
