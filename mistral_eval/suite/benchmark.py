"""The form every benchmark has: one object for what Python must say, its YAML file for the rest."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from mistral_eval.answers.verdict import QuestionVerdict, cut
from mistral_eval.errors import DataError
from mistral_eval.sandbox import Isolation

if TYPE_CHECKING:
    from mistral_eval.data.task_file import TaskFile

Doc: TypeAlias = Mapping[str, Any]
Group: TypeAlias = str
Score: TypeAlias = tuple[float, bool]


@dataclass(frozen=True, slots=True)
class Gold:
    """What is right, read from a question's row.

    Attributes:
        texts: The choices of a multiple-choice question; otherwise every accepted answer, or the
            tests a program must pass.
        index: The place of the right choice in `texts`; None where replies are generated.
        solution: The row's worked solution, for the report; "" where it has none.
    """

    texts: tuple[str, ...]
    index: int | None = None
    solution: str = ""


@dataclass(frozen=True, slots=True)
class JudgeContext:
    """What judging may use.

    Attributes:
        isolation: The result of `sandbox.probe()`; None probes when there are programs to run.
        unsafe: Run generated programs without isolation.
        workers: Processes to judge with; None uses one per core.
        on_done: Called with (done, total) while programs run and formulas are compared. Other
            benchmarks are judged too fast to report progress.
    """

    isolation: Isolation | None = None
    unsafe: bool = False
    workers: int | None = None
    on_done: Callable[[int, int], None] | None = None


DEFAULT: Final = JudgeContext()


@dataclass(frozen=True)
class Benchmark(ABC):
    """One benchmark. Prompt, shots, stops, sampling and N are read from `tasks/<id>.yaml`.

    Each kind of benchmark is a class of its own, which says how replies are judged.

    Attributes:
        id: The task's name.
        column: The column's title as the paper prints it.
        group: The bar of the paper's figure 4 that the benchmark belongs to.
        cell: The metric that the table shows, one of the YAML file's `metric_list`.
        gold: Read what is right from a row; texts are empty, or the index is outside them, where a
            row names nothing.
        title_column: The row's column by which the report calls a question.
    """

    id: str
    column: str
    group: Group
    cell: str
    gold: Callable[[Doc], Gold]
    title_column: str

    @abstractmethod
    def judge(
        self,
        docs: Sequence[Doc],
        replies: Sequence[Sequence[Any]],
        context: JudgeContext = DEFAULT,
    ) -> list[QuestionVerdict]:
        """Return one verdict per question.

        Args:
            docs: The questions' rows.
            replies: Per question, the texts of its samples, or (log-likelihood, is greedy) of each
                choice in order. A text that the engine did not stop is cut at the stops.
            context: How programs may be run, and whom to tell of progress.

        Returns:
            Verdicts whose metrics have the names of the YAML file's `metric_list`.

        Raises:
            SandboxError: Programs cannot be isolated, and `context.unsafe` is False.
        """

    @abstractmethod
    def oracle(self, doc: Doc, right: bool) -> str | int:  # noqa: FBT001  the question
        """Return a right or a wrong reply: a text, or the index of the choice to make likely."""

    def title(self, doc: Doc) -> str:
        """Return the words by which the report calls a question."""
        return str(doc[self.title_column])

    @cached_property
    def task(self) -> "TaskFile":
        """The YAML file, read on first use: `--help` needs none of them."""
        from mistral_eval.data.task_file import task_file

        return task_file(self.id)

    @property
    def n(self) -> int:
        """Questions in the full test set."""
        return self.task.data.questions

    @property
    def shots(self) -> int:
        """Solved examples before the question."""
        return self.task.num_fewshot

    @property
    def samples(self) -> int:
        """Replies drawn per question."""
        return self.task.repeats

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings at which a generated reply ends."""
        return self.task.generation_kwargs.until

    @property
    def stratum(self) -> str | None:
        """The column within which a bootstrap resamples, e.g. a subject, or None."""
        return self.task.data.stratum

    @property
    def kind(self) -> Literal["score", "generate"]:
        """Whether choices are scored or replies generated."""
        return "score" if self.task.output_type == "multiple_choice" else "generate"

    @property
    def runs_programs(self) -> bool:
        """Whether judging runs code that the model wrote."""
        return self.task.unsafe_code

    @property
    def continues_prompt(self) -> bool:
        """Whether a reply continues the program that the prompt begins."""
        return self.runs_programs and self.task.doc_to_text == "{{prompt}}"

    def cut(self, replies: Sequence[Sequence[str]]) -> list[list[str]]:
        """Cut replies at the task's stops; an engine has usually done so already."""
        return [[cut(reply, self.stops) for reply in samples] for samples in replies]

    def check_golds(self, splits: Mapping[str, Sequence[Doc]]) -> None:
        """Refuse rows that no reply could answer right.

        Raises:
            DataError: A row's gold is outside its choices, or a row has none.
        """
        for split, rows in splits.items():
            for place, doc in enumerate(rows):
                gold = self.gold(doc)
                where = f"{self.id}, split {split}, row {place},"
                if gold.index is not None and not 0 <= gold.index < len(gold.texts):
                    raise DataError(
                        f"{where} should name one of its {len(gold.texts)} choices as the right "
                        f"one, but its gold is outside them: {_short(doc)}. Correct the row."
                    )
                if not gold.texts:
                    raise DataError(
                        f"{where} should hold a gold answer, but none can be read from it: "
                        f"{_short(doc)}. Correct the row."
                    )


def _short(doc: Doc, limit: int = 120) -> str:
    text = str(dict(doc))
    return text if len(text) <= limit else f"{text[:limit]}…"
