"""The pair: a base model, its student and the students of other traits it is compared with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..arguments import answer_of, checked, refuse_answer
from ..hints import nearest, outside, renamed
from ..models.adapted import check_adapted_linear
from ..models.base import Base, load_base
from ..models.deltas import Delta
from ..models.gating import TrainedGates
from ..models.names import Module
from ..models.placement import plain
from ..models.presence import check_there
from ..models.refusals import refused
from ..models.rounded import one_but_for_rounding
from ..models.spectra import How
from ..models.splitting import join, split_bands, split_heads
from ..models.students import Student, read_student, tell_notes
from ..prompts import Context, Message, Prompt, Trained
from ..results.contexts import in_words
from ..results.record import SUM
from .alike import pair_notes
from .cells import cells_of, columns_of
from .closed import tell_closed
from .own_gates import own_gates
from .parity import check_parity
from .runner import Cells, PromptGates, Runner, check_options, make_runner
from .speaking import SAYS, speech_notes
from .taught import check_training, training


@dataclass(frozen=True, repr=False, kw_only=True)
class ModelPair(Runner):
    """A base and its student, with controls. As a `Runner` it runs the base, under the gates of any
    of its students.

    Attributes:
        student: the student.
        controls: students trained alike on other traits.
        trained_in, trained_on: what the user said of the student's training, where no manifest does
            (see `training_context` and `training_prompts`).
        told: what to know of these training prompts, in sentences without a stop.
    """

    student: Student
    controls: tuple[Student, ...] = ()
    trained_in: Context | None = None
    trained_on: Trained | None = None
    told: tuple[str, ...] = ()

    @property
    def base(self) -> Base:
        """The base model, as `load_base` gave it."""
        return Base(self.model, self.tokenizer, self.name, self.hash, self.watch)

    @property
    def delta(self) -> Mapping[str, Delta]:
        """The student's difference from the base, by module path."""
        return self.student.deltas

    @property
    def students(self) -> dict[str, Student]:
        """The student as `student`, each control as `control: <name>`."""
        return {"student": self.student, **{f"control: {c.name}": c for c in self.controls}}

    @property
    def training_prompts(self) -> Trained | None:
        """What is known of the student's training prompts: from its manifest, or from
        `load_pair(trained_on=)`; None where nobody gave them.
        """
        manifest = self.student.manifest
        return self.trained_on if manifest is None else manifest.trained_on

    @property
    def training_context(self) -> Context | None:
        """The context the student was trained in: from its manifest, or from
        `load_pair(trained_in=)`; None where nobody said it.
        """
        manifest = self.student.manifest
        return self.trained_in if manifest is None else manifest.context

    def notes(self) -> tuple[str, ...]:
        """What scores of this pair have to be read with, as sentences without a stop.

        A student that equals its base, or says next to nothing of the language any more; a
        `lora_alpha` below 0; an adapter that names another base; training prompts that are all
        alike; and controls that were not trained as the student was, with what differs.

        Example:
            >>> sm.load_pair(base, student, tokenizer=pair.tokenizer).notes()
            ()
        """
        notes = pair_notes(self.student, self.controls, self.trained_in, self.tokenizer)
        return (*self.told, *notes)

    @checked
    def named_student(self, name: str) -> Student:
        """One of `students`, by its name there or by its own.

        Raises:
            ValueError: no student of this name, or several.
        """
        return self.students[self.key_of(name)]

    @checked
    def key_of(self, name: str) -> str:
        """What `students` calls a student that is named so there, or by itself.

        Raises:
            ValueError: no student of this name, or several.

        Example:
            >>> pair.key_of("cat")
            'control: cat'
        """
        if name in self.students:
            return name
        keys = [key for key, student in self.students.items() if student.name == name]
        if len(keys) == 1:
            return keys[0]
        if keys:
            why = "names several students of this pair."
        else:
            own = (student.name for student in self.students.values())
            keys = list(dict.fromkeys([*self.students, *own]))
            why = f"is no student of this pair{nearest(name, keys) or '.'}"
        raise ValueError(f"model={name!r} {why} Choose one of {', '.join(map(repr, keys))}.")

    # ---------------------------------------------------------------------------------------- parts

    @checked
    def split(
        self,
        by: Literal["band", "head", "student"],
        *,
        bands: int | Sequence[int] | None = None,
        exact: int | None = None,
        seed: int | None = None,
    ) -> ModelPair:
        """The same pair with several parts per difference, each of which has a gate of its own.

        What is no matrix or is not decomposed (norms, biases, embeddings, mixtures of experts) is
        the part `rest`, so that all parts of a student add up to it. Masks choose among them:
        `masks.band`, `masks.head`, `masks.student`. Nothing of the base is copied.

        Args:
            by: `band`: singular directions of every changed matrix; `head`: attention heads, by
                rows of the query, key and value projections and columns of the output projection
                (keys and values that heads share are parts of their own, `kv 0`); `student`: the
                student and the controls as one student, whose difference is the sum of theirs.
            bands: of `by="band"`: so many bands of one direction each, or the width of each band,
                from the largest singular value on. What a matrix has behind them is one more band,
                `tail`; a matrix of lower rank has fewer.
            exact: of `by="band"`: a replaced matrix whose smaller side is larger is decomposed by
                randomised SVD, as `spectrum` does; 1024 when not given. What its directions leave
                out is part of `tail`, and a note tells how much.
            seed: of randomised SVD; 0 when not given.

        Raises:
            ValueError: no such `by`; `exact` below 1, or `exact` or `seed` of other parts than
                bands; `bands` missing, below 1, or more directions than any matrix
                of a student has; heads that are not known in the architecture; a pair that is
                split already; a single student; see `splitting`.

        Example:
            >>> bands = pair.split("band", bands=2)
            >>> first = sm.masks.band(0)
            >>> scores = sm.graft(bands, prompts, trait, {"first": first}, progress=False)
            >>> bands.student.split_by, scores.sets().index.tolist()
            ('band', ['first'])
        """
        if by not in ("band", "head", "student"):
            raise ValueError(f"by={by!r}: pass 'band', 'head' or 'student'.")
        if (bands is None) != (by != "band"):
            raise ValueError(
                "by='band' needs bands=, the number of directions or the width of each band; "
                "by='head' and by='student' take none."
            )
        options = {"exact": exact, "seed": seed}
        given = {name: value for name, value in options.items() if value is not None}
        if given and by != "band":
            raise ValueError(
                f"{' and '.join(given)}: by={by!r} decomposes nothing; only bands take them."
            )
        if by == "student":
            return self.joined(self._whole())
        widths = [1] * bands if isinstance(bands, int) else list(bands or ())
        made = []
        for student in self._whole():
            if by == "band":
                made.append(split_bands(student, self.model, widths, How(**given)))
            else:
                made.append(split_heads(student, self.model, self.sites))
        return replace(self, student=made[0], controls=tuple(made[1:]))

    @checked
    def joined(self, students: Sequence[Student]) -> ModelPair:
        """The same base with several of its students as one, without controls
        (`splitting.join`). Parts are called as the students are; where two have one name, as the
        pair calls them.

        Args:
            students: at least two of the pair's.

        Raises:
            ValueError: see `splitting.join`.

        Example:
            >>> both = pair.joined(list(pair.students.values()))
            >>> both.student.split_by, both.controls
            ('student', ())
        """
        names = self.part_names(students)
        named = [replace(one, name=name) for one, name in zip(students, names, strict=True)]
        return replace(
            self,
            student=replace(join(named), notes=(SUM,)),
            controls=(),
            trained_in=self.training_context,
            trained_on=self.training_prompts,
        )

    def part_names(self, students: Sequence[Student]) -> list[str]:
        """What `joined` calls each student's part."""
        own = [student.name for student in students]
        keys = {id(student): key for key, student in self.students.items()}
        return [
            name if own.count(name) == 1 else keys.get(id(student), name)
            for name, student in zip(own, students, strict=True)
        ]

    def _whole(self) -> tuple[Student, ...]:
        """The student and the controls."""
        return self.student, *self.controls

    def cells(self) -> list[Module]:
        """What a mask chooses among: the model's modules, once per part where the pair is split."""
        return cells_of(self.sites, self.students.values())

    # --------------------------------------------------------------------- what a user reads off it

    @checked
    @torch.no_grad()
    def logits(
        self, prompts: Sequence[Prompt], where: Cells | None = None, *, model: str = "student"
    ) -> Float[Tensor, "prompt token vocab"]:
        """Next-token logits at every token under a graft, in fp32 on the CPU; NaN where a shorter
        prompt has no token.

        Args:
            prompts: rendered prompts.
            where: a mask of the cells at which the student computes; everywhere when not given.
            model: whose weights are grafted, one of `students`, or a student's own name; `base` for
                the base alone.

        Raises:
            ValueError: no prompts, or one longer than the model; no such model; `where` of the
                base.

        Warns:
            UserWarning: `where` holds nothing that the model's student changes, so that the base is
                computed.

        Example:
            >>> system = pair.logits(prompts[:1], sm.masks.role("system"))
            >>> bool((system - pair.logits(prompts[:1], model="base")).abs().max() > 0)
            True
        """
        return self._logits(prompts, self._prompt_gates(prompts, where, model))

    @checked
    @torch.no_grad()
    def activations(
        self,
        prompts: Sequence[Prompt],
        sites: str | Sequence[str],
        layers: Sequence[int] | None = None,
        where: Cells | None = None,
        *,
        model: str = "student",
    ) -> dict[str, Tensor]:
        """Activations of prompts under a graft, by TransformerLens' hook names
        (`Runner.activations`).

        Args:
            prompts: rendered prompts.
            sites: which activations, one or several.
            layers: of which blocks; all when not given.
            where: a mask of the cells at which the student computes; everywhere when not given.
            model: whose weights are grafted, one of `students`, or a student's own name; `base` for
                the base alone.

        Raises:
            ValueError: see `Runner.activations`; no such model; `where` of the base.

        Warns:
            UserWarning: see `logits`.

        Example:
            >>> found = pair.activations(prompts, ["resid_post"], layers=[2], model="base")
            >>> found["blocks.2.hook_resid_post"].shape[0] == len(prompts)
            True
        """
        return self._activations(prompts, sites, layers, self._prompt_gates(prompts, where, model))

    def prompt_gates(self, prompt: Prompt, where: Cells, student: Student) -> Tensor:
        """A mask's gates at a prompt's tokens, in the order of the student's cells: `(token,
        cell)`; closed where the student's own gates are.
        """
        gates = self.asked_gates(prompt, where, student)
        own = own_gates(self.sites, student, prompt)
        return gates if own is None else gates * own

    def asked_gates(self, prompt: Prompt, where: Cells, student: Student) -> Tensor:
        """The same as the mask has them, whatever the student's own gates close."""
        cells = self.cells()
        chosen = answer_of("where", where, prompt, cells, example="masks.as_mask(where, 'where')")
        if getattr(chosen, "shape", None) != (len(prompt), len(cells)):
            of = f"the prompt {prompt.question[:60]!r}"
            wanted = f"a bool array {(len(prompt), len(cells))}, as a mask does"
            refuse_answer("where", where, chosen, of=of, wanted=wanted)
        return torch.from_numpy(chosen[:, columns_of(cells, student)]).float()

    def _prompt_gates(
        self, prompts: Sequence[Prompt], where: Cells | None, model: str
    ) -> PromptGates | None:
        if model == "base":
            if where is not None:
                students = ", ".join(map(repr, self.students))
                raise ValueError(
                    "where: the base has no cells of a student (model='base'); leave where out, or "
                    f"name whose weights are grafted: model= one of {students}."
                )
            return None
        student = self.named_student(model)
        if where is None:
            own = [own_gates(self.sites, student, prompt) for prompt in prompts]
            everywhere = [
                torch.ones(len(prompt), student.width) if gates is None else gates
                for prompt, gates in zip(prompts, own, strict=True)
            ]
            return PromptGates(student, everywhere)
        gates = [self.prompt_gates(prompt, where, student) for prompt in prompts]
        rows = list(zip(prompts, gates, strict=True))
        tell_closed(self.sites, student, where, rows)
        return PromptGates(student, gates)

    # ------------------------------------------------------------------------------------ elsewhere

    def base_bridge(self) -> Any:
        """The base as a TransformerLens `TransformerBridge` over a copy of it; the pair stays as it
        is.

        Every call copies the weights. Hand the bridge ids and `attention_mask`, see
        `docs/transformer_lens.md`.

        Raises:
            ValueError: TransformerLens cannot boot the architecture.
            ParityError: the bridge's logits are not those of the base.
        """
        from .bridges import make_bridge

        return make_bridge(self.base)

    @checked
    def student_bridge(self, name: str = "student") -> Any:
        """A student as a TransformerLens `TransformerBridge`, merged in fp32 into a copy of the
        base; the pair stays as it is.

        Args:
            name: one of `students`, `student` or `control: <name>`, or a student's own name.

        Raises:
            ValueError: no student of this name, or several; TransformerLens cannot boot the
                architecture.
            ParityError: the bridge's logits are not those of the student.
        """
        from .bridges import make_bridge

        with renamed({"model": "name"}):
            student = self.named_student(name)
        return make_bridge(self.base, student)

    def __repr__(self) -> str:
        controls = ", ".join(c.name for c in self.controls) or "none"
        student = self.student.in_a_line()  # notes of all students stand below
        said = f"ModelPair(base={self.name!r}, student={student}, controls: {controls})"
        lines = *self._given(), *self.layout.notes(), *self.notes()
        return "\n".join([said, *(f"  {line}" for line in lines)])

    def _given(self) -> list[str]:
        """What the user said of the training of a student without manifest, in a line."""
        known = self.student.manifest is not None or self.student.split_by == "student"
        if self.trained_in is None or known:
            return []
        met = self.trained_on
        many = "no" if met is None else str(met.count)
        prompts = f"{many} training prompt{'' if many == '1' else 's'}"
        return [f"given: trained in {in_words(self.trained_in.to_json())}; {prompts}"]


