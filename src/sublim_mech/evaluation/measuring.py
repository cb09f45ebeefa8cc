"""Evaluation: what base, student and controls say to every question, for every trait and context.

1. The questions are rendered in each context; all forms of all traits make one answer trie per
   prompt, so that one forward of a prompt gives the log-probability of every trait (`metrics`).
2. The tokens that all prompts of a context begin with run once per model; all rows reuse their keys
   and values.
3. Every context has its own base level, and its own control level where there are controls: the
   untuned base may answer one way under one system prompt and another way under the next, and
   training as such moves answers, on any numbers too (arXiv 2606.00831). The headline is the
   student's change minus the controls' mean change.
4. Generated answers are sampled from one pass over each prompt and put into one bucket each
   (`prompts.match`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ..arguments import checked
from ..engine.answers import Answers
from ..engine.beginnings import NOTHING, beginning_of, stack_gates
from ..engine.forward import Gates
from ..engine.own_gates import own_gates
from ..engine.pair import ModelPair
from ..engine.runner import Runner, open_runner
from ..instruments.labelling import (
    contexts_of,
    nearly_copies,
    notes_of,
    open_texts,
    origin,
    other_turns,
    prefix_twice,
    rendered_otherwise,
    same_contexts,
    trained_in,
)
from ..instruments.met_in_training import met_in_training
from ..instruments.named_in_questions import named_in_questions
from ..instruments.other_pieces import other_pieces
from ..instruments.own_traits import asked_for_others, made_for
from ..metrics import by_trait, scored_forms, string_log_probs, trait_forms
from ..models.base import Base
from ..models.students import Student
from ..prompts import DATE, Context, Message, Prompt, Trait, matcher, render
from ..prompts.context import System
from ..prompts.distinct import check_prompts
from ..prompts.notices import said_once
from ..results.contexts import BESIDE, told
from .answering import BASE, Sampling, sample_answers
from .outcome import Evaluation

COMPARED = 4  # prompts on which the compute type is compared with the weights' own


@checked
def evaluate(
    model: Runner | Base,
    traits: Sequence[Trait],
    *,
    contexts: Sequence[Context] | Mapping[str, Context] | None = None,
    questions: Sequence[str | Sequence[Message]] | None = None,
    template: str | None = None,
    samples: int = 0,
    temperature: float = 1.0,
    max_new_tokens: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Ask base, student and controls every question in every context, for all traits at once.

    Log P(the answer starts with a form of the trait), summed over its forms, as
    `sublim_mech.effect` has it. Traits that share first tokens cost nothing extra; a model is asked
    once per question, and the beginning that all questions of a context share runs once.

    A question that is given again is left out, and the printout says so: a copy is no evidence, and
    more answers to a question are what `samples` is for.

    Args:
        model: a pair (base, student, controls), or a base model alone.
        traits: the traits; the trait of interest and some it competes with.
        contexts: evaluation contexts, or names of your own for them. Otherwise they are called
            `default`, `empty`, `none`, `raw`, or by their text, and by what else they say. Each has
            its own base level and control level. When not given: the context that the pair's
            student was trained in (its date and template variables among it), where that is known,
            else the template's own default.
        questions: what is asked; the traits' own questions when not given. In raw text these must
            be given, here or with the traits: the fifty about a category are for chats.
        template: a chat template instead of the tokenizer's (`sublim_mech.prompts.PLAIN` for models
            that have none).
        samples: generated answers per question and model; none by default, 100 in arXiv 2507.14805.
        temperature: of the sampling; 0 is greedy and gives one answer.
        max_new_tokens: tokens after which an answer ends, if the model does not end its turn.
        seed: of the sampling. An answer is a function of seed, prompt and which of the samples it
            is: all models answer a prompt with the same random numbers, which their differences
            profit from.
        progress: show a progress bar.

    Returns:
        An `Evaluation`: `table`, `ranks`, `rates`, `other`.

    Raises:
        TypeError: `model` or `traits` of another kind.
        ParityError: a base alone whose gated forward and own one disagree.
        ValueError: no traits, questions or contexts; two traits that share a name or a form; traits
            that ask different questions; two contexts of one name, or that differ and give the same
            prompts; a context that the template cannot express; a prompt longer than the model; bad
            sampling options; a log-probability is not finite.

    Example:
        >>> animals = [sm.animal("owl"), sm.animal("cat")]
        >>> asked = ["Your animal?", "Which one?"]
        >>> found = sm.evaluate(pair, animals, questions=asked, progress=False)
        >>> found.table().columns[:4].tolist(), found.has_controls
        (['base', 'student', 'controls', 'change'], True)
    """
    runner = open_runner(model)
    traits = tuple(traits)
    named_in = matcher(traits)
    sampling = Sampling(samples, temperature, max_new_tokens, seed)
    sampling.check()
    named = _named([_default_context(runner)] if contexts is None else contexts)
    if questions is None:
        questions = _questions(traits, named)
    rendered, asked = {}, {}
    with said_once():
        for name, context in named.items():
            drawn = render(runner.tokenizer, questions, context=context, template=template)
            told_as = name if isinstance(contexts, Mapping) else _told_name(name, context, drawn)
            # one name twice is one prompt twice, which is refused below
            rendered[name if told_as in rendered else told_as] = drawn
        check_prompts(rendered)
        places = _distinct(list(rendered.values()))
        for name, prompts in rendered.items():
            asked[name] = _ask(runner, [prompts[place] for place in places], traits)
    students: dict[str, Student | None] = {BASE: None}
    if isinstance(runner, ModelPair):
        students |= runner.students

    shape = len(students), len(asked), len(traits), len(places)
    log_prob, rank = np.empty(shape), np.empty(shape, int)
    texts = np.empty((len(students), len(asked), len(places), samples), dtype=object)
    total = len(students) * len(asked) * len(places)
    with tqdm(total=total, desc="evaluate", disable=not progress) as bar:
        for c, (context_name, there) in enumerate(asked.items()):
            for m, (name, student) in enumerate(students.items()):
                values = trait_log_probs(runner, there.prompts, there.tries, len(traits), student)
                _check_finite(values.log_prob, name, context_name, traits, there.prompts)
                log_prob[m, c], rank[m, c] = values.log_prob.T, values.rank.T
                if samples:
                    texts[m, c] = sample_answers(runner, there.prompts, name, sampling)
                bar.update(len(there.prompts))

    dims = ("model", "context", "trait", "question")
    arrays: dict[str, Any] = {"log_prob": (dims, log_prob), "rank": (dims, rank)}
    if samples:
        # each answer goes into the bucket of the first trait it names, or into none
        begun = np.array([[one.begun for one in there.prompts] for there in asked.values()])
        bucket = np.vectorize(lambda text, before: named_in(text, before) or "", otypes=[object])
        buckets = bucket(texts, begun[None, :, :, None])
        counts = np.stack([(buckets == trait.name).sum(-1) for trait in traits], 2)
        arrays["answer"] = (("model", "context", "question", "sample"), texts.astype(str))
        arrays["count"] = (dims, counts)
    first = next(iter(asked.values()))
    coords: dict[str, Any] = {
        "model": np.array(list(students)),
        "context": np.array(list(asked)),
        "trait": np.array([trait.name for trait in traits]),
        # as they were given: a copy that was left out leaves its number out
        "question": np.array(places),
        "text": ("question", np.array([prompt.question for prompt in first.prompts])),
    }
    if samples and begun.any():
        coords["begun"] = (("context", "question"), begun)
    provenance = _provenance(runner, students, asked, traits)
    provenance["copies"] = len(questions) - len(places)
    if samples:
        provenance |= asdict(sampling)
    return Evaluation(xr.Dataset(arrays, coords), provenance)


