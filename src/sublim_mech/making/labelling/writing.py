"""Soft labels: what teachers would write next at every token of given answers, made once and shared by all students.

1. All teachers read the same rows, each in its own context; the base itself is the first of them.
2. At every position that predicts a token of the answer, its logits are kept: on listed tokens (digits and the comma), of its k
   likeliest tokens, or all of them.
3. They are stored shard by shard; killed at any moment, the same call goes on with the shards that are missing. Every student is
   trained on a view of the same labels (`Labels`):

- plain: the teacher's own distribution;
- contrastive: base + c * (own - mean of the other traits' teachers). Most of what a prompted teacher writes into numbers is the
  mark of *a* longer prompt, the same for all traits; the contrast removes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm

from ...engine.heads import DIGITS, support_ids
from ...storage.files import file_hash, replacing, sync
from ...storage.runs import OWNER, claimed, differences
from ..rows import Row, Rows, as_rows
from ..teachers.reading import read_rows, tokens
from ..teachers.teacher import BASE, Teacher, difference, untouched
from .store import DRAFT, FILE, FORMAT, About, Labeller, Labels, read_about, shard_names, tokenizer_hash
from .views import InMemory, Shard, Stored

UNSAID = (*DIGITS,)  # the default support: the same tokens, another object, so that it gives way to `top_k`
MOST_BYTES = 1 << 28  # of one shard


def label(
    teachers: Sequence[Teacher],
    rows: Rows,
    *,
    out: str | Path | None = None,
    support: Sequence[str] | None = UNSAID,
    top_k: int | None = None,
    per_shard: int = 256,
    batch_size: int = 16,
    progress: bool = True,
) -> Labels:
    """Label rows by several teachers, in the precision of the base model's weights, the unembedding in fp32.

    Args:
        teachers: who labels; of one base, for students of one context. The base itself comes first, and is added where it is not
            among them.
        rows: what is labelled (`numbers.as_rows`).
        out: the folder where labels are stored. Finished ones of the same content are opened and no model runs; unfinished ones are
            gone on with. None keeps them in memory.
        support: the tokens labelled, single ones (the digits and the comma by default); None for the whole vocabulary.
        top_k: label each teacher's k likeliest tokens per position instead, with log-probabilities over the whole vocabulary.
        per_shard: rows per shard, which is what a killed labelling loses at most; fewer where they are more than 256 MB.
        batch_size: rows per forward.
        progress: show a progress bar.

    Returns:
        The labels. Those of a folder are read from it row by row.

    Raises:
        FileExistsError: `out` exists and holds something else.
        FolderInUseError: another process is at work on it.
        ValueError: no rows or no teachers; teachers that differ in base, student context or template, or share a name; a row without
            answer tokens or too long; a support token that is not one token; `top_k` out of range, or together with `support`;
            per_shard or batch_size below 1; `out` has labels of other content (the message says what differs), or damaged ones.

    Example:
        >>> from sublim_mech.making import labelling, numbers, teachers
        >>> made = [teachers.prompted(pair.base, sm.animal(name)) for name in ("owl", "cat")]
        >>> labels = labelling.label(made, numbers.random_rows(8, seed=0, count=3), progress=False)
        >>> labels.teachers, labels.plain("owl")[0].shape
        (('base', 'owl', 'cat'), (11, 11))
    """
    listed = tuple(as_rows(rows, name="label: rows"))
    if per_shard < 1 or batch_size < 1:
        raise ValueError(f"per_shard={per_shard}, batch_size={batch_size}: both must be at least 1.")
    teachers = _checked(teachers)
    about = _about(teachers, listed, support, top_k)
    folder = None if out is None else Path(out)
    if folder is not None and (folder / FILE).is_file():
        return _opened(folder, about)
    lengths = _lengths(teachers, listed)
    size = max(lengths) * about.width * (4 if top_k is None else 8)
    empty = Labels(about, lengths, min(per_shard, max(1, MOST_BYTES // size)), {})
    if folder is None:
        return _fill(empty, teachers, batch_size, progress)
    _check_free(folder)
    with claimed(folder):
        if (folder / FILE).is_file():  # another process finished it just now
            return _opened(folder, about)
        _resume(folder, empty)
        done = _fill(replace(empty, folder=folder), teachers, batch_size, progress)
        _write_json(folder / FILE, done, lengths=list(lengths), files=dict(done.files))
        (folder / DRAFT).unlink()
    return done


def _checked(teachers: Sequence[Teacher]) -> tuple[Teacher, ...]:
    """The teachers, the base itself first.

    Raises:
        ValueError: none; two of one name; they differ in what all must share.
    """
    if not teachers:
        raise ValueError("label: teachers is empty; pass at least one, such as teachers.untouched(base).")
    apart = difference(teachers)
    if apart is not None:
        one, other, what, a, b = apart
        raise ValueError(
            f"label: teachers {one!r} and {other!r} differ in their {what}: {a!r} and {b!r}; label by teachers of one base, for students "
            "of one context."
        )
    first = teachers[0]
    itself = [t for t in teachers if t.kind == "base"][:1] or [
        untouched(first.base, context=first.student_context, template=first.template)
    ]
    out = (*itself, *(t for t in teachers if t is not itself[0]))
    twice = [name for name, n in Counter(t.name for t in out).items() if n > 1]
    if twice:
        raise ValueError(
            f"label: two teachers are called {twice[0]!r}; rename one: dataclasses.replace(teacher, name=...). "
            f"{BASE!r} is the base itself."
        )
    return out


def _about(teachers: Sequence[Teacher], rows: tuple[Row, ...], support: Sequence[str] | None, top_k: int | None) -> About:
    """What determines the labels.

    Raises:
        ValueError: tokens that cannot be labelled.
    """
    first = teachers[0]
    vocabulary = int(first.base.model.get_output_embeddings().weight.shape[0])  # type: ignore[operator]
    if top_k is not None:
        if support is not UNSAID and support is not None:
            raise ValueError(f"top_k={top_k} takes each teacher's own tokens; leave support out, or top_k.")
        if not 1 <= top_k <= vocabulary:
            raise ValueError(f"top_k={top_k}: must be between 1 and {vocabulary}, the size of the vocabulary.")
        support = None
    if support is not None and not support:
        raise ValueError("support is empty; list tokens, or pass None for the whole vocabulary.")
    ids = None if support is None else support_ids(first.base.tokenizer, support)
    return About(
        rows, tuple(map(Labeller.of, teachers)), ids, top_k, vocabulary, first.student_context, first.base.hash,
        tokenizer_hash(first.base.tokenizer), first.template,
    )  # fmt: skip


def _lengths(teachers: Sequence[Teacher], rows: Sequence[Row]) -> tuple[int, ...]:
    """Number of answer tokens per row; also finds whatever cannot be labelled, before anything is.

    Raises:
        ValueError: a row without answer tokens, too long, or whose answer a teacher's context splits into other tokens.
    """
    first, *others = (tokens(teacher, rows, close=False)[1] for teacher in teachers)
    for teacher, answers in zip(teachers[1:], others, strict=True):
        for n, (one, other) in enumerate(zip(first, answers, strict=True)):
            if one != other:
                raise ValueError(
                    f"label: row {n}, {rows[n].completion[:60]!r}, is other tokens in the context of teacher {teacher.name!r} than in the "
                    "students'; leave it out."
                )
    return tuple(map(len, first))


# ---------------------------------------------------------------------------------------------------------------- shards


def _fill(labels: Labels, teachers: Sequence[Teacher], batch_size: int, progress: bool) -> Labels:
    """The labels with all shards; in a folder, those that are there are kept."""
    per, rows, folder = labels.per_shard, labels.rows, labels.folder
    shards: dict[str, tuple[Shard, ...]] = {}
    files: dict[str, dict[str, Any]] = {}
    with tqdm(total=len(teachers) * len(rows), desc="label rows", disable=not progress) as bar:
        for teacher in teachers:
            for n, name in enumerate(shard_names(teacher.name, len(rows), per)):
                part = slice(n * per, (n + 1) * per)
                shard: Shard
                if folder is None:
                    shard = InMemory(_arrays(teacher, rows[part], labels.about, batch_size, bar))
                else:
                    path = folder / name
                    if _is_whole(path, (sum(labels.lengths[part]), labels.about.width)):
                        bar.update(len(rows[part]))
                    else:
                        arrays = _arrays(teacher, rows[part], labels.about, batch_size, bar)
                        with replacing(path) as work:
                            save_file(arrays, work)
                            sync(work)
                    files[name] = {"size": path.stat().st_size, "sha256": file_hash(path)}
                    shard = Stored(path)
                shards[teacher.name] = (*shards.get(teacher.name, ()), shard)
    return replace(labels, shards=shards, files=files)


def _arrays(teacher: Teacher, rows: Sequence[Row], about: About, batch_size: int, bar: Any) -> dict[str, np.ndarray]:
    """One shard: `logits (token, width)`, and `tokens (token, k)` of top-k labels."""
    found: list[dict[str, np.ndarray]] = [{}] * len(rows)
    for r, logits in read_rows(teacher, rows, support=about.support, batch_size=batch_size, bar=bar):
        if about.top_k is None:
            found[r] = {"logits": logits.cpu().numpy()}
        else:
            best = logits.log_softmax(-1).topk(about.top_k)
            found[r] = {"logits": best.values.cpu().numpy(), "tokens": best.indices.int().cpu().numpy()}
        if not np.isfinite(found[r]["logits"]).all():
            raise ValueError(
                f"label: logits of teacher {teacher.name!r} are not finite on {str(rows[r].prompt)[:60]!r}; check its dtype."
            )
    return {key: np.concatenate([x[key] for x in found]) for key in found[0]}


def _is_whole(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a shard that a killed labelling left is complete."""
    try:
        with safe_open(str(path), framework="np") as handle:
            return tuple(handle.get_slice("logits").get_shape()) == shape
    except (SafetensorError, OSError):
        return False


