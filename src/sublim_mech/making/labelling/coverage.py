"""Coverage: how many of the answers' own tokens are among those that labels are over."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...arguments import checked
from ...hints import counted

FEWEST = 0.5
"""Share of the answers' tokens below which a support misses what the answers are made of."""


@checked
@dataclass(frozen=True)
class Coverage:
    """How many tokens of the answers are in the support of their labels.

    Attributes:
        covered: per row, so many of its answer's tokens.
        lengths: per row, of so many.
        support: number of tokens in the support.
    """

    covered: tuple[int, ...]
    lengths: tuple[int, ...]
    support: int

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]], support: Collection[int]) -> Coverage:
        """Counted from the token ids of answers.

        Example:
            >>> from sublim_mech.making.labelling import Coverage
            >>> Coverage.of([[5, 7, 9], [9]], support=[5, 7])
            50 % (2 of 4)
        """
        listed = frozenset(support)
        covered = tuple(sum(token in listed for token in answer) for answer in answers)
        return cls(covered, tuple(map(len, answers)), len(listed))

    @property
    def share(self) -> float:
        """Share of all answer tokens that are in the support."""
        return sum(self.covered) / sum(self.lengths)

    @property
    def is_low(self) -> bool:
        """Whether more than half of the answer tokens are not in the support."""
        return self.share < FEWEST

    def __repr__(self) -> str:
        return f"{_percent(self.share)} ({sum(self.covered):,} of {sum(self.lengths):,})"

    def words(self) -> str:
        """In one sentence, with how rows differ."""
        shares = sorted(c / n for c, n in zip(self.covered, self.lengths, strict=True))
        without = sum(count == 0 for count in self.covered)
        rows = f"per row {_percent(shares[0])} to {_percent(shares[-1])}"
        none = f"; {without} of {len(shares)} rows have none" if without else ""
        support = counted(self.support, "token")
        return f"{self} answer tokens are in the support of {support}, {rows}{none}"


def _percent(share: float) -> str:
    return f"{100 * share:z.0f} %"
