"""Supervisor: the lives of a cluster's processes on one machine.

Starts its children in order, each once those before it are ready, or beside them; restarts one that
dies, unless it dies too often; stops them in reverse order. It knows nothing of what they do. On
many machines Kubernetes is the supervisor (docs/deployment.md).

A child says that it is ready by one line of JSON on its standard output. Its standard input is its
lifeline: the supervisor never writes to it, and when it closes, the child must end by itself, so
that a supervisor killed outright leaves no process behind.

Source: Erlang/OTP's supervision principles (child order, intensity and period, reverse stop).
"""

import json
import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from cw.actors.clock import now_ns
from cw.errors import CwError
from cw.units import SECOND

logger = logging.getLogger(__name__)


class ChildFailed(CwError):
    """A child could not be started, or died too often. The cluster can't run; read its log."""


@attrs.frozen(kw_only=True)
class ChildSpec:
    """One process to keep alive."""

    name: str
    argv: tuple[str, ...]
    log_path: Path
    """Where its standard error goes, appended."""
    pass_fds: tuple[int, ...] = ()
    beside: bool = False
    """Started beside the one before it, not after it is ready."""
    env: Mapping[str, str] = attrs.Factory(dict)
    """On top of the supervisor's own."""


@attrs.frozen(kw_only=True)
class RestartPolicy:
    """How often a child may die before the supervisor gives up on the whole."""

    intensity: int = 5
    """Deaths of one child within `period_ns` that are too many."""
    period_ns: int = 60 * SECOND
    backoff_ns: int = SECOND // 20
    """Wait before a restart: a child that dies at once must not take a core."""
    ready_within_ns: int = 60 * SECOND
    stop_within_ns: int = SECOND
    """Grace between SIGTERM and SIGKILL, for all children together."""


@attrs.define(eq=False)
class Child:
    """A child process as it is now."""

    spec: ChildSpec
    process: trio.Process
    ready: dict[str, Any]
    """What it said when it was ready."""
    restarts: int = 0


@attrs.define(eq=False)
class Supervisor:
    """Keeps `specs` running until it is cancelled.

    Args:
        specs: In the order to start.
        policy: Bounds on restarting and stopping.
    """

    specs: tuple[ChildSpec, ...]
    policy: RestartPolicy = RestartPolicy()
    children: dict[str, Child] = attrs.field(factory=dict, init=False)

    async def run(
        self, task_status: "trio.TaskStatus[dict[str, Child]]" = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Start all children, report them as started, and keep them alive.

        Raises:
            ChildFailed: One could not be started or died too often; all are stopped first.
        """
        try:
            async with trio.open_nursery() as nursery:
                for stage in _stages(self.specs):
                    async with trio.open_nursery() as starting:
                        for spec in stage:
                            starting.start_soon(self._start, spec)
                    for spec in stage:
                        nursery.start_soon(self._keep, spec)
                task_status.started(self.children)
        finally:
            await self._stop_all()

    async def _start(self, spec: ChildSpec) -> Child:
        spec.log_path.parent.mkdir(parents=True, exist_ok=True)
        with spec.log_path.open("ab") as log:
            process = await trio.lowlevel.open_process(
                spec.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log.fileno(),
                pass_fds=spec.pass_fds,
                env={**os.environ, **spec.env},
                # A group of its own: Ctrl-C in the terminal reaches the supervisor alone, which
                # then stops the children in order.
                start_new_session=True,
            )
        child = Child(spec, process, ready={})
        # Known before it is ready, so that a cancel in between stops it too.
        self.children[spec.name] = child
        with trio.move_on_after(self.policy.ready_within_ns / SECOND):
            line = await _first_line(process)
            if line:
                try:
                    child.ready = json.loads(line)
                except ValueError:
                    raise _failed(spec, f"said {line[:200]!r} instead of a line of JSON") from None
                logger.info("ready child=%s pid=%d", spec.name, process.pid)
                return child
            code = await process.wait()
            raise _failed(spec, f"ended with status {code} before it was ready")
        raise _failed(spec, f"was not ready within {self.policy.ready_within_ns // SECOND} s")

    async def _keep(self, spec: ChildSpec) -> None:
        deaths: deque[int] = deque(maxlen=self.policy.intensity)
        while True:
            child = self.children[spec.name]
            code = await child.process.wait()
            await _close_pipes(child.process)
            logger.warning("died child=%s pid=%d status=%d", spec.name, child.process.pid, code)
            deaths.append(now_ns())
            if len(deaths) == deaths.maxlen and deaths[-1] - deaths[0] < self.policy.period_ns:
                period_s = self.policy.period_ns // SECOND
                raise _failed(spec, f"died {len(deaths)} times within {period_s} s")
            await trio.sleep(self.policy.backoff_ns / SECOND)
            try:
                restarted = await self._start(spec)
            except ChildFailed as exc:
                # One more death of the process that `_start` left behind: counted like the rest.
                logger.warning("restart failed: %s", exc)
                self.children[spec.name].process.kill()
            else:
                restarted.restarts = child.restarts + 1

    async def _stop_all(self) -> None:
        """End every child, newest first; SIGKILL for those that outlast the grace."""
        running = [c for c in reversed(self.children.values()) if c.process.returncode is None]
        with trio.CancelScope(shield=True):
            for child in running:
                child.process.send_signal(signal.SIGTERM)
            with trio.move_on_after(self.policy.stop_within_ns / SECOND):
                for child in running:
                    await child.process.wait()
            for child in running:
                if child.process.returncode is None:
                    logger.warning("killed child=%s pid=%d", child.spec.name, child.process.pid)
                    child.process.kill()
                    await child.process.wait()
            for child in self.children.values():
                await _close_pipes(child.process)


def _stages(specs: Sequence[ChildSpec]) -> list[list[ChildSpec]]:
    """Part the children into those that start together, in the order to start."""
    stages: list[list[ChildSpec]] = []
    for spec in specs:
        if spec.beside and stages:
            stages[-1].append(spec)
        else:
            stages.append([spec])
    return stages


async def _first_line(process: trio.Process) -> bytes:
    """Read up to the first newline of a child's output; empty if it ended without one."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n") and len(line) < 65536:
        some = await process.stdout.receive_some(4096)
        if not some:
            return b""
        line += some
    return line


async def _close_pipes(process: trio.Process) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            await pipe.aclose()


def _failed(spec: ChildSpec, what: str) -> ChildFailed:
    tail = ""
    if spec.log_path.exists():
        lines = spec.log_path.read_text(errors="replace").splitlines()[-8:]
        tail = "\n  its last words:\n    " + "\n    ".join(lines) if lines else ""
    return ChildFailed(f"{spec.name} {what}; see {spec.log_path}{tail}")
