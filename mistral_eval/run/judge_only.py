"""Rate answers that are on the disk, without running a model."""

import hashlib
from contextlib import nullcontext
from pathlib import Path

from mistral_eval.console import Talk
from mistral_eval.errors import UsageError
from mistral_eval.record.remote import Copy, local_folder
from mistral_eval.record.run_folder import JUDGMENTS_FILE, JUDGMENTS_FOLDER, make_folder
from mistral_eval.report.table.rated_runs import rating_notes
from mistral_eval.run.judge_engine import check_judge
from mistral_eval.run.judges import judging
from mistral_eval.run.opening import check_refusal_judge
from mistral_eval.run.rating import rate_run, rated_turns
from mistral_eval.run.stopping import stoppable
from mistral_eval.run.stored_answers import StoredAnswers, questions_with, read_stored
from mistral_eval.settings import DEFAULT_MODEL, RunSettings
from mistral_eval.suite.conversations import BENCHMARKS, Conversation


def judge_file(file: Path, settings: RunSettings, talk: Talk) -> Path:
    """Have answers that are on the disk rated by the judge that the settings name.

    Only questions that the data have are rated. The same command asks for what is missing.

    Args:
        file: Answers of one model, FastChat's `model_answer/<model>.jsonl` or a run's folder.
        settings: They name the benchmark, the data, the judge and the folder of results.
        talk: Receives messages, and what notes would say.

    Returns:
        The file of judgments in FastChat's form.

    Raises:
        UsageError: An option names a model, or the benchmark or the judge is missing.
        DataError: There are no answers to a question of the data.
        MistralEvalError: The judge did not answer, or something cannot be written.
    """
    check_runs_no_model(settings)
    benchmark = judged_benchmark(settings, "--judge-only")
    answers = read_stored(file, benchmark)
    docs = questions_with([answers], benchmark, settings, talk)
    replies = [answers.texts[benchmark.number(doc)][: len(benchmark.turns(doc))] for doc in docs]
    named = settings.model_copy(update={"model": answers.model})
    copy = Copy.of(settings, talk.say)
    if copy:
        copy.fetch(_model_folder(named))
    folder = judging_folder(answers, settings)
    turns = rated_turns(benchmark, docs, replies)
    with (
        copy.keeping(folder) if copy else nullcontext(),
        stoppable(folder / JUDGMENTS_FOLDER, talk.say) as stopper,
        stopper.deferred(),
        judging(folder, named, talk, stop=stopper.is_wanted, reuses=True) as at_work,
    ):
        ratings = rate_run(folder, named, turns, at_work)
    for note in rating_notes(ratings):
        talk.say(f"{answers.model}: {note}.")
    return folder / JUDGMENTS_FILE


def judging_folder(answers: StoredAnswers, settings: RunSettings) -> Path:
    """Return the folder for judgments of answers that no run of ours gave; it is made."""
    judge = " ".join(filter(None, (settings.judge_model, settings.judge_engine)))
    digest = hashlib.sha256(f"{judge}\0{answers.digest}".encode()).hexdigest()
    named = settings.model_copy(update={"model": answers.model})
    folder = local_folder(settings.output_path) / _model_folder(named) / f"judged-{digest[:8]}"
    make_folder(folder)
    return folder


def _model_folder(settings: RunSettings) -> str:
    """Return the name of the folder of a model that only its answers name."""
    return settings.model_folder.strip(".") or "model"


def judged_benchmark(settings: RunSettings, option: str) -> Conversation:
    """Return the benchmark whose answers are judged.

    Raises:
        UsageError: The settings have another one, or no judge.
    """
    known = {one.id: one for one in BENCHMARKS}
    if len(settings.tasks) != 1 or settings.tasks[0] not in known:
        raise UsageError(
            f"{option} judges answers to {' or '.join(known)}, and --tasks is "
            f"{','.join(settings.tasks)}. Give --tasks {next(iter(known))}."
        )
    if settings.judge_model is None:
        raise UsageError(
            f"{option} needs a judge. Give --judge-model and --judge-url or --judge-engine."
        )
    check_refusal_judge(settings)
    if settings.judge_engine is not None:
        check_judge(settings)
    return known[settings.tasks[0]]


def check_runs_no_model(settings: RunSettings) -> None:
    """Check that no option is for a model that answers.

    Raises:
        UsageError: One is.
    """
    asks_model = {"--model": settings.model != DEFAULT_MODEL, "--engine": settings.engine != "auto"}
    for option, is_given in asks_model.items():
        if is_given:
            raise UsageError(
                f"--judge-only judges stored answers and runs no model. Leave out {option}."
            )
