"""What the library says, in the command line's words: options and commands in place of calls.

Messages are written once, for Python. Where the command line tells them, arguments get the names of
its options (`hints.rename`), and advice that names a call names the option, the command or the
table of a study's file that does the same (`ADVICE`). What has no counterpart there is said to be
there in Python alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from ..hints import rename

TRAINED = "--trained-system TEXT or --trained-context NAME"
ASKED = "--asked-system TEXT or --asked-context NAME"

_IN_PYTHON = (
    "A student of conversations is asked in Python by the template of its training, render(pair, "
    "questions, template=...); score and compare ask raw text, which is another prompt, with "
    "--asked-context raw"
)
"""What to do where the tokenizer's own template cannot be used."""

Advice = tuple[str, str | Callable[[re.Match[str]], str]]

_TABLES = {
    "Asking": "[asking]", "RowPlan": "[rows]", "Training": "[training]", "Computing": "[computing]",
    "Method": "[[parts.methods]]", "Part": "[[parts]]",
}  # fmt: skip
"""Tables of a study's file, by the classes they are of."""


def _table(found: re.Match[str]) -> str:
    """Options of a study as its file has them: `[asking] questions = ["..."]`."""
    inside = re.sub(r"(\w+)=(\.\.\.)?", lambda one: f"{one[1]} = {one[2] or ''}", found[2])
    for text in re.findall(r"'[^'\"\\]*'", inside):
        inside = inside.replace(text, json.dumps(text[1:-1], ensure_ascii=False))
    return f"{_TABLES[found[1]]} {re.sub(r' = (?=,|$)', '', inside)}"


def _context(found: re.Match[str]) -> str:
    """A context of one system prompt in words."""
    name, text = found[1], found[2]
    if name:
        return "raw text" if name == "RAW" else f"the context {name.lower()}"
    return f"the system prompt {text}" if text else "the context default"


