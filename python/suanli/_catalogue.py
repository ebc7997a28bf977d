"""Catalogues: which tensors a region holds. The region R has its catalogue in ``R.tensors``, JSON:
``{"format":1,"tensors":[{"name":..,"dtype":"f32","shape":[..],"offset":bytes}]}``."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from ._dtypes import dtype_of
from ._errors import Error

SUFFIX = ".tensors"
FORMAT = 1
#: Bytes of a catalogue, and tensors in it; more is refused before it is read.
BYTES_MAX = 16 << 20
TENSORS_MAX = 65_536
DIMENSIONS_MAX = 32


@dataclass(frozen=True)
class Tensor:
    """A tensor in its region."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return math.prod(self.shape) * dtype_of(self.dtype).itemsize


def write(tensors: list[Tensor]) -> bytes:
    """The bytes of a catalogue."""
    entries = [
        {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "offset": t.offset}
        for t in tensors
    ]
    return json.dumps({"format": FORMAT, "tensors": entries}, separators=(",", ":")).encode()


def read(text: bytes, nbytes: int) -> dict[str, Tensor]:
    """The tensors of a catalogue, each within a region of ``nbytes`` bytes."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(f"it is no JSON ({error})") from None
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise _broken(f"expected format {FORMAT}")
    entries = whole.get("tensors")
    if not isinstance(entries, list) or len(entries) > TENSORS_MAX:
        raise _broken(f"expected a list of at most {TENSORS_MAX} tensors")
    found: dict[str, Tensor] = {}
    for entry in entries:
        tensor = _entry(entry)
        if tensor.offset + tensor.nbytes > nbytes:
            end = tensor.offset + tensor.nbytes
            raise _broken(f"{tensor.name!r} ends at byte {end}, the region at {nbytes}")
        if tensor.name in found:
            raise _broken(f"two tensors are called {tensor.name!r}")
        found[tensor.name] = tensor
    return found


def _entry(entry: object) -> Tensor:
    if not isinstance(entry, dict):
        raise _broken("a tensor is described by an object")
    name, dtype = entry.get("name"), entry.get("dtype")
    shape, offset = entry.get("shape"), entry.get("offset")
    if not isinstance(name, str) or not isinstance(dtype, str):
        raise _broken("a tensor lacks its name or its dtype")
    sizes = shape if isinstance(shape, list) else [-1]
    if len(sizes) > DIMENSIONS_MAX or not all(_count(n) for n in (*sizes, offset)):
        raise _broken(f"shape or offset of {name!r} are no counts")
    dtype_of(dtype)
    return Tensor(name, dtype, tuple(sizes), offset)  # type: ignore[arg-type]


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _broken(why: str) -> Error:
    return Error(f"the region's catalogue cannot be used: {why}", "peer")
