"""An examination: the facts of each group gathered, each within its time, and judged.

One after the other, so that what is measured (`wake-ups`) is not what another check does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import attrs
import trio

from cw.doctor import clocks, cluster, gpu, limits, memory, processes, processors, versions
from cw.doctor.finding import Finding, Group, Verdict, ok
from cw.doctor.gathering import cluster as running
from cw.doctor.gathering import gpu as cards
from cw.doctor.gathering import machine
from cw.doctor.gathering import processes as its
from cw.doctor.gathering import versions as packages
from cw.doctor.gathering.cluster import Connect

T = TypeVar("T")

_WITHIN_S: Final = 25
"""For one part of a group: `nvidia-smi` is asked twice, and allowed 10 s each time."""


@attrs.frozen(kw_only=True)
class Patient:
    """What to examine, besides this machine."""

    folder: Path
    """Whose disk is looked at; the cluster's, if it is here."""
    address: str = ""
    """A gateway's; empty: no cluster is asked."""
    connect: Connect | None = None
    """To that gateway."""
    has_records: bool = False
    """Whether `folder` is that cluster's, with its executors' records."""
    http: tuple[str, ...] = ()
    """The cluster's HTTP doors, as URLs, where they are known."""
    up_since_s: float | None = None
    """When its processes had all been started, in s since 1970; None: it does not run here."""
    executors_asked: int | None = None
    """How many were started, where that is known."""


async def examine(patient: Patient) -> tuple[Group, ...]:
    """Look at everything; takes under a minute, however much hangs."""
    here = [
        *await _part("limits", machine.limits, limits.check),
        *await _part("memory", lambda: machine.memory(patient.folder), memory.check),
        *await _part("processors", machine.processors, processors.check),
        *await _part("clocks", machine.clocks, clocks.check),
    ]
    return (
        Group(title="this machine", findings=tuple(here)),
        Group(
            title="versions",
            findings=await _part("versions", packages.versions, versions.check),
        ),
        Group(title="GPU", findings=await _part("GPU", cards.gpu, gpu.check)),
        Group(title="cluster", findings=await _cluster(patient)),
        Group(title="processes", findings=await _processes(patient)),
    )


async def _cluster(patient: Patient) -> tuple[Finding, ...]:
    if patient.connect is None:
        return (ok("gateway", "none asked: no cluster runs here, and --address names none"),)
    facts = await running.cluster(
        patient.address,
        patient.connect,
        folder=patient.folder if patient.has_records else None,
    )
    doors = [(url, await running.http_error(url)) for url in patient.http]
    return cluster.check(
        attrs.evolve(facts, executors_asked=patient.executors_asked, http=tuple(doors))
    )


async def _processes(patient: Patient) -> tuple[Finding, ...]:
    up_since_s = patient.up_since_s
    if up_since_s is None:
        return processes.check(())
    return await _part(
        "processes", lambda: its.processes(patient.folder, up_since_s), processes.check
    )


async def _part(
    name: str,
    gather: Callable[[], T],
    judge: Callable[[T], tuple[Finding, ...]],
    *,
    within_s: float = _WITHIN_S,
) -> tuple[Finding, ...]:
    """Gather facts in a thread, and judge them; what hangs or fails is a finding, too."""
    try:
        with trio.fail_after(within_s):
            facts = await trio.to_thread.run_sync(gather, abandon_on_cancel=True)
    except trio.TooSlowError:
        return (_unknown(name, f"no answer within {within_s:g} s"),)
    except OSError as exc:
        return (_unknown(name, f"can't be read: {exc}"),)
    return judge(facts)


def _unknown(name: str, found: str) -> Finding:
    return Finding(
        check=name,
        verdict=Verdict.WARNING,
        found=found,
        expected="an answer from the system",
        why="what can't be looked at can't be judged; a disk or a driver that hangs stops "
        "whoever asks it, an executor as well",
        mend="sudo dmesg | tail   shows what the kernel complains of",
    )
