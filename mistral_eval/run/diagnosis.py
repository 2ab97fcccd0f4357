"""Checks for `mistral-eval doctor`: which requirements of a run this machine meets."""

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from mistral_eval import __version__
from mistral_eval.errors import MistralEvalError

if TYPE_CHECKING:
    from mistral_eval.sandbox import Isolation

GIB = 1 << 30
MODEL_BYTES = 15 * GIB  # Mistral 7B in bfloat16, downloaded


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `ok` is True if a run can use the checked part."""

    name: str
    ok: bool
    detail: str

    def as_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON."""
        return asdict(self)


def examine() -> list[Finding]:
    """Run every check; report a missing part as a finding, not as an error."""
    before: tuple[Callable[[], Finding], ...] = (_versions, _device, _memory, _disk, _sandbox)
    after: tuple[Callable[[], Finding], ...] = (_tiny, _sample, _hf, _vllm, _hub)
    return [look() for look in before] + _sandboxes() + [look() for look in after]


def render(findings: list[Finding]) -> Table:
    """Return a table with a row for each finding."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[yellow]--[/]"
        table.add_row(mark, Text(finding.name), Text(finding.detail))  # no markup: "x[extra]"
    return table


def _versions() -> Finding:
    names = ("torch", "lm_eval", "transformers", "datasets")
    parts = [f"{name} {_version(name) or 'missing'}" for name in names]
    detail = f"mistral-eval {__version__}, Python {platform.python_version()}, {', '.join(parts)}"
    return Finding("versions", all("missing" not in part for part in parts), detail)


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("device", ok=True, detail=f"cuda: {', '.join(names)}")
    return Finding("device", ok=True, detail=f"cpu, {os.cpu_count()} cores; no CUDA device")


def _memory() -> Finding:
    import torch

    from mistral_eval.model.memory import available_memory

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    free = available_memory(device)
    if free is None:
        return Finding("memory", ok=True, detail="free memory is unknown on this platform")
    fits = free > MODEL_BYTES
    verdict = "a 7B model in bfloat16 fits" if fits else "a 7B model in bfloat16 does not fit"
    return Finding("memory", fits, f"{free / GIB:.1f} GiB free on {device}; {verdict}")


def _disk() -> Finding:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    fits = free > MODEL_BYTES
    return Finding("disk", fits, f"{free / GIB:.1f} GiB free in {folder} (a 7B model takes 15 GiB)")


def _sandbox() -> Finding:
    from mistral_eval.sandbox import probe

    isolation = probe()
    return Finding("sandbox", isolation.available, f"{isolation.kind}: {_limits_of(isolation)}")


def _sandboxes() -> list[Finding]:
    """Try each choice of `--sandbox`."""
    from mistral_eval.sandbox import CHOICES

    return [_choice(name) for name in CHOICES if name != "auto"]


def _choice(name: str) -> Finding:
    from mistral_eval.sandbox import try_choice

    title = f"sandbox {name}"
    try:
        isolation = try_choice(name)
    except MistralEvalError as error:
        return Finding(title, ok=False, detail=str(error))
    return Finding(title, ok=True, detail=_limits_of(isolation))


def _limits_of(isolation: "Isolation") -> str:
    missing = f" Not enforced: {', '.join(isolation.missing)}." if isolation.missing else ""
    return f"{isolation.detail}.{missing}"


def _tiny() -> Finding:
    from mistral_eval.model.tiny import tiny_tokenizer_file

    try:
        file = tiny_tokenizer_file()
    except MistralEvalError as error:
        return Finding("model tiny", ok=False, detail=str(error))
    return Finding(
        "model tiny", ok=True, detail=f"random weights, made when used; tokenizer {file.name}"
    )


def _sample() -> Finding:
    from mistral_eval.data.sources import SAMPLE
    from mistral_eval.suite.registry import BENCHMARKS

    files = list(SAMPLE.rglob("*.jsonl"))
    detail = f"16 questions of each of {len(BENCHMARKS)} benchmarks, in {len(files)} files"
    return Finding("data sample", bool(files), detail)


def _hf() -> Finding:
    accelerate = _version("accelerate")
    detail = "lm-eval's hf model" if accelerate else "needs the package accelerate"
    return Finding("engine hf", accelerate is not None, detail)


def _vllm() -> Finding:
    from mistral_eval.engines.vllm_port import readiness

    try:
        return Finding("engine vllm", ok=True, detail=readiness())
    except MistralEvalError as error:
        return Finding("engine vllm", ok=False, detail=str(error))


def _hub() -> Finding:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return Finding(
            "hub", ok=False, detail="HF_HUB_OFFLINE is set: only cached files can be used"
        )
    who = "with a token" if get_token() else "without a token (gated models need one)"
    return Finding(
        "hub", ok=True, detail=f"{constants.ENDPOINT}, {who}; the connection was not tested"
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
