"""Activation patching between base and student (exact): which activation, at which layer, head and
token, carries the effect.

The donor's activation at one site and layer replaces the recipient's (Zhang & Nanda, arXiv
2309.16042; between models: CMAP, Prakash et al., arXiv 2402.14811). *Denoising* puts the student's
into the base, *noising* the base's into the student. Stored is the metric's change towards the
donor; over the total effect 0 is the recipient, 1 the donor.

1. Run the donor once and keep its activations; run the recipient once and keep what branches need.
2. A *cell* is a set of recipient slots (one each, or a named set) and the donor slots they take
   from (`position_maps`).
3. Cells (times heads) are the rows of a batch, each a branch that starts at its own layer and first
   slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from os import PathLike
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..arguments import checked
from ..engine.branch import grow
from ..engine.forward import Edit, Key
from ..engine.pair import ModelPair
from ..hints import counted
from ..masks import Mask, Where
from ..masks.named import named_sets
from ..metrics import Metric
from ..models.students import Student
from ..prompts import Prompt, Trait
from ..prompts.distinct import check_prompts
from ..results.arrays import DONOR_CONTEXT
from ..results.identity import content
from ..results.record import OTHER_ORDER
from ..results.scores import Scores
from .keeping import keep_folder
from .labelling import context_coord, context_texts, label, scored_by, tokens_chosen
from .met_in_training import met_in_training
from .named_in_questions import named_in_questions
from .position_maps import Link, PositionMap, links
from .reach import reach_notes
from .spans import (
    By,
    Span,
    check_by,
    check_refine,
    in_words,
    refined,
    span_coords,
    spans_of,
)
from .task import Advance, Cells, Ends, Keep, Measured, Part, Task, donors_of, prepare, still, walk

DIRECTIONS = ("denoising", "noising")

Cell = tuple[Link, ...]
"""What is patched at once; a cell without links is left NaN."""


@dataclass(frozen=True)
class Patch:
    """What is patched in one prompt.

    Attributes:
        site: which activation.
        layers: which layers.
        heads: which heads; `(None,)` where the site is not per head.
        cells: of recipient slots and the donor slots they take from.
        direction: `denoising` or `noising`.
    """

    site: str
    layers: tuple[int, ...]
    heads: tuple[int | None, ...]
    cells: tuple[Cell, ...]
    direction: str = "denoising"


class Patched(NamedTuple):
    """What patching one prompt gave.

    Attributes:
        effect: the metric's change towards the donor `(layer, head, cell)`.
        base, student: the metric of the two.
    """

    effect: np.ndarray
    base: float
    student: float


@checked
def patch(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    *,
    site: str = "resid_pre",
    direction: Literal["denoising", "noising", "both"] = "denoising",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    sets: Mapping[str, Where] | None = None,
    answer_in_sets: bool = False,
    by: By = "token",
    refine: int | None = None,
    donor_prompts: Sequence[Prompt] | None = None,
    position_map: PositionMap = "identity",
    keep: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Scores:
    """Patch every layer (x head) x token of a site, one cell at a time; or every layer (x head) x
    token set.

    Args:
        pair: base, student, controls.
        prompts: prompts of the recipient, of any lengths.
        trait: a trait or a metric.
        site: `resid_pre`, `resid_mid`, `resid_post`, `attn_out`, `mlp_out`, or per head `z`, `q`,
            `k`, `v` (projections before norm and rotation); TransformerLens' hook names
            (`hook_resid_pre`, `attn.hook_z`) serve as well, a full one (`blocks.3.hook_resid_pre`)
            for its own layer.
        direction: `denoising` (student into base), `noising` (base into student) or `both`.
        layers: which layers; all when not given.
        heads: which heads of a per-head site; all when not given.
        sets: name -> mask of tokens, positions, or a function from a prompt to them: all tokens of
            a set are patched at once. Each token by itself when not given. `{"whole row":
            masks.everything()}` patches whole rows.
        answer_in_sets: whether the answer's own tokens belong to every set.
        by: what is patched at once where no sets are given: a `token`, `word`, `sentence`,
            `message` (cut where the role changes; the template's tokens apart), or so many tokens.
            The effect of a span is that of a set, not the sum of its tokens'; tokens of it without
            a donor are left alone, and tables and pictures leave them out (coordinate `switched`).
        refine: also patch the single tokens of so many spans of each prompt, those of largest
            absolute effect (of the headline, over all other axes).
        donor_prompts: the donor's prompts where they are others (another context); one per prompt.
        position_map: which donor position each recipient position takes from: `identity`; `aligned`
            (equal tokens of equal role in equal order, difflib's matching blocks); (donor,
            recipient) pairs; or a function from donor and recipient prompt to such pairs. A donor
            may serve several recipients; recipients without one are left alone (NaN as cells).
        keep: a folder in which finished prompts are stored, one file per student and prompt: the
            same call goes on where an earlier one ended, with the same bits (`keeping`).
        progress: show a progress bar.

    Returns:
        Scores of kind `patch`, `(model, prompt, [direction,] layer, [head,] position | set)`: the
        metric's change towards the donor; the answer trie's nodes follow the prompt's tokens.
        Spans are an axis `span` in place of `position`, with `text`, `first` and `last` position,
        `span_role`, `span_sharing` (`mixed` where its tokens differ) and, with `refine`, `refined`
        (1: the value of a single token).
        `base` and `student` are measured on the prompts each of them ran on. A note names the
        layers at which no student changes anything before the site; another one donors that ask
        the prompts' questions in another order.

    Raises:
        TypeError: a function (of a set, of `position_map`) that does not take what it is called
            with, or gives something else than asked for.
        ValueError: unknown site or direction; `by` that is no span, or beside sets;
            `answer_in_sets` without sets; `refine` beyond the spans of a prompt; layer or head out
            of range; an empty set, or a name that tables have for other tokens or an axis; a map
            that is empty, leaves a prompt or gives a recipient two donors; both directions with
            donor prompts (their recipients would differ); donor prompts that are, token by token,
            the prompts themselves.

    Example:
        >>> system = {"system": sm.masks.role("system")}
        >>> asked = {"site": "z", "layers": [1], "sets": system, "progress": False}
        >>> scores = sm.patch(pair, prompts[:1], trait, **asked)
        >>> scores.data["effect"].dims, scores.data["hook"].values.tolist()
        (('model', 'prompt', 'layer', 'head', 'set'), ['blocks.1.attn.hook_z'])
    """
    if donor_prompts is not None and len(donor_prompts) != len(prompts):
        raise ValueError(
            f"donor_prompts has {counted(len(donor_prompts), 'prompt')} for {len(prompts)}; give "
            "one per prompt."
        )
    folder = keep_folder(keep)
    by = check_by(by, refine)
    if sets is not None and by != "token":
        raise ValueError(f"by={by!r} beside sets: sets are patched as they are; leave one out.")
    if answer_in_sets and sets is None:
        raise ValueError(
            "answer_in_sets=True without sets: the answer's own tokens are cells by themselves; "
            "give sets=, or leave it out."
        )
    task = prepare(pair, prompts, trait, donors=donor_prompts, keeps_gates=True)
    answered = answer_in_sets and task.feeds_answers
    donors = task if donor_prompts is None else donors_of(task, donor_prompts)
    if donors is not task:
        for own, other in zip(task.prompts, donors.prompts, strict=True):
            check_prompts({"prompts": [own], "donor_prompts": [other]})
        _check_donors(task, donors, position_map)
    site, layers = pair.sites.place(site, layers)
    directions = _directions(direction, donor_prompts)
    chosen_layers = tuple(_checked_numbers("layers", layers, pair.sites.n_layers))
    chosen_heads = _heads(pair, site, heads)
    named = None
    if sets is not None:
        named = named_sets(sets, task.prompts, list(pair.sites.modules.values()))
    count = len(task.prompts)
    spans = [spans_of(task.prompts[i], len(task.answers[i].nodes), by) for i in range(count)]
    if refine is not None:
        check_refine(refine, spans, task)
    tokens: list[tuple[Cell, ...]] = []
    if named is None:
        tokens = [_token_cells(donors, task, i, position_map) for i in range(count)]

    def planned(spans: Sequence[Sequence[Span]]) -> list[Patch]:
        plans = []
        for i in range(count):
            if named is None:
                cells = _span_cells(tokens[i], spans[i])
            else:
                cells = _set_cells(donors, task, i, position_map, sets=named, with_answer=answered)
            plans.append(Patch(site, chosen_layers, chosen_heads, cells))
        return plans

    plans = planned(spans)
    silent: tuple[str, ...] = ()
    if donor_prompts is None:  # other prompts differ at every layer
        silent = reach_notes(pair, site, chosen_layers)

    def run(plans: Sequence[Patch]) -> Measured:
        def measure(student: Student, part: Part, advance: Advance) -> Cells:
            some, of_donors = part.task, part.task if donors is task else donors.only(part.numbers)
            chosen = [plans[i] for i in part.numbers]
            return _patch_prompts(
                some, of_donors, student, chosen, directions=directions, advance=advance
            )

        def asked(i: int) -> Any:
            return plans[i], directions, donors.prompts[i].ids, repr(donors.answers[i])

        per_cell = len(chosen_layers) * len(chosen_heads) * len(directions)
        return walk(
            task,
            measure,
            title=f"patch {site}",
            steps=[len(plan.cells) * per_cell for plan in plans],
            progress=progress,
            keep=Keep(folder, asked),
        )

    measured = run(plans)
    coords = _coords(pair, plans, directions, named)
    cell_axis = "position" if named is None else "set"
    if by != "token":
        cell_axis = "span"
        cells = refined(lambda some: run(planned(some)), measured, spans, refine)
        measured = cells.measured
        single = None if refine is None else cells.refined
        with_donor = [[bool(cell) for cell in of_prompt] for of_prompt in tokens]
        coords |= span_coords(task, cells.spans, single, with_donor)
    # the axes of one direction, and of a site without heads, are dropped
    dims = ["prompt", "direction", "layer", "head", cell_axis]
    dropped = [dims.index("direction")] if len(directions) == 1 else []
    dropped += [dims.index("head")] if chosen_heads == (None,) else []
    effect = measured.effect.squeeze(tuple(1 + axis for axis in dropped))  # `model` is in front
    of_donors: dict[str, Any] = {}
    if donors is not task:
        of_donors = {
            "donor_contexts": context_texts(donors.prompts),
            "donors": _donors_in_words(donors.prompts, position_map),
        }
    return label(
        replace(measured, effect=effect),
        "patch",
        [dim for axis, dim in enumerate(dims) if axis not in dropped],
        coords=coords | ({} if donors is task else context_coord(donors.prompts, DONOR_CONTEXT)),
        notes=(*silent, *(() if donors is task else _of_donors(task, donors))),
        site=site,
        direction=direction,
        spans=None if by == "token" else in_words(by),
        refined=refine,
        answer_gate={"patch": 1.0} if answered else {},
        sets=tokens_chosen(named or {}, task, with_answer=answered),
        **of_donors,
    )


def _check_donors(task: Task, donors: Task, position_map: PositionMap) -> None:
    """Refuse donors that are the prompts themselves, position by position."""
    same = [own.ids == other.ids for own, other in zip(task.prompts, donors.prompts, strict=True)]
    if all(same) and position_map in ("identity", "aligned"):
        raise ValueError(
            "donor_prompts: they are the prompts themselves, token by token; leave donor_prompts "
            "out, or pass prompts of another context."
        )


def _donors_in_words(donors: Sequence[Prompt], position_map: PositionMap) -> str:
    """Which prompts are donors, and which of their positions are taken, as a short text."""
    ids = sha256(repr([prompt.ids for prompt in donors]).encode()).hexdigest()[:8]
    taken = content(position_map)
    if len(taken) > 80:
        taken = sha256(taken.encode()).hexdigest()[:8]
    return f"prompts {ids}, position_map {taken}"


def _of_donors(task: Task, donors: Task) -> tuple[str, ...]:
    """What is said of other prompts' donors: their order, and what is said of prompts that are
    asked, for what they hold is what is patched.
    """
    return (
        *_other_order(task.prompts, donors.prompts),
        *named_in_questions(donors.prompts, scored_by(task.metric), "donor"),
        *met_in_training(donors.prompts, task.pair, "donor"),
    )


def _other_order(prompts: Sequence[Prompt], donors: Sequence[Prompt]) -> tuple[str, ...]:
    """That donors ask what the prompts ask, in another order, in a sentence; nothing where they ask
    something else on purpose.
    """
    asked = [prompt.question for prompt in prompts]
    given = [donor.question for donor in donors]
    if given == asked or sorted(given) != sorted(asked):
        return ()
    first = next(i for i, pair in enumerate(zip(given, asked, strict=True)) if len(set(pair)) > 1)
    return (
        f"donor {first} {OTHER_ORDER} {asked.index(given[first])} asks: donor_prompts have the "
        "prompts' questions in another order, and each prompt takes from the donor at its place",
    )


def _coords(
    pair: ModelPair,
    plans: Sequence[Patch],
    directions: Sequence[str],
    sets: Mapping[str, Mask] | None,
) -> dict[str, Any]:
    plan = plans[0]
    hooks = np.array([pair.sites.hook_name(plan.site, layer) for layer in plan.layers])
    coords: dict[str, Any] = {"layer": np.array(plan.layers), "hook": ("layer", hooks)}
    if len(directions) > 1:
        coords["direction"] = np.array(directions)
    if plan.heads != (None,):
        coords["head"] = np.array(plan.heads)
    if sets is not None:
        tokens = np.array([[len(cell) for cell in plan.cells] for plan in plans])
        coords |= {"set": np.array(list(sets)), "tokens": (("prompt", "set"), tokens)}
    return coords


# ---------------------------------------------------------------------------------------- measuring


def _patch_prompts(
    task: Task,
    donors: Task,
    student: Student,
    plans: Sequence[Patch],
    *,
    directions: Sequence[str],
    advance: Advance,
) -> Cells:
    """All prompts in all directions: `(direction, layer, head, cell)` per prompt."""
    effects = []
    base, top = np.empty(len(plans)), np.empty(len(plans))
    for i, plan in enumerate(plans):
        by_direction = []
        for direction in directions:
            plan = replace(plan, direction=direction)
            done = patch_prompt(task, donors, student, i, plan, advance=advance)
            by_direction.append(done.effect)
            base[i], top[i] = done.base, done.student
        effects.append(np.stack(by_direction))
    return Cells(effects, Ends(base, top))


@torch.no_grad()
def patch_prompt(
    task: Task,
    donors: Task,
    student: Student,
    prompt: int,
    plan: Patch,
    *,
    advance: Advance = still,
) -> Patched:
    """Carry out one prompt's plan.

    Args:
        task: prompts of the recipient.
        donors: prompts of the donor.
        student: whose weights.
        prompt: which prompt.
        plan: what is patched.
        advance: called with the number of cells that are done.
    """
    # the donor runs once for its activations, the recipient once for its branches to start from
    into_base = plan.direction == "denoising"
    recipient = None if into_base else task.gates(student, [prompt])
    donor = donors.gates(student, [prompt]) if into_base else None
    keys: list[Key] = [(plan.site, layer) for layer in plan.layers]
    given = donors.pair.run(donors.batch([prompt]), gates=donor, record=keys)
    trunk = grow(task.pair, task.prompts[prompt].ids, task.answers[prompt], recipient)
    start = float(task.numbers([prompt], trunk.done.logits)[0])
    end = float(donors.numbers([prompt], given.logits)[0])

    # a branch per head and cell, at every layer
    full = [number for number, cell in enumerate(plan.cells) if cell]
    branches = [_Branch(head, number) for number in full for head in range(len(plan.heads))]
    first_slots = [min(link.recipient for link in plan.cells[branch.cell]) for branch in branches]
    values = np.full((len(plan.layers), len(plan.heads), len(plan.cells)), np.nan)
    for number, key in enumerate(keys):
        source = given.activations[key][0]
        for slot, indices in trunk.forwards(first_slots):
            chosen = [branches[index] for index in indices]
            edit = _put(source, _slots(plan, chosen, slot), per_head=plan.heads != (None,))
            gates = recipient and recipient.after(slot).expand(len(chosen))
            logits = trunk.branch(key[1], slot, len(chosen), gates=gates, edits={key: edit})
            heads, cells = zip(*chosen, strict=True)
            values[number, heads, cells] = task.numbers([prompt] * len(chosen), logits)
            advance(len(chosen))
    task.check_finite(values[:, :, full].reshape(1, -1), [prompt])

    if into_base:
        return Patched(values - start, base=start, student=end)
    return Patched(start - values, base=end, student=start)


class _Branch(NamedTuple):
    """A row of a forward: the number of its head and of its cell."""

    head: int
    cell: int


class _Slot(NamedTuple):
    """One activation that is replaced: in which row and slot, by which slot and head of the
    donor's.
    """

    row: int
    slot: int
    donor: int
    head: int


def _slots(plan: Patch, branches: Sequence[_Branch], first: int) -> list[_Slot]:
    """What the rows of a forward, whose slots begin with `first`, take from the donor."""
    slots = []
    for row, branch in enumerate(branches):
        head = plan.heads[branch.head] or 0
        for link in plan.cells[branch.cell]:
            slots.append(_Slot(row, link.recipient - first, link.donor, head))
    return slots


def _put(source: Float[Tensor, "slot *d"], slots: Sequence[_Slot], *, per_head: bool) -> Edit:
    """Replace activations by the donor's `source`, `(slot, d_model)` or `(slot, head, d_head)`."""
    row, slot, donor, head = torch.tensor(slots, device=source.device).T

    def edit(hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        if per_head:
            hidden[row, slot, head] = source[donor, head].to(hidden.dtype)
        else:
            hidden[row, slot] = source[donor].to(hidden.dtype)
        return hidden

    return edit


# ------------------------------------------------------------------------------------ what is asked


def _token_cells(
    donors: Task, task: Task, prompt: int, position_map: PositionMap
) -> tuple[Cell, ...]:
    """Every slot by itself."""
    donor_of = _donor_slots(donors, task, prompt, position_map)
    cells: list[Cell] = []
    for slot in range(task.size(prompt)):
        if slot in donor_of:
            cells.append((Link(donor_of[slot], slot),))
        else:
            cells.append(())  # the donor has nothing to give here
    return tuple(cells)


def _span_cells(tokens: Sequence[Cell], spans: Sequence[Span]) -> tuple[Cell, ...]:
    """Every span, from the cells of its tokens."""
    cells: list[Cell] = []
    for span in spans:
        cells.append(tuple(link for cell in tokens[span.first : span.last + 1] for link in cell))
    return tuple(cells)


def _set_cells(
    donors: Task,
    task: Task,
    index: int,
    position_map: PositionMap,
    *,
    sets: Mapping[str, Mask],
    with_answer: bool,
) -> tuple[Cell, ...]:
    """Every named set of tokens, with the answer's nodes or without."""
    prompt = task.prompts[index]
    donor_of = _donor_slots(donors, task, index, position_map)
    nodes = range(len(prompt), task.size(index)) if with_answer else ()
    cells = []
    for name, mask in sets.items():
        slots = [slot for slot in (*mask.tokens(prompt), *nodes) if slot in donor_of]
        if not slots:
            raise ValueError(
                f"sets: {name!r} holds no position with a donor in prompt "
                f"{prompt.question[:60]!r}; leave it out."
            )
        cells.append(tuple(Link(donor_of[slot], slot) for slot in slots))
    return tuple(cells)


def _donor_slots(donors: Task, task: Task, index: int, position_map: PositionMap) -> dict[int, int]:
    """Donor slot by recipient slot; the nodes of the answer tries are linked where the tries are
    the same.
    """
    prompt, donor = task.prompts[index], donors.prompts[index]
    donor_of = {link.recipient: link.donor for link in links(donor, prompt, position_map)}
    trie, donor_trie = task.answers[index], donors.answers[index]
    if (trie.nodes, trie.parents) == (donor_trie.nodes, donor_trie.parents):
        for node in range(len(trie.nodes)):
            donor_of[len(prompt) + node] = len(donor) + node
    return donor_of


def _directions(direction: str, donor_prompts: Sequence[Prompt] | None) -> tuple[str, ...]:
    if direction not in (*DIRECTIONS, "both"):
        raise ValueError(
            f"direction={direction!r}: pass 'denoising' (student into base), 'noising' (base into "
            "student) or 'both'."
        )
    if direction != "both":
        return (direction,)
    if donor_prompts is not None:
        raise ValueError(
            "direction='both' with donor_prompts: the two directions have other recipients; call "
            "patch for each."
        )
    return DIRECTIONS


def _heads(pair: ModelPair, site: str, heads: Sequence[int] | None) -> tuple[int | None, ...]:
    count = pair.sites.n_heads(site)
    if count:
        return tuple(_checked_numbers("heads", heads, count))
    if heads is not None:
        raise ValueError(
            f"heads={list(heads)}: site {site!r} has no heads; per-head sites are z, q, k, v."
        )
    return (None,)


def _checked_numbers(name: str, wanted: Sequence[int] | None, count: int) -> list[int]:
    """The wanted numbers below a count, all when None.

    Raises:
        ValueError: none, one that is out of range, or one that is given twice.
    """
    chosen = list(range(count)) if wanted is None else list(wanted)
    outside = any(not 0 <= number < count for number in chosen)
    repeated = len(set(chosen)) < len(chosen)
    if not chosen or outside or repeated:
        raise ValueError(
            f"{name}={chosen}: give {name} between 0 and {count - 1}, each once, at least one."
        )
    return chosen
