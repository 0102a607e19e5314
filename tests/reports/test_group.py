"""The group's page: figures as in the tables, whatever is there, nothing injected."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from group_samples import METHODS, Sample, make_evaluation, make_fold, make_group, parts
from report_page import Page

from h2lo_bids.evaluation.catalogue import CATALOGUE, CONVENTIONS, OWN, STRANGER
from h2lo_bids.evaluation.scores import Realism, read_scores, write_realism
from h2lo_bids.evaluation.table import write_tables
from h2lo_bids.reports.group import render_group_report, write_group_report
from h2lo_bids.reports.group_pictures import Subject, draw_subject
from h2lo_bids.reports.records import Failure

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}</style></title>"
SMALL = Sample(subjects=("A", "B", "C"), methods=("h2lo",), folds=1)


@pytest.fixture
def folder(group_folder, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(group_folder, tmp_path / "group")


def text_of(out, level="group", **more) -> str:
    return " ".join(Page.of(render_group_report(out, level=level, **more)).text.split())


def table_of(html: str, label: str) -> list[list[str]]:
    """Give the cells of a table of the page, spaces tidied."""
    part = html.split(f'aria-label="{label}"')[1].split("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[" ".join(Page.of(c).text.replace("\xa0", " ").split()) for c in row] for row in cells]


def tsv(path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_the_table_is_that_of_the_summary_file(group_folder):
    html = render_group_report(group_folder, level="group")
    head, *rows = table_of(html, "Table 1, T1w")
    assert [row[0] for row in rows] == ["HF image", *METHODS.values()]
    assert head[1:-1] == [metric.heading for metric in CATALOGUE.values()]
    shown = {row[0]: dict(zip(CATALOGUE, row[1:], strict=False)) for row in rows}
    named = {"identity": "HF image", **METHODS}
    lines = tsv(group_folder / "group_T1w_summary.tsv")
    assert len(lines) == 4 * len(CATALOGUE)
    for line in lines:
        digits = CATALOGUE[line["metric"]].digits
        expected = f"{float(line['mean']):.{digits}f} ± {float(line['std']):.{digits}f}"
        assert shown[named[line["method"]]][line["metric"]] == expected
    assert {row[-1] for row in rows[1:]} == {"581,409"}


def test_best_and_second_are_marked_once_per_column(group_folder):
    html = render_group_report(group_folder, level="group")
    part = html.split('aria-label="Table 1, T1w"')[1].split("</table>")[0]
    assert part.count('class="first"') == part.count('class="second"') == len(CATALOGUE)
    lines = [line for line in tsv(group_folder / "group_T1w_summary.tsv") if line["metric"] == "js"]
    best = min(lines, key=lambda line: float(line["mean"]))
    row = part.split(f'<th scope="row">{METHODS[best["method"]]}</th>')[1].split("</tr>")[0]
    cell = row.split("<td")[1 + list(CATALOGUE).index("js")]
    assert 'class="first"' in cell


def test_intervals_and_tests_are_those_of_the_files(group_folder):
    html = render_group_report(group_folder, level="group")
    intervals = table_of(html, "Confidence intervals, T1w")
    line = next(
        line
        for line in tsv(group_folder / "group_T1w_summary.tsv")
        if (line["method"], line["metric"]) == ("h2lo", "psnr")
    )
    assert f"{float(line['ci_low']):.2f} to {float(line['ci_high']):.2f}" == intervals[2][1]
    rows = {row[0]: row for row in table_of(html, "Paired tests, T1w")}
    line = next(
        line
        for line in tsv(group_folder / "group_T1w_comparisons.tsv")
        if (line["method"], line["versus"], line["metric"]) == ("h2lo", "identity", "psnr")
    )
    cell = rows["H2LO against HF image"][1]
    assert cell == f"+{float(line['difference']):.2f}p = {float(line['p_holm']):.3f}"
    # Two methods are compared with h2lo, more with the identity.
    assert "With 6 participants no corrected p can be below 0.062" in text_of(group_folder)


def test_tests_are_against_the_method_that_the_collection_chose(folder):
    scores = read_scores(folder / "group_T1w_scores.tsv")
    write_tables(folder / "group_T1w", scores, METHODS, reference="h2lo-nograd")
    rows = table_of(render_group_report(folder, level="group"), "Paired tests, T1w")
    named = {row[0] for row in rows}
    assert "H2LO against H2LO w/o L_grad" in named
    assert "H2LO w/o SIREN against H2LO" not in named


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_page_follows_the_convention_of_the_tables(folder, convention):
    raw = {"psnr": 11.25, "ssim": 60.0, "ncc": 0.5}
    scores = [replace(s, unclipped=raw) for s in read_scores(folder / "group_T1w_scores.tsv")]
    write_tables(folder / "group_T1w", scores, METHODS, convention=convention)
    page = text_of(folder)
    assert CONVENTIONS[convention] in page
    assert ("11.25" in page) == (convention == "release")


def test_every_section_is_there_and_every_picture_told(group_folder):
    page = Page.of(render_group_report(group_folder, level="group"))
    ids = {value for _, name, value in page.attributes if name == "id"}
    links = {v[1:] for t, n, v in page.attributes if (t, n) == ("a", "href") and v[0] == "#"}
    assert links <= ids
    sections = ("table", "subjects", "images", "histograms", "training", "splits", "pairs")
    assert {f"T1w-{name}" for name in sections} <= ids
    assert page.tags.count("img") == 6 + 6
    assert all(value for tag, name, value in page.attributes if (tag, name) == ("img", "alt"))
    labels = [v for t, n, v in page.attributes if (t, n) == ("svg", "aria-label")]
    assert len(labels) == page.tags.count("svg")
    counts = {"by method": len(CATALOGUE), "Histograms of": 6, "Mean": 1, "against step": 3}
    assert {part: sum(part in label for label in labels) for part in counts} == counts
    assert not [name for _, name, _ in page.attributes if name == "style"]
    names = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(names)) == len(names)
    for told in ("h2lo bids out group", "still rising", "torch", "42", "12 min 34 s"):
        assert told in page.text
    for told in ("Simulated data.", "9 of 9", "The card", "HF image 23.50", "No errors to report."):
        assert told in page.text


def test_flagged_pairs_come_first_with_their_reason(group_folder):
    html = render_group_report(group_folder, level="group")
    checks = html.split('<div class="checks">')[1]
    first, second = checks.split("<figure")[1:3]
    assert "class=flagged" in first
    assert "sub-P05_ses-HF_T1w" in first
    assert "Dice 0.61" in first
    assert "flagged" not in second
    assert "1 of 6 pairs flagged" in text_of(group_folder)


def test_the_median_subject_comes_first(group_folder):
    scores = tsv(group_folder / "group_T1w_scores.tsv")
    psnr = {
        line["participant_id"][4:]: float(line["psnr"])
        for line in scores
        if (line["method"], line["region"]) == ("h2lo", "whole")
    }
    middle = sorted(psnr, key=lambda name: psnr[name])[2]
    html = render_group_report(group_folder, level="group")
    chosen = re.findall(r'class="pick-0" checked>([^<]*)</label>', html)
    assert chosen == [f"{middle} (median)"]


@pytest.mark.parametrize(("source", "target"), [("HF image", "LF"), ("LF image", "HF")])
def test_differences_are_from_the_real_image_of_the_task(source, target):
    plane = np.ones((3, 20, 20), np.float32)
    subject = Subject("A", plane, plane / 2, {"m": plane / 2}, {})
    drawing = draw_subject(
        subject, "T1w", {"identity": source, "m": "M"}, {"psnr": {"A": {"m": 29.5}}},
        white=1.0, scale=0.1,
    )  # fmt: skip
    assert f">Real {target}<" in drawing
    assert f"real {target}|" in drawing
    assert "29.50 dB" in drawing


def test_unfinished_folds_are_named_and_the_others_shown(tmp_path):
    sample = replace(Sample(), collected=False)
    out = make_group(tmp_path, sample)
    shutil.rmtree(out / "folds/T1w/h2lo-mlp/fold-2")
    make_fold(out, "T1w", "h2lo-nograd", 1, sample, done=False)
    (out / "folds/T1w/h2lo-nograd/fold-1/scores.tsv").unlink()
    text = text_of(out)
    assert "T1w, H2LO w/o SIREN: fold 2 not finished" in text
    assert "T1w, H2LO w/o L_grad: fold 1 not finished" in text
    assert "7 of 9" in text
    assert "Mean ± population standard deviation of the means of 3 folds" in text


def test_folds_scored_after_the_collection_are_added(tmp_path):
    sample = Sample(methods=("h2lo",))
    out = make_group(tmp_path, sample)
    table = out / "group_T1w_scores.tsv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line for line in lines if line.split("\t")[3] != "2") + "\n")
    assert "of the means of 3 folds (6 participants)" in text_of(out)
    (out / "folds/T1w/h2lo/fold-2/scores.tsv").unlink()
    assert "of the means of 2 folds (4 participants)" in text_of(out)


def test_folds_of_an_earlier_division_are_left_out(folder):
    """Their test subjects may be those that the present folds were fitted on."""
    make_fold(folder, "T1w", "h2lo", 3, Sample(subjects=("A", "B", "C", "X"), folds=4))
    assert parts(Sample(subjects=("A", "B", "C", "X"), folds=4), 3)["test"] == ("X",)
    text = text_of(folder)
    assert "T1w, H2LO, fold 3: fitted on another division of the subjects; skipped" in text
    assert "of the means of 3 folds (6 participants)" in text
    assert "9 of 9" in text


def test_a_training_without_folds(tmp_path):
    out = make_group(tmp_path, Sample(folds=0))
    text = text_of(out)
    assert "There is no cross-validation" in text
    assert "h2lo_T1w" in text
    assert "Registration of the pairs" in text
    assert "None" not in text


def test_an_empty_folder_has_a_page(tmp_path):
    path = write_group_report(tmp_path, level="train")
    assert path == tmp_path / "group.html"
    assert "No pair, fold or score was found" in Page.of(path.read_text()).text


def test_the_evaluation_of_given_models(tmp_path):
    out = make_evaluation(tmp_path)
    html = render_group_report(out, level="evaluate")
    rows = table_of(html, "Table 1, T1w")
    assert [row[0] for row in rows[1:]] == ["HF image", "site-a", "site-b"]
    text = text_of(out, level="evaluate")
    assert "over 3 participants" in text
    for told in ("Models evaluated", "site-a 1", "d" * 64, "site-b: Too good."):
        assert told in text
    assert "Splits" not in text
    assert "not finished" not in text


def test_realism_is_averaged_over_participants_and_drawn(tmp_path):
    out = make_evaluation(tmp_path)
    assert "How real" not in text_of(out, level="evaluate")
    people = ("P00", "P01", "P02")
    for model, gain in (("site-a", 0.0), ("site-b", 0.1)):
        rows = [Realism("reference", "<i>.nii", "", None, {"level_low": 0.4, "noise": 0.05})]
        for n, subject in enumerate(people):
            for kind, image, own in (("target", "", 0.5), ("synthesized", model, 0.6 + gain)):
                bands = dict.fromkeys([*OWN][:4], own + 0.1 * n) | dict.fromkeys(
                    [*STRANGER][:4], 0.02
                )
                told = {**bands, "level_low": own / 2, "spectrum_db": 3.0 * n, "own_2mm": np.nan}
                rows.append(Realism(kind, image, subject, None, told))
        write_realism(out / "evaluation/T1w" / model / "realism.tsv", rows)
    html = render_group_report(out, level="evaluate")
    head, *rows = table_of(html, "Realism, T1w")
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert [*found] == ["Real low field", "<i>.nii (reference)", "site-a", "site-b"]
    assert [found[name]["Low"] for name in found] == ["0.25", "0.40", "0.30", "0.35"]
    assert (found["site-b"]["Spectrum (dB)"], found["site-b"]["Noise"]) == ("3.0", "\N{EN DASH}")
    assert [row["Images"] for row in found.values()] == ["3", "1", "3", "3"]
    told = re.findall(r"<title>([^<]*: 8 mm [^<]*)</title>", html)
    ends = (f"8 mm {x}; 5 mm {x}; 4 mm {x}; 3 mm {x}" for x in ("0.60", "0.70", "0.80"))
    for name, end in zip(("Real low field", "site-a", "site-b"), ends, strict=True):
        assert f"{name}, own: {end}" in told
    assert sum("stranger: 8 mm 0.02;" in line for line in told) == 3
    assert len(told) == 6


def test_models_of_an_earlier_evaluation_are_left_out(tmp_path):
    out = make_evaluation(tmp_path)
    shutil.copytree(out / "evaluation/T1w/site-a", out / "evaluation/T1w/older")
    assert "older" not in text_of(out, level="evaluate")


def test_damaged_files_are_left_out_and_named(folder):
    (folder / "folds/T1w/h2lo/fold-0/pictures.npz").write_bytes(b"PK\x03\x04 broken")
    (folder / "folds/T1w/h2lo/fold-1/record.json").write_text("{")
    (folder / "group_T1w_scores.tsv").write_text("participant_id\nx\n")
    anat = folder / "sub-P00/ses-HF/anat"
    (anat / "sub-P00_ses-HF_res-model_desc-pairLF_T1w.nii.gz").write_bytes(b"no image")
    (anat / "sub-P01_ses-HF_res-model_desc-pairLF_T1w.json").write_text("[1]")
    (folder / "models/h2lo_T1w/metadata.json").write_text("\xff")
    text = text_of(folder)
    for told in ("pictures.npz is damaged", "record.json", "line 2 is not a subject's scores"):
        assert told in text
    assert "cannot be drawn" in text
    assert "1 pair has no figure here" in text
    assert "fold 1 not finished" in text
    table = folder / "folds/T1w/h2lo/fold-0/realism.tsv"
    table.write_text("kind\timage\tnoise\ntarget\nother\tx\t1\ntarget\t\tmany\n")
    assert "How real" in text_of(folder)


def test_same_files_same_bytes(group_folder, tmp_path):
    shutil.copytree(group_folder, tmp_path / "b")
    pages = [render_group_report(out, level="group") for out in (group_folder, tmp_path / "b")]
    assert pages[0] == pages[1]


def test_data_cannot_inject_html(tmp_path):
    out = make_group(tmp_path / "group", replace(SMALL, title=EVIL, reason=EVIL))
    folder = out / "folds/T1w/h2lo/fold-0"
    with np.load(folder / "pictures.npz") as stored:
        arrays = {key.replace("A/", EVIL.replace("/", "") + "/"): stored[key] for key in stored}
    np.savez(folder / "pictures.npz", **arrays)
    for name in ("group_T1w_scores.tsv", "splits.tsv"):
        path = out / name
        path.write_text(path.read_text().replace("sub-A", "sub-" + EVIL))
    record = json.loads((folder / "record.json").read_text())
    record |= {"software": {EVIL: EVIL}, "options": {EVIL: EVIL}, "warnings": [EVIL], "seed": EVIL}
    record["fold"]["test"] = [EVIL, "B", "C"]
    (folder / "record.json").write_text(json.dumps(record))
    (out / "models/h2lo_T1w/README.md").write_text(EVIL)
    failures = (Failure(EVIL, EVIL, EVIL, EVIL),)
    html = render_group_report(out, level="group", failures=failures)
    page = Page.of(html)
    plain = make_group(tmp_path / "plain", SMALL)
    clean = Page.of(render_group_report(plain, level="group", failures=(Failure("a", "b"),)))
    for tag in ("script", "style", "img", "svg"):
        assert page.tags.count(tag) == clean.tags.count(tag)
    assert not [name for _, name, _ in page.attributes if name == "style" or name[:2] == "on"]
    sources = [v for t, n, v in page.attributes if n == "src"]
    assert all(value.startswith("data:image/") for value in sources)
    assert page.text.count("alert(1)") > 12
    (policy,) = (v for t, n, v in page.attributes if n == "content" and "default-src" in v)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_a_page_of_many_subjects_stays_small(tmp_path):
    from h2lo_bids.reports.group_views import PANELS

    names = tuple(f"S{k:02d}" for k in range(PANELS + 4))
    out = make_group(tmp_path, Sample(subjects=names, methods=("h2lo",), folds=2))
    path = write_group_report(out, level="group")
    assert "4 further subjects are not shown" in Page.of(path.read_text()).text
    assert path.stat().st_size < 15e6
