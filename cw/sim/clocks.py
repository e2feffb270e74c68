"""Clocks of simulated executors: each its own, with an offset and a drift, and what is known of it.

Virtual time is the controller's clock, hence cluster time. An executor reads its own, to which all
instants on the wire are converted at its edge, as in production: by `core/clock_sync.py`, fed with
pings that travel over the very links that its messages take. So the conversion is as wrong as the
links are unequal, and stays within the error bound by which windows are tightened.

Neighbours: `executor.py` (which lives by its clock), `actors/heartbeat.py` (pings in production).
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from cw.core.clock_sync import ClockSync, Exchange
from cw.units import MS

if TYPE_CHECKING:
    from cw.sim.executor import SimExecutor

_MILLION: Final = 1_000_000
_BURST_COUNT: Final = 8
"""Pings before an executor joins, as in production."""
_PING_BYTES: Final = 64


@attrs.frozen(kw_only=True)
class ClockModel:
    """How unlike the executors' clocks are: each executor's is drawn from these, either way."""

    offset_max_ns: int = 0
    drift_max_ppm: int = 0
    heartbeat_ns: int = 250 * MS
    """From an answer to the next ping, as in `config.py`."""

    @property
    def is_perfect(self) -> bool:
        """Whether all clocks show cluster time, so that no ping is needed to know it."""
        return not self.offset_max_ns and not self.drift_max_ppm


@attrs.define(eq=False)
class LocalClock:
    """One machine's clock: virtual time plus an offset, going too fast by `drift_ppm`."""

    offset_ns: int = 0
    """At `since_ns`."""
    drift_ppm: int = 0
    since_ns: int = 0

    def read(self, now_ns: int) -> int:
        """Say what it shows when it is `now_ns`."""
        if not self.drift_ppm:
            return now_ns + self.offset_ns
        return now_ns + self.offset_ns + (now_ns - self.since_ns) * self.drift_ppm // _MILLION

    def when(self, local_ns: int) -> int:
        """Say when it shows `local_ns`, at the earliest; after `since_ns`."""
        if not self.drift_ppm:
            return local_ns - self.offset_ns
        passed_ns = local_ns - self.offset_ns - self.since_ns
        at_ns = self.since_ns + passed_ns * _MILLION // (_MILLION + self.drift_ppm)
        while self.read(at_ns) < local_ns:
            at_ns += 1
        return at_ns

    def step(self, by_ns: int) -> None:
        """Set it forward, or back where `by_ns` is negative."""
        self.offset_ns += by_ns

    def drift(self, ppm: int, *, now_ns: int) -> None:
        """Have it go too fast by `ppm` from now on, instead of what it did."""
        self.offset_ns = self.read(now_ns) - now_ns
        self.since_ns = now_ns
        self.drift_ppm = ppm


def draw_clocks(model: ClockModel, *, count: int, seed: int) -> list[LocalClock]:
    """Draw the clocks of `count` machines."""
    rng = random.Random(f"clocks {seed}")
    return [
        LocalClock(
            offset_ns=rng.randint(-model.offset_max_ns, model.offset_max_ns),
            drift_ppm=rng.randint(-model.drift_max_ppm, model.drift_max_ppm),
        )
        for _ in range(count)
    ]


@attrs.define(eq=False)
class EdgeClock:
    """An executor's clock, and its conversion to cluster time and back.

    Without a `sync` the executor takes its clock for cluster time, and knows by how much that is
    wrong: the error that a conversion leaves, made by hand.
    """

    local: LocalClock
    sync: ClockSync | None = None

    def to_cluster_ns(self, local_ns: int) -> int:
        """Say what the executor takes for the cluster time of one of its instants."""
        return local_ns if self.sync is None else self.sync.to_cluster_ns(local_ns)

    def to_local_ns(self, cluster_ns: int) -> int:
        """Say what the executor takes for its own time of an instant of the cluster."""
        return cluster_ns if self.sync is None else self.sync.to_local_ns(cluster_ns)

    def error_bound_ns(self, local_ns: int) -> int:
        """Say by how much that can be wrong, for all that the executor knows."""
        return (
            abs(self.local.offset_ns) if self.sync is None else self.sync.error_bound_ns(local_ns)
        )


def keep_pinging(
    executor: "SimExecutor", sync: ClockSync, *, heartbeat_ns: int, joined: Callable[[], None]
) -> None:
    """Have an executor learn about its clock, for as long as it lives.

    Args:
        executor: Whose clock it is.
        sync: Learns.
        heartbeat_ns: From an answer to the next ping.
        joined: Called once after the first burst.
    """
    engine = executor.world.engine
    answers = 0

    def ping() -> None:
        if executor.awake(ping):
            sent_ns = executor.now_ns()
            executor.to_controller.send(_PING_BYTES, answer, sent_ns)

    def answer(sent_ns: int) -> None:
        executor.to_executor.send(_PING_BYTES, hear, sent_ns, engine.now_ns)

    def hear(sent_ns: int, at_controller_ns: int) -> None:
        nonlocal answers
        if not executor.awake(hear, sent_ns, at_controller_ns):
            return
        sync.observe(
            Exchange(
                sent_ns=sent_ns,
                received_ns=at_controller_ns,
                replied_ns=at_controller_ns,
                returned_ns=executor.now_ns(),
            )
        )
        answers += 1
        if answers < _BURST_COUNT:
            ping()
            return
        if answers == _BURST_COUNT:
            joined()
        engine.after(heartbeat_ns, ping)

    ping()
