"""Opening the engine that answers a run's requests."""

from collections.abc import Sequence

from mistral_eval.console import Talk
from mistral_eval.engines.interface import Engine, Request, engine_class
from mistral_eval.errors import UnsupportedError, UsageError
from mistral_eval.run.questions import LoadedBenchmark
from mistral_eval.settings import MODEL_FREE, RunSettings
from mistral_eval.suite.registry import BY_ID


def check_engine(settings: RunSettings) -> None:
    """Refuse an engine or a device that cannot do what the run needs, before anything is read.

    Raises:
        UsageError: the engine cannot.
        EngineError: torch does not know the device, or this machine does not have it.
    """
    name = "native" if settings.engine == "auto" else settings.engine
    can = engine_class(name).can
    for benchmark in (BY_ID[name] for name in settings.own_tasks):
        missing = ""
        if benchmark.kind == "score" and not can.scores:
            missing = "log-likelihoods"
        elif benchmark.samples > 1 and not can.samples:
            missing = "independent samples"
        if missing:
            raise UsageError(
                f"--engine {name} cannot give the {missing} that {benchmark.id} needs. Choose "
                "another engine, or leave the benchmark out."
            )
    if settings.stock_tasks and not can.any_text:
        raise UsageError(
            f"--engine {name} knows the answers to our own benchmarks, not to "
            f"{settings.stock_tasks[0]}. Give --engine native, hf or random for stock tasks."
        )
    if settings.verify and not can.plain_twin:
        raise UsageError(
            f"--verify compares replies with the engine's own plain path, which --engine {name} "
            "does not have. Leave out one of the two."
        )
    if settings.engine not in MODEL_FREE:
        from mistral_eval.engines.native import choose_device

        choose_device(settings.device)


def open_engine(settings: RunSettings, loaded: Sequence[LoadedBenchmark], talk: Talk) -> Engine:
    """Open the engine that `settings` asks for; `auto` is native where it can be, else hf.

    Raises:
        CheckpointError, TokenizerError, HubError, ResourceError, EngineError: it cannot be opened.
    """
    gold = Golds(loaded)
    if settings.engine != "auto":
        return engine_class(settings.engine).open(settings, gold, talk.say)
    try:
        return engine_class("native").open(settings, gold, talk.say)
    except UnsupportedError as error:
        talk.say(f"{error} Continuing with lm-eval's hf model.")
        return engine_class("hf").open(settings, gold, talk.say)


class Golds:
    """The right and wrong answers to a run's questions, for an oracle."""

    def __init__(self, loaded: Sequence[LoadedBenchmark]) -> None:
        self._loaded = {one.benchmark.id: one for one in loaded}

    def __call__(self, request: Request, right: bool) -> str | int:  # noqa: FBT001 - the question
        """Return the text to reply, or the index of the choice to make likely."""
        loaded = self._loaded[request.benchmark]
        return loaded.benchmark.oracle(loaded.task.eval_docs[request.doc_id], right)
