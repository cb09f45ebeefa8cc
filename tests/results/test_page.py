"""The token page: what a browser sees of it, and that nothing else gets in or out."""

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from synthetic import (
    attribution,
    chat,
    confirmed,
    filled,
    gradient,
    graft,
    patch,
    recorded,
    several,
    sweep,
)

from sublim_mech.results.cells import verdicts
from sublim_mech.results.limits import in_full
from sublim_mech.results.page import save_page, token_page
from sublim_mech.results.report import POOR_AGREEMENT
from sublim_mech.results.tables import size_in_words

HOSTILE = ["<script>alert(1)</script>", '"', "'", "&amp;", "<|im_start|>", '" onmouseover="x']
VOID = {"br", "meta"}


class Page(HTMLParser):
    """What a browser sees: balanced tags, token spans with attributes and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.spans, self.breaks = [], set(), [], 0
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.breaks += tag == "br"
        if tag not in VOID:
            self.open.append(tag)
        if tag == "span" and "title" in dict(attrs):
            self.spans.append(dict(attrs) | {"text": ""})

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "span" and self.spans:
            self.spans[-1]["text"] = self.spans[-1]["text"] or data


def spans_of(scores, prompt=0):
    return Page(token_page(scores, prompt)).spans


def classes(span):
    return set(span["class"].split())


def styles(page):
    return re.search(r"<style>(.*?)</style>", page, re.S)[1]


# ------------------------------------------------------------------------------------------- tokens


def test_every_real_token_is_shown_once():
    scores = attribution()
    for prompt in range(3):
        spans = spans_of(scores, prompt)
        real = scores.positions("role")[prompt] != ""
        tokens = scores.positions("token")[prompt, real]
        assert len(spans) == len(tokens)
        assert [span["text"] for span in spans] == [t.replace("\n", "↵") for t in tokens]


def test_newlines_break_the_line():
    assert Page(token_page(attribution())).breaks == sum("\n" in row[0] for row in chat())


def test_white_space_alone_is_visible():
    assert "␣␣" in [span["text"] for span in spans_of(attribution([chat(["  "])]))]


def test_hostile_tokens_stay_text():
    page = token_page(attribution([chat(HOSTILE)]))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    parsed = Page(page)
    assert set(HOSTILE) <= {span["text"] for span in parsed.spans}
    assert all(set(span) <= {"class", "style", "title", "text"} for span in parsed.spans)
    tags = {"bdi", "div", "style", "span", "br", "table", "caption", "tr", "th", "td"}
    assert parsed.tags == tags


def test_tokens_below_the_noise_are_veiled_and_no_others():
    scores = attribution(several(9))
    spans = spans_of(scores, 2)
    real = scores.positions("role")[2] != ""
    noise, untested = (part[real].tolist() for part in verdicts(scores, 2, tokens=True))
    assert ["x" in classes(span) for span in spans] == untested
    told = [", not tested: in fewer than 6 prompts" in span["title"] for span in spans]
    assert told == untested
    assert any(untested)
    assert ["o" in classes(span) for span in spans] == noise
    assert ["not distinguishable from 0" in span["title"] for span in spans] == noise
    assert 0 < sum(noise) < len(noise)
    note = "grey: not distinguishable from 0 over 9 prompts (sign-flip max-T, 5 %)"
    assert note in token_page(scores, 2)
    assert "3 prompts: cells not tested (needs 6)" in token_page(attribution())
    assert not any("o" in classes(span) for span in spans_of(attribution()))


def test_colour_is_the_signed_effect_over_the_largest():
    scores = attribution()
    effect = scores.token_effect()[0]
    spans = spans_of(scores)
    alphas = np.array([float(span["style"].removeprefix("--a:")) for span in spans])
    signs = np.array([1 if "p" in classes(span) else -1 for span in spans])
    np.testing.assert_allclose(alphas * signs, effect / np.abs(effect).max(), atol=0.0051)
    assert alphas.max() == 1


def test_unscored_tokens_have_no_colour():
    pairs = zip(spans_of(patch()), chat(), strict=True)
    answers = [span for span, row in pairs if row[1] == "answer"]
    assert answers
    assert all(span.get("style") is None for span in answers)
    assert all("no score" in span["title"] for span in answers)


def test_shared_tokens_are_underlined_and_no_others():
    marks = [classes(span) & {"u", "v"} for span in spans_of(attribution())]
    expected = {"prefix": {"u"}, "aligned": {"v"}}
    assert marks == [expected.get(row[3], set()) for row in chat()]


# -------------------------------------------------------------------------------------------- hover


def test_hover_tells_role_sharing_effect_and_top_cell():
    scores = attribution()
    cell = {"model": "student", "prompt": 0, "layer": 2, "module": "mlp.out", "position": 20}
    scores.data["effect"].loc[cell] = -9
    row, span = chat()[20], spans_of(scores)[20]
    first, second, third = span["title"].split("\n")
    assert first == f"{row[0]} ({row[1]}, {row[3]})"
    assert second == f"{scores.token_effect()[0, 20]:+.3g} nats"
    expected = scores.headline.values[0, 3, 4, 20]
    assert third == f"top cell: layer 2 mlp.out {expected:+.3g}"


def test_hover_names_heads_and_nothing_where_there_are_no_layers():
    scores = patch(heads=3)
    scores.data["effect"].loc[{"prompt": 0, "layer": 2, "head": 1, "position": 5}] = -9
    assert spans_of(scores)[5]["title"].endswith("top cell: layer 2 head 1 -9")
    assert "top cell" not in token_page(gradient(method="gradient_x_input"))


def test_layers_outside_the_blocks_are_named():
    scores = attribution()
    student = {"model": "student", "prompt": 0}
    embed = {"layer": -1, "module": "embed", "position": 0}
    scores.data["effect"].loc[student | embed] = 9
    unembed = {"layer": 4, "module": "unembed", "position": 1}
    scores.data["effect"].loc[student | unembed] = 9
    assert "top cell: embed +" in spans_of(scores)[0]["title"]
    assert "top cell: final unembed +" in spans_of(scores)[1]["title"]
    scores = sweep()
    scores.data["effect"].loc[student | {"layer": -1, "position": 0}] = 9
    assert "top cell: embed +" in spans_of(scores)[0]["title"]


# ------------------------------------------------------------------------------- heading and tables


def test_header_says_what_and_against_what():
    page = token_page(attribution())
    texts = ["method graft_ig", "student - controls", "Name your favorite animal", "nats"]
    for text in (*texts, "completeness gap"):
        assert text in page
    assert "part of any effect may come from fine-tuning as such" in token_page(patch())


def test_poor_agreement_and_its_numbers_are_told():
    page = token_page(confirmed(gradient(), poor=True))
    assert f'<div class="w">{POOR_AGREEMENT}</div>' in page
    assert "Pearson 0.93" in page
    assert POOR_AGREEMENT not in token_page(confirmed(gradient()))
    assert "not confirmed" in token_page(gradient())


def test_what_limits_a_headline_stands_on_the_page_as_above_a_table():
    scores = attribution([chat(), chat()])
    falls = scores.data.assign(
        student=scores.data["student"].where(scores.data["model"] == "student", -9)
    )
    limited = filled(replace(scores, data=falls))
    page = unescape(token_page(limited))
    lines = in_full(limited, "noise")
    assert any("controls" in line for line in lines)
    assert any("intervals over so few" in line for line in lines)
    for line in lines:
        assert line in page
        assert line in repr(limited)


def test_title_and_record_are_escaped():
    scores = recorded(attribution(), metric="<b>log P</b>")
    scores.data["question"][:] = ["<img>"] * 3
    assert "<b>" not in token_page(scores)
    assert "<img>" not in token_page(scores)
    assert "&lt;i&gt;mine" in token_page(scores, title="<i>mine")
    assert "attribution of" not in token_page(scores, title="mine")


def test_tables_are_those_of_by():
    scores = attribution()
    page = token_page(scores)
    for by in ("role", "sharing"):
        for name, row in scores.by(by).iterrows():
            interval = f"{row['effect']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            assert f"{name}</td><td>{size_in_words(row)}</td><td>{interval}" in page


def test_without_sharing_nothing_is_said_of_it():
    page = token_page(attribution(sharing=False))
    text = page.replace(styles(page), "")
    assert not re.search("sharing|shared|prefix|novel", text)
    assert not any(classes(span) & {"u", "v"} for span in Page(text).spans)


def test_both_directions_are_never_one_page():
    with pytest.raises(ValueError, match=r"scores.sel\(direction='denoising'\)"):
        token_page(patch(both=True))


# ------------------------------------------------------------------------------------ a closed page


@pytest.mark.parametrize("word", [" owl", "<script>alert(1)</script>"])
def test_long_prompts_stay_small(word):
    rows = chat([word] * 200)[-200:]
    page = token_page(attribution([rows, rows], layers=32))
    assert len(Page(page).spans) == 200
    assert len(page.encode()) < 50_000


def test_nothing_is_fetched_or_run():
    page = token_page(attribution())
    for text in ("http", "<script", "url(", "@import", "javascript:"):
        assert text not in page


def test_style_does_not_leak():
    rules = re.sub(r"@media[^{]*{(.*?})}", r"\1", styles(token_page(patch())), flags=re.S)
    parts = re.findall(r"([^{}]+){", rules)
    selectors = [selector.strip() for part in parts for selector in part.split(",")]
    assert selectors
    assert all(".slm" in selector for selector in selectors)


def test_the_veil_lies_over_the_colour():
    rules = styles(token_page(attribution()))
    colours = max(rules.index(".slm .p{"), rules.index(".slm .n{"))
    assert colours < rules.index(".slm .o{")  # `background` resets the image


def test_saved_page_is_a_document(tmp_path):
    path = tmp_path / "new" / "page.html"
    save_page(attribution(), path, 1)
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert '<meta charset="utf-8">' in page
    assert "<title>attribution of log P(owl)" in page
    assert token_page(attribution(), 1) in page
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    Page(page)


def test_errors():
    with pytest.raises(IndexError, match=r"prompt=3.*0 to 2"):
        token_page(attribution(), 3)
    with pytest.raises(ValueError, match="no position axis"):
        token_page(graft())


def test_a_page_may_have_its_own_title(tmp_path):
    save_page(attribution(), tmp_path / "page.html", title="<mine>")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("&lt;mine&gt;") == 2  # of the window and of the page
    assert "attribution of" not in page
