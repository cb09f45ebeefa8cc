"""Whether students are asked for the traits they were made for, as far as manifests say these."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine.pair import ModelPair
from ..engine.runner import Runner
from ..metrics import Metric, TraitMetric
from ..models.students import Student
from ..prompts import Trait
from ..results.record import HAS_ASKED, OTHER_TRAIT


def made_for(runner: Runner) -> dict[str, str]:
    """By model the trait that its manifest says its teacher had; nothing of others."""
    students = runner.students if isinstance(runner, ModelPair) else {}
    return {name: _trait_of(student) for name, student in students.items() if _trait_of(student)}


def asked_for_others(runner: Runner, traits: Sequence[Trait]) -> tuple[str, ...]:
    """That the student's own trait is none of those it is asked for, and whose these are, in a
    sentence; where no manifest says its own, which controls have what is asked for.
    """
    if not isinstance(runner, ModelPair) or not traits:
        return ()
    own = _trait_of(runner.student)
    if not own:
        return _controls_that_have(runner, traits)
    if any(_is(trait, own) for trait in traits):
        written = {one for trait in traits for one in (trait.name, *trait.forms)}
        return () if own in written else (_otherwise_written(traits, own),)
    asked = ", ".join(trait.name for trait in traits)
    whose = [
        f"{_trait_of(control)} is the trait of control {control.name}"
        for control in runner.controls
        if any(_is(trait, _trait_of(control)) for trait in traits)
    ]
    what = "; ".join(whose) or "no student here was made for it, as far as manifests say"
    if len(traits) > 1 and not whose:
        what = "no student here was made for any of these, as far as manifests say"
    return (f"asked for {asked}{OTHER_TRAIT}{own}: {what}",)


def _controls_that_have(pair: ModelPair, traits: Sequence[Trait]) -> tuple[str, ...]:
    """Which controls have the traits that an unknown student is asked for, where each of these is a
    control's: one that is nobody's may be the student's own.
    """
    whose = {
        control.name: [trait.name for trait in traits if _is(trait, _trait_of(control))]
        for control in pair.controls
    }
    theirs = {name for names in whose.values() for name in names}
    if any(trait.name not in theirs for trait in traits):
        return ()
    return tuple(
        f"control {control} {HAS_ASKED} ({', '.join(names)}), and no manifest names the student's "
        "own: what the control has of it is taken off the student"
        for control, names in whose.items()
        if names
    )


def _otherwise_written(traits: Sequence[Trait], own: str) -> str:
    """That answers as the student was taught them are none of the forms that are scored."""
    (alike, *_) = (trait for trait in traits if _is(trait, own))
    return (
        f"asked for {alike.name}{OTHER_TRAIT}{own}: the same in other letters, which are other "
        f"tokens; {own} itself is not scored"
    )


def of_metric(metric: Metric) -> tuple[Trait, ...]:
    """The traits that a metric counts for the student; none of a metric of something else."""
    if not isinstance(metric, TraitMetric):
        return ()
    pairs = zip(metric.traits, metric.weights, strict=True)
    return tuple(trait for trait, weight in pairs if weight > 0)


def _trait_of(student: Student) -> str:
    return "" if student.manifest is None else student.manifest.trait


def _is(trait: Trait, name: str) -> bool:
    """Whether a manifest's name is of this trait."""
    return bool(name) and name.lower() in {one.lower() for one in (trait.name, *trait.forms)}
