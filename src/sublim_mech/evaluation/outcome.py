"""The result of an evaluation: arrays over model, context, trait and question, with its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..prompts import Trait, matcher, words
from ..stats import DRAWS, Interval, mean_interval, wilson
from ..storage.files import read_dataset, write_dataset
from .matrix import TraitMatrix, trait_matrix

OTHER = "other"
NO_WORD = "(no word of its own)"
_VALUES = ("log_prob", "rank", "answer", "count")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        data: arrays over `model` (`base`, `student`, `control: <name>`), `context`, `trait` and `question`: `log_prob` (nats, forms
            summed), `rank` (1 = the likeliest next token); with generated answers also `answer (model, context, question, sample)` and
            `count` (answers that name the trait). The questions' texts are the coordinate `text (question)`.
        provenance: models and hashes, contexts, traits' forms, seed, versions, command.
    """

    data: xr.Dataset
    provenance: Mapping[str, Any]

    @property
    def has_controls(self) -> bool:
        """Whether students of other traits were evaluated alike."""
        return self.data.sizes["model"] > 2

    @property
    def change(self) -> xr.DataArray:
        """`(model, context, trait, question)`: each student's log-probability minus the base's in the same context, in nats.

        Raises:
            ValueError: a base model alone was evaluated.
        """
        return self._change(self.data["log_prob"])

    @property
    def own_minus_others(self) -> xr.DataArray:
        """`(model, context, trait, question)`: each trait's log-probability minus the mean of the other traits', in nats.

        Raises:
            ValueError: one trait only.
        """
        values = self.data["log_prob"]
        n = values.sizes["trait"]
        if n < 2:
            raise ValueError("one trait was evaluated; own minus others needs at least two: evaluate(pair, [own, *others]).")
        return values - (values.sum("trait") - values) / (n - 1)

    def _change(self, values: xr.DataArray) -> xr.DataArray:
        if self.data.sizes["model"] < 2:
            raise ValueError(
                "a base model alone was evaluated; changes need a student: evaluate(load_pair(base, student), ...)."
            )
        return values.isel(model=slice(1, None)) - values.isel(model=0, drop=True)

    # ------------------------------------------------------------------------------------------------------- tables

    def table(self, *, minus_others: bool = False) -> pd.DataFrame:
        """Log-probabilities, mean over questions, with 95 % bootstrap intervals over questions.

        Args:
            minus_others: of each trait minus the mean of the other traits, instead of the trait itself.

        Returns:
            Per context and trait: `base` (with an interval where there is no student), `student`, `controls` (their mean), `change` =
            student - base, `specific` = change - mean change of the controls.
        """
        values = self.own_minus_others if minus_others else self.data["log_prob"]
        means = values.mean("question")
        columns = {"base": means.isel(model=0)}
        if values.sizes["model"] == 1:
            columns |= _bounds("base", _over_questions(values.isel(model=0)), columns["base"])
        else:
            change = self._change(values)
            columns["student"] = means.sel(model="student")
            estimates = {"change": change.sel(model="student")}
            if self.has_controls:
                columns["controls"] = means.isel(model=slice(2, None)).mean("model")
                estimates["specific"] = estimates["change"] - change.isel(model=slice(1, None)).mean("model")
            for name, x in estimates.items():
                columns[name] = x.mean("question")
                columns |= _bounds(name, _over_questions(x), columns[name])
        return _frame(columns, ("context", "trait"))

    def ranks(self) -> pd.DataFrame:
        """Where the trait's token stands among all next tokens at the first answer position: median over questions.

        The token is the first one of the form that the model finds likeliest; traits whose forms begin with the same token share it.

        Returns:
            Per context, trait and model: `rank` (1 = the likeliest) with its 95 % bootstrap interval over questions, and `percentile` of
            the median (the share of the other tokens that rank below, in per cent).
        """
        rank = self.data["rank"].transpose("question", "model", "context", "trait")
        low, high = _median_bounds(rank.values.astype(float))
        middle = rank.median("question")
        below = 100 * (self.provenance["vocabulary"] - middle) / (self.provenance["vocabulary"] - 1)
        columns = {"rank": middle, "low": middle.copy(data=low), "high": middle.copy(data=high), "percentile": below}
        return _frame(columns, ("context", "trait", "model"))

    def rates(self) -> pd.DataFrame:
        """How many generated answers name each trait, and how many none (`other`).

        Two 95 % intervals: `wilson` takes all samples as independent (Wilson 1927, doi:10.1080/01621459.1927.10502953); `cluster`
        resamples the questions with all their samples, and is the one to believe where questions differ; it is a single point where
        all questions agree (no answer at all names the trait). Neither covers other training seeds.

        Returns:
            Per context, trait and model: `answers`, `count`, `rate`, `wilson low`, `wilson high`, `cluster low`, `cluster high`.

        Raises:
            ValueError: no answers were generated.
        """
        counts, samples = self._counts()
        rate = counts / samples
        total = counts.sum("question")
        n = samples * counts.sizes["question"]
        wide = [wilson(int(k), n) for k in total.values.ravel()]
        low, high = (total.copy(data=np.array(x).reshape(total.shape)) for x in zip(*wide, strict=True))
        columns = {
            "answers": xr.full_like(total, n),
            "count": total,
            "rate": rate.mean("question"),
            "wilson low": low,
            "wilson high": high,
            **_bounds("cluster", _over_questions(rate), total),
        }
        return _frame(columns, ("context", "trait", "model"))

    def other(self, k: int = 10) -> pd.DataFrame:
        """What the answers that name no trait say instead.

        Args:
            k: the most frequent words kept per context and model.

        Returns:
            Per context, model and word: `answers` that hold it, and their `share` of the answers that name no trait. Words of the question
            and common ones (`the`, `my`) do not count; an answer of nothing else counts as `(no word of its own)`.

        Raises:
            ValueError: no answers were generated.
        """
        self._counts()
        find = _finder(self.provenance["traits"])
        texts = self.data["text"].values.tolist()
        rows = []
        for context in self.data["context"].values.tolist():
            for model in self.data["model"].values.tolist():
                said = self.data["answer"].sel(model=model, context=context).transpose("question", "sample").values.tolist()
                counts, n = Counter[str](), 0
                for question, answered in zip(texts, said, strict=True):
                    asked = set(words(question))
                    for text in answered:
                        if find(text) is None:
                            n += 1
                            counts.update(set(words(text)) - asked or {NO_WORD})
                ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
                rows += [(context, model, word, count, count / n) for word, count in ranked[:k]]
        return pd.DataFrame(rows, columns=["context", "model", "word", "answers", "share"]).set_index(
            ["context", "model", "word"]
        )

    def trait_matrix(self, own: Mapping[str, str], *, context: str | None = None, seed: int = 0) -> TraitMatrix:
        """The trait matrix of this pair's students: do they raise their own trait beyond what they and the trait do anyway?

        Args:
            own: model -> the trait its teacher had, for at least two of the pair's students.
            context: which context; may be left out where there is one.
            seed: of the resampling.

        Raises:
            ValueError: unknown names, or a context must be chosen; see `trait_matrix`.

        Example:
            >>> found = sm.evaluate(pair, [sm.animal("owl"), sm.animal("cat")], questions=["Your animal?", "Which one?"], progress=False)
            >>> found.trait_matrix({"student": "owl", "control: cat": "cat"}).names
            ('owl', 'cat')
        """
        contexts = self.data["context"].values.tolist()
        if context is None and len(contexts) == 1:
            context = contexts[0]
        if context not in contexts:
            raise ValueError(f"context={context!r}: choose one of {', '.join(map(repr, contexts))}.")
        change = self.change.sel(context=context)
        for field, wanted, known in (("models", own, change["model"]), ("traits", own.values(), change["trait"])):
            unknown = [x for x in wanted if x not in known.values.tolist()]
            if unknown:
                raise ValueError(f"own: no {field} {unknown} here; choose from {', '.join(known.values.tolist())}.")
        square = change.sel(model=list(own), trait=list(own.values())).transpose("model", "trait", "question")
        return trait_matrix(square.values, names=tuple(own.values()), seed=seed)

    def _counts(self) -> tuple[xr.DataArray, int]:
        """Answers per trait and `other`, and samples per question."""
        if "answer" not in self.data:
            raise ValueError("no answers were generated; ask for them: evaluate(..., samples=100).")
        counts, samples = self.data["count"], self.data.sizes["sample"]
        rest = (samples - counts.sum("trait")).expand_dims({"trait": [OTHER]})
        return xr.concat([counts, rest.transpose(*counts.dims)], "trait"), samples

    # -------------------------------------------------------------------------------------------------------- files, display

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; labels, answers and provenance stand in its metadata."""
        write_dataset(path, self.data, "evaluation", {"provenance": dict(self.provenance)})

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file; damaged, or not an evaluation.
        """
        data, meta = read_dataset(path, "evaluation", _VALUES)
        return cls(data, meta["provenance"])

    def __repr__(self) -> str:
        sizes, models = self.data.sizes, self.data["model"].values.tolist()
        lines = [
            f"evaluation of {', '.join(models)}: {sizes['trait']} traits x {sizes['question']} questions x {sizes['context']} contexts"
        ]
        if len(models) == 2:
            lines.append("no controls given: part of any change may come from training on any numbers")
        lines.append(
            "log P in nats, mean over questions"
            + (" (one question: no intervals)" if sizes["question"] == 1 else " [95 % over questions]")
        )
        compute = self.provenance.get("compute")
        if compute is not None:
            lines.append(f"computed in {compute['dtype']}: log P off by up to {compute['error']:.2g} nats")
        table = self.table()
        if sizes["trait"] > 1:
            others = self.table(minus_others=True)
            name = next(c for c in ("specific", "change", "base") if c in others)
            for end in ("", " low", " high"):
                table[f"own - others{end}"] = others[name + end]
            lines.append(f"own - others: {name} of the trait minus the mean of the other traits")
        lines.append(_readable(table))
        if "answer" in self.data:
            n = sizes["question"] * sizes["sample"]
            lines += ["", f"% of {n} generated answers [95 %, outer ends of Wilson's and the cluster interval]"]
            rates = 100 * self.rates()
            shown = pd.DataFrame({"rate": rates["rate"]})
            shown["rate low"] = rates[["wilson low", "cluster low"]].min(
                axis=1
            )  # no answer in 100: the cluster interval is a point
            shown["rate high"] = rates[["wilson high", "cluster high"]].max(axis=1)
            wide = _with_intervals(shown, 1)["rate"].unstack("model", sort=False)
            lines.append(_short(wide).to_string())
        return "\n".join(lines)


