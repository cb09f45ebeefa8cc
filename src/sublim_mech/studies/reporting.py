"""`report`: the rows of a study as one page that needs nothing else, figures and CSV beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import checked
from ..hints import told_apart
from ..results.document import bullets, document, drawing, folded, paragraph, table
from ..results.frames import write_csv
from ..results.limit_kinds import Limit
from ..results.same_students import of_the_same
from ..results.study_figures import (
    capacity_figure,
    concentration_figure,
    context_figure,
    rank_figure,
    trained_at_figure,
    trait_figure,
)
from ..results.study_limits import (
    GATED,
    in_a_line,
    of_capacities,
    of_concentrations,
    of_contexts,
    of_learning,
    of_places,
    of_ranks,
    of_stops,
    of_traits,
    of_traits_by_set,
    point,
    stages,
    without_controls,
)
from ..results.style import write
from ..stats import MATTERS, Verdict
from ..storage.files import check_file, place, replacing
from .answers_page import answers_section
from .concluding import Chosen, Evidence, conclusions, of_one_training, students
from .config import SAMPLED, Study
from .control_sets import FOCUS
from .same_name import refuse_of_study, report_folder, write_record
from .states import Status, status, what_is_missing
from .store import Store
from .study import flat, rows
from .written import to_json

PAGE = "index.html"


@dataclass(frozen=True)
class Report:
    """What a report says, and where it stands.

    Attributes:
        page: the HTML file; figures, `rows.csv` and `verdicts.csv` are beside it.
        verdicts: of the claims, told together.
        missing: what an unfinished study lacks; empty where it is finished.
    """

    page: Path
    verdicts: tuple[Verdict, ...]
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        claims = [{"claim": one.claim, "label": one.label} for one in self.verdicts]
        return {"page": str(self.page), "missing": list(self.missing), "verdicts": claims}

    def __repr__(self) -> str:
        lines = [str(self.page), *self.missing]
        return "\n".join([*lines, *(f"{one.claim}: {one.label}" for one in self.verdicts)])


@checked
def report(study: Study, out: str | Path, to: str | Path | None = None) -> Report:
    """Write the report of a study: verdicts, figures, methods, and what is missing.

    Args:
        study: the study.
        out: its folder.
        to: where the report goes; `report/<name>` in the study's folder when not given.

    Returns:
        The page and its verdicts. A study that is not finished is reported, and the page says what
        is missing.

    Raises:
        FileExistsError: `to` holds the report of another study.
        FileNotFoundError: there is no such folder of studies.
        ValueError: a folder of another version.

    Warns:
        UserWarning: a row's file is damaged; it is named and left out. Another study of this name
            has its report there already, so that this one's gets a folder of its own. A study that
            has grown, so that it holds all runs it had, is no other one.

    Example:
        >>> from sublim_mech import studies
        >>> told = studies.report(study, out, folder / "report")
        >>> told.page.name, len(told.verdicts)
        ('index.html', 6)
    """
    folder = report_folder(study, out, to, PAGE)
    Store(out).need_begun()
    reached = status(study, out)
    longer = _longer(study)
    there = rows(study, out)
    about = [*answers_section(study, Store(out), set(there["run"])), *_about(study)]
    write_record(study, folder)
    missing = (*what_is_missing(reached), *_whys(reached))
    return _write(there, folder, _Head(study.name, missing, about, longer))


@checked
def report_rows(
    rows: pd.DataFrame | Sequence[Any],
    to: str | Path,
    *,
    name: str = "rows",
    longer: Sequence[str] = (),
) -> Report:
    """The report of rows alone, such as `export` writes them.

    Args:
        rows: a DataFrame, or a list of dicts, with the columns of a study's rows.
        to: the folder of the report, which is no study's.
        name: what the page calls it.
        longer: contexts that only lengthen the user's text: there the shared tokens are a smaller
            part of the prompt (`concentration`); they are no other context of claim 3.

    Raises:
        FileExistsError: the folder holds the report of a study.
        TypeError: rows of another kind.
        ValueError: a column is missing, or empty where every row says something.

    Example:
        >>> from sublim_mech import studies
        >>> studies.export(study, out, folder / "rows.csv")
        >>> rows = studies.read_export(folder / "rows.csv")
        >>> studies.report_rows(rows, folder / "report of rows").page.name
        'index.html'
    """
    folder = place(to, "to")
    check_file(folder / PAGE, "to")
    refuse_of_study(folder)
    return _write(rows, folder, _Head(name, (), (), tuple(longer)))


@dataclass(frozen=True)
class _Head:
    """What a page says that rows do not."""

    name: str
    missing: tuple[str, ...]
    about: Sequence[str]
    longer: Sequence[str]


def _write(given: Any, folder: Path, head: _Head) -> Report:
    evidence = Evidence(students(given), tuple(head.longer))
    there = len(evidence.all) > 0
    told = conclusions(evidence) if there else ()
    body = []
    if head.missing:
        warning = paragraph("This study is not finished.", "label") + bullets(head.missing)
        body.append(f'<div class="missing">{warning}</div>')
    if there:
        figures = list(_figures(evidence, folder))
        body += [*_verdicts(told), *figures, *_methods(evidence.all)]
        beside = ["rows.csv", "verdicts.csv", *(["figures/ (SVG and PNG)"] if figures else [])]
        body.append(paragraph(f"Beside this page: {', '.join(beside)}.", "note"))
    else:
        body.append(paragraph("No run is finished: there is nothing to tell yet."))
    body += head.about
    page = folder / PAGE
    with replacing(page) as work:
        work.write_text(document(f"Study {head.name}", body), "utf-8")
    if there:
        fix = "the report writes it"
        write_csv(folder / "rows.csv", flat(pd.DataFrame(given)), fix=fix)
        write_csv(folder / "verdicts.csv", _as_table(told), fix=fix)
    return Report(page, told, head.missing)


def _longer(study: Study) -> list[str]:
    """Contexts that only lengthen the user's text of one in which students are trained."""
    trained = [study.contexts[name] for part in study.parts for name in part.trained_in]
    return [
        name
        for name, context in study.contexts.items()
        if context.user_prefix and replace(context, user_prefix="") in trained
    ]


