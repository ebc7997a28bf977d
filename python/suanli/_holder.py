"""Offering regions to others."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from . import _catalogue, _suanli
from ._dtypes import as_array
from ._node import CHUNK_BYTES, as_bytes, data_folder

#: Tensors of a published mapping begin at multiples of this.
ALIGN = 64


class Holder:
    """Regions of this process, for any number of connections.

    ``key`` is the file of the holder's key, drawn when there is none. Whoever may connect may read,
    write, accumulate and count, unless it listens for grants: ``listen`` asks who that is unless the
    address is of this machine.
    ``shared`` names a folder of this user alone, best below the memory file system of the machine, in
    which every version is put too, for ``link="shared"``.
    ``upload_bytes_per_second`` and ``upload_bytes_per_day`` bound what all readers together get from
    other machines: what comes too fast waits, what is beyond the day is refused as "not available
    now". A day begins at local midnight, and counts what this object sent.
    """

    def __init__(
        self,
        key: str | os.PathLike[str] | None = None,
        *,
        shared: str | os.PathLike[str] | None = None,
        upload_bytes_per_second: int | None = None,
        upload_bytes_per_day: int | None = None,
    ) -> None:
        path = data_folder() / "holder.key" if key is None else Path(key)
        folder = None if shared is None else Path(shared)
        self._native = _suanli.Holder(
            path,
            folder,
            upload_bytes_per_second,
            upload_bytes_per_day,
            time.localtime().tm_gmtoff // 60,
        )

    @property
    def node(self) -> str:
        """The id by which others know this holder: their ``expected``."""
        return self._native.node

    def listen(
        self,
        address: str = "127.0.0.1:0",
        *,
        link: Literal["tls", "tcp", "shared"] = "tls",
        admit: Iterable[str] | Literal["anyone", "grants"] | None = None,
    ) -> str:
        """Listens in the background; returns the address. ``admit`` lists the ids of the nodes that
        may connect, or says "grants": then each may do what a grant of this holder says, and no more.
        An address that other machines reach needs it. With ``link="shared"`` it listens in its shared
        folder, and returns that. Who sends what is not of the protocol is told once an address, as a
        warning of the logger "suanli"."""
        anyone, granted = admit == "anyone", admit == "grants"
        nodes = None if admit is None or anyone or granted else list(admit)
        return self._native.listen(address, link, nodes, anyone, granted)

    def grant(
        self,
        to: str,
        regions: str,
        rights: str = "read,subscribe",
        *,
        seconds: int = 86_400,
        nbytes: int | None = None,
        bytes_per_second: int | None = None,
        depth: int = 0,
        addresses: Iterable[str] | None = None,
    ) -> str:
        """A grant for node ``to``: one line, which it gives to ``connect(ticket=...)``. ``regions`` ends
        with "/" for all below a folder, is one region's name, or "/" for all there are; ``rights`` are
        some of read, write, accumulate, commit, cells, subscribe, revoke. ``nbytes`` and
        ``bytes_per_second`` bound what moves, on all of its connections together. ``depth`` is how
        often it may be handed on. ``addresses`` are those where this holder listens, unless you know
        better."""
        ways = None if addresses is None else list(addresses)
        return self._native.grant(
            to, regions, rights, seconds, nbytes, bytes_per_second, depth, ways
        )

    def revoke(self, regions: str) -> int:
        """Ends every grant to these regions that was given so far, at the next operation of whoever
        holds one; it stays so after a restart. Returns the epoch now in force."""
        return self._native.revoke(regions)

    def publish(self, name: str, value: object, chunk_bytes: int = CHUNK_BYTES) -> int:
        """Publishes bytes, an array or a tensor as the next version of a region, in one switch;
        returns the version. A mapping of names to arrays or tensors is packed, and gets a catalogue
        beside it. What is given may change afterwards: it was copied, but for ``bytes``."""
        if isinstance(value, Mapping):
            return self._publish_mapping(name, value, chunk_bytes)
        return self._native.publish(name, as_bytes(value), chunk_bytes)

    def _publish_mapping(self, name: str, value: Mapping[str, object], chunk_bytes: int) -> int:
        tensors: list[_catalogue.Tensor] = []
        parts: list[bytes | np.ndarray] = []
        end = 0
        for key, item in value.items():
            array, dtype = as_array(item)
            offset = -(-end // ALIGN) * ALIGN
            tensors.append(_catalogue.Tensor(key, dtype, array.shape, offset))
            parts += [bytes(offset - end), array]
            end = offset + array.nbytes
        text = _catalogue.write(tensors)
        catalogue = name + _catalogue.SUFFIX
        held = self._native.read(catalogue)
        # First the catalogue: who finds the region finds what is in it.
        if held is None or np.asarray(held).tobytes() != text:
            self._native.publish(catalogue, text, CHUNK_BYTES)
        return self._native.publish(name, b"".join(parts), chunk_bytes)

    def publish_file(
        self, name: str, path: str | os.PathLike[str], chunk_bytes: int = CHUNK_BYTES
    ) -> int:
        """Publishes a file, which is mapped, not read in: it must not change while anybody may read
        this version. For the next version write another file and rename it over this one. Readers
        refuse what was changed in place; a file that is cut short ends this process (SIGBUS), as with
        any mapped file."""
        return self._native.publish_file(name, Path(path), chunk_bytes)

    def version(self, name: str) -> int:
        """The newest version of a region, 0 when there is none."""
        return self._native.version(name)

    def read(self, name: str) -> np.ndarray | None:
        """The bytes of the newest version, which somebody else may have written; a copy."""
        found = self._native.read(name)
        return None if found is None else np.asarray(found)

    def remove(self, name: str) -> bool:
        """Takes a region away; who has it open gets "that version is gone"."""
        return self._native.remove(name)

    def contribution(
        self, name: str, *, codec: str | None = None, elements: int | None = None
    ) -> bytes | np.ndarray | None:
        """What was accumulated under a name (``region/contribution``), once it is whole, handed over
        once; None before. With ``codec`` and ``elements`` it is decoded to float32."""
        payload = self._native.contribution(name)
        if payload is None or codec is None:
            return payload
        if elements is None:
            raise TypeError("elements= says how many numbers the contribution has")
        return np.asarray(_suanli.decode(codec, payload, elements)).view("<f4")

    def add_cells(self, name: str, count: int) -> None:
        """Offers ``count`` cells of 64 bits, all zero; those that are there stay as they are."""
        self._native.add_cells(name, count)

    def cell(self, name: str, cell: int) -> int | None:
        """What a cell holds."""
        return self._native.cell(name, cell)

    def close(self) -> None:
        """Stops listening, and ends every connection."""
        self._native.close()

    def __enter__(self) -> Holder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
