"""`extract_lora`: is what a student learned low-rank, and does the trait sit in the first
directions? The best adapter of a rank, written for PEFT, and what it keeps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from ..arguments import checked
from ..engine.pair import ModelPair
from ..hints import counted
from ..metrics import Metric, as_metric, kl_to_base
from ..models.extraction import TOLD, Factors, linear_targets, write_lora
from ..models.names import Module, module_group
from ..models.placement import plain
from ..models.spectra import EXACT, Decomposed, weight_norm
from ..models.students import Student, invocation_of, load_student
from ..prompts import Prompt, Trait
from ..results.ceiling import ceiling_of, reached
from ..results.contexts import asked_and_trained, otherwise
from ..results.extractions import ExtractedModule, Extraction
from ..results.limits_of_students import few_prompts
from ..results.spectra import NotDecomposed
from ..stats import ratio_interval
from ..storage.files import place
from ..storage.runs import new_folder
from .labelling import (
    context_texts,
    nearly_copies,
    other_turns,
    prefix_twice,
    rendered_otherwise,
    same_contexts,
    trained_in,
)
from .met_in_training import met_in_training
from .spectra import not_decomposed
from .task import Ends, Task, ends, prepare
from .weights import changes, chosen, how_of, named


@checked
def extract_lora(
    pair: ModelPair,
    rank: int,
    targets: str | Sequence[str] = "all-linear",
    *,
    out: str | Path,
    model: str = "student",
    prompts: Sequence[Prompt] | None = None,
    trait: Trait | Metric | None = None,
    exact: int = EXACT,
    seed: int = 0,
    progress: bool = True,
) -> Extraction:
    """The best low-rank adapter of a full fine-tune, or of a larger adapter, written for PEFT.

    Of each module's weight change the first singular directions (Eckart and Young 1936: no change
    of this rank is nearer in the Frobenius norm). What it leaves out of each, and what it leaves
    out altogether (norms, biases, embeddings, unembedding, modules that are no target), is named
    and measured. With prompts also how much it keeps of what the student does.

    Args:
        pair: base, student, controls.
        rank: of each module's factors; where a change has fewer singular values, those.
        targets: `all-linear` (every linear module but the unembedding), module names (the end of a
            module's path), or one regular expression over whole paths.
        out: the folder to write; under a temporary name, then renamed. `load_student`, `load_pair`
            and PEFT open it. It must not be there yet, or be empty.
        model: whose weights, one of `pair.students`, or a student's own name.
        prompts: rendered prompts on which the adapter is held against the student.
        trait: a trait or metric whose effect they are compared in; without one, only the KL to the
            base.
        exact: largest smaller side of a replaced matrix that is decomposed exactly (`spectrum`).
        seed: of randomised SVD.
        progress: show a progress bar.

    Returns:
        What is kept, by module, and on the prompts: mean of the adapter's effect (metric minus the
        base's) over mean of the student's, with 95 % bootstrap intervals over prompts; the same of
        the KL to the base of the next token after the prompt.

    Raises:
        FileExistsError: something is at `out`.
        ValueError: no student of this name, or several; a rank below 1 or above that of every
            change; a target that matches no module, an embedding, or nothing that differs; a trait
            without prompts.

    Example:
        >>> small = sm.instruments.extract_lora(pair, 1, out=folder / "rank-1", progress=False)
        >>> sm.models.load_student(pair.base, small.path)
        Student('rank-1', lora, 21 changed modules, ...)
    """
    if rank < 1:
        raise ValueError(f"rank={rank}: an adapter has a rank of at least 1.")
    if trait is not None and prompts is None:
        raise ValueError("trait=... without prompts=...: give the prompts it is asked on.")
    target = place(out, "out")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"out={str(target)!r} exists; choose another folder.")
    model, student = named(pair, model)
    tasks = _tasks(pair, prompts, trait)  # (what is wrong with prompts is told before any work)

    # the best factors of each target that differs
    wanted = linear_targets(pair.base, targets)
    places = [m for m in chosen(pair, student, None) if m.path in wanted]
    if not places:
        raise ValueError(
            f"targets={targets!r}: student={student.name!r} changes no matrix there; "
            "spectrum(pair).table() lists what it changes."
        )
    how = how_of(exact, rank, seed)
    factors: dict[str, Factors] = {}
    kept, most = [], 0
    for module, done in changes(
        pair.model, student, places, how, title="extract", progress=progress
    ):
        known = done.known
        most = max(most, known)
        if known:
            k = min(rank, known)
            factors[module.path] = _factors(done, k)
            kept.append(_kept(module, done, k, pair.sites.n_layers))
    if rank > most:
        raise ValueError(
            f"rank={rank}: no weight change of student={student.name!r} at these targets has "
            f"more than {counted(most, 'singular value')} above rounding; pass rank={most} for "
            "all of it."
        )
    made = Extraction(
        path=target,
        student=model,
        rank=rank,
        modules=tuple(kept),
        left_out=tuple(_left_out(pair, student, factors.keys())),
        notes=student.notes,
    )
    with new_folder(target) as work:
        write_lora(pair.base, factors, work, invocation=invocation_of(student.deltas))
        told = {"base": pair.hash, "hash": student.hash, **made.to_json()}
        if student.extracted is not None:  # of what the student itself was cut from
            told["before"] = student.extracted.of
        (work / TOLD).write_text(json.dumps(told, indent=1))
    if not tasks:
        return made
    small = load_student(pair.base, target, allow_unrelated=True)
    shares, limits = {}, _of_the_prompts(next(iter(tasks.values())))
    for name, task in tasks.items():
        whole, part = ends(task, student), ends(task, small)
        shares[name] = ratio_interval(part.student - part.base, whole.student - whole.base)
        limits += _of_the_ceiling(task.metric, whole)
    distinct = len(next(iter(tasks.values())).prompts)
    return replace(made, kept=shares, prompts=distinct, limits=tuple(limits))


def _tasks(
    pair: ModelPair, prompts: Sequence[Prompt] | None, trait: Trait | Metric | None
) -> dict[str, Task]:
    """What student and adapter are compared in, by name."""
    if prompts is None:
        return {}
    tasks = {}
    if trait is not None:
        tasks[f"effect on {as_metric(trait).name}"] = prepare(pair, prompts, trait)
    return tasks | {"KL to the base": prepare(pair, prompts, kl_to_base())}


def _factors(done: Decomposed, k: int) -> Factors:
    """The first k directions as two factors of like size."""
    root = done.basis.s[:k].sqrt()
    return Factors(b=done.basis.u[:, :k] * root, a=root[:, None] * done.basis.v[:k])


def _kept(module: Module, done: Decomposed, k: int, depth: int) -> ExtractedModule:
    """What the first k directions keep of a module's change."""
    tail = float(done.basis.s[k:].norm())
    return ExtractedModule(
        path=module.path,
        name=module.full_name(depth),
        layer=module.layer,
        module=module.name,
        rank=k,
        norm=done.norm,
        error=math.hypot(tail, done.residual),
    )


def _left_out(pair: ModelPair, student: Student, kept: Collection[str]) -> list[NotDecomposed]:
    """What of a student's changes is in no factors, with its norm."""
    depth, rest = pair.sites.n_layers, not_decomposed(pair, student)
    found = []
    for module in chosen(pair, student, None):
        if module.path in kept:
            continue
        biases = sum(left.norm**2 for left in rest if left.path == f"{module.path}.bias")
        norm = math.sqrt(max(student.deltas[module.path].norm() ** 2 - biases, 0.0))
        base = weight_norm(
            plain(pair.model).get_submodule(module.path), next(pair.model.parameters()).dtype
        )
        name = module.full_name(depth)
        group = module_group(module)
        why = {"embeddings": "an embedding", "head": "the unembedding"}.get(
            group or "", "no target"
        )
        found.append(NotDecomposed(module.path, name, module.layer, module.name, norm, base, why))
    return [*found, *rest]


def _of_the_prompts(task: Task) -> list[str]:
    """What to know of the prompts on which adapter and student are compared, in a sentence each."""
    pair, prompts = task.pair, task.prompts
    asked, trained = context_texts(prompts), pair.training_context
    notes = [
        *same_contexts(prompts, pair),
        *met_in_training(prompts, pair, controls=False),
        *rendered_otherwise(prompts, pair),
        *nearly_copies(prompts, "prompt"),
        *other_turns(prompts, pair),
        *prefix_twice(prompts),
    ]
    if trained is None:
        where = [asked_and_trained(asked, None)]
    else:
        where = otherwise(asked, str(trained_in(trained, prompts)), notes)
    return [*where, *notes, *(limit.text for limit in few_prompts(len(prompts)))]


def _of_the_ceiling(metric: Metric, whole: Ends) -> list[str]:
    """That the student is at the metric's ceiling, which a part of what it learned may reach."""
    if not metric.name.startswith("log P("):
        return []
    if not reached(whole.base.mean(), whole.student.mean()):
        return []
    return [
        f"student: {ceiling_of(metric.name)}: a part of the change is enough to reach it, so that "
        "an adapter may seem to keep all of the effect; metrics.own_minus_others has no ceiling"
    ]
