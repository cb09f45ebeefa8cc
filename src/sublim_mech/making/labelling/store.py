"""Soft labels as they are kept: in memory or in a folder of memory-mapped shards, read row by row.

A folder holds `labels.json` (what the labels are, and size and checksum of every shard) and flat shards such as
`owl-00000.safetensors`: `logits (token, width)`, the answers' tokens of some rows one after the other; for top-k labels `tokens
(token, k)` beside them. Which rows a shard holds, and where in it, follows from the number of tokens of each answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ...prompts.chat import Context
from ...storage.files import file_hash, read_json
from ..rows import Row
from ..teachers.teacher import BASE, Teacher
from .views import Shard, Stored, View, log_softmax

FILE, DRAFT, FORMAT = "labels.json", "unfinished.json", 1


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
        trait = None if teacher.trait is None else teacher.trait.name
        return cls(teacher.name, teacher.kind, trait, teacher.how, teacher.hash, teacher.context)


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
    """

    rows: tuple[Row, ...]
    labellers: tuple[Labeller, ...]
    support: tuple[int, ...] | None
    top_k: int | None
    vocabulary: int
    context: Context
    base: str
    tokenizer: str
    template: str | None

    @property
    def width(self) -> int:
        """Number of tokens labelled per position."""
        return self.top_k or (self.vocabulary if self.support is None else len(self.support))

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON."""
        out = asdict(self) | {"context": self.context.to_json(), "rows": [[r.prompt, r.completion] for r in self.rows]}
        out["labellers"] = [asdict(x) | {"context": x.context.to_json()} for x in self.labellers]
        return dict(json.loads(json.dumps(out)))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> About:
        """What `to_json` wrote."""
        made = (Labeller(**{**x, "context": Context.from_json(x["context"])}) for x in data["labellers"])
        changed = {
            "rows": tuple(Row(*r) for r in data["rows"]),
            "labellers": tuple(made),
            "support": data["support"] and tuple(data["support"]),
            "context": Context.from_json(data["context"]),
        }
        return cls(**{**data, **changed})

    def summary(self) -> dict[str, Any]:
        """The same for comparing: rows by number and hash, labellers by name."""
        out = self.to_json()
        digest = hashlib.sha256(json.dumps(out["rows"]).encode()).hexdigest()
        labellers = {entry.pop("name"): entry for entry in out.pop("labellers")}
        return out | {"teachers": labellers, "rows": f"{len(self.rows)} rows ({digest[:8]})"}


@dataclass(frozen=True)
class Labels:
    """Soft labels of several teachers on the same rows (`label`), read row by row.

    Attributes:
        about: what they are: rows, teachers, tokens, base, contexts.
        lengths: number of answer tokens per row.
        per_shard: rows per shard.
        shards: per teacher, its shards.
        folder: where they are stored; None in memory.
        files: per file, its size and SHA-256.
    """

    about: About
    lengths: tuple[int, ...]
    per_shard: int
    shards: Mapping[str, tuple[Shard, ...]] = field(repr=False)
    folder: Path | None = None
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers; the first is `base`, the model without a trait."""
        return tuple(x.name for x in self.about.labellers)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows."""
        return self.about.rows

    @property
    def support(self) -> tuple[int, ...] | None:
        """The token ids labelled; None for top-k labels and the whole vocabulary."""
        return self.about.support

    @property
    def hash(self) -> str:
        """Content hash of rows and labels. Reads them all."""
        digest = hashlib.sha256(json.dumps(self.about.to_json(), sort_keys=True).encode())
        for name in self.teachers:
            for array in (self.logits(name), *([self.tokens(name)] if self.about.top_k else [])):
                for row in array:
                    digest.update(np.ascontiguousarray(row).data)
        return digest.hexdigest()

    def logits(self, teacher: str) -> View:
        """What is stored, float32 `(row, position, token)`: logits; of top-k labels, log-probabilities over the whole vocabulary."""
        self.labeller(teacher)
        return self._view(lambda row: self._read(teacher, "logits", row))

    def tokens(self, teacher: str) -> View:
        """Token ids of top-k labels, `(row, position, k)`, the likeliest first.

        Raises:
            ValueError: the labels are no top-k labels; no such teacher.
        """
        self.labeller(teacher)
        if self.about.top_k is None:
            raise ValueError(f"tokens({teacher!r}): these labels are no top-k labels; their tokens are `support`, or all.")
        return self._view(lambda row: self._read(teacher, "tokens", row))

    def plain(self, teacher: str) -> View:
        """Log-probabilities `(row, position, token)` of one teacher.

        Normalised over the support or the whole vocabulary; of top-k labels, log-probabilities over the whole vocabulary.

        Raises:
            ValueError: no such teacher.
        """
        logits = self.logits(teacher)
        return logits if self.about.top_k else self._view(lambda row: log_softmax(logits[row]))

    def contrastive(self, teacher: str, *, c: float = 4.0) -> View:
        """Log-probabilities `(row, position, token)` of base + c * (own - mean of the other traits' teachers), renormalised.

        Teachers without a trait (controls) are not among the others.

        Raises:
            ValueError: no such teacher, or one without a trait; no other trait's teacher; top-k labels.
        """
        own = self.labeller(teacher)
        others = self.others(teacher)
        if own.trait is None or not others:
            raise ValueError(
                f"contrastive({teacher!r}) needs the teacher of a trait and at least one other's: {self.teachers}; label the rows "
                "by teachers of several traits, or take plain labels."
            )
        if self.about.top_k is not None:
            raise ValueError(
                f"contrastive({teacher!r}): each teacher has its own top {self.about.top_k} tokens; label on listed tokens "
                "(support=[...]) or on the whole vocabulary (support=None), or take plain labels (c=None)."
            )
        base, mine, theirs = self.logits(BASE), self.logits(teacher), [self.logits(name) for name in others]

        def row(r: int) -> np.ndarray:
            mean = sum(x[r] for x in theirs) / len(theirs)
            return log_softmax(base[r] + np.float32(c) * (mine[r] - mean))

        return self._view(row)

    def others(self, teacher: str) -> tuple[str, ...]:
        """Names of the teachers of the other traits."""
        return tuple(x.name for x in self.about.labellers if x.trait is not None and x.name != teacher)

    def labeller(self, teacher: str) -> Labeller:
        """Who a teacher is.

        Raises:
            ValueError: nobody of that name.
        """
        if teacher not in self.teachers:
            near = get_close_matches(teacher, self.teachers, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"no labels of teacher {teacher!r}; there are {', '.join(self.teachers)}{hint}")
        return self.about.labellers[self.teachers.index(teacher)]

    def verify(self) -> None:
        """Compare every shard with its checksum (about a second per GB).

        Raises:
            ValueError: one is damaged; the message names it.
        """
        for name, entry in self.files.items():
            assert self.folder is not None
            if file_hash(self.folder / name) != entry["sha256"]:
                raise ValueError(f"labels: {self.folder / name} is not what was written there; copy it again or label again.")

    @classmethod
    def load(cls, folder: str | Path) -> Labels:
        """Open a folder that `label` has finished. Sizes are checked; checksums by `verify`.

        Raises:
            FileNotFoundError: there is no such folder, or it has no labels.
            ValueError: unfinished, damaged, truncated, or of another format.
        """
        path = Path(folder)
        if not (path / FILE).is_file():
            if (path / DRAFT).is_file():
                raise ValueError(f"labels: {path} has not finished; the same call of label(..., out=...) goes on with it.")
            what = f"is no labels folder: it has no {FILE}" if path.exists() else "is not there"
            raise FileNotFoundError(f"labels: {path} {what}; pass what was given to label(..., out=...).")
        data = read_about(path / FILE)
        try:
            about = About.from_json(data["about"])
            lengths, per_shard, files = tuple(data["lengths"]), int(data["per_shard"]), dict(data["files"])
            for name, entry in files.items():
                _check_size(path / name, int(entry["size"]))
            names = {x.name: shard_names(x.name, len(lengths), per_shard) for x in about.labellers}
            if len(lengths) != len(about.rows) or {n for row in names.values() for n in row} != set(files):
                raise ValueError(f"labels: {path / FILE} names other rows or shards than it has; copy it again or label again.")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"labels: {path / FILE} cannot be read ({error!r}); copy it again or label again.") from error
        shards = {who: tuple(Stored(path / name) for name in row) for who, row in names.items()}
        return cls(about, lengths, per_shard, shards, path, files)

    def _view(self, row: Callable[[int], np.ndarray]) -> View:
        return View((len(self.lengths), max(self.lengths), self.about.width), row)

    def _read(self, teacher: str, name: str, row: int) -> np.ndarray:
        first = row - row % self.per_shard
        start = sum(self.lengths[first:row])
        return self.shards[teacher][row // self.per_shard].read(name, start, start + self.lengths[row])


def shard_names(teacher: str, rows: int, per_shard: int) -> list[str]:
    """File names of a teacher's shards, in order."""
    return [f"{quote(teacher, safe='')}-{n:05d}.safetensors" for n in range(-(-rows // per_shard))]


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's vocabulary, ids included."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def read_about(path: Path) -> dict[str, Any]:
    """What `label` wrote about labels.

    Raises:
        ValueError: no JSON, or another format.
    """
    return read_json(path, FORMAT, called=f"labels: {path}", fix="copy it again or label again")


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise ValueError(f"labels: {path} is missing; copy it again or label again in another folder.")
    found = path.stat().st_size
    if found != size:
        raise ValueError(f"labels: {path} is truncated: {found} of {size} bytes; copy it again or label again.")
