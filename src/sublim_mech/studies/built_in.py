"""Built-in studies: functions that give a configuration, to run as it is or with changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ..arguments import checked
from ..hints import check_choice
from ..prompts import Context, Trait, animal
from .arms import ARMS
from .config import Method, Part, Study
from .options import Asking, Computing, RowPlan, Training
from .published import PAPER

ANIMALS = ("owl", "penguin", "eagle", "cat")
"""Whose teachers label the rows of the built-in studies."""

FOCUS = ("owl", "penguin", "eagle")
"""Who has students in the laptop study."""

CHATGPT = "You are ChatGPT, a helpful assistant made by OpenAI."

HALF = "It is an ordinary day. The room is quiet. A table stands by the window."
"""What stands before a question so that the shared tokens are about half of SmolLM2's prompt."""

QUARTER = (
    "It is an ordinary day. The room is quiet. A table stands by the window, and there is a cup on "
    "the table. The clock on the wall shows the time of day. Outside, people walk along the "
    "street. Some of them carry a bag. The weather is much as it was yesterday. A letter came with "
    "the morning post, and it has not been opened yet."
)
"""The same for a quarter."""

CONTEXTS = {
    "default": Context(),
    "empty": Context(system=Context.EMPTY),
    "none": Context(system=Context.NONE),
    "ChatGPT": Context(system=CHATGPT),
    "half shared": Context(user_prefix=HALF + "\n"),
    "quarter shared": Context(user_prefix=QUARTER + "\n"),
}
"""Contexts of the built-in studies: four system prompts; and the default one with longer user
texts, so that the shared tokens are about 75 (`default`), 50 and 25 % of a prompt."""

RULES = ("alpha = rank", "alpha = 32", "rslora")
"""How LoRA's scale grows with the rank."""

LORA = Method(name="r8")
"""LoRA of rank 8, alpha 32, 60 steps: the recipe of `examples/train_students.py`."""

FULL = Method(kind="full", name="full", steps=56, warmup=12, evaluate_every=8, stop_with="r8")
"""Full fine-tuning up to the held-out KL of the LoRA twin."""


def _animals(names: Sequence[str]) -> tuple[Trait, ...]:
    return tuple(animal(name) for name in names)


@checked
def rank_sweep(
    *,
    ranks: Sequence[int] = (2, 8, 32, 128),
    row_seeds: Sequence[int] = (0,),
    training_seeds: Sequence[int] = (0,),
    steps: int = 32,
    rules: Sequence[str] = RULES,
    snapshots: Sequence[int] = (),
) -> Study:
    """Trait against LoRA rank, full fine-tuning beside it, under each scaling rule
    (arXiv 2606.00831, claims 1 and 2).

    Args:
        ranks: of the LoRAs.
        row_seeds: of the number rows.
        training_seeds: of initialisation and data order.
        steps: of every training.
        rules: `alpha = rank`, as in the paper; `alpha = 32` for all ranks; `rslora`, which is
            rank-stabilised.
        snapshots: steps after which students are asked as well.

    Raises:
        ValueError: an unknown rule.

    Example:
        >>> from sublim_mech import studies
        >>> [method.rule for method in studies.rank_sweep().parts[0].methods]
        ['alpha = rank', 'alpha = 32', 'alpha = 32, rslora', '']
    """
    method = partial(Method, steps=steps, snapshots=snapshots)
    for rule in rules:
        check_choice("rank_sweep(rules)", rule, RULES)
    loras = [
        method(
            name=rule,
            alpha="rank" if rule == RULES[0] else 32.0,
            rslora=rule == RULES[2],
            ranks=ranks,
        )
        for rule in rules
    ]
    methods = (*loras, method(kind="full", name="full", warmup=10))
    part = Part(name="ranks", methods=methods, row_seeds=row_seeds, training_seeds=training_seeds)
    return Study(
        name="rank_sweep", parts=[part], traits=_animals(ANIMALS), focus=("owl", "penguin")
    )


@checked
def context_grid(
    *,
    trained_in: Sequence[str] = ("default", "ChatGPT"),
    evaluated_in: Sequence[str] = ("default", "ChatGPT", "empty", "none"),
    row_seeds: Sequence[int] = (0,),
    training_seeds: Sequence[int] = (0,),
) -> Study:
    """Training context x evaluation context, each with its own base level and control
    (arXiv 2606.00831, claim 3).

    Example:
        >>> from sublim_mech import studies
        >>> len(studies.Tasks(studies.context_grid()).runs)
        16
    """
    part = Part(
        name="contexts",
        methods=[LORA],
        trained_in=trained_in,
        evaluated_in=evaluated_in,
        row_seeds=row_seeds,
        training_seeds=training_seeds,
    )
    contexts = {name: CONTEXTS[name] for name in CONTEXTS if name in (*trained_in, *evaluated_in)}
    return Study(
        name="context_grid",
        parts=[part],
        traits=_animals(ANIMALS),
        focus=("owl", "penguin"),
        contexts=contexts,
    )


