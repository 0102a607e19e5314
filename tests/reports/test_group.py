"""The group's page: figures as in the tables, whatever is there, nothing injected."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from group_samples import (
    METHODS,
    Sample,
    make_evaluation,
    make_fold,
    make_group,
    page_of,
    sample_table,
)
from heads import rows_of, write_bundle, write_enhancer
from report_samples import EVIL, Page, assert_sealed, points

from h2lo_bids.evaluation.catalogue import CATALOGUE, CONVENTIONS, OWN, STRANGER
from h2lo_bids.evaluation.scores import Realism, read_scores, write_realism, write_scores
from h2lo_bids.evaluation.table import tabulate, write_tables
from h2lo_bids.reports.group import write_group_report, write_table_page
from h2lo_bids.reports.group_data import read_contrasts
from h2lo_bids.reports.group_pictures import overlay
from h2lo_bids.reports.group_views import contrast_view
from h2lo_bids.reports.records import Failure

SMALL = Sample(subjects=("A", "B", "C"), methods=("h2lo",), folds=1)
TWO = replace(SMALL, folds=2)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small cross-validation that may be changed."""
    return make_group(tmp_path / "group", TWO)


@pytest.fixture(scope="module")
def html(group_folder) -> str:
    return page_of(group_folder)


def text_of(out, level="group") -> str:
    return " ".join(Page(page_of(out, level)).text.split())


