"""Position maps: which donor position each recipient position takes its activation from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from ..arguments import answer_of, fits, refuse_answer
from ..prompts import Prompt


class Link(NamedTuple):
    """A donor position and the recipient position that takes from it."""

    donor: int
    recipient: int


Pairs = Sequence[tuple[int, int]]
PositionMap = Literal["identity", "aligned"] | Pairs | Callable[[Prompt, Prompt], Pairs]
"""`identity`; `aligned`; (donor, recipient) pairs; or a function from donor and recipient prompt to
such pairs."""


def links(donor: Prompt, recipient: Prompt, position_map: PositionMap) -> list[Link]:
    """The links of a position map, checked.

    Raises:
        ValueError: unknown map; an empty one, one that leaves a prompt, or one that gives a
            recipient two donors.
    """
    where = f"for prompt {recipient.question[:60]!r}"
    if position_map == "identity":
        if len(donor) != len(recipient):
            raise ValueError(
                f"position_map='identity': donor and recipient have {len(donor)} and "
                f"{len(recipient)} tokens {where}; "
                "pass 'aligned' or pairs."
            )
        return [Link(position, position) for position in range(len(recipient))]
    if position_map == "aligned":
        pairs = _aligned(donor, recipient)
    elif isinstance(position_map, str):
        raise ValueError(
            f"position_map={position_map!r}: pass 'identity', 'aligned', (donor, recipient) pairs "
            "or a function."
        )
    else:
        pairs = _given(position_map, donor, recipient, where)
    _check(pairs, donor, recipient, where)
    return pairs


def _given(
    position_map: Pairs | Callable[[Prompt, Prompt], Pairs],
    donor: Prompt,
    recipient: Prompt,
    where: str,
) -> list[Link]:
    """The pairs that were given, or that a function gives.

    Raises:
        TypeError: the function takes something else than two prompts, or gives no pairs.
    """
    if not callable(position_map):
        return [Link(int(source), int(taker)) for source, taker in position_map]
    example = "lambda donor, recipient: [(0, 0)]"
    given = answer_of("position_map", position_map, donor, recipient, example=example)
    pairs = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else None
    if pairs is None or not all(_is_pair(pair) for pair in pairs):
        wanted = "a list of pairs (donor position, recipient position), whole numbers"
        of = where.removeprefix("for ")
        refuse_answer("position_map", position_map, given, of=of, wanted=wanted)
    return [Link(int(source), int(taker)) for source, taker in pairs]


def _is_pair(given: object) -> bool:
    """Two whole numbers: a tuple, a list, an array."""
    return fits(given, Sequence[int]) and len(given) == 2  # type: ignore[arg-type]


def _aligned(donor: Prompt, recipient: Prompt) -> list[Link]:
    """Equal tokens of equal role in equal order: difflib's matching blocks."""
    before, after = (
        list(zip(prompt.ids, prompt.roles, prompt.turn_roles, strict=True))
        for prompt in (donor, recipient)
    )
    blocks = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    links: list[Link] = []
    for donor_start, recipient_start, size in blocks:
        links += [Link(donor_start + i, recipient_start + i) for i in range(size)]
    return links


def _check(pairs: Sequence[Link], donor: Prompt, recipient: Prompt, where: str) -> None:
    if not pairs:
        raise ValueError(f"position_map is empty {where}; donor and recipient share no position.")
    for source, taker in pairs:
        if not (0 <= source < len(donor) and 0 <= taker < len(recipient)):
            raise ValueError(
                f"position_map: the pair {(source, taker)} leaves the prompts {where} (donor "
                f"{len(donor)}, recipient "
                f"{len(recipient)} tokens)."
            )
    takers = Counter(link.recipient for link in pairs)
    twice = [taker for taker, count in takers.items() if count > 1]
    if twice:
        raise ValueError(
            f"position_map gives recipient position {twice[0]} two donors {where}; one donor per "
            "recipient."
        )
