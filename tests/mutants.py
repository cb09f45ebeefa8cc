"""Break the library one line at a time and see whether its tests notice (`make mutants`).

1. cosmic-ray makes the mutants of a module: a sign turned, a bound moved by one, a condition
   inverted. Of its operators those are taken that change what is computed (`OPERATORS`), one or two
   per sign instead of its ten; what changes annotations only is no mutant.
2. Each mutant runs the module's own fast tests (`TESTS_OF`) in a fork of a process that has
   imported torch once, so that it costs seconds. The file stays as it is: the fork reads the
   mutant in its place.
3. Survivors are printed with file, line and change. Each gets a test, or a line in
   `mutants_that_change_nothing.md`; those listed there are counted, not printed.

    python tests/mutants.py                      # all modules, hours
    python tests/mutants.py stats/over_prompts.py --sample 20 --seed 0
"""

from __future__ import annotations

import argparse
import ast
import difflib
import gc
import importlib
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
ROOT = TESTS.parent
SOURCE = ROOT / "src" / "sublim_mech"
HARMLESS = TESTS / "mutants_that_change_nothing.md"

TESTS_OF = {
    "stats/over_prompts.py": ("stats/test_over_prompts.py",),
    "stats/curves.py": ("stats/test_curves.py",),
    "stats/diagonal.py": ("stats/test_diagonal.py",),
    "stats/nesting.py": ("stats/test_nesting.py",),
    "stats/plans.py": ("stats/test_plans.py",),
    "stats/rates.py": ("stats/test_plans.py",),
    "stats/shifts.py": ("stats/test_shifts.py", "results/test_null.py"),
    "stats/spreads.py": ("stats/test_nesting.py",),
    "stats/statements.py": ("stats/test_claims.py",),
    "stats/students_t.py": ("stats/test_students_t.py",),
    "prompts/shared.py": ("prompts/test_shared.py",),
    "results/confirming.py": ("results/test_confirming.py", "instruments/test_confirmation.py"),
    "results/shares.py": ("results/test_shares.py",),
    "engine/answers.py": ("engine/test_answers.py",),
    "engine/batch.py": (
        "engine/test_batch.py",
        "engine/test_answers.py",
        "engine/test_own_mask.py",
    ),
    "metrics.py": ("test_metrics.py",),
    "instruments/position_maps.py": ("instruments/test_position_maps.py",),
    "instruments/quadrature.py": ("instruments/test_graft_ig.py",),
    "making/training/objectives.py": ("making/test_training_objectives.py",),
    "making/training/resume.py": ("making/test_training_resume.py",),
    "engine/forward.py": (
        "engine/test_forward.py",
        "engine/test_branch.py",
        "engine/test_own_mask.py",
    ),
    "engine/branch.py": ("engine/test_branch.py",),
    "engine/suffixes.py": ("engine/test_suffixes.py",),
    "engine/bridges.py": ("engine/test_bridges.py",),
    "engine/budget.py": ("engine/test_budget.py",),
    "engine/decoding.py": ("engine/test_decoding.py",),
    "engine/heads.py": ("engine/test_heads.py",),
    "engine/pair.py": ("engine/test_pair.py",),
    "engine/parity.py": ("engine/test_parity.py",),
    "engine/runner.py": ("engine/test_runner.py",),
    "instruments/attribution.py": ("instruments/test_attribution.py",),
    "instruments/confirmation.py": ("instruments/test_confirmation.py",),
    "instruments/effects.py": ("instruments/test_effects.py",),
    "instruments/estimates.py": ("instruments/test_estimates.py",),
    "instruments/generation.py": ("instruments/test_generation.py",),
    "instruments/graft_ig.py": ("instruments/test_graft_ig.py",),
    "instruments/grafting.py": ("instruments/test_grafting.py",),
    "instruments/labelling.py": ("instruments/test_labelling.py",),
    "instruments/patching.py": ("instruments/test_patching.py",),
    "instruments/task.py": ("instruments/test_task.py",),
    "instruments/verification.py": ("instruments/test_verification.py",),
}
"""Modules whose numbers people will quote -> the tests that must notice, cheapest first."""

OPERATORS = (
    *(f"ReplaceBinaryOperator_{change}" for change in (
        "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul",
        "BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitOr",
    )),
    *(f"ReplaceComparisonOperator_{change}" for change in (
        "Eq_NotEq", "NotEq_Eq", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE",
        "GtE_Gt", "GtE_Lt", "Is_IsNot", "IsNot_Is",
    )),
    *(f"ReplaceUnaryOperator_Delete_{sign}" for sign in ("USub", "Invert", "Not")),
    "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr",
    "ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer",
    "ZeroIterationForLoop",
)  # fmt: skip

PRELOADED = ("torch", "transformers", "transformer_lens", "peft", "datasets", "xarray", "pandas",
             "matplotlib.pyplot", "pytest", "beartype", "jaxtyping", "gguf", "safetensors.torch",
             "accelerate")  # fmt: skip
"""What the tests import of others; slow, and the same for every mutant."""


class Mutant(NamedTuple):
    """A module with one change."""

    module: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: `{self.before}` -> `{self.after}`"


