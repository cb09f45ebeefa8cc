"""A report as one HTML page: sections, tables, figures inlined as SVG; no script, nothing fetched.

Figures are drawn without a background; black and grey are written as the page's own colours, so
that the same drawing serves light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from html import escape

import matplotlib
from matplotlib.figure import Figure

from .colours import HEADLINE_COLOUR, OTHER_COLOUR
from .page import DARK, LIGHT

_STYLE = f"""
:root{{{LIGHT};--y:#0a6b2d;--m:#555}}
@media (prefers-color-scheme:dark){{:root{{{DARK};--y:#6fd08c;--m:#aaa}}}}
body{{color:var(--f);background:var(--b);font:16px/1.5 system-ui,sans-serif;
margin:0 auto;padding:12px 16px 48px;max-width:56em;overflow-wrap:anywhere}}
h1{{font-size:1.5em;line-height:1.25}}
h2{{font-size:1.2em;margin-top:2em;border-bottom:1px solid var(--l)}}
h3{{font-size:1em;margin-bottom:.2em}}
.missing{{border:2px solid var(--w);padding:4px 12px;margin:12px 0}}
.label{{font-weight:600;white-space:nowrap}}
.supported{{color:var(--y)}}
.not-supported{{color:var(--w)}}
.cannot-tell,.note,figcaption{{color:var(--m)}}
.note,figcaption,li{{font-size:.9em}}
figure{{margin:16px 0}}
figure svg{{display:block;width:100%;max-width:620px;height:auto;fill:currentColor}}
.wide{{overflow-x:auto}}
table{{border-collapse:collapse;font-size:.85em}}
caption{{text-align:left;font-style:italic;padding:2px 0}}
td,th{{padding:2px 10px 2px 0;text-align:right;border-bottom:1px solid var(--l);
white-space:nowrap}}
td:first-child,th:first-child{{text-align:left}}
.said td,.said th{{text-align:left;vertical-align:top;white-space:pre-wrap;min-width:7em}}
pre{{overflow-x:auto;font-size:.8em}}
summary{{cursor:pointer}}
"""


def document(title: str, body: Iterable[str]) -> str:
    """A complete page.

    Args:
        title: plain text.
        body: HTML, in order.
    """
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    inside = "\n".join([f"<h1>{escape(title)}</h1>", *body])
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{inside}\n</body></html>\n'
    )


def paragraph(text: str, kind: str = "") -> str:
    """Plain text as a paragraph."""
    marked = f' class="{kind}"' if kind else ""
    return f"<p{marked}>{escape(text)}</p>"


def bullets(lines: Iterable[str]) -> str:
    """Plain texts as a list."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def folded(summary: str, inside: str) -> str:
    """HTML that a reader opens."""
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Plain texts as a table, which scrolls by itself where the screen is narrow."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}'
        "</table></div>"
    )


def drawing(figure: Figure, name: str, caption: str) -> str:
    """A figure and its caption.

    Args:
        figure: the figure.
        name: a word of the figure's own, put before the ids of its parts.
        caption: plain text; also what a screen reader says.
    """
    svg = svg_of(figure, name)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def svg_of(figure: Figure, name: str) -> str:
    """A figure as an SVG element for a page, without background and in the page's colours."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    # glyphs of text are black without saying so: the page's style fills what says nothing
    text = text.replace(HEADLINE_COLOUR, "currentColor")
    return text.replace(OTHER_COLOUR, "var(--m)")
