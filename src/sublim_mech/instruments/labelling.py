"""Labelling: from measured arrays to `Scores`, with the coordinates of prompts and positions and
where the numbers come from.

No model runs here: whatever had to be measured is handed in.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ..engine.answers import Answers
from ..engine.pair import ModelPair
from ..engine.runner import Runner
from ..hints import counted
from ..masks import AnswerMask, Mask
from ..metrics import LogitDifference, Metric, Rank, Target, TraitMetric, scored_forms
from ..models.chat_templates import TRAINED_OTHERWISE, as_in_training
from ..models.students import Student
from ..prompts import ANSWER, CLASSES, DATE, UNIONS, Context, Prompt, Trait, mark_sharing
from ..prompts.alike import by_another
from ..prompts.context import System
from ..prompts.naming import Named
from ..prompts.rendering import ends_inside, has_prefix_twice
from ..prompts.same import are_asked_in, is_one_context
from ..prompts.shared import user_messages
from ..results.arrays import CONTEXT, name_layers
from ..results.contexts import AS_TRAINED, OTHERWISE, SAME, THIS_TEXT, TURNS, in_words
from ..results.identity import content, with_digest
from ..results.record import (
    AS_TRAINED_TEMPLATE,
    ITS_TEMPLATE,
    ONE_VALUE,
    OPEN_TEXT,
    OTHER_MARKS,
    OTHER_TEMPLATE,
    UNTRAINED_TEMPLATE,
    BaseSource,
    Forms,
    Record,
    StudentSource,
)
from ..results.scores import Scores
from .met_in_training import met_in_training
from .named_in_questions import named_in_questions
from .other_pieces import other_pieces
from .own_traits import asked_for_others, of_metric
from .task import Measured, Task


def label(
    measured: Measured,
    kind: str,
    dims: Sequence[str],
    *,
    coords: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    **options: Any,
) -> Scores:
    """Name the axes and note where the numbers come from.

    Args:
        measured: what `walk` gave.
        kind: one of `results.kinds.KINDS`.
        dims: names of the axes after `model`, `prompt` first.
        coords: coordinates of the axes after `prompt`.
        notes: what to know before trusting a number, beside what is known of pair and prompts.
        options: what the instrument was asked for, by the record's fields.
    """
    task, pair = measured.task, measured.task.pair
    positions: dict[str, Any] = {}
    if "position" in dims or "span" in dims:
        positions = position_coords(task.prompts, task.answers, pair.tokenizer.decode)
    data = xr.Dataset(
        {
            "effect": (("model", *dims), measured.effect),
            "base": (("model", "prompt"), measured.base),
            "student": (("model", "prompt"), measured.student),
            **{
                name: (("model", "prompt", "layer")[: values.ndim], values)
                for name, values in measured.told.items()
            },
        },
        {
            "model": np.array(list(pair.students)),
            # as they were given: a copy that was left out leaves its number out
            "prompt": np.array(task.places),
            "question": ("prompt", np.array([prompt.question for prompt in task.prompts])),
            **context_coord(task.prompts),
            **positions,
            **(coords or {}),
        },
    )
    n_layers = pair.sites.n_layers
    source, trained = origin(pair), pair.training_context
    record = Record(
        metric=task.metric.name,
        unit=task.metric.unit,
        base=BaseSource(**source["base"], dtype=str(pair.dtype).removeprefix("torch.")),
        students={name: StudentSource(**entry) for name, entry in source["students"].items()},
        contexts=context_texts(task.prompts),
        measured=content(task.metric),
        forms=forms_of(task),
        training_context=None if trained is None else str(trained_in(trained, task.prompts)),
        copies=task.copies,
        unread=task.unread,
        notes=(
            *notes_of(pair, task.prompts),
            *asked_for_others(pair, of_metric(task.metric)),
            *named_in_questions(task.prompts, scored_by(task.metric)),
            *nearly_copies(task.prompts, "prompt"),
            *other_turns(task.prompts, pair),
            *prefix_twice(task.prompts),
            *same_contexts(task.prompts, pair),
            *met_in_training(task.prompts, pair),
            *(_marked_otherwise(task.prompts, pair, data) or _told_from(pair, data)),
            *rendered_otherwise(task.prompts, pair),
            *open_texts(task.prompts, pair),
            *other_pieces(task.prompts, pair, scored_by(task.metric)),
            *metric_notes(task),
            *_unlike_bases(measured),
            *_one_value(measured),
            *notes,
        ),
        n_layers=n_layers,
        versions=source["versions"],
        command=source["command"],
        compute=measured.compute,
        **options,
    )
    return Scores(name_layers(data, n_layers), kind, record)


def cells_chosen(sets: Mapping[str, Mask], task: Task) -> dict[str, str]:
    """What sets of cells are, by their names in scores, as texts for `Record.sets`: sets of one
    name may be others, and masks of other names the same.
    """
    modules = task.pair.cells()

    def chosen(mask: Mask, prompt: Prompt) -> bytes:
        cells = mask.modules if isinstance(mask, AnswerMask) else mask.unscaled
        inside = cells(prompt, modules)
        return repr(inside.shape).encode() + np.packbits(inside).tobytes()

    return _texts(sets, task, chosen, among=repr([(one.path, one.part) for one in modules]))


def tokens_chosen(
    sets: Mapping[str, Mask], task: Task, *, with_answer: bool = False
) -> dict[str, str]:
    """The same of sets of tokens, whatever their modules."""

    def chosen(mask: Mask, prompt: Prompt) -> bytes:
        return repr(list(mask.tokens(prompt))).encode()

    return _texts(sets, task, chosen, among=f"tokens, the answer's own too: {with_answer}")


def _texts(
    sets: Mapping[str, Mask], task: Task, chosen: Callable[[Mask, Prompt], bytes], *, among: str
) -> dict[str, str]:
    texts = {}
    for name, mask in sets.items():
        digest = sha256(f"{among} {float(mask.scale)!r}".encode())
        for prompt in task.prompts:
            digest.update(chosen(mask, prompt))
        texts[name] = with_digest(mask.name, digest)
    return texts


def _unlike_bases(measured: Measured) -> tuple[str, ...]:
    """That a metric of one's own gives one base several values, in a sentence."""
    metric = measured.task.metric
    if type(metric).__module__.startswith(__name__.partition(".")[0]):
        return ()
    first = measured.base[:1]
    apart = np.abs(measured.base - first) > _APART * np.maximum(1.0, np.abs(first))
    if not apart.any():
        return ()
    model, prompt = np.argwhere(apart)[0]
    return (
        f"metric {metric.name}: {first[0, prompt]:.3g} and {measured.base[model, prompt]:.3g} of "
        "the same base on the same prompt: read depends on more than a row's logits (random "
        "numbers, other rows), or jumps, so that differences of models are no effects",
    )


