"""The HTTP client: as patient, as concurrent and as strict as a user's."""

import base64
import json
from functools import partial

import numpy as np
import pytest
import trio

from cw.benchmarks.peers import http_client
from cw.benchmarks.peers.formats import BinaryTensors, RawBytes, TextTensors
from cw.benchmarks.peers.http_client import open_http
from cw.config import HttpSettings
from cw.errors import PeerDisconnected
from cw.http.exchange import HttpRequest
from cw.http.infer import read_request
from cw.units import MS, SECOND
from tests.peers.peer_fakes import SPEC, http_answer, http_server

IMAGE = {"image": np.array([1, 2], np.float32)}


def _right(body: bytes) -> bytes:
    return http_answer(200, (np.frombuffer(body, np.float32) * 10).tobytes())


async def test_calls_overlap():
    """An open loop's requests are all out before the first answer, each on its own connection."""
    together, here = 20, []
    everyone = trio.Event()

    async def handle(body):
        here.append(body)
        if len(here) == together:
            everyone.set()
        await everyone.wait()
        return _right(body)

    async with http_server(handle) as (address, connections):
        async with open_http(address, RawBytes(), SPEC) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(together):
                    nursery.start_soon(partial(client.infer, "a", IMAGE, slo="5s"))
    assert len(connections) == together


async def test_connections_are_used_again():
    """A new connection for each request would measure the server's accept."""

    async def handle(body):
        return _right(body)

    async with http_server(handle) as (address, connections):
        async with open_http(address, RawBytes(), SPEC) as client:
            for _ in range(5):
                result = await client.infer("a", IMAGE, slo="5s")
                assert result.outputs["logits"].tolist() == [10, 20]
    assert len(connections) == 1


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used():
    """Servers close idle connections; that is no failure of the next request."""

    async def handle(body):
        return _right(body).replace(b"content", b"connection: close\r\ncontent", 1)

    async with http_server(handle) as (address, connections):
        async with open_http(address, RawBytes(), SPEC) as client:
            for _ in range(2):
                assert (await client.infer("a", IMAGE, slo="5s")).outputs is not None
    assert len(connections) == 2


async def test_a_server_that_hangs_up_is_an_error():
    """It is counted as failed, not waited for."""

    async def handle(body):
        return None

    async with http_server(handle) as (address, _):
        async with open_http(address, RawBytes(), SPEC) as client:
            with pytest.raises(PeerDisconnected):
                await client.infer("a", IMAGE, slo="5s")


async def test_nobody_waits_for_ever(monkeypatch):
    """A collapsed server's queue is minutes long; its callers hang up, and the run goes on."""
    monkeypatch.setattr(http_client, "GIVE_UP_NS", 20 * MS)

    async def handle(body):
        await trio.sleep_forever()

    async with http_server(handle) as (address, _):
        async with open_http(address, RawBytes(), SPEC) as client:
            result = await client.infer("a", IMAGE, slo=10 * MS)
    assert result.failure.kind.value == "late"


@pytest.mark.parametrize(
    ("status", "end"),
    [(200, "outputs"), (429, "refusal"), (503, "refusal"), (504, "refusal"), (500, "failure")],
)
async def test_statuses_are_told_apart(status, end):
    """To refuse is another thing than to fail, and only outputs count."""

    async def handle(body):
        return _right(body) if status == 200 else http_answer(status, b"no")

    async with http_server(handle) as (address, _):
        async with open_http(address, RawBytes(), SPEC) as client:
            result = await client.infer("a", IMAGE, slo="5s")
    ends = ("outputs", "refusal", "failure")
    assert [name for name in ends if getattr(result, name) is not None] == [end]


async def test_an_answer_in_another_format_is_a_failure():
    """A 200 with an error page in it is no output."""

    async def handle(body):
        return http_answer(200, b'{"error": "no"}')

    form = TextTensors(lambda _: "/", lambda _, text: {"image": text}, lambda said: said["logits"])
    async with http_server(handle) as (address, _):
        async with open_http(address, form, SPEC) as client:
            result = await client.infer("a", IMAGE, slo="5s")
    assert "base64" in result.failure.message


def test_binary_tensors_are_what_cw_reads():
    """Triton and cw's own door get the same bytes, with the time that is left."""
    call = BinaryTensors(SPEC).write("a", IMAGE["image"], left_ns=43 * MS)
    request = HttpRequest(
        method="POST",
        path=tuple(call.target.split("/")[1:]),
        headers=dict(call.headers),
        body=memoryview(call.body),
        arrival_ns=0,
    )
    asked = read_request(request, SPEC, HttpSettings())

    assert asked.call.slo_ns == 43 * MS
    assert bytes(asked.call.inputs[0].data) == IMAGE["image"].tobytes()


def test_texts_carry_the_image():
    """Servers without raw bytes get the same numbers in base64."""
    form = TextTensors(
        lambda model: f"/{model}", lambda _, text: [text], lambda said: said["logits"]
    )
    call = form.write("a", IMAGE["image"], left_ns=SECOND)
    (text,) = json.loads(call.body)

    assert call.target == "/a"
    assert base64.b64decode(text) == IMAGE["image"].tobytes()
    answer = json.dumps({"logits": base64.b64encode(b"\0\0\x80?").decode()}).encode()
    assert form.read({}, answer).logits.tolist() == [1.0]
