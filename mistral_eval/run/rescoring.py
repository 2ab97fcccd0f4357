"""Verdicts again from the journal, without a model.

The run's questions are built again and its replies looked up; only the tokenizer is needed, for the
keys. A reply that is not there is an error: nothing is computed.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from mistral_eval.console import Talk
from mistral_eval.engines.interface import Backend, Kind, Prepared, ReplyRecord
from mistral_eval.errors import JournalError, OutputError
from mistral_eval.native.requests import (
    Counters,
    GenerateReply,
    GenerateRequest,
    ScoreReply,
    ScoreRequest,
    Stopping,
    never,
)
from mistral_eval.record.run_folder import JOURNAL_FILE, read_run
from mistral_eval.run.opening import Opened, open_backend
from mistral_eval.run.questions import LoadedBenchmark
from mistral_eval.run.run import complete, isolation_for
from mistral_eval.settings import MODEL_FREE, RunSettings


def rescore(folder: Path, talk: Talk, *, unsafe_code: bool, sandbox: str = "auto") -> None:
    """Judge a finished run's replies again and write its results anew; the old files stay.

    Raises:
        OutputError: the folder holds no finished run.
        JournalError: a reply is missing, e.g. since the protocol has changed.
        MistralEvalError: the run's data, tokenizer or sandbox is not there any more.
    """
    run = read_run(folder)
    if not (folder / JOURNAL_FILE).is_file():
        raise OutputError(
            f"{folder} should hold the run's {JOURNAL_FILE}, from which verdicts are made again, "
            "but there is none. Repeat the run's command with --fresh."
        )
    settings = settings_of(run, unsafe_code=unsafe_code, sandbox=sandbox)
    replay = partial(_open_replay, run)
    complete(folder, settings, talk, isolation_for(settings), replay, earlier=run)


def settings_of(run: Mapping[str, Any], *, unsafe_code: bool, sandbox: str) -> RunSettings:
    """The settings that run.json keeps, as `RunSettings`; how programs run is said anew."""
    kept = dict(run["settings"])
    limit = kept["limit"]
    if isinstance(limit, str):
        kept["limit"] = Fraction(limit)
    kept["tasks"] = tuple(kept["tasks"])
    kept["output_path"] = Path(kept["output_path"])
    kept |= {"unsafe_code": unsafe_code, "sandbox": sandbox}
    kept["verify"] = 0  # there is no model to verify with
    return RunSettings(**kept)


def _open_replay(
    run: Mapping[str, Any],
    settings: RunSettings,
    loaded: Sequence[LoadedBenchmark],
    talk: Talk,
) -> Opened:
    """The run's engine without its model: it can name its replies, but not make one."""
    if run["engine"] in MODEL_FREE:
        return Opened(Recorded(open_backend(settings, loaded, talk).backend))
    model = dict(run["model"])
    fingerprint = model.pop("fingerprint")
    make: Callable[..., Backend] = _replay_native if run["engine"] == "native" else _replay_hf
    return Opened(make(settings, fingerprint, model), model, tuple(run["notes"]))


def _replay_native(settings: RunSettings, fingerprint: str, model: Mapping[str, Any]) -> Backend:
    from mistral_eval.engines.native import NativeBackend
    from mistral_eval.engines.open_native import TINY
    from mistral_eval.model.load.hub import resolve_model
    from mistral_eval.model.tiny import tiny_tokenizer_file
    from mistral_eval.model.tokenizers.tokenizer import load_tokenizer

    if settings.model == TINY:
        file = tiny_tokenizer_file()
    else:
        file = resolve_model(settings.model, revision=settings.revision)
    tokenizer = load_tokenizer(file, expected_vocab=1 << 30)
    _, _, model_fingerprint = fingerprint.partition(" ")
    return NativeBackend(
        NoEngine(), tokenizer, model["max_length"], model_fingerprint, settings.seed
    )


def _replay_hf(settings: RunSettings, fingerprint: str, model: Mapping[str, Any]) -> Backend:
    from mistral_eval.engines.lm import LmBackend

    del model
    return LmBackend(NoLM(), "hf", fingerprint, settings.seed)


class Recorded:
    """Names requests as another backend does, and answers none."""

    def __init__(self, inner: Backend) -> None:
        self.name = inner.name
        self.counts = inner.counts
        self.fingerprint = inner.fingerprint
        self.prepare = inner.prepare
        self.stopping = inner.stopping

    def answer(
        self, kind: Kind, prepared: Sequence[Prepared], known: Collection[int] = ()
    ) -> Iterator[tuple[int, ReplyRecord]]:
        """Refuse if anything is asked."""
        del kind
        return refuse(len(prepared) - len(known))


class NoEngine:
    """An engine that answers nothing: every reply must come from the journal."""

    def __init__(self) -> None:
        self.stats = Counters()
        self.stopping: Stopping = never

    def score(
        self, requests: Sequence[ScoreRequest], known: Collection[int] = ()
    ) -> Iterator[tuple[int, ScoreReply]]:
        """Refuse if anything is asked."""
        return refuse(len(requests) - len(known))

    def generate(
        self, requests: Sequence[GenerateRequest], known: Collection[int] = ()
    ) -> Iterator[tuple[int, GenerateReply]]:
        """Refuse if anything is asked."""
        return refuse(len(requests) - len(known))


class NoLM(LM):
    """The same for engines that speak text."""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse if anything is asked."""
        return list(refuse(len(requests)))

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refuse if anything is asked."""
        return list(refuse(len(requests)))

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Refuse if anything is asked."""
        return list(refuse(len(requests)))


def refuse(count: int) -> Iterator[Any]:
    """Nothing, if nothing is asked.

    Raises:
        JournalError: something is.
    """
    if count:
        raise JournalError(
            f"The journal lacks {count} of the replies that these questions need: the protocol, "
            "the data or the tokenizer has changed since the run. Repeat the run's command with "
            "--fresh."
        )
    return iter(())
