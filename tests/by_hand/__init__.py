"""Training steps a second time, by hand, on the same parameters: no modules, no class of ours.

`tests/methods/test_by_hand.py` checks that each makes the same update, and `tests/bench_steps.py`
what the rules cost over it. Where gradients are written out there is no autograd either; the rest
uses it for what nobody writes out (batch norm, convolutions).
"""

from tests.by_hand import (
    channels,
    class_scores,
    denoising,
    end_to_end,
    feedback,
    forward_forward,
    local_losses,
)
from tests.by_hand.step import TASK, Step, made, noise

STEPS: list[Step] = [
    *end_to_end.STEPS,
    *feedback.STEPS,
    *class_scores.STEPS,
    *channels.STEPS,
    *forward_forward.STEPS,
    *local_losses.STEPS,
    *denoising.STEPS,
]

__all__ = ["STEPS", "TASK", "Step", "made", "noise"]
