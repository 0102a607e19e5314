"""The page: every section, nothing from outside, nothing injected."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace

import pytest
from report_samples import EVIL, Page, assert_sealed, make_report, make_scan

from h2lo_bids.reports.records import (
    Failure,
    Figure,
    ModelInfo,
    ScanReport,
    SubjectReport,
)
from h2lo_bids.reports.subject import render_subject_report, warnings_of


def test_one_file_is_the_whole_report_and_its_policy_forbids_the_rest(report_folder):
    out, report = report_folder
    html = render_subject_report(report, out)
    page = Page(html)
    assert_sealed(page)
    assert "url(" not in html.split("<body>")[0]
    assert "@import" not in html
    assert all(v.startswith("data:image/svg+xml") for v in page.values("src", "img"))
    assert len(html) < 5e6 * len(report.scans)
    assert page.tags.count("script") == 1
    sections = {"summary", "scan-1", "scan-2", "model", "methods", "errors"}
    assert sections | page.anchors <= set(page.values("id"))
    for text in (
        "sub-01_ses-HF_T1w", "HF, LF", "2 of 3 found", "63.5 mT", "from the imaging frequency",
        "not used: low field", "deepbet 1.0.2, 1400 ml", "a" * 64, "1 min 04 s",
        "64 \N{MULTIPLICATION SIGN} 64 \N{MULTIPLICATION SIGN} 32 voxels of 2",
        "Signal to noise: white matter 61.5, grey matter 42.5, fluid 20.1", "0.0123",
        "trained on simulated pairs", "A note of its own.", "2 steps failed",
        "it broke; mend it", "so did this", "line 3", "very-long-folder/", "Gao et al., 2026",
        "@misc{h2lo", "581,409", "Registration to standard space: MNI",
        "Registration to standard space: MNI2",
    ):  # fmt: skip
        assert text in page.text
    assert page.tags.count("img") == 2 * 5 + 2 * 2  # two standard spaces
    assert all(page.values("alt", "img"))


def poison(record):
    """Replace every text in a record, however deep, by one that attacks the page."""
    if isinstance(record, str):
        return EVIL
    if isinstance(record, tuple):
        return tuple(poison(item) for item in record)
    if isinstance(record, dict):
        return {EVIL + key: poison(value) for key, value in record.items()}
    if is_dataclass(record):
        return replace(record, **{f.name: poison(getattr(record, f.name)) for f in fields(record)})
    return record


def test_data_cannot_inject_html(tmp_path):
    scan = make_scan(figures=(Figure("histogram", "x.svg"), Figure("highfield", "y.svg")))
    report = poison(make_report((scan,)))
    figure = Figure("histogram", EVIL, EVIL)
    report = replace(report, scans=(replace(report.scans[0], figures=(figure,)),))
    html = render_subject_report(report, tmp_path)
    page = Page(html)
    clean = Page(render_subject_report(make_report((make_scan(),)), tmp_path))
    assert page.tags.count("script") == 1
    assert page.tags.count("style") == 1
    assert page.tags.count("title") == clean.tags.count("title")
    assert "img" not in page.tags
    assert_sealed(page)
    assert "49" not in re.sub(r"[\d,]*581,409|sha256-\S+", "", page.text.split("alert(2)")[1])[:200]
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
    t2w = replace(t2w, source="sub-01/ses-HF/anat/sub-01_ses-HF_T2w.nii.gz", likeness="no")
    page = render_subject_report(replace(report, scans=(t1w, t2w), found=report.found[:1]), out)
    table = Page(page.split('aria-label="Scans found"')[1].split("</table>")[0]).text
    assert "2 of 2 found" in Page(page).text
    assert re.search(f"{t2w.source}3 Tfrom the sidecarsynthesizedno", table)


@pytest.mark.parametrize(("suffix", "name"), [("T1w", "regions"), ("T2w", "regionsT2w")])
def test_the_table_of_regions_is_that_of_the_contrast(tmp_path, suffix, name):
    scan = replace(make_scan(suffix=suffix), regions=(("Image",), ("x",)))
    page = Page(render_subject_report(make_report((scan,)), tmp_path))
    assert f"All rows are in desc-{name}_stats.tsv" in page.text


def test_bare_scan_and_none_at_all_have_a_page(tmp_path):
    scan = ScanReport("sub-01_T1w", "sub-01/anat/sub-01_T1w.nii.gz", (("sub", "01"),), "T1w")
    lost = (Failure("discovery", "nothing found"),)
    told = ("1 of 1 found", "unknown, not in the sidecar", "No errors to report.")
    for scans, failures, words in (
        ((scan,), (), told), ((), lost, ("nothing found", "1 step failed"))
    ):  # fmt: skip
        page = Page(render_subject_report(SubjectReport("01", scans, (), failures), tmp_path))
        assert all(word in page.text for word in words)
        assert ("methods" in page.values("id")) == bool(scans)
        assert "None" not in page.text
