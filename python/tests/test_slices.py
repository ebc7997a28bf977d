"""Spans give what numpy's own indexing gives, from the bytes alone."""

from __future__ import annotations

import random
import unittest

import numpy as np

from suanli import _slices


def fetch(memory: np.ndarray, spans: list[_slices.Span]) -> np.ndarray:
    """What a holder sends: every run of every span, packed."""
    runs = [
        memory[offset + at * stride : offset + at * stride + run]
        for offset, run, stride, count in spans
        for at in range(count)
    ]
    return np.concatenate(runs) if runs else np.empty(0, np.uint8)


def index_of(dice: random.Random, shape: tuple[int, ...]):
    """Any basic index into an array of this shape."""
    items: list = []
    for size in shape[: dice.randint(0, len(shape))]:
        kind = dice.randint(0, 3)
        if kind == 0 and size > 0:
            items.append(dice.randint(-size, size - 1))
        elif kind == 1:
            items.append(slice(None))
        else:
            ends = [None, *range(-size - 2, size + 3)]
            step = dice.choice([None, 1, 2, 3, -1, -2])
            items.append(slice(dice.choice(ends), dice.choice(ends), step))
    if dice.random() < 0.3:
        items.insert(dice.randint(0, len(items)), None)
    if dice.random() < 0.3:
        # What stands behind an ellipsis counts from the end: only numbers that fit anywhere.
        items = [*(item for item in items if item is None), Ellipsis]
    return tuple(items)


class Slices(unittest.TestCase):
    def test_any_basic_index_reads_exactly_the_bytes_it_selects(self):
        dice = random.Random(7)
        for _ in range(3000):
            shape = tuple(dice.choice([0, 1, 2, 3, 5, 7]) for _ in range(dice.randint(0, 4)))
            dtype = np.dtype(dice.choice(["<f4", "<u2", "|u1", "<f8"]))
            array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
            base = dice.choice([0, 13])
            memory = np.concatenate([np.full(base, 9, np.uint8), array.reshape(-1).view(np.uint8)])
            index = index_of(dice, shape)
            expected = array[index]
            plan = _slices.plan(index, shape, dtype.itemsize, base)
            packed = fetch(memory, plan.spans)
            self.assertEqual(packed.nbytes, expected.nbytes, (shape, index))
            found = plan.array(packed.view(dtype))
            np.testing.assert_array_equal(found, expected, f"{shape} {index}")

    def test_rows_are_one_run_and_columns_one_span(self):
        rows = _slices.plan(np.s_[10:20], (100, 64), 4)
        self.assertEqual(rows.spans, [(10 * 256, 10 * 256, 10 * 256, 1)])
        columns = _slices.plan(np.s_[:, 8:16], (100, 64), 4)
        self.assertEqual(columns.spans, [(32, 32, 256, 100)])
        every_other = _slices.plan(np.s_[::2], (100, 64), 4)
        self.assertEqual(every_other.spans, [(0, 256, 512, 50)])
        one = _slices.plan(np.s_[3, ..., 5], (4, 2, 64), 4)
        self.assertEqual(one.spans, [((3 * 128 + 5) * 4, 4, 256, 2)])

    def test_what_numpy_refuses_is_refused(self):
        array = np.zeros((4, 5))
        for index in [(0, 0, 0), 4, -5, (..., ...), "a", 1.5]:
            with self.subTest(index=index):
                with self.assertRaises(IndexError):
                    array[index]
                with self.assertRaises(IndexError):
                    _slices.plan(index, array.shape, 8)
        # Numpy understands these; bytes do not come in runs for them.
        for index in [True, [0, 1], np.array([0, 1])]:
            with self.assertRaises(IndexError):
                _slices.plan(index, array.shape, 8)


if __name__ == "__main__":
    unittest.main()
