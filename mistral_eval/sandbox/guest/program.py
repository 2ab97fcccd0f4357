"""The untrusted side: runs the generated program and answers the judge's calls.

Nothing here is trusted. The program may rewrite all of it; the worst it can send is another
plain value. The expected values, the tests and the verdict are in another process.
"""

import json
import sys
import types
from collections.abc import Callable

from .codec import FrameError, NotPlainError, decode, encode, read_frame, write_frame

_LONGEST_MESSAGE = 500  # characters of an exception's text


def main(job: bytes, requests: int, replies: int) -> None:
    """Runs one program, then serves calls until the judge closes the pipe.

    Args:
        job: JSON with `source`, `setup` (runs after it in the same namespace) and `names` (what
            the judge will use).
        requests: Descriptor on which the judge's calls come.
        replies: Descriptor for the answers.
    """
    task = json.loads(job)
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    try:
        for part in ("source", "setup"):
            code = compile(task[part], f"<{part}>", "exec", dont_inherit=True)
            exec(code, module.__dict__)  # noqa: S102  this is what the sandbox is for
    except BaseException as error:  # noqa: BLE001  the program may raise anything
        write_frame(replies, {"n": 0, "error": _describe(error)})
        return
    kinds = tuple((name, _kind(module.__dict__, name)) for name in task["names"])
    write_frame(replies, {"n": 0, "ready": encode(kinds, str)})
    _serve(_Objects(module.__dict__), requests, replies)


class _Objects:
    """The program's names, and those of its results that are no plain data, by number."""

    def __init__(self, names: dict[str, object]) -> None:
        self._names = names
        self._results: list[object] = []

    def answer(self, request: dict[str, object]) -> object:
        """The encoded result of one request: a call, or the value of a name."""
        target = self._names[str(request["name"])]
        if "args" not in request:
            return encode(target, self._keep)
        assert callable(target), "the judge calls only what was announced as callable"
        return encode(_call(target, request), self._keep)

    def resolve(self, number: object) -> object:
        """The object that the judge knows by `number`."""
        assert isinstance(number, int), f"an object's number is an int, not {number!r}"
        return self._results[number]

    def _keep(self, result: object) -> object:
        self._results.append(result)
        return {"object": [len(self._results) - 1, type(result).__name__]}


def _call(target: Callable[..., object], request: dict[str, object]) -> object:
    arguments, named = request["args"], request["kwargs"]
    assert isinstance(arguments, list), "positional arguments come as a list"
    assert isinstance(named, dict), "named arguments come as a dict"
    return target(*arguments, **named)


def _serve(objects: _Objects, requests: int, replies: int) -> None:
    while True:
        try:
            data = read_frame(requests)
        except FrameError:
            return
        request = decode(data, objects.resolve)
        assert isinstance(request, dict), "a request is an object"
        answer: dict[str, object] = {"n": request["n"]}
        try:
            write_frame(replies, {**answer, "value": objects.answer(request)})
        except FrameError:
            return
        except NotPlainError as error:
            write_frame(replies, {**answer, "error": ["NotPlainError", str(error)]})
        except BaseException as error:  # noqa: BLE001  the program may raise anything
            write_frame(replies, {**answer, "error": _describe(error)})


def _kind(names: dict[str, object], name: str) -> str:
    if name not in names:
        return "missing"
    return "callable" if callable(names[name]) else "value"


def _describe(error: BaseException) -> list[str]:
    """An exception's type and text; the text of a hostile one may itself raise."""
    try:
        text = str.__str__(str(error))[:_LONGEST_MESSAGE]
    except BaseException:  # noqa: BLE001  its __str__ is the program's
        text = ""
    return [type.__dict__["__name__"].__get__(type(error)), text]
