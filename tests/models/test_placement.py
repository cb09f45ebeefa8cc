"""A base that accelerate has dispatched or offloaded gives the numbers of the whole one."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import tiny
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from pairs import QUIET, TRAIT

import sublim_mech as sm
from sublim_mech.engine.forward import Start
from sublim_mech.models.placement import is_offloaded, plain

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


@pytest.mark.parametrize("how", ["map"])  # the map has the other two in it
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


def test_gates_masks_and_edits_follow_each_blocks_device():
    """On fake devices a tensor that is left on another one is an error (`tests/faked.py`)."""
    script = Path(__file__).parents[1] / "faked.py"
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "slopes of the gates on faked:0" in ran.stdout
