"""`python tools/install.py slurm chromium fashion-mnist`: packages of Debian or Ubuntu that tests and tools need.

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

FASHION_MNIST = tuple(
    f"{split}-{what}-ubyte.gz" for split in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
)


def install(name: str, missing: Callable[[], list[str]], size: str, then: str, instead: str = "") -> int:
    """Installs what `missing()` names; returns an exit code. `size`: what it takes. `then`: what to do with it.
    `instead`: what to do where it cannot be installed."""
    code = _install(name, missing, size, then)
    if code and instead:
        fail(name, instead)
    return code


def _install(name: str, missing: Callable[[], list[str]], size: str, then: str) -> int:
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


def fashion_mnist() -> Path | None:
    """The folder of Debian's package, below the prefix that the system's data have; None: it is not installed."""
    folders = [Path(prefix) / "datasets" / "fashion-mnist" for prefix in data_folders()]
    return next((folder for folder in folders if all((folder / name).exists() for name in FASHION_MNIST)), None)


def data_folders() -> list[str]:
    """As the XDG base directory specification has them."""
    return (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(os.pathsep)


def missing_fashion_mnist() -> list[str]:
    return [] if fashion_mnist() else ["dataset-fashion-mnist"]


if __name__ == "__main__":
    if sys.argv[1:] == ["--where"]:
        print(fashion_mnist() or "")
        sys.exit()
    files = f"{', '.join(FASHION_MNIST[:-1])} and {FASHION_MNIST[-1]}"
    wanted = {
        "fashion-mnist": (
            missing_fashion_mnist,
            "31 MB on disk",
            "make fashion",
            f"or put {files} into a folder, and say make fashion FASHION=<that folder>",
        ),
        "slurm": (missing_packages, "about 210 MB, half a minute", "python tools/devcluster up"),
        "chromium": (missing_browser, "about 110 MB to fetch, 350 MB on disk", "the tests look at reports with it"),
    }
    sys.exit(max(install(name, *wanted[name]) for name in sys.argv[1:]))
