"""Which workers a run's `--workers` asks for."""

import os
import resource
from typing import Final

from mistral_eval.console import counted
from mistral_eval.engines.cluster.worker_messages import Pool
from mistral_eval.engines.devices import choose_device
from mistral_eval.engines.interface import Say
from mistral_eval.errors import UsageError
from mistral_eval.settings import AUTO, MODEL_FREE, RAY_PREFIX, RunSettings

OTHER_FILES: Final = 128  # that a process has open besides one for each worker
# Engines whose weights lie in ordinary memory, which forked workers share.
_IN_MEMORY: Final = ("auto", "native", "hf")


def has_workers(settings: RunSettings) -> bool:
    """Return whether a run's requests are answered by several processes."""
    asked = settings.workers
    if asked is None:
        return False
    return asked.startswith(RAY_PREFIX) or local_workers(settings) > 1


def local_workers(settings: RunSettings) -> int:
    """Return the number of processes on this machine; `auto` is one per CUDA device, or core."""
    if settings.workers != AUTO:
        return int(settings.workers or 1)
    devices = cuda_devices() if choose_device(settings.device).type == "cuda" else ()
    return len(devices) or cores()


def check_workers(settings: RunSettings) -> None:
    """Check that the engine can be in several processes, before anything is loaded.

    Raises:
        UsageError: it cannot, or a single device is named for several workers.
        EngineError: Ray is not installed.
    """
    if settings.workers is None:
        return
    if settings.engine in MODEL_FREE or settings.engine == "server":
        what = "has no model" if settings.engine in MODEL_FREE else "has its own workers"
        raise UsageError(
            f"--workers spreads a model over processes, and --engine {settings.engine} {what}. "
            "Leave out --workers."
        )
    if settings.workers.startswith(RAY_PREFIX):
        from mistral_eval.engines.cluster.ray_pool import check_ray

        check_ray()
        return
    device = choose_device(settings.device)
    if ":" in settings.device and local_workers(settings) > 1:
        raise UsageError(
            f"--workers takes one device each, and --device {settings.device} names a single one. "
            f"Give --device {device.type}."
        )
    if device.type == "cuda" and local_workers(settings) > len(cuda_devices()):
        raise UsageError(
            f"--workers {settings.workers} needs as many CUDA devices, and this machine has "
            f"{len(cuda_devices())}. Give a smaller number, or auto."
        )
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most != resource.RLIM_INFINITY and local_workers(settings) > most - OTHER_FILES:
        raise UsageError(
            f"--workers {settings.workers} needs an open file for each worker, and a process may "
            f"have {most} here. Give a smaller number, or raise the limit with `ulimit -n`."
        )


def make_pool(settings: RunSettings, say: Say) -> Pool:
    """Return the pool that the settings ask for; no worker has been started.

    Raises:
        EngineError: the Ray cluster cannot be reached.
    """
    assert settings.workers is not None
    if settings.workers.startswith(RAY_PREFIX):
        from mistral_eval.engines.cluster.ray_pool import RayPool

        return RayPool(settings, say)
    from mistral_eval.engines.cluster.local_pool import LocalPool

    size = local_workers(settings)
    if choose_device(settings.device).type == "cuda":
        say(f"Starting {size} workers, each with a CUDA device.")
        return LocalPool(size, threads_each(size), devices=cuda_devices()[:size], shares=False)
    threads = threads_each(size)
    say(f"Starting {size} workers with {counted(threads, 'thread')} each.")
    return LocalPool(size, threads, shares=settings.engine in _IN_MEMORY)


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_each(size: int) -> int:
    """Return the threads of each of so many workers: OMP_NUM_THREADS, or else the cores' share."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else max(1, cores() // size)


def cuda_devices() -> tuple[str, ...]:
    """Return the CUDA devices that this process sees, by their names in CUDA_VISIBLE_DEVICES."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given:
        return tuple(name.strip() for name in given.split(",") if name.strip())
    return tuple(str(n) for n in range(torch.cuda.device_count()))
