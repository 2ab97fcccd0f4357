"""No file outside the suite's own places names a benchmark, so that adding one touches no other."""

import re
from pathlib import Path

import pytest

from mistral_eval.suite.registry import BENCHMARKS, BY_ID

PACKAGE = Path(__file__).resolve().parents[2] / "mistral_eval"
TASKS = PACKAGE.parent / "tasks"
OWN = ("suite/", "data/sample/", "data/fingerprints.json", "data/LICENSE-DATA")
# Where XSTest is a source of labels and of published figures, whatever benchmark uses its prompts.
SOURCES = (
    *("answers/refusals/", "answers/moderation/", "report/chat_baselines.py"),
    "report/table/chat_tables.py",
)
# Where figures of MT-Bench are read from a judge's texts, or published.
RATED = ("answers/mt_bench/", "report/chat_baselines.py", "report/table/chat_tables.py")
TEXT = {".py", ".md", ".json", ".js", ".css", ".html", ".toml", ".yaml", ".txt", ""}
# `math` is also a module of Python and an English word: quoted, in a list, or as a column's title.
# So is `moderation` an English word.
WORDS = ("math", "moderation")
ORDINARY = re.compile(r"(?<!\w)(?:[\"'`](?:math|moderation)[\"'`]|math,\w|\w,math\b|MATH)(?!\w)")
STDLIB = re.compile(r"\"binascii\", \"math\", \"pyexpat\"")  # a list of Python's own modules
ROOM = re.compile(r"answers[./]mt_bench\b")


def names(text: str, known=tuple(BY_ID)) -> list[str]:
    """The benchmarks that a text names, by id in any case; underscores do not hide one."""
    ids = sorted((name for name in known if name not in WORDS), key=len, reverse=True)
    # FastChat's prompts and rules of reading are a room of `answers` of the same name
    found = re.findall(
        rf"(?<![a-z0-9])(?:{'|'.join(ids)})(?![a-z0-9])", ROOM.sub("", text), re.IGNORECASE
    )
    return found + ORDINARY.findall(STDLIB.sub("", text))


def files() -> list[Path]:
    return [
        file
        for file in sorted(PACKAGE.rglob("*"))
        if file.is_file()
        and file.suffix in TEXT
        and not str(file.relative_to(PACKAGE)).startswith(OWN)
    ]


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_other_file_names_a_benchmark(file):
    found = names(file.read_text(encoding="utf-8"))
    for name, places in (("xstest", SOURCES), ("mt_bench", RATED)):
        if str(file.relative_to(PACKAGE)).startswith(places):
            found = [one for one in found if one.lower() != name]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        'help="paper, or names such as mmlu,gsm8k"',
        "MMLU's shots",
        'if name == "math":',
        "def gsm8k_filter(): ...",
        "--tasks math,piqa",
        "judge_nq(replies)",
        "as HumanEval does",
        "MATH solutions",
    ],
)
def test_a_name_is_seen_in_help_sentences_and_code(text):
    assert names(text)


@pytest.mark.parametrize(
    "text", ["import math", "math.fsum(values)", "math_checker", "the math is simple", "unique"]
)
def test_ordinary_words_are_no_names(text):
    assert names(text) == []


def test_a_benchmark_is_known_to_few_files():
    """Its YAML file, its object, its pins and its licence; the paper's twelve also to the suite.

    The YAML files of two benchmarks over the same rows name the rows' folder.
    """
    package = [*PACKAGE.rglob("*.*"), PACKAGE / "data" / "LICENSE-DATA"]
    common = [
        file.read_text(encoding="utf-8")
        for file in package
        if file.is_file() and file.suffix in TEXT and "sample" not in file.parts
    ]
    for benchmark in BENCHMARKS:
        path = benchmark.task.data.path
        tasks = [
            (TASKS / f"{other.id}.yaml").read_text(encoding="utf-8")
            for other in BENCHMARKS
            if other is benchmark or other.task.data.path != path
        ]
        texts = [*common, *tasks]
        word = re.compile(rf"(?<![a-z0-9_]){benchmark.id}(?![a-z0-9_])")
        knowing = [text for text in texts if word.search(ROOM.sub("", text))]
        # the other rows of XSTest's prompts, what cites its labels, and published figures
        most = {"xstest": 4 + len(SOURCES), "mt_bench": 4 + len(RATED)}.get(benchmark.id, 4)
        assert benchmark.id in WORDS or len(knowing) <= most, benchmark.id
