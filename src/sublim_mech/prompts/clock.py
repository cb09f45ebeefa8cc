"""The clock that chat templates read: stopped, on the date of the context.

Templates with `strftime_now` would render another prompt every day. transformers passes no function
of a caller's on to a template, so the stopped clock stands in front of the template as a macro of
that name, which shadows the one that reads the time.
"""

from __future__ import annotations

import datetime

DATE = "2024-07-26"
"""The date of a context that names none: what Llama's own templates fall back to (26 Jul 2024).
Files leave it out, so it never changes."""

TODAY = "today"

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_NUMBERS = "dmyYHIMSjUWuwGVf"
_PADDED = "dmHIMSj"
_FORMATS = (
    "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y",
    "%d/%m/%Y", "%m/%d/%Y", "%A, %B %d, %Y", "%A, %d %B %Y",
)  # fmt: skip


def iso(date: str) -> str:
    """A date as ISO has it; `"today"` is the day on which this is called.

    Raises:
        ValueError: no date.
    """
    if date == TODAY:
        return datetime.date.today().isoformat()
    try:
        return datetime.date.fromisoformat(date).isoformat()
    except ValueError:
        raise ValueError(
            f"Context(date={date!r}) is no date; pass one as '2024-07-26', or 'today'."
        ) from None


def strftime(date: str, form: str) -> str:
    """A date in a format of `strftime`, in English whatever the machine speaks."""
    for directive, words in _directives(date):
        form = form.replace(directive, words)
    return form


def stopped_clock(date: str) -> str:
    """A Jinja macro `strftime_now` that tells this date, to stand before a template."""
    steps = "".join(f" | replace({one!r}, {words!r})" for one, words in _directives(date))
    # the newline is eaten (trim_blocks), so that the template begins a line as it did
    return f"{{% macro strftime_now(form) %}}{{{{ form{steps} }}}}{{% endmacro %}}\n"


def format_of(written: str) -> str | None:
    """The format in which a date is written, None where it is none of the usual."""
    for form in _FORMATS:
        try:
            day = datetime.datetime.strptime(written, form).date()
        except ValueError:
            continue
        if strftime(day.isoformat(), form) == written:
            return form
    return None


def _directives(date: str) -> list[tuple[str, str]]:
    """Each directive of `strftime` and what it stands for at the beginning of that day."""
    day = datetime.datetime.fromisoformat(date)
    month, weekday = _MONTHS[day.month - 1], _DAYS[day.weekday()]
    words = {"%A": weekday, "%a": weekday[:3], "%B": month, "%b": month[:3], "%h": month[:3]}
    words |= {"%p": "AM", "%F": date, "%T": "00:00:00", "%R": "00:00", "%D": f"{day:%m/%d/%y}"}
    words |= {
        "%c": f"{weekday[:3]} {month[:3]} {day.day:2d} 00:00:00 {day.year}",
        "%e": f"{day.day:2d}",
    }
    words |= {"%x": f"{day:%m/%d/%y}", "%X": "00:00:00", "%Z": "", "%z": ""}
    words |= {f"%{one}": day.strftime(f"%{one}") for one in _NUMBERS}
    words |= {f"%-{one}": str(int(words[f"%{one}"])) for one in _PADDED}
    return [*words.items(), ("%%", "%")]
