"""Side by side: the same prompts answered by the base, the students, the controls, and by grafts
and hybrids of them, each answer with its log-probability under every one of these models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..arguments import checked
from ..engine.answers import Answers, build_trie
from ..engine.decoding import decode
from ..engine.drawing import Decoding, Request
from ..engine.endings import answer_text, close_ids, end_ids
from ..engine.forward import Gates
from ..engine.own_gates import own_gates, refuse_gates
from ..engine.pair import ModelPair
from ..hints import nearest, renamed
from ..masks import Where, as_mask
from ..metrics import as_metric, string_log_probs
from ..models.students import Student
from ..prompts import Prompt, Trait
from ..prompts.naming import Matcher, matcher
from ..prompts.rendering import answer_tokens
from ..results.beside import COLUMNS, GREEDY, SAMPLED, SideBySide
from ..results.contexts import asked_and_trained, otherwise
from ..results.words import how_drawn
from .generation import graft_gates
from .hybrids import (
    CHOSEN,
    answering_students,
    named,
    part_gates,
    planned,
    refuse_answer_mask,
    refuse_empty,
    refuse_overlap,
)
from .labelling import (
    context_texts,
    notes_of,
    open_texts,
    other_turns,
    prefix_twice,
    rendered_otherwise,
    same_contexts,
    trained_in,
)
from .met_in_training import met_in_training
from .named_in_questions import named_in_questions
from .other_pieces import other_pieces
from .task import Task

BASE = "base"
TOGETHER = 32
"""Answers whose tokens follow a prompt in one forward."""

Ids = tuple[int, ...]


class _Model(NamedTuple):
    """One of the models.

    Attributes:
        what: what computes prompt and answer, in words.
        pair: what runs.
        student: whose gates; None for the base alone.
        gates: per prompt `(token, cell)`.
        behind: per prompt, the gates of the answer's own tokens, `(cell,)`.
    """

    what: str
    pair: ModelPair
    student: Student | None = None
    gates: Sequence[Float[Tensor, "token cell"]] = ()
    behind: Sequence[Float[Tensor, "cell"]] = ()


@checked
def side_by_side(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Sequence[Trait],
    models: Mapping[str, Mapping[str, Where]] | None = None,
    *,
    answer: Mapping[str, str | Sequence[str]] | None = None,
    allow: Literal["sum"] | None = None,
    samples: int = 1,
    temperature: float = 1.0,
    max_new_tokens: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> SideBySide:
    """The same prompts answered by base, student, controls, and grafts and hybrids of them.

    Every model writes one greedy answer per prompt and `samples` sampled ones, all with the same
    random numbers. An answer is scored under every model: the sum of the log-probabilities of its
    tokens as they were written, without the one that ends it, so that it is the probability that an
    answer begins so (as `metrics.target` has it).

    Args:
        pair: base, student, controls, each of which answers.
        prompts: rendered prompts; one that is listed twice is asked once.
        trait: a trait or several: an answer counts for the one that it names first
            (`prompts.match`).
        models: further models by name, each as `hybrid` takes its parts: student -> the cells of
            the prompt at which it computes. One student is a graft, several are a hybrid.
        answer: of these models, which of their students compute the answer's own tokens, with the
            modules of their cells; the base where none is named.
        allow: `sum` lets a cell belong to several students of a hybrid.
        samples: sampled answers per prompt and model; 0 for the greedy ones alone.
        temperature: of the sampling.
        max_new_tokens: tokens after which an answer ends, if the model does not end it.
        seed: of the sampling.
        progress: show a progress bar.

    Returns:
        Answers, counts and log-probabilities; `save` writes them as one page.

    Raises:
        ValueError: no prompts; a name that the pair has already, or an empty one; an `answer` of no
            such model; a model without parts, or whose parts hold no cell that its student changes
            in a prompt; see `hybrid` for several parts; a trait that is called as a column of the
            table (`COLUMNS`); options out of range; a prompt that is with its answer too long.

    Example:
        >>> only_system = {"system only": {"student": sm.masks.role("system")}}
        >>> found = sm.instruments.side_by_side(
        ...     pair, prompts[:1], trait, only_system, samples=0, max_new_tokens=2, progress=False
        ... )
        >>> [name for name in found.models if not name.startswith("control")]
        ['base', 'student', 'system only']
        >>> int(found.table()["answers"].iloc[0])
        1
    """
    traits = [trait] if isinstance(trait, Trait) else list(trait)
    names = check_traits(traits)
    check_options(samples, temperature, max_new_tokens)
    pair.check_prompts(prompts)
    first: dict[Ids, int] = {}
    for place, prompt in enumerate(prompts):
        first.setdefault(prompt.ids, place)
    places = list(first.values())
    asked = [prompts[place] for place in places]
    for prompt in asked:
        pair.check_length(prompt, max_new_tokens, what=" with its answer")
    run = _models(pair, asked, traits[0], models or {}, answer or {}, allow=allow)

    # ways of drawing: (name, how)
    ends = end_ids(pair.model, pair.tokenizer)
    ways = [(GREEDY, Decoding(max_new_tokens, ends))]
    if samples:
        how = Decoding(max_new_tokens, ends, samples, temperature=temperature, seed=seed)
        ways.append((SAMPLED, how))
    with tqdm(total=2 * len(run), desc="side by side", disable=not progress) as bar:
        rows = []
        for name, model in run.items():
            rows += [{"model": name} | row for row in _written(model, asked, ways)]
            bar.update()
        for name, model in run.items():
            for number, prompt in enumerate(asked):
                here = [row for row in rows if row["number"] == number]
                found = _log_probs(model, number, prompt, [row["written"] for row in here])
                for row in here:
                    row[f"log P: {name}"] = found[row["written"]]
            bar.update()

    order = {name: place for place, name in enumerate(run)}
    rows.sort(key=lambda r: (r["number"], r["drawn"], r["sample"], order[r["model"]]))
    table: list[dict[str, Any]] = []
    for row in rows:
        prompt, written = asked[row["number"]], row["written"]
        known: dict[str, Any] = {
            "prompt": places[row["number"]],
            "question": prompt.question,
            "begun": prompt.begun,
            **{key: row[key] for key in ("model", "drawn", "sample", "answer")},
            "names": names(row["answer"], prompt.begun) or "",
            "tokens": len(written),
            "as_target": written == answer_tokens(pair.tokenizer, prompt, row["answer"]),
        }
        table.append(known | {key: row[key] for key in row if key.startswith("log P: ")})
    return SideBySide(
        pd.DataFrame(table),
        {name: model.what for name, model in run.items()},
        tuple(one.name for one in traits),
        tuple(prompt.tokens for prompt in asked),
        (
            how_drawn(samples, temperature, seed, max_new_tokens, greedy=True),
            *_asked(pair, asked),
            *notes_of(pair, asked),
            *named_in_questions(asked, traits),
            *met_in_training(asked, pair),
            *other_turns(asked, pair),
            *prefix_twice(asked),
            *rendered_otherwise(asked, pair),
            *open_texts(asked, pair),
            *other_pieces(asked, pair, traits),
        ),
    )


def _asked(pair: ModelPair, prompts: Sequence[Prompt]) -> list[str]:
    """In which contexts was asked and trained, and what differs."""
    contexts, training = context_texts(prompts), pair.training_context
    trained = None if training is None else trained_in(training, prompts)
    one = same_contexts(prompts, pair)
    where = asked_and_trained(contexts, trained)
    return [where, *otherwise(contexts, trained, one), *one]


# ------------------------------------------------------------------------------------------- models


def _models(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait,
    further: Mapping[str, Mapping[str, Where]],
    answer: Mapping[str, str | Sequence[str]],
    *,
    allow: str | None,
) -> dict[str, _Model]:
    """All models by name, the base first."""
    run = {BASE: _Model(f"{pair.name} ({pair.hash[:12]})", pair)}
    for name, student in pair.students.items():
        gates, behind = [], []
        for prompt in prompts:
            own = own_gates(pair.sites, student, prompt, nodes=1)
            every = torch.ones(len(prompt) + 1, student.width) if own is None else own
            gates.append(every[:-1])
            behind.append(every[-1])
        where = "prompt and answer"
        if student.gates is not None:
            where = f"where its weights were on in training ({student.gates}), the base the rest"
        what = f"{student.name} ({student.hash[:12]}) computes {where}"
        run[name] = _Model(what, pair, student, gates, behind)
    strange = [name for name in answer if name not in further]
    if strange:
        raise ValueError(
            f"answer: {strange[0]!r} is none of models{nearest(strange[0], further) or '.'} Name "
            f"one of {', '.join(map(repr, further)) or 'them'}."
        )
    for name, parts in further.items():
        if name in run or not name.strip():
            raise ValueError(
                f"models: {name!r} is no name for a further model; base, student and controls "
                "answer by themselves, under their own names."
            )
        with renamed({"parts": f"models[{name!r}]", "answer": f"answer[{name!r}]"}):
            if len(parts) == 1:
                run[name] = _graft(pair, prompts, parts, answer.get(name, ()))
            else:
                who = answer.get(name, ())
                run[name] = _joined(pair, prompts, trait, parts, who, allow=allow)
    return run


def _called(pair: ModelPair, student: Student) -> str:
    """What a page calls a student at whatever cells: its own name, or the pair's where several have
    that one.
    """
    everyone = list(pair.students.values())
    names = zip(everyone, pair.part_names(everyone), strict=True)
    return next(name for one, name in names if one is student)


def _graft(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    parts: Mapping[str, Where],
    answer: str | Sequence[str],
) -> _Model:
    """One student at cells of its own."""
    ((name, where),) = parts.items()
    student, mask = named(pair, name, "parts: student"), as_mask(where, CHOSEN)
    refuse_answer_mask(name, mask)
    writes = bool(answering_students(pair, [student], answer))
    gates, behind = [], []
    for prompt in prompts:
        here, after = graft_gates(pair, prompt, mask, student, "mask" if writes else "base")
        if not (bool(here.any()) or bool(after.any())):
            within = "" if student.gates is None else f" within its gates ({student.gates})"
            raise ValueError(
                f"parts: {mask.name!r} holds no cell that {name!r} changes{within} in prompt "
                f"{prompt.question!r}; leave the model or the prompt out."
            )
        gates.append(here)
        behind.append(after)
    who = _called(pair, student) if writes else "the base"
    what = f"{_called(pair, student)} at {mask.name}; answers computed by {who}"
    return _Model(what, pair, student, gates, behind)


def _joined(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait,
    parts: Mapping[str, Where],
    answer: str | Sequence[str],
    *,
    allow: str | None,
) -> _Model:
    """Several students, each at cells of its own (`hybrid`)."""
    whole, plan = planned(pair, parts, answer)
    refuse_gates(plan.students, "a hybrid")
    one = Answers(nodes=(0,), parents=(-1,))  # one token behind each prompt: an answer's
    task = Task(whole, tuple(prompts), (one,) * len(prompts), as_metric(trait))
    chosen = [part_gates(plan, task, number) for number in range(len(prompts))]
    refuse_empty(plan, chosen, task)
    if allow is None:
        refuse_overlap(plan, chosen, task)
    summed = [gates.sum(0) for gates in chosen]
    called = [_called(pair, student) for student in plan.students]
    masks = zip(called, plan.sets, strict=True)
    cells = "; ".join(f"{name} at {mask.name}" for name, mask in masks)
    writers = [name for name, does in zip(called, plan.answers, strict=True) if does]
    what = f"{cells}; answers computed by {', '.join(writers) or 'the base'}"
    gates, behind = [every[:-1] for every in summed], [every[-1] for every in summed]
    return _Model(what, whole, whole.student, gates, behind)


# ------------------------------------------------------------------------------------------ answers


def _requests(model: _Model, prompts: Sequence[Prompt]) -> list[Request]:
    closes = [close_ids(model.pair.tokenizer, prompt) for prompt in prompts]
    if model.student is None:
        return [Request(p.ids, ends=end) for p, end in zip(prompts, closes, strict=True)]
    gated = zip(prompts, model.gates, model.behind, closes, strict=True)
    return [Request(prompt.ids, gates, behind, end) for prompt, gates, behind, end in gated]


def _written(
    model: _Model, prompts: Sequence[Prompt], ways: Sequence[tuple[str, Decoding]]
) -> list[dict[str, Any]]:
    """A model's answers in every way of drawing, each with the tokens that were written."""
    requests, tokenizer = _requests(model, prompts), model.pair.tokenizer
    rows = []
    for drawn, how in ways:
        for number, samples in enumerate(decode(model.pair, requests, how, student=model.student)):
            for sample, ids in enumerate(samples):
                text, written = _as_text(tokenizer, ids, how.ends, prompts[number])
                row = {"number": number, "drawn": drawn, "sample": sample}
                rows.append(row | {"answer": text, "written": written})
    return rows


