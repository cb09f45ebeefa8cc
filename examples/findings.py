"""What a study found, as a page of the docs: verdicts, numbers and figures, of its rows alone.

    sublim-mech run laptop --out out/laptop                            # many hours on two cores
    sublim-mech export laptop --out out/laptop --to docs/findings/rows.csv
    python examples/findings.py                                        # docs/findings.md, figures

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
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from train_students import Help, told

from sublim_mech import studies
from sublim_mech.hints import counted
from sublim_mech.results.style import write
from sublim_mech.stats import Verdict, nested_interval, trained_at_claim, verdicts
from sublim_mech.stats.plans import detectable_in_errors
from sublim_mech.stats.statements import (
    MATTERS,
    Statement,
    above_zero,
    conclude,
    nothing_measured,
)
from sublim_mech.storage.files import replacing
from sublim_mech.studies import Study, Tasks
from sublim_mech.studies.built_in import PRESETS
from sublim_mech.studies.concluding import Evidence, conclusions, students
from sublim_mech.studies.reporting import drawn

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- begin: written by examples/findings.py -->", "<!-- end -->"
HELP = "docs/findings/rows.csv, or .parquet: what `sublim-mech export` wrote"

OF_CLAIM = {  # words of a claim -> the figures and what makes its rows
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
    parser.add_argument("--rows", default=str(DOCS / "findings" / "rows.csv"), help=HELP)
    parser.add_argument("--page", default=str(DOCS / "findings.md"), help="what is written")
    parser.add_argument("--figures", default=str(DOCS / "assets" / "findings"), help="its folder")
    parser.add_argument("--study", default="laptop", help=f"{', '.join(PRESETS)}, or a file")
    options = parser.parse_args()
    study = (
        PRESETS[options.study]() if options.study in PRESETS else studies.read_study(options.study)
    )
    rows = studies.read_export(options.rows)
    write_page(study, rows, Path(options.page), Path(options.figures))
    print(f"{options.page}, {options.figures}/")


def write_page(study: Study, rows: pd.DataFrame, page: Path, figures: Path) -> None:
    """Write what is between the marks of a page, and the figures beside it."""
    longer = tuple(name for name, context in study.contexts.items() if context.user_prefix)
    evidence = Evidence(students(rows), longer)
    pictures = _figures(evidence, figures, page)
    lines = [*_state(study, rows), *_in_short(told_claims(evidence)), *_claims(study, evidence,
             pictures), *_students(evidence), *_recompute(evidence)]  # fmt: skip
    before, after = f"# Findings\n\n{BEGIN}", END
    if page.is_file():
        text = page.read_text("utf-8")
        if BEGIN not in text or END not in text:
            raise ValueError(f"{page} has no marks {BEGIN!r} and {END!r}; put both into it.")
        before = text.partition(BEGIN)[0] + BEGIN
        after = END + text.partition(END)[2]
    with replacing(page) as work:
        work.write_text("\n".join([before, "", *lines, "", after]).rstrip("\n") + "\n", "utf-8")


# ------------------------------------------------------------------------------------------- claims


def told_claims(evidence: Evidence) -> tuple[Verdict, ...]:
    """The claims of the paper, the causal test, and how students were labelled; told together."""
    found = list(conclusions(evidence)) if len(evidence.all) else []
    chosen = evidence.trained_at()
    claim = "Training at the shared tokens is what gives students the trait"
    if len(chosen.rows):
        verdict = trained_at_claim(chosen.rows)
    else:
        verdict = conclude(claim, [nothing_measured("measured", "no student of several arms")])
    found.append(replace(verdict, notes=(*verdict.notes, chosen.told)))
    found.append(_contrast(evidence))
    return verdicts(found)


def _contrast(evidence: Evidence) -> Verdict:
    """Contrastive labels against the teacher's own, by students that differ in nothing else."""
    claim = "Contrastive labels transmit more than the teacher's own"
    text = "contrastive - plain is above 0"
    chosen = evidence.labelled()
    by = ["trait", "row_seed", "training_seed"]
    kinds = [
        chosen.rows[chosen.rows["labels"] == name].set_index(by)["specific"]
        for name in ("contrastive", "plain")
    ]
    pairs = kinds[0].sub(kinds[1]).dropna()
    if pairs.empty:
        return conclude(claim, [nothing_measured(text, "no students of both kinds")])
    interval = nested_interval(
        pairs.to_numpy(float), pairs.index.get_level_values("row_seed").tolist()
    )
    one = above_zero(text, interval)
    notes = [f"{counted(len(pairs), 'pair')} of students.", chosen.told]
    return conclude(claim, [one], notes=notes)


# --------------------------------------------------------------------------------------- the pieces


def _state(study: Study, rows: pd.DataFrame) -> Iterator[str]:
    """How much of the study is there, part by part."""
    runs = Tasks(study).runs
    there = set(rows["run"])
    done = sum(run.task.address in there for run in runs)
    yield "## What these rows are"
    yield ""
    yield (
        f"{done:,} of {counted(len(runs), 'run')} of the study `{study.name}` are there "
        f"(`sublim-mech run {study.name} --out out/{study.name}`, then `make findings`). "
        f"{_provenance(rows)}"
    )
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


def _provenance(rows: pd.DataFrame) -> str:
    told = []
    for name in ("base", "dtype", "threads", "versions"):
        values = [str(value) for value in rows[name].dropna().unique()] if name in rows else []
        if values:
            told.append(f"{name}: {' / '.join(values)}")
    return f"{'; '.join(told)}." if told else ""


def _in_short(claims: Sequence[Verdict]) -> Iterator[str]:
    yield "## In short"
    yield ""
    for label, words in SAID.items():
        of_label = [one.claim for one in claims if one.label == label]
        yield f"- **{words[0].upper()}{words[1:]}**: {'; '.join(of_label) or 'nothing'}."
    yield ""
    yield (
        "A claim holds where the 95 % intervals over row seeds say so and its p, adjusted for all "
        "claims here that were tested (Benjamini-Hochberg: q), is below 0.05; it does not where "
        f"they exclude "
        f"{MATTERS:g} (nats, or a share), the smallest effect that matters. Everything is a change "
        "of log P(the trait is named) in nats, student minus the students of the other traits, "
        "unless it is said otherwise."
    )
    yield ""


def _claims(study: Study, evidence: Evidence, pictures: dict[str, Picture]) -> Iterator[str]:
    drawn_already: set[str] = set()
    for verdict in told_claims(evidence):
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
        alone = f", or alone `sublim-mech run {asks} --out out/{asks}`" if asks else ""
        yield f"Made by `sublim-mech run {study.name} --out out/{study.name}`{alone}."
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


def _recompute(evidence: Evidence) -> Iterator[str]:
    """How anybody gets the first line of the table from the rows."""
    if evidence.all.empty:
        return
    one = evidence.all.iloc[0]
    names = ("method", "labels", "where", "trained_in", "evaluated_in", "step")
    chosen = " and ".join(f"{name} == {_value(one[name])}" for name in names)
    group = evidence.all.query(chosen.replace("\n", " "))
    yield "## Any number again"
    yield ""
    yield "With pandas alone; the first line's student - control, say:"
    yield ""
    yield "```"
    yield "import pandas as pd"
    yield ""
    yield 'rows = pd.read_csv("docs/findings/rows.csv", keep_default_na=False, na_values=[""])'
    yield f"rows = rows.query({json.dumps(chosen)})"
    yield 'rows = rows.drop_duplicates(["student"])          # of several parts'
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