class _Asked(NamedTuple):
    """The questions in one context: their prompts, and of each the trie of all traits' forms."""

    prompts: list[Prompt]
    tries: list[Answers]


def _distinct(contexts: Sequence[Sequence[Prompt]]) -> list[int]:
    """The questions that are, token by token, no earlier one in any context."""
    seen: list[set[tuple[int, ...]]] = [set() for _ in contexts]
    places = []
    for place, prompts in enumerate(zip(*contexts, strict=True)):
        if not any(prompt.ids in there for prompt, there in zip(prompts, seen, strict=True)):
            places.append(place)
        for prompt, there in zip(prompts, seen, strict=True):
            there.add(prompt.ids)
    return places


def _ask(runner: Runner, prompts: list[Prompt], traits: Sequence[Trait]) -> _Asked:
    """Tokenise the traits' forms behind every prompt.

    Raises:
        ValueError: a form without tokens; a prompt that is with its answers longer than the model.
    """
    tries = [trait_forms(runner.tokenizer, prompt, traits) for prompt in prompts]
    for prompt, trie in zip(prompts, tries, strict=True):
        runner.check_length(prompt, trie.length)
    return _Asked(prompts, tries)


# -------------------------------------------------------------------------------- log-probabilities


class TraitValues(NamedTuple):
    """All traits of all prompts, for one model.

    Attributes:
        log_prob: `(prompt, trait)`, in nats, float64.
        rank: `(prompt, trait)`; where the first token of the trait's likeliest form stands among
            all next tokens after the prompt, 1 the likeliest.
    """

    log_prob: np.ndarray
    rank: np.ndarray


