"""Run benchmarks from settings to a folder, or rescore a finished run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mistral_eval.console import Talk, counted
from mistral_eval.data import Source, make_source
from mistral_eval.engines.interface import Engine, EngineIdentity, Reply, engine_class
from mistral_eval.engines.lm_eval_model import MistralLM
from mistral_eval.engines.stock_tasks import empty_prompts, load_stock, run_stock, stock_lines
from mistral_eval.errors import OutputError
from mistral_eval.record.remote import Copy
from mistral_eval.record.replies import OtherRuns, RepliesLog, check_replies
from mistral_eval.record.run_folder import RUN_FILE, make_folder
from mistral_eval.record.run_record import read_run
from mistral_eval.run.absent import lacking
from mistral_eval.run.answering import Answering, Answers, Recorded
from mistral_eval.run.clock import Clock
from mistral_eval.run.judge_endpoint import say_absent
from mistral_eval.run.judge_run import Judges, judge_all
from mistral_eval.run.merging import MERGE, check_parts, merged
from mistral_eval.run.opening import (
    check_engine,
    check_judging,
    is_another_attempt,
    is_finished,
    isolation_for,
    open_engine,
    run_folder,
)
from mistral_eval.run.pairing import rescore_pairs
from mistral_eval.run.parts import Part
from mistral_eval.run.questions import Asking, LoadedBenchmark, load_benchmarks
from mistral_eval.run.results import Finished, rename, write_run
from mistral_eval.run.shared import Shared
from mistral_eval.run.stopping import stoppable
from mistral_eval.run.verifying import is_verified, judgement, verify
from mistral_eval.run.watching import AnswerWatch
from mistral_eval.sandbox import Isolation
from mistral_eval.settings import RunSettings
from mistral_eval.suite.registry import check_shots


def run_suite(settings: RunSettings, talk: Talk, shared: Shared | None = None) -> Path:
    """Run the benchmarks of `settings`, or return at once if the run is finished.

    Args:
        settings: the run's settings.
        talk: receives progress and messages.
        shared: what runs of the same benchmarks on other models have built; filled.

    Returns:
        The run's folder; its scores are in run.json, if the settings name no part of it.

    Raises:
        MistralEvalError: anything the user can fix; logged replies are kept.
    """
    check_shots(settings)
    for name in settings.left_out:
        talk.say(f"{lacking(name)}.")
    source = make_source(settings.data)
    copy = Copy.of(settings, talk.say)
    if copy:
        copy.fetch(settings.model_folder)
    folder = run_folder(settings, source)
    earlier = read_run(folder) if is_finished(folder) else None
    if earlier and is_verified(earlier, settings.verify):
        if settings.name:
            rename(folder, settings.name)
        if copy:
            copy.upload(folder)
        talk.say(f"This run is finished; its record is in {folder}. --fresh runs it again.")
        return folder
    if earlier and not settings.name:
        settings = settings.model_copy(update={"name": earlier["settings"].get("name")})
    isolation = None if settings.part else isolation_for(settings)  # a part judges nothing
    if settings.no_compute:
        check_judging(settings)
        check_parts(folder)
    else:
        check_engine(settings)
        if settings.judge_url and not settings.part:
            say_absent(settings.judge_url, talk, shared.judges if shared else set())
    make_folder(folder)
    with copy.keeping(folder) if copy else nullcontext():
        complete(folder, settings, talk, isolation, earlier=earlier, shared=shared)
    return folder


def rescore(folder: Path, talk: Talk, *, unsafe_code: bool, sandbox: str = "auto") -> None:
    """Judge a finished run's logged replies again, without its model; keep the old files.

    The questions are rebuilt and their replies looked up in the replies log. Only the engine's
    encoder is loaded, to compute the keys. A language model that judged, pairs too, is not asked:
    its judgments are read again.

    Raises:
        OutputError: the folder holds no finished run.
        RepliesError: a reply is missing, e.g. because the protocol has changed.
        MistralEvalError: the run's data, tokenizer or sandbox is no longer available.
    """
    run = read_run(folder)
    folder = folder if folder.is_dir() else folder.parent
    check_replies(folder)
    if "identity" not in run:
        raise OutputError(
            f"{folder / RUN_FILE} should hold the engine's identity, which names the logged "
            "replies, but does not. Repeat the run's command with --fresh."
        )
    settings = settings_of(run, unsafe_code=unsafe_code, sandbox=sandbox)
    info = {key: value for key, value in run["model"].items() if key != "fingerprint"}
    identity = EngineIdentity(**run["identity"], info=info, notes=tuple(run["notes"]))
    isolation = isolation_for(settings)
    copy = Copy.around(folder, talk.say)
    with copy.keeping(folder) if copy else nullcontext():
        complete(folder, settings, talk, isolation, earlier=run, rescored=identity)
        rescore_pairs(folder, talk)


def settings_of(run: Mapping[str, Any], *, unsafe_code: bool, sandbox: str) -> RunSettings:
    """Return the settings in run.json with the given sandbox options and without `verify`."""
    chosen = {"unsafe_code": unsafe_code, "sandbox": sandbox}
    return RunSettings(**{**run["settings"], **chosen, "verify": 0})  # no model to verify with


def complete(
    folder: Path,
    settings: RunSettings,
    talk: Talk,
    isolation: Isolation | None,
    *,
    earlier: Mapping[str, Any] | None = None,
    rescored: EngineIdentity | None = None,
    shared: Shared | None = None,
) -> None:
    """Complete a run: compute missing replies, judge all replies and write the results.

    A part of a run ends after its replies are computed.

    Args:
        folder: the run's folder.
        settings: the run's settings.
        talk: receives progress and messages.
        isolation: isolation of generated programs; None if there are none.
        earlier: the run.json of a finished run that is rescored or verified.
        rescored: the identity of the engine that computed the logged replies, for rescoring; None
            opens the engine that `settings` names.
        shared: see `run_suite`.

    Raises:
        MistralEvalError: anything the user can fix; logged replies are kept.
    """
    clock = Clock()
    alone = earlier or settings.fresh or is_another_attempt(folder)
    others = None if alone else OtherRuns(folder, talk.say)
    part = Part.of(settings)
    with (
        stoppable(folder, talk.say) as stopper,
        RepliesLog(folder, part.name if part else MERGE if settings.no_compute else "") as log,
        ExitStack() as opened,
    ):
        computes = not (rescored or settings.no_compute)
        _say_known(log, folder, talk, computes=computes)
        with clock.phase("build"):
            loaded = _load(settings, make_source(settings.data), talk, shared)
            stock_tasks = load_stock(settings) if settings.stock_tasks else None
        with clock.phase("load"):
            answers: Answers
            if rescored:
                answers = Recorded(engine_class(rescored.engine).encoder(settings, rescored), log)
            elif settings.no_compute:
                answers, settings = merged(folder, settings, loaded, log)
            else:
                engine, settings = open_engine(folder, settings, loaded, talk)
                opened.callback(engine.close)
                _check_fit(engine, loaded, stock_tasks)
                answers = Answering(
                    engine,
                    log,
                    others,
                    stopper,
                    shared.encodings if shared else None,
                    part.begin(folder, engine) if part else None,
                )
        with clock.phase("answer"):
            replies = _answer(answers, loaded, talk)
        if part and isinstance(answers, Answering):
            talk.say(part.end(folder, answers, clock.seconds))
            return
        with clock.phase("stock"):
            lm = MistralLM(answers.answer)
            stock = run_stock(stock_tasks, lm, settings) if stock_tasks else None
        speed = verified = None
        if isinstance(answers, Answering):
            speed = answers.engine.speed()
            verified = _verify(answers, settings, clock, talk)
            opened.close()  # judging needs the memory, not the engine
        judged = judge_all(
            folder,
            settings,
            loaded,
            _judged_parts(replies),
            Judges(isolation, None if rescored else stopper, clock, talk),
        )
        log.flush()
        write_run(
            folder,
            Finished(settings, answers, judged, stock, clock.seconds, earlier, verified, speed),
        )
    _say_stock(stock, talk)
    talk.say(f"The run's record is in {folder}.")


def _say_stock(stock: Mapping[str, Any] | None, talk: Talk) -> None:
    """Say what stock tasks came to, if there were any."""
    for line in stock_lines(stock) if stock else ():
        talk.say(line)


def _say_known(log: RepliesLog, folder: Path, talk: Talk, *, computes: bool) -> None:
    """Say what of the replies log cannot be read, and how many replies are in it."""
    if log.notice:
        again = " Missing replies are computed again." if log.skipped and computes else ""
        talk.say(log.notice + again)
    if computes and (known := log.count()):
        talk.say(f"Resuming with {counted(known, 'reply')} of {folder}.")


def _check_fit(
    engine: Engine, loaded: Sequence[LoadedBenchmark], stock_tasks: Mapping[str, Any] | None
) -> None:
    """Refuse what does not fit the context before anything is computed.

    Raises:
        EngineError: it does not.
    """
    for benchmark in loaded:
        engine.encode(benchmark.requests[0])
    for request in empty_prompts(stock_tasks or {}):
        engine.encode(request)


def _load(
    settings: RunSettings, source: Source, talk: Talk, shared: Shared | None
) -> list[LoadedBenchmark]:
    """Build the questions, or take those that are built (see `run_suite`); number their samples."""
    if shared and shared.questions:
        return [one.of_iteration(settings.iteration) for one in shared.questions]
    asking = Asking.of(settings, source)
    loaded = []
    for benchmark in load_benchmarks(settings.own_tasks, asking):
        count = counted(len(benchmark.questions), "question")
        talk.say(f"{benchmark.benchmark.column}: {count}")
        loaded.append(benchmark)
    if shared is not None:
        shared.questions.extend(loaded)
    return [one.of_iteration(settings.iteration) for one in loaded]


def _answer(
    answers: Answers, loaded: Sequence[LoadedBenchmark], talk: Talk
) -> list[list[list[Reply | None]]]:
    """Return the replies of all benchmarks, per question; those of a part of a run lack others'.

    Requests of the same kind from all benchmarks go to the engine in one call, so that they share
    prefixes.

    Raises:
        EngineError: some requests failed; raised after all others, of all kinds, were answered.
    """
    found: dict[str, Iterator[Reply | None]] = {}
    for kind in ("score", "generate"):
        asked = [benchmark for benchmark in loaded if benchmark.kind == kind]
        requests = [request for benchmark in asked for request in benchmark.requests]
        if not requests:
            continue
        with _watched(answers, asked, talk):
            found[kind] = iter(answers.answer_most(requests))
    replies = [
        [
            [next(found[benchmark.kind]) for _ in question.requests]
            for question in benchmark.questions
        ]
        for benchmark in loaded
    ]
    turn = 2
    while _answer_next_turns(answers, loaded, replies, turn, talk):
        turn += 1
    answers.check_complete()
    return replies


def _answer_next_turns(
    answers: Answers,
    loaded: Sequence[LoadedBenchmark],
    replies: Sequence[Sequence[list[Reply | None]]],
    turn: int,
    talk: Talk,
) -> bool:
    """Ask what follows the replies so far, add its replies, and return whether there was any.

    A question with a request that failed is not continued.
    """
    asked: dict[str, LoadedBenchmark] = {}
    requests, open_questions = [], []
    for benchmark, of_benchmark in zip(loaded, replies, strict=True):
        if benchmark.kind != "generate":
            continue
        for question, of_question in zip(benchmark.questions, of_benchmark, strict=True):
            texts = [reply.text for reply in of_question if reply is not None]
            if len(texts) < len(of_question):
                continue
            if request := benchmark.next_turn(question, texts):
                asked[benchmark.benchmark.id] = benchmark
                requests.append(request)
                open_questions.append(of_question)
    if requests:
        with _watched(answers, list(asked.values()), talk, turn):
            for known, reply in zip(open_questions, answers.answer_most(requests), strict=True):
                known.append(reply)
    return bool(requests)


def _judged_parts(replies: Sequence[list[list[Reply | None]]]) -> list[list[Any]]:
    """Return the replies of a whole run in the form that judges read."""
    return [
        [[_judged_part(reply) for reply in question] for question in benchmark]
        for benchmark in replies
    ]


def _judged_part(reply: Reply | None) -> str | tuple[float, bool]:
    """Return the part of a reply that a judge reads."""
    assert reply is not None  # `check_complete` has said so
    return reply.text if reply.finish else (reply.logprob, reply.is_greedy)


@contextmanager
def _watched(
    answers: Answers, asked: Sequence[LoadedBenchmark], talk: Talk, turn: int = 1
) -> Iterator[None]:
    """Display progress while the `with` block answers these benchmarks, unless quiet."""
    if talk.quiet or not isinstance(answers, Answering):
        yield
        return
    with AnswerWatch(asked[0].kind, asked, answers.engine, talk, turn) as answers.watch:
        yield
    answers.watch = None


def _verify(
    answers: Answering, settings: RunSettings, clock: Clock, talk: Talk
) -> Mapping[str, Any] | None:
    if not settings.verify:
        return None
    with clock.phase("verify"):
        verified = verify(answers, settings.verify, settings.seed)
    talk.say(judgement(verified, answers.identity, answers.engine.twin))
    return verified
