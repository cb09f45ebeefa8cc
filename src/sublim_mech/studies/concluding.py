"""Which rows of a study speak of which claim, and what they say.

A study holds many kinds of students; a claim is told of one setting. Where there are several the
one with the most row seeds is taken, then with the most rows, then of the training context that the
study has first, then of the lowest held-out KL: how much was measured and how well students imitate
decide, never how much of the trait they have. Each verdict says which it was. Students that were
trained at chosen tokens only speak of that claim alone. `student - control` is compared between
students of one set of controls only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ..hints import counted, signed
from ..results.study_limits import everywhere
from ..stats import (
    Verdict,
    context_claim,
    full_fine_tuning_claim,
    inverted_u_claim,
    localisation_claim,
    nested_interval,
    trained_at_claim,
    transmission_claim,
    verdicts,
)
from ..stats.cautions import by_trait
from ..stats.claims_arms import TRAINED_AT
from ..stats.statements import above_zero, conclude, nothing_measured
from ..stats.tables import DATA_SET, best_rates
from .arms import EVERYWHERE
from .config import PLAIN
from .control_sets import FOCUS, focus_of, in_order

SETTING = ("labels", "c", "where", FOCUS)
METHOD = ("kind", "rank", "rule", "lr", "method")
CONTEXTS = ("trained_in", "evaluated_in")
STUDENT = ("trait", "row_seed", "training_seed")
_NEEDED = (
    *STUDENT, "labels", "c", "where", *CONTEXTS,
    "method", "kind", "rank", "rule", "lr", "step", "kl",
)  # fmt: skip
CONTRASTIVE = "contrastive"
"""What rows call labels of some c."""

_NUMBERS = ("rank", "lr", "step", "kl")
_TEXTS = ("trait", "method", "kind", "labels", "where", *CONTEXTS)
_MEASURED = ("base level", "change", "control", "specific")


def students(rows: Any) -> pd.DataFrame:
    """Rows as a table, each student, context and set of controls once.

    A student that several parts have, with and without scores, is one row with all its columns; one
    that has other controls in another part is another row (`control_sets`).

    Raises:
        TypeError: neither a DataFrame nor a list of dicts; a text where a number belongs.
        ValueError: a column that every row has is missing, or empty in one of them.
    """
    if not isinstance(rows, pd.DataFrame):
        if not isinstance(rows, list | tuple):
            raise TypeError(
                f"rows: {type(rows).__name__}; pass a DataFrame (studies.rows) or a list of dicts."
            )
        rows = pd.DataFrame(list(rows))
    rows = pd.DataFrame(rows)
    needed = (*_NEEDED, *_MEASURED)
    missing = [name for name in needed if name not in rows]
    if missing and len(rows):
        raise ValueError(
            f"rows have no column {missing[0]!r}; pass the rows of a study (studies.rows, or what "
            "studies.export wrote)."
        )
    if not len(rows):
        return pd.DataFrame(columns=list(needed))
    for name in (*_NUMBERS, *_MEASURED):
        text = next((value for value in rows[name] if isinstance(value, str)), None)
        if text is not None:
            raise TypeError(
                f"rows: {name!r} is the text {text!r}; pass numbers (pandas.read_csv reads them as "
                "such)."
            )
    for name in _TEXTS:
        empty = rows[name].isna().to_numpy().nonzero()[0]
        if len(empty):
            raise ValueError(
                f"rows: {name!r} is empty in row {empty[0]}, and every run has it. From a file "
                "rows are read by studies.read_export(path), or pandas.read_csv(path, "
                "keep_default_na=False, na_values=['']): a context may be called 'None'."
            )
    if "controls" in rows:
        rows = rows.assign(controls=in_order(rows["controls"]))
    identity = _identity(rows, "controls")
    merged = rows.groupby(identity, sort=False, dropna=False, as_index=False).first()
    merged["rule"] = merged["rule"].fillna("")
    ranks = [None if pd.isna(rank) else int(rank) for rank in merged["rank"]]
    merged["rank"] = pd.Series(ranks, dtype=object)
    merged["capacity"] = [_capacity(row) for row in merged.to_dict("records")]
    merged[FOCUS] = focus_of(merged)
    return merged


def _identity(rows: pd.DataFrame, *more: str) -> list[str]:
    """The columns that make a student and context what they are."""
    every = ("base", "student", *_NEEDED, *more)
    return [name for name in every if name in rows and name != "kl"]


def _capacity(row: dict[str, Any]) -> str:
    if row["kind"] != "lora":
        return str(row["kind"])
    return f"rank {int(row['rank'])}, {row['rule']}"


@dataclass(frozen=True)
class Chosen:
    """The rows that speak of something.

    Attributes:
        rows: of one setting.
        setting: which, in words.
        others: how many other settings the study has of the same.
        contexts: in how many training contexts.
        only: of which students or settings alone row seeds and rows were counted, in words; empty
            of all.
    """

    rows: pd.DataFrame
    setting: str
    others: int
    contexts: int = 1
    only: str = ""

    @property
    def told(self) -> str:
        """For readers."""
        if not self.setting:
            return "No student of this kind."
        told = f"Told of: {self.setting}."
        if self.others:
            only = f" ({self.only})" if self.only else ""
            told += (
                f" The study has {counted(self.others, 'other setting')} of it; the one with the "
                f"most row seeds, then rows{only}, {_FIRST if self.contexts > 1 else ''}then "
                f"{_lowest(self.rows)} is taken."
            )
        return told


_FIRST = "then the training context that comes first, "


def _lowest(rows: pd.DataFrame) -> str:
    """What decides last; nothing that was not measured is low."""
    if rows["kl"].notna().any():
        return "the lowest held-out KL"
    return "the first in the study, for no held-out KL is known of it,"


def choose(rows: pd.DataFrame, by: Sequence[str], *, only: str = "") -> Chosen:
    """The rows of the setting with the most row seeds, then rows, then of the training context that
    the study has first, then of the lowest held-out KL, which says nothing between contexts: there
    the teachers are others.

    Args:
        rows: those that are counted.
        by: columns that make a setting.
        only: which of the study's rows these are, in words; empty of all.
    """
    if not len(rows):
        return Chosen(rows, "", 0)
    groups = list(rows.groupby(list(by), sort=False, dropna=False))
    contexts = list(rows["trained_in"].unique()) if "trained_in" in by else []
    order = [
        (
            group["row_seed"].nunique(),
            len(group),
            -contexts.index(group["trained_in"].iloc[0]) if contexts else 0,
            -_known_or_inf(group["kl"].mean()),
        )
        for _, group in groups
    ]
    key, group = groups[order.index(max(order))]
    named = zip(by, key, strict=True)
    words = [
        f"{name} {_said(value)}" for name, value in named if not pd.isna(value) and value != ""
    ]
    return Chosen(group, ", ".join(words), len(groups) - 1, len(contexts) or 1, only)


def _known_or_inf(kl: float) -> float:
    return math.inf if math.isnan(kl) else float(kl)


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------- what speaks of what


@dataclass(frozen=True)
class Evidence:
    """The rows of a study, sorted by what they speak of.

    Attributes:
        all: every student, context and set of controls once.
        longer: contexts that only lengthen the user's text.
    """

    all: pd.DataFrame
    longer: tuple[str, ...] = ()

    @property
    def _everywhere(self) -> pd.DataFrame:
        """Students that were trained at all tokens, where there are some: those of chosen tokens
        are what `trained_at` is about.
        """
        everywhere = self.all[self.all["where"] == EVERYWHERE]
        return everywhere if len(everywhere) else self.all

    @property
    def _ends(self) -> pd.DataFrame:
        return _ends(self._everywhere)

    def _at_home(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Asked in the context of training."""
        return rows[rows["trained_in"] == rows["evaluated_in"]]

    def traits(self) -> Chosen:
        """Students of one method, for the trait matrix, which has no controls."""
        home = self._at_home(self._ends)
        once = home.drop_duplicates(_identity(home))
        setting = [name for name in SETTING if name != FOCUS]
        return choose(once, (*setting, *CONTEXTS, *METHOD))

    def ranks(self) -> list[tuple[str, Chosen, pd.DataFrame]]:
        """Per scaling rule: its name, its LoRAs, and full fine-tunes of the same setting; of each
        every training (`of_one_training`).
        """
        ends = self._at_home(self._ends)
        loras, fulls = ends[ends["kind"] == "lora"], ends[ends["kind"] == "full"]
        found = []
        for rule, group in loras.groupby("rule", sort=False):
            several = group.groupby([*SETTING, *CONTEXTS], sort=False, dropna=False)["rank"]
            swept = several.transform("nunique")
            if not len(swept) or swept.max() < 2:
                continue
            only = f"of settings with {int(swept.max())} ranks, the most there are"
            chosen = choose(group[swept == swept.max()], (*SETTING, *CONTEXTS), only=only)
            one = chosen.rows.iloc[0]
            same = fulls
            for name in (*SETTING, *CONTEXTS):
                if not pd.isna(one[name]):
                    same = same[same[name] == one[name]]
            found.append((str(rule), chosen, same))
        return found

    def too_few_ranks(self) -> str:
        """Which ranks there are, and what a curve over ranks takes."""
        ends = self._at_home(self._ends)
        found = []
        for rule, group in ends[ends["kind"] == "lora"].groupby("rule", sort=False):
            ranks = sorted({int(rank) for rank in group["rank"]})
            named = f"{'ranks' if len(ranks) > 1 else 'rank'} {', '.join(map(str, ranks))}"
            found.append(f"{named} ({rule})" if rule else named)
        there = f"LoRAs have {'; '.join(found)}" if found else "there are no LoRAs"
        return f"{there}: it takes three ranks of one scaling rule, alike in all else"

    def capacities(self) -> Chosen:
        """LoRA and full fine-tuning of one setting, with their snapshots."""
        home = self._at_home(self._everywhere)
        both = home.groupby([*SETTING, *CONTEXTS], sort=False, dropna=False)["kind"]
        only = "of settings with LoRA and full fine-tuning"
        return choose(home[both.transform("nunique") > 1], (*SETTING, *CONTEXTS), only=only)

    def contexts(self) -> Chosen:
        """Students of one method, asked in several contexts."""
        ends = self._ends[~self._ends["evaluated_in"].isin(self.longer)]
        by = [*SETTING, *METHOD]
        asked = ends.groupby(by, sort=False, dropna=False)["evaluated_in"].transform("nunique")
        if not len(ends):
            return choose(ends, by)
        most = max(asked.max(), 2)
        only = f"of settings that were asked in {most} contexts, the most there are"
        return choose(ends[asked == most], by, only=only)

    def no_other_context(self) -> str:
        """That students were asked in the context of their training alone, longer texts apart."""
        ends = self._ends
        longer = [str(name) for name in ends["evaluated_in"].unique() if name in self.longer]
        apart = f", longer texts ({', '.join(longer)}) apart" if longer else ""
        told = f"no student was asked in another context{apart}"
        return f"{told}: these only add to the user's words" if longer else told

    def places(self) -> Chosen:
        """Students of one method with grafts and graft IG, at each part that is shared."""
        needed = ("ig shared token share", "graft shared sufficiency", "graft total")
        if any(name not in self.all for name in needed):
            return Chosen(self._ends.iloc[:0], "", 0)
        ends = self._ends[self._ends["graft total"].notna()]
        here = (ends["trained_in"] == ends["evaluated_in"]) | ends["evaluated_in"].isin(self.longer)
        by = (*SETTING, "trained_in", *METHOD)
        return choose(ends[here], by, only="of scored students alone")

    def labelled(self) -> Chosen:
        """Students of contrastive labels of one c, and as many of the teacher's own, which differ
        in nothing else: trait, seeds, method, tokens, contexts and controls.
        """
        home = self._at_home(_ends(self.all))
        alike = [*STUDENT, "where", FOCUS, *CONTEXTS, *METHOD]
        plain = home[home["labels"] == PLAIN]
        found = []
        for c, contrastive in home[home["labels"] == CONTRASTIVE].groupby("c", sort=False):
            kinds = pd.concat([contrastive, plain.assign(c=c)])
            both = kinds.groupby(alike, sort=False, dropna=False)["labels"].transform("nunique")
            found.append(kinds[both > 1])
        every = pd.concat(found) if found else home.iloc[:0]
        by = ("c", "where", FOCUS, *CONTEXTS, *METHOD)
        return choose(every, by, only="of complete pairs alone, a student of either labels")

    def trained_at(self) -> Chosen:
        """Students that were trained at several sets of tokens."""
        home = self._at_home(_ends(self.all))
        by = [name for name in (*SETTING, *CONTEXTS, *METHOD) if name != "where"]
        several = home.groupby(by, sort=False, dropna=False)["where"].transform("nunique")
        return choose(home[several > 1], by, only="of settings that were trained at several")


