"""What tests of figures share."""

import pytest
from matplotlib.font_manager import fontManager

from sublim_mech.results import fonts


@pytest.fixture
def only_dejavu():
    """The fonts that come with matplotlib, on every machine; they have no Chinese."""
    before = list(fontManager.ttflist)
    fontManager.ttflist[:] = [entry for entry in before if entry.name.startswith("DejaVu")]
    for search in (fonts._search, fonts._candidates):
        search.cache_clear()
    yield
    fontManager.ttflist[:] = before
    for search in (fonts._search, fonts._candidates):
        search.cache_clear()
