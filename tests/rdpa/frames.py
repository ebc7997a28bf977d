"""Frames: the header of 64 bytes, its checks and its bounds (docs/spec/rdpa.md, sections 2, 5, 8, 10).

Not for: what a body says (`messages.py`), or when a frame may be sent (`session.py`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from blake3 import blake3

HEADER_BYTES = 64
HEADER = struct.Struct("<4sBBHHHIQQQQ16s")
MAGIC, FORMAT = b"RDPA", 1
REPLY, UNHASHED, LEVEL_SHIFT, KNOWN_FLAGS = 1, 2, 2, 0b1111
KIB, MIB = 1024, 1024 * 1024


class Verb(IntEnum):
    """Section 4."""

    HELLO = 1
    OPEN = 2
    OPEN_STAGE = 3
    READ = 4
    READ_IF_CHANGED = 5
    WRITE = 6
    COMMIT = 7
    ACCUMULATE = 8
    SEND = 9
    SUBSCRIBE = 10
    NOTIFY = 11
    CANCEL = 12
    PING = 13
    READ_RANGES = 14
    OPEN_CELLS = 15
    CAS = 16
    FETCH_ADD = 17
    FENCE = 18
    STAT = 19
    REVOKE = 20


class Code(IntEnum):
    """Section 8."""

    UNAUTHORISED = 1
    NO_SUCH_REGION = 2
    VERSION_GONE = 3
    BAD_HANDLE = 4
    OUT_OF_RANGE = 5
    HASH_MISMATCH = 6
    TOO_LARGE = 7
    LATE = 8
    BUSY = 9
    NOT_COMPLETE = 10
    PROTOCOL = 11
    CONFLICT = 12
    VERSION = 13
    UNAVAILABLE = 14
    UNSUPPORTED = 15
    OVER_BUDGET = 16


class Level(IntEnum):
    """Section 5."""

    UNSAID = 0
    ACCEPTED = 1
    PLACED = 2
    DURABLE = 3


LEVELLED = frozenset((Verb.WRITE, Verb.ACCUMULATE, Verb.FENCE))
BULK_REQUESTS = frozenset((Verb.WRITE, Verb.ACCUMULATE))
ANY_REPLIES_4MIB = frozenset((Verb.READ, Verb.READ_RANGES, Verb.OPEN, Verb.READ_IF_CHANGED))
REQUEST_BOUNDS = {
    Verb.WRITE: 4 * MIB,
    Verb.ACCUMULATE: 4 * MIB,
    Verb.HELLO: 5 * KIB,
    Verb.SEND: 64 * KIB,
    Verb.READ_RANGES: 40 * KIB,
    Verb.PING: 64,
    Verb.CANCEL: 0,
}
ERROR_TEXT_BYTES = 256


class BadFrame(Exception):
    """The peer sent what is no frame; the connection is over (section 2)."""


@dataclass(frozen=True)
class Frame:
    """One frame. `level` is bits 2 and 3 of the flags; `hashed` says that the hash is given."""

    verb: Verb
    reply: bool = False
    status: int = 0
    level: int = 0
    request: int = 0
    handle: int = 0
    version: int = 0
    offset: int = 0
    payload: bytes = b""
    hashed: bool = False

    @property
    def bulk(self) -> bool:
        """Section 3, Classes."""
        if self.reply:
            return self.verb in (Verb.READ, Verb.READ_RANGES) and not self.status
        return self.verb in BULK_REQUESTS


def payload_bound(verb: Verb, reply: bool) -> int:
    """Section 10, the first two lines of the table."""
    if not reply:
        return REQUEST_BOUNDS.get(verb, 4 * KIB)
    if verb in ANY_REPLIES_4MIB:
        return 4 * MIB
    if verb is Verb.OPEN_STAGE:
        return 32 * KIB
    return 4 * KIB


def encode(frame: Frame) -> bytes:
    """A frame as bytes."""
    flags = frame.level << LEVEL_SHIFT | (REPLY if frame.reply else 0)
    hashed = blake3(frame.payload)[:16] if frame.hashed else bytes(16)
    return HEADER.pack(
        MAGIC, FORMAT, frame.verb, flags | (0 if frame.hashed else UNHASHED), frame.status, 0,
        len(frame.payload), frame.request, frame.handle, frame.version, frame.offset, hashed,
    ) + frame.payload


@dataclass(frozen=True)
class Header:
    """A header that passed its checks: the frame without its payload, and what the payload must be."""

    frame: Frame
    length: int
    digest: bytes

    def whole(self, payload: bytes) -> Frame:
        """The frame with its payload, whose hash is checked if one was given."""
        if self.frame.hashed and blake3(payload)[:16] != self.digest:
            raise BadFrame("the payload does not have the hash of its header")
        return Frame(**{**vars(self.frame), "payload": payload})


def header(data: bytes) -> Header:
    """Checks a header in the order of section 2."""
    magic, form, opcode, flags, status, reserved, length, request, handle, version, offset, digest = (
        HEADER.unpack(data)
    )
    _refuse(magic != MAGIC, f"magic {magic!r}")
    _refuse(form != FORMAT, f"format {form}")
    _refuse(opcode not in Verb._value2member_map_, f"opcode {opcode}")
    _refuse(bool(flags & ~KNOWN_FLAGS), f"flags {flags:#x}")
    reply, verb = bool(flags & REPLY), Verb(opcode)
    _refuse(status != 0 and not reply, f"status {status} in a request")
    _refuse(status != 0 and status not in Code._value2member_map_, f"status {status}")
    _refuse(reserved != 0, f"reserved {reserved}")
    _refuse(bool(flags & UNHASHED) and any(digest), "a hash that is said not to be given")
    bound = payload_bound(verb, reply)
    _refuse(length > bound, f"{length} bytes where {verb.name} has at most {bound}")
    frame = Frame(
        verb, reply, status, flags >> LEVEL_SHIFT, request, handle, version, offset,
        hashed=not flags & UNHASHED,
    )
    return Header(frame, length, digest)


def _refuse(bad: bool, why: str) -> None:
    if bad:
        raise BadFrame(why)


def decode(data: bytes) -> Frame:
    """One whole frame and nothing behind it."""
    if len(data) < HEADER_BYTES:
        raise BadFrame(f"{len(data)} bytes are no header")
    head, payload = header(data[:HEADER_BYTES]), data[HEADER_BYTES:]
    if len(payload) != head.length:
        raise BadFrame(f"{head.length} bytes are announced, {len(payload)} are there")
    return head.whole(payload)
