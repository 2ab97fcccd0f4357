"""Plain data as bytes: the only thing that crosses between a program and its judge.

Values travel as JSON. None, bool, int, float, str and list stand for themselves; every other
plain type is an object with one key, its name. Decoding builds exact builtin types only, so
whatever the program's process sends, the judge compares values of its own.
"""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

MAX_ITEMS = 1_000_000  # items taken from an iterator that a program returned
_Each = Callable[[object], object]
_LONGEST_INT = 1 << 4096  # longer ones go as hexadecimal: JSON's decimals are limited


class FrameError(Exception):
    """The other side closed the pipe, or sent what is not a message."""


class NotPlainError(Exception):
    """A value that cannot cross; the text says which type."""


class Codec:
    """Values to bytes and back, with a say of its owner in what is not plain."""

    def __init__(
        self, keep: Callable[[object], object], resolve: Callable[[object], object]
    ) -> None:
        """Prepares the JSON reader and writer.

        Args:
            keep: Called with an object that is not plain; gives what crosses instead, as
                {"object": ...}, or raises NotPlainError.
            resolve: Called with what came as {"object": ...}.
        """
        self._keep = keep
        self._resolve = resolve
        self._dump = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
        self._load = json.JSONDecoder(object_hook=self._build).decode

    def encode(self, value: object) -> object:
        """`value` as JSON's types; a subclass of a plain type is sent as that type.

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
        """A message whose values are encoded already, as bytes."""
        return self._dump(message).encode()

    def load(self, data: bytes) -> dict[str, object]:
        """The message in `data`, from whomever it may be, with its values decoded.

        Raises:
            FrameError: The bytes are no message.
        """
        try:
            message = self._load(data.decode())
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise FrameError(f"not a message: {error}") from error
        if type(message) is not dict:
            raise FrameError("not a message: no object")
        return message

    def _build(self, node: dict[str, object]) -> object:
        """One JSON object: a value that names its type, or (several keys) a message."""
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


_EXACT = dict(_FORMS)  # the same forms, found at once for the types themselves


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
    # As a set display is built, by way of a frozenset: so that a program that goes through a set
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
