"""The JSON beside what enhancement writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from h2lo_bids.bids.lowfield import LowFieldSource
from h2lo_bids.bids.sidecars import (
    input_field,
    meaning_of,
    model_facts,
    place_of,
    software_versions,
    sources_of,
)

RESOLUTION = "the model's frame, centred on the brain"
WARNING = (
    "A prediction, not an acquired image: it may show structure that is not there and hide what "
    "is. Not for diagnosis"
)
_SIMULATED = (
    "The model was trained on simulated data, not on scans of the same heads in both fields"
)


def enhancement_sidecars(
    source: LowFieldSource,
    uris: Mapping[str, str],
    model: Mapping[str, Any],
    *,
    seed: int,
    settings: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Compose the sidecars of one source's outputs.

    Parameters
    ----------
    source : LowFieldSource
        The scans.
    uris : mapping
        BIDS URI of each output: ``preproc``, ``mask``, ``enhanced``.
    model : mapping
        As for :func:`h2lo_bids.bids.sidecars.lowfield_sidecar`.
    seed : int
        Of the run.
    settings : mapping
        Precision and the like.

    Returns
    -------
    dict
        By output.
    """
    scans = [part.uri for part in source.parts]
    fused = source.fusion != "none"
    made = {
        **place_of(resolution=RESOLUTION),
        "Fusion": source.fusion,
        "RegistrationMethod": "ANTs, rigid, to one of the scans" if fused else None,
        "RandomSeed": seed,
        **input_field(source.scan),
        "Software": software_versions(),
    }
    facts = model_facts(model)
    told = [facts.pop("ModelWarning") and _SIMULATED, WARNING]
    contents: dict[str, dict[str, Any]] = {
        "preproc": {
            "Description": meaning_of("preproc"),
            "Sources": sources_of(*scans, uris["mask"]),
            "SkullStripped": True,
            **made,
        },
        "mask": {
            "Description": meaning_of("brain"),
            "Type": "Brain",
            "Sources": sources_of(*scans),
            **made,
            **place_of(scans[0]),
        },
        "enhanced": {
            "Description": meaning_of("enhanced"),
            "Sources": sources_of(*scans, uris["preproc"], uris["mask"]),
            "SkullStripped": True,
            **made,
            "ModelTask": "enhance",
            "ModelInputMagneticFieldStrength": model.get("source_field_strength"),
            "ModelTargetMagneticFieldStrength": model.get("target_field_strength"),
            **facts,
            "ModelWarning": ". ".join(line for line in told if line),
            **settings,
        },
    }
    return {
        key: {name: value for name, value in content.items() if value is not None}
        for key, content in contents.items()
    }
