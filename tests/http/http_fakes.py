"""A tenant that remembers what it was asked, and a client's side of a connection to its door."""

import json
from contextlib import asynccontextmanager

import attrs
import h11
import numpy as np
import trio
import trio.testing

from cw.config import HttpSettings
from cw.errors import AccessDenied, UnknownModel
from cw.http.connection import HttpConnection, OpenBodies
from cw.http.door import HttpDoor
from cw.messages import (
    Answer,
    Datatype,
    ModelSpec,
    ModelState,
    ModelStatus,
    TensorSpec,
    Timing,
    model_id_for,
)
from cw.units import MS

SPEC = ModelSpec(
    model_id=model_id_for("sums", "a" * 64, "b" * 64),
    name="sums",
    program_sha256="a" * 64,
    weights_sha256="b" * 64,
    image_bytes=1,
    inputs=(
        TensorSpec(name="x", datatype=Datatype.FP32, shape=(2, 2)),
        TensorSpec(name="n", datatype=Datatype.INT8, shape=(1,)),
    ),
    outputs=(
        TensorSpec(name="twice", datatype=Datatype.FP32, shape=(2, 2)),
        TensorSpec(name="n", datatype=Datatype.INT8, shape=(1,)),
    ),
    batch_sizes=(1, 2),
)
INFER = "/v2/models/sums/infer"
X = np.array([[1, 2], [3, 4.5]], np.float32)
N = np.array([-7], np.int8)


@attrs.define(eq=False)
class FakeTenant:
    """Doubles `x` and returns `n`; or ends each request as it is told."""

    end: Answer | None = None
    state: ModelState = ModelState.READY
    calls: list = attrs.field(factory=list)
    cancelled: trio.Event = attrs.field(factory=trio.Event)
    is_slow: bool = False

    def model_spec(self, name, version=0):
        if name != SPEC.name or version not in (0, SPEC.version):
            raise UnknownModel(f"no model is named {name!r}")
        return SPEC

    def model_versions(self, name):
        return (self.model_spec(name),)

    def choose_version(self, name, version):
        return self.model_spec(name, version)

    async def infer(self, call):
        self.calls.append(call)
        if self.is_slow:
            try:
                await trio.sleep_forever()
            finally:
                self.cancelled.set()
        if self.end is not None:
            return self.end
        data = {tensor.name: bytes(tensor.data) for tensor in call.inputs}
        with np.errstate(all="ignore"):
            twice = (2 * np.frombuffer(data["x"], np.float32)).tobytes()
        timing = Timing(total_ns=5 * MS, device_ns=2 * MS, batch_size=2)
        outputs = (twice, data["n"])
        return Answer(timing=timing, promised=True, outputs=outputs, version=SPEC.version)

    async def models(self):
        return (await self.model_status(SPEC.name),)

    async def model_status(self, name, version=0):
        spec = self.model_spec(name, version)
        return ModelStatus(spec=spec, state=self.state, steps_done=1, steps_total=3)


@attrs.define(eq=False)
class Caller:
    """A client's side, on h11."""

    stream: trio.abc.Stream
    protocol: h11.Connection = attrs.field(factory=lambda: h11.Connection(h11.CLIENT))

    async def ask(self, method, target, body=b"", headers=()):
        """Send a request; return the status, the headers and the body of its answer."""
        await self.stream.send_all(self.bytes_of(method, target, body, headers))
        return await self.answer()

    def bytes_of(self, method, target, body=b"", headers=()):
        head = [("host", "h"), *headers]
        head += [("content-length", str(len(body)))] if method != "HEAD" else []
        sent = self.protocol.send(h11.Request(method=method, target=target, headers=head))
        if body:
            sent += self.protocol.send(h11.Data(data=body))
        return sent + self.protocol.send(h11.EndOfMessage())

    async def answer(self):
        head, body = None, b""
        while True:
            match self.protocol.next_event():
                case h11.NEED_DATA:
                    self.protocol.receive_data(bytes(await self.stream.receive_some(1 << 16)))
                case h11.Response() as head:
                    pass
                case h11.Data(data=data):
                    body += bytes(data)
                case h11.EndOfMessage():
                    break
        if self.protocol.our_state is self.protocol.their_state is h11.DONE:
            self.protocol.start_next_cycle()
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return head.status_code, headers, body

    async def ask_json(self, method, target, value=None, headers=()):
        """Likewise, in JSON; return the status and the value."""
        body = b"" if value is None else json.dumps(value).encode()
        status, _, text = await self.ask(method, target, body, headers)
        return status, json.loads(text)


@asynccontextmanager
async def calling(tenant, **settings):
    """Connect a caller to a door of that tenant; the key "right" opens it, and no key."""

    async def login(key):
        if key not in ("", "right"):
            raise AccessDenied("this cluster has no tenant with that key")
        return tenant

    bounds = HttpSettings(default_slo_ns=300 * MS, **settings)
    door = HttpDoor(login, bounds, "1.2.3")
    ours, theirs = trio.testing.memory_stream_pair()
    bodies = OpenBodies(bounds.max_open_bytes)
    connection = HttpConnection(theirs, door.answer, bounds, bodies)

    async def serve():
        async with theirs:
            await connection.serve()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with ours:
            yield Caller(ours)
    assert bodies.held_bytes == 0


def asked(**members):
    """Make a request's JSON for the model, as a client without an extension would."""
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": X.ravel().tolist()},
        {"name": "n", "datatype": "INT8", "shape": [1], "data": N.tolist()},
    ]
    return {"inputs": inputs} | members
