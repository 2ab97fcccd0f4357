"""What one run is asked to do: parsed, checked and frozen before anything is loaded."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from mistral_eval.errors import UsageError
from mistral_eval.sandbox import CHOICES
from mistral_eval.suite.registry import BY_ID
from mistral_eval.suite.suites import SUITES

ENGINES = ("auto", "native", "hf", "oracle", "oracle-wrong", "random")
MODEL_FREE = ("oracle", "oracle-wrong", "random")
DTYPES = ("auto", "float32", "bfloat16", "float16")
STOCK_PREFIX = "lm_eval:"
DEFAULT_MODEL = "mistralai/Mistral-7B-v0.1"

Limit = int | Fraction
LIMIT = re.compile(r"\d{1,12}|\d{0,12}\.\d{1,12}|\d{1,12}/\d{1,12}")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The settings of one run.

    Attributes:
        tasks: Benchmark ids in the paper's order, then stock tasks as `lm_eval:NAME`.
        model: A hub id, a folder, or `tiny`.
        engine: One of `ENGINES`.
        data: `hub`, `sample` or a folder of parquet files.
        limit: Questions of each benchmark (a count, or a fraction of its test set), or None.
        model_args: What a checkpoint's own files leave open, e.g. {"rope_theta": "10000"}.
        data_revision: The hub's branch, tag or commit of a benchmark's rows, if not the task's.
        num_fewshot: Overrides the protocol's shots; the table then says so.
        sandbox: How generated programs are isolated, one of `sandbox.CHOICES`.
        verify: How many requests are answered again on the native engine's plain path.
    """

    tasks: tuple[str, ...]
    model: str = DEFAULT_MODEL
    revision: str | None = None
    engine: str = "auto"
    data: str = "hub"
    limit: Limit | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_tokens: int | None = None
    seed: int = 0
    model_args: Mapping[str, str] = field(default_factory=dict)
    num_fewshot: int | None = None
    data_revision: Mapping[str, str] = field(default_factory=dict)
    unsafe_code: bool = False
    sandbox: str = "auto"
    data_unpinned: bool = False
    output_path: Path = Path("results")
    fresh: bool = False
    verify: int = 0

    def __post_init__(self) -> None:
        _one_of("engine", self.engine, ENGINES)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("sandbox", self.sandbox, CHOICES)
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise UsageError(f"--batch-tokens must be 1 or more, got {self.batch_tokens}.")
        self._check_shots()
        self._check_verify()
        self._check_revisions()
        if self.stock_tasks and self.engine in ("oracle", "oracle-wrong"):
            raise UsageError(
                f"The oracle knows the answers to the paper's benchmarks, not to "
                f"{self.stock_tasks[0]}. Give --engine native, hf or random for stock tasks."
            )

    def _check_shots(self) -> None:
        """More shots than the protocol has examples would be drawn from the test set."""
        if self.num_fewshot is None:
            return
        if self.num_fewshot < 0:
            raise UsageError(f"--num-fewshot must be 0 or more, got {self.num_fewshot}.")
        for name in self.own_tasks:
            if self.num_fewshot > BY_ID[name].shots:
                raise UsageError(
                    f"--num-fewshot {self.num_fewshot}: the protocol has {BY_ID[name].shots} "
                    f"solved examples for {name}. Ask for at most that many, or leave {name} out."
                )

    def _check_verify(self) -> None:
        if self.verify < 0:
            raise UsageError(f"--verify must be 0 or more, got {self.verify}.")
        if self.verify and self.engine not in ("auto", "native"):
            raise UsageError(
                "--verify compares the native engine with its own plain path, which --engine "
                f"{self.engine} does not have. Leave out one of the two."
            )

    def _check_revisions(self) -> None:
        if self.data_revision and self.data != "hub":
            raise UsageError(
                f"--data-revision chooses among the hub's rows, and --data is {self.data}. "
                "Leave out one of the two."
            )
        for name in self.data_revision:
            if name not in self.own_tasks:
                raise UsageError(
                    f"--data-revision names {name!r}, which is not run. "
                    f"{nearest(name, self.own_tasks)}"
                )

    def as_json(self) -> dict[str, Any]:
        """The settings as plain JSON, as run.json keeps them."""
        plain = asdict(self)
        plain["output_path"] = str(self.output_path)
        plain["limit"] = None if self.limit is None else _limit_json(self.limit)
        plain["tasks"] = list(self.tasks)
        return plain

    def run_id(self, stamps: Mapping[str, object]) -> str:
        """A readable name and a hash: equal settings on equal files give the same folder.

        Args:
            stamps: What the settings point to, e.g. sizes and times of local files.
        """
        deciding = {
            key: value
            for key, value in self.as_json().items()
            if key not in ("output_path", "fresh", "batch_tokens", "sandbox", "verify")
            and (key != "data_revision" or value)
        }
        text = json.dumps([deciding, dict(stamps)], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{_label(self.tasks)}-{digest}"

    @property
    def own_tasks(self) -> tuple[str, ...]:
        """The paper's benchmarks among the tasks."""
        return tuple(name for name in self.tasks if not name.startswith(STOCK_PREFIX))

    @property
    def stock_tasks(self) -> tuple[str, ...]:
        """Stock tasks by lm-eval's names."""
        marked = (name for name in self.tasks if name.startswith(STOCK_PREFIX))
        return tuple(name.removeprefix(STOCK_PREFIX) for name in marked)

    @property
    def model_folder(self) -> str:
        """The model's name as a folder, as lm-eval writes it: `org__model`."""
        name = self.engine if self.engine in MODEL_FREE else self.model
        path = Path(name).expanduser()
        if path.exists():
            name = path.resolve().name
        return "".join(c if c.isalnum() or c in "-._" else "__" if c == "/" else "-" for c in name)


def parse_tasks(text: str) -> tuple[str, ...]:
    """Read --tasks: benchmarks in the registry's order, then stock tasks (`lm_eval:NAME`).

    Raises:
        UsageError: an unknown name; the sentence offers the nearest ones.
    """
    asked = [part.strip() for part in text.split(",") if part.strip()]
    if not asked:
        raise UsageError("--tasks is empty. Name benchmarks, e.g. --tasks paper.")
    ours: set[str] = set()
    stock: list[str] = []
    for name in asked:
        if name.startswith(STOCK_PREFIX) and len(name) > len(STOCK_PREFIX):
            stock.append(name)
        elif name in SUITES:
            ours.update(SUITES[name])
        elif name in BY_ID:
            ours.add(name)
        else:
            raise UsageError(_unknown_task(name))
    twice = [name for name in stock if name.removeprefix(STOCK_PREFIX) in ours]
    if twice:
        raise UsageError(
            f"{twice[0]} and {twice[0].removeprefix(STOCK_PREFIX)} would have one name in the "
            "results. Run them one after the other."
        )
    return (*(name for name in BY_ID if name in ours), *dict.fromkeys(stock))


def parse_limit(text: str | None) -> Limit | None:
    """A count of questions (`100`) or a fraction of the test set (`0.1`).

    Raises:
        UsageError: zero, negative, or no number.
    """
    if text is None:
        return None
    try:
        number = Fraction(text if LIMIT.fullmatch(text) else "")
    except (ValueError, ZeroDivisionError):
        number = Fraction(0)
    if number >= 1 and number.denominator == 1:
        return int(number)
    if 0 < number < 1:
        return number
    raise UsageError(
        f"--limit takes a whole number of questions from 1 up, or a fraction between 0 and 1; "
        f"got {text!r}."
    )


def parse_pairs(text: str | None, option: str) -> dict[str, str]:
    """`key=value,key=value` as lm-eval writes model arguments.

    Raises:
        UsageError: a part without `=`, or without a key.
    """
    parsed: dict[str, str] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        key, sign, value = part.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"{option} takes key=value pairs separated by commas; got {part!r}.")
        parsed[key.strip()] = value.strip()
    return parsed


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence's tail naming the nearest known names, or all of them."""
    names = list(known)
    close = [known_name for known_name in names if known_name.lower() == name.lower()]
    close = close or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Known: {', '.join(names)}."


def _unknown_task(name: str) -> str:
    return (
        f"Unknown task {name!r}. {nearest(name, [*BY_ID, *SUITES])} "
        f"A stock lm-eval task is written {STOCK_PREFIX}NAME."
    )


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"Unknown {option} {value!r}. {nearest(value, known)}")


def _limit_json(limit: Limit) -> int | str:
    return limit if isinstance(limit, int) else str(limit)


def _label(tasks: Sequence[str]) -> str:
    for suite, members in SUITES.items():
        if tuple(tasks) == members:
            return suite
    safe = ["".join(c if c.isalnum() or c in "-_" else "-" for c in task) for task in tasks]
    return "+".join(safe) if len(safe) <= 3 else f"{safe[0]}+{len(safe) - 1}"
