"""The page of answers side by side: what a browser sees of it, and that nothing else gets in."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from synthetic import attribution

from sublim_mech.results.beside import SideBySide
from sublim_mech.results.beside_page import LIMIT, differing

HOSTILE = "<script>alert(1)</script> \" ' &amp; </div></style><img src=x onerror=y> \u202e\x00"


def made(questions=2, *, text="an owl", name="graft", tokens=None):
    """Answers of base and one model, greedy and two samples."""
    rows = []
    for prompt in range(questions):
        for drawn, sample in (("greedy", 0), ("sampled", 0), ("sampled", 1)):
            for model in ("base", name):
                answer = "a cat" if model == "base" else text
                row = {"prompt": prompt, "question": f"{text}?", "begun": text, "model": model}
                row |= {"drawn": drawn, "sample": sample, "answer": answer, "names": ""}
                row |= {"tokens": 2, "as_target": False}
                rows.append(row | {"log P: base": -1.5, f"log P: {name}": np.nan})
    return SideBySide(
        pd.DataFrame(rows),
        {"base": text, name: text},
        (text,),
        tokens or (("a",),) * questions,
        (text,),
    )


def test_hostile_text_stays_text():
    page = made(text=HOSTILE, name=HOSTILE).to_html(title=HOSTILE)
    body = re.sub(r"<style>.*?</style>", "", page, count=1, flags=re.S)
    tags = set(re.findall(r"<(/?[a-z]+)", body))
    allowed = ("div", "b", "mark", "bdi", "span", "table", "caption", "tr", "th", "td")
    assert tags <= {slash + tag for tag in allowed for slash in ("", "/")}
    assert "&lt;script&gt;" in body
    assert not re.search(r"<[^>]*(onerror|src=)", body)
    for tag in allowed:
        assert len(re.findall(f"<{tag}[ >]", body)) == body.count(f"</{tag}>")


def test_nothing_is_fetched_and_both_schemes_are_there(tmp_path):
    path = tmp_path / "page.html"
    made().save(path)
    page = path.read_text()
    for text in ("http", "<script", "url(", "@import", "javascript:", "<link"):
        assert text not in page
    assert "prefers-color-scheme:dark" in page
    assert "width=device-width" in page
    with pytest.raises(ValueError, match=r"\.html"):
        made().save(tmp_path / "page.csv")


def test_differing_words():
    assert differing("a  b c", "a b c") == [("a  b c", False)]
    assert differing("x b", "a b") == [("x ", True), ("b", False)]
    assert differing("", "a") == []
    assert differing("new", "") == [("new", True)]
    for text in ("  \n two  words\n", HOSTILE):
        assert "".join(piece for piece, _ in differing(text, "two")) == text
    page = made().to_html()
    assert page.count("<mark>an owl</mark>") == 6
    assert "<mark>a cat" not in page


def test_a_page_is_never_too_large(tmp_path):
    found = made(400, text="an owl and more words " * 20)
    found.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_bytes()
    assert LIMIT * 0.9 < len(page) < LIMIT
    assert b"more questions would make this page larger" in page


def test_token_pages_have_room_or_are_told():
    scores = attribution()
    real = scores.positions("role") != ""
    prompts = [
        tuple(row[keep & (role != "answer")].tolist())
        for row, keep, role in zip(
            scores.positions("token"), real, scores.positions("role"), strict=True
        )
    ]
    assert made(3, tokens=tuple(prompts)).to_html(scores).count('<div class="slm">') == 3
    crowded = made(3, text="word " * 5_000, tokens=tuple(prompts))
    page = crowded.to_html(scores)
    assert len(page.encode()) < LIMIT
    assert "more" in page


def test_the_counts_are_of_the_models_and_ways():
    table = made().table()
    assert table["answers"].tolist() == [2, 2, 4, 4]
    assert table["no trait"].tolist() == [2, 2, 4, 4]
    assert "graft" in repr(made())
