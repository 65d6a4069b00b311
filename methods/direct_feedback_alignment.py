"""Direct feedback alignment (arXiv 1609.01596): the output error is sent straight to every block.

    e = softmax(V h_L) − onehot(y)
    δ_l = (B_l e) ⊙ φ'(z_l),   ∂W_l = δ_l h_{l-1}ᵀ   for every block l
    ∂V = e h_Lᵀ

B_l is random and never changes; it leads from the C classes to all values of h_l, so that B_l e has
the shape of the feature maps where there are any. ∂W_l is the gradient of ⟨B_l e, h_l(W_l)⟩ with e
and h_{l-1} held constant: that is how it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, adamw, cosine, set_lr, trainable
from methods.blocks import Blocks
from methods.registry import register
from methods.space import LogUniform, Uniform


@dataclass(frozen=True)
class DirectFeedbackAlignmentConfig:
    """Defaults are those of our backprop, so that the two differ in the way back alone.

    Adam, because a comparison under SGD misleads: SGD costs DFA up to 17 points of CIFAR-10,
    and stays within 2 points of Adam for backprop (arXiv 2108.13446, released benchmarks).
    """

    lr: float = 1e-3
    weight_decay: float = 1e-4


@register
class DirectFeedbackAlignment(Method):
    """Every block is trained by the output error, which reaches it through a random matrix.

    Differs: one matrix a block, to the block's output: batch norm is differentiated through, and a
        residual unit of two convolutions passes δ on inside itself by its own weights.
    Differs: B_l has the scale that the framework gives a classifier on h_l, uniform between
        ±1/√(size of h_l).
    Differs: W_l start as the framework draws them, where the paper starts from zero.
    Differs: ReLU in place of tanh; Adam and a cosine schedule.
    """

    name = "dfa"
    label = "Direct feedback alignment"
    version = 1
    source = "arXiv 1609.01596"
    traits = Traits(local_updates=True, feedback="the output error, through fixed random matrices")
    Config = DirectFeedbackAlignmentConfig
    # backprop's, so that the way back is still all that differs
    space: ClassVar = {"lr": LogUniform(1e-4, 1e-2), "weight_decay": Uniform(0.0, 0.1)}

    def __init__(
        self, blocks: Blocks, task: Task, config: DirectFeedbackAlignmentConfig, rng: Generator
    ) -> None:
        super().__init__(blocks, task, config, rng)
        self.classifier = nn.Linear(blocks[-1].out_features, task.n_classes)
        # B_lᵀ, (C, size of h_l); fixed, but counted as what training needs
        drawn = [nn.Linear(b.out_features, task.n_classes, bias=False).weight for b in blocks]
        self.aux["feedback"] = nn.ParameterList(w.requires_grad_(False) for w in drawn)
        self.optimizer = adamw(trainable(self), config.lr, config.weight_decay)

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        set_lr(self.optimizer, self.config.lr, cosine(progress))
        outputs = []
        for block in self.blocks:
            h = block(x)
            outputs.append(h)
            x = h.detach()
        logits = self.classifier(x.flatten(1))
        error = (logits.detach().softmax(1) - F.one_hot(y, logits.shape[1])) / len(y)
        back = cast(nn.ParameterList, self.aux["feedback"])
        sent = [(error @ b).view_as(h) for b, h in zip(back, outputs, strict=True)]
        self.optimizer.zero_grad()
        torch.autograd.backward([*outputs, logits], [*sent, error])
        self.optimizer.step()
        return {"loss": F.cross_entropy(logits.detach(), y)}

    def units(self) -> list[nn.Module]:
        return [*self.blocks, self.classifier]

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        return self.classifier(self.blocks(x).flatten(1))
