"""Rate answers that FastChat or another program has written, without running a model."""

import hashlib
from contextlib import nullcontext
from pathlib import Path

from mistral_eval.console import Talk, counted
from mistral_eval.data import make_source
from mistral_eval.errors import DataError, UsageError
from mistral_eval.record.fastchat import answers_of, read_answers
from mistral_eval.record.judgments import FOLDER
from mistral_eval.record.remote import Copy, local_folder
from mistral_eval.record.run_folder import make_folder
from mistral_eval.report.table.rated_runs import rating_notes
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.run.rating import FASTCHAT_FILE, rate_run, rated_turns
from mistral_eval.run.stopping import stoppable
from mistral_eval.settings import DEFAULT_MODEL, RunSettings
from mistral_eval.suite.conversations import BENCHMARKS


def judge_file(file: Path, settings: RunSettings, talk: Talk) -> Path:
    """Have the answers of a FastChat file rated by the judge that the settings name.

    Only questions that the data have are rated. The same command asks for what is missing.

    Args:
        file: Answers of one model, `model_answer/<model>.jsonl`.
        settings: They name the benchmark, the data, the judge and the folder of results.
        talk: Receives messages, and what notes would say.

    Returns:
        The file of judgments in FastChat's form.

    Raises:
        UsageError: An option names a model, or the benchmark or the judge is missing.
        DataError: The file is not FastChat's, or has no answer to a question of the data.
        MistralEvalError: The judge did not answer, or something cannot be written.
    """
    _check(settings)
    (benchmark,) = (one for one in BENCHMARKS if one.id in settings.own_tasks)
    answers = read_answers(file)
    texts = answers_of(list(answers.values()))
    (loaded,) = load_benchmarks([benchmark.id], Asking.of(settings, make_source(settings.data)))
    docs = [q.doc for q in loaded.questions if benchmark.number(q.doc) in texts]
    if not docs:
        raise DataError(
            f"{file} should hold answers to questions of {benchmark.id}, and has none of the "
            f"{len(loaded.questions)} that are asked. Give the file of another model or --data."
        )
    absent, others = len(loaded.questions) - len(docs), len(texts) - len(docs)
    if absent or others:
        talk.say(
            f"{file.name}: {counted(absent, 'question')} without an answer, and "
            f"{counted(others, 'answer')} to questions that are not asked."
        )
    replies = [texts[benchmark.number(doc)][: len(benchmark.turns(doc))] for doc in docs]
    model = next(iter(answers.values())).model_id
    settings = settings.model_copy(update={"model": model})
    digest = hashlib.sha256(f"{settings.judge_model}\0".encode() + file.read_bytes()).hexdigest()
    name = settings.model_folder.strip(".") or "model"
    copy = Copy.of(settings, talk.say)
    if copy:
        copy.fetch(name)
    folder = local_folder(settings.output_path) / name / f"judged-{digest[:8]}"
    make_folder(folder)
    turns = rated_turns(benchmark, docs, replies)
    with (
        copy.keeping(folder) if copy else nullcontext(),
        stoppable(folder / FOLDER, talk.say) as stopper,
        stopper.deferred(),
    ):
        ratings = rate_run(folder, settings, turns, talk, stop=stopper.is_wanted, reuses=True)
    for note in rating_notes(ratings):
        talk.say(f"{model}: {note}.")
    return folder / FASTCHAT_FILE


def _check(settings: RunSettings) -> None:
    """Check that the settings are those of judging alone.

    Raises:
        UsageError: They are not.
    """
    known = [one.id for one in BENCHMARKS]
    if settings.tasks not in [(name,) for name in known]:
        raise UsageError(
            f"--judge-only rates answers to {' or '.join(known)}, and --tasks is "
            f"{','.join(settings.tasks)}. Give --tasks {known[0]}."
        )
    if settings.judge_model is None:
        raise UsageError("--judge-only needs a judge. Give --judge-url and --judge-model.")
    asks_model = {"--model": settings.model != DEFAULT_MODEL, "--engine": settings.engine != "auto"}
    for option, is_given in asks_model.items():
        if is_given:
            raise UsageError(
                f"--judge-only rates a file's answers and runs no model. Leave out {option}."
            )
