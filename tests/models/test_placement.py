"""A base that accelerate has dispatched or offloaded gives the numbers of the whole one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import tiny
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from pairs import QUIET, TRAIT
from torch._subclasses.fake_tensor import FakeTensorMode

import sublim_mech as sm
from sublim_mech.engine.batch import Batch
from sublim_mech.engine.forward import Gates, Start, forward
from sublim_mech.models.deltas import LowRank
from sublim_mech.models.placement import device_of, input_device, is_offloaded, plain
from sublim_mech.models.sites import find_sites
from sublim_mech.models.students import Student

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
CPU = torch.device("cpu")
WAYS = ("cpu", "disk", "map")
PEOPLE = [("llama", "lora", "cpu"), ("llama", "full", "disk"), ("gpt2", "lora", "map")]


def offloaded(model: Any, how: str, folder: Path) -> Any:
    """A copy of a model that accelerate offloads, executed on the CPU."""
    made = copy.deepcopy(model)
    if how == "cpu":
        return accelerate.cpu_offload(made, CPU)
    if how == "disk":
        return accelerate.disk_offload(made, str(folder), CPU)
    paths = [path for path, _ in made.named_modules()]
    block = next(path for path in paths if path.endswith(".1"))  # on disk, what is beside it not
    above, places = block.split("."), {block: "disk"}
    for depth in range(len(above)):
        for name, _ in made.get_submodule(".".join(above[:depth])).named_children():
            path = ".".join([*above[:depth], name])
            if not f"{block}.".startswith(f"{path}."):
                places[path] = "cpu"
    return accelerate.dispatch_model(made, places, offload_dir=str(folder))


def student_of(model: Any, kind: str) -> Any:
    return tiny.lora(model) if kind == "lora" else tiny.full(model)


@pytest.mark.parametrize(("architecture", "kind", "how"), PEOPLE)
def test_every_instrument_gives_the_numbers_of_the_whole_model(
    architecture, kind, how, smol_tokenizer, tmp_path
):
    model = tiny.model(architecture)
    student = student_of(model, kind)
    mine = offloaded(model, how, tmp_path)
    empty = sum(p.is_meta for p in mine.parameters())
    assert empty
    whole = sm.load_pair(model, student, tokenizer=smol_tokenizer)
    spread = sm.load_pair(mine, student, tokenizer=smol_tokenizer)
    assert spread.hash == whole.hash
    assert spread.student.hash == whole.student.hash
    assert spread.device == CPU
    assert is_offloaded(spread.model)

    prompts = sm.render(whole, ["Hi", "Name the bird you like."], context=sm.RAW)
    short = prompts[:1]
    sets = {"first": lambda prompt: [0]}
    instruments = {
        "effect": lambda pair: sm.effect(pair, prompts, TRAIT, **QUIET),
        "graft": lambda pair: sm.graft(pair, prompts, TRAIT, sets, **QUIET),
        "sweep": lambda pair: sm.instruments.graft_sweep(pair, short, TRAIT, **QUIET),
        "patch": lambda pair: sm.patch(pair, short, TRAIT, site="z", direction="both", **QUIET),
        "graft IG": lambda pair: sm.attribute(pair, prompts, TRAIT, points=2, **QUIET),
        "attribution patching": lambda pair: sm.attribute(
            pair, short, TRAIT, method="attribution_patching", site="mlp_out", **QUIET
        ),
        "gradient": lambda pair: sm.attribute(
            pair, short, TRAIT, method="gradient_x_input", **QUIET
        ),
    }
    for name, instrument in instruments.items():
        expected, given = (instrument(pair).data["effect"].values for pair in (whole, spread))
        np.testing.assert_allclose(given, expected, atol=1e-6, err_msg=name)
    everywhere = sm.masks.everything()
    asked = {"generated": "student", "max_new_tokens": 4}
    says = [sm.instruments.generate(pair, prompts, everywhere, **asked) for pair in (whole, spread)]
    assert says[0] == says[1]
    assert torch.equal(spread.logits(short).isnan(), whole.logits(short).isnan())

    # the caller's model is as it was
    assert sum(p.is_meta for p in mine.parameters()) == empty
    assert all(hasattr(m, "_hf_hook") for m in mine.modules() if m._parameters)
    merged = sm.models.copies.merge(spread.base, spread.student)
    assert not is_offloaded(merged)


@pytest.mark.parametrize("how", WAYS)
def test_a_spread_pair_passes_verify(how, smol_tokenizer, tmp_path):
    model = tiny.model("qwen2")  # tied embeddings, biases
    pair = sm.load_pair(
        offloaded(model, how, tmp_path / "w"), tiny.lora(model), tokenizer=smol_tokenizer
    )
    found = sm.verify(pair)
    assert found.passed, found


def test_skipped_blocks_get_the_forward_of_accelerate_back(smol_tokenizer, tmp_path):
    model = tiny.model("llama")
    base = sm.load_base(offloaded(model, "cpu", tmp_path), tokenizer=smol_tokenizer)
    pair = sm.load_pair(base, tiny.lora(model))
    block = pair.model.get_submodule(pair.sites.blocks[0])
    add_hook_to_module(block, AlignDevicesHook(CPU))
    own = vars(block)["forward"]
    batch = pair.batch([[1, 2, 3]])
    key = ("resid_pre", 2)
    with torch.no_grad():
        clean = pair.run(batch, record=[key])
        again = pair.run(batch, start=Start(2, clean.activations[key]))
    assert vars(block)["forward"] is own
    assert torch.equal(again.logits, clean.logits)


@pytest.mark.parametrize("how", WAYS)
def test_a_plain_twin_is_over_the_same_values(how, tmp_path):
    model = tiny.model("gpt2")
    found = plain(offloaded(model, how, tmp_path))
    assert found.get_output_embeddings().weight is found.get_input_embeddings().weight
    expected = dict(model.named_parameters())
    assert {name for name, _ in found.named_parameters()} == set(expected)
    for name, value in found.named_parameters():
        assert torch.equal(value, expected[name]), name
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(found(input_ids=ids).logits, model(input_ids=ids).logits)
    assert plain(model) is model


def test_offloaded_weights_that_change_are_noticed(smol_tokenizer, tmp_path):
    model = tiny.model("llama")
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    mine = accelerate.cpu_offload(copy.deepcopy(model), CPU, state_dict=kept)
    pair = sm.load_pair(mine, tiny.lora(model), tokenizer=smol_tokenizer)
    batch = pair.batch([[1, 2, 3]])
    pair.run(batch)
    kept["model.layers.1.mlp.up_proj.weight"].data += 1e-3
    with pytest.raises(ValueError, match=r"changed in place .*model\.layers\.1\.mlp\.up_proj"):
        pair.run(batch)


def test_what_is_nowhere_or_spread_is_refused(smol_tokenizer, tmp_path):
    model = tiny.model("llama")
    lost = offloaded(model, "cpu", tmp_path)
    block = lost.model.layers[1].mlp.up_proj
    block._hf_hook.offload = False
    with pytest.raises(ValueError, match=r"device map leaves model\.layers\.1\.mlp\.up_proj nowh"):
        sm.load_base(lost, tokenizer=smol_tokenizer)
    mine = offloaded(model, "cpu", tmp_path)
    with pytest.raises(ValueError, match=r"device='cpu': .* is spread over devices already"):
        sm.load_base(mine, tokenizer=smol_tokenizer, device="cpu")
    base = sm.load_base(mine, tokenizer=smol_tokenizer)
    for method in (sm.LoRA(rank=1), sm.FullFT()):
        with pytest.raises(ValueError, match="a student is trained from a base on one device"):
            method.attach(base)


# --------------------------------------------------------------------------------- several devices


def test_gates_masks_and_edits_follow_each_blocks_device(monkeypatch):
    """Fake devices: a tensor that is left on another one is an error."""
    real = tiny.model("llama")
    sites = find_sites(real)
    monkeypatch.setattr(Gates, "check", lambda gates, batch: None)  # fake tensors have no values
    model = copy.deepcopy(real)
    model.set_attn_implementation("eager")
    with FakeTensorMode() as mode:
        fake(model, mode)
        places = [torch.device("cuda:0"), torch.device("cuda:1"), torch.device("cuda:0")]
        for layer, device in zip(model.model.layers, places, strict=True):
            spread_to(layer, device)
        for part in (model.model.embed_tokens, model.model.rotary_emb):
            spread_to(part, places[0])
        for part in (model.model.norm, model.lm_head):
            spread_to(part, torch.device("cuda:1"))
        add_hook_to_module(model, AlignDevicesHook(places[0], io_same_device=True))
        assert input_device(model) == places[0]

        deltas = {}
        for path, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                out, columns = module.weight.shape
                device = device_of(module)
                a = torch.randn(2, columns, device=device)
                deltas[path] = LowRank(a, torch.randn(out, 2, device=device), 0.5)
        student = Student("s", "lora", deltas, model, None, "")
        ids = torch.zeros(2, 5, dtype=torch.long, device=places[0])
        mask = torch.zeros(2, 1, 5, 5, device=places[0])
        reads = torch.full((2, 1), 4, device=places[0])
        batch = Batch(ids, torch.zeros_like(ids), mask, reads, (5, 5))
        gates = torch.full((2, 5, len(deltas)), 0.5, device=places[0], requires_grad=True)
        donor = torch.randn(2, 5, 32, device=places[0])
        edits = {("mlp_out", 1): lambda hidden: hidden * 0 + donor.to(hidden.device)}
        done = forward(
            model, sites, batch, gates=Gates(student, gates), edits=edits, past=(),
            record=[("resid_post", layer) for layer in range(3)],
        )  # fmt: skip
        assert done.logits.device == places[0]
        assert [kept.keys.device for kept in done.cache] == places
        (slope,) = torch.autograd.grad(done.logits.sum(), [gates])
        assert slope.shape == gates.shape
        assert slope.device == places[0]


def fake(model: Any, mode: FakeTensorMode) -> None:
    """Give a model fake parameters and buffers."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for key, value in held.items():
                if value is not None:
                    held[key] = mode.from_tensor(value.detach(), static_shapes=True)


def spread_to(module: Any, device: torch.device) -> None:
    """A module's (fake) weights on a device, where accelerate brings its inputs."""
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for key, value in held.items():
                if value is not None:
                    held[key] = value.to(device)
        hook = AlignDevicesHook()
        hook.execution_device = device
        add_hook_to_module(part, hook)
