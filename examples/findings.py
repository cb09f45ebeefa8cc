"""What a study found, as a page of the docs: verdicts, numbers and figures, of its rows alone.

    python examples/findings.py                                # docs/findings.md, from its rows

    sublim-mech run laptop --out out/laptop                    # one's own: many hours on two cores
    sublim-mech export laptop --out out/laptop --to mine.csv
    python examples/findings.py --rows mine.csv --page mine.md --figures mine

Rows of the same study that another machine or device made (`Computing(device=)`), exported to files
of their own, fill in what the first file lacks: --also. A student that several files have is not
counted twice, but compared; it is taken from the file that asked it in the most contexts, of
several such from the first, with or without scores.

No model is loaded, and nothing is computed but means, intervals and tests over rows. A study that
is not finished is told as it is: what is missing is named first. What stands around the two marks
of the page is left as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from train_students import Help, told

from sublim_mech import studies
from sublim_mech.hints import counted
from sublim_mech.results.style import write
from sublim_mech.stats import Verdict, nested_interval
from sublim_mech.stats.plans import detectable_in_errors
from sublim_mech.stats.statements import MATTERS, Statement
from sublim_mech.storage.files import replacing
from sublim_mech.studies import Study, Tasks
from sublim_mech.studies.built_in import PRESETS
from sublim_mech.studies.concluding import Evidence, conclusions, students
from sublim_mech.studies.reporting import drawn

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- begin: written by examples/findings.py -->", "<!-- end -->"
HELP = "what `sublim-mech export` wrote; the files of docs/findings when not given"

OF_CLAIM = {  # words of a claim -> the figures, and the built-in study of it alone
    "own trait": (("traits",), "trait_matrix"),
    "rises, peaks": (("ranks",), "rank_sweep"),
    "full fine-tuning": (("capacity",), "capacity_curve"),
    "context of training": (("contexts",), "context_grid"),
    "sits on shared": (("concentration",), "localisation"),
    "Training at the shared": (("trained-at",), "trained_at"),
    "Contrastive labels": ((), ""),
}
AGAIN = {  # words of a claim -> its number, by the columns of the rows
    "own trait": (
        "Per row seed, of the columns `change <trait>` of the traits that students were made for "
        "(of no other that was asked): the mean of the diagonal minus the mean of the rest. "
        "Training seeds of one trait and row seed are averaged first."
    ),
    "sits on shared": (
        "Per student: `ig shared share` - `ig shared token share`; and `graft shared sufficiency` "
        "- `graft shared token share` x `graft total`, with its sign turned where `graft total` is "
        "below 0 and there is a share."
    ),
    "Training at the shared": (
        "`specific` of the students of `where` shared; and its difference from that of `where` not "
        "shared, of students of the same trait, row seed and training seed."
    ),
    "Contrastive labels": (
        "`specific` of students of `labels` contrastive, of the `c` that is named, minus plain, "
        "which agree in trait, seeds, method, tokens and controls, asked where they were trained."
    ),
}
SAID = {
    "supported": "holds at this scale",
    "not supported": "does not hold at this scale",
    "cannot tell": "cannot be told from these rows",
}
COLUMNS = ("change", "control", "specific")
COMMITTED = ("h200.csv", "rows.csv", "h100.csv")
"""The files of rows that the page of the docs is made of, in docs/findings/, the first first."""

CELL = [
    "trait", "row_seed", "training_seed", "labels", "c", "where", "trained_in", "evaluated_in",
    "method", "kind", "rank", "rule", "lr", "step",
]  # fmt: skip
"""Columns that say which student of a study a row is of, and where it is asked."""


_OF_STUDENT = [name for name in CELL if name != "evaluated_in"]


class Picture(NamedTuple):
    """A figure.

    Attributes:
        link: where it stands, as the page links to it.
        heading, caption: the report's.
    """

    link: str
    heading: str
    caption: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("--rows", help=HELP)
    parser.add_argument(
        "--also",
        action="append",
        metavar="FILE",
        help="rows that another device or machine made, for what --rows lacks; where neither is "
        f"given those of docs/findings: {', '.join(COMMITTED)}",
    )
    parser.add_argument("--page", default=str(DOCS / "findings.md"), help="what is written")
    parser.add_argument("--figures", default=str(DOCS / "assets" / "findings"), help="its folder")
    parser.add_argument("--study", default="laptop", help=f"{', '.join(PRESETS)}, or a file")
    options = parser.parse_args()
    study = (
        PRESETS[options.study]() if options.study in PRESETS else studies.read_study(options.study)
    )
    given, also = options.rows, options.also or []
    if given is None:
        given, *others = (str(DOCS / "findings" / name) for name in COMMITTED)
        also = also or others
    tables = {path: studies.read_export(path) for path in (given, *also)}
    write_page(study, tables, Path(options.page), Path(options.figures))
    print(f"{options.page}, {options.figures}/")


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of one study that several machines made, every student in every context once.

    A student that several trained is taken from the file that asked it in the most contexts, so
    that these are compared of one training; of several such from the first. What that file lacks
    the others have.
    """
    contexts: dict[tuple[str, ...], dict[int, set[str]]] = {}  # of a student, by file
    for place, table in enumerate(tables):
        for student, where in _asked(table):
            contexts.setdefault(student, {}).setdefault(place, set()).add(where)

    def taken(student: tuple[str, ...], where: str) -> int:
        its = contexts[student]
        there = [place for place, asked in its.items() if where in asked]
        return max(there, key=lambda place: (len(its[place]), -place))

    kept = [
        table[[taken(*one) == place for one in _asked(table)]] for place, table in enumerate(tables)
    ]
    return pd.concat(kept, ignore_index=True)


