"""What run.json holds: one model, by which it is written, read and checked.

Fields with a default are those that older files of the same format lack.
"""

import json
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass as checked_dataclass

from mistral_eval.errors import (
    OutputError,
    UnfinishedError,
    UsageError,
    as_found,
    complaint,
)
from mistral_eval.record.run_folder import RUN_FILE, has_begun
from mistral_eval.settings import RunSettings
from mistral_eval.stats import NOTHING_KNOWN, mean_interval, wilson

RUN_FORMAT: Final = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class ModelRecord(_Part):
    """Which model answered: its fingerprint, and lm-eval's keys (model_dtype, max_length, …)."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    fingerprint: str


class IdentityRecord(_Part):
    """What replies depend on beside the request: see `engines.interface.EngineIdentity`."""

    engine: str
    version: str
    weights: str
    tokenizer: str
    dtype: str
    device: str
    arguments: str


class MachineRecord(_Part):
    """What the run was computed on."""

    system: str
    processor: str
    cores: int | None


class DataRecord(_Part):
    """Which rows a benchmark's questions are: see `data.fingerprints.Fingerprint`."""

    sha256: str
    name: str
    footnote: str
    commit: str | None = None
    revision: str | None = None


class CountsRecord(_Part):
    """How many replies were computed or found, and what the engine counted.

    `reply_tokens` is the mean number of tokens of a generated reply, by benchmark.
    """

    computed: int
    from_log: int = Field(validation_alias=AliasChoices("from_log", "from_journal"))
    from_other_runs: int = 0
    truncated: int = 0
    generated_tokens: int = 0
    reply_tokens: dict[str, float] = {}
    engine: dict[str, int | float] = {}


class SpeedRecord(_Part):
    """Speed of what the native engine computed in the run's last process: see `Engine.speed`."""

    matrix_flop_per_second: float | None
    score: dict[str, float | None]
    generate: dict[str, float | None]


class VerifyRecord(_Part):
    """What `--verify` found: requests by kind, and the largest difference in nats."""

    requests: dict[str, int]
    largest_difference: float
    tolerance: float
    ties: int


class StepRecord(_Part):
    """The model's training step and where it was read; see `model.load.training_step`."""

    number: int
    source: str


class RatingRow(_Part):
    """What a judge gave one answer, as our rule and FastChat's read it; None is unread.

    `is_fallback` says that our rule found the number outside double brackets.
    """

    question_id: int
    turn: int
    category: str
    ours: float | None
    fastchat: float | None
    is_fallback: bool = False


class JudgeRecord(_Part):
    """A language model that judged a benchmark's answers.

    `judge` is the name that was asked for, `versions` the names that the server gave with its
    judgments and how often; `asked` counts all attempts, `refused` prompts that it refused.
    """

    judge: str
    versions: dict[str, int]
    asked: int
    refused: int

    @property
    def named(self) -> str:
        """The judge's name, with those that its server gave if they are others."""
        versions = sorted(self.versions)
        if not versions or versions == [self.judge]:
            return self.judge
        return f"{self.judge} ({', '.join(versions)})"


class RatingsRecord(JudgeRecord):
    """A benchmark's answers as a language model rated them."""

    rows: list[RatingRow]


@checked_dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Cell:
    """One measured score in percent, with its Wilson 95 % interval and the counts behind it.

    `n` questions were asked of the test set's `n_total`; a vote is one question. In `no_answer` no
    answer was found, in `timeout` the checker timed out. `data_fingerprint` is its name, e.g. "hub"
    or "sample"; `secondary` has other metrics in percent, e.g. {"maj@1": 11.9}. `asked_as` says how
    questions were asked if not as the benchmark's protocol has it, e.g. "as a conversation", and
    `judged_by` what judged the answers if not the protocol's judge, e.g. a language model's name.
    """

    value: float
    low: float
    high: float
    n: int
    n_total: int
    correct: int
    no_answer: int = 0
    timeout: int = 0
    data_fingerprint: str = ""
    secondary: dict[str, float] = field(default_factory=dict)
    limited: bool = False
    notes: tuple[str, ...] = ()
    asked_as: str = ""
    judged_by: str = ""

    @property
    def ways(self) -> tuple[str, ...]:
        """In what the cell differs from the benchmark's protocol, in words."""
        asked = (f"asked {self.asked_as}",) if self.asked_as else ()
        judged = (f"judged by {self.judged_by}",) if self.judged_by else ()
        return (*asked, *judged)

    @classmethod
    def counted(
        cls, correct: int, n: int, n_total: int, *, unread: int = 0, **fields: Any
    ) -> "Cell":
        """Make a cell from counts: compute the score, its Wilson interval and `limited`.

        `unread` questions were asked beside the `n` that count. Other fields are given by name.
        """
        share = wilson(correct, n) if n else NOTHING_KNOWN
        interval = (share.value, share.low, share.high)
        return cls(*interval, n, n_total, correct, limited=n + unread < n_total, **fields)

    @classmethod
    def averaged(
        cls, values: Sequence[float], correct: int, asked: int, n_total: int, **fields: Any
    ) -> "Cell":
        """Make a cell from partial credits between 0 and 1, with Student's t interval.

        `asked` questions were asked, of which those with `values` count; `correct` is their number
        of correct ones.
        """
        mean = mean_interval(values)
        interval = (mean.value, mean.low, mean.high)
        return cls(*interval, len(values), n_total, correct, limited=asked < n_total, **fields)


