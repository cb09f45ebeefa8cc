"""The examples in the docstrings of teachers, labelling and readiness run and say what they say."""

import doctest

import pytest
import tiny

import sublim_mech as sm
from sublim_mech.making import labelling, readiness, teachers

FUNCTIONS = [
    f"{module.__name__.rpartition('.')[2]}.{name}"
    for module in (teachers, labelling, readiness)
    for name in module.__all__
    if type(getattr(module, name)).__name__ == "function"
]
INTERNAL = {"teachers.teacher_context", "labelling.tokenizer_hash"}


@pytest.fixture(scope="module")
def names(smol_tokenizer):
    """What examples may use: a tiny pair, a trait."""
    live = tiny.model("llama")
    pair = sm.load_pair(live, tiny.lora(live), tokenizer=smol_tokenizer)
    return {"sm": sm, "pair": pair, "trait": sm.animal("owl")}


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in INTERNAL])
def test_example(name, names):
    module, _, function = name.partition(".")
    thing = getattr(getattr(sm.making, module), function)
    (test,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(names))
    assert test.examples, f"{name} has no example"
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
