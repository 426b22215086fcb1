"""Memory of a process, and how it grows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith("VmRSS:"))
    return round(int(found.split()[1]) / 1024, 2)


def growth_mb_per_hour(samples: Sequence[tuple[float, float]], warm_up: float) -> float | None:
    """Return the slope of memory over time, by least squares, after the first `warm_up` seconds.

    Args:
        samples: seconds and MB.
    """
    late = [(seconds, size) for seconds, size in samples if seconds >= warm_up]
    if len(late) < 3:
        return None
    seconds, sizes = np.array(late).T
    slope, _ = np.polyfit(seconds, sizes, 1)
    return round(float(slope) * 3600, 3)
