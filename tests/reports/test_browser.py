"""Every page in a real browser, without a network, with names as long as they may be."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest
from group_samples import make_evaluation, sample_table
from report_browser import DARK, LESS_MOTION, OUTSIDE, WEAK_TEXT

from h2lo_bids.reports.group import write_group_report, write_table_page
from h2lo_bids.reports.records import save_subject_report
from h2lo_bids.reports.subject import write_scan_pages, write_subject_report

pytestmark = pytest.mark.slow

LONG = "a-model-with-a-very-long-name-of-one-word-that-nobody-would-give"
PAGES = ("subject", "scans", "group", "evaluate", "table")
PICTURES = {"subject": 14, "table": 1}
"""Of the subject two to flick between for each space that the brain was registered to, too."""
ALL = "const all = selector => [...document.querySelectorAll(selector)];"


@pytest.fixture(scope="module")
def pages(report_folder, group_folder, tmp_path_factory):
    """Pages of a subject, all scans, a training, an evaluation and a benchmark."""
    shared, report = report_folder
    out = tmp_path_factory.mktemp("pages")
    shutil.copytree(shared, out, dirs_exist_ok=True)  # other tests want it without these records
    write_subject_report(report, out / "sub-01.html")
    thin = replace(report.scans[0], mask_volume=900.0)
    save_subject_report(out, replace(report, scans=(thin, *report.scans[1:])))
    write_scan_pages(out)
    evaluated = tmp_path_factory.mktemp("given")
    make_evaluation(evaluated, (LONG, "b", "c", "d", "e"), reason="no" * 80)
    return {
        "subject": out / "sub-01.html",
        "scans": out / "index.html",
        "group": write_group_report(group_folder, level="group"),
        "evaluate": write_group_report(evaluated, level="evaluate"),
        "table": write_table_page(group_folder, sample_table(group_folder, LONG)),
    }


CHECK = f"""
const sticking = {OUTSIDE};
const whole = all('img').filter(i => i.naturalWidth > 0).length;
const wide = document.documentElement.scrollWidth;
all('details').forEach(d => d.open = true);
const nameless = all('input,button,[tabindex="0"]').filter(e =>
    !(e.labels?.[0]?.innerText || e.innerText || e.ariaLabel)).map(e => e.outerHTML);
return {{ done, wide, whole, images: all('img').length, wrong: [sticking, nameless, {WEAK_TEXT}] }}
"""


@pytest.fixture(scope="module")
def look(browser, pages):
    """Open a page by its name, do there what is told and check it; return what was done."""

    def opened(name, *flags, do="", width=1280, scripts=True):
        body = f"{ALL} const done = await (async () => {{ {do} }})(); {CHECK}"
        found = browser(pages[name].read_text(), body, *flags, width=width, scripts=scripts)
        value = found.value
        assert value["wide"] <= width
        assert value["images"] == value["whole"] == PICTURES.get(name, value["whole"])
        assert value["wrong"] == [[], [], []]
        assert found.outside == []
        assert found.seen == [] or not scripts
        return value.get("done")

    return opened


@pytest.mark.parametrize("name", PAGES)
def test_fits_a_phone_is_quiet_legible_in_the_dark_and_asks_for_nothing(look, name):
    """Contrast is at least 4.5 (WCAG AA) between every text and what is behind it."""
    look(name, DARK, width=400)


COMPARE = """
const lf = document.querySelector('.compare .lf'), now = () => getComputedStyle(lf);
const choose = value => all(`.compare input[value=${value}]`).forEach(i => i.click());
const boxes = () => all('.compare').map(c => [...c.querySelectorAll('img')].map(i => {
    const r = i.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] }));
const places = [boxes()];
for (const value of ['wipe', 'lf', 'flicker']) { choose(value); places.push(boxes()) }
const motion = [now().animationName, getComputedStyle(all('.still')[0]).display];
const animation = lf.getAnimations()[0];
const levels = [0, 400, 900, 1500].map(time => {
    animation?.pause(); if (animation) animation.currentTime = time; return now().opacity });
choose('both');
const checked = () => document.querySelector('.compare :checked').value;
const space = new KeyboardEvent('keydown', { key: ' ', bubbles: true });
const seen = [1, 2].map(() => {
    document.querySelector('.compare .plate').dispatchEvent(space); return checked() });
document.querySelector('.compare .stage').click(); seen.push(checked());
const slide = (property, value) => {
    const slider = document.querySelector(`.compare [data-property="--${property}"]`);
    slider.value = value; slider.dispatchEvent(new Event('input')) };
slide('wipe', 20); slide('light', 2); choose('wipe');
const image = document.querySelector('.compare img');
const effects = [now().clipPath.includes('20%'), getComputedStyle(image).filter];
const extras = all('.needs-js').some(e => e.offsetParent);
choose('hf');
return [places, motion, [...new Set(levels)].sort(), seen, effects, extras,
    [now().animationName, now().visibility]]
"""


@pytest.mark.parametrize("scripts", [True, False])
def test_two_images_are_compared_without_scripts_and_with_less_motion_too(look, scripts):
    flags = [] if scripts else [LESS_MOTION]
    places, motion, levels, seen, effects, extras, end = look(
        "subject", *flags, do=COMPARE, scripts=scripts
    )
    apart, *modes = places
    assert len(apart) == 4
    assert all(first[1] < second[1] for first, second in apart)
    # Both lie exactly on each other.
    assert all(first == second for boxes in modes for first, second in boxes)
    assert motion == (["flicker", "none"] if scripts else ["none", "block"])
    assert levels == (["0", "1"] if scripts else ["1"])
    assert seen == (["hf", "lf", "hf"] if scripts else ["both"] * 3)
    assert effects == ([True, "brightness(2)"] if scripts else [False, "brightness(1)"])
    assert (extras, end) == (scripts, ["none", "hidden"])


def test_what_is_folded_is_printed_and_an_injected_request_is_stopped(browser, pages):
    page = pages["subject"].read_text().replace("@media print{", "@media all{")
    page = re.sub("(style-src) &#39;[^&]*&#39;", r"\1 &#39;unsafe-inline&#39;", page)
    injected = "<img src='https://example.org/x.png'><script>window.hacked = 1</script>"
    body = """return [all('details > :not(summary)').every(e => e.checkVisibility()),
            all('.needs-js').some(e => e.checkVisibility()),
            all('.plate').some(e => e.scrollWidth > e.clientWidth), window.hacked === undefined]"""
    found = browser(page.replace("<main", injected + "<main", 1), ALL + body, width=640)
    assert found.value == [True, False, False, True]
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
    assert look("group", do=body) == [[[0], [3]], ["P02"] * 8, "P02", 1]
