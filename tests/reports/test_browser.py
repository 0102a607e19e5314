"""Every page in a real browser, without a network, with names as long as they may be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from group_samples import Sample, make_evaluation, make_group
from report_browser import OUTSIDE, WEAK_TEXT, Browser
from table_samples import sample_table

from h2lo_bids.reports.group import write_group_report, write_table_page
from h2lo_bids.reports.records import save_subject_report
from h2lo_bids.reports.scans import write_scan_pages
from h2lo_bids.reports.subject import write_subject_report

pytestmark = pytest.mark.slow

LONG = "a-model-with-a-very-long-name-of-one-word-that-nobody-would-give"
PICTURES = {"subject": 14, "table": 2}
"""Of the subject two to flick between for each space that the brain was registered to, too."""


@pytest.fixture(scope="module")
def pages(report_folder, group_folder, tmp_path_factory):
    """Pages of a subject, all scans, trainings with and without folds, evaluation, benchmark."""
    out, report = report_folder
    write_subject_report(report, out / "sub-01.html")
    thin = replace(report.scans[0], mask_volume=900.0)
    save_subject_report(out, replace(report, scans=(thin, *report.scans[1:])))
    write_scan_pages(out)
    bare, evaluated, table = (tmp_path_factory.mktemp(name) for name in ("bare", "given", "table"))
    make_group(bare, Sample(folds=0, reason="no" * 80))
    make_evaluation(evaluated, (LONG, "b", "c", "d", "e"))
    make_group(table, Sample(contrasts=("T1w", "T2w")))
    return {
        "subject": out / "sub-01.html",
        "scans": out / "index.html",
        "group": write_group_report(group_folder, level="group"),
        "bare": write_group_report(bare, level="group"),
        "evaluate": write_group_report(evaluated, level="evaluate"),
        "table": write_table_page(table, sample_table(table, more=LONG)),
    }


@pytest.fixture
def page(browser, pages):
    browser.open(pages["subject"])
    return pages["subject"]


@pytest.mark.parametrize("name", ["subject", "scans", "group", "bare", "evaluate", "table"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (400, "light")])
def test_fits_is_quiet_legible_and_asks_for_nothing(browser, pages, name, width, scheme):
    """Contrast is at least 4.5 (WCAG AA) between every text and what is behind it."""
    browser.open(pages[name], width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(OUTSIDE) == []
    assert browser.run("[...document.images].every(i => i.naturalWidth > 0)")
    if name in PICTURES:
        assert browser.run("document.images.length") == PICTURES[name]
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run(WEAK_TEXT) == []
    nameless = browser.run(
        "[...document.querySelectorAll('input,button,[tabindex=\"0\"]')].filter(e =>"
        " !(e.labels?.[0]?.innerText || e.innerText || e.ariaLabel)).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert browser.messages == []
    foreign = [url for url in browser.requests if not url.startswith("data:")]
    assert foreign == [pages[name].as_uri()]


def lf(browser: Browser, name: str) -> str:
    return browser.run(f"getComputedStyle(document.querySelector('.compare .lf')).{name}")


def choose(browser: Browser, value: str) -> None:
    browser.run(
        f"document.querySelectorAll('.compare input[value={value}]').forEach(i => i.click())"
    )


@pytest.mark.usefixtures("page")
def test_flicker_runs_and_stops(browser):
    assert lf(browser, "animationName") == "none"
    choose(browser, "flicker")
    assert lf(browser, "animationName") == "flicker"
    seen = {
        browser.run(
            "(() => { const a = document.querySelector('.compare .lf').getAnimations()[0];"
            f"a.pause(); a.currentTime = {time};"
            "return getComputedStyle(document.querySelector('.compare .lf')).opacity })()"
        )
        for time in (0, 400, 900, 1500)
    }
    assert seen == {"0", "1"}
    choose(browser, "hf")
    assert lf(browser, "animationName") == "none"
    assert lf(browser, "visibility") == "hidden"
    browser.prefer("prefers-reduced-motion", "reduce")
    choose(browser, "flicker")
    assert lf(browser, "animationName") == "none"
    note = "getComputedStyle(document.querySelector('.compare .still')).display"
    assert browser.run(note) == "block"


@pytest.mark.usefixtures("page")
def test_both_images_lie_exactly_on_each_other(browser):
    boxes = (
        "[...document.querySelectorAll('.compare')].map(c => [...c.querySelectorAll('img')]"
        ".map(i => { const r = i.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] }))"
    )
    for first, second in browser.run(boxes):
        assert first[1] < second[1]
    for value in ("flicker", "wipe", "lf"):
        choose(browser, value)
        for first, second in browser.run(boxes):
            assert first == second


@pytest.mark.usefixtures("page")
def test_keyboard_and_mouse_switch(browser):
    checked = "document.querySelector('.compare :checked').value"
    browser.run("document.querySelector('.compare .plate').focus()")
    states = []
    for _ in range(3):
        browser.press(" ", "Space", 32, " ")
        states.append(browser.run(checked))
    assert states == ["hf", "lf", "hf"]
    box = browser.run(
        "(() => { const s = document.querySelector('.compare .stage'); s.scrollIntoView();"
        "const r = s.getBoundingClientRect(); return [r.x + 200, r.y + 100] })()"
    )
    browser.click(*box)
    assert browser.run(checked) == "lf"


@pytest.mark.usefixtures("page")
def test_wipe_and_brightness_sliders(browser):
    choose(browser, "wipe")
    slide = (
        "(() => { const r = document.querySelector('.compare [data-property=\"--%s\"]');"
        "r.value = %s; r.dispatchEvent(new Event('input')) })()"
    )
    for value in (20, 80):
        browser.run(slide % ("wipe", value))
        assert f"{value}%" in lf(browser, "clipPath")
    browser.run(slide % ("light", 2))
    image = "getComputedStyle(document.querySelector('.compare img')).filter"
    assert browser.run(image) == "brightness(2)"


def test_works_without_scripts(browser, pages):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["subject"])
        assert not browser.run("document.documentElement.classList.contains('js')")
        hidden = "[...document.querySelectorAll('.needs-js')].every(e => !e.offsetParent)"
        assert browser.run(hidden)
        choose(browser, "hf")
        assert lf(browser, "visibility") == "hidden"
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_the_policy_stops_an_injected_request(browser, page, tmp_path):
    broken = tmp_path / "broken.html"
    injected = "<img src='https://example.org/x.png'><script>window.hacked = 1</script>"
    broken.write_text(page.read_text().replace("<main", injected + "<main", 1))
    browser.open(broken)
    assert browser.run("window.hacked === undefined")
    assert any("Content Security Policy" in message for message in browser.messages)


def test_one_subject_is_shown_and_one_stands_out_in_every_chart(browser, pages):
    browser.open(pages["group"], scheme="dark")
    shown = (
        "[...document.querySelectorAll('.panel')].flatMap((p, k) =>"
        " getComputedStyle(p).display === 'none' ? [] : [k])"
    )
    assert browser.run(shown) == [0]
    browser.run("document.querySelector('.pick-3').click()")
    assert browser.run(shown) == [3]
    browser.run(
        "document.querySelector('g.subject[data-subject=P02]')"
        ".dispatchEvent(new PointerEvent('pointerenter'))"
    )
    lit = "[...document.querySelectorAll('g.lit')].map(g => g.dataset.subject)"
    assert browser.run(lit) == ["P02"] * 8
    assert browser.run("document.querySelector('.chosen').textContent") == "P02"
    colours = browser.run(
        "[...new Set([...document.querySelectorAll('[stroke=\"var(--m1)\"]')]"
        ".map(e => getComputedStyle(e).stroke))]"
    )
    legend = "getComputedStyle(document.querySelector('.legend .m1'), '::before').backgroundColor"
    assert colours == [browser.run(legend)]
