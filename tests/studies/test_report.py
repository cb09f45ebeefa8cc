"""Reports: planted truths become verdicts, pages need nothing else, unfinished studies say so."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pandas as pd
import pytest
from planted_rows import (
    FLAT,
    INVERTED_U,
    contexts,
    everything,
    kinds,
    placed,
    planted,
    ranks,
)

from sublim_mech import studies
from sublim_mech.__main__ import main
from sublim_mech.studies.concluding import Evidence, choose, conclusions, students

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def label(rows, claim, **options):
    """The label of the claim whose sentence has these words."""
    found = [one for one in conclusions(Evidence(students(rows), **options)) if claim in one.claim]
    assert len(found) == 1
    return found[0].label


# ----------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("rows", "claim", "says"),
    [
        (planted(ranks(INVERTED_U)), "rises, peaks and falls", "supported"),
        (planted(ranks(FLAT)), "rises, peaks and falls", "not supported"),
        (planted(ranks(INVERTED_U), row_seeds=1), "rises, peaks and falls", "cannot tell"),
        (planted(ranks({1: 0.0, 8: 0.5})), "rises, peaks and falls", "cannot tell"),
        (planted([({}, 0.5)]), "own trait", "supported"),
        (planted([({}, 0.0)]), "own trait", "not supported"),
        (planted([({}, 0.5)], row_seeds=1), "own trait", "cannot tell"),  # 1 / 3! is above 0.05
        (planted(kinds(0.5, 0.1)), "full fine-tuning", "supported"),
        (planted(kinds(0.3, 0.3)), "full fine-tuning", "not supported"),
        (planted([({}, 0.5)]), "full fine-tuning", "cannot tell"),
        (planted(contexts(0.5, 0.0)), "needs the context", "supported"),
        (planted(contexts(0.5, 0.45)), "needs the context", "not supported"),
        (placed(0.9, 0.45), "shared tokens", "supported"),
        (placed(0.6, 0.3), "shared tokens", "not supported"),  # a share that is the token share
        (planted([({}, 0.5)]), "shared tokens", "cannot tell"),
    ],
)
def test_planted_truths_are_told(rows, claim, says):
    assert label(rows, claim) == says


def test_every_scaling_rule_has_a_verdict_of_its_own():
    rows = pd.concat([planted(ranks(INVERTED_U)), planted(ranks(FLAT, rule="alpha = rank"))])
    assert label(rows, "scaling rule: alpha = 32") == "supported"
    assert label(rows, "scaling rule: alpha = rank") == "not supported"


def test_longer_texts_are_no_other_context():
    rows = planted(contexts(0.5, 0.5))
    assert label(rows, "needs the context") == "not supported"
    assert label(rows, "needs the context", longer=("empty",)) == "cannot tell"


def test_rows_in_any_order_and_in_two_parts_say_the_same():
    rows = everything()
    one = conclusions(Evidence(students(rows)))
    twice = conclusions(Evidence(students(pd.concat([rows, rows], ignore_index=True))))
    listed = conclusions(Evidence(students(rows.to_dict("records"))))
    assert repr(one) == repr(twice) == repr(listed)


def test_a_setting_is_chosen_by_how_much_was_measured_and_how_well_students_imitate():
    cells = [({"rank": 4.0, "kl": 2e-3}, 9.0), ({"rank": 8.0, "kl": 1e-3}, 0.0)]
    assert set(choose(planted(cells), ["rank"]).rows["rank"]) == {8}
    more = pd.concat([planted(cells[:1], row_seeds=5), planted(cells[1:])])
    assert set(choose(more, ["rank"]).rows["rank"]) == {4}


def test_rows_of_texts_are_told(made, tmp_path):
    with pytest.raises(TypeError, match=r"rows: 'rank' is the text '.*'; pass numbers"):
        studies.report_rows(made.rows.astype(str), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match=r"to='.*index.html': '.*file' is a file"):
        studies.report_rows(made.rows, tmp_path / "file")


def test_rows_without_a_column_are_refused():
    with pytest.raises(ValueError, match="no column 'kl'"):
        students(planted([({}, 0.5)]).drop(columns="kl"))
    with pytest.raises(TypeError, match="pass a DataFrame"):
        students("rows.csv")


# ----------------------------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return studies.report_rows(everything(), tmp_path_factory.mktemp("report"), name="<i>all</i>")


class Strict(HTMLParser):
    """Elements that are opened are closed; ids stand once; nothing is fetched."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src"):
                self.links.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(told):
    text = told.page.read_text("utf-8")
    page = Strict()
    page.feed(text)
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert {link[:1] for link in page.links if not link.startswith("data:image/png")} == {"#"}
    assert {link[1:] for link in page.links if link[0] == "#"} <= set(page.ids)
    assert not page.tags & {"script", "link", "iframe", "b", "i"}  # names were escaped
    assert "url(http" not in text
    assert "&lt;i&gt;all&lt;/i&gt;" in text
    assert "&lt;b&gt;&amp;amp;" in text


