"""Verdicts over the rows of a study, one flat dict per student: what do they say of each claim?

Rows have the columns of a study's table: `trait`, `row_seed`, `training_seed`, `trained_in`,
`evaluated_in`, `kind`, `rank`, `rule`, `lr`, `kl`, `step` (0 at the end of training), `specific`
(own change minus the controls', nats), `change <trait>`, `ig shared share`, `graft shared
sufficiency` and so on. Students are compared in pairs of the same trait and seeds; data sets are
the row seeds, because the students of one row seed are trained on the same rows. Rows that differ
in what a claim is not about (labels, where a student was trained, ...) are refused, not averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..arguments import checked
from ..hints import signed
from .cautions import by_trait, learning_notes, missed_stop
from .control_sets import check_one_set
from .curves import equal_kl
from .diagonal import diagonal_excess
from .nesting import NestedInterval, is_no_spread
from .statements import (
    LEVEL,
    MATTERS,
    Statement,
    Verdict,
    above_zero,
    conclude,
    nothing_measured,
    only_where,
    together,
)
from .tables import (
    CONTEXTS,
    DATA_SET,
    METHOD,
    SETTING,
    STUDENT,
    Row,
    as_rows,
    best_rates,
    check_kinds,
    check_options,
    curves_of,
    difference,
    finished,
    is_kind,
    keys,
    means_by,
    number,
    of_one,
    over,
    rank_of,
    without_number,
)


@checked
def transmission_claim(rows: Any, *, seed: int = 0) -> Verdict:
    """Do students raise their own trait, beyond rows and columns of the trait matrix?

    gamma by least squares; the permutation test within row seeds decides, and over several row
    seeds the change of the own trait has to be above 0: where all traits fall, the diagonal stands
    out by falling least. It is not supported where
    the interval over row seeds lies below what matters.

    Args:
        rows: with `trait`, `row_seed` and `change <trait>` of every trait.
        seed: of random assignments, where there are very many.

    Returns:
        The verdict; never `supported` where the assignments cannot give a p below 0.05; `cannot
        tell` where all row seeds have one number, as copies have. Rows without a number are left
        out, and told.

    Raises:
        ValueError: a column is missing, or no row seed has students of two traits.

    Example:
        >>> from sublim_mech.stats import transmission_claim
        >>> rows = [
        ...     {"trait": a, "row_seed": s, "change owl": x, "change cat": 0.3 - x}
        ...     for s in range(5)
        ...     for a, x in (("owl", 0.3 + s / 50), ("cat", 0.0))
        ... ]
        >>> transmission_claim(rows).label
        'supported'

    Source: `diagonal_excess`.
    """
    claim = "Students acquire their own trait"
    records = finished(as_rows(rows, "trait", "row_seed"))
    of_one(records, *SETTING, *CONTEXTS, *METHOD)
    made = list(dict.fromkeys(str(row["trait"]) for row in records))
    as_rows(rows, *(f"change {name}" for name in made))
    columns = [f"change {name}" for name in made]
    whole = [row for row in records if all(math.isfinite(number(row, c)) for c in columns)]
    whole = _each_once(whole, columns)
    notes = [*without_number(records, *columns), *learning_notes(records)]
    text = "the diagonal of the trait matrix stands out"
    if len(whole) < len(records) and not _has_two_traits(whole):
        why = "no row seed has students of two traits with all numbers"
        return conclude(claim, [nothing_measured(text, why)], notes=notes)
    found = diagonal_excess(
        np.array([[number(row, column) for column in columns] for row in whole]),
        [str(row["trait"]) for row in whole],
        traits=made,
        row_seeds=[row["row_seed"] for row in whole],
        seed=seed,
    )
    interval = NestedInterval(
        mean=found.gamma,
        low=found.low,
        high=found.high,
        t_low=found.low,
        t_high=found.high,
        bootstrap_low=math.nan,
        bootstrap_high=math.nan,
        standard_error=found.standard_error,
        p=found.p,
        data_sets=len(found.by_row_seed),
        runs=found.runs,
    )
    statement = above_zero(text, interval)
    # row seeds that are copies of one tell no more than it does: `statements` has it
    if not is_no_spread(found.low, found.high):
        # one row seed has no interval, but its permutations may be enough
        holds = found.p < LEVEL and found.gamma > 0
        fails = found.high < MATTERS and not holds
        statement = replace(statement, p=found.p, holds=holds, fails=fails)
    notes.append(repr(found))
    # where all traits fall, the diagonal stands out by falling least
    own = [{**row, "own": number(row, f"change {row['trait']}")} for row in whole]
    by = ("trait", "row_seed")
    changes = means_by(own, "own", by)
    change = over(changes, by, ("row_seed",))
    notes += by_trait("change of the own trait", changes, ("row_seed",), by)
    others = _of_the_others(whole)
    beyond = {key: one - others[key] for key, one in changes.items() if key in others}
    notes += by_trait("that minus the other students'", beyond, ("row_seed",), by)
    statements = [statement]
    if change is not None and change.data_sets > 1:
        statements.append(above_zero("the change of the own trait is above 0", change))
    elif change is not None and change.mean <= 0:  # of one row seed there is no interval
        statements = [replace(statement, holds=False)]
        notes.append(
            f"The own trait's change is {signed(change.mean)} in the one row seed: not above 0 "
            "there."
        )
    if found.least_p >= LEVEL:
        notes.append(f"This design cannot give a p below {found.least_p:.2g}: add row seeds.")
    return conclude(claim, statements, notes=notes)


@checked
def inverted_u_claim(
    rows: Any,
    *,
    value: str = "specific",
    matters: float = MATTERS,
    cluster: Sequence[str] = DATA_SET,
) -> Verdict:
    """Does the trait rise with LoRA rank, peak and fall?

    Some rank in between must be above both the lowest and the highest one. That rank is chosen on
    the same rows, so its p is multiplied by the number of ranks in between (Bonferroni). Where no
    rank has a p that of the largest mean is told, over students that all of them have. The trait
    has to be above 0 there, else nothing can be told. It is not supported where every rank in
    between is shown not to be above one of the two by what matters.

    Args:
        rows: with `kind`, `rank`, `rule`, and those of `STUDENT`; other kinds than `lora` are left
            out. Of several learning rates of a rank that of the lowest mean held-out KL (`kl`) is
            taken, over students that all of them have.
        value: the column that is compared.
        matters: the smallest difference that matters.
        cluster: columns that make a data set.

    Raises:
        TypeError: a text where a number belongs.
        ValueError: a column is missing; an unknown kind; a rank that is none; LoRAs of several
            scaling rules; several learning rates of a rank without `kl`; students of several sets
            of controls; a negative or unknown `matters`, a `cluster` that makes no data sets.

    Example:
        >>> from sublim_mech.stats import inverted_u_claim
        >>> height = {1: 0.0, 8: 0.5, 64: 0.1}
        >>> rows = [
        ...     {"kind": "lora", "rank": r, "rule": "alpha = 32", "trait": "owl", "row_seed": s,
        ...      "training_seed": 0, "specific": y + s * r / 1000}
        ...     for s in range(3) for r, y in height.items()
        ... ]
        >>> inverted_u_claim(rows).label
        'supported'

    Source: arXiv 2606.00831, claim 1; intersection-union test: Berger 1982
    (doi:10.1080/00401706.1982.10487790).
    """
    check_options(matters, cluster)
    claim = "Transmission against LoRA rank rises, peaks and falls"
    every = as_rows(rows, "kind", "rank", value, *STUDENT)
    check_one_set(every, value)
    check_kinds(every)
    records: list[Row] = [{**row, "rank": rank_of(row)} for row in every if is_kind(row, "lora")]
    of_one(records, "rule")  # the rank axis is another one in each
    of_one(records, *SETTING, *CONTEXTS)
    records, notes, unknown = best_rates(finished(records))
    if unknown:
        missing = nothing_measured("a rank in between is highest", unknown)
        return conclude(claim, [missing], notes=notes)
    notes += [*without_number(records, value), *learning_notes(records)]
    notes += [f"Scaling rule: {rule}." for rule in {row.get("rule") for row in records} if rule]
    ranks = sorted({row["rank"] for row in records})
    if len(ranks) < 3:
        missing = nothing_measured(
            "a rank in between is highest", f"ranks {', '.join(map(str, ranks))}: three are needed"
        )
        return conclude(claim, [missing], notes=notes)

    by_rank = {rank: [row for row in records if row["rank"] == rank] for rank in ranks}
    inner = ranks[1:-1]
    tried = []
    for rank in inner:
        pair = []
        for end, word in ((ranks[0], "lowest"), (ranks[-1], "highest")):
            text = f"rank {rank} is above the {word}, {end}"
            found = difference(by_rank[rank], by_rank[end], value, cluster)
            pair.append(above_zero(text, found, matters=matters))
        tried.append(pair)
    worst = [float(np.max([one.p for one in pair])) for pair in tried]
    heights = _means_of_the_same([by_rank[rank] for rank in inner], value, cluster)
    # of one data set, or of copies of one, there is no p: then the highest rank, as among equals
    order = sorted(
        range(len(inner)),
        key=lambda i: (worst[i] if math.isfinite(worst[i]) else 2.0, -heights[i]),
    )
    best = [_times(one, len(inner)) for one in tried[order[0]]]
    if len(inner) > 1 and math.isfinite(worst[order[0]]):
        notes.append(
            f"p of the best of {len(inner)} ranks in between, times {len(inner)}; its intervals "
            "are as they would be of a rank named before."
        )
    elif len(inner) > 1:
        name = f"Rank {inner[order[0]]}"
        notes.append(f"{name}: the best of {len(inner)} ranks in between, of the largest mean.")
    refuted = all(any(one.fails for one in pair) for pair in tried)
    best = [replace(one, fails=one.fails and refuted) for one in best]
    at_best = by_rank[inner[order[0]]]
    heights_there = means_by(at_best, value, STUDENT)
    there = over(heights_there, STUDENT, cluster)
    trait = above_zero(f"rank {inner[order[0]]} has the trait: above 0", there, matters=matters)
    notes += by_trait(f"rank {inner[order[0]]}", heights_there, cluster)
    notes += _imitation(by_rank)
    return conclude(claim, only_where(trait, *best), notes=notes)


@checked
def full_fine_tuning_claim(
    rows: Any,
    *,
    rank: int | None = None,
    value: str = "specific",
    matters: float = MATTERS,
    at: float | None = None,
    cluster: Sequence[str] = DATA_SET,
) -> Verdict:
    """Has full fine-tuning less of the trait than LoRA at equal held-out KL?

    One curve per trait, row seed and training seed, over learning rates and snapshots. Nothing can
    be told where LoRA's own trait is not above 0.

    Args:
        rows: with `kind`, `kl`, and those of `STUDENT`.
        rank: of the LoRAs, where there are several.
        value: the column that is compared.
        matters: the smallest difference that matters.
        at: the KL to compare at; each trait and seeds over the KLs that both of its kinds reach
            when not given.
        cluster: columns that make a data set.

    Raises:
        TypeError: a text where a number belongs.
        ValueError: a column is missing; an unknown kind; a KL that is not above 0; LoRAs of several
            ranks or scaling rules, of which none was chosen; a `rank` that no LoRA has; students of
            several sets of controls; a negative or unknown `matters`, a `cluster` that makes no
            data sets.

    Example:
        >>> from sublim_mech.stats import full_fine_tuning_claim
        >>> rows = [
        ...     {"kind": k, "rank": 8, "kl": kl, "trait": "owl", "row_seed": s, "training_seed": 0,
        ...      "specific": (0.5 if k == "lora" else 0.1) + s / 100 * (k == "lora")}
        ...     for k in ("lora", "full") for kl in (1e-3, 4e-3) for s in range(3)
        ... ]
        >>> full_fine_tuning_claim(rows).label
        'supported'

    Source: arXiv 2606.00831, claim 2, without its confound (equal held-out KL instead of equal
    training).
    """
    check_options(matters, cluster)
    claim = "At equal held-out KL full fine-tuning transmits less than LoRA"
    records = as_rows(rows, "kind", "kl", value, *STUDENT)
    check_one_set(records, value)
    check_kinds(records)
    loras = [row for row in records if is_kind(row, "lora")]
    known = sorted({rank_of(row) for row in loras}) if rank is not None else []
    if rank is not None and rank not in known:
        raise ValueError(
            f"rank={rank}: no LoRA of these rows has it; they have {', '.join(map(str, known))}."
            if known
            else f"rank={rank}: these rows have no LoRA; leave rank out."
        )
    loras = [row for row in loras if rank in (None, row.get("rank"))]
    fulls = [row for row in records if is_kind(row, "full")]
    of_one(records, *SETTING, *CONTEXTS)
    of_one(loras, "rank", "rule")
    text = "LoRA - full fine-tuning is above 0"
    compared = [*loras, *fulls]
    unknown = [*without_number(compared, "kl", value), *learning_notes(compared)]
    if missed := missed_stop(compared):
        unknown.append(f"{missed}.")
    curves = {
        kind: curves_of(group, value)
        for kind, group in (
            ("lora", loras),
            ("full", fulls),
        )
    }
    both = [key for key in curves["lora"] if key in curves["full"]]
    if not both:
        missing = nothing_measured(text, "no trait and seeds have both kinds")
        return conclude(claim, [missing], notes=unknown)
    places = [STUDENT.index(name) for name in cluster]
    found = equal_kl(
        [curves["lora"][key] for key in both],
        [curves["full"][key] for key in both],
        data_set=[tuple(key[place] for place in places) for key in both],
        at=at,
    )
    if found.difference is None:
        why = f"{found.unreached}: more learning rates or snapshots are needed"
        return conclude(claim, [nothing_measured(text, why)], notes=unknown)
    where = ", each trait and seeds over what both kinds reach there" if at is None else ""
    notes = [f"Held-out KL {found.low_kl:.3g} to {found.high_kl:.3g}{where}.", *unknown]
    if found.left_out:
        without = f"{found.left_out} of {len(both)} traits and seeds"
        notes.insert(1, f"{without} have none and are left out.")
    less = above_zero(text, found.difference, matters=matters)
    differences = dict(zip(both, found.by_pair, strict=True))
    reached = {key: one for key, one in differences.items() if math.isfinite(one)}
    notes += by_trait("LoRA - full", reached, cluster)
    own = {key: curves["lora"][key].mean_over(*found.over[both.index(key)]) for key in reached}
    there = over(own, STUDENT, cluster)
    trait = above_zero("LoRA has the trait there: above 0", there, matters=matters)
    return conclude(claim, only_where(trait, less), notes=notes)


@checked
def verdicts(claims: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """The verdicts of claims that are told together: supported only at q < 0.05.

    Args:
        claims: each verdict as its function gave it.

    Returns:
        The same in the same order, with q and label (Benjamini-Hochberg over their p). Where no
        claim is true some is supported in at most 5 % of studies.

    Raises:
        ValueError: a verdict that is given twice, which would count as two tests.

    Example:
        >>> from sublim_mech.stats import Verdict, verdicts
        >>> verdicts([Verdict("a", "cannot tell", (), 0.04, 0.04)])[0].q
        0.04

    Source: `benjamini_hochberg`.
    """
    seen: list[Verdict] = []
    for place, verdict in enumerate(claims):
        tested = math.isfinite(verdict.p)
        for earlier, other in enumerate(seen):
            if verdict is other or (tested and repr(verdict) == repr(other)):
                raise ValueError(
                    f"claims[{place}] is claims[{earlier}] once more ({verdict.claim!r}), and "
                    "would count as a test of its own; give each verdict once."
                )
        seen.append(verdict)
    return together(claims)


def _has_two_traits(rows: Sequence[Row]) -> bool:
    """Whether some row seed has students of two traits."""
    traits: dict[Any, set[str]] = {}
    for row in rows:
        traits.setdefault(row["row_seed"], set()).add(str(row["trait"]))
    return any(len(of_seed) > 1 for of_seed in traits.values())


def _each_once(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """Rows with each student once, whose several rows, of parts that have it, are its mean; a row
    that names no training seed is a student of its own.
    """
    found: dict[tuple[Any, ...], list[Row]] = {}
    for place, row in enumerate(rows):
        key = keys(row, STUDENT) if "training_seed" in row else (place,)
        found.setdefault(key, []).append(row)
    return [
        {
            **same[0],
            **{name: float(np.mean([number(row, name) for row in same])) for name in columns},
        }
        for same in found.values()
    ]


def _of_the_others(rows: Sequence[Row]) -> dict[tuple[Any, ...], float]:
    """By trait and row seed: how far the other students of the row seed changed the trait."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        key = row["trait"], row["row_seed"]
        found[key] = [
            number(other, f"change {row['trait']}")
            for other in rows
            if other["row_seed"] == row["row_seed"] and other["trait"] != row["trait"]
        ]
    return {key: float(np.mean(values)) for key, values in found.items() if values}


