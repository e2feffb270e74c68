"""Children, one after the other: each has a limit, and what one breaks is not the next one's."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import attrs

from cw.devices.cuda.experiments.child import MEASURED, from_plain
from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    NotMeasured,
    Verdict,
    failed,
)

CHILD: Final = (sys.executable, "-m", "cw.devices.cuda.experiments.child")
_SAID_CHARACTERS_MAX: Final = 300


@attrs.frozen(kw_only=True)
class Result:
    """What became of one experiment."""

    experiment: Experiment
    measurements: tuple[Measurement, ...] = ()
    verdict: Verdict
    took_s: float


class ChildFailed(Exception):
    """A child gave no measurements; the text says how it ended and what it said last."""


def run_all(
    experiments: Iterable[Experiment],
    *,
    budget_s: float,
    command: Sequence[str] = CHILD,
    say: Callable[[str], None],
) -> list[Result]:
    """Run experiments, each in a child of its own.

    Args:
        experiments: In this order.
        budget_s: For all; those that do not come to their turn fail, and say so.
        command: Of a child; the experiment's name is added.
        say: Told of the progress, for people.
    """
    end_s = time.monotonic() + budget_s
    results = []
    for experiment in experiments:
        say(f"{experiment.name}: {experiment.question}")
        result = _run(experiment, end_s - time.monotonic(), command)
        say(f"{experiment.name}: {result.verdict.outcome.value} after {result.took_s:.0f} s")
        results.append(result)
    return results


def _run(experiment: Experiment, left_s: float, command: Sequence[str]) -> Result:
    begin_s = time.monotonic()
    measurements: tuple[Measurement, ...] = ()
    if left_s <= 0:
        verdict = failed("not run: the budget was spent; give a larger --budget")
        return Result(experiment=experiment, verdict=verdict, took_s=0.0)
    try:
        found = ask_child([*command, experiment.name], limit_s=min(left_s, experiment.limit_s))
        measurements = tuple(from_plain(found))
        verdict = experiment.verdict(Figures(measurements))
    except (ChildFailed, NotMeasured) as problem:
        verdict = failed(str(problem))
    return Result(
        experiment=experiment,
        measurements=measurements,
        verdict=verdict,
        took_s=time.monotonic() - begin_s,
    )


def ask_child(command: Sequence[str], *, limit_s: float) -> Any:
    """Run a child and return what it printed after `MEASURED`.

    Raises:
        ChildFailed: It printed no such line, ended badly or took too long.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that what it starts can be ended with it
    )
    try:
        said, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        said = _end(process)
        raise ChildFailed(f"no end after {limit_s:.0f} s; it said: {_last_line(said)}") from None
    except BaseException:  # Ctrl-C: the child is in a session of its own and would live on
        _end(process)
        raise
    lines = said.splitlines()
    measured = [line.removeprefix(MEASURED) for line in lines if line.startswith(MEASURED)]
    if process.returncode != 0 or not measured:
        raise ChildFailed(f"{_ending(process.returncode)}; it said: {_last_line(said)}")
    return json.loads(measured[-1])


def _end(process: subprocess.Popen[str]) -> str:
    """End a child, and what it started, by force; return all that it said."""
    os.killpg(process.pid, signal.SIGKILL)
    said, _ = process.communicate()
    return said


def _last_line(said: str) -> str:
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "nothing")
    return last[:_SAID_CHARACTERS_MAX]


def _ending(status: int) -> str:
    if status < 0:
        return f"the child was ended by {signal.Signals(-status).name}"
    return f"the child ended with status {status}"
