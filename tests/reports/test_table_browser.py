"""The benchmark's page in a real browser, without a network, with all methods and a bad name."""

from __future__ import annotations

import pytest
from group_samples import Sample, make_group
from report_browser import OUTSIDE, WEAK_TEXT
from table_samples import sample_table

from h2lo_bids.reports.group import write_table_page

pytestmark = pytest.mark.slow

LONG = "a-simulator-with-a-very-long-name-of-one-word-that-nobody-would-give"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = make_group(tmp_path_factory.mktemp("table"), Sample(contrasts=("T1w", "T2w")))
    return write_table_page(out, sample_table(out, more=LONG))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_fits_is_quiet_legible_and_asks_for_nothing(browser, page, width, scheme):
    browser.open(page, width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(OUTSIDE) == []
    assert browser.run("[...document.images].every(i => i.naturalWidth > 0)")
    assert browser.run("document.images.length") == 2
    assert browser.run(WEAK_TEXT) == []
    assert browser.messages == []
    foreign = [url for url in browser.requests if not url.startswith("data:")]
    assert foreign == [page.as_uri()]


def test_the_papers_figures_stand_under_their_own_head_only(browser, page):
    browser.open(page, width=1280)
    groups = "[...document.querySelectorAll('th[scope=colgroup]')].map(h => h.textContent)"
    assert [text for text in browser.run(groups) if text] == ["paper (ds006557)"] * 2
    cell = (
        "(() => { const t = document.querySelector('#T1w table.results');"
        " const r = [...t.querySelectorAll('tbody tr')].find(r => r.cells[0].innerText == 'H2LO');"
        " return [...r.cells].slice(-7).map(c => c.innerText.replace(/\\s+/g, ' ').trim()) })()"
    )
    assert browser.run(cell)[0] == "28.98 ± 0.27"
