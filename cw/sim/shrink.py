"""Shrinking: a failing run cut down to the few faults and the little traffic that it takes.

A run that failed says which faults it had, as they are typed, drawn ones (``--faults random:4``)
too. ``python -m cw.sim.shrink`` with the arguments of such a run leaves out what the failure does
not need, and prints the command. What is left fails by the same checker, not necessarily for the
same cause: read its message.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from cw.errors import ConfigError
from cw.sim.runner import add_arguments, scenario_from
from cw.sim.scenario import Scenario
from cw.sim.world import World
from cw.units import MS

_RUNS_MAX: Final = 40
"""A shrinking that takes longer than this many runs is not worth waiting for."""
_SHORTEST_NS: Final = 10 * MS


def shrink(scenario: Scenario, fails: Callable[[Scenario], bool]) -> Scenario:
    """Leave out of a failing scenario what it fails without.

    First the traffic is cut short, which makes all further runs quicker, then faults are left out
    one by one, for as long as one can be.

    Args:
        scenario: One that fails.
        fails: Runs a scenario and says whether it fails in the same way.

    Returns:
        The smallest that was found to fail; `scenario` itself where nothing could be left out.
    """
    runs = 0

    def still_fails(candidate: Scenario) -> bool:
        nonlocal runs
        runs += 1
        return runs <= _RUNS_MAX and fails(candidate)

    scenario = _shorten(scenario, still_fails)
    smaller = True
    while smaller:
        smaller = False
        for fault in scenario.faults:
            left = tuple(other for other in scenario.faults if other is not fault)
            candidate = attrs.evolve(scenario, faults=left)
            if still_fails(candidate):
                scenario, smaller = candidate, True
                break
    return scenario


def _shorten(scenario: Scenario, fails: Callable[[Scenario], bool]) -> Scenario:
    """Halve what may be cut off at the end of the traffic until it is short enough."""
    fine_ns = 0
    while scenario.duration_ns - fine_ns > max(_SHORTEST_NS, scenario.duration_ns // 16):
        half_ns = (scenario.duration_ns + fine_ns) // 2
        faults = tuple(fault for fault in scenario.faults if fault.at_ns < half_ns)
        candidate = attrs.evolve(scenario, duration_ns=half_ns, faults=faults)
        if fails(candidate):
            scenario = candidate
        else:
            fine_ns = half_ns
    return scenario


def command_for(words: Sequence[str], scenario: Scenario) -> str:
    """Write the command that runs a scenario made of these arguments, its faults written out.

    Args:
        words: The arguments of ``python -m cw.sim`` that it was made of.
        scenario: Made of them, but for its faults and its duration.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--faults")
    parser.add_argument("--seconds")
    _, kept = parser.parse_known_args(list(words))
    seconds = f"{scenario.duration_ns / 1_000_000_000:.9f}".rstrip("0").rstrip(".")
    kept += ["--seconds", seconds]
    if scenario.faults:
        kept += ["--faults", ",".join(map(str, scenario.faults))]
    return f"python -m cw.sim {shlex.join(kept)}"


def failure_of(scenario: Scenario, *, validate_every: int = 0) -> AssertionError | None:
    """Run a scenario; say how it fails, if it does."""
    try:
        World(scenario, validate_every=validate_every).run()
    except AssertionError as exc:  # checkers and the core alike say so what must never happen
        return exc
    return None


def kind_of(failure: AssertionError | None) -> object:
    """Say what two failures must have in common to be taken for the same: where they were found."""
    if failure is None:
        return None
    trace = failure.__traceback__
    places = []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append((code.co_filename, code.co_qualname))
        trace = trace.tb_next
    return type(failure), places[-2:]


def main(argv: Sequence[str] | None = None) -> int:
    """Shrink the run that the arguments describe, and print the command that is left."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m cw.sim.shrink",
        description="Find the smallest run that fails as the run with these arguments does.",
    )
    add_arguments(parser)
    arguments = parser.parse_args(words)
    every = arguments.validate_every
    try:
        scenario = scenario_from(arguments)
        failure = failure_of(scenario, validate_every=every)
    except ConfigError as exc:
        print(f"cw: {exc}", file=sys.stderr)
        return 2
    if failure is None:
        print("this run does not fail: there is nothing to shrink", file=sys.stderr)
        return 1
    kind = kind_of(failure)
    smallest = shrink(
        scenario,
        lambda one: kind_of(failure_of(one, validate_every=every)) == kind,
    )
    print(failure_of(smallest, validate_every=every), file=sys.stderr)
    print(command_for(words, smallest))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
