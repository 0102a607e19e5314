"""The evaluate level: scores of any models on any prepared pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from h2lo_bids.bids.derivatives import result_path
from h2lo_bids.bids.metadata import LOW_FIELD_BELOW, field_strength, read_sidecar
from h2lo_bids.errors import BadDataError, Failed, H2loError, UsageError
from h2lo_bids.evaluation.realism import Appearance, appearance
from h2lo_bids.evaluation.scores import IDENTITY_TITLES, Realism, Score
from h2lo_bids.evaluation.table import tabulate, write_tables
from h2lo_bids.imaging.brain import extract_brain
from h2lo_bids.imaging.normalise import to_frame
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import conform, resample_mask
from h2lo_bids.io import digest, write_json
from h2lo_bids.models.bundle import Bundle, load_model
from h2lo_bids.models.choice import named_models
from h2lo_bids.models.frame import Frame
from h2lo_bids.models.registry import Model
from h2lo_bids.processes import note
from h2lo_bids.settings import Settings
from h2lo_bids.synthesis.noise import scan_seed
from h2lo_bids.synthesis.options import EngineOptions
from h2lo_bids.synthesis.predict import predict_on_grid
from h2lo_bids.training.experiments import Sources, heldout
from h2lo_bids.training.experiments.fits import tell_refused, usable_pairs
from h2lo_bids.training.experiments.heldout import Scored
from h2lo_bids.training.experiments.leaks import same_people, seen_in_training, training_subjects
from h2lo_bids.training.experiments.site import count_parameters, software
from h2lo_bids.training.pairs import Pair, PreparedPair, read_prepared
from h2lo_bids.vocabulary import ENHANCE, IDENTITY, SYNTHESIZE, Send

Named = tuple[str, Bundle]
References = Mapping[str, Appearance]
Lost = Callable[[PreparedPair, str], None]


@dataclass
class _Run:
    """One model under way."""

    name: str
    bundle: Bundle
    model: Model
    warnings: tuple[str, ...]
    options: EngineOptions
    seed: int
    scored: Scored = field(default_factory=Scored)

    def predict(self, prepared: PreparedPair, pair: Pair) -> np.ndarray:
        """Make a pair's target, whatever frame the model is on."""
        bundle = self.bundle
        if bundle.frame == prepared.frame:
            given = pair.scaled(bundle.scaling, bundle.contrast, prepared.frame.spacing)
            return heldout.predict_pair(self.model, given, self.options, self.seed)
        source = prepared.lf if prepared.task == ENHANCE else prepared.hf
        mask: Any = nib.load(prepared.mask)  # type: ignore[attr-defined]
        placed, _, scaled = to_frame(
            nib.load(source), mask, bundle.frame,  # type: ignore[attr-defined]
            contrast=bundle.contrast, scaling=bundle.scaling, name=source.name,
        )  # fmt: skip
        return predict_on_grid(
            self.model, scaled.volume, placed.affine, mask.affine, pair.mask,
            options=self.options, seed=scan_seed(self.seed, pair.name),
        )  # fmt: skip


def score_models(
    settings: Settings,
    models: Sequence[Named],
    pairs: Sequence[PreparedPair],
    references: References,
    send: Send,
    lost: Lost,
) -> tuple[Score, ...]:
    """Score models, by name, on pairs of their contrast; return the scores, identity first.

    There are none, and nothing is written, where no pair can be scored.
    """
    # A model on another frame is asked for the pair's voxels, so that all make the same ones.
    contrast, task = pairs[0].contrast, models[0][1].task
    for _, bundle in models:
        if bundle.task != task:
            raise UsageError(
                f"model {bundle.path} is trained to {bundle.task}, others to {task}; "
                "score the models of each task by themselves"
            )
    pairs = [replace(pair, task=task) for pair in _unseen(models, pairs, lost)]
    how = EngineOptions(settings.device, settings.precision or "fp32"), settings.random_seed
    runs = [
        _Run(name, bundle, load_model(bundle), _warnings_about(name, bundle, pairs), *how)
        for name, bundle in models
    ]
    for line in (line for run in runs for line in run.warnings):
        send(note(line, "warning"))
    identity: list[Score] = []
    scored: list[PreparedPair] = []
    for number, prepared in enumerate(pairs, start=1):
        send(note(f"{contrast}: scoring sub-{prepared.name} ({number} of {len(pairs)})"))
        try:
            identity += _score_with_all(runs, prepared, pairs, references)
        except BadDataError as err:
            lost(prepared, str(err))
        else:
            scored.append(prepared)
    if not scored:
        return ()
    for *first, last in same_people(scored):
        text = (
            f"{', '.join(f'sub-{label}' for label in first)} and sub-{last} have the same "
            "high-field image: one person is scored under several names, and the intervals are "
            "too narrow; leave all but one out with --participant-label"
        )
        send(note(text, "warning"))
    for run in runs:
        folder = result_path(settings.out_dir, "evaluated", contrast=contrast, model=run.name)
        _write(run, identity, scored, folder, references)
    return (*identity, *(s for run in runs for s in run.scored.scores))


