"""Replies become verdicts and metrics the same way for lm-eval, the harness and a rescore."""

import pytest

from mistral_eval.answers.verdict import Outcome, QuestionVerdict, Verdict, cut
from mistral_eval.data import load_benchmark_data, make_source
from mistral_eval.data.task_file import data_spec, read_task
from mistral_eval.errors import SandboxError
from mistral_eval.sandbox import Isolation
from mistral_eval.suite import lm_eval_hooks
from mistral_eval.suite.benchmark import JudgeContext
from mistral_eval.suite.lm_eval_hooks import by_group, filter_for, macro
from mistral_eval.suite.registry import BENCHMARKS, BY_ID

CHOICES = [one.id for one in BENCHMARKS if one.kind == "score"]
GENERATED = [one.id for one in BENCHMARKS if one.kind == "generate"]


def rows(benchmark: str) -> list[dict]:
    spec = data_spec(benchmark)
    return list(load_benchmark_data(spec, make_source("sample"))[spec.splits[0]])


def scores(benchmark: str, doc: dict, *, right: bool) -> list[tuple[float, bool]]:
    """Log-likelihoods that make the gold (or all but the gold) likely."""
    gold = BY_ID[benchmark].gold(doc)
    asked = [
        (-1.0 if (place == gold.index) == right else -1e6, False)
        for place in range(len(gold.texts))
    ]
    return [*asked, *without_question(benchmark, len(asked))]


def without_question(benchmark: str, choices: int) -> list[tuple[float, bool]]:
    """Log-likelihoods of the choices alone, if the benchmark asks for them."""
    return [] if BY_ID[benchmark].unconditional is None else [(-2.0, False)] * choices


@pytest.mark.parametrize("benchmark", CHOICES)
@pytest.mark.parametrize("right", [True, False])
def test_choices_are_judged_by_their_likelihood(benchmark, right):
    docs = rows(benchmark)
    verdicts = BY_ID[benchmark].judge(docs, [scores(benchmark, doc, right=right) for doc in docs])
    assert [verdict.verdict.is_correct for verdict in verdicts] == [right] * len(docs)
    metrics = {metric["metric"] for metric in read_task(benchmark)["metric_list"]}
    assert all(set(verdict.metrics) == metrics for verdict in verdicts)


@pytest.mark.parametrize("benchmark", [name for name in CHOICES if name != "mmlu"])
def test_the_verdict_is_the_cell_s_metric(benchmark):
    """Likelihood per character can choose another ending than likelihood; the cell says which."""
    doc = rows(benchmark)[0]
    lengths = [len(text) for text in BY_ID[benchmark].gold(doc).texts]
    replies = [(-(float(length) ** 0.5), False) for length in lengths]
    replies += without_question(benchmark, len(lengths))
    (verdict,) = BY_ID[benchmark].judge([doc], [replies])
    cell = BY_ID[benchmark].cell
    assert verdict.metrics[cell] == float(verdict.verdict.is_correct)
    if cell == "acc_norm":
        longest, shortest = lengths.index(max(lengths)), lengths.index(min(lengths))
        gold = BY_ID[benchmark].gold(doc).index
        assert verdict.metrics == {
            "acc": float(gold == shortest),
            "acc_norm": float(gold == longest),
        }


@pytest.mark.parametrize("benchmark", [one for one in CHOICES if BY_ID[one].unconditional])
def test_a_choice_that_is_likely_without_its_question_counts_less(benchmark):
    """The likeliest choice is likelier still alone, so the gold, which gains most, is chosen."""
    for doc in rows(benchmark):
        gold = BY_ID[benchmark].gold(doc)
        likeliest = (gold.index + 1) % len(gold.texts)
        asked, alone = [-9.0] * len(gold.texts), [-9.0] * len(gold.texts)
        asked[gold.index], alone[gold.index] = -5.0, -8.0
        asked[likeliest], alone[likeliest] = -2.0, -1.0
        scored = [(logprob, False) for logprob in (*asked, *alone)]
        (verdict,) = BY_ID[benchmark].judge([doc], [scored])
        assert (verdict.metrics["acc_relative"], verdict.metrics["acc"]) == (1.0, 0.0)
        assert verdict.verdict.is_correct
        assert verdict.verdict.answer == gold.texts[gold.index]


def test_mmlu_keeps_the_subject_for_the_mean_over_subjects():
    doc = rows("mmlu")[0]
    (verdict,) = BY_ID["mmlu"].judge([doc], [scores("mmlu", doc, right=True)])
    assert verdict.metrics == {"acc": 1.0, "acc_macro": (doc["subject"], 1.0)}


def test_macro_counts_each_subject_once():
    items = [("law", 1.0), ("law", 0.0), ("law", 0.0), ("law", 0.0), ("art", 1.0)]
    assert by_group(items) == {"law": 0.25, "art": 1.0}
    assert macro(items) == 0.625


