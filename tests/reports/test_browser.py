"""Every page in a real browser, without a network, with names as long as they may be."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest
from group_samples import Sample, make_evaluation, make_group, sample_table
from report_browser import DARK, LESS_MOTION, OUTSIDE, WEAK_TEXT

from h2lo_bids.reports.group import write_group_report, write_table_page
from h2lo_bids.reports.records import save_subject_report
from h2lo_bids.reports.subject import write_scan_pages, write_subject_report

pytestmark = pytest.mark.slow

LONG = "a-model-with-a-very-long-name-of-one-word-that-nobody-would-give"
PICTURES = {"subject": 14, "table": 2}
"""Of the subject two to flick between for each space that the brain was registered to, too."""


@pytest.fixture(scope="module")
def pages(report_folder, group_folder, tmp_path_factory):
    """Pages of a subject, all scans, trainings with and without folds, evaluation, benchmark."""
    shared, report = report_folder
    out = tmp_path_factory.mktemp("pages")
    shutil.copytree(shared, out, dirs_exist_ok=True)  # other tests want it without these records
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


@pytest.fixture(scope="module")
def look(browser, pages):
    """Look at a page by its name."""
    return lambda name, *words, **more: browser(pages[name].read_text(), *words, **more)


CONTROLS = (
    "[...document.querySelectorAll('input,button,[tabindex=\"0\"]')].filter(e =>"
    " !(e.labels?.[0]?.innerText || e.innerText || e.ariaLabel)).map(e => e.outerHTML)"
)


PAGES = ("subject", "scans", "group", "bare", "evaluate", "table")


@pytest.mark.parametrize(
    ("name", "width", "flags"),
    [*((name, 400, [DARK]) for name in PAGES), *((name, 1280, []) for name in PAGES[:3:2])],
)
def test_fits_is_quiet_legible_and_asks_for_nothing(look, name, width, flags):
    """Contrast is at least 4.5 (WCAG AA) between every text and what is behind it."""
    found = look(
        name,
        f"""const sticking = {OUTSIDE};
        const whole = [...document.images].filter(i => i.naturalWidth > 0).length;
        const wide = document.documentElement.scrollWidth;
        document.querySelectorAll('details').forEach(d => d.open = true);
        return {{ sticking, wide, whole, images: document.images.length,
                  nameless: {CONTROLS}, weak: {WEAK_TEXT} }}""",
        *flags,
        width=width,
    )
    assert found.value.pop("wide") <= width
    images = found.value.pop("images")
    assert images == found.value.pop("whole")
    assert images == PICTURES.get(name, images)
    assert found.value == {"sticking": [], "nameless": [], "weak": []}
    assert found.seen == found.outside == []


CHOOSE = """
const all = selector => [...document.querySelectorAll(selector)];
const lf = document.querySelector('.compare .lf'), now = () => getComputedStyle(lf);
const choose = value => all(`.compare input[value=${value}]`).forEach(i => i.click());
"""


def test_flicker_runs_and_stops(look):
    body = """const before = now().animationName;
    choose('flicker');
    const during = now().animationName, still = all('.still').map(e => getComputedStyle(e).display);
    const animation = lf.getAnimations()[0];
    const levels = [0, 400, 900, 1500].map(time => {
        animation?.pause(); if (animation) animation.currentTime = time; return now().opacity });
    choose('hf');
    return [before, during, [...new Set(levels)].sort(), now().visibility, still[0]]"""
    assert look("subject", CHOOSE + body).value == ["none", "flicker", ["0", "1"], "hidden", "none"]
    calm = look("subject", CHOOSE + body, LESS_MOTION).value
    assert (calm[1], calm[4]) == ("none", "block")


def test_both_images_lie_exactly_on_each_other(look):
    body = """const boxes = () => all('.compare').map(c => [...c.querySelectorAll('img')].map(i => {
        const r = i.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] }));
    const found = [boxes()];
    for (const value of ['flicker', 'wipe', 'lf']) { choose(value); found.push(boxes()) }
    return found"""
    apart, *modes = look("subject", CHOOSE + body).value
    assert len(apart) == 4
    assert all(first[1] < second[1] for first, second in apart)
    assert all(first == second for boxes in modes for first, second in boxes)


@pytest.mark.parametrize("scripts", [True, False])
def test_space_click_and_sliders_switch_and_views_need_no_script(look, scripts):
    body = """const checked = () => document.querySelector('.compare :checked').value, seen = [];
    const space = new KeyboardEvent('keydown', { key: ' ', bubbles: true });
    for (const n of [1, 2]) {
        document.querySelector('.compare .plate').dispatchEvent(space); seen.push(checked()) }
    document.querySelector('.compare .stage').click(); seen.push(checked());
    const slide = (property, value) => {
        const slider = document.querySelector(`.compare [data-property="--${property}"]`);
        slider.value = value; slider.dispatchEvent(new Event('input')) };
    slide('wipe', 20); slide('light', 2); choose('wipe');
    const image = document.querySelector('.compare img');
    const effects = [now().clipPath.includes('20%'), getComputedStyle(image).filter];
    choose('hf');
    return [seen, effects, now().visibility, all('.needs-js').some(e => e.offsetParent)]"""
    seen, effects, visibility, extras = look("subject", CHOOSE + body, scripts=scripts).value
    assert seen == (["hf", "lf", "hf"] if scripts else ["both"] * 3)
    assert effects == ([True, "brightness(2)"] if scripts else [False, "brightness(1)"])
    assert (visibility, extras) == ("hidden", scripts)


def test_what_is_folded_is_printed_and_what_needs_scripts_is_not(browser, pages):
    page = pages["subject"].read_text().replace("@media print{", "@media all{")
    page = re.sub("(style-src) &#39;[^&]*&#39;", r"\1 &#39;unsafe-inline&#39;", page)
    body = """const all = (selector) => [...document.querySelectorAll(selector)];
    return [all('details > :not(summary)').every(e => e.checkVisibility()),
            all('.needs-js').some(e => e.checkVisibility()),
            all('.plate').some(e => e.scrollWidth > e.clientWidth)]"""
    assert browser(page, body, width=640).value == [True, False, False]


def test_the_policy_stops_an_injected_request(browser, pages):
    injected = "<img src='https://example.org/x.png'><script>window.hacked = 1</script>"
    broken = pages["subject"].read_text().replace("<main", injected + "<main", 1)
    found = browser(broken, "return window.hacked === undefined")
    assert found.value
    assert {"img-src", "script-src-elem"} <= set(found.seen)


def test_one_subject_is_shown_and_one_stands_out_in_every_chart(look):
    body = """const shown = () => all('.panel').flatMap((p, k) =>
        getComputedStyle(p).display === 'none' ? [] : [k]);
    const panels = [shown()];
    document.querySelector('.pick-3').click(); panels.push(shown());
    document.querySelector('g.subject[data-subject=P02]')
        .dispatchEvent(new PointerEvent('pointerenter'));
    const legend = document.querySelector('.legend .m1');
    const colours = all('[stroke="var(--m1)"]').map(e => getComputedStyle(e).stroke);
    colours.push(getComputedStyle(legend, '::before').backgroundColor);
    return [panels, all('g.lit').map(g => g.dataset.subject),
            document.querySelector('.chosen').textContent, new Set(colours).size]"""
    found = look("group", CHOOSE.splitlines()[1] + body, DARK).value
    assert found == [[[0], [3]], ["P02"] * 8, "P02", 1]
