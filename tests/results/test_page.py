import re
from html.parser import HTMLParser

import numpy as np
import pytest
from synthetic import attribution, chat, confirmed, gradient, graft, patch, several, sweep

from sublim_mech.results.page import save_page, token_page
from sublim_mech.results.scores import POOR

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


def styles(page):
    return re.search(r"<style>(.*?)</style>", page, re.S)[1]


def test_every_real_token_is_shown_once():
    scores = attribution()
    for prompt in range(3):
        spans = Page(token_page(scores, prompt)).spans
        real = scores.positions("role")[prompt] != ""
        tokens = scores.positions("token")[prompt, real]
        assert len(spans) == len(tokens)
        assert [s["text"] for s in spans] == [t.replace("\n", "↵") for t in tokens]


def test_newlines_break_the_line():
    assert Page(token_page(attribution())).breaks == sum("\n" in row[0] for row in chat())


def test_white_space_alone_is_visible():
    spans = Page(token_page(attribution([chat(["  "])]))).spans
    assert "␣␣" in [s["text"] for s in spans]


def test_hostile_tokens_stay_text():
    scores = attribution([chat(HOSTILE)])
    page = token_page(scores)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    parsed = Page(page)
    assert set(HOSTILE) <= {s["text"] for s in parsed.spans}
    assert all(set(s) <= {"class", "style", "title", "text"} for s in parsed.spans)
    assert parsed.tags == {"div", "style", "span", "br", "table", "caption", "tr", "th", "td"}


def test_tokens_below_the_noise_are_veiled_and_no_others():
    scores = attribution(several(9))
    page = token_page(scores, 2)
    spans = Page(page).spans
    noise = scores.noise(2, tokens=True)[scores.positions("role")[2] != ""].tolist()
    assert ["o" in s["class"].split() for s in spans] == noise
    assert ["not distinguishable from 0" in s["title"] for s in spans] == noise
    assert 0 < sum(noise) < len(noise)
    assert "grey: not distinguishable from 0 over 9 prompts (sign-flip max-T, 5 %)" in page
    few = token_page(attribution())
    assert "3 prompts: cells not tested (needs 6)" in few
    assert not any("o" in s["class"].split() for s in Page(few).spans)


def test_the_veil_lies_over_the_colour():
    rules = styles(token_page(attribution()))
    assert max(rules.index(".slm .p{"), rules.index(".slm .n{")) < rules.index(".slm .o{")  # `background` resets the image


def test_poor_agreement_and_its_numbers_are_told():
    page = token_page(confirmed(gradient(), poor=True))
    assert f'<div class="w">{POOR}</div>' in page
    assert "Pearson 0.93" in page
    assert POOR not in token_page(confirmed(gradient()))
    assert "not confirmed" in token_page(gradient())


def test_hover_names_heads_and_nothing_where_there_are_no_layers():
    scores = patch(heads=3)
    scores.data["effect"].loc[{"prompt": 0, "layer": 2, "head": 1, "position": 5}] = -9
    assert Page(token_page(scores)).spans[5]["title"].endswith("top cell: layer 2 head 1 -9")
    assert "top cell" not in token_page(gradient(method="gradient_x_input"))
    sweeping = sweep()
    sweeping.data["effect"].loc[{"model": "student", "prompt": 0, "layer": -1, "position": 0}] = 9
    assert "top cell: embed +" in Page(token_page(sweeping)).spans[0]["title"]


def test_both_directions_are_two_pages_in_a_notebook_and_never_one():
    both = patch(both=True)
    with pytest.raises(ValueError, match=r"scores.sel\(direction='denoising'\)"):
        token_page(both)
    assert both._repr_html_() == "".join(token_page(both.sel(direction=d)) for d in ("denoising", "noising"))


def test_title_and_provenance_are_escaped():
    scores = attribution()
    scores.provenance["metric"] = "<b>log P</b>"
    scores.data["question"][:] = ["<img>"] * 3
    assert "<b>" not in token_page(scores)
    assert "<img>" not in token_page(scores)
    assert "&lt;i&gt;mine" in token_page(scores, title="<i>mine")
    assert "attribution of" not in token_page(scores, title="mine")


def test_colour_is_the_signed_effect_over_the_largest():
    scores = attribution()
    effect = scores.token_effect()[0]
    spans = Page(token_page(scores)).spans
    alphas = np.array([float(s["style"].removeprefix("--a:")) for s in spans])
    signs = np.array([1 if "p" in s["class"].split() else -1 for s in spans])
    np.testing.assert_allclose(alphas * signs, effect / np.abs(effect).max(), atol=0.0051)
    assert alphas.max() == 1


def test_unscored_tokens_have_no_colour():
    spans = Page(token_page(patch())).spans
    answers = [s for s, row in zip(spans, chat(), strict=True) if row[1] == "answer"]
    assert all(s.get("style") is None and "no score" in s["title"] for s in answers)


def test_hover_tells_role_sharing_effect_and_top_cell():
    scores = attribution()
    scores.data["effect"].loc[{"model": "student", "prompt": 0, "layer": 2, "module": "mlp.out", "position": 20}] = -9
    row, span = chat()[20], Page(token_page(scores)).spans[20]
    first, second, third = span["title"].split("\n")
    assert first == f"{row[0]} ({row[1]}, {row[3]})"
    assert second == f"{scores.token_effect()[0, 20]:+.3g} nats"
    expected = scores.headline.values[0, 3, 4, 20]
    assert third == f"top cell: layer 2 mlp.out {expected:+.3g}"


def test_layers_outside_the_blocks_are_named():
    scores = attribution()
    scores.data["effect"].loc[{"model": "student", "prompt": 0, "layer": -1, "module": "embed", "position": 0}] = 9
    scores.data["effect"].loc[{"model": "student", "prompt": 0, "layer": 4, "module": "unembed", "position": 1}] = 9
    spans = Page(token_page(scores)).spans
    assert "top cell: embed +" in spans[0]["title"]
    assert "top cell: final unembed +" in spans[1]["title"]


def test_shared_tokens_are_underlined_and_no_others():
    marks = [set(s["class"].split()) & {"u", "v"} for s in Page(token_page(attribution())).spans]
    assert marks == [{"prefix": {"u"}, "aligned": {"v"}}.get(row[3], set()) for row in chat()]


def test_without_sharing_nothing_is_said_of_it():
    page = token_page(attribution(sharing=False)).replace(styles(token_page(attribution())), "")
    assert "shar" not in page.replace("share of effect", "")
    assert not any(set(s["class"].split()) & {"u", "v"} for s in Page(page).spans)


def test_tables_are_those_of_by():
    scores = attribution()
    page = token_page(scores)
    for by in ("role", "sharing"):
        for name, row in scores.by(by).iterrows():
            cells = f"{name}</td><td>{row['tokens']:.0%}</td><td>{row['effect']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            assert cells in page


def test_header_says_what_and_against_what():
    page = token_page(attribution())
    for text in ("method graft_ig", "student - controls", "Name your favorite animal", "nats", "completeness gap"):
        assert text in page
    assert "training on any numbers" in token_page(patch())


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
    selectors = [s.strip() for rule in re.findall(r"([^{}]+){", rules) for s in rule.split(",")]
    assert selectors
    assert all(".slm" in s for s in selectors)


def test_notebook_shows_it():
    assert attribution()._repr_html_() == token_page(attribution())


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
