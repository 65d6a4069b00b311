"""Blocks of convolutional networks on bare functions; autograd knows most of their gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.by_hand.step import keep


def pooled(block: Any, x: Tensor) -> Tensor:
    """The largest of each square of four, where the block begins with that."""
    if block.pool == 1:
        return x
    if x.requires_grad:
        return F.max_pool2d(x, 2)
    # the same on a CPU, many times faster: nobody asks where the largest was
    rows = torch.maximum(x[..., ::2, :], x[..., 1::2, :])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def product(block: Any, x: Tensor) -> Tensor:
    w, b = block.weights.weight, block.weights.bias
    return F.conv2d(x, w, b, padding=1) if w.dim() == 4 else F.linear(x.flatten(1), w, b)


def normed(block: Any, x: Tensor) -> Tensor:
    """What the block's ReLU gets, from its pooled input, behind batch norm."""
    norm = block.norm
    norm.num_batches_tracked += 1
    return F.batch_norm(product(block, x), norm.running_mean, norm.running_var, norm.weight,
                        norm.bias, training=True)  # fmt: skip


def convolution_gradients(x: Tensor, g: Tensor, w: Tensor, bias: bool) -> list[Tensor]:
    """Those of the kernel w and, if wanted, its bias, from that of the output; no autograd."""
    one, no = [1, 1], [0, 0]
    return torch.ops.aten.convolution_backward(
        g, x, w, [len(w)], one, one, one, False, no, 1, [False, True, bias]
    )[1:]


def keep_product(block: Any, x: Tensor, g: Tensor) -> None:
    """Gradients of a block's weights from that of its pre-activation."""
    w, b = block.weights.weight, block.weights.bias
    if w.dim() == 4:
        to_w, to_b = convolution_gradients(x, g, w, bias=True)
    else:
        to_w, to_b = g.T @ x.flatten(1), g.sum(0)
    keep(w, to_w)
    keep(b, to_b)


def length(x: Tensor) -> Tensor:
    """Of each sample, in the shape that divides it."""
    norms = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms.view(-1, *[1] * (x.dim() - 1))
