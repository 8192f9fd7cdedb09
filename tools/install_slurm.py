"""Install what `tools/devcluster` needs: a real SLURM from the packages of Debian or Ubuntu.

It starts no service (where systemd runs, the packages themselves may start munge's and MariaDB's own, which the
development cluster does not use).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.apt import install
from tools.devcluster.system import missing_packages

if __name__ == "__main__":
    sys.exit(install("slurm", missing_packages, "about 210 MB, half a minute", "python tools/devcluster up"))
