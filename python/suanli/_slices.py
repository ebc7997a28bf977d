"""Basic slicing as byte spans: what of a row-major tensor is read, and how it becomes an array."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import numpy as np

#: (offset, bytes of a run, distance from one run to the next, runs)
Span = tuple[int, int, int, int]

#: Runs of one span: the wire has 32 bits for them.
RUNS_MAX = (1 << 32) - 1


@dataclass(frozen=True)
class Plan:
    """Which bytes to read, and the shape of what comes."""

    spans: list[Span]
    #: Elements of each dimension, in the order in which they come.
    counts: tuple[int, ...]
    #: How to finish: turns dimensions around, drops those that were chosen by a number, adds new.
    finish: tuple

    @property
    def elements(self) -> int:
        """How many elements come."""
        return math.prod(self.counts)

    def array(self, flat: np.ndarray) -> np.ndarray:
        """The array of what came; a view."""
        return flat.reshape(self.counts)[self.finish]


def plan(index: object, shape: tuple[int, ...], itemsize: int, base: int = 0) -> Plan:
    """What ``array[index]`` needs of a tensor that begins at byte ``base``. Integers, slices with
    steps of either sign, ``...`` and ``None`` are understood, as in numpy's basic indexing."""
    picks, finish = _picks(index, shape)
    counts = tuple(count for _, _, count in picks)
    if 0 in counts:
        return Plan([], counts, finish)
    return Plan(_spans(picks, shape, itemsize, base), counts, finish)


def _picks(index: object, shape: tuple[int, ...]) -> tuple[list[tuple[int, int, int]], tuple]:
    """For each dimension (first, step, count) with a positive step, and what is left for numpy."""
    items = list(index) if isinstance(index, tuple) else [index]
    used = sum(item is not None and item is not Ellipsis for item in items)
    dots = sum(item is Ellipsis for item in items)
    if dots > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    if used > len(shape):
        raise IndexError(f"too many indices: the tensor has {len(shape)} dimensions, {used} are given")
    if dots == 0:
        items.append(Ellipsis)
    picks: list[tuple[int, int, int]] = []
    finish: list[object] = []
    for item in items:
        if item is None:
            finish.append(None)
        elif item is Ellipsis:
            for size in shape[len(picks) : len(picks) + len(shape) - used]:
                picks.append((0, 1, size))
                finish.append(slice(None))
        else:
            pick, rest = _pick(item, shape[len(picks)], len(picks))
            picks.append(pick)
            finish.append(rest)
    return picks, tuple(finish)


def _pick(item: object, size: int, axis: int) -> tuple[tuple[int, int, int], object]:
    if isinstance(item, slice):
        first, stop, step = item.indices(size)
        count = len(range(first, stop, step))
        if step > 0 or count == 0:
            return (first, max(step, 1), count), slice(None)
        return (first + (count - 1) * step, -step, count), slice(None, None, -1)
    if isinstance(item, (bool, np.bool_)):
        raise IndexError("only integers, slices, '...' and None are understood, not masks")
    try:
        at = operator.index(item)  # type: ignore[arg-type]
    except TypeError:
        what = type(item).__name__
        raise IndexError(
            f"only integers, slices, '...' and None are understood, not {what}"
        ) from None
    if not -size <= at < size:
        raise IndexError(f"index {at} is out of bounds for axis {axis} with size {size}")
    return (at % size, 1, 1), 0


def _spans(
    picks: list[tuple[int, int, int]], shape: tuple[int, ...], itemsize: int, base: int
) -> list[Span]:
    strides = [itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    base += sum(first * stride for (first, _, _), stride in zip(picks, strides))
    # The longest run without a gap, from the innermost dimension outwards.
    run, axis = itemsize, len(shape)
    while axis > 0:
        _, step, count = picks[axis - 1]
        if count > 1 and (step != 1 or strides[axis - 1] != run):
            break
        run, axis = run * count, axis - 1
    # Dimensions of one element say nothing; of the others the innermost is the span's stride.
    outer = [(picks[a][2], picks[a][1] * strides[a]) for a in range(axis) if picks[a][2] > 1]
    if not outer:
        return [(base, run, run, 1)]
    count, stride = outer.pop()
    offsets = np.array([base], dtype=np.int64)
    for times, distance in outer:
        steps = np.arange(times, dtype=np.int64) * distance
        offsets = (offsets[:, None] + steps).ravel()
    parts = [(at, min(RUNS_MAX, count - at)) for at in range(0, count, RUNS_MAX)]
    return [
        (offset + at * stride, run, stride, here)
        for offset in offsets.tolist()
        for at, here in parts
    ]
