"""One experiment in a process of its own: ``python -m cw.devices.cuda.experiments.child NAME``.

Prints its measurements as one line of JSON, or why there are none. A fault on the device poisons
the context, and only the end of the process helps; the parent does not have one.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from cw.devices.cuda.experiments.figures import Experiment, Measurement
from cw.devices.cuda.experiments.suite import EXPERIMENTS

MEASURED = "MEASURED "
"""Begins the line that counts; all others are noise of libraries."""
CARD = "card"
"""Instead of an experiment's name: say what card and versions these are."""


def main(name: str, experiments: Mapping[str, Experiment]) -> int:
    """Run one experiment and print what it measured; return the exit status.

    Args:
        name: One of `experiments`, or `CARD`.
        experiments: By name.
    """
    from cw.devices.cuda.experiments.rig import Rig

    if name == CARD:
        from cw.devices.cuda.experiments.card import describe

        print(MEASURED + json.dumps(describe(Rig(with_torch=False))), flush=True)
        return 0
    experiment = experiments[name]
    rig = Rig(with_torch=experiment.needs_torch)
    print(MEASURED + json.dumps(to_plain(experiment.run(rig))), flush=True)
    return 0


def to_plain(measurements: list[Measurement]) -> list[dict[str, Any]]:
    """Make plain data of measurements."""
    return [attrs.asdict(measurement) for measurement in measurements]


def from_plain(found: list[dict[str, Any]]) -> list[Measurement]:
    """Undo `to_plain`."""
    return [Measurement(**values) for values in found]


def _leave(run: Callable[[], int]) -> None:
    """Run, say in one line what went wrong, and leave without tidying up."""
    try:
        status = run()
    except Exception as problem:
        print(f"{type(problem).__name__}: {problem}", file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Tensors may lie where no page is mapped any more: their destructors would fault.
    os._exit(status)


if __name__ == "__main__":
    _leave(lambda: main(sys.argv[1], EXPERIMENTS))