def test_the_yaml_s_results_functions_give_the_judge_s_metrics():
    """What stock lm-eval calls for each question equals what the harness gets at once."""
    for benchmark in CHOICES:
        results = getattr(lm_eval_hooks, f"results_{benchmark}")
        docs = rows(benchmark)
        replies = [scores(benchmark, doc, right=place % 2 == 0) for place, doc in enumerate(docs)]
        expected = [dict(verdict.metrics) for verdict in BY_ID[benchmark].judge(docs, replies)]
        assert [results(doc, reply) for doc, reply in zip(docs, replies, strict=True)] == expected


def test_filters_return_one_verdict_per_question():
    docs = rows("nq")
    replies = [[f" {doc['answer'][0]}.\nQ: more"] for doc in docs]
    judged = lm_eval_hooks.filter_nq(replies, docs)
    assert [len(verdicts) for verdicts in judged] == [1] * len(docs)
    assert all(isinstance(verdict, QuestionVerdict) for (verdict,) in judged)
    assert [
        lm_eval_hooks.verdict_results(doc, [v]) for doc, v in zip(docs, judged, strict=True)
    ] == [{"exact_match": 1.0}] * len(docs)
    assert filter_for(BY_ID["nq"], JudgeContext(workers=1))(replies, docs) == judged


@pytest.mark.parametrize("benchmark", GENERATED)
def test_an_empty_reply_is_no_answer(benchmark):
    doc = rows(benchmark)[0]
    samples = read_task(benchmark)["repeats"]
    (verdict,) = BY_ID[benchmark].judge([doc], [[""] * samples])
    assert verdict.verdict.outcome is Outcome.NO_ANSWER
    assert [sample.outcome for sample in verdict.samples] == [Outcome.NO_ANSWER] * samples
    others = ("human_f1", "unread")  # not of the reply, or of such replies
    of_the_reply = {name: v for name, v in verdict.metrics.items() if name not in others}
    values = [v[1] if isinstance(v, tuple) else v for v in of_the_reply.values()]
    assert set(values) - {None} == {0.0}  # None: of another kind of question
    metrics = {metric["metric"] for metric in read_task(benchmark)["metric_list"]}
    assert set(verdict.metrics) == metrics


def test_replies_are_cut_at_the_stops_whoever_made_them():
    assert cut("a\nb", ["\n"]) == "a"
    assert cut("a stop b end", ["end", "stop"]) == "a "
    assert cut("none", ["\n", "stop"]) == "none"
    assert cut("\nfirst", ["\n"]) == ""


def test_votes_and_single_samples_are_both_reported():
    """Six of eight samples say the gold: the vote is right, the mean is 0.75."""
    (doc,) = rows("gsm8k")[:1]
    gold = doc["answer"].rpartition("#### ")[2]
    samples = [f" The answer is {gold}."] * 3 + [" The answer is 0.25."] * 2
    samples += [f" It is so. The answer is ${gold}.00.\n\nQ: The answer is 1."] * 3
    (verdict,) = BY_ID["gsm8k"].judge([doc], [samples])
    assert verdict.metrics == {"maj@8": 1.0, "maj@1": 0.75, "maj@8_flexible": 1.0}
    assert len(verdict.samples) == 8


@pytest.mark.sandbox
def test_programs_are_judged_by_their_tests():
    docs = rows("mbpp")[:3]
    replies = [[docs[0]["code"]], ["def other():\n    pass\n"], [f"{docs[2]['code']}\n[DONE]\n)"]]
    verdicts = BY_ID["mbpp"].judge(docs, replies, JudgeContext(workers=2))
    outcomes = [Outcome.CORRECT, Outcome.WRONG, Outcome.CORRECT]
    assert [verdict.verdict.outcome for verdict in verdicts] == outcomes
    assert [verdict.metrics["pass@1"] for verdict in verdicts] == [1.0, 0.0, 1.0]


def test_programs_are_not_run_without_isolation():
    docs = rows("humaneval")[:1]
    context = JudgeContext(isolation=Isolation("none", "no namespaces", ("namespaces",)))
    with pytest.raises(SandboxError, match="cannot be isolated"):
        BY_ID["humaneval"].judge(docs, [["    pass\n"]], context)


def test_functions_exist_for_registered_benchmarks_alone():
    """A YAML file that names another one fails when lm-eval reads it."""
    for name in ("filter_nosuch", "results_nosuch", "judge_nq", "nq"):
        with pytest.raises(AttributeError, match=name):
            getattr(lm_eval_hooks, name)


def test_the_reason_of_a_verdict_is_kept():
    doc = rows("triviaqa")[0]
    (verdict,) = BY_ID["triviaqa"].judge([doc], [[" surely not"]])
    assert verdict.samples == (verdict.verdict,)
    assert isinstance(verdict.verdict, Verdict)
    assert verdict.verdict.answer == "surely not"
    assert verdict.verdict.reason
