"""The options of every level, each declared once: field, values, help and who takes it.

`h2lo_bids.settings.Settings` inherits the fields, `h2lo_bids.cli.parser` makes a parser
of each level from them, and refuses what a level does not take.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from h2lo_bids.settings import convert
from h2lo_bids.vocabulary import ENHANCE, METHODS, SYNTHESIS_PRECISIONS, SYNTHESIZE, TASKS

FILE, DIR, PATH = ((convert.path, name) for name in ("FILE", "DIR", "PATH"))
PLACE = (convert.place, "DIR")
COUNT = (convert.integer(1), "N")
ENTITIES = (convert.entities, "ENTITY=VALUE")
ALL = "all"
PROFILES = ("box", "gauss", "sinc")

# Modes: a level, or a level with the option that changes what else it takes.
PARTICIPANT, EVALUATE, GROUP, BENCHMARK = "participant", "evaluate", "group", "benchmark"
TRIAL = "trial"
PAIRS, ENHANCED = "participant --pairs", f"participant --task {ENHANCE}"
GROUP_ENHANCE, BENCHMARK_ENHANCE = f"group --task {ENHANCE}", f"benchmark --task {ENHANCE}"
MODES = (
    PARTICIPANT,
    ENHANCED,
    PAIRS,
    GROUP,
    GROUP_ENHANCE,
    EVALUATE,
    BENCHMARK,
    BENCHMARK_ENHANCE,
    TRIAL,
)
ON_PAIRS = (PAIRS, GROUP, EVALUATE, BENCHMARK, GROUP_ENHANCE, BENCHMARK_ENHANCE)
FITS = (GROUP, BENCHMARK)
ALL_FITS = (*FITS, GROUP_ENHANCE, BENCHMARK_ENHANCE)
NOT_PAIRS = tuple(mode for mode in MODES if mode != PAIRS)


@dataclass(frozen=True)
class Option:
    """An option of the command line: a field of `Settings`."""

    name: str
    default: Any
    help: str
    modes: tuple[str, ...]
    values: tuple[Callable[[str], Any], str] | None = None
    choices: tuple[str, ...] | None = None
    short: str | None = None
    common: bool = False

    @property
    def flag(self) -> str:
        """The option as it is written."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def nargs(self) -> str | int | None:
        """How many values it takes, as argparse puts it."""
        if isinstance(self.default, bool) or self.name == "verbose":
            return 0
        return "+" if isinstance(self.default, tuple) else None

    @property
    def text(self) -> str:
        """The help text, with the default unless the text has one."""
        shown = "default:" in self.help or self.nargs == 0 or self.default in (None, ())
        return self.help if shown else f"{self.help} (default: {self.default})"


def option(default: Any, text: str, values: Any = None, **more: Any) -> Any:
    """Declare a field of `Settings` as an option; `more` are further fields of `Option`."""
    return field(default=default, metadata={"help": text, "values": values, **more})


flag, optional, several = (functools.partial(option, absent) for absent in (False, None, ()))
"""Declare an option of which nothing is the default: one without a value, with one, or several."""


def options_of(group: type) -> Iterator[Option]:
    """Yield the options of a dataclass; all modes take them, or those that itself or they name."""
    modes = getattr(group, "taken_by", MODES)
    for item in fields(group):
        yield Option(item.name, item.default, **{"modes": modes, **item.metadata})


