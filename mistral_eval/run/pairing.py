"""Let a language model compare two models' answers, pair by pair and in both orders."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mistral_eval.answers.judge_prompt import JudgePrompt, digest_of
from mistral_eval.answers.mt_bench.pair_verdicts import Winner, read_winner
from mistral_eval.console import Talk
from mistral_eval.errors import UsageError
from mistral_eval.record.fastchat import PairJudgment, read_pair_judgments, write_lines
from mistral_eval.record.judgments import Judgments
from mistral_eval.record.remote import Copy
from mistral_eval.record.run_folder import JUDGMENTS_FOLDER, PAIR_FILES
from mistral_eval.report.table.pair_tables import pair_notes
from mistral_eval.run.asking_judge import JudgeQueue, chosen
from mistral_eval.run.judge_only import judged_benchmark, judging_folder
from mistral_eval.run.judges import opened_judge
from mistral_eval.run.stopping import stoppable
from mistral_eval.run.stored_answers import StoredAnswers, questions_with, read_stored
from mistral_eval.settings import RunSettings
from mistral_eval.suite.benchmark import Doc
from mistral_eval.suite.conversations import Conversation

OPTION: Final = "--judge-pairwise"


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """Two models' answers to one turn, and what the judge is asked in either order."""

    question_id: int
    turn: int
    prompts: tuple[JudgePrompt, JudgePrompt]


def compare_answers(path: Path, other: Path, settings: RunSettings, talk: Talk) -> Path:
    """Have the judge of the settings compare two models' answers in both orders.

    Only questions that the data and both models have are compared. The judgments are in the folder
    of `path`, if that is a run, or else in one of their own. The same command asks for what is
    missing.

    Args:
        path: The first model's answers: a run's folder or a FastChat file.
        other: The second model's.
        settings: They name the benchmark, the data, the judge and the folder of results.
        talk: Receives messages, and the result in words.

    Returns:
        The file of judgments in FastChat's form.

    Raises:
        UsageError: The benchmark or the judge is missing, or both are the same answers.
        DataError: There is no question that both models answered.
        MistralEvalError: The judge did not answer, or something cannot be written.
    """
    benchmark = judged_benchmark(settings, OPTION)
    first, second = read_stored(path, benchmark), read_stored(other, benchmark)
    if first.digest == second.digest:
        raise UsageError(
            f"{OPTION} compares two models' answers, and {second.path} has those of "
            f"{first.path}. Give another folder or file."
        )
    docs = questions_with([first, second], benchmark, settings, talk)
    pairs = judged_pairs(benchmark, docs, first, second)
    folder = first.path if first.is_run else judging_folder(first, settings)
    names = _told_apart(first, second)
    copy = Copy.around(folder, talk.say)
    with (
        copy.keeping(folder) if copy else nullcontext(),
        stoppable(folder / JUDGMENTS_FOLDER, talk.say) as stopper,
        stopper.deferred(),
        opened_judge(settings, folder, talk) as judge,
        Judgments.writing(folder, judge.name, reuses=True) as kept,
    ):
        asking = JudgeQueue(judge, kept, talk, is_decided, stopper.is_wanted)
        asking.ask([prompt for pair in pairs for prompt in pair.prompts])
        lines = [_line(pair, names, kept) for pair in pairs]
        digest = hashlib.sha256(f"{judge.name}\0{second.digest}".encode()).hexdigest()
        file = folder / PAIR_FILES.replace("*", digest[:8])
        write_lines(file, lines)
    for note in pair_notes(file):
        talk.say(note)
    return file


def check_pairing(other: Path, settings: RunSettings) -> None:
    """Check that there is a judge, and that the other model's answers can be read.

    Raises:
        UsageError: The benchmark or the judge is missing.
        DataError, OutputError: The answers are not there.
    """
    read_stored(other, judged_benchmark(settings, OPTION))


def judged_pairs(
    benchmark: Conversation, docs: Sequence[Doc], first: StoredAnswers, second: StoredAnswers
) -> list[JudgedPair]:
    """Return each turn that both models answered, question by question."""
    pairs = []
    for doc in docs:
        number, turns = benchmark.number(doc), len(benchmark.turns(doc))
        both = (one.texts[number][:turns] for one in (first, second))
        asked = enumerate(benchmark.pair_prompts(doc, *both), 1)
        pairs += [JudgedPair(number, turn, prompts) for turn, prompts in asked]
    return pairs


def rescore_pairs(folder: Path, talk: Talk) -> None:
    """Read the winners again from the judgments in a run's folder, without the judge.

    Of a judgment that the folder's log lacks, the text in the file is read.

    Raises:
        DataError: A file is not FastChat's.
        OutputError: A file cannot be written.
    """
    for file in sorted(folder.glob(PAIR_FILES)):
        lines = read_pair_judgments(file)
        kept = {judge: Judgments.reading(folder, judge) for judge in {x.judge[0] for x in lines}}
        write_lines(file, [_read_again(line, kept[line.judge[0]]) for line in lines])
        for note in pair_notes(file):
            talk.say(note)


def _read_again(line: PairJudgment, kept: Judgments) -> PairJudgment:
    """Return a pair with the winners that its judgments name today."""

    def text_of(user: str, text: str) -> str:
        attempts = kept.attempts_at(line.judge[1], digest_of(user))
        return chosen(attempts, is_decided).text if attempts else text

    first = text_of(line.g1_user_prompt, line.g1_judgment)
    second = text_of(line.g2_user_prompt, line.g2_judgment)
    read = {
        "g1_winner": read_winner(first),
        "g1_judgment": first,
        "g2_winner": read_winner(second, exchanged=True),
        "g2_judgment": second,
    }
    return line.model_copy(update=read)


def is_decided(text: str) -> bool:
    """Whether a winner or a tie can be read from a judge's text."""
    return read_winner(text) is not Winner.ERROR


def _line(pair: JudgedPair, names: tuple[str, str], kept: Judgments) -> PairJudgment:
    """Return the two judgments of a pair as FastChat writes them."""
    first, second = (chosen(kept.attempts(prompt), is_decided) for prompt in pair.prompts)
    return PairJudgment(
        question_id=pair.question_id,
        model_1=names[0],
        model_2=names[1],
        g1_winner=read_winner(first.text),
        g2_winner=read_winner(second.text, exchanged=True),
        judge=(first.judge, first.prompt),
        g1_user_prompt=pair.prompts[0].user,
        g1_judgment=first.text,
        g2_user_prompt=pair.prompts[1].user,
        g2_judgment=second.text,
        turn=pair.turn,
    )


def _told_apart(first: StoredAnswers, second: StoredAnswers) -> tuple[str, str]:
    """Return the models' names, with their folders' or files' if they are equal."""
    if first.model != second.model:
        return first.model, second.model
    marks = [one.path.name for one in (first, second)]
    if marks[0] == marks[1]:
        marks = [str(one.path) for one in (first, second)]
    return f"{first.model} ({marks[0]})", f"{second.model} ({marks[1]})"
