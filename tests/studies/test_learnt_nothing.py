"""Students that learnt nothing, effects inside their noise, axes and intervals: what is shown."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from planted_rows import INVERTED_U, TRAITS, kinds, planted, ranks

from sublim_mech.results.study_figures import capacity_figure, concentration_figure, rank_figure
from sublim_mech.results.study_limits import of_capacities, of_concentrations, of_traits, point
from sublim_mech.stats.cautions import missed_stop
from sublim_mech.studies.concluding import Evidence, conclusions, students
from sublim_mech.studies.reporting import _methods, report_rows

QUESTIONS = 8


def wild(rows):
    """The same students, wrecked: all of one answer, further from the teacher than the base."""
    alike = {f"change {name}": 0.5 + i for i, name in enumerate(TRAITS)}
    same = {"specific": 0.0, "change": 0.5, "control": 0.5, "kl": 0.9, "method": "wild", "lr": 1e12}
    return rows.assign(kl_before=0.4, **alike, **same)


def texts(limits):
    return [limit.text for limit in limits]


@pytest.fixture(scope="module")
def both():
    rows = planted([({"rank": 8.0}, 0.5)], row_seeds=6).assign(kl_before=0.4)
    return students(pd.concat([rows, wild(rows)], ignore_index=True))


def test_a_figure_says_which_students_learnt_nothing_and_which_answer_alike(both):
    told = texts(of_capacities(both))
    name = "rank 8, alpha = 32, lr 1e+12"
    assert (
        f"18 of 36 rows ({name}): held-out KL is above the base's: the base imitates their teacher "
        "better"
    ) in told
    assert f"all students of this method answer alike ({name})" in told
    assert not any("noise" in one for one in told)  # a single number is no noise around 0
    sane = both[both["method"] != "wild"]
    assert texts(of_capacities(sane)) == []
    # where each group is of one trait, they are alike together
    assert "all students of this method answer alike" in texts(of_traits(wild(sane)))
    assert texts(of_traits(sane)) == []


def test_some_students_of_every_group_are_not_all_students(both):
    some = both.assign(kl=0.1)
    first = [*some.index[some["method"] == "wild"][:2], some.index[some["method"] != "wild"][0]]
    some.loc[first, "kl"] = 0.9
    told = texts(of_capacities(some))
    names = "rank 8, alpha = 32, lr 0.001 1 of 18; rank 8, alpha = 32, lr 1e+12 2 of 18"
    assert any(line.startswith(f"3 of 36 rows ({names}): held-out KL is above") for line in told)
    everyone = texts(of_capacities(both.assign(kl=0.9)))
    assert not any("all of them" in line for line in everyone if "held-out KL" in line)


def test_a_page_without_controls_says_so_and_has_no_empty_figures(tmp_path):
    rows = planted([({"rank": 8.0}, 0.5)], row_seeds=2).query("trait == 'owl'")
    rows = rows.assign(specific=float("nan"), control=float("nan"))
    page = report_rows(rows, tmp_path / "page").page.read_text("utf-8")
    assert "No controls given: part of any change may come from training on any numbers." in page
    assert "<h2>Figures</h2>" not in page
    assert "figures/" not in page
    assert not (tmp_path / "page" / "figures").exists()


def test_the_page_shows_the_bases_kl_and_no_interval_of_one_number(both, tmp_path):
    page = report_rows(both, tmp_path / "page").page.read_text("utf-8")
    assert "<th>KL</th><th>base&#x27;s KL</th>" in page
    assert "<td>0.9</td><td>0.4</td>" in page
    assert "the base imitates their teacher better" in page
    assert "[+0.000, +0.000]" not in page
    assert "(no interval: 6 data sets alike)" in page
    without = report_rows(both.drop(columns="kl_before"), tmp_path / "older").page
    assert "the base imitates" not in without.read_text("utf-8")


def test_below_the_table_students_are_named_with_what_differs(both):
    """A method has several lines of the table: which of them is limited is said, and no more."""

    def limits(rows):
        page = "".join(_methods(rows))
        return page.partition("</table>")[2].partition("<h2>")[0]

    sane = both[both["method"] != "wild"]
    name = "rank 8, alpha = 32, lr 0.001"
    plain, bare = sane.assign(labels="plain", c=np.nan), sane.assign(evaluated_in="bare", kl=0.9)
    assert f"18 of 36 rows ({name}, default → bare): held-out" in limits(pd.concat([sane, bare]))
    several = pd.concat([sane, bare, plain, plain.assign(where="answer", kl=0.9)])
    told = limits(several)
    assert f"36 of 72 rows ({name}, contrastive, everywhere, default → bare; " in told
    assert f"; {name}, plain, answer, default → default): held-out" in told
    assert f"18 of 36 rows ({name}, c = 2): held-out" in limits(
        pd.concat([sane, sane.assign(c=2.0, kl=0.9)])
    )
    # of another method, whose students are in one line, its name is enough
    assert "(rank 8, alpha = 32, lr 1e+12): held-out" in limits(both)


def grafted(total, part, trait, seed=0, spread=0.01):
    """A student whose graft has this effect, and this on shared tokens."""
    around = spread * np.resize([1, -1], QUESTIONS)
    row = planted([({"trait": trait}, 0.5)], row_seeds=1).iloc[0].to_dict()
    return {
        **row, "trait": trait, "row_seed": seed, "graft total": total,
        "graft questions": QUESTIONS, "change by question": list(total + around),
        "control by question": [0.0] * QUESTIONS, "graft shared sufficiency": part,
        "graft shared necessity": part / 2, "ig shared share": 0.8, "ig shared token share": 0.6,
    }  # fmt: skip


def drawn(rows):
    """The graft's parts as the figure has them: sufficiency, necessity."""
    axes = concentration_figure(pd.DataFrame(rows), "evaluated_in").axes[0]
    return [
        float(line.get_ydata()[0])
        for line in axes.lines
        if str(line.get_label()).startswith("graft:")
    ]