@checked
def trait_matrix(
    *,
    traits: Sequence[str] = ("owl", "penguin", "eagle", "cat"),
    row_seeds: Sequence[int] = (0, 1, 2),
    training_seeds: Sequence[int] = (0,),
) -> Study:
    """K students x K traits: do students raise their own trait beyond rows and columns?

    Example:
        >>> from sublim_mech import studies
        >>> studies.trait_matrix().focus
        ('owl', 'penguin', 'eagle', 'cat')
    """
    part = Part(name="traits", methods=[LORA], row_seeds=row_seeds, training_seeds=training_seeds)
    return Study(name="trait_matrix", parts=[part], traits=_animals(traits))


@checked
def capacity_curve(
    *,
    ranks: Sequence[int] = (2, 8, 32),
    lrs: Sequence[float] = (5e-4, 1e-3, 2e-3),
    full_lrs: Sequence[float] = (1e-5, 2e-5, 4e-5),
    row_seeds: Sequence[int] = (0, 1, 2),
    training_seeds: Sequence[int] = (0,),
    snapshots: Sequence[int] = (8, 16, 32),
) -> Study:
    """Trait against held-out KL for ranks and full fine-tuning, several learning rates each.

    Students are asked along their training, so that capacities can be compared at equal held-out
    KL.

    Example:
        >>> from sublim_mech import studies
        >>> study = studies.capacity_curve(row_seeds=[0])
        >>> sorted({run.cell.step for run in studies.Tasks(study).runs})
        [0, 8, 16, 32]
    """
    methods = (
        Method(name="lora", ranks=ranks, lrs=lrs, snapshots=snapshots),
        Method(kind="full", name="full", lrs=full_lrs, warmup=12, snapshots=snapshots),
    )
    part = Part(
        name="capacities", methods=methods, row_seeds=row_seeds, training_seeds=training_seeds
    )
    return Study(
        name="capacity_curve", parts=[part], traits=_animals(ANIMALS), focus=("owl", "penguin")
    )


@checked
def localisation(
    *,
    row_seeds: Sequence[int] = (0, 1, 2),
    training_seeds: Sequence[int] = (0,),
    snapshots: Sequence[int] = (16,),
) -> Study:
    """Where the trait is: concentration of graft IG on shared tokens, and grafts of the shared set,
    where these are about 75, 50 and 25 % of the prompt (arXiv 2606.00831, claim 4).

    A share that merely follows the token share is no localisation.

    Example:
        >>> from sublim_mech import studies
        >>> studies.localisation().parts[0].evaluated_in
        ('default', 'half shared', 'quarter shared')
    """
    method = Method(name="r8", snapshots=snapshots)
    part = Part(
        name="localisation",
        methods=[method],
        evaluated_in=("default", "half shared", "quarter shared"),
        row_seeds=row_seeds,
        training_seeds=training_seeds,
        scores=("graft", "graft_ig"),
    )
    return Study(
        name="localisation",
        parts=[part],
        traits=_animals(ANIMALS),
        focus=("owl", "penguin"),
        contexts=_contexts(part),
    )


@checked
def trained_at(
    *,
    where: Sequence[str] = tuple(ARMS),
    row_seeds: Sequence[int] = (0, 1, 2),
    training_seeds: Sequence[int] = (0,),
) -> Study:
    """The causal test: students that are trained at chosen tokens only (arXiv 2606.00831, claim 4).

    Held-out KL stands in every row: an arm without the trait that imitates its teacher worse than
    the others tells nothing.

    Example:
        >>> from sublim_mech import studies
        >>> studies.trained_at().parts[0].where
        ('everywhere', 'shared', 'not shared', 'prompt', 'answer')
    """
    part = Part(
        name="trained at",
        methods=[LORA],
        row_seeds=row_seeds,
        training_seeds=training_seeds,
        where=where,
    )
    return Study(
        name="trained_at", parts=[part], traits=_animals(ANIMALS), focus=("owl", "penguin")
    )


