"""This machine's clocks: how costly they are to read, and how steadily they run."""

import attrs

from cw.doctor.finding import Finding, Verdict, ok

_SLOW_SOURCES = frozenset(("hpet", "acpi_pm", "jiffies", "refined-jiffies"))
_DRIFT_PPM_MOST = 100
"""Two machines that drift apart by this much each reach the 200 ppm that `core/clock_sync.py`
allows between them."""


@attrs.frozen(kw_only=True)
class ClockFacts:
    """What the kernel says of its clocks. None: not told here."""

    source: str | None
    """Such as ``tsc`` or ``kvm-clock``."""
    is_synchronised: bool | None
    """Whether a time service keeps the wall clock."""
    drift_ppm: float | None
    """By how much the kernel corrects the rate of its clocks, the monotonic one included."""


def check(facts: ClockFacts) -> tuple[Finding, ...]:
    """Judge them."""
    return (_source(facts), _synchronised(facts), _drift(facts))


def _source(facts: ClockFacts) -> Finding:
    if facts.source not in _SLOW_SOURCES:
        return ok("clock source", facts.source or "not told by this system")
    return Finding(
        check="clock source",
        verdict=Verdict.WARNING,
        found=facts.source or "",
        expected="tsc, kvm-clock or the like",
        why="each reading of the clock asks a slow chip, about a microsecond; a request takes "
        "dozens of readings",
        mend="echo tsc | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource",
    )


def _synchronised(facts: ClockFacts) -> Finding:
    if facts.is_synchronised is None:
        return ok("time service", "not told by this system")
    if facts.is_synchronised:
        return ok("time service", "the wall clock is synchronised")
    return Finding(
        check="time service",
        verdict=Verdict.WARNING,
        found="the wall clock is not synchronised",
        expected="chrony, systemd-timesyncd or another time service; in a virtual machine, that "
        "its host's does it",
        why="deadlines are kept by monotonic clocks and are safe; but records, usage by the hour "
        "and certificates go by date",
        mend="sudo timedatectl set-ntp true",
    )


def _drift(facts: ClockFacts) -> Finding:
    if facts.drift_ppm is None:
        return ok("clock drift", "not told by this system")
    found = f"corrected by {facts.drift_ppm:+.1f} ppm"
    if abs(facts.drift_ppm) <= _DRIFT_PPM_MOST:
        return ok("clock drift", found)
    return Finding(
        check="clock drift",
        verdict=Verdict.WARNING,
        found=found,
        expected=f"{_DRIFT_PPM_MOST} ppm at most, either way",
        why="executors' clocks are compared over 16 s, in which two machines may drift apart by "
        "200 ppm; beyond that windows are converted wrongly until the error is noticed",
        mend="sudo chronyc makestep && sudo chronyc tracking   (then see why the service slews)",
    )
