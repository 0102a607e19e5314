"""Figures of balls whose size and place are known, and charts of values that are."""

from __future__ import annotations

import base64
import io
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from report_samples import CENTRE, make_ball, points

from h2lo_bids.reports import charts, figures
from h2lo_bids.reports.figures import BINS, densities
from h2lo_bids.reports.mosaic import extent, volume_of

SVG = "{http://www.w3.org/2000/svg}"


def tiles(drawing):
    """Give the slices of a mosaic, rows axial, coronal, sagittal."""
    root = ElementTree.fromstring(drawing)
    return [cell for cell in root.findall(f"{SVG}svg") if cell.find(f"{SVG}image") is not None]


def pixels(cell):
    href = cell.find(f"{SVG}image").get("href")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(href.split(",")[1]))), dtype=float)


@pytest.mark.parametrize(("spacing", "codes"), [((1.6, 1.6, 5.0), "LPS"), ((4.0, 1.2, 1.2), "SAL")])
def test_ball_is_round_whatever_the_grid_and_voxels_keep_their_millimetres(spacing, codes):
    ball = make_ball(spacing, codes)
    cells = tiles(figures.draw_brain_mask(ball.image, ball.mask, title="x"))
    assert len(cells) == 18
    for row, axis in enumerate((2, 1, 0)):
        steps = [step for a, step in enumerate(spacing) if a != axis]
        # Six cuts spread over 14 to 86 % of the ball's extent along the axis.
        for column in range(6):
            cell, share = cells[6 * row + column], 0.14 + 0.72 * column / 5
            diameter = 2 * np.sqrt(40**2 - (abs(2 * share - 1) * 40) ** 2)
            outline = points(cell.find(f"{SVG}path").get("d"))
            wide, tall = np.ptp(outline, axis=0)
            near = 2.2 * max(steps) + spacing[axis] + 1
            assert [wide, tall] == pytest.approx([diameter] * 2, abs=near)
            if column in (2, 3):
                assert wide == pytest.approx(tall, abs=1.2 * max(steps) + 0.5)
            image, grey = cell.find(f"{SVG}image"), pixels(cell)
            x, y, *sides = (float(image.get(name)) for name in ("x", "y", "width", "height"))
            assert sides == pytest.approx(steps * np.array(grey.shape[::-1]), abs=0.01)
            assert image.get("preserveAspectRatio") == "none"
            # The picture lies where the outline says.
            inside = steps * (np.argwhere(grey > 128).mean(axis=0)[::-1] + 0.5) + (x, y)
            assert inside == pytest.approx((outline.min(axis=0) + outline.max(axis=0)) / 2, abs=2)


def draw(folder, image, mask, before, after, task="synthesize"):
    images = {"image": image, "image_mask": mask, "before": before, "after": after, "mask": mask}
    made = figures.make_figures(folder, "sub-01_T1w", task, **images)
    return {figure.kind: ((folder / figure.path).read_text(), figure.note) for figure in made}


def test_right_front_and_top_are_where_they_belong(tmp_path):
    ball = make_ball((2.0, 2.0, 2.0), "IPL", spot=CENTRE + (20, 20, 20))
    made = draw(tmp_path, ball.image, ball.mask, ball.image, ball.image)
    drawing, detail = made["highfield"][0], made["detail"][0]
    cells = tiles(drawing)
    for row in range(3):
        # In axial, coronal and sagittal slices alike the spot is to the right and up:
        # patient's right, patient's right, front; front, top, top.
        brightest = max((pixels(cell) for cell in cells[6 * row : 6 * row + 6]), key=np.max)
        y, x = np.argwhere(brightest > 250).mean(axis=0)
        assert x > brightest.shape[1] * 0.6
        assert y < brightest.shape[0] * 0.4
    for picture, times in ((drawing, 1), (detail, 2)):
        assert re.findall(r">([LRPA])</text>", picture) == ["L", "R", "L", "R", "P", "A"] * times


@pytest.mark.parametrize(("spacing", "tilt"), [((2.0, 2.0, 2.0), 0.3), ((1.6, 1.6, 5.0), 0.0)])
def test_another_image_is_brought_to_the_first_ones_axes(spacing, tilt):
    spot = CENTRE + (20, 5, -10)
    straight = make_ball((2.0, 2.0, 2.0), spot=spot)
    other = make_ball(spacing, "PSR", spot=spot, tilt=tilt)
    volume = volume_of(other.image, like=straight.image)
    where = np.argwhere(volume.data > 0.8).mean(axis=0)
    assert volume.origin + volume.spacing * where == pytest.approx(spot, abs=0.7 + spacing[2] / 4)
    low, high = extent(volume_of(other.mask, like=straight.image))
    assert (low + high) / 2 == pytest.approx(CENTRE, abs=1.5)


