"""A whole bench: refuse what does not fit, say how long it takes, measure case by case."""

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
from mistral_eval.bench.duration import seconds_of
from mistral_eval.bench.measure import Speed, measure
from mistral_eval.bench.measurements import Found
from mistral_eval.bench.requirements import require
from mistral_eval.bench.shapes import Subject
from mistral_eval.model.transformer import Transformer

MINUTE = 60.0
MIB, GIB = 1 << 20, 1 << 30


class _Models:
    """The subject under each case's shape; weights of other KV heads are drawn when asked for."""

    def __init__(
        self, subject: Subject, weights: dict[str, Tensor], settings: BenchSettings
    ) -> None:
        self._subject, self._settings = subject, settings
        self._weights, self._heads = weights, subject.config.n_kv_heads
        self._others: dict[str, Tensor] = {}  # K and V with `_heads` heads

    def of(self, case: Case) -> Transformer:
        """The model of a case; at most one set of other KV heads is held."""
        config = case.config(self._subject.config, self._settings.contexts[-1])
        if case.n_kv_heads != self._heads:
            self._others, self._heads = {}, case.n_kv_heads
            if case.n_kv_heads != self._subject.config.n_kv_heads:
                self._others = self._drawn(case)
        return Transformer(config, self._weights | self._others, config.vocab_size)

    def counting(self) -> prefix.Counted:
        """The model under its own heads and the bench's window, counting its tokens."""
        base = self._subject.config
        context = self._settings.contexts[-1]
        case = Case(context, self._settings.window, base.n_kv_heads, True, 1, 1)
        config = case.config(base, context)
        return prefix.Counted(config, self._weights, config.vocab_size)

    def _drawn(self, case: Case) -> dict[str, Tensor]:
        """Random K and V projections: no checkpoint has them for other heads."""
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
        subject: what is measured on; its weights are loaded here.
        settings: contexts, parts and repeats.
        device: where.
        say: told what fits, how long it takes, and each result as it comes.

    Raises:
        ResourceError: it does not fit; nothing was allocated.
        CheckpointError: the weights cannot be read.
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
        f"about {max(1, round(estimate / MINUTE))} min."
    )
    where = machine(device)
    started = perf_counter()
    models = _Models(subject, subject.load(device, settings.seed), settings)
    speeds = _speeds(models, planned, _tokens(subject, settings, device), settings, say)
    shared: list[prefix.Shared] = []
    if "prefix" in settings.parts:
        shared = prefix.measure_prefix(models.counting(), settings)
        say(f"shared prefix of {shared[0].prompt:,} tokens, {shared[0].requests} requests: done")
    return Found(
        subject,
        settings,
        where,
        notes,
        tuple(planned),
        speeds,
        tuple(shared),
        perf_counter() - started,
    )


def _speeds(
    models: _Models,
    planned: list[Entry],
    tokens: Tensor,
    settings: BenchSettings,
    say: Callable[[str], None],
) -> dict[Case, Speed]:
    """Every distinct case, those of the subject's own KV heads first."""
    speeds: dict[Case, Speed] = {}
    cases = {entry.case for entry in planned}
    if planned:  # the first passes of a process start threads and load kernels
        short = replace(planned[0].case, context=8, decode=2, chunk=4)
        measure(models.of(short), short, tokens[:8], settings)
    for entry in sorted(planned, key=lambda entry: entry.case.n_kv_heads):
        if entry.case not in speeds:
            model = models.of(entry.case)
            ids = tokens[: entry.case.context]
            speeds[entry.case] = found = measure(model, entry.case, ids, settings)
            del model  # before the next one makes its own copies
            say(_line(entry, found, f"{len(speeds)} of {len(cases)}"))
    return speeds


def notes_of(subject: Subject, settings: BenchSettings) -> tuple[str, ...]:
    """What about this subject is not as its own files have it."""
    config, notes = subject.config, list(subject.notes)
    if subject.folder is not None:
        if settings.contexts[-1] > config.context_len:
            notes.append(
                f"{subject.name} is made for {config.context_len:,} tokens: beyond them speed and "
                "memory are measured, its words would be worthless"
            )
        if set(config.sliding_window) != {settings.window}:
            own = sorted({str(window or "none") for window in config.sliding_window})
            notes.append(
                f"all layers have a window of {settings.window:,} or none, not the checkpoint's "
                f"own ({', '.join(own)})"
            )
    if "gqa" in settings.parts:
        if config.n_heads == config.n_kv_heads:
            notes.append("the shape has as many KV heads as heads: there is nothing to compare")
        elif subject.folder is not None:
            notes.append(
                f"no checkpoint has K and V for {config.n_heads} heads: random ones are used there"
            )
    return tuple(notes)


def machine(device: torch.device) -> dict[str, Any]:
    """The machine in words and numbers, and how busy it was before the bench."""
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
    """Random ids, as many as the longest context."""
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (settings.contexts[-1],)
    return torch.randint(subject.config.vocab_size, shape, generator=generator).to(device)


def _line(entry: Entry, speed: Speed, place: str) -> str:
    return (
        f"[{place}] {entry.part} {entry.label}, {entry.case.context:,} tokens: prefill "
        f"{speed.prefill:,.0f}/s, decode {speed.decode:,.1f}/s, "
        f"cache {speed.cache_bytes / MIB:,.1f} MiB"
    )
