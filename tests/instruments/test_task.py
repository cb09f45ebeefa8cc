"""The task and the walk that all instruments share."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from pairs import QUIET, TRAIT, make_pair, shared_pair, student_gates, whole_run

import sublim_mech as sm
from sublim_mech.engine.answers import Answers
from sublim_mech.engine.runner import Runner
from sublim_mech.instruments import task as module
from sublim_mech.instruments.task import (
    Cells,
    Ends,
    GatedRow,
    ends,
    measure,
    pad_stack,
    prepare,
    walk,
)
from sublim_mech.results.record import Compute


@pytest.fixture(scope="module")
def task(llama, prompts):
    return prepare(llama, prompts, TRAIT)


@pytest.fixture(scope="module")
def gates(task):
    """Random gates `(slot, module)` of each prompt."""
    rng = torch.Generator().manual_seed(0)
    modules = len(task.pair.delta)
    return [(torch.rand(size, modules, generator=rng) < 0.5).float() for size in task.sizes()]


# ---------------------------------------------------------------------------------------- preparing


def test_a_task_knows_the_slots_of_its_prompts(task, prompts):
    nodes = [len(trie.nodes) for trie in task.answers]
    assert task.sizes() == [len(prompts[0]) + nodes[0], len(prompts[1]) + nodes[1]]
    assert task.reads == max(trie.reads for trie in task.answers)
    batch = task.batch([1, 0, 1])
    assert batch.sizes == (task.size(1), task.size(0), task.size(1))
    assert batch.ids[1, : len(prompts[0])].tolist() == list(prompts[0].ids)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda pair, p: ([], TRAIT), "prompts is empty; render at least one question"),
        (lambda pair, p: (p, "owl"), r"trait='owl'\): pass a Trait"),
        (lambda pair, p: (p, type(sm.metrics.entropy())), "pass a Trait"),
        (lambda pair, p: (["Which animal?"], TRAIT), "pass a list of Prompts"),
        (lambda pair, p: (p[0], TRAIT), "one alone is a list too"),
        (lambda pair, p: ([replace(p[0], tokenizer="x")], TRAIT), "by another tokenizer"),
        (
            lambda pair, p: (sm.render(pair.tokenizer, ["long " * 400]), TRAIT),
            "positions, the model has 256; shorten it",
        ),
    ],
)
def test_what_no_instrument_takes(asked, message, smol_tokenizer, prompts):
    pair = shared_pair("gpt2", "full", smol_tokenizer)
    with pytest.raises((ValueError, TypeError), match=message):
        prepare(pair, *asked(pair, prompts))


TAKING_PROMPTS = {
    "effect": sm.effect,
    "graft": lambda *asked, **how: sm.graft(*asked, "role", **how),
    "sweep": lambda *asked, **how: sm.instruments.graft_sweep(*asked, layers=[1], **how),
    "patch": lambda *asked, **how: sm.patch(*asked, layers=[1], **how),
    "graft IG": lambda *asked, **how: sm.attribute(*asked, points=2, **how),
    "estimate": lambda *asked, **how: sm.attribute(*asked, method="attribution_patching", **how),
    "inputs": lambda *asked, **how: sm.attribute(*asked, method="gradient_x_input", **how),
}


@pytest.mark.parametrize("name", TAKING_PROMPTS)
def test_copies_are_left_out_and_said(name, llama, prompts):
    """They would give the same numbers again, and intervals of width 0."""
    first, second = prompts
    scores = TAKING_PROMPTS[name](llama, [first, first, second, first, second], TRAIT, **QUIET)
    once = TAKING_PROMPTS[name](llama, prompts, TRAIT, **QUIET)
    np.testing.assert_array_equal(scores.data["effect"].values, once.data["effect"].values)
    assert scores.data["prompt"].values.tolist() == [0, 2], "labels are places among the given"
    assert scores.totals().equals(once.totals())
    assert (scores.record.copies, once.record.copies) == (3, 0)
    assert "5 prompts, 2 distinct" in repr(scores)
    assert "3 of 5 prompts are copies of others" in repr(scores)
    assert "distinct" not in repr(once)


def test_eight_copies_are_one_prompt(llama, prompts):
    scores = sm.patch(llama, prompts[:1] * 8, TRAIT, layers=[1], **QUIET)
    assert scores.data.sizes["prompt"] == 1
    assert scores.cells()["p"].isna().all()
    assert scores.totals()["low"].isna().all()
    assert "one prompt: no intervals" in repr(scores)


def test_a_copy_is_told_by_its_tokens_and_answers(llama, prompts):
    """Not by its marks or its question's text; nor is a prompt with other answers one."""
    marked = sm.mark_sharing(prompts[:1], trained_on=prompts)
    assert prepare(llama, [*prompts[:1], *marked], TRAIT).copies == 1

    class Other(type(sm.metrics.target("a"))):
        """Another answer at every call."""

        def answers(self, tokenizer, prompt):
            words.append(f" {len(words)}")
            return sm.metrics.strings(tokenizer, prompt, words[-1:])

    words = []
    assert prepare(llama, prompts[:1] * 2, Other("a")).copies == 0
    # an answer's trie that is one object in all calls is no sign of anything
    nothing = sm.metrics.entropy()
    trie = nothing.answers(None, prompts[0])

    class Same(type(nothing)):
        def answers(self, tokenizer, prompt):
            return trie

    task = prepare(llama, [*prompts[:1] * 2, *prompts[1:]], Same())
    assert (len(task.prompts), len(task.answers), task.places) == (2, 2, (0, 2))