def _asked(rows: pd.DataFrame) -> list[tuple[tuple[str, ...], str]]:
    """Which student each row is of, and where it was asked."""
    known = map(_cell, rows[_OF_STUDENT].itertuples(index=False))
    return list(zip(known, rows["evaluated_in"].astype(str), strict=True))


def _cell(values: Sequence[object]) -> tuple[str, ...]:
    """Of tables whose empty columns are of other types."""
    return tuple("" if pd.isna(value) else f"{value:g}" if isinstance(value, int | float)
                 else str(value) for value in values)  # fmt: skip


def write_page(study: Study, tables: dict[str, pd.DataFrame], page: Path, figures: Path) -> None:
    """Write what is between the marks of a page, and the figures beside it; tables by their file,
    the first first.
    """
    rows = joined(list(tables.values()))
    longer = tuple(name for name, context in study.contexts.items() if context.user_prefix)
    evidence = Evidence(students(rows), longer)
    pictures = _figures(evidence, figures, page)
    told = conclusions(evidence) if len(evidence.all) else ()
    lines = [
        *_state(study, tables),
        *_in_short(told),
        *_claims(study, told, pictures),
        *_students(evidence),
        *_recompute(evidence, list(tables)),
    ]
    before, after = f"# Findings\n\n{BEGIN}", END
    if page.is_file():
        text = page.read_text("utf-8")
        if BEGIN not in text or END not in text:
            raise ValueError(f"{page} has no marks {BEGIN!r} and {END!r}; put both into it.")
        before = text.partition(BEGIN)[0] + BEGIN
        after = END + text.partition(END)[2]
    with replacing(page) as work:
        work.write_text("\n".join([before, "", *lines, "", after]).rstrip("\n") + "\n", "utf-8")


# --------------------------------------------------------------------------------------- the pieces


def _state(study: Study, tables: dict[str, pd.DataFrame]) -> Iterator[str]:
    """How much of the study is there, part by part, and what made it."""
    runs = Tasks(study).runs
    there: set[str] = set()
    for table in tables.values():
        there |= _runs_of(study, table)
    done = sum(run.task.address in there for run in runs)
    yield "## What these rows are"
    yield ""
    yield (
        f"{done:,} of {counted(len(runs), 'run')} of the study `{study.name}` are there "
        f"(`sublim-mech run {study.name} --out out/{study.name}`)."
        f"{_counts(joined(list(tables.values())))}"
    )
    yield ""
    for path, table in tables.items():
        yield f"- `{Path(path).name}`: {_provenance(table)}"
    yield ""
    for (one, its), (other, others) in combinations(tables.items(), 2):
        if told := _both(Path(one).name, its, Path(other).name, others):
            yield told
            yield ""
    yield "| part | runs | row seeds | training seeds |"
    yield "|---|---|---|---|"
    lacking = []
    for part in study.parts:
        of_part = [run for run in runs if run.cell.part == part.name]
        found = [run for run in of_part if run.task.address in there]
        seeds = [
            ", ".join(str(seed) for seed in sorted({getattr(run.cell, name) for run in found}))
            for name in ("row_seed", "training_seed")
        ]
        yield f"| {part.name} | {len(found)} of {len(of_part)} | {' | '.join(seeds)} |"
        if len(found) < len(of_part):
            lacking.append(f"{part.name} ({len(of_part) - len(found)} missing)")
    yield ""
    yield f"**Not there: {', '.join(lacking)}.**" if lacking else "Nothing is missing."
    yield ""


