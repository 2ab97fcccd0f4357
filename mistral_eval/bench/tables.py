"""Tables of a bench, for a terminal and as markdown."""

from dataclasses import replace

from mistral_eval.bench.cases import PARTS
from mistral_eval.bench.measurements import MIB, Found, Line, claims, lines, sharing
from mistral_eval.report.table.markdown_table import escape, join, notes_list, sections_markdown
from mistral_eval.report.table.view import Section

_QUIET = 0.75  # share of its threads' time below which a case counts as disturbed
_HEADER = ("context", "", "prefill/s", "attention/s", "decode/s", "cache MiB", "peak MiB")
_COLUMNS = (
    "Tokens per second. attention: prefilled tokens per second of attention alone; decode: one "
    "sequence at the full context. cache: keys and values of all layers; peak: peak memory beyond "
    "the weights. x: times better than the first row of the same context."
)


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
        f"{machine['threads']} threads of {machine['cores']} cores, load {machine['load_before']} "
        f"before it began, torch {machine['torch']}; {found.seconds:.0f} s."
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
