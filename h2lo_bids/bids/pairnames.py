"""Names of the images of a training pair, and from one of them to the others."""

from __future__ import annotations

from pathlib import Path

from h2lo_bids.bids.derivatives import Source, derivative_path, sidecar_path
from h2lo_bids.bids.names import parse_name

_ADDED = ("res", "desc")


def pair_paths(out_dir: Path, source: Source, contrast: str) -> dict[str, Path]:
    """Name the files of a pair: ``hf``, ``lf``, ``mask``, ``record``.

    Parameters
    ----------
    out_dir
        Root of the derivative dataset.
    source
        The high-field scan, or its entities.
    contrast
        Its suffix; masks of T2w are named ``desc-pairT2w``, as those of brains are.
    """
    # Entities alone: a T2w scan's own mask would get another name for its own space.
    entities = getattr(source, "entities", source)
    kind = "pairT2w" if contrast == "T2w" else "pair"

    def name(suffix: str, desc: str) -> Path:
        return derivative_path(out_dir, entities, suffix=suffix, desc=desc, res="model")

    low = name(contrast, "pairLF")
    return {
        "hf": name(contrast, "pairHF"),
        "lf": low,
        "mask": name("mask", kind),
        "record": sidecar_path(low),
    }


def record_end(contrast: str) -> str:
    """Return what the name of every pair's record of a contrast ends with.

    Examples
    --------
    >>> record_end("T1w")
    '_res-model_desc-pairLF_T1w.json'
    """
    return pair_paths(Path(), {"sub": "x"}, contrast)["record"].name.removeprefix("sub-x")


def find_records(out_dir: Path, contrast: str) -> list[Path]:
    """List the records of the pairs of a contrast, sorted."""
    end = record_end(contrast)
    folders = ("sub-*/anat", "sub-*/ses-*/anat")
    return sorted(path for folder in folders for path in Path(out_dir).glob(f"{folder}/[!.]*{end}"))


def scan_entities(record: Path) -> tuple[tuple[str, str], ...]:
    """Return the entities of the scan that a record's pair was made of.

    Raises
    ------
    ValueError
        If the file is not named like one.
    """
    name = parse_name(record.name)
    if name is None:
        raise ValueError(f"{record.name}: is not the name of a pair's record")
    return tuple(pair for pair in name.entities if pair[0] not in _ADDED)


def paths_of_record(record: Path, contrast: str) -> dict[str, Path]:
    """Name the files of the pair that a record belongs to, as `pair_paths` does.

    Raises
    ------
    ValueError
        As `scan_entities`.
    """
    entities = scan_entities(record)
    root = record.parents[3 if "ses" in dict(entities) else 2]
    return pair_paths(root, entities, contrast)
