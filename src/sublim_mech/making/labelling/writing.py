"""Soft labels: what teachers would write next at every token of given answers.

They are made once and shared by all students.

1. All teachers read the same rows, each in its own context; the base itself is the first of them.
2. At every position that predicts a token of the answer, its logits are kept: on listed tokens
   (digits and the comma), of its k likeliest tokens, or all of them. Listed tokens that miss most
   of what the answers are made of are refused before anything runs (`Coverage`).
3. They are stored shard by shard; killed at any moment, the same call goes on with the shards that
   are missing. Every student is trained on a view of the same labels (`Labels`):

- plain: the teacher's own distribution;
- contrastive: base + c * (own - mean of the other traits' teachers). Most of what a prompted
  teacher writes into numbers is the mark of *a* longer prompt, the same for all traits; the
  contrast removes it.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from ...arguments import checked
from ...engine.heads import support_ids
from ...hints import outside
from ...models.configuration import computed_apart, computing
from ...models.devices import without_autocast
from ...prompts import Prompt
from ...prompts.notices import said_before
from ...prompts.written import check_answers
from ...storage.claims import OWNER_FILE, claimed
from ...storage.compare import differences, side_by_side
from ...storage.files import check_place, place, replacing, sealed, sync
from ...storage.manifest import prompts_hash
from ..rows import Row, Rows, as_rows
from ..teachers.prompting import untouched
from ..teachers.reading import tokenise
from ..teachers.teacher import BASE, Teacher, difference
from .about import About, Labeller, same_labeller, tokenizer_hash
from .coverage import Coverage
from .shards import fill
from .store import DRAFT_FILE, LABELS_FILE, LABELS_FORMAT, Labels, read_about

DIGITS = (*"0123456789", ",")
"""What numbers are written with, in most tokenizers one token each."""

UNSAID = (*DIGITS,)  # the default support: the same, another object, so that it gives way to top_k
MOST_BYTES = 1 << 28  # of one shard


@checked
@without_autocast()
def label(
    teachers: Sequence[Teacher],
    rows: Rows,
    *,
    out: str | Path | None = None,
    support: Sequence[str] | None = UNSAID,
    top_k: int | None = None,
    allow_low_coverage: bool = False,
    per_shard: int = 256,
    batch_size: int = 16,
    progress: bool = True,
) -> Labels:
    """Label rows by several teachers, each as its runner computes, the unembedding in fp32.

    Args:
        teachers: who labels; of one base, for students of one context. The base itself comes first,
            and is added where it is not among them.
        rows: what is labelled (`numbers.as_rows`).
        out: the folder where labels are stored. Finished ones of the same content are opened and no
            model runs; unfinished ones are gone on with. None keeps them in memory.
        support: the tokens labelled, single ones (the digits and the comma by default); None for
            the whole vocabulary.
        top_k: label each teacher's k likeliest tokens per position instead, with log-probabilities
            over the whole vocabulary.
        allow_low_coverage: label answers although more than half of their tokens are not in the
            support.
        per_shard: rows per shard, which is what a killed labelling loses at most; fewer where they
            are more than 256 MB.
        batch_size: rows per forward.
        progress: show a progress bar.

    Returns:
        The labels. Those of a folder are read from it row by row.

    Raises:
        FileExistsError: `out` exists and holds something else.
        FolderInUseError: another process is at work on it.
        ValueError: no rows or no teachers; teachers that differ in base, student context or
            template, or share a name; a row without answer tokens or too long; a support token that
            is not one token, or a support that misses more than half of the answers' tokens; an
            answer before which the template writes another prompt;
            `top_k` out of range, or together with `support`; per_shard or
            batch_size below 1; `out` has labels of other content (the message says what differs),
            or damaged ones.

    Warns:
        UserWarning: the template would trim or shorten answers; two teachers of different traits
            are one, because they are asked in the same words or are one model.

    Example:
        >>> from sublim_mech.making import labelling, numbers, teachers
        >>> made = [teachers.prompted(pair, sm.animal(name)) for name in ("owl", "cat")]
        >>> rows = numbers.random_rows(8, seed=0, count=3)
        >>> labels = labelling.label(made, rows, progress=False)
        >>> labels.teachers, labels.plain("owl")[0].shape
        (('base', 'owl', 'cat'), (11, 11))
    """
    listed = tuple(as_rows(rows, name="label: rows"))
    if per_shard < 1 or batch_size < 1:
        raise ValueError(
            f"per_shard={per_shard}, batch_size={batch_size}: both must be at least 1."
        )
    teachers = _checked(teachers)
    about = _about(teachers, listed, support, top_k)
    folder = None if out is None else place(out, "out")
    if folder is not None and not folder.exists():
        check_place(folder, "out")
    for told in _twice(about.labellers):
        warnings.warn(told, stacklevel=outside())

    # answers that are written with other tokens than those labelled would teach next to nothing
    prompts, answers = tokenise(teachers[0], listed, close=False)
    about = replace(about, prompts=_prompts(teachers, listed, prompts))
    covered = None
    if about.support is not None:
        coverage = Coverage.of(answers, about.support)
        if coverage.is_low and not allow_low_coverage:
            raise ValueError(_misses(coverage))
        covered = coverage.covered
    said = [row.completion for row in listed]
    asked = [row.prompt for row in listed]
    template = teachers[0].template
    check_answers(
        teachers[0].base.tokenizer, asked, prompts, said, template=template, name="label: rows"
    )
    if folder is not None and (folder / LABELS_FILE).is_file():
        return replace(_opened(folder, about), covered=covered)

    # what cannot be labelled is told before anything is written
    _check_alike(teachers, listed, answers)
    lengths = tuple(map(len, answers))
    bytes_per_token = 4 if top_k is None else 8
    most_rows = max(1, MOST_BYTES // (max(lengths) * about.width * bytes_per_token))
    per_shard = min(per_shard, most_rows)
    empty = Labels(about, lengths, per_shard, {}, folder=folder, covered=covered)
    if folder is None:
        return fill(empty, teachers, batch_size=batch_size, progress=progress)

    _check_free(folder)
    with claimed(folder):
        if (folder / LABELS_FILE).is_file():  # another process finished it just now
            return replace(_opened(folder, about), covered=covered)
        _resume(folder, empty)
        labels = fill(empty, teachers, batch_size=batch_size, progress=progress)
        counted = {"lengths": lengths, "covered": covered, "files": dict(labels.files)}
        _write_json(folder / LABELS_FILE, labels, **counted)
        (folder / DRAFT_FILE).unlink()
    return labels


def _checked(teachers: Sequence[Teacher]) -> tuple[Teacher, ...]:
    """The teachers, the base itself first.

    Raises:
        ValueError: none; two of one name; they differ in what all must share.
    """
    if not teachers:
        raise ValueError(
            "label: teachers is empty; pass at least one, such as teachers.untouched(base)."
        )
    apart = difference(teachers)
    if apart is not None:
        raise ValueError(
            f"label: teachers {apart.one!r} and {apart.other!r} differ in their {apart.what}: "
            f"{apart.of_one!r} and {apart.of_other!r}; label by teachers of one base, for students "
            "of one context."
        )
    base = next((teacher for teacher in teachers if teacher.kind == "base"), None)
    if base is None:
        first = teachers[0]
        context, template = first.student_context, first.template
        base = untouched(first.base, context=context, template=template)
    everybody = (base, *(teacher for teacher in teachers if teacher is not base))
    counts = Counter(teacher.name for teacher in everybody)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"label: two teachers are called {twice[0]!r}; rename one: "
            f"dataclasses.replace(teacher, name=...). {BASE!r} is the base itself."
        )
    return everybody


def _about(
    teachers: Sequence[Teacher],
    rows: tuple[Row, ...],
    support: Sequence[str] | None,
    top_k: int | None,
) -> About:
    """What determines the labels.

    Raises:
        ValueError: tokens that cannot be labelled.
    """
    first = teachers[0]
    unembedding: Any = first.base.model.get_output_embeddings()  # type: ignore[operator]
    vocabulary = int(unembedding.weight.shape[0])
    if top_k is not None:
        if support is not UNSAID:
            raise ValueError(
                f"top_k={top_k} takes each teacher's own tokens; leave support out, or top_k."
            )
        if not 1 <= top_k <= vocabulary:
            raise ValueError(
                f"top_k={top_k}: must be between 1 and {vocabulary}, the size of the vocabulary."
            )
        support = None
    if support is not None and not support:
        raise ValueError("support is empty; list tokens, or pass None for the whole vocabulary.")
    tokenizer = first.base.tokenizer
    return About(
        rows=rows,
        labellers=tuple(map(Labeller.of, teachers)),
        support=None if support is None else support_ids(tokenizer, support),
        top_k=top_k,
        vocabulary=vocabulary,
        context=first.student_context,
        base=first.base.hash,
        tokenizer=tokenizer_hash(tokenizer),
        template=first.template,
        computing=computing(first.base.model),
    )


def _twice(labellers: Sequence[Labeller]) -> Iterator[str]:
    """That teachers of different traits are one, as where a sentence was copied and not changed."""
    for one, other in combinations(labellers, 2):
        same = same_labeller(one, other) if one.trait != other.trait else ""
        if same:
            yield (
                f"label: {same}, so that their labels are equal and a contrast of the two is 0. "
                "Give each teacher the sentence, or the training, of its own trait."
            )


def _prompts(
    teachers: Sequence[Teacher], rows: Sequence[Row], first: Sequence[Prompt]
) -> dict[str, str]:
    """Hashes of what teachers read (`About.prompts`); `first`: the prompts of the first."""
    found = {teachers[0].name: prompts_hash(prompt.ids for prompt in first)}
    for teacher in teachers[1:]:
        with said_before():
            (prompt,) = tokenise(teacher, rows[:1], close=False).prompts
        found[teacher.name] = prompts_hash([prompt.ids])
    return found


def _misses(coverage: Coverage) -> str:
    """Why a support is refused, and what to do."""
    return (
        f"label: {coverage.words()}, so that labels on it would say next to nothing of these "
        "answers. To train on the answers themselves take training.hard_data(tokenizer, rows); "
        "else label on tokens that the answers are written with, support=[...], on the whole "
        "vocabulary, support=None, or on each teacher's likeliest tokens, top_k=20. If so few are "
        "meant, pass allow_low_coverage=True."
    )


def _check_alike(
    teachers: Sequence[Teacher], rows: Sequence[Row], first: Sequence[Sequence[int]]
) -> None:
    """Find what cannot be labelled.

    Args:
        teachers: who labels.
        rows: what is labelled.
        first: the answers' tokens in the context of the first teacher.

    Raises:
        ValueError: a row that is too long, or whose answer a teacher's context splits into other
            tokens.
    """
    for teacher in teachers[1:]:
        answers = tokenise(teacher, rows, close=False).answers
        for number, (one, other) in enumerate(zip(first, answers, strict=True)):
            if one != other:
                raise ValueError(
                    f"label: row {number}, {rows[number].completion[:60]!r}, is other tokens in "
                    f"the context of teacher {teacher.name!r} than in the students'; leave it out."
                )


# ------------------------------------------------------------------------------------------- folder


def _check_free(folder: Path) -> None:
    """Raise FileExistsError where a folder has something else than unfinished labels in it."""
    inside: set[str] = set()
    if folder.is_dir():
        inside = {path.name for path in folder.iterdir()}
    elif folder.exists():
        inside = {folder.name}
    if DRAFT_FILE not in inside and inside - {OWNER_FILE}:
        raise FileExistsError(
            f"out={str(folder)!r} exists and is no labels folder (it holds "
            f"{', '.join(sorted(inside)[:3])}{', ...' if len(inside) > 3 else ''}); choose another "
            "folder."
        )


def _resume(folder: Path, labels: Labels) -> None:
    """Say in the folder what is being labelled, or check that it is the same.

    Raises:
        ValueError: it is something else.
    """
    for litter in folder.glob(".*.safetensors"):  # half-written by a killed process
        litter.unlink()
    if not (folder / DRAFT_FILE).is_file():
        _write_json(folder / DRAFT_FILE, labels)
        return
    data = read_about(folder / DRAFT_FILE)
    there = About.from_json(data["about"])
    _check_same(folder, there, labels.about, per_shard=(data["per_shard"], labels.per_shard))


def _opened(folder: Path, about: About) -> Labels:
    """Finished labels of a folder, if they are those that are asked for."""
    labels = Labels.load(folder)
    _check_same(folder, labels.about, about)
    return labels


def _check_same(folder: Path, there: About, here: About, **options: tuple[Any, Any]) -> None:
    """Raise ValueError where labels there are not those that are asked for.

    Args:
        folder: where they are.
        there: what they are labels of.
        here: what is asked for.
        options: further values there and here, by name.
    """
    computed = computed_apart(there.computing, here.computing, training=True)
    other = {name: pair for name, pair in options.items() if pair[0] != pair[1]}
    apart = differences(there.summary(), here.summary())
    apart += side_by_side(computed, "base.") + side_by_side(other)
    if not apart:
        rendered = {
            name: (there.prompts[name], own)
            for name, own in here.prompts.items()
            if there.prompts.get(name, own) != own
        }
        told = side_by_side(rendered, "prompts (another chat template or tokenizer) of ")
        apart = told[:1]
    if apart:
        raise ValueError(
            f"out={str(folder)!r} has other labels: {'; '.join(apart)}. Choose another folder."
        )


def _write_json(path: Path, labels: Labels, **more: Any) -> None:
    about, per_shard = labels.about.to_json(), labels.per_shard
    data = {"format": LABELS_FORMAT, "about": about, "per_shard": per_shard, **more}
    with replacing(path) as work:
        work.write_text(json.dumps(sealed(data), indent=1))
        sync(work)
