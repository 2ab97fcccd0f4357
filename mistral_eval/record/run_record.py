"""What run.json holds: one model, by which it is written, read and checked.

Fields with a default are those that older files of the same format lack.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PlainSerializer

from mistral_eval.settings import RunSettings

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
    """How many replies were computed or found, and what the engine counted."""

    computed: int
    from_log: int = Field(validation_alias=AliasChoices("from_log", "from_journal"))
    from_other_runs: int = 0
    truncated: int = 0
    generated_tokens: int = 0
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


class CellRecord(_Part):
    """A benchmark's score in percent with its 95 % interval, and the counts behind it."""

    value: float
    low: float
    high: float
    n: int
    n_total: int
    correct: int
    no_answer: int = 0
    timeout: int = 0
    data_fingerprint: str = ""
    secondary: dict[str, float] = {}
    limited: bool = False
    notes: list[str] = []


class RunRecord(_Part):
    """A finished run.

    Attributes:
        id: The name of the run's folder.
        date: When it finished, in UTC.
        engine: What answered.
        notes: Sentences for the table.
        versions: Package -> version, None where it is not installed.
        data: Benchmark -> its rows.
        protocol: Benchmark -> SHA-256 of its YAML file.
        seconds: Phase -> seconds in the run's last process.
        seconds_by_task: Benchmark -> seconds of answering.
        scores: Benchmark -> its cell of the table.
        strata: Benchmark -> subject -> (correct, questions).
        stock: Stock task -> lm-eval's metrics.
        results_file: The name of the results file in lm-eval's schema.
        rescored: When the replies were last judged again.
    """

    format: Literal[1]
    status: Literal["finished"]
    id: str
    date: str
    settings: Annotated[RunSettings, PlainSerializer(RunSettings.as_json)]
    engine: str
    identity: IdentityRecord | None = None
    model: ModelRecord
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
    scores: dict[str, CellRecord]
    strata: dict[str, dict[str, tuple[int, int]]] = {}
    stock: dict[str, dict[str, Any]] = {}
    results_file: str
    rescored: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the file's content: the fields that were given, in their order."""
        return self.model_dump(mode="json", exclude_unset=True, fallback=str)