class RunRecord(_Part):
    """A finished run; dates are in UTC, and a version is None where a package is not installed.

    `data`, `protocol` (SHA-256 of the YAML file), `seconds_by_task` (of answering), `scores`,
    `strata` (subject -> correct, questions), `ratings` and `refusal_judges` (where that is a
    language model) are by benchmark; `stock` has lm-eval's metrics by task; `seconds` are those of
    the run's last process, by phase.
    """

    format: Literal[1]
    status: Literal["finished"]
    id: str
    date: str
    settings: Annotated[RunSettings, PlainSerializer(RunSettings.as_json)]
    engine: str
    identity: IdentityRecord | None = None
    model: ModelRecord
    step: StepRecord | None = None
    notes: list[str]
    versions: dict[str, str | None]
    machine: MachineRecord
    data: dict[str, DataRecord]
    protocol: dict[str, str]
    counts: CountsRecord
    seconds: dict[str, float]
    seconds_by_task: dict[str, float] = {}
    speed: SpeedRecord | None = None
    verify: VerifyRecord | None = None
    scores: dict[str, Cell]
    strata: dict[str, dict[str, tuple[int, int]]] = {}
    ratings: dict[str, RatingsRecord] = {}
    refusal_judges: dict[str, JudgeRecord] = {}
    stock: dict[str, dict[str, Any]] = {}
    results_file: str
    rescored: str | None = None

    @model_validator(mode="after")
    def _check_scores_are_described(self) -> Self:
        for name in ("data", "protocol"):
            if missing := self.scores.keys() - getattr(self, name).keys():
                raise ValueError(f"{name}: expected an entry for {min(missing)}, found none")
        return self

    def as_json(self) -> dict[str, Any]:
        """Return the file's content: the fields that were given, in their order."""
        return self.model_dump(mode="json", exclude_unset=True, fallback=str)


def unfinished(folder: Path) -> UnfinishedError | None:
    """Return a sentence on a run that has begun and not finished; None of any other folder."""
    if (folder / RUN_FILE).is_file() or not has_begun(folder):
        return None
    return UnfinishedError(
        f"The run in {folder} has not finished. It is still being computed, or was stopped; then "
        "the same command resumes it."
    )


def read_run(folder: Path) -> dict[str, Any]:
    """Read a run's run.json as plain JSON; see `read_record`."""
    return read_record(folder).as_json()


def read_record(folder: Path) -> RunRecord:
    """Read and check a run's run.json.

    Raises:
        UnfinishedError: the run in the folder has not finished.
        OutputError: the folder holds no run, or one that this version cannot read.
    """
    path = folder / RUN_FILE if folder.is_dir() else folder
    if not path.is_file():
        if error := unfinished(folder):
            raise error
        raise OutputError(
            f"{folder} should be a run's folder with a {RUN_FILE} in it, but there is none. "
            "`mistral-eval run` prints the folder it wrote."
        )
    again = (
        f"Delete {RUN_FILE} and run the command again, which keeps the replies, or add --fresh to "
        "compute them anew."
    )
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read as JSON ({error}). {again}") from error
    if not isinstance(run, dict) or run.get("format") != RUN_FORMAT:
        found = repr(run.get("format")) if isinstance(run, dict) else as_found(run)
        raise OutputError(
            f"{path} should have format {RUN_FORMAT}, found {found}. It is damaged, or another "
            f"version of mistral-eval has written it. {again}"
        )
    try:
        return RunRecord.model_validate(run)
    except ValidationError as error:
        raise OutputError(
            f"{': '.join(filter(None, (str(path), *complaint(error))))} {again}"
        ) from error
    except UsageError as error:
        raise OutputError(f"{path}: settings: {error} {again}") from error
