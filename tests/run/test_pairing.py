"""A judge compares two models' answers, pair by pair and in both orders."""

import json

import pytest

from mistral_eval.answers.mt_bench.judge_prompts import pair_prompt, reference_answers
from mistral_eval.answers.mt_bench.pair_verdicts import Orders, Winner
from mistral_eval.console import Talk
from mistral_eval.data import load_benchmark_data, make_source
from mistral_eval.errors import DataError, EngineError, UsageError
from mistral_eval.record.fastchat import Choice, ModelAnswer, read_pair_judgments, write_lines
from mistral_eval.record.run_record import read_run
from mistral_eval.report.table import render_figure
from mistral_eval.report.table.pair_tables import pair_results
from mistral_eval.run.asking_judge import ATTEMPTS
from mistral_eval.run.pairing import compare_answers
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.conversations import MT_BENCH
from tests.judge_server import JudgeServer, said

QUIET = Talk(quiet=True)
(ROWS,) = load_benchmark_data(MT_BENCH.task.data, make_source("sample")).values()
NUMBERS = tuple(row["question_id"] for row in ROWS[:4])


def answers_in(folder, model, numbers=NUMBERS):
    file = folder / f"{model}.jsonl"
    found = [
        ModelAnswer(
            question_id=number,
            model_id=model,
            choices=(Choice(turns=(f"{model} on {number}", f"{model} again on {number}")),),
        )
        for number in numbers
    ]
    write_lines(file, found)
    return file


@pytest.fixture
def files(tmp_path):
    return answers_in(tmp_path, "good"), answers_in(tmp_path, "poor")


def settings_in(folder, judge, **changed) -> RunSettings:
    fields = {"tasks": (MT_BENCH.id,), "data": "sample", "output_path": folder / "results"}
    named = {"judge_url": judge.url, "judge_model": "judge-1"}
    return RunSettings(**{**fields, **named, **changed})


