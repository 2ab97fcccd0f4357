"""Run a bench: refuse what does not fit, estimate the time, measure each case."""

import os
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from mistral_eval.bench import shared_prefix as prefix
from mistral_eval.bench.cases import BenchSettings, Case, Entry, entries
from mistral_eval.bench.measure import Speed, measure
from mistral_eval.bench.measurements import MIB, Found
from mistral_eval.bench.requirements import require, seconds_of
from mistral_eval.bench.shapes import Subject
from mistral_eval.model.memory import GIB
from mistral_eval.model.transformer import Transformer


class _Models:
    """Builds the model of each case; K and V weights for other KV heads are random."""

    def __init__(
        self, subject: Subject, weights: dict[str, Tensor], settings: BenchSettings
    ) -> None:
        self._subject, self._settings = subject, settings
        self._weights, self._heads = weights, subject.config.n_kv_heads
        self._others: dict[str, Tensor] = {}  # K and V with `_heads` heads

    def of(self, case: Case) -> Transformer:
        """Return the model of a case; holds K and V weights for at most one other head count."""
        config = case.config(self._subject.config, self._settings.contexts[-1])
        if case.n_kv_heads != self._heads:
            self._others, self._heads = {}, case.n_kv_heads
            if case.n_kv_heads != self._subject.config.n_kv_heads:
                self._others = self._drawn(case)
        return Transformer(config, self._weights | self._others, config.vocab_size)

    def counting(self) -> prefix.Counted:
        """Return the model with its own heads and the bench's window, counting its tokens."""
        base = self._subject.config
        context = self._settings.contexts[-1]
        case = Case(context, self._settings.window, base.n_kv_heads, True, 1, 1)
        config = case.config(base, context)
        return prefix.Counted(config, self._weights, config.vocab_size)

    def _drawn(self, case: Case) -> dict[str, Tensor]:
        """Draw random K and V projections: a checkpoint has none for another head count."""
        like = self._weights["tok_embeddings.weight"]
        config = case.config(self._subject.config, 1)
        names = [f"layers.{n}.attention.w{x}.weight" for n in range(config.n_layers) for x in "kv"]
        generator = torch.Generator(like.device).manual_seed(self._settings.seed)
        rows = case.n_kv_heads * config.head_dim
        return {
            name: torch.empty(rows, config.dim, dtype=like.dtype, device=like.device).normal_(
                0.0, 0.02, generator=generator
            )
            for name in names
        }


def run_bench(
    subject: Subject,
    settings: BenchSettings,
    device: torch.device,
    say: Callable[[str], None],
) -> Found:
    """Measure all parts.

    Args:
        subject: The model's shape; its weights are loaded here.
        settings: The bench's settings.
        device: The device.
        say: Called with a line on memory and time, then one per result.

    Raises:
        ResourceError: The bench does not fit into memory; nothing was allocated.
        CheckpointError: The weights cannot be read.
    """
    threads = torch.get_num_threads()
    if settings.clock == "cpu":
        torch.set_num_threads(1)
    try:
        return _run(subject, settings, device, say)
    finally:
        torch.set_num_threads(threads)


def _run(
    subject: Subject, settings: BenchSettings, device: torch.device, say: Callable[[str], None]
) -> Found:
    planned = entries(subject.config, settings)
    cases = list(dict.fromkeys(entry.case for entry in planned))
    needed = require(subject, cases, device, settings)
    notes = notes_of(subject, settings)
    for note in notes:
        say(f"Note: {note}.")
    estimate = seconds_of(cases, subject.config, settings.repeats, device, subject.dtype)
    say(
        f"{len(cases)} cases of {subject.name} on {device} in "
        f"{str(subject.dtype).removeprefix('torch.')}, at most {needed / GIB:.1f} GiB, "
        f"about {max(1, round(estimate / 60))} min."
    )
    where = machine(device)
    started = perf_counter()
    models = _Models(subject, subject.load(device, settings.seed), settings)
    speeds = _speeds(models, planned, _tokens(subject, settings, device), settings, say)
    shared: list[prefix.Shared] = []
    if "prefix" in settings.parts:
        shared = prefix.measure_prefix(models.counting(), settings)
        say(f"shared prefix of {shared[0].prompt:,} tokens, {shared[0].requests} requests: done")
    seconds = perf_counter() - started
    return Found(subject, settings, where, notes, tuple(planned), speeds, tuple(shared), seconds)


def _speeds(
    models: _Models,
    planned: list[Entry],
    tokens: Tensor,
    settings: BenchSettings,
    say: Callable[[str], None],
) -> dict[Case, Speed]:
    """Measure every distinct case, ordered by the number of KV heads."""
    speeds: dict[Case, Speed] = {}
    cases = {entry.case for entry in planned}
    if planned:  # warm-up: the first passes of a process start threads and load kernels
        short = replace(planned[0].case, context=8, decode=2, chunk=4)
        measure(models.of(short), short, tokens[:8], settings)
    for entry in sorted(planned, key=lambda entry: entry.case.n_kv_heads):
        if entry.case not in speeds:
            model = models.of(entry.case)
            ids = tokens[: entry.case.context]
            speeds[entry.case] = found = measure(model, entry.case, ids, settings)
            del model  # free it before the next one makes its copies
            say(_line(entry, found, f"{len(speeds)} of {len(cases)}"))
    return speeds


def notes_of(subject: Subject, settings: BenchSettings) -> tuple[str, ...]:
    """Return how the measured model differs from what the checkpoint's files say."""
    config, notes = subject.config, list(subject.notes)
    if subject.folder is not None:
        if settings.contexts[-1] > config.context_len:
            notes.append(
                f"{subject.name} is made for {config.context_len:,} tokens: speed and memory are "
                "still valid beyond them, the text it generates would not be"
            )
        if set(config.sliding_window) != {settings.window}:
            own = sorted({str(window or "none") for window in config.sliding_window})
            notes.append(
                f"all layers use a window of {settings.window:,} or none, not the checkpoint's "
                f"own ({', '.join(own)})"
            )
    if "gqa" in settings.parts:
        if config.n_heads == config.n_kv_heads:
            notes.append("the shape has as many KV heads as heads: there is nothing to compare")
        elif subject.folder is not None:
            notes.append(
                f"K and V weights for {config.n_heads} heads are random: no checkpoint has them"
            )
    return tuple(notes)


def machine(device: torch.device) -> dict[str, Any]:
    """Return the machine's hardware and versions, and its load before the bench."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cuda = device.type == "cuda"
    return {
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if cuda else None,
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _tokens(subject: Subject, settings: BenchSettings, device: torch.device) -> Tensor:
    """Return random ids, as many as the longest context."""
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (settings.contexts[-1],)
    return torch.randint(subject.config.vocab_size, shape, generator=generator).to(device)


def _line(entry: Entry, speed: Speed, place: str) -> str:
    return (
        f"[{place}] {entry.part} {entry.label}, {entry.case.context:,} tokens: prefill "
        f"{speed.prefill:,.0f}/s, decode {speed.decode:,.1f}/s, "
        f"cache {speed.cache_bytes / MIB:,.1f} MiB"
    )
