"""The mean change of activation: in which direction training moved the residual stream.

At a site and layer, the student's activation minus the base's on the same prompt, averaged over the
chosen tokens of each prompt, then over prompts. It is a difference of means of two models in place
of two prompts (as in contrastive activation addition, arXiv 2312.06681); steering vectors as what a
fine-tune teaches: arXiv 2606.00995, 2604.25783.

Read a direction with its *consistency*: the norm of the mean over the mean norm of the single
changes (1: the same change at every token and prompt, as a bias makes it; near 0: they cancel).
What it does is measured by `direction_effects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from ..arguments import checked
from ..engine.forward import Key
from ..engine.own_gates import own_gates, within
from ..engine.pair import ModelPair
from ..hints import counted
from ..masks import Mask, Where, as_mask
from ..prompts import Prompt
from ..results.frames import Table
from ..stats import bootstrap_weights

WIDTH = "d_model"


@dataclass(frozen=True, eq=False, repr=False)
class ActivationChange:
    """Mean changes of activation, by model, prompt and layer.

    Attributes:
        data: `change (model, prompt, layer, d_model)` float32, mean over the prompt's chosen
            tokens; `size (model, prompt, layer)`, mean norm of the single tokens' changes;
            `base_norm (prompt, layer)`, mean norm of the base's activation there; coordinates
            `question` and `tokens` `(prompt)`, `hook (layer)`.
        site: which activation.
        where: the mask of the tokens.
        hashes: of the base and of each student, by model; the base is `base`.
        made_from: token ids of the prompts.

    Example:
        >>> system = sm.masks.role("system")
        >>> change = sm.instruments.activation_change(pair, prompts, system, layers=[1, 2])
        >>> change.vector(2).shape
        (32,)
    """

    data: xr.Dataset
    site: str
    where: Mask
    hashes: dict[str, str]
    made_from: tuple[tuple[int, ...], ...] = ()

    @property
    def layers(self) -> list[int]:
        """The layers it was taken at."""
        return self.data["layer"].values.tolist()

    @property
    def vectors(self) -> xr.DataArray:
        """`(model, layer, d_model)`: the mean over prompts, float64."""
        return self.data["change"].astype(float).mean("prompt")

    @checked
    def vector(self, layer: int, model: str = "student") -> np.ndarray:
        """The direction at a layer, `(d_model,)` float64.

        Args:
            layer: one of `layers`.
            model: the student, or a control (`control: <name>`).

        Raises:
            ValueError: no such layer or model.
        """
        self._check("layer", layer, self.layers)
        self._check("model", model, self.data["model"].values.tolist())
        return self.vectors.sel(model=model, layer=layer).values

    def table(self) -> pd.DataFrame:
        """Per layer: the norm of the student's direction, that over the base's activation, its
        consistency, and its cosine with each control's direction (NaN where either is 0).
        """
        vectors = self.vectors.values
        norms = np.linalg.norm(vectors, axis=2)
        size = self.data["size"].mean("prompt").values
        base = self.data["base_norm"].mean("prompt").values
        with np.errstate(divide="ignore", invalid="ignore"):
            columns = {
                "norm": norms[0],
                "relative": norms[0] / base,
                "consistency": norms[0] / size[0],
            }
        for number, name in enumerate(self.data["model"].values[1:], 1):
            columns[f"cosine with {name}"] = cosine(vectors[0], vectors[number])
        return Table(columns, index=pd.Index(self.layers, name="layer"))

    @checked
    def cosine(self, vectors: Any, layers: Sequence[int] | None = None) -> pd.DataFrame:
        """Cosine with other vectors by layer, such as the teacher's own
        (`teachers.steering_vectors`, which are of `resid_post`).

        Args:
            vectors: `(layer, d_model)`, in the order of `layers`.
            layers: of which layers they are; all of `layers` when not given.

        Returns:
            Per layer and model the cosine, with the 95 % interval of the bootstrap over prompts;
            and `chance`, which a random direction exceeds in absolute value 1 time in 20 (about
            1.96 over the square root of the width).

        Raises:
            ValueError: another shape; a layer that was not measured; NaN or infinity; a vector, or
                a direction, of zero norm.

        Example:
            >>> change = sm.instruments.activation_change(pair, prompts, [-1], layers=[1, 2])
            >>> taught = sm.teachers.steering_vectors(pair, trait, layers=[1, 2])
            >>> change.cosine(taught).index.get_level_values("layer").tolist()
            [1, 1, 2, 2]
        """
        chosen = self.layers if layers is None else list(layers)
        for layer in chosen:
            self._check("layers", layer, self.layers)
        given = np.asarray(vectors, dtype=float)
        width = self.data.sizes[WIDTH]
        if given.shape != (len(chosen), width):
            raise ValueError(
                f"vectors have shape {given.shape}; layers={chosen} of this model need "
                f"{(len(chosen), width)}."
            )
        if not np.isfinite(given).all():
            raise ValueError("vectors hold NaN or infinity; check what they were computed from.")
        if not given.any(1).all():
            raise ValueError("vectors hold one of zero norm, which has no direction.")
        changes = self.data["change"].astype(float).sel(layer=chosen)
        rows = []
        for number, layer in enumerate(chosen):
            for name in changes["model"].values:
                self.need_norm([layer], str(name))
                of_prompts = changes.sel(model=name).values[:, number]
                found = cosine(of_prompts.mean(0), given[number])
                row = {"layer": layer, "model": str(name), "cosine": float(found)}
                row |= {"low": np.nan, "high": np.nan}
                if len(of_prompts) > 1:
                    drawn = bootstrap_weights(len(of_prompts)) @ of_prompts
                    low, high = np.percentile(cosine(drawn, given[number]), [2.5, 97.5])
                    row |= {"low": float(low), "high": float(high)}
                rows.append(row | {"chance": 1.96 / np.sqrt(width)})
        return Table(rows).set_index(["layer", "model"])

    def need_norm(self, layers: Sequence[int], model: str) -> None:
        """Raise ValueError where a direction is 0: nothing changes before these layers."""
        norms = np.linalg.norm(self.vectors.sel(model=model, layer=list(layers)).values, axis=1)
        nothing = [layer for layer, norm in zip(layers, norms, strict=True) if norm == 0]
        if nothing:
            raise ValueError(
                f"the direction of {model!r} at {self.site} has zero norm in "
                f"layer{'s' * (len(nothing) > 1)} {', '.join(map(str, nothing))}: this student "
                "changes nothing before it at these tokens; choose later layers, layers=[...]."
            )

    def _check(self, argument: str, value: Any, known: Sequence[Any]) -> None:
        if value not in known:
            shown = ", ".join(map(repr, known))
            raise ValueError(f"{argument}={value!r} was not measured; these are of {shown}.")

    def __repr__(self) -> str:
        tokens = float(self.data["tokens"].mean())
        many = "1 token" if tokens == 1 else f"{tokens:.3g} tokens"
        prompts = counted(self.data.sizes["prompt"], "prompt")
        first = f"mean change of {self.site} at {self.where.name}, {many} per prompt, {prompts}"
        return f"{first}\n{self.table().to_string(float_format='{:z.3f}'.format, na_rep='-')}"


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines along the last axis; NaN where one is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


@checked
@torch.no_grad()
def activation_change(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    where: Where,
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
) -> ActivationChange:
    """The mean change of activation from base to student, and to each control.

    Args:
        pair: base, student, controls.
        prompts: prompts; copies count once, and so do prompts that are one up to the last chosen
            token.
        where: the tokens: a mask of tokens, positions, or a function from a prompt to them.
        site: an activation of the residual stream's width: `resid_pre`, `resid_mid`, `resid_post`,
            `attn_out`, `mlp_out`; TransformerLens' hook names serve as well, a full one
            (`blocks.3.hook_resid_post`) for its own layer.
        layers: at which blocks; all when not given.

    Returns:
        Directions by model and layer.

    Raises:
        ValueError: a set without tokens in a prompt, or one that depends on modules; an unknown
            site, or one per head; a layer out of range; activations that are not finite.

    Source: difference of means between two models; arXiv 2606.00995, 2604.25783.

    Example:
        >>> change = sm.instruments.activation_change(pair, prompts, sm.masks.role("user"))
        >>> change.table().columns.tolist()
        ['norm', 'relative', 'consistency', 'cosine with control: cat']
    """
    pair.check_prompts(prompts)
    mask = as_mask(where, "chosen tokens")
    streams = [name for name in pair.sites.sites if not pair.sites.n_heads(name)]
    site, given = pair.sites.place(site, layers, among=streams)
    if pair.sites.n_heads(site):
        raise ValueError(
            f"site={site!r} is per head, and a direction is of the residual stream; choose one of "
            f"{', '.join(streams)}."
        )
    depth = pair.sites.n_layers
    chosen = list(range(depth)) if given is None else [int(layer) for layer in given]
    outside = any(not 0 <= layer < depth for layer in chosen)
    if not chosen or outside or len(set(chosen)) < len(chosen):
        raise ValueError(f"layers={chosen}: give layers between 0 and {depth - 1}, each once.")
    chosen_tokens = [_tokens(pair, mask, prompt) for prompt in prompts]
    # nothing behind the last chosen token moves what is before it: one prompt's evidence
    first: dict[tuple[Any, ...], int] = {}
    for place, (prompt, of_prompt) in enumerate(zip(prompts, chosen_tokens, strict=True)):
        first.setdefault((prompt.ids[: max(of_prompt) + 1], *of_prompt), place)
    places = list(first.values())
    asked = [prompts[place] for place in places]
    tokens = [chosen_tokens[place] for place in places]

    names = list(pair.students)
    keys: list[Key] = [(site, layer) for layer in chosen]
    shape = len(names), len(asked), len(chosen)
    change: np.ndarray | None = None
    size, base_norm = np.zeros(shape), np.zeros(shape[1:])
    for rows in pair.chunks([len(prompt) for prompt in asked], reads=1):
        batch = pair.batch([asked[i].ids for i in rows])
        before = pair.run(batch, record=keys).activations
        for m, student in enumerate(pair.students.values()):
            own = [own_gates(pair.sites, student, asked[i]) for i in rows]
            gates = within(student, own, slots=batch.ids.shape[1], device=pair.device)
            after = pair.run(batch, gates=gates, record=keys).activations
            for number, key in enumerate(keys):
                for row, i in enumerate(rows):
                    base = before[key][row, tokens[i]].double().cpu().numpy()
                    moved = after[key][row, tokens[i]].double().cpu().numpy() - base
                    if change is None:
                        change = np.zeros((*shape, moved.shape[1]), dtype=np.float32)
                    change[m, i, number] = moved.mean(0)
                    size[m, i, number] = np.linalg.norm(moved, axis=1).mean()
                    base_norm[i, number] = np.linalg.norm(base, axis=1).mean()
    pair.settle(*pair.students.values())
    assert change is not None
    if not (np.isfinite(change).all() and np.isfinite(base_norm).all()):
        raise ValueError(
            f"activations at {site} are not finite on some prompt; check the models' dtype and "
            "compute=."
        )
    data = xr.Dataset(
        {
            "change": (("model", "prompt", "layer", WIDTH), change),
            "size": (("model", "prompt", "layer"), size),
            "base_norm": (("prompt", "layer"), base_norm),
        },
        {
            "model": np.array(names),
            "prompt": np.array(places),
            "layer": np.array(chosen),
            "hook": ("layer", np.array([pair.sites.hook_name(site, layer) for layer in chosen])),
            "question": ("prompt", np.array([prompt.question for prompt in asked])),
            "tokens": ("prompt", np.array([len(one) for one in tokens])),
        },
    )
    hashes = {"base": pair.hash} | {name: one.hash for name, one in pair.students.items()}
    made_from = tuple(dict.fromkeys(tuple(prompt.ids) for prompt in prompts))
    return ActivationChange(data, site, mask, hashes, made_from)


def _tokens(pair: ModelPair, mask: Mask, prompt: Prompt) -> list[int]:
    """The tokens of a prompt that a mask chooses."""
    pair.check_length(prompt)
    chosen = mask.tokens(prompt)
    if not chosen:
        raise ValueError(
            f"where: {mask.name!r} is empty in prompt {prompt.question[:60]!r}; leave the prompt "
            "out, or choose other tokens."
        )
    return chosen
