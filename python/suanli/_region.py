"""A region of another node, opened at one version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _catalogue, _dtypes, _slices
from ._errors import Error, RefusedError
from ._suanli import Node as Native
from ._suanli import Opened

if TYPE_CHECKING:
    import torch

    from ._node import Node


@dataclass(frozen=True)
class Gathered:
    """A region that was read from several nodes: its bytes (uint8), how many came from each node, and
    (node, why) of those that were dropped."""

    flat: np.ndarray
    by: dict[str, int]
    dropped: list[tuple[str, str]]


class Region:
    """A region at one version, which never changes; ``refresh()`` goes to the newest.

    What ``read``, ``tensor`` and ``torch`` give was held against the region's hashes as it arrived. Over
    a shared link nothing arrives: arrays are read-only and lie in the holder's memory, unhashed.
    """

    def __init__(self, native: Native, opened: Opened) -> None:
        self._native = native
        self._opened = opened
        self._tensors: dict[str, _catalogue.Tensor] | None = None
        self._map = self._mapped()

    def _mapped(self) -> np.ndarray | None:
        """The region in the memory of a holder on this machine, if it shares it."""
        buffer = self._native.map(self._opened)
        return None if buffer is None else np.asarray(buffer)

    @property
    def name(self) -> str:
        """Its name."""
        return self._opened.name

    @property
    def version(self) -> int:
        """The version that is open."""
        return self._opened.version

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return self._opened.nbytes

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk, the unit that is hashed and sent."""
        return self._opened.chunk_bytes

    @property
    def root(self) -> str:
        """The Merkle root over the hashes of its chunks."""
        return self._opened.root

    def __repr__(self) -> str:
        return f"<suanli.Region {self.name} version {self.version}, {self.nbytes} bytes>"

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        """All bytes, as an array of uint8 over the memory they arrived in; a lost connection is made
        anew, and only what lacks is read again. With ``out``, an array of the same number of bytes,
        they are copied there and ``out`` is returned."""
        if out is not None and out.nbytes != self.nbytes:
            raise Error(f"{self.nbytes} bytes are read, the array given has {out.nbytes}")
        flat = self._map if self._map is not None else np.asarray(self._native.read(self._opened))
        if out is None:
            return flat
        np.copyto(out, flat.view(out.dtype).reshape(out.shape))
        return out

    def gather(self, others: Sequence[Node]) -> Gathered:
        """All bytes, from this region's node and from others that hold the same content, at once: each
        gives other chunks, the fast ones more of them. A holder whose chunk does
        not fit its hash, that is lost or has another content is dropped, and the rest goes on."""
        natives = [node._native for node in others]
        buffer, by, dropped = self._native.gather(self._opened, natives)
        return Gathered(np.asarray(buffer), by, dropped)

    def read_bytes(self, start: int, length: int) -> np.ndarray:
        """Bytes ``start`` to ``start + length``, verified: the chunks they touch are read whole."""
        if length == 0:
            return np.empty(0, np.uint8)
        if self._map is not None and 0 <= start <= start + length <= self.nbytes:
            return self._map[start : start + length]
        return np.asarray(self._native.read_range(self._opened, start, length))

    @property
    def tensors(self) -> dict[str, _catalogue.Tensor]:
        """The tensors in it, by name, as its catalogue (the region ``NAME.tensors``) has them."""
        if self._tensors is None:
            self._tensors = self._read_catalogue()
        return self._tensors

    def _read_catalogue(self) -> dict[str, _catalogue.Tensor]:
        name = self.name + _catalogue.SUFFIX
        try:
            opened = self._native.open(name)
        except RefusedError as error:
            raise RefusedError(
                f"{self.name} has no catalogue ({error.text}); read() gives its bytes",
                error.fault,
                error.code,
            ) from None
        if opened.nbytes > _catalogue.BYTES_MAX:
            most = _catalogue.BYTES_MAX
            raise Error(f"{name} has {opened.nbytes} bytes, at most {most} are expected", "peer")
        text = np.asarray(self._native.read(opened)).tobytes()
        return _catalogue.read(text, self.nbytes)

    def _tensor(self, name: str) -> _catalogue.Tensor:
        try:
            return self.tensors[name]
        except KeyError:
            some = ", ".join(sorted(self.tensors)[:8])
            raise KeyError(f"{self.name} has no tensor {name!r}; it has {some} ...") from None

    def tensor(self, name: str) -> np.ndarray:
        """One tensor, verified, over the memory it arrived in. Only the chunks it touches are read.
        bfloat16, which numpy lacks, comes as its bits (uint16)."""
        found = self._tensor(name)
        flat = self.read_bytes(found.offset, found.nbytes)
        return flat.view(_dtypes.dtype_of(found.dtype)).reshape(found.shape)

    def arrays(self) -> dict[str, np.ndarray]:
        """All tensors by name, over the memory of one verified read."""
        flat = self.read()
        return {
            name: flat[t.offset : t.offset + t.nbytes]
            .view(_dtypes.dtype_of(t.dtype))
            .reshape(t.shape)
            for name, t in self.tensors.items()
        }

    def read_tensor(self, name: str, index: Any = ..., *, verified: bool = False) -> np.ndarray:
        """``tensor(name)[index]`` for integers, slices with steps, ``...`` and ``None``
        (``numpy.s_[10:20, :, ::2]``), of which only the bytes needed are read. These are guarded by
        the connection, not by the region's hashes: trust the holder, or say ``verified=True``, which
        reads the chunks from the first to the last byte needed and picks from them."""
        found = self._tensor(name)
        dtype = _dtypes.dtype_of(found.dtype)
        if self._map is not None:
            return self.tensor(name)[index]
        plan = _slices.plan(index, found.shape, dtype.itemsize, found.offset)
        if not plan.spans:
            return plan.array(np.empty(0, dtype))
        if not verified:
            flat = np.asarray(self._native.read_spans(self._opened, plan.spans))
            return plan.array(flat.view(dtype))
        first = min(offset for offset, _, _, _ in plan.spans)
        last = max(offset + (n - 1) * stride + run for offset, run, stride, n in plan.spans)
        covering = self.read_bytes(first, last - first)
        packed = np.concatenate([_runs(covering, span, first) for span in plan.spans])
        return plan.array(packed.view(dtype))

    def torch(self, name: str) -> torch.Tensor:
        """One tensor for PyTorch, over the memory it arrived in, bfloat16 included."""
        return _dtypes.to_torch(self.tensor(name), self._tensor(name).dtype)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All tensors for PyTorch, over the memory of one verified read."""
        return {
            name: _dtypes.to_torch(array, self.tensors[name].dtype)
            for name, array in self.arrays().items()
        }

    def refresh(self) -> bool:
        """Goes to the newest version; False when this is it."""
        opened = self._native.open_if_changed(self.name, self.version)
        if opened is None:
            return False
        self._opened = opened
        self._tensors = None
        self._map = self._mapped()
        return True

    def subscribe(self, timeout: float | None = None) -> Iterator[int]:
        """The versions above this one, as they are published; who is slow gets the newest only. Ends
        when nothing comes for ``timeout`` seconds. Ctrl-C is heard while it waits."""
        versions = self._native.subscribe(self.name)
        known = self.version
        while (newer := versions.newer_than(known, timeout)) is not None:
            known = newer
            yield newer


def _runs(covering: np.ndarray, span: _slices.Span, first: int) -> np.ndarray:
    offset, run, stride, count = span
    begin = offset - first
    if count == 1:
        return covering[begin : begin + run]
    rows = np.lib.stride_tricks.as_strided(
        covering[begin:], shape=(count, run), strides=(stride, 1), writeable=False
    )
    return rows.reshape(-1)
