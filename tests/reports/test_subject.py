"""The pages of a subject and of all scans, and the records that they are made from."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields, is_dataclass, replace
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
    figure_file,
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


def save_scan(folder, stem="sub-01_ses-HF_T1w", subject="01"):
    save_subject_report(folder, SubjectReport(subject, (make_scan(stem),)))


def test_round_trip(tmp_path):
    figures = (Figure("histogram", "sub-01/figures/x.svg", "note"),)
    report = make_report((BARE, make_scan(figures=figures)))
    save_subject_report(tmp_path, report)
    path = tmp_path / RECORD  # a field of a later version is ignored
    path.write_text(path.read_text().replace('"stem"', '"later": {}, "stem"', 1))
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
    lost = (Failure("discovery", "nothing found"),)
    told = ("1 of 1 found", "unknown, not in the sidecar", "No errors to report.")
    for scans, failures, words in (
        ((BARE,), (), told), ((), lost, ("nothing found", "1 step failed"))
    ):  # fmt: skip
        page = Page(render_subject_report(SubjectReport("01", scans, (), failures), tmp_path))
        assert all(word in page.text for word in words)
        assert ("methods" in page.values("id")) == bool(scans)
        assert "None" not in page.text


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


def test_links_lead_to_places_on_the_subjects_pages_and_dots_lie_where_their_values_are(out):
    write_scan_pages(out)
    text = (out / "index.html").read_text()
    page = Page(text)
    targets = {target for target in page.values("href", "a") if "sub-" in target}
    assert targets == {f"sub-01.html#{n}" for n in ("scan-1", "scan-2", "errors")} | {
        "sub-02.html#scan-1"
    }
    scans = (make_scan("sub-01_ses-HF_T1w"), make_scan("sub-01_ses-HF_T2w", "T2w"))
    subject = Page(render_subject_report(make_report(scans), out))
    assert {target.partition("#")[2] for target in targets} <= set(subject.values("id"))
    assert "index.html" in subject.values("href", "a")
    drawn = text.split("Brain mask (mL)")[1].split("</svg>")[0]
    # 1400 and 1000 ml of T1w at the two ends, 1250 of T2w five eighths of the way.
    assert [float(x) for x in Page(drawn).values("cx", "circle")] == [540, 60, 360]
    assert "<h4>Time (s)" not in text  # all alike
    heads = Page(text.split("<thead>")[1].split("</thead>")[0]).text
    assert "Brain mask (mL)NoiseLevel of white matter" in heads
    assert heads.endswith("Time (s)")


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


def test_a_broken_record_costs_its_subject_only(out):
    broken = out / "sub-01/figures/sub-01_desc-summary.json"
    broken.write_text('{"found": "<script>"}')
    (problem,) = write_scan_pages(out)
    assert str(broken) in problem
    assert {row["participant_id"] for row in rows_of(out / "scans.tsv")} == {"sub-02"}
    assert str(broken) in Page((out / "index.html").read_text()).text
