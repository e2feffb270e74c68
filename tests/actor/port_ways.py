"""What the ports' contract is tested with: actors that note what comes, and two ways to reach them.

The ways are ports in memory, and ports over Cap'n Proto on a pair of Trio's memory streams.
"""

from contextlib import asynccontextmanager

import attrs
import trio
import trio.testing

from cw import errors, messages
from cw.rpc.client import controller_over, flow_limits, inference_over, serving_over
from cw.rpc.kj_connection import open_connection
from cw.rpc.kj_loop import open_kj
from cw.rpc.memory import MemoryNetwork
from cw.rpc.server import controller_gate, inference_gate, serving_gate

HELLO = messages.GatewayHello(name="gateway-0")
EXECUTOR_HELLO = messages.ExecutorHello(
    name="executor-0",
    incarnation=7,
    data_address="unix:e",
    device=messages.DeviceDescription(
        kind="emulated", name="H100", pages_total=4, shared_lanes=False, load_bytes_per_second=1
    ),
)
SPEC = messages.ModelSpec(
    model_id=5,
    name="resnet50",
    program_sha256="ab",
    weights_sha256="cd",
    image_bytes=1 << 20,
    inputs=(messages.TensorSpec(name="x", datatype=messages.Datatype.FP32, shape=(3, 4)),),
    outputs=(),
    batch_sizes=(1, 2),
)
STATUS = messages.ModelStatus(
    spec=SPEC, state=messages.ModelState.REGISTERING, steps_done=1, steps_total=2
)
CLUSTER = messages.ClusterStatus(
    epoch=3, queued=1, executors=(), models=(STATUS,), ledger=messages.Ledger(kept=1)
)


# --- actors that note what comes ------------------------------------------------------------------

VERSIONS = (
    messages.VersionStatus(
        version=3, model_id=5, role=messages.VersionRole.CANARY, percent=10, detail="why"
    ),
)


class Told:
    """Notes what it is told; may be told to fail."""

    def __init__(self):
        self.told = []
        self.failure = None
        self.heard = trio.Event()
        self.expected = None

    def tell(self, item):
        if self.failure is not None:
            raise self.failure
        self.told.extend(item if isinstance(item, list | tuple) else [item])
        self.heard.set()

    async def wait_for(self, count):
        while len(self.told) < count:
            self.heard = trio.Event()
            await self.heard.wait()
        return self.told


class Session(Told):
    """What the controller gives to whoever joins."""

    async def ping(self, sent_ns):
        return messages.Pong(received_ns=sent_ns + 1, replied_ns=sent_ns + 2)

    async def add_model(self, spec, *, hold=False):
        self.told.append(spec)
        return attrs.evolve(spec, version=9 if hold else 1)

    async def versions(self, name):
        return VERSIONS

    async def route_model(self, order):
        self.told.append(order)
        return VERSIONS

    async def remove_model(self, model_id):
        raise errors.UnknownModel(f"no model {model_id}")

    async def model_status(self, model_id):
        return attrs.evolve(STATUS, steps_done=model_id)

    async def status(self):
        return CLUSTER


class Controller:
    """Tells a newcomer of a model before it welcomes it."""

    def __init__(self):
        self.session = Session()
        self.peer = None
        self.hello = None

    async def join_gateway(self, hello, gateway):
        self.hello, self.peer = hello, gateway
        gateway.tell(messages.Notices(models_added=(SPEC,)))
        return messages.GatewayWelcome(epoch=3, gateway_id=9), self.session

    async def join_executor(self, hello, executor):
        self.hello, self.peer = hello, executor
        return messages.ExecutorWelcome(epoch=3, executor_id=4), self.session


