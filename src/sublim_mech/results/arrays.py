"""Labelled arrays with their record, and the views along their axes that tables and pictures share.

1. The headline is student minus the mean of the controls, prompt by prompt; the student alone where
   there are none. The total is the same difference of student minus base.
2. A view per token, layer, head or token set keeps that axis of the headline and gathers the other
   cells: summed where cells add up to the total, else averaged.
3. The prompt's tokens and the answer's own, which follow it, are told apart. What all cells add up
   to on either (`whole`) is what shares are shares of; a selection of cells keeps it.
4. What a view cannot gather without mixing things (directions of patching, heads within a layer,
   several token sets) is refused with the call that chooses one.

`Scores` are such arrays; what stands in this folder beside them takes either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self, TypeVar

import numpy as np
import xarray as xr

from ..arguments import checked
from ..hints import check_choice
from ..prompts import ANSWER
from ..prompts.shared import HOW_TO_MARK
from .kinds import KINDS, PARTS, STEP
from .record import Record
from .spreading import spread

TOLD = ("points", "capped", "row", "missing_of_row")
"""Data variables of integrals that were completed: see `completing`."""

CONTEXT, DONOR_CONTEXT = "context", "donor_context"
"""Coordinates of prompts that were asked in several contexts: which of the record's each has."""

WHOLE = ("prompt_effect", "answer_effect", "prompt_tokens")
"""Data variables that a selection of cells keeps of the whole: see `whole` and `prompt_tokens`."""


