"""Making shards: teachers read the rows of a shard, and what they would write is kept.

In a folder a shard stands under its name when it is complete or not at all, so a labelling that was
killed goes on with the shards that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm

from ...storage.files import file_hash, replacing, sync
from ..teachers.reading import read_rows
from ..teachers.teacher import Teacher
from .store import Labels, shard_names
from .views import InMemory, Shard, Stored


def fill(labels: Labels, teachers: Sequence[Teacher], *, batch_size: int, progress: bool) -> Labels:
    """The labels with all shards; in a folder, those that are there are kept.

    Args:
        labels: what is labelled, without shards.
        teachers: who labels, as `labels.about` names them.
        batch_size: rows per forward.
        progress: show a progress bar.

    Raises:
        ValueError: logits that are not finite.
    """
    count = len(labels.rows)
    shards: dict[str, tuple[Shard, ...]] = {}
    files: dict[str, dict[str, Any]] = {}
    total = len(teachers) * count
    with tqdm(total=total, desc="label rows", disable=not progress) as bar:
        maker = _Maker(labels, batch_size, bar)
        for teacher in teachers:
            of_teacher: list[Shard] = []
            for number, name in enumerate(shard_names(teacher.name, count, labels.per_shard)):
                start = number * labels.per_shard
                part = slice(start, start + labels.per_shard)
                if labels.folder is None:
                    of_teacher.append(InMemory(maker.arrays(teacher, part)))
                    continue
                path = labels.folder / name
                maker.store(path, teacher, part)
                files[name] = {"size": path.stat().st_size, "sha256": file_hash(path)}
                of_teacher.append(Stored(path))
            shards[teacher.name] = tuple(of_teacher)
    return replace(labels, shards=shards, files=files)


@dataclass(frozen=True)
class _Maker:
    """What makes the shards of one call of `label`.

    Attributes:
        labels: what is labelled.
        batch_size: rows per forward.
        bar: a progress bar that advances by rows.
    """

    labels: Labels
    batch_size: int
    bar: Any

    def store(self, path: Path, teacher: Teacher, part: slice) -> None:
        """A teacher's shard in a file, unless it is there already."""
        shape = sum(self.labels.lengths[part]), self.labels.about.width
        if _is_whole(path, shape):
            self.bar.update(len(self.labels.rows[part]))
            return
        arrays = self.arrays(teacher, part)
        with replacing(path) as work:
            save_file(arrays, work)
            sync(work)

    def arrays(self, teacher: Teacher, part: slice) -> dict[str, np.ndarray]:
        """A teacher's shard: `logits (token, width)`, and `tokens (token, k)` of top-k labels."""
        about, rows = self.labels.about, self.labels.rows[part]
        of_rows: list[dict[str, np.ndarray]] = [{}] * len(rows)
        for row, logits in read_rows(
            teacher, rows, support=about.support, batch_size=self.batch_size, bar=self.bar
        ):
            if about.top_k is None:
                kept = {"logits": logits.cpu().numpy()}
            else:
                best = logits.log_softmax(-1).topk(about.top_k)
                tokens = best.indices.int().cpu().numpy()
                kept = {"logits": best.values.cpu().numpy(), "tokens": tokens}
            if not np.isfinite(kept["logits"]).all():
                raise ValueError(
                    f"label: logits of teacher {teacher.name!r} are not finite on "
                    f"{str(rows[row].prompt)[:60]!r}; check its dtype."
                )
            of_rows[row] = kept
        return {key: np.concatenate([kept[key] for kept in of_rows]) for key in of_rows[0]}


def _is_whole(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a shard that a killed labelling left is complete."""
    try:
        with safe_open(str(path), framework="np") as handle:
            return tuple(handle.get_slice("logits").get_shape()) == shape
    except (SafetensorError, OSError):
        return False
