"""Which font draws a character, and what stands where none does."""

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from sublim_mech.results import fonts

OWL = "猫"
pytestmark = pytest.mark.usefixtures("only_dejavu")


@pytest.fixture
def owl_font(tmp_path):
    """A font with one more character."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (500, 700), (500, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "owl", "empty"])
    builder.setupCharacterMap({ord(OWL): "owl", ord(OWL) + 1: "empty"})
    empty = TTGlyphPen(None).glyph()
    builder.setupGlyf({".notdef": empty, "owl": pen.glyph(), "empty": empty})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "owl", "empty"), (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Owl Sans", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWeightClass=400)
    builder.setupPost()
    path = tmp_path / "owl.ttf"
    builder.save(path)
    fontManager.addfont(path)
    return "Owl Sans"


def test_a_character_of_an_installed_font_is_drawn_with_it(owl_font):
    assert fonts.fallbacks(OWL) == ((owl_font,), frozenset())
    assert fonts.drawable(f"an {OWL}") == f"an {OWL}"


def test_a_character_without_an_outline_is_not_drawn(owl_font):
    empty = chr(ord(OWL) + 1)
    assert fonts.fallbacks(empty) == ((), {empty})


def test_what_no_font_has_is_written_as_code_points():
    assert fonts.fallbacks(f"owl {OWL}").missing == {OWL}
    assert fonts.drawable(f"an {OWL}") == "an \\u{732b}"
    assert fonts.code_points("猫头鹰喜欢") == "\\u{732b 5934 9e70 …}"


def test_own_fonts_need_no_others():
    assert fonts.fallbacks("owl é ␣↵⇥ \n") == ((), frozenset())


def test_variation_selectors_choose_a_look_and_are_not_drawn():
    assert fonts.drawable("❤\ufe0f") == "❤"
    assert fonts.drawable("\ufe0f") != ""


def test_letters_from_right_to_left_are_turned_where_matplotlib_does_not(monkeypatch):
    assert fonts.turned("a שלום b") == "a םולש b"
    assert fonts.turned("␣שלום") == "␣םולש"
    assert fonts.turned("שלום עולם!") == "םלוע םולש!"
    assert fonts.turned("owl 3") == "owl 3"
    monkeypatch.setattr(fonts, "SETS_ANY_DIRECTION", False)
    assert fonts.drawable("שלום") == "םולש"
    monkeypatch.setattr(fonts, "SETS_ANY_DIRECTION", True)
    assert fonts.drawable("שלום") == "שלום"
