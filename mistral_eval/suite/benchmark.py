"""The base class of benchmarks: gold answers and judging in Python, the rest in a YAML file."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from mistral_eval.answers.refusals.judge import Classified
from mistral_eval.answers.verdict import QuestionVerdict, cut
from mistral_eval.errors import DataError
from mistral_eval.sandbox import Isolation

if TYPE_CHECKING:
    from mistral_eval.data.task_file import TaskFile

Doc: TypeAlias = Mapping[str, Any]
Group: TypeAlias = str
Score: TypeAlias = tuple[float, bool]
Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Gold:
    """The right answer, read from a question's row.

    Attributes:
        texts: The choices of a multiple-choice question; otherwise every accepted answer, or the
            tests a program must pass.
        index: The index of the right choice in `texts`; None if replies are generated.
        solution: The row's worked solution, for the report; "" if it has none.
    """

    texts: tuple[str, ...]
    index: int | None = None
    solution: str = ""


@dataclass(frozen=True, slots=True)
class JudgeContext:
    """Resources and options for judging.

    Attributes:
        isolation: The result of `sandbox.probe()`; None probes when there are programs to run.
        unsafe: Run generated programs without isolation.
        workers: Number of processes for judging; None uses one per core.
        on_done: Called with (done, total) while programs run or formulas are compared. Other
            benchmarks are judged too fast to report progress.
        refusals: What a language model says of the answers, by benchmark, question by question.
            Without it refusals are judged by cues.
    """

    isolation: Isolation | None = None
    unsafe: bool = False
    workers: int | None = None
    on_done: Callable[[int, int], None] | None = None
    refusals: Mapping[str, Sequence[Classified]] = field(default_factory=dict)


DEFAULT: Final = JudgeContext()


@dataclass(frozen=True)
class Benchmark(ABC):
    """One benchmark. Prompt, shots, stops, sampling and N are read from `tasks/<id>.yaml`.

    Each kind of benchmark is a subclass, which defines how replies are judged.

    Attributes:
        id: The task's name.
        column: The column's title as the paper prints it.
        group: The benchmark's bar in the paper's figure 4.
        cell: The metric in the table, one of the YAML file's `metric_list`.
        gold: Reads the right answer from a row. If a row has none, `texts` is empty or `index` is
            out of range.
        title_column: The column that the report uses as a question's title.
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
                choice in order, then of each without the question if the benchmark asks for it.
                Texts are cut at the stops if the engine has not done so.
            context: Isolation of programs and the progress callback.

        Returns:
            Verdicts; their metrics have the names in the YAML file's `metric_list`.

        Raises:
            SandboxError: Programs cannot be isolated, and `context.unsafe` is False.
        """

    @abstractmethod
    def oracle(self, doc: Doc, right: bool) -> str | int:  # noqa: FBT001  the question
        """Return a right or a wrong reply: a text, or the index of the choice to make likely."""

    def remarks(
        self,
        docs: Sequence[Doc],  # noqa: ARG002  what a subclass reads
        verdicts: Sequence[QuestionVerdict],  # noqa: ARG002
    ) -> tuple[str, ...]:
        """Return what the table's notes say about the cell besides the other metrics: nothing."""
        return ()

    def next_message(
        self,
        doc: Doc,  # noqa: ARG002  what a subclass reads
        replies: Sequence[str],  # noqa: ARG002
    ) -> str | None:
        """Return the user's message after these replies to a question; None ends it."""
        return None

    def title(self, doc: Doc) -> str:
        """Return a question's title for the report."""
        return str(doc[self.title_column])

    @cached_property
    def task(self) -> "TaskFile":
        """The YAML file, read on first use, since `--help` does not need it."""
        from mistral_eval.data.task_file import task_file

        return task_file(self.id)

    @property
    def n(self) -> int:
        """Number of questions in the full test set."""
        return self.task.data.questions

    @property
    def shots(self) -> int:
        """Number of solved examples before the question."""
        return self.task.num_fewshot

    @property
    def shots_label(self) -> str:
        """The number of shots as text: "5", or "3-5" if subjects have different numbers."""
        fewest = self.task.data.fewest_shots
        return f"{fewest}-{self.shots}" if fewest else str(self.shots)

    @property
    def samples(self) -> int:
        """Number of replies sampled per question."""
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
    def unconditional(self) -> str | None:
        """The context after which each choice is scored without its question, or None."""
        return self.task.data.unconditional

    def halves(self, parts: Sequence[Part]) -> tuple[Sequence[Part], Sequence[Part]]:
        """Split one entry per request into those with the question and those without it."""
        if self.unconditional is None:
            return parts, ()
        return parts[: len(parts) // 2], parts[len(parts) // 2 :]

    @property
    def kind(self) -> Literal["score", "generate"]:
        """The kind of the requests: "score" for choices, else "generate"."""
        return "score" if self.task.output_type == "multiple_choice" else "generate"

    @property
    def is_chat(self) -> bool:
        """Whether each question is a message to a chat model, by the benchmark's own protocol."""
        return self.task.data.chat

    @property
    def runs_programs(self) -> bool:
        """Whether judging runs code that the model wrote."""
        return self.task.unsafe_code

    @property
    def has_gold(self) -> bool:
        """Whether there is an answer that is right; else `gold` has the user's messages."""
        return True

    @property
    def readings(self) -> tuple[str, ...]:
        """What a reply can be read as, by which the report filters; empty for no such filter."""
        return ()

    def is_asked(self, doc: Doc) -> bool:  # noqa: ARG002  what a subclass reads
        """Whether a row is a question; if not all are, the YAML file has `process_docs`."""
        return True

    def is_unsafe(self, doc: Doc) -> bool:  # noqa: ARG002  what a subclass reads
        """Whether replies to a question may be unsafe, so that the report shows them folded."""
        return False

    @property
    def is_graded(self) -> bool:
        """Whether the cell is a mean of partial credits, not the share of correct questions."""
        return False

    def counts(self, metrics: Mapping[str, object]) -> bool:
        """Whether a question counts in the cell, by its metrics: it has a value of the cell's."""
        return metrics[self.cell] is not None

    def is_compared(self, metrics: Mapping[str, object]) -> bool:
        """Whether a question counts where correct ones are counted, by its metrics.

        Each has a correct answer or not, however partial credits count, except where it is not
        known: a judge's verdict on it could not be read.
        """
        return self.is_graded or self.counts(metrics)

    @property
    def continues_prompt(self) -> bool:
        """Whether a reply continues the program that the prompt begins."""
        return self.runs_programs and self.task.doc_to_text == "{{prompt}}"

    def cut(self, replies: Sequence[Sequence[str]]) -> list[list[str]]:
        """Cut replies at the task's stops, for engines that have not done so."""
        return [[cut(reply, self.stops) for reply in samples] for samples in replies]

    def check_golds(self, splits: Mapping[str, Sequence[Doc]]) -> None:
        """Check that every row has a right answer.

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
