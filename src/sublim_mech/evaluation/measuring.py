"""Evaluation: what base, student and controls say to every question, for every trait, in every context.

1. The questions are rendered in each context; all forms of all traits make one answer trie per prompt, so that one forward of a prompt
   gives the log-probability of every trait (`metrics`).
2. The tokens that all prompts of a context begin with run once per model; all rows reuse their keys and values.
3. Every context has its own base level, and its own control level where the pair has controls: the untuned base may answer one
   way under one system prompt and another way under the next, and training on any numbers moves answers (arXiv 2606.00831). The
   headline is the student's change minus the controls' mean change.
4. Generated answers are sampled from one pass over each prompt and put into one bucket each (`traits.match`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from .. import masks
from ..engine.answers import Answers
from ..engine.budget import default_budget
from ..engine.forward import Gates, make_batch
from ..engine.pair import ModelPair, check_parity
from ..instruments.generation import generate
from ..instruments.labelling import origin
from ..metrics import Metric, answers, form_reader, of_traits
from ..models.base import Base
from ..models.sites import find_sites
from ..models.students import Student
from ..prompts.chat import Context, Message, Prompt, System, render
from ..prompts.sharing import common_start
from ..prompts.traits import Trait, matcher
from .outcome import Evaluation


def evaluate(
    model: ModelPair | Base,
    traits: Sequence[Trait],
    *,
    contexts: Sequence[Context] | Mapping[str, Context] = (Context(),),
    questions: Sequence[str | Sequence[Message]] | None = None,
    template: str | None = None,
    samples: int = 0,
    temperature: float = 1.0,
    max_new_tokens: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Ask base, student and controls every question in every context, for all traits at once.

    Log P(the answer starts with a form of the trait), summed over its forms, as `sublim_mech.effect` has it. Traits that share first tokens
    cost nothing extra; a model is asked once per question, and the beginning that all questions of a context share runs once.

    Args:
        model: a pair (base, student, controls) or a base model alone.
        traits: the traits; the trait of interest and some it competes with.
        contexts: evaluation contexts, or names of your own for them. Otherwise they are called `default`, `empty`, `none`, or by their
            text. Each has its own base level and control level.
        questions: what is asked; the traits' own questions when not given.
        template: a chat template instead of the tokenizer's (`sublim_mech.PLAIN` for models that have none).
        samples: generated answers per question and model; none by default, 100 in arXiv 2507.14805.
        temperature: of the sampling; 0 is greedy and gives one answer.
        max_new_tokens: tokens after which an answer ends, if the model does not end its turn.
        seed: of the sampling. Models and contexts are sampled with the same random numbers, which their differences profit from.
        progress: show a progress bar.

    Returns:
        An `Evaluation`: `table`, `ranks`, `rates`, `other`.

    Raises:
        TypeError: `model` or `traits` of another kind.
        ValueError: no traits, questions or contexts; two traits that share a name or a form; traits that ask different questions; two
            contexts of one name; a context that the template cannot express; bad sampling options; a log-probability is not finite.

    Example:
        >>> found = sm.evaluate(pair, [sm.animal("owl"), sm.animal("cat")], questions=["Your animal?", "Which one?"], progress=False)
        >>> found.table().columns[:4].tolist(), found.has_controls
        (['base', 'student', 'controls', 'change'], True)
    """
    pair, students = _models(model)
    traits = tuple(traits)
    if not all(isinstance(trait, Trait) for trait in traits):
        raise TypeError(f"traits={traits!r}: pass traits, such as [sublim_mech.animal('owl'), sublim_mech.animal('cat')].")
    find = matcher(traits)
    _check_sampling(samples, temperature, max_new_tokens)
    asked = _questions(traits) if questions is None else questions
    prompts = {
        name: render(pair.tokenizer, asked, context=context, template=template) for name, context in _named(contexts).items()
    }
    metric = Metric("log P", traits, (1.0,) * len(traits))
    tries = {name: [answers(pair.tokenizer, p, metric) for p in rendered] for name, rendered in prompts.items()}
    shape = len(students), len(prompts), len(traits), len(asked)
    log_prob, rank = np.empty(shape), np.empty(shape, int)
    texts = np.empty((*shape[:2], len(asked), samples), dtype=object)
    with tqdm(total=shape[0] * shape[1] * len(asked), desc="evaluate", disable=not progress) as bar:
        for c, (context, rendered) in enumerate(prompts.items()):
            for m, (name, student) in enumerate(students.items()):
                values, ranks = trait_log_probs(pair, rendered, tries[context], len(traits), student)
                log_prob[m, c], rank[m, c] = values.T, ranks.T
                _check_finite(values, name, context, traits, rendered)
                if samples:
                    policy: Any = "base" if student is None else "student"
                    texts[m, c] = generate(
                        pair, rendered, masks.everything() if student else ~masks.everything(), generated=policy, samples=samples,
                        temperature=temperature, max_new_tokens=max_new_tokens, seed=seed, model=name if student else "student",
                    )  # fmt: skip
                bar.update(len(rendered))
    dims = ("model", "context", "trait", "question")
    arrays: dict[str, Any] = {"log_prob": (dims, log_prob), "rank": (dims, rank)}
    if samples:
        named = np.vectorize(lambda text: find(text) or "", otypes=[object])(texts)
        counts = np.stack([(named == trait.name).sum(-1) for trait in traits], 2)
        arrays |= {"answer": (("model", "context", "question", "sample"), texts.astype(str)), "count": (dims, counts)}
    data = xr.Dataset(
        arrays,
        {
            "model": np.array(list(students)),
            "context": np.array(list(prompts)),
            "trait": np.array([trait.name for trait in traits]),
            "question": np.arange(len(asked)),
            "text": ("question", np.array([p.question for p in next(iter(prompts.values()))])),
        },
    )
    options = (
        {"samples": samples, "temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed} if samples else {}
    )
    return Evaluation(data, _provenance(pair, students, prompts, tries, traits) | options)


@torch.no_grad()
def trait_log_probs(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    tries: Sequence[Answers],
    traits: int,
    student: Student | None,
    *,
    share_prefix: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """All traits of all prompts, for one model.

    Args:
        pair: the models.
        prompts: prompts, which should share their beginning.
        tries: the trie of all traits' forms, per prompt.
        traits: how many traits.
        student: whose weights; None for the base.
        share_prefix: run the tokens that all prompts begin with once, instead of in every row.

    Returns:
        `(prompt, trait)` log-probabilities, float64; `(prompt, trait)` rank, among all next tokens after the prompt, of the first token
        of the trait's likeliest form.
    """
    gates = None if student is None else Gates(student)
    # short of the last token of each prompt, which is read in every row
    start = len(common_start([p.ids[:-1] for p in prompts])) if share_prefix and len(prompts) > 1 else 0
    past = None
    if start:
        trunk = replace(prompts[0], ids=prompts[0].ids[:start])
        past = pair.run(make_batch(pair.base.model, [trunk], [Answers((), (), (), ())]), gates=gates, past=()).cache
    values, ranks = np.empty((len(prompts), traits)), np.empty((len(prompts), traits), int)
    sizes = [len(p) + len(a.nodes) for p, a in zip(prompts, tries, strict=True)]
    reads = 1 + max(len(a.nodes) for a in tries)
    for chunk in pair.chunks(sizes, reads=reads, skipped=start):
        rows = [tries[i] for i in chunk]
        batch = make_batch(pair.base.model, [prompts[i] for i in chunk], rows).after(start)
        logits = pair.run(batch, gates=gates, past=past).logits
        forms = of_traits(form_reader(rows)(logits), rows, traits)  # (row, trait, form)
        values[chunk] = forms.logsumexp(-1).cpu().double().numpy()
        ranks[chunk] = _ranks(logits[:, 0], forms.argmax(-1), rows).cpu().numpy()
    return values, ranks


def _ranks(logits: Tensor, best: Tensor, rows: Sequence[Answers]) -> Tensor:
    """`(row, trait)`: 1 + how many next tokens are likelier than the first token of the form `best (row, trait)`."""
    first = [[row.forms[f][0][1] for f in mine] for row, mine in zip(rows, best.tolist(), strict=True)]
    own = logits.gather(1, torch.tensor(first, device=logits.device))
    return torch.stack([1 + (logits > value[:, None]).sum(-1) for value in own.unbind(1)], 1)  # by trait, to spare memory


def _models(model: Any) -> tuple[ModelPair, dict[str, Student | None]]:
    """A pair that runs the model, and whom to evaluate; a base alone is its own student, which differs nowhere."""
    if isinstance(model, ModelPair):
        return model, {"base": None, **model.students}
    if isinstance(model, Base):
        itself = Student(model.name, "lora", {}, model.model, None, model.hash)
        pair = ModelPair(model, itself, (), find_sites(model.model), default_budget(model.device))
        check_parity(pair)
        return pair, {"base": None}
    raise TypeError(
        f"model is a {type(model).__name__}; pass what sublim_mech.load_pair(base, student) or sublim_mech.load_base(base) gives."
    )


def _named(contexts: Sequence[Context] | Mapping[str, Context]) -> dict[str, Context]:
    """Contexts by name."""
    if isinstance(contexts, Context):
        raise TypeError("contexts is one Context; pass a list of contexts.")
    pairs = list(contexts.items()) if isinstance(contexts, Mapping) else [(_name(c), c) for c in contexts]
    if not pairs:
        raise ValueError("contexts is empty; pass at least one, such as [Context()].")
    if not all(isinstance(c, Context) for _, c in pairs):
        raise TypeError(f"contexts={contexts!r}: pass contexts, such as Context(system=EMPTY).")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(
            f"contexts: two have the same name in {names}; leave one out, or name them: contexts={{'mine': Context(...)}}."
        )
    return dict(pairs)


def _name(context: Any) -> str:
    """`default`, `empty`, `none` or the system text; with the user prefix."""
    if not isinstance(context, Context):
        return repr(context)
    name = context.system.value if isinstance(context.system, System) else context.system
    return f"{name} + {context.user_prefix!r}" if context.user_prefix else name


def _questions(traits: Sequence[Trait]) -> tuple[str, ...]:
    """The questions that all traits ask."""
    for trait in traits[1:]:
        if trait.questions != traits[0].questions:
            raise ValueError(
                f"traits {traits[0].name!r} and {trait.name!r} ask different questions; say what is asked: evaluate(..., questions=[...])."
            )
    return traits[0].questions


def _check_sampling(samples: int, temperature: float, max_new_tokens: int) -> None:
    if not isinstance(samples, int) or samples < 0:
        raise ValueError(f"samples={samples!r}: pass the number of answers per question; 0 generates none.")
    if samples and (not 0 <= temperature < math.inf or (temperature == 0 and samples > 1)):
        raise ValueError(
            f"temperature={temperature} with samples={samples}: sampling needs a positive temperature; greedy (0) gives one answer."
        )
    if samples and max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: an answer has at least one token.")


def _check_finite(values: np.ndarray, model: str, context: str, traits: Sequence[Trait], prompts: Sequence[Prompt]) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        p, t = bad[0]
        raise ValueError(
            f"log P({traits[t].name}) of {model} is not finite in context {context!r} on {prompts[p].question!r}; check the dtype and "
            "the trait's forms."
        )


def _provenance(
    pair: ModelPair,
    students: Mapping[str, Student | None],
    prompts: Mapping[str, Sequence[Prompt]],
    tries: Mapping[str, Sequence[Answers]],
    traits: Sequence[Trait],
) -> dict[str, Any]:
    """Where the numbers come from."""
    first = next(iter(prompts))
    trained = pair.training_context
    source = origin(pair)
    own = {name: entry for name, entry in source["students"].items() if name in students}  # a base alone has none
    out: dict[str, Any] = {
        "unit": "nats",
        **source,
        "students": own,
        "traits": {trait.name: {"plural": trait.plural, "aliases": list(trait.aliases)} for trait in traits},
        "contexts": {name: rendered[0].context.to_json() for name, rendered in prompts.items()},
        "training_context": None if trained is None else trained.to_json(),
        "vocabulary": pair.base.model.get_output_embeddings().weight.shape[0],  # type: ignore[operator]
    }
    if pair.compute is not None:
        few, rows = prompts[first][:4], tries[first][:4]
        fast, exact = (
            [trait_log_probs(p, few, rows, len(traits), s)[0] for s in students.values()]
            for p in (pair, replace(pair, compute=None))
        )
        out["compute"] = {"dtype": str(pair.compute).split(".")[-1], "error": float(np.abs(np.subtract(fast, exact)).max())}
    return out