def of_one_training(
    loras: pd.DataFrame, full: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Of each rank the LoRAs that its verdict is told of, one method of full fine-tuning, and which
    these are where there are several: the mean of several is of no student.

    Args:
        loras: of one scaling rule and setting.
        full: of the same setting; may be empty.
    """
    long = _one_length(loras)
    numbered = [{**row, "_place": place} for place, row in enumerate(long.to_dict("records"))]
    kept: list[Any] = []
    told: list[str] = []
    for rank in dict.fromkeys(row["rank"] for row in numbered):
        best = best_rates([row for row in numbered if row["rank"] == rank])
        kept += best.rows
        told += best.notes
        if best.unknown:
            told.append(f"{best.unknown[:1].upper()}{best.unknown[1:]}: it is not drawn.")
    chosen = choose(full, METHOD)
    if chosen.others:
        told = [*told, f"Full fine-tuning: {chosen.setting}."]
    return long.iloc[[row["_place"] for row in kept]], chosen.rows, told


def _ends(rows: pd.DataFrame) -> pd.DataFrame:
    """Students as their training left them, without snapshots."""
    return rows[rows["step"].fillna(0) == 0]


# ------------------------------------------------------------------------------------ verdicts


def conclusions(evidence: Evidence) -> tuple[Verdict, ...]:
    """A verdict per claim, told together. One of the paper's claims of which nothing was measured
    cannot be told; where students were trained, and on which labels, is told of studies that vary
    it.
    """
    found = [
        _told(
            "Students acquire their own trait",
            evidence.traits(),
            transmission_claim,
            enough=lambda rows: rows.groupby("row_seed")["trait"].nunique().max() > 1,
            missing="no row seed has students of two traits",
        )
    ]
    ranks = [one for one in evidence.ranks() if one[1].rows["rank"].nunique() > 2]
    for rule, chosen, _ in ranks:
        verdict = _told("", chosen, lambda rows: inverted_u_claim(_one_length(rows)))
        claim = f"{verdict.claim} (scaling rule: {rule})"
        found.append(replace(verdict, claim=claim))
    if not ranks:
        nothing = Chosen(evidence.all.iloc[:0], "", 0)
        claim = "Transmission against LoRA rank rises, peaks and falls"
        found.append(_told(claim, nothing, inverted_u_claim, missing=evidence.too_few_ranks()))
    found.append(
        _told(
            "At equal held-out KL full fine-tuning transmits less than LoRA",
            evidence.capacities(),
            _equal_kl,
            missing="no setting has both LoRA and full fine-tuning",
        )
    )
    found.append(
        _told(
            "The trait needs the context of training at evaluation",
            evidence.contexts(),
            context_claim,
            missing=evidence.no_other_context(),
        )
    )
    found.append(
        _told(
            "The effect sits on shared tokens",
            evidence.places(),
            _localised,
            missing="no student was scored with grafts and graft IG",
        )
    )
    arms, labelled = evidence.trained_at(), evidence.labelled()
    if len(arms.rows):
        found.append(_told(TRAINED_AT, arms, _trained_at))
    if len(labelled.rows):
        found.append(_told(_CONTRAST, labelled, _contrasted))
    return verdicts(found)


_CONTRAST = "Contrastive labels transmit more than the teacher's own"


def _contrasted(rows: pd.DataFrame) -> Verdict:
    """Contrastive labels against the teacher's own, by students that differ in nothing else."""
    contrastive, plain = (
        rows[rows["labels"] == name].set_index(list(STUDENT))["specific"]
        for name in (CONTRASTIVE, PLAIN)
    )
    pairs = contrastive.sub(plain).dropna()
    text = "contrastive - plain is above 0"
    if pairs.empty:
        return conclude(_CONTRAST, [nothing_measured(text, "no students of both kinds")])
    seeds = pairs.index.get_level_values("row_seed").tolist()
    one = above_zero(text, nested_interval(pairs.to_numpy(float), seeds))
    traits = by_trait("contrastive - plain", pairs.to_dict(), DATA_SET)
    return conclude(
        _CONTRAST, [one], notes=[f"{counted(len(pairs), 'pair')} of students.", *traits]
    )


def _trained_at(rows: pd.DataFrame) -> Verdict:
    """Of students that act where they were trained, with what they do everywhere beside it."""
    verdict = trained_at_claim(rows)
    told = everywhere(rows)
    if not told:
        return verdict
    gated = "Students of chosen tokens are asked as trained: their weights are on at these alone"
    return replace(verdict, notes=(*verdict.notes, f"{gated}; {told}."))


def _told(
    claim: str,
    chosen: Chosen,
    ask: Callable[[pd.DataFrame], Verdict],
    *,
    enough: Callable[[pd.DataFrame], bool] = lambda rows: True,
    missing: str = "",
) -> Verdict:
    if not len(chosen.rows) or not enough(chosen.rows):
        return conclude(claim, [nothing_measured("enough was measured", missing)])
    verdict = ask(chosen.rows)
    return replace(verdict, notes=(*verdict.notes, chosen.told))


def _one_length(rows: pd.DataFrame) -> pd.DataFrame:
    """LoRAs that were trained equally long, most of them."""
    if "steps" not in rows or rows["steps"].nunique() < 2:
        return rows
    by_length = rows.groupby("steps")["rank"].nunique()
    return rows[rows["steps"] == by_length.idxmax()]


def _equal_kl(rows: pd.DataFrame) -> Verdict:
    """Full fine-tuning against the LoRA with the most points."""
    loras = rows[rows["kind"] == "lora"]
    lora = choose(loras, ("rank", "rule"))
    fulls = rows[rows["kind"] == "full"]
    kept = pd.concat([lora.rows, fulls])
    # a curve of one point reaches no other: seeds with two of each kind, where there are some
    points = kept.groupby([*STUDENT, "kind"])["kl"].nunique().unstack("kind")
    curved = points[(points > 1).all(axis=1)].index
    notes = [f"LoRA: {lora.setting}."]
    if 0 < len(curved) < len(points):
        kept = kept[pd.MultiIndex.from_frame(kept[list(STUDENT)]).isin(curved)]
        notes.append(
            f"Left out, for they have a single point of a kind: {len(points) - len(curved)} of "
            f"{len(points)} traits and seeds."
        )
    verdict = full_fine_tuning_claim(kept)
    return replace(verdict, notes=(*verdict.notes, *notes))


def _localised(rows: pd.DataFrame) -> Verdict:
    """Of the contexts with the most row seeds: those of an unfinished part, with fewer, would leave
    the others without a test, and are told beside it.
    """
    seeds = rows.groupby("evaluated_in", sort=False)["row_seed"].nunique()
    fewer = seeds[seeds < seeds.max()]
    asked = rows[~rows["evaluated_in"].isin(fewer.index)]
    several = asked["evaluated_in"].nunique() > 1
    verdict = localisation_claim(asked, by="evaluated_in" if several else "")
    notes = []
    for name, count in fewer.items():
        here = rows[rows["evaluated_in"] == name]
        beyond = (here["ig shared share"] - here["ig shared token share"]).mean()
        notes.append(
            f"Not in the verdict, for fewer row seeds: {name} ({counted(count, 'row seed')}; share "
            f"- token share {signed(beyond)} in the mean)."
        )
    return replace(verdict, notes=(*verdict.notes, *notes))
