"""One frozen object with all that the user asked for."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from h2lo_bids.vocabulary import ARMS, ENHANCE, ENHANCER, FLIP_ROTATE, METHODS, SYNTHESIZE

NOISES = ("none", "calibrated")
PROFILES = ("box", "gauss", "sinc")
FUSIONS = ("auto", "none", "mrr")
ALL = "all"
AUGMENTATIONS = ("none", FLIP_ROTATE)
METRICS_CONVENTIONS = ("clipped", "release")
PROTOCOLS = ("default", "paper")
SAMPLINGS = ("patch", "volume")
TRUNKS = ("siren", "mlp")
STARTS = EMBEDDED, NONE = "embedded", "none"
INIT = NONE
"""What h2lo's fits start from by default: one of `STARTS`."""


@dataclass(frozen=True)
class Settings:
    """What the command line and the configuration file ask for.

    Every field is the option of the same name; see ``h2lo --help``. Paths are
    absolute. Pairs such as ``model`` are tuples of (name, value).
    """

    bids_dir: Path
    out_dir: Path
    level: str = "participant"
    # selection
    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    bids_filter_file: Path | None = None
    filter: tuple[str, ...] = ()
    all_scans: bool = False
    bids_database_dir: Path | None = None
    skip_bids_validation: bool = False
    derivatives: tuple[tuple[str, Path], ...] = ()
    # method
    task: str = SYNTHESIZE
    method: tuple[str, ...] = ()
    model: tuple[tuple[str, Path], ...] = ()
    skull_strip: str = "auto"
    synthstrip_weights: Path | None = None
    precision: str | None = None
    random_seed: int = 42
    sloppy: bool = False
    # outputs
    output_spaces: tuple[str, ...] = ("native",)
    template_file: Path | None = None
    fetch_templates: bool = False
    lf_grid: tuple[tuple[float, float, float], ...] = ()
    slice_profile: str | None = None
    slice_thickness: float | None = None
    noise: str = "none"
    noise_scale: float | None = None
    realisations: int = 1
    uncertainty: bool = False
    # pairs
    pairs: bool = False
    contrast: tuple[str, ...] = ()
    hf: tuple[str, ...] = ()
    lf: tuple[str, ...] = ()
    lf_dir: Path | None = None
    lf_fusion: str = "auto"
    resolution: float | None = None
    keep_flagged_pairs: bool = False
    metrics_convention: str = "clipped"
    # fitting; None leaves a value to the protocol
    init: tuple[tuple[str, str | Path], ...] = ()
    protocol: str = "default"
    steps: int | None = None
    epochs: int | None = None
    sampling: str | None = None
    crop: int | None = None
    batch: int | None = None
    trunk: str | None = None
    lambda_grad: float | None = None
    learning_rate: float | None = None
    validate_every: int | None = None
    devices: int = 1
    # cross-validation
    folds: str = "5"
    val_count: int | None = None
    test_count: int | None = None
    fold: tuple[int, ...] = ()
    n_folds_parallel: int = 1
    no_final: bool = False
    collect: bool = False
    # benchmark
    external: tuple[tuple[str, str], ...] = ()
    max_time: float | None = None
    max_memory: float | None = None
    # evaluation
    realism_reference: tuple[tuple[str, Path], ...] = ()
    # enhancement
    pretrain_derivatives: tuple[Path, ...] = ()
    augment: str = "none"
    schedule_factor: float = 1.0
    finetune_rate: float | None = None
    features: int | None = None
    arm: tuple[str, ...] = ()
    cohort: tuple[Path, ...] = ()
    # resources
    nprocs: int | None = None
    omp_nthreads: int | None = None
    mem: float | None = None
    device: str = "auto"
    work_dir: Path | None = None
    clean_workdir: bool = False
    use_plugin: Path | None = None
    # the run
    dry_run: bool = False
    output_spec: bool = False
    reports_only: bool = False
    stop_on_first_crash: bool = False
    write_graph: bool = False
    verbose: int = 0

    @property
    def fits_enhancer(self) -> bool:
        """Whether it is the enhancer that is fitted."""
        return self.task == ENHANCE and self.level in ("group", "benchmark")

    @property
    def methods(self) -> tuple[str, ...]:
        """What is fitted: the methods given; else H2LO, or in a benchmark every method."""
        if self.fits_enhancer:
            return (ENHANCER,)
        every = ALL in self.method or (self.level == "benchmark" and not self.method)
        return METHODS if every else self.method or ("h2lo",)

    @property
    def work(self) -> Path:
        """The work folder: the one given, or a hidden one inside ``out_dir``."""
        return self.work_dir if self.work_dir is not None else self.out_dir / ".h2lo-work"

    @property
    def arms(self) -> tuple[str, ...]:
        """What is compared: the methods, then the simulators of others; or Table 2's arms."""
        if self.fits_enhancer and self.level == "benchmark":
            chosen = self.arm if self.arm and ALL not in self.arm else ARMS
            return tuple(f"{ENHANCER}-{name}" for name in chosen)
        return (*self.methods, *(name for name, _ in self.external))

    def to_options(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as TOML-ready values.

        Keys are the options' names; what comes back is what `--config-file` reads.
        """
        options = {}
        for item in fields(self):
            if item.name in ("bids_dir", "out_dir", "level"):
                continue
            value = getattr(self, item.name)
            if value != (None if item.default is MISSING else item.default):
                options[item.name.replace("_", "-")] = _plain(item.name, value)
        return options


def default_of(name: str) -> Any:
    """Return the default of an option, for the help text."""
    return next(item.default for item in fields(Settings) if item.name == name)


def _plain(name: str, value: Any) -> Any:
    """Return an option's value as the user would write it."""
    if name == "lf_grid":
        return ["x".join(f"{side:g}" for side in sides) for sides in value]
    if name in ("derivatives", "model", "external", "realism_reference", "init"):
        return [f"{key}={item}" if key else str(item) for key, item in value]
    if isinstance(value, tuple):
        return [item if isinstance(item, int) else str(item) for item in value]
    return str(value) if isinstance(value, Path) else value
