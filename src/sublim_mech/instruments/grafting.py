"""Grafting: the student's weights at chosen tokens, layers and modules only (exact).

Dynamic weight grafting (arXiv 2506.20746): every module that differs computes, at token t,
`f_base(x) + g[t] * (f_student(x) - f_base(x))`. For a set S of cells (a `masks.Mask`) and a metric
M

- sufficiency = (M(g = 1 on S only) - M(base)) / (M(student) - M(base)),
- necessity = (M(student) - M(g = 0 on S only)) / (M(student) - M(base)).

A scaled set (`mask.scaled(c)`) has gates of c in place of 1 and of 1 - c in place of 0.

What is stored is the numerator; tables divide mean by mean. The answer's own tokens (all but the
last token of each form are fed) are none of the prompt's. They have a gate of their own, closed for
sufficiency and open for necessity unless asked otherwise, and are a set of their own,
`masks.role("answer")`: the student computes them alone, or everything but them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import masks
from ..arguments import checked
from ..engine.branch import grow
from ..engine.cells import columns_of
from ..engine.pair import ModelPair
from ..hints import counted, ranges
from ..masks import AnswerMask, Mask, Where
from ..masks.named import named_sets
from ..metrics import Metric
from ..models.names import Module, module_order
from ..models.students import Student
from ..prompts import SHARED, Prompt, Trait
from ..prompts.shared import none_shared
from ..results.record import ONLY
from ..results.scores import Scores
from .keeping import keep_folder
from .labelling import cells_chosen, label
from .spans import By, Span, check_by, check_refine, in_words, refined, span_coords, spans_of
from .task import Advance, Cells, GatedRow, Keep, Measured, Part, Task, ends, measure, prepare, walk

MEASURES = ("sufficiency", "necessity")


class Answer(NamedTuple):
    """Whether the student computes the answer's own tokens, with the modules of the set."""

    sufficiency: bool
    necessity: bool


