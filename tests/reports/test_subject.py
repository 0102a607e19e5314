"""The pages of a subject and of all scans, and the records that they are made from."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from heads import rows_of
from report_samples import EVIL, Page, assert_sealed, make_report, make_scan

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.reports.records import (
    FUSION,
    Failure,
    Figure,
    FoundScan,
    ModelInfo,
    ScanReport,
    SubjectReport,
    from_json,
    load_subject_report,
    save_subject_report,
    write_scan_failure,
)
from h2lo_bids.reports.subject import (
    render_subject_report,
    warnings_of,
    write_scan_pages,
    write_subject_report,
)

BARE = ScanReport("sub-01_T1w", "sub-01/anat/sub-01_T1w.nii.gz", (("sub", "01"),), "T1w")
RECORD = "sub-01/figures/sub-01_ses-HF_desc-report_T1w.json"


def test_round_trip(tmp_path):
    figures = (Figure("histogram", "sub-01/figures/x.svg", "note"),)
    report = make_report((BARE, make_scan(figures=figures)))
    save_subject_report(tmp_path, report)
    path = tmp_path / RECORD  # a field of a later version is ignored
    path.write_text(path.read_text().replace('"stem"', '"later": {}, "stem"', 1))
    loaded = load_subject_report(tmp_path, "01")
    assert replace(loaded, failures=()) == replace(report, failures=())
    assert set(loaded.failures) == set(report.failures)


def test_broken_record_is_one_line_that_names_the_file(tmp_path, refused):
    absent = refused(MissingInputError, load_subject_report, tmp_path, "01")
    assert "run once without --reports-only" in absent
    save_subject_report(tmp_path, SubjectReport("01", (make_scan(),)))
    for content in ("", "[]", '{"scan": {"stem": 1}}', '{"scan": {}}', '{"failures": 1}'):
        (tmp_path / RECORD).write_text(content)
        assert str(tmp_path / RECORD) in refused(BadDataError, load_subject_report, tmp_path, "01")


def test_one_file_is_the_whole_report_and_its_policy_forbids_the_rest(report_folder):
    out, report = report_folder
    html = render_subject_report(report, out)
    page = Page(html)
    assert_sealed(page)
    assert not any(word in html.split("<body>")[0] for word in ("url(", "@import"))
    assert all(v.startswith("data:image/svg+xml") for v in page.values("src", "img"))
    assert len(html) < 5e6 * len(report.scans)
    sections = {"summary", "scan-1", "scan-2", "model", "methods", "errors"}
    assert sections | page.anchors <= set(page.values("id"))
    for text in (
        "sub-01_ses-HF_T1w", "HF, LF", "2 of 3 found", "63.5 mT", "from the imaging frequency",
        "not used: low field", "deepbet 1.0.2, 1400 ml", "a" * 64, "1 min 04 s",
        "64 \N{MULTIPLICATION SIGN} 64 \N{MULTIPLICATION SIGN} 32 voxels of 2",
        "Signal to noise: white matter 61.5, grey matter 42.5, fluid 20.1", "0.0123",
        "trained on simulated pairs", "A note of its own.", "2 steps failed", "so did this",
        "line 3", "very-long-folder/", "Gao et al., 2026", "@misc{h2lo", "581,409",
        "Registration to standard space: MNI2",
    ):  # fmt: skip
        assert text in page.text
    assert page.tags.count("img") == 2 * 5 + 2 * 2  # two standard spaces
    assert all(page.values("alt", "img"))


def test_data_cannot_inject_html(tmp_path):
    text = json.dumps(asdict(make_report((make_scan(),))))  # of which every value will attack
    evil = re.sub(r'"(?:[^"\\]|\\.)*"(:?)', lambda m: m[0] if m[1] else json.dumps(EVIL), text)
    report = from_json(SubjectReport, json.loads(evil))
    figure = Figure("histogram", EVIL, EVIL)
    report = replace(report, scans=(replace(report.scans[0], figures=(figure,)),))
    page = Page(render_subject_report(report, tmp_path))
    counts = {"script": 1, "style": 1, "title": 1, "img": 0}
    assert {tag: page.tags.count(tag) for tag in counts} == counts
    assert_sealed(page)
    assert "{{7*7}}" in page.text
    assert page.text.count("alert(1)") > 20


def test_figures_outside_the_folder_are_not_read(tmp_path):
    secret = tmp_path / "secret.svg"
    secret.write_text("<svg xmlns='http://www.w3.org/2000/svg'><title>secret</title></svg>")
    out = tmp_path / "out"
    out.mkdir()
    for path in ("../secret.svg", str(secret)):
        scan = make_scan(figures=(Figure("histogram", path),))
        html = render_subject_report(make_report((scan,)), out)
        assert "is missing" in html
        assert "%3Esecret" not in html


def test_warnings_follow_from_the_facts():
    real = {"training_data": {"kind": "real"}}
    plain = replace(make_scan(), warnings=(), model=ModelInfo.from_metadata(real))
    assert warnings_of(plain) == ()
    for change, words in (
        ({"training_data": {"kind": "simulated"}}, "simulated pairs"),
        ({}, "does not say"),
        (real | {"contrast": "T2w"}, "T2w model"),
    ):
        (warning,) = warnings_of(replace(plain, model=ModelInfo.from_metadata(change)))
        assert words in warning
    own = replace(plain, metadata_warnings=("no field strength",), warnings=("own",))
    assert warnings_of(own) == ("no field strength", "own")


def test_a_run_on_one_contrast_keeps_the_other_among_the_scans(report_folder):
    out, report = report_folder
    t1w, t2w = report.scans
    t2w = replace(t2w, source="sub-01/ses-HF/anat/sub-01_ses-HF_T2w.nii.gz", likeness="no",
                  regions=(("Image",), ("x",)))  # fmt: skip
    page = render_subject_report(replace(report, scans=(t1w, t2w), found=report.found[:1]), out)
    table = Page(page.split('aria-label="Scans found"')[1].split("</table>")[0]).text
    assert "2 of 2 found" in Page(page).text
    assert re.search(f"{t2w.source}3 Tfrom the sidecarsynthesizedno", table)
    assert "All rows are in desc-regionsT2w_stats.tsv" in Page(page).text


def test_bare_scan_and_none_at_all_have_a_page(tmp_path):
    lost = (Failure("discovery", "nothing found"),)
    bare = replace(BARE, signal_to_noise=(("x", 0.1, math.inf, 123.9, 1.0),))  # as JSON may say
    told = ("1 of 1 found", "unknown, not in the sidecar", "No errors to report.",
            "white matter inf, grey matter 123, fluid 1")  # fmt: skip
    for scans, failures, words in (
        ((bare,), (), told), ((), lost, ("nothing found", "1 step failed"))
    ):  # fmt: skip
        page = Page(render_subject_report(SubjectReport("01", scans, (), failures), tmp_path))
        assert all(word in page.text for word in words)
        assert ("methods" in page.values("id")) == bool(scans)
        assert "None" not in page.text


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Return pages of four subjects: the second's scan failed, the last's record is broken."""
    folder = tmp_path_factory.mktemp("scans")
    scans = [make_scan("sub-01_ses-HF_T1w"), make_scan("sub-01_ses-HF_T2w", "T2w")]
    scans[1] = replace(scans[1], signal_to_noise=(), likeness="no", mask_volume=1250.0)
    save_subject_report(folder, make_report(scans))
    # An image that was fused without a broken scan is of this run.
    part = Failure(FUSION, "is truncated", scan="sub-01_ses-HF_T1w")
    write_scan_failure(folder, part.scan, part)
    other = replace(make_scan("sub-02_T1w"), entities=(("sub", "02"),), mask_volume=1000.0)
    save_subject_report(folder, SubjectReport("02", (other,)))
    write_scan_failure(folder, "sub-02_T1w", Failure("conform", "<b>broken</b>"))
    other = replace(make_scan("sub-03_T1w"), seed=11, templates=(("MNI152NLin6Asym", "x"),))
    save_subject_report(folder, SubjectReport("03", (other,), versions=(("torch", "9.8"),)))
    broken = folder / "sub-04/figures/sub-04_desc-summary.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"found": "<script>"}')
    (problem,) = write_scan_pages(folder)
    assert str(broken) in problem
    assert str(broken) in Page((folder / "index.html").read_text()).text
    return folder


