"""A page in a real browser: Chromium without a window, with no way out to a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@dataclass
class Seen:
    """What a browser made of a page."""

    pixels: np.ndarray
    """(height, width, 3), uint8."""
    console: list[str]
    """Messages of the page, errors of loading among them."""
    requests: list[str]
    """Addresses that the page asked for beside its own file, answered or not."""

    def share(self, colour: str, within: int = 12) -> float:
        """Of all pixels those near a colour such as `#0072B2`."""
        wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
        return float((np.abs(self.pixels.astype(int) - wanted).max(axis=2) <= within).mean())


def look_at(page: Path, scratch: Path, width: int = 1280, height: int = 4000) -> Seen:
    """Opens a file and takes a picture. Skips the test without Chromium, but fails where CI=true."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI=true and no chromium: python tools/install.py chromium")
        pytest.skip("no chromium: python tools/install.py chromium")
    picture, log = scratch / "page.png", scratch / "net.json"
    words = [
        *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
        *("--hide-scrollbars", "--force-color-profile=srgb", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *("--enable-logging=stderr", f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={log}"),
        *(f"--window-size={width},{height}", "--virtual-time-budget=2000", f"--screenshot={picture}", page.as_uri()),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, errors="replace")
    assert picture.exists(), done.stderr[-2000:]
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    console = re.findall(r"CONSOLE[^\]]*\] (.*)", done.stderr)
    return Seen(pixels, console, _asked(log))


MEASURE = """<script>
addEventListener("load", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
  const width = document.documentElement.clientWidth, scrolled = [], out = [];
  const scrolls = (one) => ["auto", "scroll"].includes(getComputedStyle(one).overflowX);
  for (const one of document.body.querySelectorAll("*")) {
    if (scrolls(one) && one.scrollWidth > one.clientWidth + 1) scrolled.push(one.innerText.slice(0, 60));
    let inside = false;
    for (let up = one.parentElement; up; up = up.parentElement) inside ||= up !== document.body && scrolls(up);
    if (!inside && one.getBoundingClientRect().right > width + 1) out.push(one.tagName + " " + one.className);
  }
  console.log("MEASURED" + JSON.stringify({width, scrolled, out}));
});
</script>"""


@dataclass
class Measured:
    """How a page fits into its window, everything folded unfolded."""

    width: int
    """In CSS pixels."""
    scrolled: list[str]
    """The first words of what scrolls sideways inside itself."""
    out: list[str]
    """Tag and class of what stands out of the page on the right, and is cut."""


def measure(page: Path, scratch: Path, width: int, printed: bool = False) -> Measured:
    """Lays a page out at a width, narrower than a window of Chromium's can be too.

    printed: by its style for paper. The script that measures goes into a copy, which is told to let it.
    """
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    assert "</head>" in text
    text = text.replace("@media print", "@media all") if printed else text
    inner, outer = scratch / "measured.html", scratch / "frame.html"
    inner.write_text(text.replace("</head>", f"{MEASURE}</head>"))
    outer.write_text(f'<iframe src="{inner.as_uri()}" style="border: 0; width: {width}px; height: 2000px"></iframe>')
    seen = look_at(outer, scratch)
    (line,) = [line for line in seen.console if "MEASURED" in line]
    return Measured(**json.loads(re.search(r"MEASURED(\{.*\})", line)[1].replace('\\"', '"')))


def _asked(log: Path) -> list[str]:
    """URLs in Chromium's network log that a page began; the browser's own errands begin with no page."""
    content = json.loads(log.read_text())
    start = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begun = [event.get("params", {}) for event in content["events"] if event["type"] == start]
    return [params["url"] for params in begun if params.get("initiator", "not an origin") != "not an origin"]