def test_an_effect_inside_its_noise_has_no_parts():
    """Whatever a student without an effect has on the set, the others' parts stay what they are."""
    rows = [grafted(1.0, 0.9, "owl"), grafted(-0.5, -0.3, "penguin")]
    assert drawn(rows) == pytest.approx([0.75, 0.375])
    noisy = grafted(0.0009, 0.07, "eagle", spread=0.3)
    assert drawn([*rows, noisy]) == pytest.approx([0.75, 0.375])
    told = "1 of 3 students (eagle, row seed 0): the graft's effect is inside its own noise"
    assert any(one.startswith(told) for one in texts(
        of_concentrations(pd.DataFrame([*rows, noisy]), "evaluated_in")
    ))  # fmt: skip
    # of which context, where the figure has several
    elsewhere = [{**one, "evaluated_in": "empty"} for one in rows]
    told = "1 of 5 rows (eagle, row seed 0, default): the graft's effect is inside its own noise"
    assert any(one.startswith(told) for one in texts(
        of_concentrations(pd.DataFrame([*rows, noisy, *elsewhere]), "evaluated_in")
    ))  # fmt: skip
    # a small effect that is outside of its noise has
    small = grafted(0.1, 0.02, "owl", seed=1, spread=0.001)
    assert drawn([*rows, small])[0] == pytest.approx((0.75 + 0.2) / 2)


@pytest.mark.parametrize(
    ("low", "high"), [(0.13, 0.62), (0.087, 0.84), (0.3, 0.33), (1e-5, 2.0), (2e-4, 3e-3), (1, 9)]
)
def test_every_span_of_kl_has_numbers_to_read(low, high):
    rows = students(planted([({"kl": kl, "lr": kl}, 0.5) for kl in (low, high)], row_seeds=1))
    axes = capacity_figure(rows).axes[0]
    left, right = axes.get_xlim()
    numbers = [text.get_text() for text in axes.get_xticklabels()]
    places = axes.get_xticks()
    assert 3 <= len(numbers) <= 7
    assert [float(one) for one in numbers] == pytest.approx(list(places), rel=0.01)
    assert left <= places.min()
    assert places.max() <= right


