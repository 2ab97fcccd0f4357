"""The settings of one run: one definition for the command line, `--config` and run.json."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    StrictBool,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticKnownError

from mistral_eval.errors import UsageError, complaint, nearest

ENGINES = ("auto", "native", "hf", "vllm", "server", "oracle", "oracle-wrong", "random")
MODEL_FREE = ("oracle", "oracle-wrong", "random")
STOCK_PREFIX = "lm_eval:"
TINY = "tiny"
AUTO = "auto"
RAY_PREFIX = "ray://"
WORKERS = re.compile(r"auto|[1-9]\d{0,5}|ray://[^/\s]+(/[1-9]\d{0,5})?")
CHAT_TEMPLATES = (AUTO, "mistral", "folder")  # or a file
NO_SYSTEM_PROMPT = "none"
NAMED_PROMPTS = (NO_SYSTEM_PROMPT, "mistral", "llama2")  # or a file
DEFAULT_MODEL = "mistralai/Mistral-7B-v0.1"
WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "none": None}
# Model arguments of lm-eval and of our engines that an option of ours sets.
OWN_OPTIONS = {
    "pretrained": "--model",
    "revision": "--revision",
    "device": "--device",
    "dtype": "--dtype",
    "torch_dtype": "--dtype",
    "seed": "--seed",
    "batch_tokens": "--batch-tokens",
    "stream_layers": "--stream-layers",
    "base_url": "--base-url",
}
PART = re.compile(r"(\d{1,6})/(\d{1,6})")
URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
NEARLY_URL = re.compile(r"[a-z][a-z0-9+.-]*:/(?!/)", re.IGNORECASE)  # s3:/bucket
LIMIT = re.compile(r"\d{1,12}|\d{0,12}\.\d{1,12}|\d{1,12}/\d{1,12}")
NOT_IN_RUN_ID = frozenset(
    {
        "output_path",
        "fresh",
        "batch_tokens",
        "stream_layers",
        "sandbox",
        "verify",
        "name",
        "choices",
        "judge_url",
        "part",
        "no_compute",
        "workers",
    }
)
# Settings that are part of a run's id where they are not left at their defaults.
SINCE_0_1 = (
    "left_out",
    "base_url",
    "apply_chat_template",
    "chat_template",
    "system_instruction",
    "system_prompt",
    "fewshot_as_multiturn",
    "judge_model",
    "judge_engine",
    "refusal_judge",
    "iteration",
)


def _known_engine(name: object) -> object:
    if name not in ENGINES:
        raise PydanticKnownError("literal_error", {"expected": str(ENGINES)})
    return name


def parse_limit(given: object) -> object:
    """Read a number of questions (`100`) or a fraction of the test set (`0.1`, `1/4`).

    Returns:
        An int or a Fraction; None where none was given.

    Raises:
        ValueError: zero, negative, above 1 and not whole, or not a number.
    """
    if given is None:
        return None
    try:
        number = Fraction(str(given) if LIMIT.fullmatch(str(given)) else "")
    except (ValueError, ZeroDivisionError):
        number = Fraction(0)
    if number >= 1 and number.denominator == 1 and not isinstance(given, bool):
        return int(number)
    if 0 < number < 1:
        return number
    raise ValueError(
        "expected a whole number of questions from 1 up (of 12 digits at most), or a fraction "
        f"between 0 and 1, found {given!r}"
    )


def parse_part(given: object) -> object:
    """Read a part of a run, as `2/4`; None where none was given.

    Raises:
        ValueError: it is not written so, or there is no such part.
    """
    if given is None:
        return None
    match = PART.fullmatch(str(given).strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"expected a part and the number of parts, like 2/4, found {given!r}")
    return f"{int(match[1])}/{int(match[2])}"


def parse_pairs(given: object) -> object:
    """Read `key=value,key=value`, as lm-eval writes model arguments, or a mapping, as text.

    Raises:
        ValueError: a part without `=`, without a key, or with the key of another part.
    """
    if isinstance(given, Mapping):
        return {name: _as_text(value) for name, value in given.items()}
    if given is not None and not isinstance(given, str):
        raise ValueError(f"expected key=value pairs separated by commas, found {given!r}")
    parsed: dict[str, str] = {}
    for part in filter(str.strip, (given or "").split(",")):
        key, sign, value = part.partition("=")
        if not sign or not key.strip():
            raise ValueError(f"expected key=value pairs separated by commas, found {part!r}")
        if key.strip() in parsed:
            raise ValueError(f"expected each key once, found {key.strip()!r} twice")
        parsed[key.strip()] = value.strip()
    return parsed


def _as_text(value: object) -> object:
    """Return a plain value as the text that `parse_value` reads; anything else as it is."""
    is_plain = value is None or isinstance(value, bool | int | float)
    return str(value) if is_plain else value


def parse_value(text: str) -> bool | int | float | str | None:
    """Read the value of a model argument by lm-eval's rules (`lm_eval.utils.handle_arg_string`).

    str in quotes stays text. `true`, `false` and `none` in any case are values, and so is every
    number. Anything else is text.
    """
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    with suppress(ValueError):
        if text.lstrip("+-").isdigit():
            return int(text)
    with suppress(ValueError):
        return float(text)
    return text


def _absolute(model: object) -> object:
    """Return a local model's absolute path, so that `.` and `../model` keep a name anywhere."""
    if not isinstance(model, str) or model == TINY or not model.strip():
        return model
    path = Path(model).expanduser()
    return os.path.abspath(path) if path.exists() else model  # noqa: PTH100 - keeps a link's name


