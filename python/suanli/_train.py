"""A program of one's own as a member of a job: what ``suanli join --trainer`` starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy

from . import _suanli
from ._catalogue import Tensor
from ._errors import Error

#: How a worker ends that no family started.
_NO_FAMILY = 2


@dataclass(frozen=True)
class Task:
    """What is trained.

    ``model`` holds the sizes of a decoder of the Llama shape, ``tensors`` its parameters in the order
    of the flat array that ``Trainer.load`` gets, named as in a Hugging Face checkpoint (``offset`` is
    in bytes), ``threads`` is how many the owner lends.
    """

    model: dict[str, Any]
    tensors: tuple[Tensor, ...]
    threads: int

    @property
    def parameters(self) -> int:
        """How many parameters there are."""
        return sum(tensor.nbytes for tensor in self.tensors) // 4

    def transformers(self) -> dict[str, Any]:
        """The arguments of ``transformers.LlamaConfig`` for this model."""
        model = self.model
        for key in ("qkv_bias", "qk_norm", "rope_scaling"):
            if model.get(key):
                raise Error(f"the model has {key}, which a LlamaConfig made here does not: build it from task.model")
        return {
            "vocab_size": model["vocab"],
            "hidden_size": model["hidden"],
            "num_hidden_layers": model["layers"],
            "num_attention_heads": model["heads"],
            "num_key_value_heads": model["kv_heads"],
            "head_dim": model.get("head_dim") or model["hidden"] // model["heads"],
            "intermediate_size": model["ffn"],
            "max_position_embeddings": model["context"],
            "rope_parameters": {"rope_type": "default", "rope_theta": model["rope_theta"]},
            "rms_norm_eps": model["norm_eps"],
            "tie_word_embeddings": model["tied"],
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
        }


@dataclass(frozen=True)
class Batch:
    """One step's text: arrays of ``[sequences, length]``.

    ``inputs`` and ``targets`` are uint32 token ids, ``weights`` float32: what each place counts in the
    loss, which is the sum of weight times nats over the sum of the weights.
    """

    inputs: numpy.ndarray
    targets: numpy.ndarray
    weights: numpy.ndarray


@dataclass(frozen=True)
class Settings:
    """One step of AdamW. Decay is decoupled and for tensors of two dimensions only; ``clip`` is the
    largest norm of the whole gradient, 0 for any."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip: float


class Trainer(Protocol):
    """What a program provides. The arrays are flat float32, as long as there are parameters."""

    def load(
        self, parameters: numpy.ndarray, first: numpy.ndarray, second: numpy.ndarray, steps: int
    ) -> None:
        """Takes up parameters, both moments of AdamW, and how many steps made them."""

    def step(self, batch: Batch, settings: Settings) -> tuple[float, float]:
        """One step. Returns the loss before it and the norm of the gradient before clipping; when one
        of them is not finite, nothing may have changed."""

    def store(self) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        """Parameters and both moments as they are now."""


class _Bridge:
    """Between the native part, which knows bytes, and a trainer, which knows arrays."""

    def __init__(self, trainer: Trainer, parameters: int) -> None:
        self._trainer = trainer
        self._parameters = parameters

    def load(self, parameters, first, second, steps: int) -> None:
        arrays = (_array(part, numpy.float32) for part in (parameters, first, second))
        self._trainer.load(*arrays, steps)

    def step(self, texts, shape, rates, holds) -> tuple[float, float]:
        kinds = (numpy.uint32, numpy.uint32, numpy.float32)
        parts = (_array(part, kind).reshape(shape) for part, kind in zip(texts, kinds))
        loss, norm = self._trainer.step(Batch(*parts), Settings(*rates, *holds))
        return float(loss), float(norm)

    def store(self) -> tuple[bytes, bytes, bytes]:
        parts = self._trainer.store()
        if len(parts) != 3:
            raise Error(f"store() gives parameters and two moments; found {len(parts)} parts")
        return tuple(self._bytes(part) for part in parts)

    def _bytes(self, part) -> bytes:
        array = numpy.asarray(part)
        if array.dtype != numpy.float32 or array.shape != (self._parameters,):
            raise Error(
                f"store() gives float32 arrays of shape ({self._parameters},); found {array.dtype} "
                f"of shape {array.shape}"
            )
        return array.tobytes()


def _array(part, kind) -> numpy.ndarray:
    return numpy.asarray(part).view(kind)


def train(make: Callable[[Task], Trainer], name: str = "outside") -> None:
    """Trains for the family that started this program, until the family stops it.

    ``make`` is called once with the task; ``name`` says in each contribution what trained, such as
    "torch 2.15" (at most 16 characters). Start it with

        suanli join TICKET --trainer python this_program.py

    The city's job must say ``engine = "any"``. A pause and a lower share of the CPU take effect after
    the step under way. The end of the family ends this process, wherever it is.
    """

    def begin(model: str, tensors: list[tuple[str, list[int], int]], threads: int) -> _Bridge:
        named = tuple(Tensor(n, "f32", tuple(shape), 4 * at) for n, shape, at in tensors)
        task = Task(json.loads(model), named, threads)
        return _Bridge(make(task), task.parameters)

    ended = _suanli.work(begin, name)
    if ended == _NO_FAMILY:
        raise Error("no family started this program; start it with: suanli join TICKET --trainer python PROGRAM")
    if ended != 0:
        raise Error("the family said something that this package does not know: are both of one version?")
