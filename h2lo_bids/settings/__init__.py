"""One frozen object with all that the user asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2lo_bids.settings import convert, options, options_pairs
from h2lo_bids.vocabulary import ARMS, ENHANCE, ENHANCER, METHODS

GROUPS: dict[str, type] = {
    "which scans": options.Selection,
    "method": options.Method,
    "outputs": options.Outputs,
    "which pairs": options_pairs.Pairs,
    "fitting": options_pairs.Fitting,
    "cross-validation": options_pairs.Folds,
    "comparison": options_pairs.Comparison,
    "fitting an enhancer": options_pairs.Enhancement,
    "resources": options.Resources,
    "the run": options.TheRun,
}
"""All options, as the help and the documents have them."""
OPTIONS = {option.name: option for group in GROUPS.values() for option in options.options_of(group)}


@dataclass(frozen=True)
class Arguments:
    """What stands on a command line without a name; paths are absolute."""

    bids_dir: Path
    out_dir: Path
    level: str = "participant"


@dataclass(frozen=True)
class Settings(
    options.TheRun,
    options.Resources,
    options_pairs.Enhancement,
    options_pairs.Comparison,
    options_pairs.Folds,
    options_pairs.Fitting,
    options_pairs.Pairs,
    options.Outputs,
    options.Method,
    options.Selection,
    Arguments,
):
    """What the command line and the configuration file ask for: a field for each option."""

    @property
    def fits(self) -> bool:
        """Whether models are fitted."""
        return self.level in ("group", "benchmark")

    @property
    def fits_enhancer(self) -> bool:
        """Whether it is the enhancer that is fitted."""
        return self.fits and self.task == ENHANCE

    @property
    def on_pairs(self) -> bool:
        """Whether it is pairs that are worked on, not scans of one field strength."""
        return self.pairs or self.fits or self.level == "evaluate"

    @property
    def standard_spaces(self) -> tuple[str, ...]:
        """The output spaces that need registration to a template."""
        return tuple(space for space in self.output_spaces if space not in ("native", "model"))

    @property
    def lf_grids(self) -> tuple[tuple[float, float, float], ...]:
        """The voxels of ``--lf-grid`` and of the conditions, each once."""
        words = (word.partition("=") for word in self.condition)
        more = (convert.grid(value) for key, _, value in words if key == "lf-grid")
        return tuple(dict.fromkeys((*self.lf_grid, *more)))

    @property
    def methods(self) -> tuple[str, ...]:
        """What is fitted: the methods given; else H2LO, or in a benchmark every method."""
        if self.fits_enhancer:
            return (ENHANCER,)
        every = options.ALL in self.method or (self.level == "benchmark" and not self.method)
        return METHODS if every else self.method or ("h2lo",)

    @property
    def noise_factor(self) -> float:
        """What the noise of the model is multiplied by."""
        return 1.0 if self.noise_scale is None else self.noise_scale

    @property
    def draws(self) -> int:
        """How many noisy images of each scan there are."""
        return self.realisations or 1

    @property
    def work(self) -> Path:
        """The work folder: the one given, or a hidden one inside ``out_dir``."""
        return self.work_dir if self.work_dir is not None else self.out_dir / ".h2lo-work"

    @property
    def arms(self) -> tuple[str, ...]:
        """What is compared: the methods, then the external tools; or Table 2's arms."""
        if self.fits_enhancer and self.level == "benchmark":
            chosen = self.arm if self.arm and options.ALL not in self.arm else ARMS
            return tuple(f"{ENHANCER}-{name}" for name in chosen)
        return (*self.methods, *(name for name, _ in self.external))

    def inputs(self) -> Iterator[tuple[str, Path]]:
        """Yield each path that an option says is there already, with the option."""
        for option in OPTIONS.values():
            if option.values != options.PLACE:
                yield from ((option.flag, path) for path in _paths(getattr(self, option.name)))
        if Path(self.folds).is_absolute():
            yield "--folds", Path(self.folds)
        for word in self.condition:
            if word.startswith("model="):
                yield "--condition", Path(word.removeprefix("model="))

    def to_options(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as ``--config-file`` takes them."""
        given = [(option, getattr(self, option.name)) for option in OPTIONS.values()]
        return {
            option.flag[2:]: [*map(_word, value)] if isinstance(value, tuple) else _word(value)
            for option, value in given
            if value != option.default
        }

    def lines(self) -> Iterator[list[str]]:
        """Yield the arguments and each option that differs from its default, as words."""
        yield [str(self.bids_dir), str(self.out_dir), self.level]
        for name, value in self.to_options().items():
            if name == "verbose":
                yield ["--verbose"] * value
            else:
                values = value if isinstance(value, list) else [value]
                yield [f"--{name}", *(str(one) for one in values if one is not True)]

    def words(self) -> list[str]:
        """Return the words after ``h2lo`` that ask for the same."""
        return [word for line in self.lines() for word in line]


def _paths(value: Any) -> list[Path]:
    if isinstance(value, Path):
        return [value]
    return [path for item in value for path in _paths(item)] if isinstance(value, tuple) else []


def _word(value: Any) -> Any:
    """Return one value of an option as a configuration file has it."""
    if isinstance(value, tuple):
        if isinstance(value[0], str):
            return f"{value[0]}={value[1]}" if value[0] else str(value[1])
        return "x".join(f"{side:g}" for side in value)
    return value if isinstance(value, int | float) else str(value)
