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
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from . import masks
from .budget import default_budget
from .chat import Context, Message, Prompt, System, render
from .engine import Gates, make_batch
from .files import read_arrays, write_arrays
from .generation import generate
from .metrics import Answers, Metric, answers, form_reader, of_traits
from .models.base import Base
from .models.pair import ModelPair, check_parity
from .models.students import Student
from .sites import find_sites
from .stats import DRAWS, Interval, mean_interval
from .traits import Trait, matcher, words

OTHER = "other"
NO_WORD = "(no word of its own)"
_VALUES = ("log_prob", "rank", "answer", "count")
_EXACT = 8  # students up to which all permutations are taken: 8! = 40,320


# ------------------------------------------------------------------------------------------------------------ the result


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        data: arrays over `model` (`base`, `student`, `control: <name>`), `context`, `trait` and `question`: `log_prob` (nats, forms
            summed), `rank` (1 = the likeliest next token); with generated answers also `answer (model, context, question, sample)` and
            `count` (answers that name the trait). The questions' texts are the coordinate `text (question)`.
        provenance: models and hashes, contexts, traits' forms, seed, versions, command.
    """

    data: xr.Dataset
    provenance: Mapping[str, Any]

    @property
    def has_controls(self) -> bool:
        """Whether students of other traits were evaluated alike."""
        return self.data.sizes["model"] > 2

    @property
    def change(self) -> xr.DataArray:
        """`(model, context, trait, question)`: each student's log-probability minus the base's in the same context, in nats.

        Raises:
            ValueError: a base model alone was evaluated.
        """
        return self._change(self.data["log_prob"])

    @property
    def own_minus_others(self) -> xr.DataArray:
        """`(model, context, trait, question)`: each trait's log-probability minus the mean of the other traits', in nats.

        Raises:
            ValueError: one trait only.
        """
        values = self.data["log_prob"]
        n = values.sizes["trait"]
        if n < 2:
            raise ValueError("one trait was evaluated; own minus others needs at least two: evaluate(pair, [own, *others]).")
        return values - (values.sum("trait") - values) / (n - 1)

    def _change(self, values: xr.DataArray) -> xr.DataArray:
        if self.data.sizes["model"] < 2:
            raise ValueError(
                "a base model alone was evaluated; changes need a student: evaluate(load_pair(base, student), ...)."
            )
        return values.isel(model=slice(1, None)) - values.isel(model=0, drop=True)

    # ------------------------------------------------------------------------------------------------------- tables

    def table(self, *, minus_others: bool = False) -> pd.DataFrame:
        """Log-probabilities, mean over questions, with 95 % bootstrap intervals over questions.

        Args:
            minus_others: of each trait minus the mean of the other traits, instead of the trait itself.

        Returns:
            Per context and trait: `base` (with an interval where there is no student), `student`, `controls` (their mean), `change` =
            student - base, `specific` = change - mean change of the controls.
        """
        values = self.own_minus_others if minus_others else self.data["log_prob"]
        means = values.mean("question")
        columns = {"base": means.isel(model=0)}
        if values.sizes["model"] == 1:
            columns |= _bounds("base", _over_questions(values.isel(model=0)), columns["base"])
        else:
            change = self._change(values)
            columns["student"] = means.sel(model="student")
            estimates = {"change": change.sel(model="student")}
            if self.has_controls:
                columns["controls"] = means.isel(model=slice(2, None)).mean("model")
                estimates["specific"] = estimates["change"] - change.isel(model=slice(1, None)).mean("model")
            for name, x in estimates.items():
                columns[name] = x.mean("question")
                columns |= _bounds(name, _over_questions(x), columns[name])
        return _frame(columns, ("context", "trait"))

    def ranks(self) -> pd.DataFrame:
        """Where the trait's token stands among all next tokens at the first answer position: median over questions.

        The token is the first one of the form that the model finds likeliest; traits whose forms begin with the same token share it.

        Returns:
            Per context, trait and model: `rank` (1 = the likeliest) with its 95 % bootstrap interval over questions, and `percentile` of
            the median (the share of the other tokens that rank below, in per cent).
        """
        rank = self.data["rank"].transpose("question", "model", "context", "trait")
        low, high = _median_bounds(rank.values.astype(float))
        middle = rank.median("question")
        below = 100 * (self.provenance["vocabulary"] - middle) / (self.provenance["vocabulary"] - 1)
        columns = {"rank": middle, "low": middle.copy(data=low), "high": middle.copy(data=high), "percentile": below}
        return _frame(columns, ("context", "trait", "model"))

    def rates(self) -> pd.DataFrame:
        """How many generated answers name each trait, and how many none (`other`).

        Two 95 % intervals: `wilson` takes all samples as independent (Wilson 1927, doi:10.1080/01621459.1927.10502953); `cluster`
        resamples the questions with all their samples, and is the one to believe where questions differ; it is a single point where
        all questions agree (no answer at all names the trait). Neither covers other training seeds.

        Returns:
            Per context, trait and model: `answers`, `count`, `rate`, `wilson low`, `wilson high`, `cluster low`, `cluster high`.

        Raises:
            ValueError: no answers were generated.
        """
        counts, samples = self._counts()
        rate = counts / samples
        total = counts.sum("question")
        n = samples * counts.sizes["question"]
        wide = [wilson(int(k), n) for k in total.values.ravel()]
        low, high = (total.copy(data=np.array(x).reshape(total.shape)) for x in zip(*wide, strict=True))
        columns = {
            "answers": xr.full_like(total, n),
            "count": total,
            "rate": rate.mean("question"),
            "wilson low": low,
            "wilson high": high,
            **_bounds("cluster", _over_questions(rate), total),
        }
        return _frame(columns, ("context", "trait", "model"))

    def other(self, k: int = 10) -> pd.DataFrame:
        """What the answers that name no trait say instead.

        Args:
            k: the most frequent words kept per context and model.

        Returns:
            Per context, model and word: `answers` that hold it, and their `share` of the answers that name no trait. Words of the question
            and common ones (`the`, `my`) do not count; an answer of nothing else counts as `(no word of its own)`.

        Raises:
            ValueError: no answers were generated.
        """
        self._counts()
        find = _finder(self.provenance["traits"])
        texts = self.data["text"].values.tolist()
        rows = []
        for context in self.data["context"].values.tolist():
            for model in self.data["model"].values.tolist():
                said = self.data["answer"].sel(model=model, context=context).transpose("question", "sample").values.tolist()
                counts, n = Counter[str](), 0
                for question, answered in zip(texts, said, strict=True):
                    asked = set(words(question))
                    for text in answered:
                        if find(text) is None:
                            n += 1
                            counts.update(set(words(text)) - asked or {NO_WORD})
                ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
                rows += [(context, model, word, count, count / n) for word, count in ranked[:k]]
        return pd.DataFrame(rows, columns=["context", "model", "word", "answers", "share"]).set_index(
            ["context", "model", "word"]
        )

    def trait_matrix(self, own: Mapping[str, str], *, context: str | None = None, seed: int = 0) -> TraitMatrix:
        """The trait matrix of this pair's students: do they raise their own trait beyond what they and the trait do anyway?

        Args:
            own: model -> the trait its teacher had, for at least two of the pair's students.
            context: which context; may be left out where there is one.
            seed: of the resampling.

        Raises:
            ValueError: unknown names, or a context must be chosen; see `trait_matrix`.

        Example:
            >>> found = evaluate(pair, [animal("owl"), animal("cat")], questions=["Your animal?", "Which one?"], progress=False)
            >>> found.trait_matrix({"student": "owl", "control: cat": "cat"}).names
            ('owl', 'cat')
        """
        contexts = self.data["context"].values.tolist()
        if context is None and len(contexts) == 1:
            context = contexts[0]
        if context not in contexts:
            raise ValueError(f"context={context!r}: choose one of {', '.join(map(repr, contexts))}.")
        change = self.change.sel(context=context)
        for field, wanted, known in (("models", own, change["model"]), ("traits", own.values(), change["trait"])):
            unknown = [x for x in wanted if x not in known.values.tolist()]
            if unknown:
                raise ValueError(f"own: no {field} {unknown} here; choose from {', '.join(known.values.tolist())}.")
        square = change.sel(model=list(own), trait=list(own.values())).transpose("model", "trait", "question")
        return trait_matrix(square.values, names=tuple(own.values()), seed=seed)

    def _counts(self) -> tuple[xr.DataArray, int]:
        """Answers per trait and `other`, and samples per question."""
        if "answer" not in self.data:
            raise ValueError("no answers were generated; ask for them: evaluate(..., samples=100).")
        counts, samples = self.data["count"], self.data.sizes["sample"]
        rest = (samples - counts.sum("trait")).expand_dims({"trait": [OTHER]})
        return xr.concat([counts, rest.transpose(*counts.dims)], "trait"), samples

    # -------------------------------------------------------------------------------------------------------- files, display

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; labels, answers and provenance stand in its metadata."""
        arrays, labels = {}, {}
        for name, variable in self.data.variables.items():
            labels[str(name)] = {"dims": variable.dims}
            if variable.dtype.kind in "fiu":
                arrays[str(name)] = variable.values
            else:
                labels[str(name)]["values"] = variable.values.tolist()
        write_arrays(path, arrays, "evaluation", {"provenance": dict(self.provenance), "variables": labels})

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file; damaged, or not an evaluation.
        """
        arrays, meta = read_arrays(path, "evaluation")
        variables = {
            name: (
                tuple(entry["dims"]),
                arrays[name] if name in arrays else np.array(entry["values"], dtype=object).astype(str),
            )
            for name, entry in meta["variables"].items()
        }
        values = {name: variables.pop(name) for name in _VALUES if name in variables}
        return cls(xr.Dataset(values, variables), meta["provenance"])

    def __repr__(self) -> str:
        sizes, models = self.data.sizes, self.data["model"].values.tolist()
        lines = [
            f"evaluation of {', '.join(models)}: {sizes['trait']} traits x {sizes['question']} questions x {sizes['context']} contexts"
        ]
        if len(models) == 2:
            lines.append("no controls given: part of any change may come from training on any numbers")
        lines.append(
            "log P in nats, mean over questions"
            + (" (one question: no intervals)" if sizes["question"] == 1 else " [95 % over questions]")
        )
        compute = self.provenance.get("compute")
        if compute is not None:
            lines.append(f"computed in {compute['dtype']}: log P off by up to {compute['error']:.2g} nats")
        table = self.table()
        if sizes["trait"] > 1:
            others = self.table(minus_others=True)
            name = next(c for c in ("specific", "change", "base") if c in others)
            for end in ("", " low", " high"):
                table[f"own - others{end}"] = others[name + end]
            lines.append(f"own - others: {name} of the trait minus the mean of the other traits")
        lines.append(_readable(table))
        if "answer" in self.data:
            n = sizes["question"] * sizes["sample"]
            lines += ["", f"% of {n} generated answers [95 %, outer ends of Wilson's and the cluster interval]"]
            rates = 100 * self.rates()
            shown = pd.DataFrame({"rate": rates["rate"]})
            shown["rate low"] = rates[["wilson low", "cluster low"]].min(
                axis=1
            )  # no answer in 100: the cluster interval is a point
            shown["rate high"] = rates[["wilson high", "cluster high"]].max(axis=1)
            wide = _with_intervals(shown, 1)["rate"].unstack("model", sort=False)
            lines.append(_short(wide).to_string())
        return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------- measuring


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
        >>> from sublim_mech.evaluation import evaluate
        >>> from sublim_mech.traits import animal
        >>> found = evaluate(pair, [animal("owl"), animal("cat")], questions=["Your animal?", "Which one?"], progress=False)
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
    start = _common(prompts) if share_prefix and len(prompts) > 1 else 0
    past = None
    if start:
        trunk = replace(prompts[0], ids=prompts[0].ids[:start])
        past = pair.run(make_batch(pair.base.model, [trunk], [Answers((), (), (), ())]), gates=gates, past=()).cache
    values, ranks = np.empty((len(prompts), traits)), np.empty((len(prompts), traits), int)
    sizes = [len(p) + len(a.nodes) for p, a in zip(prompts, tries, strict=True)]
    reads = 1 + max(len(a.nodes) for a in tries)
    order = sorted(range(len(prompts)), key=lambda i: -sizes[i])
    while order:
        longest = sizes[order[0]]
        fit = pair.rows(slots=longest - start, keys=longest, reads=reads)
        chunk, order = order[:fit], order[fit:]
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


def _common(prompts: Sequence[Prompt]) -> int:
    """How many tokens all prompts begin with, short of the last token of the shortest: that one is read in every row."""
    n = 0
    for column in zip(*(p.ids[:-1] for p in prompts), strict=False):
        if len(set(column)) > 1:
            break
        n += 1
    return n


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
    out: dict[str, Any] = {
        "unit": "nats",
        "base": {"name": pair.base.name, "hash": pair.base.hash},
        "students": {
            name: {"name": s.name, "kind": s.kind, "hash": s.hash, "teacher": s.manifest.teacher if s.manifest else "unknown"}
            for name, s in students.items()
            if s is not None
        },
        "traits": {trait.name: {"plural": trait.plural, "aliases": list(trait.aliases)} for trait in traits},
        "contexts": {name: rendered[0].context.to_json() for name, rendered in prompts.items()},
        "training_context": None if trained is None else trained.to_json(),
        "vocabulary": pair.base.model.get_output_embeddings().weight.shape[0],  # type: ignore[operator]
        "versions": {name: version(name) for name in ("sublim_mech", "torch", "transformers", "peft")},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    if pair.compute is not None:
        few, rows = prompts[first][:4], tries[first][:4]
        fast, exact = (
            [trait_log_probs(p, few, rows, len(traits), s)[0] for s in students.values()]
            for p in (pair, replace(pair, compute=None))
        )
        out["compute"] = {"dtype": str(pair.compute).split(".")[-1], "error": float(np.abs(np.subtract(fast, exact)).max())}
    return out


def _finder(traits: Mapping[str, Mapping[str, Any]]) -> Any:
    return matcher([Trait(name, plural=t["plural"], aliases=tuple(t["aliases"])) for name, t in traits.items()])


# ------------------------------------------------------------------------------------------------------- several students


@dataclass(frozen=True, eq=False)
class TraitMatrix:
    """K students against K traits; student i was made for trait i.

    Attributes:
        matrix: `(student, trait)` mean change over questions.
        residual: the same without row and column effects (rows and columns sum to 0).
        gamma: the diagonal excess: mean of the diagonal minus mean of the rest, which no row or column effect moves.
        low, high: its 95 % bootstrap interval over questions (not over training seeds).
        p: one-sided permutation p-value.
        permutations: assignments of students to traits compared; all K! where `exact`.
        exact: whether all were.
        names: of the traits.
    """

    matrix: np.ndarray
    residual: np.ndarray
    gamma: float
    low: float
    high: float
    p: float
    permutations: int
    exact: bool
    names: tuple[str, ...]

    def table(self, *, residual: bool = False) -> pd.DataFrame:
        """Students as rows, traits as columns; with `residual` without row and column effects."""
        return pd.DataFrame(self.residual if residual else self.matrix, pd.Index(self.names, name="student"), list(self.names))

    def __repr__(self) -> str:
        k = len(self.names)
        least = f"; {k} students cannot give less than {1 / math.factorial(k):.2g}" if self.exact and k < 4 else ""
        bounds = (
            "one question: no interval" if math.isnan(self.low) else f"95 % {self.low:+.2f} to {self.high:+.2f} over questions"
        )
        return (
            f"{self.table().to_string(float_format='{:+.2f}'.format)}\n"
            f"diagonal excess gamma {self.gamma:+.2f} ({bounds}), permutation p = {self.p:.2g} of {self.permutations} "
            f"{'(all)' if self.exact else '(random)'} assignments{least}"
        )


def trait_matrix(values: Any, *, names: Sequence[str] = (), seed: int = 0, draws: int = 10_000) -> TraitMatrix:
    """The diagonal excess of K students of K traits: is each student's own trait raised beyond what rows and columns explain?

    `x[i, j] = mean + student[i] + trait[j] + gamma [i = j]`: a student that raises all animals, or an animal that all students raise,
    is no transmission. The least-squares gamma is the mean of the diagonal minus the mean of the rest. Under the null which student
    was made for which trait does not matter, so p is the share of assignments whose gamma is at least as large.

    Args:
        values: `(student, trait, question)` changes of log-probability; student i belongs to trait i.
        names: of the traits; numbers when not given.
        seed: of the resampling, and of random assignments.
        draws: random assignments where there are more than 8 students (otherwise all are taken).

    Raises:
        ValueError: another shape, fewer than two students, no questions, values that are not finite, or a wrong number of names.

    Example:
        >>> from sublim_mech.evaluation import trait_matrix
        >>> found = trait_matrix([[[0.28], [-0.45]], [[-0.12], [0.21]]], names=["owl", "penguin"])
        >>> round(found.gamma, 2), found.p
        (0.53, 0.5)
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 3 or x.shape[0] != x.shape[1] or x.shape[0] < 2 or x.shape[2] < 1:
        raise ValueError(
            f"values has shape {x.shape}; pass (student, trait, question) with as many students as traits, at least two."
        )
    if not np.isfinite(x).all():
        raise ValueError("values holds NaN or infinite numbers; leave out what was not measured.")
    k = len(x)
    names = tuple(map(str, names)) or tuple(map(str, range(k)))
    if len(names) != k:
        raise ValueError(f"names has {len(names)} entries for {k} traits; give one per trait.")
    own = np.eye(k, dtype=bool)
    each = x[own].mean(0) - x[~own].mean(0)  # (question,)
    interval = mean_interval(each, seed=seed)
    mean = x.mean(2)
    exact = k <= _EXACT
    rng = np.random.default_rng(seed)
    tried = np.array(list(permutations(range(k)))) if exact else rng.permuted(np.tile(np.arange(k), (draws, 1)), axis=1)
    # row and column sums are the same for every assignment, so gamma grows with the sum of the assigned cells alone
    sums, mine = mean[np.arange(k), tried].sum(1), np.trace(mean)
    reached = int((sums >= mine - 1e-12 * max(1.0, float(np.abs(mean).sum()))).sum())  # ties count, whatever the rounding
    return TraitMatrix(
        matrix=mean,
        residual=mean - mean.mean(0) - mean.mean(1, keepdims=True) + mean.mean(),
        gamma=float(interval.mean),
        low=float(interval.low),
        high=float(interval.high),
        p=reached / len(tried) if exact else (reached + 1) / (draws + 1),
        permutations=len(tried),
        exact=exact,
        names=names,
    )


