"""Open a run's folder, sandbox and engine before the first request."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from mistral_eval import __version__
from mistral_eval.console import Talk
from mistral_eval.data import Source
from mistral_eval.data.sources import split_files
from mistral_eval.data.task_file import data_spec
from mistral_eval.engines.auto import open_by_name
from mistral_eval.engines.cluster.engine import ClusterEngine
from mistral_eval.engines.cluster.pools import check_workers, has_workers
from mistral_eval.engines.interface import Capabilities, Engine, Request, engine_class
from mistral_eval.errors import SandboxError, UsageError
from mistral_eval.record.remote import local_folder
from mistral_eval.record.run_folder import CHOICES_FILE, RUN_FILE, write_json
from mistral_eval.record.run_record import read_run
from mistral_eval.run.judge_endpoint import judge_endpoint
from mistral_eval.run.judge_engine import check_judge
from mistral_eval.run.questions import LoadedBenchmark
from mistral_eval.run.results import protocol_hash
from mistral_eval.run.stamps import named_files, stamp_of, stamp_of_files
from mistral_eval.sandbox import Isolation, probe
from mistral_eval.settings import AUTO, CHAT_TEMPLATES, MODEL_FREE, RunSettings
from mistral_eval.suite.benchmark import Benchmark
from mistral_eval.suite.chats import Guardrail
from mistral_eval.suite.conversations import Conversation
from mistral_eval.suite.registry import BENCHMARKS, BY_ID, suite_of

SEEDS = 2**63  # torch's seeds are numbers of 64 bits


def run_folder(settings: RunSettings, source: Source) -> Path:
    """Return the run's folder: the latest attempt, or with --fresh a new one."""
    name = settings.run_id(_stamps(settings, source), suite_of(settings))
    parent = local_folder(settings.output_path) / settings.model_folder
    attempt = 1
    while _attempt(parent, name, attempt + 1).exists():
        attempt += 1
    if settings.fresh and _attempt(parent, name, attempt).exists():
        attempt += 1
    return _attempt(parent, name, attempt)


def is_finished(folder: Path) -> bool:
    """Return whether the folder holds a finished run."""
    return (folder / RUN_FILE).is_file() and read_run(folder).get("status") == "finished"


def is_another_attempt(folder: Path) -> bool:
    """Return whether --fresh started the run again; it then reuses no other run's replies."""
    return re.search(r"-attempt\d+$", folder.name) is not None


def _attempt(parent: Path, name: str, attempt: int) -> Path:
    return parent / (name if attempt == 1 else f"{name}-attempt{attempt}")


def _stamps(settings: RunSettings, source: Source) -> dict[str, object]:
    """Return stamps of files, protocol and version; a change of any gives a new run id."""
    stamps: dict[str, object] = {
        "version": __version__,
        "protocol": {name: protocol_hash(name) for name in settings.own_tasks},
    }
    for name, _, path in named_files(settings):
        stamps[name] = stamp_of(path)
    if source.kind == "folder" and source.folder is not None:
        specs = [data_spec(name) for name in settings.own_tasks]
        stamps["data"] = stamp_of_files(
            file
            for spec in specs
            for config in spec.configs
            for split in spec.splits
            for file in split_files(spec, source.folder, config, split)
        )
    return stamps


def isolation_for(settings: RunSettings) -> Isolation | None:
    """Return the isolation for generated programs, or None if the run has no programs.

    Raises:
        SandboxError: no isolation is available; raised before any data or model is loaded.
    """
    wanted = [name for name in settings.own_tasks if BY_ID[name].runs_programs]
    if not wanted:
        return None
    isolation = probe(settings.sandbox)
    if not isolation.available and not settings.unsafe_code:
        others = ",".join(name for name in settings.tasks if name not in wanted)
        rest = f"--tasks {others} still runs; " if others else ""
        raise SandboxError(
            f"{' and '.join(wanted)} run programs that the model wrote, and this machine cannot "
            f"isolate them: {isolation.detail} {rest}--unsafe-code runs them unguarded."
        )
    return isolation


