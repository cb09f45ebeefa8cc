"""Options that are named wrongly are errors, with the nearest names that exist."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from types import FrameType

_INSIDE = (__name__.partition(".")[0], "contextlib", "torch.utils._contextlib", "jaxtyping")
"""Modules whose frames are none of the user's: this package and what wraps its functions."""

ELSEWHERE = {
    "learning_rate": ("lr",),
    "num_train_epochs": ("epochs",),
    "num_epochs": ("epochs",),
    "max_steps": ("steps",),
    "per_device_train_batch_size": ("batch_size",),
    "train_batch_size": ("batch_size",),
    "gradient_accumulation_steps": ("accumulate",),
    "group_by_length": ("bucket",),
    "warmup_steps": ("warmup",),
    "warmup_ratio": ("warmup",),
    "lr_scheduler_type": ("schedule",),
    "max_grad_norm": ("clip",),
    "eval_steps": ("evaluate_every",),
    "save_steps": ("checkpoint_every",),
    "seed": ("init_seed", "order_seed", "subsample_seed", "held_out_seed"),
    "data_seed": ("order_seed",),
    "bf16": ("precision",),
    "fp16": ("precision",),
    "output_dir": ("out",),
    "train_dataset": ("data",),
    "eval_dataset": ("held_out",),
    "peft_config": ("method",),
    "loss_type": ("objective",),
    "disable_tqdm": ("progress",),
    "r": ("rank",),
    "lora_alpha": ("alpha",),
    "lora_dropout": ("dropout",),
    "target_modules": ("targets",),
    "use_rslora": ("rslora",),
    "use_dora": ("dora",),
    "layers_to_transform": ("layers",),
}
"""What options are called here, by their names in transformers, TRL and PEFT."""


_NEAR = 0.7
"""Likeness (difflib's) from which on a name is near: slips have 0.75 and more, while other words
that share half of their letters (`herron`, `cherry`) have 0.67."""


