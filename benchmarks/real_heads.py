"""What the models make of real heads, as they are and disturbed.

``python benchmarks/real_heads.py FOLDER [--model T1w=BUNDLE] [--pictures DIR]`` takes every
``*T1*.nii.gz`` and ``*T2*.nii.gz`` (and ``colin27*``, a T1w head) of a folder, prints a line per
head and disturbance, and draws each output. A disturbance is judged by the output elsewhere:
its correlation with that of the undisturbed head, the mean change in per cent of the output's
range, the ratio of grey to white matter, and whether the tissues keep their order in each
octant of the brain and in its centre.

``--held-out PAIR.npy ...`` takes test pairs of ``embedded.py`` instead
(``work/pairs/T1w/*_max-3-distorted.npy``): each disturbance of the nominal scanner's image, the
output's seven metrics beside the low-field image, and those of the undisturbed high-field image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from realism import picture

from h2lo_bids.evaluation.metrics import evaluate
from h2lo_bids.evaluation.realism import tissue_levels
from h2lo_bids.imaging.brain import extract_brain
from h2lo_bids.imaging.normalise import LEVELS, scale_brain
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import conform, placed, resample, resample_mask, spacing_of
from h2lo_bids.models.bundle import Bundle, default_bundle, load_bundle, load_model
from h2lo_bids.synthesis.options import EngineOptions, native_precision
from h2lo_bids.synthesis.predict import predict

Change = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def contrast_of(path: Path) -> str:
    return "T2w" if "T2" in path.name else "T1w"


def outliers(data: np.ndarray, brain: np.ndarray, _: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    at = np.argwhere(brain)
    hit = tuple(at[rng.choice(len(at), max(1, len(at) // 2000), replace=False)].T)
    data[hit] *= rng.uniform(2, 5, len(hit[0]))
    return data


def one_voxel(data: np.ndarray, brain: np.ndarray, _: np.ndarray) -> np.ndarray:
    data[tuple(np.argwhere(brain)[len(np.argwhere(brain)) // 3])] = 20 * data[brain].max()
    return data


def field(data: np.ndarray, brain: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    at = np.argwhere(brain) * spacing
    middle, half = at.mean(0), (np.percentile(at, 98, 0) - np.percentile(at, 2, 0)) / 2
    axes = [(np.arange(n) * s - m) / h for n, s, m, h in
            zip(data.shape, spacing, middle, half, strict=True)]  # fmt: skip
    radius = sum(a**2 for a in np.meshgrid(*axes, indexing="ij", sparse=True))
    return data * (1 + 2 * np.clip(radius, 0, 1))


def power(exponent: float) -> Change:
    def change(data: np.ndarray, brain: np.ndarray, _: np.ndarray) -> np.ndarray:
        top = np.percentile(data[brain], 99)
        return np.sign(data) * np.abs(data / top) ** exponent * top

    return change


def noise(data: np.ndarray, brain: np.ndarray, _: np.ndarray) -> np.ndarray:
    drawn = np.random.default_rng(0).standard_normal(data.shape)
    return data + 0.05 * np.percentile(data[brain], 95) * drawn


CHANGES: dict[str, Change] = {
    "as it is": lambda data, *_: data,
    "0.05 % of voxels x 2-5": outliers,
    "one voxel x 20": one_voxel,
    "gain 1e-6": lambda data, *_: data * 1e-6,
    "gain 1e6": lambda data, *_: data * 1e6,
    "offset": lambda data, brain, _: (data - data[brain].mean()) / data[brain].std(),
    "gamma 0.7": power(0.7),
    "gamma 1.5": power(1.5),
    "field 3:1": field,
    "noise 5 %": noise,
}
VOXELS = (0.7, 1.3)
RISING = ("psnr", "ssim", "ncc", "hncc")


def made_by(bundle: Bundle, model: Any, image: Any, mask: Any) -> tuple[np.ndarray, ...]:
    """Return scaled input, output and brain on the model's frame."""
    volume = conform(image, bundle.frame, mask=mask)
    brain = np.asarray(resample_mask(mask, volume.shape, volume.affine).dataobj) > 0
    scaled = scale_brain(
        np.asarray(volume.dataobj), brain, bundle.frame.spacing, contrast=bundle.contrast,
        scaling=bundle.scaling,
    )  # fmt: skip
    options = EngineOptions(precision=native_precision("cpu"))
    out = predict(model, scaled.volume, brain, options=options)
    return scaled.volume, np.clip(out, 0, 1), brain


def tissues(scaled: np.ndarray, brain: np.ndarray, contrast: str) -> list[np.ndarray]:
    """Return fluid, grey and white matter by the undisturbed input's levels."""
    fluid, white = LEVELS[contrast]
    place = (scaled - fluid) / (white - fluid)
    return [brain & (place > a) & (place < b) for a, b in ((-9, 0.3), (0.45, 0.78), (0.9, 9))]


