"""Weights that change after loading are noticed, and nothing else is."""

from __future__ import annotations

import copy
import math

import pytest
import tiny
import torch
from loading import TOKENIZER, saved, student
from pairs import TRAIT
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import sublim_mech as sm
from sublim_mech.engine.pair import load_pair
from sublim_mech.models import watching
from sublim_mech.models.base import load_base
from sublim_mech.models.students import load_student
from sublim_mech.models.watching import Slot, Watch, parameter_slots

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
CHANGED = r"base='LlamaForCausalLM': its weights were changed in place since they were loaded \(.*"
LAYER = "model.layers.1.mlp.up_proj.weight"


@torch.no_grad()
def in_place(model):
    """One weight of one matrix."""
    model.get_parameter(LAYER)[3, 5] += 0.01


def merged(model):
    """As PEFT merges: `.data` changes, which no version counter shows."""
    weight = model.get_parameter(LAYER)
    count = weight._version
    weight.data += 1e-3
    assert weight._version == count


@torch.no_grad()
def loaded(model):
    model.load_state_dict(tiny.model("llama", seed=1).state_dict())


@torch.no_grad()
def stepped(model):
    """One step of an optimiser."""
    model.requires_grad_(True)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    with torch.enable_grad():
        model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    optimiser.step()


@pytest.mark.parametrize("change", [in_place, merged, loaded, stepped])
def test_a_base_that_changes_after_loading(change, smol_tokenizer):
    mine = tiny.model("llama")
    pair = load_pair(mine, student("llama", "lora"), tokenizer=smol_tokenizer)
    prompts = sm.render(smol_tokenizer, TRAIT.questions[:1])
    before = pair.logits(prompts, model="base")
    assert torch.equal(pair.logits(prompts, model="base"), before)
    change(mine)
    for call in (
        lambda: pair.logits(prompts, model="base"),
        lambda: pair.activations(prompts, ["resid_pre"]),
        lambda: sm.effect(pair, prompts, TRAIT, progress=False),
        lambda: load_student(pair.base, student("llama", "lora")),
        lambda: load_pair(pair.base, student("llama", "lora")),
        lambda: pair.base.check_unchanged(),
    ):
        with pytest.raises(ValueError, match=CHANGED):
            call()


def test_a_student_that_is_merged_into_the_base_it_shares(tmp_path):
    """PEFT's own merge: the base below a student that was read is the base it was read on."""
    own = load_base(tiny.model("llama"), tokenizer=TOKENIZER)
    again = load_student(own, saved(student("llama", "lora"), tmp_path / "b"))
    own.check_unchanged()
    again.model.merge_adapter()
    with pytest.raises(ValueError, match=CHANGED):
        own.check_unchanged()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_live_student_that_changes_after_loading(kind, smol_tokenizer):
    made = student("llama", kind)
    pair = load_pair(tiny.model("llama"), made, tokenizer=smol_tokenizer)
    prompts = sm.render(smol_tokenizer, TRAIT.questions[:1])
    pair.logits(prompts)
    p = next(p for n, p in made.named_parameters() if "lora_B" in n or kind == "full")
    p.data *= 1.01
    with pytest.raises(ValueError, match=rf"student='{pair.student.name}': its weights were"):
        pair.logits(prompts)
    pair.logits(prompts, model="base")  # which is as it was
    with pytest.raises(ValueError, match=r"student='.*': its weights were changed in place"):
        load_pair(pair.base, pair.student)


