"""What the model sees: golden files, stock lm-eval's view, and no question among its own shots."""

import re

import golden_prompts
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.tasks import TaskManager

from mistral_eval.data import dataset_from, make_source
from mistral_eval.data.task_file import tasks_folder
from mistral_eval.suite import choice
from mistral_eval.suite.registry import BENCHMARKS, BY_ID

CHOICES = [one.id for one in BENCHMARKS if one.kind == "score"]
GOLDEN = golden_prompts.FOLDER
ASKS = {
    "mmlu": lambda doc: f"{doc['question']}\nA. {doc['choices'][0]}\n",
    "nq": lambda doc: f"Q: {doc['question']}?\n",
    "triviaqa": lambda doc: f"Q: {doc['question'].rstrip('?')}",
    "mbpp": lambda doc: f"task: {doc['prompt']} Your",
    "math": lambda doc: f"Problem:\n{doc['problem']}\n\nSolution:",
    "gsm8k": lambda doc: f"Q: {doc['question']}\nA:",
    "bbh": lambda doc: f"Q: {doc['input']}\nA:",
    "bbh_cot": lambda doc: f"Q: {doc['input']}\nA: Let's",
    "agieval": lambda doc: (
        f" {doc['question']}\nChoose from the following options:    {' '.join(doc['options'])}\n"
    ),
}


@pytest.mark.parametrize("benchmark", BY_ID)
def test_the_first_request_is_the_golden_one(benchmark):
    """`python tools/golden_prompts.py` writes the files again."""
    expected = (GOLDEN / f"{benchmark}.txt").read_bytes().decode("utf-8")
    assert golden_prompts.golden(benchmark, golden_prompts.Tokenizer.v1()) == expected


def test_there_is_a_golden_file_for_each_benchmark_and_no_other():
    assert {file.stem for file in GOLDEN.iterdir()} == set(BY_ID)


@pytest.mark.parametrize("benchmark", BY_ID)
def test_stock_lm_eval_builds_the_same_first_requests(benchmark, sample_task, monkeypatch):
    """Its task manager, its loader, its templates; only the hub's rows come from the sample."""
    monkeypatch.setattr(
        "mistral_eval.suite.lm_eval_hooks.from_hub", dataset_from(make_source("sample"))
    )
    manager = TaskManager(include_path=str(tasks_folder()), include_defaults=False)
    task = manager.load([benchmark])["tasks"][benchmark]
    task.build_all_requests(limit=1)
    ours = golden_prompts.requests_of(sample_task(benchmark), 0)
    assert [(i.request_type, i.args, i.idx, i.repeats) for i in task.instances] == [
        (i.request_type, i.args, i.idx, i.repeats) for i in ours
    ]


def never_among_the_shots(task, benchmark):
    """Each prompt ends with its question, and says it nowhere else."""
    for doc in task.eval_docs:
        context = task.fewshot_context(doc, num_fewshot=task.config.num_fewshot)
        assert context.count(ASKS[benchmark](doc)) == 1, doc
        assert context.endswith(task.doc_to_text(doc))


@pytest.mark.parametrize("benchmark", ASKS)
def test_the_shots_never_contain_the_question_of_the_sample(benchmark, sample_task):
    never_among_the_shots(sample_task(benchmark), benchmark)


@pytest.mark.parametrize("benchmark", ASKS)
def test_the_shots_never_contain_a_question_of_the_test_set(benchmark, shared_task):
    never_among_the_shots(shared_task(benchmark), benchmark)


def test_mmlu_shows_the_five_dev_rows_of_the_question_s_subject(sample_task):
    task = sample_task("mmlu")
    dev = task.dataset["dev"]
    for doc in task.eval_docs:
        context = task.fewshot_context(doc, num_fewshot=5)
        shots = [row for row in dev if row["subject"] == doc["subject"]]
        blocks = [f"{task.doc_to_text(row)} {'ABCD'[row['answer']]}\n\n" for row in shots]
        subject = doc["subject"].replace("_", " ")
        head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        assert context == head + "".join(blocks) + task.doc_to_text(doc)