def _template(asked: object) -> object:
    """Return the absolute path of a chat template's file; a word stays as it is."""
    return asked if asked in CHAT_TEMPLATES else _absolute(asked)


def _prompt(asked: object) -> object:
    """Return the absolute path of a system prompt's file; a name stays as it is."""
    return asked if asked in NAMED_PROMPTS else _absolute(asked)


def is_url(place: str) -> bool:
    """Return whether a folder of runs is in a store that fsspec reaches, e.g. s3://bucket/runs."""
    return URL.match(place) is not None


def _folder_or_url(place: object) -> object:
    """Return a folder as a path, and a URL, which a path would spoil, as text.

    Raises:
        ValueError: it is a URL that lacks a slash, and would become a folder here.
    """
    if NEARLY_URL.match(str(place)):
        raise ValueError(f"expected a folder or a URL like s3://BUCKET/FOLDER, found {place!r}")
    return Path(place) if isinstance(place, str) and not is_url(place) else place


def _workers(asked: object) -> object:
    """Return how many workers are asked for, as text.

    Raises:
        ValueError: it is no number, `auto` or `ray://ADDRESS`.
    """
    text = str(asked)
    if WORKERS.fullmatch(text) and not isinstance(asked, bool):
        return text
    raise ValueError(f"expected a number from 1 up, auto or ray://ADDRESS, found {asked!r}")


def _limit_as_json(limit: int | Fraction) -> int | str:
    return limit if isinstance(limit, int) else str(limit)


Limit = int | Fraction
Count = Annotated[int, Field(strict=True, ge=0)]
Pairs = Annotated[Mapping[str, str], BeforeValidator(parse_pairs)]