def order(out: np.ndarray, parts: list[np.ndarray], contrast: str) -> str:
    """Name the octants, and the centre, in which the tissues are out of order."""
    at = np.argwhere(parts[0] | parts[1] | parts[2])
    middle = at.mean(0)
    index = np.indices(out.shape)
    side = sum((index[a] > middle[a]).astype(int) << a for a in range(3))
    radius = np.sqrt(sum((index[a] - middle[a]) ** 2 for a in range(3)))
    wrong = []
    for name, where in [*((str(n), side == n) for n in range(8)), ("centre", radius < 30)]:
        fluid, grey, white = (out[p & where].mean() for p in parts)
        sound = white > grey > fluid if contrast == "T1w" else fluid > grey > white
        if not sound:
            wrong.append(name)
    return ",".join(wrong) or "kept"


def heads(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("*.nii.gz")):
        if "lesion" not in path.name and ("T1" in path.name or "T2" in path.name
                                          or path.name.startswith("colin27")):  # fmt: skip
            yield path


def lines_of(path: Path, bundle: Bundle, model: Any, pictures: Path | None) -> Iterator[str]:
    image = load_checked(path).image
    mask = extract_brain(image, threads=2).image
    contrast, clean, parts, ratio = bundle.contrast, np.zeros(0), [], 1.0
    for name, change in [*CHANGES.items(), *((f"voxels {v} mm", None) for v in VOXELS)]:
        own, own_mask = image, mask
        if change is None:
            side = float(name.split()[1])
            shape = tuple(int(n * s / side) for n, s in
                          zip(image.shape, spacing_of(image.affine), strict=True))  # fmt: skip
            affine = image.affine @ np.diag([*(side / spacing_of(image.affine)), 1])
            own, own_mask = resample(image, shape, affine), resample_mask(mask, shape, affine)
        else:
            data = np.asarray(image.dataobj, dtype=np.float64).copy()
            brain = np.asarray(mask.dataobj) > 0
            changed = change(data, brain, spacing_of(image.affine))
            own = placed(changed.astype(np.float32), image.affine, image)
        scaled, out, brain = made_by(bundle, model, own, own_mask)
        if not parts:
            clean, parts = out, tissues(scaled, brain, contrast)
            low, mid, high = tissue_levels(out, brain)
            yield f"{path.name}: levels {low / high:.2f} {mid / high:.2f} 1"
            if pictures:
                shown = {f"{path.name}: input": scaled, "output": out}
                picture(shown, pictures / f"{path.name.split('.')[0]}.png")
        _, grey, white = (out[p].mean() for p in parts)
        ratio = grey / white if name == "as it is" else ratio
        elsewhere = brain & (np.abs(out - clean) < 10)
        spread = np.ptp(np.percentile(clean[brain], [1, 99]))
        yield (
            f"  {name:24s} r {np.corrcoef(out[elsewhere], clean[elsewhere])[0, 1]:.4f}  "
            f"change {100 * np.abs(out - clean)[elsewhere].mean() / spread:5.2f} %  "
            f"grey/white {grey / white:.3f} ({100 * (grey / white / ratio - 1):+.1f} %)  "
            f"order {order(out, parts, contrast)}"
        )


def held_out(path: Path, bundle: Bundle, model: Any) -> Iterator[str]:
    low, mask, high = np.load(path, mmap_mode="r")[:3].astype(np.float32)
    brain, spacing = mask > 0, np.asarray(bundle.frame.spacing)
    base = evaluate(high, low, high)
    yield f"{path.stem}: {'HF image':24s} " + figures(base)
    for name, change in CHANGES.items():
        given = change(high.astype(np.float64), brain, spacing)
        scaled = scale_brain(
            given, brain, spacing.tolist(), contrast=bundle.contrast, scaling=bundle.scaling
        )
        options = EngineOptions(precision=native_precision("cpu"))
        found = evaluate(predict(model, scaled.volume, brain, options=options), low, high)
        better = sum((found[m] > base[m]) == (m in RISING) for m in found)
        yield f"  {name:24s} {figures(found)}  better in {better} of {len(found)}"


def figures(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in values.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--held-out", type=Path, nargs="+", default=[], metavar="PAIR.npy")
    parser.add_argument("--model", action="append", default=[], metavar="T1w=BUNDLE")
    parser.add_argument("--pictures", type=Path)
    args = parser.parse_args()
    given = dict(item.split("=", 1) for item in args.model)
    models = {}
    for contrast in ("T1w", "T2w"):
        path = given.get(contrast)
        bundle = load_bundle(path, contrast=contrast) if path else default_bundle(contrast)
        models[contrast] = bundle, load_model(bundle)
    for path in args.held_out:
        for line in held_out(path, *models[path.parent.name]):
            print(line, flush=True)
    for path in heads(args.folder) if args.folder else ():
        for line in lines_of(path, *models[contrast_of(path)], args.pictures):
            print(line, flush=True)


if __name__ == "__main__":
    main()
