"""Runs many simulations at once, each in a process of its own, and gives results in order.

Which process finishes first must not show: results come in the order of what was asked, so that
the output of an experiment is the same bytes on a laptop and on a server.
"""

import copyreg
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self, TypeVar

import attrs

from cw.sim.report import Report
from cw.sim.runner import simulate
from cw.sim.scenario import Scenario
from cw.units import SECOND, format_ms

Item = TypeVar("Item")
Answer = TypeVar("Answer")

Progress = Callable[[str, float], None]
"""Told what is being done, and which share of it is over, 0 to 1."""


def _read_only(table: dict[Any, Any]) -> "MappingProxyType[Any, Any]":
    return MappingProxyType(table)


def _pickle_read_only(table: "MappingProxyType[Any, Any]") -> tuple[Any, tuple[dict[Any, Any]]]:
    return _read_only, (dict(table),)


# A device profile holds its tables read-only, and Python pickles everything but that.
copyreg.pickle(MappingProxyType, _pickle_read_only)


def _simulate(
    scenario: Scenario, *, validate_every: int, progress: Callable[[float], None] | None = None
) -> Report:
    try:
        return simulate(scenario, validate_every=validate_every, progress=progress)
    except Exception as exc:
        exc.add_note(
            f"in a run with seed {scenario.seed}, policy {scenario.settings.policy}, "
            f"{len(scenario.models)} models, {scenario.executors} executors, SLO "
            f"{format_ms(scenario.slo_ns)}, {scenario.duration_ns / SECOND:g} s"
        )
        raise


def _leave_interrupts_to_the_parent() -> None:
    """Ignore a terminal's Ctrl-C in a process of the pool, which would print a traceback each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _silent(what: str, share: float) -> None:
    del what, share


@attrs.define(eq=False)
class Pool:
    """A bounded pool of processes, begun when first needed.

    Use it as a context: leaving it ends the processes, and what has not begun yet is not begun.
    Leaving it by an exception ends runs that have begun, too: some take minutes, and whoever
    interrupts a command that then goes on interrupts it again, harder.
    """

    jobs: int = attrs.field(factory=lambda: os.cpu_count() or 1)
    progress: Progress = _silent
    _executor: ProcessPoolExecutor | None = None
    _not_ours: frozenset[int | None] = frozenset()
    """Child processes of before."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._executor is None:
            return
        if raised is not None:
            for child in multiprocessing.active_children():
                if child.pid not in self._not_ours:
                    child.terminate()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = None

    def map(
        self, function: Callable[[Item], Answer], items: Sequence[Item], *, what: str
    ) -> list[Answer]:
        """Apply a function to each item.

        Args:
            function: Of a module's top level, since it is found by name in other processes.
            items: Can be pickled.
            what: Said beside the progress.

        Returns:
            The answers, in the order of the items.
        """
        if self.jobs == 1 or len(items) <= 1:
            answers = []
            for done, item in enumerate(items):
                self.progress(what, done / len(items))
                answers.append(function(item))
            self.progress(what, 1.0)
            return answers
        executor = self._begun()
        futures: Final[list[Future[Answer]]] = [executor.submit(function, item) for item in items]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()  # the first failure ends the experiment, not the last
            self.progress(what, done / len(items))
        return [future.result() for future in futures]

    def run(
        self, scenarios: Sequence[Scenario], *, what: str, validate_every: int = 0
    ) -> list[Report]:
        """Run scenarios, and give their reports in the same order."""
        one = functools.partial(_simulate, validate_every=validate_every)
        if len(scenarios) == 1:  # a long run alone tells of its own progress
            return [one(scenarios[0], progress=functools.partial(self.progress, what))]
        return self.map(one, scenarios, what=what)

    def _begun(self) -> ProcessPoolExecutor:
        if self._executor is None:
            # Forking would copy a parent that holds threads and locks.
            context = multiprocessing.get_context("spawn")
            self._not_ours = frozenset(child.pid for child in multiprocessing.active_children())
            self._executor = ProcessPoolExecutor(
                self.jobs, mp_context=context, initializer=_leave_interrupts_to_the_parent
            )
        return self._executor
