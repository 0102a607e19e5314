"""The lock files, the Dockerfile and apptainer.def agree with the package."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import h2lo_bids
from h2lo_bids.bids.dataset import BIDS_VERSION
from h2lo_bids.vocabulary import LEVELS

ROOT = Path(__file__).parents[2]


def _read(name):
    """Return each locked package with its version."""
    text = (ROOT / "requirements" / name).read_text()
    locked = re.findall(r"^([\w.-]+)==([^\s;]+)", text, flags=re.M)
    return {canonicalize_name(package): version for package, version in locked}


def test_locks_fulfil_what_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    common = _read("common.txt")
    torch = Requirement((ROOT / "requirements" / "torch.in").read_text().strip())
    (pin,) = torch.specifier
    common["torch"] = pin.version
    backend = project["build-system"]["requires"]
    for text in project["project"]["dependencies"] + backend:
        wanted = Requirement(text)
        version = common[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{wanted}: run requirements/lock"


def test_variants_differ_in_torch_alone():
    common, cuda = _read("common.txt"), _read("cuda.txt")
    assert not common.keys() & cuda.keys()
    assert f"torch=={cuda['torch']}" == (ROOT / "requirements" / "torch.in").read_text().strip()
    assert all(re.match("torch|triton|nvidia|cuda", name) for name in cuda)
    assert not any(re.match("nvidia|cuda|triton", name) for name in common)


def test_both_recipes_tell_of_the_same_levels_and_get_the_same_files():
    assert f"ARG VERSION={h2lo_bids.__version__}\n" in (ROOT / "Dockerfile").read_text()
    told = {"version": BIDS_VERSION, "levels": " ".join(LEVELS), "app": "h2lo-bids"}
    for name, line in (("Dockerfile", 'org.bids.{}="{}"'), ("apptainer.def", "org.bids.{} {}\n")):
        text = (ROOT / name).read_text()
        for label, value in told.items():
            assert line.format(label, value) in text, name
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    docker = {line[1:] for line in ignored if line.startswith("!")}
    recipe = (ROOT / "apptainer.def").read_text()
    assert docker == set(re.findall(r"^ +(\S+) /src/\1$", recipe, flags=re.M))
    base = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), flags=re.M)[1]
    assert f"BASE={base}\n" in recipe
