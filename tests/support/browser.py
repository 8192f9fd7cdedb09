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


def _asked(log: Path) -> list[str]:
    """URLs in Chromium's network log that a page began; the browser's own errands begin with no page."""
    content = json.loads(log.read_text())
    start = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begun = [event.get("params", {}) for event in content["events"] if event["type"] == start]
    return [params["url"] for params in begun if params.get("initiator", "not an origin") != "not an origin"]
