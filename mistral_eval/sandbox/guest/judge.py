"""The judge: runs the data set's tests, with proxies in place of the program's functions.

What it compares are values of its own, decoded from bytes. Its verdict is the only thing that
makes a program pass.
"""

import ast
import builtins
import json
import os
from collections.abc import Callable
from typing import NoReturn

from .codec import FrameError, NotPlainError, decode, encode, read_frame, write_frame

_LONGEST_DETAIL = 1000  # characters


class ProgramEnded(BaseException):
    """The program's process closed the pipe, or sent no message."""


class ProgramStopped(BaseException):
    """The program raised what is no Exception, such as SystemExit."""


class UnreadableValue(BaseException):
    """A test used a result, or passed an argument, that is not plain data."""


class ProgramError(Exception):
    """An exception of a class of the program's own."""


def main(job: bytes, requests: int, replies: int, verdict: int) -> None:
    """Judges one program and writes the verdict, as one line of JSON, to `verdict`.

    Args:
        job: JSON with `context` (runs first), `checks` (in order) and `names` (the program's).
        requests: Descriptor for calls to the program.
        replies: Descriptor of its answers.
        verdict: Descriptor on which only the harness listens.
    """
    task = json.loads(job)
    judged = _Checks(task, _Channel(requests, replies)).run()
    os.write(verdict, json.dumps(judged).encode() + b"\n")


class _Checks:
    """One program's tests and how far they came."""

    def __init__(self, task: dict[str, list[str]], channel: "_Channel") -> None:
        self._task = task
        self._channel = channel
        self._sources = {"<context>": "".join(task["context"])}
        self._sources |= {f"<check {i}>": text for i, text in enumerate(task["checks"])}

    def run(self) -> dict[str, str]:
        """The verdict: `status`, `detail` and `check`, the first failing one's text."""
        try:
            self._run_all()
        except BaseException as error:  # noqa: BLE001  whatever ends a test decides its verdict
            status, detail = _reading(error)
            return {
                "status": status,
                "detail": detail[:_LONGEST_DETAIL],
                "check": self._failing(error)[:_LONGEST_DETAIL],
            }
        if self._channel.broken:
            return {"status": "ended", "detail": self._channel.broken, "check": ""}
        return {"status": "passed", "detail": "", "check": ""}

    def _run_all(self) -> None:
        namespace: dict[str, object] = {"__name__": "checks"}
        kinds = self._channel.start()
        for number, (name, source) in enumerate(self._sources.items()):
            if number == 1:  # the program's names replace those of the context
                self._bind(namespace, kinds)
            code = compile(source, name, "exec", dont_inherit=True)
            exec(code, namespace)  # noqa: S102  the data set's tests, confined

    def _bind(self, namespace: dict[str, object], kinds: dict[str, str]) -> None:
        for name in self._task["names"]:
            namespace.pop(name, None)
            if kinds.get(name) == "callable":
                namespace[name] = self._channel.function(name)
            elif kinds.get(name) == "value":
                namespace[name] = self._channel.value(name)

    def _failing(self, error: BaseException) -> str:
        """The text of the innermost statement of the tests on the way to `error`."""
        place = None
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename in self._sources:
                place = (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
            trace = trace.tb_next
        if place is None:
            return ""
        source, line = self._sources[place[0]], place[1]
        around = [
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0)
        ]
        smallest = min(around, key=lambda node: (node.end_lineno or 0) - node.lineno)
        return ast.get_source_segment(source, smallest) or ""


def _reading(error: BaseException) -> tuple[str, str]:
    """Status and detail of what ended the tests."""
    detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, ProgramEnded):
        return "ended", str(error)
    if isinstance(error, AssertionError):
        return "failed", detail
    if isinstance(error, MemoryError):
        return "out_of_memory", detail
    if isinstance(error, UnreadableValue):
        return "failed", str(error)
    if isinstance(error, (ProgramStopped, ProgramError)):
        return "error", str(error)
    return "error", detail


class _Channel:
    """Calls to the program's process, one at a time."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests = requests
        self._replies = replies
        self._count = 0
        self.broken = ""  # set once and for all when the program ended in the middle

    def start(self) -> dict[str, str]:
        """Waits until the program has run; gives each name's kind."""
        kinds = self._answer(0, "ready")
        pairs = kinds if isinstance(kinds, tuple) else ()
        if not all(isinstance(p, tuple) and len(p) == 2 for p in pairs):
            self._break("the program sent no list of its names")
        return {str(name): str(kind) for name, kind in pairs}

    def function(self, name: str) -> Callable[..., object]:
        """A function that calls the program's function of that name."""

        def proxy(*arguments: object, **named: object) -> object:
            return self._ask({"name": name, "args": list(arguments), "kwargs": named})

        proxy.__name__ = name
        return proxy

    def value(self, name: str) -> object:
        """The value of a name of the program."""
        return self._ask({"name": name})

    def _ask(self, request: dict[str, object]) -> object:
        if self.broken:
            raise ProgramEnded(self.broken)
        self._count += 1
        try:
            if "args" in request:
                request["args"] = encode(request["args"], _number)
                request["kwargs"] = encode(request["kwargs"], _number)
            write_frame(self._requests, {"n": self._count, **request})
        except NotPlainError as error:
            raise UnreadableValue(f"a test's argument cannot cross: {error}") from error
        except FrameError as error:
            self._break(str(error))
        return self._answer(self._count, "value")

    def _answer(self, number: int, key: str) -> object:
        try:
            reply = decode(read_frame(self._replies), _Foreign)
        except FrameError as error:
            self._break(str(error))
        if not isinstance(reply, dict) or reply.get("n") != number or len(reply) != 2:
            self._break("the program answered what was not asked")
        if "error" in reply:
            _raise(reply["error"])
        if key not in reply:
            self._break("the program sent no value")
        return reply[key]

    def _break(self, reason: str) -> NoReturn:
        self.broken = reason
        raise ProgramEnded(reason)


class _Foreign:
    """An object that stayed in the program's process: it can be passed back, nothing else."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, body: object) -> None:
        if not (
            isinstance(body, list)
            and len(body) == 2
            and type(body[0]) is int
            and type(body[1]) is str
        ):
            raise ValueError("not the number and type of an object")
        self._number, self._type = body

    def _refuse(self, *_arguments: object) -> NoReturn:
        raise UnreadableValue(f"the program returned a {self._type}, which is not plain data")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = __call__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __abs__ = __round__ = __float__ = __int__ = _refuse
    __index__ = __str__ = __repr__ = __format__ = _refuse


def _number(value: object) -> object:
    if isinstance(value, _Foreign):
        return {"object": value._number}  # noqa: SLF001  the judge's own class
    raise NotPlainError(f"a {type(value).__name__} is not plain data")


def _raise(body: object) -> NoReturn:
    """Raises in the judge what the program raised, as a built-in exception of the judge's own."""
    if not (isinstance(body, list) and len(body) == 2 and all(type(t) is str for t in body)):
        raise ProgramError("an exception that could not be read")
    name, text = body
    kind = getattr(builtins, name, None)
    if name == "NotPlainError":
        raise UnreadableValue(text)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            error = kind(text)
        except TypeError:
            raise ProgramError(f"{name}: {text}") from None
        raise error
    if isinstance(kind, type) and issubclass(kind, BaseException):
        raise ProgramStopped(f"{name}: {text}" if text else name)
    raise ProgramError(f"{name}: {text}" if text else name)
