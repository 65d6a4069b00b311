"""Peaks of memory: those of the work at hand, not of what was done before it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import torch
from suites.engine.memory import PeakMemory

def work(megabytes):
    peak = PeakMemory(torch.device("cpu"))
    for _ in range(10):
        torch.ones(megabytes * 2**18)
    print(peak.read()["peak_rss_growth_bytes"] / 2**20)

work(256), work(64), work(256)
peak = PeakMemory(torch.device("cpu"))
held = torch.ones(32 * 2**18)
torch.ones(256 * 2**18)
peak.begin_again()
torch.ones(64 * 2**18)
print(peak.read()["peak_rss_growth_bytes"] / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of memory")
def test_a_peak_is_that_of_the_work_at_hand() -> None:
    """In a process of its own: what other tests left in this one would count as well."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    large, small, again, rest = (float(line) for line in done.stdout.split())
    assert 95 < rest < 140  # what is held, and what came after
    assert 250 < large < 300 and 60 < small < 110 and 250 < again < 300
