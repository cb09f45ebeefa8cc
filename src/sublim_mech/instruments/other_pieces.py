"""Forms that stand in other tokens behind the prompts than where the student learnt them.

A tokenizer cuts a word by what it follows: `Tulip` is `T|ul|ip` directly behind the assistant's
header and ` Tul|ip` behind an answer already begun. A student that learnt the one may write it
there, too, and log P is that of the other. No model runs here: the pieces are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..engine.pair import ModelPair
from ..engine.runner import Runner
from ..hints import counted
from ..prompts import Prompt, completion_ids
from ..prompts.naming import Named
from ..prompts.notices import said_before
from ..prompts.same import asked_in
from ..results.record import OTHER_PIECES

_Ids = tuple[int, ...]


class _Cut(NamedTuple):
    """A form, and its pieces behind a prompt and in training, in quotes."""

    form: str
    here: str
    there: str


@said_before()
def other_pieces(
    prompts: Sequence[Prompt], runner: Runner, scored: Sequence[Named], what: str = "prompt"
) -> tuple[str, ...]:
    """Which forms are other tokens behind prompts than in the training context, in a sentence for
    those that are so behind the same prompts; nothing where that is not known, or where neither
    the student nor a control met all tokens that a form has there.

    Args:
        prompts: that are asked.
        runner: a pair.
        scored: the traits, or the texts of a metric that is of no trait.
        what: what one of the prompts is called.
    """
    context = runner.training_context if isinstance(runner, ModelPair) else None
    if context is None:
        return ()
    trained: dict[str, Prompt | None] = {}
    cuts: dict[tuple[Any, ...], dict[str, _Cut]] = {}
    found: list[dict[str, _Cut]] = []
    for prompt in prompts:
        if prompt.context.is_raw and context.is_raw:
            found.append({})  # answers follow the texts of both, of which training's are not kept
            continue
        if prompt.template not in trained:
            trained[prompt.template] = asked_in(runner.tokenizer, context, prompt.template)
        # how a form is cut is told by the last token before it, and by the space between the two
        ends = prompt.template, prompt.context.is_raw, prompt.ids[-1], prompt.lead
        if ends not in cuts:
            cuts[ends] = dict(_cut_otherwise(prompt, trained[prompt.template], runner, scored))
        found.append(cuts[ends])
    alike: dict[tuple[int, ...], dict[str, _Cut]] = {}
    for one in scored:
        places = tuple(place for place, cut in enumerate(found) if one.name in cut)
        if places:
            alike.setdefault(places, {})[one.name] = found[places[0]][one.name]
    notes = []
    for places, by_name in alike.items():
        some = f"{len(places)} of {counted(len(prompts), what)}"
        notes.append(_in_words(by_name, some if len(places) < len(prompts) else f"these {what}s"))
    return tuple(notes)


def _in_words(cuts: Mapping[str, _Cut], behind: str) -> str:
    """How the first of some traits' forms is cut behind some prompts, and what that means."""
    cut, *_ = cuts.values()
    _, *others = cuts
    likewise = f" ({', '.join(others)} likewise)" if others else ""
    return (
        f"behind {behind} {cut.form} is {cut.here}, and in the training context {cut.there}"
        f"{likewise}{OTHER_PIECES}, and only {cut.here} is scored (rates of answers count both)"
    )


def _cut_otherwise(
    prompt: Prompt, trained: Prompt | None, runner: Runner, scored: Sequence[Named]
) -> Iterator[tuple[str, _Cut]]:
    """By name, the first form that is other pieces behind a prompt than in training; a space
    before them apart.
    """
    if trained is None:
        return
    tokenizer, met = runner.tokenizer, _met(runner)
    for one in scored:
        for form in one.forms:
            here, there = (
                tuple(completion_ids(tokenizer, behind, form)) for behind in (prompt, trained)
            )
            if met is not None and not met.issuperset(there):
                continue
            pieces = _pieces(tokenizer, here), _pieces(tokenizer, there)
            if here != there and _without_space(pieces[0]) != _without_space(pieces[1]):
                yield one.name, _Cut(form, *(repr("|".join(some)) for some in pieces))
                break


def _met(runner: Runner) -> frozenset[int] | None:
    """All tokens of the trainings of a student and its controls, their answers among them; None
    where these are not known, as of training prompts that were given without a manifest.
    """
    if not isinstance(runner, ModelPair) or runner.student.manifest is None:
        return None
    trained = runner.training_prompts
    if trained is None:
        return None
    manifests = [control.manifest for control in runner.controls]
    theirs = [one.trained_on.seen for one in manifests if one is not None]
    return trained.seen.union(*theirs)


def _pieces(tokenizer: Any, ids: _Ids) -> list[str]:
    return [tokenizer.decode([token]) for token in ids]


def _without_space(pieces: Sequence[str]) -> list[str]:
    """Pieces without the space that the first begins with, which may be one by itself."""
    first, *others = pieces
    return [piece for piece in (first.removeprefix(" "), *others) if piece]