def _counts(rows: pd.DataFrame) -> str:
    """Of how many students and answers they are, and what the base says."""
    if rows.empty:
        return ""
    pairs = set(_asked(rows))
    told = f" They are {counted(len({student for student, _ in pairs}), 'student')}"
    told += f", each with its contexts {len(pairs):,}"
    for name, what in (("questions", "questions"), ("graft questions", "questions of grafts")):
        if name in rows and rows[name].notna().any():
            counts = sorted({int(count) for count in rows[name].dropna()})
            told += f"; {what}: {', '.join(map(str, counts))}"
    level = rows["base level"].mean()
    means = f"{level:.2f} in the mean (P = {math.exp(level):.1g})"
    return f"{told}. The base's log P(the trait is named) is {means}."


def _runs_of(study: Study, rows: pd.DataFrame) -> set[str]:
    """The runs of a study that rows hold; a device is a part of an address, here it is not."""
    there = set(rows["run"])
    found = set()
    for device in rows["device"].dropna().unique() if "device" in rows else [None]:
        elsewhere = study
        if device is not None:
            elsewhere = replace(study, computing=replace(study.computing, device=str(device)))
        for run, its in zip(Tasks(study).runs, Tasks(elsewhere).runs, strict=True):
            if its.task.address in there:
                found.add(run.task.address)
    return found


def _both(first: str, its: pd.DataFrame, other: str, others: pd.DataFrame) -> str:
    """How far two files agree on the students that both have."""
    one, two = (
        table.assign(cell=list(map(_cell, table[CELL].itertuples(index=False))))
        .drop_duplicates("cell")
        .set_index("cell")[["change", "specific", "kl"]]
        for table in (its, others)
    )
    apart = (one - two).abs().dropna(how="all")
    if apart.empty:
        return ""
    of = f"{counted(len(apart), 'student')} (each context counted)"
    told = f"{of} stand in `{first}` and in `{other}`"
    if not apart.to_numpy().any():
        return f"{told}; change, student - control and held-out KL are the same to the last digit."
    return (
        f"{told}. Change differs by {apart['change'].mean():.3f} nats in the mean and "
        f"{apart['change'].max():.3f} at most, student - control by "
        f"{apart['specific'].mean():.3f} and {apart['specific'].max():.3f}, held-out KL by "
        f"{apart['kl'].max():.1g} at most: steps in bf16 follow the order of sums."
    )


def _provenance(rows: pd.DataFrame) -> str:
    told = [counted(len(rows), "row")]
    for name in ("base", "device", "dtype", "threads", "versions"):
        values = [str(value) for value in rows[name].dropna().unique()] if name in rows else []
        if values:
            told.append(f"{name}: {' / '.join(values)}")
    return f"{'; '.join(told)}."


def _in_short(claims: Sequence[Verdict]) -> Iterator[str]:
    yield "## In short"
    yield ""
    for label, words in SAID.items():
        of_label = [one.claim for one in claims if one.label == label]
        yield f"- **{words[0].upper()}{words[1:]}**: {'; '.join(of_label) or 'nothing'}."
    yield ""
    yield (
        "A claim holds where every statement of it does and its p, adjusted for all claims here "
        "that were tested (Benjamini-Hochberg: q), is below 0.05. A statement holds where the 95 % "
        "interval over row seeds lies on its side (two-sided p below 0.05), however small the "
        f"effect; it does not hold where the interval excludes {MATTERS:g} (nats, or a share), the "
        "smallest effect that matters; else it cannot be told. Intervals are over row seeds of the "
        "traits that were taken, not over traits: what each trait does is told with each claim. "
        "Everything is a change of log P(the trait is named) in nats, student minus the students "
        "of the other traits, unless it is said otherwise. Words: [words](words.md)."
    )
    yield ""