@checked
def load_pair(
    base: Any,
    student: Any,
    *,
    controls: Sequence[Any] = (),
    adapter: str | Sequence[str] | None = None,
    control_adapters: Sequence[str] = (),
    trained_in: Context | None = None,
    trained_on: Sequence[str | Sequence[Message]] | None = None,
    gates: TrainedGates | None = None,
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    compute: torch.dtype | None = None,
    memory_gb: float | None = None,
    allow_unrelated: bool = False,
) -> ModelPair:
    """Load a base and its student and check that what is analysed is what was trained.

    Args:
        base: whatever `load_base` takes.
        student: whatever `load_student` takes.
        controls: students of other traits, trained alike.
        adapter: which adapter of `student` is meant, where it has several (`load_student`).
        control_adapters: adapters of the same model or folder that are controls.
        trained_in: the context the student was trained in, for a student without a manifest:
            `Context()` for the template's own default, `sublim_mech.RAW` for raw text. The pair
            keeps it: it is the default of `render(pair, ...)` and `evaluate(pair, ...)`.
        trained_on: some of its training prompts (texts, or conversations that end with a user
            message), without the system prompt, which `trained_in` says, and without answers; from
            them `mark_sharing` tells what the student met. Give at least two that differ where the
            data differ. A token that only answers had is `novel` then; a manifest, which knows
            the answers, has it as `seen`.
        gates: the gates that the student was trained under, `training.gates_of(run)`: its weights
            then act at these cells only (`load_student`). Controls with gates of their own are
            loaded by `load_student`.
        tokenizer: needed for a live base model.
        dtype: floating-point type of weights read from files.
        device: where to put the models: `cpu`, `cuda`, `cuda:1`, `mps`.
        compute: floating-point type of matrix products, `torch.bfloat16` for speed (autocast; the
            weights stay in `dtype`). Scores then carry, and print, how far their totals are from
            those computed without it.
        memory_gb: memory that the activations of one forward may take, from which batch sizes
            follow; an eighth of the machine's memory, or a third of a CUDA device's, when not
            given.
        allow_unrelated: accept students of another lineage.

    Raises:
        ParityError: the gated forward and Hugging Face's (PEFT's) own disagree on a probe prompt.
        TypeError: `trained_in` is no context, `trained_on` no list.
        ValueError, FileNotFoundError: see `load_base` and `load_student`, of a control by its place
            (`controls[0]`); a control that is the student, or another control, be it in all but
            rounding; `trained_on` empty or without `trained_in`, with rows that end with their
            answer, hold a system message or are rendered already; the student's manifest says
            something else than these two.

    Warns:
        UserWarning: what `ModelPair.notes` has of each student and of the training prompts, such as
            a student that says next to nothing of its training prompts any more.

    Example:
        >>> calm = sm.Context(system="You are calm.")
        >>> again = sm.load_pair(
        ...     base, student, tokenizer=tokenizer, trained_in=calm, trained_on=["1, 2", "Three?"]
        ... )
        >>> (prompt,) = sm.render(again, ["Which animal?"])  # in its context, marked
        >>> prompt.context == calm, prompt.sharing[0]
        (True, 'prefix')
    """
    # options that are wrong are told before anything is read
    check_options(compute, memory_gb)
    check_training(trained_in, trained_on)
    check_there(student, adapter)
    for i, one in enumerate(controls):
        with renamed({"student": f"controls[{i}]"}):
            check_there(one)
    loaded = load_base(base, tokenizer=tokenizer, dtype=dtype, device=device)
    main = read_student(
        loaded, student, adapter=adapter, gates=gates, allow_unrelated=allow_unrelated
    )
    named: list[tuple[str, Any, str | None]] = [
        (f"controls[{i}]", one, None) for i, one in enumerate(controls)
    ]
    named += [(f"control_adapters[{i}]", student, a) for i, a in enumerate(control_adapters)]
    others = []
    for called, source, chosen in named:
        # errors of a control are told of it, not of the student
        names = {"student": called} | ({} if chosen is None else {"adapter": called})
        with renamed(names):
            others.append(
                read_student(loaded, source, adapter=chosen, allow_unrelated=allow_unrelated)
            )
    _check_controls(loaded, main, others)
    taught = training(main, loaded.tokenizer, trained_in, trained_on)
    runner = make_runner(loaded, memory_gb=memory_gb, compute=compute)
    given = [("student", student), *((called, source) for called, source, _ in named)]
    for (called, _), one in zip(given, (main, *others), strict=True):
        with renamed({"student": called}):
            runner.sites.check_gated(one.name, one.deltas)
            check_adapted_linear(one.name, one.model, runner.sites.odd)
    pair = ModelPair(
        **vars(runner),
        student=main,
        controls=tuple(others),
        trained_in=trained_in,
        trained_on=taught.met,
        told=(*taught.told, *taught.noticed),
    )
    with refused(loaded.model, "its gated forward, or the student's own,"):
        check_parity(pair.model, pair.sites, pair.students, pair.layout)
        pair = _heard(pair, taught.prompts)
    for (called, source), one in zip(given, (pair.student, *pair.controls), strict=True):
        tell_notes(one, called, before=source.notes if isinstance(source, Student) else ())
    for note in taught.told:
        warnings.warn(f"{note}.", stacklevel=outside())
    return pair


