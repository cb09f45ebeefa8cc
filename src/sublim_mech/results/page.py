"""Scores of one prompt as a page: tokens coloured by their effect, details on hover.

The page is one `<div>` with its own style, no script and nothing fetched: a notebook can show it and a file can keep it.
Colours are laid translucently over the background, so the same ones serve light and dark.
"""

from __future__ import annotations

from html import escape
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from ..prompts import SHARED
from ..stats import mean_interval
from ..storage.files import replacing
from .plots import ROLE_COLOURS, check_prompt, label, largest, noise_note, visible
from .scores import Scores

_LIGHT = "--f:#111;--b:#fff;--l:#ccc;--o:rgb(208 208 208/.8);--w:#c00000"
_DARK = "--f:#eee;--b:#181818;--l:#555;--o:rgb(72 72 72/.8);--w:#ff7b72"
_STYLE = f"""
.slm{{{_LIGHT};color:var(--f);background:var(--b);font:14px/1.5 system-ui,sans-serif;padding:12px;max-width:60em}}
@media (prefers-color-scheme:dark){{.slm{{{_DARK}}}}}
[data-jp-theme-light="true"] .slm,.vscode-light .slm{{{_LIGHT}}}
[data-jp-theme-light="false"] .slm,.vscode-dark .slm,html[theme="dark"] .slm{{{_DARK}}}
.slm .h{{font-weight:600;font-size:16px}}
.slm .k{{white-space:pre-wrap;overflow-wrap:anywhere;font:14px/2.3 ui-monospace,monospace;margin:12px 0}}
.slm .k span{{border-top:4px solid var(--r);padding:3px 1px 5px;margin-right:1px;text-underline-offset:5px}}
.slm .p,.slm .n,.slm .g{{color:var(--f)}}
.slm .p{{background:rgb(202 0 32/calc(var(--a)*.6))}}
.slm .n{{background:rgb(5 113 176/calc(var(--a)*.6))}}
.slm .o{{background-image:linear-gradient(var(--o),var(--o))}}
.slm .w{{color:var(--w);font-weight:600}}
.slm .u{{text-decoration:underline 2px}}
.slm .v{{text-decoration:underline 2px dashed}}
.slm .g{{display:inline-block;width:9em;height:1em;vertical-align:-2px;border:1px solid var(--l);
background:linear-gradient(90deg,rgb(5 113 176/.6),rgb(5 113 176/0) 50%,rgb(202 0 32/0) 50%,rgb(202 0 32/.6))}}
.slm .e{{margin-right:1.2em;white-space:nowrap}}
.slm .c{{display:inline-block;width:1em;height:.6em;margin-right:.35em;background:var(--r)}}
.slm table{{border-collapse:collapse;margin:12px 0 0;color:var(--f);background:var(--b);font-size:13px}}
.slm td,.slm th{{padding:2px 10px;text-align:right;border-bottom:1px solid var(--l);color:var(--f);background:var(--b)}}
.slm caption{{text-align:left;white-space:nowrap;color:var(--f);padding:2px 10px;font-style:italic}}
.slm td:first-child,.slm th:first-child{{text-align:left}}
""" + "".join(f".slm .r{i}{{--r:{colour}}}\n" for i, colour in enumerate(ROLE_COLOURS.values()))
_ROLE = {role: f"r{i}" for i, role in enumerate(ROLE_COLOURS)}
_UNDERLINE = dict(zip(SHARED, ("u", "v"), strict=True))
_HOW = {"prefix": "same text from the start on", "aligned": "same place in the template"}


def token_page(scores: Scores, prompt: int = 0, *, title: str | None = None) -> str:
    """One prompt as an HTML fragment.

    Each token is coloured by its effect (summed over layers and modules for attributions, averaged for patching), marked with
    its role and underlined where training shares it. Tables below gather the effect by role and sharing over all prompts.

    Args:
        scores: scores with a position axis.
        prompt: which prompt.
        title: heading; what was scored when not given.

    Raises:
        IndexError: no such prompt.
        ValueError: the scores have no position axis.
    """
    check_prompt(scores, prompt)
    real = scores.positions("role")[prompt] != ""
    roles = scores.positions("role")[prompt, real].tolist()
    sharing = scores.positions("sharing")[prompt, real].tolist() if "sharing" in scores.data.coords else None
    question, name = str(scores.data["question"].values[prompt]), scores.data["prompt"].values[prompt]
    scale = largest(scores.token_effect()[prompt, real])
    parts = [
        f"<style>{_STYLE}</style>",
        f'<div class="h">{escape(title or scores.title())}</div>',
        f"<div>{escape(f'prompt {name}: “{question}”')}</div>",
        f"<div>{escape(_summary(scores))}</div>",
        *([f'<div class="w">{escape(scores.warning)}</div>'] if scores.warning else []),
        f'<div class="k">{_tokens(scores, prompt, real, scale)}</div>',
        _legend(scores, roles, sharing, scale),
        _table(scores, "role"),
    ]
    if sharing is not None:
        parts.append(_table(scores, "sharing"))
    return f'<div class="slm">{"".join(parts)}</div>'


def save_page(scores: Scores, path: str | Path, prompt: int = 0) -> None:
    """Write `token_page` as a complete HTML file, under a temporary name first.

    Args:
        scores: scores with a position axis.
        path: the file; its folder is made if missing.
        prompt: which prompt.

    Raises:
        IndexError: no such prompt.
        ValueError: the scores have no position axis.
    """
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(scores.title())}</title>"
    )
    page = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{token_page(scores, prompt)}</body></html>\n'
    with replacing(path) as work:
        work.write_text(page, encoding="utf-8")


