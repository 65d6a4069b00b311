"""Several processes that train one cell together, each on its rows of every mini-batch.

All of them hold the same weights, optimizers and generators, and make the same steps: gradients are
averaged when an optimizer is about to use them, statistics and noise are those of the whole batch
(methods/batch.py). So the result is that of one process on the same batch, up to rounding.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from methods import Method, batch
from methods.base import stateful


def share(method: Method) -> Method:
    """The same method, changed in place to train in all processes of the group together."""
    for _, part in stateful(vars(method)):
        if isinstance(part, Optimizer):
            part.register_step_pre_hook(_average)
    for module in method.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.forward = functools.partial(_batch_norm, module)  # type: ignore[method-assign]
    return method


class Lost(Exception):
    """Another process of the group is gone."""


def is_lost(error: Exception) -> bool:
    """Whether an error says that another process does not answer any more."""
    if batch.ranks() == 1:
        return False
    # gloo's are plain RuntimeErrors that name a file of it
    by_gloo = isinstance(error, RuntimeError) and "/gloo/" in str(error)
    return by_gloo or isinstance(error, dist.DistError)


def hand_out(state: dict[str, Any], device: torch.device) -> None:
    """In rank 0: gives the other processes its state, which they ask for by `received`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8).to(device)
    dist.broadcast(torch.tensor([len(content)], device=device), src=0)
    dist.broadcast(content, src=0)


def received(device: torch.device) -> dict[str, Any]:
    """The state that rank 0 hands out, in all the others; its tensors are in main memory."""
    length = torch.zeros(1, dtype=torch.int64, device=device)
    dist.broadcast(length, src=0)
    content = torch.empty(int(length), dtype=torch.uint8, device=device)
    dist.broadcast(content, src=0)
    buffer = io.BytesIO(content.cpu().numpy().tobytes())
    state: dict[str, Any] = torch.load(buffer, map_location="cpu", weights_only=True)
    return state


GO_ON, STOP = 0.0, 1.0


def tell(what: float, device: torch.device) -> None:
    """In rank 0: tells the other processes, which ask by `told`."""
    dist.broadcast(torch.tensor([what], device=device), src=0)


def told(device: torch.device) -> float:
    """What rank 0 tells, in all the others."""
    word = torch.zeros(1, device=device)
    dist.broadcast(word, src=0)
    return float(word)


@torch.no_grad()
def _average(optimizer: Optimizer, *_: Any) -> None:
    """Averages the gradients that an optimizer is about to use, in one exchange."""
    gradients = [
        p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    if batch.ranks() == 1 or not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    batch.add(flat)
    flat /= batch.ranks()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """What the module does, with the statistics of the whole batch."""
    if not norm.training or batch.ranks() == 1:
        return type(norm).forward(norm, x)
    mean, variance, n = batch.mean_and_variance(x)
    running_mean, running_var, seen = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if running_mean is not None and running_var is not None and seen is not None:
        with torch.no_grad():
            seen += 1
            share = 1 / seen if norm.momentum is None else norm.momentum
            running_mean.lerp_(mean, share)
            running_var.lerp_(variance * (n / (n - 1)), share)
    shape = (1, -1, *[1] * (x.dim() - 2))
    out = (x - mean.view(shape)) * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.affine:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    return out.to(x.dtype)
