"""What bodies say: the structures of docs/spec/rdpa.md, section 2, and the names of section 1."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Callable, TypeVar

import postcard
from blake3 import merkle_root
from frames import ERROR_TEXT_BYTES, MIB
from postcard import BadBody, Reader

T = TypeVar("T")

CHUNKS_MAX, CHUNK_BYTES_MAX = 100_000, 4 * MIB
PIECE_BYTES = 262_144
SPANS_MAX, RUNS_MAX, RANGES_BYTES_MAX = 1_024, 1 << 20, 64 * MIB
_SEGMENT = re.compile(r"[a-z0-9\-_.]+")


class Role(IntEnum):
    JOIN = 0
    TRAIN = 1
    OPERATE = 2
    WATCH = 3


class Kind(IntEnum):
    """What a staging area is for."""

    WRITE = 0
    ACCUMULATE = 1


class Placement(IntEnum):
    PLACED = 0
    DUPLICATE = 1
    CONFLICT = 2


def name_is_good(name: str) -> bool:
    """Section 1, the last paragraph."""
    segments = name.split("/")
    good = all(_SEGMENT.fullmatch(part) and part not in (".", "..") for part in segments)
    return good and len(name) <= 160


def whole(body: bytes, read: Callable[[Reader], T]) -> T:
    """What `read` makes of a body, of which nothing may be left over."""
    reader = Reader(body)
    value = read(reader)
    reader.end()
    return value


@dataclass(frozen=True)
class Hello:
    version_min: int
    version_max: int
    role: Role
    ticket: bytes

    def encode(self) -> bytes:
        versions = bytes([self.version_min, self.version_max])
        return versions + postcard.varint(self.role) + postcard.counted(self.ticket)

    @staticmethod
    def read(body: Reader) -> Hello:
        return Hello(body.u8(), body.u8(), Role(body.variant(len(Role))), body.counted())


@dataclass(frozen=True)
class Welcome:
    version: int
    requests_max: int
    bulk_window_bytes: int
    time_ms: int

    def encode(self) -> bytes:
        numbers = (self.requests_max, self.bulk_window_bytes, self.time_ms)
        return bytes([self.version]) + b"".join(map(postcard.varint, numbers))

    @staticmethod
    def read(body: Reader) -> Welcome:
        return Welcome(body.u8(), body.u32(), body.u64(), body.u64())


@dataclass(frozen=True)
class Shape:
    bytes: int
    chunk_bytes: int

    def chunks(self) -> int:
        """How many chunks; a peer's shape is held against the bounds of section 10."""
        if not 1 <= self.chunk_bytes <= CHUNK_BYTES_MAX:
            raise BadBody(f"chunks of {self.chunk_bytes} bytes")
        count = -(-self.bytes // self.chunk_bytes)
        if count > CHUNKS_MAX:
            raise BadBody(f"{count} chunks")
        return count

    def chunk_length(self, index: int) -> int:
        """The length of one chunk: the last may be shorter (section 1)."""
        return min(self.chunk_bytes, self.bytes - index * self.chunk_bytes)

    def encode(self) -> bytes:
        return postcard.varint(self.bytes) + postcard.varint(self.chunk_bytes)

    @staticmethod
    def read(body: Reader) -> Shape:
        return Shape(body.u64(), body.u32())


@dataclass(frozen=True)
class RegionInfo:
    version: int
    shape: Shape
    root: bytes
    hashes: list[bytes]

    def check(self) -> None:
        """As many hashes as chunks, and they give the root (section 4, OPEN)."""
        if len(self.hashes) != self.shape.chunks():
            raise BadBody(f"{len(self.hashes)} hashes of {self.shape.chunks()} chunks")
        if merkle_root(self.hashes) != self.root:
            raise BadBody("the hashes do not give the root")

    def encode(self) -> bytes:
        hashes = postcard.varint(len(self.hashes)) + b"".join(self.hashes)
        return postcard.varint(self.version) + self.shape.encode() + self.root + hashes

    @staticmethod
    def read(body: Reader) -> RegionInfo:
        version, shape, root = body.u64(), Shape.read(body), body.raw(32)
        return RegionInfo(version, shape, root, body.list_of(lambda: body.raw(32), 32))


@dataclass(frozen=True)
class StageInfo:
    kind: Kind
    shape: Shape
    root: bytes

    def encode(self) -> bytes:
        return postcard.varint(self.kind) + self.shape.encode() + self.root

    @staticmethod
    def read(body: Reader) -> StageInfo:
        return StageInfo(Kind(body.variant(len(Kind))), Shape.read(body), body.raw(32))


@dataclass(frozen=True)
class ChunkSet:
    length: int
    chunks: frozenset[int]

    def encode(self) -> bytes:
        words = [0] * -(-self.length // 64)
        for chunk in self.chunks:
            words[chunk // 64] |= 1 << chunk % 64
        return postcard.varint(self.length) + postcard.integers(words)

    @staticmethod
    def read(body: Reader) -> ChunkSet:
        length, words = body.u32(), body.list_of(body.u64)
        if len(words) != -(-length // 64):
            raise BadBody(f"{len(words)} words for {length} chunks")
        bits = sum(word << 64 * at for at, word in enumerate(words))
        if bits >> length:
            raise BadBody("a chunk past the last one")
        return ChunkSet(length, frozenset(at for at in range(length) if bits >> at & 1))


@dataclass(frozen=True)
class Span:
    """`count` runs of `length` bytes, each `stride` behind the one before."""

    offset: int
    length: int
    stride: int
    count: int

    def encode(self) -> bytes:
        fields = (self.offset, self.length, self.stride, self.count)
        return b"".join(map(postcard.varint, fields))

    @staticmethod
    def read(body: Reader) -> Span:
        return Span(body.u64(), body.u64(), body.u64(), body.u32())


@dataclass(frozen=True)
class Ranges:
    spans: list[Span]
    pieces: list[int]

    def packed_bytes(self) -> int:
        return sum(span.length * span.count for span in self.spans)

    def piece_length(self, piece: int) -> int:
        return min(PIECE_BYTES, self.packed_bytes() - piece * PIECE_BYTES)

    def encode(self) -> bytes:
        spans = b"".join(span.encode() for span in self.spans)
        return postcard.varint(len(self.spans)) + spans + postcard.integers(self.pieces)

    @staticmethod
    def read(body: Reader) -> Ranges:
        return Ranges(body.list_of(lambda: Span.read(body), 4), body.list_of(body.u32))


@dataclass(frozen=True)
class SessionStat:
    requests: int
    serving: int
    bytes_sent: int
    bytes_received: int
    rtt_ms: int | None

    def encode(self) -> bytes:
        numbers = (self.requests, self.serving, self.bytes_sent, self.bytes_received)
        rtt = None if self.rtt_ms is None else postcard.varint(self.rtt_ms)
        return b"".join(map(postcard.varint, numbers)) + postcard.option(rtt)

    @staticmethod
    def read(body: Reader) -> SessionStat:
        numbers = body.u64(), body.u32(), body.u64(), body.u64()
        return SessionStat(*numbers, body.option(body.u64))


@dataclass(frozen=True)
class RegionStat:
    version: int
    oldest: int
    shape: Shape
    root: bytes
    pinned_bytes: int

    def encode(self) -> bytes:
        versions = postcard.varint(self.version) + postcard.varint(self.oldest)
        return versions + self.shape.encode() + self.root + postcard.varint(self.pinned_bytes)

    @staticmethod
    def read(body: Reader) -> RegionStat:
        versions = body.u64(), body.u64()
        return RegionStat(*versions, Shape.read(body), body.raw(32), body.u64())


@dataclass(frozen=True)
class Stat:
    session: SessionStat
    region: RegionStat | None

    def encode(self) -> bytes:
        region = None if self.region is None else self.region.encode()
        return self.session.encode() + postcard.option(region)

    @staticmethod
    def read(body: Reader) -> Stat:
        return Stat(SessionStat.read(body), body.option(lambda: RegionStat.read(body)))


def error_text(body: bytes) -> str:
    """The text of an error, for people only (section 8)."""
    text = body[:ERROR_TEXT_BYTES].decode("utf-8", "replace")
    return "".join(sign for sign in text if sign.isprintable())
