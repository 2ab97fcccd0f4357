"""The cases of each part of a bench, listed before anything is allocated.

Each part varies one thing of the paper's section 2 (window, grouped queries, rolling buffer,
prefill chunks) and leaves the others as in Mistral 7B.
"""

from dataclasses import dataclass, replace
from typing import Final

from mistral_eval.errors import UsageError, nearest
from mistral_eval.model.config import ModelConfig

PARTS: Final = {
    "window": "Sliding window on and off",
    "gqa": "Grouped-query attention against multi-head attention",
    "cache": "Rolling buffer against full cache, same window",
    "chunk": "Prefill chunk sizes",
    "prefix": "Shared prefix computed once or per request",
}
CLOCKS: Final = ("wall", "cpu")
_CHUNK_CONTEXT: Final = 16384  # chunk sizes are compared at the largest context up to this
_SUFFIX: Final = {"k": 1024, "K": 1024}


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """The settings of a bench.

    Attributes:
        contexts: Context lengths in tokens, ascending; `window` is the paper's W.
        chunk: Tokens per prefill pass, except in the part that compares chunk sizes.
        parts: Keys of `PARTS`, in its order.
        decode_tokens: Decoding steps to time; they are the last tokens of each context.
        repeats: Passes per case; the median is reported. Long cases have fewer.
        clock: One of `CLOCKS`: wall-clock time, or the CPU time of one thread, which other
            programs do not lengthen.
    """

    contexts: tuple[int, ...] = (4096, 16384, 32768)
    window: int = 4096
    chunk: int = 1024
    parts: tuple[str, ...] = tuple(PARTS)
    decode_tokens: int = 32
    repeats: int = 3
    seed: int = 0
    clock: str = "wall"


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: an attention configuration at one context length.

    `window` None is full attention; `rolling` False keeps all tokens even with a window. The last
    `decode` tokens of the context are decoded, the ones before are prefilled `chunk` at a time.
    """

    context: int
    window: int | None
    n_kv_heads: int
    rolling: bool
    chunk: int
    decode: int

    @property
    def prefilled(self) -> int:
        """Number of prefilled tokens."""
        return self.context - self.decode

    def config(self, base: ModelConfig, context_len: int) -> ModelConfig:
        """Return the base configuration with this case's KV heads and window."""
        return replace(
            base,
            n_kv_heads=self.n_kv_heads,
            sliding_window=(self.window,) * base.n_layers,
            context_len=context_len,
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A case in a part; within a part and context, cases are compared with the first."""

    part: str
    label: str
    case: Case


def entries(config: ModelConfig, settings: BenchSettings) -> list[Entry]:
    """Return the cases of every part but `prefix`; a case may occur in several parts."""
    found: list[Entry] = []
    window = settings.window
    for part in settings.parts:
        for context in settings.contexts:
            ours = _case(config, settings, context)
            if part == "window":
                off = replace(ours, window=None)
                found += [Entry(part, "off", off), Entry(part, f"{window:,}", ours)]
            elif part == "gqa":
                heads = replace(ours, n_kv_heads=config.n_heads)
                same = heads == ours
                found += [] if same else [Entry(part, f"{config.n_heads} KV heads", heads)]
                found += [Entry(part, f"{config.n_kv_heads} KV heads", ours)]
            elif part == "cache":
                full = replace(ours, rolling=False)
                found += [Entry(part, "full", full), Entry(part, "rolling", ours)]
        if part == "chunk":
            found += _chunk_entries(config, settings)
    return found


def _case(config: ModelConfig, settings: BenchSettings, context: int) -> Case:
    """Return the paper's configuration at this context: window, GQA, rolling buffer."""
    decode = min(settings.decode_tokens, context // 2)
    chunk = min(settings.chunk, context - decode)
    return Case(context, settings.window, config.n_kv_heads, True, chunk, decode)


def _chunk_entries(config: ModelConfig, settings: BenchSettings) -> list[Entry]:
    """Return the chunk, a quarter of it and four times it, at one context."""
    small = [n for n in settings.contexts if n <= _CHUNK_CONTEXT]
    ours = _case(config, settings, max(small, default=settings.contexts[0]))
    sizes = (settings.chunk, settings.chunk // 4, settings.chunk * 4)
    cut = dict.fromkeys(min(size, ours.prefilled) for size in sizes if size)
    return [Entry("chunk", f"{size:,} tokens", replace(ours, chunk=size)) for size in cut]


def parse_contexts(text: str) -> tuple[int, ...]:
    """Parse context lengths such as `4096,16k,32k` (k is 1024), sorted, without duplicates.

    Raises:
        UsageError: The list is empty, or an entry is not a whole number of at least 8.
    """
    found = {parse_tokens(part, "--contexts") for part in text.split(",") if part.strip()}
    if not found or min(found) < 8:
        raise UsageError(
            f"--contexts takes lengths of 8 or more tokens such as 4096,16k,32k; got {text!r}."
        )
    return tuple(sorted(found))


def parse_tokens(text: str, option: str) -> int:
    """Parse a positive number of tokens such as `4096` or `4k`.

    Raises:
        UsageError: The text is anything else; the sentence names the option.
    """
    digits = text.strip()
    factor = _SUFFIX.get(digits[-1:], 1)
    digits = digits if factor == 1 else digits[:-1]
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10 and int(digits)):
        raise UsageError(
            f"{option} takes a number of tokens from 1 up, such as 4096 or 4k; got {text!r}."
        )
    return int(digits) * factor


def parse_parts(text: str) -> tuple[str, ...]:
    """Parse `window,cache` or `all` into keys of `PARTS`, in its order.

    Raises:
        UsageError: The list is empty or has an unknown name; the sentence names the nearest.
    """
    asked = [part.strip() for part in text.split(",") if part.strip()]
    for name in asked:
        if name not in (*PARTS, "all"):
            raise UsageError(f"--parts has no {name!r}. {nearest(name, [*PARTS, 'all'])}")
    if not asked:
        raise UsageError(f"--parts is empty. Known: {', '.join(PARTS)}, all.")
    return tuple(part for part in PARTS if part in asked or "all" in asked)


def parse_clock(name: str, device: str) -> str:
    """Return the name if it is one of `CLOCKS` and fits the device.

    Raises:
        UsageError: The name is unknown, or CPU time is asked for on another device.
    """
    if name not in CLOCKS:
        raise UsageError(f"--clock has no {name!r}. {nearest(name, CLOCKS)}")
    if name == "cpu" and device != "cpu":
        raise UsageError(f"--clock cpu measures work on the CPU, not on {device}: give wall.")
    return name
