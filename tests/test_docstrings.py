"""Every public function has an example in its docstring, and every example runs and prints what it says."""

import doctest
from types import FunctionType

import pytest
import tiny

import sublim_mech as sm


def functions(folder):
    """Public functions of a folder."""
    things = {f"{folder}.{name}": getattr(getattr(sm, folder), name) for name in getattr(sm, folder).__all__}
    return [name for name, thing in things.items() if isinstance(thing, FunctionType)]


NAMES = [
    *(name for name in sm.__all__ if callable(getattr(sm, name))),
    "masks.Mask",
    *functions("masks"),
    *functions("models"),
    *functions("prompts"),
]


@pytest.fixture(scope="module")
def names(smol_tokenizer, tmp_path_factory):
    """What examples may use: a tiny pair with a control, marked prompts, a trait, the live models, an empty folder."""
    base = tiny.model("llama")
    student = tiny.lora(base)
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    pair = sm.load_pair(loaded, student, controls=[sm.models.load_student(loaded, tiny.lora(base, seed=2), name="cat")])
    trait = sm.animal("owl")
    trained = sm.render(smol_tokenizer, ["Continue: 1, 2, 3.", "Write numbers."])
    prompts = sm.sharing(sm.render(smol_tokenizer, trait.questions[:2]), trained_on=trained)
    return {
        "sm": sm, "pair": pair, "prompts": prompts, "trait": trait, "base": base, "student": student, "tokenizer": smol_tokenizer,
        "folder": tmp_path_factory.mktemp("examples"),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_example(name, names):
    thing = sm
    for part in name.split("."):
        thing = getattr(thing, part)
    found = doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(names))
    assert [t for t in found if t.examples], f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    said: list[str] = []
    for test in found:
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
