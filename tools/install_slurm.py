"""Install what `slurm/devcluster.py` needs: a real SLURM from the packages of Debian or Ubuntu.

It starts no service (where systemd runs, the packages themselves may start munge's and MariaDB's own, which the
development cluster does not use).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parent.parent / "slurm"))
from apt import install
from devcluster_system import missing_packages

if __name__ == "__main__":
    sys.exit(install("slurm", missing_packages, "about 210 MB, half a minute", "python slurm/devcluster.py up"))