def test_empty_mask_and_constant_image_still_draw(tmp_path):
    flat = nib.Nifti1Image(np.zeros((20, 20, 8), np.float32), np.diag([2, 2, 5, 1]))
    empty = nib.Nifti1Image(np.zeros((20, 20, 8), np.uint8), flat.affine)
    assert len(draw(tmp_path, flat, empty, flat, flat)) == 5


def test_slices_of_a_fine_grid_stay_light(tmp_path):
    data = np.random.default_rng(1).random((300, 300, 6), dtype=np.float32)
    noise = nib.Nifti1Image(data, np.diag([0.6, 0.6, 3, 1]))
    mask = nib.Nifti1Image(np.ones(data.shape, np.uint8), noise.affine)
    made = draw(tmp_path, noise, mask, noise, noise)
    cells = [cell for text, _ in made.values() for cell in tiles(text)]
    assert max(max(pixels(cell).shape) for cell in cells) == 256


def test_dark_images_are_shown_dark_and_the_caption_says_so(tmp_path, head):
    bright = nib.Nifti1Image(head.mask.get_fdata(dtype=np.float32), head.mask.affine)
    dark = nib.Nifti1Image(bright.get_fdata(dtype=np.float32) / 5, head.mask.affine)
    made = draw(tmp_path, head.image, head.mask, bright, dark)
    assert "from 0 (black) to 1 (white)" in made["highfield"][1]
    assert made["highfield"][1] == made["lowfield"][1] == made["detail"][1]
    for kind, white in (("highfield", 255), ("lowfield", 51)):
        assert max(pixels(cell).max() for cell in tiles(made[kind][0])) == white


def test_histogram_counts_what_is_inside():
    values = np.array([0.0, 0.5, 0.5, 1.0, 1.2, -0.1] * 400 + list(np.linspace(0, 1, 2000)))
    bins = np.minimum(np.floor(values * BINS), BINS - 1)[(values >= 0) & (values <= 1)]
    expected = [np.count_nonzero(bins == n) / len(values) for n in range(BINS)]
    assert densities(values) == pytest.approx(np.array(expected), abs=1e-12)
    share = densities(np.repeat(np.arange(101) / 100, 500))
    assert share.sum() == pytest.approx(1.0)
    # Few levels make no comb: a uniform distribution is uniform, but for the two clipped ends.
    assert share[2:-2] == pytest.approx(share[2:-2].mean(), rel=0.05)


def test_histogram_of_a_mask_on_another_grid(head):
    fine = make_ball((1.6, 1.6, 1.6), "LPS", spot=(30.0, 10.0, 30.0))
    labels = ("Inside", "Other")
    drawn = figures.draw_histograms(head.image, head.image, fine.mask, labels)
    outside = nib.Nifti1Image(head.image.get_fdata(dtype=np.float32) * 1.5, head.image.affine)
    assert "outside 0 to 1" not in drawn  # the dark surroundings are not counted
    other = figures.draw_histograms(head.image, outside, fine.mask, labels)
    assert re.search(r"Other \(0\.\d+ % outside 0 to 1\)", other)