def test_the_answers_length_counts_against_the_models(smol_tokenizer):
    """A prompt that fits by itself, but not with three more tokens behind it."""
    pair = shared_pair("gpt2", "full", smol_tokenizer)
    length = next(n for n in range(190, 256) if _length(pair, n) == 254)
    prompt = sm.render(pair.tokenizer, [" owl" * length])
    prepare(pair, prompt, sm.metrics.entropy())
    with pytest.raises(ValueError, match="positions, the model has 256"):
        prepare(pair, prompt, sm.metrics.target("owl owl owl owl owl"))


def _length(pair, words):
    return len(sm.render(pair.tokenizer, [" owl" * words])[0])


# ---------------------------------------------------------------------------------------- measuring


def test_the_metric_of_rows_in_any_order_and_kind_of_gates(pair, prompts):
    """A number, a gate per slot, a gate per module: each row as a whole run of its own."""
    task = prepare(pair, prompts, TRAIT)
    modules = len(pair.delta)
    rng = torch.Generator().manual_seed(1)
    by_slot = (torch.rand(task.size(1), generator=rng) < 0.5).float()
    by_module = (torch.rand(task.size(0), modules, generator=rng) < 0.5).float()
    rows = [
        GatedRow(1, by_slot),
        GatedRow(0, 0.0),
        GatedRow(0, by_module),
        GatedRow(1, 1.0),
        GatedRow(0, 0.25),
    ]
    values = measure(task, pair.student, rows)
    assert values.dtype == np.float64
    expected = [
        whole_run(pair, prompts[1], gates=student_gates(pair, by_slot[None])),
        whole_run(pair, prompts[0]),
        whole_run(pair, prompts[0], gates=student_gates(pair, by_module[None])),
        whole_run(pair, prompts[1], gates=student_gates(pair)),
        whole_run(pair, prompts[0], gates=student_gates(pair, 0.25)),
    ]
    np.testing.assert_allclose(values, expected, atol=2e-6)
    assert len(set(expected)) == len(expected)


def test_the_bar_moves_by_the_rows_that_are_done(task, gates):
    steps = []
    rows = [GatedRow(i % 2, gates[i % 2]) for i in range(7)]
    narrow = replace(task, pair=replace(task.pair, memory=2**23))
    measure(narrow, task.pair.student, rows, advance=steps.append)
    assert sum(steps) == 7
    assert len(steps) > 1


