"""Signal equations against closed forms and a step-by-step Bloch simulation."""

from __future__ import annotations

import numpy as np
import pytest

from h2lo_bids.phantom import physics as signal


def bloch_longitudinal(t1: float, events: list[tuple[str, float]], cycles: int) -> list[float]:
    """Play events and return the magnetisation just before each "read"."""
    mz, seen = 1.0, []
    for _ in range(cycles):
        seen = []
        for kind, value in events:
            if kind == "wait":
                mz = 1 + (mz - 1) * np.exp(-value / t1)
            elif kind == "rotate":
                mz *= np.cos(np.deg2rad(value))
            else:
                seen.append(mz)
    return seen


def test_inversion_recovery_is_the_bloch_steady_state() -> None:
    # Inversion, TI, 90 degrees, recovery: the excitation resets the magnetisation.
    t1, ti, tr = 900.0, 400.0, 2000.0
    events = [("rotate", 180.0), ("wait", ti), ("read", 0), ("rotate", 90.0), ("wait", tr - ti)]
    expected = bloch_longitudinal(t1, events, 50)[0]
    assert signal.inversion_recovery(t1, 1e9, 1.0, tr=tr, te=0, ti=ti) == pytest.approx(expected)


def test_spin_echo_limits() -> None:
    assert signal.spin_echo(800, 80, 0.7, tr=1e7, te=0) == pytest.approx(0.7)
    assert signal.spin_echo(800, 80, 0.7, tr=1e7, te=80) == pytest.approx(0.7 / np.e)
    assert signal.spin_echo(800, 80, 1, tr=800 * np.log(2), te=0) == pytest.approx(0.5)


def test_mprage_is_the_bloch_steady_state() -> None:
    t1, flip, echoes, spacing, ti, tr = 1200.0, 9.0, 64, 7.0, 900.0, 2200.0
    before = ti - echoes // 2 * spacing
    events: list[tuple[str, float]] = [("rotate", 180.0), ("wait", before)]
    events += [("read", 0), ("rotate", flip), ("wait", spacing)] * echoes
    events += [("wait", tr - before - echoes * spacing)]
    expected = bloch_longitudinal(t1, events, 60)[echoes // 2] * np.sin(np.deg2rad(flip))
    got = signal.mprage(t1, 1e9, 1.0, tr=tr, te=0, ti=ti, flip=flip, echoes=echoes, spacing=spacing)
    assert got == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="does not fit"):  # its waits would be negative
        signal.mprage(t1, 80, 1, tr=1000, te=3, ti=300, flip=flip, echoes=128, spacing=8)


def test_a_share_of_inverted_fluid_is_kept_and_all_of_the_rest() -> None:
    cut, kept, folded = (
        signal.signal_of(signal.low_field("T1w", "axi", share), signal.TISSUES)
        for share in (0, 0.25, 1)
    )
    assert (cut == 0).sum() > 1 == (folded == 0).sum()  # the background alone
    np.testing.assert_allclose(kept, np.where(cut > 0, cut, 0.25 * folded))