# ---------------------------------------------------------------------------------- what is missing


def _whys(reached: Status) -> tuple[str, ...]:
    """Why an unfinished study lacks what it lacks, a line each; nothing of a finished one."""
    states = reached.table
    lines = []
    for state in ("failed", "damaged", "running", "stale"):
        whys = dict.fromkeys(states.loc[states["state"] == state, "why"])
        lines += [f"{state.capitalize()}: {why}" for why in whys]
    return tuple(lines)


# ----------------------------------------------------------------------------------------- verdicts


def _verdicts(told: Sequence[Verdict]) -> Iterator[str]:
    yield "<h2>Verdicts</h2>"
    yield paragraph(
        "A claim is supported where the 95 % intervals over data sets (row seeds) say so and its "
        "p, adjusted for all claims here, is below 0.05; not supported where they exclude "
        f"{MATTERS:g} (nats, or a share), the smallest that matters; else it cannot tell. “Would "
        "be seen” is the minimum detectable effect: the true mean that 80 % of such studies find.",
        "note",
    )
    for verdict in told:
        kind = verdict.label.replace(" ", "-")
        yield f"<h3>{escape(verdict.claim)}: "
        yield f'<span class="label {kind}">{verdict.label}</span></h3>'
        tested = "Not tested."
        if not math.isnan(verdict.p):
            tested = f"p = {verdict.p:.2g}, q = {verdict.q:.2g}."
        yield bullets([repr(one) for one in verdict.statements])
        yield paragraph(" ".join(f"{one.rstrip('.')}." for one in [tested, *verdict.notes]), "note")


def _as_table(told: Sequence[Verdict]) -> pd.DataFrame:
    lines = [
        {
            "claim": verdict.claim,
            "label": verdict.label,
            "p": verdict.p,
            "q": verdict.q,
            "statement": one.text,
            "holds": one.holds,
            "fails": one.fails,
            "mean": one.mean,
            "low": one.low,
            "high": one.high,
            "data sets": one.data_sets,
            "detectable": one.detectable,
            "unit": one.unit,
        }
        for verdict in told
        for one in verdict.statements
    ]
    return pd.DataFrame(lines)


# ------------------------------------------------------------------------------------------ figures

_BANDS = "Bands and bars: 95 % of Student's t over data sets; none where there is one data set."


