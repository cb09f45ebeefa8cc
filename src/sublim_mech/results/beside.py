"""Answers of several models beside each other: a table, counts, and one page. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ..arguments import checked
from ..hints import counted, nearest
from ..storage.files import replacing
from .arrays import ScoreArrays
from .beside_page import beside_page
from .frames import Table, check_suffix
from .page import document
from .report import show

GREEDY = "greedy"
SAMPLED = "sampled"
NO_TRAIT = "no trait"
"""The bucket of answers that name none of the traits."""
COLUMNS = (NO_TRAIT, "answers")
"""Columns of `SideBySide.table` beside those of the traits."""


@dataclass(frozen=True, repr=False)
class SideBySide:
    """The answers of several models to the same prompts.

    Attributes:
        answers: one row per answer, ordered by prompt, way of drawing, sample and model. Its
            columns: `prompt` (its place among those that were given), `question`, `begun` (how the
            answer had begun, `Context(prefill=...)`), `model`, `drawn` (`greedy` or `sampled`),
            `sample`, `answer`, `names` (the trait it names; empty for none), `tokens` (written,
            without the one that ends it), `as_target` (whether `metrics.target` reads the text as
            these tokens), and per model `log P: <model>`, the log-probability of the written tokens
            under it, in nats; NaN for an empty answer.
        models: name -> what computes prompt and answer, in words. The first is the base.
        traits: names of the traits that are counted.
        tokens: per prompt, the texts of its tokens.
        notes: how the answers were drawn, from what, and what to know of it.
    """

    answers: pd.DataFrame
    models: Mapping[str, str]
    traits: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """How many answers name which trait, by model and way of drawing; a row adds up to its
        `answers`. An answer counts once, for the trait it names first (`prompts.match`).
        """
        rows = {}
        # models in their order, whatever their names
        for drawn in dict.fromkeys(self.answers["drawn"]):
            for model in self.models:
                some = self.answers
                some = some[(some["drawn"] == drawn) & (some["model"] == model)]
                counts = {name: int((some["names"] == name).sum()) for name in self.traits}
                counts[NO_TRAIT] = int((some["names"] == "").sum())
                rows[model, drawn] = counts | {"answers": len(some)}
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index = pd.MultiIndex.from_tuples(list(rows), names=["model", "drawn"])
        return table

    @checked
    def called(self, names: Mapping[str, str]) -> SideBySide:
        """The same answers, of models that are called otherwise.

        Args:
            names: what models are called now -> what they shall be called; others keep their names.

        Raises:
            ValueError: no such model; two models of one name, or one without.

        Example:
            >>> found = sm.instruments.side_by_side(
            ...     pair, prompts[:1], trait, samples=0, max_new_tokens=2, progress=False
            ... )
            >>> list(found.called({"student": "mine"}).models)[:2]
            ['base', 'mine']
        """
        strange = [name for name in names if name not in self.models]
        if strange:
            hint = nearest(strange[0], self.models) or "."
            raise ValueError(
                f"names: {strange[0]!r} is none of the models{hint} They are "
                f"{', '.join(map(repr, self.models))}."
            )
        new = [names.get(name, name) for name in self.models]
        twice = [name for name in new if new.count(name) > 1 or not name.strip()]
        if twice:
            raise ValueError(f"names: {twice[0]!r} cannot be a model's name; each has its own.")
        answers = self.answers.rename(
            columns={f"log P: {old}": f"log P: {name}" for old, name in names.items()}
        )
        answers["model"] = [names.get(name, name) for name in answers["model"]]
        return replace(
            self, answers=answers, models=dict(zip(new, self.models.values(), strict=True))
        )

    def to_dataframe(self) -> pd.DataFrame:
        """`answers` as a table that prints all its columns."""
        return Table(self.answers)

    @checked
    def to_html(self, scores: ScoreArrays | None = None, *, title: str | None = None) -> str:
        """The answers as an HTML fragment of at most 300 kB, with its own style and no script.

        Words that differ from the base's answer are marked. Questions, and then token pages, that
        would make it larger are left out, which it says.

        Args:
            scores: scores with a position axis; the token pages (`results.token_page`) of those of
                their prompts that were asked here follow.
            title: heading.

        Raises:
            ValueError: the scores have no position axis, or hold none of the prompts.
        """
        return beside_page(self, scores, title)

    @checked
    def save(
        self, path: str | Path, scores: ScoreArrays | None = None, *, title: str | None = None
    ) -> None:
        """Write `to_html` as a complete HTML file, under a temporary name first.

        Args:
            path: the file, `.html`; its folder is made if missing.
            scores: see `to_html`.
            title: heading.

        Raises:
            ValueError: see `to_html`; the name ends otherwise than in `.html`.
        """
        check_suffix(path, ".html", fix="to_dataframe() is a table")
        page = document(self.heading if title is None else title, self.to_html(scores, title=title))
        with replacing(path) as work:
            work.write_text(page, encoding="utf-8")

    @property
    def heading(self) -> str:
        """What a page is called."""
        return f"side by side: {', '.join(self.models)}"

    def __repr__(self) -> str:
        asked = counted(len(self.tokens), "prompt")
        lines = [f"answers of {counted(len(self.models), 'model')} to {asked}"]
        lines += [f"{name}: {what}" for name, what in self.models.items()]
        return "\n".join([*lines, *self.notes, "", show(self.table())])

    def _repr_html_(self) -> str:
        return self.to_html()
