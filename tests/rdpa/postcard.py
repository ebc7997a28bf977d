"""Bodies: the parts of postcard 1 that docs/spec/rdpa.md, section 2, uses.

A `Reader` takes a body apart and refuses what is not one; the functions put one together. Every count
is held against the bytes that are left before anything is made of it.
"""

from __future__ import annotations

from typing import Callable, TypeVar

T = TypeVar("T")

MOST_BYTES = {16: 3, 32: 5, 64: 10}


class BadBody(Exception):
    """The bytes are not a body of the kind that was expected."""


class Reader:
    """Takes a body apart from its first byte to its last."""

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)
        self._at = 0

    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at

    def raw(self, count: int) -> bytes:
        """So many bytes as they are."""
        if count > self.left():
            raise BadBody(f"{count} bytes are announced, {self.left()} are there")
        self._at += count
        return self._data[self._at - count : self._at]

    def u8(self) -> int:
        return self.raw(1)[0]

    def varint(self, bits: int) -> int:
        """LEB128 of at most 3, 5 or 10 bytes."""
        value = 0
        for at in range(MOST_BYTES[bits]):
            byte = self.u8()
            value |= (byte & 0x7F) << 7 * at
            if byte < 0x80:
                return self._fits(value, bits)
        raise BadBody(f"an integer of more than {MOST_BYTES[bits]} bytes")

    @staticmethod
    def _fits(value: int, bits: int) -> int:
        if value >> bits:
            raise BadBody(f"an integer above {bits} bits")
        return value

    def u16(self) -> int:
        return self.varint(16)

    def u32(self) -> int:
        return self.varint(32)

    def u64(self) -> int:
        return self.varint(64)

    def counted(self) -> bytes:
        """A list of u8."""
        return self.raw(self.u64())

    def text(self) -> str:
        try:
            return self.counted().decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadBody("a string that is not UTF-8") from error

    def list_of(self, element: Callable[[], T], least_bytes: int = 1) -> list[T]:
        """A list whose elements have at least so many bytes each."""
        count = self.u64()
        if count * least_bytes > self.left():
            raise BadBody(f"{count} elements are announced, {self.left()} bytes are there")
        return [element() for _ in range(count)]

    def variant(self, count: int) -> int:
        """The number of a variant of an enumeration that has so many."""
        number = self.u32()
        if number >= count:
            raise BadBody(f"variant {number} of {count}")
        return number

    def option(self, value: Callable[[], T]) -> T | None:
        there = self.u8()
        if there > 1:
            raise BadBody(f"an option that begins with {there}")
        return value() if there else None

    def end(self) -> None:
        """Nothing may be left over."""
        if self.left():
            raise BadBody(f"{self.left()} bytes are left over")


def varint(value: int) -> bytes:
    """An integer, in as few bytes as it needs."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def counted(data: bytes) -> bytes:
    return varint(len(data)) + data


def text(value: str) -> bytes:
    return counted(value.encode())


def integers(values: list[int]) -> bytes:
    return varint(len(values)) + b"".join(varint(value) for value in values)


def option(value: bytes | None) -> bytes:
    return b"\0" if value is None else b"\1" + value
