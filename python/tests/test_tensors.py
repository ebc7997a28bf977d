"""Tensors by name: catalogues, dtypes, slices, contributions."""

from __future__ import annotations

import json
import unittest

import numpy as np
import suanli
from suanli import _catalogue

from pair import Pair

try:
    import torch
except ImportError:
    torch = None


def model() -> dict[str, np.ndarray]:
    dice = np.random.default_rng(5)
    return {
        "w": dice.standard_normal((64, 32, 16), np.float32),
        "half": dice.standard_normal((7, 5)).astype(np.float16),
        "ids": np.arange(-3, 100, dtype=np.int64),
        "mask": np.array([[True, False], [False, True]]),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 4), np.float32),
        "turned": np.arange(12, dtype=np.uint8).reshape(3, 4).T,
        "big_endian": np.arange(5, dtype=">u4"),
    }


class Tensors(Pair):
    def setUp(self) -> None:
        super().setUp()
        self.model = model()
        self.holder.publish("m", self.model)
        self.region = self.node.open("m")

    def test_each_tensor_comes_with_its_dtype_and_shape(self):
        for arrays in (self.region.arrays(), {n: self.region.tensor(n) for n in self.model}):
            self.assertEqual(list(arrays), list(self.model))
            for name, array in arrays.items():
                np.testing.assert_array_equal(array, self.model[name], name)
                self.assertEqual(array.dtype, self.model[name].dtype.newbyteorder("<"))

    def test_a_tensor_lies_where_it_arrived(self):
        arrays = self.region.arrays()
        base = arrays["ids"]
        while isinstance(base.base, np.ndarray):
            base = base.base
        self.assertEqual(base.nbytes, self.region.nbytes)
        self.assertTrue(all(np.shares_memory(a, base) for a in arrays.values() if a.nbytes))

    def test_slices_read_what_numpy_selects_and_no_more(self):
        w = self.model["w"]
        for index in (
            np.s_[10:20, :, ::2],
            np.s_[::-3, 4],
            np.s_[..., 7],
            np.s_[5],
            np.s_[None, 60:, 30:2:-7, 3:9],
            np.s_[3:3],
            np.s_[...],
        ):
            with self.subTest(index=index):
                expected = w[index]
                before = self.node.stat().bytes_sent
                found = self.region.read_tensor("w", index)
                sent = self.node.stat().bytes_sent - before
                np.testing.assert_array_equal(found, expected)
                # STAT itself and the beginning of a catalogue are sent too.
                self.assertLessEqual(sent, expected.nbytes + 8_000)
                safe = self.region.read_tensor("w", index, verified=True)
                np.testing.assert_array_equal(safe, expected)

    def test_without_a_catalogue_there_are_bytes(self):
        self.holder.publish("plain", b"abc")
        region = self.node.open("plain")
        with self.assertRaises(suanli.RefusedError) as caught:
            region.tensor("w")
        self.assertIn("read()", caught.exception.text)
        self.assertEqual(region.read().tobytes(), b"abc")

    def test_an_unknown_tensor_is_a_key_error_that_names_some(self):
        with self.assertRaisesRegex(KeyError, "half"):
            self.region.tensor("v")

    def test_a_catalogue_that_lies_is_the_peers_fault(self):
        good = {"name": "a", "dtype": "f32", "shape": [2], "offset": 0}
        for entry in (
            {**good, "offset": 1},
            {**good, "shape": [3]},
            {**good, "shape": [-2]},
            {**good, "shape": [True]},
            {**good, "shape": [1 << 62, 1 << 62]},
            {**good, "shape": "22"},
            {**good, "offset": 0.5},
            {**good, "name": 3},
            [],
        ):
            text = json.dumps({"format": 1, "tensors": [entry]}).encode()
            with self.subTest(entry), self.assertRaises(suanli.Error) as caught:
                _catalogue.read(text, 8)
            self.assertEqual(caught.exception.fault, "peer")
        two = json.dumps({"format": 1, "tensors": [good, good]}).encode()
        for text in (two, b"{", b"[]", b"[" * 100_000, b'{"format":2,"tensors":[]}', b"\xff"):
            with self.assertRaises(suanli.Error):
                _catalogue.read(text, 8)
        one = json.dumps({"format": 1, "tensors": [good]}).encode()
        self.assertEqual(_catalogue.read(one, 8)["a"].shape, (2,))


