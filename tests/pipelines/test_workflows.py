"""Graphs over a matrix of options, built and not run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from nipype.interfaces.base import isdefined
from skeletons import anat, scan_at

from h2lo_bids.bids.scan import Scan
from h2lo_bids.models.bundle import Bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.settings import Settings
from h2lo_bids.synthesis.noise import scan_seed
from pipelines.participant import ImageSpec, RunSpec, init_participant_wf

NOISY = {"noise": "calibrated"}
METADATA = {
    "name": "m",
    "value_range": [0, 1],
    "noise": {"subjects": 4},
    "files": {"members/0.safetensors": "aa", "members/1.safetensors": "bb", "other": "cc"},
}


def _scan(suffix: str, session: str | None = None) -> Scan:
    return scan_at(Path("/bids") / anat("01", session, suffix))


@pytest.fixture
def template(tmp_path) -> Path:
    path = tmp_path / "tpl.nii.gz"
    path.write_bytes(b"x")
    return path


def _build(scans, tmp_path, template=None, masks=(), method="h2lo", precision="fp32", **options):
    sizes = options.pop("architecture", {})
    images = [
        ImageSpec(
            f"scan_{number}_{scan.suffix}",
            scan,
            Bundle(Path("/m"), method, scan.suffix, sizes, Frame(), "ab" * 32, METADATA, ""),
            (scan,),
            (masks[number] if masks else None,),
            precision,
        )
        for number, scan in enumerate(scans)
    ]
    templates = {
        suffix: dict.fromkeys(options.get("output_spaces", ()), (template, None))
        for suffix in ("T1w", "T2w")
    }
    threads = options.pop("omp_nthreads", 1)
    settings = Settings(tmp_path, tmp_path / "out", **options)
    run = RunSpec(settings, templates, omp_nthreads=threads)
    return init_participant_wf("wf", images, run)


def test_threads_and_precision_reach_the_steps_that_use_them(tmp_path):
    workflow = _build([_scan("T1w")], tmp_path, precision="bf16", omp_nthreads=3)
    threaded = {
        name.rpartition(".")[2]
        for name in workflow.list_node_names()
        if workflow.get_node(name).n_procs == 3
        and workflow.get_node(name).interface.inputs.num_threads == 3
    }
    assert threaded == {"find_brain", "synthesize_native"}
    assert workflow.get_node("scan_0_T1w_wf.synthesize_native").inputs.precision == "bf16"
    sidecar = workflow.get_node("scan_0_T1w_wf.ds_lowfield_native").inputs.sidecar
    assert sidecar["Precision"] == "bf16"


def test_another_architecture_of_the_same_weights_is_evaluated_again(tmp_path):
    hashes = {
        _build([_scan("T1w")], tmp_path, architecture=sizes)
        .get_node("scan_0_T1w_wf.synthesize_native")
        .inputs.get_hashval()[1]
        for sizes in ({"omega": 30.0}, {"omega": 30.0}, {"omega": 10.0})
    }
    assert len(hashes) == 2


def test_the_facts_of_a_scaling_go_to_the_image_that_was_scaled_so(tmp_path, template):
    spaces = ("model", "MNI152NLin2009cAsym:res-1")
    branch = _build([_scan("T1w")], tmp_path, template, output_spaces=spaces).get_node(
        "scan_0_T1w_wf"
    )
    prepare = branch.get_node("prepare")
    for key, facts in (
        ("preproc", "native_scaling"),
        ("preproc_model", "scaling"),
        ("preproc_template_MNI152NLin2009cAsym", "native_scaling"),
    ):
        ends = branch._graph.get_edge_data(prepare, branch.get_node(f"ds_{key}"))["connect"]
        assert (facts, "facts") in ends


def _donors(workflow) -> set[tuple[str, str]]:
    return {(a.name, b.name) for a, b in workflow._graph.edges()}


def test_a_t2w_scan_may_take_the_mask_of_its_own_session_only(tmp_path):
    t1, t2 = _scan("T1w", "a"), _scan("T2w", "a")
    pair = {("scan_0_T1w_wf", "scan_1_T2w_wf")}
    workflow = _build([t1, t2], tmp_path)
    assert _donors(workflow) == pair
    sink = workflow.get_node("scan_1_T2w_wf.ds_mask")
    assert sink.inputs.mask_source == "bids::sub-01/ses-a/anat/sub-01_ses-a_desc-brain_mask.nii.gz"
    assert _donors(_build([t1, _scan("T2w", "b")], tmp_path)) == set()
    assert _donors(_build([t1, t2], tmp_path, masks=(None, (Path(__file__), "bids:x:y")))) == set()


def test_extras_say_what_they_are(tmp_path):
    scans = [_scan("T1w"), _scan("T2w")]
    workflow = _build(scans, tmp_path, **NOISY, realisations=2, uncertainty=True)
    sinks = [f"scan_0_T1w_wf.ds_{kind}_native" for kind in ("noise01", "noise02", "std")]
    first, second, std = (workflow.get_node(name).inputs for name in sinks)
    assert first.out_name == "sub-01/anat/sub-01_desc-lowfieldnoise01_T1w.nii.gz"
    assert std.out_name == "sub-01/anat/sub-01_desc-lowfieldstd_T1w.nii.gz"
    assert [first.sidecar["Realisation"], second.sidecar["Realisation"]] == [1, 2]
    assert (
        first.sidecar["NoiseModelSha256"]
        == hashlib.sha256(json.dumps(METADATA["noise"], sort_keys=True).encode()).hexdigest()
    )
    assert first.sidecar["RandomSeed"] == 42
    assert "bids::sub-01/anat/sub-01_desc-lowfield_T1w.nii.gz" in first.sidecar["Sources"]
    assert std.sidecar["NumberOfModels"] == 2
    assert "ValueRange" not in std.sidecar
    seeds = [
        workflow.get_node(f"scan_{n}_{s.suffix}_wf.noise02_native").inputs.seed
        for n, s in enumerate(scans)
    ]
    assert seeds[0][0] == seeds[1][0] == 42
    assert seeds[0] != seeds[1]


def test_each_low_field_grid_says_over_what_its_voxels_average(tmp_path):
    """The profile goes to the step that integrates and, as what was simulated, to the sidecar."""
    grids = ((1.6, 1.6, 5.0), (2.0, 2.0, 2.0))
    gauss = {"slice_profile": "gauss", "slice_thickness": 4.0}
    for response, thickness in (({}, (5.0, 2.0)), (gauss, (4.0, 4.0))):
        extras = {**NOISY, "uncertainty": True, "noise_scale": 1.5}
        workflow = _build([_scan("T1w")], tmp_path, lf_grid=grids, **response, **extras)
        profile = response.get("slice_profile", "box")
        for label, own in zip(("1p6x1p6x5", "2x2x2"), thickness, strict=True):
            sinks = {
                kind: workflow.get_node(f"scan_0_T1w_wf.ds_{kind}_lf_{label}").inputs
                for kind in ("lowfield", "noise01", "std", "mask")
            }
            for kind in ("lowfield", "noise01", "std"):
                sidecar = sinks[kind].sidecar
                assert sidecar["SimulatedSliceProfile"] == profile
                assert sidecar["SimulatedSliceThickness"] == own
                assert ("NoiseScale" in sidecar) is (kind == "noise01")
            assert sinks["noise01"].sidecar["NoiseScale"] == 1.5
            assert sinks["mask"].out_name.endswith(f"_res-{label}_desc-brain_mask.nii.gz")
            for name in ("synthesize", "std"):
                node = workflow.get_node(f"scan_0_T1w_wf.{name}_lf_{label}").inputs
                assert (node.slice_profile, node.slice_thickness) == (profile, own)
            noise = workflow.get_node(f"scan_0_T1w_wf.noise01_lf_{label}").inputs
            assert (noise.acquired, noise.scale) == (True, 1.5)
        native = workflow.get_node("scan_0_T1w_wf.synthesize_native").inputs
        assert not isdefined(native.slice_profile)
        assert workflow.get_node("scan_0_T1w_wf.noise01_native").inputs.acquired is False


def test_only_a_method_that_draws_has_a_seed_of_each_scan(tmp_path):
    scans = [_scan("T1w"), _scan("T2w", "a")]

    def seeds(workflow) -> set[int]:
        names = [name for name in workflow.list_node_names() if ".synthesize_" in name]
        return {workflow.get_node(name).inputs.seed for name in names}

    workflow = _build(scans, tmp_path, method="arnold", random_seed=3, output_spaces=("model",))
    own = [scan_seed(3, scan.stem) for scan in scans]
    assert seeds(workflow) == set(own)
    sidecar = workflow.get_node("scan_0_T1w_wf.ds_lowfield_model").inputs.sidecar
    assert (sidecar["SynthesisSeed"], sidecar["RandomSeed"]) == (own[0], 3)
    assert sidecar["ModelMethodTitle"] == "Arnold et al."
    assert sidecar["ModelReference"] == "https://doi.org/10.1016/j.mri.2021.12.007"
    workflow = _build(scans, tmp_path, random_seed=3)
    assert seeds(workflow) == {42}
    sidecar = workflow.get_node("scan_0_T1w_wf.ds_lowfield_native").inputs.sidecar
    assert "SynthesisSeed" not in sidecar