@checked
@dataclass(frozen=True, eq=False)
class ScoreArrays:
    """Effects on named axes, with their record.

    Attributes:
        data: `effect (model, prompt, <cells>)`, `base` and `student` `(model, prompt)`, what a
            selection keeps of the whole (`WHOLE`), and their coordinates (see `scores`).
        kind: one of `KINDS`.
        record: models, hashes, contexts, metric, options, versions.

    Raises:
        ValueError: no such kind; cells on axes that the kind does not have; layers without names.
    """

    data: xr.Dataset
    kind: str
    record: Record

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        axes = ("model", "prompt", *KINDS[self.kind].axes, STEP)
        strange = [str(d) for d in self.data["effect"].dims if d not in axes]
        if strange:
            raise ValueError(
                f"{self.kind} scores have no axis {', '.join(map(repr, strange))}; "
                f"theirs are {', '.join(axes)}."
            )
        if "layer" in self.data.coords and "layer_name" not in self.data.coords:
            raise ValueError(
                "data: layers have no names; add them with results.arrays.name_layers."
            )

    # ---------------------------------------------------------------------------- what they are not

    def __getitem__(self, name: Any) -> NoReturn:
        """Refused: the arrays are in `data`."""
        known = ", ".join(map(repr, map(str, self.data)))
        raise TypeError(
            f"scores[{name!r}]: the arrays are in scores.data, such as scores.data['effect'] (it "
            f"holds {known}); scores.sel(...) chooses cells, scores.totals() and "
            "scores.to_dataframe() are tables."
        )

    def __sub__(self, other: Any) -> NoReturn:
        """Refused: `minus` checks that it may."""
        raise TypeError(
            "scores - ...: scores.minus(other) is the paired contrast, prompt by prompt; of the "
            "numbers alone, scores.data['effect'] - ..."
        )

    def __add__(self, other: Any) -> NoReturn:
        """Refused: sums of effects are no effect of anything."""
        raise TypeError(
            "scores + ...: several scores stand beside each other in sublim_mech.results.compare, "
            "and scores.minus(other) is their contrast."
        )

    # -------------------------------------------------------------------------------- what they are

    @property
    def unit(self) -> str:
        """Unit of every effect."""
        return self.record.unit

    @property
    def additive(self) -> bool:
        """Whether cells add up to the total effect."""
        return KINDS[self.kind].additive

    @property
    def has_controls(self) -> bool:
        """Whether students of other traits were scored alike."""
        return self.data.sizes["model"] > 1

    @property
    def has_sets(self) -> bool:
        """Whether cells are token sets (or one that was selected)."""
        return "tokens" in self.data.coords

    @property
    def has_tokens(self) -> bool:
        """Whether cells are tokens or spans of them."""
        return not {"position", "span"}.isdisjoint(self.data["effect"].dims)

    @property
    def has_steps(self) -> bool:
        """Whether these are the scores of several steps of a training."""
        return STEP in self.data["effect"].dims

    def per_token(self) -> Self:
        """The same scores with each span's value at all of its tokens, as pictures draw it; these
        where cells are no spans.
        """
        if "span" not in self.data["effect"].dims:
            return self
        return replace(self, data=spread(self.data))

    @property
    def selected(self) -> dict[str, Any]:
        """What `sel` kept of the cells, by dimension; empty where these are all."""
        return dict(self.record.selected)

    def dims(self) -> str:
        """Names of the dimensions that `sel` takes."""
        names = ", ".join(map(str, self.data["effect"].dims))
        return f"{names} (and hook)" if "hook" in self.data.coords else names

    def selection(self) -> str:
        """What `sel` kept of the cells, in words."""
        return ", ".join(_in_words(dim, labels) for dim, labels in self.selected.items())

    # --------------------------------------------------------------------------- headline and total

    @property
    def headline_name(self) -> str:
        """What `headline` is: the difference to the controls, or the student (or a hybrid or a sum
        of several) against the base.
        """
        if self.record.hybrid is not None:
            return "hybrid"
        name = str(self.data["model"].values[0])
        if self.record.is_sum:
            return f"{name} (a sum of students)"
        if self.has_controls:
            return f"{name} - controls"
        return name if name != next(iter(self.record.students)) else f"{name} (no controls)"

    @property
    def headline(self) -> xr.DataArray:
        """`(prompt, <cells>)`: student minus the mean of the controls, or the student alone."""
        return _student_minus_controls(self.data["effect"])

    @property
    def total(self) -> xr.DataArray:
        """`(prompt,)`: the whole effect that `headline` is part of."""
        return _student_minus_controls(self.data["student"] - self.data["base"])

    @property
    def normalised(self) -> xr.DataArray:
        """`(prompt, <cells>)`: headline over each prompt's own total; patching: 1 is the donor."""
        return self.headline / self.total

    @property
    def whole(self) -> xr.Dataset:
        """What all cells add up to, of a selection those it was taken from.

        Returns:
            `prompt_effect (model, prompt)` on the prompt's tokens, `answer_effect (model, prompt)`
            on the answer's own; both in `unit`.

        Raises:
            ValueError: cells do not add up to the total; or these are some of the cells, and an
                earlier version that chose them did not keep it.
        """
        if not self.additive:
            raise ValueError(f"{self.kind} scores do not add up, so they have no whole.")
        if "prompt_effect" in self.data:
            return self.data[["prompt_effect", "answer_effect"]]
        if self.selected:
            raise ValueError(
                f"these are some of the cells ({self.selection()}), chosen by an earlier version "
                "that did not keep what all of them add up to; load the whole scores, and select "
                "from them again."
            )
        effect = self.data["effect"]
        cells = [d for d in effect.dims if d not in ("model", "prompt", STEP)]
        return xr.Dataset(
            {
                "prompt_effect": effect.where(self.of_prompt).sum(cells),
                "answer_effect": effect.where(self.of_answer).sum(cells),
            }
        )

    @property
    def knows_whole(self) -> bool:
        """Whether `whole` is known."""
        return self.additive and ("prompt_effect" in self.data or not self.selected)

    @property
    def prompt_effect(self) -> xr.DataArray:
        """`(prompt,)`: the part of `total` on the prompt's tokens, all cells together."""
        return _student_minus_controls(self.whole["prompt_effect"])

    @property
    def answer_effect(self) -> xr.DataArray:
        """`(prompt,)`: the part of `total` on the answer's own tokens, all cells together."""
        return _student_minus_controls(self.whole["answer_effect"])

    @property
    def missing(self) -> xr.DataArray:
        """`(prompt,)`: the part of `total` that no cell has."""
        return self.total - self.prompt_effect - self.answer_effect

    @property
    def gap(self) -> float:
        """Completeness gap: |mean total - mean sum of all cells| / |mean total|, largest over
        models. Of a selection it is that of the scores it was taken from.

        NaN where a total is exactly 0 (a student that is the base).

        Raises:
            ValueError: cells do not add up to the total, or `whole` is not known.
        """
        if not self.additive:
            raise ValueError(
                f"{self.kind} scores do not add up to a total, so they have no completeness gap."
            )
        self.need_one_step()
        return float(self.gaps.max(skipna=False))

    @property
    def gaps(self) -> xr.DataArray:
        """`(model,)`: the completeness gap of each, NaN where its total is exactly 0."""
        total = (self.data["student"] - self.data["base"]).mean("prompt")
        explained = (self.whole["prompt_effect"] + self.whole["answer_effect"]).mean("prompt")
        return abs(total - explained) / abs(total.where(total != 0))

    # ----------------------------------------------------------------- tokens of prompt and answer

    @property
    def of_prompt(self) -> xr.DataArray:
        """`(prompt, position)`: whether there is a token, and it is the prompt's."""
        self._need_positions()
        return (self.data["role"] != "") & (self.data["role"] != ANSWER)

    @property
    def of_answer(self) -> xr.DataArray:
        """`(prompt, position)`: whether it is a token of the answer's own."""
        self._need_positions()
        return self.data["role"] == ANSWER

    @property
    def prompt_tokens(self) -> xr.DataArray | None:
        """`(prompt,)`: how many tokens the prompts have; None where that is not known.

        Of chosen positions it is that of the whole prompts; earlier versions did not keep it.
        """
        if "prompt_tokens" in self.data:
            return self.data["prompt_tokens"]
        if not self.has_tokens or "position" in self.selected:
            return None
        return self.of_prompt.sum("position")

    # ------------------------------------------------------------------------------- cells per axis

    def token_effect(self) -> np.ndarray:
        """`(prompt, position)` headline per token: summed over cells that add up, else averaged.

        Raises:
            ValueError: no position axis; both directions.
        """
        effect = self._by_position()
        others = [d for d in effect.dims if d not in ("prompt", "position")]
        merged = effect.sum(others, min_count=1) if self.additive else effect.mean(others)
        return merged.transpose("prompt", "position").values

    def layer_effect(self) -> xr.DataArray:
        """`(prompt, layer, position)` headline: modules and their parts summed.

        Raises:
            ValueError: no position or layer axis; both directions; heads, of which one must be
                chosen.
        """
        effect = self._by_position()
        if "layer" not in effect.dims:
            raise ValueError(
                f"{self.record.method or self.kind} scores have no layers; use token_effect()."
            )
        if "head" in effect.dims and not self.additive:
            raise ValueError(
                "these scores have heads; choose one: scores.sel(head=0), or use head_effect()."
            )
        summed = [
            dim for dim in ("module", *(PARTS if self.additive else ())) if dim in effect.dims
        ]
        merged = effect.sum(summed, min_count=1) if summed else effect
        return merged.transpose("prompt", "layer", "position")

    def head_effect(self) -> xr.DataArray:
        """`(prompt, layer, head)` headline: averaged over the tokens, or of one token set.

        Raises:
            ValueError: no heads; both directions; several token sets, of which one must be chosen.
        """
        effect = self.one_direction()
        if "head" not in effect.dims:
            raise ValueError(
                f"these scores have no heads; they have {self.dims()}. Patch site='z' for effects "
                "per head."
            )
        if "set" in effect.dims:
            sets = effect["set"].values.tolist()
            if len(sets) > 1:
                raise ValueError(
                    f"these scores hold {len(sets)} token sets; choose one: "
                    f"scores.sel(set={sets[0]!r})."
                )
            effect = effect.isel(set=0)
        tokens = [dim for dim in ("position", "span") if dim in effect.dims]
        merged = effect.mean(tokens) if tokens else effect
        return merged.transpose("prompt", "layer", "head")

    def set_effect(self) -> xr.DataArray:
        """`(prompt, layer, set)` headline of patched token sets.

        Raises:
            ValueError: no token sets per layer; both directions; heads, of which one must be
                chosen.
        """
        effect = self.one_direction()
        if not self.has_sets or "layer" not in effect.dims:
            raise ValueError(
                f"these scores have no token sets per layer; they have {self.dims()}. "
                "Use patch(sets=...)."
            )
        if "head" in effect.dims:
            raise ValueError("these scores have heads; choose one: scores.sel(head=0).")
        if "set" not in effect.dims:  # one was selected
            effect = effect.expand_dims({"set": [self.selected["set"]]})
        return effect.transpose("prompt", "layer", "set")

    @checked
    def positions(self, coordinate: str) -> np.ndarray:
        """A coordinate of the tokens, `(prompt, position)`.

        Raises:
            ValueError: no position axis, or no such coordinate.
        """
        self._need_positions()
        coords = self.data.coords
        known = [str(name) for name in coords if coords[name].dims == ("prompt", "position")]
        if coordinate not in known:
            hint = ""
            if coordinate == "sharing":
                hint = f" (their prompts were not marked: {HOW_TO_MARK})"
            raise ValueError(
                f"these scores have no coordinate {coordinate!r}{hint}; they have "
                f"{', '.join(known)}."
            )
        return self.data[coordinate].values

    # ------------------------------------------------------------------------------- names of cells

    def layer_names(self) -> list[str]:
        """`embed` before the first block, `final` after the last one, else the block's number."""
        return self.data["layer_name"].values.tolist()

    def block_names(self) -> list[str]:
        """TransformerLens' name of every layer.

        Patching: the hook. Grafts: the block, or what is before and after all of them; of one
        selected module, the module. Scores without layers are of the embeddings.
        """
        if "layer" not in self.data.coords:
            return ["hook_embed"]
        if "hook" in self.data.coords:
            return [str(hook) for hook in self.data["hook"].values]
        module = self.selected.get("module", "")
        if not isinstance(module, str):  # several were selected
            module = ""
        return [_module_name(layer, module) for layer in self.layer_names()]

    def cell_names(self) -> list[list[str]]:
        """TransformerLens' name of every `[layer][module]`; a single column without modules."""
        if "module" not in self.data["effect"].dims:
            return [[name] for name in self.block_names()]
        modules = self.data["module"].values.tolist()
        return [[_module_name(layer, name) for name in modules] for layer in self.layer_names()]

    # ------------------------------------------------------------------------------------- refusals

    def _by_position(self) -> xr.DataArray:
        self._need_positions()
        return self.per_token().one_direction()

    def _need_positions(self) -> None:
        if self.has_tokens:
            return
        chosen = ""
        if "position" in self.selected:
            chosen = f" ({self.selection()} selected; a list of labels keeps the axis)"
        raise ValueError(
            f"{self.kind} scores have no position axis{chosen}; use patch or attribute for scores "
            "per token."
        )

    def need_one_step(self) -> None:
        """Raise ValueError where these are the scores of several steps."""
        if self.has_steps:
            last = self.data[STEP].values[-1]
            raise ValueError(
                f"these scores are of several steps; choose one: scores.sel(step={last}), or see "
                "scores.curve()."
            )

    def one_direction(self) -> xr.DataArray:
        """The headline, of scores of a single direction, step and curve.

        Raises:
            ValueError: both directions, several steps, two curves.
        """
        self.need_one_step()
        if KINDS[self.kind].cumulative and "measure" in self.data["effect"].dims:
            first = str(self.data["measure"].values[0])
            raise ValueError(
                f"these scores hold two curves; choose one: scores.sel(measure={first!r})."
            )
        if "direction" in self.data["effect"].dims:
            first = str(self.data["direction"].values[0])
            raise ValueError(
                f"these scores hold both directions; choose one: scores.sel(direction={first!r})"
            )
        return self.headline


