"""Whose model a teacher runs, and which teachers can be compared."""

import gc
from dataclasses import replace
from weakref import ref

import pytest
import tiny
from teaching import OTHERS, OWL, make_base, shared_runner, wild

import sublim_mech as sm
from sublim_mech.engine.pair import ModelPair
from sublim_mech.engine.runner import Runner
from sublim_mech.making.teachers import prompted, untouched
from sublim_mech.making.teachers.teacher import difference
from sublim_mech.models.base import load_base


def test_teachers_of_one_base_share_a_runner(smol_tokenizer):
    base = make_base("llama", smol_tokenizer)
    one, other = untouched(base), prompted(base, OWL)
    assert type(one.runner) is Runner
    assert one.runner is other.runner is one.base
    assert (one.runner.model, one.runner.hash) == (base.model, base.hash)


def test_a_runner_is_taken_as_it_is(smol_tokenizer):
    runner = shared_runner("llama", smol_tokenizer)
    assert untouched(runner).runner is runner


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_of_a_pair_the_base_is_taken(smol_tokenizer):
    live = tiny.model("llama")
    pair = sm.load_pair(live, tiny.lora(live), tokenizer=smol_tokenizer)
    runner = untouched(pair).runner
    assert not isinstance(runner, ModelPair)
    assert (runner.model, runner.hash, runner.memory) == (pair.model, pair.hash, pair.memory)


@pytest.mark.parametrize("architecture", OTHERS)
def test_what_cannot_be_run_is_its_own_base(architecture, smol_tokenizer):
    base = load_base(wild(architecture), tokenizer=smol_tokenizer)
    assert untouched(base).runner is base


def test_something_else_than_a_base_or_a_runner():
    with pytest.raises(TypeError, match=r"untouched\(base=Llama.*: pass a Runner .* or a Base"):
        untouched(tiny.model("llama"))


def test_nothing_keeps_a_base_alive(smol_tokenizer):
    base = make_base("llama", smol_tokenizer)
    model = ref(base.model)
    teacher = untouched(base)
    del base, teacher
    gc.collect()
    assert model() is None


def test_a_teacher_prints_short(smol_tokenizer):
    runner = replace(shared_runner("llama", smol_tokenizer), name="folder/" * 500)
    long = sm.Trait("x" * 3000, forms=[str(i) for i in range(3000)], sentence="You love x. " * 99)
    shown = repr(prompted(runner, long))
    assert shown.startswith("Teacher('xxx")
    assert "prompted: prompted teacher" in shown
    assert len(shown) < 200


def test_differences_that_make_teachers_incomparable(smol_tokenizer):
    runner = shared_runner("llama", smol_tokenizer)
    base, owl = untouched(runner), prompted(runner, OWL)
    assert difference([base, owl]) is None
    brief = sm.Context(system="Be brief.")
    apart = difference([base, owl, replace(owl, name="brief", student_context=brief)])
    assert apart == ("base", "brief", "student_context", sm.Context(), brief)
    other = replace(owl, base=shared_runner("gpt2", smol_tokenizer))
    apart = difference([base, other])
    assert (apart.what, apart.of_one) == ("base", runner.hash[:12])
