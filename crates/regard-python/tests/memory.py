"""The memory of this process, as Linux counts it. (What ``getrusage`` calls the peak begins with that of the parent.)"""

from pathlib import Path

import pytest

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def mib(entry):
    """``VmRSS``, what is in use, or ``VmHWM``, the most that was since :func:`grown` began."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 1024


def grown(call):
    """The most MiB that a call has in use above what there was."""
    if not STATUS.exists():
        pytest.skip("memory is counted as Linux shows it")
    RESET.write_text("5")
    before = mib("VmRSS")
    call()
    return mib("VmHWM") - before
