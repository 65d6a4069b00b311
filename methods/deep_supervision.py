"""Deep supervision (arXiv 1409.5185): a classifier on every block, one gradient through everything.

    h_l = block_l(h_{l-1}),   G_l = M_l v(h_l),   minimise  Σ_l CE(G_l, y)  over all weights at once

v flattens (feature maps are average-pooled first). With a stop-gradient on every h_{l-1} this is
Mono-Forward, classifiers and all; so it is the control that tells a local rule's losses from its
locality.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Generator, Tensor

from methods.base import Method, Task, Traits, adamw, cosine, set_lr, trainable
from methods.blocks import Blocks, PooledLinear
from methods.registry import register
from methods.space import LogUniform, Uniform


@dataclass(frozen=True)
class DeepSupervisionConfig:
    """Defaults are those of our Mono-Forward, so that the two differ in the detach alone."""

    lr: float = 1e-3
    weight_decay: float = 0.0
    head_features: int = 2048  # feature maps are pooled to at most this many values before M_l


@register
class DeepSupervision(Method):
    """Linear classifiers on all blocks, the sum of their cross-entropies, back-propagated.

    Differs: softmax and cross-entropy at every classifier, where the paper uses squared hinge
        losses.
    Differs: Adam with a cosine schedule, average-pooled maps ahead of the classifiers, and the
        architecture's batch norm, as in `mono-forward`, of which it is the control.
    Differs: all losses count alike and to the end, where the paper switches the hidden ones off
        below a threshold or lets their weight fall.
    """

    name = "deep-supervision"
    label = "Deep supervision (end to end)"
    version = 2
    source = "arXiv 1409.5185"
    traits = Traits(local_updates=False, readouts=("last", "sum"))
    Config = DeepSupervisionConfig
    space: ClassVar = {
        "lr": LogUniform(1e-4, 1e-2),
        "weight_decay": Uniform(0.0, 0.1),  # of AdamW: below 1e-3 it is next to nothing
    }

    def __init__(
        self, blocks: Blocks, task: Task, config: DeepSupervisionConfig, rng: Generator
    ) -> None:
        super().__init__(blocks, task, config, rng)
        heads = [PooledLinear(block, task.n_classes, config.head_features) for block in blocks]
        self.head = heads[-1]
        # only the readout `sum` needs the others
        self.aux.update({f"head_{l}": head for l, head in enumerate(heads[:-1])})
        self.optimizer = adamw(trainable(self), config.lr, config.weight_decay)

    def _scores(self, x: Tensor) -> list[Tensor]:
        """Class scores of every block, each (B, n_classes)."""
        scores = []
        for block, head in zip(self.blocks, [*self.aux.values(), self.head], strict=True):
            x = block(x)
            scores.append(head(x))
        return scores

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        set_lr(self.optimizer, self.config.lr, cosine(progress))
        losses = [F.cross_entropy(scores, y) for scores in self._scores(x)]
        total = sum(losses[1:], start=losses[0])
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return {"loss": total.detach() / len(losses)}

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        if readout == "last":
            return self.head(self.blocks(x))
        scores = self._scores(x)
        return sum(scores[1:], start=scores[0])
