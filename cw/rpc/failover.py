"""Several gateways as one: when one dies, calls go on through another.

One connection stands at a time; the next gateway in the order given is dialled when it breaks. A
request that was on its way when its gateway died ends as an error that says so, since it may have
run: whoever asked knows whether asking again is harmless. What only looks is asked again elsewhere.

Neighbours: `client.py` dials one gateway; `cw/client.py` is who uses both.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import attrs
import trio

from cw.actors.clock import now_ns
from cw.config import LinkSettings
from cw.errors import CwError, PeerDisconnected, PeerSilent
from cw.messages import Answer, ClusterStatus, InferCall, ModelStatus
from cw.rpc.client import connect_serving
from cw.rpc.ports import AdminPort, ServingPort, TenantPort

T = TypeVar("T")

_LOGIN_S: Final = 5
"""For a gateway to let us in, which asks nobody else; then the next one is tried."""


@attrs.define(eq=False)
class _Door:
    """One gateway's, while its connection stands."""

    address: str
    serving: ServingPort
    tenant: TenantPort
    is_closed: bool = False


class Gateways:
    """Some gateways of one cluster; implements `ServingPort` and, once logged in, `TenantPort`.

    Args:
        addresses: In the order in which they are tried.
        link: Bounds of each connection.
        nursery: Holds the connection that stands.
    """

    def __init__(self, addresses: Sequence[str], link: LinkSettings, nursery: trio.Nursery) -> None:
        self._addresses: Final = tuple(addresses)
        self._settings: Final = link
        self._nursery: Final = nursery
        self._dialling: Final = trio.Lock()
        self._key = ""
        self._first = 0
        self._door: _Door | None = None

    # --- ServingPort ------------------------------------------------------------------------------

    async def login(self, key: str) -> TenantPort:
        """See `ServingPort.login`; done again at each gateway that is gone over to.

        Raises:
            PeerDisconnected: None of them answers.
            AccessDenied: The key opens nothing.
        """
        self._key = key
        await self._open()
        return self

    async def admin(self, key: str) -> AdminPort:
        """See `ServingPort.admin`; ends with the gateway that gave it."""
        return await (await self._open()).serving.admin(key)

    async def wait_closed(self) -> None:
        """Never returns: there may always be another gateway."""
        await trio.sleep_forever()

    def close(self) -> None:
        """Hang up; the next call dials again."""
        if self._door is not None:
            self._close(self._door)

    # --- TenantPort -------------------------------------------------------------------------------

    async def infer(self, call: InferCall) -> Answer:
        """See `TenantPort.infer`.

        Raises:
            PeerDisconnected: None of the gateways answers; or the one that had this request died,
                and whether it ran is unknown.
        """
        door, began_ns = await self._open(), now_ns()
        try:
            return await door.tenant.infer(call)
        except PeerDisconnected as exc:
            self._close(door)
            raise PeerDisconnected(
                f"the gateway at {door.address} was lost with this request open ({exc}); whether "
                "it ran is unknown; the next one goes to another gateway"
            ) from exc
        except trio.Cancelled:
            if call.slo_ns is not None and now_ns() - began_ns > call.slo_ns:
                self._close(door)  # gateways answer at the deadline: this one is stopped
            raise

    async def models(self) -> Sequence[ModelStatus]:
        """See `TenantPort.models`."""
        return await self._look(lambda tenant: tenant.models())

    async def model_status(self, name: str, version: int = 0) -> ModelStatus:
        """See `TenantPort.model_status`."""
        return await self._look(lambda tenant: tenant.model_status(name, version))

    async def status(self) -> ClusterStatus:
        """See `TenantPort.status`."""
        return await self._look(lambda tenant: tenant.status())

    async def wait_ended(self) -> None:
        """Return once the key was revoked, as the gateway tells that is used; never before."""
        while True:
            door = await self._open()
            await door.tenant.wait_ended()
            if not door.is_closed:
                return

    # --- both -------------------------------------------------------------------------------------

    async def _look(self, ask: Callable[[TenantPort], Awaitable[T]]) -> T:
        """Ask what changes nothing, again elsewhere if need be."""
        for _ in self._addresses[1:]:
            door = await self._open()
            try:
                return await ask(door.tenant)
            except PeerDisconnected:
                self._close(door)
        return await ask((await self._open()).tenant)

    async def _open(self) -> _Door:
        """Give the door that is open, or open the next one.

        Raises:
            PeerDisconnected: None of the gateways answers.
            AccessDenied: One does, and the key opens nothing.
        """
        if self._door is not None and not self._door.is_closed:
            return self._door
        async with self._dialling:
            if self._door is not None and not self._door.is_closed:
                return self._door  # somebody else has opened it meanwhile
            why = []
            for turn in range(len(self._addresses)):
                index = (self._first + turn) % len(self._addresses)
                address = self._addresses[index]
                try:
                    door: _Door = await self._nursery.start(self._hold, address)
                except (PeerDisconnected, PeerSilent, OSError) as exc:
                    why.append(f"{address}: {exc}")
                    continue
                self._door, self._first = door, index
                return door
        raise PeerDisconnected(f"no gateway answers: {'; '.join(why)}")

    async def _hold(
        self, address: str, task_status: trio.TaskStatus[_Door] = trio.TASK_STATUS_IGNORED
    ) -> None:
        door: _Door | None = None
        try:
            async with connect_serving(address, self._settings) as serving:
                with trio.move_on_after(_LOGIN_S):
                    door = _Door(address, serving, await serving.login(self._key))
                if door is None:
                    raise PeerSilent(f"said nothing for {_LOGIN_S} s")
                task_status.started(door)
                await serving.wait_closed()
        except CwError:
            if door is None:
                raise  # whoever dials learns of it; later, each call does
        finally:
            if door is not None:
                door.is_closed = True

    def _close(self, door: _Door) -> None:
        if not door.is_closed:
            door.is_closed = True
            self._first = (self._first + 1) % len(self._addresses)
            door.serving.close()


@asynccontextmanager
async def connect_any(addresses: Sequence[str], link: LinkSettings) -> AsyncIterator[Gateways]:
    """Take several gateways for one; nothing is dialled before the login.

    Args:
        addresses: As in `cw.rpc.client.connect_serving`.
        link: Bounds of each connection.
    """
    async with trio.open_nursery() as nursery:
        yield Gateways(addresses, link, nursery)
        nursery.cancel_scope.cancel()
