"""A client of two gateways: when one dies, it goes on with the other, and says what it lost."""

import signal

import pytest
import trio

from cw.client import connect
from cw.errors import PeerDisconnected
from tests.cluster.clusters import FEATURES, GENEROUS_S, running

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def doubled(tmp_path_factory, mlp):
    """Run two gateways before one emulated executor, with `tiny-mlp` ready."""
    folder = tmp_path_factory.mktemp("doubled") / "cluster"
    shape = ("--executors", 1, "--gateways", 2)
    with running(folder, "--device", "emulated", "--profile", "fixed-2ms", *shape) as cluster:
        added = cluster.cw("model", "add", "--allow-program", mlp.folder)
        assert added.returncode == 0, added.stderr
        yield cluster


def test_client_goes_on_through_another_gateway(doubled):
    """The one call that was open when its gateway died is told so; none after it notices."""

    async def ask():
        async with connect(",".join(doubled.ready["gateways"])) as client:
            assert (await client.infer("tiny-mlp", FEATURES, slo="1s")).outputs is not None
            # Stopped first: so the call is open for certain when its gateway dies.
            doubled.send_signal("gateway-0", signal.SIGSTOP)
            lost = []

            async def lose():
                with pytest.raises(PeerDisconnected, match="unknown"):
                    await client.infer("tiny-mlp", FEATURES, slo="20s")
                lost.append(True)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(lose)
                await trio.sleep(0.1)
                doubled.send_signal("gateway-0", signal.SIGKILL)
            assert lost
            for _ in range(3):
                assert (await client.infer("tiny-mlp", FEATURES, slo="1s")).outputs is not None
            assert (await client.status()).ledger.kept >= 4

    trio.run(ask)


def test_dead_address_is_left_out_at_the_first_call(doubled):
    """A list of addresses may be older than some of its gateways."""

    async def ask():
        async with connect(f"tcp:127.0.0.1:1, {doubled.address}") as client:
            with trio.fail_after(GENEROUS_S):
                while (await client.infer("tiny-mlp", FEATURES, slo="1s")).outputs is None:
                    await trio.sleep(0.05)  # the gateway has just been started again

    trio.run(ask)


def test_all_gateways_dead_is_said_with_each_reason():
    """Whoever reads it should see which addresses were tried, and that none was overlooked."""

    async def ask():
        async with connect("tcp:127.0.0.1:1,tcp:127.0.0.1:2"):
            raise AssertionError("nothing listens there")

    with pytest.RaisesGroup(PeerDisconnected) as raised:
        trio.run(ask)
    (why,) = raised.value.exceptions
    assert "127.0.0.1:1" in str(why)
    assert "127.0.0.1:2" in str(why)
