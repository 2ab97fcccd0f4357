"""The checker: run the data set's tests, with proxies in place of the program's functions.

It compares values of its own, decoded from bytes, and only its result can make a program pass. It
runs no code but the data set's, so one process serves many programs, each with a fresh namespace;
the host replaces it after anything unusual.
"""

import ast
import builtins
import gc
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from .codec import Codec, FrameError, NotPlainError, Pipe
from .confine import Confinement
from .control import connect, end_input, end_with, open_sink, silence

_UNTRUSTED = ("source", "setup", "names")  # the part of a job that is sent to the program's process
_LONGEST_DETAIL = 1000  # characters


class OutOfTime(BaseException):  # not an Exception: a test's `except` must not catch it
    """The checker's own CPU time for this program is used up."""


class ProgramEnded(BaseException):
    """The program's process closed the pipe, or sent bytes that are not a message."""


class ProgramStopped(BaseException):
    """The program raised a BaseException that is not an Exception, such as SystemExit."""


class UnreadableValue(BaseException):
    """A test used a result, or passed an argument, that is not plain data."""


class ProgramError(Exception):
    """The program raised an exception of a class of its own."""


def main() -> None:
    """Serve the host over the socket named in the arguments until it closes."""
    settings = json.loads(sys.argv[1])
    os.environ.clear()
    sys.path[:] = [folder for folder in sys.path if folder != settings["path"]]
    control, sink = connect(settings["control"]), open_sink()
    end_input()
    confinement = Confinement(settings, checker=True)
    confinement.begin()
    confinement.prepare()
    confinement.lock()
    confinement.release()
    if settings["world"] == "container":
        end_with(control)
    signal.signal(signal.SIGXCPU, _out_of_time)
    gc.freeze()
    _send(control, {"missing": confinement.missing})
    silence(sink)  # errors up to here go to the host
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 4096, 3)
        if not data:
            return
        job, writing, reading = descriptors
        with os.fdopen(job, "rb") as file:
            task = json.load(file)
        _set_cpu_limit(task["cpu_seconds"])
        pipe = Pipe(reading, writing)
        result = _Checks(task, _Channel(pipe)).run()
        pipe.close()
        _send(control, result)


def _send(control: socket.socket, message: dict[str, object]) -> None:
    control.sendall(json.dumps(message).encode() + b"\n")


def _set_cpu_limit(seconds: int) -> None:
    """Limit this process to `seconds` of CPU time from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def _out_of_time(_number: int, _frame: FrameType | None) -> NoReturn:
    raise OutOfTime("the checks of this program used up their CPU time")


class _Checks:
    """The tests of one program."""

    def __init__(self, task: dict[str, Any], channel: "_Channel") -> None:
        self._task = task
        self._channel = channel
        self._sources = {"<context>": "".join(task["context"])}
        self._sources |= {f"<check {i}>": text for i, text in enumerate(task["checks"])}

    def run(self) -> dict[str, object]:
        """Run the tests; return `status`, `detail` and `check`, the first failing statement."""
        try:
            self._run_all()
        except BaseException as error:  # noqa: BLE001  whatever ends a test decides its status
            status, detail = _describe(error)
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
        kinds = self._channel.start({key: self._task[key] for key in _UNTRUSTED})
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
        """Return the text of the innermost statement of the tests in the traceback of `error`."""
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


_STATUS: tuple[tuple[type[BaseException], str], ...] = (
    (OutOfTime, "timeout"),
    (ProgramEnded, "ended"),
    (AssertionError, "failed"),
    (UnreadableValue, "failed"),
    (MemoryError, "out_of_memory"),
)
# Their text is complete; for all others the type is added.
_SELF_EXPLANATORY = (OutOfTime, ProgramEnded, UnreadableValue, ProgramStopped, ProgramError)


def _describe(error: BaseException) -> tuple[str, str]:
    """Return the status and detail of the exception that ended the tests."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), "error")
    text = str(error)
    if isinstance(error, _SELF_EXPLANATORY):
        return status, text
    return status, f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Channel:
    """Calls to the program's process, one at a time."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._codec = Codec(_number, _Foreign)
        self._count = 0
        self.broken = ""  # the reason, once the program has ended or violated the protocol

    def start(self, program: dict[str, object]) -> dict[str, str]:
        """Send the program and wait until it has run; return each name's kind."""
        self._send(program)
        kinds = self._answer(0, "ready")
        pairs = kinds if isinstance(kinds, tuple) else ()
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            self._break("the program sent no list of its names")
        return {str(name): str(kind) for name, kind in pairs}

    def function(self, name: str) -> Callable[..., object]:
        """Return a proxy of the program's function of that name."""

        def proxy(*arguments: object, **named: object) -> object:
            return self._ask({"name": name, "args": list(arguments), "kwargs": named})

        proxy.__name__ = name
        return proxy

    def value(self, name: str) -> object:
        """Return the value of a name of the program."""
        return self._ask({"name": name})

    def _ask(self, request: dict[str, object]) -> object:
        if self.broken:
            raise ProgramEnded(self.broken)
        self._count += 1
        try:
            for key in request.keys() - {"name"}:
                request[key] = self._codec.encode(request[key])
            self._send({"n": self._count, **request})
        except NotPlainError as error:
            raise UnreadableValue(f"a test's argument cannot cross: {error}") from error
        return self._answer(self._count, "value")

    def _send(self, message: dict[str, object]) -> None:
        try:
            self._pipe.write(self._codec.dump(message))
        except FrameError as error:
            self._break(str(error))

    def _answer(self, number: int, key: str) -> object:
        try:
            reply = self._codec.load(self._pipe.read())
        except FrameError as error:
            self._break(str(error))
        if reply.get("n") != number or len(reply) != 2:
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
    """An object that stays in the program's process.

    A test may pass it back, and may ask whether it is true, as of a `re.Match`: its truth was sent
    with it, one bit that the program might as well have returned in its place.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, body: object) -> None:
        if not (
            isinstance(body, list)
            and len(body) == 3
            and type(body[0]) is int
            and type(body[1]) is str
            and (body[2] is None or type(body[2]) is bool)
        ):
            raise ValueError("not the number, type and truth of an object")
        self._number, self._type, self._truth = body

    def _refuse(self, *_arguments: object) -> NoReturn:
        raise UnreadableValue(f"the program returned a {self._type}, which is not plain data")

    def __bool__(self) -> bool:
        if self._truth is None:
            self._refuse()
        return bool(self._truth)

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __len__ = __iter__ = __contains__ = __getitem__ = __call__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __abs__ = __round__ = __float__ = __int__ = _refuse
    __index__ = __str__ = __repr__ = __format__ = _refuse


def _number(value: object) -> object:
    if isinstance(value, _Foreign):
        return {"object": value._number}  # noqa: SLF001  our own class
    raise NotPlainError(f"a {type(value).__name__} is not plain data")


def _raise(body: object) -> NoReturn:
    """Raise what the program raised, as a built-in exception of this process."""
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