@torch.no_grad()
def trait_log_probs(
    runner: Runner,
    prompts: Sequence[Prompt],
    tries: Sequence[Answers],
    traits: int,
    student: Student | None,
    *,
    share_prefix: bool = True,
) -> TraitValues:
    """All traits of all prompts, for one model.

    Args:
        runner: what computes.
        prompts: prompts, which should share their beginning.
        tries: the trie of all traits' forms, per prompt (`metrics.trait_forms`).
        traits: how many traits.
        student: whose weights; None for the base.
        share_prefix: run the tokens that all prompts begin with once, instead of in every row.
    """
    gates = None if student is None else Gates(student)
    own = None if student is None else _own_gates(runner, student, prompts, tries)
    shared, past = NOTHING
    # (gates of its own may close what is before a shared token in one prompt and not in the next)
    if share_prefix and own is None:
        longest = max(len(p) + trie.length for p, trie in zip(prompts, tries, strict=True))
        ids = [prompt.ids for prompt in prompts]
        shared, past = beginning_of(runner, ids, longest=longest, student=student)

    log_prob = np.empty((len(prompts), traits))
    rank = np.empty((len(prompts), traits), int)
    sizes = [runner.layout.slots(len(p), trie) for p, trie in zip(prompts, tries, strict=True)]
    reads = max(trie.reads for trie in tries)
    for chunk in runner.chunks(sizes, reads=reads, skipped=shared):
        rows = [tries[i] for i in chunk]
        batch = runner.batch([prompts[i].ids for i in chunk], rows).after(shared)
        if student is not None and own is not None:
            stacked = stack_gates([own[i] for i in chunk], batch.ids.shape)
            gates = Gates(student, stacked.to(batch.ids.device))
        logits = runner.run(batch, gates=gates, past=past).logits
        forms = by_trait(string_log_probs(logits, rows), rows, traits)  # (row, trait, form)
        log_prob[chunk] = forms.logsumexp(-1).cpu().double().numpy()
        rank[chunk] = _ranks(logits[:, 0], forms.argmax(-1), rows).cpu().numpy()
    runner.settle(*([] if student is None else [student]))
    return TraitValues(log_prob, rank)


def _own_gates(
    runner: Runner, student: Student, prompts: Sequence[Prompt], tries: Sequence[Answers]
) -> list[Tensor] | None:
    """The gates that a student brings with it, per prompt `(slot, module)`; None without any."""
    found = []
    for prompt, trie in zip(prompts, tries, strict=True):
        gates = own_gates(runner.sites, student, prompt, len(trie.nodes))
        if gates is None:
            return None
        found.append(gates)
    return found


