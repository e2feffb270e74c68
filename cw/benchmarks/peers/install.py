"""Each peer in a virtual environment of its own, outside of the clone, exactly as pinned.

They would not bear one another, nor cw: MLServer alone holds fastapi back by two years.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cw.benchmarks.peers.processes import ServerFailed

_PINS: Final = Path(__file__).parents[3] / "tools" / "requirements" / "peers"
_READY: Final = "cw-pins.txt"
"""A copy of the pins, written when all of them are in place."""


def cache_folder() -> Path:
    """Return where environments and packed models are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cw" / "peers"


def environment_of(peer: str, *, say: Callable[[str], object]) -> Path:
    """Return a peer's environment, made first if it lacks or its pins have changed.

    Args:
        peer: Its name; ``tools/requirements/peers/NAME.txt`` holds its pins.
        say: Told what takes minutes.

    Raises:
        ServerFailed: It can't be installed; the message has pip's last words.
    """
    pins, folder = _PINS / f"{peer}.txt", cache_folder() / peer
    ready = folder / _READY
    if ready.exists() and ready.read_text() == pins.read_text():
        return folder
    say(f"installing {peer} in {folder}; once only, a minute or a few")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    base = getattr(sys, "_base_executable", None) or sys.executable
    _pip([base, "-m", "venv", str(folder)])
    _pip([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(pins)])
    shutil.copy(pins, ready)
    return folder


def version_of(peer: str, package: str) -> str:
    """Read a package's version from a peer's pins."""
    for line in (_PINS / f"{peer}.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if name == package:
            return version
    raise AssertionError(f"{package} is not pinned in {_PINS / peer}.txt")


def _pip(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())[-500:]
        raise ServerFailed(f"not installed: {' '.join(command[:4])} ... : {words}")