def _unseen(
    models: Sequence[Named], pairs: Sequence[PreparedPair], lost: Lost
) -> list[PreparedPair]:
    """Drop the pairs whose high-field image a model was trained on, under whatever label."""
    seen: dict[PreparedPair, str] = {}
    for name, bundle in models:
        for pair, label in seen_in_training(bundle, pairs).items():
            who = f"sub-{pair.subject}"
            if label != pair.subject:
                who += f" has the high-field image of sub-{label}, who"
            seen.setdefault(pair, f"{who} is a training subject of model {name}")
    for pair, why in seen.items():
        if len(seen) == len(pairs):
            raise UsageError(f"{why}; evaluate on other subjects, or with another --model")
        lost(pair, f"{why}; not scored, evaluate on other subjects or with another --model")
    return [pair for pair in pairs if pair not in seen]


def _score_with_all(
    runs: Sequence[_Run],
    prepared: PreparedPair,
    pairs: Sequence[PreparedPair],
    references: References,
) -> list[Score]:
    """Score every model on a pair, or none; return the identity's scores."""
    pair = read_prepared(prepared)
    made = {run.name: run.predict(prepared, pair) for run in runs}
    scores = [heldout.score_pair(pair, image, method=name) for name, image in made.items()]
    for run, own in zip(runs, scores, strict=True):  # only now: one model's NaN loses the pair
        run.scored.scores += own
        run.scored.pictures |= heldout.pictures_of(pair, made[run.name])
    if pair.task == SYNTHESIZE:
        target, *rows = heldout.realism_of(
            pair, made, prepared.frame.spacing, stranger=heldout.stranger_to(prepared, pairs),
            references=tuple(references.values()),
        )  # fmt: skip
        for run, row in zip(runs, rows, strict=True):
            run.scored.realism += [target, row]
    return [*heldout.score_pair(pair, pair.hf)]


def _warnings_about(name: str, bundle: Bundle, pairs: Sequence[PreparedPair]) -> tuple[str, ...]:
    """Say what makes a model's figures on these pairs doubtful, one line each."""
    lines, trained = [], training_subjects(bundle)
    if not trained and (bundle.metadata.get("training_data") or {}).get("kind") != "none":
        lines.append(
            f"model {name} does not say whom it was trained on: on these people its figures are "
            "better than on anyone else; choose others with --participant-label"
        )
    if seen := sorted({pair.subject for pair in pairs} & trained):
        listed = ", ".join(f"sub-{label}" for label in seen)
        lines.append(
            f"model {name} was trained on subjects of these names: {listed}; if they are the same "
            "people, its figures are better than on anyone else"
        )
    if bundle.frame.anchor == "array":
        lines.append(
            f"model {name} sees positions in the scan's own array, for which the array of the "
            "prepared pair stands in"
        )
    return tuple(lines)


def _write(
    run: _Run,
    identity: Sequence[Score],
    pairs: Sequence[PreparedPair],
    folder: Path,
    references: References,
) -> None:
    realism = run.scored.realism
    for name, own in references.items():
        others = [other for other in references.values() if other is not own]
        values = {**own.values(), **heldout.nearest(own, others)}
        realism.append(Realism("reference", name, "", None, values))
    titles = {IDENTITY: IDENTITY_TITLES[run.bundle.task], run.name: run.name}
    Scored([*identity, *run.scored.scores], realism, run.scored.pictures).write(folder, titles)
    record = {
        "contrast": pairs[0].contrast,
        "method": run.name,
        "task": run.bundle.task,
        "model": {
            "name": str(run.bundle.metadata.get("name", run.name)),
            "method": run.bundle.method,
            "frame": run.bundle.frame.to_dict(),
            "sha256": run.bundle.sha256,
        },
        "parameters": count_parameters(run.model),
        "pairs_fingerprint": digest(sorted(pair.fingerprint for pair in pairs), 16),
        "simulated": any(pair.simulated for pair in pairs),
        "software": software(),
        "warnings": run.warnings,
    }
    # Last: the report takes a folder with a record for a whole one.
    write_json(folder / "record.json", record)


