"""Compare ways to fit a site's model from few pairs: from a given model, and from nothing.

``python benchmarks/few_pairs.py make SITES --labels DIR [--simulator COMMAND --heads DIR]``
simulates the pairs of one site, 3 T protocol and all, on heads that no embedded model was
fitted to or chosen by: in ``SITES/phantom`` with low-field images of this package, in
``SITES/simulator`` with those of another program, to which ``--heads`` adds real 3 T heads.
``python benchmarks/few_pairs.py run SITES/phantom SITES/simulator --out DIR`` then fits each
arm to 1, 3, 6 and 13 pairs (and two more to choose the weights by) and scores it on the
test heads: ``DIR/few_pairs.tsv`` and ``.md``. Both go on where they were stopped. Seconds
are those of the CPU on one thread.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from embedded import split_labels
from training_pairs import simulate_training_pairs

from h2lo_bids.evaluation.metrics import METRICS, evaluate
from h2lo_bids.imaging.brain import extract_brain
from h2lo_bids.imaging.normalise import max_normalise
from h2lo_bids.imaging.reading import load_checked
from h2lo_bids.imaging.resample import conform, resample_mask
from h2lo_bids.io import atomic_path
from h2lo_bids.models.bundle import Bundle, default_bundle, load_bundle, load_model
from h2lo_bids.models.registry import Model
from h2lo_bids.training.devices import keep_freed_memory
from h2lo_bids.training.experiments.external import Command, run_command
from h2lo_bids.training.experiments.heldout import predict_pair
from h2lo_bids.training.fit import fit
from h2lo_bids.training.options import FitOptions, default_options, paper_options
from h2lo_bids.training.pairs import Pair, keep_pair, map_pair, training_frame
from h2lo_bids.vocabulary import CONTRASTS

SEED = 7000
"""Added to a head's number: the embedded models' own pairs have seeds from 1001 to 1216."""
PARTS = {"train": 13, "validation": 2, "test": 3}
ARMS = {"adapted": "From the model", "default": "Default, from nothing",
        "paper": "The authors' protocol, from nothing"}  # fmt: skip
COLUMNS = ("site", "arm", "pairs", "seed", "subject", *METRICS, "steps", "best", "cpu_seconds")
Row = dict[str, str]


def make(args: argparse.Namespace) -> None:
    """Simulate the pairs of both sites, those that are missing."""
    for name in ("phantom", "simulator"):
        check_contrast(args.sites / name, args.contrast)
    command = Command("simulator", args.simulator) if args.simulator else None
    split = split_labels(args.labels)
    for part, count in PARTS.items():
        maps = itertools.islice(itertools.cycle(split[part]), count)
        for number, (_, labels) in enumerate(maps, 1):
            path = args.sites / "phantom" / f"{part}-{number:02d}.npz"
            if not path.exists():
                seed = SEED + 100 * list(PARTS).index(part) + number
                pairs = simulate_training_pairs(labels, contrasts=(args.contrast,), seed=seed)
                pair = pairs[args.contrast]
                volumes = (*(v / v.max() for v in (pair.inputs[0], pair.lf)), pair.mask)
                keep(path, args.contrast, *volumes)
            if command is not None:
                with np.load(path) as known:
                    imitate(args, command, path.name, known["hf"], known["mask"])
    for head in heads_in(args.heads) if command else ():
        image = load_checked(head).image
        mask = extract_brain(image).image
        frame = training_frame()
        put = conform(image, frame, mask=mask)
        inside = resample_mask(mask, put.shape, put.affine).get_fdata() > 0
        hf = max_normalise(np.asarray(put.dataobj), inside, name=head.name)
        imitate(args, command, f"test-real-{head.name.split('.')[0]}.npz", hf, inside)


def heads_in(paths: Sequence[Path]) -> list[Path]:
    """Return the images that some paths name, or that are in the folders that they name."""
    return [f for p in paths for f in (sorted(p.glob("*.nii*")) if p.is_dir() else [p])]


def imitate(
    args: argparse.Namespace, command: Command, name: str, hf: np.ndarray, mask: np.ndarray
) -> None:
    """Let the other program make the low-field image of a head."""
    path = args.sites / command.name / name
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{kind}.nii.gz" for kind in ("hf", "mask")]
        for file, volume in zip(files, (hf, mask), strict=True):
            nib.Nifti1Image(volume.astype(np.float32), np.eye(4)).to_filename(file)
        volume, _, _ = run_command(
            command, hf=files[0], mask=files[1], contrast=args.contrast,
            log=args.sites / "simulator.log",
        )  # fmt: skip
    keep(path, args.contrast, hf, volume, mask)


def keep(path: Path, contrast: str, hf: np.ndarray, lf: np.ndarray, mask: np.ndarray) -> None:
    hf, lf = hf.astype(np.float32), lf.astype(np.float32)
    with atomic_path(path) as partial, partial.open("wb") as stream:
        np.savez(stream, hf=hf, lf=lf, mask=mask, contrast=contrast)
    print(f"made {path}", flush=True)


def check_contrast(folder: Path, contrast: str) -> None:
    """End where a folder holds pairs of the other contrast; those that do not say are T1w."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as content:
            found = str(content["contrast"]) if "contrast" in content else "T1w"
        if found != contrast:
            raise SystemExit(f"{path}: is of {found}, not {contrast}; give another folder")


