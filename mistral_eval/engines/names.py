"""Engines by name, each imported when it is used: torch and transformers take seconds."""

from importlib import import_module
from types import MappingProxyType
from typing import Final

from mistral_eval.engines.interface import Engine

ENGINES: Final = MappingProxyType(
    {
        "native": ("mistral_eval.engines.native", "NativeEngine"),
        "hf": ("mistral_eval.engines.hf", "HFEngine"),
        "oracle": ("mistral_eval.engines.oracle", "Oracle"),
        "oracle-wrong": ("mistral_eval.engines.oracle", "WrongOracle"),
        "random": ("mistral_eval.engines.random", "Random"),
    }
)


def engine_class(name: str) -> type[Engine]:
    """Return the class of an engine, which can say what it can do before it is opened."""
    module, attribute = ENGINES[name]
    found: type[Engine] = getattr(import_module(module), attribute)
    return found
