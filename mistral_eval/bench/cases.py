"""What is measured: parts, and the cases of each, decided before anything is allocated.

Each part changes one thing of the paper's section 2 and leaves the others as Mistral 7B has them:
a window, grouped queries, a rolling buffer, prefill in chunks.
"""

from dataclasses import dataclass, replace
from typing import Final

from mistral_eval.errors import UsageError, nearest
from mistral_eval.model.config import ModelConfig

PARTS: Final = {
    "window": "The window on and off",
    "gqa": "Grouped queries against as many KV heads as heads",
    "cache": "The rolling buffer against a full cache, same window",
    "chunk": "Chunk sizes of prefill",
    "prefix": "A shared prefix computed once, or for each request",
}
CLOCKS: Final = ("wall", "cpu")
_CHUNK_CONTEXT: Final = 16384  # chunk sizes are compared at the largest context up to this
_SUFFIX: Final = {"k": 1024, "K": 1024}


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What one bench is asked to do.

    Attributes:
        contexts: context lengths in tokens, ascending.
        window: the paper's W, in tokens.
        chunk: tokens of a prefill pass, except where chunk sizes are compared.
        parts: some of `PARTS`, in its order.
        decode_tokens: decoding steps that are timed; the last tokens of each context.
        repeats: passes of a case, of which the median counts; long cases have fewer.
        seed: of random weights and tokens.
        clock: one of `CLOCKS`: seconds that pass, or those of one thread of the processor, which
            other programs do not lengthen.
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
    """One measurement: a shape of attention at one context length.

    `window` None is full attention. `rolling` False keeps all tokens whatever the window. The last
    `decode` tokens of the context are decoded, those before are prefilled `chunk` at a time.
    """

    context: int
    window: int | None
    n_kv_heads: int
    rolling: bool
    chunk: int
    decode: int

    @property
    def prefilled(self) -> int:
        """Tokens that are prefilled."""
        return self.context - self.decode

    def config(self, base: ModelConfig, context_len: int) -> ModelConfig:
        """The model's shape under this case."""
        return replace(
            base,
            n_kv_heads=self.n_kv_heads,
            sliding_window=(self.window,) * base.n_layers,
            context_len=context_len,
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A case's place in a part; others of the same part and context are compared to the first."""

    part: str
    label: str
    case: Case


def entries(config: ModelConfig, settings: BenchSettings) -> list[Entry]:
    """Every case of every part but `prefix`; the same case may stand in several parts."""
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
    """The paper's model at this context: window, grouped queries, rolling buffer."""
    decode = min(settings.decode_tokens, context // 2)
    chunk = min(settings.chunk, context - decode)
    return Case(context, settings.window, config.n_kv_heads, True, chunk, decode)


def _chunk_entries(config: ModelConfig, settings: BenchSettings) -> list[Entry]:
    """A quarter of the chunk, the chunk, four of it: at one context, the chunk first."""
    small = [n for n in settings.contexts if n <= _CHUNK_CONTEXT]
    ours = _case(config, settings, max(small, default=settings.contexts[0]))
    sizes = (settings.chunk, settings.chunk // 4, settings.chunk * 4)
    cut = dict.fromkeys(min(size, ours.prefilled) for size in sizes if size)
    return [Entry("chunk", f"{size:,} tokens", replace(ours, chunk=size)) for size in cut]


def parse_contexts(text: str) -> tuple[int, ...]:
    """`4096,16k,32k`: context lengths in tokens, ascending, each once; k is 1024.

    Raises:
        UsageError: none, or one that is no whole number of at least 8.
    """
    found = {parse_tokens(part, "--contexts") for part in text.split(",") if part.strip()}
    if not found or min(found) < 8:
        raise UsageError(
            f"--contexts takes lengths of 8 or more tokens such as 4096,16k,32k; got {text!r}."
        )
    return tuple(sorted(found))


def parse_tokens(text: str, option: str) -> int:
    """A positive number of tokens, `4096` or `4k`.

    Raises:
        UsageError: anything else; names the option.
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
    """`window,cache`, or `all`: names of `PARTS`, in its order.

    Raises:
        UsageError: none, or an unknown one; the sentence names the nearest.
    """
    asked = [part.strip() for part in text.split(",") if part.strip()]
    for name in asked:
        if name not in (*PARTS, "all"):
            raise UsageError(f"--parts has no {name!r}. {nearest(name, [*PARTS, 'all'])}")
    if not asked:
        raise UsageError(f"--parts is empty. Known: {', '.join(PARTS)}, all.")
    return tuple(part for part in PARTS if part in asked or "all" in asked)


def parse_clock(name: str, device: str) -> str:
    """One of `CLOCKS`.

    Raises:
        UsageError: another name, or the processor's clock for work that is not the processor's.
    """
    if name not in CLOCKS:
        raise UsageError(f"--clock has no {name!r}. {nearest(name, CLOCKS)}")
    if name == "cpu" and device != "cpu":
        raise UsageError(f"--clock cpu measures work on the cpu, not on {device}: give wall.")
    return name
