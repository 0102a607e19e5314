"""The group's page in a real browser, without a network."""

from __future__ import annotations

import pytest
from group_samples import Sample, make_evaluation, make_group
from report_browser import OUTSIDE, WEAK_TEXT

from h2lo_bids.reports.group import write_group_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(group_folder, tmp_path_factory):
    """Pages of a whole training, one without folds, and an evaluation; names as bad as may be."""
    long = "a-model-with-a-very-long-name-of-one-word-that-nobody-would-give"
    bare = make_group(tmp_path_factory.mktemp("bare"), Sample(folds=0, reason="no" * 80))
    evaluated = make_evaluation(tmp_path_factory.mktemp("evaluated"), (long, "b", "c", "d", "e"))
    return {
        "group": write_group_report(group_folder, level="group"),
        "bare": write_group_report(bare, level="group"),
        "evaluate": write_group_report(evaluated, level="evaluate"),
    }


@pytest.mark.parametrize("name", ["group", "bare", "evaluate"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_fits_is_quiet_legible_and_asks_for_nothing(browser, pages, name, width, scheme):
    browser.open(pages[name], width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(OUTSIDE) == []
    assert browser.run("[...document.images].every(i => i.naturalWidth > 0)")
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run(WEAK_TEXT) == []
    assert browser.messages == []
    foreign = [url for url in browser.requests if not url.startswith("data:")]
    assert foreign == [pages[name].as_uri()]


def test_one_subject_is_shown_at_a_time(browser, pages):
    browser.open(pages["group"], width=1280)
    shown = (
        "[...document.querySelectorAll('.panel')].flatMap((p, k) =>"
        " getComputedStyle(p).display === 'none' ? [] : [k])"
    )
    assert browser.run(shown) == [0]
    browser.run("document.querySelector('.pick-3').click()")
    assert browser.run(shown) == [3]


def test_a_subject_stands_out_in_every_chart(browser, pages):
    browser.open(pages["group"], width=1280)
    browser.run(
        "document.querySelector('g.subject[data-subject=P02]')"
        ".dispatchEvent(new PointerEvent('pointerenter'))"
    )
    lit = "[...document.querySelectorAll('g.lit')].map(g => g.dataset.subject)"
    assert browser.run(lit) == ["P02"] * 8
    assert browser.run("document.querySelector('.told').textContent") == "P02"


def test_colours_of_a_method_are_the_same_everywhere(browser, pages):
    browser.open(pages["group"], width=1280, scheme="dark")
    colours = browser.run(
        "[...new Set([...document.querySelectorAll('[stroke=\"var(--m1)\"]')]"
        ".map(e => getComputedStyle(e).stroke))]"
    )
    legend = "getComputedStyle(document.querySelector('.legend .m1'), '::before').backgroundColor"
    assert colours == [browser.run(legend)]


def test_every_control_has_a_name(browser, pages):
    browser.open(pages["group"], width=1280)
    nameless = browser.run(
        "[...document.querySelectorAll('input,button,[tabindex=\"0\"]')].filter(e =>"
        " !(e.labels?.[0]?.innerText || e.innerText || e.ariaLabel)).map(e => e.outerHTML)"
    )
    assert nameless == []