class RunSettings(BaseModel):
    """The settings of one run.

    Attributes:
        tasks: Benchmark ids in the table's order, then stock tasks as `lm_eval:NAME`.
        left_out: Members of a suite that was asked for whose rows the data folder lacks.
        model: A model's name on the Hugging Face hub, a folder or GGUF file (kept as an absolute
            path), or `tiny`.
        adapter: A LoRA adapter to merge into the model: a name on the hub or a folder.
        revision: The model's branch, tag or commit on the hub.
        name: The run's name in tables; None: the model's name.
        engine: What answers; `auto` is native where it can run the model, else hf.
        base_url: The server's URL, for the engine `server`.
        data: `hub`, `sample` or a folder of parquet files.
        limit: Questions of each benchmark (a count, or a fraction of its test set), or None.
        batch_tokens: Tokens per forward pass; None: as many as fit into memory.
        workers: Processes that answer, each with the engine: a number, `auto` or `ray://ADDRESS`;
            None: this process alone.
        stream_layers: Read the weights a layer at a time; None: where they do not fit into memory.
        model_args: What a checkpoint's own files leave open, as text, e.g. {"rope_theta":
            "10000"}; engines read the values with `parse_value`.
        num_fewshot: Solved examples in a prompt, where not the protocol's.
        apply_chat_template: Ask every benchmark as a conversation, as lm-eval does.
        chat_template: How a conversation becomes token ids: `auto`, `mistral` (mistral-common),
            `folder` (the checkpoint's own template) or a file with a template.
        system_instruction: A system prompt before every question's.
        system_prompt: The same by name (`none`, `mistral`, `llama2`), or a file of text; it is for
            conversations only.
        fewshot_as_multiturn: Show solved examples as messages of their own; None: with
            `apply_chat_template`.
        judge_url: The URL of the server whose model judges answers.
        judge_model: That model's name; with `judge_engine` a model as of `model`.
        judge_engine: Our engine that runs the judge in this process, in place of a server.
        refusal_judge: What judges refusals: `cues`, or with `llm` that judge.
        iteration: Which of several runs with these settings it is, from 0. Its samples are draws of
            their own, and a judge is asked anew.
        data_revision: Benchmark -> branch, tag or commit of its rows on the hub.
        unsafe_code: Run generated programs without isolation if there is none.
        sandbox: How generated programs are isolated.
        data_unpinned: Accept rows whose fingerprint is not known.
        output_path: The folder of runs, or its URL in a store that fsspec reaches.
        fresh: Run again in a folder of its own.
        part: Which part of the run's requests this process answers, e.g. `2/4`; None: all.
        no_compute: Judge the replies that are logged, and refuse to compute what is missing.
        verify: How many requests are answered again on the native engine's plain path.
        choices: What the engine chose when the run began (see `Engine.choices`); no option.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", coerce_numbers_to_str=True, arbitrary_types_allowed=True
    )

    tasks: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    model: Annotated[str, BeforeValidator(_absolute)] = DEFAULT_MODEL
    adapter: Annotated[str, BeforeValidator(_absolute)] | None = None
    revision: str | None = None
    name: Annotated[str, Field(min_length=1, max_length=80)] | None = None
    engine: Annotated[str, BeforeValidator(_known_engine)] = "auto"
    base_url: str | None = None
    data: str = "hub"
    limit: Annotated[
        Limit | None,
        BeforeValidator(parse_limit),
        PlainSerializer(_limit_as_json, when_used="unless-none"),
    ] = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_tokens: Annotated[int, Field(strict=True, ge=1)] | None = None
    stream_layers: StrictBool | None = None
    workers: Annotated[str, BeforeValidator(_workers)] | None = None
    seed: Annotated[int, Field(strict=True)] = 0
    model_args: Pairs = Field(default_factory=dict)
    num_fewshot: Count | None = None
    apply_chat_template: StrictBool = False
    chat_template: Annotated[str, BeforeValidator(_template)] = AUTO
    system_instruction: str | None = None
    system_prompt: Annotated[str, BeforeValidator(_prompt)] | None = None
    fewshot_as_multiturn: StrictBool | None = None
    judge_url: str | None = None
    judge_model: Annotated[str, Field(min_length=1)] | None = None
    judge_engine: Literal["native", "hf", "vllm"] | None = None
    refusal_judge: Literal["cues", "llm"] = "cues"
    iteration: Count = 0
    data_revision: Pairs = Field(default_factory=dict)
    unsafe_code: StrictBool = False
    sandbox: Literal["auto", "bubblewrap", "namespaces", "docker", "podman"] = "auto"
    data_unpinned: StrictBool = False
    output_path: Annotated[Path | str, BeforeValidator(_folder_or_url)] = Path("results")
    fresh: StrictBool = False
    part: Annotated[str | None, BeforeValidator(parse_part)] = None
    no_compute: StrictBool = False
    verify: Count = 0
    choices: Pairs = Field(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_one_sentence(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(given)
        except ValidationError as error:
            field, phrase = complaint(error)
            raise UsageError(f"--{field.replace('_', '-')}: {phrase}") from error

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Check what one field alone does not show.

        Raises:
            UsageError: two options contradict each other; names both.
        """
        if self.data_revision and self.data != "hub":
            raise UsageError(
                f"--data-revision selects a version of the hub's rows, and --data is {self.data}. "
                "Leave out one of the two."
            )
        for name in self.model_args:
            if name in OWN_OPTIONS:
                option = OWN_OPTIONS[name]
                raise UsageError(
                    f"--model-args sets {name}, which is the value of {option}. Give {option} "
                    "instead."
                )
        if self.adapter is not None and self.model == TINY:
            raise UsageError(
                "--adapter needs the model that it was trained on, and --model is tiny. Leave out "
                "--adapter, or give that model."
            )
        if self.adapter is not None and self.engine in MODEL_FREE:
            raise UsageError(
                f"--adapter is put on a model, and --engine {self.engine} has none. Leave out one "
                "of the two."
            )
        if self.stream_layers:
            self._check_streaming()
        self._check_server()
        for name in self.data_revision:
            if name not in self.own_tasks:
                raise UsageError(
                    f"--data-revision names {name!r}, which is not run. "
                    f"{nearest(name, self.own_tasks)}"
                )
        return self

    @model_validator(mode="after")
    def _check_chat(self) -> Self:
        """Check the settings of conversations.

        Raises:
            UsageError: one needs another, or a stock task would not heed them.
        """
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise UsageError(
                "--fewshot-as-multiturn shows solved examples as messages of a conversation. Give "
                "--apply-chat-template too, or leave it out."
            )
        if self.system_prompt is not None and self.system_instruction is not None:
            raise UsageError(
                "--system-prompt and --system-instruction both give a system prompt. Leave out one "
                "of the two."
            )
        self._check_judge()
        if self.stock_tasks and (self.apply_chat_template or self.system_instruction is not None):
            raise UsageError(
                "--apply-chat-template and --system-instruction are for our own benchmarks, and "
                f"{STOCK_PREFIX}{self.stock_tasks[0]} is a stock task. Leave one of them out."
            )
        return self

    def _check_judge(self) -> None:
        """Check that a judge has a model and one place to run, and is there if it is needed.

        Raises:
            UsageError: It has not.
        """
        if self.judge_url is not None and self.judge_engine is not None:
            raise UsageError(
                "--judge-url names a server and --judge-engine an engine in this process. Leave "
                "out one of the two."
            )
        place = self.judge_url or self.judge_engine
        if (place is None) != (self.judge_model is None):
            lacking = "--judge-url or --judge-engine" if place is None else "--judge-model"
            raise UsageError(
                "A judge has a model and a server's URL or an engine, and only one of them is "
                f"given. Give {lacking} too, or leave both out."
            )
        if self.refusal_judge == "llm" and self.judge_model is None:
            raise UsageError(
                "--refusal-judge llm needs a judge. Give --judge-model and --judge-url or "
                "--judge-engine."
            )

    @model_validator(mode="after")
    def _check_part(self) -> Self:
        """Check that nothing is asked of a part or of a merge that only a whole run can do.

        Raises:
            UsageError: two options contradict each other; names both.
        """
        if self.part is not None and self.no_compute:
            raise UsageError(
                "--part computes replies, and --no-compute refuses to. Leave out one of the two."
            )
        option = f"--part {self.part}" if self.part is not None else "--no-compute"
        if self.part is None and not self.no_compute:
            return self
        if self.fresh:
            raise UsageError(
                f"--fresh starts another folder, and {option} shares one with other processes. "
                "Leave out --fresh, and give another --output-path to run again from the start."
            )
        if self.verify:
            raise UsageError(
                f"--verify needs the whole run and its model. Run the command without {option} and "
                "with --verify after the parts are merged."
            )
        if self.stock_tasks:
            raise UsageError(
                f"{option} divides our own benchmarks, and {STOCK_PREFIX}{self.stock_tasks[0]} is "
                "a stock task. Run stock tasks by a command of their own."
            )
        return self

    def _check_streaming(self) -> None:
        """Check that there are files whose layers the native engine can read.

        Raises:
            UsageError: there are none, or it is another engine.
        """
        if self.engine not in ("auto", "native"):
            raise UsageError(
                f"--stream-layers is an option of the native engine, and --engine is {self.engine}."
                " Leave out one of the two."
            )
        if self.model == TINY:
            raise UsageError(
                "--stream-layers reads a model's files, and --model tiny has none. Leave out "
                "--stream-layers, or give a model's folder."
            )
        if self.adapter is not None:
            raise UsageError(
                "--stream-layers reads layers as they are stored, and --adapter changes them. "
                "Leave out one of the two, or give the folder of the merged model."
            )

    def _check_server(self) -> None:
        """Check that a server has its URL, and nothing is asked of it that was decided there.

        Raises:
            UsageError: it lacks the URL, or an option is not the server's.
        """
        if self.engine != "server":
            if self.base_url is not None:
                raise UsageError(
                    f"--base-url is the URL of --engine server, and --engine is {self.engine}. "
                    "Leave it out, or give --engine server."
                )
            return
        if self.base_url is None:
            raise UsageError(
                "--engine server needs the server's URL: give --base-url http://HOST:PORT/v1."
            )
        decided = {"dtype": "auto", "device": "auto", "adapter": None, "batch_tokens": None}
        for name, default in decided.items():
            if getattr(self, name) != default:
                raise UsageError(
                    f"--{name.replace('_', '-')} is decided where the server is started. Leave it "
                    "out."
                )

    def as_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON, as run.json keeps them."""
        return self.model_dump(mode="json")

    def run_id(self, stamps: Mapping[str, object], suite: str | None = None) -> str:
        """Return a readable name and a hash: equal settings on equal files give the same folder.

        Args:
            stamps: What the settings point to, e.g. sizes and times of local files.
            suite: The name of the suite that was asked for, if one was.
        """
        deciding = {key: v for key, v in self.as_json().items() if key not in NOT_IN_RUN_ID}
        default = RunSettings(tasks=self.tasks).as_json()
        for key in SINCE_0_1:
            if deciding[key] == default[key]:
                del deciding[key]  # so that a run keeps the id that it had without the setting
        text = json.dumps([deciding, dict(stamps)], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{suite or _label(self.tasks)}-{digest}"

    def asked_as(self, *, is_chat: bool) -> str:
        """Return how questions are asked, if not as the protocol has it; else "".

        It names what differs between two runs of a benchmark.

        Args:
            is_chat: whether the benchmark's protocol has conversations.
        """
        parts = []
        if self.apply_chat_template and not is_chat:
            parts.append("as a conversation")
            if self.fewshot_as_multiturn is False:
                parts.append("solved examples in one message")
        if self.system_instruction is not None:
            digest = hashlib.sha256(self.system_instruction.encode()).hexdigest()[:8]
            parts.append(f"with a system instruction (sha256 {digest})")
        has_prompt = self.system_prompt not in (None, NO_SYSTEM_PROMPT)
        if has_prompt and (is_chat or self.apply_chat_template):
            parts.append(f"with the system prompt {Path(str(self.system_prompt)).name}")
        return ", ".join(parts)

    @property
    def own_tasks(self) -> tuple[str, ...]:
        """Our benchmarks among the tasks."""
        return tuple(name for name in self.tasks if not name.startswith(STOCK_PREFIX))

    @property
    def stock_tasks(self) -> tuple[str, ...]:
        """Stock tasks by lm-eval's names."""
        marked = (name for name in self.tasks if name.startswith(STOCK_PREFIX))
        return tuple(name.removeprefix(STOCK_PREFIX) for name in marked)

    @property
    def model_label(self) -> str:
        """The model's name for people: of a folder its last part; an adapter follows a plus."""
        parts = [Path(part) for part in (self.model, self.adapter) if part is not None]
        return "+".join(part.name if part.is_absolute() else str(part) for part in parts)

    @property
    def model_folder(self) -> str:
        """The model's name as a folder, as lm-eval writes it: `org__model`."""
        name = self.engine if self.engine in MODEL_FREE else self.model_label
        return "".join(c if c.isalnum() or c in "-._" else "__" if c == "/" else "-" for c in name)


def _label(tasks: Sequence[str]) -> str:
    safe = ["".join(c if c.isalnum() or c in "-_" else "-" for c in task) for task in tasks]
    return "+".join(safe) if len(safe) <= 3 else f"{safe[0]}+{len(safe) - 1}"
