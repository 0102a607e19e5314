"""Graphs over a matrix of options, built and not run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from skeletons import anat, scan_at

from h2lo_bids.bids.scan import Scan
from h2lo_bids.models.bundle import Bundle
from h2lo_bids.models.frame import Frame
from h2lo_bids.settings import Settings
from h2lo_bids.synthesis.noise import scan_seed
from pipelines.participant import ImageSpec, RunSpec, init_participant_wf


def _scan(suffix: str, session: str | None = None) -> Scan:
    return scan_at(Path("/bids") / anat("01", session, suffix))


def _build(folder, *scans, masks=(None, None), method="h2lo", precision="fp32", **options):
    sizes, digest = options.pop("architecture", {}), options.pop("sha256", "ab" * 32)
    images = [
        ImageSpec(
            f"scan_{number}_{scan.suffix}",
            scan,
            Bundle(Path("/m"), method, scan.suffix, sizes, Frame(), digest, {"name": "m"}, ""),
            (scan,),
            (masks[number],),
            precision,
        )
        for number, scan in enumerate(scans)
    ]
    (template := folder / "tpl.nii.gz").touch()
    spaces = dict.fromkeys(options.get("output_spaces", ()), (template, None))
    threads = options.pop("omp_nthreads", 1)
    settings = Settings(folder, folder / "out", **options)
    run = RunSpec(settings, {"T1w": spaces, "T2w": spaces}, omp_nthreads=threads)
    return init_participant_wf("wf", images, run)


def _branch(folder, **options):
    return _build(folder, _scan("T1w"), **options).get_node("scan_0_T1w_wf")


def test_threads_and_precision_reach_the_steps_that_use_them(tmp_path):
    branch = _branch(tmp_path, precision="bf16", omp_nthreads=3)
    nodes = {name: branch.get_node(name) for name in branch.list_node_names()}
    several = {name: node for name, node in nodes.items() if node.n_procs == 3}
    assert {*several} == {"find_brain", "synthesize_native"}
    assert {node.interface.inputs.num_threads for node in several.values()} == {3}
    assert nodes["synthesize_native"].inputs.precision == "bf16"
    assert nodes["ds_lowfield_native"].inputs.sidecar["Precision"] == "bf16"


def test_another_architecture_and_other_weights_in_the_same_place_are_evaluated_again(tmp_path):
    hashes = [
        _branch(tmp_path, **model).get_node("synthesize_native").inputs.get_hashval()[1]
        for model in ({}, {}, {"architecture": {"omega": 10.0}}, {"sha256": "cd" * 32})
    ]
    assert (hashes[0] == hashes[1], len({*hashes})) == (True, 3)


def test_the_facts_of_a_scaling_go_to_the_image_that_was_scaled_so(tmp_path):
    branch = _branch(tmp_path, output_spaces=("model", "MNI152NLin2009cAsym:res-1"))
    prepare = branch.get_node("prepare")
    for key, facts in (
        ("preproc", "native_scaling"),
        ("preproc_model", "scaling"),
        ("preproc_template_MNI152NLin2009cAsym", "native_scaling"),
    ):
        ends = branch._graph.get_edge_data(prepare, branch.get_node(f"ds_{key}"))["connect"]
        assert (facts, "facts") in ends


def test_a_resolution_is_the_template_s_or_that_of_the_file_that_was_given(tmp_path):
    for file, meaning in (
        (None, "resolution 2 of the template"),
        (Path("/x.nii"), "that of x.nii"),
    ):
        branch = _branch(tmp_path, output_spaces=("Own:res-2",), template_file=file)
        for key in ("lowfield", "preproc", "mask"):
            sidecar = branch.get_node(f"ds_{key}_template_Own").inputs.sidecar
            assert sidecar["Resolution"] == meaning


def _donors(workflow) -> set[tuple[str, str]]:
    return {(a.name, b.name) for a, b in workflow._graph.edges()}


@pytest.mark.parametrize(("method", "grid"), [("h2lo", ""), ("pfsr", "res-model_")])
def test_a_t2w_scan_may_take_the_mask_of_its_own_session_only(tmp_path, method, grid):
    built = partial(_build, tmp_path, method=method)
    t1, t2 = _scan("T1w", "a"), _scan("T2w", "a")
    workflow = built(t1, t2)
    assert _donors(workflow) == {("scan_0_T1w_wf", "scan_1_T2w_wf")}
    masks = workflow.get_node("scan_1_T2w_wf.ds_mask").inputs.mask_sources
    assert masks == [f"bids::sub-01/ses-a/anat/sub-01_ses-a_{grid}desc-brain_mask.nii.gz"]
    assert _donors(built(t1, _scan("T2w", "b"))) == set()
    given = built(t1, t2, masks=(None, (Path(__file__), "bids:x:y")))
    assert _donors(given) == set()
    assert given.get_node("scan_1_T2w_wf.ds_mask").inputs.mask_sources == ["bids:x:y"]


def test_only_a_method_that_draws_has_a_seed_of_each_scan(tmp_path):
    scans = [_scan("T1w"), _scan("T2w", "a")]

    def seeds(workflow) -> set[int]:
        names = (name for name in workflow.list_node_names() if ".synthesize_" in name)
        return {workflow.get_node(name).inputs.seed for name in names}

    workflow = _build(tmp_path, *scans, method="arnold", random_seed=3, output_spaces=("model",))
    own = [scan_seed(3, scan.stem) for scan in scans]
    assert seeds(workflow) == set(own)
    sidecar = workflow.get_node("scan_0_T1w_wf.ds_lowfield_model").inputs.sidecar
    assert (sidecar["SynthesisSeed"], sidecar["RandomSeed"]) == (own[0], 3)
    assert sidecar["ModelMethodTitle"] == "Arnold et al."
    assert sidecar["ModelReference"] == "https://doi.org/10.1016/j.mri.2021.12.007"
    workflow = _build(tmp_path, *scans, random_seed=3)
    assert seeds(workflow) == {42}
    sidecar = workflow.get_node("scan_0_T1w_wf.ds_lowfield_native").inputs.sidecar
    assert "SynthesisSeed" not in sidecar
