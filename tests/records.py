"""Plans, records and published numbers, made up for the tests of reports."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.record import cell_key
from results.store import Store

CURRENT = "c0ffee"
HOSTILE = (
    r"""<script>alert(1)</script> "' onload=alert(2) 50% a_b \input{x} & # $y$ """
    "~ ^ { } Jürgen ≥ × — 中 | `q` --x"
)


@dataclass(frozen=True)
class Number:
    """Stands in for an entry of results.published."""

    accuracy_pct: float
    std: float | None
    epochs: str
    source: str
    architecture: str = "mlp-2x500"
    readout: str = ""
    augmentation: str = ""
    suite: str = "a"
    decimals: int = 1
    std_kind: str = ""
    network: str = "2x500"
    note: str = ""


def cell_of(row: str, column: str, seed: int) -> dict[str, Any]:
    return {"method": row, "column": column, "seed": seed, "config": {"lr": 0.1}}


def make_plan(
    rows: tuple[str, ...] = ("backprop", "hff"),
    columns: tuple[str, ...] = ("digits/mlp-2x500",),
    seeds: int = 3,
    unsupported: dict[tuple[str, str], str] | None = None,
    labels: dict[str, str] | None = None,
) -> dict[str, Any]:
    why = unsupported or {}
    return {
        "schema": 1,
        "suite": "table1",
        "title": "Test accuracy by method, dataset and architecture",
        "profile": "quick",
        "profile_note": "Embedded data, minutes on a laptop.",
        "created_at": "2026-03-01T10:00:00+00:00",
        "command": f"python -m suites.run table1 --seeds {seeds}",
        "headline": {"split": "test", "metric": "accuracy_pct"},
        "rows": [
            {
                "id": row,
                "label": (labels or {}).get(row, row.upper()),
                "method": row,
                "source": "arXiv 0000.00000",
                "readout": "last",
                "readouts": ["last", "sum"],
                "local": row != "backprop",
                "description": f"One line on {row}.",
                "differs": ["mean instead of sum, so that a threshold fits every width."],
            }
            for row in rows
        ],
        "columns": [
            {
                "id": column,
                "dataset": column.split("/")[0],
                "architecture": column.split("/")[1],
                "protocol": {"epochs": 5, "batch_size": 64, "augmentation": "none"},
            }
            for column in columns
        ],
        "cells": [
            {
                "key": cell_key(cell_of(row, column, seed)),
                "row": row,
                "column": column,
                "seed": seed,
                "code_sha": CURRENT,
            }
            for seed in range(seeds)
            for row in rows
            for column in columns
            if (row, column) not in why
        ],
        "unsupported": [{"row": r, "column": c, "reason": text} for (r, c), text in why.items()],
    }


def make_record(
    row: str = "hff",
    column: str = "digits/mlp-2x500",
    seed: int = 0,
    accuracy: float = 97.0,
    status: str = "ok",
    reason: str | None = None,
    code_sha: str = CURRENT,
    epochs: int = 5,
) -> dict[str, Any]:
    cell = cell_of(row, column, seed)
    noise = random.Random(f"{row}{column}{seed}")
    value = [accuracy - 60 * math.exp(-1.2 * e) + noise.gauss(0, 0.2) for e in range(1, epochs + 1)]
    metrics = {
        split: {
            readout: {"accuracy_pct": accuracy + shift, "loss": 0.1, "n": 360}
            for readout, shift in (("last", 0.0), ("sum", -0.5))
        }
        for split in ("val", "test")
    }
    return {
        "schema": 1,
        "key": cell_key(cell),
        "suite": "table1",
        "status": status,
        "reason": reason,
        "cell": cell,
        "metrics": metrics if status == "ok" else {},
        "curves": {
            "epoch": list(range(1, epochs + 1)),
            "train_loss": [1 / e for e in range(1, epochs + 1)],
            "val_accuracy_pct": value,
            "val_loss": [1 / e for e in range(1, epochs + 1)],
            "train_s": [0.5 * e for e in range(1, epochs + 1)],
        },
        "timings": {
            "train_s": 2.5 + noise.random(),
            "eval_s": 0.1,
            "train_images_per_s": 12345.0 + 99 * noise.random(),
            "eval_images_per_s": 65432.0,
        },
        "memory": {"peak_rss_bytes": 3e8, "peak_allocated_bytes": None},
        "cost": {
            "n_params": 648010,
            "n_params_aux": 5000 if row != "backprop" else 0,
            "flops_train_per_image": 3.9e6,
            "flops_eval_per_image": 1.3e6,
            "passes_per_prediction": 1,
        },
        "environment": {
            "host": "node1",
            "os": "Linux",
            "python": "3.11.7",
            "packages": {"torch": "2.14.1"},
            "cpu": "a processor",
            "threads": 2,
            "gpu": None,
            "git_commit": "0123456789abcdef",
            "git_dirty": False,
            "deterministic": True,
        },
        "code_sha": code_sha,
        "command": "python -m suites.run table1",
        "started_at": "2026-03-01T10:00:00+00:00",
        "finished_at": f"2026-03-01T10:0{seed}:30+00:00",
    }


def make_tuning(label: str, points: int = 4) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A plan of a tuning with a label for its last row, and records for all but one point."""
    rows, column = ("backprop", "hff"), "digits/mlp-2x500"
    plan = make_plan(rows, seeds=1, labels={"hff": label})
    cells, records = [], []
    for row in rows:
        for point in range(points):
            record = make_record(row, column, point, 90 + point + random.Random(row).random())
            records.append(record)
            cells.append(
                {
                    "key": record["key"], "row": row, "column": column, "seed": 0,
                    "code_sha": CURRENT, "point": point, "settings": {"lr": 10.0 ** -(point + 1)},
                }
            )  # fmt: skip
    space = {"lr": {"scale": "log", "low": 1e-5, "high": 1.0}}
    plan |= {
        "suite": "table1-tune", "title": label, "kind": "tune", "cells": cells,
        "headline": {"split": "val", "metric": "accuracy_pct"},
        "tuning": {"of": "table1", "points": points, "spaces": dict.fromkeys(rows, space)},
    }  # fmt: skip
    return plan, records[:-1]


def filled(folder: Path, plan: dict[str, Any], records: list[dict[str, Any]]) -> Store:
    store = Store(folder)
    store.prepare()
    store.write_plan(plan)
    for record in records:
        assert store.publish(record) is not None
    return store


def nothing(row: str, dataset: str) -> list[Number]:
    return []
