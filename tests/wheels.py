"""The wheel, built once for all the processes that test it."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def built_once(factory: pytest.TempPathFactory, shared: bool) -> Path:
    """Build the wheel as the build backend does, without a network, unless another process of this run has done so.

    ``shared`` says that this run has several processes: then their folders lie beside each other.
    """
    base = factory.getbasetemp()
    folder = (base.parent if shared else base) / "dist"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(folder.glob("exchange-*.whl")):
            command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("exchange-*.whl")
    return built