def test_ends_are_the_base_and_the_student(task, prompts):
    both = ends(task, task.pair.student)
    for i, prompt in enumerate(prompts):
        assert both.base[i] == pytest.approx(whole_run(task.pair, prompt), abs=2e-6)
        student = whole_run(task.pair, prompt, gates=student_gates(task.pair))
        assert both.student[i] == pytest.approx(student, abs=2e-6)


def test_a_value_that_is_not_finite_names_its_prompt(task, prompts):
    values = np.array([[0.0, 1.0], [2.0, np.inf], [np.nan, 0.0]])
    message = rf"log P\(owl\) is not finite on prompt '{prompts[1].question}'.*the models' dtype"
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        task.check_finite(values, [0, 1, 0])
    task.check_finite(values[:1], [0])


class Own(sm.metrics.Metric):
    """A metric of one's own whose parts are given."""

    name = "own"

    def __init__(self, **parts):
        for part, value in parts.items():
            setattr(self, part, value)

    def answers(self, tokenizer, prompt):
        return sm.metrics.strings(tokenizer, prompt, ["owl"])

    def read(self, logits, answers, base=None):
        return logits[:, 0, 0]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"name": " "}, "metric Own: its name is ' '; give a text"),
        ({"name": None}, "metric Own: its name is None"),
        ({"unit": 3}, "metric Own: its unit is 3"),
        ({"read": lambda logits: logits}, r"read\(logits\) is called as read\(logits, answers, ba"),
        ({"answers": lambda prompt: prompt}, r"is called as answers\(tokenizer, prompt\)"),
        ({"read": lambda logits, answers, base: logits[:, 0, 0] * 1j}, "has to give a tensor"),
    ],
)
def test_a_metric_of_one_s_own_is_what_instruments_call(parts, message, pair, prompts):
    with pytest.raises(TypeError, match=message):
        sm.effect(pair, prompts, Own(**parts), progress=False)


def test_strings_are_a_list_of_texts(prompts, smol_tokenizer):
    """A text would be scored letter by letter."""
    with pytest.raises(TypeError, match=r"strings\(texts='owl'\): pass a list of texts"):
        sm.metrics.strings(smol_tokenizer, prompts[0], "owl")
    with pytest.raises(ValueError, match="texts is empty"):
        sm.metrics.strings(smol_tokenizer, prompts[0], [])


def test_what_is_read_stands_in_the_prompt(pair, prompts):
    metric = Own(answers=lambda tokenizer, prompt: Answers(at=(999,)))
    with pytest.raises(ValueError, match=r"metric 'own': answers reads position 999 of the prompt"):
        sm.effect(pair, prompts, metric, progress=False)


def test_a_metric_that_is_none_of_its_logits_is_told(pair, prompts):
    rng = torch.Generator().manual_seed(0)
    drawn = Own(read=lambda logits, answers, base: torch.randn(len(logits), generator=rng) * 9)
    both = replace(pair, controls=(replace(pair.student, name="other"),))
    told = "of the same base on the same prompt: read depends on more than a row's logits"
    assert told in repr(sm.effect(both, prompts, drawn, progress=False))
    assert told not in repr(sm.effect(both, prompts, Own(), progress=False))


def test_a_metric_that_no_gradient_comes_through_says_so(pair, prompts):
    metric = Own(read=lambda logits, answers, base: logits[:, 0].argmax(-1).float())
    with pytest.raises(ValueError, match="metric 'own': read gives numbers that no gradient comes"):
        sm.attribute(pair, prompts, metric, points=1, progress=False)
    sm.effect(pair, prompts, metric, progress=False)


def test_what_is_not_finite_of_a_metric_of_one_s_own_is_not_about_forms(pair, prompts):
    metric = Own(read=lambda logits, answers, base: logits[:, 0, 0] * float("nan"))
    with pytest.raises(ValueError, match=r"own is not finite on prompt .* and the metric"):
        sm.effect(pair, prompts, metric, progress=False)


