"""The contract test over every registered method and every architecture it declares."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from methods import METHODS
from suites import check as check_command
from suites import contract
from suites.case import Case, cases
from suites.engine.plugins import load_methods
from suites.suite import rows_of

load_methods([])
# One architecture of each kind; `python -m suites.check` runs all of them.
ARCHITECTURES = ("mlp-3x1000", "cnn-small", "layercnn-128", "resnet18")
# These take minutes: 27 million parameters, or an encoder for each of ten blocks. Others of the
# family run the same lines there, and they themselves elsewhere.
LEFT_OUT = (
    "layerwise-k3-resnet18", "noprop-layercnn-128", "noprop-backprop-layercnn-128",
    "noprop-fm-resnet18",
)  # fmt: skip
CASES = [
    case for case in cases()
    if case.architecture in ARCHITECTURES and str(case) not in LEFT_OUT
]  # fmt: skip

# Of two networks that end in maps, the slow checks take one: a rule does not learn in another way
# where maps are pooled in another way. And of the rows of one method, which are the same lines
# under other settings, they take the first there; the others on the two smaller networks.
SLOW = ("learns", "shuffled_labels", "shared_batches", "auxiliary_parameters", "locality")
FIRST = {rows[0].id for rows in (rows_of([name]) for name in METHODS)}
ON_RESNET = {case.row.id for case in CASES if case.architecture == "resnet18"}

ROOT = Path(__file__).parent.parent


def spared(case: Case) -> bool:
    """Whether the slow checks of this row are left to other networks and to its first row."""
    if case.architecture not in ("layercnn-128", "resnet18"):
        return False
    return case.row.id not in FIRST or (
        case.architecture == "layercnn-128" and case.row.id in ON_RESNET
    )


def pairs() -> Iterator[tuple[Case, str]]:
    seen: set[str] = set()
    for case in CASES:
        left_out = {*SLOW} if spared(case) else set()
        if case.row.id in seen:
            left_out.add("tuned_settings")  # which looks at other networks by itself
        seen.add(case.row.id)
        yield from ((case, check) for check in contract.CHECKS if check not in left_out)


@pytest.mark.parametrize(("case", "check"), list(pairs()), ids=str)
def test_contract(case: Case, check: str) -> None:
    contract.CHECKS[check](case)


def test_every_method_declares_an_architecture() -> None:
    """A method that refuses everything would pass the contract by being tested on nothing."""
    assert {case.row.id for case in CASES} == {r.id for r in rows_of(METHODS)}


# ------------------------------------------------- planted bugs: the contract must catch them

PLUGIN = '''
"""A third party's method: a linear classifier on each block, local."""
from dataclasses import dataclass
import torch, torch.nn.functional as F
from torch import nn
from methods import Method, Traits, register
from methods.base import adamw, trainable

@dataclass(frozen=True)
class Config:
    lr: float = 2e-3

@register
class Mine(Method):
    """Local linear classifiers."""
    name, label, version, source = "mine", "Mine", 1, "nowhere"
    traits = Traits(local_updates=True)
    Config = Config

    def __init__(self, blocks, task, config, rng):
        super().__init__(blocks, task, config, rng)
        heads = [nn.Linear(b.out_features, task.n_classes) for b in blocks]
        self.head = heads[-1]
        self.aux["heads"] = nn.ModuleList(heads[:-1])
        self.optimizer = adamw(trainable(self), config.lr, 0.0)

    @classmethod
    def refuse(cls, blocks, task, config):
        return None if blocks.kinds == {"dense"} else "only fully connected blocks"

    def train_step(self, x, y, phase, progress):
        self.optimizer.zero_grad()
        total = 0.0
        for i, block in enumerate(self.blocks):
            h = block(x)
            head = self.head if i == len(self.blocks) - 1 else self.aux["heads"][i]
            total = total + F.cross_entropy(head(h), y)
            x = h.detach()  # DETACH
        total.backward()
        self.optimizer.step()
        # AFTER
        return {"loss": total.detach()}

    def logits(self, x, readout="last", rng=None):
        return self.head(self.blocks(x))  # PREDICT

    def features(self, x):
        out = []
        for block in self.blocks:
            x = block(x)
            out.append(x)
        return out
