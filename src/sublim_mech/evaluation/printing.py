"""An evaluation as text: what was asked of whom, a table of log P, a table of rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ..hints import counted
from ..results.contexts import NOT_GIVEN, otherwise, several_in_words
from ..results.limits_of_students import few_prompts, uncontrolled
from ..results.record import Forms
from ..results.report import forms_in_words
from ..results.words import how_drawn
from .limits import at_the_ceiling, of_the_controls, short_contexts

if TYPE_CHECKING:
    from .outcome import Evaluation


def described(evaluation: Evaluation) -> str:
    """What an evaluation prints."""
    sizes = evaluation.data.sizes
    models = evaluation.data["model"].values.tolist()
    provenance = evaluation.provenance
    copies = provenance.get("copies", 0)
    questions = counted(sizes["question"] + copies, "question")
    if copies:
        questions += f" ({sizes['question']} distinct)"
    lines = [
        f"evaluation of {', '.join(models)}: {counted(sizes['trait'], 'trait')} x {questions} x "
        f"{counted(sizes['context'], 'context')}"
    ]
    lines += _provenance(evaluation)
    if len(models) == 2:
        students = list(provenance.get("students", {}).values())
        lines.append(f"no controls given: {uncontrolled(students, 'change')}")
    lines += [*left_out(evaluation), *provenance.get("notes", [])]
    intervals = " [95 % over questions]" if sizes["question"] > 1 else ""
    lines.append(f"log P in nats, mean over questions{intervals}")
    few = [limit.text for limit in few_prompts(sizes["question"], "question")]
    if sizes["question"] == 1 and "answer" in evaluation.data:
        few = [f"{few[0]} over questions; those of rates are over its answers alone"]
    lines += few
    lines += [*of_the_controls(evaluation), *at_the_ceiling(evaluation)]
    lines += [*rounded(evaluation), *_log_probs(evaluation)]
    if "answer" in evaluation.data:
        lines += ["", *_rates(evaluation)]
    return "\n".join(lines)


def left_out(evaluation: Evaluation) -> list[str]:
    """That copies of questions were left out."""
    copies = evaluation.provenance.get("copies", 0)
    if not copies:
        return []
    return [
        f"{copies} of {evaluation.data.sizes['question'] + copies} questions "
        f"{'is a copy' if copies == 1 else 'are copies'} of others, token by token: left out, "
        "for copies are no evidence"
    ]


def rounded(evaluation: Evaluation) -> list[str]:
    """How far off log-probabilities may be, where they were computed in a coarser type."""
    compute = evaluation.provenance.get("compute")
    if compute is None:
        return []
    return [f"computed in {compute['dtype']}: log P off by up to {compute['error']:.2g} nats"]


def below_a_matrix(evaluation: Evaluation) -> list[str]:
    """What limits the changes of an evaluation in one context, without what is of its headline:
    where was asked, who its students are, over how many questions, and ceilings.
    """
    traits = evaluation.data["trait"].values.tolist()
    overlapping = [
        forms for forms in _forms(evaluation) if forms.trait in traits and _overlap(forms)
    ]
    return [
        *forms_in_words(overlapping),
        *where_asked(evaluation, evaluation.data["context"].values.tolist()),
        *left_out(evaluation),
        *evaluation.provenance.get("notes", []),
        *(limit.text for limit in few_prompts(evaluation.data.sizes["question"], "question")),
        *at_the_ceiling(evaluation),
        *rounded(evaluation),
    ]


def _overlap(forms: Forms) -> bool:
    """Whether some forms are parts of others."""
    return bool(forms.merged or forms.nested)


def _provenance(evaluation: Evaluation) -> list[str]:
    """The forms that were scored and the contexts; nothing of files older than these fields."""
    traits = _forms(evaluation)
    if not traits:
        return []
    contexts = list(evaluation.provenance["contexts"])
    return [*forms_in_words(traits), *where_asked(evaluation, contexts)]


def _forms(evaluation: Evaluation) -> list[Forms]:
    """The forms that were scored; none of files older than these fields."""
    traits = []
    for name, entry in evaluation.provenance["traits"].items():
        if "merged" in entry:
            scored = tuple(entry["forms"])
            in_some, nested = tuple(entry["in_some"]), entry.get("nested", {})
            traits.append(Forms(name, scored, entry["merged"], in_some, nested))
    return traits


def where_asked(evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    """In which of its contexts was asked and in which trained, and what differs between these;
    nothing of files older than these fields.
    """
    provenance = evaluation.provenance
    contexts = {name: provenance["contexts"][name] for name in names if "contexts" in provenance}
    if not contexts:
        return []
    asked, names = list(contexts.values()), []
    for name, context in contexts.items():
        system = context.get("system", {})
        own_name = name.startswith(str(system.get("kind", system.get("text"))))
        names.append("" if own_name else name)
    alone = evaluation.data.sizes["model"] == 1  # a base, which was trained by nobody here
    trained = None if alone else provenance["training_context"]
    words = several_in_words([*asked, *([] if trained is None else [trained])])
    where = NOT_GIVEN if trained is None else f"trained in: {words[-1]}"
    end = "" if alone else f"; {where}"
    called, notes = short_contexts(list(contexts)), provenance.get("notes", ())
    lines = []
    for (key, context), told, name in zip(contexts.items(), words, names, strict=False):
        unlike = otherwise([context], trained, notes)
        shown = f"{name} = {told}" if name else told
        if len(asked) == 1:
            return [f"asked in: {shown}{end}", *unlike]
        lines += [f"  {shown}", *(f"  {called[key]}: {line}" for line in unlike)]
    return [f"asked in {len(asked)} contexts{end}", *lines]


def _log_probs(evaluation: Evaluation) -> list[str]:
    """The table of log P, with the headline of own minus others beside it."""
    table = evaluation.table()
    lines = []
    if evaluation.data.sizes["trait"] > 1:
        others = evaluation.table(minus_others=True)
        headline = next(name for name in ("specific", "change", "base") if name in others)
        for end in ("", " low", " high"):
            table[f"own - others{end}"] = others[headline + end]
        lines.append(f"own - others: {headline} of the trait minus the mean of the other traits")
    return [*lines, _short(_with_intervals(table, 2)).to_string()]


def _rates(evaluation: Evaluation) -> list[str]:
    """The table of rates, models side by side."""
    sizes = evaluation.data.sizes
    answers = sizes["question"] * sizes["sample"]
    rates = 100 * evaluation.rates()
    shown = pd.DataFrame({"rate": rates["rate"]})
    # of no answer in 100 the cluster interval is a point, so the outer ends of both are shown
    shown["rate low"] = rates[["wilson low", "cluster low"]].min(axis=1)
    shown["rate high"] = rates[["wilson high", "cluster high"]].max(axis=1)
    side_by_side = _with_intervals(shown, 1)["rate"].unstack("model", sort=False)
    what = "outer ends of Wilson's and the cluster interval"
    if sizes["question"] == 1:  # of which a cluster interval is none
        what = "Wilson's over the answers to one question"
    return [
        f"% of {counted(answers, 'generated answer')} [95 %, {what}]",
        *_how_drawn(evaluation),
        _short(side_by_side).to_string(),
    ]


def _how_drawn(evaluation: Evaluation) -> list[str]:
    """How answers were drawn, in the words of `side_by_side`; nothing of files that do not say."""
    told = evaluation.provenance
    if "temperature" not in told:
        return []
    greedy = told["temperature"] == 0
    samples = 0 if greedy else told["samples"]
    how = samples, told["temperature"], told["seed"], told["max_new_tokens"]
    return [how_drawn(*how, greedy=greedy)]


def _with_intervals(table: pd.DataFrame, decimals: int) -> pd.DataFrame:
    """Columns `x`, `x low`, `x high` as one column of text."""
    text_columns = {}
    for name in table.columns:
        if name.endswith((" low", " high")):
            continue
        shown = [f"{value:z.{decimals}f}" for value in table[name]]
        if f"{name} low" in table and not table[f"{name} low"].isna().all():
            ends = zip(shown, table[f"{name} low"], table[f"{name} high"], strict=True)
            shown = [f"{v} [{low:z.{decimals}f}, {high:z.{decimals}f}]" for v, low, high in ends]
        text_columns[name] = shown
    return pd.DataFrame(text_columns, table.index)


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """Long system prompts, which name contexts, shortened."""
    names = table.index.get_level_values("context").unique()
    return table.rename(index=short_contexts(list(names)), level="context")