def test_values_take_gradients_and_numbers_do_not(task):
    batch = task.batch([0, 1])
    logits = torch.zeros(2, batch.reads.shape[1], tiny.VOCAB, requires_grad=True)
    value = task.value([0, 1], logits)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    assert slope.abs().max() > 0
    numbers = task.numbers([0, 1], logits)
    assert numbers.dtype == np.float64
    np.testing.assert_allclose(numbers, value.detach().numpy())


def test_the_bases_logits_are_computed_once_per_prompt(llama, prompts, monkeypatch):
    """A metric that needs them asks for them in every forward."""
    task = prepare(llama, prompts, sm.metrics.kl_to_base())
    plain_rows = []
    run = Runner.run

    def counted(self, batch, **options):
        if options.get("gates") is None:
            plain_rows.append(len(batch.sizes))
        return run(self, batch, **options)

    monkeypatch.setattr(Runner, "run", counted)
    measure(task, llama.student, [GatedRow(i % 2, 1.0) for i in range(6)])
    ends(task, llama.student)
    assert plain_rows == [1, 1]


# ------------------------------------------------------------------------------------------ walking


class Bar:
    """A progress bar that only counts."""

    last = None

    def __init__(self, *, total, desc, disable):
        self.total, self.desc, self.disable, self.done = total, desc, disable, 0
        Bar.last = self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def update(self, steps):
        self.done += steps


@pytest.fixture
def two_students(smol_tokenizer):
    base = tiny.model("llama")
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    control = sm.models.load_student(loaded, tiny.full(base), name="cat")
    return sm.load_pair(loaded, tiny.lora(base), controls=[control])


def test_a_walk_stacks_what_every_student_gives(two_students, prompts, monkeypatch):
    monkeypatch.setattr(module, "tqdm", Bar)
    task = prepare(two_students, prompts, TRAIT)
    students = list(two_students.students.values())

    def cells(student, part, advance):
        assert part.task is task
        number = students.index(student)
        advance(3)
        advance(2)
        effects = [np.full((2, 4), 10.0 * number), np.full((2, 3), 10.0 * number + 1)]
        return Cells(effects, Ends(np.array([number, 1.0]), np.array([2.0, number])))

    measured = walk(task, cells, title="a title", steps=[3, 2], progress=False)
    assert (Bar.last.total, Bar.last.done) == (10, 10)
    assert (Bar.last.desc, Bar.last.disable) == ("a title", True)
    assert measured.task is task
    assert measured.effect.shape == (2, 2, 2, 4)
    assert (measured.effect[1, 0] == 10).all()
    assert (measured.effect[1, 1, :, :3] == 11).all()
    assert np.isnan(measured.effect[:, 1, :, 3]).all()
    assert measured.base.tolist() == [[0, 1], [1, 1]]
    assert measured.student.tolist() == [[2, 0], [2, 1]]


INSTRUMENTS = {
    "effect": lambda pair, p: sm.effect(pair, p, TRAIT),
    "graft": lambda pair, p: sm.graft(pair, p, TRAIT, "role"),
    "sweep": lambda pair, p: sm.instruments.graft_sweep(pair, p, TRAIT, layers=[1, 2]),
    "patch": lambda pair, p: sm.patch(pair, p, TRAIT, site="z", layers=[1], direction="both"),
    "patch of sets": lambda pair, p: sm.patch(pair, p, TRAIT, sets={"two": [1, 2], "one": [-1]}),
    "graft IG": lambda pair, p: sm.attribute(pair, p, TRAIT, points=2),
    "patching": lambda pair, p: sm.attribute(pair, p, TRAIT, method="attribution_patching"),
    "IG": lambda pair, p: sm.attribute(pair, p, TRAIT, method="activation_ig", points=2),
    "inputs": lambda pair, p: sm.attribute(pair, p, TRAIT, method="gradient_x_input"),
}


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_every_instruments_bar_arrives_where_it_said(name, two_students, prompts, monkeypatch):
    monkeypatch.setattr(module, "tqdm", Bar)
    scores = INSTRUMENTS[name](two_students, prompts)
    assert Bar.last.done == Bar.last.total > 0
    assert not Bar.last.disable
    assert scores.data["model"].values.tolist() == ["student", "control: cat"]


