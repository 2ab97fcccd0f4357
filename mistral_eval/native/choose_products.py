"""Choose how to multiply: time each way on the model's own shapes, once per machine.

The choice is kept in the user's cache folder (`XDG_CACHE_HOME`, else ~/.cache), by processor, torch
version, threads and dtype, so that later runs on this machine compute the same bits.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import process_time
from typing import Final

import torch
from torch import Tensor

from mistral_eval.model.config import ModelConfig
from mistral_eval.model.products import (
    HEAD,
    Way,
    Ways,
    multiplied,
    packed,
    possible_ways,
    shape_class,
)

CACHE_FILE: Final = "products.json"
_RULE: Final = 2  # of choosing; a choice by another rule is not used
_ROWS: Final = (8, 128)  # few and many
# Sides of the matrices that are timed with few rows and with many. With few, the time is that of
# reading the weights, so they must not fit in a core's cache if the model's do not.
_SIDES: Final = (2048, 1024)
_WORDS: Final = (4096, 1024)  # of the LM head
# Of processor time of each thread, for all shapes of a model; other processes disturb it little.
_SECONDS: Final = 1.0
_ROUNDS: Final = 4
_CLEARLY: Final = 0.95  # the time of a better way, of the plain one's
_EQUAL: Final = 1.02  # the time of a way that is as good as the best, of the best one's


def choose_ways(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    recorded: Mapping[str, str] | None = None,
) -> Ways:
    """Return the ways of a model's matrices: those recorded, else known here, else measured now.

    Args:
        config: the model's shape.
        dtype: of the weights.
        device: where they are.
        recorded: what `as_text` returned when the run began; it decides where it can be used here.
    """
    possible = possible_ways(dtype, device)
    if len(possible) == 1:
        return {}
    wanted = shapes_of(config)
    file = _cache_file()
    machine = _machine(dtype)
    kept = _read(file)
    began = {n: pair for n, pair in parsed(recorded or {}, possible).items() if n in wanted}
    known = began or parsed(kept.get(machine, {}), possible)
    missing = {name: shape for name, shape in wanted.items() if name not in known}
    if missing and not began:
        known |= measured(missing, dtype, possible)
        _write(file, {**kept, machine: as_text(known)})
    return {name: known[name] for name in wanted if name in known}


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return a shape (out, in) of each class of a model's matrices, and of a tied LM head."""
    heads = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    shapes = (
        (heads, config.dim),
        (config.dim, config.n_heads * config.head_dim),
        (config.hidden_dim, config.dim),
        (config.dim, config.hidden_dim),
    )
    head = (config.vocab_size, config.dim)
    if config.tied_embeddings:
        return {**{shape_class(*shape): shape for shape in shapes}, HEAD: head}
    return {shape_class(*shape): shape for shape in (*shapes, head)}


def measured(
    shapes: Mapping[str, tuple[int, int]], dtype: torch.dtype, possible: Sequence[Way]
) -> dict[str, tuple[Way, Way]]:
    """Time all ways for few and many rows; shapes that time does not suffice for are left out."""
    end = process_time() + _SECONDS * torch.get_num_threads()
    found = {}
    for name, shape in shapes.items():
        if process_time() > end:
            break
        is_head = name == HEAD
        ways = [way for way in possible if not is_head or way is not Way.PACKED]
        few, many = (
            _times(rows, (min(shape[0], out), min(shape[1], width)), dtype, ways, end)
            for rows, out, width in zip(_ROWS, _WORDS if is_head else _SIDES, _SIDES, strict=True)
        )
        if _packs(few, many):
            found[name] = (Way.PACKED, Way.PACKED)
        else:
            found[name] = (_best(few), _best(many))
    return found


def _packs(few: Mapping[Way, float], many: Mapping[Way, float]) -> bool:
    """Return whether to pack: with many rows or few it is clearly faster, and never slower."""
    if Way.PACKED not in few:
        return False
    shares = [times[Way.PACKED] / min(times.values()) for times in (few, many)]
    gains = [times[Way.PACKED] / times[Way.PLAIN] for times in (few, many)]
    return max(shares) <= _EQUAL and min(gains) < _CLEARLY


def _best(seconds: Mapping[Way, float]) -> Way:
    """Return the fastest way of weights as they are; the plain one unless another clearly wins."""
    dense = {way: time for way, time in seconds.items() if way is not Way.PACKED}
    best = min(dense, key=dense.__getitem__)
    return best if dense[best] < _CLEARLY * dense[Way.PLAIN] else Way.PLAIN


def _times(
    rows: int, shape: tuple[int, int], dtype: torch.dtype, ways: Sequence[Way], end: float
) -> dict[Way, float]:
    """Return the least seconds of a product by each way; they take turns."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, shape[1], generator=generator).to(dtype)
    w = torch.randn(shape, generator=generator).to(dtype)
    forms: dict[Way, Tensor] = {way: packed(w) if way is Way.PACKED else w for way in ways}
    space = torch.empty(rows, shape[0], dtype=dtype)
    least = dict.fromkeys(ways, float("inf"))
    with torch.inference_mode():
        for turn in range(_ROUNDS + 1):
            for way in ways:
                start = process_time()
                multiplied(x, forms[way], way, space)
                if turn:  # the first product of a shape compiles a kernel
                    least[way] = min(least[way], process_time() - start)
            if turn and process_time() > end:
                break
    return least


def as_text(ways: Ways) -> dict[str, str]:
    """Return ways as text: `few/many` by class."""
    return {name: f"{few}/{many}" for name, (few, many) in ways.items()}


def parsed(texts: object, possible: Sequence[Way]) -> dict[str, tuple[Way, Way]]:
    """Return the ways that `as_text` wrote, without those that are not possible here."""
    found = {}
    for name, text in texts.items() if isinstance(texts, Mapping) else ():
        parts = str(text).split("/")
        if len(parts) == len(_ROWS) and all(part in possible for part in parts):
            found[str(name)] = (Way(parts[0]), Way(parts[1]))
    return found


def _machine(dtype: torch.dtype) -> str:
    """Return what a choice depends on besides the shape."""
    by = f"torch {torch.__version__}, rule {_RULE}"
    return f"{_processor()}, {torch.get_num_threads()} threads, {by}, {dtype}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "flags", "Features")
    facts = dict(part.split(":", 1) for part in lines if part.startswith(wanted))
    names = {name.strip(): value.split() for name, value in facts.items()}
    sets = {flag for flag in names.get("flags", ()) if flag.startswith(("avx", "amx"))}
    return " ".join([*names.get("model name", [platform.machine()]), *sorted(sets)])


def _cache_file() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "mistral_eval" / CACHE_FILE


def _read(file: Path) -> dict[str, dict[str, str]]:
    """Return what is kept by machine; nothing if the file is missing or damaged."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(file: Path, kept: Mapping[str, Mapping[str, str]]) -> None:
    """Write the file whole; where that is impossible, the next run measures again."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        beside.replace(file)
