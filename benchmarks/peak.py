"""Peak memory of a benchmark's process."""

import resource
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Return the peak memory of this program. `getrusage` would include the process that started it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
