"""Every public function has an example in its docstring, and every example says what it prints."""

import doctest
from inspect import isfunction

import pytest
import tiny

import sublim_mech as sm


def functions(folder: str) -> list[str]:
    """Public functions of a folder."""
    names = getattr(sm, folder).__all__
    return [f"{folder}.{name}" for name in names if isfunction(getattr(getattr(sm, folder), name))]


# what metrics are made of is shown by the example of `Metric`
PIECES = ("as_metric", "by_trait", "scored_forms", "string_log_probs", "strings", "trait_forms")
METRICS = [
    f"metrics.{name}"
    for name, thing in vars(sm.metrics).items()
    if isfunction(thing) and thing.__module__ == sm.metrics.__name__ and name[0] != "_"
    if name not in PIECES
]
NAMES = [
    *(name for name in sm.__all__ if callable(getattr(sm, name))),
    "masks.Mask",
    *functions("masks"),
    *functions("models"),
    *functions("prompts"),
    *functions("stats"),
    *METRICS,
    "metrics.Metric",
    "instruments.graft_sweep",
    "instruments.generate",
    "instruments.hybrid",
    "instruments.side_by_side",
    "results.beside_page.differing",
    "results.beside.SideBySide.called",
    "instruments.prefix_scan",
    "instruments.dose",
    "instruments.ActivationChange",
    "instruments.ActivationChange.cosine",
    "instruments.activation_change",
    "instruments.direction_effects",
    "instruments.read_vector",
    "results.crossings",
    "results.linearity",
    "instruments.spectrum",
    "instruments.alignment",
    "instruments.intruders",
    "instruments.intruder_cost",
    "instruments.extract_lora",
    "instruments.read_singular",
    "models.spectra.randomised",
    "results.alignments.principal_angles",
    "engine.Runner.logits",
    "engine.Runner.activations",
    "engine.ModelPair.logits",
    "engine.ModelPair.activations",
    "engine.ModelPair.split",
    "engine.ModelPair.joined",
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
    prompts = sm.mark_sharing(sm.render(smol_tokenizer, trait.questions[:2]), trained_on=trained)
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
