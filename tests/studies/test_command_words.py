"""On the command line advice names commands and options; in Python it names Python."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import sublim_mech
from sublim_mech import studies
from sublim_mech.__main__ import main
from sublim_mech.instruments.command_words import ADVICE, in_commands
from sublim_mech.studies.same_name import write_record
from sublim_mech.studies.store import Store
from sublim_mech.studies.tasks import Tasks

SOURCE = Path(sublim_mech.__file__).parent


def texts() -> list[str]:
    """All texts of the library, fields of f-strings as what they may hold."""
    found = []
    for file in SOURCE.rglob("*.py"):
        if file.name == "command_words.py":
            continue
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else _filled(part)
                    for part in node.values
                ]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def _filled(part: ast.FormattedValue) -> str:
    if part.conversion == ord("r"):
        return "'x'"
    return "0" if isinstance(part.value, ast.Name) and part.value.id == "number" else "x"


CONTEXTS = "Context(system=<System.NONE: 'none'>, user_prefix='', fallback=None, literal=False)"

REFUSED = f"trained_in={CONTEXTS}, but student='x' has a manifest that says"


def test_every_advice_is_still_given_somewhere():
    """A sentence that was rewritten would be told in Python again."""
    every = "\n".join(texts())
    lacking = [
        pattern
        for pattern, _ in ADVICE
        if not re.search(pattern.removeprefix(r"\A"), f"{every}\n{CONTEXTS}\n{REFUSED}")
    ]
    assert not lacking


@pytest.mark.parametrize(
    ("python", "commands"),
    [
        (
            "status(study, out) lists what failed; run(..., retry=True) tries it again.",
            "status lists what failed; run with --retry tries it again.",
        ),
        (
            "Asking(samples=-1, scored=3): samples from 0 on.",
            "[asking] samples = -1, scored = 3: samples from 0 on.",
        ),
        (
            "say what is asked: Asking(questions=['My favorite animal is the']), or "
            "questions=trait.questions if they are meant.",
            'say what is asked: [asking] questions = ["My favorite animal is the"].',
        ),
        ("leave one out of Asking(questions=).", "leave one out of [asking] questions."),
        ("see Computing(threads=, device=).", "see [computing] threads, device."),
        (
            f"trained_in={CONTEXTS}, but student='s' has a manifest that says it was trained in "
            "Context(system='Hi.', user_prefix='', fallback=None, literal=False); leave trained_in "
            "out. To ask in another context, name it there: render(pair, questions, context=...).",
            "the command line says that it was trained in the context none, but student='s' has a "
            "manifest that says it was trained in the system prompt 'Hi.'; leave --trained-system "
            "and --trained-context out. To ask in another context: --asked-system TEXT or "
            "--asked-context NAME.",
        ),
        (
            "Trait.noun('ox'): give the plural (Trait.noun(..., plural=...)), or the forms as they "
            "are (Trait(..., forms=(...))).",
            "--trait ox: give the forms as they are (--forms TEXT TEXT).",
        ),
        (
            "controls hold the student itself but for rounding (controls[0], 'owl': 1e-4); pass "
            "students trained alike on other traits.",
            "--control: one is the student itself but for rounding ('owl': 1e-4); pass students "
            "trained alike on other traits.",
        ),
        (
            "controls hold one student twice: 'owl' and 'cat' have the same weights",
            "--control: one student twice: 'owl' and 'cat' have the same weights",
        ),
        (
            "the chat template writes nothing after an answer; pass template= with an end of turn.",
            "the chat template writes nothing after an answer; in Python pass template= with an "
            "end of turn.",
        ),
        (
            "with which prompts are rendered: load the base with the student's (tokenizer=)",
            "with which prompts are rendered: load the base with the student's (a folder of the "
            "base that has it; in Python load_base(..., tokenizer=...))",
        ),
        ("one of Context.DEFAULT", "one of Context.DEFAULT"),
    ],
)
def test_advice_is_told_in_commands(python, commands):
    assert in_commands(python, {"trained_in": "--trained-system"}) == commands


def test_a_study_with_failures_names_commands(made, tmp_path, capsys):
    """What `run` warns of, and `status` prints, on the command line and in Python."""
    study = studies.Study.from_dict(made.study.to_dict() | {"name": "failing"})
    file, out = str(tmp_path / "failing.toml"), tmp_path / "out"
    studies.write_study(study, file)
    store, tasks = Store(out), Tasks(study)
    store.begin(study)
    first = next(task for task in tasks.ordered if task.stage == "labels")

    store.fail(first, ValueError("planted: take labels=['plain']"), "")
    assert main(["status", file, "--out", str(out)]) == 1
    told = capsys.readouterr().out
    assert 'planted: take labels = ["plain"]' in told
    assert "labels=['plain']" in repr(studies.status(study, out))


def test_the_report_tells_another_study_in_commands(made, tmp_path, capsys):
    """Warnings are lines, without the place in a file that they come from."""
    file, out = str(tmp_path / "study.json"), str(made.out)
    told = made.study.to_dict() | {"asking": {"questions": ["Which plant?"], "scored": 1}}
    Path(file).write_text(json.dumps(told))
    (tmp_path / "report").mkdir()
    studies.write_study(made.study, tmp_path / "first.toml")
    to = str(tmp_path / "report")
    write_record(made.study, tmp_path / "report")
    assert main(["report", file, "--out", out, "--to", to]) == 2
    assert capsys.readouterr().err.startswith("--to=")
    assert main(["plan", str(tmp_path / "first.toml")]) == 0
    said = capsys.readouterr().out
    assert "pass --load" in said
    assert "load_base" not in said
    assert "pass plan(study, base=load_base(...))" in repr(studies.plan(made.study))


def test_a_finished_study_takes_nothing_whatever_its_base(made, tmp_path, capsys):
    """Nothing is unknown of what is not to be done."""
    file = str(tmp_path / "study.toml")
    studies.write_study(made.study, file)
    assert main(["plan", file, "--out", str(made.out)]) == 0
    told = capsys.readouterr().out
    assert "?" not in told
    assert "rates:" not in told
    assert main(["plan", file]) == 0
    told = capsys.readouterr().out
    assert "the time is not known; the disk it takes is not known" in told
    assert "half of it" not in told
    assert "rates:" not in told  # of a base of unknown size none is used
