"""Held-out scores, pictures, and the scoring of any bundles on any prepared pairs."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from heads import rows_of, write_bundle, write_enhancer
from prepared_pairs import whole_psnr, write_pair

from h2lo_bids.cli.pairs import prepared_sources
from h2lo_bids.errors import Failed, UsageError
from h2lo_bids.evaluation import realism
from h2lo_bids.evaluation.benchmark import row_values
from h2lo_bids.evaluation.metrics import histogram, psnr
from h2lo_bids.evaluation.scores import read_scores, select
from h2lo_bids.models.bundle import Bundle, load_bundle, load_model
from h2lo_bids.models.frame import Frame
from h2lo_bids.settings import Settings, convert
from h2lo_bids.synthesis.engine import synthesize
from h2lo_bids.training.experiments import heldout, scoring
from h2lo_bids.training.experiments.heldout import detail_of, predict_pair, score_pair, stranger_to
from h2lo_bids.training.experiments.leaks import brain_of, encode
from h2lo_bids.training.pairs import Pair, PreparedPair, find_prepared, read_prepared

FRAME = Frame((22, 26, 24), (2.0, 2.0, 2.0))


def bundle_of(folder: Path, seed: int = 0, contrast: str = "T1w", **changes: object) -> Bundle:
    told = {"kind": "real", "subjects": {"train": ["sub-01"], "validation": ["02"], "test": ["03"]}}
    values = {"frame": FRAME, "metadata": {"training_data": told}, **changes}
    return load_bundle(write_bundle(folder, contrast, seed, **values))


def score(models: list[tuple[str, Bundle]], pairs: list[PreparedPair], out: Path, references=()):
    """Return the scores, the warnings, and why pairs were lost."""
    sent: list[dict[str, str]] = []
    lost: list[str] = []
    found = scoring.score_models(
        Settings(out, out, "evaluate"), models, pairs, dict(references), sent.append,
        lambda pair, line: lost.append(line),
    )  # fmt: skip
    return found, [event["text"] for event in sent if event["level"] == "warning"], lost


@pytest.fixture
def pairs(tmp_path: Path) -> list[PreparedPair]:
    for label in ("01", "03"):
        write_pair(tmp_path / "pairs", label, int(label), FRAME)
    return [*find_prepared(tmp_path / "pairs", contrast="T1w")]


def test_pictures_are_the_slices_through_the_brain():
    rng = np.random.default_rng(0)
    hf, lf = rng.random((2, 8, 12, 9)).astype(np.float32)
    mask = np.zeros(hf.shape, bool)
    mask[2:5, 4:11, 1:4] = True  # the middle is 3, 7, 2
    predicted = 3 * lf - 1
    found = heldout.pictures_of(Pair("05_GE", hf, lf, mask), predicted)
    assert [*found] == [f"05_GE/{kind}" for kind in ("hf", "lf", "predicted", "histograms")]
    cut = np.zeros((3, 12, 12), np.float16)  # axial, coronal and sagittal
    cut[0, 2:10], cut[1, 2:10, 1:10], cut[2, :, 1:10] = hf[:, :, 2], hf[:, 7], hf[3]
    assert np.array_equal(found["05_GE/hf"], cut)
    assert found["05_GE/predicted"].max() <= 1
    shares = [histogram(volume, hf > 0.01) for volume in (hf, lf, predicted)]
    np.testing.assert_allclose(found["05_GE/histograms"], shares, atol=1e-4)
    assert {value.dtype for value in found.values()} == {np.dtype(np.float16)}


def test_models_are_scored_and_kept_apart(tmp_path, pairs):
    models = [(name, bundle_of(tmp_path / name, seed)) for seed, name in enumerate("ab")]
    out = tmp_path / "out"
    scores, warned, _ = score(models, pairs, out)
    assert [(s.method, s.subject) for s in select(scores)] == [
        (method, label) for method in ("identity", "a", "b") for label in ("01", "03")
    ]
    assert len(warned) == 2
    assert all("sub-01" in line and "sub-03" not in line for line in warned)
    pair = read_prepared(pairs[1])
    expected = score_pair(pair, predict_pair(load_model(models[1][1]), pair), method="b")
    assert tuple(s for s in scores if (s.method, s.subject) == ("b", "03")) == expected
    folder = out / "evaluation" / "T1w" / "b"
    names = {"scores.tsv", "scores.json", "pictures.npz", "record.json"}
    assert {path.name for path in folder.iterdir()} == names | {"realism.tsv", "realism.json"}
    assert {s.method for s in read_scores(folder / "scores.tsv")} == {"identity", "b"}
    assert set(read_scores(folder / "scores.tsv")) <= set(scores)
    assert "03/predicted" in np.load(folder / "pictures.npz")
    record = json.loads((folder / "record.json").read_text())
    assert (record["method"], record["simulated"], len(record["warnings"])) == ("b", True, 1)


def test_who_may_have_been_seen_or_scored_twice_is_warned_of(tmp_path, pairs):
    models = [
        (kind, bundle_of(tmp_path / kind, metadata={"training_data": {"kind": kind}}))
        for kind in ("unknown", "none")
    ]
    twin = dataclasses.replace(pairs[1], subject="07", name="07")
    _, lines, _ = score(models, [*pairs, twin], tmp_path / "out")
    first, last = lines
    assert first.startswith("model unknown does not say whom it was trained on")
    assert last.startswith("sub-03 and sub-07 have the same high-field image")


def test_what_is_flagged_lost_or_not_there_does_not_stop_the_rest(tmp_path):
    check = {"RegistrationCheck": {"Flagged": True, "Reasons": ["the overlap is 0.31"]}}
    for label, contrast, changes in (
        ("01", "T1w", {}), ("03", "T2w", {}), ("04", "T2w", check), ("05", "T2w", {}),
    ):  # fmt: skip
        write_pair(tmp_path, label, int(label), FRAME, contrast, **changes)
    pairs = {c: find_prepared(tmp_path, contrast=c) for c in ("T1w", "T2w")}
    (first,), (*_, last) = pairs.values()
    for damaged in (first, last):
        damaged.lf.write_bytes(b"")
    models = tuple((c, bundle_of(tmp_path / "m" / c, contrast=c).path) for c in pairs)
    settings = Settings(bids_dir=tmp_path, out_dir=tmp_path, level="evaluate", model=models)
    found = {c: tuple(pair.sources[0] for pair in own) for c, own in pairs.items()}
    scored, failed = scoring.score(settings, found, print)
    assert scored == {"sub-03/anat/sub-03_T1w.nii.gz"}
    assert [*tmp_path.glob("*_table.md")] == [tmp_path / "evaluation_T2w_table.md"]
    for lost, pair in zip(failed, (first, last), strict=True):
        scan = f"sub-{pair.subject}/anat/sub-{pair.subject}_T1w.nii.gz"
        assert (lost.scan, lost.step) == (scan, "score")
        assert re.fullmatch(f"{pair.lf}: cannot be read .*remove it and run again", lost.message)
    # Nor does a contrast whose pairs could not be prepared.
    high = {c: SimpleNamespace(relative_path=c, uri=found[c][0]) for c in found}
    sides = [SimpleNamespace(contrast=c, subject="", hf=side) for c, side in high.items()]
    found = prepared_sources(SimpleNamespace(done={"T2w"}), SimpleNamespace(pairs=sides))
    assert scoring.score(settings, found, print) == (scored, [])


def test_a_pair_that_one_model_fails_on_is_scored_with_none(tmp_path, pairs, monkeypatch):
    models = [(name, bundle_of(tmp_path / name, seed)) for seed, name in enumerate("ab")]
    factors = iter((1, np.nan, 1, 1))  # the second is that of b on 01
    monkeypatch.setattr(
        scoring.heldout, "predict_pair", lambda *given: next(factors) * predict_pair(*given)
    )
    scores, _, lost = score(models, pairs, tmp_path / "out")
    assert lost == ["subject 01: b gave NaN voxels; fit the model again"]
    assert {(s.method, s.subject) for s in scores} == {(m, "03") for m in ("identity", "a", "b")}
    assert "01/lf" not in np.load(tmp_path / "out" / "evaluation" / "T1w" / "a" / "pictures.npz")


def test_a_model_of_another_frame_is_asked_for_the_pairs_positions(tmp_path, pairs):
    # The same voxel size, but more of them: what it sees differs from the pair by padding only,
    # so its answer can be computed by hand.
    wide = Frame((26, 30, 28), (2.0, 2.0, 2.0))
    bundle = bundle_of(tmp_path / "wide", frame=wide)
    scores, _, _ = score([("wide", bundle)], pairs[:1], tmp_path / "out")
    pair = read_prepared(pairs[0])
    inside = tuple(slice(2, 2 + n) for n in pair.shape)
    hf, mask = np.zeros(wide.shape, np.float32), np.zeros(wide.shape, bool)
    hf[inside], mask[inside] = pair.hf / pair.hf.max(), pair.mask
    expected = score_pair(pair, synthesize(load_model(bundle), hf, mask)[inside], method="wide")
    for found, wanted in zip(scores[2:], expected, strict=True):
        assert found.values == pytest.approx(wanted.values, rel=1e-4)


def test_realism_is_of_the_model_the_real_scan_and_the_references(tmp_path, pairs):
    bundle, out = bundle_of(tmp_path / "m"), tmp_path / "out"
    rng, mask = np.random.default_rng(0), np.ones((40, 40, 40), bool)
    far, near = (
        realism.appearance(1 + sd * rng.standard_normal(mask.shape), mask, (2.0,) * 3)
        for sd in (0.3, 0.01)
    )
    score([("m", bundle)], pairs, out, references={"far.nii": far, "near.nii": near})
    folder = out / "evaluation" / "T1w" / "m"
    rows = rows_of(folder / "realism.tsv")
    assert [*rows[0]] == [*json.loads((folder / "realism.json").read_text())]
    assert [(r["participant_id"], r["kind"], r["image"]) for r in rows] == [
        ("sub-01", "target", "n/a"), ("sub-01", "synthesized", "m"),
        ("sub-03", "target", "n/a"), ("sub-03", "synthesized", "m"),
        ("n/a", "reference", "far.nii"), ("n/a", "reference", "near.nii"),
    ]  # fmt: skip
    first, second = map(read_prepared, pairs)
    window = realism.tapered(first.mask & second.mask, (2.0,) * 3)
    own, other = (
        realism.band_correlation(first.lf, x.hf, window, (2.0,) * 3) for x in (first, second)
    )
    for key, bands in (("own", own), ("stranger", other)):
        assert float(rows[0][f"{key}_8mm"]) == pytest.approx(bands[0])
    assert rows[0]["own_1p5mm"] == rows[0]["spectrum_db"] == "n/a"
    images = first.lf, predict_pair(load_model(bundle), first)
    told = [realism.appearance(image, first.mask, (2.0,) * 3) for image in images]
    assert float(rows[1]["spectrum_db"]) == pytest.approx(realism.spectrum_distance(*told))
    assert float(rows[1]["reference_histogram"]) == pytest.approx(
        min(realism.histogram_distance(told[1], r) for r in (far, near))
    )
    assert float(rows[4]["reference_spectrum_db"]) == pytest.approx(20 * np.log10(30), abs=0.5)


def test_where_a_target_was_stripped_by_itself_is_no_dark_tissue():
    """Of three tissues in shells the low-field mask lacks the outermost 3 mm of the brain."""
    at = np.indices((64, 64, 64)) - 31.5
    radius = np.linalg.norm(at, axis=0)
    shells = np.select([radius < 16, radius < 24, radius < 30], [0.9, 0.6, 0.3], 0.0)
    shells = (shells * (1 + 1e-3 * np.random.default_rng(0).standard_normal(shells.shape))).clip(0)
    target = shells * (radius < 27)
    pair = Pair("01", shells, target, radius < 30)
    rows = heldout.realism_of(pair, {"same": target, "rim": shells}, (1.0,) * 3)
    for row in rows:
        assert row.values["level_low"] == pytest.approx(1 / 3, abs=0.01)
    assert [row.values.get("spectrum_db", 0) for row in rows] == pytest.approx([0, 0, 0])


def test_a_stranger_is_another_person_whose_pair_can_be_read(pairs):
    first, last = pairs
    again = dataclasses.replace(first, session="2", name="01_2")
    assert stranger_to(first, [first, again, last]).name == "03"
    assert stranger_to(last, [again, first, last]).name == "01_2"
    assert stranger_to(first, [first, again]) is None
    twin = dataclasses.replace(first, subject="02")  # one person under two labels
    assert stranger_to(first, [first, twin]) is None
    assert stranger_to(first, [first, twin, last]).name == "03"
    again.lf.write_bytes(b"")  # of first, too: they share their files
    assert stranger_to(last, [first, last, again]) is None


def test_references_are_read_one_by_one(tmp_path):
    rng = np.random.default_rng(0)
    data = np.zeros((48, 56, 48), np.float32)
    data[8:40, 6:50, 8:40] = 1 + 0.02 * rng.standard_normal((32, 44, 32))  # 1.2 litres
    names = [f"{name}.nii.gz" for name in ("a_T1w", "b_T1w", "c_T2w", "d_T1w", "e_T1w")]
    for name in names:
        nib.save(nib.Nifti1Image(data, np.diag([3.0, 3, 3, 1])), tmp_path / name)
    (tmp_path / "b_T1w.nii.gz").write_bytes(b"\x1f\x8bnothing")
    for name, field in (("a", 0.064), ("d", 3)):
        (tmp_path / f"{name}_T1w.json").write_text(f'{{"MagneticFieldStrength": {field}}}')
    (tmp_path / "e_T1w.json").write_text("[0.064]")
    given = tuple(convert.reference(f"{tmp_path}/{n}") for n in names)
    settings = Settings(
        bids_dir=tmp_path, out_dir=tmp_path, level="evaluate", skull_strip="skip",
        realism_reference=given,
    )  # fmt: skip
    failed: list[Failed] = []
    found = scoring.read_references(settings, "T1w", Frame((50, 60, 60), (3.0, 3.0, 3.0)), failed)
    assert [*found] == ["a_T1w.nii.gz"]
    assert found["a_T1w.nii.gz"].values()["noise"] == pytest.approx(0.02, rel=0.05)
    assert [item.scan for item in failed] == [f"{tmp_path}/{n}_T1w.nii.gz" for n in "bde"]
    assert "is no low-field scan, but of 3 T by MagneticFieldStrength" in failed[1].line
    assert "e_T1w.json: the sidecar is not a JSON object" in failed[2].line


def test_a_training_subject_is_not_scored_under_another_name(tmp_path, pairs):
    why = "sub-03 has the high-field image of sub-07, who is a training subject of model m"
    seen = {"07": [encode(brain_of(pairs[1]))]}
    told = {"kind": "real", "subjects": ["07"], "fingerprints": seen}
    bundle = bundle_of(tmp_path / "m", metadata={"training_data": told})
    scores, _, lost = score([("m", bundle)], pairs, tmp_path / "o")
    assert {score.subject for score in scores} == {"01"}
    (line,) = lost
    assert line.startswith(f"{why}; not scored, ")
    # Where nobody is left, the other contrast is scored all the same.
    out, other = tmp_path / "pairs", bundle_of(tmp_path / "other", contrast="T2w")
    write_pair(out, "05", 5, FRAME, "T2w")
    models = (("T1w", bundle.path), ("T2w", other.path))
    settings, sent = Settings(out, out, "evaluate", model=models), []
    found = {"T1w": pairs[1].sources, "T2w": find_prepared(out, contrast="T2w")[0].sources}
    assert scoring.score(settings, found, sent.append)[0] == {"sub-05/anat/sub-05_T1w.nii.gz"}
    assert [e["text"].partition(";")[0] for e in sent if e["event"] == "lost"] == [f"T1w: {why}"]
    assert not (out / "evaluation" / "T1w").exists()
    alone = dataclasses.replace(settings, model=models[:1])
    with pytest.raises(UsageError, match=why):
        scoring.score(alone, {"T1w": pairs[1].sources}, print)


def test_models_are_scored_on_pairs_of_their_task(tmp_path, pairs):
    enhancer = load_bundle(write_enhancer(tmp_path, "T1w", frame=FRAME))
    score([("mine", enhancer)], pairs, tmp_path / "out")
    whole = whole_psnr(tmp_path / "out/evaluation/T1w/mine")
    for pair in map(read_prepared, pairs):  # the network is the identity before it is fitted
        expected = pytest.approx(psnr(pair.lf, pair.hf), abs=1e-3)
        assert whole[pair.name, "identity"] == whole[pair.name, "mine"] == expected
    both = [("mine", enhancer), ("other", bundle_of(tmp_path / "m"))]
    with pytest.raises(UsageError, match="is trained to synthesize, others to enhance"):
        score(both, pairs, tmp_path / "out")


def test_detail_is_correlated_band_by_band():
    x = np.arange(70)[:, None, None]
    mask = np.ones((70, 40, 40), bool)
    coarse, fine = (np.cos(2 * np.pi * x * f) * mask for f in (1 / 7, 1 / 5))  # 3.5, 2.5 mm
    pair = Pair("a", 0.5 + 0.2 * coarse, 0.5 + 0.2 * coarse + 0.2 * fine, mask)
    images = {"identity": pair.hf, "pfsr-real": 0.5 + 0.1 * coarse - 0.3 * fine}
    detail = detail_of(pair, images, (1.0, 1.0, 1.0))
    assert detail["pfsr-real"] == pytest.approx({"detail_3mm": 1, "detail_2mm": -1}, abs=0.1)
    assert detail["identity"]["detail_3mm"] == pytest.approx(1, abs=0.05)
    bright = {"over": 4 * pair.hf - 1, "cut": np.clip(4 * pair.hf - 1, 0, 1)}
    assert bright["over"].max() > 1
    detail_over, detail_cut = detail_of(pair, bright, (1.0, 1.0, 1.0)).values()
    assert detail_over == detail_cut
    # On voxels of 2.5 mm half-pitches below are not known. A method's column is the mean.
    assert [*detail_of(pair, images, (2.5, 2.5, 2.5))["identity"]] == ["detail_3mm"]
    records = [{"detail": [detail, {"pfsr-real": {"detail_2mm": 0.0}}]}]
    assert row_values("pfsr-real", [], records, 1)["detail_2mm"] == pytest.approx(-0.5, abs=0.05)
    assert row_values("identity", [], (), 1, records)["detail_3mm"] == pytest.approx(1, abs=0.05)
    # No mean of some folds only.
    assert row_values("pfsr-real", [], [*records, {}], 2)["detail_2mm"] is None