def table_of(html: str, label: str) -> list[list[str]]:
    """Give the cells of a table of the page, spaces tidied."""
    part = html.split(f'aria-label="{label}"')[1].split("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[" ".join(Page(c).text.replace("\xa0", " ").split()) for c in row] for row in cells]


def test_figures_are_those_of_the_files(group_folder, html):
    lines = (group_folder / "group_T1w_table.md").read_text().splitlines()
    head, _, *rows = (line.strip("| ").split(" | ") for line in lines if line[0:1] == "|")
    printed = [[re.sub(r"</?u>|\*\*", "", cell) for cell in row] for row in (head, *rows)]
    shown = table_of(html, "Table 1, T1w")
    assert [row[: len(head)] for row in shown] == printed  # and NMI, which the paper's has not
    assert shown[0][1:-1] == [metric.heading for metric in CATALOGUE.values()]
    assert [row[-1] for row in shown[2:]] == ["581,409"] * 3
    part = html.split('aria-label="Table 1, T1w"')[1].split("</table>")[0]
    classes = re.findall(r'<td[^>]*><span class="(\w*)">', part)
    marks = [["first" * ("**" in c) or "second" * ("<u>" in c) for c in row[1:]] for row in rows]
    assert np.reshape(classes, (4, -1))[:, : len(head) - 1].tolist() == marks
    summary = rows_of(group_folder / "group_T1w_summary.tsv")
    (line,) = (x for x in summary if (x["method"], x["metric"]) == ("h2lo", "psnr"))
    bounds = f"{float(line['ci_low']):.2f} to {float(line['ci_high']):.2f}"
    assert table_of(html, "Confidence intervals, T1w")[2][1] == bounds
    tests = rows_of(group_folder / "group_T1w_comparisons.tsv")
    line = next(x for x in tests if (x["method"], x["metric"]) == ("h2lo", "psnr"))
    (row,) = (r for r in table_of(html, "Paired tests, T1w") if r[0] == "H2LO against HF image")
    assert row[1] == f"+{float(line['difference']):.2f}p = {float(line['p_holm']):.3f}"
    # Two methods are compared with h2lo, more with the identity.
    assert "With 6 participants no corrected p can be below 0.062" in html


def test_the_page_follows_the_reference_and_the_convention_of_the_tables(folder):
    make_fold(folder, "T1w", "h2lo-mlp", 0, TWO)
    raw = {"psnr": 11.25, "ssim": 60.0, "ncc": 0.5}
    scores = []
    for path in folder.glob("folds/T1w/*/fold-*/scores.tsv"):
        write_scores(path, own := [replace(s, unclipped=raw) for s in read_scores(path)])
        scores += own
    block = tabulate(scores, METHODS, reference="h2lo-mlp", convention="release")
    write_tables(folder / "group_T1w", scores, block)
    (contrast,) = read_contrasts(folder, "group", [])
    assert repr(contrast.block) == repr(replace(block, contrast="T1w"))  # with what is NaN
    assert CONVENTIONS["release"] in text_of(folder)


def test_every_section_is_there_and_every_picture_told(html):
    page = Page(html)
    ids = page.values("id")
    assert page.anchors <= set(ids)
    assert len(set(ids)) == len(ids)
    sections = ("table", "subjects", "images", "histograms", "training", "splits", "pairs")
    assert {f"T1w-{name}" for name in sections} <= set(ids)
    assert page.tags.count("img") == 6 + 6
    assert all(page.values("alt", "img"))
    labels = page.values("aria-label", "svg")
    assert len(labels) == page.tags.count("svg")
    counts = {"by method": len(CATALOGUE), "Histograms of": 6, "Mean": 1, "against step": 3}
    assert {part: sum(part in label for label in labels) for part in counts} == counts
    for told in (
        "h2lo bids out group", "still rising", "torch", "42", "12 min 34 s", "Simulated data.",
        "9 of 9", "The card", "HF image 23.50", "No errors to report.", CONVENTIONS["clipped"],
    ):  # fmt: skip
        assert told in page.text


def test_flagged_pairs_and_the_median_subject_come_first(group_folder, html):
    first, second = html.split('<div class="checks">')[1].split("<figure")[1:3]
    for told in ("class=flagged", "sub-P05_T1w", "Dice 0.61"):
        assert told in first
    assert "flagged" not in second
    assert "1 of 6 pairs flagged" in html
    scores = rows_of(group_folder / "group_T1w_scores.tsv")
    whole = (s for s in scores if (s["method"], s["region"]) == ("h2lo", "whole"))
    psnr = {line["participant_id"][4:]: float(line["psnr"]) for line in whole}
    middle = sorted(psnr, key=lambda name: psnr[name])[2]
    chosen = re.findall(r'class="pick-0" checked>([^<]*)</label>', html)
    assert chosen == [f"{middle} (median)"]
    for words in (">Real LF<", "real LF|", f">{psnr[middle]:.2f} dB<"):
        assert words in unquote(html)


def test_edges_are_the_head_and_the_border_between_two_tissues():
    x, y = np.indices((64, 64)) - 31.5
    radius = np.hypot(x, y).astype(np.float32)
    plane = np.select([radius < 12, radius < 28], [0.9, 0.4], 0.0).astype(np.float32)
    drawing = overlay([plane] * 3, [plane] * 3, title="x")
    zoom = 110 / 64
    across = sorted(
        np.ptp(points(d), axis=0).mean() for d in re.findall(r'<path d="([^"]*)"', drawing)
    )
    assert across == pytest.approx([24 * zoom] * 3 + [56 * zoom] * 3, abs=2 * zoom)
    assert re.findall(r">([LRPA])</text>", drawing) == ["L", "R", "L", "R", "P", "A"]


def test_unfinished_folds_and_those_of_an_earlier_division(folder):
    """Test subjects of an earlier division may be those that the present folds were fitted on."""
    make_fold(folder, "T1w", "h2lo", 3, Sample(subjects=("A", "B", "C", "X"), folds=4))
    make_fold(folder, "T1w", "h2lo-nograd", 0, TWO, done=False)
    make_fold(folder, "T1w", "h2lo-nograd", 1, TWO)
    (folder / "group_T1w_scores.tsv").unlink()
    text = text_of(folder)
    for told in (
        "T1w, H2LO w/o L_grad: fold 0 not finished",
        "MethodsH2LO, H2LO w/o L_grad Fits finished3 of 4",
        "H2LO w/o L_grad †: 1 of 2 folds; fold 0 is not finished.",
        "T1w, H2LO, fold 3: fitted on another division of the subjects; skipped",
        "of the means of 2 folds (3 participants)",
    ):  # fmt: skip
        assert told in text
    assert re.search(r"PSNR of H2LO [\d.]+ .*, H2LO w/o L_grad † [\d.]+ .*, HF image", text)
    make_fold(folder, "T1w", "h2lo-nograd", 1, TWO, done=False)
    make_fold(folder, "T1w", "h2lo-nograd", 0, TWO)
    (contrast,) = read_contrasts(folder, "group", [])
    assert contrast.missing == ("T1w, H2LO w/o L_grad: fold 1 not finished",)


def test_the_table_has_the_collected_methods_with_their_folds_as_they_are_now(folder):
    fold = folder / "folds/T1w/h2lo/fold-1"
    write_realism(fold / "realism.tsv", [Realism("synthesized", "h2lo", "A", 0, {"noise": 0.1})])
    shutil.copytree(fold.parent, folder / "folds/T1w/h2lo-first")  # what collecting has left out
    scores = read_scores(fold / "scores.tsv")
    anew = [replace(s, values=dict.fromkeys(s.values, 7.5)) for s in scores]
    write_scores(fold / "scores.tsv", anew)
    problems: list[str] = []
    (contrast,) = read_contrasts(folder, "group", problems)
    assert [row.name for row in contrast.block.rows] == ["identity", "h2lo"]
    fold_means = dict(contrast.block.rows[1].summary["ncc"].fold_means)
    assert fold_means[1] == 7.5 != fold_means[0]
    assert problems == [f"T1w, H2LO, fold {n}: was not collected; not in the table" for n in (0, 1)]
    # Fits that were kept under another name have a row of their own.
    realism = contrast_view(contrast, folder)["realism"]
    assert [row["title"] for row in realism["rows"]] == ["H2LO", "H2LO"]


def test_a_training_without_folds_and_an_empty_folder_have_a_page(tmp_path):
    text = text_of(make_group(tmp_path / "a", Sample(folds=0)))
    for told in ("There was no cross-validation", "untrained T1w", "Registration of the pairs"):
        assert told in text
    assert "None" not in text
    path = write_group_report(tmp_path, level="train")
    assert path == tmp_path / "group.html"
    assert "No pair, fold or score was found" in Page(path.read_text()).text


def test_the_evaluation_of_given_models_and_realism_averaged_over_participants(tmp_path):
    out = make_evaluation(tmp_path)
    shutil.copytree(out / "evaluation/T1w/site-a", out / "evaluation/T1w/older")
    for model, gain in (("site-a", 0.0), ("site-b", 0.1)):
        rows = [Realism("reference", "<i>.nii", "", None, {"level_low": 0.4, "noise": 0.05})]
        for n, subject in enumerate(("P00", "P01", "P02")):
            for kind, image, own in (("target", "", 0.5), ("synthesized", model, 0.6 + gain)):
                bands = dict.fromkeys([*OWN][:4], own + 0.1 * n)
                bands |= dict.fromkeys([*STRANGER][:4], 0.02)
                told = {**bands, "level_low": own / 2, "spectrum_db": 3.0 * n, "own_2mm": np.nan}
                rows.append(Realism(kind, image, subject, None, told))
        write_realism(out / "evaluation/T1w" / model / "realism.tsv", rows)
    (out / "group.html").write_text("of a training")
    html = page_of(out, "evaluate")
    assert (out / "group.html").read_text() == "of a training"
    rows = table_of(html, "Table 1, T1w")
    assert [row[0] for row in rows[1:]] == ["HF image", "site-a", "site-b"]
    text = Page(html).text
    for told in ("over 3 participants", "Models evaluated", "site-a 1", "d" * 64, "Too good."):
        assert told in text
    assert not any(other in text for other in ("Splits", "not finished", "older"))
    head, *rows = table_of(html, "Realism, T1w")
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert [*found] == ["Real low field", "<i>.nii (reference)", "site-a", "site-b"]
    assert [row["Low"] for row in found.values()] == ["0.25", "0.40", "0.30", "0.35"]
    assert (found["site-b"]["Spectrum (dB)"], found["site-b"]["Noise"]) == ("3.0", "\N{EN DASH}")
    assert [row["Images"] for row in found.values()] == ["3", "1", "3", "3"]
    told = re.findall(r"<title>([^<]*: 8 mm [^<]*)</title>", html)
    ends = (f"8 mm {x}; 5 mm {x}; 4 mm {x}; 3 mm {x}" for x in ("0.60", "0.70", "0.80"))
    for name, end in zip(("Real low field", "site-a", "site-b"), ends, strict=True):
        assert f"{name}, own: {end}" in told
    assert sum("stranger: 8 mm 0.02;" in line for line in told) == 3
    assert len(told) == 6


def test_the_evaluation_of_enhancers_names_the_images_of_their_task(tmp_path):
    out = make_evaluation(tmp_path, ("site-a",))
    path = out / "evaluation/T1w/site-a/record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task": "enhance"}))
    html = page_of(out, "evaluate")
    assert table_of(html, "Table 1, T1w")[1][0] == "LF image"
    text = Page(html).text
    for told in ("How close to the real high-field image", "Low field", "Real high field"):
        assert told in text
    for wrong in ("HF image", "real low-field image", "Real low field", "How real"):
        assert wrong not in text
    drawn = unquote(html)
    assert ">Real HF<" in drawn
    assert "real HF|" in drawn


