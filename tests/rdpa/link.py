"""The TCP link: keys are proven at the start, frames follow (docs/spec/rdpa.md, section 9, TCP).

Not for: networks that are not trusted. Nothing is encrypted or protected after the start.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from dataclasses import dataclass

import ed25519
from frames import HEADER_BYTES, BadFrame, Frame, Header, encode, header

HELLO_MAGIC = b"SUANLI\0\1"
HELLO_BYTES, SIGNATURE_BYTES = 72, 64
SIGNED_KIND, SIGNED_VERSION = 5, 1
CONNECTING, ACCEPTING = 0, 1
TAKE_BYTES = 1 << 16


class LinkEnded(Exception):
    """The link ended. `clean` says that it did so between two frames."""

    def __init__(self, why: str, clean: bool = False) -> None:
        super().__init__(why)
        self.clean = clean


class WrongPeer(Exception):
    """Whoever answered is not the node that was asked for, or did not prove its key."""


@dataclass(frozen=True)
class Key:
    """A secret key and the node that it makes."""

    seed: bytes
    node: bytes

    @staticmethod
    def of(seed: bytes) -> Key:
        return Key(seed, ed25519.public_key(seed))

    @staticmethod
    def fresh() -> Key:
        return Key.of(os.urandom(32))


@dataclass(frozen=True)
class Greeting:
    """What one side says of itself: its node and its nonce."""

    node: bytes
    nonce: bytes

    def encode(self) -> bytes:
        return HELLO_MAGIC + self.node + self.nonce

    @staticmethod
    def decode(data: bytes) -> Greeting:
        if data[:8] != HELLO_MAGIC:
            raise WrongPeer(f"the peer speaks something else: {data[:8].hex()}")
        return Greeting(data[8:40], data[40:72])


def signed_bytes(side: int, connecting: Greeting, accepting: Greeting) -> bytes:
    """What each side signs (section 9, TCP)."""
    head = b"suanli/1\0" + struct.pack("<BH", SIGNED_KIND, SIGNED_VERSION)
    context = accepting.node + struct.pack("<Q", 2**64 - 1) + bytes([side])
    return head + context + connecting.node + connecting.nonce + accepting.node + accepting.nonce


class Wire:
    """A socket with deadlines, and the bytes that came and are not yet used."""

    def __init__(self, address: tuple[str, int], timeout_s: float) -> None:
        self._socket = socket.create_connection(address, timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self.came = bytearray()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes, timeout_s: float) -> None:
        """Sends everything, and takes what comes meanwhile, so that two full pipes do not wait."""
        left, until = memoryview(data), time.monotonic() + timeout_s
        while left:
            wait = max(0.0, until - time.monotonic())
            readable, writable, _ = select.select([self._socket], [self._socket], [], wait)
            if not readable and not writable:
                raise LinkEnded(f"the peer takes no byte for {timeout_s} s")
            if readable:
                self._take()
            if writable:
                left = left[self._push(left) :]

    def _push(self, data: memoryview) -> int:
        try:
            return self._socket.send(data[:TAKE_BYTES])
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LinkEnded(f"sending failed: {error}") from error

    def take(self, timeout_s: float) -> bool:
        """Waits for bytes; whether some came."""
        readable, _, _ = select.select([self._socket], [], [], max(0.0, timeout_s))
        if readable:
            self._take()
        return bool(readable)

    def _take(self) -> None:
        try:
            data = self._socket.recv(TAKE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkEnded(f"the connection was cut: {error}") from error
        if not data:
            raise LinkEnded("the peer closed", clean=not self.came)
        self.came += data

    def exactly(self, count: int, timeout_s: float) -> bytes:
        """So many bytes, waited for."""
        until = time.monotonic() + timeout_s
        while len(self.came) < count:
            if not self.take(until - time.monotonic()) and time.monotonic() >= until:
                raise LinkEnded(f"{len(self.came)} of {count} bytes came in {timeout_s} s")
        return self.used(count)

    def used(self, count: int) -> bytes:
        data = bytes(self.came[:count])
        del self.came[:count]
        return data


class PlainLink:
    """One lane of whole frames between two proven keys."""

    def __init__(self, wire: Wire, peer: bytes) -> None:
        self._wire = wire
        self.peer = peer
        self._head: Header | None = None

    @staticmethod
    def connect(address: tuple[str, int], key: Key, expected: bytes, timeout_s: float = 5) -> PlainLink:
        """Connects, proves our key and checks theirs, which must be the one expected."""
        wire = Wire(address, timeout_s)
        try:
            PlainLink._handshake(wire, key, expected, timeout_s)
        except BaseException:
            wire.close()
            raise
        return PlainLink(wire, expected)

    @staticmethod
    def _handshake(wire: Wire, key: Key, expected: bytes, timeout_s: float) -> None:
        ours = Greeting(key.node, os.urandom(32))
        wire.send(ours.encode(), timeout_s)
        theirs = Greeting.decode(wire.exactly(HELLO_BYTES, timeout_s))
        if theirs.node != expected:
            raise WrongPeer(f"node {theirs.node.hex()} answered for {expected.hex()}")
        proof = wire.exactly(SIGNATURE_BYTES, timeout_s)
        if not ed25519.verify(theirs.node, signed_bytes(ACCEPTING, ours, theirs), proof):
            raise WrongPeer("the peer did not prove its key")
        wire.send(ed25519.sign(key.seed, signed_bytes(CONNECTING, ours, theirs)), timeout_s)

    def close(self) -> None:
        self._wire.close()

    def send(self, frame: Frame, timeout_s: float = 5) -> None:
        self._wire.send(encode(frame), timeout_s)

    def send_bytes(self, data: bytes, timeout_s: float = 5) -> None:
        """Sends bytes that need not be a frame."""
        self._wire.send(data, timeout_s)

    def receive(self, timeout_s: float) -> Frame | None:
        """The next frame; none if none came whole within the time."""
        until = time.monotonic() + timeout_s
        while True:
            frame = self._next()
            if frame is not None:
                return frame
            if not self._took(until - time.monotonic()) and time.monotonic() >= until:
                return None

    def _took(self, timeout_s: float) -> bool:
        try:
            return self._wire.take(timeout_s)
        except LinkEnded as end:
            raise LinkEnded(str(end), end.clean and self._head is None) from end

    def _next(self) -> Frame | None:
        came = self._wire.came
        if self._head is None and len(came) >= HEADER_BYTES:
            self._head = header(self._wire.used(HEADER_BYTES))
        if self._head is None or len(came) < self._head.length:
            return None
        head, self._head = self._head, None
        return head.whole(self._wire.used(head.length))


__all__ = ["BadFrame", "Greeting", "Key", "LinkEnded", "PlainLink", "Wire", "WrongPeer", "signed_bytes"]
