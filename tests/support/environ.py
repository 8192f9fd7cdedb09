"""The environment that another process was started with."""

import time
from pathlib import Path


def environment_of(pid: int) -> dict[str, str]:
    """Read from /proc, once the kernel has laid it down.

    ``subprocess.Popen`` returns when exec has closed its pipe, which the kernel does a little before the new program's
    environment can be read: until then the file is empty. Whoever needs it calls this first.
    """
    path = Path(f"/proc/{pid}/environ")
    while not (raw := path.read_bytes()):
        time.sleep(0.001)
    return dict(line.decode().split("=", 1) for line in raw.split(b"\0") if b"=" in line)