def test_the_page_has_every_figure_and_verdict(told):
    text = told.page.read_text("utf-8")
    names = ("ranks-1", "ranks-2", "capacity", "contexts", "traits", "concentration", "trained-at")
    for name in names:
        assert f'id="{name}-figure_1"' in text
        for form in ("svg", "png"):
            assert (told.page.parent / "figures" / f"{name}.{form}").stat().st_size > 1000
    assert text.count("Scaling rule: alpha") == 2
    for verdict in told.verdicts:
        assert f">{verdict.label}</span>" in text
    assert "would be seen" in text
    assert "Contrastive teachers" in text


def test_tables_beside_the_page_hold_its_numbers(told):
    rows = pd.read_csv(told.page.parent / "rows.csv")
    assert len(rows) == len(everything())
    assert json.loads(rows["change by question"][0])[0] == rows["specific"][0]
    verdicts = pd.read_csv(told.page.parent / "verdicts.csv")
    assert list(dict.fromkeys(verdicts["claim"])) == [one.claim for one in told.verdicts]
    first = told.verdicts[0].statements[0]
    assert verdicts["detectable"][0] == pytest.approx(first.detectable)
    # the same from what was written
    again = studies.report_rows(rows, told.page.parent / "again", name="<i>all</i>")
    assert again.page.read_text("utf-8") == told.page.read_text("utf-8")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [390, 1100])
def test_a_browser_shows_it_without_scrolling_sideways(told, width, tmp_path):
    measured = tmp_path / "page.html"
    frame = f'<iframe style="width:{width}px;height:900px" srcdoc="{{}}"></iframe>'
    page = told.page.read_text("utf-8")
    inside = page.replace("&", "&amp;").replace('"', "&quot;")
    script = (
        "<script>onload=()=>{let d=document.querySelector('iframe').contentDocument"
        ".documentElement;document.body.dataset.wide=d.scrollWidth<=d.clientWidth;"
        "document.body.dataset.figures=d.querySelectorAll('figure svg').length}</script>"
    )
    measured.write_text(f"<body>{frame.format(inside)}{script}</body>", "utf-8")
    shown = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
            measured.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert re.search(r'data-wide="true"', shown.stdout), shown.stderr[-500:]
    assert 'data-figures="7"' in shown.stdout


# -------------------------------------------------------------------------- of a study that was run


def test_a_finished_study_is_reported(made, tmp_path, capsys):
    file = tmp_path / "study.toml"
    studies.write_study(made.study, file)
    words = ["report", str(file), "--out", str(made.out), "--to", str(tmp_path / "told"), "--json"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["missing"] == []
    text = (tmp_path / "told" / "index.html").read_text("utf-8")
    assert "not finished" not in text
    assert "concentration-figure_1" in text
    assert "capacity-figure_1" in text


def test_an_unfinished_study_says_what_is_missing(made, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made.out, out)
    run = made.rows["run"][0]
    (out / "rows" / f"{run}.parquet").unlink()
    told = studies.report(made.study, out)
    assert told.page == out / "report" / made.study.name / "index.html"
    count = len(made.rows)
    assert told.missing[0] == f"{count - 1} of {count} runs are done."
    assert told.missing[1].startswith("Part scored: 1 of 4 runs missing: owl r2")
    text = told.page.read_text("utf-8")
    assert "This study is not finished." in text
    for path in (out / "rows").iterdir():
        path.unlink()
    nothing = studies.report(made.study, out)
    assert nothing.verdicts == ()
    assert "nothing to tell yet" in nothing.page.read_text("utf-8")


def test_a_folder_that_holds_no_studies_is_refused(made, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of studies"):
        studies.report(made.study, tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_a_context_of_fewer_row_seeds_is_told_beside_the_verdict():
    """An unfinished part leaves the others their test."""
    one = placed(0.3, 0.1)
    longer = one[one["row_seed"] == one["row_seed"].min()].assign(evaluated_in="longer")
    whole, both = (
        next(
            one
            for one in conclusions(Evidence(students(rows), ("longer",)))
            if "shared tokens" in one.claim
        )
        for rows in (one, pd.concat([one, longer], ignore_index=True))
    )
    assert both.p == whole.p
    assert both.statements == whole.statements
    beyond = (longer["ig shared share"] - longer["ig shared token share"]).mean()
    told = f"longer (1 row seed; share - token share {beyond:+.3f} in the mean)"
    assert any(told in note for note in both.notes)
