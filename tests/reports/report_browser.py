"""A headless browser driven over a pipe: no driver program, no extra package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    # Nothing outside resolves, so an attempt fails at once and is seen.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)

OUTSIDE = (
    "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll,.plate')"
    " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
)
"""Lists what sticks out of the page, except within boxes that scroll by themselves."""

WEAK_TEXT = """(() => {
        const parse = c => c.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v =>
            v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
        const behind = e => { for (; e; e = e.parentElement) {
            const c = parse(getComputedStyle(e).backgroundColor);
            if (c.length === 3 || c[3] > .5) return c; } return [255, 255, 255]; };
        const weak = new Set();
        const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) {
            const e = walk.currentNode.parentElement;
            if (!walk.currentNode.data.trim() || e.closest('script,style')) continue;
            const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
            const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
            if (ratio < 4.5) weak.add(e.outerHTML.slice(0, 80) + ' ' + ratio);
        }
        return [...weak]; })()"""
"""Lists text whose contrast to what is behind it is below 4.5 (WCAG AA)."""


def find_chromium() -> str | None:
    """Name the browser's program, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Browser:
    """One page in one browser; a context manager.

    ``messages`` keeps every console message, exception and log entry,
    ``requests`` every address that the page asked for.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self.program, self.profile = program, profile
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._number, self._buffer, self._answers = 0, b"", {}  # type: ignore[var-annotated]
        self._session: str | None = None

    def __enter__(self) -> Browser:
        # The browser reads commands from descriptor 3 and answers on 4: move ours out of the way.
        pairs = [os.pipe(), os.pipe()]
        safe = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for pair in pairs for fd in pair]
        for pair in pairs:
            for descriptor in pair:
                os.close(descriptor)
        command_in, self._write, self._read, answer_out = safe

        def descriptors() -> None:
            os.dup2(command_in, 3)
            os.dup2(answer_out, 4)

        self._process = subprocess.Popen(
            [self.program, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
            preexec_fn=descriptors,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_in)
        os.close(answer_out)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        try:
            self.call("Browser.close")
            self._process.wait(20)
        except (OSError, RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda: self._answers.pop(message["id"], None))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, path: Path, *, width: int, height: int = 900, scheme: str = "light") -> None:
        """Load a file at a window size, and wait until all of it is there."""
        self.messages.clear()
        self.requests.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.prefer(**{"prefers-color-scheme": scheme})
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + 60
        while self.run("document.readyState + location.protocol") != "completefile:":
            if time.monotonic() > deadline:
                raise TimeoutError("the page did not load")
            time.sleep(0.05)
        self.run("Promise.all([...document.images].map(i => i.decode().catch(() => 0)))")

    def prefer(self, **features: str) -> None:
        """Set media features, e.g. ``prefers-reduced-motion``."""
        listed = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.call("Emulation.setEmulatedMedia", features=listed)

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript and give its value."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description"))
        return answer["result"].get("value")

    def press(self, key: str, code: str, number: int, text: str = "") -> None:
        """Press and release a key, as a user does."""
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, x: float, y: float) -> None:
        """Press and release the left button of the mouse."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, *, top: float = 0, height: float | None = None) -> None:
        """Save the page, or a band of it, as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": top, "width": size["width"], "scale": 1}
        clip["height"] = height or size["height"]
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _wait(self, ready: Any, seconds: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while (found := ready()) is None:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError("the browser does not answer")
            if select.select([self._read], [], [], 0.2)[0]:
                self._buffer += os.read(self._read, 1 << 16)
                *whole, self._buffer = self._buffer.split(b"\0")
                for raw in whole:
                    self._receive(json.loads(raw))
        return found

    def _receive(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if "id" in message:
            self._answers[message["id"]] = message
        elif message["method"] == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif message["method"] == "Runtime.consoleAPICalled":
            self.messages.append(str([item.get("value") for item in parameters["args"]]))
        elif message["method"] == "Runtime.exceptionThrown":
            self.messages.append(str(parameters["exceptionDetails"]))
        elif message["method"] == "Log.entryAdded":
            self.messages.append(parameters["entry"]["text"])
