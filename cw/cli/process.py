"""A role's process: how it starts, says that it is ready, and ends.

Each role of `compose.py` runs in one; `devcluster.py` and a system's supervisor start it alike.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from cw.errors import ConfigError

logger = logging.getLogger(__name__)

_PRIORITY = 10
"""Above ordinary threads, below the kernel's own."""

Ready = Callable[[dict[str, Any]], None]
"""Tell whoever started the role that it serves, and where."""


def role(
    name: str,
    run: Callable[[Ready], Awaitable[None]],
    *,
    supervised: bool,
    cores: tuple[int, ...] = (),
) -> int:
    """Run a role as this process, until it is told to stop; return the exit status.

    Args:
        name: For logs.
        run: The role, with all but `ready` bound.
        supervised: A supervisor holds our standard input: when it closes, it is gone and we end.
        cores: Processors to stay on; empty means any.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ.get("CW_LOG", "INFO").upper(),
        format=f"%(asctime)s %(levelname)s {name} %(name)s: %(message)s",
    )
    if cores:
        os.sched_setaffinity(0, cores)
    prefer_this_thread()
    trio.run(_live, run, supervised)
    return 0


def prefer_this_thread() -> bool:
    """Let the event loop's thread run as soon as it wakes, where the system permits it.

    It sleeps most of the time and then has microseconds of work that others wait for. As an
    ordinary thread it would wait for the end of a busy neighbour's time slice (3 ms), and on an
    executor's own core the neighbour is the device's lane. Threads that it starts are ordinary ones
    (reset on fork), so nothing that computes is ever preferred.

    Returns:
        Whether it was permitted: it takes CAP_SYS_NICE, or a limit on rtprio above 0.
    """
    try:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(_PRIORITY))
    except OSError as exc:
        logger.info("ordinary scheduling: %s; wake-ups may be milliseconds late", exc.strerror)
        return False
    return True


async def _live(run: Callable[[Ready], Awaitable[None]], supervised: bool) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, nursery.cancel_scope)
        if supervised:
            nursery.start_soon(_stop_with_lifeline, nursery.cancel_scope)
        await run(_say_ready)
        nursery.cancel_scope.cancel()


def _say_ready(what: dict[str, Any]) -> None:
    print(json.dumps({"ready": True, "pid": os.getpid(), **what}), flush=True)


async def _stop_on_signal(
    scope: trio.CancelScope, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


async def _stop_with_lifeline(scope: trio.CancelScope) -> None:
    """End when the supervisor has: it never writes, so the only news is the end of the pipe."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as lifeline:
        while await lifeline.receive_some(4096):
            pass
    logger.warning("the supervisor is gone: stopping")
    scope.cancel()


def add_role_arguments(parser: Any) -> None:
    """Give a role's command the options that all roles have."""
    parser.add_argument("--folder", type=Path, required=True, help="settings, store and key")
    parser.add_argument(
        "--supervised", action="store_true", help="end when standard input is closed"
    )
    parser.add_argument("--cores", default="", help="processors to stay on, e.g. 0,1")


def parse_cores(text: str) -> tuple[int, ...]:
    """Read ``--cores``.

    Raises:
        ConfigError: It is not a list of numbers.
    """
    try:
        return tuple(int(word) for word in text.split(",") if word)
    except ValueError as exc:
        raise ConfigError(f"expected --cores 0,1,..., got {text!r}") from exc
