"""Estimate the cost of a run from its requests and the model's configuration."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from time import monotonic
from typing import Any

from mistral_eval.console import Talk, counted
from mistral_eval.data import make_source
from mistral_eval.engines.cluster.cutting import DECODE_PRICE, fewest_of, path_of
from mistral_eval.engines.cluster.pools import local_workers
from mistral_eval.engines.interface import Encoder, Request, engine_class
from mistral_eval.errors import OutputError, UsageError
from mistral_eval.model.memory import resident_bytes
from mistral_eval.native.calibrate import Rates, calibrate
from mistral_eval.native.choose_products import as_text
from mistral_eval.native.requests import GenerateRequest, ScoreRequest
from mistral_eval.native.runner import pass_bytes
from mistral_eval.native.shards import cut_for_workers, makespan
from mistral_eval.native.work import Place, Work, count_work
from mistral_eval.record.remote import Copy, local_folder
from mistral_eval.record.run_record import RUN_FILE, read_record
from mistral_eval.run.absent import lacking
from mistral_eval.run.questions import Asking, LoadedBenchmark, load_benchmarks
from mistral_eval.settings import RAY_PREFIX, RunSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of each benchmark alone and of all together.

    Attributes:
        truncated: requests truncated on the left.
        rates: None if nothing was timed.
        seconds: what each part of the planning took.
        reply_tokens: mean tokens of a reply in the model's earlier runs, by benchmark.
        left_out: a sentence for each benchmark whose rows the data folder lacks.
        spread: what several workers would cost; None for one process.
    """

    benchmarks: Mapping[str, Work]
    together: Work
    truncated: int
    place: Place
    rates: Rates | None
    seconds: Mapping[str, float]
    reply_tokens: Mapping[str, float]
    left_out: Sequence[str]
    spread: "Spread | None" = None

    def decoded(self, name: str) -> float:
        """Return the tokens that a benchmark ("together": all) is expected to generate.

        A benchmark that no earlier run has measured counts with its limit.
        """
        if name == "together":
            return sum(map(self.decoded, self.benchmarks))
        work = self.benchmarks[name]
        mean = self.reply_tokens.get(name)
        return work.decode_most if mean is None else mean * work.generate_requests

    def is_measured(self, name: str) -> bool:
        """Return whether `decoded` rests on measured replies alone."""
        names = self.benchmarks if name == "together" else [name]
        return all(
            one in self.reply_tokens for one in names if self.benchmarks[one].generate_requests
        )

    def estimate(self, name: str) -> float | None:
        """Return the estimated seconds of a benchmark or "together"; None if nothing was timed."""
        work = self.together if name == "together" else self.benchmarks[name]
        return None if self.rates is None else self.rates.seconds(work, self.decoded(name))

    @property
    def peak_bytes(self) -> int:
        """The most memory that the run needs on its device, with the longest replies in all rows.

        On a CPU that includes what this process holds before any weights: its libraries.
        """
        place, together = self.place, self.together
        libraries = resident_bytes() if place.device.type == "cpu" else 0
        passes = place.budget.tokens * pass_bytes(place.config, place.dtype)
        held = together.cache_bytes + together.states_bytes
        return libraries + place.weight_bytes + passes + held

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON."""
        return {
            "benchmarks": {name: self._work(name, work) for name, work in self.benchmarks.items()},
            "together": self._work("together", self.together),
            "reply_tokens": dict(self.reply_tokens),
            "left_out": list(self.left_out),
            "truncated": self.truncated,
            "device": str(self.place.device),
            "dtype": str(self.place.dtype).removeprefix("torch."),
            "batch_tokens": self.place.budget.tokens,
            "stream_layers": self.place.is_streamed,
            "weight_bytes": self.place.weight_bytes,
            "peak_bytes": self.peak_bytes,
            "products": as_text(self.place.ways),
            "rates": None if self.rates is None else asdict(self.rates),
            "workers": None if self.spread is None else asdict(self.spread),
            "seconds": dict(self.seconds),
        }

    def _work(self, name: str, work: Work) -> dict[str, Any]:
        ratio = work.naive / work.unique if work.unique else None
        return {
            **asdict(work),
            "naive": work.naive,
            "unique": work.unique,
            "ratio": ratio,
            "decode_expected": round(self.decoded(name)),
            "estimated_seconds": self.estimate(name),
        }


@dataclass(frozen=True, slots=True)
class Spread:
    """What it costs to spread a run over workers.

    Attributes:
        workers: number of workers.
        shards: number of shards of scoring and of generation.
        computed: prompt and choice tokens that all workers compute together.
        excess: what that is more than one process computes, as a share.
        seconds: estimated time until the last worker is done; None if nothing was timed.
    """

    workers: int
    shards: tuple[int, int]
    computed: int
    excess: float
    seconds: float | None


@dataclass(slots=True)
class Requests:
    """All requests of a run, in token ids."""

    scores: list[ScoreRequest]
    generations: list[GenerateRequest]
    truncated: int = 0


def plan_run(settings: RunSettings, talk: Talk, *, calibrated: bool = True) -> Plan:
    """Count the tokens that a run computes, and estimate its time.

    Raises:
        UsageError: the settings name stock tasks, or a Ray cluster.
        MistralEvalError: data, configuration or tokenizer cannot be read.
    """
    if settings.stock_tasks:
        raise UsageError(
            f"plan counts the paper's benchmarks, not stock tasks such as {settings.stock_tasks[0]}"
            ". Leave them out."
        )
    if (settings.workers or "").startswith(RAY_PREFIX):
        raise UsageError(
            f"plan counts what N workers would cost, and --workers is {settings.workers}. Give the "
            "number."
        )
    if copy := Copy.of(settings, talk.say):  # the model's earlier runs tell how long replies are
        copy.fetch(settings.model_folder, (f"*/{RUN_FILE}",))
    clock = {"start": monotonic()}
    found = engine_class(settings.engine).plan_inputs(settings, talk.say)
    place = found.place
    parts = _encode(found.encoder, settings, talk)
    clock["requests"] = monotonic()
    works = {name: count_work(part.scores, part.generations, place) for name, part in parts.items()}
    whole = Requests(
        [request for part in parts.values() for request in part.scores],
        [request for part in parts.values() for request in part.generations],
    )
    together = count_work(whole.scores, whole.generations, place)
    clock["count"] = monotonic()
    rates = None
    if calibrated:
        talk.say("Timing one and two layers of random weights of this shape.")
        rates = calibrate(whole.scores, whole.generations, place, found.n_words)
    clock["calibrate"] = monotonic()
    seconds = dict(zip(list(clock)[1:], _differences(list(clock.values())), strict=True))
    truncated = sum(part.truncated for part in parts.values())
    tokens, absent = reply_tokens_of(settings), [f"{lacking(one)}." for one in settings.left_out]
    spread = None
    if settings.workers is not None and (workers := local_workers(settings)) > 1:
        replies = [
            tokens.get(name, float(request.max_tokens))
            for name, part in parts.items()
            for request in part.generations
        ]
        spread = _spread(whole, replies, workers, place, rates)
    return Plan(works, together, truncated, place, rates, seconds, tokens, absent, spread)


def _spread(
    whole: Requests, replies: Sequence[float], workers: int, place: Place, rates: Rates | None
) -> Spread:
    """Cut all requests as a run with workers would, and time each worker's share.

    Args:
        whole: all requests.
        replies: expected tokens of each generated reply.
        workers: number of workers.
        place: where the requests are computed.
        rates: None if nothing was timed.
    """
    price = rates.decode / rates.score if rates and rates.score else DECODE_PRICE
    extra = [price * tokens for tokens in replies]
    device = place.device.type
    scores = [path_of(one) for one in whole.scores]
    prompts = [path_of(one) for one in whole.generations]
    cuts = (
        cut_for_workers(scores, workers, (), fewest_of("score", device)),
        cut_for_workers(prompts, workers, extra, fewest_of("generate", device)),
    )
    unique = sum(cut.unique for cut in cuts)
    more = sum(sum(shard.cost for shard in cut.shards) - cut.whole for cut in cuts)
    seconds = None
    if rates:
        seconds = rates.score * sum(makespan(cut.shards, workers) for cut in cuts)
    shards = (len(cuts[0].shards), len(cuts[1].shards))
    excess = more / unique if unique else 0.0
    return Spread(workers, shards, round(unique + more), excess, seconds)


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


def _differences(times: Sequence[float]) -> list[float]:
    return [round(later - earlier, 3) for earlier, later in pairwise(times)]


def _encode(encoder: Encoder, settings: RunSettings, talk: Talk) -> dict[str, Requests]:
    """Encode one benchmark at a time, so that only one benchmark's texts are in memory."""
    source, expected = make_source(settings.data), reply_tokens_of(settings)
    parts = {}
    for benchmark in load_benchmarks(settings.own_tasks, Asking.of(settings, source)):
        talk.say(f"{benchmark.benchmark.column}: {counted(len(benchmark.questions), 'question')}")
        name = benchmark.benchmark.id
        parts[name] = requests_of(benchmark, encoder, expected.get(name))
    return parts


def requests_of(
    benchmark: LoadedBenchmark, encoder: Encoder, reply_tokens: float | None = None
) -> Requests:
    """Encode a benchmark's requests as the run would.

    A turn after the first one follows a reply that is not known yet. A text of about as many tokens
    as earlier runs have measured, or as the limit allows, stands in its place.
    """
    asked = [*benchmark.requests, *_later_turns(benchmark, reply_tokens)]
    encoded = [encoder.encode(request) for request in asked]
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
