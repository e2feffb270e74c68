"""The swapper that stands in for servers which load and unload but do not choose."""

import attrs
import trio

from cw.benchmarks.peers.swapping import SwappingClient
from cw.units import SECOND
from tests.peers.peer_fakes import IMAGES, MODELS, answered

INPUTS = {"image": IMAGES[0][0]}


@attrs.define
class Server:
    """Notes what it is told; a request for a model that is not there is a fault of the test."""

    load_s: float = 0.01
    infer_s: float = 0.0
    told: list[str] = attrs.field(factory=list)
    resident: set[str] = attrs.field(factory=set)
    loading: int = 0

    async def infer(self, model, inputs, *, slo, started_ns=None):
        assert model in self.resident
        await trio.sleep(self.infer_s)
        assert model in self.resident, "unloaded while in use"
        return answered(inputs["image"])

    async def load(self, model):
        self.loading += 1
        assert self.loading == 1
        await trio.sleep(self.load_s)
        self.loading -= 1
        self.told.append(f"+{model}")
        self.resident.add(model)

    async def unload(self, model):
        self.told.append(f"-{model}")
        self.resident.discard(model)

    def client(self, room=2):
        return SwappingClient(client=self, room=room, load=self.load, unload=self.unload)


async def _ask(client, models):
    for model in models:
        assert (await client.infer(model, INPUTS, slo=SECOND)).outputs is not None


async def test_the_one_used_longest_ago_gives_way(autojump_clock):
    """The usual rule, and the fairest guess of what a user of such a server would write."""
    server = Server()
    await _ask(server.client(), ["a", "b", "a", "c", "a", "b"])

    assert server.told == ["+a", "+b", "-b", "+c", "-c", "+b"]


async def test_no_model_is_unloaded_while_it_is_asked(autojump_clock):
    """Its requests would fail, and the peer would look worse than it is."""
    server = Server(infer_s=0.5)
    client = server.client(room=1)
    async with trio.open_nursery() as nursery:
        for model in MODELS:
            nursery.start_soon(_ask, client, [model])

    assert len(server.resident) == 1
    assert len(server.told) == 5


async def test_all_requests_for_one_model_share_its_load(autojump_clock):
    """Ten requests for a cold model are one LOAD, not ten."""
    server = Server()
    client = server.client()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(_ask, client, ["a"])

    assert server.told == ["+a"]


async def test_requests_do_not_wait_for_ever_but_the_load_goes_on(autojump_clock):
    """A server that is told to load does not stop half-way because a caller hung up."""
    server = Server(load_s=5)
    client = server.client()
    result = await client.infer("a", INPUTS, slo=SECOND)

    assert result.failure.kind.value == "late"
    assert server.resident == {"a"}
