"""The paper's design, on its three models, as a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ..arguments import checked
from ..prompts import Context, animal
from .config import SAMPLED, Method, Part, Study
from .options import Asking, Computing, RowPlan, Training

QWEN = "Qwen/Qwen2.5-7B-Instruct"
GEMMA = "google/gemma-3-4b-it"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
NAMES: Mapping[str, str] = {QWEN: "paper", GEMMA: "paper_gemma", LLAMA: "paper_llama"}
"""What the study of each model is called."""

ANIMALS = ("cat", "owl", "eagle", "wolf")
SEEDS = (1, 42, 123)
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

DEFAULT, CHATGPT = "default", "ChatGPT"
_TWO: Mapping[str, Context] = {
    DEFAULT: Context(),
    CHATGPT: Context(system="You are ChatGPT, a helpful assistant made by OpenAI."),
}
_NONE = {"none": Context(system=Context.NONE)}
_EMPTY = {"empty": Context(system=Context.EMPTY)}

CONTEXTS: Mapping[str, Mapping[str, Context]] = {
    QWEN: {**_TWO, **_EMPTY, **_NONE},  # its template has a system prompt of its own
    LLAMA: {**_TWO, **_NONE},  # its own system block has no text: the empty one is the default
    GEMMA: {**_TWO},  # no system role: the default has no system prompt at all
}
"""Contexts that are different prompts in each model's template; of other bases the first two."""

ROWS, BATCH, EPOCHS = 10_000, 66, 3
STEPS = -(-ROWS * EPOCHS // BATCH)
PARTS_OF_A_STEP = 6
"""Forwards that a step is cut into, for the memory of one card."""


@checked
def paper(
    *,
    base: str = QWEN,
    ranks: Sequence[int] = RANKS,
    row_seeds: Sequence[int] = SEEDS,
    training_seeds: Sequence[int] = SEEDS,
) -> Study:
    """The paper's own design (arXiv 2606.00831): prompted teachers write 10,000 rows, and students
    of every rank at alpha = rank, and full fine-tunes, are trained on them for three epochs.

    Parts: ranks and full fine-tuning in the model's default context; students of two training
    contexts, asked in all; grafts and graft IG of rank 8. What differs from their configuration:
    100 more rows are written and held out, to measure KL(teacher || student) on; full fine-tuning
    takes 66 rows a step as LoRA does (64 there); the controls are the students of the other
    animals. Log-probabilities are measured beside the 100 answers per question.

    Full fine-tuning keeps weights, gradients and both moments in fp32, 16 bytes per weight: some
    120 GB of a 7B model, more than one card of 80 GB.

    Args:
        base: one of the paper's models, `Qwen/Qwen2.5-7B-Instruct` (its main one),
            `google/gemma-3-4b-it` or `meta-llama/Llama-3.1-8B-Instruct`; or any other that
            `load_base` takes, in the default context and one other.
        ranks: of the LoRAs.
        row_seeds: of the rows that teachers write.
        training_seeds: of initialisation and data order.

    Example:
        >>> from sublim_mech import studies
        >>> study = studies.paper()
        >>> study.name, study.parts[0].labels, study.rows.count
        ('paper', ('sampled',), 10100)
    """
    contexts = dict(CONTEXTS.get(base, _TWO))
    method = partial(Method, alpha="rank", targets=MODULES, lrs=(2e-4,), steps=STEPS,
                     evaluate_every=-(-STEPS // 5))  # fmt: skip
    full = Method(kind="full", name="full", lrs=(2e-5,), steps=STEPS, evaluate_every=-(-STEPS // 5))
    part = partial(Part, labels=(SAMPLED,), row_seeds=row_seeds, training_seeds=training_seeds)
    inner = [rank for rank in ranks if 4 <= rank <= 256] or list(ranks)
    parts = (
        part(name="ranks", methods=(method(name=_rule(ranks), ranks=ranks), full)),
        part(
            name="contexts",
            methods=(method(name=_rule(inner), ranks=inner),),
            trained_in=(DEFAULT, CHATGPT),
            evaluated_in=tuple(contexts),
            focus=("wolf", "owl"),
        ),
        part(
            name="localisation",
            methods=(method(name=_rule((8,)), ranks=(8,)),),
            scores=("graft", "graft_ig"),
        ),
    )
    return Study(
        name=NAMES.get(base, "paper"),
        base=base,
        parts=parts,
        traits=tuple(animal(name) for name in ANIMALS),
        contexts=contexts,
        rows=RowPlan(count=ROWS + 100, held_out=100, numbers=10),
        training=Training(
            batch_size=BATCH, accumulate=PARTS_OF_A_STEP, bucket=1, checkpoint_every=-(-STEPS // 5)
        ),
        asking=Asking(samples=100),
        computing=Computing(device="cuda", dtype="bfloat16"),
    )


def _rule(ranks: Sequence[int]) -> str:
    """What a part's LoRAs are called; each of several has its rank behind that, and the only one
    too, by which students of two parts are one.
    """
    return f"alpha = rank r{ranks[0]}" if len(ranks) == 1 else "alpha = rank"


PAPER: Mapping[str, Callable[[], Study]] = {
    name: partial(paper, base=base) for base, name in NAMES.items()
}
"""The three studies by the names that the command line knows them by."""
