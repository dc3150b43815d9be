"""When this process began."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path


@cache
def find_process_start_s() -> float:
    """Seconds since the epoch; the time of the first call on systems without ``/proc``."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        boot_s = next(
            int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime ")
        )
    except (OSError, ValueError, IndexError, StopIteration):
        return time.time()
    return boot_s + ticks / os.sysconf("SC_CLK_TCK")
