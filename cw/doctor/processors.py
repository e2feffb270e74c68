"""Processors: how many there are, how fast they may run, and how soon a sleeper wakes."""

import attrs

from cw.config import SchedulerSettings
from cw.doctor.finding import Finding, Verdict, ok
from cw.units import format_ms

_CORES_LEAST = 2
_STOLEN_MOST = 0.01
_MARGIN_NS = SchedulerSettings().margin_ns
"""What the scheduler holds back for all that is not the device."""


@attrs.frozen(kw_only=True)
class ProcessorFacts:
    """What this process may use of the machine's processors."""

    cores: int
    """That it may run on."""
    governors: tuple[str, ...]
    """The different ones of all processors; empty: not told here, as in most virtual machines."""
    stolen_share: float
    """Of the processors' time since the start, what the hypervisor gave to others."""
    late_ns_p50: int
    """By how much a thread that slept 1 ms woke too late."""
    late_ns_p99: int
    late_ns_max: int


def check(facts: ProcessorFacts) -> tuple[Finding, ...]:
    """Judge them."""
    return (_cores(facts), _governor(facts), _stolen(facts), _wake_ups(facts))


def _cores(facts: ProcessorFacts) -> Finding:
    if facts.cores >= _CORES_LEAST:
        return ok("processors", f"{facts.cores} usable")
    return Finding(
        check="processors",
        verdict=Verdict.WARNING,
        found=f"{facts.cores} usable",
        expected=f"{_CORES_LEAST} or more: one for each executor on the cpu device, one for the "
        "event loops",
        why="an inference and the event loop that should send its answer take turns on one core",
        mend="give the cluster more cores; with one, run it as one process: "
        "tools/devcluster up --solo",
    )


def _governor(facts: ProcessorFacts) -> Finding:
    if not facts.governors:
        return ok("clock governor", "not told by this (virtual) machine")
    found = ", ".join(facts.governors)
    if facts.governors == ("performance",):
        return ok("clock governor", found)
    return Finding(
        check="clock governor",
        verdict=Verdict.WARNING,
        found=found,
        expected="performance",
        why="a core that has idled runs slowly at first, so an inference after a pause takes "
        "longer than the same one under load, and estimates must allow for both",
        mend="echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    )


def _stolen(facts: ProcessorFacts) -> Finding:
    found = f"{facts.stolen_share:.2%} since the machine's start"
    if facts.stolen_share <= _STOLEN_MOST:
        return ok("stolen time", found)
    return Finding(
        check="stolen time",
        verdict=Verdict.WARNING,
        found=found,
        expected=f"at most {_STOLEN_MOST:.0%}",
        why="the hypervisor stops this machine to run others: nothing inside can plan for it",
        mend="move the cluster to a machine with processors of its own ('dedicated' cores)",
    )


def _wake_ups(facts: ProcessorFacts) -> Finding:
    found = (
        f"late by {format_ms(facts.late_ns_p50)} (p50), {format_ms(facts.late_ns_p99)} (p99), "
        f"{format_ms(facts.late_ns_max)} (max)"
    )
    if facts.late_ns_p99 <= _MARGIN_NS:
        return ok("wake-ups", found)
    return Finding(
        check="wake-ups",
        verdict=Verdict.WARNING,
        found=found,
        expected=f"p99 of at most {format_ms(_MARGIN_NS)}, the scheduler's margin",
        why="a thread that should start an action or send an answer wakes too late for it",
        mend="find what else runs here ('top'), permit real-time priority (see there), or plan "
        'for it: [scheduler] margin = "5ms" in the cluster file',
    )