def mutants_of(module: str) -> list[Mutant]:
    """All mutants of a module, by line."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    original = (SOURCE / module).read_text()
    seen = {_computed(original)}
    mutants = []
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        for occurrence in itertools.count():
            source = mutate_code(original, operator, occurrence)
            if source is None:
                break
            computed = _computed(source)
            if computed not in seen:
                seen.add(computed)
                mutants.append(Mutant(module, *_change(original, source), source))
    return sorted(mutants, key=lambda mutant: mutant.line)


def _computed(source: str) -> str:
    """The syntax tree without what computes nothing.

    Annotations, class decorators (that a record is frozen), whether `zip` insists on lengths that
    are equal, and `*` among parameters, which a sign's mutants take for a product.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.ClassDef):
            node.decorator_list = []
        if isinstance(node, ast.Call):
            node.keywords = [given for given in node.keywords if given.arg != "strict"]
        if isinstance(node, ast.arguments):
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.defaults = [*node.defaults, *filter(None, node.kw_defaults)]
            node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
    return ast.dump(tree)


def _change(original: str, source: str) -> tuple[int, str, str]:
    """Line, and what stood and stands there."""
    before, after = original.splitlines(), source.splitlines()
    for tag, start, end, new_start, new_end in difflib.SequenceMatcher(
        None, before, after, autojunk=False
    ).get_opcodes():
        if tag != "equal":
            stood = " ".join(line.strip() for line in before[start:end])
            stands = " ".join(line.strip() for line in after[new_start:new_end])
            return start + 1, " ".join(stood.split()), " ".join(stands.split())
    raise ValueError("no change")


def harmless_in(module: str) -> str:
    """What is known to change nothing in a module, in one line."""
    sections = HARMLESS.read_text().split("\n## ")
    of_module = [section for section in sections if section.splitlines()[0] == module]
    return " ".join(" ".join(of_module).split())


def passes_in_a_fork(tests: tuple[str, ...], mutant: Mutant | None, limit: float) -> bool:
    """Whether the tests pass within `limit` seconds."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()  # what the tests start ends with them
            status = _pytest(tests, mutant)
        finally:
            os._exit(status)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False  # a loop without an end is noticed


def _pytest(tests: tuple[str, ...], mutant: Mutant | None) -> int:
    """Run the tests in this process, which reads the mutant where the module's file stands."""
    import pytest

    sys.dont_write_bytecode = True
    if mutant is not None:
        _read_instead(SOURCE / mutant.module, mutant.source)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["-x", "-q", "--no-header", "--no-summary", "--assert=plain"]
    files = [str(TESTS / file) for file in tests]
    return int(pytest.main([*options, "-p", "no:cacheprovider", *files]))


def _read_instead(path: Path, source: str) -> None:
    """From now on, importing the file at `path` reads `source`."""
    read = SourceFileLoader.get_data

    def get_data(loader: SourceFileLoader, wanted: str) -> bytes:
        if Path(wanted) == path:
            return source.encode()
        if Path(wanted).suffix == ".pyc" and Path(wanted).name.startswith(f"{path.stem}."):
            raise OSError("compiled from the file as it was")
        return read(loader, wanted)

    SourceFileLoader.get_data = get_data  # type: ignore[method-assign]


def survivors(module: str, *, sample: int | None, seed: int) -> Iterator[Mutant]:
    """Mutants of a module that its tests do not notice and that are not known to be harmless.

    Raises:
        SystemExit: the tests fail without any change.
    """
    tests, mutants = TESTS_OF[module], mutants_of(module)
    harmless = harmless_in(module)
    made = len(mutants)
    if sample is not None and sample < made:
        mutants = random.Random(seed).sample(mutants, sample)
    start = time.monotonic()
    if not passes_in_a_fork(tests, None, 3600):
        raise SystemExit(f"{module}: its tests fail as it is")
    limit = 10 + 5 * (time.monotonic() - start)

    noticed = known = 0
    for mutant in sorted(mutants, key=lambda mutant: mutant.line):
        entry = f"- `{mutant.before}` ->"
        if f"{entry} any:" in harmless or f"{entry} `{mutant.after}`:" in harmless:
            known += 1
        elif passes_in_a_fork(tests, mutant, limit):
            yield mutant
        else:
            noticed += 1
    took = time.monotonic() - start
    print(
        f"{module}: {noticed} of {len(mutants)} mutants noticed, {known} known to change nothing"
        f" ({made} made, {took:.0f} s)",
        flush=True,
    )


def main() -> None:
    """Print the survivors; the exit status is 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="below src/sublim_mech (default: all)")
    parser.add_argument("--sample", type=int, help="mutants per module (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    asked = parser.parse_args()

    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / "src"))
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # forks that collect garbage need not go through all of that
    surviving = 0
    for module in asked.modules or TESTS_OF:
        for mutant in survivors(module, sample=asked.sample, seed=asked.seed):
            surviving += 1
            print(f"  survived: {mutant}", flush=True)
    sys.exit(surviving > 0)


if __name__ == "__main__":
    main()
