"""A page in a headless browser, and what JavaScript finds there."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    # Nothing outside resolves, so an attempt fails at once and is seen.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--window-size=1400,1000", "--virtual-time-budget=20000", "--dump-dom",
)  # fmt: skip
DARK = "--blink-settings=preferredColorScheme=0"
LESS_MOTION = "--force-prefers-reduced-motion"

_CHECK = """
const seen = [];
addEventListener("error", e => seen.push(String(e.message)), true);
addEventListener("securitypolicyviolation", e => seen.push(e.violatedDirective));
addEventListener("load", async () => {
  await Promise.all([...document.images].map(i => i.decode().catch(() => 0)));
  const value = await (async () => { %s })().catch(e => ({ error: String(e) }));
  const asked = performance.getEntriesByType("resource").map(r => r.name);
  const outside = asked.filter(name => !name.startsWith("data:"));
  parent.postMessage(JSON.stringify({ value, seen, outside }), "*");
});
"""
_FRAME = """<!DOCTYPE html><body><script>addEventListener("message", e => {
  const answer = document.createElement("output");
  answer.textContent = e.data;
  document.body.append(answer);
});</script><iframe width="%d" height="900" srcdoc="%s"></iframe>"""

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


def look_at(
    program: str, folder: Path, page: str, body: str, *flags: str, width=1280, scripts=True
) -> SimpleNamespace:
    """Open a page in a frame, and run the body of a function there; its policy admits that alone.

    Given are its value, what was `seen`: errors and refusals by the policy, and requests.
    Without `scripts` the policy refuses the page's own.
    """
    check = _CHECK % body
    digest = base64.b64encode(hashlib.sha256(check.encode()).digest()).decode()
    own = r"script-src (&#39;[^;]*)"
    page = re.sub(own, f"script-src 'sha256-{digest}' " + r"\1" * scripts, page, count=1)
    page = page.replace("<meta name=", f"<script>{check}</script><meta name=", 1)
    path = folder / "frame.html"
    path.write_text(_FRAME % (width, html.escape(page)))
    words = [program, *FLAGS, *flags, f"--user-data-dir={folder}", path.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    (answer,) = re.findall(r"<output>(.*?)</output>", done.stdout, re.DOTALL)
    return SimpleNamespace(**json.loads(html.unescape(answer)))
