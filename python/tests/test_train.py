"""Programs of one's own as trainers: the border, PyTorch's steps, and a city that is trained with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy

import suanli
from suanli._train import Batch, Settings, Task, _Bridge

try:
    import torch

    import suanli.torch
except ImportError:
    torch = None

#: The program `suanli`, when the tests are run with one.
PROGRAM = os.environ.get("SUANLI_PROGRAM")
SETTINGS = Settings(lr=0.01, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, clip=1.0)

JOB = """
[model]
hidden = 32
layers = 2
heads = 2
kv_heads = 1
ffn = 48
context = 32
[data]
paths = ["text.txt"]
[training]
engine = "any"
inner_steps = 6
batch_sequences = 2
lr = 0.01
rounds = 5000
[replicas]
min = 2
expected = 2
"""

TRAINER = """
import suanli, suanli.torch, torch

class Decoder(torch.nn.Module):
    '''A decoder of the Llama shape, written out: no other package is needed.'''

    def __init__(self, task):
        super().__init__()
        self.m = task.model
        self.head = self.m["hidden"] // self.m["heads"]
        names = torch.nn.ParameterDict()
        for tensor in task.tensors:
            names[tensor.name.replace(".", "/")] = torch.nn.Parameter(torch.zeros(tensor.shape))
        self.own = names

    def named_parameters(self, *_, **__):
        return [(name.replace("/", "."), value) for name, value in self.own.items()]

    def norm(self, x, weight):
        eps = self.m["norm_eps"]
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight

    def turn(self, x):
        half = self.head // 2
        at = torch.arange(x.shape[-2])[:, None]
        angle = at * self.m["rope_theta"] ** (-torch.arange(half) / half)
        cos, sin = angle.cos(), angle.sin()
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def forward(self, ids):
        get = lambda name: self.own[name.replace(".", "/")]
        x = get("model.embed_tokens.weight")[ids]
        for layer in range(self.m["layers"]):
            w = lambda part: get(f"model.layers.{layer}.{part}.weight")
            y = self.norm(x, w("input_layernorm"))
            split = lambda v: v.unflatten(-1, (-1, self.head)).transpose(1, 2)
            q, k, v = (split(y @ w(f"self_attn.{p}_proj").T) for p in "qkv")
            groups = self.m["heads"] // self.m["kv_heads"]
            k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
            z = torch.nn.functional.scaled_dot_product_attention(
                self.turn(q), self.turn(k), v, is_causal=True)
            x = x + z.transpose(1, 2).flatten(2) @ w("self_attn.o_proj").T
            y = self.norm(x, w("post_attention_layernorm"))
            gate = torch.nn.functional.silu(y @ w("mlp.gate_proj").T)
            x = x + (gate * (y @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
        head = "model.embed_tokens" if self.m["tied"] else "lm_head"
        return self.norm(x, get("model.norm.weight")) @ get(f"{head}.weight").T

suanli.train(lambda task: suanli.torch.Trainer(task, Decoder(task)), name=suanli.torch.NAME)
"""


def task() -> Task:
    """A model of one matrix and one vector."""
    model = {"vocab": 8, "hidden": 4}
    tensors = (suanli.Tensor("matrix", "f32", (8, 4), 0), suanli.Tensor("vector", "f32", (4,), 128))
    return Task(model, tensors, 1)


class Border(unittest.TestCase):
    def test_a_program_that_no_family_started_says_how_to_start_it(self) -> None:
        line = "import suanli; suanli.train(lambda task: None)"
        ended = subprocess.run(
            [sys.executable, "-c", line], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        self.assertNotEqual(ended.returncode, 0)
        self.assertIn("suanli join TICKET --trainer", ended.stderr)

    def test_what_is_stored_has_the_length_and_kind_of_the_task(self) -> None:
        class Wrong:
            def __init__(self, parts):
                self.parts = parts

            def store(self):
                return self.parts

        right = numpy.zeros(36, numpy.float32)
        self.assertEqual(len(_Bridge(Wrong([right] * 3), 36).store()), 3)
        for parts in ([right] * 2, [right[1:]] * 3, [right.astype(numpy.float64)] * 3):
            with self.assertRaises(suanli.Error):
                _Bridge(Wrong(parts), 36).store()

    def test_a_llama_config_is_made_and_another_shape_refused(self) -> None:
        model = dict(
            vocab=256, hidden=32, layers=2, heads=2, kv_heads=1, ffn=48, context=32,
            rope_theta=10000.0, norm_eps=1e-5, tied=True,
        )
        made = Task(model, (), 1).transformers()
        self.assertEqual((made["head_dim"], made["num_key_value_heads"]), (16, 1))
        with self.assertRaises(suanli.Error):
            Task({**model, "qk_norm": True}, (), 1).transformers()


@unittest.skipIf(torch is None, "needs PyTorch")
class Torch(unittest.TestCase):
    def module(self):
        class Bigram(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.matrix = torch.nn.Parameter(torch.zeros(8, 4))
                self.vector = torch.nn.Parameter(torch.zeros(4))

            def forward(self, ids):
                return (self.matrix[ids] * self.vector) @ self.matrix.T

        return Bigram()

    def test_what_was_loaded_is_stored(self) -> None:
        trainer = suanli.torch.Trainer(task(), self.module())
        parts = [numpy.arange(36, dtype=numpy.float32) + at for at in (1, 2, 3)]
        trainer.load(*parts, 7)
        for found, given in zip(trainer.store(), parts):
            numpy.testing.assert_array_equal(found, given)

    def test_a_step_is_adamw_with_decay_on_matrices_and_a_clipped_norm(self) -> None:
        draw = numpy.random.default_rng(1)
        whole = draw.normal(size=36).astype(numpy.float32)
        first = (draw.normal(size=36) * 0.01).astype(numpy.float32)
        second = (draw.random(36) * 0.01).astype(numpy.float32)
        inputs = draw.integers(0, 8, (2, 5), dtype=numpy.uint32)
        targets = draw.integers(0, 8, (2, 5), dtype=numpy.uint32)
        weights = numpy.ones((2, 5), numpy.float32)
        weights[0, 3] = 0
        trainer = suanli.torch.Trainer(task(), self.module())
        trainer.load(whole, first, second, 3)
        batch = Batch(inputs, targets, weights)
        loss, norm = trainer.step(batch, SETTINGS)
        expected, slope = _loss_and_slope(whole.astype(numpy.float64), batch)
        self.assertAlmostEqual(loss, expected, places=5)
        length = float(numpy.sqrt((slope**2).sum()))
        self.assertAlmostEqual(norm, length, places=4)
        slope *= min(1.0, SETTINGS.clip / length)
        m = 0.9 * first + 0.1 * slope
        v = 0.95 * second + 0.05 * slope**2
        decay = numpy.where(numpy.arange(36) < 32, SETTINGS.weight_decay, 0.0)
        below = numpy.sqrt(v / (1 - 0.95**4)) + SETTINGS.eps
        after = whole * (1 - SETTINGS.lr * decay) - SETTINGS.lr * (m / (1 - 0.9**4)) / below
        for found, wanted in zip(trainer.store(), (after, m, v)):
            numpy.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-6)

    def test_a_step_that_is_not_finite_changes_nothing(self) -> None:
        trainer = suanli.torch.Trainer(task(), self.module())
        whole = numpy.full(36, 1e30, numpy.float32)
        zeros = numpy.zeros(36, numpy.float32)
        trainer.load(whole, zeros, zeros, 0)
        ids = numpy.zeros((1, 2), numpy.uint32)
        loss, norm = trainer.step(Batch(ids, ids, numpy.ones((1, 2), numpy.float32)), SETTINGS)
        self.assertFalse(numpy.isfinite(loss) and numpy.isfinite(norm))
        numpy.testing.assert_array_equal(trainer.store()[0], whole)

    def test_a_module_of_another_shape_is_refused(self) -> None:
        module = self.module()
        module.more = torch.nn.Parameter(torch.zeros(1))
        with self.assertRaisesRegex(suanli.Error, "more"):
            suanli.torch.Trainer(task(), module)
        for change in (lambda m: delattr(m, "vector"), lambda m: m.double()):
            module = self.module()
            change(module)
            with self.assertRaises(suanli.Error):
                suanli.torch.Trainer(task(), module)


def _loss_and_slope(whole: numpy.ndarray, batch: Batch) -> tuple[float, numpy.ndarray]:
    """The bigram's loss, and its slope by central differences."""

    def loss(values: numpy.ndarray) -> float:
        matrix, vector = values[:32].reshape(8, 4), values[32:]
        logits = (matrix[batch.inputs] * vector) @ matrix.T
        logits -= logits.max(-1, keepdims=True)
        nats = numpy.log(numpy.exp(logits).sum(-1))
        nats -= numpy.take_along_axis(logits, batch.targets[..., None].astype(int), -1)[..., 0]
        return float((nats * batch.weights).sum() / batch.weights.sum())

    slope = numpy.empty_like(whole)
    for at in range(whole.size):
        step = numpy.zeros_like(whole)
        step[at] = 1e-6
        slope[at] = (loss(whole + step) - loss(whole - step)) / 2e-6
    return loss(whole), slope


@unittest.skipIf(torch is None or PROGRAM is None, "needs PyTorch, and SUANLI_PROGRAM")
class Whole(unittest.TestCase):
    """A city, a family of the ordinary kind, and one that trains with PyTorch."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        lines = (f"line {i}: {i * i % 97}\n" for i in range(4000))
        (self.folder / "text.txt").write_text("".join(lines))
        (self.folder / "job.toml").write_text(JOB)
        (self.folder / "train.py").write_text(TRAINER)

    def suanli(self, *words: str, **more) -> dict:
        command = [PROGRAM, "--json", *words]
        ended = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, **more)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        return json.loads(ended.stdout.splitlines()[-1]) if ended.stdout.strip() else {}

    def start(self, *words: str) -> subprocess.Popen:
        log = (self.folder / f"{words[0]}-{len(words)}.log").open("w")
        self.addCleanup(log.close)
        made = subprocess.Popen(
            [PROGRAM, "--json", *words],
            cwd=self.folder, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True,
        )

        def end() -> None:
            made.terminate()
            made.wait(20)
            made.stdout.close()

        self.addCleanup(end)
        return made

    def test_a_pytorch_program_takes_part(self) -> None:
        self.suanli("city", "init", "--dir", "city", "--name", "test")
        city = self.start("city", "serve", "--dir", "city", "--listen", "127.0.0.1:0")
        ticket = json.loads(city.stdout.readline())["ticket"]
        self.suanli(
            "train", "job.toml", "--city", "city", "--yes", "--prepared", "prepared",
            "--tokens-per-s", "1000",
        )
        self.start("join", ticket, "--dir", "plain", "--name", "plain", "--threads", "1")
        self.start(
            "join", ticket, "--dir", "own", "--name", "own", "--threads", "1",
            "--trainer", sys.executable, "train.py",
        )
        until = time.monotonic() + 90
        job: dict = {}
        each: dict = {}
        while time.monotonic() < until and each.get("own", 0) < 3:
            time.sleep(0.5)
            job = self.suanli("jobs", "--dir", "city")["jobs"][0]
            each = {c["name"]: c["contributions"] for c in job["contributions"]}
        logs = {log.name: log.read_text() for log in self.folder.glob("*.log")}
        self.assertGreaterEqual(each.get("own", 0), 3, (job, logs))
        losses = [point["loss"] for point in job["losses"]]
        self.assertLess(losses[-1], losses[0])