def test_damaged_files_are_left_out_and_named(folder):
    (folder / "folds/T1w/h2lo/fold-0/pictures.npz").write_bytes(b"PK\x03\x04 broken")
    (folder / "folds/T1w/h2lo/fold-1/record.json").write_text("{")
    (folder / "group_T1w_scores.tsv").write_text("participant_id\nx\n")
    table = folder / "folds/T1w/h2lo/fold-0/realism.tsv"
    table.write_text("kind\timage\tnoise\ntarget\nother\tx\t1\ntarget\t\tmany\n")
    (folder / "sub-A/anat/sub-A_res-model_desc-pairLF_T1w.nii.gz").write_bytes(b"no image")
    (folder / "sub-B/anat/sub-B_res-model_desc-pairLF_T1w.json").write_text("[1]")
    (folder / "models/h2lo_T1w/metadata.json").write_text("\xff")
    text = text_of(folder)
    for told in ("pictures.npz is damaged", "record.json", "line 2 is not a subject's scores",
                 "cannot be drawn", "1 pair has no figure here", "fold 1 not finished",
                 "How real"):  # fmt: skip
        assert told in text


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
    page = Page(page_of(out, failures=failures))
    table = Page(write_table_page(out, sample_table(out, EVIL)).read_text())
    charts = len(CATALOGUE) + 3 + 3 + 1  # of metrics, curves, subjects, and their mean
    for evil, scripts, pictures, drawings, least in ((page, 1, 6, charts, 12), (table, 0, 1, 0, 0)):
        counts = {"script": scripts, "style": 1, "img": pictures, "svg": drawings}
        assert {tag: evil.tags.count(tag) for tag in counts} == counts
        assert_sealed(evil)
        assert evil.text.count("alert(1)") > least