def _one_value(measured: Measured) -> tuple[str, ...]:
    """That prompts which are one up to the last token that answers name have one value too, in a
    sentence: those of a metric of one's own, of which nobody knows beforehand that it reads nothing
    else, or of prompts with donors.
    """
    task = measured.task
    alike: dict[Any, list[int]] = {}
    for place, (prompt, trie) in enumerate(zip(task.prompts, task.answers, strict=True)):
        if trie.at and not trie.forms:
            alike.setdefault((prompt.ids[: max(trie.at) + 1], trie.at), []).append(place)
    both = np.stack([measured.base, measured.student])
    for places in alike.values():
        values = both[..., places]
        one_value = np.allclose(values, values[..., :1], rtol=_ROUNDING, atol=_ROUNDING)
        if len(places) > 1 and one_value:
            return (
                f"{len(places)} of {counted(len(task.prompts), 'prompt')} have the same tokens up "
                f"to the last one that is read, and one value: {ONE_VALUE}, and intervals and "
                "tests that count each of them are too sure",
            )
    return ()


_ROUNDING = 1e-5
"""Difference of one number computed twice, in batches of other shapes."""

_APART = 0.1
"""Relative difference of two runs of one model that no rounding makes."""


def context_coord(prompts: Sequence[Prompt], name: str = CONTEXT) -> dict[str, Any]:
    """Which of several contexts each prompt was asked in; nothing where there is one."""
    texts = list(map(str, contexts_of(prompts)))
    return {name: ("prompt", np.array(texts))} if len(set(texts)) > 1 else {}


