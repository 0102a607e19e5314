"""Which of the given or embedded models makes the images, and which are scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from heads import SPACING, write_bundle

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


def test_each_contrast_gets_the_model_that_was_asked_for(models: Path) -> None:
    def chosen(*suffixes: str, **how: Any) -> list[Path]:
        return [bundle.path for bundle in bundles_for(settings(**how), suffixes).values()]

    folder = (("", models),)
    both = [models / "h2lo_T1w", models / "h2lo_T2w"]
    assert chosen("T1w", "T2w", model=folder, method=("h2lo",)) == both
    assert chosen("T2w", model=(("T1w", models), ("T2w", both[1]))) == both[1:]
    assert chosen("T2w", model=(("", models), ("T2w", both[1]))) == both[1:]
    assert chosen("T2w", model=folder) == both[1:]  # it holds one alone
    # What it lacks is embedded.
    identity = [models / "identity_T1w", default_bundle("T2w", method="identity").path]
    assert chosen("T1w", "T2w", model=folder, method=("identity",)) == identity
    embedded = {contrast: default_bundle(contrast) for contrast in ("T1w", "T2w")}
    assert chosen("T1w", "T2w") == [bundle.path for bundle in embedded.values()]
    scored = named_models(settings("evaluate"), ("T1w", "T2w"))
    assert scored == {contrast: [("embedded", bundle)] for contrast, bundle in embedded.items()}


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
    shutil.copytree(tmp_path / "h2lo_T1w", tmp_path / "old")  # no method tells these two apart
    with pytest.raises(UsageError, match="2 models for T1w; give the folder of one: h2lo_T1w, old"):
        bundles_for(given, ("T1w",))


def test_every_model_of_a_folder_is_scored_but_the_identity(models: Path) -> None:
    for method, first in (((), ["h2lo-mlp_T1w", "h2lo_T1w"]), (("h2lo",), ["h2lo_T1w"])):
        given = settings("evaluate", model=(("", models),), method=method)
        found = named_models(given, ("T1w", "T2w"))
        names = {contrast: [name for name, _ in own] for contrast, own in found.items()}
        assert names == {"T1w": first, "T2w": ["h2lo_T2w"]}


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
    parts = ("weights.safetensors", "members", "members/0.safetensors")
    for given, meant in ((training, training / "models"), *((bundle / p, bundle) for p in parts)):
        with pytest.raises(UsageError, match=rf"^{given}: .*: {meant}$"):
            check_place(given)
