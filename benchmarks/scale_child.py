"""A participant's child for ``scale.py``: copies the first subject's results in a moment.

Any other task is done in earnest. Used as ``python -I -S scale_child.py DESCRIPTOR
TEMPLATE``: without the site packages it starts in no time.
"""

import io
import json
import os
import pickle
import sys

FIRST = "00001"


class Stub:
    """Takes the place of our classes, whose import would take most of the time."""


class Reader(pickle.Unpickler):
    """Reads a task without importing anything of ours."""

    def find_class(self, module: str, name: str) -> type:
        """Return a stub for each class of ours."""
        if module.startswith("h2lo_bids"):
            return type(name, (Stub,), {})
        return super().find_class(module, name)


def main(descriptor: int, template: str) -> None:
    """Do one task, as a child does."""
    content = sys.stdin.buffer.read()
    task = Reader(io.BytesIO(content)).load()
    if type(task).__name__ != "SubjectTask":
        again = os.memfd_create("task")
        os.write(again, content)
        os.lseek(again, 0, os.SEEK_SET)
        os.dup2(again, 0)
        command = [sys.executable, "-m", "h2lo_bids.cli.worker", str(descriptor)]
        os.execv(command[0], command)  # noqa: S606 - this very program
    with os.fdopen(descriptor, "w", buffering=1) as channel:
        copy(task, template, lambda event: channel.write(json.dumps(event) + "\n"))


def copy(task, template: str, send) -> None:
    """Write the first subject's results under another name, and tell of them."""
    old, new = f"sub-{FIRST}", f"sub-{task.subject}"
    for folder, _, names in os.walk(f"{template}/{old}"):
        target = str(task.settings.out_dir) + folder[len(template) :].replace(old, new)
        os.makedirs(target, exist_ok=True)  # noqa: PTH103 - pathlib takes longer to import
        for name in names:
            with open(f"{folder}/{name}", "rb") as stream:
                text = stream.read()
            if name.endswith((".json", ".svg")):
                text = text.replace(old.encode(), new.encode())
                text = text.replace(f'"{FIRST}"'.encode(), f'"{task.subject}"'.encode())
            with open(f"{target}/{name.replace(old, new)}", "wb") as stream:
                stream.write(text)
    for step in ("check", "conform", "brain", "normalise", "synthesize", "report"):
        send({"event": "step", "step": step})
        send({"event": "step", "step": step, "seconds": 0.1})
    for _ in task.scans:
        send({"event": "done", "scan": f"{new}/anat/{new}_T1w.nii"})
    send({"event": "end"})


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