'''

PLANTED = {
    "missing detach": ("x = h.detach()  # DETACH", "x = h", "locality"),
    "missing detach behind heads that start at zero, with an excuse": (
        "x = h.detach()  # DETACH",
        "x = h",
        "locality",
    ),
    "a block that never moves": (
        "self.optimizer = adamw(trainable(self), config.lr, 0.0)",
        "self.optimizer = adamw(trainable(*list(blocks)[1:], self.head, self.aux), config.lr, 0.0)",
        "every_unit_is_trained",
    ),
    "label leak through the last batch": (
        "# AFTER",
        "self.seen = (x.detach(), F.one_hot(y, self.task.n_classes) * 9.0)",
        "no_label_at_prediction",
    ),
    "label in the signature": (
        'def logits(self, x, readout="last", rng=None):',
        'def logits(self, x, readout="last", rng=None, y=None):',
        "no_label_at_prediction",
    ),
    "batch statistics at prediction": (
        "return self.head(self.blocks(x))  # PREDICT",
        "h = self.blocks(x); return self.head(h - h.mean(0))",
        "prediction_ignores_batch_mates",
    ),
    "writes into the batch": ("self.optimizer.zero_grad()", "x.zero_(); self.optimizer.zero_grad()",
                              "train_step"),
    "global noise": ("total.backward()", "(total * torch.rand(())).backward()",
                     "same_seed_same_bits"),
    "unsaved state": ("# AFTER", "self.n = getattr(self, 'n', 0) + 1; "
                      "[p.data.mul_(1 - 1e-3 * self.n) for p in self.head.parameters()]", "resume"),
    "a step that asks the device for its loss": (
        "# AFTER", "self.worst = max(getattr(self, 'worst', 0.0), total.item())", "no_waiting",
    ),
    "a mask as an index": (
        "# AFTER", "_ = x.flatten(1)[y == 0]", "no_waiting",
    ),
    "another way to predict that gives something else": (
        "    def features",
        "    def other_ways(self, readout):\n"
        "        return {'negated': lambda x: -self.logits(x)}\n\n"
        "    def features",
        "other_ways",
    ),
    "a penalty on the statistics of a process's own rows": (
        "total.backward()",
        "(total + 1e-5 * (progress > 0.4) * h.mean(0).square().sum()).backward()",
        "shared_batches",
    ),
    "the same heads for every seed": (
        "heads = [", "torch.manual_seed(0); heads = [", "initial_weights",
    ),
    "a tuned rate that nothing reads": (
        "    Config = Config\n",
        "    Config = Config\n    space = {'lr': LogUniform(1e-4, 1e-2)}\n",
        "tuned_settings",
    ),
    "objective with the wrong sign": ("total.backward()", "(-total).backward()", "learns"),
}  # fmt: skip


NETWORKS = ("--architectures", "mlp-2x500", "cnn-small")


def test_a_good_plugin_keeps_the_contract(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    done = subprocess.run(
        [sys.executable, "-m", "suites.check", "--plugin", str(tmp_path / "mine.py"), *NETWORKS],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok   mine on mlp-2x500" in done.stdout
    assert "only fully connected blocks" in done.stdout


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_caught(
    bug: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The contract test must be able to fail, by the check that is meant to see the bug."""
    right, wrong, check = PLANTED[bug]
    assert right in PLUGIN
    text = PLUGIN.replace(right, wrong)
    if bug == "label leak through the last batch":
        text = text.replace(
            "return self.head(self.blocks(x))  # PREDICT",
            "s = getattr(self, 'seen', None); out = self.head(self.blocks(x)); "
            "return out + s[1] if s is not None and len(s[1]) == len(x) else out",
        )
    if "rate" in bug:
        text = text.replace("config.lr, 0.0)", "1e-3, 0.0)").replace(
            "from torch import nn\n", "from torch import nn\nfrom methods.space import LogUniform\n"
        )
    if "excuse" in bug:
        text = text.replace("local_updates=True", "local_updates=True, feedback='a schedule'")
        zero = "\n        [nn.init.zeros_(p) for h in heads for p in h.parameters()]"
        text = text.replace("self.head = heads[-1]", "self.head = heads[-1]" + zero)
    (tmp_path / "mine.py").write_text(text)
    try:
        status = check_command.main(["--plugin", str(tmp_path / "mine.py"), *NETWORKS])
    finally:
        METHODS.pop("mine", None)
    out = capsys.readouterr().out
    assert status == 1, out
    lines = [line for line in out.splitlines() if line.startswith(" " * 9)]
    assert any(check in line.partition(": ")[0] for line in lines), out
