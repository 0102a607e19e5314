"""Run every command of the documentation's pages on small made heads.

    python tests/page_commands.py [PAGE ...]

The ``bash`` and ``python`` blocks of a page run in order, in a fresh folder, and then what stands
between backticks in its text. PATH holds nothing but the programs below, so that a command that
is not among them fails. `SMALL` says which words are added to make a run short, `HOW` what is
done in place of a run, `ELSEWHERE` what needs a program or a network and is only listed. Where a
page names no model, one of few weights stands in for the embedded ones. Programs of ours run in
the process that reads the page, which has their libraries; `tests/cli` starts them as users do.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import chdir
from importlib import import_module
from itertools import pairwise
from multiprocessing.connection import Client, Listener
from pathlib import Path
from threading import Thread
from unittest.mock import patch

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = {"h2lo": "run", "h2lo-phantom": "phantom", "h2lo-slurm": "slurm"}
FIT = "--resolution 8 --validate-every 2"
SMALL = {
    "participant": "--sloppy",
    "participant enhance": "",
    "participant pairs": "--resolution 8",
    "trial": "--sloppy --realisations 2",
    "group": f"{FIT} --folds 0 --steps 4 --crop 12",
    "benchmark": f"{FIT} --folds 2 --steps 4 --method arnold",
    "group enhance": f"{FIT} --folds 0 --schedule-factor 0.01 --features 2",
    "benchmark enhance": f"{FIT} --folds 2 --schedule-factor 0.01 --features 2 --arm real arnold",
    "h2lo-phantom": "--subjects 1 --resolution 4 --lesion-diameter 8",
}
HOW = {
    "index.md": "parse: README.md begins with the same",
    "results.md": "parse: its data are 23 simulated people of SynthSeg's maps, its runs take hours",
    "reproduce-": "dry-run: on ds006557's names without its images",
    "--synthstrip-weights": "parse: FreeSurfer's weights are not at hand",
    "--labels DIR": "parse: SynthSeg's label maps are not at hand",
    "/path/to/": "parse: the reader's own folders",
    "--reports-only": "parse: it takes an unpacked zip of BABS",
}
# `.ci` runs what installs and containers, tests/cli/test_slurm_real.py arrays; docs/packs.md says
# what was tried with the last two, and the others need the network.
ELSEWHERE = ("pip", "bash", ".ci/container", "docker", "podman", "apptainer", "singularity")
ELSEWHERE += ("sbatch", "datalad", "git", "nipoppy", "babs")
CHECKED = ("make", "python", ".venv/bin/python")
LEVELS = (["participant"], ["group"], ["evaluate"], ["benchmark"], ["trial"])
TASK = {"PBS_ARRAY_INDEX": "0", "SGE_TASK_ID": "1", "SLURM_ARRAY_TASK_ID": "0"}
FENCE = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:h2lo|h2lo-phantom|h2lo-slurm|make) [^`\n]*)`")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and text of each block, and at last what the text names."""
    text = page.read_text(encoding="utf-8")
    found = FENCE.findall(text)
    named = [line for line in INLINE.findall(text) if not re.search(r"\.\.\.|…|\bLEVEL\b", line)]
    return [*found, ("inline", "\n".join(named))] if named else found


def run_page(page: Path, data: Path, folder: Path) -> list[str]:
    """Run a page in a folder; return a line for each command: what was done with it."""
    shutil.copytree(data, folder, symlinks=True)
    if page.name.startswith("reproduce-"):
        from skeletons import HYPE, ds006557, get

        ds006557(folder / "ds006557", HYPE, mrr=True)
        get(folder / "ds006557", "")
    for name in (*MODULES, *ELSEWHERE, *CHECKED):
        place = folder / name if "/" in name else folder / "bin" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} --as {name} "$@"\n')
        place.chmod(0o755)
    log = folder / "log"
    env = {
        **os.environ, **TASK, "PATH": str(folder / "bin"), "PYTHONPATH": str(ROOT),
        "REAL_PATH": os.environ["PATH"], "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1",
        "PAGE": page.name, "LOG": str(log),
    }  # fmt: skip
    for language, text in blocks(page):
        # Places of the examples lie in the folder, `...` stands for further options, and Python
        # takes the small model that commands get for the embedded one.
        text = re.sub(r"(?<![\w:])/(?=(?:data|opt)/)", f"{folder}/", text)
        text = re.sub(r" \.\.\.$", "", text, flags=re.MULTILINE)
        text = text.replace('load_model("T1w")', 'load_model("untrained/T1w/whole")')
        words = [sys.executable, "-c"] if language == "python" else ["/bin/bash", "-euc"]
        code, out, err = run_block([*words, text], folder, {**env, "BLOCK": language})
        if code:
            raise SystemExit(f"{page.name}:\n{text}\n{out[-2000:]}{err[-2000:]}")
        if language == "python":
            with log.open("a") as file:
                file.write(f"run: {text.splitlines()[0]} ...\n")
    return log.read_text().splitlines() if log.exists() else []


