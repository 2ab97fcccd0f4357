"""Estimate the cost of a run from its requests and the model's configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from time import monotonic
from typing import Any

from mistral_eval.console import Talk
from mistral_eval.engines.cluster.cutting import DECODE_PRICE, fewest_of, path_of
from mistral_eval.engines.cluster.pools import local_workers
from mistral_eval.engines.interface import engine_class
from mistral_eval.errors import UsageError
from mistral_eval.model.memory import resident_bytes
from mistral_eval.native.calibrate import Rates, calibrate
from mistral_eval.native.choose_products import as_text
from mistral_eval.native.runner import pass_bytes
from mistral_eval.native.shards import cut_for_workers, makespan
from mistral_eval.native.work import Place, Work, count_work, decoding_steps
from mistral_eval.record.remote import Copy
from mistral_eval.record.run_folder import RUN_FILE
from mistral_eval.run.absent import lacking
from mistral_eval.run.opening import check_iterations
from mistral_eval.run.planned_requests import Requests, planned_requests, reply_tokens_of
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
        iterations: how often conversations are answered; all figures are of these runs together.
        judgments: what a judge would be asked at least, if it rates the conversations.
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
    iterations: int = 1
    judgments: int = 0

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
        if self.rates is None:
            return None
        decoded = self.decoded(name)
        return self.rates.seconds(work, decoded, decoding_steps(work, decoded, self.place.budget))

    @property
    def peak_bytes(self) -> int:
        """The most memory that the run needs on its device, with the longest replies in all rows.

        On a CPU that includes what this process holds before any weights: its libraries.
        """
        place, together = self.place, self.together
        libraries = resident_bytes() if place.device.type == "cpu" else 0
        there = max(together.score_unique, together.prompt_naive)  # a row is a prompt's at least
        passes = min(place.budget.tokens, there) * pass_bytes(place.config, place.dtype)
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
            "iterations": self.iterations,
            "judgments": self.judgments,
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


def plan_run(
    settings: RunSettings, talk: Talk, *, calibrated: bool = True, iterations: int = 1
) -> Plan:
    """Count the tokens that a run computes, and estimate its time.

    Args:
        settings: the run's settings.
        talk: receives messages.
        calibrated: time some of the requests, for the estimate.
        iterations: how often conversations are answered, as runs of their own. A reply that
            several of them share, because it is greedy, is computed once.

    Raises:
        UsageError: the settings name stock tasks, or a Ray cluster, or several iterations of what
            is no conversation.
        MistralEvalError: data, configuration or tokenizer cannot be read.
    """
    check_iterations([settings.model_copy(update={"iteration": iterations - 1})])
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
    parts = planned_requests(found.encoder, settings, talk, repeats=iterations > 1)
    clock["requests"] = monotonic()
    more = iterations - 1
    works = {
        name: _work(part.first, place).repeated(_work(part.again, place), more)
        for name, part in parts.items()
    }
    whole, again = Requests(), Requests()
    for part in parts.values():
        whole.add(part.first)
        again.add(part.again)
    together = _work(whole, place).repeated(_work(again, place), more)
    clock["count"] = monotonic()
    rates = None
    if calibrated:
        talk.say("Timing one and two layers of random weights of this shape.")
        rates = calibrate(whole.scores, whole.generations, place, found.n_words)
    clock["calibrate"] = monotonic()
    tokens = reply_tokens_of(settings)
    spread = None
    if settings.workers is not None and (workers := local_workers(settings)) > 1:
        runs = [(1, [(name, part.first) for name, part in parts.items()])]
        if more:
            runs.append((more, [(name, part.again) for name, part in parts.items()]))
        spread = _spread_over_runs(runs, tokens, workers, place, rates)
    return Plan(
        works,
        together,
        whole.truncated + more * again.truncated,
        place,
        rates,
        dict(zip(list(clock)[1:], _differences(list(clock.values())), strict=True)),
        tokens,
        [f"{lacking(one)}." for one in settings.left_out],
        spread,
        iterations,
        iterations * sum(part.judgments for part in parts.values()),
    )


def _work(requests: Requests, place: Place) -> Work:
    return count_work(requests.scores, requests.generations, place)


def _spread_over_runs(
    runs: Sequence[tuple[int, Sequence[tuple[str, Requests]]]],
    reply_tokens: Mapping[str, float],
    workers: int,
    place: Place,
    rates: Rates | None,
) -> Spread:
    """Return what workers cost in several runs, one after the other.

    Args:
        runs: how often a run is repeated, and its requests by benchmark.
        reply_tokens: mean tokens of a reply by benchmark, where they are known.
        workers: number of workers.
        place: where the requests are computed.
        rates: None if nothing was timed.
    """
    shards, computed, unique, seconds = (0, 0), 0, 0.0, 0.0
    for times, parts in runs:
        whole = Requests()
        replies: list[float] = []
        for name, part in parts:
            whole.add(part)
            replies += [reply_tokens.get(name, float(one.max_tokens)) for one in part.generations]
        if not (whole.scores or whole.generations):
            continue
        one = _spread(whole, replies, workers, place, rates)
        shards = (shards[0] + times * one.shards[0], shards[1] + times * one.shards[1])
        computed += times * one.computed
        unique += times * one.computed / (1 + one.excess)
        seconds += times * (one.seconds or 0.0)
    excess = computed / unique - 1 if unique else 0.0
    return Spread(workers, shards, computed, excess, seconds if rates else None)


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
    rows = min(place.budget.rows, max(1, len(replies)))
    price = rates.token(rows) / rates.score if rates and rates.score else DECODE_PRICE
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


def _differences(times: Sequence[float]) -> list[float]:
    return [round(later - earlier, 3) for earlier, later in pairwise(times)]