def test_a_row_per_scan_with_its_measures(out):
    found = rows_of(out / "scans.tsv")
    assert [(row["participant_id"], row["scan"], row["status"]) for row in found] == [
        ("sub-01", "sub-01_ses-HF_T1w", "done"),
        ("sub-01", "sub-01_ses-HF_T2w", "done"),
        ("sub-01", "n/a", "failed"),  # of the subject as a whole
        ("sub-01", "sub-01_ses-HF_run-2_T1w", "failed"),
        ("sub-02", "sub-02_T1w", "failed"),
        ("sub-03", "sub-03_T1w", "done"),
    ]
    first, second, _, lost, other, _ = found
    assert (first["session_id"], other["session_id"]) == ("ses-HF", "n/a")
    assert first["seconds"] == "63.5"
    assert first["level_white_matter"] == "0.7568"  # 0.0123 times 61.5, rounded, is 0.756
    assert first["level_cerebrospinal_fluid"] == "0.2471"
    assert first["snr_grey_matter"] == "42.5"
    assert (second["snr_grey_matter"], second["input_check"]) == ("n/a", "no")
    assert (lost["contrast"], lost["mask_volume"]) == ("T1w", "n/a")
    assert [*json.loads((out / "scans.json").read_text())] == [*first]
    text = (out / "logs" / "CITATION.md").read_text()  # on the scans of all subjects
    for words in ("T1-weighted and T2-weighted", "MNI152NLin6Asym", "seeds were 7 and 11", "9.8"):
        assert words in text


