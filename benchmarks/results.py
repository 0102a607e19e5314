"""Write the tables and figures of docs/results.md from what ``h2lo ... benchmark`` has written.

``python benchmarks/results.py OUT PAGE`` replaces what stands in PAGE between ``<!-- NAME -->``
and ``<!-- end -->``, where NAME is that of a table in OUT, such as ``table1_T1w`` or
``table2_T1w``, and draws ``results_T1w.png`` and ``results_T2w.png`` in the folder ``gallery``
beside PAGE: a test subject of the first fold, its error maps and histograms, as the paper's Fig. 2.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd

from h2lo_bids.evaluation.metrics import METRICS
from h2lo_bids.evaluation.scores import IDENTITY_TITLES, MARK
from h2lo_bids.models.registry import CATALOGUE
from h2lo_bids.training.experiments.arms import find_arm
from h2lo_bids.vocabulary import ENHANCE, ENHANCER, IDENTITY, SYNTHESIZE

HEADINGS = {
    "psnr": "PSNR (dB) ↑", "ssim": "SSIM (%) ↑", "ncc": "NCC ↑", "wass": "WASS ↓",
    "hncc": "HNCC ↑", "bhat": "BHAT ↓", "js": "JS ↓",
}  # fmt: skip
DIGITS = {"psnr": 2, "ssim": 2}
PAPER = "paper (ds006557)"
BAND = ["own_3mm", "own_2mm"]
SHADE = 0.25
"""Difference that an error map shows as white."""


def title_of(method: str, task: str = SYNTHESIZE) -> str:
    if method == IDENTITY:
        return IDENTITY_TITLES[task]
    if method.startswith(f"{ENHANCER}-"):
        return find_arm(method).title
    return CATALOGUE[method].title if method in CATALOGUE else method


def short(value: float, digits: int) -> str:
    """Write a number without the zero before its point; nothing for NaN."""
    return "" if np.isnan(value) else f"{value:.{digits}f}".removeprefix("0")


def table_of(path: Path) -> str:
    """Lay a benchmark's table out with the paper's means in brackets."""
    table = pd.read_csv(path, sep="\t", na_values="n/a")
    enhanced = "detail_2mm" in table
    shown = [m for m in METRICS if m in HEADINGS]
    more = ["4-3 mm ↑", "3-2 mm ↑", "Epochs"] if enhanced else []
    heads = ["Method", *(HEADINGS[m] for m in shown), *more, "Steps"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    counts = table[["folds", "participants"]]
    partial = (counts < counts.max()).any(axis=1)
    for lacks, (_, row) in zip(partial, table.iterrows(), strict=True):
        title = title_of(row["method"], ENHANCE if enhanced else SYNTHESIZE)
        cells = [f"{title} {MARK}" if lacks else title]
        for metric in shown:
            mean, deviation, paper = (
                short(row.get(key, np.nan), DIGITS.get(metric, 3))
                for key in (f"{metric}_mean", f"{metric}_std", f"{PAPER} {metric}_mean")
            )
            text = f"{mean}±{deviation}"
            text = f"**{text}**" if row[f"{metric}_place"] == 1 else text
            cells.append(f"{text} ({paper})" if paper else text)
        if enhanced:
            cells += [short(row[key], 3) for key in ("detail_3mm", "detail_2mm")]
            epochs = [row[key] for key in ("epochs_pretrain", "epochs_real") if row[key] > 0]
            cells.append(" + ".join(f"{count:.0f}" for count in epochs))
        cells.append(f"{row['steps']:,.0f}" if row["steps"] > 0 else "")
        lines.append(f"| {' | '.join(cells)} |")
    if partial.any():
        lines += ["", f"Rows marked {MARK} lack folds or participants and are not ranked."]
    return "\n".join(lines)


def figure(out: Path, contrast: str, path: Path) -> None:
    """Draw images, errors and histograms of a test subject that all of the first fold have."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    table = out / f"table1_{contrast}.tsv"
    methods = pd.read_csv(table, sep="\t")["method"] if table.is_file() else ()
    found = {}
    for method in methods:
        file = out / "folds" / contrast / method / "fold-0" / "pictures.npz"
        if method != IDENTITY and file.is_file():
            with np.load(file) as content:
                found[method] = dict(content)
    # An external tool may have failed on some of the subjects.
    people = [{key.partition("/")[0] for key in content} for content in found.values()]
    if not people or not (shared := set.intersection(*people)):
        return
    name = min(shared)
    made = {m: {k: own[f"{name}/{k}"].astype(float) for k in KINDS} for m, own in found.items()}
    first = next(iter(made.values()))
    images = {title_of(IDENTITY): first["hf"]}
    images |= {title_of(m): content["predicted"] for m, content in made.items()}
    images["64 mT"] = real = first["lf"]
    inside = np.argwhere(np.maximum(real[0], first["hf"][0]) > 0)
    box = tuple(slice(a, b + 1) for a, b in zip(inside.min(0), inside.max(0), strict=True))
    top = np.percentile(real[0][real[0] > 0], 99.5)
    drawn, (above, below) = plt.subplots(
        2, len(images), figsize=(1.5 * len(images), 3.3), facecolor="black"
    )
    for axis, error, (title, image) in zip(above, below, images.items(), strict=True):
        axis.imshow(image[0][box].T[::-1], cmap="gray", vmin=0, vmax=top)
        axis.set_title(title, color="white", fontsize=8)
        difference = np.abs(image[0] - real[0])[box].T[::-1]
        error.imshow(difference, cmap="magma", vmin=0, vmax=SHADE)
    for axis in (*above, *below):
        axis.axis("off")
    drawn.tight_layout(pad=0.3)
    drawn.savefig(path, dpi=100)
    lines, axis = plt.subplots(figsize=(7, 3.2))
    places = (np.arange(first["histograms"].shape[1]) + 0.5) / first["histograms"].shape[1]
    curves = {title_of(IDENTITY): first["histograms"][0], "64 mT": first["histograms"][1]}
    curves |= {title_of(m): content["histograms"][2] for m, content in made.items()}
    for title, shares in curves.items():
        axis.plot(places, shares, label=title, lw=2.5 if title == "64 mT" else 1)
    axis.set(xlabel="intensity over the maximum", ylabel="share of the foreground", xlim=(0, 1))
    axis.legend(fontsize=7)
    lines.tight_layout()
    lines.savefig(path.with_name(path.stem + "_histograms.png"), dpi=100)