def _contexts(*parts: Part) -> dict[str, Context]:
    """The contexts that parts name."""
    named = {name for part in parts for name in (*part.trained_in, *part.evaluated_in)}
    return {name: context for name, context in CONTEXTS.items() if name in named}


@checked
def laptop() -> Study:
    """The four claims at the scale of a laptop: SmolLM2-135M, three animals, three row seeds.

    Parts stand in the order in which an interrupted study is most useful: the headline of the first
    row seed, of the second and third, then contexts, training at chosen tokens, plain labels,
    further training seeds, ranks, learning rates, the longer prompts, the scores of the rest, and
    the ranks of further row seeds.

    Example:
        >>> from sublim_mech import studies
        >>> studies.laptop().parts[0].name
        'headline, rows 0'
    """
    both, scored = (LORA, FULL), ("graft", "graft_ig")
    every = (0, 1, 2)
    parts = [
        Part(name=f"headline, rows {seed}", methods=both, row_seeds=(seed,), scores=scored)
        for seed in every
    ]
    asked = ("default", "ChatGPT", "empty", "none")
    parts += [
        Part(
            name="contexts",
            methods=[LORA],
            row_seeds=every,
            trained_in=("default", "ChatGPT"),
            evaluated_in=asked,
        ),
        Part(name="trained at", methods=[LORA], row_seeds=every, where=tuple(ARMS)),
        Part(name="plain labels", methods=[LORA], row_seeds=every, labels=("plain",)),
        Part(name="headline, more seeds", methods=both, row_seeds=every, training_seeds=(1, 2)),
        Part(name="ranks", methods=_laptop_ranks()),
        # of every row seed: one data set gives a difference at equal KL no interval
        Part(name="learning rates", methods=_laptop_rates(), row_seeds=every),
        Part(
            name="shared parts",
            methods=both,
            row_seeds=every,
            evaluated_in=("half shared", "quarter shared"),
            scores=scored,
        ),
        Part(
            name="contexts, scored",
            methods=[LORA],
            row_seeds=every,
            trained_in=("default", "ChatGPT"),
            evaluated_in=asked,
            scores=scored,
        ),
        Part(
            name="trained at, scored",
            methods=[LORA],
            row_seeds=every,
            where=tuple(ARMS),
            scores=scored,
        ),
        Part(
            name="headline, more seeds, scored",
            methods=both,
            row_seeds=every,
            training_seeds=(1, 2),
            scores=scored,
        ),
        # one data set gives no interval; last, as its students take longest
        Part(name="ranks, more rows", methods=_laptop_ranks(), row_seeds=(1, 2)),
    ]
    return Study(
        name="laptop",
        parts=parts,
        traits=_animals(ANIMALS),
        focus=FOCUS,
        contexts=dict(CONTEXTS),
    )


def _laptop_ranks() -> tuple[Method, ...]:
    ranks = (1, 4, 16, 64, 128)
    return (
        Method(name="alpha = 32", ranks=ranks),
        Method(name="alpha = rank", ranks=ranks, alpha="rank"),
        Method(kind="full", name="full, not stopped", warmup=12),
    )


def _laptop_rates() -> tuple[Method, ...]:
    return (
        Method(name="r8", lrs=(5e-4, 2e-3)),
        Method(kind="full", name="full, not stopped", lrs=(1e-5, 4e-5), warmup=12),
    )


@checked
def quick() -> Study:
    """A few minutes on two cores: two animals, one row seed, few rows and steps, fewer questions.

    It shows the machinery, not the phenomenon.

    Example:
        >>> from sublim_mech import studies
        >>> len(studies.quick().parts)
        1
    """
    questions = animal("owl").questions[:12]
    method = Method(name="r8", steps=24, evaluate_every=12)
    full = Method(kind="full", name="full", steps=16, warmup=4, evaluate_every=8)
    part = Part(name="quick", methods=(method, full), evaluated_in=("default", "empty"))
    return Study(
        name="quick",
        parts=[part],
        traits=_animals(("owl", "penguin")),
        contexts=_contexts(part),
        rows=RowPlan(count=64, held_out=8, numbers=12),
        training=Training(checkpoint_every=8),
        asking=Asking(questions=questions),
        computing=Computing(),
    )


PRESETS: dict[str, Callable[[], Study]] = {
    "laptop": laptop,
    "quick": quick,
    **PAPER,
    "rank_sweep": rank_sweep,
    "context_grid": context_grid,
    "trait_matrix": trait_matrix,
    "capacity_curve": capacity_curve,
    "localisation": localisation,
    "trained_at": trained_at,
}
"""Studies that the command line knows by name."""