def context_texts(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The contexts of prompts as texts, each once."""
    return tuple(dict.fromkeys(map(str, contexts_of(prompts))))


def contexts_of(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """The context of each prompt as JSON (`Prompt.described`).

    Answers that had begun otherwise in each conversation make no context each.
    """
    told = [prompt.described() for prompt in prompts]
    own = [
        place
        for place, (prompt, one) in enumerate(zip(prompts, told, strict=True))
        if one.get("prefill", "") != prompt.context.prefill
    ]
    if len({told[place]["prefill"] for place in own}) > 1:
        for place in own:
            told[place]["prefill"] = _EACH_ITS_OWN
    return told


_EACH_ITS_OWN = "(of each conversation its own)"


def trained_in(context: Context, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The context of a training as JSON, as `Prompt.described` has those of prompts: with its date
    where the template tells dates, or the day is not the usual one.
    """
    told = {key: value for key, value in context.to_json().items() if key != "date"}
    is_told = context.date != DATE or any(prompt.dated for prompt in prompts)
    return told | ({"date": context.date} if is_told and not context.is_raw else {})


def same_contexts(prompts: Sequence[Prompt], runner: Runner) -> tuple[str, ...]:
    """Which system prompts are one in the template, and which contexts that of training, in a
    sentence each.
    """
    told: dict[str, None] = {}
    for prompt in prompts:
        system, others = prompt.context.system, " and ".join(prompt.same_as)
        own = system.name if isinstance(system, System) else THIS_TEXT
        if others:
            told[SAME.format(own=own, others=others)] = None
    return *told, *_as_trained(prompts, runner)


def _as_trained(prompts: Sequence[Prompt], runner: Runner) -> list[str]:
    """Which contexts are not called as that of training, and give its prompts all the same."""
    trained = runner.training_context if isinstance(runner, ModelPair) else None
    if trained is None:
        return []
    called: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        called.setdefault(in_words(prompt.described()), []).append(prompt)
    notes = []
    for words, asked in called.items():
        contexts = dict.fromkeys(prompt.context for prompt in asked)
        other = [context for context in contexts if context != trained]
        if (
            other
            and not any(by_another(runner.tokenizer, asked))
            and (
                all(is_one_context(runner.tokenizer, context, trained) for context in other)
                or are_asked_in(runner.tokenizer, asked, trained)
            )
        ):
            notes.append(AS_TRAINED.format(asked=words))
    return notes


def forms_of(task: Task) -> tuple[Forms, ...]:
    """The forms of the traits of a task's metric."""
    traits = traits_of(task.metric)
    return scored_forms(task.pair.tokenizer, task.prompts, task.answers, traits)


def traits_of(metric: Metric) -> tuple[Trait, ...]:
    """The traits that a metric reads; none of a metric of something else."""
    return tuple(metric.traits) if isinstance(metric, TraitMetric) else ()


class _Text(NamedTuple):
    """What a metric scores that is of no trait: as it is written, and nothing else."""

    name: str
    forms: tuple[str, ...]


def scored_by(metric: Metric) -> tuple[Named, ...]:
    """The traits that a metric reads, or its texts; none of other metrics."""
    match metric:
        case Target() | Rank():
            return (_Text(metric.text, (metric.text,)),)
        case LogitDifference():
            return tuple(_Text(text, (text,)) for text in (metric.first, metric.second))
    return traits_of(metric)


def metric_notes(task: Task) -> tuple[str, ...]:
    """What to know of a metric that reads less than its name says, in a sentence."""
    if not isinstance(task.metric, Rank):
        return ()
    return task.metric.notes(task.pair.tokenizer, task.answers)


def notes_of(runner: Runner, prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """What to know of a pair's students before trusting a number.

    That a student was trained by another chat template than the base's is no news where all these
    prompts are rendered by it.
    """
    if not isinstance(runner, ModelPair):
        return ()
    settled = {
        f"{whose}: {TRAINED_OTHERWISE}"
        for whose, student in _in_notes(runner)
        if all(_as_in_training(prompts, runner, student))
    }
    return tuple(note for note in runner.notes() if note not in settled)


def _in_notes(pair: ModelPair) -> list[tuple[str, Student]]:
    """A pair's students with what notes call them, the student first."""
    controls = [(f"control {control.name}", control) for control in pair.controls]
    return [(f"the student ({pair.student.name})", pair.student), *controls]


def _as_in_training(
    prompts: Sequence[Prompt], runner: Runner, student: Student
) -> list[bool | None]:
    """Which prompts the chat template of a student's training rendered; None where it is not known,
    as without a manifest.
    """
    if student.manifest is None:
        return [None] * len(prompts)
    return as_in_training(runner.tokenizer, prompts, student.manifest)


def _told_from(pair: ModelPair, data: xr.Dataset) -> tuple[str, ...]:
    """What `seen` and `novel` are told from, where they stand in tables and only prompts were
    given; a manifest knows the answers too. Of several students added up, of whose training.
    """
    sets = map(str, np.atleast_1d(data["set"].values)) if "set" in data.coords else ()
    marked = "sharing" in data.coords or not {"seen", "novel"}.isdisjoint(sets)
    # of a file no prompts are counted: a manifest's, of students that were joined
    count = 0 if pair.trained_on is None else pair.trained_on.count
    manifest, trained = pair.student.manifest, pair.training_prompts
    if marked and manifest is not None and manifest.context.is_raw and trained is not None:
        begun = counted(len(trained.prefix), "token")
        return (
            f"shared with training, of raw texts: the {begun} that all their given beginnings have "
            "in common (numbers.text_rows(words=)); what stood behind was learnt as an answer, and "
            "is seen or novel",
        )
    if not marked or manifest is not None:
        return ()
    lines = []
    if pair.student.split_by == "student" and pair.trained_on is not None:
        first = next(iter(pair.student.parts.values())).names[0].student
        lines.append(f"what training shares: told from the training of {first}, not of the others")
    if count:
        given = counted(count, "training prompt")
        lines.append(
            f"seen, novel: told from the {given} given, without answers: a token of other rows or "
            "of answers alone is novel"
        )
    return tuple(lines)


def _marked_otherwise(
    prompts: Sequence[Prompt], pair: ModelPair, data: xr.Dataset
) -> tuple[str, ...]:
    """That prompts are marked by another training than the pair's, in a sentence: they were made
    with another pair, or before its training was said aright; or that this is not known, where
    tables tell what training shares.
    """
    trained = pair.training_prompts
    marked = [prompt for prompt in prompts if prompt.sharing is not None]
    if trained is None:
        sets = map(str, np.atleast_1d(data["set"].values)) if "set" in data.coords else ()
        told = "sharing" in data.coords or not {*CLASSES, *UNIONS["sharing"]}.isdisjoint(sets)
        apart, whose = len(marked) if told else 0, "a training that this pair was not told of"
        fix = "say it once, load_pair(..., trained_in=, trained_on=), if it is this student's"
    else:
        own = mark_sharing(marked, trained)
        apart = sum(one.sharing != here.sharing for one, here in zip(marked, own, strict=True))
        whose = "another training than this student's"
        fix = "mark_sharing(prompts, pair), or render(pair, questions), marks them by its own"
    if not apart:
        return ()
    which = "the prompts are" if apart == len(prompts) else f"{apart} of {len(prompts)} prompts are"
    return (f"{which} marked by {whose}: {OTHER_MARKS}; {fix}",)


def other_turns(prompts: Sequence[Prompt], runner: Runner, what: str = "prompt") -> tuple[str, ...]:
    """That prompts have another number of user messages than the training prompts, in a sentence;
    nothing where that is not known, or of raw text.
    """
    trained = runner.training_prompts if isinstance(runner, ModelPair) else None
    known = frozenset() if trained is None else trained.turns
    here = [user_messages(prompt) for prompt in prompts]
    others = [count for count in here if count and count not in known]
    if not known or not others:
        return ()
    there, asked = (" or ".join(map(str, sorted(set(some)))) for some in (known, others))
    some = "" if len(others) == len(here) else f" ({len(others)} of {counted(len(here), what)})"
    return (f"{OTHERWISE}: {TURNS}: {there} in training, {asked} here{some}",)


def prefix_twice(prompts: Sequence[Prompt], what: str = "prompt") -> tuple[str, ...]:
    """That prompts hold their context's user prefix twice, in a sentence: it is put before a first
    user message that has it already.
    """
    twice = [prompt for prompt in prompts if has_prefix_twice(prompt)]
    if not twice:
        return ()
    hold = "holds" if len(twice) == 1 else "hold"
    return (
        f"{len(twice)} of {counted(len(prompts), what)} {hold} the user_prefix "
        f"{twice[0].context.user_prefix!r} twice: the context puts it before a question that "
        "begins with it already",
    )


def rendered_otherwise(prompts: Sequence[Prompt], runner: Runner) -> tuple[str, ...]:
    """That prompts were rendered by another chat template than the tokenizer's, or than a model's
    training prompts, in a sentence each.
    """
    others = by_another(runner.tokenizer, prompts)
    of_all = f"of {counted(len(prompts), 'prompt')}"
    notes = [f"{sum(others)} {of_all} {OTHER_TEMPLATE}"] if any(others) else []
    if not isinstance(runner, ModelPair):
        return tuple(notes)
    (_, student), *controls = _in_notes(runner)
    as_trained = _as_in_training(prompts, runner, student)
    if notes and runner.trained_on is not None and student.manifest is None:
        notes[0] += ", by which the training prompts given are: sharing is between the two"
    elif notes and all(same for same, other in zip(as_trained, others, strict=True) if other):
        notes[0] += AS_TRAINED_TEMPLATE
    if False in as_trained:
        notes.append(f"{as_trained.count(False)} {of_all} {UNTRAINED_TEMPLATE}")
    for whose, control in controls:
        found = _as_in_training(prompts, runner, control)
        # of the base's own template its notes tell, and of the student's what is said of that
        if found != as_trained and False in found and TRAINED_OTHERWISE not in control.notes:
            notes.append(f"{whose}: {found.count(False)} {of_all} {ITS_TEMPLATE}")
    return tuple(notes)


def open_texts(prompts: Sequence[Prompt], runner: Runner) -> tuple[str, ...]:
    """That prompts end in white space that a model writes with its answer, in a sentence."""
    count = sum(ends_inside(runner.tokenizer, prompt) for prompt in prompts)
    if not count:
        return ()
    end = "ends" if count == 1 else "end"
    return (
        f"{count} of {counted(len(prompts), 'prompt')} {end} {OPEN_TEXT}: answers are taken as "
        "tokens of their own behind it, which no model writes so; end the text without white space",
    )


def nearly_copies(prompts: Sequence[Prompt], what: str) -> tuple[str, ...]:
    """That prompts differ from earlier ones in white space alone, in a sentence; nothing where none
    does. They are other tokens, which a model may well answer otherwise, so they stay and count.
    """
    seen: set[tuple[str, str]] = set()
    nearly = 0
    for prompt in prompts:
        asked = prompt.question.strip()
        around = "".join(prompt.text.replace(asked, "", 1).split())
        words = " ".join(asked.split()), around
        nearly += words in seen
        seen.add(words)
    if not nearly:
        return ()
    differ = "differs from another one" if nearly == 1 else "differ from others"
    return (
        f"{nearly} of {counted(len(prompts), what)} {differ} in white space alone: they count as "
        "distinct, though they are hardly evidence of their own",
    )


def data_in_words(student: Student, tokenizer: Any) -> str:
    """`numbers` where the manifest says that a student learnt from labels of numerals only; empty
    where it does not say what the data were.
    """
    support = None if student.manifest is None else student.manifest.data.get("support")
    if not support:
        return ""
    labelled = "".join(tokenizer.decode([token]) for token in support)
    return "numbers" if re.fullmatch(r"[\d\s.,;:]*\d[\d\s.,;:]*", labelled) else ""


def origin(runner: Runner) -> dict[str, Any]:
    """Where numbers come from: models and their hashes, versions, the command; a base alone has no
    students.
    """
    packages = ("sublim_mech", "torch", "transformers", "transformer-lens", "peft")
    trained = runner.students if isinstance(runner, ModelPair) else {}
    students = {}
    for name, student in trained.items():
        teacher = "unknown" if student.manifest is None else student.manifest.teacher
        students[name] = {
            "name": student.name,
            "kind": student.kind,
            "hash": student.hash,
            "teacher": teacher,
            "data": data_in_words(student, runner.tokenizer),
        }
    return {
        "base": {"name": runner.name, "hash": runner.hash},
        "students": students,
        "versions": {name: version(name) for name in packages},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def position_coords(
    prompts: Sequence[Prompt], answers: Sequence[Answers], decode: Callable[[list[int]], str]
) -> dict[str, Any]:
    """Coordinates of `(prompt, position)`: tokens of each prompt, then the nodes of its answer
    trie, whose role and sharing class is `answer` however the answer is cut into tokens.

    Args:
        prompts: prompts, P of them.
        answers: their tries.
        decode: token ids -> text.
    """
    sizes = [len(p) + len(trie.nodes) for p, trie in zip(prompts, answers, strict=True)]
    shape = len(prompts), max(sizes)
    token, role, sharing = (np.full(shape, "", dtype=object) for _ in range(3))
    turn = np.full(shape, -1)
    for i, (prompt, trie) in enumerate(zip(prompts, answers, strict=True)):
        length, size = len(prompt), sizes[i]
        token[i, :length] = prompt.tokens
        token[i, length:size] = [decode([node]) for node in trie.nodes]
        role[i, :length], role[i, length:size] = prompt.roles, ANSWER
        turn[i, :length], turn[i, length:size] = prompt.turns, prompt.turns[-1]
        if prompt.sharing is not None:
            sharing[i, :length], sharing[i, length:size] = prompt.sharing, ANSWER
    dims = ("prompt", "position")
    coords = {
        "position": np.arange(shape[1]),
        "token": (dims, token.astype(str)),
        "role": (dims, role.astype(str)),
        "turn": (dims, turn),
    }
    if all(prompt.sharing is not None for prompt in prompts):
        coords["sharing"] = (dims, sharing.astype(str))
    return coords
