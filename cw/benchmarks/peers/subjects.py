"""A server that is up, with its models ready and warm, and a client that asks it.

cw and its peers are alike from here on: something with an `infer`, and processes to be weighed.
"""

import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from cw.benchmarks.peers import launching
from cw.benchmarks.peers.cases import BATCH_MAX, BATCH_WAIT_MS, Case
from cw.benchmarks.peers.formats import HttpCall
from cw.benchmarks.peers.http_client import open_http
from cw.benchmarks.peers.install import environment_of
from cw.benchmarks.peers.launching import Launch, Setup
from cw.benchmarks.peers.peers import Peer, Swaps
from cw.benchmarks.peers.processes import Running, ServerFailed, free_port, running
from cw.benchmarks.peers.servers.served import Served
from cw.benchmarks.peers.swapping import SwappingClient
from cw.cli.common import ADMIN_KEY_FILE, CLUSTER_FILE, Endpoint, people
from cw.cli.model import add_models
from cw.client import connect
from cw.errors import CwError
from cw.messages import ModelSpec
from cw.units import MS, SECOND
from cw.workload.client import Asks, Planned

_LAYERS: Final = Path(__file__).parents[2] / "models" / "examples" / "resnet_layers.py"
_START_S: Final = 300
"""Until it answers: Triton starts a process of 2.5 s for each model."""
_POLL_S: Final = 0.2
_WARM_SLO_NS: Final = 60 * SECOND


@attrs.frozen(kw_only=True)
class Network:
    """What all servers serve: archives of one architecture, packed beforehand.

    Attributes:
        folder: Holds an archive for each model, by name.
        specs: The models', the most popular first.
    """

    folder: Path
    specs: Sequence[ModelSpec]

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names."""
        return tuple(spec.name for spec in self.specs)


@attrs.frozen(kw_only=True)
class Subject:
    """A server under test.

    Attributes:
        client: Asks it.
        running: Its processes.
        runs_path: Where a peer records its runs; empty for cw, which tells of them in answers.
    """

    client: Asks
    running: Running
    runs_path: Path


@attrs.frozen(kw_only=True)
class Start:
    """What a server is started for.

    Attributes:
        peer: Which.
        case: How many models, and how many fit.
        slo_ns: What those are told that must know it at their start.
        network: What it serves.
        folder: An empty one, with a short path: sockets are made in it.
        core: Where all its processes run.
    """

    peer: Peer
    case: Case
    slo_ns: int
    network: Network
    folder: Path
    core: int

    def served(self) -> Served:
        """Write down what it is to serve; see `Served`."""
        spec = self.network.specs[0]
        served = Served(
            network_path=str(_LAYERS),
            network_class="ResNet18",
            models_path=str(self.network.folder),
            names=self.network.names,
            input_shape=spec.inputs[0].shape,
            batch_max=BATCH_MAX,
            batch_wait_ms=BATCH_WAIT_MS,
            slo_ms=self.slo_ns / MS,
            room=self.case.room,
            port=free_port(),
            other_port=free_port(),
            runs_path=str(self.folder / "runs.bin"),
        )
        served.write(self.folder / "served.json")
        return served


@asynccontextmanager
async def serving(start: Start, warm_ups: Sequence[Planned]) -> AsyncIterator[Subject]:
    """Start a server, wait until it answers, ask it for each model a few times.

    Args:
        start: What.
        warm_ups: One request for each model.

    Raises:
        ServerFailed: It can't be installed or started, or does not answer in time.
    """
    served = start.served()
    peer = start.peer
    environment = Path(sys.prefix)
    if not peer.is_cw:
        environment = await trio.to_thread.run_sync(
            lambda: environment_of(peer.installed_as, say=people.print)
        )
    setup = Setup(served=served, folder=start.folder, environment=environment)
    launch = _launch(start, setup)
    variables = {**launching.variables_of(setup), **launch.variables}
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(
            running(launch.argv, core=start.core, environment=variables, folder=start.folder)
        )
        if peer.is_cw:
            client = await _ready_cw(stack, start, served, processes)
        else:
            client = await _ready_peer(stack, start, served, processes)
        await _warm(client, warm_ups, processes)
        yield Subject(client=client, running=processes, runs_path=Path(served.runs_path))


def _launch(start: Start, setup: Setup) -> Launch:
    peer = start.peer
    if peer.launch is not None:
        return peer.launch(setup)
    pages = start.network.specs[0].pages
    return launching.cw(setup, kernels=peer.kernels, pages_per_model=pages, is_solo=peer.is_solo)


async def _ready_cw(
    stack: AsyncExitStack, start: Start, served: Served, processes: Running
) -> Asks:
    """Wait for the cluster, add the models, and connect to the door that is measured."""
    cluster = start.folder / "cluster"
    with _within(processes):
        while not (cluster / CLUSTER_FILE).exists():
            processes.check()
            await trio.sleep(_POLL_S)
    key = (cluster / ADMIN_KEY_FILE).read_text().strip()
    address = cluster_address(cluster)
    client = await stack.enter_async_context(connect(address))
    try:
        with _within(processes):
            await add_models(
                client,
                Endpoint(address=address, admin_key=key),
                [start.network.folder / name for name in start.network.names],
                allow_program=True,
            )
    except CwError as exc:
        raise ServerFailed(f"models could not be added: {exc}") from exc
    if start.peer.make_format is None:
        return client
    spec = start.network.specs[0]
    form = start.peer.make_format(spec)
    return await stack.enter_async_context(open_http(("127.0.0.1", served.port), form, spec))


def cluster_address(folder: Path) -> str:
    """Read where a cluster's first gateway listens."""
    address: str = json.loads((folder / CLUSTER_FILE).read_text())["gateways"][0]
    return address