class Executor(Told):
    """Answers with its inputs, or fails, or never answers and notes its cancel."""

    def __init__(self):
        super().__init__()
        self.answers = True
        self.error = None
        self.begun = trio.Event()
        self.cancelled = trio.Event()

    async def infer(self, inputs):
        self.begun.set()
        if self.error is not None:
            raise self.error
        if not self.answers:
            try:
                await trio.sleep_forever()
            finally:
                self.cancelled.set()
        slots = tuple(
            messages.SlotOutputs(position=it.position, outputs=it.tensors) for it in inputs.slots
        )
        return messages.BatchOutputs(
            outcome=messages.Outcome.OK, device_ns=1, batch_size=len(slots), slots=slots
        )


class Gateway:
    """A door with one key for each of its sides; `Tenant`, `Admin` and `Upload` in one."""

    def __init__(self):
        self.pieces = []
        self.discarded = trio.Event()

    async def wait_ended(self):
        await trio.sleep_forever()

    async def login(self, key):
        if key != "tenant":
            raise errors.AccessDenied("this key opens nothing")
        return self

    async def admin(self, key):
        if key != "admin":
            raise errors.AccessDenied("not the administrator's key")
        return self

    async def infer(self, call):
        timing = messages.Timing(total_ns=call.slo_ns)
        outputs = tuple(bytes(it.data) for it in call.inputs)
        return messages.Answer(timing=timing, promised=True, outputs=outputs)

    async def models(self):
        return [STATUS]

    async def model_status(self, name, version=0):
        raise errors.UnknownModel(f"no model {name}")

    async def status(self):
        return CLUSTER

    async def allow_program(self, program_sha256):
        self.pieces.append(program_sha256)

    async def remove_model(self, name):
        self.pieces.append(name)

    async def versions(self, name):
        return VERSIONS

    async def route_model(self, order):
        self.pieces.append(order)
        return VERSIONS

    token = "token"

    async def begin_upload(self, offer):
        self.pieces.append(offer)
        return self

    async def resume_upload(self, token):
        if token != self.token:
            raise errors.UnknownUpload(f"no upload {token}")
        return self

    async def progress(self):
        return {"model.toml": 7}

    async def write(self, file, data, *, offset, crc32):
        self.pieces.append((file, bytes(data), offset, crc32))

    async def commit(self, *, hold=False):
        return attrs.evolve(SPEC, version=9 if hold else 1)

    async def discard(self):
        self.discarded.set()


# --- the two ways to reach them -------------------------------------------------------------------


class InMemory:
    """Ports of `cw.rpc.memory`, with a delay of up to 2 ms each way."""

    def __init__(self, settings):
        self.network = MemoryNetwork(
            seed=1, delay_ns=(0, 2_000_000), max_messages=settings.outbox_messages
        )

    @asynccontextmanager
    async def _reach(self, connect, actor):
        self.network.serve("there", actor)
        async with connect("there") as port:
            yield port

    def controller(self, actor):
        return self._reach(self.network.connect_controller, actor)

    def executor(self, actor):
        return self._reach(self.network.connect_executor, actor)

    def serving(self, actor):
        return self._reach(self.network.connect_serving, actor)

    def kill(self):
        """End the connection from the actor's side."""
        self.network.cut("there")


class OverCapnp:
    """The same over Cap'n Proto on a pair of memory streams."""

    def __init__(self, settings):
        self.settings = settings
        self.server = None

    @asynccontextmanager
    async def _reach(self, gate, over, actor):
        limits = flow_limits(self.settings)
        ours, theirs = trio.testing.memory_stream_pair()

        async def serve(task_status):
            async with open_connection(
                theirs,
                "client",
                make_bootstrap=lambda link: gate(actor, link, self.settings),
                limits=limits,
            ) as self.server:
                task_status.started()
                await self.server.wait_disconnected()

        async with open_kj(), trio.open_nursery() as nursery:
            await nursery.start(serve)
            async with open_connection(ours, "there", limits=limits) as client:
                yield over(client, self.settings)

    def controller(self, actor):
        return self._reach(controller_gate, controller_over, actor)

    def executor(self, actor):
        return self._reach(inference_gate, inference_over, actor)

    def serving(self, actor):
        return self._reach(serving_gate, serving_over, actor)

    def kill(self):
        """End the connection from the actor's side."""
        self.server.close()
