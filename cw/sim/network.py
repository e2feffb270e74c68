"""The network between the parts: messages take their time, but keep their order.

A link carries one direction between two parts, as a TCP connection does: nothing is lost while both
live, nothing overtakes, and large messages wait for each other where a bandwidth is given.
"""

import heapq
import math
import random
from collections.abc import Callable
from typing import Any, Final

import attrs

from cw.sim.engine import Engine
from cw.units import SECOND, US

_DRAWN_AT_ONCE: Final = 4096
"""Jitters are drawn by so many: one by one the call would cost more than the draw."""


@attrs.frozen(kw_only=True)
class NetworkModel:
    """How long messages take."""

    delay_ns: int = 250 * US
    """Least time from sender to receiver, both sides' handling included."""
    jitter_ns: int = 25 * US
    """Mean of what comes on top, exponentially distributed."""
    bytes_per_second: int = 0
    """Of one link; 0 leaves the size of messages out of account."""


@attrs.define(eq=False)
class Network:
    """All links, and what disturbs them."""

    engine: Engine
    model: NetworkModel
    random: random.Random
    extra_ns: int = 0
    """Added to every message, while a fault makes the network slow."""
    delays_ns: list[int] = attrs.field(factory=list)
    """Of the next messages, whatever their size, drawn in advance."""

    def link(self) -> "Link":
        """Make a new link."""
        return Link(self)

    def draw_delays(self) -> None:
        """Draw how long the next messages take."""
        draw, log = self.random.random, math.log
        delay_ns, jitter_ns = self.model.delay_ns, self.model.jitter_ns
        self.delays_ns += [
            delay_ns + int(-log(1.0 - draw()) * jitter_ns) for _ in range(_DRAWN_AT_ONCE)
        ]


@attrs.define(eq=False)
class Link:
    """One direction between two parts."""

    network: Network
    _free_ns: int = 0
    _last_ns: int = 0

    def send(self, size_bytes: int, what: Callable[..., None], *arguments: Any) -> None:
        """Have `what` called with `arguments` at the other end, once the message is there."""
        network = self.network
        engine, at_ns = network.engine, network.engine.now_ns
        bytes_per_second = network.model.bytes_per_second
        if bytes_per_second:
            at_ns = max(at_ns, self._free_ns) + size_bytes * SECOND // bytes_per_second
            self._free_ns = at_ns
        delays_ns = network.delays_ns
        if not delays_ns:
            network.draw_delays()
        at_ns += delays_ns.pop() + network.extra_ns
        if at_ns < self._last_ns:
            at_ns = self._last_ns
        self._last_ns = at_ns
        heapq.heappush(engine.heap, (at_ns, next(engine.places), what, arguments))
