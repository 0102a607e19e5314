"""The page in a real browser, without a network."""

from __future__ import annotations

import pytest
from report_browser import OUTSIDE, WEAK_TEXT, Browser

from h2lo_bids.reports.subject import write_subject_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(report_folder):
    out, report = report_folder
    write_subject_report(report, out / "sub-01.html")
    return out / "sub-01.html"


def lf(browser: Browser, name: str) -> str:
    return browser.run(f"getComputedStyle(document.querySelector('.compare .lf')).{name}")


def choose(browser: Browser, value: str) -> None:
    browser.run(f"document.querySelector('.compare input[value={value}]').click()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_fits_is_quiet_and_asks_for_nothing(browser, page, width, scheme):
    browser.open(page, width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width
    outside = browser.run(OUTSIDE)
    assert outside == []
    assert browser.run("[...document.images].every(i => i.naturalWidth > 0)")
    # Two pictures to flick between for each space that the brain was registered to, too.
    assert browser.run("document.images.length") == 14
    assert browser.messages == []
    foreign = [url for url in browser.requests if not url.startswith("data:")]
    assert foreign == [page.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible(browser, page, scheme):
    """Contrast of at least 4.5 (WCAG AA) between every text and what is behind it."""
    browser.open(page, width=1280, scheme=scheme)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    weak = browser.run(WEAK_TEXT)
    assert weak == []


def test_flicker_runs_and_stops(browser, page):
    browser.open(page, width=1280)
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
    choose(browser, "lf")
    assert lf(browser, "visibility") == "visible"


def test_both_images_lie_exactly_on_each_other(browser, page):
    browser.open(page, width=1280)
    boxes = (
        "[...document.querySelectorAll('.compare')].map(c => [...c.querySelectorAll('img')]"
        ".map(i => { const r = i.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] }))"
    )
    for first, second in browser.run(boxes):
        assert first[1] < second[1]
    for value in ("flicker", "wipe", "lf"):
        browser.run(
            f"document.querySelectorAll('.compare input[value={value}]').forEach(i => i.click())"
        )
        for first, second in browser.run(boxes):
            assert first == second


def test_keyboard_and_mouse_switch(browser, page):
    browser.open(page, width=1280)
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
    browser.run("document.querySelector('.compare input[value=both]').focus()")
    browser.run("document.querySelector('.compare input[value=both]').click()")
    browser.press("ArrowRight", "ArrowRight", 39)
    assert browser.run(checked) == "flicker"


def test_wipe_and_brightness_sliders(browser, page):
    browser.open(page, width=1280)
    choose(browser, "wipe")
    for value in (20, 80):
        browser.run(
            "(() => { const r = document.querySelector('.compare [data-property=\"--wipe\"]');"
            f"r.value = {value}; r.dispatchEvent(new Event('input')) }})()"
        )
        assert f"{value}%" in lf(browser, "clipPath")
    browser.run(
        "(() => { const r = document.querySelector('.compare [data-property=\"--light\"]');"
        "r.value = 2; r.dispatchEvent(new Event('input')) })()"
    )
    filters = browser.run(
        "[...document.querySelector('.compare').querySelectorAll('img')]"
        ".map(i => getComputedStyle(i).filter)"
    )
    assert filters == ["brightness(2)"] * 2


def test_reduced_motion_is_respected(browser, page):
    browser.open(page, width=1280)
    browser.prefer(**{"prefers-reduced-motion": "reduce"})
    choose(browser, "flicker")
    assert lf(browser, "animationName") == "none"
    note = "getComputedStyle(document.querySelector('.compare .still')).display"
    assert browser.run(note) == "block"


def test_works_without_scripts(browser, page):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page, width=1280)
        assert not browser.run("document.documentElement.classList.contains('js')")
        hidden = "[...document.querySelectorAll('.needs-js')].every(e => !e.offsetParent)"
        assert browser.run(hidden)
        choose(browser, "hf")
        assert lf(browser, "visibility") == "hidden"
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_every_control_has_a_name_and_takes_the_focus(browser, page):
    browser.open(page, width=1280)
    nameless = browser.run(
        "[...document.querySelectorAll('input,button,[tabindex=\"0\"]')].filter(e =>"
        " !(e.labels?.[0]?.innerText || e.innerText || e.ariaLabel)).map(e => e.outerHTML)"
    )
    assert nameless == []


def test_copy_button_answers(browser, page):
    browser.open(page, width=1280)
    browser.run("document.querySelector('[data-copy=methods-bibtex]').click()")
    answer = browser.run(
        "new Promise(r => setTimeout(() => r(document.querySelector("
        "'[data-copy=methods-bibtex]').nextElementSibling.textContent), 500))"
    )
    assert answer in ("Copied", "Selected: press Ctrl+C")


def test_the_policy_stops_an_injected_request(browser, page, tmp_path):
    broken = tmp_path / "broken.html"
    injected = "<img src='https://example.org/x.png'><script>window.hacked = 1</script>"
    broken.write_text(page.read_text().replace("<main", injected + "<main", 1))
    browser.open(broken, width=1280)
    assert browser.run("window.hacked === undefined")
    assert any("Content Security Policy" in message for message in browser.messages)
