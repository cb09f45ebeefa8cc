"""Soft labels as they are kept, in memory or in a folder of memory-mapped shards; read row by row.

A folder holds `labels.json` (what the labels are, and size and checksum of every shard) and flat
shards such as `owl-00000.safetensors`: `logits (token, width)`, the answers' tokens of some rows
one after the other; for top-k labels `tokens (token, k)` beside them. Which rows a shard holds, and
where in it, follows from the number of tokens of each answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ...arguments import checked
from ...hints import counted, nearest
from ...storage.files import SEAL, edited, file_hash, json_hash, place, read_json
from ..rows import Row, count_words
from ..teachers.teacher import BASE, of_other_traits
from .about import COMPARED_APART, About, Labeller
from .coverage import Coverage
from .views import Shard, Stored, View, log_softmax

LABELS_FILE = "labels.json"
DRAFT_FILE = "unfinished.json"
"""What stands in place of `labels.json` until all shards are there."""

LABELS_FORMAT = 1


@dataclass(frozen=True, repr=False)
class Labels:
    """Soft labels of several teachers on the same rows (`label`), read row by row.

    Attributes:
        about: what they are: rows, teachers, tokens, base, contexts.
        lengths: number of answer tokens per row.
        per_shard: rows per shard.
        shards: per teacher, its shards.
        folder: where they are stored; None in memory.
        files: per file, its size and SHA-256.
        covered: per row, how many of the answer's tokens are in the support; None where all tokens
            are labelled, and of labels that were stored before this was counted.
    """

    about: About
    lengths: tuple[int, ...]
    per_shard: int
    shards: Mapping[str, tuple[Shard, ...]]
    folder: Path | None = None
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    covered: tuple[int, ...] | None = field(default=None, compare=False)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers; the first is `base`, the model without a trait."""
        return tuple(labeller.name for labeller in self.about.labellers)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows."""
        return self.about.rows

    @property
    def support(self) -> tuple[int, ...] | None:
        """The token ids labelled; None for top-k labels and the whole vocabulary."""
        return self.about.support

    @property
    def coverage(self) -> Coverage | None:
        """How many of the answers' tokens are in the support; None where `covered` is."""
        if self.covered is None:
            return None
        return Coverage(self.covered, self.lengths, len(self.support or ()))

    def __repr__(self) -> str:
        distinct = len({row.key for row in self.rows})
        rows = count_words(len(self.rows), distinct, "row")
        tokens = counted(self.about.width, "token")
        if self.about.top_k is not None:
            tokens = f"the {counted(self.about.top_k, 'likeliest token')}"
        covered = "" if self.coverage is None else f", {self.coverage} of the answers' tokens in it"
        where = "in memory" if self.folder is None else f"in {str(self.folder)!r}"
        return f"Labels({rows} by {', '.join(self.teachers)}; {where}\n  on {tokens}{covered})"

    @property
    def hash(self) -> str:
        """Content hash of rows and labels. Reads them all."""
        about = self.about.to_json()
        for later in COMPARED_APART:  # the labels themselves say what came of it
            del about[later]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for name in self.teachers:
            stored = [self.logits(name)]
            if self.about.top_k:
                stored.append(self.tokens(name))
            for view in stored:
                for row in view:
                    digest.update(np.ascontiguousarray(row).data)
        return digest.hexdigest()

    # ---------------------------------------------------------------------------------------- views

    @checked
    def logits(self, teacher: str) -> View:
        """What is stored, float32 `(row, position, token)`.

        That is logits; of top-k labels, log-probabilities over the whole vocabulary.

        Raises:
            ValueError: no such teacher.
        """
        self.labeller(teacher)
        return self._view(lambda row: self._read(teacher, "logits", row))

    @checked
    def tokens(self, teacher: str) -> View:
        """Token ids of top-k labels, `(row, position, k)`, the likeliest first.

        Raises:
            ValueError: the labels are no top-k labels; no such teacher.
        """
        self.labeller(teacher)
        if self.about.top_k is None:
            raise ValueError(
                f"tokens({teacher!r}): these labels are no top-k labels; their tokens are "
                "`support`, or all."
            )
        return self._view(lambda row: self._read(teacher, "tokens", row))

    @checked
    def plain(self, teacher: str) -> View:
        """Log-probabilities `(row, position, token)` of one teacher.

        Normalised over the support or the whole vocabulary; of top-k labels, log-probabilities over
        the whole vocabulary.

        Raises:
            ValueError: no such teacher.
        """
        logits = self.logits(teacher)
        if self.about.top_k:
            return logits
        return self._view(lambda row: log_softmax(logits[row]))

    @checked
    def contrastive(self, teacher: str, *, c: float = 4.0) -> View:
        """Log-probabilities of base + c * (own - mean of the other traits' teachers), renormalised.

        Teachers without a trait (controls) are not among the others.

        Returns:
            `(row, position, token)`.

        Raises:
            ValueError: no such teacher, or one without a trait; no other trait's teacher; top-k
                labels.
        """
        others = self.others(teacher)
        if self.labeller(teacher).trait is None or not others:
            raise ValueError(
                f"contrastive({teacher!r}) needs the teacher of a trait and at least one other's: "
                f"{self.teachers}; label the rows by teachers of several traits, or take plain "
                "labels."
            )
        if self.about.top_k is not None:
            raise ValueError(
                f"contrastive({teacher!r}): each teacher has its own top {self.about.top_k} "
                "tokens; label on listed tokens (support=[...]) or on the whole vocabulary "
                "(support=None), or take plain labels (c=None)."
            )
        base, labels = self.logits(BASE), self.logits(teacher)
        other_labels = [self.logits(name) for name in others]

        def contrast(row: int) -> np.ndarray:
            mean = sum(view[row] for view in other_labels) / len(other_labels)
            return log_softmax(base[row] + np.float32(c) * (labels[row] - mean))

        return self._view(contrast)

    @checked
    def others(self, teacher: str) -> tuple[str, ...]:
        """Names of the teachers of the other traits; none of them has the trait of this one.

        Raises:
            ValueError: no such teacher.
        """
        self.labeller(teacher)
        return of_other_traits(teacher, {one.name: one.trait for one in self.about.labellers})

    @checked
    def other_kinds(self, teacher: str) -> Mapping[str, tuple[str, ...]]:
        """Who of the others is of which kind (`Teacher.kind`); empty where all are of this one's.

        Raises:
            ValueError: no such teacher.
        """
        found: dict[str, tuple[str, ...]] = {}
        for name in self.others(teacher):
            kind = self.labeller(name).kind
            found[kind] = (*found.get(kind, ()), name)
        return {} if found.keys() <= {self.labeller(teacher).kind} else found

    @checked
    def labeller(self, teacher: str) -> Labeller:
        """Who a teacher is.

        Raises:
            ValueError: nobody of that name.
        """
        if teacher not in self.teachers:
            hint = nearest(teacher, self.teachers) or "."
            raise ValueError(
                f"no labels of teacher {teacher!r}; there are {', '.join(self.teachers)}{hint}"
            )
        return self.about.labellers[self.teachers.index(teacher)]

    def _view(self, read_row: Callable[[int], np.ndarray]) -> View:
        shape = len(self.lengths), max(self.lengths), self.about.width
        return View(shape, read_row)

    def _read(self, teacher: str, name: str, row: int) -> np.ndarray:
        """A row's tokens, from their place in the row's shard."""
        first_of_shard = row - row % self.per_shard
        start = sum(self.lengths[first_of_shard:row])
        shard = self.shards[teacher][row // self.per_shard]
        return shard.read(name, start, start + self.lengths[row])

    # -------------------------------------------------------------------------------------- folders

    def verify(self) -> None:
        """Compare every shard with its checksum (about a second per GB).

        Raises:
            ValueError: one is damaged; the message names it.
        """
        for name, entry in self.files.items():
            assert self.folder is not None
            if file_hash(self.folder / name) != entry["sha256"]:
                raise ValueError(
                    f"labels: {self.folder / name} is not what was written there; copy it again "
                    "or label again in another folder."
                )

    @classmethod
    @checked
    def load(cls, folder: str | Path) -> Labels:
        """Open a folder that `label` has finished. Sizes are checked; checksums by `verify`.

        Raises:
            FileNotFoundError: there is no such folder, or it has no labels.
            ValueError: unfinished, damaged, truncated, edited, or of another format.
        """
        path = place(folder, "folder")
        _check_finished(path)
        data = read_about(path / LABELS_FILE)
        try:
            about = About.from_json(data["about"])
            lengths, per_shard = tuple(data["lengths"]), int(data["per_shard"])
            covered = data.get("covered")  # labels of earlier versions have not counted
            files = dict(data["files"])
            for name, entry in files.items():
                _check_size(path / name, int(entry["size"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"labels: {path / LABELS_FILE} cannot be read ({error!r}); copy it again or label "
                "again in another folder."
            ) from error

        # which shards there must be follows from the rows and the teachers
        names = {}
        for labeller in about.labellers:
            names[labeller.name] = shard_names(labeller.name, len(lengths), per_shard)
        expected = {name for of_teacher in names.values() for name in of_teacher}
        if len(lengths) != len(about.rows) or expected != set(files):
            raise ValueError(
                f"labels: {path / LABELS_FILE} names other rows or shards than it has; copy it "
                "again or label again in another folder."
            )
        shards = {}
        for teacher, of_teacher in names.items():
            shards[teacher] = tuple(Stored(path / name) for name in of_teacher)
        return cls(
            about,
            lengths,
            per_shard,
            shards,
            folder=path,
            files=files,
            covered=None if covered is None else tuple(covered),
        )


def shard_names(teacher: str, rows: int, per_shard: int) -> list[str]:
    """File names of a teacher's shards, in order."""
    count = -(-rows // per_shard)
    return [f"{quote(teacher, safe='')}-{number:05d}.safetensors" for number in range(count)]


def read_about(path: Path) -> dict[str, Any]:
    """What `label` wrote about labels, as its seal says; that of earlier versions has none.

    Raises:
        ValueError: no JSON, another format, or edited.
    """
    fix = "copy it again or label again in another folder"
    data = read_json(path, LABELS_FORMAT, called=f"labels: {path}", fix=fix)
    seal = data.pop(SEAL, None)
    if seal is not None and seal != json_hash(data):
        raise edited(f"labels: {path}", fix)
    return data


def _check_finished(path: Path) -> None:
    """Raise where a folder has no finished labels."""
    if (path / LABELS_FILE).is_file():
        return
    if (path / DRAFT_FILE).is_file():
        raise ValueError(
            f"labels: {path} has not finished; the same call of label(..., out=...) goes on with "
            "it."
        )
    what = f"is no labels folder: it has no {LABELS_FILE}" if path.exists() else "is not there"
    raise FileNotFoundError(f"labels: {path} {what}; pass what was given to label(..., out=...).")


def _check_size(path: Path, size: int) -> None:
    """Raise ValueError where a shard is missing or not as long as it was."""
    if not path.is_file():
        raise ValueError(
            f"labels: {path} is missing; copy it again or label again in another folder."
        )
    there = path.stat().st_size
    if there != size:
        raise ValueError(
            f"labels: {path} is truncated: {there} of {size} bytes; copy it again or label again "
            "in another folder."
        )