def _means_of_the_same(
    groups: Sequence[Sequence[Row]], value: str, cluster: Sequence[str]
) -> list[float]:
    """The mean of each group over students that all have, or over its own where none is common.
    -inf of a group without numbers.
    """
    values = [means_by(group, value, STUDENT) for group in groups]
    common = set.intersection(*map(set, values))
    means = []
    for of_group in values:
        kept = {key: one for key, one in of_group.items() if key in common or not common}
        found = over(kept, STUDENT, cluster)
        means.append(-math.inf if found is None else found.mean)
    return means


def _imitation(by_rank: dict[int, list[Row]]) -> list[str]:
    """Held-out KL by rank: a trait that follows it says how well students imitate."""
    kl = {rank: means_by(rows, "kl", STUDENT) for rank, rows in by_rank.items()}
    if not all(kl.values()):
        return []
    told = ", ".join(f"{rank}: {np.mean(list(of.values())):.3g}" for rank, of in kl.items())
    return [f"Mean held-out KL by rank: {told}; students that imitate better have more of a trait."]


def _times(statement: Statement, count: int) -> Statement:
    """A statement that is the best of several."""
    p = min(1.0, statement.p * count) if math.isfinite(statement.p) else statement.p
    return replace(statement, p=p, holds=statement.holds and p < LEVEL)