def check_engine(settings: RunSettings) -> None:
    """Check that engine and device support the run, before any data or model is loaded.

    Raises:
        UsageError: the engine lacks a capability that the run needs, --revision is given for
            what is not on the hub, or torch takes no such seed.
        CheckpointError: the model or adapter is neither on the disk nor a name on the hub.
        EngineError: torch does not know the device, or this machine does not have it, or not the
            engine's package.
    """
    if not -SEEDS <= settings.seed < SEEDS:
        raise UsageError(
            f"--seed: expected a number from {-SEEDS} to {SEEDS - 1}, found {settings.seed}."
        )
    name = "native" if settings.engine == "auto" else settings.engine
    engine = engine_class(name)
    can = engine.can
    check_can(name, can, settings)
    _check_chat(settings, name, takes_chat=can.chat)
    check_judging(settings)
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
    check_workers(settings)
    engine.check_settings(settings)
    if settings.engine not in (*MODEL_FREE, "server"):
        from mistral_eval.engines.devices import choose_device
        from mistral_eval.model.load.hub import check_adapter_reference, check_reference

        choose_device(settings.device)
        check_reference(settings.model, settings.revision)
        if settings.adapter is not None:
            check_adapter_reference(settings.adapter)


def check_can(name: str, can: Capabilities, settings: RunSettings) -> None:
    """Check that an engine can do what a run's benchmarks need.

    Raises:
        UsageError: it cannot; the sentence names the benchmarks, and those that still run.
    """
    lacking = {id_: _missing(BY_ID[id_], can, settings.iteration) for id_ in settings.own_tasks}
    refused = [id_ for id_, missing in lacking.items() if missing]
    if not refused:
        return
    missing = lacking[refused[0]]
    of_it = [id_ for id_ in refused if lacking[id_] == missing]
    why = f" ({can.why[missing]})" if missing in can.why else ""
    rest = ",".join(id_ for id_ in settings.tasks if id_ not in refused)
    still = (
        f"--tasks {rest} still runs" if rest else "Leave them out" if of_it[1:] else "Leave it out"
    )
    raise UsageError(
        f"--engine {name} does not support the {missing} that {' and '.join(of_it)} "
        f"{'need' if of_it[1:] else 'needs'}{why}. {still}; or choose another engine."
    )


def check_iterations(each: Sequence[RunSettings]) -> None:
    """Check that only conversations are run several times.

    Raises:
        UsageError: There is another benchmark.
    """
    for settings in each:
        others = [
            name
            for name in settings.tasks
            if not (name in BY_ID and isinstance(BY_ID[name], Conversation))
        ]
        if settings.iteration and others:
            raise UsageError(
                "--iterations repeats conversations, whose ratings vary from run to run, and "
                f"--tasks has {', '.join(others)}. Run those by themselves."
            )


def _missing(benchmark: Benchmark, can: Capabilities, iteration: int) -> str:
    """Return what an engine lacks for a benchmark; empty for nothing."""
    if benchmark.kind == "score" and not can.scores:
        return "log-likelihoods"
    if (benchmark.samples > 1 or iteration) and not can.samples:
        return "independent samples"
    if benchmark.runs_programs and not can.exact_text:
        return "exact text"
    return ""


def _check_chat(settings: RunSettings, engine: str, *, takes_chat: bool) -> None:
    """Check that the engine takes conversations if there are any, and that the template is there.

    Raises:
        UsageError: it does not, there is no such template, or it is not for any conversation.
    """
    chats = _check_takes_chat(settings, engine, takes_chat=takes_chat)
    asked = settings.chat_template
    given = {"--chat-template": asked != AUTO, "--system-prompt": settings.system_prompt}
    for option in (option for option, value in given.items() if value):
        if not (settings.apply_chat_template or chats):
            raise UsageError(
                f"{option} is for conversations, and this run has none. Give --apply-chat-template "
                "too, or leave it out."
            )
    if asked not in CHAT_TEMPLATES and not Path(asked).is_file():
        raise UsageError(
            f"--chat-template should be {', '.join(CHAT_TEMPLATES)} or a file with a Jinja "
            f"template, and {asked} is none of these. Give the template's path."
        )


