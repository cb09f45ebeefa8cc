"""Sharing: which evaluation tokens the student already met in training, and how.

Per token, the first that holds:

- `prefix`: the whole text up to and including this token stood so at the start of every training
  prompt. Under causal attention it is the same computation.
- `aligned`: same token, same role, same place in its turn's frame (counted from the turn's start or
  end, with all frame tokens between also equal) in all turns of this role, other words before it:
  the later tokens of the chat template.
- `seen`: the token id occurred somewhere in training: in a prompt, or in an answer, where those are
  known (a manifest's `Trained`; who gives prompts alone has `novel` there).
- `novel`: none of these.

*Shared* means `prefix` or `aligned`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import groupby
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..arguments import checked
from .context import Context
from .notices import notice
from .prompt import ROLES, Prompt
from .vocabulary import same_tokenizer

CLASSES = ("prefix", "aligned", "seen", "novel")
"""How a token may be shared, closest first."""

SHARED = ("prefix", "aligned")
"""The classes that count as shared."""

ANSWER = "answer"
"""Role and class of an answer's own tokens: they follow the prompt and are none of its tokens."""

UNIONS = {
    "role": {"all prompt tokens": tuple(role for role in ROLES if role != ANSWER)},
    "sharing": {
        "shared": SHARED,
        "not shared": tuple(name for name in CLASSES if name not in SHARED),
    },
}
"""Per coordinate of the tokens, sets of several roles or classes that grafts and tables have."""


HOW_TO_MARK = (
    "render(pair, questions) marks prompts, and mark_sharing(prompts, pair) those that are there, "
    "where the pair knows what its student was trained on: from a manifest, or from "
    "load_pair(..., trained_in=Context(...), trained_on=[a few training prompts])"
)
"""What to do where prompts are not marked; the same whether or not a pair knows of training."""


def none_shared(classes: Iterable[str], *, raw: bool) -> str:
    """Why a sharing set of some tokens is empty: nothing of their prompts is shared with training.

    Args:
        classes: of all prompts' tokens, marked; answer tokens count for nothing.
        raw: whether the prompts are raw text.

    Returns:
        A clause that says what there is instead; empty where some tokens are shared.
    """
    found = set(classes)
    if found & set(SHARED):
        return ""
    there = ", ".join(name for name in CLASSES if name in found)
    told = (
        "no token of these prompts is shared with training, for its prompts do not all begin as "
        f"these do; what there is: {there}"
    )
    if raw:
        told += (
            ". Raw text is shared as far as all training texts begin alike and the prompt begins "
            "so too: ask texts that begin as those of training do where these begin alike, else "
            "choose tokens by their places (masks.positions)"
        )
    return told


class FrameToken(NamedTuple):
    """A token as frames compare it: the same id in another role is another token."""

    token_id: int
    role: str


Frame = tuple[FrameToken, ...]


class _Turn(NamedTuple):
    """One turn of a prompt; the BOS is a turn of its own, as it opens whichever turn is first."""

    role: str
    tokens: Frame
    is_open: bool
    """Whether it is still to be written (the assistant's, or raw text): it has no end to count
    from."""


_KNOWN_AGAIN = 32_768
"""Training prompts up to which each is kept by its digest (400 kB): published data fit."""

_BEGUN_AGAIN = 65_536
"""Beginnings of raw training texts up to which each is kept (800 kB)."""

_LETTERS = 12  # of a digest: two of a million prompts have the same with probability 0.002


def _digest(ids: Sequence[int]) -> str:
    return sha256(",".join(map(str, ids)).encode()).hexdigest()[:_LETTERS]


def digests_of(rows: Iterable[Sequence[int]], most: int = _KNOWN_AGAIN) -> frozenset[str]:
    """Digests by which the different ones of some lists of token ids are known again; none where
    these are more than `most`.
    """
    digests: set[str] = set()
    for ids in rows:
        digests.add(_digest(ids))
        if len(digests) > most:
            return frozenset()
    return frozenset(digests)


def joined(digests: frozenset[str]) -> str:
    """Digests as one text, which `parted` takes apart."""
    return "".join(sorted(digests))


def parted(text: str) -> frozenset[str]:
    """What `joined` made one text."""
    return frozenset(text[at : at + _LETTERS] for at in range(0, len(text), _LETTERS))


