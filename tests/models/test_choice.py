"""Which of the given or embedded models makes the images, and which are scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from heads import SPACING, write_bundle

from h2lo_bids.cli.checks import check_values
from h2lo_bids.cli.parser import read_settings
from h2lo_bids.errors import BadDataError, MissingInputError, UsageError
from h2lo_bids.models.bundle import default_bundle
from h2lo_bids.models.choice import bundles_for, check_place, named_models
from h2lo_bids.settings import Settings
from h2lo_bids.training.options import frame_of


def save(folder: Path, contrast: str, method: str) -> Path:
    return write_bundle(folder / f"{method}_{contrast}", contrast, method=method)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T1w models of three methods and a T2w one, as `group` leaves them."""
    folder = tmp_path_factory.mktemp("out") / "models"
    for contrast, method in (
        ("T1w", "h2lo"), ("T1w", "h2lo-mlp"), ("T1w", "identity"), ("T2w", "h2lo"),
    ):  # fmt: skip
        save(folder, contrast, method)
    return folder


def settings(level: str = "participant", **changes: Any) -> Settings:
    return Settings(Path("/data"), Path("/out"), level, **changes)


def test_a_folder_serves_every_contrast_that_it_has_the_method_for(models: Path) -> None:
    chosen = bundles_for(settings(model=(("", models),), method=("h2lo",)), ("T1w", "T2w"))
    assert {c: b.path.name for c, b in chosen.items()} == {"T1w": "h2lo_T1w", "T2w": "h2lo_T2w"}
    both = (("T1w", models), ("T2w", models / "h2lo_T2w"))
    chosen = bundles_for(settings(model=both, method=()), ("T2w",))
    assert chosen["T2w"].path.name == "h2lo_T2w"


def test_what_a_folder_lacks_is_embedded_or_refused(models: Path) -> None:
    given = settings(model=(("", models),), method=("identity",))
    chosen = bundles_for(given, ("T1w", "T2w"))
    assert chosen["T1w"].path == models / "identity_T1w"
    assert chosen["T2w"] == default_bundle("T2w", method="identity")
    alone = bundles_for(settings(model=(("", models),)), ("T2w",))
    assert alone["T2w"].path.name == "h2lo_T2w"


NO_ENHANCER = r"no T1w model of pfsr comes .* `group --task enhance` .* scans with --contrast$"


@pytest.mark.parametrize(
    ("choose", "model", "how", "text"),
    [
        (bundles_for, "", {"method": ("pix2pix",)}, "no pix2pix model for T1w to synthesize; it"),
        (bundles_for, "", {}, "3 models for T1w; choose one with --method: h2lo-mlp, h2lo, ident"),
        (bundles_for, "h2lo_T1w", {"method": ("arnold",)}, "of h2lo, and --method asks for arnold"),
        (bundles_for, None, {"method": ("inr",)}, "T1w model of inr .* `group --method inr`"),
        (bundles_for, None, {"task": "enhance"}, NO_ENHANCER),
        (named_models, None, {"method": ("identity",)}, "the high-field image itself is a row of"),
        (named_models, "", {"method": ("identity",)}, "the high-field image itself is a row of"),
        (named_models, "h2lo_T2w", {}, "for T2w, and there are no pairs of it; the pairs are T1"),
        (named_models, "h2lo_T1w", {"task": "enhance"}, r"was trained to synthesize \(h2lo\)"),
        (named_models, "", {"task": "enhance"}, "holds no model for T1w to enhance"),
    ],
)
def test_models_that_cannot_serve_are_refused(models: Path, choose, model, how, text) -> None:
    given = () if model is None else (("", models / model),)
    level = "evaluate" if choose is named_models else "participant"
    with pytest.raises(UsageError, match=text):
        choose(settings(level, model=given, **how), ("T1w",))