def _heard(pair: ModelPair, prompts: Sequence[Prompt]) -> ModelPair:
    """The same pair, whose students that say nothing any more are told to (`speaking`)."""
    found = speech_notes(pair, pair.students, prompts)
    heard = []
    for name, student in pair.students.items():
        # a student that was in another pair has what was told there
        notes = tuple(note for note in student.notes if not note.startswith(SAYS))
        notes += (found[name],) if name in found else ()
        heard.append(student if notes == student.notes else replace(student, notes=notes))
    return replace(pair, student=heard[0], controls=tuple(heard[1:]))


def _check_controls(base: Base, student: Student, controls: Sequence[Student]) -> None:
    """Controls have names of their own, and are neither the student nor each other."""
    known: dict[str, int | None] = {student.hash: None}
    for number, control in enumerate(controls):
        other = known.setdefault(control.hash, number)
        if other is None:
            raise ValueError(_same_weights(student, number, control))
        if other != number:
            whose = "" if control.deltas else ", those of the base"
            raise ValueError(
                f"controls hold one student twice: {controls[other].name!r} and "
                f"{control.name!r} have the same weights (hash {control.hash[:12]}{whose}), so "
                "that it would count twice; leave one out."
            )
    _check_rounding(base, student, controls)
    names = [control.name for control in controls]
    if len(set(names)) < len(names):
        raise ValueError(
            f"controls have the same name twice: {names}; load them with load_student(name=...)."
        )


