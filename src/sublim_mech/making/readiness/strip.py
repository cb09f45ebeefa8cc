"""One answer as a strip of tokens: as text, and coloured in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import NamedTuple

_STYLE = """<style>
.smd{font:13px/1.9 system-ui,sans-serif;margin:6px 0}
.smd code{white-space:pre-wrap;padding:2px 1px;border-bottom:1px solid rgba(127,127,127,.35)}
.smd .d{border-bottom:2px solid rgb(214,96,77)}
</style>"""
_FULL = 1.0  # nats from which on a token is coloured in full


class StripToken(NamedTuple):
    """A token of an answer.

    Attributes:
        text: the token.
        teacher, base, student: what each would write in its place; None without a student.
        kl: KL(teacher || base) in nats.
        divergent: whether teacher and base would write another token.
    """

    text: str
    teacher: str
    base: str
    student: str | None
    kl: float
    divergent: bool


@dataclass(frozen=True)
class Strip:
    """One answer, token by token; prints as text, and as coloured tokens in a notebook.

    Attributes:
        row: which row.
        prompt: its prompt.
        tokens: the answer's tokens.
        names: of teacher and base.
    """

    row: int
    prompt: str
    tokens: tuple[StripToken, ...]
    names: tuple[str, str]

    def __repr__(self) -> str:
        many = sum(token.divergent for token in self.tokens)
        head = f"row {self.row}, {self.prompt[:60]!r}: {many} of {len(self.tokens)} divergent"
        parts = []
        for token in self.tokens:
            if token.divergent:
                parts.append(f"[{token.text!r}: {token.teacher!r} | {token.base!r}]")
            else:
                parts.append(token.text)
        return f"{head} [token: {self.names[0]} | {self.names[1]}]\n{''.join(parts)}"

    def _repr_html_(self) -> str:
        spans = []
        for token in self.tokens:
            wrote = "" if token.student is None else f", student {token.student!r}"
            title = (
                f"{self.names[0]} {token.teacher!r}, {self.names[1]} {token.base!r}{wrote}; "
                f"KL {token.kl:z.3f} nats"
            )
            strength = min(token.kl / _FULL, 1.0)
            kind = ' class="d"' if token.divergent else ""
            spans.append(
                f'<code{kind} style="background:rgba(214,96,77,{0.5 * strength:z.3f})" '
                f'title="{escape(title)}">{escape(token.text)}</code>'
            )
        head = f"row {self.row}: “<bdi>{escape(self.prompt)}</bdi>”"
        return f'{_STYLE}<div class="smd">{head}<br>{"".join(spans)}</div>'
