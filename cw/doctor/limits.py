"""What the system allows a process: open files, real-time priority, shares of a control group."""

from collections.abc import Iterator

import attrs

from cw.config import GatewaySettings, HttpSettings
from cw.doctor.finding import Finding, Verdict, ok
from cw.units import MS, format_bytes

_DOOR_FILES = HttpSettings().max_connections
FILES_LEAST = 4 * _DOOR_FILES
"""The HTTP door's connections, as many native ones, and as much again for everything else."""
_NEARLY_FULL = 0.9


@attrs.frozen(kw_only=True)
class LimitFacts:
    """Limits of this process, and so of what is started as it was. None: not told here."""

    open_files: int
    """The soft limit."""
    open_files_hard: int
    may_run_realtime: bool
    """A thread asked to be scheduled by SCHED_FIFO, as each role's event loop does, and was."""
    cpu_quota_cores: float | None = None
    """Of the control group; None: no quota."""
    throttled_periods: int = 0
    """In which the group was stopped because its quota was used up, since its start."""
    throttled_ns: int = 0
    memory_limit_bytes: int | None = None
    memory_used_bytes: int = 0
    """By the group, page cache aside."""


def check(facts: LimitFacts) -> tuple[Finding, ...]:
    """Judge them."""
    return (_open_files(facts), _realtime(facts), *_control_group(facts))


def _open_files(facts: LimitFacts) -> Finding:
    limit = facts.open_files
    if limit >= FILES_LEAST:
        return ok("open files", f"{limit:,} per process")
    raise_to = f"ulimit -n {FILES_LEAST}"
    if facts.open_files_hard < FILES_LEAST:
        raise_to = "in the systemd unit: LimitNOFILE=65536; for a container: --ulimit nofile=65536"
    return Finding(
        check="open files",
        verdict=Verdict.PROBLEM if limit < _DOOR_FILES else Verdict.WARNING,
        found=f"{limit:,} per process",
        expected=f"{FILES_LEAST:,} or more",
        why=f"each connection is a file, and a gateway takes {_DOOR_FILES:,} by HTTP alone (up to "
        f"{GatewaySettings().max_open_requests:,} requests are open at once); past the limit "
        "connections hang in place of a refusal",
        mend=raise_to,
    )


def _realtime(facts: LimitFacts) -> Finding:
    if facts.may_run_realtime:
        return ok("real-time priority", "permitted")
    return Finding(
        check="real-time priority",
        verdict=Verdict.WARNING,
        found="not permitted",
        expected="CAP_SYS_NICE, or a limit on rtprio of 10 or more",
        why="an event loop that wakes beside a busy thread waits for the end of its time slice, "
        "some 3 ms, and with it every request",
        mend="in the systemd unit: LimitRTPRIO=10; for a container: --ulimit rtprio=10 --cap-add "
        "SYS_NICE",
    )


def _control_group(facts: LimitFacts) -> Iterator[Finding]:
    if facts.cpu_quota_cores is None:
        yield ok("processor quota", "none")
    else:
        stopped = f"; stopped {facts.throttled_periods:,} times" if facts.throttled_periods else ""
        if facts.throttled_periods:
            stopped += f", {facts.throttled_ns / MS:,.0f} ms in all"
        yield Finding(
            check="processor quota",
            verdict=Verdict.PROBLEM if facts.throttled_periods else Verdict.WARNING,
            found=f"{facts.cpu_quota_cores:g} cores{stopped}",
            expected="no quota; whole cores instead",
            why="whoever has used up a quota is stopped for the rest of its period, up to 100 ms, "
            "in the midst of an inference",
            mend="drop the quota and give whole cores: in the systemd unit CPUQuota= (empty) and "
            "AllowedCPUs=...; for a container --cpuset-cpus in place of --cpus; on Kubernetes the "
            "static CPU manager",
        )
    if facts.memory_limit_bytes is None:
        yield ok("memory limit", "none")
        return
    used = f"{format_bytes(facts.memory_used_bytes)} of {format_bytes(facts.memory_limit_bytes)}"
    if facts.memory_used_bytes <= _NEARLY_FULL * facts.memory_limit_bytes:
        yield ok("memory limit", f"{used} used")
        return
    yield Finding(
        check="memory limit",
        verdict=Verdict.PROBLEM,
        found=f"{used} used",
        expected=f"at most {_NEARLY_FULL:.0%}",
        why="at the limit each allocation first waits for memory to be freed, then the kernel "
        "kills an executor",
        mend="raise the group's memory limit, or give executors less: [executor] gpu_memory and "
        "host_memory in the cluster file",
    )