async def _ready_peer(
    stack: AsyncExitStack, start: Start, served: Served, processes: Running
) -> Asks:
    """Wait until somebody listens; with room for fewer models than there are, be the swapper."""
    spec = start.network.specs[0]
    assert start.peer.make_format is not None
    form = start.peer.make_format(spec)
    with _within(processes):
        while not _listens(served.port):
            processes.check()
            await trio.sleep(_POLL_S)
    client = await stack.enter_async_context(open_http(("127.0.0.1", served.port), form, spec))
    if start.case.room is None or start.peer.swaps is not Swaps.WHEN_TOLD:
        return client

    async def tell(model: str, what: str) -> None:
        call = HttpCall(f"/v2/repository/models/{model}/{what}", (), b"{}")
        response = await client.ask(call)
        if response.status != 200:
            raise ServerFailed(f"{what} of {model}: {response.status} {response.body[:200]!r}")

    return SwappingClient(
        client=client,
        room=start.case.room,
        load=lambda model: tell(model, "load"),
        unload=lambda model: tell(model, "unload"),
    )


async def _warm(client: Asks, warm_ups: Sequence[Planned], processes: Running) -> None:
    """Ask for the first model until there is an output, then for a full batch of each.

    Raises:
        ServerFailed: There is none in time.
    """
    said = "nothing"
    with trio.move_on_after(_START_S) as waiting:
        while True:
            processes.check()
            said = await _ask_once(client, warm_ups[0])
            if not said:
                break
            await trio.sleep(_POLL_S)
    if waiting.cancelled_caught:
        raise ServerFailed(f"no output within {_START_S} s, but: {said}; {processes.last_words()}")
    for planned in warm_ups:
        async with trio.open_nursery() as nursery:
            for _ in range(BATCH_MAX):
                nursery.start_soon(_ask_once, client, planned)


async def _ask_once(client: Asks, planned: Planned) -> str:
    """Ask for one inference; return why there is no output, or nothing."""
    try:
        result = await client.infer(planned.model, planned.inputs, slo=_WARM_SLO_NS)
    except CwError as exc:
        return str(exc)
    return "" if result.outputs is not None else str(result.failure or result.refusal)


@contextmanager
def _within(processes: Running) -> Iterator[None]:
    """Bound the time until a server is up.

    Raises:
        ServerFailed: It is over.
    """
    with trio.move_on_after(_START_S) as waiting:
        yield
    if waiting.cancelled_caught:
        raise ServerFailed(f"not up within {_START_S} s: {processes.last_words()}")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
