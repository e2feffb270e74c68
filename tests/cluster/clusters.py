"""A devcluster as what it is: processes, started by the command that users start it with."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import attrs
import numpy as np

ROOT = Path(__file__).parents[2]
CW = (sys.executable, "-m", "cw")
GENEROUS_S = 30
"""The machine may be busy: long enough that only what never happens takes so long."""
STOP_S = 2.0
"""What the command promises for Ctrl-C."""

_LOG_LINES = 60


def environment(**changed):
    """Give a process this checkout's package, wherever it runs, and no cluster but its own."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith("CW_")}
    return {**mine, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **changed}


def run_cw(*words, cwd=None, timeout=2 * GENEROUS_S, **changed):
    """Run a command to its end; stdout and stderr are text."""
    return subprocess.run(
        [*CW, *map(str, words)],
        cwd=cwd,
        env=environment(**changed),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def processes_of(folder):
    """Map the pids of a cluster's processes to their command lines, found by its folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:  # It ended meanwhile.
            continue
        if str(folder) in words and "cw" in words:
            found[int(entry.name)] = words
    return found


def wait_until(fact, *, seconds=GENEROUS_S, what):
    """Poll until a fact is true; return how long that took."""
    start = time.monotonic()
    while not fact():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - start


@attrs.define(eq=False)
class DevCluster:
    """A running `cw devcluster up`."""

    folder: Path
    process: subprocess.Popen
    ready: dict

    @property
    def address(self):
        return self.ready["gateways"][0]

    @property
    def admin_key(self):
        return (self.folder / "admin.key").read_text().strip()

    @property
    def pids(self):
        """Its processes by name (controller, gateway-0, executor-0, ...), the supervisor aside."""
        named = {}
        for pid, words in processes_of(self.folder).items():
            if "--supervised" in words:
                role = words[words.index("cw") + 1]
                named[words[words.index("--name") + 1] if "--name" in words else role] = pid
        return named

    def send_signal(self, name, number):
        """Send a signal to the process of that name."""
        os.kill(self.pids[name], number)

    def cw(self, *words, **changed):
        """Run a command against it."""
        return run_cw(*words, "--connect", self.address, CW_ADMIN_KEY=self.admin_key, **changed)

    def port_of(self, name):
        """Find where one of its processes listens, whatever it told its peers.

        A gateway has two doors: ``gateway-0`` is the native one, ``http-0`` the other.
        """
        role, _, number = name.partition("-")
        doors = {"gateway": self.ready["gateways"], "http": self.ready["http"]}.get(role)
        if doors:
            return int(doors[int(number)].rpartition(":")[2])
        inodes = set()
        for descriptor in Path(f"/proc/{self.pids[name]}/fd").iterdir():
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:  # 0A: it listens.
                return int(words[1].split(":")[1], 16)
        raise AssertionError(f"{name} listens nowhere")

    def memory_bytes(self):
        """Sum up the memory of all its processes, what they share counted once (PSS)."""
        total = 0
        for pid in processes_of(self.folder):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        return total

    def logs(self):
        """Show the end of each process's log."""
        shown = []
        for path in sorted((self.folder / "logs").glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            shown.append(f"--- {path.name}\n" + "\n".join(lines))
        return "\n".join(shown)


def start_cluster(folder, *options, command=CW, **changed):
    """Start a cluster and wait until it says that it is ready."""
    with (folder.parent / f"{folder.name}.stderr").open("wb") as errors:
        process = subprocess.Popen(
            [*command, "devcluster", "up", "--json", "--dir", str(folder), *map(str, options)],
            env=environment(**changed),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # A group of its own: the terminal's Ctrl-C is for the tests, not for the cluster.
            start_new_session=True,
        )
    line = process.stdout.readline()
    if not line:
        process.wait()
        said = (folder.parent / f"{folder.name}.stderr").read_text()
        raise AssertionError(f"up ended with status {process.returncode}: {said}")
    return DevCluster(folder, process, json.loads(line))


@contextmanager
def running(folder, *options, **how):
    """Run a cluster for the length of a block."""
    cluster = start_cluster(folder, *options, **how)
    try:
        yield cluster
    finally:
        if cluster.process.poll() is None:
            cluster.process.send_signal(signal.SIGTERM)
            try:
                cluster.process.wait(GENEROUS_S)
            except subprocess.TimeoutExpired:
                cluster.process.kill()
        cluster.process.stdout.close()
        for pid in processes_of(folder):  # A failed test may have left a stopped process.
            os.kill(pid, signal.SIGKILL)


FEATURES = {"features": np.arange(4, dtype=np.float32)}
"""One sample of `tiny-mlp`."""
