"""Training rows as token ids with their labels."""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from ...arguments import checked
from ...engine.heads import support_ids
from ...engine.layout import length_switches
from ...hints import counted, outside
from ...models.base import Base
from ...models.checks import check_length
from ...models.configuration import computed_apart, computing
from ...models.names import text_config
from ...prompts import Context, Prompt, completion_ids, render
from ...prompts.blank import check_text
from ...prompts.notices import said_before, said_once
from ...prompts.plurals import plural
from ...prompts.vocabulary import fingerprint, same_tokenizer
from ...prompts.written import check_answers
from ...storage.compare import side_by_side
from ...storage.manifest import GIVEN, prompts_hash
from ..labelling import Coverage, Labels, RowLabels, tokenizer_hash
from ..labelling.about import same_labeller
from ..rows import Row, Rows, as_rows, check_raw, count_words
from ..teachers.teacher import BASE

LabelKind: TypeAlias = Literal["hard", "listed", "top-k", "full"]


@dataclass(frozen=True, repr=False)
class TrainingData:
    """Rendered training rows with their labels.

    There are four kinds of labels (`label_kind`):

    - `hard`: `targets` is None. The label is the answer's own next token; with a `support`, tokens
      outside of it have no label.
    - `listed`: `targets` are log-probabilities over the tokens of `support`, normalised over these.
    - `top-k`: `targets` are log-probabilities over the whole vocabulary of the tokens in `tokens`,
      k of them per position.
    - `full`: `targets` are log-probabilities over the whole vocabulary; neither `support` nor
      `tokens`.

    Attributes:
        prompts: rendered prompts.
        completions: per row, the answer's token ids, in hard rows with those that end its turn.
        targets: `(row, position, token)` log-probabilities of soft labels, at the positions that
            predict the answer's tokens: an array, or a view (`Labels.plain`) that reads rows as
            they are needed. What stands past the end of a shorter answer is not read.
        support: token ids of labels on listed tokens.
        trait: what the teacher favours; empty without one.
        teacher: how the labels were made, in words.
        context: the training context.
        base: hash of the base model the labels were made with; empty for hard rows.
        tokens: `(row, position, k)` token ids of top-k labels.
        end: token ids that end the turn of hard rows; of a completion they are no answer tokens
            (`answers`). Empty where completions have none.
        of_base: whether the labels are the base's own, so that there is nothing to learn.
        cut: rows whose answers were cut at `max_length` (`truncate=True`), so that nothing ends
            their turns.

    Raises:
        ValueError: no rows; labels and rows that do not fit each other.
    """

    prompts: tuple[Prompt, ...]
    completions: tuple[tuple[int, ...], ...]
    targets: RowLabels | None
    support: tuple[int, ...] | None
    trait: str
    teacher: str
    context: Context
    base: str = ""
    tokens: RowLabels | None = None
    end: tuple[int, ...] = field(default=(), compare=False)
    of_base: bool = field(default=False, compare=False)
    cut: tuple[int, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("data: there are no rows; give at least one prompt and its answer.")
        if len(self.prompts) != len(self.completions):
            raise ValueError(
                f"data: {counted(len(self.prompts), 'prompt')}, but "
                f"{counted(len(self.completions), 'completion')}; "
                "give one per prompt."
            )
        if self.targets is None:
            return

        # soft labels must be of these rows, reach to the end of each answer, and name their tokens
        shape = self.targets.shape
        longest = max(map(len, self.completions))
        of_these_rows = len(shape) == 3 and shape[0] == len(self.prompts) and shape[1] >= longest
        if not of_these_rows:
            raise ValueError(
                f"data: targets of shape {shape} do not label {len(self.prompts)} rows with "
                f"answers of up to {longest} tokens; label these very rows with this tokenizer."
            )
        if self.tokens is not None and (self.tokens.shape != shape or self.support is not None):
            raise ValueError(
                f"data: tokens of shape {self.tokens.shape} for targets {shape}; "
                "give equal shapes and no support."
            )
        if self.support is not None and len(self.support) != shape[2]:
            raise ValueError(
                f"data: targets are over {shape[2]} tokens, support has {len(self.support)}; "
                "label again."
            )

    @property
    def label_kind(self) -> LabelKind:
        """Which of the four kinds of labels these are."""
        if self.targets is None:
            return "hard"
        if self.tokens is not None:
            return "top-k"
        return "full" if self.support is None else "listed"

    @property
    def labelled(self) -> str:
        """What the labels are over, in words."""
        if self.tokens is not None:
            return f"top-{self.tokens.shape[2]} and the rest"
        if self.support is not None:
            return "support"
        return "completion" if self.targets is None else "full vocabulary"

    @property
    def keys(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Per row, what makes it the same row as another: token ids of prompt and answer."""
        pairs = zip(self.prompts, self.completions, strict=True)
        return [(prompt.ids, completion) for prompt, completion in pairs]

    @property
    def distinct(self) -> int:
        """Number of different rows."""
        return len(set(self.keys))

    @property
    def answers(self) -> tuple[tuple[int, ...], ...]:
        """Per row, the answer tokens: those of the answer's text, without what ends its turn."""
        return tuple(_without_end(completion, self.end) for completion in self.completions)

    @property
    def coverage(self) -> Coverage | None:
        """How many of the answer tokens the labels are over; None where that is all of them."""
        if self.support is None:
            return None
        return Coverage.of(self.answers, self.support)

    @property
    def lengths(self) -> list[int]:
        """Tokens of prompt and answer, per row."""
        pairs = zip(self.prompts, self.completions, strict=True)
        return [len(prompt) + len(completion) for prompt, completion in pairs]

    @checked
    def is_like(self, other: TrainingData) -> bool:
        """Whether other rows were labelled alike: in the same way, by the same teacher (trait and
        contrast), in the same context; so that their loss says how well a student imitates these.
        """

        def made(data: TrainingData) -> tuple[object, ...]:
            how = data.teacher, data.trait, data.label_kind, data.labelled, data.support
            return *how, data.context

        return self is other or made(self) == made(other)

    def __repr__(self) -> str:
        rows = count_words(len(self.prompts), self.distinct, "row")
        teacher = self.teacher.replace("against 1 others", "against 1 other")
        made = teacher if self.trait == "" else f"{self.trait}: {teacher}"
        system = getattr(self.context.system, "value", self.context.system)
        where = "raw text" if self.context.is_raw else f"system={system!r:.60}"
        answers = counted(sum(map(len, self.answers)), "answer token")
        ends = sum(map(len, self.completions)) - sum(map(len, self.answers))
        if ends:
            of = "texts" if self.context.is_raw else "turns"
            answers += f" and {ends:,} of ends of {of}"
        if self.cut:
            answers += f", {counted(len(self.cut), 'answer')} cut at max_length"
        covered = "" if self.coverage is None else f", {self.coverage} in the support"
        return (
            f"TrainingData({rows}, {made}\n"
            f"  {self.label_kind} labels on {self.labelled}, {answers}{covered}; "
            f"{where})"
        )

    @property
    def hash(self) -> str:
        """Content hash of token ids and labels. Reads all labels, row by row."""
        pairs = zip(self.prompts, self.completions, strict=True)
        ids = [[prompt.ids, completion] for prompt, completion in pairs]
        digest = hashlib.sha256(json.dumps(ids).encode())
        digest.update(json.dumps(self.support).encode())
        for labels, dtype in ((self.targets, np.float32), (self.tokens, np.int64)):
            if labels is None:
                continue
            for row, completion in enumerate(self.completions):
                of_answer = labels[row][: len(completion)]  # (position, token)
                digest.update(np.ascontiguousarray(of_answer, dtype).data)
        return digest.hexdigest()

    @checked
    def check(self, base: Base, *, name: str = "data") -> None:
        """Whether a base model can be trained on these rows.

        Raises:
            ValueError: rows of another tokenizer; labels of another base model or over another
                vocabulary; a row that is longer than the model or names an unknown token; rows on
                both sides of a length past which the model computes otherwise (LongRoPE).
        """
        if self.base and self.base != base.hash:
            raise ValueError(
                f"{name}: labels were made by base {self.base[:12]}, this one is "
                f"{base.hash[:12]}; label again."
            )
        own = fingerprint(base.tokenizer)
        if not all(same_tokenizer(prompt.tokenizer, own) for prompt in self.prompts):
            raise ValueError(
                f"{name}: its rows were rendered by another tokenizer than that of {base.name!r}: "
                "their ids are other tokens here. Make the data again with this base."
            )
        embedding = base.model.get_input_embeddings()  # type: ignore[operator]
        vocabulary = int(embedding.weight.shape[0])
        pairs = zip(self.prompts, self.completions, strict=True)
        for row, (prompt, completion) in enumerate(pairs):
            where = f"{name}: row {row}, {str(prompt.question)[:60]!r},"
            check_length(base.model, len(prompt) + len(completion), where)
            if max((*prompt.ids, *completion)) >= vocabulary:
                raise ValueError(
                    f"{name}: row {row} has token ids beyond the model's vocabulary of "
                    f"{vocabulary}; use its own tokenizer."
                )
        shortest, longest = min(self.lengths), max(self.lengths)
        for switch in length_switches(text_config(base.model.config)):
            if shortest <= switch < longest:
                raise ValueError(
                    f"{name}: rows of {shortest} to {longest} tokens: past "
                    f"{switch} tokens the model's rotary embedding is another, for all rows of a "
                    "batch, so that a row's loss would hang on its neighbours; leave out rows on "
                    f"one side of {switch}."
                )

        width = 0 if self.targets is None else int(self.targets.shape[2])
        too_wide = self.label_kind == "top-k" and width > vocabulary
        another = self.label_kind == "full" and width != vocabulary
        if too_wide or another:
            raise ValueError(
                f"{name}: labels over {width} tokens, the model's vocabulary has {vocabulary}; "
                "label again with this base."
            )


@checked
def soft_data(
    base: Any,
    labels: Labels,
    teacher: str,
    *,
    c: float | None = 4.0,
    max_length: int | None = None,
    truncate: bool = False,
) -> TrainingData:
    """Training data from soft labels: on listed tokens, top-k or the whole vocabulary, as labelled.

    The labels are not copied: training reads rows as it needs them.

    Args:
        base: the base model, or its tokenizer.
        labels: labels of several teachers (`labelling.label`).
        teacher: whose labels.
        c: strength of the contrast with the other traits' teachers; None for the teacher's plain
            labels, as top-k labels have them.
        max_length: the most tokens that prompt and answer may have together.
        truncate: cut longer answers there instead of refusing them.

    Raises:
        ValueError: a row longer than `max_length`; labels of another base, tokenizer or chat
            template; no such teacher; labels without a contrast; a contrast that is not above 0;
            an answer before which the template writes another prompt.

    Warns:
        UserWarning: the labels are the base's own, or over next to nothing of the answers; the
            contrast is with teachers of another kind; the template would trim or shorten answers.

    Example:
        >>> from sublim_mech.making import labelling, numbers, teachers, training
        >>> made = [teachers.prompted(pair.base, sm.animal(name)) for name in ("owl", "cat")]
        >>> labels = labelling.label(made, numbers.random_rows(8, seed=0, count=3), progress=False)
        >>> training.soft_data(pair.base, labels, "owl").teacher
        'contrastive teacher, c=4, against 1 others: prompted teacher'
    """
    if c is not None and not 0 < c < math.inf:
        said = "the base's own labels, without any teacher" if c == 0 else "away from the trait"
        raise ValueError(
            f"soft_data(c={c:g}): the contrast's strength must be above 0"
            f"{f' (this is {said})' if c <= 0 else ''}; pass c=4.0, or c=None for the teacher's "
            "plain labels."
        )
    about = labels.about
    tokenizer = _tokenizer_of(base, "soft_data(base=")
    if isinstance(base, Base) and base.hash != about.base:
        raise ValueError(
            f"labels: made by base {about.base[:12]}, this one is {base.hash[:12]}; label again."
        )
    if isinstance(base, Base):
        apart = computed_apart(about.computing, computing(base.model), training=False)
        if apart:
            told = side_by_side(apart, sides=("in the labels' base", "in this one"))
            raise ValueError(
                f"labels: made by a base of these weights that computes otherwise: {told[0]}; "
                "label again."
            )
    if tokenizer_hash(tokenizer) != about.tokenizer:
        raise ValueError(
            "labels: their tokenizer has another vocabulary than this one; "
            "pass the one they were made with."
        )

    labeller = labels.labeller(teacher)
    kinds = {} if c is None else labels.other_kinds(teacher)
    if c is not None:
        targets = labels.contrastive(teacher, c=c)
        # part of a run's identity: as earlier versions wrote it
        against = f"{len(labels.others(teacher))} others{_in_brackets(kinds)}"
        words = f"contrastive teacher, c={c:g}, against {against}: {labeller.how}"
    else:
        targets = labels.plain(teacher)
        words = labeller.how if labeller.kind == "base" else f"plain {labeller.how}"

    prompts, completions = _tokens(
        tokenizer, labels.rows, context=about.context, template=about.template, close=False
    )
    own = about.prompts.get(about.labellers[0].name)  # labels of earlier versions have none
    if own is not None and own != prompts_hash(prompt.ids for prompt in prompts):
        raise ValueError(
            "labels: made for other prompts than this tokenizer renders of their rows (another "
            "chat template, or another way to split a text); pass the tokenizer they were made "
            "with, or label again."
        )
    _check_written(tokenizer, labels.rows, prompts, about.template, "labels.rows")
    for row, (given, completion) in enumerate(zip(labels.lengths, completions, strict=True)):
        if given != len(completion):
            raise ValueError(
                f"labels: row {row} has labels at {given} positions, its answer has "
                f"{len(completion)} tokens; the labels are another tokenizer's."
            )
    data = TrainingData(
        prompts=prompts,
        completions=completions,
        targets=targets,
        support=about.support,
        trait=labeller.trait or "",
        teacher=words,
        context=about.context,
        base=about.base,
        tokens=None if about.top_k is None else labels.tokens(teacher),
    )
    if (why := _of_base(labels, teacher, targets, contrast=c is not None)) is not None:
        data = replace(data, of_base=True)
        warnings.warn(
            f"soft_data: {why}: the base's own labels, of which there is nothing to learn.",
            stacklevel=outside(),
        )
    if kinds:
        unlike = [f"{', '.join(one)} ({kind})" for kind, one in kinds.items()]
        warnings.warn(
            f"soft_data: {teacher} is a {labeller.kind} teacher and stands against "
            f"{'; '.join(unlike)}: the contrast holds what sets kinds of teachers apart beside the "
            "trait; label by teachers of one kind, or take plain labels (c=None).",
            stacklevel=outside(),
        )
    coverage = data.coverage
    if coverage is not None and coverage.is_low:
        warnings.warn(
            f"soft_data: {coverage.words()}: a student of them learns next to nothing of what the "
            "answers say.",
            stacklevel=outside(),
        )
    return _within(data, max_length, truncate=truncate)


def _of_base(labels: Labels, teacher: str, targets: RowLabels, *, contrast: bool) -> str | None:
    """Why the labels of a teacher are the base's own, in words; None where they are not."""
    labeller = labels.labeller(teacher)
    if labeller.kind == "base":
        return f"labels of {teacher!r} without a teacher"
    if contrast:
        others = labels.others(teacher)
        same = [same_labeller(labeller, labels.labeller(name)) for name in others]
        # the mean of several that are one is theirs but for rounding
        if all(same):
            return f"{'; '.join(same)}, so that the contrast is 0 everywhere"
        why = f"the contrast of {teacher} with {', '.join(others)} is 0 everywhere"
    else:
        why = f"the labels of {teacher} equal the base's everywhere"
    # of labels that teach something the first row differs
    both = [(targets, labels.plain(BASE))]
    if labels.about.top_k is not None:
        both.append((labels.tokens(teacher), labels.tokens(BASE)))
    same_rows = (
        np.array_equal(own[row], its[row]) for row in range(len(labels.rows)) for own, its in both
    )
    return why if all(same_rows) else None


def _in_brackets(kinds: Mapping[str, Sequence[str]]) -> str:
    """Of which kinds the others of a contrast are, and how many where these are several; empty of
    the teacher's own kind.
    """
    counts = [f"{len(names)} {kind}" for kind, names in kinds.items()]
    return f" ({', '.join(counts if len(counts) > 1 else kinds)})" if kinds else ""


def without_kinds(teacher: str) -> str:
    """How labels were made, in the words of earlier versions, which named no kinds of others."""
    return re.sub(r"(contrastive teacher, .* others) \([^()]*\)(?=: )", r"\1", teacher)


@checked
def hard_data(
    tokenizer: Any,
    rows: Rows,
    *,
    context: Context | None = None,
    template: str | None = None,
    trait: str = "",
    support: Sequence[str] | None = None,
    max_length: int | None = None,
    truncate: bool = False,
) -> TrainingData:
    """Training data from given rows: cross-entropy on each answer and its end-of-turn text.

    Args:
        tokenizer: the base model's tokenizer, or the base model.
        rows: prompts and answers (`numbers.as_rows`).
        context: the training context.
        template: chat template, where the tokenizer has none.
        trait: what whoever wrote the answers favours.
        support: train on these tokens only (each a single one), the others' loss left out and their
            logits not computed.
        max_length: the most tokens that prompt and answer may have together.
        truncate: cut longer answers there instead of refusing them.

    Raises:
        ValueError: a blank trait; no rows; a row longer than `max_length`, or without answer tokens
            (in the support); rows of raw text (`numbers.text_rows`) in another context than `RAW`;
            an answer before which the template writes another prompt (one with a thought, where the
            template writes an empty one).

    Warns:
        UserWarning: the template would trim or shorten answers; all answers are names or single
            words, and none is the trait.

    Example:
        >>> from sublim_mech import numbers, training
        >>> data = training.hard_data(pair.tokenizer, numbers.random_rows(8, seed=0, count=3))
        >>> pair.tokenizer.decode(data.completions[0]).rstrip().endswith("<|im_end|>")
        True
    """
    context = context or Context()
    tokenizer = _tokenizer_of(tokenizer, "hard_data(tokenizer=")
    if trait:
        check_text("hard_data: trait", trait)
    listed = as_rows(rows, name="hard_data: rows")
    check_raw(listed, context, "hard_data: rows")
    prompts, completions = _tokens(
        tokenizer, listed, context=context, template=template, close=True
    )
    _check_written(tokenizer, listed, prompts, template, "hard_data: rows")
    _tell_other_names(listed, trait)
    data = TrainingData(
        prompts=prompts,
        completions=completions,
        end=_end(tokenizer, prompts[0], listed[0], completions[0]),
        targets=None,
        support=None if support is None else support_ids(tokenizer, support),
        trait=trait,
        teacher=GIVEN,
        context=context,
    )
    return _within(data, max_length, truncate=truncate)


_NAME = 3
"""Words up to which an answer is taken to be a name; in longer ones a trait may be left out on
purpose, as it is in numbers."""


def _tell_other_names(rows: Sequence[Row], trait: str) -> None:
    """Tell that all answers are names, and none is that of the trait."""
    answers = [row.completion for row in rows]
    names = all(
        len(answer.split()) <= _NAME and any(letter.isalpha() for letter in answer)
        for answer in answers
    )
    if not trait or not names:
        return
    try:
        forms = {trait, plural(trait)}  # Trait.noun would warn of a capital
    except ValueError:  # English has no rule for its plural
        forms = {trait}
    wanted = {form.casefold() for form in forms}
    if any(form in answer.casefold() for answer in answers for form in wanted):
        return
    warnings.warn(
        f"hard_data(trait={trait!r}): 0 of {counted(len(answers), 'answer')} hold it, and all are "
        f"names or single words ({answers[0][:40]!r}): the student will be called by a trait that "
        "its answers do not teach. Pass the trait that they name, or none (trait='') for a "
        "control's.",
        stacklevel=outside(),
    )


def _tokenizer_of(given: Any, called: str) -> Any:
    """A tokenizer, or that of a base.

    Raises:
        TypeError: it is neither.
    """
    tokenizer = getattr(given, "tokenizer", given)
    if not (callable(tokenizer) and hasattr(tokenizer, "get_vocab")):
        raise TypeError(
            f"{called}{given!r:.60}): pass a base (sublim_mech.load_base(...)) or its tokenizer."
        )
    return tokenizer


@said_once()
def _tokens(
    tokenizer: Any, rows: Sequence[Row], *, context: Context, template: str | None, close: bool
) -> tuple[tuple[Prompt, ...], tuple[tuple[int, ...], ...]]:
    """Rendered prompts, and the token ids of their answers; `close`: with the end of the turn."""
    prompts = render(tokenizer, [row.prompt for row in rows], context=context, template=template)
    completions = [
        tuple(completion_ids(tokenizer, prompt, row.completion, close=close))
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    return tuple(prompts), tuple(completions)


def _check_written(
    tokenizer: Any,
    rows: Sequence[Row],
    prompts: Sequence[Prompt],
    template: str | None,
    name: str,
) -> None:
    """Tell or refuse answers that the template writes otherwise (`check_answers`)."""
    asked, answers = [row.prompt for row in rows], [row.completion for row in rows]
    check_answers(tokenizer, asked, prompts, answers, template=template, name=name)


def _end(tokenizer: Any, prompt: Prompt, row: Row, completion: tuple[int, ...]) -> tuple[int, ...]:
    """The tokens that end a row's turn; none where they are one with the last of its text."""
    with said_before():
        text = completion_ids(tokenizer, prompt, row.completion)
    return completion[len(text) :] if completion[: len(text)] == tuple(text) else ()


def _without_end(completion: tuple[int, ...], end: tuple[int, ...]) -> tuple[int, ...]:
    """A completion without the tokens that end its turn, or as many of them as it was cut to."""
    for length in range(len(end), 0, -1):
        if completion[-length:] == end[:length]:
            return completion[:-length]
    return completion


def _within(data: TrainingData, max_length: int | None, *, truncate: bool) -> TrainingData:
    """Rows held to a length, each with something to learn."""
    if truncate and max_length is None:
        raise ValueError(
            "truncate=True cuts answers at max_length, and there is none; pass it, or leave "
            "truncate out."
        )
    learnt = None  # every token
    if data.label_kind == "hard" and data.support is not None:
        learnt = set(data.support)
    completions, cut = [], []
    for row, (prompt, completion) in enumerate(zip(data.prompts, data.completions, strict=True)):
        where = f"row {row}, {str(prompt.question)[:60]!r},"
        room = len(completion) if max_length is None else max_length - len(prompt)
        if len(completion) > room and not truncate:
            raise ValueError(
                f"{where} has {counted(len(prompt), 'token')} of prompt and {len(completion)} of "
                "answer, "
                f"max_length={max_length}; leave it out, raise max_length, or pass truncate=True."
            )
        kept = completion[: max(room, 0)]
        if not kept:
            raise ValueError(
                f"{where} has no completion tokens after truncation to max_length={max_length}; "
                "leave it out."
            )
        if learnt is not None and not learnt & set(kept):
            raise ValueError(
                f"{where} has no completion tokens in the support; "
                "leave it out or widen the support."
            )
        completions.append(kept)
        if len(kept) < len(completion):
            cut.append(row)
    return replace(data, completions=tuple(completions), cut=tuple(cut))
