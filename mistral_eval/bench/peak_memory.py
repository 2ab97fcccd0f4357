"""Peak memory of a block of code, beyond what was held when it began.

On CUDA: the memory of torch's tensors. On Linux without CUDA: the process's resident memory, whose
high-water mark VmHWM is reset by writing 5 to /proc/self/clear_refs (proc(5)). Elsewhere: None.
"""

import ctypes
import gc
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"


class PeakWatch:
    """Measure the block `with PeakWatch(device) as watch`: `watch.growth` is in bytes, or None."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None = None
        self.growth: int | None = None

    def __enter__(self) -> Self:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        elif self._device.type == "cpu":
            _give_back()
            self._before = _reset_peak()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is None:
            return
        if self._device.type == "cuda":
            self.growth = torch.cuda.max_memory_allocated(self._device) - self._before
        else:
            self.growth = _kibibytes("VmHWM") - self._before


def _give_back() -> None:
    """Make glibc release freed memory, which would hide the next case's growth."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _reset_peak() -> int | None:
    """Reset the high-water mark and return resident bytes; None if the kernel lacks it."""
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        return _kibibytes("VmHWM")
    except OSError:
        return None


def _kibibytes(field: str) -> int:
    """Return one field of /proc/self/status, in bytes."""
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