def read_pair(path: Path) -> Pair:
    with np.load(path) as content:
        return Pair(path.stem, content["hf"], content["lf"], content["mask"] > 0)


def coarsen(pair: Pair, factor: int) -> Pair:
    """Average blocks of voxels, and normalise again."""
    sides = [n // factor for n in pair.shape]
    cut = tuple(slice(0, n * factor) for n in sides)
    shape = [n for side in sides for n in (side, factor)]

    def blocks(volume: np.ndarray) -> np.ndarray:
        return volume[cut].astype(np.float32).reshape(shape).mean((1, 3, 5))

    mask = blocks(pair.mask) >= 0.5
    hf, lf = (np.where(mask, blocks(v), 0) for v in (pair.hf, pair.lf))
    return Pair(pair.name, hf / hf.max(), lf / lf.max(), mask)


@dataclasses.dataclass(frozen=True)
class Site:
    """The pairs of a site at the resolution of the comparison."""

    folder: Path  # of train-*.npz, validation-*.npz and test-*.npz at 1 mm
    contrast: str
    resolution: int
    work: Path

    def pairs(self, part: str, scaling: str) -> list[Pair]:
        """Return a part's pairs, coarsened and their input scaled once."""
        spacing, pairs = (float(self.resolution),) * 3, []
        for path in sorted(self.folder.glob(f"{part}-*.npz")):
            kept = self.work / "cache" / f"{path.stem}_{scaling}.npy"
            if not kept.exists():
                coarse = coarsen(read_pair(path), self.resolution)
                pair = coarse.scaled(scaling, self.contrast, spacing)
                keep_pair(kept, pair.hf, pair.lf, pair.mask)
            pairs.append(map_pair(kept, path.stem))
        return pairs


def options_of(arm: str, count: int, seed: int, bundle: Bundle, steps: int | None) -> FitOptions:
    """Return the options of an arm; `steps` shortens every schedule."""
    if arm == "paper":
        options = paper_options(count, device="cpu")
    else:
        digest = bundle.sha256 if arm == "adapted" else None
        options = default_options(count, device="cpu", starts_from=digest)
    short = {} if steps is None else {"steps": min(steps, options.steps)}
    return dataclasses.replace(options, seed=seed, **short)


def run(args: argparse.Namespace) -> None:
    """Fit and score whatever the table does not hold yet, then lay it out."""
    page, title = args.out / "few_pairs.md", title_of(args)
    if page.exists() and (found := page.read_text().partition("\n")[0]) != title:
        raise SystemExit(f"{page}: is of {found}, not of {title}; give another --out")
    for folder in args.sites:
        check_contrast(folder, args.contrast)
    args.out.mkdir(parents=True, exist_ok=True)
    page.write_text(layout(read(args.out), args))  # what the run is of, if it is stopped
    bundle = load_bundle(args.init) if args.init else default_bundle(args.contrast)
    for folder in args.sites:
        work = args.out / "work" / folder.name
        site = Site(folder, args.contrast, args.resolution, work)
        measure(args, site, "input", 0, 0, lambda: (None, "max", {}))
        measure(args, site, "model", 0, 0, lambda: (load_model(bundle), bundle.scaling, {}))
        for seed, count, arm in itertools.product(args.seeds, args.counts, args.arms):
            options = options_of(arm, count, seed, bundle, args.steps)

            def fitted(
                site: Site = site, arm: str = arm, options: FitOptions = options, count: int = count
            ) -> tuple[Model, str, dict]:
                given = {"initial": load_model(bundle).state_dict()} if arm == "adapted" else {}
                train, held = (site.pairs(p, options.scaling) for p in ("train", "validation"))
                order = np.random.default_rng(options.seed).permutation(len(train))[:count]
                begun = time.process_time()
                result = fit(
                    [train[i] for i in order], held, options,
                    site.work / f"{arm}_{count}_{options.seed}", print, **given,
                )  # fmt: skip
                seconds = f"{time.process_time() - begun:.1f}"
                told = {"steps": result.steps, "best": result.best_step, "cpu_seconds": seconds}
                return result.model, options.scaling, told

            measure(args, site, arm, count, seed, fitted)
    page.write_text(layout(read(args.out), args))


def title_of(args: argparse.Namespace) -> str:
    """Name what the folder of a run is of."""
    return f"{args.contrast} at {args.resolution} mm"


def measure(
    args: argparse.Namespace, site: Site, arm: str, count: int, seed: int,
    fitted: Callable[[], tuple[Model | None, str, dict]],
) -> None:  # fmt: skip
    """Append the rows of one arm, unless they are there."""
    key = {"site": site.folder.name, "arm": arm, "pairs": str(count), "seed": str(seed)}
    if any(key.items() <= row.items() for row in read(args.out)):
        return
    model, scaling, told = fitted()
    rows = []
    for pair, given in zip(site.pairs("test", "max"), site.pairs("test", scaling), strict=True):
        made = pair.hf if model is None else predict_pair(model, given)
        found = evaluate(made, np.asarray(pair.lf, np.float32), pair.high_field)
        figures = {name: f"{found[name]:.5f}" for name in METRICS}
        rows.append({**key, "subject": pair.name, **figures, **told})
    path = args.out / "few_pairs.tsv"
    new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, delimiter="\t", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)
    print(*key.values(), told, flush=True)