# -------------------------------------------------------------------------------------------------------------- numbers


def wilson(count: int, n: int, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Args:
        count: successes.
        n: independent trials.
        z: standard normal quantile; that of 95 %.

    Raises:
        ValueError: no trials, or a count outside them.
    """
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"wilson(count={count}, n={n}): needs 0 <= count <= n and at least one trial.")
    p, shrink = count / n, 1 + z**2 / n
    middle, half = (p + z**2 / (2 * n)) / shrink, z / shrink * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (0.0 if count == 0 else middle - half), (1.0 if count == n else middle + half)


def _over_questions(x: xr.DataArray) -> Interval:
    return mean_interval(x.transpose("question", ...).values)


def _bounds(name: str, interval: Interval, like: xr.DataArray) -> dict[str, xr.DataArray]:
    """Columns `<name> low` and `<name> high`."""
    return {f"{name} low": like.copy(data=interval.low), f"{name} high": like.copy(data=interval.high)}


def _median_bounds(x: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile-bootstrap interval of the median over the first axis; NaN for a single question."""
    if len(x) < 2:
        return np.full(x.shape[1:], np.nan), np.full(x.shape[1:], np.nan)
    drawn = np.random.default_rng(seed).integers(len(x), size=(DRAWS, len(x)))
    flat = x.reshape(len(x), -1)
    bounds = np.array([np.percentile(np.median(cell[drawn], axis=1), [2.5, 97.5]) for cell in flat.T])
    return bounds[:, 0].reshape(x.shape[1:]), bounds[:, 1].reshape(x.shape[1:])


def _frame(columns: Mapping[str, xr.DataArray], index: tuple[str, ...]) -> pd.DataFrame:
    """Arrays of the same labels as columns, in the order of the labels."""
    first = next(iter(columns.values())).transpose(*index)
    labels = pd.MultiIndex.from_product([first[d].values.tolist() for d in index], names=index)
    return pd.DataFrame({name: x.transpose(*index).values.ravel() for name, x in columns.items()}, labels)


def _with_intervals(table: pd.DataFrame, decimals: int) -> pd.DataFrame:
    """Columns `x`, `x low`, `x high` as one column of text."""
    out = {}
    for name in table.columns:
        if not name.endswith((" low", " high")):
            shown = [f"{v:.{decimals}f}" for v in table[name]]
            if f"{name} low" in table and not table[f"{name} low"].isna().all():
                ends = zip(table[f"{name} low"], table[f"{name} high"], strict=True)
                shown = [f"{v} [{low:.{decimals}f}, {high:.{decimals}f}]" for v, (low, high) in zip(shown, ends, strict=True)]
            out[name] = shown
    return pd.DataFrame(out, table.index)


def _readable(table: pd.DataFrame) -> str:
    """The table with intervals in brackets; long system prompts shortened."""
    return _short(_with_intervals(table, 2)).to_string()


def _short(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(index=lambda text: text if len(text) <= 30 else f"{text[:29]}…", level="context")
