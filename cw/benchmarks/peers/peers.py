"""The servers that are compared: what each is called, how it is started and asked, what it can."""

import enum
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import attrs

from cw.benchmarks.peers import launching
from cw.benchmarks.peers.formats import BinaryTensors, Format, RawBytes, TextTensors
from cw.benchmarks.peers.install import version_of
from cw.benchmarks.peers.launching import Launcher
from cw.messages import ModelSpec


class Tells(enum.Enum):
    """Where a server can be told of the SLO."""

    REQUEST = "each request has its own"
    START = "one for all, when it is started"
    NOWHERE = "it can't be told"


class Swaps(enum.Enum):
    """What a server can do where not all models fit."""

    ITSELF = "it chooses what is resident"
    WHEN_TOLD = "it loads and unloads when told; the benchmark tells it"
    NOT = "it can't load a model while it serves"


@attrs.frozen(kw_only=True)
class Peer:
    """A server.

    Attributes:
        name: As on the command line.
        title: As in the tables.
        package: Whose version is told; empty for cw.
        launch: See `launching`; None for cw, whose launcher needs to know of pages and kernels.
        make_format: See `formats`; None for cw's native door.
        environment: A peer's that has the same; empty: its own.
        kernels: cw's own setting; peers run torch eagerly.
        is_solo: Whether cw is one process, as one would run it on one core, or three.
    """

    name: str
    title: str
    package: str = ""
    launch: Launcher | None = None
    make_format: Callable[[ModelSpec], Format] | None
    tells: Tells
    swaps: Swaps
    environment: str = ""
    kernels: str = "exported"
    is_solo: bool = True

    @property
    def is_cw(self) -> bool:
        """Whether it is cw, by one of its doors."""
        return self.launch is None

    @property
    def version(self) -> str:
        """Of its package; empty for cw, whose is this checkout's."""
        return version_of(self.installed_as, self.package) if self.package else ""

    @property
    def installed_as(self) -> str:
        """Names its environment and its pins."""
        return self.environment or self.name


def _bentoml(answer: Any) -> str:
    text: str = answer[0]
    return text


def _litserve(answer: Any) -> str:
    text: str = answer["logits"]
    return text


def _mlserver(answer: Any) -> str:
    text: str = answer["outputs"][0]["data"][0]
    return text


def _mlserver_body(model: str, text: str) -> object:
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1, 1], "data": [text]}]}


def _text(
    target: Callable[[str], str],
    wrap: Callable[[str, str], object],
    unwrap: Callable[[Any], str],
) -> Callable[[ModelSpec], Format]:
    return lambda _: TextTensors(target, wrap, unwrap)


_cw: Final = partial(Peer, tells=Tells.REQUEST, swaps=Swaps.ITSELF)

_ALL: Final = (
    _cw(name="cw", title="cw, Cap'n Proto", make_format=None),
    _cw(name="cw-http", title="cw, HTTP", make_format=BinaryTensors),
    Peer(
        name="triton",
        title="Triton",
        package="nvidia-pytriton",
        launch=partial(launching.triton, rejects=False),
        make_format=BinaryTensors,
        tells=Tells.NOWHERE,
        swaps=Swaps.WHEN_TOLD,
    ),
    Peer(
        name="triton-reject",
        title="Triton, queue timeouts",
        package="nvidia-pytriton",
        environment="triton",
        launch=partial(launching.triton, rejects=True),
        make_format=BinaryTensors,
        tells=Tells.REQUEST,
        swaps=Swaps.WHEN_TOLD,
    ),
    Peer(
        name="bentoml",
        title="BentoML",
        package="bentoml",
        launch=launching.bentoml,
        make_format=_text(lambda model: f"/{model}", lambda _, text: {"images": [text]}, _bentoml),
        tells=Tells.START,
        swaps=Swaps.NOT,
    ),
    Peer(
        name="litserve",
        title="LitServe",
        package="litserve",
        launch=launching.litserve,
        make_format=_text(
            lambda _: "/predict", lambda model, text: {"model": model, "image": text}, _litserve
        ),
        tells=Tells.START,
        swaps=Swaps.NOT,
    ),
    Peer(
        name="mlserver",
        title="MLServer",
        package="mlserver",
        launch=launching.mlserver,
        make_format=_text(lambda model: f"/v2/models/{model}/infer", _mlserver_body, _mlserver),
        tells=Tells.NOWHERE,
        swaps=Swaps.WHEN_TOLD,
    ),
    Peer(
        name="ray",
        title="Ray Serve",
        package="ray",
        launch=launching.ray,
        make_format=lambda _: RawBytes(),
        tells=Tells.NOWHERE,
        swaps=Swaps.ITSELF,
    ),
    _cw(name="cw-apart", title="cw in three processes", make_format=None, is_solo=False),
    _cw(
        name="cw-fast", title="cw, Cap'n Proto, own kernels", make_format=None, kernels="rewritten"
    ),
    _cw(
        name="cw-fast-http",
        title="cw, HTTP, own kernels",
        make_format=BinaryTensors,
        kernels="rewritten",
    ),
)

PEERS: Final[Mapping[str, Peer]] = {peer.name: peer for peer in _ALL}
"""By name, in the order of the tables."""
