"""Check a software bill of materials against the lock files.

    python3 .ci/sbom.py SBOM.json

Every package of common.txt must be in the image, in the locked version.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

LOCKED = Path(__file__).resolve().parents[1] / "requirements" / "common.txt"


def main() -> int:
    """Print how many components there are; return 1 if one is not the locked one."""
    bill = json.loads(Path(sys.argv[1]).read_text())
    listed = {c["name"].lower().replace("_", "-"): c["version"] for c in bill["components"]}
    locked = dict(re.findall(r"^([a-z0-9.-]+)==([^ ;]+)", LOCKED.read_text(), flags=re.M))
    wrong = [n for n, version in locked.items() if listed.get(n.replace(".", "-")) != version]
    for name in wrong:
        print(f"{name}: {locked[name]} is locked, {listed.get(name, 'nothing')} is in the image")
    print(f"{bill['bomFormat']} {bill['specVersion']}: {len(listed)} components, as locked")
    return int(bool(wrong) or bill["bomFormat"] != "CycloneDX" or "torch" not in listed)


if __name__ == "__main__":
    raise SystemExit(main())