def test_arrays_of_one_rank_are_filled_up_at_the_end():
    stacked = pad_stack([np.ones((2, 1)), np.zeros((1, 3))])
    expected = [[[1, np.nan, np.nan], [1, np.nan, np.nan]], [[0, 0, 0], [np.nan] * 3]]
    np.testing.assert_array_equal(stacked, expected)
    assert pad_stack([np.asarray(2.0), np.asarray(3.0)]).tolist() == [2.0, 3.0]
    assert pad_stack([np.zeros(0), np.ones(1)]).shape == (2, 1)


# -------------------------------------------------------------------------------- memory, precision


def test_memory_decides_batches_and_nothing_else(smol_tokenizer, prompts):
    base, student = tiny.model("llama"), tiny.lora(tiny.model("llama"))
    wide = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    narrow = sm.load_pair(base, student, tokenizer=smol_tokenizer, memory_gb=0.02)
    assert narrow.rows(slots=40, reads=4) < wide.rows(slots=40, reads=4)
    for run in (
        lambda p: sm.patch(p, prompts, TRAIT, layers=[1], **QUIET),
        lambda p: sm.graft(p, prompts, TRAIT, "role", **QUIET),
        lambda p: sm.attribute(p, prompts, TRAIT, points=3, **QUIET),
        lambda p: sm.attribute(p, prompts, TRAIT, method="activation_ig", points=9, **QUIET),
    ):
        ours, other = run(narrow).data["effect"].values, run(wide).data["effect"].values
        np.testing.assert_allclose(ours, other, atol=5e-6)
    # one row cannot be cut: it takes what is free, and says so
    least = sm.load_pair(base, student, tokenizer=smol_tokenizer, memory_gb=1e-4)
    message = r"^one row of \d+ tokens needs about .* GB, more than memory_gb=0.0001; it runs"
    with pytest.warns(UserWarning, match=message) as told:
        ours = sm.effect(least, prompts, TRAIT, **QUIET).data["effect"].values
    assert len(told) == 1
    wanted = sm.effect(wide, prompts, TRAIT, **QUIET).data["effect"].values
    np.testing.assert_allclose(ours, wanted, atol=5e-6)


def test_bfloat16_compute_says_how_far_off_it_is(smol_tokenizer, prompts):
    base, student = tiny.model("llama"), tiny.lora(tiny.model("llama"))
    precise = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    fast = sm.load_pair(base, student, tokenizer=smol_tokenizer, compute=torch.bfloat16)
    exact = sm.effect(precise, prompts, TRAIT, **QUIET)
    rough = sm.effect(fast, prompts, TRAIT, **QUIET)
    error = np.abs(exact.total.values - rough.total.values).max()
    assert 0 < error < 0.1
    assert rough.record.compute == Compute("bfloat16", pytest.approx(error, rel=1e-4))
    assert exact.record.compute is None
    patched = sm.patch(fast, prompts[:1], TRAIT, layers=[1], **QUIET)
    whole = sm.patch(precise, prompts[:1], TRAIT, layers=[1], **QUIET)
    np.testing.assert_allclose(patched.data["effect"].values, whole.data["effect"].values, atol=0.1)


def test_bfloat16_compute_leaves_the_base_at_no_distance_from_itself(smol_tokenizer, prompts):
    """Both sides of the KL are computed alike, so the base is at 0 and no grain of bf16 is seen."""
    base, student = tiny.model("llama"), tiny.lora(tiny.model("llama"))
    fast = sm.load_pair(base, student, tokenizer=smol_tokenizer, compute=torch.bfloat16)
    scores = sm.effect(fast, prompts, sm.metrics.kl_to_base(), **QUIET)
    assert np.abs(scores.data["base"].values).max() < 1e-6
    precise = make_pair("llama", "lora", smol_tokenizer)
    exact = sm.effect(precise, prompts, sm.metrics.kl_to_base(), **QUIET)
    assert scores.record.compute.error < 0.1 * exact.total.values.max()
