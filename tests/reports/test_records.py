"""Records survive the disk, and broken ones say so in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from report_samples import make_report, make_scan

from h2lo_bids.errors import BadDataError, MissingInputError
from h2lo_bids.reports.records import (
    Failure,
    Figure,
    ScanReport,
    SubjectReport,
    figure_file,
    load_subject_report,
    save_subject_report,
    write_scan_failure,
)

BARE = ScanReport("sub-01_T1w", "sub-01/anat/sub-01_T1w.nii.gz", (("sub", "01"),), "T1w")
RECORD = "sub-01/figures/sub-01_ses-HF_desc-report_T1w.json"


def full_report():
    figures = (Figure("histogram", "sub-01/figures/x.svg", "note"),)
    return make_report((make_scan(figures=figures), make_scan("sub-01_ses-HF_T2w", "T2w")))


def save_scan(folder, stem="sub-01_ses-HF_T1w", subject="01"):
    save_subject_report(folder, SubjectReport(subject, (make_scan(stem),)))


@pytest.mark.parametrize("report", [full_report(), SubjectReport("01", (BARE,))])
def test_round_trip(tmp_path, report):
    save_subject_report(tmp_path, report)
    loaded = load_subject_report(tmp_path, "01")
    assert replace(loaded, failures=()) == replace(report, failures=())
    assert set(loaded.failures) == set(report.failures)


def test_names_keep_the_entities_and_subjects_do_not_mix(tmp_path):
    stem = "sub-01_ses-HF_acq-x_rec-SCIC_run-2_T1w"
    save_scan(tmp_path, stem)
    save_scan(tmp_path, "sub-010_T1w", "010")
    name = "sub-01_ses-HF_acq-x_rec-SCIC_run-2_desc-report_T1w.json"
    assert (tmp_path / "sub-01/figures" / name).is_file()
    assert figure_file(tmp_path, "sub-a_T2w", "detail", ".svg").name == "sub-a_desc-detail_T2w.svg"
    assert [scan.stem for scan in load_subject_report(tmp_path, "01").scans] == [stem]


def test_failures_are_shown_until_the_scan_succeeds(tmp_path):
    stem = "sub-01_ses-HF_T1w"
    failures = tuple(Failure(step, "it broke", "", stem) for step in ("mask", "report"))
    save_subject_report(tmp_path, SubjectReport("01", failures=failures))
    assert load_subject_report(tmp_path, "01") == SubjectReport("01", failures=failures)
    save_scan(tmp_path)
    assert load_subject_report(tmp_path, "01") == SubjectReport("01", (make_scan(),))
    write_scan_failure(tmp_path, stem, Failure("mask", "again"))
    loaded = load_subject_report(tmp_path, "01")
    assert (len(loaded.scans), len(loaded.failures)) == (1, 1)


def test_broken_record_is_one_line_that_names_the_file(tmp_path, refused):
    absent = refused(MissingInputError, load_subject_report, tmp_path, "01")
    assert "run once without --reports-only" in absent
    save_scan(tmp_path)
    for content in ("", "[]", '{"scan": {"stem": 1}}', '{"scan": {}}', '{"failures": 1}'):
        (tmp_path / RECORD).write_text(content)
        assert str(tmp_path / RECORD) in refused(BadDataError, load_subject_report, tmp_path, "01")


def test_fields_of_later_versions_are_ignored(tmp_path):
    save_scan(tmp_path)
    content = json.loads((tmp_path / RECORD).read_text())
    content["scan"]["something_new"] = {"a": 1}
    (tmp_path / RECORD).write_text(json.dumps(content))
    assert load_subject_report(tmp_path, "01").scans == (make_scan(),)