def cells_of(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def user_of(body) -> str:
    return body["messages"][1]["content"]


def is_good_first(body) -> bool:
    return user_of(body).index("good on") < user_of(body).index("poor on")


def prefers_good(number, body):
    return said("[[A]]" if is_good_first(body) else "[[B]]")


def question_of(body) -> int:
    return next(number for number in NUMBERS if f"good on {number}" in user_of(body))


def by_question(number, body):
    """The first question is won, the second lost, the third depends on the order, then a tie."""
    place = NUMBERS.index(question_of(body))
    if place == 3:
        return said("Both are fine: [[C]]")
    is_a = {0: is_good_first(body), 1: not is_good_first(body), 2: True}[place]
    return said("[[A]]" if is_a else "[[B]]")


def test_a_win_needs_both_orders(tmp_path, files):
    with JudgeServer(by_question) as judge:
        file = compare_answers(*files, settings_in(tmp_path, judge), QUIET)
        assert len(judge.asked) == 4 * 2 * 2  # questions, turns, orders
    (found,) = pair_results(file)
    score = found.score

    assert (found.model, found.against, found.judge) == ("good", "poor", "judge-1")
    assert (score.wins, score.losses, score.ties, score.unread) == (2, 2, 4, 0)
    assert score.orders[Orders.CONTRADICTORY] == 2
    assert (score.questions, score.share.value) == (4, 50.0)
    assert 0 <= score.share.low < 50 < score.share.high <= 100


def test_the_judge_gets_fastchats_prompts_in_both_orders(tmp_path, files):
    with JudgeServer(prefers_good) as judge:
        compare_answers(*files, settings_in(tmp_path, judge), QUIET)
        asked = {(one["messages"][0]["content"], user_of(one)) for one in judge.asked}
    expected = set()
    for row in ROWS[:4]:
        number = row["question_id"]
        good, poor = (
            (f"{model} on {number}", f"{model} again on {number}") for model in ("good", "poor")
        )
        for turn in (1, 2):
            for first, second in ((good, poor), (poor, good)):
                prompt = pair_prompt(
                    row["turns"], first, second, turn, reference_answers().get(number)
                )
                expected.add((prompt.system, prompt.user))
    assert asked == expected


def test_nothing_is_asked_twice(tmp_path, files):
    with JudgeServer(prefers_good) as judge:
        file = compare_answers(*files, settings_in(tmp_path, judge), QUIET)
        before = file.read_text(encoding="utf-8")
        assert compare_answers(*files, settings_in(tmp_path, judge), QUIET) == file
        assert len(judge.asked) == 16
    assert file.read_text(encoding="utf-8") == before
    (found,) = pair_results(file)
    assert (found.score.wins, found.score.losses) == (8, 0)
    assert found.score.share.value == 100.0
    assert found.score.share.low < 100.0


def test_a_failure_keeps_what_arrived(tmp_path, files):
    def fails_late(number, body):
        return prefers_good(number, body) if number <= 10 else (404, {"error": "gone"})

    with JudgeServer(fails_late) as judge, pytest.raises(EngineError, match="are kept"):
        compare_answers(*files, settings_in(tmp_path, judge), QUIET)
    with JudgeServer(prefers_good) as judge:
        compare_answers(*files, settings_in(tmp_path, judge), QUIET)
        assert len(judge.asked) == 6


@pytest.mark.parametrize("text", ["", "Neither.", "Rating: [[7]]", None])
def test_an_unread_judgment_is_asked_again_then_counted(tmp_path, files, text):
    def answer(number, body):
        is_bad = (
            question_of(body) == NUMBERS[0] and is_good_first(body) and "again" in user_of(body)
        )
        return said(text) if is_bad else prefers_good(number, body)

    with JudgeServer(answer) as judge:
        file = compare_answers(*files, settings_in(tmp_path, judge), QUIET)
        assert len(judge.asked) == 15 + ATTEMPTS
    (found,) = pair_results(file)
    assert (found.score.wins, found.score.unread, found.score.questions) == (7, 1, 4)
    line = read_pair_judgments(file)[1]
    assert (line.g1_winner, line.g2_winner) == ("error", "model_1")


def test_a_run_keeps_its_pairs_and_shows_them_below_its_ratings(tmp_path, files):
    def answer(number, body):
        return said("[[A]]") if "[[A]]" in body["messages"][0]["content"] else said("[[6]]")

    with JudgeServer(answer) as judge:
        settings = settings_in(tmp_path, judge, engine="random", limit=8)
        folder = run_suite(settings, QUIET)
        file = compare_answers(folder, files[0], settings, QUIET)
    assert file.parent == folder
    found = json.loads(render_figure([folder], "chat", "json"))
    table = render_figure([folder], "chat", "md")
    assert "MT-Bench, pairs of answers" in table
    assert ["random", "good", "0", "0"] in [cells[:4] for cells in cells_of(table)]
    assert ["random", "—", "6.00"] in [cells[:3] for cells in cells_of(table)]
    assert "A win counts if both name it" in table
    assert "pairs of answers" in json.dumps(found)


def test_a_run_without_ratings_still_shows_its_pairs(tmp_path, files):
    with JudgeServer(lambda number, body: said("[[C]]")) as judge:
        run = settings_in(tmp_path, judge, engine="random", limit=8)
        bare = {"judge_url": None, "judge_model": None}
        folder = run_suite(run.model_copy(update=bare), QUIET)
        compare_answers(folder, files[0], settings_in(tmp_path, judge), QUIET)
    table = render_figure([folder], "chat", "md")
    assert ["random", "good", "0", "0"] in [cells[:4] for cells in cells_of(table)]


@pytest.fixture
def compared(tmp_path, files):
    """A run and its file of pairs, of which one judgment was readable at the third attempt only."""
    late: list[str] = []

    def answer(number, body):
        user = user_of(body)
        if f"Assistant A's Answer]\ngood on {NUMBERS[0]}" in user:
            late.append(user)
            return said("[[B]]" if len(late) == ATTEMPTS else "Hm.")
        return said("[[A]]" if len(user) % 2 else "[[C]]")

    with JudgeServer(answer) as judge:
        settings = settings_in(tmp_path, judge, engine="random")
        bare = settings.model_copy(update={"judge_url": None, "judge_model": None})
        folder = run_suite(bare, QUIET)
        file = compare_answers(folder, files[0], settings, QUIET)
        assert len(judge.asked) == 4 * 2 * 2 + ATTEMPTS - 1  # 4 questions are in the file
    return folder, file


def as_an_older_rule_read(file, **changed):
    """Write the file as if another rule had read all judgments."""
    lines = [line.model_copy(update=changed) for line in read_pair_judgments(file)]
    write_lines(file, lines)


def test_a_rescoring_reads_the_pairs_again_without_the_judge(compared):
    folder, file = compared
    before = file.read_text(encoding="utf-8")
    as_an_older_rule_read(file, g1_winner=Winner.ERROR, g2_winner=Winner.FIRST, g2_judgment="")
    assert file.read_text(encoding="utf-8") != before

    rescore(folder, QUIET, unsafe_code=False)
    assert file.read_text(encoding="utf-8") == before
    assert "ratings" not in read_run(folder)


def test_a_rescoring_of_pairs_takes_the_attempt_that_can_be_read(compared):
    """Also where the file has another one, as if an older rule could not read it."""
    folder, file = compared
    as_an_older_rule_read(file, g1_judgment="Hm.", g1_winner=Winner.ERROR)
    rescore(folder, QUIET, unsafe_code=False)
    found = read_pair_judgments(file)
    assert found[0].g2_winner == "model_1"  # the third attempt's B, where A was the file's
    assert all("[[" in one.g1_judgment and one.g1_winner != "error" for one in found)


def test_pairs_without_their_log_are_read_from_the_file(compared):
    folder, file = compared
    before = file.read_text(encoding="utf-8")
    for log in (folder / "judgments" / "replies").iterdir():
        log.unlink()
    as_an_older_rule_read(file, g1_winner=Winner.TIE, g2_winner=Winner.TIE)
    rescore(folder, QUIET, unsafe_code=False)
    assert file.read_text(encoding="utf-8") == before


def test_pairs_of_a_run_in_a_store_are_there_and_change_there(tmp_path, files, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = tmp_path / "store"
    with JudgeServer(lambda number, body: said("[[A]]")) as judge:
        settings = settings_in(tmp_path, judge, engine="random", output_path=f"file://{store}")
        bare = settings.model_copy(update={"judge_url": None, "judge_model": None})
        folder = run_suite(bare, QUIET)
        file = compare_answers(folder, files[0], settings, QUIET)
    (there,) = store.rglob(file.name)
    before = file.read_bytes()
    assert there.read_bytes() == before

    swapped = {"g1_winner": Winner.SECOND, "g2_winner": Winner.FIRST}  # as long as what is right
    as_an_older_rule_read(file, **swapped)
    there.write_bytes(file.read_bytes())
    assert len(there.read_bytes()) == len(before)
    rescore(folder, QUIET, unsafe_code=False)
    assert there.read_bytes() == before


def test_a_damaged_file_of_pairs_is_named(compared):
    folder, file = compared
    file.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=f"{file.name}, line 1: expected a JSON object"):
        rescore(folder, QUIET, unsafe_code=False)


def test_two_runs_of_one_model_are_told_apart(tmp_path):
    with JudgeServer(lambda number, body: said("[[A]]")) as judge:
        runs = [
            settings_in(tmp_path, judge, engine="random", limit=2, seed=seed) for seed in (0, 1)
        ]
        one, other = (run_suite(settings, QUIET) for settings in runs)
        file = compare_answers(one, other, runs[0], QUIET)
        with pytest.raises(UsageError, match="has those of"):
            compare_answers(one, one, runs[0], QUIET)
    (found,) = pair_results(file)
    assert (found.model, found.against) == (f"random ({one.name})", f"random ({other.name})")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"judge_url": None, "judge_model": None}, "--judge-pairwise needs a judge"),
        ({"tasks": ("piqa",)}, "and --tasks is piqa"),
    ],
)
def test_a_missing_judge_or_another_benchmark_is_refused(tmp_path, files, changed, sentence):
    with JudgeServer(prefers_good) as judge, pytest.raises(UsageError, match=sentence):
        compare_answers(*files, settings_in(tmp_path, judge, **changed), QUIET)