S = TypeVar("S", bound=ScoreArrays)


def holding_whole(scores: S) -> S:
    """The same scores, which hold what all their cells add up to: it is found once for all that
    asks for it.
    """
    if not scores.knows_whole or "prompt_effect" in scores.data:
        return scores
    return replace(scores, data=scores.data.assign(scores.whole.data_vars))


def with_whole(scores: ScoreArrays) -> xr.Dataset:
    """The data with what a selection of cells must keep of the whole, as far as it is known."""
    data = scores.data
    if scores.knows_whole:
        data = data.assign(scores.whole.data_vars)
    if scores.prompt_tokens is not None:
        data = data.assign(prompt_tokens=scores.prompt_tokens)
    return data


def name_answers(data: xr.Dataset) -> xr.Dataset:
    """The same data, in which the sharing class of the answer's own tokens is `answer`.

    Files of earlier versions have `seen` or `novel` there.
    """
    if "sharing" not in data.coords:
        return data
    sharing = xr.where(data["role"] == ANSWER, ANSWER, data["sharing"]).astype(str)
    return data.assign_coords(sharing=sharing)


def name_layers(data: xr.Dataset, n_layers: int) -> xr.Dataset:
    """The same data with a coordinate `layer_name (layer)`.

    Args:
        data: with a coordinate `layer`: -1 for the embeddings, the block's number, `n_layers` for
            the final norm and the unembedding; or without layers.
        n_layers: blocks of the models.
    """
    if "layer" not in data.coords:
        return data
    special = {-1: "embed", n_layers: "final"}
    names = [special.get(layer, str(layer)) for layer in data["layer"].values.tolist()]
    return data.assign_coords(layer_name=("layer", np.array(names)))


def _student_minus_controls(values: xr.DataArray) -> xr.DataArray:
    """`(model, ...)` -> `(...)`: the first model minus the mean of the others."""
    student = values.isel(model=0, drop=True)
    if values.sizes["model"] == 1:
        return student
    return student - values.isel(model=slice(1, None)).mean("model")


def _module_name(layer: str, module: str) -> str:
    """What a layer's module is called; without a module, the whole layer."""
    if layer == "embed":
        return module or "embed"
    if layer == "final":
        return module or "ln_final+unembed"
    return f"blocks.{layer}.{module}" if module else f"blocks.{layer}"


def _in_words(dim: str, labels: Any) -> str:
    """A dimension with one of its labels, with several, or with a whole range of numbers."""
    if np.ndim(labels) == 0:
        return f"{dim} {labels}"
    first, count = labels[0], len(labels)
    if count > 2 and isinstance(first, int) and labels == list(range(first, first + count)):
        return f"{dim}s {first} to {labels[-1]}"
    return f"{dim}{'s' * (count > 1)} {'/'.join(map(str, labels))}"
