"""The requests that a run would compute, in token ids, without its replies."""

from contextlib import suppress
from dataclasses import dataclass, field

from mistral_eval.console import Talk, counted
from mistral_eval.data import make_source
from mistral_eval.engines.interface import Encoder, Request
from mistral_eval.engines.keys import request_key
from mistral_eval.errors import OutputError
from mistral_eval.native.requests import GenerateRequest, ScoreRequest
from mistral_eval.record.remote import local_folder
from mistral_eval.record.run_folder import RUN_FILE
from mistral_eval.record.run_record import read_record
from mistral_eval.run.questions import Asking, LoadedBenchmark, load_benchmarks
from mistral_eval.settings import RunSettings
from mistral_eval.suite.conversations import Conversation


@dataclass(slots=True)
class Requests:
    """All requests of a run, in token ids."""

    scores: list[ScoreRequest] = field(default_factory=list)
    generations: list[GenerateRequest] = field(default_factory=list)
    truncated: int = 0

    def add(self, other: "Requests") -> None:
        """Add another benchmark's requests."""
        self.scores += other.scores
        self.generations += other.generations
        self.truncated += other.truncated


@dataclass(frozen=True, slots=True)
class Planned:
    """A benchmark's requests: those of the first run, and those that each further one computes.

    `judgments` is what a judge is asked in each run.
    """

    first: Requests
    again: Requests
    judgments: int = 0


def planned_requests(
    encoder: Encoder, settings: RunSettings, talk: Talk, *, repeats: bool
) -> dict[str, Planned]:
    """Encode one benchmark at a time, so that only one benchmark's texts are in memory."""
    source, expected = make_source(settings.data), reply_tokens_of(settings)
    parts = {}
    for benchmark in load_benchmarks(settings.own_tasks, Asking.of(settings, source)):
        talk.say(f"{benchmark.benchmark.column}: {counted(len(benchmark.questions), 'question')}")
        name = benchmark.benchmark.id
        parts[name] = _planned(benchmark, encoder, expected.get(name), repeats=repeats)
    return parts


def _planned(
    benchmark: LoadedBenchmark, encoder: Encoder, reply_tokens: float | None, *, repeats: bool
) -> Planned:
    """Return a benchmark's requests, and those that are other ones in a further run."""
    known: set[bytes] | None = set() if repeats else None
    first = requests_of(benchmark, encoder, reply_tokens, known)
    again = Requests()
    if repeats:
        again = requests_of(benchmark.of_iteration(1), encoder, reply_tokens, known)
    rated = len(first.generations) if isinstance(benchmark.benchmark, Conversation) else 0
    return Planned(first, again, rated)


def requests_of(
    benchmark: LoadedBenchmark,
    encoder: Encoder,
    reply_tokens: float | None = None,
    known: set[bytes] | None = None,
) -> Requests:
    """Encode a benchmark's requests as the run would.

    A turn after the first one follows a reply that is not known yet. A text of about as many tokens
    as earlier runs have measured, or as the limit allows, stands in its place.

    Args:
        benchmark: the benchmark.
        encoder: encodes the requests.
        reply_tokens: mean tokens of a reply, if they are known.
        known: keys of requests of earlier runs, which are left out because their replies are
            shared; filled. None leaves out nothing.
    """
    asked = [*benchmark.requests, *_later_turns(benchmark, reply_tokens)]
    encoded = [encoder.encode(request) for request in asked]
    if known is not None:
        keys = [request_key("", benchmark.kind, *item.parts) for item in encoded]
        encoded = [item for item, key in zip(encoded, keys, strict=True) if key not in known]
        known.update(keys)
    work = [item.work for item in encoded]
    truncated = sum(item.truncated for item in encoded)
    is_score = benchmark.kind == "score"
    return Requests(work if is_score else [], [] if is_score else work, truncated)


def _later_turns(benchmark: LoadedBenchmark, reply_tokens: float | None) -> list[Request]:
    """Return the requests of all turns but the first, after replies of the expected length."""
    if benchmark.settings is None:
        return []
    words = round(benchmark.settings.max_tokens if reply_tokens is None else reply_tokens)
    stand_in = " ".join(["the"] * words)  # a token each in the vocabularies of all models
    found: list[Request] = []
    for question in benchmark.questions:
        replies = [stand_in] * len(question.requests)
        while request := benchmark.next_turn(question, replies):
            found.append(request)
            replies.append(stand_in)
    return found


def reply_tokens_of(settings: RunSettings) -> dict[str, float]:
    """Return the mean tokens of a reply by benchmark, from the model's latest finished runs."""
    folder = local_folder(settings.output_path) / settings.model_folder
    runs = []
    for file in folder.glob(f"*/{RUN_FILE}"):
        with suppress(OutputError):  # unfinished, or of another version
            runs.append(read_record(file.parent))
    found: dict[str, float] = {}
    for run in sorted(runs, key=lambda run: run.date):
        found |= {k: v for k, v in run.counts.reply_tokens.items() if k in settings.own_tasks}
    return found
