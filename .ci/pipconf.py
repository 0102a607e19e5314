"""Say how this machine's pip is configured, so that a build can be lent the same.

    python3 .ci/pipconf.py FOLDER

writes FOLDER/pip.conf and, where pip trusts a file of certificates, FOLDER/ca.crt;
prints the folders of packages that the configuration names. They are lent to the
build as secrets and mounts, and must not end up in the image: see layers.py.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

IN_BUILD = "/run/secrets/ca.crt"
WEAKEST_FIRST = ("global", "install", ":env:")
UNWANTED = {"constraint", "requirement"}
"""They name files that a build does not see, and bound versions that are locked anyway."""


def settings() -> dict[str, str]:
    """Return pip's options from all its files and from the environment, which wins."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    found = re.findall(r"^(global|install|:env:)\.([a-z-]+)=(.*)$", listed, flags=re.M)
    found.sort(key=lambda option: WEAKEST_FIRST.index(option[0]))
    return {n: str(ast.literal_eval(value)) for _, n, value in found if n not in UNWANTED}


def folders(options: dict[str, str]) -> list[str]:
    """Return the local folders of packages; an index's files lie beside its ``simple``."""
    named = [
        re.sub(r"^file://", "", word).removesuffix("/simple")
        for name in ("find-links", "index-url", "extra-index-url")
        for word in options.get(name, "").split()
    ]
    return sorted({path for path in named if path.startswith("/") and Path(path).is_dir()})


def main() -> None:
    """Write the files and print the folders."""
    target = Path(sys.argv[1])
    options = settings()
    cert = options.get("cert")
    (target / "ca.crt").write_bytes(b"")
    if cert and Path(cert).is_file():
        shutil.copyfile(cert, target / "ca.crt")
        options["cert"] = IN_BUILD
    lines = [f"{name} = {' '.join(value.split())}" for name, value in options.items()]
    (target / "pip.conf").write_text("\n".join(["[global]", *lines]) + "\n")
    print("\n".join(folders(options)))


if __name__ == "__main__":
    main()
