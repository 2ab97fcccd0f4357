"""The results of a bench: cases with ratios and the paper's claims; as tables and as JSON."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from mistral_eval.bench.cases import PARTS, BenchSettings, Case, Entry
from mistral_eval.bench.measure import Speed
from mistral_eval.bench.shapes import Subject
from mistral_eval.bench.shared_prefix import Shared
from mistral_eval.console import counted
from mistral_eval.report.table.markdown_table import escape, join, notes_list, sections_markdown
from mistral_eval.report.table.view import Section

MIB: Final = 1 << 20
_PAPER_WINDOW: Final = 4096
_QUIET = 0.75  # share of its threads' time below which a case counts as disturbed
_HEADER = ("context", "", "prefill/s", "attention/s", "decode/s", "cache MiB", "peak MiB")
_COLUMNS = (
    "Tokens per second. attention: prefilled tokens per second of attention alone; decode: one "
    "sequence at the full context. cache: keys and values of all layers; peak: peak memory beyond "
    "the weights. x: times better than the first row of the same context."
)


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


def sections(found: Found) -> list[Section]:
    """Return a table of the paper's claims that were measured, then one per part."""
    out = []
    if stated := claims(found):
        rows: tuple[tuple[str, ...], ...] = tuple(
            (claim.what, claim.paper, claim.here) for claim in stated
        )
        header = ("", "the paper", "here")
        out.append(Section("The paper's claims", header, rows, words=(0, 1, 2)))
    for part in found.settings.parts:
        if part != "prefix":
            rows = tuple(_cells(line) for line in lines(found, part))
            out.append(Section(PARTS[part], _HEADER, rows, words=(1,)))
    if out and out[-1].header is _HEADER:
        out[-1] = replace(out[-1], notes=(_COLUMNS, *_busy(found)))
    if found.shared:
        out.append(_prefix_section(found))
    return out


def markdown(found: Found) -> str:
    """Return the bench as a markdown page that includes the plots in its folder."""
    title, notes = f"# Bench of {escape(found.subject.name)}", notes_list(found.notes)
    plots = [f"![{PARTS[part]}]({part}.png)" for part in found.settings.parts]
    return join(
        [title, escape(about(found)), notes, *sections_markdown(sections(found), "##"), *plots]
    )


def about(found: Found) -> str:
    """Return shape, dtype and machine as one sentence."""
    config, machine = found.subject.config, found.machine
    dtype = str(found.subject.dtype).removeprefix("torch.")
    weights = "random weights" if found.subject.folder is None else "the checkpoint's weights"
    clock = "" if found.settings.clock == "wall" else "CPU seconds; "
    device = machine["device_name"] or machine["processor"]
    return (
        f"{found.subject.name}: dim {config.dim}, {config.n_layers} layers, {config.n_heads} heads "
        f"of {config.head_dim}, {config.n_kv_heads} KV heads, {dtype}, {weights}; chunks of "
        f"{found.settings.chunk:,} tokens; {clock}on {device}, "
        f"{counted(machine['threads'], 'thread')} of {machine['cores']} cores, load "
        f"{machine['load_before']} before it began, torch {machine['torch']}; "
        f"{found.seconds:.0f} s."
    )


def _busy(found: Found) -> tuple[str, ...]:
    """Return a warning if other programs used the cores."""
    shares = [speed.cpu_share for speed in found.speeds.values() if speed.cpu_share is not None]
    low = [share for share in shares if share < _QUIET]
    if not low or found.settings.clock == "cpu":
        return ()
    text = (
        f"The machine was busy: {len(low)} of {len(shares)} cases got less than {_QUIET:.0%} of "
        f"their threads' time (the lowest {min(low):.0%}); their speeds are not reliable."
    )
    return (text,)


def _cells(line: Line) -> tuple[str, ...]:
    speed, ratios = line.speed, line.ratios
    is_first = speed is line.first

    def cell(text: str, name: str) -> str:
        return text if is_first else f"{text} x{ratios[name]:.2f}"

    return (
        f"{line.entry.case.context:,}",
        line.entry.label,
        cell(f"{speed.prefill:,.0f}", "prefill"),
        cell(f"{speed.attention:,.0f}", "attention"),
        cell(f"{speed.decode:,.1f}", "decode"),
        cell(f"{speed.cache_bytes / MIB:,.2f}", "cache"),
        "" if speed.peak_bytes is None else f"{speed.peak_bytes / MIB:,.1f}",
    )


def _prefix_section(found: Found) -> Section:
    rows = []
    for plain, shared in sharing(found):
        for one in (plain, shared):
            way = "shared" if one.shared else "per request"
            fewer, faster = plain.computed / shared.computed, plain.seconds / shared.seconds
            rows.append(
                (
                    one.what,
                    way,
                    f"{one.requests} with {one.prompt:,} tokens",
                    f"{one.computed:,}" + (f" x{fewer:.2f}" if one.shared else ""),
                    f"{one.seconds:.3f}" + (f" x{faster:.2f}" if one.shared else ""),
                )
            )
    header = ("", "prompt", "requests, prompt", "tokens computed", "seconds")
    return Section(PARTS["prefix"], header, tuple(rows), words=(0, 1))