def test_a_damaged_bundle_of_a_folder_hurts_only_those_who_want_it(tmp_path: Path) -> None:
    save(tmp_path, "T1w", "h2lo")
    (save(tmp_path, "T1w", "h2lo-mlp") / "metadata.json").write_text("{")
    weights = save(tmp_path, "T2w", "h2lo") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    given = settings(model=(("", tmp_path),), method=("h2lo",))
    assert bundles_for(given, ("T1w",))["T1w"].method == "h2lo"
    with pytest.raises(BadDataError, match=r"weights\.safetensors"):
        bundles_for(given, ("T2w",))
    (weights.parent / "metadata.json").unlink()  # in its place would be the embedded model
    with pytest.raises(MissingInputError, match=r"h2lo_T2w/metadata\.json"):
        bundles_for(given, ("T1w", "T2w"))
    with pytest.raises(UsageError, match="choose one with --method: h2lo-mlp, h2lo"):
        bundles_for(settings(model=(("", tmp_path),)), ("T1w",))


def test_every_model_of_a_folder_is_scored_but_the_identity(models: Path) -> None:
    given = settings("evaluate", model=(("", models),))
    names = {c: [n for n, _ in own] for c, own in named_models(given, ("T1w", "T2w")).items()}
    assert names == {"T1w": ["h2lo-mlp_T1w", "h2lo_T1w"], "T2w": ["h2lo_T2w"]}
    given = settings("evaluate", model=(("", models),), method=("h2lo",))
    names = {c: [n for n, _ in own] for c, own in named_models(given, ("T1w",)).items()}
    assert names == {"T1w": ["h2lo_T1w"]}


def test_a_name_from_metadata_becomes_the_name_of_one_folder(tmp_path: Path) -> None:
    bundle = save(tmp_path, "T1w", "h2lo").rename(tmp_path / "bundle")  # as every fold calls it
    metadata = json.loads((bundle / "metadata.json").read_text())
    (bundle / "metadata.json").write_text(json.dumps({**metadata, "name": "../../<b>x"}))
    ((name, _),) = named_models(settings("evaluate", model=(("", bundle),)), ("T1w",))["T1w"]
    assert name == "b-x"


def test_pairs_are_prepared_on_the_voxels_of_a_folders_models(models: Path) -> None:
    assert frame_of(settings("evaluate", model=(("", models),))).spacing == (SPACING,) * 3


def test_a_part_or_a_parent_of_a_model_names_what_is_meant(models: Path, tmp_path: Path) -> None:
    training = tmp_path / "out"
    shutil.copytree(models, training / "models")
    bundle = next(path.parent for path in sorted(training.glob("models/*/metadata.json")))
    (bundle / "members").mkdir(exist_ok=True)
    for good in (bundle, training / "models", tmp_path):
        check_place(good)  # the last holds no model at all: others will say so
    for given, meant in (
        (training, training / "models"),
        (bundle / "weights.safetensors", bundle),
        (bundle / "README.md", bundle),
        (bundle / "members", bundle),
        (bundle / "members" / "0.safetensors", bundle),
    ):
        with pytest.raises(UsageError, match=rf"^{given}: .*: {meant}$"):
            check_place(given)


def test_one_method_makes_the_images() -> None:
    given = read_settings(["/data", "/out", "participant", "--method", "h2lo", "arnold"])
    with pytest.raises(UsageError, match="give one method"):
        check_values(given)
    check_values(read_settings(["/data", "/out", "participant", "--method", "arnold"]))
    with pytest.raises(UsageError, match="--method is an option of"):
        read_settings(["/data", "/out", "participant", "--pairs", "--method", "h2lo"])
    assert settings("group").methods == ("h2lo",)


def test_synthesis_has_embedded_models() -> None:
    bundles = bundles_for(settings(), ("T1w", "T2w"))
    for contrast, bundle in bundles.items():
        assert (bundle.method, bundle.contrast, bundle.task) == ("h2lo", contrast, "synthesize")
        assert bundle.metadata["training_data"]["kind"] == "simulated"
    scored = named_models(settings("evaluate"), ("T1w", "T2w"))
    assert scored == {contrast: [("embedded", bundle)] for contrast, bundle in bundles.items()}