def run_block(words: list[str], folder: Path, env: dict[str, str]) -> tuple[int, str, str]:
    """Run a block, and here what it asks for of ours; return its code, output and errors."""
    with Listener(family="AF_UNIX") as server:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        env = {**env, "SERVER": str(server.address)}
        block = subprocess.Popen(words, cwd=folder, env=env, **pipes)

        def wait() -> None:
            texts = block.communicate()
            with Client(server.address) as end:
                end.send((block.returncode, *texts))

        Thread(target=wait).start()
        while True:
            with server.accept() as client:
                asked = client.recv()
                if isinstance(asked[0], int):
                    return asked
                client.send(run_here(*asked))


def run_here(name: str, words: list[str], folder: str, env: dict[str, str]) -> tuple:
    """Run one of our programs in this process, as in that folder and environment."""
    from heads import call

    program = import_module(f"h2lo_bids.cli.{MODULES[name]}").main
    tempfile.gettempdir()  # which Python asks for once: not the page's folder
    own = patch.dict(os.environ, {**env, "PATH": env["REAL_PATH"]}, clear=True)
    with chdir(folder), own:
        return call(*words, program=program)


def make_data(folder: Path) -> None:
    """Write what the pages' examples name: two datasets, masks, a model, and an external tool."""
    import nibabel as nib
    from heads import BAD, write_pairs, write_whole_bundle

    for contrast in ("T1w", "T2w"):
        write_whole_bundle(folder / "untrained" / contrast, contrast)
    write_pairs(folder / "BIDS", subjects=7)
    shutil.rmtree(folder / f"BIDS/sub-{BAD}")
    (folder / "COHORT").mkdir()
    for name in ("dataset_description.json", "README"):
        shutil.copy(folder / "BIDS" / name, folder / "COHORT")
    for number in (6, 7):
        (folder / f"BIDS/sub-0{number}").rename(folder / f"COHORT/sub-0{number}")
        shutil.rmtree(folder / f"COHORT/sub-0{number}/ses-LF")
    derivatives = folder / "data/derivatives"
    masks = derivatives / "fmriprep/sub-01/ses-HF/anat"
    masks.mkdir(parents=True)
    shutil.copy(folder / "BIDS/dataset_description.json", derivatives / "fmriprep")
    scan = nib.load(folder / "BIDS/sub-01/ses-HF/anat/sub-01_ses-HF_T1w.nii.gz")
    mask = nib.Nifti1Image((scan.get_fdata() > 0).astype("uint8"), scan.affine)
    mask.to_filename(masks / "sub-01_ses-HF_desc-brain_mask.nii.gz")
    (folder / "data/bids").symlink_to("../BIDS")
    (folder / "data/other").symlink_to("../COHORT")
    (folder / "data/subjects.txt").write_text("01\n02\n")
    (folder / "MODEL").symlink_to("untrained/T1w/whole")
    shutil.copy(
        folder / "BIDS/sub-01/ses-HF/anat/sub-01_ses-HF_T1w.nii.gz", folder / "sub-01_T1w.nii.gz"
    )
    tool = folder / "opt/ulfsynth/bin/ulfsynth"
    tool.parent.mkdir(parents=True)
    tool.write_text('#!/bin/sh\nexec /bin/cp "$5" "$6"\n')
    tool.chmod(0o755)
    (tool.parent / "pip").symlink_to("../../../bin/pip")
    (folder / "tmp").mkdir()
    (folder / "bin").mkdir()
    for name in ("sed", "id"):
        (folder / "bin" / name).symlink_to(shutil.which(name) or name)


def stand_in(name: str, words: list[str]) -> int:
    """Do what is done of a command, and put that on record."""
    for word in words:
        if re.match(r"(docs|tests|benchmarks|\.ci)/", word) and not (ROOT / word).exists():
            raise SystemExit(f"{word}: there is no such file")
    if name in MODULES:
        return program(name, words)
    if name in CHECKED:
        return record(checked(name, words), name, words)
    inside = in_container(words) if name in ("docker", "podman", "apptainer") else None
    if inside:
        if inside[0][0] != "-" and not Path(inside[0]).is_dir():
            raise SystemExit(f"{inside[0]}: is not bound into the container")
        record("parse: the words inside", name, words)
        return parse("h2lo", inside)
    if name == "docker":
        known = re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for word, value in pairwise(words):
            if word == "--build-arg" and value.split("=")[0] not in known:
                raise SystemExit(f"{value}: the Dockerfile has no such argument")
    return record("elsewhere", name, words)


