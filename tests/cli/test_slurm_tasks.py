"""A command line divided into tasks, and what of them a command given again finds done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from heads import make, record, write_bundle, write_dataset, write_pairs, write_scan
from prepared_pairs import write_pair
from skeletons import annex

from h2lo_bids.bids.discover import discover
from h2lo_bids.bids.pairs import discover_pairs
from h2lo_bids.cli.outputs import expected_outputs
from h2lo_bids.cli.parser import read_settings
from h2lo_bids.cli.slurm import main
from h2lo_bids.cli.slurm_tasks import Stage, stages_of
from h2lo_bids.errors import UsageError


@pytest.fixture
def dataset(tmp_path, capsys):
    """Return a function that writes scripts for a dataset of two, and what it says."""
    write_dataset(tmp_path / "bids", 2, suffixes=("T1w",))

    def run(*words: str, level: str = "participant", cluster: Sequence[str] = ()):
        out = tmp_path / "out"
        quick = ["--skull-strip", "skip", "--skip-bids-validation"]
        code = main([*cluster, str(tmp_path / "bids"), str(out), level, *quick, *words])
        said = capsys.readouterr()
        return code, said.out + said.err, next(iter((out / "logs" / "slurm").glob("*")), out)

    return run


def finish(folder: Path, name: str, code: int) -> None:
    """Do what a task does, up to its end."""
    out = folder.parents[2]
    make_outputs([str(out.parent / "bids"), str(out), "participant"], name)
    record(folder, "participant", name, f"{code} 5_0")


def make_outputs(words: list[str], name: str) -> None:
    """Touch what a dry run lists of a participant, which `test_outputs` compares with a run."""
    asked = read_settings([*words, "--skip-bids-validation"])
    listed = expected_outputs(asked, discover(asked))
    for item in listed:
        if item.source.startswith(f"{name}/"):
            make(item.path)


def done(words: list[str], folder: Path) -> list[list[bool]]:
    """Tell of each stage which tasks are done."""
    found = stages_of(read_settings(words), folder)
    return [[task.done for task in stage.tasks] for stage in found]


def test_a_rerun_submits_what_is_missing_and_what_is_older_than_its_input(dataset, tmp_path):
    make(mask := tmp_path / "masks/sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    model = write_bundle(tmp_path / "models/h2lo_T1w", "T1w")
    make(filters := tmp_path / "filters.json", 1e9, "{}")
    words = ("--derivatives", f"masks={tmp_path / 'masks'}", "--model", str(model.parent))
    words += ("--bids-filter-file", str(filters))
    code, said, folder = dataset(*words, cluster=["--requeue"])  # right before the input's folder
    assert "--signal=B:USR1@60" in (folder / "participant.sh").read_text()
    assert (code, said.splitlines()[0]) == (0, "participant: 2 of 2 tasks to submit")
    finish(folder, "sub-01", 0)
    finish(folder, "sub-02", 65)
    assert "1 of 2 tasks" in dataset(*words)[1]
    assert "array participant 0 1 " in (folder / "submit.sh").read_text()
    finish(folder, "sub-02", 0)
    assert "all 2 tasks are done" in dataset(*words)[1]
    assert len((folder / "failures.tsv").read_text().splitlines()) == 1  # that of before is gone
    # What a run on another dataset has replaced is done anew, too, and with --all everything.
    image, report = (
        folder.parents[2] / "sub-01" / name
        for name in ("anat/sub-01_desc-lowfield_T1w.nii.gz", "figures/sub-01_desc-report_T1w.json")
    )
    for spoil in (image.unlink, report.unlink, lambda: os.utime(image, (4e9, 4e9))):
        spoil()
        assert "1 of 2 tasks" in dataset(*words)[1]
        finish(folder, "sub-01", 0)
    os.utime(report, (4e9, 4e9))  # a page was made again
    assert "all 2 tasks are done" in dataset(*words)[1]
    assert "2 of 2 tasks" in dataset(*words, cluster=["--all"])[1]
    # So is what was corrected, or fitted anew.
    bids = tmp_path / "bids"
    make(bids / "T1w.json", 1e9, "{}")
    for path, count in (
        (mask, 1), (bids / "sub-02/anat/sub-02_T1w.nii.gz", 1),
        (bids / "sub-02/anat/sub-02_T1w.json", 1), (bids / "T1w.json", 2),
        (model / "metadata.json", 2), (filters, 2),
    ):  # fmt: skip
        os.utime(path, (4e9, 4e9))
        assert f"{count} of 2 tasks" in dataset(*words)[1], path
        os.utime(path, (1e9, 1e9))
    make(folder / "state/participant/.sub-01.begun", 2e9)  # and changed while it ran
    record(folder, "participant", "sub-01", when=3e9)
    os.utime(mask, (2.5e9, 2.5e9))
    assert "1 of 2 tasks" in dataset(*words)[1]


def test_the_mask_of_each_scan_that_is_fused_counts(tmp_path):
    words = [str(tmp_path / "bids"), str(tmp_path / "out"), "participant", "--task", "enhance"]
    words += ["--derivatives", f"masks={tmp_path / 'm'}", "--skip-bids-validation"]
    masks = []
    for way in ("axi", "cor", "sag"):
        write_scan(tmp_path / f"bids/sub-01/anat/sub-01_acq-{way}_T1w.nii.gz", tesla=0.064)
        masks += [tmp_path / f"m/sub-01/anat/sub-01_acq-{way}_desc-brain_mask.nii.gz"]
        make(masks[-1])
    make_outputs(words, "sub-01")
    record(tmp_path / "run", "participant", "sub-01")
    assert done(words, tmp_path / "run") == [[True]]
    for mask in masks:
        os.utime(mask, (4e9, 4e9))
        assert done(words, tmp_path / "run") == [[False]], mask
        os.utime(mask, (1e9, 1e9))


def test_what_no_task_tells_is_said_and_no_other_session_is_taken(dataset, tmp_path):
    bids = tmp_path / "bids"
    write_scan(bids / "sub-03/ses-B/anat/sub-03_ses-B_T1w.nii.gz")
    write_scan(bids / "sub-03/ses-C/anat/sub-03_ses-C_UNIT1.nii.gz")
    (bids / "sub-04" / "func").mkdir(parents=True)
    shutil.copytree(bids / "sub-02", bids / "sub_05")
    (bids / "participants.tsv").write_text("participant_id\nsub-01\nsub-77\n")
    code, said, folder = dataset()
    assert (code, "participant: 3 of 3 tasks to submit" in said) == (0, True)
    for text in (
        "/sub-04: no T1w or T2w image: no anat", "sub-03_ses-C_UNIT1.nii.gz",
        "sub_05 (did you mean sub-05?)", "without a folder: sub-77",
    ):  # fmt: skip
        (line,) = [line for line in said.splitlines() if text in line]
        assert line.startswith("h2lo-slurm: warning: ")
    # What leaves no task is an error.
    (bids / "sub-01/ses-A").mkdir()
    code, said, _ = dataset("--session-label", "a")
    assert (code, said.count("did you mean A?")) == (18, 1)
    assert said.splitlines()[-1].startswith("h2lo-slurm: error: ")
    # Of participants that are named, one lacks the session: its others are not taken instead.
    write_scan(bids / "sub-01/ses-A/anat/sub-01_ses-A_T1w.nii.gz")
    dataset("--session-label", "A", "--participant-label", "01", "03")
    tasks = (folder / "participant.tsv").read_text().splitlines()
    assert tasks[-1] == "sub-03\t--participant-label 03 --session-label A"
    assert any(t.endswith("\t--participant-label 01 --session-label A") for t in tasks)


def test_a_trial_is_an_array_of_participants_and_a_task_that_collects(tmp_path):
    write_dataset(tmp_path / "bids", 2, suffixes=("T1w",))
    words = [str(tmp_path / "bids"), str(tmp_path / "out"), "trial", "--labels", f"x={tmp_path}"]
    model = write_bundle(tmp_path / "model", "T1w")
    words += ["--condition", "thin", f"model={model}", "--skip-bids-validation"]
    run = tmp_path / "run"
    first, last = stages_of(read_settings(words), run)
    assert (first.name, last.name, last.settings.collect) == ("participant", "collect", True)
    assert [task.name for task in first.tasks] == ["sub-01", "sub-02"]
    for name in ("sub-01", "sub-02"):
        make_outputs(words, name)
    ratings = tmp_path / "out/trial/ratings/sub-02_T1w_x.tsv"
    (tmp_path / "out/trial.html").touch()
    for stage, name in (("participant", "sub-01"), ("participant", "sub-02"), ("collect",) * 2):
        record(run, stage, name)
    assert done(words, run) == [[True, True], [True]]
    lesions = tmp_path / "sub-01/anat/sub-01_desc-lesions_mask.nii.gz"
    make(lesions)
    for path, rest in ((lesions, True), (model / "metadata.json", False)):
        os.utime(path, (4e9, 4e9))  # drawn again, fitted again
        assert done(words, run) == [[False, rest], [False]]
        os.utime(path, (1e9, 1e9))
    os.utime(ratings, (4e9, 4e9))  # rated again since
    assert done(words, run) == [[True, True], [False]]
    ratings.unlink()
    assert done(words, run) == [[True, False], [False]]


def test_tasks_keep_their_lines_and_what_cannot_be_used_has_one(dataset, tmp_path):
    folder = dataset()[2]
    finish(folder, "sub-01", 0)
    write_scan(tmp_path / "bids/sub-00/anat/sub-00_T1w.nii.gz", seed=9)
    annex(tmp_path / "bids/sub-03/ses-A/anat/sub-03_ses-A_T1w.nii.gz")
    finish(folder, "sub-03_ses-A", 0)  # when its image was still there
    assert "3 of 4 tasks" in dataset(cluster=["--max-array", "2"])[1]
    lines = (folder / "participant.tsv").read_text().splitlines()
    assert lines == [
        *(f"sub-{n}\t--participant-label {n}" for n in ("01", "02", "00")),
        "sub-03_ses-A\t--participant-label 03 --session-label A",
    ]
    # An array counts from the line that its script is given.
    text = (folder / "submit.sh").read_text()
    assert 'array participant 0 1 "$@"\narray participant 2 0-1 "$@"\n' in text


def test_tasks_in_the_queue_are_left_alone(dataset, tmp_path, monkeypatch):
    folder = dataset()[2]
    job = f"h2lo-{folder.name.rpartition('-')[2]}"
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    # The second line of the list: of another run, of another stage, of an array from line 1.
    names = (f"{job[:-1]}x-participant-0/0/7", f"{job}-folds-0/0/8", f"{job}-participant-1/0/9")
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")  # as squeue does for users of such a shell
    hidden = '[ -z "$SQUEUE_STATES" ] || exit 0\n'
    squeue.write_text(f"#!/bin/bash\n{hidden}printf '%s\\n' " + " ".join(names) + "\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    assert "1 of 2 tasks" in dataset()[1]
    text = (folder / "submit.sh").read_text()
    assert 'array participant 0 0 "$@"' in text
    assert "jobs=:8:9 " in text
    squeue.write_text("#!/bin/bash\necho 'slurm_load_jobs error' >&2; exit 1\n")
    assert "warning: squeue ended with code 1 (slurm_load_jobs error): tasks" in dataset()[1]
    assert dataset(cluster=["--submit"])[0] == 75
    monkeypatch.setenv("PATH", str(tmp_path))  # as in a container
    assert "warning: squeue is not available: tasks in the queue would be" in dataset()[1]


def test_the_table_of_failures_has_what_each_task_recorded(dataset, tmp_path):
    for number in (3, 4, 5):
        write_scan(tmp_path / f"bids/sub-0{number}/anat/sub-0{number}_T1w.nii.gz", seed=number)
    folder = dataset()[2]
    header = "scan\tstep\terror\tmessage\tcrash_file\n"
    for name, job in (("1_x", "5_0"), ("2_x", "5_0"), ("3_x", "5_1"), ("4_x", None)):
        logs = tmp_path / "out" / "logs" / name
        logs.mkdir()
        logs.joinpath("config.toml").write_text(f'[run]\nslurm-job = "{job}"\n' if job else "x")
        row = f'sub-01_T1w\tcheck\tBadDataError\tit "broke" {name}\tn/a\n'
        logs.joinpath("failures.tsv").write_text(header + row)
    for name, state in {"1": "65 5_0", "2": "begun 5_1", "3": "137 5_4", "4": "1 5_9"}.items():
        record(folder, "participant", f"sub-0{name}", state)
    code, said, _ = dataset()
    assert code == 0
    assert f"4 tasks failed; table: {folder}/failures.tsv" in said
    rows = [line.split("\t") for line in (folder / "failures.tsv").read_text().splitlines()]
    # What a killed task had recorded before is not how it ended; one that never began is no row.
    assert [(*row[1:3], row[7]) for row in rows[1:]] == [
        ("sub-01", "65", 'it "broke" 2_x'),
        ("sub-02", "n/a", "killed or out of time; see its log"),
        ("sub-03", "137", "exit code 137; see its log"),
        ("sub-04", "1", "exit code 1; see its log"),  # such as an import that failed
    ]
    assert rows[2][3] == f"{folder}/log/participant-5_1.log"


def test_what_cannot_be_divided_is_refused_in_one_line(dataset):
    for words, level, text in (
        (("--time", "1 h"), "participant", "argument --time: '--time=1 h' is not an option"),
        (("--scratch", "${TMPDIR:-/tmp}"), "participant", "${TMPDIR:-/tmp}: give variables as $N"),
        (("--setup=x\ny",), "participant", "more than one line"),
        (("--image", "/no  x.sif"), "participant", "--image /no  x.sif: no such file"),
        ((), "evaluate", "evaluate is one job"),
    ):
        code, said, _ = dataset(level=level, cluster=words)
        assert (code, text in said, len(said.splitlines())) == (64, True, 1), said
    code, said, _ = dataset("--model", "x" * 300)
    assert (code, "File name too long; check" in said, len(said.splitlines())) == (66, True, 1)


# Fits divided into tasks: pairs, folds, and the one that collects.


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("raw") / "bids")


@pytest.fixture
def stages(raw, tmp_path, monkeypatch):
    """Return a function that divides a command line, with pairs that are all prepared."""
    monkeypatch.setattr("h2lo_bids.cli.pairs.find_missing", lambda settings, pairs, send: ())

    def divide(*words: str, bids: Path = raw) -> dict[str, Stage]:
        asked = read_settings([str(bids), str(tmp_path / "out"), *words, "--skip-bids-validation"])
        return {stage.name: stage for stage in stages_of(asked, tmp_path / "run")}

    return divide


def test_the_last_task_runs_again_when_something_it_made_is_gone_or_a_fold_is_newer(
    stages, raw, tmp_path
):
    out, words = tmp_path / "out", ("benchmark", "--folds", "2", "--method", "h2lo")
    words += ("--external", "theirs=cp {input} {output}")

    def collected(ended: str = "0") -> bool:
        record(tmp_path / "run", "collect", "collect", f"{ended} 9_0", 1000.0)
        return stages(*words)["collect"].tasks[0].done

    asked = read_settings([str(raw), str(out), *words, "--skip-bids-validation"])
    made = [item.path for item in expected_outputs(asked, discover_pairs(asked))]
    make(out / "folds/T1w/h2lo/fold-0/record.json")
    assert [task.done for task in stages(*words)["folds"].tasks] == [True, False]
    for path in made:
        make(path, 950.0)
    assert not collected("75")
    assert collected()
    for name in ("table1.html", "table1_T1w.md", "folds/T1w/theirs/fold-1/record.json"):
        (out / name).rename(out / "gone")
        assert not collected(), name
        (out / "gone").rename(out / name)
    assert collected()
    os.utime(out / "folds/T1w/h2lo/fold-1/record.json", (1001.0, 1001.0))
    assert not collected()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("group",), "--method h2lo"),
        (("group", "--task", "enhance"), ""),
        (("benchmark", "--method", "arnold", "identity"), "--method arnold"),
        (("benchmark", "--task", "enhance", "--arm", "flip-rotate", "real"), "--arm flip-rotate"),
    ],
)
def test_each_fold_is_a_task_and_the_last_fits_none(stages, words, named):
    found = stages(*words, "--folds", "2")
    first = found["folds"].tasks[0]
    assert list(found) == ["pairs", "folds", "collect"]
    assert " ".join(first.words) == " ".join(f"--contrast T1w {named} --fold 0".split())
    assert len(found["folds"].tasks) == (4 if words[0] == "benchmark" else 2)
    assert len({task.name for task in found["folds"].tasks}) == len(found["folds"].tasks)
    assert found["collect"].settings.collect
    assert not found["folds"].settings.collect


def test_a_rerun_while_some_pairs_are_prepared_submits_the_same_folds(stages, tmp_path):
    """Also where no GPU is, as on a login node."""
    words = ("benchmark", "--method", "arnold", "--folds", "2", "--device", "cuda")
    before = stages(*words)["folds"].tasks
    high = "bids:raw:sub-01/ses-HF/anat/sub-01_ses-HF_T1w.nii.gz"
    write_pair(tmp_path / "out", "01", 1, SourceScans=[high])
    assert stages(*words)["folds"].tasks == before


def test_arms_without_their_synthesis_models_are_refused_before_anything_is_submitted(
    stages, tmp_path
):
    (tmp_path / "cohort").mkdir()
    words = ("benchmark", "--task", "enhance", "--folds", "2")
    words += ("--pretrain-derivatives", str(tmp_path / "cohort"))
    with pytest.raises(UsageError, match=r"benchmark .*--method arnold --folds 2"):
        stages(*words, "--arm", "real", "arnold")
    assert stages(*words, "--arm", "real", "flip-rotate")["folds"]


def test_pairs_that_no_task_prepares_are_named(stages, raw, tmp_path, capsys):
    bids = shutil.copytree(raw, tmp_path / "bids")
    for label, broken in (("01", "HF"), ("02", "LF")):
        path = bids / f"sub-{label}/ses-{broken}/anat/sub-{label}_ses-{broken}_T1w.json"
        path.write_text("{")
    (bids / "sub-03/ses-LF/anat/sub-03_ses-LF_T1w.nii.gz").unlink()
    found = stages("participant", "--pairs", bids=bids)
    assert [task.name for task in found["pairs"].tasks] == ["sub-04", "sub-05"]
    said = capsys.readouterr().err.splitlines()
    for text in ("sub-01", "sub-02", "sub-03: no low-field T1w to go with ses-HF_T1w"):
        assert len([line for line in said if text in line]) == 1