def test_a_page_of_many_subjects_stays_small(tmp_path):
    out = make_group(tmp_path, Sample(subjects=tuple("ABCDEF"), methods=("h2lo",), folds=1))
    rng = np.random.default_rng(0)
    path = out / "folds/T1w/h2lo/fold-0/pictures.npz"
    with np.load(path) as stored:
        shares = {key: stored[key] for key in stored if "histograms" in key}
        noise = {key: rng.random((3, 256, 256)) for key in stored if key not in shares}
    np.savez(path, **shares, **noise)
    html = page_of(out)
    (left,) = re.findall(r"(\d) further subjects are not shown", Page(html).text)
    assert html.count('aria-label="Slices of ') + int(left) == 6
    assert len(html) < 8e6


def test_a_page_lists_the_commands_and_models_of_its_own_task(tmp_path):
    write_bundle(tmp_path / "models/h2lo_T1w", "T1w")
    write_enhancer(tmp_path / "models", "T1w")
    for name, task in (("1", ""), ("2", 'task = "enhance"\n')):
        config = tmp_path / "logs" / name / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(f'{task}[run]\nanalysis-level = "group"\ncommand = "h2lo {name}"\n')
    shown = text_of(tmp_path), text_of(tmp_path, "enhance")
    found = [re.findall(r"h2lo (\d)|Method(h2lo|pfsr)", text) for text in shown]
    assert found == [[("", "h2lo"), ("1", "")], [("", "pfsr"), ("2", "")]]