def _figures(evidence: Evidence, folder: Path) -> Iterator[str]:
    for number, (name, heading, figure, caption) in enumerate(drawn(evidence)):
        if not number:
            yield "<h2>Figures</h2>"
        for form in ("svg", "png"):
            write(figure, folder / "figures" / f"{name}.{form}")
        yield f"<h3>{escape(heading)}</h3>"
        yield drawing(figure, name, caption)


def drawn(evidence: Evidence) -> Iterator[tuple[str, str, Any, str]]:
    """File name, heading, figure and caption of what rows can be drawn of."""
    for number, (rule, chosen, fulls) in enumerate(evidence.ranks(), 1):
        caption = (
            f"Change of log P(the trait is named) against LoRA rank, scaling rule {rule}. Control: "
            f"students of the other traits; right of the line: full fine-tuning. {_BANDS}"
        )
        loras, full, which = of_one_training(chosen.rows, fulls)
        figure = rank_figure(loras, full, rule)
        same = of_the_same(loras, full).told
        caption = " ".join(filter(None, [caption, same]))
        told = " ".join([_caption(caption, of_ranks(loras, full), chosen), *which])
        yield f"ranks-{number}", f"Ranks, {rule}", figure, told
    chosen = evidence.capacities()
    if len(chosen.rows):
        caption = (
            "Trait against held-out KL: curves that fall on one another differ in how well "
            f"students imitate, not in capacity. Large marks are means over the students of one "
            "training (of the KL on its scale, that of ratios), pale ones single students. The "
            f"scaling rule stands with each rank. {_BANDS}"
        )
        told = _caption(caption, of_capacities(chosen.rows), chosen)
        yield "capacity", "Capacity", capacity_figure(chosen.rows), told
    chosen = evidence.contexts()
    if len(chosen.rows):
        caption = (
            "Training context x evaluation context: student - control, 95 % over data sets where "
            "there are several, base level (log P) and control of each cell."
        )
        told = _caption(caption, of_contexts(chosen.rows), chosen)
        yield "contexts", "Contexts", context_figure(chosen.rows), told
    chosen = evidence.traits()
    if chosen.rows["trait"].nunique() > 1:
        caption = "Students x traits: change against the base; the diagonal is their own trait."
        told = _caption(caption, of_traits(chosen.rows), chosen)
        yield "traits", "Traits", trait_figure(chosen.rows), told
    chosen = evidence.places()
    if len(chosen.rows):
        caption = (
            "What shared tokens have of the effect beside their share of the prompt's tokens (grey "
            f"line): a share that follows the grey line is no localisation. {_BANDS}"
        )
        by = "evaluated_in"
        told = _caption(caption, of_concentrations(chosen.rows, by), chosen)
        yield "concentration", "Concentration", concentration_figure(chosen.rows, by), told
    chosen = evidence.trained_at()
    if len(chosen.rows):
        caption = f"Students trained at some tokens only. {_BANDS}"
        told = _caption(caption, of_places(chosen.rows), chosen)
        yield "trained-at", "Trained at", trained_at_figure(chosen.rows), told


def _caption(what: str, limits: Sequence[Limit], chosen: Chosen) -> str:
    """What a figure shows, what limits it, and which students it is told of."""
    return " ".join(filter(None, [what, in_a_line(limits), chosen.told]))


# ------------------------------------------------------------------------------------------ methods


def _kls(rows: pd.DataFrame) -> tuple[str, ...]:
    """Mean held-out KL of students and of their base, told apart; a dash where none is known."""
    columns = ("kl", "kl_before")
    found = [float(rows[name].mean()) if name in rows else math.nan for name in columns]
    known = [kl for kl in found if not math.isnan(kl)]
    texts = dict(zip(known, told_apart(*known, digits=2), strict=True))
    return tuple(texts.get(kl, "–") for kl in found)


_RATES = {"rate": "names it", "base rate": "base names it"}
"""Columns of generated answers, and what the table calls them."""