def outside() -> int:
    """The `stacklevel` at which a warning names the line of the user's own that led to it."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    return level


def called() -> str:
    """The function of this package that the user called, and that led here.

    Example:
        >>> from sublim_mech.hints import called
        >>> called()  # by nobody inside
        'sublim_mech'
    """
    frame: FrameType | None = sys._getframe(1)
    name = _INSIDE[0]
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_INSIDE):
        code, ours = frame.f_code.co_name, frame.f_globals["__name__"].startswith(_INSIDE[0])
        if ours and code.isidentifier() and not code.startswith("_") and code != "wrapper":
            name = code
        frame = frame.f_back
    return name


def nearest(name: str, known: Iterable[str], called: Mapping[str, str] | None = None) -> str:
    """`"; did you mean 'a' or 'b'?"`, or nothing where no name is near: a sentence ends with it, so
    that another begins behind `{nearest(name, known) or '.'}`.

    A name that other libraries have for it counts as nearest (`ELSEWHERE`).

    Args:
        name: what is not there.
        known: what is.
        called: how names of these are to be written, where not as they are compared.

    Example:
        >>> from sublim_mech.hints import nearest
        >>> nearest("atention", ["attention", "mlp"])
        "; did you mean 'attention'?"
    """
    known = list(known)
    near_names = [ours for ours in ELSEWHERE.get(name, ()) if ours in known]
    near_names = near_names or _near(name, known)
    if not near_names:
        return ""
    written = (repr((called or {}).get(one, one)) for one in near_names)
    return f"; did you mean {' or '.join(written)}?"


def nearest_path(path: Path) -> str:
    """`"; did you mean 'out/owl'?"` of a path that is not there: what is beside the first of its
    parts that is missing, and holds the others; nothing of one that is there. Hidden files are not
    told.

    Example:
        >>> from pathlib import Path
        >>> from sublim_mech.hints import nearest_path
        >>> nearest_path(Path("nothing is called so"))
        ''
    """
    there, rest = path, Path()
    with suppress(OSError):  # nobody may look into it, or it is a file
        if path.exists():
            return ""
        while not there.parent.exists():
            there, rest = there.parent, there.name / rest
        beside = [one for one in there.parent.iterdir() if not one.name.startswith(".")]
        whole = {one.name: str(one / rest) for one in sorted(beside) if (one / rest).exists()}
        return nearest(there.name, whole, whole)
    return ""


def _near(name: str, known: Sequence[str]) -> list[str]:
    """Slips of the pen, names that begin as this one does, and the module of a path that has none
    there; three at most.
    """
    alike = get_close_matches(name, known, n=3, cutoff=_NEAR)
    longer = [one for one in known if len(name) > 2 and one.startswith(name)]
    last = [one for one in known if name.endswith(f".{one}")]
    return list(dict.fromkeys([*alike, *longer, *last]))[:3]


def check_choice(argument: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ValueError: it is none of them; says all and the nearest.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{argument}={value!r} is none of {', '.join(choices)}"
            f"{nearest(str(value), choices) or '.'}"
        )


def counted(count: int, what: str, several: str = "") -> str:
    """A number of things: `1 prompt`, `2 prompts`, `1,000 rows`.

    Args:
        count: how many.
        what: what one of them is called.
        several: what several are called, where that is not the same with an `s`.

    Example:
        >>> from sublim_mech.hints import counted
        >>> counted(1, "prompt"), counted(2, "copy", "copies")
        ('1 prompt', '2 copies')
    """
    return f"{count:,} {what if count == 1 else several or what + 's'}"


def ranges(numbers: Sequence[int], names: Sequence[object] | None = None) -> str:
    """Ascending numbers in words: of three or more that follow one another the ends alone.

    Args:
        numbers: the numbers.
        names: what each number from 0 on is called; itself when not given.

    Example:
        >>> from sublim_mech.hints import ranges
        >>> ranges([-1, 0, 1, 2, 5, 6])
        '-1 to 2, 5, 6'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = []
    for run in runs:
        called = [str(number if names is None else names[number]) for number in run]
        parts.append(f"{called[0]} to {called[-1]}" if len(run) > 2 else ", ".join(called))
    return ", ".join(parts)


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign; what rounds to 0 has none.

    Example:
        >>> from sublim_mech.hints import signed
        >>> signed(0.25), signed(-0.0002)
        ('+0.250', '0.000')
    """
    text = f"{value:+z.{digits}f}"
    return text[1:] if float(text) == 0 else text


def decimals(value: float, digits: int = 5) -> str:
    """A number with so many decimals; one that they would show as 0 and is none, with two
    significant digits.

    Example:
        >>> from sublim_mech.hints import decimals
        >>> decimals(1.25), decimals(3.14e-6), decimals(0.0)
        ('1.25000', '3.1e-06', '0.00000')
    """
    small = 0 < abs(value) < 0.5 * 10**-digits
    return f"{value:.1e}" if small else f"{value:z.{digits}f}"


def at_most(value: float, digits: int = 1) -> str:
    """A number that is 0 or more in so many significant digits, rounded up where it is more than a
    millionth of it above them.

    Example:
        >>> from sublim_mech.hints import at_most
        >>> at_most(0.418), at_most(0.4), at_most(2.31e-6, 2)
        ('0.5', '0.4', '2.4e-06')
    """
    text = f"{value:.{digits}g}"
    if float(text) >= value * (1 - 1e-6):
        return text
    step = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    rounded = float(text) + step
    return f"{rounded:z.0f}" if rounded >= 10**digits else f"{rounded:.{digits}g}"


def told_apart(*values: float, digits: int = 3) -> tuple[str, ...]:
    """Numbers as texts of so many significant digits, or of as many as tell those apart that
    differ.

    Args:
        values: the numbers.
        digits: the fewest digits.

    Example:
        >>> from sublim_mech.hints import told_apart
        >>> told_apart(1.2, 1.5), told_apart(1.20096, 1.20136, digits=4), told_apart(1.2, 1.2)
        (('1.2', '1.5'), ('1.201', '1.2014'), ('1.2', '1.2'))
    """
    texts: tuple[str, ...] = ()
    for more in range(digits, _ALL_DIGITS + 1):
        texts = tuple(f"{value:z.{more}g}" for value in values)
        if len(set(texts)) == len(set(values)):
            break
    return texts


_ALL_DIGITS = 17
"""Significant digits that tell any two numbers of double precision apart."""


def with_article(name: str) -> str:
    """The name of a type or of a thing with its article.

    Example:
        >>> from sublim_mech.hints import with_article
        >>> with_article("Mask"), with_article("Evaluation"), with_article("UserDict")
        ('a Mask', 'an Evaluation', 'a UserDict')
    """
    return f"{'an' if name[:1].lower() in tuple('aeio') else 'a'} {name}"


def kind_of(value: object) -> str:
    """The type of a value with its article.

    Example:
        >>> from sublim_mech.hints import kind_of
        >>> kind_of(1), kind_of("text")
        ('an int', 'a str')
    """
    return with_article(type(value).__name__)


@contextmanager
def renamed(arguments: Mapping[str, str]) -> Iterator[None]:
    """Have errors call arguments as the user does, who gave them to another function: of a control
    `controls[0]='cat' ...`, where the one that read it says `student='cat' ...`.

    Args:
        arguments: what they are called within, and what they are called outside.

    Example:
        >>> from sublim_mech.hints import renamed
        >>> with renamed({"student": "controls[0]"}):
        ...     raise ValueError("student='cat' is not a directory.")
        Traceback (most recent call last):
        ValueError: controls[0]='cat' is not a directory.
    """
    try:
        yield
    except Exception as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (rename(error.args[0], arguments),)
        raise


def rename(text: str, arguments: Mapping[str, str]) -> str:
    """A message with other names for arguments: where it gives their value (`student=...`), or
    begins with them (`student is ...`).
    """
    for name, other in arguments.items():
        literal = other.replace("\\", r"\\")
        known = re.escape(name)
        text = re.sub(rf"(?<![\w.'\"]){known}=", f"{literal}=", text)
        text = re.sub(rf"\A{known}(?=[ :\[])", literal, text)
    return text
