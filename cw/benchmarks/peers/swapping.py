"""Room for fewer models than there are, for servers that load and unload but do not choose.

Triton and MLServer have calls for both and no rule of when. So the benchmark has one, in the load
generator: the model that was used longest ago gives way, one LOAD at a time, and requests wait
meanwhile. Another rule might do better.
"""

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping

import attrs
import trio

from cw.actors.clock import now_ns, trio_time
from cw.benchmarks.peers.http_client import GIVE_UP_NS, HttpClient
from cw.client import Array, Result
from cw.messages import Failure, FailureKind, Timing

Change = Callable[[str], Awaitable[object]]
"""Loads or unloads a model by its name; returns when the server is done with it."""


@attrs.define(eq=False)
class SwappingClient:
    """Makes a model resident before it is asked.

    Attributes:
        client: Asks.
        room: How many models may be resident.
        load: See `Change`.
        unload: See `Change`.
    """

    client: HttpClient
    room: int
    load: Change
    unload: Change
    _resident: OrderedDict[str, None] = attrs.field(factory=OrderedDict, init=False)
    """The one used longest ago first."""
    _in_use: Counter[str] = attrs.field(factory=Counter, init=False)
    _one_at_a_time: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _released: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        slo: str | int | None,
        started_ns: int | None = None,
    ) -> Result:
        """See `HttpClient.infer`; the wait for the model counts."""
        begin_ns = now_ns() if started_ns is None else started_ns
        result: Result | None = None
        with trio.move_on_at(trio_time(begin_ns + GIVE_UP_NS)):
            await self._claim(model)
            try:
                result = await self.client.infer(model, inputs, slo=slo, started_ns=begin_ns)
            finally:
                self._in_use[model] -= 1
                self._released.set()
        if result is None:
            failure = Failure(kind=FailureKind.LATE, message="its model was not loaded in time")
            timing = Timing(total_ns=now_ns() - begin_ns)
            return Result(timing=timing, promised=False, failure=failure)
        return result

    async def _claim(self, model: str) -> None:
        """Return when the model is resident; it stays so until `_in_use` is counted down."""
        if model not in self._resident:
            async with self._one_at_a_time:
                if model not in self._resident:
                    with trio.CancelScope(shield=True):  # the server would not stop half-way
                        await self._swap_in(model)
        self._resident.move_to_end(model)
        self._in_use[model] += 1

    async def _swap_in(self, model: str) -> None:
        while len(self._resident) >= self.room:
            idle = next((name for name in self._resident if not self._in_use[name]), None)
            if idle is None:
                self._released = trio.Event()
                await self._released.wait()
                continue
            del self._resident[idle]
            await self.unload(idle)
        await self.load(model)
        self._resident[model] = None