def _as_text(
    tokenizer: Any, ids: Sequence[int], ends: Sequence[int], prompt: Prompt
) -> tuple[str, Ids]:
    """An answer's text, and the first of its tokens that read as that text."""
    text = answer_text(tokenizer, ids, ends, prompt)
    for length in range(len(ids)):
        if answer_text(tokenizer, ids[:length], ends, prompt) == text:
            return text, tuple(ids[:length])
    return text, tuple(ids)


@torch.no_grad()
def _log_probs(
    model: _Model, number: int, prompt: Prompt, written: Sequence[Ids]
) -> dict[Ids, float]:
    """Log-probability of every answer to a prompt under a model, NaN for the empty one."""
    found: dict[Ids, float] = {(): math.nan}
    paths = [path for path in dict.fromkeys(written) if path]
    for start in range(0, len(paths), TOGETHER):
        some = paths[start : start + TOGETHER]
        trie = build_trie([[path] for path in some])
        batch = model.pair.batch([prompt.ids], [trie])
        gates = None
        if model.student is not None:
            behind = model.behind[number].expand(len(trie.nodes), -1)
            values = torch.cat([model.gates[number], behind])[None]
            gates = Gates(model.student, values.to(batch.ids.device))
        logits = model.pair.run(batch, gates=gates).logits
        log_probs = string_log_probs(logits, [trie])[0].double().tolist()
        found |= dict(zip(some, log_probs, strict=True))
    model.pair.settle(*([] if model.student is None else [model.student]))
    return found


def check_traits(traits: Sequence[Trait]) -> Matcher:
    """What finds the trait that an answer names.

    Raises:
        ValueError: traits that answers cannot tell apart (`prompts.matcher`), or one that is called
            as a column of the table.
    """
    names = matcher(traits)
    taken = [one.name for one in traits if one.name in COLUMNS]
    if taken:
        raise ValueError(f"trait: {taken[0]!r} is a column of the table; name the trait otherwise.")
    return names


def check_options(samples: int, temperature: float, max_new_tokens: int) -> None:
    """Raise ValueError where no answers can be drawn so."""
    if samples < 0:
        raise ValueError(
            f"samples={samples}: pass the number of sampled answers per prompt and model, or 0 for "
            "the greedy ones alone."
        )
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature={temperature}: sampling needs a number above 0; greedy answers are "
            "written anyway, samples=0 leaves out the others."
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: must be at least 1.")