def test_links_lead_to_places_on_the_subjects_pages_and_dots_lie_where_their_values_are(out):
    text = (out / "index.html").read_text()
    targets = {target for target in Page(text).values("href", "a") if "sub-" in target}
    assert targets == {
        *(f"sub-01.html#{n}" for n in ("scan-1", "scan-2", "errors")),
        *(f"sub-0{n}.html#scan-1" for n in (2, 3)),
    }
    told = "what is shown here may be from an earlier run"
    pages = {s: render_subject_report(load_subject_report(out, s), out) for s in ("01", "02")}
    assert [(p.count(told), p.count("is truncated")) for p in pages.values()] == [(0, 1), (1, 0)]
    places = set(Page(pages["01"]).values("id"))
    assert {"scan-1", "scan-2", "errors"} <= places
    assert "index.html" in Page(pages["01"]).values("href", "a")
    drawn = text.split("Brain mask (mL)")[1].split("</svg>")[0]
    # 1400 and 1000 ml of T1w at the two ends, 1250 of T2w five eighths of the way.
    assert [float(x) for x in Page(drawn).values("cx", "circle")] == [540, 60, 540, 360]
    assert "<h4>Time (s)" not in text  # all alike
    heads = Page(text.split("<thead>")[1].split("</thead>")[0]).text
    assert "Brain mask (mL)NoiseLevel of white matter" in heads
    assert heads.endswith("Time (s)")


def test_many_sessions_get_a_page_each(report_folder, tmp_path):
    folder, report = report_folder
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    scans, found, failures = [], [], [Failure("report", "of all")]
    for session in "ABCDE":
        stem = f"sub-01_ses-{session}_T1w"
        entities = (("sub", "01"), ("ses", session))
        scans.append(replace(report.scans[0], stem=stem, entities=entities))
        found.append(FoundScan(f"sub-01/ses-{session}/anat/x_T1w.nii.gz", use="not used: x"))
        failures.append(Failure("conform", f"broke in {session}", "", stem))
    report = SubjectReport("01", tuple(scans), tuple(found), tuple(failures))
    save_subject_report(tmp_path, report)
    write_subject_report(report, tmp_path / "sub-01.html")
    write_scan_pages(tmp_path)
    pages = {path.name: Page(path.read_text()) for path in tmp_path.glob("*.html")}
    assert {*pages} == {"index.html", "sub-01.html", *(f"sub-01_ses-{s}.html" for s in "ABCDE")}
    assert "img" not in pages["sub-01.html"].tags
    assert "5 of 10 found" in pages["sub-01.html"].text
    one = pages["sub-01_ses-C.html"]
    assert "1 of 2 found" in one.text
    assert "broke in C" in one.text
    assert all(word not in one.text for word in ("broke in D", "of all", "sub-01_ses-A_T1w"))
    assert one.tags.count("img") == len(scans[0].figures)
    links = {value for page in pages.values() for value in page.values("href", "a")}
    targets = [link.split("#") for link in links if link.startswith("sub-") and "#" in link]
    assert all(place in pages[target].values("id", "section") for target, place in targets)
    assert {[f"sub-01_ses-{s}.html", "scan-1"] in targets for s in "ABCDE"} == {True}
