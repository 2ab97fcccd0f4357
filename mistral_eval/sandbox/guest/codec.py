"""Plain data as messages over a pair of pipes, the only channel between a program and its checker.

A message is four bytes of length, then JSON. None, bool, int, float, str and list stand for
themselves; every other plain type is an object with one key, the type's name. Decoding builds exact
built-in types only, so whatever the program's process sends, the checker compares its own values.
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
_CHUNK = 1 << 12
_LONGEST_INT = 1 << 4096  # longer ones are sent as hexadecimal: Python limits decimal conversion


class FrameError(Exception):
    """The other side closed the pipe, or sent bytes that are not a message."""


class NotPlainError(Exception):
    """A value that cannot cross; the text names its type."""


class Pipe:
    """One side of the channel between a program and its checker."""

    def __init__(self, reading: int, writing: int) -> None:
        """Use the descriptors of the pipe to read from and of the pipe to write to."""
        self._reading = reading
        self._writing = writing
        self._ahead = b""  # read, but not returned yet

    def write(self, data: bytes) -> None:
        """Write one message.

        Raises:
            NotPlainError: The message is longer than MAX_FRAME.
            FrameError: The other side has closed the pipe.
        """
        if len(data) > MAX_FRAME:
            raise NotPlainError(f"a value of {len(data)} bytes; at most {MAX_FRAME} can cross")
        data = struct.pack(">I", len(data)) + data
        try:
            written = os.write(self._writing, data)
            while written < len(data):
                written += os.write(self._writing, data[written : written + (1 << 20)])
        except OSError as error:
            raise FrameError(f"closed: {error}") from error

    def read(self) -> bytes:
        """Read one message.

        Raises:
            FrameError: The pipe is closed, or the announced length is more than MAX_FRAME.
        """
        (length,) = struct.unpack(">I", self._take(4))
        if length > MAX_FRAME:
            raise FrameError(f"{length} bytes were announced; at most {MAX_FRAME} may come")
        return self._take(length)

    def close(self) -> None:
        """Close both pipes."""
        os.close(self._reading)
        os.close(self._writing)

    def _take(self, count: int) -> bytes:
        parts, missing = [self._ahead], count - len(self._ahead)
        while missing > 0:
            try:
                part = os.read(self._reading, max(_CHUNK, min(missing, 1 << 20)))
            except OSError as error:
                raise FrameError(f"closed: {error}") from error
            if not part:
                raise FrameError("closed")
            parts.append(part)
            missing -= len(part)
        data = b"".join(parts)
        self._ahead = data[count:]
        return data[:count]


class Codec:
    """Encodes values and decodes them; its owner decides about objects that are not plain."""

    def __init__(
        self, keep: Callable[[object], object], resolve: Callable[[object], object]
    ) -> None:
        """Prepare the JSON encoder and decoder.

        Args:
            keep: Called with an object that is not plain. Returns what crosses in its place, as
                {"object": ...}, or raises NotPlainError.
            resolve: Called with the body of a received {"object": ...}; returns the object.
        """
        self._keep = keep
        self._resolve = resolve
        self._dump = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
        self._load = json.JSONDecoder(object_hook=self._build).decode

    def encode(self, value: object) -> object:
        """Return `value` as JSON types; a subclass of a plain type is sent as that type.

        Raises:
            NotPlainError: From `keep`.
            RecursionError: The value contains itself, or is nested too deeply.
        """
        if value is None or type(value) is bool or type(value) is float:
            return value
        exact = _EXACT.get(type(value))
        if exact is not None:
            return exact(value, self.encode)
        for kind, form in _FORMS:
            if issubclass(type(value), kind):  # isinstance would believe a forged __class__
                return form(value, self.encode)
        return self._keep(value)

    def dump(self, message: dict[str, object]) -> bytes:
        """Return a message, whose values are already encoded, as bytes."""
        return self._dump(message).encode()

    def load(self, data: bytes) -> dict[str, object]:
        """Return the message in untrusted `data`, with its values decoded.

        Raises:
            FrameError: The bytes are not a message.
        """
        try:
            message = self._load(data.decode())
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise FrameError(f"not a message: {error}") from error
        if type(message) is not dict:
            raise FrameError("not a message: no object")
        return message

    def _build(self, node: dict[str, object]) -> object:
        """Decode one JSON object: with one key a value of that type, with several a message."""
        if len(node) != 1:
            return node
        ((name, body),) = node.items()
        if name in _DECODERS and type(body) is list:
            return _DECODERS[name](body)
        if name in _TEXT_DECODERS and type(body) is str:
            return _TEXT_DECODERS[name](body)
        if name == "object":
            return self._resolve(body)
        raise ValueError(f"no type is called {name!r}")


def _taken(iterator: Iterator[object]) -> list[object]:
    """Return the remaining items of a generator, map, zip, ..."""
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
    """Encode text; with lone surrogates, which JSON may join to one character, as bytes."""
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return {"str": text.encode("utf-8", "surrogatepass").hex()}
    return text


def _items(name: str) -> Callable[[Any, _Each], object]:
    return lambda value, each: {name: [each(item) for item in value]}


# Tried in this order for subclasses. Collections are read by their own iteration.
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


_EXACT = dict(_FORMS)  # direct lookup for the exact types


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
    # Built like a set display, by way of a frozenset, so that a program that iterates over a set
    # argument sees the order that it would see in the tests' own process.
    "set": lambda items: set().union(frozenset(items)),
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
