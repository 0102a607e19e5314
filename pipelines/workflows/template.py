"""Registration of a scan to a standard space."""

from __future__ import annotations

from nipype.pipeline import engine as pe

from pipelines.grids import Grid


def init_template_wf(
    *, grid: Grid, sloppy: bool, random_seed: int, omp_nthreads: int
) -> pe.Workflow:
    raise NotImplementedError