def read(out: Path) -> list[Row]:
    """Read the table so far."""
    path = out / "few_pairs.tsv"
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def layout(rows: Sequence[Row], args: argparse.Namespace) -> str:
    """Write means over test heads and seeds ± the seeds' standard deviation, Markdown."""
    titles = {"input": "HF image", "model": "The model, unchanged", **ARMS}
    head = ["Test heads", "Arm", "Pairs", *(name.upper() for name in METRICS), "Steps", "CPU s"]
    lines = [title_of(args), "", _line(head), "|---" * len(head) + "|"]
    for site in dict.fromkeys(row["site"] for row in rows):
        for kind, real in (("simulated", False), ("real", True)):
            mine = [r for r in rows if r["site"] == site and ("test-real-" in r["subject"]) == real]
            keys = {(list(titles).index(r["arm"]), int(r["pairs"])): r["arm"] for r in mine}
            for (_, count), arm in sorted(keys.items()):
                own = [r for r in mine if (r["arm"], int(r["pairs"])) == (arm, count)]
                cells = [_spread(own, name) for name in (*METRICS, "steps", "cpu_seconds")]
                lines.append(_line([f"{site}, {kind}", titles[arm], count or "-", *cells]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _spread(rows: Sequence[Row], name: str) -> str:
    seeds = dict.fromkeys(row["seed"] for row in rows)
    values = [[float(r[name]) for r in rows if r["seed"] == seed and r[name]] for seed in seeds]
    means = [np.mean(some) for some in values if some]
    if not means:
        return "-"
    digits = {"psnr": 2, "steps": 0, "cpu_seconds": 0}.get(name, 4)
    spread = f" ± {np.std(means):.{digits}f}" if len(means) > 1 and digits else ""
    return f"{np.mean(means):.{digits}f}{spread}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    making, running = commands.add_parser("make"), commands.add_parser("run")
    making.set_defaults(action=make)
    making.add_argument("sites", type=Path, help="receives a folder of pairs per site")
    making.add_argument("--labels", type=Path, required=True, help="whole-head label maps")
    making.add_argument(
        "--heads", type=Path, nargs="+", default=[], help="real high-field heads of the contrast, "
        "NIfTI files or folders of them; only with --simulator",
    )  # fmt: skip
    making.add_argument(
        "--simulator", help="of one seed, as 'ulfsynth simulate --seed 42 {input} {output}'"
    )
    running.set_defaults(action=run)
    running.add_argument("sites", type=Path, nargs="+", help="folders that `make` wrote")
    running.add_argument("--out", type=Path, required=True, help="receives the tables")
    running.add_argument("--init", type=Path, help="bundle to adapt (default: the embedded one)")
    running.add_argument("--resolution", type=int, default=4, help="mm (%(default)s)")
    running.add_argument("--counts", type=int, nargs="+", default=[1, 3, 6, 13])
    running.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    running.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    running.add_argument("--steps", type=int, help="shorten every schedule to so many steps")
    for command in (making, running):
        command.add_argument("--contrast", choices=CONTRASTS, default="T1w")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    args.action(args)


if __name__ == "__main__":
    main()