def read_references(
    settings: Settings, contrast: str, frame: Frame, failed: list[Failed]
) -> dict[str, Appearance]:
    """Measure the scans of ``--realism-reference``, put on the pairs' frame as pairs are."""
    method = "auto" if settings.skull_strip == "skip" else settings.skull_strip
    measured: dict[str, Appearance] = {}
    for path in (path for of, path in settings.realism_reference if of == contrast):
        try:
            name = path.name if path.name not in measured else str(path)
            measured[name] = _reference(path, frame, method, settings.synthstrip_weights)
        except H2loError as err:
            failed.append(Failed(str(path), "reference", err))
    return measured


def _reference(path: Path, frame: Frame, method: str, weights: Path | None) -> Appearance:
    _check_low_field(path)
    image = load_checked(path).image
    mask = extract_brain(image, method=method, weights=weights).image
    placed = conform(image, frame, mask=mask)
    inside = np.asarray(resample_mask(mask, placed.shape, placed.affine).dataobj) > 0
    looks = appearance(np.asarray(placed.dataobj), inside, frame.spacing)
    if np.isnan(looks.median):
        raise BadDataError(f"{path}: no positive value in its brain; look at the image")
    return looks


def _check_low_field(path: Path) -> None:
    """Refuse a reference whose sidecar, where there is one, says that it is a high-field scan."""
    sidecar = path.with_name(f"{path.name.partition('.nii')[0]}.json")
    if not sidecar.exists():
        return
    strength = field_strength(read_sidecar(sidecar))
    if (strength.tesla or 0) >= LOW_FIELD_BELOW:
        raise BadDataError(
            f"{path}: is no low-field scan, but of {strength.tesla:g} T by {strength.source} in "
            "its sidecar; give another one, or correct the sidecar"
        )


def score(settings: Settings, found: Sources, send: Send) -> tuple[set[str], list[Failed]]:
    """Score the models and write the tables; return the high-field scans scored, and failures."""
    models = named_models(settings, tuple(found))
    # All of a contrast are of one task, or scoring refuses them.
    tasks = {contrast: named[0][1].task for contrast, named in models.items()}
    for own, path in settings.realism_reference:
        if tasks.get(own) != SYNTHESIZE:
            text = f"{path}: not used, as no model that synthesizes {own} images is evaluated"
            send(note(text, "warning"))
    scored, failed, refused = set[str](), list[Failed](), list[UsageError]()
    for contrast, used in usable_pairs(settings, {c: found[c] for c in models}, send).items():
        references = {}
        if tasks[contrast] == SYNTHESIZE:
            references = read_references(settings, contrast, used[0].frame, failed)

        def lost(pair: PreparedPair, why: str) -> None:
            failed.append(Failed(_scan_of(pair), "score", BadDataError(why)))

        try:
            scores = score_models(settings, models[contrast], used, references, send, lost)
        except UsageError as err:  # such as that all have trained it, but not the other one
            refused.append(UsageError(f"{contrast}: {err}"))
            continue
        if not scores:
            continue  # the other contrast's pairs may be sound
        stem = settings.out_dir / f"evaluation_{contrast}"
        titles = {IDENTITY: IDENTITY_TITLES[tasks[contrast]]}
        block = tabulate(scores, titles, convention=settings.metrics_convention)
        table = write_tables(stem, scores, block)
        send({"event": "table", "contrast": contrast, "text": table.to_md()})
        send(note(f"table: {stem}_table.md"))
        scored |= {_scan_of(pair) for pair in used}
    tell_refused(refused, (*scored, *failed), send)
    return scored - {item.scan for item in failed}, failed


def _scan_of(pair: PreparedPair) -> str:
    """Return the path of a pair's high-field scan in its dataset."""
    return pair.sources[0].split(":", 2)[2]
