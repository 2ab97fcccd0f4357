"""Plain data as bytes: the only thing that crosses between a program and its judge.

Values travel as JSON. None, bool, int, float, str and list stand for themselves; every other
plain type is an object with one key, its name. Decoding builds exact builtin types only, so
whatever the program's process sends, the judge compares values of its own.
"""

import json
import os
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

MAX_FRAME = 16 << 20  # bytes of one message
MAX_ITEMS = 1_000_000  # items taken from an iterator that a program returned
_Each = Callable[[object], object]
_LONGEST_INT = 1 << 4096  # longer ones go as hexadecimal: JSON's decimals are limited


class FrameError(Exception):
    """The other side closed the pipe, or sent what is not a message."""


class NotPlainError(Exception):
    """A value that cannot cross; the text says which type."""


def encode(value: object, opaque: Callable[[object], object]) -> object:
    """`value` as JSON's types; a subclass of a plain type is sent as that type.

    Args:
        value: What crosses.
        opaque: Called with an object that is not plain; gives what crosses instead, or raises
            NotPlainError.

    Raises:
        NotPlainError: From `opaque`.
        RecursionError: The value contains itself, or is nested too deeply.
    """
    if value is None or type(value) is bool or type(value) is float:
        return value
    for kind, form in _FORMS:
        if isinstance(value, kind):
            return form(value, lambda item: encode(item, opaque))
    return opaque(value)


def _taken(iterator: Iterator[object]) -> list[object]:
    """What is left of a generator, map, zip, ..."""
    items = list(islice(iterator, MAX_ITEMS + 1))
    if len(items) > MAX_ITEMS:
        raise NotPlainError(f"an iterator of more than {MAX_ITEMS} items")
    return items


def _int(value: int, _each: _Each) -> object:
    plain = int.__pos__(value)
    return plain if -_LONGEST_INT < plain < _LONGEST_INT else {"int": hex(plain)}


def _complex(value: complex, _each: _Each) -> object:
    plain = complex.__pos__(value)
    return {"complex": [plain.real, plain.imag]}


def _str(value: str, _each: _Each) -> object:
    """Text; JSON would join two lone surrogates to one character, so such text goes as bytes."""
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return {"str": text.encode("utf-8", "surrogatepass").hex()}
    return text


def _items(name: str) -> Callable[[Any, _Each], object]:
    return lambda value, each: {name: [each(item) for item in value]}


# In this order; a bool is an int, so it comes first. Collections are read by their own iteration.
_FORMS: tuple[tuple[type, Callable[[Any, _Each], object]], ...] = (
    (int, _int),
    (str, _str),
    (float, lambda value, _each: float.__pos__(value)),
    (list, lambda value, each: [each(item) for item in list.__iter__(value)]),
    (tuple, _items("tuple")),
    (dict, lambda value, each: {"dict": [[each(k), each(v)] for k, v in value.items()]}),
    (set, _items("set")),
    (frozenset, _items("frozenset")),
    (complex, _complex),
    (bytes, lambda value, _each: {"bytes": bytes(value).hex()}),
    (bytearray, lambda value, _each: {"bytearray": bytes(value).hex()}),
    (
        range,
        lambda value, each: {"range": [each(n) for n in (value.start, value.stop, value.step)]},
    ),
    (type({}.keys()), _items("keys")),
    (type({}.values()), _items("values")),
    (type({}.items()), _items("items")),
    (Iterator, lambda value, each: {"iterator": [each(item) for item in _taken(value)]}),
)


def _dict(items: list[Any]) -> dict[object, object]:
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in items):
        raise ValueError("a dict's entries must be pairs")
    return dict(items)


def _numbers(items: list[Any], kind: type, count: int) -> list[Any]:
    if len(items) != count or any(type(item) is not kind for item in items):
        raise ValueError(f"expected {count} numbers of type {kind.__name__}")
    return items


_DECODERS: dict[str, Callable[[list[Any]], object]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "keys": lambda items: dict.fromkeys(items).keys(),
    "values": lambda items: dict(enumerate(items)).values(),
    "items": lambda items: _dict(items).items(),
    "iterator": iter,
    "dict": _dict,
    "range": lambda items: range(*_numbers(items, int, 3)),
    "complex": lambda items: complex(*_numbers(items, float, 2)),
}
_TEXT_DECODERS: dict[str, Callable[[str], object]] = {
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "str": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
}


def decode(data: bytes, opaque: Callable[[object], object]) -> object:
    """The message in `data`: an object's keys other than plain types' names are kept as a dict.

    Args:
        data: JSON, from whom it may be.
        opaque: Called with what stands for an object that is not plain.

    Raises:
        FrameError: The bytes are no message.
    """

    def build(node: dict[str, object]) -> object:
        if len(node) != 1:
            return node
        ((name, body),) = node.items()
        if name in _DECODERS and isinstance(body, list):
            return _DECODERS[name](body)
        if name in _TEXT_DECODERS and isinstance(body, str):
            return _TEXT_DECODERS[name](body)
        return opaque(body) if name == "object" else node

    try:
        return json.loads(data, object_hook=build)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise FrameError(f"not a message: {error}") from error


def write_frame(descriptor: int, message: object) -> None:
    """Writes one message: four bytes of length, then JSON.

    Raises:
        NotPlainError: The message is longer than MAX_FRAME.
        FrameError: The other side has closed the pipe.
    """
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_FRAME:
        raise NotPlainError(f"a value of {len(data)} bytes; at most {MAX_FRAME} can cross")
    view = memoryview(struct.pack(">I", len(data)) + data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise FrameError(f"closed: {error}") from error


def read_frame(descriptor: int) -> bytes:
    """Reads one message's JSON.

    Raises:
        FrameError: The pipe is closed, or the announced length is more than MAX_FRAME.
    """
    (length,) = struct.unpack(">I", _read_exactly(descriptor, 4))
    if length > MAX_FRAME:
        raise FrameError(f"a message of {length} bytes was announced; at most {MAX_FRAME} may be")
    return _read_exactly(descriptor, length)


def _read_exactly(descriptor: int, count: int) -> bytes:
    parts: list[bytes] = []
    while count:
        try:
            part = os.read(descriptor, min(count, 1 << 20))
        except OSError as error:
            raise FrameError(f"closed: {error}") from error
        if not part:
            raise FrameError("closed")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