def _claims(
    study: Study, verdicts: Sequence[Verdict], pictures: dict[str, Picture]
) -> Iterator[str]:
    drawn_already: set[str] = set()
    for verdict in verdicts:
        words = next((key for key in OF_CLAIM if key in verdict.claim), "")
        names, asks = OF_CLAIM.get(words, ((), ""))
        yield f"## {verdict.claim}"
        yield ""
        tested = "not tested"
        if not math.isnan(verdict.p):
            tested = f"p = {verdict.p:.2g}, q = {verdict.q:.2g}"
        yield f"**{SAID[verdict.label][0].upper()}{SAID[verdict.label][1:]}** ({tested})."
        yield ""
        yield "| | mean | 95 % over row seeds | row seeds | would be seen | |"
        yield "|---|---|---|---|---|---|"
        yield from (_statement(one) for one in verdict.statements)
        yield ""
        if verdict.notes:
            yield " ".join(f"{_plain(note).rstrip('.')}." for note in verdict.notes)
            yield ""
        if words in AGAIN and any(one.data_sets for one in verdict.statements):
            yield AGAIN[words]
            yield ""
        yield f"Made by `sublim-mech run {study.name} --out out/{study.name}`."
        if asks:  # other animals, ranks, steps and seeds than these rows
            yield f"A study of this claim alone, of settings of its own: `sublim-mech plan {asks}`."
        yield ""
        for name in [one for one in pictures if one.startswith(names) and names]:
            if name not in drawn_already:
                drawn_already.add(name)
                picture = pictures[name]
                yield f"![{_plain(picture.heading)}]({picture.link})"
                yield ""
                yield f"{_plain(picture.caption)}"
                yield ""


def _statement(one: Statement) -> str:
    said = "cannot be told"
    if one.holds:
        said = "holds"
    elif one.fails:
        said = "does not hold"
    cells = [_plain(one.text), _signed(one.mean, one.unit), _interval(one.low, one.high),
             str(one.data_sets), _number(one.detectable), said]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _students(evidence: Evidence) -> Iterator[str]:
    """Every kind of student, each number with its interval over row seeds."""
    yield "## All students"
    yield ""
    yield (
        "Means over row seeds, each the mean of its students; 95 % of Student's t over row seeds. "
        "The last column is the true mean that 80 % of such studies would see. KL: held-out "
        "KL(teacher || student), nats per token."
    )
    yield ""
    head = ["method", "labels", "tokens", "contexts", "row seeds", "students", "KL", "base log P"]
    head += ["change", "control", "student - control", "would be seen"]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    by = ["method", "capacity", "lr", "labels", "where", "trained_in", "evaluated_in", "step"]
    by += ["c", "focus"]
    several = evidence.all["c"].nunique() > 1
    for key, group in evidence.all.groupby(by, sort=False, dropna=False):
        method, capacity, lr, labels, where, trained, asked, step, c, focus = key
        after = f", step {step:g}" if step else ""
        labels += f", c = {c:g}" if several and not math.isnan(c) else ""
        asked += f" (controls within {focus})" if focus else ""
        numbers = [_mean(group, column) for column in COLUMNS]
        cells = [f"{method} ({capacity}, lr {lr:g}{after})", labels, where, f"{trained} → {asked}"]
        cells += [str(group["row_seed"].nunique()), str(len(group)), f"{group['kl'].mean():.2g}"]
        cells.append(f"{group['base level'].mean():.2f}")
        cells += [f"{mean} {interval}" for mean, interval, _ in numbers]
        yield f"| {' | '.join([*cells, numbers[-1][2]])} |"
    yield ""


