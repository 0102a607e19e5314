"""Look through a saved image for what belongs to the machine that built it.

    python3 .ci/layers.py IMAGE.tar

IMAGE.tar is what ``docker save`` or ``podman save`` writes. Searched in every
layer, deleted files included, and in the image's configuration: this checkout's
path, this machine's name, the hosts and folders that pip is configured with,
proxies, values of secret-looking variables, and certificates that are not public.
What to look for is found out when the script runs, and only its kind is printed.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import socket
import sys
import tarfile
from pathlib import Path
from urllib.parse import urlsplit

import pipconf

PUBLIC = {"pypi.org", "files.pythonhosted.org", "localhost", "127.0.0.1"}
PUBLIC_CERTIFICATES = Path("/usr/share/ca-certificates")
LENT = re.compile(
    r"(^|/)(pip\.conf|pip/|ca\.crt|run/secrets/.+|\.netrc|\.git-credentials|\.pypirc)$"
)
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY")
PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\n(.+?)-----END", re.S)


def hosts(text: str) -> set[str]:
    """Return the hosts of all addresses in a text."""
    found = {urlsplit(word).hostname for word in text.split() if "://" in word}
    return {host for host in found if host} - PUBLIC


def certificates(trusted: Path) -> list[bytes]:
    """Return a line out of the middle of each certificate that the public does not have."""
    from pip._vendor import certifi

    public = Path(certifi.where()).read_bytes()
    public += b"".join(p.read_bytes() for p in sorted(PUBLIC_CERTIFICATES.rglob("*.crt")))
    known = {"".join(body.decode().split()) for body in PEM.findall(public)}
    bodies = [body.decode().split() for body in PEM.findall(trusted.read_bytes())]
    return [lines[len(lines) // 2].encode() for lines in bodies if "".join(lines) not in known]


def needles() -> dict[bytes, str]:
    """Return what must not be found, each with its kind."""
    options = pipconf.settings()
    found = {str(Path(__file__).resolve().parents[1]): "the checkout's path"}
    names = {socket.gethostname(), socket.getfqdn()} - PUBLIC  # a machine may have no other name
    found |= dict.fromkeys(names, "this machine's name")
    found |= dict.fromkeys(pipconf.folders(options), "a folder of pip's configuration")
    for name, value in options.items():
        found |= dict.fromkeys(hosts(value), f"a host of pip's {name}")
    for name, value in os.environ.items():
        if name.lower().endswith("_proxy"):
            found |= dict.fromkeys(hosts(value), f"the host of {name}")
        elif SECRET.search(name.upper()) and not value.startswith("/"):
            found[value] = f"the value of {name}"
    # Short words are found everywhere and prove nothing.
    wanted = {text.encode(): kind for text, kind in found.items() if len(text) > 5}
    trusted = Path(options.get("cert", ""))
    if trusted.is_file():
        wanted |= dict.fromkeys(certificates(trusted), "a certificate of this machine")
    return wanted


def search(name: str, content: bytes, wanted: dict[bytes, str]) -> list[str]:
    """Return a line per needle in a layer, or in another file of the image."""
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    hits = [(content.find(needle), kind) for needle, kind in wanted.items()]
    hits = [(at, kind) for at, kind in hits if at >= 0]
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as layer:
            members = layer.getmembers()
    except tarfile.TarError:
        return [f"{name}: {kind}" for _, kind in hits]
    problems = [f"{name}: {m.name}: lent to the build" for m in members if LENT.search(m.name)]
    for at, kind in hits:
        inside = [m.name for m in members if m.offset <= at]
        problems.append(f"{name}: {inside[-1] if inside else '?'}: {kind}")
    return problems


def main() -> int:
    """Search the image; return how many findings there are, at most 1."""
    wanted = needles()
    problems: list[str] = []
    layers = 0
    with tarfile.open(sys.argv[1]) as image:
        for member in image.getmembers():
            file = image.extractfile(member) if member.isfile() else None
            if file is not None:
                layers += 1
                problems += search(member.name, file.read(), wanted)
    print("\n".join(problems) or f"{layers} layers and files: none of {len(wanted)} things found")
    return int(bool(problems))


if __name__ == "__main__":
    raise SystemExit(main())
