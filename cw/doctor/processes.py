"""A cluster's processes on this machine: the limits they really have, and what became of them.

A supervisor may start them with other limits than those of the shell that the doctor runs in.
"""

from collections.abc import Sequence

import attrs

from cw.doctor.finding import Finding, Verdict, ok
from cw.units import format_bytes

_FILES_SHARE_MOST = 0.8
_SHOWN = 3


@attrs.frozen(kw_only=True)
class ProcessFacts:
    """One process. None: it may not be asked by this user."""

    name: str
    """Such as ``gateway-0``."""
    pid: int
    files_used: int | None
    files_limit: int | None
    is_realtime: bool
    """Whether its event loop runs as soon as it wakes (SCHED_FIFO)."""
    swapped_bytes: int
    """Of its memory, what lies on the disk."""
    is_restarted: bool
    """It was started after the cluster was up: the one before it died."""


def check(facts: Sequence[ProcessFacts]) -> tuple[Finding, ...]:
    """Judge them."""
    if not facts:
        return (ok("processes", "none of this cluster's are on this machine"),)
    return (_files(facts), _scheduling(facts), _swapped(facts), _restarted(facts))


def _files(facts: Sequence[ProcessFacts]) -> Finding:
    shares = [
        (each.files_used / each.files_limit, each)
        for each in facts
        if each.files_used is not None and each.files_limit
    ]
    if not shares:
        return ok("files in use", "not told to this user")
    share, fullest = max(shares, key=lambda pair: pair[0])
    found = f"{fullest.files_used:,} of {fullest.files_limit:,} in {fullest.name}, the fullest"
    if share <= _FILES_SHARE_MOST:
        return ok("files in use", found)
    return Finding(
        check="files in use",
        verdict=Verdict.PROBLEM,
        found=found,
        expected=f"at most {_FILES_SHARE_MOST:.0%}",
        why="each connection is a file: the next ones will hang in place of a refusal",
        mend=f"sudo prlimit --pid {fullest.pid} --nofile=65536   (and for the next start: ulimit "
        "-n 65536, or LimitNOFILE=65536 in the systemd unit)",
    )


def _scheduling(facts: Sequence[ProcessFacts]) -> Finding:
    ordinary = [each.name for each in facts if not each.is_realtime]
    if not ordinary:
        return ok("scheduling", f"all {len(facts)} event loops run as soon as they wake")
    return Finding(
        check="scheduling",
        verdict=Verdict.WARNING,
        found=f"ordinary: {_some(ordinary)}",
        expected="real-time (SCHED_FIFO) for each event loop",
        why="one that wakes beside a busy thread waits for the end of its time slice, some 3 ms",
        mend="let them have it before they start: LimitRTPRIO=10 in the systemd unit; for a "
        "container: --ulimit rtprio=10 --cap-add SYS_NICE",
    )


def _swapped(facts: Sequence[ProcessFacts]) -> Finding:
    swapped = [each for each in facts if each.swapped_bytes]
    if not swapped:
        return ok("swapped out", "nothing")
    return Finding(
        check="swapped out",
        verdict=Verdict.WARNING,
        found=_some([f"{each.name} {format_bytes(each.swapped_bytes)}" for each in swapped]),
        expected="nothing",
        why="whoever needs it next waits for the disk, in the midst of a request",
        mend="sudo swapoff -a   (brings it back, if memory has room for it)",
    )


def _restarted(facts: Sequence[ProcessFacts]) -> Finding:
    restarted = [each.name for each in facts if each.is_restarted]
    if not restarted:
        return ok("processes", f"{len(facts)}, each the first of its name")
    return Finding(
        check="processes",
        verdict=Verdict.WARNING,
        found=f"died, and were started again: {_some(restarted)}",
        expected="that each is the first of its name",
        why="what a process had promised is broken when it dies",
        mend=f"less +G logs/{restarted[0]}.log   in the cluster's folder: the lines before it "
        "started anew say why it ended",
    )


def _some(texts: Sequence[str]) -> str:
    shown = ", ".join(texts[:_SHOWN])
    more = len(texts) - _SHOWN
    return shown if more <= 0 else f"{shown} and {more} more"
