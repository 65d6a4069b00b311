"""python -m suites.pack NAME-SIZEpx: photographs of a class folder into arrays, once for all runs.

Exit status: 0 packed, or there already; 1 photographs that cannot be decoded; 2 the request is
wrong; 130 interrupted (the same command goes on).
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from suites.command import Parser, exit_with, fail
from suites.images import folders, names, packed
from suites.images.folders import DatasetError
from suites.launching import local

EXAMPLES = """\
examples:
  python -m suites.pack imagenet-64px --data-dir /data
      /data/imagenet/{train,val} into /data/imagenet-64px, 16 GB; then
      python -m suites.run table4 --datasets imagenet-64px --data-dir /data
  python -m suites.pack imagenet100-64px --data-dir /data
      the classes whose wnids are listed in /data/imagenet100.txt, or /data/imagenet100/
  python -m suites.pack flowers-128px-c102 --data-dir /data
      any class folder; how many classes it has is part of the name
  python -m suites.pack imagenet-64px --data-dir /data --verify
      reads the arrays again and compares their checksums

val/ has a folder for each class, or all images and the file that tells their classes:
LOC_val_solution.csv (Kaggle), ILSVRC2012_validation_ground_truth.txt with meta.mat (development
kit), val_annotations.txt (Tiny-ImageNet), or val.txt with lines of "name class".
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    p = Parser(
        prog="python -m suites.pack",
        description="Decodes the photographs of a class folder, takes the standard evaluation crop "
        "of each, and writes arrays of a fixed size. An interrupted run goes on where it was.",
        epilog=EXAMPLES,
    )
    p.add_argument("name", help="the dataset: FOLDER-SIZEpx, or FOLDER-SIZEpx-cCLASSES")
    p.add_argument(
        "--data-dir", type=Path, required=True, metavar="DIR", help="where the class folder lies"
    )
    p.add_argument(
        "--out", type=Path, metavar="DIR",
        help="where the arrays go, as DIR/NAME (default: --data-dir)",
    )  # fmt: skip
    p.add_argument(
        "--threads", type=int, default=local.usable_cores(), metavar="N",
        help="that decode side by side (default: one per core)",
    )  # fmt: skip
    p.add_argument("--verify", action="store_true", help="compare packed arrays with checksums")
    args = p.parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False)
    photos = names.parse(args.name)
    if photos is None or photos.decoded or not photos.size:
        fail(f"{args.name!r} is not a name like imagenet-64px or flowers-128px-c102")
    if args.threads < 1:
        fail(f"--threads must be at least 1, not {args.threads}")
    out: Path = (args.out or args.data_dir) / args.name
    try:
        if args.verify:
            return verify(out, console)
        if photos.n_classes < 2:
            fail(f"{args.name!r}: say how many classes, as in {photos.with_classes}")
        if (out / "about.json").is_file():
            packed.load(out)
            console.print(f"{out} is packed already; to pack it again, delete it")
            return 0
        found = folders.read(
            photos.folder, args.data_dir, photos.n_classes, photos.most,
            exactly=photos.first is None,
        )  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)
    except DatasetError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror} (--data-dir is read, --out written)")
    return carry_out(found, photos.size, out, args.threads, console)


def verify(folder: Path, console: Console) -> int:
    """Reads packed arrays and says which chunks are damaged."""
    bad = packed.damaged(folder)
    for text in bad:
        console.print(f"damaged: {text}")
    console.print(f"{folder}: " + ("delete it and pack it again" if bad else "as it was packed"))
    return 1 if bad else 0


def carry_out(
    found: folders.ClassFolder, size: int, out: Path, threads: int, console: Console
) -> int:
    """Packs, with a bar on a terminal; returns the exit status."""
    n = len(found.train.paths) + len(found.val.paths)
    console.print(
        f"{found.root}: {len(found.classes)} classes ({found.words[0]} to {found.words[-1]}), "
        f"{len(found.train.paths)} training and {len(found.val.paths)} validation images"
    )
    bar = Progress(
        TextColumn("packing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fail(f"another process is packing {out}")
        if (out / "about.json").is_file():
            fail(f"another process has packed {out} meanwhile")
        try:
            with bar:
                task = bar.add_task("", total=n)
                packed.pack(found, size, out, threads, lambda more: bar.advance(task, more))
        except DatasetError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
        except OSError as error:
            sys.stderr.write(
                f"error: {error.filename or out}: {error.strerror}; the same command goes on\n"
            )
            return 1
        except KeyboardInterrupt:
            console.print("interrupted; the same command goes on")
            return 130
        (out / ".lock").unlink()  # still held: who waits at another file finds the arrays done
    console.print(f"packed {n} images of {size}x{size} pixels: {out}")
    return 0


if __name__ == "__main__":
    exit_with(main)
