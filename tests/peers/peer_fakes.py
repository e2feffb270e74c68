"""Servers and clients that do as a test says."""

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import numpy as np
import trio

from cw.benchmarks.peers.measuring import Samples
from cw.client import Result
from cw.messages import Datatype, ModelSpec, TensorSpec, Timing

MODELS = ("a", "b", "c")
IMAGES = np.arange(3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2)
"""Three models, two inputs each, two numbers an image."""
ANSWERS = IMAGES * 10

SPEC = ModelSpec(
    model_id=1,
    name="a",
    program_sha256="0" * 64,
    weights_sha256="1" * 64,
    image_bytes=1,
    inputs=(TensorSpec(name="image", datatype=Datatype.FP32, shape=(2,)),),
    outputs=(TensorSpec(name="logits", datatype=Datatype.FP32, shape=(2,)),),
    batch_sizes=(1,),
)

Handler = Callable[[bytes], Awaitable[bytes | None]]
"""Gets a request's body; returns the whole answer with its head, or None to hang up."""


def samples() -> Samples:
    return Samples(MODELS, IMAGES, ANSWERS)


def answered(image) -> Result:
    """The right answer to an image."""
    timing = Timing(total_ns=1)
    return Result(timing=timing, promised=False, outputs={"logits": image * 10})


def http_answer(status: int, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d Said\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body


@asynccontextmanager
async def http_server(handle: Handler):
    """Serve on a free port; yields the address and a list that grows with each connection."""
    connections = []

    async def serve(stream: trio.SocketStream) -> None:
        connections.append(stream)
        buffer = b""
        async with stream:
            while True:
                while b"\r\n\r\n" not in buffer:
                    buffer += (got := await stream.receive_some())
                    if not got:
                        return
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split()[0])
                while len(buffer) < length:
                    buffer += await stream.receive_some()
                answer = await handle(buffer[:length])
                buffer = buffer[length:]
                if answer is None:
                    return
                await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        start = partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(start)
        yield listener.socket.getsockname()[:2], connections
        nursery.cancel_scope.cancel()
