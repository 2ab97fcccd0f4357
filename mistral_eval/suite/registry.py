"""All benchmarks, the suites, and the parser of `--tasks`.

Registering a benchmark adds it to no suite and no table. The paper's table has the columns of the
suite `paper`.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from mistral_eval.data.task_file import tasks_folder
from mistral_eval.errors import UsageError, nearest
from mistral_eval.settings import STOCK_PREFIX, RunSettings
from mistral_eval.suite import (
    chats,
    choice,
    conversations,
    dialogues,
    exact,
    exams,
    maths,
    programs,
    spans,
)
from mistral_eval.suite.benchmark import Benchmark, Group
from mistral_eval.suite.choice import (
    ARC_CHALLENGE,
    ARC_EASY,
    BOOLQ,
    COMMONSENSE_QA,
    HELLASWAG,
    MMLU,
    OPENBOOKQA,
    PIQA,
    SIQA,
    WINOGRANDE,
)
from mistral_eval.suite.dialogues import QUAC
from mistral_eval.suite.exact import BBH
from mistral_eval.suite.exams import AGIEVAL
from mistral_eval.suite.maths import GSM8K, MATH
from mistral_eval.suite.programs import HUMANEVAL, MBPP
from mistral_eval.suite.spans import NQ, TRIVIAQA

BENCHMARKS: Final[tuple[Benchmark, ...]] = (
    *choice.BENCHMARKS,
    *spans.BENCHMARKS,
    *programs.BENCHMARKS,
    *maths.BENCHMARKS,
    *exact.BENCHMARKS,
    *exams.BENCHMARKS,
    *dialogues.BENCHMARKS,
    *chats.BENCHMARKS,
    *conversations.BENCHMARKS,
)
BY_ID: Final[Mapping[str, Benchmark]] = MappingProxyType({one.id: one for one in BENCHMARKS})

_PAPER: Final = (
    MMLU,
    HELLASWAG,
    WINOGRANDE,
    PIQA,
    ARC_EASY,
    ARC_CHALLENGE,
    NQ,
    TRIVIAQA,
    HUMANEVAL,
    MBPP,
    MATH,
    GSM8K,
)  # arXiv 2310.06825v1, Table 2, in its order
PAPER: Final = tuple(benchmark.id for benchmark in _PAPER)
# What the paper's figure 4 is made of.
_FIGURE_4: Final = (*_PAPER, SIQA, OPENBOOKQA, COMMONSENSE_QA, BOOLQ, QUAC, BBH, AGIEVAL)
SUITES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "paper": PAPER,
        "figure4": tuple(one.id for one in BENCHMARKS if one in _FIGURE_4),
    }
)

# The bars of the paper's figure 4 in its order, and the panels of its figure 5.
FIGURE_4: Final[Mapping[Group, str]] = MappingProxyType(
    {
        MMLU.group: MMLU.column,
        "knowledge": "Knowledge",
        "reasoning": "Reasoning",
        "comprehension": "Comprehension",
        AGIEVAL.group: "AGI Eval",
        "maths": "Math",
        BBH.group: BBH.column,
        "code": "Code",
    }
)
FIGURE_5: Final[tuple[Group, ...]] = (MMLU.group, "reasoning", "knowledge", "comprehension")

# Cells of the paper's table that contradict its text or Mistral's later papers: the benchmark, the
# rows that must be in the table, and the sentence for its notes.
CONTRADICTIONS: Final = (
    (
        NQ,
        ("mistral-7b", "llama2-13b"),
        (
            "the paper's caption says that Mistral 7B beats LLaMA 2 13B on all metrics; its table "
            "has 28.8 against 29.0."
        ),
    ),
    (
        MMLU,
        ("mistral-7b",),
        (
            "a standard 5-shot run gives about 62.5 for Mistral 7B, above the paper's 60.1; "
            "Mistral's later papers print 62.5 themselves."
        ),
    ),
)


def paper_benchmarks() -> tuple[Benchmark, ...]:
    """Return the columns of the paper's table, in its order."""
    return _PAPER


def bar_members(group: Group) -> Mapping[str, str]:
    """Return the benchmarks whose plain mean is a bar of figure 4: id to title."""
    return {one.id: one.column for one in _FIGURE_4 if one.group == group}


def parse_tasks(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of suites, benchmarks and `lm_eval:NAME`.

    Returns:
        Benchmark ids in the table's order, each once, then the stock tasks in the order given.

    Raises:
        UsageError: a name is unknown (the message lists the nearest names), or there is none.
    """
    asked = _names(text)
    if not asked:
        raise UsageError(
            f"--tasks is empty. Name a suite ({', '.join(SUITES)}) or benchmarks, separated by "
            "commas; `mistral-eval tasks` lists them."
        )
    ours: set[str] = set()
    stock: list[str] = []
    for name in asked:
        if name.startswith(STOCK_PREFIX) and len(name) > len(STOCK_PREFIX):
            stock.append(name)
        elif name in SUITES:
            ours.update(SUITES[name])
        elif name in BY_ID:
            ours.add(name)
        else:
            if (tasks_folder() / f"{name}.yaml").is_file():
                raise UsageError(
                    f"tasks/{name}.yaml has no object: add one to a BENCHMARKS of "
                    "mistral_eval/suite/ (docs/adding-a-benchmark.md)."
                )
            raise UsageError(
                f"Unknown task {name!r}. {nearest(name, [*BY_ID, *SUITES])} "
                f"A stock lm-eval task is written {STOCK_PREFIX}NAME."
            )
    for name in stock:
        if name.removeprefix(STOCK_PREFIX) in ours:
            raise UsageError(
                f"{name} and {name.removeprefix(STOCK_PREFIX)} would have the same name in the "
                "results. Run them one after the other."
            )
    return (*(name for name in BY_ID if name in ours), *dict.fromkeys(stock))


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def only_in_suites(text: str) -> tuple[str, ...]:
    """Return the benchmarks that `--tasks` asks for through a suite and not by their own names."""
    asked = _names(text)
    members = {one for name in asked for one in SUITES.get(name, ())}
    return tuple(name for name in BY_ID if name in members.difference(asked))


def asked_as(tasks: Sequence[str], left_out: Sequence[str]) -> tuple[str, ...]:
    """Return what to write after `--tasks` for the same tasks with the same ones left out."""
    whole = {*tasks, *left_out}
    suites = [name for name, members in SUITES.items() if left_out and whole.issuperset(members)]
    covered = {one for name in suites for one in SUITES[name]}
    return (*suites, *(task for task in tasks if task not in covered))


def check_shots(settings: RunSettings) -> None:
    """Check that every benchmark's protocol has at least `--num-fewshot` solved examples.

    Further examples would have to be drawn from the test set.

    Raises:
        UsageError: a benchmark has fewer; the message gives its name and their number.
    """
    wanted = settings.num_fewshot
    for name in settings.own_tasks:
        if wanted is not None and wanted > BY_ID[name].shots:
            raise UsageError(
                f"--num-fewshot {wanted}: the protocol has {BY_ID[name].shots} solved examples "
                f"for {name}. Ask for at most that many, or leave {name} out."
            )


def suite_of(settings: RunSettings) -> str | None:
    """Return the suite that was asked for and nothing else, or None; it names a run's folder."""
    asked = {*settings.tasks, *settings.left_out}
    return next((suite for suite, members in SUITES.items() if asked == set(members)), None)