class Sharing(Pair):
    def test_on_one_machine_a_region_is_read_in_the_holders_memory(self):
        folder = self.keys / "shared"
        holder = suanli.Holder(key=self.keys / "holder.key", shared=folder)
        self.addCleanup(holder.close)
        self.address = holder.listen(link="shared")
        node = self.connect(link="shared")
        tensors = model()
        holder.publish("m", tensors)
        region = node.open("m")
        for name, array in region.arrays().items():
            np.testing.assert_array_equal(array, tensors[name], name)
        w = region.read_tensor("w", np.s_[::-2, 3:5])
        np.testing.assert_array_equal(w, tensors["w"][::-2, 3:5])
        self.assertTrue(np.shares_memory(w, region.tensor("w")))
        self.assertFalse(w.flags.writeable)
        self.assertLess(node.stat().bytes_sent, region.nbytes)
        holder.publish("m", b"next")
        self.assertTrue(region.refresh())
        self.assertEqual(region.read().tobytes(), b"next")
        np.testing.assert_array_equal(w, tensors["w"][::-2, 3:5], "an old version stays")
        with self.assertRaises(suanli.Error):
            self.holder.listen(link="shared")


class Contributions(Pair):
    def test_a_delta_arrives_with_what_the_codec_lost_kept_for_the_next(self):
        delta = np.random.default_rng(1).standard_normal(300_000, np.float32)
        residual = np.zeros_like(delta)
        total = np.zeros_like(delta)
        sent = 0
        for number in range(4):
            name = f"lease-{number}"
            sent += self.node.accumulate("grad", delta, contribution=name, residual=residual)
            got = self.holder.contribution(f"grad/{name}", codec="int4", elements=delta.size)
            total += got
        self.assertLess(sent, 4 * delta.nbytes / 7)
        self.assertGreater(np.abs(residual).max(), 0)
        np.testing.assert_allclose(total + residual, 4 * delta, atol=1e-4)
        self.assertIsNone(self.holder.contribution("grad/lease-0"), "handed over once")

    def test_f32_loses_nothing(self):
        delta = np.linspace(-1, 1, 70_000, dtype=np.float32).reshape(7, -1)
        self.node.accumulate("grad", delta, codec="f32", contribution="a")
        got = self.holder.contribution("grad/a", codec="f32", elements=delta.size)
        np.testing.assert_array_equal(got, delta.reshape(-1))

    def test_each_codec_that_is_named_arrives_within_its_residual(self):
        delta = np.random.default_rng(2).standard_normal(100_000, np.float32)
        for codec in ("int4", "int8", "topk", "bf16", "f16", "f32"):
            with self.subTest(codec):
                residual = np.zeros_like(delta)
                self.node.accumulate(
                    "g", delta, codec=codec, contribution=codec, residual=residual
                )
                got = self.holder.contribution(f"g/{codec}", codec=codec, elements=delta.size)
                np.testing.assert_allclose(got + residual, delta, atol=1e-5)

    def test_what_cannot_be_a_contribution_is_refused_and_the_residual_stays(self):
        residual = np.ones(4, np.float32)
        for delta, settings in (
            (np.array([1, np.nan, 0, 0], np.float32), {}),
            (np.zeros(4, np.float64), {}),
            (np.zeros(5, np.float32), {}),
            (np.zeros(4, np.float32), {"codec": "morse"}),
        ):
            with self.subTest(delta=delta, **settings), self.assertRaises(suanli.Error):
                self.node.accumulate("g", delta, contribution="a", residual=residual, **settings)
        np.testing.assert_array_equal(residual, np.ones(4))
        self.node.accumulate("g", np.zeros(64, np.float32), contribution="b")
        with self.assertRaises(suanli.Error):
            self.holder.contribution("g/b", codec="int4", elements=1 << 40)


@unittest.skipIf(torch is None, "PyTorch is not installed")
class Torch(Pair):
    def test_tensors_share_the_memory_they_arrived_in(self):
        layer = torch.nn.Linear(6, 4)
        half = torch.arange(10, dtype=torch.float32).to(torch.bfloat16)
        self.holder.publish("m", {**layer.state_dict(), "half": half})
        region = self.node.open("m")
        state = region.state_dict()
        self.assertTrue(torch.equal(state.pop("half"), half))
        self.assertTrue(torch.equal(region.torch("half"), half))
        other = torch.nn.Linear(6, 4)
        other.load_state_dict(state)
        self.assertTrue(torch.equal(other.weight, layer.weight))
        self.assertTrue(torch.equal(region.torch("bias"), layer.bias))
        first, second = state["weight"].untyped_storage(), state["bias"].untyped_storage()
        apart = abs(first.data_ptr() - second.data_ptr())
        self.assertLess(apart, region.nbytes, "one read, one memory")

    def test_a_gradient_goes_as_a_contribution(self):
        delta = torch.randn(1000)
        self.node.accumulate("g", delta, codec="f32", contribution="a")
        got = self.holder.contribution("g/a", codec="f32", elements=1000)
        self.assertTrue(torch.equal(torch.from_numpy(got), delta))


if __name__ == "__main__":
    unittest.main()