@dataclass(frozen=True)
class Selection:
    """Which scans of the input dataset are used."""

    participant_label: tuple[str, ...] = several(
        "only these participants, with or without sub-; @FILE reads them from a "
        "participants.tsv or a text file with one per line",
        (convert.participants, "LABEL"),
        common=True,
    )
    session_label: tuple[str, ...] = several(
        "only these sessions, with or without ses-", (convert.label, "LABEL"), common=True
    )
    bids_filter_file: Path | None = optional(
        'JSON of {"t1w": {ENTITY: VALUE}, "t2w": {…}}, for one field strength "hf_t1w", '
        '"lf_t1w" and so on; null means absent, "*" means any',
        FILE,
    )
    filter: tuple[str, ...] = several(
        "only scans with these entities: acq-MPRAGE or acq=MPRAGE, run=1,2 (either), rec= "
        "(absent), ses=* (present)",
        ENTITIES,
    )
    all_scans: bool = flag(
        "use every matching scan of a session, not only the preferred one of each contrast",
        modes=(PARTICIPANT, ENHANCED, TRIAL),
    )
    bids_database_dir: Path | None = optional(
        "folder that keeps the index of a large dataset between runs; updated when out of date "
        "(default: no index is kept)",
        PLACE,
    )
    skip_bids_validation: bool = flag(
        "do not validate the input, and skip misnamed images instead of reporting them as errors"
    )
    derivatives: tuple[tuple[str, Path], ...] = several(
        "derivative datasets whose brain masks replace computed ones, and in pairs whose low-field "
        "images replace raw ones",
        (convert.named_path, "NAME=PATH"),
        short="-d",
    )


@dataclass(frozen=True)
class Method:
    """How images are made."""

    task: str = option(
        SYNTHESIZE,
        "synthesize: from high field to low field; enhance: from low field to high field, with "
        "models that `group --task enhance` fits",
        choices=TASKS,
        modes=(PARTICIPANT, ENHANCED, *ALL_FITS, EVALUATE),
    )
    method: tuple[str, ...] = several(
        "group and benchmark: methods to fit; the first becomes the final model, and the others "
        "are tested against it (default: h2lo; benchmark: all); participant and evaluate: method "
        "to choose from the folder of --model; `h2lo methods` lists all",
        choices=(*METHODS, ALL),
        modes=(PARTICIPANT, GROUP, EVALUATE, BENCHMARK, ENHANCED, TRIAL),
    )
    model: tuple[tuple[str, Path], ...] = several(
        "model bundle, folder of several, or .pth file of the authors' release; evaluate takes any "
        "number; default: the embedded model of each contrast, trained on simulated pairs",
        (convert.model, "[T1w=|T2w=]PATH"),
        modes=(PARTICIPANT, ENHANCED, EVALUATE, GROUP_ENHANCE, TRIAL),
    )
    skull_strip: str = option(
        "auto",
        "brain extraction; auto: skull-stripped scans are used as they are, others go to "
        "SynthStrip if its weights are available, else to deepbet; skip: all scans are stripped",
        choices=("auto", "skip", "deepbet", "synthstrip"),
    )
    synthstrip_weights: Path | None = optional(
        "FreeSurfer's synthstrip.1.pt; default: the one in $FREESURFER_HOME/models, if any", FILE
    )
    precision: str | None = optional(
        "fp32 gives nearly the same digits on every machine; bf16 is faster on processors that "
        "multiply in it (lscpu: amx_bf16, avx512_bf16) and far slower on others; fp16 is for "
        "fitting on a GPU (default: bf16 if it is faster and the model keeps 60 dB against fp32, "
        "see the sidecars; evaluate and a trial's conditions: fp32; fits: the fastest of the "
        "processor or GPU; --protocol paper: fp16 on a GPU, else fp32)",
        choices=(*SYNTHESIS_PRECISIONS, "fp16"),
        modes=NOT_PAIRS,
    )
    random_seed: int = option(
        42,
        "seed of registration, noise, folds and fits",
        (convert.integer(0, 2**63 - 1), "N"),
    )
    sloppy: bool = flag(
        "register to templates with an affine transform only; for tests, not for results",
        modes=(PARTICIPANT, TRIAL),
    )


