"""Memory of host and devices: how much is free, and copies that do not wait.

Sources: /proc/meminfo (MemAvailable), /proc/self/status (proc(5)), cgroup v2 memory.max,
torch.cuda.mem_get_info.
"""

import ctypes
import os
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor

from mistral_eval.errors import ResourceError

TRY_TINY = "or try `--model tiny --data sample`"
GIB = 1 << 30
_shared = {"processes": 1}


def available_memory(device: torch.device) -> int | None:
    """Return the free bytes on `device`; None if the platform does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    limits = [free for free in (_machine_memory(), _cgroup_memory()) if free is not None]
    return min(limits, default=None)


def total_bytes(device: torch.device) -> int:
    """Return a device's total memory in bytes, within the container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, memory_limit() or machine)


def free_bytes(device: torch.device) -> int:
    """Return a device's free memory in bytes; half of its total if the platform does not tell."""
    free = available_memory(device)
    return total_bytes(device) // 2 if free is None else free


def share_memory(processes: int) -> None:
    """Let this process and those that it forks use a part of the machine's memory each.

    Args:
        processes: how many of them work at the same time.
    """
    _shared["processes"] = processes


def sharing_processes(device: torch.device) -> int:
    """Return how many processes share a device's memory, this one included; see `share_memory`."""
    return _shared["processes"] if device.type == "cpu" else 1


def peak_bytes() -> int:
    """Return this process's peak resident memory in bytes.

    On Linux it is VmHWM: getrusage's ru_maxrss survives exec(), so that in a process started
    with vfork(), as subprocess does, it is at least the peak of the program that started it.
    Elsewhere it is ru_maxrss, which macOS counts in bytes and others in KiB.
    """
    try:
        return status_bytes("VmHWM")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def status_bytes(field: str) -> int:
    """Return one field of /proc/self/status, in bytes.

    Raises:
        OSError: there is no such file or field (not Linux).
    """
    for line in Path("/proc/self/status").read_text("ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no field {field}")


def trim_heap() -> None:
    """Make glibc give memory that was freed back to the system, which it does not by itself."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def fits(needed: int, device: torch.device) -> bool:
    """Return whether `needed` bytes are free on `device`, or the platform does not tell."""
    free = available_memory(device)
    return free is None or needed <= free


def resident_bytes() -> int:
    """Return this process's resident memory in bytes; where Linux does not tell, its peak."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return peak_bytes()
    return int(pages) * resource.getpagesize()


def require_memory(needed: int, device: torch.device, what: str) -> None:
    """Check that `needed` bytes are free on `device`.

    Raises:
        ResourceError: fewer are free; the sentence begins with `what`.
    """
    if not fits(needed, device):
        free = free_bytes(device)
        raise ResourceError(
            f"{what} needs {needed / GIB:.2f} GiB on {device} and {free / GIB:.2f} GiB are free: "
            f"free some, take a smaller --dtype or a larger machine, {TRY_TINY}."
        )


def _machine_memory() -> int | None:
    """Return MemAvailable on Linux, the total memory on other POSIX systems."""
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
    """Return a container's memory limit in bytes; None if there is none."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(limit) if limit.isdigit() else None


def _cgroup_memory(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes below a container's limit; droppable file pages count as free."""
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
    """Copy a host tensor to `device` without waiting; return the tensor itself on the host.

    On CUDA a copy from or to pageable memory waits for all queued work; one from or to pinned
    memory is queued.
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class HostCopy:
    """A tensor being copied to the host; reading waits for it but not for later work."""

    def __init__(self, tensor: Tensor) -> None:
        """Start the copy."""
        self._host = tensor
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> Tensor:
        """Return the tensor on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
