"""The page and the table of all scans."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from heads import rows_of
from report_samples import Page, make_report, make_scan

from h2lo_bids.reports.records import (
    FUSION,
    Failure,
    FoundScan,
    SubjectReport,
    load_subject_report,
    save_subject_report,
    write_scan_failure,
)
from h2lo_bids.reports.subject import render_subject_report, write_scan_pages, write_subject_report


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return records of two subjects: the second's scan failed in its latest run."""
    scans = [make_scan("sub-01_ses-HF_T1w"), make_scan("sub-01_ses-HF_T2w", "T2w")]
    scans[1] = replace(scans[1], signal_to_noise=(), likeness="no", mask_volume=1250.0)
    save_subject_report(tmp_path, make_report(scans))
    other = replace(make_scan("sub-02_T1w"), entities=(("sub", "02"),), mask_volume=1000.0)
    save_subject_report(tmp_path, SubjectReport("02", (other,)))
    write_scan_failure(tmp_path, "sub-02_T1w", Failure("conform", "<b>broken</b>"))
    return tmp_path


def test_a_row_per_scan_with_its_measures(out):
    assert write_scan_pages(out) == ()
    found = rows_of(out / "scans.tsv")
    assert [(row["participant_id"], row["scan"], row["status"]) for row in found] == [
        ("sub-01", "sub-01_ses-HF_T1w", "done"),
        ("sub-01", "sub-01_ses-HF_T2w", "done"),
        ("sub-01", "n/a", "failed"),  # of the subject as a whole
        ("sub-01", "sub-01_ses-HF_run-2_T1w", "failed"),
        ("sub-02", "sub-02_T1w", "failed"),
    ]
    first, second, _, lost, other = found
    assert (first["session_id"], other["session_id"]) == ("ses-HF", "n/a")
    assert first["seconds"] == "63.5"
    assert first["level_white_matter"] == "0.7568"  # 0.0123 times 61.5, rounded, is 0.756
    assert first["level_cerebrospinal_fluid"] == "0.2471"
    assert first["snr_grey_matter"] == "42.5"
    assert (second["snr_grey_matter"], second["input_check"]) == ("n/a", "no")
    assert (lost["contrast"], lost["mask_volume"]) == ("T1w", "n/a")
    assert [*json.loads((out / "scans.json").read_text())] == [*first]


def test_the_methods_text_is_of_the_scans_of_all_subjects(out):
    other = replace(make_scan("sub-03_T1w"), seed=11, templates=(("MNI152NLin6Asym", "x"),))
    save_subject_report(out, SubjectReport("03", (other,), versions=(("torch", "9.8"),)))
    write_scan_pages(out)
    text = (out / "logs" / "CITATION.md").read_text()
    for words in ("T1-weighted and T2-weighted", "MNI152NLin6Asym", "seeds were 7 and 11", "9.8"):
        assert words in text


def test_links_lead_to_places_on_the_subjects_pages(out):
    write_scan_pages(out)
    page = Page((out / "index.html").read_text())
    targets = {target for target in page.values("href", "a") if "sub-" in target}
    assert targets == {f"sub-01.html#{n}" for n in ("scan-1", "scan-2", "errors")} | {
        "sub-02.html#scan-1"
    }
    scans = (make_scan("sub-01_ses-HF_T1w"), make_scan("sub-01_ses-HF_T2w", "T2w"))
    subject = Page(render_subject_report(make_report(scans), out))
    assert {target.partition("#")[2] for target in targets} <= set(subject.values("id"))
    assert "index.html" in subject.values("href", "a")


def test_what_an_earlier_run_made_of_a_scan_that_failed_is_no_news(out):
    # An image that was fused without a broken scan is of this run.
    part = Failure(FUSION, "is truncated", scan="sub-01_ses-HF_T1w")
    write_scan_failure(out, part.scan, part)
    write_scan_pages(out)
    assert rows_of(out / "scans.tsv")[0]["status"] == "done"
    told = "what is shown here may be from an earlier run"
    for subject, count in (("01", 0), ("02", 1)):
        page = render_subject_report(load_subject_report(out, subject), out)
        assert (page.count(told), page.count("is truncated")) == (count, 1 - count)


def test_many_sessions_get_a_page_each(report_folder, tmp_path):
    folder, report = report_folder
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    scans, found, failures = [], [], [Failure("report", "of all")]
    for session in "ABCDE":
        stem = f"sub-01_ses-{session}_T1w"
        skipped = f"sub-01/ses-{session}/anat/sub-01_ses-{session}_acq-LF_T1w.nii.gz"
        found.append(FoundScan(skipped, use="not used: low field"))
        entities = (("sub", "01"), ("ses", session))
        scans.append(replace(report.scans[0], stem=stem, entities=entities))
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
    for page in pages.values():
        for value in page.values("href", "a"):
            target, _, place = value.partition("#")
            if target.startswith("sub-") and place:
                assert place in pages[target].values("id", "section")
    links = set(pages["index.html"].values("href", "a"))
    assert {f"sub-01_ses-{s}.html#scan-1" for s in "ABCDE"} <= links


def test_dots_lie_where_their_values_are(out):
    write_scan_pages(out)
    text = (out / "index.html").read_text()
    drawn = text.split("Brain mask (mL)")[1].split("</svg>")[0]
    # 1400 and 1000 ml of T1w at the two ends, 1250 of T2w five eighths of the way.
    assert [float(x) for x in Page(drawn).values("cx", "circle")] == [540, 60, 360]
    assert "<h4>Time (s)" not in text  # all alike
    heads = Page(text.split("<thead>")[1].split("</thead>")[0]).text
    assert "Brain mask (mL)NoiseLevel of white matter" in heads
    assert heads.endswith("Time (s)")


def test_a_broken_record_costs_its_subject_only(out):
    broken = out / "sub-01/figures/sub-01_desc-summary.json"
    broken.write_text('{"found": "<script>"}')
    (problem,) = write_scan_pages(out)
    assert str(broken) in problem
    assert {row["participant_id"] for row in rows_of(out / "scans.tsv")} == {"sub-02"}
    assert str(broken) in Page((out / "index.html").read_text()).text
