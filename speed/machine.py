"""Describe the machine a figure was measured on, in one line."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """Return the processor, the number of cores, the load and the Python version."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor()
    load, cores = os.getloadavg()[0], os.cpu_count()
    return f"{cores} cores of {name}, load {load:.1f}, Python {platform.python_version()}"
