"""Every public function has an example in its docstring, and every example says what it prints."""

import doctest
import inspect

import pytest
import tiny

import sublim_mech as sm


def functions_of(folder: str) -> list[str]:
    """The public functions of a folder or a module, by their path from the top."""
    module = getattr(sm, folder)
    names = getattr(module, "__all__", None)
    if names is None:  # a single module: what it defines itself
        own = inspect.getmembers(module, inspect.isfunction)
        names = [name for name, thing in own if thing.__module__ == module.__name__]
    public = [name for name in names if not name.startswith("_")]
    return [f"{folder}.{name}" for name in public if inspect.isfunction(getattr(module, name))]


# what metrics are made of is shown by the example of `Metric`, sets of masks by that of `graft`
SHOWN_ELSEWHERE = {
    "masks.by_role",
    "masks.by_sharing",
    "metrics.as_metric",
    "metrics.by_trait",
    "metrics.string_log_probs",
    "metrics.strings",
    "metrics.trait_forms",
}
NAMES = [
    *(name for name in sm.__all__ if callable(getattr(sm, name))),
    *(
        name
        for folder in ("masks", "metrics", "models", "prompts")
        for name in functions_of(folder)
        if name not in SHOWN_ELSEWHERE
    ),
    "masks.Mask",
    "metrics.Metric",
    "instruments.graft_sweep",
    "instruments.generate",
    "engine.Runner.logits",
    "engine.Runner.activations",
    "engine.ModelPair.logits",
    "engine.ModelPair.activations",
]


@pytest.fixture(scope="module")
def names(smol_tokenizer, tmp_path_factory):
    """What examples may use: a tiny pair with a control, marked prompts, a trait, live models."""
    base = tiny.model("llama")
    student = tiny.lora(base)
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    control = sm.models.load_student(loaded, tiny.lora(base, seed=2), name="cat")
    pair = sm.load_pair(loaded, student, controls=[control])
    trait = sm.animal("owl")
    trained = sm.render(smol_tokenizer, ["Continue: 1, 2, 3.", "Write numbers."])
    prompts = sm.sharing(sm.render(smol_tokenizer, trait.questions[:2]), trained_on=trained)
    return {
        "sm": sm,
        "pair": pair,
        "prompts": prompts,
        "trait": trait,
        "base": base,
        "student": student,
        "tokenizer": smol_tokenizer,
        "folder": tmp_path_factory.mktemp("examples"),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_example(name, names):
    thing = sm
    for part in name.split("."):
        thing = getattr(thing, part)
    tests = doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(names))
    assert [test for test in tests if test.examples], f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    said: list[str] = []
    for test in tests:
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