def test_intervals_of_full_fine_tuning_stand_beside_each_other():
    loras = students(planted(ranks(INVERTED_U), row_seeds=4, noise=0.3))
    full = students(planted([({"kind": "full"}, 0.4)], row_seeds=4, noise=0.3))
    full["change"] = full["specific"] + full["control"]
    full["control"] += np.linspace(0, 0.1, len(full))
    axes = rank_figure(loras, full, "alpha = 32").axes[0]
    bars = [one for one in axes.lines if len(one.get_xdata()) == 2 and np.ptp(one.get_xdata()) == 0]
    beyond = [one.get_xdata()[0] for one in bars if one.get_xdata()[0] > 512 and one.get_lw() > 1]
    assert len(beyond) == len(set(beyond)) == 3
    assert point(full, "specific").data_sets == 4


def statements(rows):
    return [repr(one) for verdict in conclusions(Evidence(students(rows)))
            for one in verdict.statements]  # fmt: skip


def test_verdicts_without_enough_say_what_there_is_and_nothing_more():
    two = planted(ranks({1: 0.0, 4: 0.5}))
    told = statements(pd.concat([two, planted(ranks({4: 0.5}, rule="alpha = rank"))]))
    assert (
        "enough was measured [LoRAs have ranks 1, 4 (alpha = 32); rank 4 (alpha = rank): it takes "
        "three ranks of one scaling rule, alike in all else]: cannot be told"
    ) in told
    assert not any("nothing was measured" in one for one in told)
    full = statements(planted([({"kind": "full"}, 0.5)]))
    assert any("there are no LoRAs: it takes three ranks" in one for one in full)


# ----------------------------------------------------------------------- students that were to stop


MISSED = "of 12 full students did not reach the held-out loss that they were to stop at"


def stopping(missed, row_seeds=4):
    """LoRA at two learning rates, and full fine-tunes of which so many ended above `stop_at`."""
    rows = planted(kinds(0.5, 0.4), row_seeds=row_seeds).assign(kl_before=0.4, stop_at=np.nan)
    rows["student"] = [f"{number:x}" for number in range(len(rows))]
    full = rows.index[(rows["kind"] == "full") & (rows["lr"] == 4e-3)]
    rows.loc[full, "stop_at"] = rows.loc[full, "kl"]  # reached to the last digit
    rows.loc[full[:missed], "stop_at"] = rows.loc[full[:missed], "kl"] * (1 - 1e-12)
    return rows


@pytest.mark.parametrize("missed", [0, 5, 12])
def test_students_that_did_not_reach_their_stop_are_told(missed, tmp_path):
    rows = stopping(missed)
    told = f"{missed} {MISSED}"
    evidence = Evidence(students(rows))
    asked = pd.concat([rows, rows.assign(evaluated_in="bare")])  # each student counts once
    pages = [report_rows(given, tmp_path / str(i)) for i, given in enumerate((rows, asked))]
    limits = texts(of_capacities(evidence.capacities().rows))
    verdict = next(one for one in conclusions(evidence) if one.claim.startswith("At equal"))
    assert (told in limits) == (f"{told}." in verdict.notes) == (missed > 0)
    for report in pages:
        page = report.page.read_text("utf-8")
        # a verdict, a figure's caption and what screen readers say of it, the table of students
        assert page.count(told) == (4 if missed else 0)
    # as an exported file has them
    again = pd.read_csv(pages[0].page.parent / "rows.csv", keep_default_na=False, na_values=[""])
    assert missed_stop(again.to_dict("records")) == (told if missed else "")


def test_the_page_tells_kls_that_differ_apart(both, tmp_path):
    near = both[both["method"] != "wild"].assign(kl=1.40004, kl_before=1.39996)
    page = report_rows(near, tmp_path / "page").page.read_text("utf-8")
    assert "<td>1.40004</td><td>1.39996</td>" in page
    same = report_rows(near.assign(kl=1.4, kl_before=1.4), tmp_path / "same").page
    assert "<td>1.4</td><td>1.4</td>" in same.read_text("utf-8")
