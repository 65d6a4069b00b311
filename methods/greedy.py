"""Local error signals (Nøkland & Eidnes 2019, arXiv 1901.06656): `pred`, `sim`, `predsim`.

    h_l     = block_l(drop(sg[h_{l-1}]))
    L_pred  = CE(V_l v(pool(h_l)), y)
    L_sim   = mean over pairs of ( S(A_l(h_l)) − S(onehot(y)) )²
    L_l     = L_pred  |  L_sim  |  (1 − β) L_pred + β L_sim,   β = 0.99
    output: CE(W sg[h_L], y)

S(z) holds the correlations between the samples of a batch; A_l is a 3x3 convolution (feature maps)
or a linear map, used in training only, as V_l is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods import batch
from methods.base import Method, Task, Traits, adamw, set_lr, steps_down, trainable
from methods.blocks import Block, Blocks, BlockStyle, PooledLinear, dropout
from methods.registry import register
from methods.space import LogUniform, Uniform


@dataclass(frozen=True)
class GreedyConfig:
    """Defaults are values of the released commands (run_experiments.sh), not all of one of them."""

    loss: Literal["pred", "sim", "predsim"] = "predsim"
    beta: float = 0.99  # weight of the similarity loss in `predsim`
    lr: float = 5e-4  # Adam; 3e-4 for wider networks and SVHN
    milestones: tuple[float, ...] = (0.5, 0.75, 0.89, 0.94)  # shares of the budget; times 0.25
    dropout: float = 0.1  # MNIST MLP 0.1; VGG8B 0.2
    decoder_features: int = 2048  # feature maps are pooled to at most this many values before V_l


def similarity(z: Tensor) -> Tensor:
    """Correlation of samples with all samples of the batch, (B, B), in [−1, 1].

    Feature maps with more than 3 channels are first reduced to the standard deviation of each
    channel over space.

    Args:
        z: (B, D) or (B, C, H, W).
    Source: released code of arXiv 1901.06656.
    """
    if z.dim() == 4:
        z = _spread(z.flatten(2)) if z.shape[1] > 3 and z.shape[2] > 1 else z.flatten(1)
    z = z - z.mean(dim=1, keepdim=True)
    z = z / (z.norm(dim=1, keepdim=True) + 1e-8)
    return (z @ batch.whole(z).T).clamp(-1.0, 1.0)


def _spread(maps: Tensor) -> Tensor:
    """Standard deviation over positions, (B, C), of (B, C, P), six times as fast as torch.std."""
    # detached, for no gradient comes through the mean: deviations from it add up to zero
    centred = maps - maps.detach().mean(dim=2, keepdim=True)
    return torch.linalg.vector_norm(centred, dim=2) / math.sqrt(maps.shape[2] - 1)


@register
class Greedy(Method):
    """Blocks with local classifiers and similarity losses, all updated on every mini-batch.

    Differs: one optimizer step after the pass over all blocks, where the released code steps each
        block during the pass; every block still sees the output of the block before it as it was
        before this step.
    Differs: on residual networks a unit, two convolutions, has one local loss, and keeps its ReLU;
        the released network has a loss for each convolution, and averages maps ahead of its output.
    Differs: pooling ahead of a local loss averages what its windows cover; where they do not divide
        the map, the released code pads it with zeros that count.
    Differs: on data with many classes the released code limits each mini-batch to 20 classes for
        `sim` and `predsim` during the first half of training; ours does not.
    """

    name = "greedy"
    label = "Greedy local"
    version = 3
    source = "arXiv 1901.06656"
    traits = Traits(local_updates=True)
    Config = GreedyConfig
    space: ClassVar = {
        "lr": LogUniform(5e-5, 5e-3),
        "dropout": Uniform(0.0, 0.3),  # released, by data and network: 0.025 to 0.3
    }
    variants: ClassVar = {
        "pred": {"loss": "pred"},
        "sim": {"loss": "sim"},
        "predsim": {"loss": "predsim"},
    }

    def __init__(self, blocks: Blocks, task: Task, config: GreedyConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        for l, block in enumerate(blocks):
            if "pred" in config.loss:
                self.aux[f"decoder_{l}"] = self._decoder(block)
            if "sim" in config.loss:
                self.aux[f"similarity_{l}"] = self._similarity_map(block)
        self.output = nn.Linear(blocks[-1].out_features, task.n_classes)
        nn.init.zeros_(self.output.weight)  # as in the released code
        self.optimizer = adamw(trainable(self), config.lr, weight_decay=0.0)

    def _decoder(self, block: Block) -> PooledLinear:
        decoder = PooledLinear(block, self.task.n_classes, self.config.decoder_features)
        nn.init.zeros_(decoder.linear.weight)  # as in the released code
        return decoder

    def _similarity_map(self, block: Block) -> nn.Module:
        if len(block.out_shape) == 3:
            channels = block.out_shape[0]
            return nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        return nn.Linear(block.out_features, block.out_features, bias=False)

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        # batch norm in every block; leaky ReLU wherever the similarity loss is used
        leaky = "sim" in config.loss
        return BlockStyle(norm="batch", activation="leaky_relu" if leaky else "relu")

    def _local_loss(self, h: Tensor, y: Tensor, target: Tensor, l: int) -> Tensor:
        beta = {"pred": 0.0, "sim": 1.0, "predsim": self.config.beta}[self.config.loss]
        loss = h.new_zeros(())
        if beta < 1:
            loss = loss + (1 - beta) * F.cross_entropy(self.aux[f"decoder_{l}"](h), y)
        if beta > 0:
            similar = similarity(self.aux[f"similarity_{l}"](h))
            loss = loss + beta * F.mse_loss(similar, target)
        return loss

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        config = self.config
        set_lr(self.optimizer, config.lr, steps_down(progress, config.milestones, 0.25))
        self.optimizer.zero_grad()
        target = similarity(F.one_hot(y, self.task.n_classes).to(x.dtype))
        local = x.new_zeros(())
        for l, block in enumerate(self.blocks):
            h = block(x)
            loss = self._local_loss(h, y, target, l)
            loss.backward()  # frees this block's graph before the next one is built
            local += loss.detach()
            # the local loss has read h without dropout; only the next block sees the noise
            x = dropout(h.detach(), config.dropout, self.rng, per_channel=h.dim() == 4)
        out = F.cross_entropy(self.output(x.flatten(1)), y)
        out.backward()
        self.optimizer.step()
        return {"loss": out.detach(), "local_loss": local / len(self.blocks)}

    def units(self) -> list[nn.Module]:
        return [*self.blocks, self.output]

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        return self.output(self.blocks(x).flatten(1))
