"""The network between the parts: messages take their time, but keep their order.

A link carries one direction between two parts, as a TCP connection does: nothing is lost while both
live, nothing overtakes, and large messages wait for each other where a bandwidth is given.
"""

import random
from collections.abc import Callable
from typing import Any

import attrs

from cw.sim.engine import Engine
from cw.units import SECOND, US


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

    def link(self) -> "Link":
        """Make a new link."""
        return Link(self)


@attrs.define(eq=False)
class Link:
    """One direction between two parts."""

    network: Network
    _free_ns: int = 0
    _last_ns: int = 0

    def send(self, size_bytes: int, what: Callable[..., None], *arguments: Any) -> None:
        """Have `what` called with `arguments` at the other end, once the message is there."""
        network = self.network
        model, now_ns = network.model, network.engine.now_ns
        sent_ns = now_ns
        if model.bytes_per_second:
            sent_ns = max(now_ns, self._free_ns) + size_bytes * SECOND // model.bytes_per_second
            self._free_ns = sent_ns
        jitter_ns = round(network.random.expovariate(1.0) * model.jitter_ns)
        arrives_ns = sent_ns + model.delay_ns + jitter_ns + network.extra_ns
        self._last_ns = max(self._last_ns, arrives_ns)
        network.engine.at(self._last_ns, what, *arguments)
