"""A method on a small problem, made and trained anew as often as a measurement wants."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from methods import Method
from suites.engine.passes import count_passes

STEPS = 60  # the budget that a subject's schedule believes in


def step(method: Method, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
    """One training step on standardised images, as the engine makes it."""
    with torch.no_grad():
        x = method.frozen(x, phase)
    return method.train_step(x, y, phase, progress)


@dataclass(frozen=True)
class Subject:
    """What is examined.

    Attributes:
        make: a newly initialised method in training mode, the same at every call.
        batch: i -> standardised images and labels of mini-batch i.
    """

    make: Callable[[], Method]
    batch: Callable[[int], tuple[Tensor, Tensor]]

    def phases(self) -> range:
        """Indices of the phases."""
        return range(len(self.make().phases(STEPS)))

    def place(self, method: Method, phase: int, i: int) -> int:
        """Number of the mini-batch of step i of a phase."""
        return sum(n for _, n in method.phases(STEPS)[:phase]) + i

    def step(self, method: Method, phase: int, i: int) -> dict[str, Tensor]:
        """Step i of a phase."""
        at = self.place(method, phase, i)
        name = method.phases(STEPS)[phase][0]
        return step(method, *self.batch(at), name, min(at, STEPS - 1) / STEPS)

    def course(self, method: Method, phase: int, trained: int, follow: int) -> list[int]:
        """Steps of a phase worth a look: `follow` from `trained` on, its middle and its last.

        A rule may change its ways with its progress.
        """
        n = method.phases(STEPS)[phase][1]
        wanted = {*range(trained, trained + follow), n // 2, n // 2 + 1, n - 1}
        return sorted(i for i in wanted if trained <= i < n) or [trained]

    def rehearse(self, phase: int, trained: int) -> Method:
        """A method that has made `trained` steps in this phase and in each before it."""
        method = self.make()
        for p in range(phase + 1):
            for i in range(trained):
                self.step(method, p, i)
        return method

    def twin(self, method: Method) -> Method:
        """A method made anew that gets all of another's state, and nothing else of it."""
        other = self.make()
        state = method.state_dict()
        # tensors are copied by loading; what else is in it, such as optimizers', would be shared
        state |= {k: copy.deepcopy(v) for k, v in state.items() if not isinstance(v, Tensor)}
        other.load_state_dict(state)
        return other

    def remembering(self, trained: int) -> list[str]:
        """Readouts whose prediction of the last training batch needs more than the state.

        `logits` takes no label, but a step may leave labels behind. All that it may leave is in the
        state, so a method restored from that must predict the same.
        """
        last = self.phases()[-1]
        method = self.rehearse(last, trained)
        x, _ = self.batch(self.place(method, last, trained - 1))
        both = (method, self.twin(method))
        found = []
        for readout in method.traits.readouts:
            with torch.no_grad():
                one, two = (m.eval().logits(x, readout, Generator().manual_seed(1)) for m in both)
            if not torch.equal(one, two):
                found.append(readout)
        return found

    @torch.no_grad()
    def passes(self, readout: str) -> float:
        """Passes through the stack, or copies of it, that one prediction takes."""
        method = self.make().eval()
        x, _ = self.batch(0)
        with count_passes(method) as counted:
            method.logits(x, readout, Generator().manual_seed(0))
        return counted() / len(x)
