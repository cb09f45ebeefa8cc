"""Scores of one prompt as a page: tokens coloured by their effect, details on hover.

The page is one `<div>` with its own style, no script and nothing fetched: a notebook can show it
and a file can keep it. Colours are laid translucently over the background, so the same ones serve
light and dark.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from ..arguments import checked
from ..hints import signed
from ..prompts import SHARED
from ..stats import mean_interval
from ..storage.files import replacing
from . import report, tables
from .arrays import ScoreArrays
from .colours import ROLE_COLOURS, half_range
from .frames import check_suffix
from .kinds import KINDS, PARTS
from .limits import in_full
from .spreading import drawn
from .stability import is_map, reliability
from .tokens import RAW_ROLE, PromptTokens, label, prompt_tokens, visible
from .words import percent

# Class names are short because every token carries some: h heading, w warning, k the tokens; p, n
# a positive and a negative effect, o noise laid over it, x not tested, u, v underlined; g the
# scale, e an entry of the legend, c a swatch, r0, r1, ... roles.
LIGHT = "--f:#111;--b:#fff;--l:#ccc;--o:rgb(208 208 208/.8);--w:#c00000"
DARK = "--f:#eee;--b:#181818;--l:#555;--o:rgb(72 72 72/.8);--w:#ff7b72"
STYLE = f"""
.slm{{{LIGHT};color:var(--f);background:var(--b);
font:14px/1.5 system-ui,sans-serif;padding:12px;max-width:60em;overflow-wrap:anywhere}}
@media (prefers-color-scheme:dark){{.slm{{{DARK}}}}}
[data-jp-theme-light="true"] .slm,.vscode-light .slm{{{LIGHT}}}
[data-jp-theme-light="false"] .slm,.vscode-dark .slm,html[theme="dark"] .slm{{{DARK}}}
.slm .h{{font-weight:600;font-size:16px}}
.slm .k{{white-space:pre-wrap;
font:14px/2.3 ui-monospace,monospace;margin:12px 0}}
.slm .k span{{border-top:4px solid var(--r);
padding:3px 1px 5px;margin-right:1px;text-underline-offset:5px}}
.slm .p,.slm .n,.slm .g{{color:var(--f)}}
.slm .p{{background:rgb(202 0 32/calc(var(--a)*.6))}}
.slm .n{{background:rgb(5 113 176/calc(var(--a)*.6))}}
.slm .o{{background-image:linear-gradient(var(--o),var(--o))}}
.slm .x{{outline:1px dotted var(--f);outline-offset:-1px}}
.slm .w{{color:var(--w);font-weight:600}}
.slm .u{{text-decoration:underline 2px}}
.slm .v{{text-decoration:underline 2px dashed}}
.slm .g{{display:inline-block;width:9em;height:1em;vertical-align:-2px;border:1px solid var(--l);
background:linear-gradient(90deg,rgb(5 113 176/.6),rgb(5 113 176/0) 50%,
rgb(202 0 32/0) 50%,rgb(202 0 32/.6))}}
.slm .e{{margin-right:1.2em;white-space:nowrap}}
.slm .c{{display:inline-block;width:1em;height:.6em;margin-right:.35em;background:var(--r)}}
.slm table{{border-collapse:collapse;margin:12px 0 0;
color:var(--f);background:var(--b);font-size:13px}}
.slm td,.slm th{{padding:2px 10px;text-align:right;border-bottom:1px solid var(--l);
color:var(--f);background:var(--b)}}
.slm caption{{text-align:left;white-space:nowrap;
color:var(--f);padding:2px 10px;font-style:italic}}
.slm td:first-child,.slm th:first-child{{text-align:left}}
""" + "".join(f".slm .r{i}{{--r:{colour}}}\n" for i, colour in enumerate(ROLE_COLOURS.values()))
_ROLE = {role: f"r{i}" for i, role in enumerate(ROLE_COLOURS)}
_UNDERLINE = dict(zip(SHARED, ("u", "v"), strict=True))
_HOW = {"prefix": "same text from the start on", "aligned": "same place in the template"}
_HOW_RAW = _HOW | {"aligned": "same place, counted from the text's start or end"}


@checked
def token_page(scores: ScoreArrays, prompt: int = 0, *, title: str | None = None) -> str:
    """One prompt as an HTML fragment.

    Each token is coloured by its effect (summed over layers and modules for attributions, averaged
    for patching), marked with its role and underlined where training shares it. Tables below gather
    the effect by role and sharing over all prompts, and below them stand the forms that were scored
    and the contexts.

    Args:
        scores: scores with a position axis.
        prompt: which prompt.
        title: heading; what was scored when not given.

    Raises:
        IndexError: no such prompt.
        ValueError: the scores have no position axis.
    """
    scores = scores.per_token()
    tokens = prompt_tokens(scores, prompt)
    parts = [
        f"<style>{STYLE}</style>",
        f'<div class="h">{escape(_heading(scores, title))}</div>',
        # set apart, so that a question from right to left leaves the line around it in order
        f"<div>prompt {tokens.name}: “<bdi>{escape(tokens.question)}</bdi>”</div>",
        f"<div>{escape(_summary(scores))}</div>",
    ]
    poor = report.warning(scores)
    if poor is not None:
        parts.append(f'<div class="w">{escape(poor)}</div>')
    parts += [
        f'<div class="k">{_token_spans(scores, prompt, tokens)}</div>',
        _legend(scores, tokens),
    ]
    cumulative = KINDS[scores.kind].cumulative  # then no table gathers tokens
    if not cumulative:
        parts.append(_table(scores, "role"))
    if tokens.sharing is not None and not cumulative:
        parts.append(_table(scores, "sharing"))
    parts += [f"<div>{escape(line)}</div>" for line in report.provenance(scores)]
    return f'<div class="slm">{"".join(parts)}</div>'


@checked
def save_page(
    scores: ScoreArrays, path: str | Path, prompt: int = 0, *, title: str | None = None
) -> None:
    """Write `token_page` as a complete HTML file, under a temporary name first.

    Args:
        scores: scores with a position axis.
        path: the file; its folder is made if missing.
        prompt: which prompt.
        title: heading; what was scored when not given.

    Raises:
        IndexError: no such prompt.
        ValueError: the scores have no position axis; the name ends otherwise than in `.html`.
    """
    check_suffix(path, ".html", fix="scores.plot(path=...) draws a picture")
    page = document(_heading(scores, title), token_page(scores, prompt, title=title))
    with replacing(path) as work:
        work.write_text(page, encoding="utf-8")


def document(title: str, body: str) -> str:
    """A fragment as a complete HTML file.

    Args:
        title: plain text.
        body: HTML.
    """
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


# -------------------------------------------------------------------------------------------- parts


def _heading(scores: ScoreArrays, title: str | None) -> str:
    return report.title(scores) if title is None else title


def _summary(scores: ScoreArrays) -> str:
    """The total that the tokens are part of, and what to know before trusting it."""
    total = mean_interval(scores.total.values)
    number = _interval(float(total.mean), float(total.low), float(total.high), signed)
    prompts = report.prompts(scores)
    parts = [f"{scores.headline_name}: total effect {number} {scores.unit}, {prompts}"]
    limits = in_full(scores, "noise") if scores.additive else in_full(scores)
    parts += [tables.denominator(scores)] if scores.additive else []
    parts += [str(reliability(scores))] if is_map(scores) else []
    return "; ".join([*parts, *limits, *report.notes(scores)])


def _token_spans(scores: ScoreArrays, prompt: int, tokens: PromptTokens) -> str:
    """The tokens as spans; a token with a newline also breaks the line."""
    scale = half_range(tokens.effect)
    top_cells = _top_cells(scores, prompt, tokens.real)
    spans = []
    for i, text in enumerate(tokens.texts.tolist()):
        effect, noise, role = tokens.effect[i], bool(tokens.noise[i]), tokens.roles[i]
        sharing = "" if tokens.sharing is None else tokens.sharing[i]

        # what the pointer shows: the token, its classes, its effect and where that is strongest
        classes = f"{role}, {sharing}" if sharing else role
        number = "no score"
        if not np.isnan(effect):
            untold = ", not distinguishable from 0" if noise else ""
            untold = f", {report.UNTESTED}" if tokens.untested[i] else untold
            number = f"{effect:+z.3g} {scores.unit}{untold}{top_cells[i]}"
        if tokens.coarse is not None and tokens.coarse[i]:
            number += "\nnot refined: the value of its span"
        hover = escape(f"{label(text)} ({classes})\n{number}").replace("\n", "&#10;")

        # what the eye sees: role, sign and size of the effect, noise, sharing
        marks = [_ROLE[role]]
        if effect != 0 and not np.isnan(effect):
            marks.append("p" if effect > 0 else "n")
        if noise:
            marks.append("o")
        if tokens.untested[i]:
            marks.append("x")
        if sharing in _UNDERLINE:
            marks.append(_UNDERLINE[sharing])
        alpha = "" if np.isnan(effect) else f' style="--a:{abs(effect) / scale:z.2f}"'
        # a space beside a word is seen by itself; white space alone is not
        shown = visible(text).replace("␣", " ") if text.strip() else visible(text)

        opening = f'<span class="{" ".join(marks)}"{alpha} title="{hover}">'
        spans.append(f"{opening}{escape(shown)}</span>")
        if "\n" in text:
            spans.append("<br>")
    return "".join(spans)


def _top_cells(scores: ScoreArrays, prompt: int, real: np.ndarray) -> list[str]:
    """Per token, the cell of largest absolute effect: its layer, module or head, and its effect.

    Empty where tokens have one cell each.
    """
    effect = scores.headline.isel(prompt=prompt).transpose("position", ...)
    if effect.ndim == 1:
        return [""] * int(real.sum())

    # names of a token's cells, in the order of its flattened effects
    axes = []
    for dim in effect.dims[1:]:
        if dim == "layer":
            axes.append(scores.layer_names())
        elif dim in PARTS:
            axes.append([f"{dim} {label}" for label in effect[dim].values])
        else:
            axes.append([str(name) for name in effect[dim].values])
    # the embedding's layer and module have one name: say it once
    names = [" ".join(dict.fromkeys(cell)) for cell in product(*axes)]
    names = [name if name[0].isalpha() else f"layer {name}" for name in names]

    per_token = effect.values.reshape(len(effect), -1)[real]
    best = np.abs(np.nan_to_num(per_token)).argmax(1)
    return [
        f"\ntop cell: {names[cell]} {effects[cell]:+z.3g}"
        for cell, effects in zip(best, per_token, strict=True)
    ]


def _legend(scores: ScoreArrays, tokens: PromptTokens) -> str:
    scale, gathered = half_range(tokens.effect), "summed" if scores.additive else "averaged"
    of_what = f"{gathered} over the cells of a token"
    if KINDS[scores.kind].cumulative:
        of_what = "of all tokens up to each one"
    meaning = escape(f"{scores.unit}: effect on {scores.record.what}, {of_what}")
    spans = drawn(scores.record, scores.data)
    present = [role for role in ROLE_COLOURS if role in tokens.roles]
    roles = [f'<span class="e">{_swatch(role)}{role}</span>' for role in present]
    rows = [f'−{scale:.3g} <span class="g"></span> +{scale:.3g} {meaning}', "".join(roles)]
    if spans is not None:
        rows.insert(1, escape(spans))
    if tokens.sharing is not None:
        how = _HOW_RAW if RAW_ROLE in tokens.roles else _HOW
        marks = [
            f'<span class="{_UNDERLINE[name]}">{name}</span> ({how[name]})'
            for name in SHARED
            if name in tokens.sharing
        ]
        if marks:
            rows.append(f"underlined, shared with training: {', '.join(marks)}")
    rows.append(escape(report.noise_note(scores, "grey")))
    if tokens.untested.any():
        rows.append(f'<span class="x">dotted box</span>: {escape(report.UNTESTED)}')
    return "".join(f"<div>{row}</div>" for row in rows)


def _table(scores: ScoreArrays, coordinate: str) -> str:
    """`Scores.by` over all prompts."""
    columns = [coordinate, "tokens", f"effect, {scores.unit}"]
    if scores.additive:
        columns.append("share of the prompt's effect")
    rows = ["".join(f"<th>{escape(column)}</th>" for column in columns)]
    for name, row in tables.by(scores, coordinate).iterrows():
        effect = _interval(row["effect"], row["low"], row["high"], signed)
        cells = [_swatch(str(name)) + escape(str(name)), tables.size_in_words(row), effect]
        if scores.additive:
            cells.append(_interval(row["share"], row["share low"], row["share high"], percent))
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    gathered = "summed" if scores.additive else "averaged"
    caption = f"{gathered} by {coordinate}, mean over all prompts [95 % interval]"
    return f"<table><caption>{caption}</caption>{body}</table>"


def _swatch(name: str) -> str:
    """A role's colour; nothing for other names."""
    return f'<span class="c {_ROLE[name]}"></span>' if name in _ROLE else ""


def _interval(mean: float, low: float, high: float, form: Callable[[float], str]) -> str:
    """Mean and interval; a dash without a mean, the mean alone without an interval."""
    if np.isnan(mean):
        return "–"
    if pd.isna(low):
        return form(mean)
    return f"{form(mean)} [{form(low)}, {form(high)}]"
