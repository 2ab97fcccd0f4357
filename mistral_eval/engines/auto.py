"""Open the engine that settings name."""

from mistral_eval.engines.interface import Engine, Gold, Request, Say, engine_class
from mistral_eval.errors import UnsupportedError, UsageError
from mistral_eval.settings import RunSettings


def open_by_name(settings: RunSettings, gold: Gold, say: Say) -> Engine:
    """Open the engine that `settings` names; `auto` tries native, then falls back to hf.

    Raises:
        MistralEvalError: it cannot be opened; the message says what to do.
    """
    if settings.engine != "auto":
        return engine_class(settings.engine).open(settings, gold, say)
    try:
        return engine_class("native").open(settings, gold, say)
    except UnsupportedError as error:
        if settings.stream_layers:
            raise UsageError(
                f"{error} The hf engine, which may run it, does not stream layers: leave out "
                "--stream-layers."
            ) from error
        say(f"{error} Continuing with lm-eval's hf model.")
        return engine_class("hf").open(settings, gold, say)


def no_gold(request: Request, right: bool) -> str | int:  # noqa: FBT001 - as `Gold` has it
    """Fail: the `Gold` of an engine that is no oracle.

    Raises:
        AssertionError: always.
    """
    raise AssertionError(f"{request}: only an oracle asks for the gold ({right=})")