ADVICE: tuple[Advice, ...] = (
    # pairs: what is known of training
    (
        r"Say it when it is loaded, load_pair\(\.\.\., trained_in=Context\(\.\.\.\), trained_on="
        r"\[a few training prompts\]\); then render\(pair, questions\) gives marked prompts",
        f"Say it: {TRAINED}, and --trained-on FILE",
    ),
    (
        r"render\(pair, questions\) marks prompts, and mark_sharing\(prompts, pair\) those that "
        r"are there, where the pair knows what its student was trained on: from a manifest, or "
        r"from load_pair\(\.\.\., trained_in=Context\(\.\.\.\), trained_on=\[a few training "
        r"prompts\]\)",
        "prompts are marked where it is known what the student was trained on: from a manifest, or "
        f"from {TRAINED}, and --trained-on FILE",
    ),
    (
        r"trained_on\[(\d+)\]=('[^']*') is a file, no training prompt; pass what it holds, "
        r"trained_on=[^\n]*",
        r"--trained-on, prompt \1: \2 is a file, no training prompt; pass that file itself.",
    ),
    (
        r"; say it once, trained_in=Context\(system='\.\.\.'\), and leave it out",
        "; say it once, --trained-system TEXT, and leave it out",
    ),
    (
        r"leave the last message off: trained_on=\[row\[:-1\] for row in rows\]\. \(Where every "
        r"answer began with the same words, say them as trained_in=Context\(prefill='\.\.\.'\)\.\)",
        "leave the last message off.",
    ),
    (
        r"\btrained_in=(Context\(.*?\)), but (?=.* has a manifest that says)",
        r"the command line says that it was trained in \1, but ",
    ),
    (
        r"leave trained_in out\. To ask in another context, name it there: render\(pair, "
        r"questions, context=\.\.\.\)",
        f"leave --trained-system and --trained-context out. To ask in another context: {ASKED}",
    ),
    (r"\btrained_on\[(\d+)\](?= (?:holds|ends|is))", r"--trained-on, prompt \1,"),
    (r"leave trained_on out", "leave --trained-on out"),
    (r" \(trained_on\)", " (--trained-on)"),
    (r"which trained_in says", "which --trained-system says"),
    (
        r" \(gates=training\.gates_of\(run\) closes the rest[^()]*(?:\([^()]*\))?[^()]*\)",
        " (in Python gates=training.gates_of(run) closes the rest: of the student in load_pair, of "
        "a control where it is loaded, models.load_student(base, path, gates=...))",
    ),
    # pairs: contexts
    (
        r"; use DEFAULT or NONE, or name the fallback: Context\(\.\.\., fallback=[^)]*\)",
        "; use another one, such as default or none (--trained-context, --asked-context)",
    ),
    (
        r"\bContext\((?:system=(?:(?:<System\.)?(DEFAULT|EMPTY|NONE|RAW)(?:: '\w+'>)?"
        r"|('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")))?"
        r"(?:, user_prefix='', fallback=None, literal=\w+)?\)",
        _context,
    ),
    # chat templates: the tokenizer's own alone
    (
        r"the tokenizer has no chat template; pass context=sublim_mech\.RAW for texts that the "
        r"model continues, or template=sublim_mech\.prompts\.PLAIN \(or one of your own\) for "
        r"conversations",
        f"the tokenizer has no chat template, and the command line takes none. {_IN_PYTHON}",
    ),
    (
        r"For a model of raw text pass context=sublim_mech\.RAW, for conversations template="
        r"sublim_mech\.prompts\.PLAIN or one of your own",
        f"The command line takes no other. {_IN_PYTHON}",
    ),
    (
        r"oad the base with (the tokenizer it was trained with|its tokenizer|the student's) "
        r"\(tokenizer=\)",
        r"oad the base with \1 (a folder of the base that has it; in Python load_base(..., "
        "tokenizer=...))",
    ),
    (
        r"or render with that template \(template=\)",
        "or ask in Python with that template, render(pair, questions, template=...)",
    ),
    (r"\bpass (a )?template=(?= |\.)", r"in Python pass \1template="),
    # pairs: traits, sets, students
    (
        r"give the plural \(Trait\.noun\(\.\.\., plural=\.\.\.\)\), or the forms as they are "
        r"\(Trait\(\.\.\., forms=\(\.\.\.\)\)\)",
        "give the forms as they are (--forms TEXT TEXT)",
    ),
    (r"\ATrait(?:\.noun)?\('([^']*)'(?:, forms=[^)]*)?\):", r"--trait \1:"),
    (
        r"pass masks by name, \{'last words': masks\.positions\(-2, -1\)\}(?:, or sets='sharing')?",
        "pass --sets sharing, or masks by name, such as 'positions -2, -1'",
    ),
    (
        r" Masks of functions and positions of your own \(as_mask\) have to be passed themselves\.",
        "",
    ),
    (r"; take [^;]* and pass that pair", "; such pairs are there in Python alone"),
    (
        r"\Acontrols hold the student itself( but for rounding)? \(controls\[\d+\], ",
        r"--control: one is the student itself\1 (",
    ),
    (r"\Acontrols (?:hold|have) (?=one student twice|the same name twice)", "--control: "),
    (
        r"; load them with load_student\(name=\.\.\.\)",
        "; name their folders (or, in manifests, their traits) otherwise",
    ),
    (
        r", or pass allow_unrelated=True",
        " (in Python load_pair(..., allow_unrelated=True) allows it)",
    ),
    (
        r"graft\(sets=\.\.\.\) measures sets of cells within them",
        "--instrument graft measures sets of cells within them",
    ),
    (r"Loaded without \(gates=None\)", "Loaded without (in Python alone)"),
    (
        r"; see sel\(model='([^']*)'\)",
        r"; in Python Scores.load(FILE).sel(model='\1') has that one's, of score --out FILE",
    ),
    (r" \(masks\.positions\)", " (--sets 'positions -2, -1')"),
    (r"boundaries: scores\.curve\(\) has them", "boundaries: --json, and --out FILE, have them"),
    # studies
    (
        r"run the study with retry=True",
        "run the study with --retry",
    ),
    (
        r"status\(study, out\) lists what failed; run\(\.\.\., retry=True\) tries it again",
        "status lists what failed; run with --retry tries it again",
    ),
    (r"report\(study, out, to=\.\.\.\)", "--to FOLDER"),
    (r"pass plan\(study, base=load_base\(\.\.\.\)\)", "pass --load"),
    (r"run the study first \(studies\.run\)", "run the study first (sublim-mech run)"),
    (r"studies\.status says", "sublim-mech status says"),
    (r"run with steal\b", "run with --steal"),
    (r"make the same call again", "give the same command again"),
    (
        r"\(studies\.write_study writes one\)",
        "(sublim-mech plan quick --save FILE.toml writes one)",
    ),
    (r", or questions=trait\.questions if they are meant", ""),
    (
        r"Trait\(('[^']*'), \.\.\., sentence='You love \.\.\.'\)",
        r'{name = \1, ..., sentence = "You love ..."}',
    ),
    (r"\blabels=\['(\w+)'\]", r'labels = ["\1"]'),
    (rf"\b({'|'.join(_TABLES)})\(([^()]*)\)", _table),
)
"""Advice in Python, as a pattern, and what to do on the command line instead."""


def in_commands(text: str, arguments: Mapping[str, str]) -> str:
    """A message of the library as the command line says it.

    Args:
        text: the message.
        arguments: what arguments of functions are called on the command line.

    Example:
        >>> from sublim_mech.instruments.command_words import in_commands
        >>> in_commands("out='o': run the study first (studies.run).", {"out": "--out"})
        "--out='o': run the study first (sublim-mech run)."
    """
    for pattern, instead in ADVICE:
        text = re.sub(pattern, instead, text)
    return rename(text, arguments)