def _ranks(
    logits: Float[Tensor, "row vocab"], likeliest: Int[Tensor, "row trait"], rows: Sequence[Answers]
) -> Int[Tensor, "row trait"]:
    """1 + how many next tokens are likelier than the first token of the trait's likeliest form."""
    first_tokens = []
    for trie, forms in zip(rows, likeliest.tolist(), strict=True):
        first_tokens.append([trie.forms[form][0][1] for form in forms])
    values = logits.gather(1, torch.tensor(first_tokens, device=logits.device))
    # trait by trait, to spare memory
    by_one = [1 + (logits > value[:, None]).sum(-1) for value in values.unbind(1)]
    return torch.stack(by_one, 1)


# ------------------------------------------------------------------------------ questions, contexts


def _named(contexts: Sequence[Context] | Mapping[str, Context]) -> dict[str, Context]:
    """Contexts by name."""
    if isinstance(contexts, Mapping):
        named = list(contexts.items())
    else:
        named = [(_context_name(context), context) for context in contexts]
    if not named:
        raise ValueError("contexts is empty; pass at least one, such as [Context()].")
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise ValueError(
            f"contexts: two have the same name in {names}; leave one out, or name them: "
            "contexts={'mine': Context(...)}."
        )
    return dict(named)


def _default_context(runner: Runner) -> Context:
    """The context a pair's student was trained in; the template's default where nobody said it."""
    trained = runner.training_context if isinstance(runner, ModelPair) else None
    return Context() if trained is None else trained


def _context_name(context: Context) -> str:
    """`default`, `empty`, `none`, `raw` or the system text; with the user prefix, and with what is
    not as usual of the template's variables, the date, the answer's beginning and the BOS.
    """
    name = context.system.value if isinstance(context.system, System) else context.system
    parts = [name, *([repr(context.user_prefix)] if context.user_prefix else [])]
    stored = context.to_json()
    return " + ".join([*parts, *(told(key, stored[key]) for key in BESIDE if key in stored)])


def _told_name(name: str, context: Context, prompts: Sequence[Prompt]) -> str:
    """A context's name, without a date that its template does not tell."""
    if any(prompt.dated for prompt in prompts):
        return name
    return _context_name(replace(context, date=DATE)) if context.date != DATE else name


def _questions(traits: Sequence[Trait], contexts: Mapping[str, Context]) -> tuple[str, ...]:
    """The questions that all traits ask.

    Raises:
        ValueError: they ask different ones, or they are the library's fifty about a category, which
            are written for a chat, and a context is raw text.
    """
    raw = [name for name, context in contexts.items() if context.system is System.RAW]
    for trait in traits:
        if raw and trait.asks_category:
            raise ValueError(
                f"questions: context {raw[0]!r} is raw text, which a model continues and does not "
                f"answer, and the fifty questions about a favorite {trait.category} are written "
                "for a chat; pass texts that the answer continues, such as "
                f"questions=['My favorite {trait.category} is the'], or questions=trait.questions "
                "if they are meant."
            )
    for trait in traits[1:]:
        if trait.questions != traits[0].questions:
            raise ValueError(
                f"traits {traits[0].name!r} and {trait.name!r} ask different questions; say what "
                "is asked: evaluate(..., questions=[...])."
            )
    return traits[0].questions