def _check_takes_chat(settings: RunSettings, engine: str, *, takes_chat: bool) -> list[str]:
    """Return the benchmarks that are conversations.

    Raises:
        UsageError: the engine, or the server that it found, takes none.
    """
    chats = [name for name in settings.own_tasks if BY_ID[name].is_chat]
    if (settings.apply_chat_template or chats) and not takes_chat:
        what = "--apply-chat-template" if settings.apply_chat_template else chats[0]
        raise UsageError(
            f"--engine {engine} takes texts, and {what} asks conversations. Leave out one of the "
            "two."
        )
    return chats


def check_judging(settings: RunSettings) -> None:
    """Check that a judge has something to judge and a URL, before anything is computed.

    Raises:
        UsageError: It has not.
    """
    if settings.judge_model is None:
        return
    check_refusal_judge(settings)
    rated = _asked(settings, Conversation)
    if not rated and settings.refusal_judge != "llm":
        names = " or ".join(_ids(Conversation))
        guarded = ", give --refusal-judge llm" if _asked(settings, Guardrail) else ""
        raise UsageError(
            f"--judge-model rates conversations, and this run has none. Add {names} to --tasks"
            f"{guarded}, or leave the judge out."
        )
    if settings.judge_engine is not None:
        check_judge(settings)
    else:
        judge_endpoint(str(settings.judge_url))


def check_refusal_judge(settings: RunSettings) -> None:
    """Check that a language model that judges refusals has any to judge.

    Raises:
        UsageError: It has not.
    """
    if settings.refusal_judge == "llm" and not _asked(settings, Guardrail):
        raise UsageError(
            "--refusal-judge llm judges refusals, and this run asks nothing that should be refused."
            f" Add {' or '.join(_ids(Guardrail))} to --tasks, or leave it out."
        )


def _ids(kind: type[Benchmark]) -> list[str]:
    return [one.id for one in BENCHMARKS if isinstance(one, kind)]


def _asked(settings: RunSettings, kind: type[Benchmark]) -> list[str]:
    """Return the run's benchmarks of one kind."""
    return [name for name in _ids(kind) if name in settings.own_tasks]


def open_engine(
    folder: Path, settings: RunSettings, loaded: Sequence[LoadedBenchmark], talk: Talk
) -> tuple[Engine, RunSettings]:
    """Open a run's engine; return the settings with what it chose when the run began.

    Raises:
        CheckpointError, TokenizerError, HubError, ResourceError, EngineError: it cannot be opened.
        OutputError: its choices cannot be written.
        UsageError: layers are to be streamed of a model that native cannot run, or the engine
            found out that it lacks what the run needs.
    """
    settings = settings.model_copy(update={"choices": read_choices(folder)})
    open_ = ClusterEngine.open if has_workers(settings) else open_by_name
    engine = open_(settings, Golds(loaded), talk.say)
    name = engine.identity.engine
    check_can(name, engine.can, settings)
    _check_takes_chat(settings, name, takes_chat=engine.can.chat)
    if engine.choices:
        write_json(folder / CHOICES_FILE, dict(engine.choices))
    return engine, settings.model_copy(update={"choices": dict(engine.choices)})


def read_choices(folder: Path) -> dict[str, str]:
    """Return what the engine chose when this run began (see `Engine.choices`).

    It is empty when the run begins, and where the file is damaged: the engine chooses again.
    """
    try:
        found = json.loads((folder / CHOICES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not begun, or begun by an engine that chooses nothing
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


class Golds:
    """The right and wrong answers to a run's questions, for an oracle."""

    def __init__(self, loaded: Sequence[LoadedBenchmark]) -> None:
        self._loaded = {one.benchmark.id: one for one in loaded}

    def __call__(self, request: Request, right: bool) -> str | int:  # noqa: FBT001 - the question
        """Return the text to reply, or the index of the choice to make likely."""
        loaded = self._loaded[request.benchmark]
        return loaded.benchmark.oracle(loaded.task.eval_docs[request.doc_id], right)
