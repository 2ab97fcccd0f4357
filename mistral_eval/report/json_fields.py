"""A JSON object that names its file and field in every complaint."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Never

from mistral_eval.errors import BaselineError


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object that knows where it stands, for sentences that name file and field."""

    file: Path
    path: str
    raw: object

    @property
    def data(self) -> dict[str, object]:
        """The object's keys and values."""
        if not isinstance(self.raw, dict):
            self.fail("", "an object", self.raw)
        return self.raw

    def fail(self, name: str, expected: str, found: object) -> Never:
        """Raise the sentence: file, field, what was expected, what was found."""
        where = ".".join(part for part in (self.path, name) if part) or "the file"
        raise BaselineError(f"{self.file}: {where}: expected {expected}, found {found!r}.")

    def names(self) -> tuple[str, ...]:
        """Return the keys in their order."""
        return tuple(self.data)

    def get(self, name: str) -> object:
        """Return a value that must be there."""
        if name not in self.data:
            where = f"{self.path}.{name}".lstrip(".")
            raise BaselineError(f"{self.file}: {where}: expected a value, found no such field.")
        return self.data[name]

    def fields(self, name: str) -> "Fields":
        """Return an object inside this one."""
        inner = Fields(self.file, f"{self.path}.{name}".lstrip("."), self.get(name))
        _ = inner.data
        return inner

    def items(self, name: str) -> list[object]:
        """Return a list that is not empty."""
        value = self.get(name)
        if not isinstance(value, list) or not value:
            self.fail(name, "a list with something in it", value)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text; empty or absent only where a default is given."""
        if default is not None and name not in self.data:
            return default
        value = self.get(name)
        if not isinstance(value, str) or (default is None and not value):
            self.fail(name, "text", value)
        return value

    def number(self, name: str) -> float:
        """Return a number; JSON decimals are read as Decimal."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            self.fail(name, "a number", value)
        return float(value)

    def count(self, name: str) -> int | None:
        """Return a whole number from 0, or None for null."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self.fail(name, "a count, or null where it is unknown", value)
        return value

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.get(name)
        if not isinstance(value, bool):
            self.fail(name, "true or false", value)
        return value