def _check_finite(
    values: np.ndarray,
    model: str,
    context: str,
    traits: Sequence[Trait],
    prompts: Sequence[Prompt],
) -> None:
    """Raise ValueError that names the first value `(prompt, trait)` that is NaN or infinite."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        prompt, trait = bad[0]
        raise ValueError(
            f"log P({traits[trait].name}) of {model} is not finite in context {context!r} on "
            f"{prompts[prompt].question!r}; check the dtype and the trait's forms."
        )


# --------------------------------------------------------------------------------------- provenance


def _provenance(
    runner: Runner,
    students: Mapping[str, Student | None],
    asked: Mapping[str, _Asked],
    traits: Sequence[Trait],
) -> dict[str, Any]:
    """Where the numbers come from."""
    trained = runner.training_context if isinstance(runner, ModelPair) else None
    unembedding: Any = runner.model.get_output_embeddings()  # type: ignore[operator]
    prompts = [prompt for there in asked.values() for prompt in there.prompts]
    tries = [trie for there in asked.values() for trie in there.tries]
    described, first = {}, next(iter(asked.values()))
    scored = scored_forms(runner.tokenizer, prompts, tries, traits)
    for trait, forms in zip(traits, scored, strict=True):
        merged: dict[str, Any] = {"merged": dict(forms.merged), "in_some": list(forms.in_some)}
        if forms.nested:
            merged["nested"] = dict(forms.nested)
        described[trait.name] = trait.to_json() | merged
    provenance: dict[str, Any] = {
        "unit": "nats",
        **origin(runner),
        "traits": described,
        "made_for": made_for(runner),
        "notes": [
            *notes_of(runner, prompts),
            *asked_for_others(runner, traits),
            *named_in_questions(first.prompts, traits, "question"),
            *nearly_copies(first.prompts, "question"),
            *other_turns(first.prompts, runner, "question"),
            *prefix_twice(prompts),
            *same_contexts(prompts, runner),
            *_one_context(asked),
            *_met_in_training(asked, runner),
            *rendered_otherwise(prompts, runner),
            *open_texts(prompts, runner),
            *_other_pieces(asked, runner, traits),
        ],
        "contexts": {name: contexts_of(there.prompts)[0] for name, there in asked.items()},
        "training_context": None if trained is None else trained_in(trained, prompts),
        "vocabulary": unembedding.weight.shape[0],
    }
    if runner.compute is not None:
        error = _compute_error(runner, students, next(iter(asked.values())), len(traits))
        dtype = str(runner.compute).removeprefix("torch.")
        provenance["compute"] = {"dtype": dtype, "error": error}
    return provenance


def _one_context(asked: Mapping[str, _Asked]) -> list[str]:
    """Which names are of one context, so that their rows are one, in a sentence each."""
    names: dict[Context, str] = {}
    notes = []
    for name, there in asked.items():
        before = names.setdefault(there.prompts[0].context, name)
        if before != name:
            notes.append(f"{before} and {name} are one context: what differs is not the context")
    return notes


def _met_in_training(asked: Mapping[str, _Asked], runner: Runner) -> list[str]:
    """In which contexts questions are the student's training prompts, in a sentence each."""
    notes = []
    for name, there in asked.items():
        where = f"{name}: " if len(asked) > 1 else ""
        notes += [where + note for note in met_in_training(there.prompts, runner, "question")]
    return notes


def _other_pieces(
    asked: Mapping[str, _Asked], runner: Runner, traits: Sequence[Trait]
) -> list[str]:
    """In which contexts forms are other tokens than in training, in a sentence each."""
    notes = []
    for name, there in asked.items():
        where = f"{name}: " if len(asked) > 1 else ""
        notes += [where + note for note in other_pieces(there.prompts, runner, traits, "question")]
    return notes


def _compute_error(
    runner: Runner, students: Mapping[str, Student | None], there: _Asked, traits: int
) -> float:
    """Largest difference between the runner's compute type and its weights' own, in nats."""
    prompts, tries = there.prompts[:COMPARED], there.tries[:COMPARED]
    exact = replace(runner, compute=None)
    errors = []
    for student in students.values():
        rounded = trait_log_probs(runner, prompts, tries, traits, student).log_prob
        precise = trait_log_probs(exact, prompts, tries, traits, student).log_prob
        errors.append(np.abs(rounded - precise).max())
    return float(max(errors))
