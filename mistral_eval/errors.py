"""Everything a user can get wrong, as exceptions whose text is the whole message.

A message says what was expected, what was found and what to do. `cli.main` catches
`MistralEvalError` alone; anything else is a bug and keeps its traceback.

MistralEvalError            exit code 1: the user can fix it
├── UsageError              exit code 2: wrong usage of the command line
├── DataError               a test set: missing, wrong columns, unknown fingerprint
├── TaskError               a benchmark's YAML file
├── CheckpointError         a model folder: files, fields, tensors
│   └── UnsupportedError    one that lm-eval's hf model may run, but the native engine does not
├── TokenizerError          a tokenizer file, or ids that do not fit the model
├── HubError                a download that did not happen
├── ResourceError           not enough disk or memory
├── EngineError             an engine that cannot serve, or answered nonsense
│   ├── RequestError        one request is to blame, by its place among those it was asked with
│   └── EndedEarlyError     requests are left: it was told to stop
├── SandboxError            no isolation for generated programs
├── RepliesError            a replies log that cannot be used: in use, missing, of version 0.1.0
├── StoppedError            Ctrl-C (exit code 130) or SIGTERM (143)
├── BaselineError           a published number without its source
└── OutputError             results that could not be written
"""


class MistralEvalError(Exception):
    """Base of all errors a user can fix; `exit_code` is the process's exit code."""

    exit_code = 1


class UsageError(MistralEvalError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class DataError(MistralEvalError):
    """A test set is missing, malformed, or not the one whose fingerprint is pinned."""


class TaskError(MistralEvalError):
    """A benchmark's YAML file cannot be used."""


class CheckpointError(MistralEvalError):
    """A model folder misses a file, a field or a tensor, or holds one that does not fit."""


class UnsupportedError(CheckpointError):
    """A checkpoint that is sound, but that only lm-eval's own models can run."""


class TokenizerError(MistralEvalError):
    """A tokenizer file is missing or its ids do not fit the model."""


class HubError(MistralEvalError):
    """The Hugging Face hub could not be reached, or refused."""


class ResourceError(MistralEvalError):
    """Disk or memory cannot hold what was asked for."""


class EngineError(MistralEvalError):
    """An engine is unavailable, or its numbers cannot be used."""


class RequestError(EngineError):
    """One request is to blame: `index` is its place among those the engine was given.

    Who knows what the request stands for says so instead: `what` is the rest of the sentence.
    """

    def __init__(self, kind: str, index: int, what: str) -> None:
        super().__init__(f"{kind} request {index}: {what}")
        self.index = index
        self.what = what


class EndedEarlyError(EngineError):
    """An engine ended before all was answered, as it does when it is told to stop.

    Whoever told it to says so instead.
    """


class SandboxError(MistralEvalError):
    """Generated programs cannot be isolated on this machine."""


class RepliesError(MistralEvalError):
    """A replies log is in use by another process, cannot be written, or lacks replies."""


class StoppedError(MistralEvalError):
    """A signal ended the run; what was answered is kept. `exit_code` is 128 and the signal."""

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + number


class BaselineError(MistralEvalError):
    """A published number lacks its source, protocol or table."""


class OutputError(MistralEvalError):
    """Results could not be written."""