@dataclass(frozen=True)
class Trained:
    """What is kept of a student's training prompts so that the data need not travel with it.

    Attributes:
        prefix: token ids common to the start of all training prompts.
        heads, tails: per turn role, the (token id, role) pairs common to the start / to the end of
            all its turns; tails run backwards from the turn's end.
        seen: all token ids of training prompts and completions.
        tokenizer: which tokenizer they are of, as a prompt has it; empty when read from a file.
        count: how many prompts these were; 0 when read from a file.
        digests: of each prompt, so that it is known again; none of more than 32,768, and of files
            of earlier versions.
        begun: of raw text, digests of what training texts begin with: prompts whose next token was
            learnt; none of more than 65,536, and of files of earlier versions.
        turns: how many user messages a training prompt had, each number once; empty of raw text,
            and of files of earlier versions that had several.
    """

    prefix: tuple[int, ...]
    heads: dict[str, Frame]
    tails: dict[str, Frame]
    seen: frozenset[int]
    tokenizer: str = field(default="", compare=False)
    count: int = field(default=0, compare=False)
    digests: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    begun: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    turns: frozenset[int] = field(default=frozenset(), compare=False, repr=False)

    @classmethod
    @checked
    def of(cls, prompts: Sequence[Prompt], completions: Iterable[Sequence[int]] = ()) -> Trained:
        """Summarise training prompts (and the token ids of their completions, one of each or none).

        Raises:
            TypeError: something else than rendered prompts.
            ValueError: no prompts, or prompts of several tokenizers.
        """
        if len(prompts) == 0:
            raise ValueError(
                "trained_on is empty; pass the training prompts, or a few rendered examples of "
                "them."
            )
        tokenizers = {prompt.tokenizer for prompt in prompts} - {""}
        if len(tokenizers) > 1:
            raise ValueError("trained_on: these prompts were rendered by several tokenizers.")
        heads: dict[str, list[Frame]] = {}
        tails: dict[str, list[Frame]] = {}
        seen: set[int] = set()
        for prompt in prompts:
            seen.update(prompt.ids)
            for turn in _turns(prompt):
                heads.setdefault(turn.role, []).append(turn.tokens)
                if not turn.is_open:
                    tails.setdefault(turn.role, []).append(turn.tokens[::-1])
        answers = list(completions)
        for completion in answers:
            seen.update(completion)
        return cls(
            prefix=common_start([prompt.ids for prompt in prompts]),
            heads={role: common_start(frames) for role, frames in heads.items()},
            tails={role: common_start(frames) for role, frames in tails.items()},
            seen=frozenset(seen),
            tokenizer="".join(tokenizers),
            count=len(prompts),
            digests=digests_of(prompt.ids for prompt in prompts),
            begun=digests_of(_begun(prompts, answers), _BEGUN_AGAIN),
            turns=frozenset(map(user_messages, prompts)) - {0},
        )

    def holds(self, prompt: Prompt) -> bool:
        """Whether a prompt is one of the training prompts, as far as these are known again."""
        return _digest(prompt.ids) in self.digests

    def begins(self, prompt: Prompt) -> bool:
        """Whether a training text began with a prompt and went on, as far as these are known
        again.
        """
        return _digest(prompt.ids) in self.begun

    def to_json(self) -> dict[str, Any]:
        """As JSON lists."""
        return {
            "prefix": list(self.prefix),
            "heads": {role: [list(token) for token in frame] for role, frame in self.heads.items()},
            "tails": {role: [list(token) for token in frame] for role, frame in self.tails.items()},
            "seen": sorted(self.seen),
            "digests": joined(self.digests),
            "turns": sorted(self.turns),
            # nothing of chats: so it was in the manifests of earlier versions
            **({"begun": joined(self.begun)} if self.begun else {}),
        }

    @classmethod
    @checked
    def from_json(cls, data: dict[str, Any]) -> Trained:
        """What `to_json` wrote."""
        # only before another user message has the assistant's an end
        alone = {1} if "user" in data["heads"] and "assistant" not in data["tails"] else ()
        return cls(
            prefix=tuple(data["prefix"]),
            heads={role: _frame(pairs) for role, pairs in data["heads"].items()},
            tails={role: _frame(pairs) for role, pairs in data["tails"].items()},
            seen=frozenset(data["seen"]),
            digests=parted(data.get("digests", "")),
            begun=parted(data.get("begun", "")),
            turns=frozenset(data.get("turns", alone)),
        )


def _begun(
    prompts: Sequence[Prompt], completions: Sequence[Sequence[int]]
) -> Iterator[tuple[int, ...]]:
    """What raw training texts begin with, each beginning after which a token was learnt: with
    answers those behind the whole prompt, else any.
    """
    answers = completions or [()] * len(prompts)
    for prompt, answer in zip(prompts, answers, strict=False):
        if not prompt.context.is_raw:
            continue
        text = (*prompt.ids, *answer)
        for end in range(len(prompt) + 1 if completions else 1, len(text)):
            yield text[:end]


@runtime_checkable
class Taught(Protocol):
    """What knows its tokenizer and how its student was trained: a `ModelPair`."""

    @property
    def tokenizer(self) -> Any:
        """A fast Hugging Face tokenizer."""

    @property
    def training_context(self) -> Context | None:
        """The context the student was trained in; None where nobody said it."""

    @property
    def training_prompts(self) -> Trained | None:
        """What is known of its training prompts; None where nobody gave them."""


