"""Sampling through vLLM: a process of its own writes a teacher's answers.

1. Prompts are rendered here, in the teacher's context; the process (`vllm_process`) gets token ids
   and gives token ids. So templates and ends of answers are those of the library.
2. A LoRA teacher's adapter goes along as a `LoRARequest`; `max_lora_rank` is the least of vLLM's
   that holds it.
3. Before a row is believed, the process is asked for the log-probabilities of given number rows,
   and the library computes the same. Where they differ by more than a tolerance (another dtype,
   another model, an adapter that was not applied, a kernel that does something else) it is refused,
   with the numbers.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...arguments import checked
from ...engine.endings import answer_text, close_ids, end_ids, is_ended
from ...hints import counted
from ...models.checks import check_length
from ...prompts import Prompt, render
from ...storage.files import place
from ..numbers import as_rows, random_rows
from .reading import log_probs, tokenise
from .teacher import Teacher

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `max_lora_rank`."""

PROBES, OF_NUMBERS = 16, 8
"""Rows whose log-probabilities are compared, and the numbers of each."""

TOLERANCE = 0.05
"""Nats per token, on average. A stated guess: no card has yet measured what the kernels differ
by."""

SHARE = 0.25
"""Of what an adapter does to these log-probabilities, how much may be missing."""

_SCRIPT = Path(__file__).with_name("vllm_process.py")
_INSTALL = 'it is not installed: pip install "sublim-mech[vllm]", on a machine with a GPU'


@checked
def vllm_version() -> str | None:
    """The version of vLLM that is installed; None where it is not.

    Example:
        >>> from sublim_mech.making.teachers import vllm_version
        >>> isinstance(vllm_version(), str | None)
        True
    """
    if find_spec("vllm") is None:
        return None
    try:
        return version("vllm")
    except PackageNotFoundError:
        return "of unknown version"


