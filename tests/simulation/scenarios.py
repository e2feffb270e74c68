"""Worlds for the simulation tests: small, quick, and printed so that a failure can be had again."""

import argparse
import shlex

import pytest

from cw.sim.report import Report
from cw.sim.runner import add_arguments, scenario_from
from cw.sim.scenario import Scenario
from cw.sim.shrink import command_for
from cw.sim.world import World

QUIET = "--noise 0 --outliers 0 --jitter 0ms"
"""Everything takes exactly as long as planned."""


def scenario(text: str) -> Scenario:
    """Make the scenario that ``python -m cw.sim`` would make of these arguments."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return scenario_from(parser.parse_args(shlex.split(text)))


def run(text: str, *, validate_every: int = 50) -> World:
    """Run a scenario; where an invariant breaks, fail with the command that repeats it."""
    world = World(scenario(text), validate_every=validate_every)
    try:
        world.run()
    except AssertionError as exc:  # of a checker, or of the core itself
        words = [*shlex.split(text), "--validate-every", str(validate_every)]
        command = command_for(words, world.scenario)
        shrinker = command.replace("cw.sim", "cw.sim.shrink", 1)
        pytest.fail(
            f"{type(exc).__name__}: {exc}\nto repeat it: {command}\nto cut it down: {shrinker}"
        )
    return world


def check_sums(report: Report) -> None:
    """Nothing is lost and nothing counted twice."""
    ended = report.kept + sum(report.refused.values()) + report.broken
    assert report.requests == ended + sum(report.failed.values())
