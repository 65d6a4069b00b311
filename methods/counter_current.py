"""Counter-Current Learning (Kao & Hariharan 2024, arXiv 2409.19841): two networks that meet.

    forward    h_l = block_l(sg[h_{l-1}]),            h_0 = x
    feedback   g_l = up(ELU(V_l sg[g_{l+1}])),        g_{L+1} = onehot(class)
    S_ij       = ⟨ĥ_l(x_i), ĝ_l(j)⟩                   ^: divided by its norm; i runs over a batch
    L_l        = mean of ( S_ij − T_ij )²,  j: labels of the batch, T = identity   (paper)
                                            j: classes, T = onehot(y)              (released code)
    output     CE(W sg[h_L], y)

sg is stop-gradient. L_l trains block l and the feedback layer V_l, which has the shapes of block
l+1 reversed: so news of the label comes down as fast as the image goes up. Feedback activities
depend on the class alone, so they are computed once for each class. Prediction needs no feedback.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods import batch
from methods.base import Method, Task, Traits, adamw, cosine, set_lr, trainable
from methods.blocks import Block, Blocks
from methods.registry import register
from methods.space import LogUniform, Uniform


@dataclass(frozen=True)
class CounterCurrentConfig:
    """The paper's setting where it carries over; its optimizer does not (see below)."""

    # "class": the released code's, for classification. "identity" (the paper's words): of the many
    # columns of a sample's own class one has target 1, and that leaves little to learn from
    target: Literal["identity", "class"] = "class"
    lr: float = 1e-3  # Adam; ours
    weight_decay: float = 0.0  # released code: 0 for MLPs, 1e-6 for convolutional nets


class FeedbackLayer(nn.Module):
    """g_l from g_{l+1}: a block's shapes in reverse, linear map, ELU, nearest-neighbour upsampling.

    Args:
        size: shape of g_{l+1}. block: block l, whose output g_l is to meet.
        above: block l+1; None for the output layer.
    """

    def __init__(self, size: tuple[int, ...], block: Block, above: Block | None) -> None:
        super().__init__()
        self.out_shape = self.small = block.out_shape
        self.weights: nn.Module
        if len(size) == 3:
            self.small = (block.out_shape[0], *size[1:])
            self.weights = nn.Conv2d(size[0], block.out_shape[0], kernel_size=3, padding=1)
            return
        if len(block.out_shape) == 3 and above is not None:
            channels, height, width = block.out_shape
            self.small = (channels, height // above.pool, width // above.pool)
        self.weights = nn.Linear(size[0], math.prod(self.small))

    def forward(self, g: Tensor) -> Tensor:
        """(C, *out_shape) from (C, *size)."""
        g = F.elu(self.weights(g)).view(-1, *self.small)
        if self.small == self.out_shape:
            return g
        return F.interpolate(g, size=self.out_shape[1:], mode="nearest")


def alignment_loss(h: Tensor, g: Tensor, y: Tensor, target: str) -> Tensor:
    """Mean squared distance of the batch's similarity matrix from its target.

    Args:
        h: forward activities, (B, ...). g: feedback activities of each class, (C, ...).
        y: class indices, (B,). target: "identity" or "class".
    """
    cosines = F.normalize(h.flatten(1), dim=1) @ F.normalize(g.flatten(1), dim=1).T
    if target == "class":
        return F.mse_loss(cosines, F.one_hot(y, len(g)).to(h.dtype))
    everyone = torch.arange(batch.ranks() * len(y), device=h.device)
    same = batch.own(everyone)[:, None] == everyone
    return F.mse_loss(cosines[:, batch.whole(y)], same.to(h.dtype))


@register
class CounterCurrent(Method):
    """A forward and a feedback network, pairs of layers aligned, no gradient between layers.

    Differs: Adam with a cosine schedule, where the released code has SGD at rate 1 and the gradient
        of each network clipped by its norm, which would couple the layers.
    Differs: ReLU in the forward network, as in all methods here, where the released code has ELU.
    Differs: activities are normalised and layers have biases, where the released MLP has neither.
    Differs: no pair at the image itself (it would train a feedback layer that nothing reads), and
        no terms on the similarities within one network, as the released code has for convolutions.
    Differs: pairs are compared with targets by class, as the released code does for classification;
        the paper says an identity over the samples of a batch.
    Differs: pairs meet ahead of the pooling, and feedback is upsampled behind its ELU; the released
        code pairs pooled maps, and upsamples ahead of the convolution.
    Differs: no filter for samples that are classified already, no centred gradients and no warm-up,
        which the released convolutional recipe has; batch norm in the forward network, as the
        architecture has it, and none in the feedback network.
    Differs: residual units meet a feedback layer of one convolution; the paper has none.
    """

    name = "ccl"
    label = "Counter-Current"
    version = 2
    source = "arXiv 2409.19841"
    traits = Traits(
        local_updates=True, feedback="a second network, trained along, that brings labels down"
    )
    Config = CounterCurrentConfig
    space: ClassVar = {
        "lr": LogUniform(1e-4, 1e-2),
        "weight_decay": Uniform(0.0, 0.1),  # released: 1e-6 of SGD at rate 1, as 1e-3 here
    }

    def __init__(
        self, blocks: Blocks, task: Task, config: CounterCurrentConfig, rng: Generator
    ) -> None:
        super().__init__(blocks, task, config, rng)
        self.output = nn.Linear(blocks[-1].out_features, task.n_classes)
        sources = [*(block.out_shape for block in list(blocks)[1:]), (task.n_classes,)]
        above = [*list(blocks)[1:], None]
        self.feedback = [
            FeedbackLayer(size, block, upper)
            for size, block, upper in zip(sources, blocks, above, strict=True)
        ]
        self.aux["feedback"] = nn.ModuleList(self.feedback)
        self.optimizer = adamw(trainable(self), config.lr, config.weight_decay)

    def _feedback(self) -> list[Tensor]:
        """g_1 … g_L of each class; no gradient leads from one to the next."""
        g = torch.eye(self.task.n_classes, device=self.output.weight.device)
        found = []
        for layer in reversed(self.feedback):
            found.append(layer(g.detach()))
            g = found[-1]
        return found[::-1]

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        set_lr(self.optimizer, self.config.lr, cosine(progress))
        self.optimizer.zero_grad()
        local = x.new_zeros(())
        for block, g in zip(self.blocks, self._feedback(), strict=True):
            h = block(x)
            loss = alignment_loss(h, g, y, self.config.target)
            loss.backward()  # frees this pair's graph before the next one is built
            local += loss.detach()
            x = h.detach()
        out = F.cross_entropy(self.output(x.flatten(1)), y)
        out.backward()
        self.optimizer.step()
        return {"loss": out.detach(), "local_loss": local / len(self.blocks)}

    def units(self) -> list[nn.Module]:
        pairs = zip(self.blocks, self.feedback, strict=True)
        return [*(nn.ModuleList(pair) for pair in pairs), self.output]

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        return self.output(self.blocks(x).flatten(1))
