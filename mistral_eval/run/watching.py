"""What a display is told while a run answers and judges."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mistral_eval.engines.interface import Ask, Backend, Kind, ReplyRecord
from mistral_eval.engines.native import DEFAULT_MAX_TOKENS, NativeBackend
from mistral_eval.native.requests import Counters
from mistral_eval.progress import Board, Phase, Work
from mistral_eval.progress import Judge as JudgeOne
from mistral_eval.run.questions import LoadedBenchmark
from mistral_eval.suite.judge import judge

LABELS: Final[Mapping[Kind, str]] = {
    "score": "Scoring choices",
    "rolling": "Scoring texts",
    "generate": "Generating replies",
}
# Programs need the sandbox and formulas a checker that may take seconds for one: their score comes
# while judging.
JUDGED_LATER: Final = ("humaneval", "mbpp", "math")
CHARACTERS_A_TOKEN: Final = 4  # where an engine speaks text and a reply's limit is in tokens


class AnswerWatch:
    """Follows the replies to one kind of request, for all benchmarks that ask it."""

    def __init__(self, kind: Kind, asked: Sequence[LoadedBenchmark], backend: Backend) -> None:
        """`asked` in the order in which their requests are passed on."""
        self._kind = kind
        self._asked = asked
        stats = backend.engine.stats if isinstance(backend, NativeBackend) else None
        self._is_native = stats is not None
        # By position: board, question, request of the question. Flat lists of numbers, and most
        # keys have one position: a hundred thousand small objects would cost half a second.
        self._places: tuple[list[Board], list[int], list[int]] = ([], [], [])
        self._first: dict[bytes, int] = {}
        self._others: dict[bytes, list[int]] = {}
        self._sizes: dict[bytes, int] = {}  # characters to read, by request
        self._to_read = 0
        self._read = 0
        self._written = 0
        boards = [self._board(one) for one in asked]
        self.phase = Phase(LABELS[kind], boards, self._work(stats))

    def begin(
        self, keys: Sequence[bytes], asks: Sequence[Ask], known: Mapping[bytes, ReplyRecord]
    ) -> None:
        """Learn which requests there are (equal ones have one key), and the replies they have."""
        self._number()
        boards = self._places[0]
        for position, (key, ask) in enumerate(zip(keys, asks, strict=True)):
            if self._first.setdefault(key, position) != position:
                self._others.setdefault(key, []).append(position)
            elif key not in known:
                boards[position].pending += 1
                if not self._is_native:
                    self._sizes[key] = self._size(ask)
        self._to_read = sum(self._sizes.values())
        for key in self._first.keys() & known.keys():
            self._take(key, known[key])
        self.phase.start()

    def reply(self, key: bytes, reply: ReplyRecord) -> None:
        """A reply came: some hundred thousand a run, so counters move and little else."""
        self._places[0][self._first[key]].pending -= 1
        length = self._take(key, reply)
        self.phase.work.finished += length
        if not self._is_native:
            self._read += self._sizes[key]
            self._written += length
        self.phase.judge_some()

    def _take(self, key: bytes, reply: ReplyRecord) -> int:
        """Count a reply for everyone who asked; its length, in the work's unit."""
        boards, questions, places = self._places
        first, length = self._first[key], 0
        if self._kind == "generate":
            answer: object = reply["text"]
            length = self._length(reply)
            boards[first].note_length(length)
        else:
            answer = (reply["logprob"], reply.get("is_greedy", False))
        for one in (first, *self._others.get(key, ())):
            boards[one].take(questions[one], places[one], answer)
        return length

    def _size(self, ask: Ask) -> int:
        """Characters of the context, and of the continuation where there is one."""
        arguments = ask.instance.args
        return sum(map(len, arguments if self._kind == "score" else arguments[:1]))

    def _length(self, reply: ReplyRecord) -> int:
        """Tokens drawn, EOS included; characters where an engine speaks text."""
        if self._is_native:
            return len(reply["ids"]) + (reply["finish"] == "eos")
        return len(reply["text"])

    def _number(self) -> None:
        """Fill `_places`, in the order in which requests are passed on."""
        boards, questions, places = self._places
        for board, benchmark in zip(self.phase.boards, self._asked, strict=True):
            for n, size in enumerate(_sizes(benchmark)):
                boards += [board] * size
                questions += [n] * size
                places += range(size)

    def _board(self, loaded: LoadedBenchmark) -> Board:
        is_later = loaded.benchmark.id in JUDGED_LATER
        return Board(
            loaded.benchmark.column,
            _sizes(loaded),
            None if is_later else _judge_one(loaded),
            self._limit(loaded),
        )

    def _limit(self, loaded: LoadedBenchmark) -> int:
        if self._kind != "generate" or not loaded.questions:
            return 0
        settings = loaded.questions[0].instances[0].args[1]
        limit = int(settings.get("max_gen_toks", DEFAULT_MAX_TOKENS))
        return limit if self._is_native else limit * CHARACTERS_A_TOKEN

    def _work(self, stats: Counters | None) -> Work:
        """The native engine counts tokens as it goes; of others the characters are known."""
        if stats is None:
            return Work(
                "characters",
                lambda: self._read,
                lambda: self._to_read,
                lambda: self._written,
            )
        if self._kind == "generate":
            return Work(
                "tokens",
                _since(lambda: stats.prompt_computed),
                _since(lambda: stats.prompt_unique),
                _since(lambda: stats.generated),
            )
        computed, unique = (lambda: stats.score_computed), (lambda: stats.score_unique)
        return Work("tokens", _since(computed), _since(unique))


class JudgeWatch:
    """Follows judging, benchmark after benchmark."""

    def __init__(self, loaded: Sequence[LoadedBenchmark]) -> None:
        self._boards = iter(
            boards := [Board(one.benchmark.column, [1] * len(one.questions)) for one in loaded]
        )
        total = sum(board.total for board in boards)
        work = Work("questions", lambda: sum(board.done for board in boards), lambda: total)
        self.phase = Phase("Judging", boards, work)
        self._now: Board | None = None

    def next(self) -> None:
        """Go on to the next benchmark."""
        self._now = next(self._boards)

    def done(self, done: int, of: int) -> None:
        """So many of the benchmark's programs or comparisons are done."""
        assert self._now is not None, "next() comes first"
        self._now.done = self._now.total * done // of

    def verdict(self, is_correct: bool) -> None:  # noqa: FBT001 - a callback's one argument
        """One of its questions has a verdict already."""
        assert self._now is not None, "next() comes first"
        self._now.judged += 1
        self._now.correct += is_correct

    def end(self, correct: int) -> None:
        """The benchmark is judged."""
        assert self._now is not None, "next() comes first"
        self._now.done = self._now.judged = self._now.total
        self._now.correct = correct


def _sizes(loaded: LoadedBenchmark) -> list[int]:
    """Requests of each question, samples counted."""
    return [sum(one.repeats or 1 for one in question.instances) for question in loaded.questions]


def _judge_one(loaded: LoadedBenchmark) -> JudgeOne:
    """The benchmark's own judge, for one question."""

    def judge_one(question: int, replies: Sequence[Any]) -> bool:
        doc = loaded.questions[question].doc
        (found,) = judge(loaded.benchmark.id, [doc], [replies])
        return found.verdict.is_correct

    return judge_one


def _since(counter: Callable[[], float]) -> Callable[[], float]:
    """A counter that begins now."""
    before = counter()
    return lambda: counter() - before
