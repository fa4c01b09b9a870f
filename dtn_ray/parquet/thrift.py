"""Thrift's compact protocol, in which Parquet writes its footer and the headers of its pages, read within bounds.

pyarrow's own view of a column in a footer crashes the process if the footer is damaged in some places
(`terminate called after throwing an instance of 'parquet::ParquetException'`), so tables.py reads footers with this.
"""

from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
DEEPEST = 12
STRUCTS = 500_000  # that one struct may hold in all, each some hundred bytes of Python's


class Reader:
    """Reads structs from bytes: each field by its number, texts as bytes; lists of numbers and maps are skipped."""

    def __init__(self, data: memoryview, place: int = 0) -> None:
        self.data, self.place, self.left = data, place, STRUCTS

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The fields of a struct by their numbers. Raises ValueError if it is damaged or too large."""
        self.left -= 1
        if depth > DEEPEST or self.left < 0:
            raise ValueError("a header is damaged: it is too deep or too long")
        found, number = dict[int, Any](), 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            found[number] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (I16, I32, I64):
            return self._integer()
        if kind in (BYTE, TRUE, FALSE):
            return self._byte()
        if kind == DOUBLE:
            return self._take(8)
        if kind == BINARY:
            return self._take(self._varint())
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind in (LIST, SET):
            return self._list(depth)
        if kind == MAP:
            return self._map(depth)
        raise ValueError("a header is damaged: it has a field of an unknown kind")

    def _list(self, depth: int) -> list[Any] | None:
        head = self._byte()
        count, kind = head >> 4, head & 15
        count = self._varint() if count == 15 else count
        if count > len(self.data) - self.place:  # each takes a byte at least
            raise ValueError("a header is damaged: a list is longer than the rest of it")
        if kind in (STRUCT, BINARY):
            self.left -= count
            if self.left < 0:
                raise ValueError("a header is damaged: a list is too long")
            return [self._value(kind, depth + 1) for _ in range(count)]
        for _ in range(count):
            self._value(kind, depth + 1)
        return None

    def _map(self, depth: int) -> None:
        count = self._varint()
        kinds = self._byte() if count else 0
        if depth > DEEPEST or count > len(self.data) - self.place:
            raise ValueError("a header is damaged: it is too deep or too long")
        for _ in range(count):
            self._value(kinds >> 4, depth + 1)
            self._value(kinds & 15, depth + 1)

    def _take(self, length: int) -> bytes:
        start, self.place = self.place, self.place + length
        if self.place > len(self.data):
            raise ValueError("a header is cut short")
        return bytes(self.data[start : self.place])

    def _byte(self) -> int:
        if self.place >= len(self.data):
            raise ValueError("a header is cut short")
        self.place += 1
        return self.data[self.place - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if not byte & 128:
                return value
        raise ValueError("a header is damaged: a number is too long")

    def _integer(self) -> int:
        raw = self._varint()
        return raw >> 1 ^ -(raw & 1)