def test_answers_to_other_questions_are_refused(tmp_path, files):
    other = answers_in(tmp_path, "other", numbers=(999,))
    with JudgeServer(prefers_good) as judge, pytest.raises(DataError, match="has none of the"):
        compare_answers(files[0], other, settings_in(tmp_path, judge), QUIET)


def test_stored_pairs_of_a_real_judge_have_their_published_counts(tmp_path, shared):
    """The 75 stored rows in FastChat's form: 46 agree, 18 contradict, 9 half a tie, 2 unread."""
    import pandas as pd

    rows = pd.read_parquet(shared / "transcripts" / "chat" / "mt_bench_pairs.parquet")
    lines = [
        {
            "question_id": int(row.question_id), "model_1": "a", "model_2": "b",
            "g1_winner": row.g1_winner, "g2_winner": row.g2_winner, "judge": ["gpt-4", "pair-v2"],
            "g1_judgment": row.g1_judgment, "g2_judgment": row.g2_judgment, "turn": place + 1,
        }
        for place, row in enumerate(rows.itertuples())
    ]  # fmt: skip
    (tmp_path / "gpt-4_pair.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (found,) = pair_results(tmp_path / "gpt-4_pair.jsonl")
    score = found.score
    assert list(score.orders.values()) == [46, 18, 9, 2]
    assert (score.wins, score.losses, score.ties, score.unread) == (18, 20, 35, 2)
    assert score.share.value == pytest.approx(100 * (18 + 35 / 2) / 73)