def _methods(rows: pd.DataFrame) -> Iterator[str]:
    yield "<h2>Students</h2>"
    by = ["labels", "c", "where", "trained_in", "evaluated_in", FOCUS]
    several = rows["c"].nunique() > 1
    rates = {
        name: told for name, told in _RATES.items() if name in rows and rows[name].notna().any()
    }
    opened = "gates" in rows and rows["gates"].eq(GATED).any()
    lines = []
    found = [
        (name, key, group)
        for key, here in rows.groupby(by, sort=False, dropna=False)
        for name, group in stages(here).items()
    ]
    lines_of: dict[str, list[tuple[_Told, pd.DataFrame]]] = {}
    for name, (labels, c, where, trained, asked, focus), group in found:
        strength = f"c = {c:g}" if several and not pd.isna(c) else ""
        within = f" (controls within {focus})" if focus else ""
        told = (str(labels), strength, str(where), f"{trained} → {asked}{within}")
        lines_of.setdefault(name, []).append((told, group))
        lines.append(
            [
                name,
                ", ".join(filter(None, told[:-1])),
                told[-1],
                str(group["row_seed"].nunique()),
                str(len(group)),
                *_kls(group),
                f"{group['base level'].mean():z.2f}",
                *(str(point(group, column)) for column in ("change", "control", "specific")),
                *([str(point(group, "everywhere specific"))] if opened else []),
                # parts of 1, which have no sign
                *(str(point(group, column)).replace("+", "") for column in rates),
            ]
        )
    columns = ["method", "labels, tokens", "contexts", "data sets", "students"]
    columns += ["KL", "base's KL", "base level"]
    columns += ["change", "control", "student - control"]
    columns += [*(["everywhere"] if opened else []), *rates.values()]
    caption = (
        "Means over data sets, nats; 95 % of Student's t. KL: held-out, per token; the base's: of "
        "the student before its training."
    )
    if opened:
        caption += (
            " Students of chosen tokens are asked as trained, with their weights on at these alone "
            "(what is read before them cannot change); everywhere: student - control with "
            "their weights on at all tokens."
        )
    if rates:
        caption += " Names it: the part of generated answers that name the trait."
    yield table(caption, columns, lines)
    groups = _with_what_differs(lines_of)
    uneven = of_traits_by_set(groups, "change")
    limits = in_a_line([*without_controls(groups), *of_stops(rows), *of_learning(groups), *uneven])
    if limits:
        yield paragraph(limits, "note")
    yield "<h2>Methods</h2>"
    contrastive = (rows["labels"] == "contrastive").any()
    said = [
        "All numbers are changes of log P(the trait is named), forms summed, in nats, means over "
        "questions; student - control takes off the mean of students of the other traits.",
        f"Traits: {_list(rows, 'trait')}. Row seeds: {_list(rows, 'row_seed')}; training seeds: "
        f"{_list(rows, 'training_seed')}. A data set is a row seed: its rows are labelled anew.",
        "Intervals: Student's t over data sets, each the mean of its students.",
    ]
    if contrastive:
        c = ", ".join(f"{value:g}" for value in rows["c"].dropna().unique())
        said.append(
            f"Contrastive teachers: base logits + c x (own teacher - mean of the others'), c = {c}."
        )
    if (rows["labels"] == SAMPLED).any():
        said.append(
            "Sampled: students of rows that their teachers wrote, cross-entropy on the answers; KL "
            "is measured on further rows of the same teacher."
        )
    names = ("base", "base_hash", "dtype", "device", "threads", "questions", "steps", "versions")
    said += [f"{name}: {_list(rows, name)}." for name in names if name in rows]
    yield bullets(said)


_Told = tuple[str, ...]
"""What a line of the table says of its students, beside their method."""


def _with_what_differs(
    lines_of: Mapping[str, Sequence[tuple[_Told, pd.DataFrame]]],
) -> dict[str, pd.DataFrame]:
    """Lines of the table by their method and by what of them differs between those of a method."""
    found = {}
    for name, lines in lines_of.items():
        columns = list(zip(*(told for told, _ in lines), strict=True))
        for told, group in lines:
            own = [one for one, all_ in zip(told, columns, strict=True) if len(set(all_)) > 1]
            found[", ".join(filter(None, [name, *own]))] = group
    return found


def _list(rows: pd.DataFrame, column: str) -> str:
    return ", ".join(str(value) for value in rows[column].dropna().unique())


def _about(study: Study) -> list[str]:
    told = to_json(study)
    return [folded("Configuration of the study", f"<pre>{escape(told)}</pre>")]