def test_mmlu_shows_fewer_shots_when_asked(sample_task):
    task = sample_task("mmlu")
    doc = task.eval_docs[0]
    assert task.fewshot_context(doc, num_fewshot=2).count("Answer:") == 3
    assert task.fewshot_context(doc, num_fewshot=0).count("Answer:") == 1


def test_a_question_mark_is_never_doubled(shared_task):
    """Each TriviaQA question ends in one question mark, which may stand inside closing quotes."""
    task = shared_task("triviaqa")
    for doc in task.eval_docs:
        text = task.doc_to_text(doc)
        (body,) = re.fullmatch(r"Q: (.*)\nA:", text, re.DOTALL).groups()
        end = re.search(r"[?\"\u201d\u2019') ]*$", body)[0]
        assert "?" in end, body
        assert "??" not in end, body
        assert body.replace("?", "").strip() == doc["question"].replace("?", "").strip()


def test_a_question_mark_is_added_where_there_is_none(sample_task):
    task = sample_task("triviaqa")
    asked = {
        "Who?": "Who?",
        "Who??": "Who?",
        "Who": "Who?",
        '"Who said ""I?"""': '"Who said ""I?"""',
        'Who said "I"': 'Who said "I"?',
        "Who (one word)?": "Who (one word)?",
        "Who? (one word)": "Who? (one word)?",
    }
    found = {question: task.doc_to_text({"question": question}) for question in asked}
    assert found == {question: f"Q: {text}\nA:" for question, text in asked.items()}


def same_choices(task, benchmark):
    """The judge reads the choices and the gold that lm-eval was told."""
    for doc in task.eval_docs:
        gold = BY_ID[benchmark].gold(doc)
        target = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        assert (list(gold.texts), gold.index) == (task.doc_to_choice(doc), target)


@pytest.mark.parametrize("benchmark", CHOICES)
def test_judge_and_lm_eval_agree_on_the_choices_of_the_sample(benchmark, sample_task):
    same_choices(sample_task(benchmark), benchmark)


@pytest.mark.parametrize("benchmark", CHOICES)
def test_judge_and_lm_eval_agree_on_the_choices_of_the_test_set(benchmark, shared_task):
    same_choices(shared_task(benchmark), benchmark)


def test_winogrande_scores_the_rest_of_the_sentence_after_each_option(sample_task):
    """Context and continuation give the sentence again, stray spaces at the blank aside."""
    task = sample_task("winogrande")
    for place, doc in enumerate(task.eval_docs):
        first, second = golden_prompts.requests_of(task, place)
        for request, option in ((first, doc["option1"]), (second, doc["option2"])):
            whole = "".join(request.args)
            assert " ".join(whole.split()) == " ".join(doc["sentence"].replace("_", option).split())
        assert first.args[1] == second.args[1]


def test_hellaswag_texts_are_cleaned_as_lm_eval_does(shared):
    """On the thousand rows that have WikiHow's markup: same query, same endings."""
    import pyarrow.parquet as pq
    from lm_eval.tasks.hellaswag.utils import preprocess

    rows = pq.read_table(shared / "data/hellaswag/raw1000/validation.parquet").to_pylist()
    for row in rows:
        context = row["ctx_a"] + " " + row["ctx_b"].capitalize()
        assert choice.hellaswag_question(row) == preprocess(row["activity_label"] + ": " + context)
        assert choice.hellaswag_endings(row) == [preprocess(ending) for ending in row["endings"]]
    assert sum("[" in "".join(row["endings"]) for row in rows) > 50


PIECES = st.sampled_from([" ", "  ", "[title]", "[header]", "[", "]", "step", "Éa", ".", "\n"])


@given(st.lists(PIECES, max_size=12).map("".join))
def test_any_text_is_cleaned_as_lm_eval_does(text):
    """Brackets open, closed or nested, spaces in any number, markup at either end."""
    from lm_eval.tasks.hellaswag.utils import preprocess

    assert choice.clean(text) == preprocess(text)


def test_humaneval_keeps_the_prompt_s_last_line_break(sample_task):
    task = sample_task("humaneval")
    for doc in task.eval_docs:
        context = task.fewshot_context(doc, num_fewshot=0)
        assert context == doc["prompt"]
        assert context.endswith("\n")
