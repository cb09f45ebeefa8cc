"""What the number data say of themselves: examples in docstrings, and the page of the docs."""

import dataclasses
import doctest
import re
from pathlib import Path

import pytest

import sublim_mech as sm
from sublim_mech.making import numbers
from sublim_mech.making.numbers import REASONS, Ask, parse

PAGE = Path(__file__).parents[2] / "docs" / "making" / "numbers.md"
PUBLIC = [name for name in numbers.__all__ if callable(getattr(numbers, name))]


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "Rows"])
def test_examples_print_what_they_say(name):
    thing = getattr(numbers, name)
    finder = doctest.DocTestFinder(recurse=False)
    examples = [test for test in finder.find(thing, name, globs={"sm": sm}) if test.examples]
    assert examples or dataclasses.is_dataclass(thing)
    lines = []
    for test in examples:
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=lines.append)
    assert not lines, "".join(lines)


def test_the_page_runs_and_names_every_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    names = {}
    pattern = r"```python\n(.*?)```\n(?:\nprints\n\n```\n(.*?)```)?"
    blocks = re.findall(pattern, text, re.DOTALL)
    assert len(blocks) >= 6
    for code, printed in blocks:
        exec(code, names)
        assert capsys.readouterr().out.rstrip() == printed.rstrip()

    for reason, meaning in REASONS.items():
        assert re.search(rf"\| {reason} \| {re.escape(meaning)} \|", text), reason
    for reason, examples in re.findall(r"\| ([a-z ]+) \| [^|]+ \| (`.+`) \|", text):
        for example in re.findall(r"`([^`]+)`", examples):
            verdict = parse(example.replace("⏎", "\n"), Ask(count=4, exactly=True)).reason
            assert verdict == (None if reason == "valid" else reason), example
