"""Whether memory can hold what is about to be loaded, asked before anything is read.

Sources: /proc/meminfo (MemAvailable), cgroup v2 memory.max, torch.cuda.mem_get_info.
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from mistral_eval.errors import ResourceError

TRY_TINY = "or try `--model tiny --data sample`"
GIB = 1 << 30


def available_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on `device`; None where the platform does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    limits = [free for free in (_machine_memory(), _cgroup_memory()) if free is not None]
    return min(limits, default=None)


def require_memory(needed: int, device: torch.device, what: str) -> None:
    """Stop before memory runs out.

    Raises:
        ResourceError: `device` has less than `needed` bytes free; `what` opens the sentence.
    """
    free = available_memory(device)
    if free is not None and needed > free:
        raise ResourceError(
            f"{what} needs {needed / GIB:.2f} GiB on {device} and {free / GIB:.2f} GiB are free: "
            f"free some, take a smaller --dtype or a larger machine, {TRY_TINY}."
        )


def _machine_memory() -> int | None:
    """MemAvailable on Linux, all of the memory on another POSIX system."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def memory_limit(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """A container's limit in bytes; None where there is none."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(limit) if limit.isdigit() else None


def _cgroup_memory(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves, file pages that can be dropped not counted as used."""
    limit = memory_limit(folder)
    try:
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        stat = (folder / "memory.stat").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    if limit is None:
        return None
    pages = dict(zip(stat[::2], stat[1::2], strict=False))
    return max(0, limit - used + int(pages.get("inactive_file", "0")))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`; the same tensor where that is the host."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class HostCopy:
    """A tensor on its way to the host: reading waits for it alone, not for what is queued after."""

    def __init__(self, tensor: Tensor) -> None:
        """Begin the copy."""
        self._host = tensor
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> Tensor:
        """The tensor on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
