"""Small statements (heads, claims, boot and slot bodies) as canonical JSON: exactly one spelling for each value.

A statement is a frozen dataclass of ``int``, ``bool``, ``str``, ``bytes`` (lower-case hex), tuples of these, and such
dataclasses again. ``Annotated[bytes, Size(32)]`` and ``Annotated[int, Between(1, 9)]`` narrow a field; a field marked
``LATER`` is left out while it has its default, so what was written before it existed still parses. ``encode`` turns one
into bytes, ``parse`` refuses everything that ``encode`` would not have written. Bytes handed to ``parse`` have been
authenticated before, which says who wrote them, not that they are harmless.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, NewType, Protocol, TypeVar, get_args, get_origin, get_type_hints

from megafs.errors import Corrupt
from megafs.model import Bytes

STATEMENT_BYTES = 4 << 20  # longer than any statement; a checkpoint list of 10,000 parts has 2 MiB
INTEGER_STOP = 1 << 63  # what SQLite holds
TEXT_CHARACTERS = 65_536

Statement = TypeVar("Statement")


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """How many bytes a ``bytes`` field, or characters a ``str`` field, must have; ``most`` makes it a range."""

    least: int
    most: int | None = None

    def holds(self, size: int) -> bool:
        return self.least <= size <= (self.least if self.most is None else self.most)


@dataclasses.dataclass(frozen=True, slots=True)
class Between:
    """Bounds of an ``int`` field, both included."""

    low: int
    high: int


@dataclasses.dataclass(frozen=True, slots=True)
class Later:
    """Marks a field that the first version of a statement had not."""


LATER = Later()


class Field(Protocol):
    """One kind of value: to JSON and back."""

    def plain(self, value: object, where: str) -> object: ...
    def built(self, value: object, where: str) -> object: ...


@dataclasses.dataclass(frozen=True, slots=True)
class IntField:
    bounds: Between = Between(0, INTEGER_STOP - 1)

    def plain(self, value: object, where: str) -> object:
        return self.built(value, where)

    def built(self, value: object, where: str) -> object:
        if type(value) is not int or not self.bounds.low <= value <= self.bounds.high:
            raise Corrupt(f"{where}: not a whole number between {self.bounds.low} and {self.bounds.high}")
        return value


@dataclasses.dataclass(frozen=True, slots=True)
class FlagField:
    def plain(self, value: object, where: str) -> object:
        return self.built(value, where)

    def built(self, value: object, where: str) -> object:
        if type(value) is not bool:
            raise Corrupt(f"{where}: neither true nor false")
        return value


@dataclasses.dataclass(frozen=True, slots=True)
class TextField:
    size: Size = Size(0, TEXT_CHARACTERS)

    def plain(self, value: object, where: str) -> object:
        return self.built(value, where)

    def built(self, value: object, where: str) -> object:
        # A lone surrogate passes through JSON and fails in every later encode().
        if type(value) is not str or not self.size.holds(len(value)) or any("\ud800" <= c <= "\udfff" for c in value):
            raise Corrupt(f"{where}: not a text of the right length")
        return value


@dataclasses.dataclass(frozen=True, slots=True)
class BytesField:
    size: Size = Size(0, STATEMENT_BYTES)

    def plain(self, value: object, where: str) -> object:
        if not isinstance(value, bytes) or not self.size.holds(len(value)):
            raise Corrupt(f"{where}: not bytes of the right length")
        return value.hex()

    def built(self, value: object, where: str) -> object:
        if type(value) is not str:
            raise Corrupt(f"{where}: not hex")
        try:
            data = bytes.fromhex(value)
        except ValueError:
            raise Corrupt(f"{where}: not hex") from None
        if data.hex() != value or not self.size.holds(len(data)):
            raise Corrupt(f"{where}: not lower-case hex of the right length")
        return data


@dataclasses.dataclass(frozen=True, slots=True)
class TupleField:
    item: Field

    def plain(self, value: object, where: str) -> object:
        if not isinstance(value, tuple):
            raise Corrupt(f"{where}: not a tuple")
        return [self.item.plain(item, where) for item in value]

    def built(self, value: object, where: str) -> object:
        if type(value) is not list:
            raise Corrupt(f"{where}: not a list")
        return tuple(self.item.built(item, where) for item in value)


@dataclasses.dataclass(frozen=True, slots=True)
class TableField:
    make: Callable[..., object]
    fields: tuple[tuple[str, Field], ...]
    later: Mapping[str, object]  # fields that may be absent, and the default that they then have

    def plain(self, value: object, where: str) -> object:
        if type(value) is not self.make:
            raise Corrupt(f"{where}: not a {self.make.__name__}")
        return {
            name: field.plain(getattr(value, name), f"{where}.{name}")
            for name, field in self.fields
            if name not in self.later or getattr(value, name) != self.later[name]
        }

    def built(self, value: object, where: str) -> object:
        return self.make(**self.arguments(value, where))

    def arguments(self, value: object, where: str) -> dict[str, object]:
        """What to call ``make`` with."""
        names = {name for name, _ in self.fields}
        if type(value) is not dict or not names - self.later.keys() <= value.keys() <= names:
            raise Corrupt(f"{where}: fields missing or unknown")
        made = {name: field.built(value[name], f"{where}.{name}") for name, field in self.fields if name in value}
        if any(name in made and made[name] == default for name, default in self.later.items()):
            raise Corrupt(f"{where}: a default that is written out")  # one spelling for each value
        return made


def encode(statement: object) -> bytes:
    """The one spelling of ``statement``; Corrupt if a field breaks its own bounds."""
    make: Callable[..., object] = type(statement)
    return _dumps(_table(make).plain(statement, make.__name__))


def parse(make: Callable[..., Statement], data: Bytes, limit_bytes: int = STATEMENT_BYTES) -> Statement:
    """The ``make`` (a statement class) that encodes to exactly ``data``; anything else raises Corrupt."""
    name = make.__name__
    if len(data) > limit_bytes:
        raise Corrupt(f"{name}: {len(data)} bytes, at most {limit_bytes}")
    try:
        value = json.loads(
            bytes(data).decode("ascii"),
            object_pairs_hook=_unique,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
        same = _dumps(value) == data
    except (ValueError, RecursionError):
        # ValueError: not ASCII, not JSON, a number of thousands of digits. The text itself is not quoted.
        raise Corrupt(f"{name}: not canonical JSON") from None
    if not same:
        raise Corrupt(f"{name}: not the canonical spelling")
    return make(**_table(make).arguments(value, name))


def _dumps(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _unique(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    table: dict[str, object] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError("a key twice")
        table[key] = value
    return table


def _no_float(text: str) -> object:
    raise ValueError("a number that is not whole")


@cache
def _table(make: Callable[..., object]) -> TableField:
    assert isinstance(make, type), make
    assert dataclasses.is_dataclass(make), make
    hints, fields = get_type_hints(make, include_extras=True), dataclasses.fields(make)
    later = {field.name: field.default for field in fields if LATER in getattr(hints[field.name], "__metadata__", ())}
    return TableField(make, tuple((field.name, _field(hints[field.name])) for field in fields), later)


def _field(hint: object) -> Field:
    if get_origin(hint) is Annotated:
        inner, bound = get_args(hint)
        field = _field(inner)
        if bound is LATER:
            return field
        if isinstance(bound, Between) and isinstance(field, IntField):
            return IntField(bound)
        if isinstance(bound, Size) and isinstance(field, TextField | BytesField):
            return dataclasses.replace(field, size=bound)
    if isinstance(hint, NewType):
        return _field(hint.__supertype__)
    if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
        return TupleField(_field(get_args(hint)[0]))
    simple: dict[object, Field] = {int: IntField(), bool: FlagField(), str: TextField(), bytes: BytesField()}
    if hint in simple:
        return simple[hint]
    assert isinstance(hint, type), f"a statement cannot hold {hint}"
    return _table(hint)