@dataclass(frozen=True)
class Outputs:
    """What is written for each scan."""

    taken_by: ClassVar[tuple[str, ...]] = (PARTICIPANT, TRIAL)

    output_spaces: tuple[str, ...] = option(
        ("native",),
        "additional grids of the low-field image: model (the model's own frame) or a "
        "TemplateFlow space such as MNI152NLin2009cAsym:res-1; default: native, the scan's own "
        "grid, which is always written",
        (convert.space, "SPACE"),
        common=True,
    )
    template_file: Path | None = optional(
        "T1w image of the template space, instead of TemplateFlow's", FILE
    )
    fetch_templates: bool = flag(
        "fetch missing templates with TemplateFlow's client; the only use of the network"
    )
    lf_grid: tuple[tuple[float, float, float], ...] = several(
        "additional grids with these voxel sizes in mm along the scan's axes, such as 1.6x1.6x5, "
        "integrated over each voxel; named res-1p6x1p6x5",
        (convert.grid, "XxYxZ"),
    )
    slice_profile: str | None = optional(
        "slice profile across the longest side of these voxels: gauss by its full width at half "
        "maximum, sinc with a Hamming window over three lobes (default: box)",
        choices=PROFILES,
    )
    slice_thickness: float | None = optional(
        "nominal thickness of these slices (default: the longest side)",
        (convert.number(0.1, 20), "MM"),
    )
    noise: str = option(
        "none",
        "calibrated: also write images with the noise measured on the model's training pairs",
        choices=("none", "calibrated"),
        modes=(PARTICIPANT,),
    )
    noise_scale: float | None = optional(
        "factor of that noise (default: 1)", (convert.number(0.01, 100), "X")
    )
    realisations: int | None = optional(
        "number of noisy images of each scan, drawn independently (default: 1; of a condition: 20)",
        COUNT,
    )
    uncertainty: bool = flag(
        "also write a map of the standard deviation over the models of the folds, which are part "
        "of a model fitted by group",
        modes=(PARTICIPANT,),
    )
    labels: tuple[tuple[str, Path], ...] = several(
        "derivative datasets with a lesion mask, dseg or probseg in the scans' space, to carry to "
        "the grid of every output and measure there",
        (convert.named_path, "NAME=PATH"),
    )
    condition: tuple[str, ...] = several(
        "scanners to simulate, each a name and KEY=VALUE of lf-grid, slice-profile, "
        "slice-thickness, noise-scale, realisations, model: thin lf-grid=2x2x2 thick "
        "lf-grid=1.6x1.6x5 noise-scale=2; the options above set the other keys",
        (convert.condition, "NAME KEY=VALUE"),
    )
    reader_set: int | None = optional(
        "also write N blinded images, balanced over the conditions, for human readers",
        COUNT,
        modes=(TRIAL,),
    )


@dataclass(frozen=True)
class Resources:
    """Processors, memory and the work folder."""

    nprocs: int | None = optional(
        "processors to use at once (default: all that this process may use)", COUNT, common=True
    )
    omp_nthreads: int | None = optional(
        "threads per step (default: --nprocs, at most 4; of a fit: --nprocs divided by "
        "--n-folds-parallel and --devices)",
        COUNT,
    )
    mem: float | None = optional(
        "memory that participants share, such as 8 or 8000M; it does not limit fits (default: the "
        "free memory of this machine or its control group)",
        (convert.memory, "GB"),
        common=True,
    )
    device: str = option(
        "auto",
        "device to evaluate and fit models on; auto: a GPU if PyTorch finds one; the CPU "
        "takes over if the GPU's memory is too small to evaluate a model",
        (convert.device, "auto|cpu|cuda[:i]"),
        modes=NOT_PAIRS,
    )
    work_dir: Path | None = optional(
        "folder of intermediate results, from which a later run resumes; outside bids_dir "
        "(default: .h2lo-work in out_dir)",
        PLACE,
        short="-w",
        common=True,
    )
    clean_workdir: bool = flag(
        "delete the intermediate results of each participant, and of fits, after success"
    )


@dataclass(frozen=True)
class TheRun:
    """How the program goes about it."""

    dry_run: bool = flag(
        "print what would be read and written, without writing; exits as the run would, as far "
        "as that is known: 1 if some scans cannot be used",
        common=True,
    )
    reports_only: bool = flag(
        "write the reports again from the contents of out_dir", modes=NOT_PAIRS
    )
    stop_on_first_crash: bool = flag("stop at the first failure")
    verbose: int = option(
        0,
        "print each step and its time; -vv also logs Nipype's debugging messages",
        short="-v",
        common=True,
    )
