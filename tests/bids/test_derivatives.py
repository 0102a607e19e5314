from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from bids.layout.writing import build_path
from bidsschematools.schema import load_schema
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import name_of, scan_at

import bids_app_spec
from h2lo_bids.bids.derivatives import (
    derivative_path,
    find_records,
    pair_paths,
    template_reference,
)
from h2lo_bids.bids.names import LONG_TO_SHORT, ORDER
from h2lo_bids.bids.scan import Scan

LABELS = st.text("abcXYZ0189", min_size=1, max_size=6)
SPEC = bids_app_spec.load("io_spec.json")
SOURCE = SPEC["entities"][1:]  # of a subject's scan


def scan(suffix: str = "T1w", **entities: str) -> Scan:
    stem = "_".join(f"{key}-{entities[key]}" for key in ORDER if key in entities)
    return scan_at(Path(f"/data/ds/sub-{entities['sub']}/anat/{stem}_{suffix}.nii.gz"))


def test_a_t2w_scans_masks_and_labels_differ_in_their_names() -> None:
    """BIDS gives masks no entity for the contrast."""
    name = partial(derivative_path, "/o", scan("T2w", sub="01"))
    for made, right in (
        (name(suffix="mask", desc="brain"), "space-T2w_desc-brain_mask"),
        (name(suffix="mask", desc="brain", space="S"), "space-S_desc-brainT2w_mask"),
        (name(suffix="mask", desc="brain", res="2x2"), "space-T2w_res-2x2_desc-brain_mask"),
        (name(suffix="probseg", desc="lesion"), "desc-lesionT2w_probseg"),
    ):
        assert made.name == f"sub-01_{right}.nii.gz"


@settings(deadline=None, max_examples=40)
@given(
    source=st.fixed_dictionaries({"sub": LABELS}, optional=dict.fromkeys(SOURCE, LABELS)),
    suffix=st.sampled_from(["T1w", "T2w"]),
    desc=st.sampled_from(["preproc", "lowfield"]),
    space=st.none() | LABELS,
    res=st.none() | LABELS,
)
def test_round_trip(
    source: dict[str, str], suffix: str, desc: str, space: str | None, res: str | None
) -> None:
    """Every entity of the input and output is read back, in BIDS order."""
    own = scan(suffix, **source)
    path = derivative_path("/out", own, suffix=suffix, desc=desc, space=space, res=res)
    added = {"space": space, "res": res, "desc": desc}
    expected = source | {key: value for key, value in added.items() if value is not None}
    assert dict(name_of(path.name).entities) == expected
    patterns = [item["pattern"] for item in SPEC["outputs"].values()]
    fields = expected | {"suffix": suffix, "extension": ".nii.gz"}
    assert path == Path("/out") / build_path(fields, patterns, strict=True)
    # So have masks, figures and transforms of whatever scan is taken.
    assert derivative_path("/out", own, suffix="mask", desc="brain", space=space, res=res)
    assert derivative_path(
        "/out", own, suffix=suffix, desc="x", extension=".svg", datatype="figures"
    )
    to_space = {"from_": suffix, "to": "S", "mode": "image", "extension": ".h5"}
    assert derivative_path("/out", own, suffix="xfm", **to_space)


def test_what_no_label_or_pattern_takes_is_refused(refused) -> None:
    """Or a value would be lost, and one image written over another."""
    image = {"suffix": "T1w", "desc": "preproc"}
    for label in ("../x", "a_b", "", "é", "x\n"):
        for wrong in ({"space": label}, {"sub": label}):
            with pytest.raises(ValueError, match="letters and digits"):
                derivative_path("/o", {"sub": "01"}, **image, **wrong)
    for wrong in (
        {"suffix": "T1w"},  # without desc it would be legal in raw
        {"suffix": "mask", "desc": "other"},
        {**image, "hemi": "L"},
    ):
        assert "io_spec.json" in refused(ValueError, derivative_path, "/o", {"sub": "01"}, **wrong)


def test_hidden_files_are_no_records_of_pairs(tmp_path: Path) -> None:
    record = pair_paths(tmp_path, {"sub": "01"}, "T1w")["record"]
    record.parent.mkdir(parents=True)
    record.touch()
    record.with_name(f"._{record.name}").touch()
    assert find_records(tmp_path, "T1w") == [record]


def test_templates_are_named_by_their_archive_or_their_place() -> None:
    file = "tpl-MNIPediatricAsym/cohort-1/tpl-MNIPediatricAsym_cohort-1_res-1_T1w.nii.gz"
    fetched = template_reference(Path("/cache") / file)
    assert fetched == f"https://templateflow.s3.amazonaws.com/{file}"
    for own in ("/mine/head.nii.gz", "/cache/tpl-Ours/tpl-Ours_res-01_T1w.nii.gz"):
        assert template_reference(Path(own)) == f"file://{own}"


def test_the_order_is_that_of_the_bids_schema() -> None:
    schema = load_schema()
    short = {long: entity["name"] for long, entity in schema.objects.entities.to_dict().items()}
    official = [short[long] for long in schema.rules.entities]
    assert [entity for entity in official if entity in ORDER] == list(ORDER)
    for long, name in LONG_TO_SHORT.items():
        assert short.get(long, long) == name
