"""The result of an evaluation: arrays over model, context, trait and question, with its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd
import xarray as xr

from ..arguments import checked
from ..prompts import Trait, matcher, words
from ..prompts.naming import Matcher
from ..results.frames import Table, check_suffix, write_csv
from ..results.held import notes_among
from ..results.record import HAS_ASKED, NOT_ALIKE, OTHER_TRAIT
from ..stats import wilson
from ..storage.files import read_dataset, write_dataset
from .estimates import bounds, frame, median_bounds, over_questions
from .limits import notes_in
from .matrix import TraitMatrix, trait_matrix
from .printing import below_a_matrix, described

OTHER = "other"
"""What tables call the answers that name no trait."""

NO_WORD = "(no word of its own)"
"""What such an answer says where it has only common words and those of the question."""

_VALUES = ("log_prob", "rank", "answer", "count")


class _Answers(NamedTuple):
    """Generated answers, counted."""

    counts: xr.DataArray  # (model, context, trait or `other`, question)
    samples: int  # per question


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        data: arrays over `model` (`base`, `student`, `control: <name>`), `context`, `trait` and
            `question`: `log_prob` (nats, forms summed), `rank` (1 = the likeliest next token); with
            generated answers also `answer (model, context, question, sample)` and `count` (answers
            that name the trait). Answers that had begun (`Context(prefill=...)`) are what came
            after; the coordinate `begun (context, question)` has the beginnings. The questions'
            texts are the coordinate `text (question)`.
        provenance: models and hashes, contexts, traits' forms, seed, versions, command.
    """

    data: xr.Dataset
    provenance: Mapping[str, Any]

    def __getitem__(self, name: Any) -> NoReturn:
        """Refused: the arrays are in `data`."""
        known = ", ".join(map(repr, map(str, self.data)))
        raise TypeError(
            f"evaluation[{name!r}]: the arrays are in evaluation.data, such as "
            f"evaluation.data['log_prob'] (it holds {known}); evaluation.table() and "
            "evaluation.to_dataframe() are tables."
        )

    @property
    def has_controls(self) -> bool:
        """Whether students of other traits were evaluated alike."""
        return self.data.sizes["model"] > 2

    @property
    def change(self) -> xr.DataArray:
        """Each student's log-probability minus the base's in the same context, in nats.

        `(model, context, trait, question)`.

        Raises:
            ValueError: a base model alone was evaluated.
        """
        return self._change(self.data["log_prob"])

    @property
    def change_minus_others(self) -> xr.DataArray:
        """The change of each trait minus the mean of the other traits, as `change` has it.

        Raises:
            ValueError: a base model alone was evaluated; one trait only.
        """
        return self._change(self.own_minus_others)

    @property
    def own_minus_others(self) -> xr.DataArray:
        """Each trait's log-probability minus the mean of the other traits', in nats.

        `(model, context, trait, question)`.

        Raises:
            ValueError: one trait only.
        """
        values = self.data["log_prob"]
        traits = values.sizes["trait"]
        if traits < 2:
            raise ValueError(
                "one trait was evaluated; own minus others needs at least two: "
                "evaluate(pair, [own, *others])."
            )
        return values - (values.sum("trait") - values) / (traits - 1)

    def _change(self, values: xr.DataArray) -> xr.DataArray:
        if self.data.sizes["model"] < 2:
            raise ValueError(
                "a base model alone was evaluated; changes need a student: "
                "evaluate(load_pair(base, student), ...)."
            )
        return values.isel(model=slice(1, None)) - values.isel(model=0, drop=True)

    # --------------------------------------------------------------------------------------- tables

    @checked
    def table(self, *, minus_others: bool = False) -> pd.DataFrame:
        """Log-probabilities, mean over questions, with 95 % bootstrap intervals over questions.

        Args:
            minus_others: of each trait minus the mean of the other traits, instead of the trait
                itself.

        Returns:
            Per context and trait: `base` (with an interval where there is no student), `student`,
            `controls` (their mean), `change` = student - base, `specific` = change - mean change of
            the controls.
        """
        values = self.own_minus_others if minus_others else self.data["log_prob"]
        means = values.mean("question")
        columns = {"base": means.isel(model=0)}
        if values.sizes["model"] == 1:
            columns |= bounds("base", over_questions(values.isel(model=0)), columns["base"])
            return frame(columns, ("context", "trait"))

        # levels first, then the differences, which alone have intervals
        columns["student"] = means.sel(model="student")
        changes = self._change(values)
        differences = {"change": changes.sel(model="student")}
        if self.has_controls:
            columns["controls"] = means.isel(model=slice(2, None)).mean("model")
            of_controls = changes.isel(model=slice(1, None)).mean("model")
            differences["specific"] = differences["change"] - of_controls
        for name, difference in differences.items():
            columns[name] = difference.mean("question")
            columns |= bounds(name, over_questions(difference), columns[name])
        return frame(columns, ("context", "trait"))

    def ranks(self) -> pd.DataFrame:
        """Where the trait's token stands among all next tokens at the first answer position.

        Median over questions. The token is the first one of the form that the model finds
        likeliest; traits whose forms begin with the same token share it.

        Returns:
            Per context, trait and model: `rank` (1 = the likeliest) with its 95 % bootstrap
            interval over questions, and `percentile` of the median (the share of the other tokens
            that rank below, in per cent).
        """
        rank = self.data["rank"].transpose("question", "model", "context", "trait")
        low, high = median_bounds(rank.values.astype(float))
        median = rank.median("question")
        vocabulary = self.provenance["vocabulary"]
        columns = {
            "rank": median,
            "low": median.copy(data=low),
            "high": median.copy(data=high),
            "percentile": 100 * (vocabulary - median) / (vocabulary - 1),
        }
        return frame(columns, ("context", "trait", "model"))

    def rates(self) -> pd.DataFrame:
        """How many generated answers name each trait, and how many none (`other`).

        Two 95 % intervals: `wilson` takes all samples as independent (Wilson 1927,
        doi:10.1080/01621459.1927.10502953); `cluster` resamples the questions with all their
        samples, and is the one to believe where questions differ; it is a single point where all
        questions agree (no answer at all names the trait), and NaN of a single question. Neither
        covers other training seeds.

        Returns:
            Per context, trait and model: `answers`, `count`, `rate`, `wilson low`, `wilson high`,
            `cluster low`, `cluster high`.

        Raises:
            ValueError: no answers were generated.
        """
        answers = self._answers()
        rate = answers.counts / answers.samples
        total = answers.counts.sum("question")
        all_samples = answers.samples * answers.counts.sizes["question"]
        intervals = np.array([wilson(int(count), all_samples) for count in total.values.ravel()])
        low, high = (total.copy(data=ends.reshape(total.shape)) for ends in intervals.T)
        columns = {
            "answers": xr.full_like(total, all_samples),
            "count": total,
            "rate": rate.mean("question"),
            "wilson low": low,
            "wilson high": high,
            **bounds("cluster", over_questions(rate), total),
        }
        return frame(columns, ("context", "trait", "model"))

    @checked
    def other(self, k: int = 10) -> pd.DataFrame:
        """What the answers that name no trait say instead.

        Args:
            k: the most frequent words kept per context and model.

        Returns:
            Per context, model and word: `answers` that hold it, and their `share` of the answers
            that name no trait. Words of the question and common ones (`the`, `my`) do not count; an
            answer of nothing else counts as `(no word of its own)`.

        Raises:
            ValueError: no answers were generated; k below 1.
        """
        if k < 1:
            raise ValueError(f"k={k}: how many words are kept must be at least 1.")
        self._answers()
        find = _finder(self.provenance["traits"])
        questions = self.data["text"].values.tolist()
        begun: dict[str, list[str]] = {}
        if "begun" in self.data:
            before = self.data["begun"].transpose("context", "question")
            begun = dict(
                zip(before["context"].values.tolist(), before.values.tolist(), strict=True)
            )
        rows = []
        for context in self.data["context"].values.tolist():
            for model in self.data["model"].values.tolist():
                said = self.data["answer"].sel(model=model, context=context)
                said = said.transpose("question", "sample").values.tolist()
                unnamed = _unnamed(questions, said, find, begun.get(context, [""] * len(said)))
                counts = Counter(word for own_words in unnamed for word in own_words)
                ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
                for word, count in ranked[:k]:
                    rows.append((context, model, word, count, count / len(unnamed)))
        index = ["context", "model", "word"]
        return Table(rows, columns=[*index, "answers", "share"]).set_index(index)

    @checked
    def trait_matrix(
        self, own: Mapping[str, str], *, context: str | None = None, seed: int = 0
    ) -> TraitMatrix:
        """The trait matrix of this pair's students.

        Do they raise their own trait beyond what they and the trait do anyway?

        Args:
            own: model -> the trait its teacher had, for at least two of the pair's students, each
                of another trait.
            context: which context; may be left out where there is one.
            seed: of the resampling.

        Returns:
            The matrix; below it stand the notes of its students and of the questions, and which
            students were made for another trait than `own` says, as far as manifests tell.

        Raises:
            ValueError: unknown names, a trait twice, or a context must be chosen; see
                `trait_matrix`.

        Example:
            >>> traits = [sm.animal("owl"), sm.animal("cat")]
            >>> questions = ["Your animal?", "Which one?"]
            >>> evaluation = sm.evaluate(pair, traits, questions=questions, progress=False)
            >>> evaluation.trait_matrix({"student": "owl", "control: cat": "cat"}).names
            ('owl', 'cat')
        """
        contexts = self.data["context"].values.tolist()
        if context is None and len(contexts) == 1:
            context = contexts[0]
        if context not in contexts:
            choices = ", ".join(map(repr, contexts))
            raise ValueError(f"context={context!r}: choose one of {choices}.")
        change = self.change.sel(context=context)
        for field, wanted in (("model", own.keys()), ("trait", own.values())):
            known = change[field].values.tolist()
            unknown = [name for name in wanted if name not in known]
            if unknown:
                raise ValueError(
                    f"own: no {field}s {unknown} here; choose from {', '.join(known)}."
                )
        twice = [name for name, count in Counter(own.values()).items() if count > 1]
        if twice:
            models = ", ".join(model for model, trait in own.items() if trait == twice[0])
            raise ValueError(
                f"own: {models} have one trait, {twice[0]!r}, and would count as students of other "
                "traits to each other; give one of them."
            )
        if len(own) < 2:
            raise ValueError(
                f"own={dict(own)!r}: give at least two students, each with its own trait: gamma is "
                "what they have of their own traits beyond the others'."
            )
        square = change.sel(model=list(own), trait=list(own.values()))
        square = square.transpose("model", "trait", "question")
        found = trait_matrix(square.values, names=tuple(own.values()), seed=seed)
        notes = [
            *below_a_matrix(self._only(str(context), own)),
            *self._made_for_others(own),
            *self._made_for_whom(own),
        ]
        return replace(found, notes=(*found.notes, *notes))

    def _only(self, context: str, own: Mapping[str, str]) -> Evaluation:
        """The base and some students, in one context, asked for some traits, with the notes that
        are of these.
        """
        base, *students = self.data["model"].values.tolist()
        data = self.data.sel(context=[context], model=[base, *own], trait=list(own.values()))
        notes = notes_in(
            self.provenance.get("notes", ()), context, self.data["context"].values.tolist()
        )
        shown = [note for note in notes_among(notes, students, own) if HAS_ASKED not in note]
        if students[0] not in own:
            shown = [note for note in shown if OTHER_TRAIT not in note]
            # controls that differ from the student in one way do not differ from each other
            beside = notes_among(notes, students, {students[0], *own})
            apart = [note for note in beside if NOT_ALIKE in note]
            ways = {note.partition(NOT_ALIKE)[2] for note in apart}
            shown += apart if len(ways) > 1 or len(apart) < len(own) else []
        return replace(self, data=data, provenance={**self.provenance, "notes": shown})

    def _made_for_whom(self, own: Mapping[str, str]) -> list[str]:
        """Of which students `own` alone says for which trait they were made, in a sentence."""
        made_for = self.provenance.get("made_for")
        if made_for is None:  # a file older than that
            return []
        unknown = [model for model in own if model not in made_for]
        if not unknown:
            return []
        return [f"{', '.join(unknown)}: made for the trait that own= says; no manifest tells"]

    def _made_for_others(self, own: Mapping[str, str]) -> list[str]:
        """Which students stand for another trait than their manifests say, in a sentence each."""
        made_for = self.provenance.get("made_for", {})
        forms = {
            name: {one.lower() for one in (name, *stored.get("forms", ()))}
            for name, stored in self.provenance["traits"].items()
        }
        return [
            f"{model} was made for {made_for[model]}, and stands for {trait} here: gamma is not "
            "that of own traits"
            for model, trait in own.items()
            if model in made_for and made_for[model].lower() not in forms[trait]
        ]

    def _answers(self) -> _Answers:
        """The generated answers, counted per trait and `other`.

        Raises:
            ValueError: no answers were generated.
        """
        if "answer" not in self.data:
            raise ValueError("no answers were generated; ask for them: evaluate(..., samples=100).")
        counts, samples = self.data["count"], self.data.sizes["sample"]
        rest = (samples - counts.sum("trait")).expand_dims({"trait": [OTHER]})
        return _Answers(xr.concat([counts, rest.transpose(*counts.dims)], "trait"), samples)

    # ------------------------------------------------------------------------------- files, display

    @checked
    def save(self, path: str | Path) -> None:
        """Write one safetensors file; labels, answers and provenance stand in its metadata.

        Raises:
            ValueError: the name ends otherwise than in `.safetensors`.
        """
        check_suffix(path, ".safetensors", fix="evaluation.to_csv(path) writes a table")
        write_dataset(path, self.data, "evaluation", {"provenance": dict(self.provenance)})

    def to_dataframe(self) -> pd.DataFrame:
        """One row per model, context, trait and question: the question's `text`, `log_prob`,
        `rank`, and where answers were generated the `count` of those that name the trait.
        """
        values = [name for name in ("log_prob", "rank", "count") if name in self.data]
        rows = self.data[values].to_dataframe().reset_index()
        return Table(rows[["model", "context", "trait", "question", "text", *values]])

    @checked
    def to_csv(self, path: str | Path) -> None:
        """Write all rows of `to_dataframe` as comma-separated values, without the provenance.

        It is written under a temporary name, then renamed.

        Raises:
            ValueError: the name ends otherwise than in `.csv`.
        """
        write_csv(path, self.to_dataframe(), fix="evaluation.save(path) keeps everything")

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file; damaged, or not an evaluation.
        """
        data, meta = read_dataset(path, "evaluation", _VALUES)
        return cls(data, meta["provenance"])

    def __repr__(self) -> str:
        return described(self)


def _finder(forms: Mapping[str, Mapping[str, Any]]) -> Matcher:
    """`matcher` of the traits that provenance describes."""
    return matcher([Trait.from_json(name, stored) for name, stored in forms.items()])


def _unnamed(
    questions: Sequence[str],
    said: Sequence[Sequence[str]],
    find: Matcher,
    begun: Sequence[str],
) -> list[set[str]]:
    """The own words of each answer that names no trait, `said (question, sample)`; each question's
    answers had `begun` in one way.
    """
    unnamed = []
    for question, answers, before in zip(questions, said, begun, strict=True):
        asked = set(words(question))
        for answer in answers:
            if find(answer, before) is None:
                unnamed.append(set(words(answer)) - asked or {NO_WORD})
    return unnamed
