"""Frozen copies of the code: what a waiting job will run, whatever is edited in the meantime.

A copy is named after its content, so that many submissions of the same sources share one. Python
itself and installed packages are not copied.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def freeze(packages: Iterable[Path], files: Mapping[str, str], folder: Path) -> Path:
    """Copies the sources of packages, unless the same were copied before.

    Args:
        packages: folders of packages; the Python files below them are copied, by package name.
        files: more files, relative path -> text.
        folder: where copies are kept.

    Returns:
        The folder of the copy, to be put on Python's path.

    Raises:
        OSError: the copy cannot be written.
    """
    contents = {name: text.encode() for name, text in files.items()}
    for package in packages:
        for inside, folders, names in os.walk(package):
            if "__init__.py" not in names:  # results, say, which may be very many
                folders.clear()
                continue
            for name in names:
                if name.endswith(".py"):
                    path = Path(inside, name)
                    contents[str(path.relative_to(package.parent))] = path.read_bytes()
    digest = hashlib.sha256()
    for name in sorted(contents):
        digest.update(f"{name}\0{len(contents[name])}\0".encode() + contents[name])
    copy = folder / digest.hexdigest()[:16]
    if copy.exists():
        return copy
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder, prefix=".part-"))
    try:
        for name, content in contents.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(content)
        part.chmod(0o755)
        os.rename(part, copy)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        if not copy.exists():  # else another process made the same copy
            raise
    return copy