def _summary(scores: Scores) -> str:
    """The total that the tokens are part of, and what a reader must know before trusting it."""
    total = mean_interval(scores.total.values)
    number = _interval(float(total.mean), float(total.low), float(total.high), "{:+.3f}")
    text = f"{scores.headline_name}: total effect {number} {scores.unit}, {scores.data.sizes['prompt']} prompts"
    if scores.additive:
        text += f"; completeness gap {scores.gap:.1%}"
    if not scores.has_controls:
        text += "; part of any effect may come from training on any numbers"
    if total.low <= 0 <= total.high:
        text += "; the total effect is inside its own noise: no shares are given"
    return "; ".join([text, *scores.notes()])


def _tokens(scores: Scores, prompt: int, real: np.ndarray, scale: float) -> str:
    """The tokens as spans; a token with a newline also breaks the line."""
    effect = scores.token_effect()[prompt, real]
    noise = scores.noise(prompt, tokens=True)
    faint = [False] * len(effect) if noise is None else noise[real].tolist()
    top = _top_cells(scores, prompt, real)
    tokens = scores.positions("token")[prompt, real].tolist()
    roles = scores.positions("role")[prompt, real].tolist()
    sharing = scores.positions("sharing")[prompt, real].tolist() if "sharing" in scores.data.coords else [""] * len(tokens)
    out = []
    for token, role, share, value, cell, grey in zip(tokens, roles, sharing, effect, top, faint, strict=True):
        known = ", ".join(x for x in (role, share) if x)
        number = "no score" if np.isnan(value) else f"{value:+.3g} {scores.unit}{', not distinguishable from 0' * grey}{cell}"
        hover = escape(f"{label(token)} ({known})\n{number}").replace("\n", "&#10;")
        classes = " ".join(c for c in (_ROLE[role], _sign(value), "o" * grey, _UNDERLINE.get(share)) if c)
        alpha = "" if np.isnan(value) else f' style="--a:{abs(value) / scale:.2f}"'
        # a space beside a word is seen by itself; white space alone is not
        text = visible(token).replace("␣", " ") if token.strip() else visible(token)
        out.append(f'<span class="{classes}"{alpha} title="{hover}">{escape(text)}</span>' + "<br>" * ("\n" in token))
    return "".join(out)


def _sign(value: float) -> str | None:
    return "p" if value > 0 else "n" if value < 0 else None


def _top_cells(scores: Scores, prompt: int, real: np.ndarray) -> list[str]:
    """Per token, the cell of largest absolute effect: its layer (and module or head) and its effect; empty without layers."""
    effect = scores.headline.isel(prompt=prompt).transpose("position", ...)
    if effect.ndim == 1:
        return [""] * int(real.sum())
    heads = {"head": lambda x: f"head {x}"}
    axes = [
        scores.layer_names() if d == "layer" else [heads.get(str(d), str)(x) for x in effect[d].values] for d in effect.dims[1:]
    ]
    # the embedding's layer and module have one name: say it once
    names = [" ".join(dict.fromkeys(cell)) for cell in product(*axes)]
    flat = effect.values.reshape(len(effect), -1)[real]
    best = np.abs(np.nan_to_num(flat)).argmax(1)
    labels = [name if name[0].isalpha() else f"layer {name}" for name in names]
    return [f"\ntop cell: {labels[b]} {row[b]:+.3g}" for b, row in zip(best, flat, strict=True)]


def _legend(scores: Scores, roles: list[str], sharing: list[str] | None, scale: float) -> str:
    how = "summed" if scores.additive else "averaged"
    meaning = f"{scores.unit}: effect on {scores.provenance['metric']}, {how} over the cells of a token"
    rows = [f'−{scale:.3g} <span class="g"></span> +{scale:.3g} {escape(meaning)}']
    rows.append("".join(f'<span class="e"><span class="c {_ROLE[r]}"></span>{r}</span>' for r in ROLE_COLOURS if r in roles))
    shared = [s for s in SHARED if sharing and s in sharing]
    if shared:
        marks = [f'<span class="{_UNDERLINE[s]}">{s}</span> ({_HOW[s]})' for s in shared]
        rows.append("underlined, shared with training: " + ", ".join(marks))
    rows.append(escape(noise_note(scores, "grey")))
    return "".join(f"<div>{row}</div>" for row in rows)


def _table(scores: Scores, by: str) -> str:
    """`Scores.by` over all prompts."""
    table = scores.by(by)
    heads = [by, "tokens", f"effect, {scores.unit}"] + ["share of effect"] * scores.additive
    rows = ["".join(f"<th>{escape(h)}</th>" for h in heads)]
    for name, row in table.iterrows():
        cells = [_name(str(name)), f"{row['tokens']:.0%}", _interval(row["effect"], row["low"], row["high"], "{:+.3f}")]
        if scores.additive:
            cells.append(_interval(row["share"], row["share low"], row["share high"], "{:.0%}"))
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    caption = f"{'summed' if scores.additive else 'averaged'} by {by}, mean over all prompts [95 % interval]"
    return f"<table><caption>{caption}</caption>{body}</table>"


def _name(name: str) -> str:
    swatch = f'<span class="c {_ROLE[name]}"></span>' if name in _ROLE else ""
    return swatch + escape(name)


def _interval(mean: float, low: float, high: float, form: str) -> str:
    """Mean and interval; a dash where there is no mean, the mean alone where there is no interval."""
    if np.isnan(mean):
        return "–"
    return form.format(mean) + ("" if pd.isna(low) else f" [{form.format(low)}, {form.format(high)}]")
