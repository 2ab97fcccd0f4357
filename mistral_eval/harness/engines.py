"""Which engine answers: opened from the settings, checked before anything is asked."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

from mistral_eval.backends.base import Backend
from mistral_eval.backends.oracle import OracleBackend
from mistral_eval.backends.random import RandomBackend
from mistral_eval.console import Talk
from mistral_eval.errors import UnsupportedError
from mistral_eval.harness.asking import LoadedBenchmark, gold_choice
from mistral_eval.protocol import oracle_reply
from mistral_eval.settings import RunSettings


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine ready to answer, and what results say of it.

    `info` holds lm-eval's keys for a model (model_num_parameters, model_dtype, …); `notes` are
    sentences for the table.
    """

    backend: Backend
    info: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_backend(settings: RunSettings, loaded: Sequence[LoadedBenchmark], talk: Talk) -> Opened:
    """Open the engine that `settings` asks for; `auto` is native where it can be, else hf.

    Raises:
        CheckpointError, TokenizerError, HubError, ResourceError, EngineError: it cannot be opened.
    """
    engine = settings.engine
    if engine == "random":
        return Opened(RandomBackend(settings.seed))
    if engine in ("oracle", "oracle-wrong"):
        return Opened(_oracle(loaded, right=engine == "oracle"))
    if engine == "hf":
        return _open_hf(settings, talk)
    try:
        return _open_native(settings, talk)
    except UnsupportedError as error:
        if engine == "native":
            raise
        talk.say(f"{error} Going on with lm-eval's hf model.")
        return _open_hf(settings, talk)
