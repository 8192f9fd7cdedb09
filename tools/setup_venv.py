"""Make `.venv` and install fcdm into it, editable, with the pinned versions of constraints.txt.

Standard library only: it runs before anything is installed. Without an NVIDIA GPU it takes the CPU
build of torch: the one that find-links or the configured index offers, else PyTorch's CPU index. (The
default Linux wheel of torch brings gigabytes of CUDA libraries.)
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> int:
    if sys.version_info < (3, 11):
        return fail(f"fcdm needs Python 3.11 or newer, this is {platform.python_version()}: set PYTHON=python3.12")
    started = time.monotonic()
    environment = ROOT / ".venv"
    python = environment / "bin" / "python"
    stamp = environment / ".installed"
    wanted = "\n".join((ROOT / name).read_text() for name in ("pyproject.toml", "constraints.txt"))
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return 0
    if not python.exists():
        say("making .venv")
        try:
            venv.create(environment, with_pip=True, clear=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(environment, ignore_errors=True)
            return fail("python cannot make a virtual environment with pip: apt-get install python3-venv")
    try:
        install(python)
    except subprocess.CalledProcessError as error:
        return fail(f"installation failed: {' '.join(map(str, error.cmd))}")
    stamp.write_text(wanted)
    say(f"environment ready in {time.monotonic() - started:.0f} s: .venv")
    return 0


def install(python: Path) -> None:
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    # uv takes 20 s where pip takes 90 to 200; pip remains the fallback.
    uv = subprocess.run([*pip, "install", "-q", "uv"], capture_output=True).returncode == 0
    # --compile-bytecode: else the first command of a fresh environment spends half a minute on it, and every
    # one does where PYTHONDONTWRITEBYTECODE is set. pip does it by itself.
    fast = [str(python), "-m", "uv", "pip", "install", "--python", str(python), "--compile-bytecode"]
    installer = fast if uv else [*pip, "install"]
    environment = dict(os.environ)
    links = pip_setting(pip, "find-links")
    if uv and links:
        environment["UV_FIND_LINKS"] = ",".join(links.split())
    if uv and (index := pip_setting(pip, "index-url")):
        environment.setdefault("UV_DEFAULT_INDEX", index)
    if uv and (extra := pip_setting(pip, "extra-index-url")):
        environment.setdefault("UV_INDEX", extra)
        # As pip does: the best version of all indexes, not the first index that knows the name.
        environment.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    if needs_cpu_index(pip, constraints):
        say("no NVIDIA GPU: installing the CPU build of torch from PyTorch's CPU index")
        subprocess.run([*pip, "install", "--index-url", TORCH_CPU_INDEX, pinned("torch")], check=True)
    say(f"installing the packages with {'uv' if uv else 'pip'}")
    subprocess.run([*installer, *constraints, "-e", f"{ROOT}[dev]"], check=True, env=environment)
    # Without what it depends on: it wants torchvision, which does not import beside a CPU build of torch. The tests
    # hold our Inception to its module, which needs neither.
    subprocess.run([*installer, "--no-deps", pinned("torch-fidelity")], check=True, env=environment)


def pinned(package: str) -> str:
    """`torch==2.13.0`: the line of constraints.txt."""
    found = re.search(rf"^{package}==.*$", (ROOT / "constraints.txt").read_text(), re.M)
    assert found, f"constraints.txt pins {package}"
    return found[0]


def needs_cpu_index(pip: list[str], constraints: list[str]) -> bool:
    """True where the torch that pip would take here brings CUDA packages and there is no NVIDIA GPU."""
    if shutil.which("nvidia-smi") or platform.system() != "Linux":
        return False
    dry = [*pip, "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-"]
    found = subprocess.run([*dry, *constraints, "torch"], capture_output=True, text=True)
    if found.returncode != 0:
        return True
    needs = json.loads(found.stdout)["install"][0]["metadata"].get("requires_dist", [])
    return any(re.match(r"(nvidia|cuda)", need) for need in needs)


def pip_setting(pip: list[str], name: str) -> str:
    """A setting of pip's (environment first, then its configuration files), as pip itself reads it."""
    value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if value is not None:
        return value
    for scope in ("global", "user", "site", "install"):
        got = subprocess.run([*pip, "config", "get", f"{scope}.{name}"], capture_output=True, text=True)
        if got.returncode == 0:
            return got.stdout.strip()
    return ""


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def fail(text: str) -> int:
    print(f"setup: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
