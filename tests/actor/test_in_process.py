"""Addresses of actors in the same process: found by whoever dials, gone with whoever serves."""

import pytest
import trio

from cw.config import LinkSettings
from cw.errors import PeerDisconnected
from cw.rpc.client import connect_controller
from cw.rpc.server import serve_controller
from tests.actor.port_ways import HELLO, Controller, Told

LINK = LinkSettings()
ADDRESS = "memory:controller"


async def test_who_dials_reaches_who_serves(autojump_clock):
    """A role is started alike whether its peers are processes of their own or tasks beside it."""
    actor = Controller()
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_controller, ADDRESS, actor, LINK)
        async with connect_controller(address, LINK) as controller:
            _, session = await controller.join_gateway(HELLO, Told())
            assert (await session.ping(5)).received_ns == 6
        nursery.cancel_scope.cancel()


async def test_who_ends_is_not_reached_any_more(autojump_clock):
    """Peers must see the end of an actor in memory as they see the end of its process."""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_controller, ADDRESS, Controller(), LINK)
        nursery.cancel_scope.cancel()

    with pytest.raises(PeerDisconnected, match="nobody serves it"):
        async with connect_controller(ADDRESS, LINK):
            pass