KINDS = ("hf", "lf", "predicted", "histograms")


def detail_of(out: Path, contrast: str) -> str:
    """Tabulate how much of the person's detail, 4 to 2 mm half-pitch, images carry by method."""
    splits = pd.read_csv(out / "splits.tsv", sep="\t")
    folds = splits.loc[splits["contrast"] == contrast, "fold"].unique()
    files = [f for k in folds for f in (out / "folds" / contrast).glob(f"*/fold-{k}/realism.tsv")]
    if not files:
        return ""
    rows = pd.concat([pd.read_csv(f, sep="\t", na_values="n/a") for f in files], ignore_index=True)
    rows["image"] = rows["image"].fillna("64 mT")
    places = {name: n for n, name in enumerate(("64 mT", *CATALOGUE))}
    order = rows["image"].map(places).fillna(len(places)).sort_values(kind="stable").index
    lines = ["| Image | own, 4-3 mm | own, 3-2 mm | noise |", "|---|---|---|---|"]
    for image, group in rows.loc[order].groupby("image", sort=False):
        title = image if image == "64 mT" else title_of(image)
        means = group[[*BAND, "noise"]].mean()
        lines.append(f"| {title} | {means[BAND[0]]:.2f} | {means[BAND[1]]:.2f} "
                     f"| {means['noise']:.4f} |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("page", type=Path)
    given = parser.parse_args()
    page = given.page.read_text()

    def replaced(match: re.Match[str]) -> str:
        name = match[1]
        path = given.out / f"{name}.tsv"
        text = match[2].strip()
        if name.startswith("detail_"):
            text = detail_of(given.out, name.partition("_")[2]) or text
        elif path.is_file():
            text = table_of(path)
        return f"<!-- {name} -->\n{text}\n<!-- end -->"

    given.page.write_text(re.sub(r"<!-- (\w+) -->\n(.*?)<!-- end -->", replaced, page, flags=re.S))
    for contrast in ("T1w", "T2w"):
        figure(given.out, contrast, given.page.parent / "gallery" / f"results_{contrast}.png")


if __name__ == "__main__":
    main()