def record(how: str, name: str, words: list[str]) -> int:
    """Write down what was done."""
    what, _, why = how.partition(": ")
    with Path(os.environ["LOG"]).open("a") as file:
        file.write(f"{what}: {shlex.join([name, *words])}{why and f'  # {why}'}\n")
    return 0


def program(name: str, words: list[str]) -> int:
    """Run one of ours with the words that make it small, or have it take its words apart only."""
    told = " ".join([os.environ["PAGE"], name, *words])
    how = next((value for key, value in HOW.items() if key in told), "run")
    if os.environ["BLOCK"] == "inline" and (name != "h2lo" or words[2:3]):
        how = "parse: named in the text"
    if how.startswith("parse"):
        record(how, name, words)
        return parse(name, words)
    if words in LEVELS:  # named in the text
        words += ["--help"]
    elif name == "h2lo-phantom":
        words += shlex.split(SMALL[name])
    elif how.startswith("dry-run"):
        words += ["--dry-run"]
    elif name == "h2lo" and words[2:3]:
        kind = words[2] + " pairs" * ("--pairs" in words)
        kind += " enhance" * ("enhance" in words)
        if kind in ("participant", "trial") and not {*words} & {"--model", "--method"}:
            words += ["--model", *(f"{c}=untrained/{c}/whole" for c in ("T1w", "T2w"))]
        words += shlex.split(f"{SMALL[kind]} --nprocs 1 --omp-nthreads 1")
        if words[2] == "participant" and "--participant-label" not in words:
            words += ["--participant-label", min(Path(words[0]).glob("sub-*")).name]
    words = [word for word in words if word != "--submit"]
    record(how, name, words)
    with Client(os.environ["SERVER"]) as server:
        server.send((name, words, str(Path.cwd()), dict(os.environ)))
        code, out, err = server.recv()
    print(out, end="")
    print(err, end="", file=sys.stderr)
    return code


def parse(name: str, words: list[str]) -> int:
    """Parse a command line."""
    if name == "h2lo":
        from h2lo_bids.cli.parser import read_settings

        read_settings(words)
    else:
        import_module(f"h2lo_bids.cli.{MODULES[name]}").build_parser().parse_args(words)
    return 0


def checked(name: str, words: list[str]) -> str:
    """Look whether a target, a file or the options of a command are there."""
    if name == "make":
        if not re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE):
            raise SystemExit(f"make {words[0]}: no such target")
        return "listed: the Makefile has the target"
    if words[:2] == ["-m", "venv"]:
        return "elsewhere"
    if words[:2] == ["-m", "pytest"]:
        return "listed: its files are there"
    first = next((n for n, word in enumerate(words) if n > 1 and word[0] == "-"), len(words))
    asked = [sys.executable, *words[:first], "--help"]
    text = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    if missing := [word for word in words if word[:2] == "--" and word not in text]:
        raise SystemExit(f"{words[0]}: has no {missing[0]}")
    return "help: its options are there"


def in_container(words: list[str]) -> list[str] | None:
    """Return the words of the program inside a container, with the places outside."""
    if words[0] not in ("run", "exec"):
        return None
    image = next(n for n, word in enumerate(words) if word in ("h2lo", "h2lo.sif"))
    bound = [v for o, v in pairwise(words[:image]) if o in ("-v", "-B")]
    places = {(parts := value.split(":"))[min(1, len(parts) - 1)]: parts[0] for value in bound}
    inside = words[image + 1 + (words[0] == "exec") :]
    return [places.get(word, word) for word in inside]


def main() -> int:
    """Run the pages that are named, or all."""
    if sys.argv[1:2] == ["--as"]:
        return stand_in(sys.argv[2], sys.argv[3:])
    if "--help" in sys.argv:
        print(__doc__)
        return 0
    with tempfile.TemporaryDirectory() as place:
        make_data(Path(place) / "data")
        for page in map(Path, sys.argv[1:]) if sys.argv[1:] else PAGES:
            lines = run_page(page.resolve(), Path(place) / "data", Path(place) / page.stem)
            print(f"== {page.name}", *lines, sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.path += map(str, (ROOT, *(path for path in TESTS.rglob("*") if path.is_dir())))
    sys.exit(main())
