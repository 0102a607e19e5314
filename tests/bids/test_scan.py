"""Headers and names of scans: the order of preference, and contradictions."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from shapes import reoriented
from skeletons import HIGH, LOW, anat, find, find_low, name_of, write, write_grid

from h2lo_bids.bids.names import Name
from h2lo_bids.bids.scan import (
    Scan,
    from_label,
    has_agent,
    not_an_input,
    preference,
    rank,
    scan_at,
)

RANKED = [
    "sub-1_acq-MPRAGE_rec-SCIC_run-1_T1w",
    "sub-1_acq-mprage1mm_rec-norm_run-2_T1w",
    "sub-1_acq-MPRAGE_T1w",
    "sub-1_acq-MPRAGE_run-1_T1w",
    "sub-1_acq-MPRAGE_run-2_T1w",
    "sub-1_acq-MPRAGE_run-10_T1w",
    "sub-1_acq-MPRAGE_rec-nonorm_T1w",
    "sub-1_acq-FSPGR_rec-SCIC_T1w",
    "sub-1_rec-SCIC_T1w",
    "sub-1_T1w",
    "sub-1_part-mag_T1w",
    "sub-1_acq-other_T1w",
    "sub-1_acq-MPRAGE_ce-GD_T1w",
]


def name(stem: str) -> Name:
    return name_of(f"{stem}.nii.gz")


def test_documented_order() -> None:
    for better, worse in pairwise(RANKED):
        assert preference(name(better)) < preference(name(worse)), worse


NO_HEAD = "part-phase_T1w echo-2_T1w chunk-1_T1w acq-INV1_T1w acq-mprageSetter_T1w"
NO_HEAD += " acq-localizer_T1w acq-mrsLocAx_T2w acq-FLAIR_T2w acq-t2flair_T2w acq-DIR_T2w"
"""Of HBCD (mrsLocAx) and DLBS (acq-FLAIR_T2w), among others."""
HEAD = "part-mag_T1w acq-T1FLAIR_T1w acq-Local_T2w acq-BLOCK_T1w"


def test_what_is_no_head_and_what_could_not_be_named_even_if_asked_for() -> None:
    for rest in (*NO_HEAD.split(), *HEAD.split()):
        given, entity = name(f"sub-1_{rest}"), rest.partition("-")[0]
        told = f"--filter {entity}={given.get(entity)}" in (not_an_input(given, []) or "")
        assert told is (rest in NO_HEAD.split()), rest
        assert not_an_input(given, [entity]) is None
    for entity in ("inv", "space", "desc"):
        assert "rename" in (not_an_input(name(f"sub-1_{entity}-1_T1w"), [entity]) or "")


AGENT = "acq-MPRAGEgd acq-MPRAGEGD acq-T1Post acq-postgad acq-SPACECE acq-ce rec-Gadovist"
AGENT += " acq-postContrast acq-contrast task-post_acq-MPRAGE"
NO_AGENT = "acq-preGd acq-preGad acq-noContrast acq-precontrast acq-SPACE acq-postproc acq-iso"
NO_AGENT += " ce-none ses-post_acq-MPRAGE acq-noise acq-ORIGD"


def test_a_contrast_agent_in_any_entity_comes_last() -> None:
    worst = name("sub-1_acq-other_run-9_T1w")
    for pairs in (*AGENT.split(), *NO_AGENT.split()):
        given, agent = name(f"sub-1_{pairs}_T1w"), pairs in AGENT.split()
        assert has_agent(given) is agent, pairs
        assert not agent or preference(worst) < preference(given)


def test_the_only_scan_is_used_with_agent_but_never_silently(tmp_path: Path) -> None:
    gado = HIGH | {"ContrastBolusIngredient": "GADOLINIUM"}
    told = {"ce-GD_T1w": HIGH, "T1w": gado, "ce-none_T1w": HIGH}
    images = {anat(str(n), None, stem): told[stem] for n, stem in enumerate(told)}
    root = write(tmp_path / "ds", images)
    for path in images:
        write_grid(root / path, (3.0, 3.0, 3.0), (60, 60, 60))
    found = find(root)
    assert len(found.scans) == 3
    (warning,) = found.warnings
    assert "contrast agent" in warning
    assert "(2 images: sub-0_ce-GD_T1w.nii.gz, sub-1_T1w.nii.gz)" in warning


def test_what_the_header_shows_comes_before_any_name(tmp_path: Path) -> None:
    def image(rest: str, shape: tuple[int, ...], *sides: float, unit: str = "mm") -> Scan:
        path = tmp_path / f"sub-1_acq-{rest}_T1w.nii.gz"
        made = nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([*(sides or [4.0] * 3), 1.0]))
        made.header.set_xyzt_units(unit)
        nib.save(made, path)
        return scan_at(path, name_of(path.name))

    ranked = [
        scan_at(tmp_path / "gone.nii.gz", name("sub-1_acq-MPRAGE_run-3_T1w")),
        image("athin", (100, 100, 60), 1.0, 1.0, 2.0),
        image("x3D", (50, 60, 50)),
        image("MPRAGE_run-2", (60, 60, 30), 2.0, 2.0, 4.0),
        image("zother_ce-GD", (50, 60, 50), 4e-3, 4e-3, 4e-3, unit="meter"),
        image("MPRAGEGD", (60, 60, 30), 2.0, 2.0, 4.0),
        image("MPRAGE_run-1", (50, 60, 50, 2)),
        image("MPRAGE", (50, 60, 8)),
    ]
    for better, worse in pairwise(ranked):
        assert rank(better) < rank(worse), worse.stem


def test_voxels_against_the_sidecar_and_the_label(tmp_path: Path) -> None:
    wrong = {"SpacingBetweenSlices": 5}, {"SliceThickness": 6}, {"PixelSpacing": [2, 1]}
    # Slices of 3 mm that overlap, or have gaps, or were interpolated to half of 5 mm.
    right = ({"SliceThickness": 3, "SpacingBetweenSlices": 2.5}, {"SliceThickness": 5})
    right += ({"SliceThickness": 9, "SpacingBetweenSlices": 2.5},)
    right += ({"SliceThickness": "thin", "PixelSpacing": {}},)
    told = {anat(str(n), None, "T1w"): HIGH | more for n, more in enumerate((*wrong, *right))}
    root = write(tmp_path / "ds", told)
    for path in told:
        write_grid(root / path, (2.0, 2.0, 2.5), (60, 60, 60))
    for n, way in enumerate(("cor", "axi")):
        path = anat("9", f"{n}", f"acq-{way}_T1w")
        write(root, {path: HIGH})
        write_grid(root / path, (1.6, 5.0, 1.6), (120, 40, 120))
    *warnings, against = find(root).warnings
    assert "sub-9_ses-1_acq-axi_T1w.nii.gz: acq-axi means axial slices" in against
    assert "coronal" in against
    for given, text in zip(wrong, warnings, strict=True):
        ((key, value),) = given.items()
        assert f"{key} in the sidecar reads {value}, " in text
        assert "2 x 2 x 2.5 mm" in text


def test_a_whole_head_of_low_field_is_preferred_and_a_slab_is_warned_of(tmp_path: Path) -> None:
    root = write(tmp_path / "ds", {anat("01", None, f"acq-{a}_T1w"): LOW for a in ("iso", "z")})
    write_grid(root / anat("01", None, "acq-iso_T1w"), (4.0, 4.0, 4.0), (60, 60, 8))
    write_grid(root / anat("01", None, "acq-z_T1w"), (4.0, 4.0, 4.0), (60, 60, 40))
    found = find_low(root)
    assert [scan.stem for scan in found.scans] == ["sub-01_acq-z_T1w"]
    assert not found.warnings
    (warning,) = find_low(root, lf=("acq-iso",)).warnings
    assert "240 x 240 x 32 mm" in warning


@pytest.mark.parametrize(
    ("codes", "asked", "way", "better"),
    [
        ("PSR", {"lf_grid": ((1.6, 1.6, 5.0),)}, "sagittal", (1.6, 5.0, 1.6)),
        ("LIA", {"condition": ("thick", "lf-grid=1.6x1.6x5")}, "coronal", (1.6, 5.0, 1.6)),
        ("ASL", {"lf_grid": ((5.0, 1.6, 1.5),)}, "coronal", (1.6, 1.5, 5.0)),
        ("PSR", {"lf_grid": ((1.6, 5.0, 1.6),)}, None, None),  # as was advised
        ("LPI", {"lf_grid": ((1.6, 1.6, 5.0),)}, None, None),  # flips alone
        ("PSR", {"lf_grid": ((2.0, 2.0, 2.0),)}, None, None),  # no slices
    ],
)
def test_slices_of_an_array_in_another_order_than_ras_are_warned_of(
    tmp_path: Path, codes: str, asked: dict, way: str | None, better: tuple[float, ...]
) -> None:
    def turned(sides: tuple[float, ...]) -> nib.Nifti1Image:
        image = nib.Nifti1Image(np.zeros((60, 62, 64), np.uint8), np.diag([4.0, 4.0, 4.0, 1.0]))
        affine = reoriented(image, codes).affine @ np.diag([*(s / 4 for s in sides), 1.0])
        return nib.Nifti1Image(np.zeros((60, 62, 64), np.uint8), affine)

    root = write(tmp_path / "ds", {anat("01", None, "T1w"): HIGH})
    nib.save(turned((4.0, 4.0, 4.0)), root / anat("01", None, "T1w"))
    warnings = find(root, **asked).warnings
    assert len(warnings) == bool(way)
    if way:
        given = (*asked.get("lf_grid", ()), (1.6, 1.6, 5.0))[0]
        assert f"are {way}; for " in warnings[0]
        assert warnings[0].endswith(f" ones give {'x'.join(f'{s:g}' for s in better)}")
        # Along right, anterior and superior what is advised has the sides that were given.
        zooms = nib.as_closest_canonical(turned(better)).header.get_zooms()
        np.testing.assert_allclose(zooms, given)


def test_slice_directions_are_read_from_words_of_labels() -> None:
    labels = ("axi", "T2Coronal", "SAG5mm", "LFaxial", "core", None)
    assert [from_label(label) for label in labels] == ["axi", "cor", "sag", "axi", None, None]
