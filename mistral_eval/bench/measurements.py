"""The results of a bench: each case with its baseline case, and the paper's claims."""

from dataclasses import asdict, dataclass
from typing import Any, Final

from mistral_eval.bench.cases import BenchSettings, Case, Entry
from mistral_eval.bench.measure import Speed
from mistral_eval.bench.shapes import Subject
from mistral_eval.bench.shared_prefix import Shared

MIB: Final = 1 << 20
_PAPER_WINDOW: Final = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """The results of a bench; `speeds` has one entry per distinct case."""

    subject: Subject
    settings: BenchSettings
    machine: dict[str, Any]
    notes: tuple[str, ...]
    entries: tuple[Entry, ...]
    speeds: dict[Case, Speed]
    shared: tuple[Shared, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Line:
    """An entry, its speed, and that of the first entry of the same part and context."""

    entry: Entry
    speed: Speed
    first: Speed

    @property
    def ratios(self) -> dict[str, float]:
        """Speed relative to the first entry, and the first entry's cache size relative to this."""
        return {
            "prefill": self.speed.prefill / self.first.prefill,
            "attention": self.speed.attention / self.first.attention,
            "decode": self.speed.decode / self.first.decode,
            "cache": self.first.cache_bytes / self.speed.cache_bytes,
        }


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of the paper or its announcement, and what was measured here."""

    what: str
    paper: str
    here: str


def lines(found: Found, part: str) -> list[Line]:
    """Return the entries of a part, by context."""
    firsts: dict[int, Speed] = {}
    out = []
    for entry in found.entries:
        if entry.part == part:
            speed = found.speeds[entry.case]
            out.append(Line(entry, speed, firsts.setdefault(entry.case.context, speed)))
    return out


def sharing(found: Found) -> list[tuple[Shared, Shared]]:
    """Return pairs of (not shared, shared), one per kind of request."""
    plain = [one for one in found.shared if not one.shared]
    shared = [one for one in found.shared if one.shared]
    return list(zip(plain, shared, strict=True))


def claims(found: Found) -> list[Claim]:
    """Return the claims whose context length and window were measured."""
    if found.settings.window != _PAPER_WINDOW:
        return []
    by_context = {}
    for part in ("cache", "window"):
        for line in lines(found, part)[1::2]:  # two entries per context: off, on
            by_context[part, line.entry.case.context] = line.ratios
    out = []
    cached = {n: r["cache"] for (_, n), r in by_context.items()}
    if 32768 in cached:
        here = f"{cached[32768]:.2f}x smaller"
        out.append(Claim("cache at 32k tokens, W = 4096", "8x smaller", here))
    if 8192 in cached:
        here = f"{cached[8192]:.2f}x smaller"
        out.append(Claim("cache at 8192 tokens (announcement)", "half", here))
    if ("window", 16384) in by_context:
        ratios = by_context["window", 16384]
        here = ", ".join(
            f"{name} {ratios[name]:.2f}x" for name in ("attention", "prefill", "decode")
        )
        out.append(Claim("speed at 16k tokens, W = 4096", "2x (does not say of what)", here))
    return out


def as_json(found: Found) -> dict[str, Any]:
    """Return the results as plain JSON: speeds in tokens per second, memory in bytes."""
    rows = []
    for part in found.settings.parts:
        for line in lines(found, part):
            case = asdict(line.entry.case)
            ratios = {f"{name}_ratio": ratio for name, ratio in line.ratios.items()}
            rows.append({"part": part, "label": line.entry.label, **case, **asdict(line.speed)})
            rows[-1] |= ratios
    return {
        "shape": found.subject.name,
        "dtype": str(found.subject.dtype).removeprefix("torch."),
        "weights": "checkpoint" if found.subject.folder else "random",
        "config": asdict(found.subject.config),
        "settings": asdict(found.settings),
        "machine": found.machine,
        "notes": list(found.notes),
        "claims": [asdict(claim) for claim in claims(found)],
        "rows": rows,
        "shared_prefix": [asdict(one) for one in found.shared],
        "seconds": found.seconds,
    }