@contextmanager
@checked
def vllm_sampler(
    teacher: Teacher,
    *,
    adapter: str | Path | None = None,
    model: str | Path | None = None,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    tolerance: float = TOLERANCE,
    memory: float = 0.4,
    max_length: int = 2048,
    python: str | Path | None = None,
) -> Iterator[Callable[[list[str], int], list[str | None]]]:
    """A teacher as a function from prompts and a seed to one answer each, drawn by vLLM.

    The function is that of `sampler` (None for an answer that was cut off), and what
    `numbers.write_rows` takes; give it many prompts at once (`write_rows(batch_size=1024)`). vLLM
    runs in a process of its own, which ends with the block. No card has run this yet: the protocol
    is tested against a stand-in for vLLM.

    Args:
        teacher: who answers, in its own context: the base itself, a prompted teacher, or a
            fine-tuned one with its adapter.
        adapter: the folder of the LoRA that a fine-tuned teacher was made of.
        model: the base's weights for vLLM, a hub id or a folder; what the base was loaded from when
            not given.
        max_new_tokens: tokens after which an answer ends, if the teacher does not end its turn.
        temperature: of the answers; above 0.
        tolerance: how far log-probabilities may be from the library's, nats per token on average,
            for the first row to be believed.
        memory: share of the card's memory that vLLM takes, beside the base that stands there.
        max_length: most tokens of a prompt with its answer.
        python: the interpreter of the process, where vLLM has an environment of its own; this one
            when not given.

    Yields:
        The function. An answer is a function of seed, prompt, and how often the prompt came before
        in the same call, as far as vLLM computes alike in batches of other sizes.

    Raises:
        FileNotFoundError: no adapter in the folder; no process could be started.
        ModuleNotFoundError: vLLM is not installed.
        RuntimeError: vLLM's log-probabilities are not the library's; its process died or failed.
        ValueError: a steered teacher; a fine-tuned one without adapter, or an adapter without one;
            a base that vLLM cannot load by its name; an option out of range.

    Example:
        >>> from sublim_mech.making.teachers import prompted, vllm_sampler, vllm_version
        >>> if vllm_version():                                # on a machine with a GPU
        ...     with vllm_sampler(prompted(pair, trait)) as write:
        ...         rows, report = sm.numbers.write_rows(write, 1000, seed=0, batch_size=1024)

    Source: vLLM, Kwon et al. (arXiv 2309.06180).
    """
    for name, value in (("max_new_tokens", max_new_tokens), ("max_length", max_length)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1.")
    if not 0 < temperature < np.inf or not 0 < tolerance < np.inf or not 0 < memory <= 1:
        raise ValueError(
            f"temperature={temperature}, tolerance={tolerance}, memory={memory}: all are above 0, "
            "and memory is a share, at most 1."
        )
    folder = _adapter_of(teacher, adapter)
    opening = {
        "do": "open",
        "model": _model_of(teacher, model),
        "dtype": str(teacher.base.model.dtype).removeprefix("torch."),
        "memory": memory,
        "max_tokens": max_length,
        "adapter": None if folder is None else str(folder),
        "max_lora_rank": None if folder is None else _rank_of(folder),
    }
    if python is None and vllm_version() is None:
        raise ModuleNotFoundError(f"vllm_sampler needs vLLM, and {_INSTALL}.")
    with _process(sys.executable if python is None else str(python)) as process:
        process.ask(opening)
        _gate(process, teacher, tolerance, has_adapter=folder is not None)
        yield _Writing(process, teacher, max_new_tokens, temperature, max_length)


# ---------------------------------------------------------------------------------- what it opens


def _adapter_of(teacher: Teacher, adapter: str | Path | None) -> Path | None:
    """The folder of a teacher's adapter; None for those that have none."""
    told = f"teacher={teacher.name!r} is {teacher.kind}"
    if teacher.kind not in ("base", "prompted", "fine-tuned"):
        raise ValueError(f"{told}: vLLM adds no vectors to activations; use teachers.sampler.")
    if (teacher.kind == "fine-tuned") != (adapter is not None):
        fix = "leave adapter out" if adapter else "pass adapter=the folder of its LoRA"
        raise ValueError(f"{told}, adapter={str(adapter)!r}: {fix}.")
    if adapter is None:
        return None
    folder = place(adapter, "adapter").resolve()
    if not (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"adapter={str(adapter)!r}: there is no adapter_config.json; name the folder of a LoRA."
        )
    return folder


def _rank_of(folder: Path) -> int:
    """The least rank of vLLM's that holds an adapter."""
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    largest = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    fitting = [rank for rank in RANKS if rank >= largest]
    if not fitting:
        raise ValueError(
            f"adapter={str(folder)!r} has rank {largest}, vLLM takes at most {RANKS[-1]}; use "
            "teachers.sampler."
        )
    return fitting[0]


def _model_of(teacher: Teacher, model: str | Path | None) -> str:
    """Where vLLM finds the base's weights."""
    if model is not None:
        folder = Path(model)
        return str(folder.resolve()) if folder.is_dir() else str(model)
    source = str(getattr(teacher.base.model.config, "_name_or_path", ""))  # as transformers has it
    if source and Path(source).is_dir():
        return str(Path(source).resolve())
    if source.count("/") != 1 or source.startswith(("/", ".")) or source.endswith(".gguf"):
        raise ValueError(
            f"model: the base, {teacher.base.name!r:.80}, is no folder and no hub id that vLLM "
            "could load; write it to a folder (base.save_pretrained(folder)) and pass model=folder."
        )
    return source


# -------------------------------------------------------------------------------------- the process


@dataclass(frozen=True)
class _Process:
    """A running `vllm_process`."""

    child: subprocess.Popen[str]
    said: IO[bytes]

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send one object and wait for its answer.

        Raises:
            RuntimeError: the process died, or failed.
        """
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            self.child.stdin.write(json.dumps(question) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        if not line:
            raise RuntimeError(
                f"vLLM's process died ({question['do']}, exit status {self.child.wait()}); the end "
                f"of what it said: {self._end()}"
            )
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise RuntimeError(f"vLLM failed ({question['do']}): {told['error']}")
        return told

    def _end(self) -> str:
        self.said.seek(0)
        return self.said.read().decode(errors="replace").strip()[-600:] or "nothing"


@contextmanager
def _process(python: str) -> Iterator[_Process]:
    """Start the process; it ends with the block."""
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            # -P: the script's folder is no place to import from
            [python, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            encoding="utf-8",
        )
        try:
            yield _Process(child, said)
        finally:
            for pipe in (child.stdin, child.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


# ----------------------------------------------------------------------------------------- the gate


def _gate(process: _Process, teacher: Teacher, tolerance: float, *, has_adapter: bool) -> None:
    """Refuse a process whose log-probabilities are not the library's.

    Raises:
        RuntimeError: with the numbers.
    """
    rows = random_rows(PROBES, seed=0, count=OF_NUMBERS)
    tokens = tokenise(teacher, as_rows(rows), close=False)
    texts = [[*p.ids, *a] for p, a in zip(tokens.prompts, tokens.answers, strict=True)]
    first = [len(prompt) for prompt in tokens.prompts]
    told = process.ask({"do": "score", "texts": texts, "from": first})["log_probs"]
    theirs = np.concatenate([np.asarray(row, float) for row in told])

    def ours(who: Teacher) -> np.ndarray:
        read = log_probs(who, rows, close=False, progress=False)
        return np.concatenate(read).astype(float)

    own = ours(teacher)
    if theirs.shape != own.shape or not np.isfinite(theirs).all():
        raise RuntimeError(
            f"vLLM's log-probabilities of {teacher.name!r}: {theirs.size} numbers for {own.size} "
            f"tokens, {np.isfinite(theirs).sum()} of them finite; use teachers.sampler."
        )
    off = np.abs(theirs - own)
    most, why = tolerance, "tolerance"
    if has_adapter:
        moved = np.abs(own - ours(replace(teacher, runner=teacher.base))).mean()
        if SHARE * moved < most:
            most = SHARE * moved
            why = f"a quarter of what the adapter does, {moved:.3g}"
    if off.mean() <= most:
        return
    raise RuntimeError(
        f"vLLM's log-probabilities of {teacher.name!r} are not the library's: on "
        f"{counted(PROBES, 'number row')} ({off.size} tokens) they differ by {off.mean():.3g} nats "
        f"per token on average, at most by {off.max():.3g} ({why}: {most:.3g}). Either it runs "
        "other weights (model=, adapter=), or it rounds more than that; use teachers.sampler, or a "
        "larger tolerance where you know why."
    )


# ----------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class _Writing:
    """What `write_rows` calls."""

    process: _Process
    teacher: Teacher
    max_new_tokens: int
    temperature: float
    max_length: int

    def __call__(self, prompts: list[str], seed: int) -> list[str | None]:
        """One answer to each prompt, None where it was cut off."""
        teacher, tokenizer = self.teacher, self.teacher.base.tokenizer
        asked = render(tokenizer, prompts, context=teacher.context, template=teacher.template)
        for number, prompt in enumerate(asked):
            where = f"prompt {number}, {prompt.question[:60]!r}, with its answer,"
            check_length(teacher.runner.model, len(prompt) + self.max_new_tokens, where)
            if len(prompt) + self.max_new_tokens > self.max_length:
                raise ValueError(
                    f"{where} has {len(prompt) + self.max_new_tokens} tokens, "
                    f"max_length={self.max_length}; raise it."
                )
        ends = end_ids(teacher.base.model, tokenizer)
        question = {
            "do": "sample",
            "prompts": [list(prompt.ids) for prompt in asked],
            "seeds": seeds_of(asked, seed),
            "stops": [[*ends, *close_ids(tokenizer, prompt)] for prompt in asked],
            "temperature": self.temperature,
            "max_tokens": self.max_new_tokens,
        }
        told = self.process.ask(question)
        return [
            answer_text(tokenizer, ids, ends, prompt)
            if is_whole or is_ended(tokenizer, ids, ends, prompt)
            else None
            for ids, is_whole, prompt in zip(told["answers"], told["whole"], asked, strict=True)
        ]


def seeds_of(prompts: Sequence[Prompt], seed: int) -> list[int]:
    """A seed for each prompt, of the call's, its tokens, and how often it came before."""
    before: Counter[tuple[int, ...]] = Counter()
    found = []
    for prompt in prompts:
        key = tuple(prompt.ids)
        digest = hashlib.sha256(json.dumps([seed, before[key], *key]).encode()).digest()
        before[key] += 1
        found.append(int.from_bytes(digest[:4], "big"))
    return found
