"""What a machine can do at best: the rate of a large matrix product and of a large convolution."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from suites.costs.timing import Work

MATRIX = {"cpu": 1024, "cuda": 8192}  # rows and columns
IMAGES = {"cpu": 16, "cuda": 256}
CHANNELS, SIDE = 256, 16


def share_of_cores(work: Work, least_s: float = 0.2) -> float:
    """Percent of its threads' time that this process was really given while it did the work.

    Near 100 on a machine that does nothing else, however fast or slow that machine is.
    """
    wall, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < least_s:
        work.run(1)
    wall, used = time.perf_counter() - wall, time.process_time() - used
    return 100 * used / (wall * torch.get_num_threads())


def matrix_product(device: torch.device, dtype: torch.dtype = torch.float32) -> Work:
    """A square matrix product; its amount is in FLOPs, two per multiply-add."""
    n = MATRIX[device.type]
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return Work(lambda times: [torch.mm(a, b, out=out) for _ in range(times)], 2.0 * n**3)


def convolution(device: torch.device, dtype: torch.dtype = torch.float32) -> Work:
    """A convolution of 3x3, stride 1, as many channels in as out; its amount is in FLOPs."""
    n = IMAGES[device.type]
    x = torch.randn(n, CHANNELS, SIDE, SIDE, device=device, dtype=dtype)
    w = torch.randn(CHANNELS, CHANNELS, 3, 3, device=device, dtype=dtype)
    x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))

    @torch.no_grad()
    def run(times: int) -> None:
        for _ in range(times):
            F.conv2d(x, w, padding=1)

    # the border has fewer neighbours; counted in full, as FLOP counters do
    return Work(run, 2.0 * n * CHANNELS**2 * 9 * SIDE**2)