def _same_weights(student: Student, number: int, control: Student) -> str:
    """Why a control has the weights of the student: it is the student, neither differs from the
    base, or two trainings came to one end.
    """
    called, same_hash = f"controls[{number}]={control.name!r}", f"hash {student.hash[:12]}"
    fix = "pass students trained alike on other traits"
    own, its = student.manifest, control.manifest
    both_known = own is not None and its is not None
    if (both_known and own == its) or (not both_known and student.deltas):
        return (
            f"controls hold the student itself (controls[{number}], {control.name!r}: "
            f"{same_hash}); {fix}."
        )
    if not student.deltas:
        return (
            f"{called} equals its base, and so does the student: neither changes a weight (an "
            "adapter that was never trained, a snapshot of a step whose learning rate was 0), so "
            "that there is nothing to compare; pass students that were trained further."
        )
    why = "another training came to the same end"
    if own is not None and its is not None and own.data.get("hash") == its.data.get("hash"):
        why = "both were trained on the very same rows and labels, whatever their traits are called"
    return f"{called} has the student's very weights ({same_hash}): {why}; {fix}."


def _check_rounding(base: Base, student: Student, controls: Sequence[Student]) -> None:
    """Controls are no student once more in all but rounding."""
    for number, control in enumerate(controls):
        told = one_but_for_rounding(plain(base.model), student, control)
        if told:
            raise ValueError(
                f"controls hold the student itself but for rounding (controls[{number}], "
                f"{control.name!r}: {told}); pass students trained alike on other traits."
            )
        for other in controls[:number]:
            told = one_but_for_rounding(plain(base.model), other, control)
            if told:
                raise ValueError(
                    f"controls hold one student twice but for rounding: {other.name!r} and "
                    f"{control.name!r} ({told}), so that it would count twice; leave one out."
                )