def test_what_enhancement_changed_is_grey_where_that_is_nothing(tmp_path, head):
    before = nib.Nifti1Image(0.5 * head.mask.get_fdata(dtype=np.float32), head.mask.affine)
    after = before.get_fdata(dtype=np.float32).copy()
    after[: after.shape[0] // 2] *= 1.19  # by 0.095 in one half of the brain
    after = nib.Nifti1Image(after, before.affine)
    made = draw(tmp_path, head.image, head.mask, before, after, "enhance")
    assert {"lowfieldinput", "enhanced", "enhanceddetail", "enhancedhistogram"} < made.keys()
    drawing, note = made["difference"]
    assert note == "Shown from -0.1 (black) to 0.1 (white)."
    values = np.concatenate([pixels(cell).ravel() for cell in tiles(drawing)])
    assert set(np.unique(values)) <= {127, 128, *range(248, 251)}
    assert values.max() > 128


# Charts show the values that they are given, alike on every machine.

SUBJECTS = {
    "A": {"identity": 20.0, "h2lo": 28.0, "inr": 25.5},
    "B": {"identity": 21.0, "h2lo": 26.5},
    "C": {"identity": 19.0, "h2lo": float("nan"), "inr": 24.0},
}
TITLES = {"identity": "HF image", "h2lo": "H2LO", "inr": "INR"}


def curves(root: ElementTree.Element, css: str) -> dict[str, np.ndarray]:
    groups = root.iterfind(f".//g[@class='{css}']")
    return {group.findtext("title", ""): points(group.find("path").get("d")) for group in groups}


def test_a_subjects_points_and_the_means_stand_at_their_values_whatever_the_users_settings():
    drawn = charts.strip_plot(SUBJECTS, TITLES, label="PSNR")
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "path"}):
        assert charts.strip_plot(SUBJECTS, TITLES, label="PSNR") == drawn
    root = ElementTree.fromstring(drawn)
    shown = curves(root, "subject")
    assert list(shown) == [
        "A: HF image 20, H2LO 28, INR 25.5", "B: HF image 21, H2LO 26.5",
        "C: HF image 19, H2LO nan, INR 24",
    ]  # fmt: skip
    x, y = np.concatenate(list(shown.values())).T
    columns, values = [0, 1, 2, 0, 1, 0, 2], [20, 28, 25.5, 21, 26.5, 19, 24]
    for places, numbers in ((x, columns), (y, values)):
        fit = np.polyfit(numbers, places, 1)
        assert places == pytest.approx(np.polyval(fit, numbers), abs=0.1)
    assert fit[0] < 0
    dots = [(float(u.get("x")), float(u.get("y"))) for u in root.iter("use")]
    assert np.array(sorted(dots)) == pytest.approx(np.array(sorted(zip(x, y, strict=True))))
    bars = [points(p.get("d")) for p in root.iter("path") if p.get("stroke-width") == "3.5"]
    middles = [bar.mean(axis=0)[1] for bar in bars]
    assert middles == pytest.approx(np.polyval(fit, [20, 27.25, 24.75]), abs=0.1)


def test_a_curve_is_straight_where_the_loss_falls_exponentially_and_the_input_is_named():
    steps = np.arange(1.0, 101.0)
    history = {"step": steps, "l1": 0.5 * np.exp(-steps / 20), "psnr": 20 + steps / 20}
    told = {"record": {"identity_psnr": 21.25}, "fold": 0}
    run = SimpleNamespace(method="h2lo", name="H2LO, fold 0", history=history, **told)
    titles = {"identity": "LF image", "h2lo": "H2LO"}
    drawn = charts.training_curves([run], titles, "l1")
    ((title, line),) = curves(ElementTree.fromstring(drawn), "run").items()
    assert title == "H2LO, fold 0: 0.003369 at step 100"
    ends = line[[0, -1]]
    assert np.interp(line[:, 0], *ends.T) == pytest.approx(line[:, 1], abs=0.15)
    pending = SimpleNamespace(**{**vars(run), "record": {}})  # another method's, under way
    assert ">LF image 21.25<" in charts.training_curves([run, pending], titles, "psnr")


def test_a_histogram_peaks_in_its_bin():
    share = np.full(128, 0.004)
    share[32] = 0.5
    root = ElementTree.fromstring(charts.histograms([("hf", "High field", share)], label="x"))
    line = curves(root, "share")["High field"]
    numbers = {t.text: float(t.get("transform")[10:].split()[0]) if t.get("transform")
               else float(t.get("x")) for t in root.iter("text") if t.text[0] in "01"}  # fmt: skip
    peak = line[line[:, 1].argmin(), 0]
    share_across = (peak - numbers["0"]) / (numbers["1"] - numbers["0"])
    assert share_across == pytest.approx(32.5 / 128, abs=0.002)


@pytest.mark.parametrize("words", ["<b>&\"'$\\frac{$", "a\x00\ud800b"])
def test_awkward_names_are_written_as_they_are(words):
    titles = {"identity": words, "h2lo": "b"}
    drawn = charts.strip_plot({words: {"identity": 1.0, "h2lo": 1e30}}, titles, label="PSNR")
    root = ElementTree.fromstring(drawn)
    name = "".join(c for c in words if c.isprintable())
    assert name in [text.text for text in root.iter("text")]
    assert root.find(".//g[@class='subject']").get("data-subject") == name
