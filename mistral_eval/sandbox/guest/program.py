"""The untrusted side: run the generated program and answer the checker's calls.

Nothing here is trusted. The program may rewrite all of it; the worst it can send is another plain
value. The expected values, the tests and the decision are in another process.
"""

import sys
import types

from .codec import MAX_FRAME, Codec, FrameError, NotPlainError, Pipe

_LONGEST_MESSAGE = 500  # characters of an exception's text


def main(pipe: Pipe) -> None:
    """Run the program in the pipe's first message, then answer calls until the pipe is closed.

    The first message holds `source`, `setup` (which runs after it in the same namespace) and
    `names` (those that the checker will use).
    """
    codec = Codec(repr, repr)
    task = codec.load(pipe.read())
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    try:
        for part in ("source", "setup"):
            if task[part]:
                code = compile(str(task[part]), f"<{part}>", "exec", dont_inherit=True)
                exec(code, module.__dict__)  # noqa: S102  this is what the sandbox is for
    except BaseException as error:  # noqa: BLE001  the program may raise anything
        pipe.write(codec.dump({"n": 0, "error": _describe(error)}))
        return
    names = task["names"]
    assert isinstance(names, list), "the checker sends a list of names"
    kinds = tuple((name, _kind(module.__dict__, name)) for name in names)
    pipe.write(codec.dump({"n": 0, "ready": codec.encode(kinds)}))
    _Server(module.__dict__, pipe).serve()


class _Server:
    """Answers the checker; keeps results that are not plain data, by number."""

    def __init__(self, names: dict[str, object], pipe: Pipe) -> None:
        self._names = names
        self._results: list[object] = []
        self._pipe = pipe
        self._codec = Codec(self._keep, self._resolve)

    def serve(self) -> None:
        """Answer each request until the checker closes the pipe."""
        while True:
            try:
                request = self._codec.load(self._pipe.read())
                self._pipe.write(self._answer(request))
            except FrameError:
                return

    def _answer(self, request: dict[str, object]) -> bytes:
        number = request["n"]
        try:
            value = self._codec.encode(self._perform(request))
            answer = self._codec.dump({"n": number, "value": value})
        except NotPlainError as error:
            return self._codec.dump({"n": number, "error": ["NotPlainError", str(error)]})
        except BaseException as error:  # noqa: BLE001  the program may raise anything
            return self._codec.dump({"n": number, "error": _describe(error)})
        if len(answer) > MAX_FRAME:
            text = f"a value of {len(answer)} bytes; at most {MAX_FRAME} can cross"
            return self._codec.dump({"n": number, "error": ["NotPlainError", text]})
        return answer

    def _perform(self, request: dict[str, object]) -> object:
        """Return the result of a call, or the value of a name."""
        target = self._names[str(request["name"])]
        if "args" not in request:
            return target
        arguments, named = request["args"], request["kwargs"]
        assert callable(target), "the checker calls only what was announced as callable"
        assert isinstance(arguments, list), "positional arguments come as a list"
        assert isinstance(named, dict), "named arguments come as a dict"
        return target(*arguments, **named)

    def _keep(self, result: object) -> object:
        self._results.append(result)
        return {"object": [len(self._results) - 1, type(result).__name__, _truth(result)]}

    def _resolve(self, number: object) -> object:
        assert isinstance(number, int), f"an object's number is an int, not {number!r}"
        return self._results[number]


def _kind(names: dict[str, object], name: str) -> str:
    if name not in names:
        return "missing"
    return "callable" if callable(names[name]) else "value"


def _truth(value: object) -> bool | None:
    """Return whether an object is true; None if it does not say."""
    try:
        return bool(value)
    except Exception:  # noqa: BLE001  `__bool__` is the program's code
        return None


def _describe(error: BaseException) -> list[str]:
    """Return an exception's type and text; a hostile exception may raise in its `__str__`."""
    try:
        text = str.__str__(str(error))[:_LONGEST_MESSAGE]
    except BaseException:  # noqa: BLE001  `__str__` is the program's code
        text = ""
    return [type.__dict__["__name__"].__get__(type(error)), text]
