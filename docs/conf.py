"""Settings of the documentation site; ``make site`` builds it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import h2lo_bids  # noqa: E402

project = "H2LO-BIDS"
author = "The H2LO-BIDS developers"
project_copyright = "2026, the H2LO-BIDS developers"
release = version = h2lo_bids.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_outputs.md", "jupyter_execute"]  # written by the builds
nb_execution_mode = "off"
autodoc_typehints = "none"
napoleon_google_docstring = False
smartquotes_action = "q"  # two hyphens are an option's
html_theme = "furo"
html_title = f"H2LO-BIDS {release}"
html_static_path = html_css_files = ["site.css"]


def write_outputs(app: Any) -> None:
    """Write the table of outputs from the specification that the program itself reads."""
    folder = ROOT / "bids_app_spec"
    spec = json.loads((folder / "io_spec.json").read_text(encoding="utf-8"))
    lines = ["## Images of a participant", "", "| File | |", "|---|---|"]
    lines += [
        f"| {name} | `{_readable(one['pattern'])}` |" for name, one in spec["outputs"].items()
    ]
    lines += ["", "## What `desc-` says", "", "| Label | |", "|---|---|"]
    rows = (folder / "descriptions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    lines += ["| `{}` | {} |".format(*row.split("\t", 1)) for row in rows]
    lines += ["", "## Files beside them", "", "| What | Path in `out_dir` |", "|---|---|"]
    for name, one in spec["results"].items():
        paths = [one["path"] + end for end in one.get("files", [""])]
        lines.append(f"| {name.replace('_', ' ')} | {', '.join(f'`{p}`' for p in paths)} |")
    (Path(app.srcdir) / "_outputs.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _readable(pattern: str) -> str:
    """Shorten a pattern: the optional entities stand for those of the source."""
    short = re.sub(r"(\[_(?!space|res)[a-z]+-\{[a-z]+\}\])+", "[_ENTITIES]", pattern)
    return short.replace("|", "\\|")


def setup(app: Any) -> None:
    """Have the table written before pages are read."""
    app.connect("builder-inited", write_outputs)
