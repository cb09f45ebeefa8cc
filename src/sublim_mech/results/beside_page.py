"""Answers of several models as one page: a block per model, beside each other on a wide screen and
below each other on a narrow one.

It has the style of the token page, no script, and nothing that is fetched.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..hints import counted
from .arrays import ScoreArrays
from .page import STYLE, token_page
from .tokens import prompt_tokens

if TYPE_CHECKING:
    from .beside import SideBySide

LIMIT = 300_000
"""Bytes that a page may have."""

_ROOM = 2_000  # for what is said at the end, and the head of a file

# y the page, q a question, a a row of answers, m a model's answer, t its text, i small print, x a
# table that is wider than the screen
_OWN_STYLE = """
.slm.y{max-width:none}
.slm .q{font-weight:600;margin:18px 0 4px;border-top:1px solid var(--l);padding-top:10px}
.slm .a{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(15em,100%),1fr));gap:8px;
margin:4px 0 12px}
.slm .m{border:1px solid var(--l);padding:6px 8px}
.slm .t{white-space:pre-wrap;margin:4px 0}
.slm .i{font-size:12px}
.slm .x{overflow-x:auto;overflow-wrap:normal}
.slm mark{color:var(--f);background:rgb(5 113 176/.3)}
"""


def beside_page(found: SideBySide, scores: ScoreArrays | None, title: str | None) -> str:
    """See `SideBySide.to_html`."""
    pages = [] if scores is None else _asked_here(found, scores)
    heading = found.heading if title is None else title
    parts = [
        f"<style>{STYLE}{_OWN_STYLE}</style>",
        f'<div class="h">{escape(heading)}</div>',
        *(
            f"<div><b>{escape(name)}</b>: {escape(what)}</div>"
            for name, what in found.models.items()
        ),
        *(f"<div>{escape(note)}</div>" for note in found.notes),
        f'<div class="x">{_counts(found.table())}</div>',
        "<div>Marked: words that the base's answer, drawn in the same way, does not have there. "
        "log P: of the answer's tokens under each model, in nats, its own in bold.</div>",
    ]
    room = LIMIT - _ROOM - _size(parts)
    groups = list(found.answers.groupby("prompt", sort=False))
    questions = _fitting((_question(found, rows) for _, rows in groups), room)
    left = len(groups) - len(questions)
    if left:
        questions.append(
            f"<div>{counted(left, 'more question')} would make this page larger than "
            f"{LIMIT // 1000} kB; <code>to_dataframe()</code> has all.</div>"
        )
    room -= _size(questions)
    shown = []
    if scores is not None:
        shown = _fitting((_tokens(scores, number) for number in pages), room)
        if len(shown) < len(pages):
            more = counted(len(pages) - len(shown), "more token page")
            shown.append(
                f"<div>{more} would make this page larger than {LIMIT // 1000} kB; "
                "<code>sublim_mech.results.save_page</code> writes each.</div>"
            )
    inside = "".join([*parts, *questions])
    return f'<div class="slm y">{inside}</div>{"".join(shown)}'


def differing(text: str, reference: str) -> list[tuple[str, bool]]:
    """A text in pieces, each with whether its words are others than the reference's: those that a
    longest common subsequence of words leaves out.

    Example:
        >>> from sublim_mech.results.beside_page import differing
        >>> differing("I love an owl", "I love a cat")
        [('I love ', False), ('an owl', True)]
    """
    ours, theirs = re.findall(r"\S+\s*|^\s+", text), reference.split()
    matcher = difflib.SequenceMatcher(None, [w.strip() for w in ours], theirs, autojunk=False)
    new = np.ones(len(ours), bool)
    for start, _, size in matcher.get_matching_blocks():
        new[start : start + size] = False
    pieces: list[tuple[str, bool]] = []
    for word, is_new in zip(ours, new.tolist(), strict=True):
        if pieces and pieces[-1][1] == is_new:
            pieces[-1] = pieces[-1][0] + word, is_new
        else:
            pieces.append((word, is_new))
    return pieces


# -------------------------------------------------------------------------------------------- parts


def _size(parts: Sequence[str]) -> int:
    return sum(len(part.encode()) for part in parts)


def _fitting(parts: Iterator[str], room: int) -> list[str]:
    """As many of the parts, from the first on, as have room together."""
    kept = []
    for part in parts:
        room -= len(part.encode())
        if room < 0:
            break
        kept.append(part)
    return kept


def _counts(table: pd.DataFrame) -> str:
    columns = ["model", "drawn", *map(str, table.columns)]
    rows = ["".join(f"<th>{escape(column)}</th>" for column in columns)]
    for index, row in zip(table.index, table.values.tolist(), strict=True):
        cells = [*map(str, index), *map(str, row)]
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><caption>answers by the trait they name first</caption>{body}</table>"


def _question(found: SideBySide, rows: pd.DataFrame) -> str:
    """The answers to one prompt: a row of blocks per way of drawing and sample."""
    first = rows.iloc[0]
    begun = ""
    if first["begun"]:
        begun = f' <span class="i">answers begin with “<bdi>{escape(first["begun"])}</bdi>”</span>'
    parts = [f'<div class="q"><bdi>{escape(first["question"])}</bdi>{begun}</div>']
    for (drawn, sample), some in rows.groupby(["drawn", "sample"], sort=False):
        number = f" {int(sample) + 1}" if (some["drawn"] != "greedy").all() else ""
        records = some.to_dict("records")
        blocks = "".join(_block(found, record, records[0]["answer"]) for record in records)
        parts.append(f'<div class="i">{escape(str(drawn))}{number}</div>')
        parts.append(f'<div class="a">{blocks}</div>')
    return "".join(parts)


def _block(found: SideBySide, row: Mapping[Any, Any], reference: str) -> str:
    """One model's answer, and its log-probability under every model."""
    pieces = [
        f"<mark>{escape(text)}</mark>" if is_new else escape(text)
        for text, is_new in differing(row["answer"], reference)
    ]
    probabilities = []
    for name in found.models:
        value = row[f"log P: {name}"]
        number = "–" if np.isnan(value) else f"{value:z.2f}".replace("-", "−")
        said = f"{escape(name)} {number}"
        probabilities.append(f"<b>{said}</b>" if name == row["model"] else said)
    named = f"names {row['names']}" if row["names"] else "names no trait"
    facts = [named, counted(int(row["tokens"]), "token")]
    if not row["as_target"]:
        facts.append("written in other tokens than its text is read in")
    return (
        f'<div class="m"><b>{escape(row["model"])}</b>'
        f'<div class="t"><bdi>{"".join(pieces) or "(empty)"}</bdi></div>'
        f'<div class="i">{escape(", ".join(facts))}</div>'
        f'<div class="i">log P: {"; ".join(probabilities)}</div></div>'
    )


def _asked_here(found: SideBySide, scores: ScoreArrays) -> list[int]:
    """Which prompts of the scores were asked here, by their tokens.

    Raises:
        ValueError: no position axis; none of them.
    """
    asked = {tuple(tokens) for tokens in found.tokens}
    here = []
    scores = scores.per_token()
    for number in range(scores.data.sizes["prompt"]):
        tokens = prompt_tokens(scores, number)
        own = tuple(tokens.texts[tokens.roles != "answer"].tolist())
        if own in asked:
            here.append(number)
    if not here:
        raise ValueError(
            "scores: none of their prompts was asked here (a prompt is its tokens: the question in "
            "its context); give scores of the same prompts."
        )
    return here


def _tokens(scores: ScoreArrays, number: int) -> str:
    """A token page without its style, which stands above; its tables scroll where they are wider
    than the screen.
    """
    page = token_page(scores, number).replace(f"<style>{STYLE}</style>", "", 1)
    return f'<div style="overflow-x:auto">{page}</div>'
