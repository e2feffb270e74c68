"""The network between the parts: messages take their time, but keep their order.

A link carries one direction between two parts, as a TCP connection does: nothing is lost while both
live, nothing overtakes, and large messages wait for each other where a bandwidth is given.
"""

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
    _delays_ns: list[int] = attrs.field(factory=list)
    """Drawn in advance, with their jitter."""

    def link(self) -> "Link":
        """Make a new link."""
        return Link(self)

    def delay_ns(self) -> int:
        """Draw how long the next message takes, its size left out of account."""
        delays_ns = self._delays_ns
        if not delays_ns:
            draw, log = self.random.random, math.log
            delay_ns, jitter_ns = self.model.delay_ns, self.model.jitter_ns
            delays_ns += [
                delay_ns + int(-log(1.0 - draw()) * jitter_ns) for _ in range(_DRAWN_AT_ONCE)
            ]
        return delays_ns.pop() + self.extra_ns


@attrs.define(eq=False)
class Link:
    """One direction between two parts."""

    network: Network
    _free_ns: int = 0
    _last_ns: int = 0

    def send(self, size_bytes: int, what: Callable[..., None], *arguments: Any) -> None:
        """Have `what` called with `arguments` at the other end, once the message is there."""
        network = self.network
        sent_ns, bytes_per_second = network.engine.now_ns, network.model.bytes_per_second
        if bytes_per_second:
            sent_ns = max(sent_ns, self._free_ns) + size_bytes * SECOND // bytes_per_second
            self._free_ns = sent_ns
        arrives_ns = sent_ns + network.delay_ns()
        if arrives_ns < self._last_ns:
            arrives_ns = self._last_ns
        self._last_ns = arrives_ns
        network.engine.at(arrives_ns, what, *arguments)
