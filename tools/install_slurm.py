"""Install what `slurm/devcluster.py` needs: a real SLURM from the packages of Debian or Ubuntu.

Standard library only. It takes root's rights, or sudo's without a password; it starts no service and changes no
setting of the machine (where systemd runs, the packages themselves may start munge's and MariaDB's own services,
which the development cluster does not use).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "slurm"))
from devcluster_system import missing_packages


def main() -> int:
    missing = missing_packages()
    if not missing:
        say("SLURM is installed: python slurm/devcluster.py up")
        return 0
    command = f"apt-get install --no-install-recommends {' '.join(missing)}"
    if shutil.which("apt-get") is None:
        return fail(f"there is no apt-get here: install what Debian calls {' '.join(missing)} in your system's way")
    if os.geteuid() == 0:
        rights = []
    elif shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        rights = ["sudo", "-n"]
    else:
        return fail(f"only root can install packages: {command}")
    started = time.monotonic()
    say(f"installing {' '.join(missing)} (about 210 MB, half a minute)")
    apt = [*rights, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]
    install = [*apt, "install", "-y", "--no-install-recommends", *missing]
    done = run(install)
    if done.returncode != 0:  # the package lists are missing or old
        say("bringing the package lists up to date")
        run([*apt, "update"])
        done = run(install)
    if done.returncode != 0:
        return fail("\n    ".join([f"{command} failed:", *done.stdout.splitlines()[-5:]]))
    if still := missing_packages():
        return fail(f"apt-get installed them, but programs of {' '.join(still)} are not found on PATH or in /usr/sbin")
    say(f"installed in {time.monotonic() - started:.0f} s: python slurm/devcluster.py up")
    return 0


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )


def say(text: str) -> None:
    print(f"slurm: {text}", flush=True)


def fail(text: str) -> int:
    print(f"slurm: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
