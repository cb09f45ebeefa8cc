"""The table of architectures: right under every instrument and `verify`, or refused in a sentence.

python tests/architecture_table.py [NAME ...]    # writes docs/architectures.md, or prints rows
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import tiny
import torch
import transformers
from pairs import brute_force

import sublim_mech as sm
from sublim_mech.engine import ParityError

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
TRAIT = sm.Trait("owl", forms=("owl", "Owl", "ox"))  # of bytes: a trie that branches twice
QUESTIONS = ("Hi", "Name the bird.")
CLOSE = 2e-5  # nats between a gated run and Hugging Face's or PEFT's own model
QUIET = {"progress": False}
# what PEFT takes on models with Mamba layers
TARGETS = ("q_proj", "v_proj", "in_proj", "x_proj", "up_proj", "down_proj")
HEAD = """# Architectures

Every decoder that TransformerLens maps and transformers builds, tiny and seeded, with a LoRA
student and a full fine-tune: the numbers are those of Hugging Face's and PEFT's own forwards
(largest error in nats), all instruments run and `verify` passes, or the pair is refused when it is
loaded, in one sentence. Made by `make architectures` (transformers {transformers}, torch {torch}).

Text models inside wrappers (`...ForConditionalGeneration`) are used for their text: their vision
towers have no gates, and what a student changes of them is left out and told. An activation is
offered as a site where every block has it with as many heads.

Where attention goes by slots, or layers have state, answers are plain rows
([rows](instruments/running.md)): Bloom, MPT and Falcon with alibi; GPT-Neo, whose local layers keep
their window as a mask of slots; Llama-4; Mamba, linear attention and convolutions. The numbers are
as right; it costs a whole forward per form, in sweeps one per cell, and generation without a cache.

| architecture | LoRA | full fine-tune | sites |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """How one kind of student of one architecture fares.

    Attributes:
        status: `right`, `refused`, `not built` or `WRONG`.
        told: the largest error; the refusal; what is wrong.
        sites: the sites of the architecture.
    """

    status: str
    told: str
    sites: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.status} ({self.told})" if self.status == "right" else self.told


def student_of(base: Any, kind: str) -> Any:
    """A LoRA student, on what PEFT adapts in this model, or a full fine-tune."""
    if kind == "full":
        return tiny.full(base)
    try:
        return tiny.lora(base, std=0.05)
    except ValueError:
        names = {path.rpartition(".")[2] for path, _ in base.named_modules()}
        return tiny.lora(base, std=0.05, target_modules=sorted(names & set(TARGETS)))


def examine(name: str, kind: str) -> Row:
    """Everything, on one architecture with one kind of student."""
    try:
        base = architectures.model(name)
    except ImportError as error:
        return Row("not built", " ".join(str(error).split())[:90])
    student, tokenizer = student_of(base, kind), architectures.tokenizer()
    try:
        pair = sm.load_pair(base, student, tokenizer=tokenizer)
    except (ValueError, ParityError) as error:
        return Row("refused", f"refused: {error}")
    prompts = sm.render(pair, QUESTIONS, context=sm.Context(system=sm.Context.NONE))
    effect = sm.effect(pair, prompts, TRAIT, **QUIET).data
    error = max(
        abs(float(effect[which].values[0, i]) - brute_force(model, tokenizer, prompt, TRAIT))
        for which, model in (("base", base), ("student", student))
        for i, prompt in enumerate(prompts)
    )
    wrong = [str(check) for check in sm.verify(pair).checks if not check.passed]
    if error > CLOSE:
        wrong.append(f"effect is {error:.1e} from the models' own forwards")
    sm.graft(pair, prompts, TRAIT, "role", **QUIET)
    scores = sm.attribute(pair, prompts[:1], TRAIT, points=4, **QUIET)
    sm.confirm(pair, prompts[:1], TRAIT, scores, k=2, **QUIET)
    for site in pair.sites.sites:
        sm.patch(pair, prompts[:1], TRAIT, site=site, layers=[1], **QUIET)
    user = sm.masks.role("user")
    sm.instruments.generate(pair, prompts, user, generated="student", max_new_tokens=3)
    sites = tuple(pair.sites.sites)
    if wrong:
        return Row("WRONG", "; ".join(wrong), sites)
    return Row("right", f"{error:.0e}", sites)


def rows(names: list[str]) -> dict[str, dict[str, Row]]:
    """What becomes of these architectures; a crash is a row too."""
    table: dict[str, dict[str, Row]] = {}
    for name in names:
        table[name] = {}
        for kind in ("lora", "full"):
            try:
                table[name][kind] = examine(name, kind)
            except Exception as error:  # the table has to say so
                said = " ".join(str(error).split())[:200]
                table[name][kind] = Row("WRONG", f"raised {type(error).__name__}: {said}")
            print(name, kind, table[name][kind].status, table[name][kind].told, flush=True)
    return table


def page(table: dict[str, dict[str, Row]]) -> str:
    """The page in Markdown."""
    lines = []
    for name, kinds in table.items():
        sites = next((" ".join(row.sites) for row in kinds.values() if row.sites), "")
        cells = [str(kinds[kind]).replace("|", "\\|") for kind in ("lora", "full")]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {sites} |")
    head = HEAD.format(transformers=transformers.__version__, torch=torch.__version__)
    counts: dict[str, int] = {}
    for row in (row for kinds in table.values() for row in kinds.values()):
        counts[row.status] = counts.get(row.status, 0) + 1
    total = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return f"{head}{chr(10).join(lines)}\n\nOf {sum(counts.values())} students: {total}.\n"


def main() -> None:
    """Examine what is named, or everything, and write the page."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    chosen = sys.argv[1:]
    table = rows(chosen or list(architectures.CONFIGS))
    if not chosen:
        PAGE.write_text(page(table))
    wrong = [name for name, kinds in table.items() if "WRONG" in {r.status for r in kinds.values()}]
    if wrong:
        raise SystemExit(f"wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
