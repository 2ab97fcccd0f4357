"""Which engine answers: opened from the settings, checked before anything is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mistral_eval.console import Talk
from mistral_eval.engines.interface import Backend
from mistral_eval.engines.oracle import OracleBackend
from mistral_eval.engines.random import RandomBackend
from mistral_eval.errors import UnsupportedError
from mistral_eval.run.questions import LoadedBenchmark
from mistral_eval.settings import MODEL_FREE, RunSettings
from mistral_eval.suite.registry import BY_ID


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine ready to answer, and what results say of it.

    `info` holds lm-eval's keys for a model (model_num_parameters, model_dtype, …); `notes` are
    sentences for the table.
    """

    backend: Backend
    info: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def check_device(settings: RunSettings) -> None:
    """Refuse a device that is not here before any row is read.

    Raises:
        EngineError: torch does not know the device, or this machine does not have it.
    """
    if settings.engine not in MODEL_FREE:
        from mistral_eval.engines.open_native import choose_device

        choose_device(settings.device)


def open_backend(
    settings: RunSettings,
    loaded: Sequence[LoadedBenchmark],  # noqa: ARG001  an opener may need it
    talk: Talk,
) -> Opened:
    """Open the engine that `settings` asks for; `auto` is native where it can be, else hf.

    Raises:
        CheckpointError, TokenizerError, HubError, ResourceError, EngineError: it cannot be opened.
    """
    engine = settings.engine
    if engine == "random":
        return Opened(RandomBackend(settings.seed))
    if engine in ("oracle", "oracle-wrong"):
        return Opened(_oracle(right=engine == "oracle"))
    if engine == "hf":
        return _open_hf(settings, talk)
    try:
        return _open_native(settings, talk)
    except UnsupportedError as error:
        if engine == "native":
            raise
        talk.say(f"{error} Going on with lm-eval's hf model.")
        return _open_hf(settings, talk)


def _oracle(*, right: bool) -> OracleBackend:
    """Return an engine that answers every question right, or every one wrong."""

    def likely(instance: Any) -> bool:
        return bool(instance.idx == BY_ID[instance.task_name].oracle(instance.doc, right))

    def says(instance: Any) -> str:
        return str(BY_ID[instance.task_name].oracle(instance.doc, right))

    return OracleBackend(likely, says, "oracle" if right else "oracle-wrong")


def _open_native(settings: RunSettings, talk: Talk) -> Opened:
    from mistral_eval.engines.open_native import open_native

    talk.say(f"Loading {settings.model} into the native engine.")
    backend = open_native(
        settings.model,
        revision=settings.revision,
        dtype=settings.dtype,
        device=settings.device,
        batch_tokens=settings.batch_tokens,
        seed=settings.seed,
        say=talk.say,
        **settings.model_args,
    )
    return Opened(backend, backend.info, backend.notes)


def _open_hf(settings: RunSettings, talk: Talk) -> Opened:
    from mistral_eval.engines.open_hf import open_hf

    talk.say(f"Loading {settings.model} into lm-eval's hf model.")
    backend = open_hf(
        settings.model,
        revision=settings.revision,
        dtype=settings.dtype,
        device=settings.device,
        seed=settings.seed,
        model_args=settings.model_args,
    )
    return Opened(backend, backend.lm.get_model_info())
