"""Which options need, or exclude, which others; for the descriptor, as the checks have it."""

from __future__ import annotations

from h2lo_bids.cli.levels import LEVELS, TAKEN_BY
from h2lo_bids.cli.settings import SKULL_STRIP

EXCLUSIVE = {"length_of_a_fit": ("steps", "epochs"), "without_work": ("dry_run", "reports_only")}
"""Sets of options of which one is given at most."""
REQUIRED = {
    "realisations": ("noise",),
    "noise_scale": ("noise",),
    "slice_profile": ("lf_grid",),
    "slice_thickness": ("lf_grid",),
    "template_file": ("output_spaces",),
}
"""What an option is of no use without."""
USELESS = {
    "skull_strip": {
        value: ("synthstrip_weights",) for value in SKULL_STRIP if value in ("skip", "deepbet")
    }
}
"""By option and value: what is refused beside it."""


def refused_by_level() -> dict[str, tuple[str, ...]]:
    """Return, for each level, the options that it does not take in any mode."""
    return {
        level: tuple(
            sorted(
                option
                for option, takers in TAKEN_BY.items()
                if level not in {taker.partition(" ")[0] for taker in takers}
            )
            + (["pairs"] if level != "participant" else [])
        )
        for level in LEVELS
    }


def refused_with_pairs() -> tuple[str, ...]:
    """Return the options that ``participant --pairs`` does not take."""
    return tuple(sorted(o for o, takers in TAKEN_BY.items() if "participant --pairs" not in takers))
