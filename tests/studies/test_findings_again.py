"""The numbers of the page of findings come out of its rows without the library that wrote them."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted_rows import planted
from recomputed import OF_STATEMENT, OWN, of_setting, permutation_p, read, read_all, told
from small_studies import small_study

from sublim_mech import studies

ROOT = Path(__file__).parents[2]


def hold(page: str, rows: pd.DataFrame) -> int:
    """How many lines of the page were recomputed, and came out the same."""
    found = list(told(page, rows))
    for one in found:
        assert one.again == one.page, one.statement
    section = page.partition(f"\n## {OWN}\n")[2].partition("\n## ")[0]
    said = re.search(r"p = (\S+) of ([\d,]+) \(all\)", section)
    assert said
    p, assignments = permutation_p(of_setting(rows, section, "specific"))
    assert (f"{p:.2g}", f"{assignments:,}") == said.groups()
    return len(found)


def test_numbers_of_the_committed_page_come_out_of_the_committed_rows():
    page = (ROOT / "docs" / "findings.md").read_text()
    files = [ROOT / "docs" / "findings" / name for name in ("h200.csv", "rows.csv", "h100.csv")]
    assert hold(page, read_all(files)) >= 3


def test_numbers_and_verdicts_of_the_readme_are_those_of_the_page():
    page = (ROOT / "docs" / "findings.md").read_text()
    readme = " ".join((ROOT / "README.md").read_text().split())
    said = readme.partition("([findings](docs/findings.md)")[2].partition("The paper's own design")[
        0
    ]
    means = {}  # of the page's lines and of its students: interval -> mean
    for mean, low, high in re.findall(r"\| (\S+) \| \[(\S+), (\S+)\] \|", page):
        means[float(low), float(high)] = float(mean)
    intervals = re.findall(r"([+-][\d.]+) (?:nats )?\[([+-][\d.]+), ([+-][\d.]+)\]", said)
    assert len(intervals) == 4
    for mean, low, high in intervals:
        assert any(
            abs(means[key] - float(mean)) < 0.0051
            and abs(key[0] - float(low)) < 0.0051
            and abs(key[1] - float(high)) < 0.0051
            for key in means
        ), (mean, low, high)

    asked = r"\| trained in {0}, asked in (?!{0})\w+: what is left is below 0.1 \| (\S+) \|"
    for trained, words in (
        ("default", r"they keep (\S+) to (\S+) "),
        ("ChatGPT", r"t (\S+) to (\S+) of"),
    ):
        left = sorted(map(float, re.findall(asked.format(trained), page)))
        kept = re.search(words, said)
        assert kept, trained
        assert len(left) == 3
        assert [left[0], left[-1]] == pytest.approx([*map(float, kept.groups())], abs=0.0051)

    short = dict(re.findall(r"^- \*\*(.+?)\*\*: (.+)\.$", page, re.MULTILINE))
    for verdict, claims in {
        "Holds at this scale": ("their own trait", "at the shared tokens"),
        "Does not hold at this scale": ("alpha = 32", "context of training"),
        "Cannot be told from these rows": ("alpha = rank", "full fine-tuning", "sits on shared"),
    }.items():
        for claim in claims:
            assert claim in short[verdict], verdict


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Three row seeds of two training seeds each; every student in two parts, once with scores.

    Some students' traits fall, and of one the share is inside its noise.
    """
    rng = np.random.default_rng(3)
    parts = []
    for seed in (0, 1):
        cells = [({"where": where, "training_seed": seed}, height) for where, height in
                 (("everywhere", 0.2), ("shared", 0.5), ("not shared", 0.1))]  # fmt: skip
        parts.append(planted(cells, row_seeds=3, noise=0.2))
    made = pd.concat(parts, ignore_index=True).drop(columns="change by question")
    names = ["where", "trait", "row_seed", "training_seed"]
    made["student"] = made[names].astype(str).agg(" ".join, axis=1)
    made["change cat"] = rng.normal(size=len(made))  # asked, and nobody was made for it
    made["run"] = "none"
    scored = made[made["where"] == "everywhere"].copy()
    count = len(scored)
    scored["graft total"] = rng.normal(0.3, 0.4, count)
    for name, middle in (("ig shared share", 0.9), ("graft shared sufficiency", 0.3)):
        scored[name] = rng.normal(middle, 0.1, count)
    for name in ("ig shared token share", "graft shared token share"):
        scored[name] = rng.uniform(0.5, 0.7, count)
    assert (scored["graft total"] < 0).sum() > 2
    scored.loc[scored["graft total"].idxmin(), "ig shared share"] = np.nan
    return pd.concat([made, scored], ignore_index=True)


def test_intervals_and_what_would_be_seen_come_out_of_the_rows_of_several_seeds(
    rows, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    findings: Any = importlib.import_module("findings")
    monkeypatch.setattr(findings, "_figures", lambda *given: {})
    study = small_study("none")
    rows.to_csv(tmp_path / "rows.csv", index=False)
    written = studies.read_export(tmp_path / "rows.csv")
    findings.write_page(study, {"rows.csv": written}, tmp_path / "page.md", tmp_path / "figures")
    page = (tmp_path / "page.md").read_text()
    assert "with its sign turned where `graft total` is below 0" in page
    assert hold(page, read(tmp_path / "rows.csv")) == len(OF_STATEMENT)
    assert "of 216 (all)" in page
    assert "no interval" not in page.partition(f"## {OWN}")[2].partition("##")[0]
