"""The supervisor over real processes: start in order, restart, give up, stop, leave nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio

from cw.actors.supervisor import ChildFailed, ChildSpec, RestartPolicy, Supervisor
from cw.units import SECOND

pytestmark = pytest.mark.cluster

READY = "import sys; print('{\"ready\": true}', flush=True); sys.stdin.read()"
"""A child that serves until its lifeline closes."""


def child(tmp_path: Path, name: str, code: str) -> ChildSpec:
    """Describe a Python child."""
    argv = (sys.executable, "-S", "-c", code)
    return ChildSpec(name=name, argv=argv, log_path=tmp_path / f"{name}.log")


def is_alive(pid: int) -> bool:
    """Say whether a process still runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def wait_gone(pid: int) -> None:
    """Wait until a process has ended."""
    with trio.fail_after(20):
        while is_alive(pid):
            await trio.sleep(0.02)


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    """An executor that dies serves again without anybody's doing."""
    supervisor = Supervisor((child(tmp_path, "a", READY), child(tmp_path, "b", READY)))
    async with trio.open_nursery() as nursery:
        children = await nursery.start(supervisor.run)
        first, other = children["b"].process, children["a"].process
        os.kill(first.pid, signal.SIGKILL)
        with trio.fail_after(20):
            while children["b"].process is first or not children["b"].ready:
                await trio.sleep(0.02)

        assert children["b"].restarts == 1
        assert children["a"].process is other
        nursery.cancel_scope.cancel()


async def test_cancelling_ends_every_child(tmp_path: Path) -> None:
    """Ctrl-C leaves no process behind, not even one that ignores SIGTERM."""
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY.replace(
        "sys.stdin.read()", "import time; time.sleep(60)"
    )
    supervisor = Supervisor(
        (child(tmp_path, "deaf", deaf), child(tmp_path, "a", READY)),
        RestartPolicy(stop_within_ns=SECOND // 5),
    )
    async with trio.open_nursery() as nursery:
        children = await nursery.start(supervisor.run)
        pids = [each.process.pid for each in children.values()]
        nursery.cancel_scope.cancel()

    assert not any(is_alive(pid) for pid in pids)


async def test_a_child_that_keeps_dying_ends_the_whole(tmp_path: Path) -> None:
    """Restarting for ever would hide that the cluster can't run; its last words are shown."""
    dies = "import sys; print('{}', flush=True); print('out of luck', file=sys.stderr); sys.exit(3)"
    supervisor = Supervisor(
        (child(tmp_path, "dies", dies),), RestartPolicy(intensity=3, backoff_ns=1)
    )
    with pytest.RaisesGroup(ChildFailed) as caught:
        with trio.fail_after(30):
            await supervisor.run()

    assert "died 3 times" in str(caught.value.exceptions[0])
    assert "out of luck" in str(caught.value.exceptions[0])


async def test_a_child_that_ends_before_it_is_ready_is_an_error(tmp_path: Path) -> None:
    """A misconfigured process must not look like a slow one."""
    too_soon = pytest.RaisesExc(ChildFailed, match="before it was ready")
    with pytest.RaisesGroup(too_soon, flatten_subgroups=True):
        with trio.fail_after(30):
            await Supervisor((child(tmp_path, "bad", "raise SystemExit('no config')"),)).run()


async def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves the supervisor no last act: the closing lifeline must be enough."""
    script = f"""
import sys, trio
from pathlib import Path
from cw.actors.supervisor import ChildSpec, Supervisor
spec = ChildSpec(name="a", argv=(sys.executable, "-S", "-c", {READY!r}), log_path=Path("a.log"))
async def main():
    async with trio.open_nursery() as nursery:
        children = await nursery.start(Supervisor((spec,)).run)
        print(children["a"].process.pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = await trio.lowlevel.open_process(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, env=environment
    )
    assert parent.stdout is not None
    async with parent.stdout:
        pid = int(await parent.stdout.receive_some(64))
        assert is_alive(pid)
        parent.kill()
        await parent.wait()
    await wait_gone(pid)


def test_the_default_grace_fits_into_two_seconds() -> None:
    """Ctrl-C promises to be done within 2 s; the grace is for all children together."""
    assert RestartPolicy().stop_within_ns <= SECOND


async def test_children_beside_one_another_start_together(tmp_path: Path) -> None:
    """Executors take seconds to import torch: they need not wait for each other."""
    meet = """
import time, pathlib
pathlib.Path({mine!r}).touch()
while not pathlib.Path({other!r}).exists():
    time.sleep(0.01)
"""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    specs = (
        child(tmp_path, "first", READY),
        child(tmp_path, "one", meet.format(mine=one, other=two) + READY),
        attrs.evolve(child(tmp_path, "two", meet.format(mine=two, other=one) + READY), beside=True),
    )
    async with trio.open_nursery() as nursery:
        with trio.fail_after(20):
            children = await nursery.start(Supervisor(specs).run)
        assert next(iter(children)) == "first"
        assert set(children) == {"first", "one", "two"}
        nursery.cancel_scope.cancel()
