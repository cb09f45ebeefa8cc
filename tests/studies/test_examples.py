"""The examples in the docstrings of studies run and say what they say."""

from __future__ import annotations

import doctest
from inspect import isfunction

import pytest

import sublim_mech as sm
from sublim_mech import studies

NAMES = [name for name in studies.__all__ if isfunction(getattr(studies, name))] + ["Study"]


@pytest.mark.parametrize("name", NAMES)
def test_example(name, made, tmp_path):
    given = {"sm": sm, "study": made.study, "out": made.out, "folder": tmp_path}
    (test,) = doctest.DocTestFinder(recurse=False).find(
        getattr(studies, name), name, globs=dict(given)
    )
    assert test.examples, f"{name} has no example"
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert not said, "".join(said)