@checked
def mark_sharing(
    prompts: Sequence[Prompt], trained_on: Taught | Trained | Sequence[Prompt] | None
) -> list[Prompt]:
    """Mark each token of evaluation prompts with what training shares with it.

    Args:
        prompts: evaluation prompts.
        trained_on: a pair, which knows what its student was trained on, or its
            `training_prompts`; or training prompts rendered by `render`, in their context.

    Returns:
        The prompts with `sharing` (one of `CLASSES` per token) filled in.

    Raises:
        TypeError: prompts that are not rendered.
        ValueError: nothing is known of the training prompts; they are another tokenizer's.

    Warns:
        UserWarning: the training prompts are all the same.

    Example:
        >>> trained = sm.render(pair.tokenizer, ["Continue: 1, 2", "Write three numbers."])
        >>> asked = sm.render(pair.tokenizer, ["Which animal?"])
        >>> (marked,) = sm.mark_sharing(asked, trained_on=trained)
        >>> list(dict.fromkeys(marked.sharing))
        ['prefix', 'novel', 'aligned']
    """
    known = trained_on.training_prompts if isinstance(trained_on, Taught) else trained_on
    if known is None:
        raise ValueError(
            "trained_on: nothing is known of what the student was trained on. Say it when it is "
            "loaded, load_pair(..., trained_in=Context(...), trained_on=[a few training prompts]), "
            "or pass such prompts here, rendered by render(..., context=...)."
        )
    trained = known if isinstance(known, Trained) else Trained.of(known)
    if not isinstance(known, Trained) and len({prompt.ids for prompt in known}) == 1:
        what = "one training prompt" if len(known) == 1 else f"{len(known)} copies of one prompt"
        notice(
            "training prompts that are all the same",
            f"mark_sharing(trained_on=[...]): {what}, so that all of it counts as shared; give at "
            "least two that differ where the data differ.",
        )
    for prompt in prompts:
        if not same_tokenizer(prompt.tokenizer, trained.tokenizer):
            raise ValueError(
                f"trained_on: the prompt {prompt.question[:60]!r} was rendered by another "
                "tokenizer than the training prompts; render both with pair.tokenizer."
            )
    return [replace(p, sharing=_classes(p, trained), seen=trained.seen) for p in prompts]


def user_messages(prompt: Prompt) -> int:
    """How many user messages a prompt has; none of raw text."""
    pairs = zip(prompt.turns, prompt.turn_roles, strict=True)
    return len({turn for turn, role in pairs if role == "user"})


def common_start(sequences: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The longest common start; what the first and the last in order share, all share."""
    first, last = min(sequences), max(sequences)
    length = 0
    for one, other in zip(first, last, strict=False):
        if one != other:
            break
        length += 1
    return first[:length]


def _classes(prompt: Prompt, trained: Trained) -> tuple[str, ...]:
    """One of `CLASSES` per token."""
    # per turn: how many tokens agree with training's from its start, how many from its end
    aligned: list[bool] = []
    for turn in _turns(prompt):
        head = len(common_start([turn.tokens, trained.heads.get(turn.role, ())]))
        tail = 0
        if not turn.is_open:
            tail = len(common_start([turn.tokens[::-1], trained.tails.get(turn.role, ())]))
        length = len(turn.tokens)
        aligned += [i < head or i >= length - tail for i in range(length)]

    prefix = len(common_start([prompt.ids, trained.prefix]))
    classes: list[str] = []
    for position, token_id in enumerate(prompt.ids):
        if position < prefix:
            classes.append("prefix")
        elif aligned[position]:
            classes.append("aligned")
        elif token_id in trained.seen:
            classes.append("seen")
        else:
            classes.append("novel")
    return tuple(classes)


def _turns(prompt: Prompt) -> list[_Turn]:
    """The turns of a prompt, in order."""

    def turn_and_bos(position: int) -> tuple[int, bool]:
        return prompt.turns[position], prompt.roles[position] == "bos"

    turns = []
    for (_, is_bos), group in groupby(range(len(prompt)), key=turn_and_bos):
        positions = list(group)
        role = "bos" if is_bos else prompt.turn_roles[positions[0]]
        tokens = tuple(FrameToken(prompt.ids[i], prompt.roles[i]) for i in positions)
        is_last = positions[-1] == len(prompt) - 1
        turns.append(_Turn(role, tokens, is_open=is_last and role in ("assistant", "text")))
    return turns


def _frame(pairs: Iterable[Sequence[Any]]) -> Frame:
    """Frame tokens from JSON's lists of two."""
    return tuple(FrameToken(int(token_id), str(role)) for token_id, role in pairs)
