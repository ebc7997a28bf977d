"""PyTorch modules that train for a city: ``suanli.torch.Trainer``.

    import suanli, suanli.torch, transformers

    def make(task):
        config = transformers.LlamaConfig(**task.transformers())
        return suanli.torch.Trainer(task, transformers.LlamaForCausalLM(config))

    suanli.train(make, name=suanli.torch.NAME)
"""

from __future__ import annotations

import numpy
import torch

from ._errors import Error
from ._train import Batch, Settings, Task

#: What a contribution says about who trained.
NAME = f"torch {'.'.join(torch.__version__.split('.')[:2])}"


class Trainer:
    """AdamW on a module whose parameters are named as in a Hugging Face checkpoint.

    ``module`` is called with token ids of ``[sequences, length]`` and gives logits, or something with
    ``.logits``. Its parameters are float32; ``device`` is where it computes.
    """

    def __init__(self, task: Task, module: torch.nn.Module, device: str = "cpu") -> None:
        if device == "cpu":
            torch.set_num_threads(max(1, task.threads))
        self._device = torch.device(device)
        self._module = module.to(self._device).train()
        self._parts = [
            (tensor.offset // 4, parameter)
            for tensor, parameter in zip(task.tensors, _parameters(task, module))
        ]
        self._parameters = task.parameters
        groups = [
            {"params": [p for _, p in self._parts if p.dim() == 2]},
            {"params": [p for _, p in self._parts if p.dim() != 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0)

    def load(self, parameters, first, second, steps: int) -> None:
        whole = [torch.from_numpy(part) for part in (parameters, first, second)]
        for at, own in self._parts:
            now, m, v = (part[at : at + own.numel()].view(own.shape) for part in whole)
            with torch.no_grad():
                own.copy_(now)
            self._optimizer.state[own] = {
                "step": torch.tensor(float(steps)),
                "exp_avg": m.to(self._device, copy=True),
                "exp_avg_sq": v.to(self._device, copy=True),
            }

    def step(self, batch: Batch, settings: Settings) -> tuple[float, float]:
        inputs, targets = (
            torch.from_numpy(part.astype(numpy.int64)).to(self._device)
            for part in (batch.inputs, batch.targets)
        )
        weights = torch.from_numpy(batch.weights).to(self._device)
        self._optimizer.zero_grad(set_to_none=True)
        logits = self._module(inputs)
        logits = getattr(logits, "logits", logits)
        nats = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), reduction="none"
        )
        weights = weights.flatten()
        loss = (nats * weights).sum() / weights.sum()
        loss.backward()
        own = [parameter for _, parameter in self._parts]
        clip = settings.clip if settings.clip > 0 else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(own, clip)
        found = (float(loss.detach()), float(norm))
        if all(numpy.isfinite(found)):
            self._advance(settings)
        return found

    def _advance(self, settings: Settings) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = settings.lr
            group["betas"] = (settings.beta1, settings.beta2)
            group["eps"] = settings.eps
            decays = group["params"][0].dim() == 2
            group["weight_decay"] = settings.weight_decay if decays else 0.0
        self._optimizer.step()

    def store(self) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        whole = tuple(numpy.empty(self._parameters, numpy.float32) for _ in range(3))
        for at, own in self._parts:
            state = self._optimizer.state[own]
            for into, part in zip(whole, (own.detach(), state["exp_avg"], state["exp_avg_sq"])):
                into[at : at + own.numel()] = part.cpu().numpy().reshape(-1)
        return whole


def _parameters(task: Task, module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The module's parameter for each tensor of the task."""
    own = dict(module.named_parameters())
    found = []
    for tensor in task.tensors:
        parameter = own.pop(tensor.name, None)
        if parameter is None:
            raise Error(f"the module has no parameter {tensor.name}, which the job trains")
        if tuple(parameter.shape) != tensor.shape or parameter.dtype != torch.float32:
            raise Error(
                f"{tensor.name}: expected float32 of shape {tensor.shape}, found {parameter.dtype} "
                f"of shape {tuple(parameter.shape)}"
            )
        found.append(parameter)
    if own:
        raise Error(f"the module has parameters that the job does not train: {', '.join(sorted(own)[:4])}")
    return found