def test_training_does_not_start_from_a_base_that_changed(tmp_path, smol_tokenizer):
    mine = tiny.model("llama")
    base = load_base(mine, tokenizer=smol_tokenizer)
    data = sm.training.hard_data(smol_tokenizer, sm.numbers.random_rows(4, seed=0, count=3))
    merged(mine)
    with pytest.raises(ValueError, match=CHANGED):
        sm.train(base, data, out=tmp_path / "run", steps=6, held_out=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_is_not_changed():
    mine = tiny.model("llama")
    base = load_base(mine, tokenizer=TOKENIZER)
    # the same values again, a mode, a hook, a gradient, other objects: no change of weights
    mine.load_state_dict(copy.deepcopy(mine.state_dict()))
    mine.train()
    mine.register_forward_hook(lambda *_: None)
    mine(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    weight = mine.get_parameter(LAYER)
    weight.data = weight.data + 1  # the caller's own memory from now on
    base.check_unchanged()
    base.model.double().float()  # other storage, the same values
    base.check_unchanged()
    base.check_unchanged()


def odd_tensors():
    rng = torch.Generator().manual_seed(0)
    wide = torch.randn(40, 30, generator=rng)
    return {
        "empty": torch.zeros(0),
        "number": torch.tensor(2.0),
        "few": torch.arange(3.0),
        "transposed": wide.T,
        "a part": torch.randn(40, 30, generator=rng)[3:30:2, ::3],
        "half": torch.randn(50, generator=rng).bfloat16(),
        "double": torch.randn(50, generator=rng).double(),
        "expanded": torch.randn(1, 5, generator=rng).expand(7, 5),
    }


@pytest.mark.parametrize("name", [name for name in odd_tensors() if name != "empty"])
def test_tensors_of_any_shape_and_type(name):
    tensors = odd_tensors()
    watch = Watch(Slot(tensors, key, key) for key in tensors)
    assert watch.check() is None
    if name == "expanded":  # its rows are one
        tensors[name][0].data += 1
        assert watch.check() == name
        return
    tensors[name].data.copy_(tensors[name].data * 1.5 + 1)
    assert watch.check() == name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("places", [(0, 2), (1, 2), (5, 500), (0, 999)])
@pytest.mark.parametrize("sign", [False, True])
def test_values_that_change_places_are_other_weights(dtype, places, sign):
    """The sum of all bits is the same, also where two words differ in one bit."""
    values = torch.linspace(1, 2, 1000).to(dtype)
    one, other = places
    values[one], values[other] = (-1.75 if sign else 1.25), 1.75
    weights = {"w": values}
    watch = Watch([Slot(weights, "w", "w")])
    values[[one, other]] = values[[other, one]]
    assert watch.check() == "w"
    values[[one, other]] = values[[other, one]]
    assert watch.check() is None


def test_a_tensor_that_is_replaced_or_gone():
    tensors = odd_tensors()
    watch = Watch(Slot(tensors, key, key) for key in tensors)
    tensors["few"] = tensors["few"].clone()
    assert watch.check() is None
    tensors["few"] = tensors["few"] + 1
    assert watch.check() == "few"
    tensors["few"] = None
    assert watch.check() == "few"


def test_tied_parameters_are_one():
    model = tiny.model("qwen2")
    slots = list(parameter_slots(model, "above"))
    assert len(slots) == len(list(model.parameters()))
    assert slots[0].name == "above.model.embed_tokens.weight"


def test_a_watch_of_nothing():
    assert Watch(()).check() is None


@torch.inference_mode()
def test_tensors_without_version():
    tensors = {"a": torch.ones(5)}
    watch = Watch([Slot(tensors, "a", "a")])
    assert watch.check() is None
    tensors["a"] += 1
    assert watch.check() == "a"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
@pytest.mark.parametrize(("shape", "offset"), [((4, 6), 0), ((3, 5), 0), ((2, 4), 1), ((1,), 0)])
def test_any_changed_value_is_noticed_whatever_fills_a_wide_word(dtype, shape, offset):
    """Values are summed as words of 8 bytes where they fill them."""
    count = math.prod(shape)
    tensor = torch.arange(count + offset).to(dtype)[offset:].view(shape)
    for place in range(count):
        watch = Watch([Slot({"p": tensor}, "p", "p")])
        tensor.view(-1)[place] += 1
        assert watch.check() == "p"
        tensor.view(-1)[place] -= 1


# ------------------------------------------------------------------------------------ accelerators


def test_a_pass_does_not_wait_for_a_comparison(monkeypatch, smol_tokenizer):
    """Where devices work on their own, a check is begun with the pass and read with its results."""
    monkeypatch.setattr(watching, "AT_ONCE", ())
    mine = tiny.model("llama")
    pair = load_pair(mine, student("llama", "lora"), tokenizer=smol_tokenizer)
    prompts = sm.render(smol_tokenizer, TRAIT.questions[:1])
    pair.logits(prompts, model="base")
    merged(mine)
    batch = pair.batch([[1, 2, 3]])
    pair.run(batch)  # is not told yet
    with pytest.raises(ValueError, match=CHANGED):
        pair.settle()
    for call in (
        lambda: pair.logits(prompts, model="base"),
        lambda: sm.effect(pair, prompts, TRAIT, progress=False),
        lambda: pair.base.check_unchanged(),
    ):
        with pytest.raises(ValueError, match=CHANGED):
            call()


def test_a_check_reads_nothing_from_an_accelerator(monkeypatch):
    """On fake devices whatever asks for a value is an error."""
    parameters = {"w": torch.ones(40)}
    watch = Watch([Slot(parameters, "w", "w")])
    monkeypatch.setattr(watching, "_marks", lambda tensors: watch._marks)
    with FakeTensorMode():
        there = torch.ones(40, device="cuda:0")
        watch._views = [there]
        watch._values = watching._joined(watch._views)
        assert watch.check() is None
        assert watch.check() is None
        with pytest.raises(DataDependentOutputException):
            watch.settle()