def _finder(traits: Mapping[str, Mapping[str, Any]]) -> Any:
    return matcher([Trait(name, plural=t["plural"], aliases=tuple(t["aliases"])) for name, t in traits.items()])


def _over_questions(x: xr.DataArray) -> Interval:
    return mean_interval(x.transpose("question", ...).values)


def _bounds(name: str, interval: Interval, like: xr.DataArray) -> dict[str, xr.DataArray]:
    """Columns `<name> low` and `<name> high`."""
    return {f"{name} low": like.copy(data=interval.low), f"{name} high": like.copy(data=interval.high)}


def _median_bounds(x: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile-bootstrap interval of the median over the first axis; NaN for a single question."""
    if len(x) < 2:
        return np.full(x.shape[1:], np.nan), np.full(x.shape[1:], np.nan)
    drawn = np.random.default_rng(seed).integers(len(x), size=(DRAWS, len(x)))
    flat = x.reshape(len(x), -1)
    bounds = np.array([np.percentile(np.median(cell[drawn], axis=1), [2.5, 97.5]) for cell in flat.T])
    return bounds[:, 0].reshape(x.shape[1:]), bounds[:, 1].reshape(x.shape[1:])


def _frame(columns: Mapping[str, xr.DataArray], index: tuple[str, ...]) -> pd.DataFrame:
    """Arrays of the same labels as columns, in the order of the labels."""
    first = next(iter(columns.values())).transpose(*index)
    labels = pd.MultiIndex.from_product([first[d].values.tolist() for d in index], names=index)
    return pd.DataFrame({name: x.transpose(*index).values.ravel() for name, x in columns.items()}, labels)


def _with_intervals(table: pd.DataFrame, decimals: int) -> pd.DataFrame:
    """Columns `x`, `x low`, `x high` as one column of text."""
    out = {}
    for name in table.columns:
        if not name.endswith((" low", " high")):
            shown = [f"{v:.{decimals}f}" for v in table[name]]
            if f"{name} low" in table and not table[f"{name} low"].isna().all():
                ends = zip(table[f"{name} low"], table[f"{name} high"], strict=True)
                shown = [f"{v} [{low:.{decimals}f}, {high:.{decimals}f}]" for v, (low, high) in zip(shown, ends, strict=True)]
            out[name] = shown
    return pd.DataFrame(out, table.index)


def _readable(table: pd.DataFrame) -> str:
    """The table with intervals in brackets; long system prompts shortened."""
    return _short(_with_intervals(table, 2)).to_string()


def _short(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(index=lambda text: text if len(text) <= 30 else f"{text[:29]}…", level="context")
