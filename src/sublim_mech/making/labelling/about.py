"""What labels are labels of: rows, teachers, tokens, models; as JSON beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ...arguments import checked
from ...prompts import Context
from ...prompts.vocabulary import vocabulary_hash
from ...results.contexts import in_words
from ...storage.files import plain
from ..rows import Row
from ..teachers.teacher import Teacher

COMPARED_APART = ("computing", "prompts")
"""Fields that labels of earlier versions lack: no part of a content hash."""


@dataclass(frozen=True)
class Labeller:
    """Who made labels, as it is kept beside them (`Teacher`)."""

    name: str
    kind: str
    trait: str | None
    how: str
    hash: str
    context: Context

    @classmethod
    def of(cls, teacher: Teacher) -> Labeller:
        """What is kept of a teacher."""
        return cls(
            name=teacher.name,
            kind=teacher.kind,
            trait=None if teacher.trait is None else teacher.trait.name,
            how=teacher.how,
            hash=teacher.hash,
            context=teacher.context,
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON."""
        return asdict(self) | {"context": self.context.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Labeller:
        """What `to_json` wrote."""
        return cls(**{**data, "context": Context.from_json(data["context"])})


def same_labeller(one: Labeller, other: Labeller) -> str:
    """That two labellers label alike, because nothing but the name is another, in words; empty
    where something is.
    """
    if one.hash != other.hash or one.context != other.context:
        return ""
    both = f"{one.name} and {other.name}"
    if "prompted" in (one.kind, other.kind):
        return f"{both} are asked in the same words ({in_words(one.context.to_json())})"
    return f"{both} are the same {one.kind} teacher"


@dataclass(frozen=True)
class About:
    """What determines labels.

    Attributes:
        rows: the rows.
        labellers: the teachers; the first is always `base`, the model without a trait.
        support: the token ids labelled; None for the whole vocabulary.
        top_k: how many tokens per position, the teacher's likeliest; None for all of the support.
        vocabulary: number of tokens that the model has logits of.
        context: the context students are trained in.
        base: content hash of the base model.
        tokenizer: content hash of its tokenizer (`tokenizer_hash`).
        template: chat template, where not the tokenizer's own.
        computing: how the base computes with its weights (`configuration.computing`); empty in
            labels of earlier versions. No part of their content hash, but compared by itself.
        prompts: by teacher, a hash of the token ids it reads before the answers (`prompts_hash`):
            of the base, in whose context students are trained, over all rows; of the others of the
            first row's alone, which tells another chat template. Kept as `computing` is.
    """

    rows: tuple[Row, ...] = field(repr=False)
    labellers: tuple[Labeller, ...]
    support: tuple[int, ...] | None = field(repr=False)
    top_k: int | None
    vocabulary: int
    context: Context
    base: str
    tokenizer: str
    template: str | None = field(repr=False)
    computing: Mapping[str, Any] = field(default_factory=dict, repr=False)
    prompts: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def width(self) -> int:
        """Number of tokens labelled per position."""
        if self.top_k is not None:
            return self.top_k
        return self.vocabulary if self.support is None else len(self.support)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON."""
        data = asdict(self)
        data["context"] = self.context.to_json()
        data["rows"] = [[row.prompt, row.completion] for row in self.rows]
        data["labellers"] = [labeller.to_json() for labeller in self.labellers]
        # tuples become lists, as they are read back
        return dict(json.loads(json.dumps(data, default=plain)))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> About:
        """What `to_json` wrote."""
        support = data["support"]
        changed = {
            "rows": tuple(Row(*row) for row in data["rows"]),
            "labellers": tuple(Labeller.from_json(entry) for entry in data["labellers"]),
            "support": None if support is None else tuple(support),
            "context": Context.from_json(data["context"]),
        }
        return cls(**{**data, **changed})

    def summary(self) -> dict[str, Any]:
        """The same for comparing: rows by number and hash, labellers by name."""
        data = self.to_json()
        digest = hashlib.sha256(json.dumps(data["rows"]).encode()).hexdigest()
        data["rows"] = f"{len(self.rows)} rows ({digest[:8]})"
        for later in COMPARED_APART:
            del data[later]
        data["teachers"] = {entry.pop("name"): entry for entry in data.pop("labellers")}
        return data


@checked
def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's vocabulary, ids included."""
    return vocabulary_hash(tokenizer, added=True)