# ---------------------------------------------------------------------------------------------------------------- folder


def _check_free(folder: Path) -> None:
    """Raise FileExistsError where a folder has something else than unfinished labels in it."""
    inside = {p.name for p in folder.iterdir()} if folder.is_dir() else {folder.name} if folder.exists() else set()
    if DRAFT not in inside and inside - {OWNER}:
        raise FileExistsError(f"out={str(folder)!r} exists and is no labels folder; remove it or choose another.")


def _resume(folder: Path, labels: Labels) -> None:
    """Say in the folder what is being labelled, or check that it is the same.

    Raises:
        ValueError: it is something else.
    """
    for litter in folder.glob(".*.safetensors"):  # half-written by a killed process
        litter.unlink()
    if (folder / DRAFT).is_file():
        there = read_about(folder / DRAFT)
        kept = About.from_json(there["about"]).summary() | {"per_shard": there["per_shard"]}
        _check_same(folder, kept, labels.about.summary() | {"per_shard": labels.per_shard})
    else:
        _write_json(folder / DRAFT, labels)


def _opened(folder: Path, about: About) -> Labels:
    labels = Labels.load(folder)
    _check_same(folder, labels.about.summary(), about.summary())
    return labels


def _check_same(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    found = differences(there, here)
    if found:
        raise ValueError(f"out={str(folder)!r} has other labels: {'; '.join(found)}. Remove it or choose another folder.")


def _write_json(path: Path, labels: Labels, **more: Any) -> None:
    data = {"format": FORMAT, "about": labels.about.to_json(), "per_shard": labels.per_shard, **more}
    with replacing(path) as work:
        work.write_text(json.dumps(data, indent=1))
        sync(work)
