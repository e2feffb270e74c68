"""What one client may cost the others: bytes, time, and an answer to whatever it sends."""

import gzip
import json

import h11
import numpy as np
import pytest
import trio

from cw.units import SECOND
from tests.http.http_fakes import INFER, FakeTenant, asked, calling


async def test_bodies_may_be_compressed():
    """As Triton's clients can; what is broken or swells past the bound is told so."""
    plain = json.dumps(asked()).encode()
    async with calling(FakeTenant(), max_body_bytes=4096) as caller:
        for body, encoding, status in (
            (gzip.compress(plain), "gzip", 200),
            (gzip.compress(plain)[:-9], "gzip", 400),
            (b"nonsense", "deflate", 400),
            (gzip.compress(b" " * 100_000), "gzip", 413),
            (plain, "br", 415),
        ):
            headers = [("content-encoding", encoding)]
            assert (await caller.ask("POST", INFER, body, headers))[0] == status


async def test_a_body_past_the_bound_is_refused_before_it_comes():
    """By what it announces: nothing of it is kept."""
    async with calling(FakeTenant(), max_body_bytes=100) as caller:
        head = h11.Request(
            method="POST", target=INFER, headers=[("host", "h"), ("content-length", "5000000")]
        )
        await caller.stream.send_all(caller.protocol.send(head))
        status, _, body = await caller.answer()

    assert status == 413
    assert b"100 B" in body


async def test_who_hangs_up_is_not_waited_for():
    """The request is cancelled, so that nobody computes for nobody."""
    tenant = FakeTenant(is_slow=True)
    async with calling(tenant) as caller:
        await caller.stream.send_all(caller.bytes_of("POST", INFER, json.dumps(asked()).encode()))
        await trio.testing.wait_all_tasks_blocked()
        await caller.stream.aclose()
        with trio.fail_after(5):
            await tenant.cancelled.wait()


async def test_a_head_has_no_body():
    """Load balancers ask for it, and the connection goes on."""
    async with calling(FakeTenant()) as caller:
        for target in ("/v2/health/live", "/v2/health/ready", "/v2/models/sums/ready"):
            status, headers, body = await caller.ask("HEAD", target)
            assert status == 200
            assert int(headers["content-length"]) > 0
            assert body == b""


async def test_garbage_after_a_head_request_is_told_so():
    """Found by fuzzing: the error's body was left out, as if it, too, had been asked by HEAD."""
    async with calling(FakeTenant()) as caller:
        head = caller.bytes_of("HEAD", "/v2/health/live")
        await caller.stream.send_all(head + b"\x00 is no request\r\n\r\n")
        told = b""
        while piece := await caller.stream.receive_some():
            told += piece

    assert b"HTTP/1.1 200" in told
    assert b"expected HTTP/1.1" in told


async def test_json_past_its_bound_is_refused():
    """Reading it takes the event loop's time, and so everybody's."""
    body = json.dumps(asked(parameters={"pad": " " * 2000})).encode()
    async with calling(FakeTenant(), max_json_bytes=1000) as caller:
        status, _, told = await caller.ask("POST", INFER, body)
        assert status == 413
        assert b"binary" in told
        assert (await caller.ask_json("POST", INFER, asked()))[0] == 200


async def test_bodies_past_what_the_gateway_holds_are_refused():
    """Thousands of connections with a body each must not take all memory."""
    async with calling(FakeTenant(), max_open_bytes=1000) as caller:
        status, headers, body = await caller.ask("POST", INFER, bytes(2000))

    assert status == 503
    assert headers["retry-after"] == "1"
    assert b"1000 B at most" in body


async def test_long_compressed_bodies_are_decoded_elsewhere():
    """On a thread, with the same result."""
    pad = np.random.default_rng(1).bytes(100_000).hex()
    body = gzip.compress(json.dumps(asked(parameters={"pad": pad})).encode())
    assert len(body) > 1 << 16
    async with calling(FakeTenant()) as caller:
        status, _, _ = await caller.ask("POST", INFER, body, [("content-encoding", "gzip")])

    assert status == 200


async def test_slow_clients_are_cut_off(autojump_clock):
    """A head that never ends, and a body that never comes."""
    async with calling(FakeTenant(), idle_limit_ns=10 * SECOND) as caller:
        await caller.stream.send_all(b"POST /v2 HTTP/1.1\r\nhost: h\r\nx: ")
        start = trio.current_time()
        assert await caller.stream.receive_some(100) == b""
        assert trio.current_time() - start == pytest.approx(10)
    async with calling(FakeTenant(), body_limit_ns=3 * SECOND) as caller:
        sent = caller.bytes_of("POST", INFER, b"x" * 50)
        await caller.stream.send_all(sent[:-10])
        status, _, body = await caller.answer()
        assert status == 408
        assert b"3 s" in body


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"x" * 100_000, b"GET / HTTP/x\r\n\r\n"]
)
async def test_garbage_is_answered_and_hung_up_on(garbage):
    """Something that is no HTTP must neither hang nor bring the gateway down."""
    async with calling(FakeTenant()) as caller:
        with trio.fail_after(5):
            await caller.stream.send_all(garbage)
            came = b""
            while piece := await caller.stream.receive_some(1 << 16):
                came += bytes(piece)

    assert came.startswith(b"HTTP/1.1 4")
