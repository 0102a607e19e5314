"""Charts show the values that they are given, alike on every machine."""

from __future__ import annotations

from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from h2lo_bids.reports import charts

SUBJECTS = {
    "A": {"identity": 20.0, "h2lo": 28.0, "inr": 25.5},
    "B": {"identity": 21.0, "h2lo": 26.5},
    "C": {"identity": 19.0, "h2lo": float("nan"), "inr": 24.0},
}
TITLES = {"identity": "HF image", "h2lo": "H2LO", "inr": "INR"}


def points(path: ElementTree.Element) -> np.ndarray:
    words = [word for word in path.get("d", "").split() if word not in "ML"]
    return np.array(words, float).reshape(-1, 2)


def curves(root: ElementTree.Element, css: str) -> dict[str, np.ndarray]:
    groups = root.iterfind(f".//g[@class='{css}']")
    return {group.findtext("title", ""): points(group.find("path")) for group in groups}


def test_a_subjects_points_and_the_means_stand_at_their_values():
    root = ElementTree.fromstring(charts.strip_plot(SUBJECTS, TITLES, label="PSNR"))
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
    bars = [points(p) for p in root.iter("path") if p.get("stroke-width") == "3.5"]
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
    assert ">LF image 21.25<" in charts.training_curves([run], titles, "psnr")


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


def test_a_users_settings_change_nothing():
    first = charts.strip_plot(SUBJECTS, TITLES, label="PSNR")
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "path"}):
        assert charts.strip_plot(SUBJECTS, TITLES, label="PSNR") == first
