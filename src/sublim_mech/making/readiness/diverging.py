"""Divergence tokens: where a teacher and the base would write another token (arXiv 2509.23886).

At each token of given answers, with the answer up to there: the likeliest next token of the teacher
and of the base, each in its own context, and KL(teacher || base) over the whole vocabulary. A token
is *divergent* where the two likeliest ones differ. A student is read at the same places, in the
context it was trained in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from ...arguments import checked
from ...prompts import render
from ...prompts.notices import said_before
from ...results.limits_of_students import few_prompts
from ...stats import ratio_interval
from ..rows import Row, Rows, as_rows, count_words
from ..teachers.prompting import untouched
from ..teachers.reading import read_rows, tokenise
from ..teachers.teacher import Model, Teacher, difference
from ..teachers.tuning import as_reader
from .comparing import columns, of_distinct
from .strip import Strip, StripToken

SETS = ("all", "divergent", "others")
"""What `Divergence.table` tells apart."""


class Read(NamedTuple):
    """What models say at the tokens of one row's answer.

    Attributes:
        ids: `(token,)`, the answer's own tokens.
        teacher, base: `(token,)`, the likeliest tokens.
        kl: `(token,)`, KL(teacher || base) in nats.
        student: `(token,)`, the student's likeliest tokens; None without one.
        student_kl: `(token,)`, KL(teacher || student).
    """

    ids: np.ndarray
    teacher: np.ndarray
    base: np.ndarray
    kl: np.ndarray
    student: np.ndarray | None = None
    student_kl: np.ndarray | None = None

    @property
    def divergent(self) -> np.ndarray:
        """`(token,)` bool."""
        return self.teacher != self.base


@checked
@dataclass(frozen=True, eq=False)
class Divergence:
    """Where teacher and base would write another token, and what a student writes there.

    Attributes:
        rows: the rows.
        questions: their prompts, as texts.
        reads: per row, what the models say.
        teacher, base, student: their names; an empty one without a student.
        asked: per row, the token ids of its prompt as the teacher's students are asked it.
        texts: the text of every token that occurs.
        with_ends: whether the tokens that end turns were read, and count, beside answer tokens.
        is_raw: whether rows are raw text, which has no turns but ends.
    """

    rows: tuple[Row, ...]
    questions: tuple[str, ...]
    reads: tuple[Read, ...]
    asked: tuple[tuple[int, ...], ...]
    teacher: str
    base: str
    student: str
    texts: dict[int, str]
    with_ends: bool = True
    is_raw: bool = False

    @property
    def divergent(self) -> list[np.ndarray]:
        """Per row, `(token,)` bool: where the two would write another token."""
        return [read.divergent for read in self.reads]

    @checked
    def chosen(self, data: Any, *, divergent: bool = True) -> list[np.ndarray]:
        """The divergent tokens, or all others, as `train(..., tokens=)` takes them.

        Args:
            data: training data of these very rows, in their order.
            divergent: True for these tokens alone, False for all but them.

        Raises:
            ValueError: data of other rows, in another order or context, or with other tokens in
                their answers.

        Example:
            >>> from sublim_mech.making import numbers, readiness, teachers, training
            >>> rows = numbers.random_rows(4, seed=0, count=3)
            >>> owl = teachers.prompted(pair, sm.animal("owl"))
            >>> found = readiness.divergence(owl, pair.base, rows, progress=False)
            >>> data = training.hard_data(pair.tokenizer, rows)
            >>> both = found.chosen(data), found.chosen(data, divergent=False)
            >>> all((one != other).all() for one, other in zip(*both))
            True
        """
        if len(data.completions) != len(self.reads):
            raise ValueError(
                f"data: {len(data.completions)} rows, but {len(self.reads)} were read; make both "
                "of the same rows."
            )
        for row, (ids, prompt) in enumerate(zip(self.asked, data.prompts, strict=True)):
            if ids == tuple(prompt.ids):
                continue
            question = self.questions[row]
            what = f"asks {prompt.question[:60]!r}, where {question[:60]!r} was read"
            if prompt.question == question:
                what = f"asks {question[:60]!r} in another context or conversation than was read"
            raise ValueError(
                f"data: row {row} {what}; make both of the same rows, in one order, for students "
                "of the same context."
            )
        chosen = []
        for row, (read, completion) in enumerate(zip(self.reads, data.completions, strict=True)):
            if tuple(read.ids[: len(completion)]) != tuple(completion):
                raise ValueError(
                    f"data: the answer of row {row} has other tokens than were read; make both of "
                    "the same rows (with close=True where the data have the end of turn)."
                )
            chosen.append((read.divergent == divergent)[: len(completion)])
        return chosen

    def table(self) -> pd.DataFrame:
        """Per set of tokens (all, divergent, others), with 95 % bootstrap intervals over rows.

        Returns:
            `tokens`; `share` of all tokens; `kl`, the mean KL(teacher || base) in nats per token;
            with a student also `student kl`, KL(teacher || student), and the shares of tokens where
            its likeliest token is the teacher's (`as teacher`) and the base's (`as base`). The
            copies of a row are resampled together. NaN where there is nothing; `low` and `high` are
            NaN too where resampled rows may lack such tokens, and of a single row.
        """
        lines = {}
        everything = [np.ones(len(read.ids), bool) for read in self.reads]
        masks = [everything, self.divergent, [~mask for mask in self.divergent]]
        for name, mask in zip(SETS, masks, strict=True):
            line: dict[str, float] = {"tokens": float(sum(one.sum() for one in mask))}
            line |= self._columns("share", mask, everything)
            line |= self._columns(
                "kl", [r.kl * m for r, m in zip(self.reads, mask, strict=True)], mask
            )
            for column, values in self._of_student().items():
                weighted = [value * one for value, one in zip(values, mask, strict=True)]
                line |= self._columns(column, weighted, mask)
            lines[name] = line
        table = pd.DataFrame.from_dict(lines, orient="index").rename_axis("tokens at")
        return table.astype({"tokens": int})

    def _of_student(self) -> dict[str, list[np.ndarray]]:
        """What is told of the student, per row and token."""
        if not self.student:
            return {}
        told: dict[str, list[np.ndarray]] = {"student kl": [], "as teacher": [], "as base": []}
        for read in self.reads:
            assert read.student is not None
            assert read.student_kl is not None
            told["student kl"].append(read.student_kl)
            told["as teacher"].append(read.student == read.teacher)
            told["as base"].append(read.student == read.base)
        return told

    def _columns(
        self, name: str, values: Sequence[np.ndarray], mask: Sequence[np.ndarray]
    ) -> dict[str, float]:
        """Mean per token of a set, with its interval."""
        sums = np.array([value.sum(dtype=np.float64) for value in values])
        counts = np.array([float(one.sum()) for one in mask])
        sums, counts = of_distinct(self.rows, sums, counts)
        return columns(name, ratio_interval(sums, counts, counts=True))

    @checked
    def strip(self, row: int = 0) -> Strip:
        """One answer to look at: its tokens, the divergent ones marked with what both would write.

        Raises:
            IndexError: no such row.
        """
        if not 0 <= row < len(self.rows):
            raise IndexError(f"row={row}: there are {len(self.rows)} rows, from 0.")
        read, tokens = self.reads[row], []
        for i, token in enumerate(read.ids):
            wrote = None if read.student is None else self.texts[int(read.student[i])]
            tokens.append(
                StripToken(
                    self.texts[int(token)],
                    self.texts[int(read.teacher[i])],
                    self.texts[int(read.base[i])],
                    wrote,
                    float(read.kl[i]),
                    bool(read.divergent[i]),
                )
            )
        return Strip(row, self.questions[row], tuple(tokens), (self.teacher, self.base))

    def __repr__(self) -> str:
        table = self.table()
        lines = [self._title(), table.to_string(float_format="{:z.4f}".format)]
        return "\n".join([*lines, *self._of_intervals(table)])

    def _repr_html_(self) -> str:
        strips = "".join(self.strip(row)._repr_html_() for row in self._most())
        table = self.table()
        shown = table.to_html(float_format="{:z.4f}".format)
        why = "".join(f"<div>{line}</div>" for line in self._of_intervals(table))
        return f"<div>{self._title()}</div>{shown}{why}{strips}"

    def _of_intervals(self, table: pd.DataFrame) -> list[str]:
        """What intervals over few rows are worth, and why means that are known have none; nothing
        where all have.
        """
        known, count = table[table["tokens"] > 0], len({row.key for row in self.rows})
        if count < 2:
            return ["nan: no interval over a single row"] if known["kl low"].isna().any() else []
        told = [limit.text for limit in few_prompts(count, "row")]
        if known["kl low"].isna().any():
            told.append("nan: no interval, resampled rows may lack such tokens")
        return told

    def _title(self) -> str:
        rows = count_words(len(self.rows), len({row.key for row in self.rows}), "row")
        student = f", read by student {self.student!r}" if self.student else ""
        of = "texts" if self.is_raw else "turns"
        ends = f", ends of {of} included" if self.with_ends else ""
        return (
            f"divergence of {self.teacher!r} from {self.base!r} on {rows}{ends}{student} "
            "[95 % over rows]"
        )

    def _most(self) -> list[int]:
        """The five rows with the most divergent tokens."""
        counts = np.array([read.divergent.sum() for read in self.reads])
        return np.argsort(-counts, kind="stable")[:5].tolist()


@checked
def divergence(
    teacher: Teacher,
    base: Teacher | Model,
    rows: Rows,
    *,
    student: Any = None,
    close: bool = True,
    batch_size: int = 16,
    progress: bool = True,
) -> Divergence:
    """Where a teacher and the base would write another token (arXiv 2509.23886).

    Args:
        teacher: who labels or wrote the rows, in its own context.
        base: the base, read in the context of the teacher's students; or another teacher, which is
            read in its own (the source compares teachers of two traits).
        rows: prompts and answers (`numbers.as_rows`).
        student: a student to read at the same tokens, whatever `load_student` takes, without gates;
            its weights act everywhere, in the context of the teacher's students.
        close: whether the end of turn, which is no answer token, is read and counted too, as
            `hard_data` trains on it.
        batch_size: rows per forward.
        progress: show a progress bar.

    Returns:
        A `Divergence`: `table`, `strip`, `divergent`, and `chosen` for `train(..., tokens=)`.

    Raises:
        ValueError: teachers of different bases or student contexts; a student that was loaded with
            gates; see `read_rows`, `load_student`.

    Example:
        >>> from sublim_mech.making import numbers, readiness, teachers
        >>> owl = teachers.prompted(pair, sm.animal("owl"))
        >>> rows = numbers.random_rows(4, seed=0, count=3)
        >>> found = readiness.divergence(owl, pair, rows, student=pair.student, progress=False)
        >>> found.table().index.tolist()
        ['all', 'divergent', 'others']
    """
    listed = as_rows(rows, name="divergence: rows")
    context, template = teacher.student_context, teacher.template
    if not isinstance(base, Teacher):
        base = untouched(base, context=context, template=template)
    apart = difference([teacher, base])
    if apart is not None:
        raise ValueError(
            f"base: it and the teacher {teacher.name!r} differ in {apart.what} ({apart.of_one} and "
            f"{apart.of_other}), so that tokens would differ for another reason; use one."
        )
    readers = [teacher, base]
    if student is not None:
        readers.append(as_reader(base.base, student, context, template))
    tokens = [tokenise(reader, listed, close=close) for reader in readers]
    answers = [of_reader.answers for of_reader in tokens]
    if any(other != answers[0] for other in answers[1:]):
        raise ValueError(
            "rows: an answer has other tokens in the teacher's context than in the students'; "
            "divergence compares token by token."
        )

    # the whole vocabulary at every token is too much to keep: some rows at a time, long ones first
    order = sorted(range(len(listed)), key=lambda row: -len(answers[0][row]))
    reads: list[Read | None] = [None] * len(listed)
    with tqdm(total=len(listed), desc="divergence", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            asked_rows = [listed[row] for row in some]
            logits = [
                dict(read_rows(reader, asked_rows, close=close, batch_size=batch_size))
                for reader in readers
            ]
            for i, row in enumerate(some):
                reads[row] = _read(answers[0][row], *(of_reader[i] for of_reader in logits))
            bar.update(len(some))
    found = tuple(read for read in reads if read is not None)
    name = readers[2].name if student is not None else ""
    seen = {int(token) for read in found for token in _written(read)}
    texts = {token: teacher.base.tokenizer.decode([token]) for token in sorted(seen)}
    questions = tuple(prompt.question for prompt in tokens[0].prompts)
    with said_before():
        asked = render(
            teacher.base.tokenizer,
            [row.prompt for row in listed],
            context=context,
            template=template,
        )
    names = {"teacher": teacher.name, "base": base.name, "student": name}
    return Divergence(
        tuple(listed),
        questions,
        found,
        tuple(tuple(prompt.ids) for prompt in asked),
        **names,
        texts=texts,
        with_ends=close,
        is_raw=context.is_raw,
    )


def _read(ids: Sequence[int], teacher: Tensor, base: Tensor, student: Tensor | None = None) -> Read:
    """From logits `(token, vocab)` of each."""
    p = teacher.double().log_softmax(-1)

    def kl(logits: Tensor) -> np.ndarray:
        q = logits.to(p.device).double().log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1).cpu().numpy()

    def likeliest(logits: Tensor) -> np.ndarray:
        return logits.argmax(-1).cpu().numpy()

    both = np.asarray(ids), likeliest(teacher), likeliest(base), kl(base)
    if student is None:
        return Read(*both)
    return Read(*both, likeliest(student), kl(student))


def _written(read: Read) -> Iterator[int]:
    yield from read.ids
    yield from read.teacher
    yield from read.base
    if read.student is not None:
        yield from read.student