def _mean(group: pd.DataFrame, column: str) -> tuple[str, str, str]:
    """Mean, interval and what would be seen, in words."""
    measured = group[group[column].notna()]
    if measured.empty:
        return "-", "", "-"
    found = nested_interval(measured[column].to_numpy(float), measured["row_seed"].tolist())
    seen = math.nan
    if found.data_sets > 1:
        seen = detectable_in_errors(found.data_sets - 1) * found.standard_error
    return _signed(found.mean), _interval(found.t_low, found.t_high), _number(seen)


def _recompute(evidence: Evidence, paths: Sequence[str]) -> Iterator[str]:
    """How anybody gets the first line of the table from the rows."""
    if evidence.all.empty:
        return
    one = evidence.all.iloc[0]
    names = ("method", "labels", "where", "trained_in", "evaluated_in", "step")
    chosen = " and ".join(f"{name} == {_value(one[name])}" for name in names)
    group = evidence.all.query(chosen.replace("\n", " "))
    files = [Path(os.path.relpath(path, DOCS.parent)).as_posix() for path in paths]
    yield "## Any number again"
    yield ""
    yield "With pandas alone; the first line's student - control, say:"
    yield ""
    yield "```"
    yield "import pandas as pd"
    yield ""
    yield f"files = {json.dumps(files)}"
    yield "rows = pd.concat(["
    yield '    pd.read_csv(file, keep_default_na=False, na_values=[""]).assign(file=file)'
    yield "    for file in files"
    yield "], ignore_index=True)"
    if len(files) > 1:
        yield "# of several files with a student the one that asked it in the most contexts"
        yield f"student = {json.dumps(_OF_STUDENT)}"
        yield 'asked = rows.groupby(["file", *student], dropna=False)["evaluated_in"]'
        yield 'asked = asked.transform("nunique").sort_values(ascending=False, kind="stable")'
        yield "rows = rows.loc[asked.index]"
    yield f"rows = rows.query({json.dumps(chosen)})"
    yield "# once, of several parts or made in several places"
    yield 'rows = rows.drop_duplicates(["trait", "row_seed", "training_seed"])'
    yield 'seeds = rows.groupby("row_seed")["specific"].mean()'
    yield f"print(seeds.mean())              # {_mean(group, 'specific')[0]}"
    yield "```"
    yield ""
    yield (
        "and the interval is `scipy.stats.t.interval(0.95, len(seeds) - 1, seeds.mean(), "
        "seeds.sem())`. The columns are listed at the head of `sublim_mech/studies/measured.py`."
    )
    yield ""
    yield (
        "A line of a claim: of the rows that it is told of, at step 0, those with a number in its "
        "columns (a student stands in several parts, in some without scores), each student and "
        "context once, asked in the context of training unless the line names another. Its number "
        "is formed per student, as the claim says; the mean is that of the row seeds' means, the "
        "interval as above. What would be seen is their standard error times the mean, in standard "
        "errors, that a two-sided t test at 5 % finds in 80 % of studies (noncentral t, "
        "[statistics](statistics.md#before-a-study-is-run))."
    )


# ------------------------------------------------------------------------------------ small things


def _figures(evidence: Evidence, folder: Path, page: Path) -> dict[str, Picture]:
    """Draw the report's figures, by their names."""
    found = {}
    for name, heading, figure, caption in drawn(evidence):
        path = folder / f"{name}.png"
        write(figure, path)
        link = os.path.relpath(path.resolve(), page.resolve().parent)
        found[name] = Picture(Path(link).as_posix(), heading, caption)
    for path in folder.glob("*.png"):  # of rows that are gone
        if path.stem not in found:
            path.unlink()
    return found


def _signed(value: float, unit: str = "nats") -> str:
    if math.isnan(value):
        return "-"
    return f"{value:+.3f}" if unit in ("nats", "") else f"{value:+.3f} {unit}"


def _interval(low: float, high: float) -> str:
    return "no interval" if math.isnan(low) else f"[{low:+.3f}, {high:+.3f}]"


def _number(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "-"


def _value(value: object) -> str:
    return repr(value.item() if hasattr(value, "item") else value)


def _plain(text: str) -> str:
    """A text that a table of Markdown holds."""
    return " ".join(text.split()).replace("|", "\\|").replace("[", "(").replace("]", ")")


if __name__ == "__main__":
    told(main)
