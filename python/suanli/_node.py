"""Connections to other nodes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from . import _suanli
from ._errors import Error
from ._region import Region

#: Bytes of a chunk when nobody says otherwise: what the parameter space uses for float32.
CHUNK_BYTES = 256 << 10

Role = Literal["watch", "join", "train", "operate"]
Link = Literal["auto", "tls", "quic", "tcp", "shared"]


@dataclass(frozen=True)
class RegionStat:
    """A region as its holder sees it."""

    version: int
    oldest: int
    nbytes: int
    chunk_bytes: int
    root: str
    pinned_bytes: int


@dataclass(frozen=True)
class Stat:
    """A session as the holder sees it, and the region asked for, if there is one."""

    requests: int
    serving: int
    bytes_sent: int
    bytes_received: int
    rtt_ms: int | None
    region: RegionStat | None = None


def data_folder() -> Path:
    """Where this user's keys lie (XDG base directories)."""
    base = os.environ.get("XDG_DATA_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share"
    return folder / "suanli" / "python"


def as_bytes(value: object) -> bytes:
    """The bytes of what was given: bytes as they are, arrays and tensors in row-major order."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    from ._dtypes import as_array

    return as_array(value)[0].tobytes()


class Node:
    """A node at the other end of a connection. Threads may share it; a lost connection is made anew
    by whatever is asked next. Made by ``suanli.connect``."""

    def __init__(self, native: _suanli.Node) -> None:
        self._native = native

    @property
    def peer(self) -> str:
        """The node's id: its key, proven by the link."""
        return self._native.peer

    @property
    def address(self) -> str:
        """Where it is."""
        return self._native.address

    def open(self, name: str) -> Region:
        """Opens the newest version of a region."""
        return Region(self._native, self._native.open(name))

    def write(
        self, name: str, value: object, expected_version: int, chunk_bytes: int = CHUNK_BYTES
    ) -> int:
        """Writes the version after ``expected_version`` (0 for a new region), in one switch: readers
        see the old version or the new one. Returns the new version; ``RefusedError`` with the code
        "conflict" when somebody else was faster."""
        return self._native.write(name, as_bytes(value), expected_version, chunk_bytes)

    def accumulate(
        self,
        region: str,
        delta: object,
        *,
        codec: str = "int4",
        contribution: str,
        residual: np.ndarray | None = None,
    ) -> int:
        """Hands in ``delta`` (float32) as the contribution ``region/contribution``, encoded; returns
        the bytes sent. ``residual``, a float32 array as long as the delta, is added before encoding
        and then holds what the codec lost: keep it for the next delta, and begin with zeros."""
        from ._dtypes import as_array

        values, dtype = as_array(delta)
        if dtype != "f32":
            raise Error(f"a delta is of float32, this one is of {dtype}")
        if residual is not None and (residual.dtype != np.float32 or residual.size != values.size):
            expected = f"expected {values.size} elements of float32"
            raise Error(f"{expected}, found a residual of {residual.size} of {residual.dtype}")
        before = None if residual is None else residual.tobytes()
        payload, left, chunk = _suanli.encode(codec, values.tobytes(), before)
        self._native.accumulate(f"{region}/{contribution}", payload, chunk)
        if residual is not None:
            # Only now: a delta that did not arrive is handed in again with the residual it had.
            lost = np.asarray(left).view("<f4")
            np.copyto(residual, lost.reshape(residual.shape))
        return len(payload)

    def cas(self, name: str, cell: int, expected: int, new: int) -> int:
        """Puts ``new`` into a cell if it holds ``expected``; returns what it held."""
        return self._native.cas(name, cell, expected, new)

    def fetch_add(self, name: str, cell: int, add: int) -> int:
        """Adds to a cell, wrapping around at 2**64; returns what it held."""
        return self._native.fetch_add(name, cell, add % (1 << 64))

    def fence(self, level: Literal["accepted", "placed", "durable"] = "placed") -> None:
        """Waits until all that was done before is as safe as ``level``."""
        self._native.fence(level)

    def stat(self, region: str | None = None) -> Stat:
        """How the session fares, and a region."""
        found = self._native.stat(region)
        about = found.pop("region", None)
        return Stat(**found, region=RegionStat(**about) if about else None)

    def close(self) -> None:
        """Says goodbye."""
        self._native.close()

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def connect(
    address: str | None = None,
    *,
    key: str | os.PathLike[str] | None = None,
    expected: str | None = None,
    ticket: str | None = None,
    role: Role | None = None,
    link: Link = "auto",
    timeout: float = 10.0,
) -> Node:
    """Connects to a node.

    ``address`` is ``host:port``, ``quic:host:port`` or ``relay:...`` as a city shows it; ``ticket``, a
    ticket of a city or a grant to regions, names addresses of its own. ``expected`` is the id
    (hexadecimal) of the node that must answer; a ticket or grant names it. ``key`` is the file of this
    side's own key, which is drawn and kept there, for its owner only, when there is none; without it,
    one file for all programs of this user. ``role`` is what the ticket is for, or "watch". ``link`` is
    "auto": whichever of the ways answers, encrypted, at home too when the city is behind a router;
    "tls" and "quic" for one kind only; "tcp", without encryption, for networks that are trusted; or
    "shared" for a holder of the same user on this machine: ``address`` is then its folder, and what is
    read lies in the holder's memory.
    """
    path = data_folder() / "client.key" if key is None else Path(key)
    native = _suanli.Node(address, path, expected, ticket, role, link, timeout)
    return Node(native)
