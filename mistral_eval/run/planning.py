"""Estimate the cost of a run from its requests and the model's configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from time import monotonic
from typing import Any

from mistral_eval.console import Talk
from mistral_eval.data import make_source
from mistral_eval.engines.interface import EngineIdentity
from mistral_eval.engines.native import NativeEncoder, choose_device
from mistral_eval.errors import UsageError
from mistral_eval.model.load.outline import read_outline
from mistral_eval.native.calibrate import Rates, calibrate
from mistral_eval.native.requests import GenerateRequest, ScoreRequest
from mistral_eval.native.runner import default_batch_tokens, generation_budget
from mistral_eval.native.work import Place, Work, count_work
from mistral_eval.run.questions import Asking, LoadedBenchmark, load_benchmarks
from mistral_eval.settings import RunSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of each benchmark alone and of all together, and the estimated seconds.

    `truncated` counts requests truncated on the left; `rates` is None if nothing was timed.
    """

    benchmarks: Mapping[str, Work]
    together: Work
    truncated: int
    place: Place
    rates: Rates | None
    seconds: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON."""
        return {
            "benchmarks": {name: self._work(work) for name, work in self.benchmarks.items()},
            "together": self._work(self.together),
            "truncated": self.truncated,
            "device": str(self.place.device),
            "dtype": str(self.place.dtype).removeprefix("torch."),
            "batch_tokens": self.place.budget.tokens,
            "rates": None if self.rates is None else asdict(self.rates),
            "seconds": dict(self.seconds),
        }

    def _work(self, work: Work) -> dict[str, Any]:
        ratio = work.naive / work.unique if work.unique else None
        estimate = None if self.rates is None else self.rates.seconds(work)
        return {
            **asdict(work),
            "naive": work.naive,
            "unique": work.unique,
            "ratio": ratio,
            "estimated_seconds": estimate,
        }


@dataclass(slots=True)
class Requests:
    """All requests of a run, in token ids."""

    scores: list[ScoreRequest]
    generations: list[GenerateRequest]
    truncated: int = 0


def plan_run(settings: RunSettings, talk: Talk, *, calibrated: bool = True) -> Plan:
    """Count the tokens that a run computes on the native engine, and estimate its time.

    Raises:
        UsageError: the settings name stock tasks.
        MistralEvalError: data, configuration or tokenizer cannot be read.
    """
    if settings.stock_tasks:
        raise UsageError(
            f"plan counts the paper's benchmarks, not stock tasks such as {settings.stock_tasks[0]}"
            ". Leave them out."
        )
    clock = {"start": monotonic()}
    device = choose_device(settings.device)
    outline = read_outline(
        settings.model,
        adapter=settings.adapter,
        revision=settings.revision,
        dtype=settings.dtype,
        device=device,
        overrides=settings.model_args,
        say=talk.say,
    )
    tokens = settings.batch_tokens or default_batch_tokens(outline.config, outline.dtype, device)
    budget = generation_budget(outline.config, outline.dtype, device, tokens)
    place = Place(outline.config, outline.dtype, device, budget)
    encoder = NativeEncoder(
        outline.tokenizer, outline.config.context_len, settings.seed, EngineIdentity("native")
    )
    parts = _encode(encoder, settings, talk)
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
        n_words = outline.tokenizer.n_words
        rates = calibrate(whole.scores, whole.generations, place, n_words)
    clock["calibrate"] = monotonic()
    seconds = dict(zip(list(clock)[1:], _differences(list(clock.values())), strict=True))
    return Plan(
        works, together, sum(part.truncated for part in parts.values()), place, rates, seconds
    )


def _differences(times: Sequence[float]) -> list[float]:
    return [round(later - earlier, 3) for earlier, later in pairwise(times)]


def _encode(encoder: NativeEncoder, settings: RunSettings, talk: Talk) -> dict[str, Requests]:
    """Encode one benchmark at a time, so that only one benchmark's texts are in memory."""
    source = make_source(settings.data)
    parts = {}
    for benchmark in load_benchmarks(settings.own_tasks, Asking.of(settings, source)):
        talk.say(f"{benchmark.benchmark.column}: {len(benchmark.questions)} questions")
        parts[benchmark.benchmark.id] = requests_of(benchmark, encoder)
    return parts


def requests_of(benchmark: LoadedBenchmark, encoder: NativeEncoder) -> Requests:
    """Encode a benchmark's requests as the run would."""
    encoded = [encoder.encode(request) for request in benchmark.requests]
    work = [item.work for item in encoded]
    truncated = sum(item.truncated for item in encoded)
    is_score = benchmark.kind == "score"
    return Requests(work if is_score else [], [] if is_score else work, truncated)
