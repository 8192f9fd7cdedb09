"""Fill `.whl/` with what a bare machine with a GPU and torch lacks, for it cannot fetch anything: `make gpu-wheels`.

Pure-Python wheels of the versions that constraints.txt pins, 7 MB: what training on the digits, the benchmark
(diffusers for the decoder) and the tests marked gpu import beside torch, numpy, scipy, scikit-learn, pandas,
safetensors, pillow, PyYAML, rich, huggingface-hub, pytest, pytest-timeout and hypothesis, which such machines have.
There, in a checkout:

    python3 -m pip install --no-index --no-deps .whl/*.whl
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.setup_venv import ROOT, pinned

PACKAGES = (
    *("omegaconf", "hydra-core", "antlr4-python3-runtime", "diffusers", "importlib-metadata"),
    *("submitit", "cloudpickle"),  # the launcher's options are its parameters
)
"""antlr4 comes as source only, so it is built here."""
WHEELS = ROOT / ".whl"


def fill(folder: Path) -> list[Path]:
    """Replaces the folder by one that holds the wheels, and nothing else; returns them.

    Raises CalledProcessError where pip fails, ValueError where a wheel would be for one machine only.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as temporary:
        made = Path(temporary) / "wheels"
        pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(made), *map(pinned, PACKAGES)], check=True)
        if others := [path.name for path in made.iterdir() if not path.name.endswith("-none-any.whl")]:
            raise ValueError(f"not for any machine: {', '.join(others)}")
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return sorted(folder.iterdir())


def main() -> int:
    try:
        wheels = fill(WHEELS)
    except (subprocess.CalledProcessError, ValueError) as error:
        print(f"gpu-wheels: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in wheels)
    print(f"gpu-wheels: {len(wheels)} wheels, {size / 1e6:.1f} MB, in {WHEELS.name}/", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
