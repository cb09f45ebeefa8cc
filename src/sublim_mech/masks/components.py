"""Masks of modules, by block and by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..arguments import checked
from ..models.names import GROUPS, Module, count_blocks, modules_named
from .mask import Mask, mask_of_modules, whole_number


@checked
def layers(blocks: int | Iterable[int]) -> Mask:
    """All modules of these blocks; embeddings, final norm and unembedding are in none (`modules`).

    Args:
        blocks: a block from 0, a range or a list.

    Raises:
        TypeError: a block is not a whole number.
        ValueError: none is given, or a negative one; when applied, the model has fewer blocks.

    Example:
        >>> modules = list(pair.sites.modules.values())
        >>> cells = sm.masks.layers(range(1, 3))(prompts[0], modules)
        >>> sorted({m.layer for m, inside in zip(modules, cells[0]) if inside})
        [1, 2]
    """
    given = blocks if isinstance(blocks, Iterable) else [blocks]
    wanted = sorted({whole_number(block, "layers") for block in given})
    if not wanted:
        raise ValueError(f"layers({blocks!r}) is empty; give at least one block, layers(0).")
    if wanted[0] < 0:
        raise ValueError(
            f"layers({blocks!r}): blocks count from 0; what lies outside them is "
            "modules('embeddings'), modules('head')."
        )

    def inside(modules: Sequence[Module]) -> list[bool]:
        depth = count_blocks(modules)
        if wanted[-1] >= depth:
            raise ValueError(f"layers({blocks!r}): the model has the blocks 0 to {depth - 1}.")
        return [module.layer in wanted for module in modules]

    plural = "s" if len(wanted) > 1 else ""
    return mask_of_modules(f"layer{plural} {_ranges(wanted)}", inside)


@checked
def modules(*names: str) -> Mask:
    """The modules of these groups or names.

    The groups have no module in common: `attention` and `mlp` are the projections (fused ones too),
    `norms` all norms (also those of queries and keys inside attention, and the final one),
    `embeddings` those of tokens and positions, `head` the unembedding.

    Args:
        names: a group; or TransformerLens' name of a module in every block (`attn.q`, `mlp.out`,
            `ln1`), its last part where no other module shares it (`q`), its full name
            (`blocks.3.attn.q`), or that of a module outside the blocks (`ln_final`).

    Raises:
        TypeError: a name is not a string.
        ValueError: none is given; when applied, the model has no such module, or the last part is
            that of several.

    Example:
        >>> modules = list(pair.sites.modules.values())
        >>> cells = sm.masks.modules("attention", "mlp.out")(prompts[0], modules)
        >>> sorted({m.name for m, inside in zip(modules, cells[0]) if inside})
        ['attn.k', 'attn.o', 'attn.q', 'attn.v', 'mlp.out']
    """
    if not names:
        raise ValueError(
            f"modules() is empty; give at least one of {', '.join(GROUPS)}, or names such "
            "as attn.q."
        )

    def inside(of_model: Sequence[Module]) -> list[bool]:
        chosen = {module.path for name in names for module in modules_named(name, of_model)}
        return [module.path in chosen for module in of_model]

    return mask_of_modules(" | ".join(names), inside)


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers, with runs as `0-9`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join(shown)
