"""Fetch files into the image, each checked by size and SHA-256.

    python3 fetch.py FOLDER "URL#size=BYTES&sha256=HEX URL#..."

Only the standard library is used: this runs before anything is installed.
TemplateFlow's files (``tpl-NAME_...``) are laid out as its client would.
"""

from __future__ import annotations

import hashlib
import ssl
import sys
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urldefrag, urlsplit

AUTHORITIES = Path("/run/secrets/ca.crt")
"""Certificates that the builder may lend for the time of the build."""


def parse(entry: str) -> tuple[str, str, int, str]:
    """Split ``URL#size=BYTES&sha256=HEX`` into URL, file name, size and hash."""
    url, fragment = urldefrag(entry)
    facts = parse_qs(fragment)
    size, sha256 = (facts.get(key, [""])[0] for key in ("size", "sha256"))
    if not size.isdigit() or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise SystemExit(f"{url}: needs #size=BYTES&sha256=HEX, of 64 digits in lower case")
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if urlsplit(url).scheme not in ("https", "http", "file") or not name:
        raise SystemExit(f"{url}: not the address of a file")
    return url, name, int(size), sha256


def place(folder: Path, name: str) -> Path:
    """Return where a file belongs: a template's in the folder of its template and cohort."""
    entities = name.split("_")
    if not name.startswith("tpl-") or len(entities) == 1:
        return folder / name
    inside = [e for e in entities[:2] if e.startswith(("tpl-", "cohort-"))]
    return folder.joinpath(*inside, name)


def fetch(url: str, size: int, sha256: str) -> bytes:
    """Return a file's content if it is what was promised."""
    trusted = ssl.create_default_context(cafile=AUTHORITIES if AUTHORITIES.is_file() else None)
    with urllib.request.urlopen(url, context=trusted) as answer:  # noqa: S310 - schemes are checked
        content = answer.read(size + 1)
    if len(content) != size:
        found = f"{len(content)} bytes" if len(content) < size else "more"
        raise SystemExit(f"{url}: {size} bytes were promised, {found} came")
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise SystemExit(f"{url}: SHA-256 {sha256} was promised, {found} came")
    return content


def main() -> None:
    """Fetch everything that is asked for; nothing is a valid wish."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for entry in " ".join(sys.argv[2:]).split():
        url, name, size, sha256 = parse(entry)
        file = place(folder, name)
        try:
            content = fetch(url, size, sha256)
        except OSError as err:
            raise SystemExit(f"{url}: {err}") from None
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o644)
        print(f"{file}: {size} bytes, as promised")


if __name__ == "__main__":
    main()
