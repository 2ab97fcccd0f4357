"""Pairs of answers that a judge compared in both orders: a table of wins, losses and ties."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from mistral_eval.answers.mt_bench.pair_verdicts import Orders, Pair, PairScore, score_pairs
from mistral_eval.record.fastchat import PairJudgment, holds_pairs, read_pair_judgments
from mistral_eval.record.run_folder import PAIR_FILES
from mistral_eval.record.run_scores import one_line
from mistral_eval.report.table.view import MISSING, Section, points

BOTH_ORDERS: Final = (
    "Each pair is judged in both orders. A win counts if both name it; if they contradict each "
    "other, or one is a tie, the pair is a tie, as in FastChat. The share counts a tie as half a "
    "win, so 50 is no preference; its interval is over questions, whose turns are one cluster. "
    "Unread pairs are left out."
)


@dataclass(frozen=True, slots=True)
class PairResult:
    """One model's answers against another's, by one judge."""

    model: str
    against: str
    judge: str
    score: PairScore


def pair_results(path: Path) -> list[PairResult]:
    """Return the comparisons of a FastChat file, or of all such files in a run's folder.

    A file of ratings has none.

    Raises:
        DataError: A file is not FastChat's.
    """
    if path.is_dir():
        return [one for file in sorted(path.glob(PAIR_FILES)) for one in _of_file(file)]
    return _of_file(path) if path.suffix == ".jsonl" and holds_pairs(path) else []


def _of_file(file: Path) -> list[PairResult]:
    found: dict[tuple[str, str, str], list[PairJudgment]] = {}
    for line in read_pair_judgments(file):
        found.setdefault((line.model_1, line.model_2, line.judge[0]), []).append(line)
    return [
        PairResult(one_line(model), one_line(against), one_line(judge), score_pairs(pairs))
        for (model, against, judge), lines in found.items()
        if (pairs := [Pair(x.question_id, x.turn, (x.g1_winner, x.g2_winner)) for x in lines])
    ]


def pair_section(results: Sequence[PairResult]) -> Section:
    """Return the table of comparisons."""
    return Section(
        "MT-Bench, pairs of answers",
        (
            *("Model", "Against", "Wins", "Losses", "Ties", "Share, %", "95 % from", "to"),
            *("Questions", "Unread", "Contradictory", "Judge"),
        ),
        tuple(_cells(one) for one in results),
        (BOTH_ORDERS,),
        words=(0, 1, 11),
        data=tuple(asdict(one) for one in results),
    )


def _cells(one: PairResult) -> tuple[str, ...]:
    score = one.score
    share = (MISSING,) * 3
    if score.share is not None:
        share = (points(score.share.value), points(score.share.low), points(score.share.high))
    counts = (score.wins, score.losses, score.ties)
    rest = (score.questions, score.unread, score.orders[Orders.CONTRADICTORY])
    return (one.model, one.against, *map(str, counts), *share, *map(str, rest), one.judge)


def pair_notes(file: Path) -> list[str]:
    """Return a file's comparisons in words."""
    return [_words(one) for one in pair_results(file)]


def _words(one: PairResult) -> str:
    score, orders = one.score, one.score.orders
    share = "no pair could be read"
    if score.share is not None:
        share = (
            f"its share is {points(score.share.value)} % [{points(score.share.low)}, "
            f"{points(score.share.high)}], ties as half"
        )
    return (
        f"{one.model} against {one.against}: {score.wins} wins, {score.losses} losses, "
        f"{score.ties} ties ({orders[Orders.CONTRADICTORY]} of them contradictory, "
        f"{orders[Orders.HALF_TIE]} half a tie), {score.unread} unread; {share}."
    )
