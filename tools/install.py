"""`python tools/install.py slurm chromium`: packages of Debian or Ubuntu that tests and tools need.

Standard library only. It takes root's rights, or sudo's without a password, and changes no setting of the machine. It
starts no service (where systemd runs, SLURM's packages themselves may start munge's and MariaDB's own, which the
development cluster does not use).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.devcluster.system import missing_packages


def install(name: str, missing: Callable[[], list[str]], size: str, then: str) -> int:
    """Installs what `missing()` names; returns an exit code. `size`: what it takes. `then`: what to do with it."""
    packages = missing()
    if not packages:
        print(f"{name}: installed: {then}", flush=True)
        return 0
    command = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        return fail(name, f"no apt-get here: install what Debian calls {' '.join(packages)} in your system's way")
    if os.geteuid() == 0:
        rights = []
    elif shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        rights = ["sudo", "-n"]
    else:
        return fail(name, f"only root can install packages: {command}")
    started = time.monotonic()
    print(f"{name}: installing {' '.join(packages)} ({size})", flush=True)
    apt = [*rights, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]
    line = [*apt, "install", "-y", "--no-install-recommends", *packages]
    done = run(line)
    if done.returncode != 0:  # the package lists are missing or old
        print(f"{name}: bringing the package lists up to date", flush=True)
        run([*apt, "update"])
        done = run(line)
    if done.returncode != 0:
        return fail(name, "\n    ".join([f"{command} failed:", *done.stdout.splitlines()[-5:]]))
    if still := missing():
        return fail(name, f"apt-get installed them, but programs of {' '.join(still)} are not found on PATH")
    print(f"{name}: installed in {time.monotonic() - started:.0f} s: {then}", flush=True)
    return 0


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )


def fail(name: str, text: str) -> int:
    print(f"{name}: {text}", file=sys.stderr)
    return 1


def missing_browser() -> list[str]:
    """For the tests that look at reports."""
    return [] if shutil.which("chromium") else ["chromium"]


if __name__ == "__main__":
    wanted = {
        "slurm": (missing_packages, "about 210 MB, half a minute", "python tools/devcluster up"),
        "chromium": (missing_browser, "about 110 MB to fetch, 350 MB on disk", "the tests look at reports with it"),
    }
    sys.exit(max(install(name, *wanted[name]) for name in sys.argv[1:]))
