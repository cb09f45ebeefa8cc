"""One gated forward and backward over two devices, one of them made up.

Tensors are fake (they have shapes and devices, no values): an operation on tensors of two devices
is an error. The device is registered with torch, so this is a process of its own
(`models/test_placement.py` runs it).
"""

from __future__ import annotations

import copy
import os
import sys
from typing import Any

import tiny
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from sublim_mech.engine.batch import Batch
from sublim_mech.engine.forward import Gates, forward
from sublim_mech.models.deltas import LowRank
from sublim_mech.models.placement import device_of, input_device
from sublim_mech.models.sites import find_sites
from sublim_mech.models.students import Student


def main() -> None:
    """Run them; print where the gates' gradient is."""
    real = tiny.model("llama")
    sites = find_sites(real)
    _setup_privateuseone_for_python_backend("faked")
    faked = torch.device("faked:0")
    Gates.check = lambda gates, batch: None  # type: ignore[method-assign] # there are no values
    model = copy.deepcopy(real)
    model.set_attn_implementation("eager")
    mode = FakeTensorMode()
    fake(model, mode)
    with mode:
        places = [faked, torch.device("cpu"), faked]
        for layer, device in zip(model.model.layers, places, strict=True):
            spread_to(layer, device)
        for part in (model.model.embed_tokens, model.model.rotary_emb):
            spread_to(part, places[0])
        for part in (model.model.norm, model.lm_head):
            spread_to(part, torch.device("cpu"))
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
            model, sites, batch, gates=Gates(student, gates), edits=edits,
            record=[("resid_post", layer) for layer in range(3)],
        )  # fmt: skip
        assert done.logits.device == places[0]
        found = [done.activations["resid_post", layer].device for layer in range(3)]
        assert found == places
        with torch.autograd.set_multithreading_enabled(False):  # a fake device has no thread
            (slope,) = torch.autograd.grad(done.logits.sum(), [gates])
        assert slope.shape == gates.shape
        assert slope.device == places[0]
        print(f"slopes of the gates on {slope.device}")


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


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # torch does not end the made-up device's threads