@checked
def graft(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    sets: Mapping[str, Where] | Literal["role", "sharing"],
    *,
    answer_in_sufficiency: bool = False,
    answer_in_necessity: bool = True,
    keep: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Scores:
    """Sufficiency and necessity of sets of cells.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait or a metric.
        sets: name -> mask (`masks.role("system") & masks.layers(range(10))`), token positions, or a
            function from a prompt to them. `"role"` for the tokens of each role, and all of them;
            `"sharing"` for tokens by what training shares with them, and all shared and all other
            tokens; both with a set `answer` of the answer's own tokens, where any are fed. A prompt
            without such tokens contributes 0 to these. Of a pair that is split (`pair.split`) masks
            choose parts of differences too; `mask.scaled(2.0)` is a set with gates of 2.
        answer_in_sufficiency: whether the student computes the answer's own tokens (with the
            modules of the set) while a set of prompt tokens is tested for sufficiency.
        answer_in_necessity: the same for necessity; if not, the base computes them (with the
            modules of the set).
        keep: a folder in which finished prompts are stored, one file per student and prompt: the
            same call goes on where an earlier one ended, with the same bits (`keeping`).
        progress: show a progress bar.

    A student that was loaded with the gates of its training (`load_pair(gates=)`) is within them:
    what they close stays closed in every row, the whole student's too.

    Returns:
        Scores of kind `graft`, `(model, prompt, set, measure)` with the number of `tokens (prompt,
        set)`: those at which some student of the pair changes a module of the set. A student that
        changes none where another one does has an effect of 0 there: that is what its weights do.

    Raises:
        TypeError: a function that takes no prompt, or gives no positions.
        ValueError: a named set is empty in a prompt, leaves it, or holds no module that any student
            of the pair changes; a name that tables have for other tokens (`answer`, `shared`) or
            for an axis; see `masks` for what each mask refuses; `"sharing"` of prompts that are not
            marked (`mark_sharing`); `"role"` of raw text, which has but one.

    Example:
        >>> sets = {"early system": sm.masks.role("system") & sm.masks.layers([0, 1]), "last": [-1]}
        >>> scores = sm.graft(pair, prompts, trait, sets, progress=False)
        >>> scores.sets().index.tolist()
        ['early system', 'last']
        >>> sm.graft(pair, prompts, trait, "role", progress=False).sets().index.tolist()
        ['template', 'system', 'user', 'answer', 'all prompt tokens']
    """
    folder = keep_folder(keep)
    task = prepare(pair, prompts, trait, keeps_gates=True)
    named = _named_sets(sets, task)
    chosen = [_choose(list(named.values()), task, i) for i in range(len(task.prompts))]
    if not isinstance(sets, str):
        _refuse_empty(named, chosen, task)
    answer = Answer(answer_in_sufficiency, answer_in_necessity)

    def cells(student: Student, part: Part, advance: Advance) -> Cells:
        return _graft(part.task, student, [chosen[i] for i in part.numbers], answer, advance)

    steps = [2 * (len(named) + 1)] * len(task.prompts)
    scales = np.array([mask.scale for mask in named.values()])
    scaled = bool((scales != 1).any())  # only then part of what names a stored unit

    def asked(i: int) -> list[Any]:
        return [*chosen[i][:3], answer, *([scales] if scaled else [])]

    kept = Keep(folder, asked)
    measured = walk(task, cells, title="graft", steps=steps, progress=progress, keep=kept)
    of_what = np.where(chosen[0].own, "answer", "prompt")
    nothing = _nothing_shared(task.prompts) if sets == "sharing" else ""
    scores = label(
        measured,
        "graft",
        ["prompt", "set", "measure"],
        coords={
            "set": np.array(list(named)),
            "measure": np.array(MEASURES),
            "tokens": (("prompt", "set"), np.stack([one.sizes for one in chosen])),
            "set_of": (("prompt", "set"), np.stack([of_what] * len(chosen))),
            **({"scale": ("set", scales)} if scaled else {}),
        },
        notes=[nothing] if nothing else [],
        answer_gate={name: float(value) for name, value in answer._asdict().items()},
        sets=cells_chosen(named, task),
    )
    lengths = np.array([len(prompt) for prompt in task.prompts])
    return replace(scores, data=scores.data.assign(prompt_tokens=("prompt", lengths)))


def _named_sets(sets: Mapping[str, Where] | str, task: Task) -> Mapping[str, Mask]:
    if isinstance(sets, str):
        if sets not in ("role", "sharing"):
            raise ValueError(f"sets={sets!r}: pass 'role', 'sharing', or masks by name.")
        if sets == "role" and {role for p in task.prompts for role in p.roles} <= {"bos", "text"}:
            _refuse_roles(task.prompts)
        if sets == "sharing" and any(prompt.sharing is None for prompt in task.prompts):
            _refuse_unmarked(task)
        by = masks.by_role if sets == "role" else masks.by_sharing
        return by(task.prompts, answer=task.feeds_answers)
    if not sets:
        raise ValueError("sets is empty; name at least one, e.g. {'system': masks.role('system')}.")
    return named_sets(sets, task.prompts, task.pair.cells())


def _refuse_roles(prompts: Sequence[Prompt]) -> NoReturn:
    """Say what raw text can be compared by."""
    nothing = _nothing_shared(prompts)
    other = f" ('sharing' says little here: {nothing})" if nothing else ", or sets='sharing'"
    raise ValueError(
        "sets='role': raw text has but one role, 'text', so there is nothing to compare; "
        f"pass masks by name, {{'last words': masks.positions(-2, -1)}}{other}."
    )


def _nothing_shared(prompts: Sequence[Prompt]) -> str:
    """That prompts, all of them marked, have nothing shared; empty where they have."""
    classes = {class_ for prompt in prompts for class_ in prompt.sharing or SHARED}
    return none_shared(classes, raw=all(prompt.context.is_raw for prompt in prompts))


def _refuse_unmarked(task: Task) -> NoReturn:
    """Say how prompts are marked, by what the pair knows of training."""
    unmarked = next(prompt for prompt in task.prompts if prompt.sharing is None)
    fix = (
        ", and nothing is known of what this student was trained on. Say it when it is loaded, "
        "load_pair(..., trained_in=Context(...), trained_on=[a few training prompts]); then "
        "render(pair, questions) gives marked prompts"
    )
    if task.pair.training_prompts is not None:
        fix = "; prompts = mark_sharing(prompts, pair), or render(pair, questions) does both"
    raise ValueError(f"sets='sharing': the prompt {unmarked.question!r} is not marked{fix}.")


class Chosen(NamedTuple):
    """What the sets are in one prompt.

    Attributes:
        cells: `(set, token, cell)` of the prompt; the cells of the pair (`ModelPair.cells`).
        modules: `(set, cell)`, with which the answer's own tokens go with the set.
        own: `(set,)`, whether the set is the answer's own tokens, whose gate nothing else sets.
        sizes: `(set,)`, its tokens at which some student changes a module of it.
        scales: `(set,)`, the gates of its cells where it is on.
    """

    cells: Bool[np.ndarray, "set token cell"]
    modules: Bool[np.ndarray, "set cell"]
    own: Bool[np.ndarray, " set"]
    sizes: Int[np.ndarray, " set"]
    scales: tuple[float, ...]


def _choose(sets: Sequence[Mask], task: Task, prompt: int) -> Chosen:
    """The sets in a prompt."""
    pair, asked, nodes = task.pair, task.prompts[prompt], len(task.answers[prompt].nodes)
    modules = pair.cells()
    of_students = {module.path for module in _changed(pair)}
    changed = np.array([module.path in of_students for module in modules])
    cells = np.zeros((len(sets), len(asked), len(modules)), dtype=bool)
    with_answer = np.zeros((len(sets), len(modules)), dtype=bool)
    own = np.array([isinstance(mask, AnswerMask) for mask in sets])
    for s, mask in enumerate(sets):
        if isinstance(mask, AnswerMask):
            with_answer[s] = mask.modules(asked, modules)
        else:
            cells[s] = mask.unscaled(asked, modules)
            with_answer[s] = cells[s].any(0)
    of_prompt = (cells & changed).any(2).sum(1)
    of_answer = (with_answer & changed).any(1) * nodes
    sizes = np.where(own, of_answer, of_prompt)
    return Chosen(cells, with_answer, own, sizes, tuple(mask.scale for mask in sets))


def _changed(pair: ModelPair) -> list[Module]:
    """The modules that any student changes; all of them where no student is any different."""
    modules = pair.sites.modules
    paths = {path for student in pair.students.values() for path in student.deltas}
    return [module for path, module in modules.items() if path in paths or not paths]


def _refuse_empty(named: Mapping[str, Mask], chosen: Sequence[Chosen], task: Task) -> None:
    """A set somebody named must be somewhere, or its 0 would read like a finding."""
    for s, (name, mask) in enumerate(named.items()):
        empty = [i for i, one in enumerate(chosen) if not one.sizes[s]]
        if not empty:
            continue
        first = chosen[empty[0]]
        where = f"in {counted(len(empty), 'prompt')}, first {task.prompts[empty[0]].question!r}"
        if first.own[s] and not task.answers[empty[0]].nodes:
            raise ValueError(
                f"sets: {name!r} is empty {where}: the answer is one token, which is read and "
                "never fed; leave the set out."
            )
        if first.modules[s].any():
            known = sorted({module.name for module in _changed(task.pair)}, key=module_order)
            raise ValueError(
                f"sets: {name!r} holds nothing that a student of this pair changes, {where}: its "
                f"effect would be 0 whatever was learned. They change {', '.join(known)} in layers "
                f"{ranges(_layers(task.pair, None))}; choose among these."
            )
        of_shared = {"shared", *SHARED} & set(re.findall(r"\w+", mask.name))
        nothing = _nothing_shared(task.prompts) if of_shared else ""
        raise ValueError(
            f"sets: {name!r} is empty {where}; leave the set or the prompt out."
            f"{f' ({nothing}.)' if nothing else ''}"
        )


def _graft(
    task: Task,
    student: Student,
    chosen: Sequence[Chosen],
    answer: Answer,
    advance: Advance,
) -> Cells:
    """Per prompt `(set, measure)`."""
    columns = columns_of(task.pair.cells(), student)

    # all sets of a prompt on, then all of them off, are rows side by side
    rows: list[GatedRow] = []
    for i, sets in enumerate(chosen):
        nodes = len(task.answers[i].nodes)
        with_answer = sets.modules[:, columns]
        for gate, closed in ((answer.sufficiency, False), (not answer.necessity, True)):
            of_nodes = with_answer & (sets.own | gate)[:, None]
            on = zip(sets.cells[:, :, columns], of_nodes, sets.scales, strict=True)
            for cells, one, scale in on:
                gates = scale * _gates(cells, one, nodes)
                rows.append(GatedRow(i, 1 - gates if closed else gates))

    both = ends(task, student, advance=advance)
    values = measure(task, student, rows, advance=advance)
    values = values.reshape(len(task.prompts), 2, -1)  # (prompt, on or off, set)
    sufficient = values[:, 0] - both.base[:, None]
    necessary = both.student[:, None] - values[:, 1]
    return Cells(list(np.stack([sufficient, necessary], -1)), both)


def _gates(
    cells: Bool[np.ndarray, "token module"], answer: Bool[np.ndarray, " module"], nodes: int
) -> Tensor:
    """One row's gates: `(slot,)` where all modules are alike, else `(slot, module)`.

    The answer's nodes follow the tokens, all with the same modules.
    """
    gates = torch.from_numpy(np.concatenate([cells, np.tile(answer, (nodes, 1))])).float()
    alike = gates.shape[1] > 0 and bool((gates == gates[:, :1]).all())
    return gates[:, 0] if alike else gates


# -------------------------------------------------------------------------------------------- sweep


@checked
def graft_sweep(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    *,
    measure: Literal["sufficiency", "necessity"] = "sufficiency",
    layers: Sequence[int] | None = None,
    only: Mask | None = None,
    by: By = "token",
    refine: int | None = None,
    keep: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Scores:
    """Graft every layer x token, one cell at a time (exact): all changed modules of one layer at
    one token, or those of them (or of their parts) that `only` holds.

    A cell's branch starts at its own layer and token, because nothing before them changes.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait or a metric.
        measure: `sufficiency` (the cell alone is the student's) or `necessity` (the cell alone is
            the base's).
        layers: which layers; all that any student changes (there where `only` holds any of it)
            when not given. -1 holds the embeddings, the number of blocks the final norm and the
            unembedding.
        only: a mask of what is switched in each cell, such as `masks.band(0)` of a pair that is
            split or `masks.modules("mlp")`; everything when not given. What it leaves out stays as
            it is around the cell: the base's for sufficiency, the student's for necessity. Of the
            answer's own tokens it holds the modules that it holds at every token of the prompt.
        by: what is switched at once: a `token`, `word`, `sentence`, `message` (cut where the role
            changes; the template's tokens apart), or so many tokens. The effect of a span is that
            of a set, not the sum of its tokens'.
        refine: also switch the single tokens of so many spans of each prompt, those of largest
            absolute effect (of the headline, over all layers).
        keep: a folder in which finished prompts are stored, one file per student and prompt: the
            same call goes on where an earlier one ended, with the same bits (`keeping`).
        progress: show a progress bar.

    Returns:
        Scores of kind `sweep`, `(model, prompt, layer, position)`: M(cell on) - M(base), or
        M(student) - M(cell off); the answer trie's nodes follow the prompt's tokens. Cells do not
        add up to the total effect. Spans are an axis `span` in place of `position`, as in `patch`.
        Tokens that `only` leaves out have no value (NaN), and are neither counted nor drawn.

    Raises:
        ValueError: unknown measure; `by` that is no span, or `refine` beyond the spans of a prompt;
            a layer out of range, or one in which no student of the pair changes anything (that
            `only` holds); `only` that holds nothing that a student changes there.

    Example:
        >>> asked = {"measure": "necessity", "layers": [0, 2], "progress": False}
        >>> scores = sm.instruments.graft_sweep(pair, prompts[:1], trait, **asked)
        >>> scores.data["effect"].sizes["layer"]
        2
    """
    if measure not in MEASURES:
        raise ValueError(
            f"measure={measure!r}: pass 'sufficiency' (on only there) or 'necessity' (off only "
            "there)."
        )
    folder = keep_folder(keep)
    by = check_by(by, refine)
    task = prepare(pair, prompts, trait, keeps_gates=True)
    chosen = _layers(pair, layers)

    count = len(task.prompts)
    held, switched = [], None
    if only is not None:
        held = _held(task, only, chosen)
        chosen = _layers_held(pair, held, chosen, only, given=layers is not None)
        switched = _switched(pair, held, chosen)
    spans = [spans_of(task.prompts[i], len(task.answers[i].nodes), by) for i in range(count)]
    if refine is not None:
        check_refine(refine, spans, task)

    def run(spans: Sequence[Sequence[Span]]) -> Measured:
        def cells(student: Student, part: Part, advance: Advance) -> Cells:
            both = ends(part.task, student)
            effects = []
            for i, number in enumerate(part.numbers):
                inside = None
                if only is not None:
                    inside = held[number][:, columns_of(pair.cells(), student)]
                asked = Sweep(measure, tuple(chosen), tuple(spans[number]), inside)
                values = _sweep_prompt(part.task, student, i, asked, advance=advance)
                if measure == "sufficiency":
                    effects.append(values - both.base[i])
                else:
                    effects.append(both.student[i] - values)
            return Cells(effects, both)

        steps = [len(of_prompt) * len(chosen) for of_prompt in spans]
        kept = Keep(
            folder, lambda i: [measure, chosen, spans[i], *(h.numpy() for h in held[i : i + 1])]
        )
        return walk(task, cells, title="graft sweep", steps=steps, progress=progress, keep=kept)

    measured = run(spans)
    coords: dict[str, Any] = {"layer": np.array(chosen)}
    sets = {} if only is None else cells_chosen({ONLY: only}, task)
    if by == "token":
        axes = ["prompt", "layer", "position"]
        measured = _blank(measured, spans, switched)
        return label(measured, "sweep", axes, coords=coords, measure=measure, sets=sets)
    cells = refined(run, measured, spans, refine)
    single = None if refine is None else cells.refined
    coords |= span_coords(task, cells.spans, single, switched)
    return label(
        _blank(cells.measured, cells.spans, switched),
        "sweep",
        ["prompt", "layer", "span"],
        coords=coords,
        measure=measure,
        sets=sets,
        spans=in_words(by),
        refined=refine,
    )


class Sweep(NamedTuple):
    """What is switched in one prompt.

    Attributes:
        measure: `sufficiency` or `necessity`.
        layers: these, one at a time.
        spans: of slots, likewise.
        only: how far each cell of the student is switched, `(slot, cell)`; all of it when None.
    """

    measure: str
    layers: tuple[int, ...]
    spans: tuple[Span, ...]
    only: Tensor | None = None


def _layers_changed(pair: ModelPair) -> list[int | None]:
    """Of each cell the layer, and None of those that no student changes."""
    paths = {module.path for module in _changed(pair)}
    return [cell.layer if cell.path in paths else None for cell in pair.cells()]


def _held(task: Task, only: Mask, layers: Sequence[int]) -> list[Float[Tensor, "_slot cell"]]:
    """Per prompt, how far a mask switches each cell of the pair; the answer's nodes, which are
    tokens like others, with the modules that it holds at every token of the prompt.
    """
    cells = task.pair.cells()
    changed = np.array([layer in layers for layer in _layers_changed(task.pair)])
    found = []
    for i, prompt in enumerate(task.prompts):
        inside = only.unscaled(prompt, cells)
        if not (inside & changed).any():
            raise ValueError(
                f"only: {only.name!r} holds nothing that a student of this pair changes in layers "
                f"{ranges(sorted(layers))}, first in {prompt.question!r}: every effect would "
                "be 0 whatever was learned."
            )
        nodes = np.tile(inside.all(0), (len(task.answers[i].nodes), 1))
        found.append(torch.from_numpy(only.scale * np.concatenate([inside, nodes])).float())
    return found


def _layers_held(
    pair: ModelPair,
    held: Sequence[Float[Tensor, "_slot cell"]],
    layers: Sequence[int],
    only: Mask,
    *,
    given: bool,
) -> list[int]:
    """The layers in which a mask holds what a student changes: the 0 of others, which nothing
    switches, would read like a finding.
    """
    switched = torch.stack([(inside != 0).any(0) for inside in held]).any(0).tolist()
    reached = {layer for layer, one in zip(_layers_changed(pair), switched, strict=True) if one}
    nothing = [layer for layer in layers if layer not in reached]
    if nothing and given:
        raise ValueError(
            f"layers={list(layers)}: only={only.name!r} holds nothing that a student of this pair "
            f"changes in {nothing}, so their effects would be 0 whatever was learned; leave these "
            "layers out."
        )
    return [layer for layer in layers if layer in reached]


def _switched(
    pair: ModelPair, held: Sequence[Float[Tensor, "_slot cell"]], layers: Sequence[int]
) -> list[list[bool]]:
    """Per prompt, of which slots anything is switched that a student changes."""
    changed = torch.tensor([layer in layers for layer in _layers_changed(pair)])
    return [(inside[:, changed] != 0).any(1).tolist() for inside in held]


def _blank(
    measured: Measured, spans: Sequence[Sequence[Span]], switched: list[list[bool]] | None
) -> Measured:
    """The same without a value (NaN) where nothing of a span is switched: its 0 would read like a
    finding.
    """
    if switched is None:
        return measured
    effect = measured.effect.copy()  # (model, prompt, layer, span)
    for i, of_prompt in enumerate(spans):
        nothing = [not any(switched[i][span.first : span.last + 1]) for span in of_prompt]
        effect[:, i][..., np.flatnonzero(nothing)] = np.nan
    return replace(measured, effect=effect)


def _layers(pair: ModelPair, layers: Sequence[int] | None) -> list[int]:
    """The layers of a sweep, checked."""
    changed = sorted({module.layer for module in _changed(pair)})
    chosen = changed if layers is None else list(layers)
    depth = pair.sites.n_layers
    if not chosen or any(not -1 <= layer <= depth for layer in chosen):
        raise ValueError(
            f"layers={chosen}: give layers between -1 (embeddings) and {depth} (final norm, "
            "unembedding)."
        )
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"layers={chosen}: give each layer once.")
    nothing = [layer for layer in chosen if layer not in changed]
    if nothing:
        raise ValueError(
            f"layers={chosen}: no student of this pair changes anything in {nothing}, so their "
            f"effects would be 0 whatever was learned; choose among {changed}."
        )
    return chosen


@torch.no_grad()
def _sweep_prompt(
    task: Task,
    student: Student,
    prompt: int,
    asked: Sweep,
    *,
    advance: Advance,
) -> np.ndarray:
    """The metric with one cell switched, `(layer, span)`."""
    # alone: the base with one cell of the student's; else the student with one cell of the base's
    measure, layers, spans, only = asked
    if not spans:  # of a prompt whose strongest spans are single tokens already
        return np.empty((len(layers), 0))
    alone = measure == "sufficiency"
    rest, switched = (0.0, 1.0) if alone else (1.0, 0.0)
    trunk_gates = None if alone else task.gates(student, [prompt])
    trunk = grow(task.pair, task.prompts[prompt].ids, task.answers[prompt], trunk_gates)
    module_layers = np.array([task.pair.sites.modules[path].layer for path, _ in student.cells])

    values = np.empty((len(layers), len(spans)))
    for at, layer in enumerate(layers):
        modules = torch.as_tensor(np.flatnonzero(module_layers == layer))
        for slot, numbers in trunk.forwards([span.first for span in spans]):
            gates = torch.full((len(numbers), trunk.size - slot, len(module_layers)), rest)
            for row, number in enumerate(numbers):
                first, last = spans[number]
                cell: Tensor | float = switched
                if only is not None:
                    cell = rest + (switched - rest) * only[first : last + 1, modules]
                gates[row, first - slot : last - slot + 1, modules] = cell
            row_gates = task.gates(student, [prompt] * len(numbers), gates, first=slot)
            logits = trunk.branch(layer, slot, len(numbers), gates=row_gates)
            values[at, numbers] = task.numbers([prompt] * len(numbers), logits)
            advance(len(numbers))
    task.check_finite(values.T, [prompt] * len(spans))
    return values
