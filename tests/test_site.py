"""The built site fetches nothing, its links arrive, and every public name has a place.

make docs        # builds out/site, then runs this file
"""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from reference_pages import entries

SITE = Path(__file__).parents[1] / "out" / "site"
FETCHING = {
    ("iframe", "src"),
    ("img", "src"),
    ("link", "href"),
    ("object", "data"),
    ("script", "src"),
    ("source", "src"),
}

pytestmark = pytest.mark.site


class Page(HTMLParser):
    """Anchors, links, and what a browser fetches without being asked."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if not value:
                continue
            if key == "id":
                self.anchors.add(value)
            if (tag, key) in FETCHING:
                self.fetched.append(value)
            if (tag, key) == ("a", "href"):
                self.links.append(value)


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    """The pages by their path; the error page's links are those of a server's root."""
    pages = {path: Page(path) for path in SITE.rglob("*.html") if path.name != "404.html"}
    assert pages, "no site in out/site: run `make docs`"
    return pages


def test_nothing_is_fetched_from_elsewhere(pages):
    for path, page in pages.items():
        foreign = [url for url in page.fetched if "//" in url]
        assert not foreign, path
    for sheet in SITE.rglob("*.css"):
        text = sheet.read_text()
        assert "url(http" not in text, sheet
        assert "@import" not in text, sheet


def test_links_arrive(pages):
    for path, page in pages.items():
        for link in page.links:
            if link.startswith(("http:", "https:", "mailto:")):
                continue
            file, _, anchor = unquote(link).partition("#")
            target = (path.parent / file).resolve() if file else path
            if target.is_dir():
                target /= "index.html"
            where = f"{path.relative_to(SITE)} links to {link}"
            assert target.is_file(), where
            assert not anchor or anchor in pages[target].anchors, where


def test_every_public_name_has_its_place(pages):
    missing = []
    for anchor, _, source in entries():
        page = pages[(SITE / "reference" / source.name).with_suffix(".html")]
        if anchor not in page.anchors:
            missing.append(anchor)
    # of a constant, the docstring is the string in the line after it
    assert not missing, f"no docstring: {', '.join(missing)}"
